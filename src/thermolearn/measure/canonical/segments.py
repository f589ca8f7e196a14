"""Cutting a torch model into segments whose outputs are "the neurons".

The traced graph is cut at every point where a single tensor carries all the data. Between cuts
stand atoms, joined by one rule: a segment is affine (+ normalization) (+ activation); pooling,
flatten and dropout join the next affine map, trailing ones the previous; a residual block is one
segment. The number of neurons N and every extensive number depend on this choice, so the
segmentation is recorded with each result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

AFFINE = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
AFFINE_FUNCTIONS = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, operator.matmul}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (
    *BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm,
)  # fmt: skip
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
SHAPES = (nn.Flatten, nn.Unflatten, nn.Identity, *DROPOUTS)
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Upsample, nn.ZeroPad2d, nn.PixelShuffle,
)  # fmt: skip
ELEMENTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.ReLU6, nn.Hardswish,
    nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
KINKED = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid,
    nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
ELEMENTWISE_FUNCTIONS = {
    F.relu, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.tanh, F.sigmoid,
    F.softplus, F.softsign, F.hardtanh, F.relu6, F.hardswish, F.hardsigmoid, F.logsigmoid,
    torch.relu, torch.tanh, torch.sigmoid, torch.erf, torch.sin, torch.cos, torch.exp,
    torch.square, torch.abs, operator.mul, operator.add, operator.sub, operator.truediv,
    operator.neg, torch.mul, torch.add, torch.sub,
}  # fmt: skip
KINKED_NAMES = {"relu", "leaky_relu", "hardtanh", "relu6", "hardsigmoid", "clamp", "abs"}
ELEMENTWISE_METHODS = {"relu", "tanh", "sigmoid", "sin", "cos", "exp", "square", "mul", "add"}
SHAPE_FUNCTIONS = {torch.flatten, torch.reshape, torch.unsqueeze, torch.squeeze, F.dropout,
                   operator.getitem, getattr}  # fmt: skip
SHAPE_METHODS = {"view", "reshape", "flatten", "size", "unsqueeze", "squeeze", "contiguous", "dim",
                 "permute", "transpose"}  # fmt: skip
# Of these, the ones that leave the order of the neurons as it is.
ORDER_KEEPING = {torch.flatten, torch.reshape, torch.unsqueeze, torch.squeeze, F.dropout,
                 "view", "reshape", "flatten", "size", "unsqueeze", "squeeze", "contiguous",
                 "dim"}  # fmt: skip
POOL_FUNCTIONS = {
    F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.pad, F.interpolate,
}  # fmt: skip

ADVICE = "pass segments=[module, ...] whose composition is the model"


@dataclass(frozen=True)
class Segment:
    """One map x_{l-1} -> x_l of a batch of states.

    Attributes
    ----------
    name : str
        Qualified name of its first parametric module.
    module : nn.Module
        The map itself; it shares parameters with the model it was cut from.
    modules : tuple of str
        What it contains, in order.
    affine, post : nn.Module or None
        The split into an affine map and an element-wise rest (BatchNorm in eval mode included);
        None if the segment is not of that form (residual blocks, pooling, softmax, LayerNorm).
    kinked : bool
        An activation with kinks is inside, so that f'' vanishes almost everywhere.
    """

    name: str
    module: nn.Module
    modules: tuple[str, ...]
    affine: nn.Module | None = None
    post: nn.Module | None = None
    kinked: bool = False

    @property
    def elementwise(self) -> bool:
        """The segment is an affine map followed by element-wise functions only."""
        return self.affine is not None


def segment_model(model: nn.Module) -> list[Segment]:
    """Cut a feed-forward model by the rule of this module.

    Raises
    ------
    TypeError
        The model cannot be traced, takes several inputs, is recurrent, compiled, or reads integer
        tokens; the message names the module.
    """
    _refuse(model)
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__} cannot be traced into segments "
            f"({type(error).__name__}: {str(error).split(chr(10))[0]}); {ADVICE}"
        ) from error
    inputs = [n for n in traced.graph.nodes if n.op == "placeholder"]
    required = [n for n in inputs if not n.args]
    if len(required) != 1 and len(inputs) != 1:
        raise TypeError(f"{type(model).__name__} takes {len(inputs)} inputs, not one; {ADVICE}")
    atoms = _atoms(traced)
    return [_build(traced, group) for group in _join(traced, atoms)]


def explicit_segments(segments: Sequence[Any]) -> list[Segment]:
    """Segments given by the user, each a module or a callable of one batch tensor."""
    if not segments:
        raise ValueError("segments is empty: give the modules whose composition is the model")
    built = []
    for i, item in enumerate(segments):
        if not callable(item):
            raise TypeError(f"segments[{i}] is {type(item).__name__}, not a module or callable")
        module: nn.Module = item if isinstance(item, nn.Module) else _Wrapped(item)
        simple = _simple_split(module)
        if simple is not None:
            built.append(simple)
        else:
            name = type(item).__name__ if isinstance(item, nn.Module) else f"segment {i}"
            built.append(Segment(name, module, (name,)))
    return built


class _Wrapped(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _simple_split(module: nn.Module) -> Segment | None:
    """The module as one segment, if the automatic rule sees exactly one in it."""
    try:
        found = segment_model(module)
    except TypeError:
        return None
    return found[0] if len(found) == 1 else None


def _refuse(model: nn.Module) -> None:
    """Say at once, and by name, what has no segmentation."""
    if hasattr(model, "_orig_mod"):
        raise TypeError("the model is compiled: pass the module that was given to torch.compile")
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__})" if name else type(module).__name__
        if isinstance(module, RECURRENT):
            raise TypeError(
                f"{where} is recurrent: build a Septuple from its weight matrix (dense method)"
            )
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            raise TypeError(
                f"{where} reads integer tokens, which are not neuron states; "
                "measure the part of the model behind it"
            )
        if isinstance(module, nn.UninitializedParameter) or any(
            isinstance(p, nn.UninitializedParameter) for p in module.parameters(recurse=False)
        ):
            raise TypeError(f"{where} has uninitialized parameters: run one forward pass first")


# -- atoms: what stands between two single-tensor points ----------------------------------------


def _atoms(traced: fx.GraphModule) -> list[list[fx.Node]]:
    """Groups of nodes between consecutive points where one tensor carries all the data."""
    nodes = [n for n in traced.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    if not nodes:
        raise TypeError(f"the model computes nothing; {ADVICE}")
    result = next(n for n in traced.graph.nodes if n.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise TypeError(f"the model returns several values, not one tensor; {ADVICE}")
    position = {node: i for i, node in enumerate(nodes)}
    last_use = {
        node: max((position.get(user, len(nodes)) for user in node.users), default=-1)
        for node in traced.graph.nodes
        if node.op != "get_attr"
    }
    atoms, current = [], []
    for i, node in enumerate(nodes):
        current.append(node)
        alive = [n for n, last in last_use.items() if last > i and position.get(n, -1) <= i]
        if alive == [node]:
            atoms.append(current)
            current = []
    if current:
        atoms.append(current)
    return atoms


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_one_of(
    traced: fx.GraphModule,
    node: fx.Node,
    modules: tuple[type[nn.Module], ...],
    functions: Container[Any],
    methods: Container[Any],
) -> bool:
    if node.op == "call_module":
        return isinstance(_module(traced, node), modules)
    return node.target in (functions if node.op == "call_function" else methods)


def _is_elementwise(traced: fx.GraphModule, node: fx.Node) -> bool:
    return _is_one_of(traced, node, ELEMENTWISE, ELEMENTWISE_FUNCTIONS, ELEMENTWISE_METHODS)


def _is_shape(traced: fx.GraphModule, node: fx.Node) -> bool:
    return _is_one_of(traced, node, SHAPES, SHAPE_FUNCTIONS, SHAPE_METHODS)


def _is_affine(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(_module(traced, node), AFFINE)
    reads_parameter = any(isinstance(a, fx.Node) and a.op == "get_attr" for a in node.args)
    return node.op == "call_function" and node.target in AFFINE_FUNCTIONS and reads_parameter


def _kind(traced: fx.GraphModule, atom: list[fx.Node]) -> str:
    """affine, block (parametric, several nodes or an unknown module), norm, activation, neutral."""
    if len(atom) == 1:
        node, module = atom[0], _module(traced, atom[0])
        if _is_affine(traced, node):
            return "affine"
        if isinstance(module, NORMS):
            return "norm"
        if isinstance(module, (*POOLS, *SHAPES)) or _is_shape(traced, node):
            return "neutral"
        if node.op == "call_function" and node.target in POOL_FUNCTIONS:
            return "neutral"
        if _is_elementwise(traced, node):
            return "activation"
        parametric = module is not None and any(True for _ in module.parameters())
        return "block" if parametric else "activation"
    if all(_is_shape(traced, n) for n in atom):
        return "neutral"
    parametric = any(
        _is_affine(traced, n)
        or ((m := _module(traced, n)) is not None and any(True for _ in m.parameters()))
        for n in atom
    )
    return "block" if parametric else "activation"


def _join(traced: fx.GraphModule, atoms: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """Atoms joined into segments by the rule."""
    segments: list[list[fx.Node]] = []
    activated: list[bool] = []
    pending: list[fx.Node] = []
    for atom in atoms:
        kind = _kind(traced, atom)
        if kind in ("affine", "block"):
            segments.append([*pending, *atom])
            activated.append(False)
            pending = []
        elif kind == "neutral" or not segments:
            pending += atom
        elif pending and activated[-1]:
            # activation, pooling, activation: the second one belongs to what follows
            pending += atom
        else:
            segments[-1] += [*pending, *atom]
            activated[-1] = activated[-1] or kind == "activation"
            pending = []
    if not segments:
        raise TypeError(f"no layer with weights was found; {ADVICE}")
    segments[-1] += pending
    return segments


# -- building a segment as a module of its own --------------------------------------------------


def _subgraph(traced: fx.GraphModule, nodes: list[fx.Node]) -> fx.GraphModule:
    """The nodes as a module of one input; parameters are shared with the traced model."""
    inside, graph = set(nodes), fx.Graph()
    entry = graph.placeholder("x")
    copies: dict[fx.Node, fx.Node] = {}

    def source(node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            if node not in copies:
                copies[node] = graph.node_copy(node)
            return copies[node]
        return copies[node] if node in inside else entry

    last = entry
    for node in nodes:
        last = copies[node] = graph.node_copy(node, source)
    graph.output(last)
    return fx.GraphModule(traced, graph)


def _label(traced: fx.GraphModule, node: fx.Node) -> str:
    module = _module(traced, node)
    if module is not None:
        return f"{node.target}: {type(module).__name__}"
    return getattr(node.target, "__name__", str(node.target))


def _is_kinked(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = _module(traced, node)
    if module is not None:
        return isinstance(module, KINKED)
    return getattr(node.target, "__name__", str(node.target)) in KINKED_NAMES


def _keeps_order(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(_module(traced, node), SHAPES)
    if node.target is operator.getitem:  # of a shape, not of the states
        return isinstance(node.args[0], fx.Node) and node.args[0].target == "size"
    return node.target in ORDER_KEEPING


def _post_is_elementwise(traced: fx.GraphModule, nodes: Iterable[fx.Node]) -> bool:
    return all(
        _is_elementwise(traced, n)
        or _keeps_order(traced, n)
        or isinstance(_module(traced, n), BATCH_NORMS)
        for n in nodes
    )


def _build(traced: fx.GraphModule, nodes: list[fx.Node]) -> Segment:
    affine_at = [i for i, n in enumerate(nodes) if _is_affine(traced, n)]
    parametric = [
        n
        for n in nodes
        if (m := _module(traced, n)) is not None and any(True for _ in m.parameters())
    ]
    name = str(parametric[0].target) if parametric else _label(traced, nodes[0])
    affine = post = None
    if len(affine_at) == 1:
        at = affine_at[0]
        before, after = nodes[:at], nodes[at + 1 :]
        chain = not any(n in set(u.all_input_nodes) for n in before for u in after)
        if (
            chain
            and all(_is_shape(traced, n) for n in before)
            and _post_is_elementwise(traced, after)
        ):
            affine = _subgraph(traced, nodes[: at + 1])
            post = _subgraph(traced, after) if after else nn.Identity()
    return Segment(
        name,
        _subgraph(traced, nodes),
        tuple(_label(traced, n) for n in nodes),
        affine,
        post,
        any(_is_kinked(traced, n) for n in nodes),
    )
