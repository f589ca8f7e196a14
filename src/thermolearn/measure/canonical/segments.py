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

from thermolearn.core.activation import Elementwise
from thermolearn.measure.canonical.tracing import ADVICE, TracedModel, is_shape_tuple

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
    Elementwise,
)  # fmt: skip
KINKED = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid,
    nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
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
    ordered : bool
        The affine map reads the states in their own order (only reshapes in front of it).
    kinked : bool
        An activation with kinks is inside, so that f'' vanishes almost everywhere.
    """

    name: str
    module: nn.Module
    modules: tuple[str, ...]
    affine: nn.Module | None = None
    post: nn.Module | None = None
    ordered: bool = False
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
    traced = TracedModel(model)
    return [_build(traced, group) for group in _join(traced, traced.atoms())]


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


# -- what an atom is ------------------------------------------------------------------------------


def _is_one_of(
    traced: TracedModel,
    node: fx.Node,
    modules: tuple[type[nn.Module], ...],
    functions: Container[Any],
    methods: Container[Any],
) -> bool:
    if node.op == "call_module":
        return isinstance(traced.module(node), modules)
    return node.target in (functions if node.op == "call_function" else methods)


def _is_elementwise(traced: TracedModel, node: fx.Node) -> bool:
    return _is_one_of(traced, node, ELEMENTWISE, ELEMENTWISE_FUNCTIONS, ELEMENTWISE_METHODS)


def _is_shape(traced: TracedModel, node: fx.Node) -> bool:
    return _is_one_of(traced, node, SHAPES, SHAPE_FUNCTIONS, SHAPE_METHODS)


def _is_affine(traced: TracedModel, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.module(node), AFFINE)
    if node.op != "call_function" or node.target not in AFFINE_FUNCTIONS:
        return False
    return traced.is_parametric(node) and len(traced.data_inputs(node)) == 1


def _kind(traced: TracedModel, atom: list[fx.Node]) -> str:
    """affine, block (parametric, several nodes or an unknown one), norm, activation, neutral."""
    if len(atom) == 1:
        node, module = atom[0], traced.module(atom[0])
        if _is_affine(traced, node):
            return "affine"
        if isinstance(module, NORMS):
            return "norm"
        if isinstance(module, (*POOLS, *SHAPES)) or _is_shape(traced, node):
            return "neutral"
        if node.op == "call_function" and node.target in POOL_FUNCTIONS:
            return "neutral"
    elif all(_is_shape(traced, n) for n in atom):
        return "neutral"
    if all(_is_elementwise(traced, n) for n in atom):
        return "activation"
    return "block" if any(traced.is_parametric(n) for n in atom) else "activation"


def _join(traced: TracedModel, atoms: list[list[fx.Node]]) -> list[list[fx.Node]]:
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


# -- building a segment ---------------------------------------------------------------------------


def _label(traced: TracedModel, node: fx.Node) -> str:
    module = traced.module(node)
    if module is not None:
        return f"{node.target}: {type(module).__name__}"
    return getattr(node.target, "__name__", str(node.target))


def _is_kinked(traced: TracedModel, node: fx.Node) -> bool:
    module = traced.module(node)
    if module is not None:
        return isinstance(module, KINKED)
    return getattr(node.target, "__name__", str(node.target)) in KINKED_NAMES


def _keeps_order(traced: TracedModel, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.module(node), SHAPES)
    if node.target is operator.getitem:  # of a shape, not of the states
        return is_shape_tuple(node.args[0])
    return node.target in ORDER_KEEPING or is_shape_tuple(node)


def _post_is_elementwise(traced: TracedModel, nodes: Iterable[fx.Node]) -> bool:
    return all(
        _is_elementwise(traced, n)
        or _keeps_order(traced, n)
        or isinstance(traced.module(n), BATCH_NORMS)
        for n in nodes
    )


def _split(traced: TracedModel, nodes: list[fx.Node]) -> tuple[int, bool] | None:
    """Position of the one affine map if all else is shape before and element-wise after it.

    What follows may see the states through the affine map only: a residual or a gate around it
    is no element-wise function of z. The second value: reshapes in front keep the order.
    """
    found = [i for i, n in enumerate(nodes) if _is_affine(traced, n)]
    if len(found) != 1:
        return None
    at = found[0]
    before, after = nodes[:at], nodes[at + 1 :]
    reach = {nodes[at], *after}
    if any(n not in reach for u in after for n in traced.data_inputs(u)):
        return None
    if not all(_is_shape(traced, n) for n in before) or not _post_is_elementwise(traced, after):
        return None
    return at, all(_keeps_order(traced, n) for n in before)


def _build(traced: TracedModel, nodes: list[fx.Node]) -> Segment:
    parametric = [n for n in nodes if traced.is_parametric(n)]
    named = [str(n.target) for n in parametric if n.op == "call_module"]
    affine = post = None
    split = _split(traced, nodes)
    if split is not None:
        after = nodes[split[0] + 1 :]
        affine = traced.subgraph(nodes[: split[0] + 1])
        post = traced.subgraph(after) if after else nn.Identity()
    return Segment(
        named[0] if named else _label(traced, (parametric or nodes)[0]),
        traced.subgraph(nodes),
        tuple(_label(traced, n) for n in nodes),
        affine,
        post,
        split is not None and split[1],
        any(_is_kinked(traced, n) for n in nodes),
    )
