"""How the layers of a model are wired: affine maps, activations, normalizations, skips."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from thermolearn.core.activation import ACTIVATIONS, Activation, resolve_activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.canonical.segments import (
    DROPOUTS,
    ELEMENTWISE,
    NORMS,
    ORDER_KEEPING,
    POOL_FUNCTIONS,
    POOLS,
    SHAPES,
)
from thermolearn.measure.canonical.tracing import TracedModel

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
SUBS = {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
TIMES = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
OVER = {operator.truediv, operator.itruediv, torch.div, "div", "div_"}
MINUS = {operator.neg, torch.neg, "neg"}
RESHAPES = ORDER_KEEPING | {"permute", "transpose", torch.permute, torch.transpose}
# Functions of torch that are activations of `core.activation`, with their kinks.
FUNCTIONS: dict[Any, str] = {
    torch.tanh: "tanh", F.tanh: "tanh", "tanh": "tanh", "tanh_": "tanh", torch.erf: "erf",
    "erf": "erf", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", "sigmoid": "sigmoid",
    torch.relu: "relu", F.relu: "relu", torch.relu_: "relu", F.relu_: "relu", "relu": "relu",
    "relu_": "relu", F.leaky_relu: "leaky_relu", F.elu: "elu", F.hardtanh: "hardtanh",
    F.gelu: "gelu", F.silu: "silu", F.softplus: "softplus",
}  # fmt: skip
OTHER_FUNCTIONS = {F.selu, F.celu, F.mish, F.softsign, F.relu6, F.hardswish, F.logsigmoid,
                   torch.sin, torch.cos, "sin", "cos"}  # fmt: skip


@dataclass
class Step:
    """One operation of the model, in order of execution.

    Attributes
    ----------
    kind : str
        "input", "affine", "activation", "norm", "add" (a sum or a difference), "scale" (by a
        constant), "shape", "pool" or "other".
    name : str
        Qualified name of the module, or of the function.
    inputs : list of int
        Steps whose outputs it reads.
    module : nn.Module or None
    activation : Activation or None
    """

    kind: str
    name: str
    inputs: list[int]
    module: nn.Module | None = None
    activation: Activation | None = None
    readers: list[int] = field(default_factory=list)
    factors: tuple[float, ...] = ()
    """Of the inputs of a sum, or of the one that is scaled."""


ROOT = "(model)"  # the name of a model that is a layer itself


def trace_steps(model: nn.Module) -> list[Step]:
    """The operations that the output depends on; step 0 is the input.

    Raises
    ------
    NotApplicableError
        The model cannot be traced, or has no affine layer.
    """
    if isinstance(model, AFFINE):  # a trace would look inside it
        steps = [Step("input", "input", []), Step("affine", ROOT, [0], model)]
        steps[0].readers.append(1)
        return steps
    try:
        traced = TracedModel(model)
    except TypeError as error:
        raise NotApplicableError(
            f"the wiring of the model is not known: {str(error).split('; pass segments')[0]}"
        ) from error
    position: dict[fx.Node, int] = {}
    steps = [Step("input", "input", [])]
    for node in traced.nodes:
        inputs = [position.get(n, 0) for n in traced.data_inputs(node)]
        position[node] = len(steps)
        steps.append(_step(traced, node, inputs))
    for k, step in enumerate(steps):
        for source in dict.fromkeys(step.inputs):
            steps[source].readers.append(k)
    if not any(s.kind == "affine" for s in steps):
        raise NotApplicableError(
            "the model has no Linear or Conv layer, whose weights signal propagation is about"
        )
    return steps


def chain_steps(model: nn.Module, activation: Activation) -> list[Step]:
    """Affine layers in order of registration with one activation between them: the wiring of a
    model that cannot be traced, on the user's word."""
    steps = [Step("input", "input", [])]
    inside = {
        id(part)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.RNNCellBase)
        for part in module.modules()
    }
    layers = [
        (n or ROOT, m)
        for n, m in model.named_modules()
        if isinstance(m, AFFINE) and id(m) not in inside
    ]
    if not layers:
        raise NotApplicableError("the model has no Linear or Conv layer")
    for k, (name, module) in enumerate(layers):
        steps.append(Step("affine", name, [len(steps) - 1], module))
        if k < len(layers) - 1:
            steps.append(Step("activation", activation.name, [len(steps) - 1], None, activation))
    for k, step in enumerate(steps):
        for source in step.inputs:
            steps[source].readers.append(k)
    return steps


def _step(traced: TracedModel, node: fx.Node, inputs: list[int]) -> Step:
    module = traced.module(node)
    if module is not None:
        return _module_step(str(node.target), module, inputs)
    name = str(getattr(node.target, "__name__", node.target))
    if traced.is_parametric(node):
        return Step("other", name, inputs)
    if node.target in ADDS | SUBS and len(inputs) == 2:
        alpha = node.kwargs.get("alpha", 1)
        if isinstance(alpha, int | float) and len(node.args) == 2:
            sign = -1.0 if node.target in SUBS else 1.0
            return Step("add", name, inputs, factors=(1.0, sign * alpha))
    if len(inputs) == 1:
        factor = _constant_factor(node)
        if factor is not None:
            return Step("scale", name, inputs, factors=(factor,))
        activation = _function_activation(node)
        if activation is not None:
            return Step("activation", activation.name, inputs, None, activation)
        if node.target in RESHAPES:
            return Step("shape", name, inputs)
        if node.target in POOL_FUNCTIONS:
            return Step("pool", name, inputs)
    return Step("other", name, inputs)


def _constant_factor(node: fx.Node) -> float | None:
    """The number that a node multiplies its one input by; None if it does not."""
    if node.target in MINUS:
        return -1.0
    given = [a for a in node.args if isinstance(a, int | float)]
    if len(node.args) != 2 or len(given) != 1 or node.kwargs:
        return None
    if node.target in TIMES:
        return float(given[0])
    return 1 / given[0] if node.target in OVER and node.args[1] == given[0] != 0 else None


def _module_step(name: str, module: nn.Module, inputs: list[int]) -> Step:
    if isinstance(module, AFFINE):
        return Step("affine", name, inputs, module)
    if isinstance(module, nn.PReLU):
        slope = float(module.weight.detach().double().mean())
        return Step("activation", name, inputs, module, resolve_activation(nn.LeakyReLU(slope)))
    if isinstance(module, ELEMENTWISE):
        return Step("activation", name, inputs, module, _plain(resolve_activation(module)))
    if isinstance(module, NORMS):
        return Step("norm", name, inputs, module)
    if isinstance(module, (*SHAPES, *DROPOUTS)):
        return Step("shape", name, inputs, module)
    if isinstance(module, POOLS):
        return Step("pool", name, inputs, module)
    return Step("other", name, inputs, module)


def _plain(activation: Activation) -> Activation:
    """Without working in place, which would overwrite the nodes of the quadrature."""
    if not getattr(activation.function, "inplace", False):
        return activation
    function = activation.function
    return Activation(activation.name, lambda z: function(z.clone()), activation.kinks)


def _function_activation(node: fx.Node) -> Activation | None:
    target: Any = node.target
    if target not in FUNCTIONS and target not in OTHER_FUNCTIONS:
        return None
    args = node.args[1:]
    kwargs = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}
    known = FUNCTIONS.get(target)
    if known and not args and not kwargs:
        return Activation(known, *ACTIVATIONS[known])
    function: Callable[..., Tensor] = getattr(Tensor, target) if isinstance(target, str) else target
    kinks = ACTIVATIONS[known][1] if known else (0.0, 6.0, -3.0, 3.0)
    if known == "hardtanh":
        given: dict[str, Any] = dict(zip(("min_val", "max_val"), args, strict=False)) | kwargs
        kinks = (float(given.get("min_val", -1.0)), float(given.get("max_val", 1.0)))
    return Activation(
        known or str(getattr(target, "__name__", target)),
        lambda z: function(z.clone(), *args, **kwargs),
        kinks,
    )


# -- walks over the wiring ---------------------------------------------------------------------
def reader_behind(steps: list[Step], k: int) -> int | None:
    """The activation or normalization that reads the output of step k, across sums and reshapes.

    None if an affine map, the end, or an unknown operation comes first.
    """
    while True:
        readers = steps[k].readers
        # a pre-activation block: the stream goes on beside the activation
        for kind in ("norm", "activation"):
            nearest = next((r for r in readers if steps[r].kind == kind), None)
            if nearest is not None:
                return nearest
        follow = [r for r in readers if steps[r].kind in ("shape", "scale", "pool", "add")]
        if not follow:
            return None
        k = min(follow)


def independent(steps: list[Step], add: int) -> bool:
    """Whether the inputs of a sum are uncorrelated: all but one are outputs of weights of their
    own, drawn with mean zero, that the others have not seen."""
    inputs = steps[add].inputs
    if len(inputs) != 2:
        return False
    for one, other in (inputs, inputs[::-1]):
        roots = _linear_roots(steps, one)
        seen = {
            weight_key(steps[j].module)
            for j in ancestors(steps, other)
            if steps[j].kind == "affine"
        }
        if roots and all(
            steps[j].kind == "affine" and weight_key(steps[j].module) not in seen for j in roots
        ):
            return True
    return False


def weight_key(module: nn.Module | None) -> int:
    """The same for layers that share one weight."""
    weight = None if module is None else module._parameters.get("weight")
    return id(module) if weight is None else id(weight)


def _linear_roots(steps: list[Step], k: int) -> set[int]:
    """Where the terms of step k come from, before reshapes, factors, sums and normalizations."""
    if steps[k].kind in ("shape", "scale", "norm", "add"):
        return set().union(*(_linear_roots(steps, i) for i in steps[k].inputs))
    return {k}


def neighbors(steps: list[Step]) -> list[tuple[str, Activation, str]]:
    """(affine layer, activation, next affine layer) where nothing else reads or joins between."""
    found = []
    for k, step in enumerate(steps):
        if step.kind != "affine":
            continue
        activation: Activation | None = None
        while len(set(steps[k].readers)) == 1:
            k = steps[k].readers[0]
            kind = steps[k].kind
            if kind == "affine" and activation is not None:
                found.append((step.name, activation, steps[k].name))
            elif kind == "activation" and activation is None:
                activation = steps[k].activation
            elif kind != "shape":
                break
    return found


def ancestors(steps: list[Step], k: int) -> set[int]:
    """Step k and everything it depends on."""
    found: set[int] = set()
    waiting = [k]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += steps[one].inputs
    return found


@dataclass(frozen=True)
class Block:
    """A residual sum: `add` joins the skip and the branch; `last` scales the branch."""

    add: int
    skip: int
    branch: int
    last: int
    projections: tuple[int, ...]
    gain: float = 1.0
    """Factor of the branch's variance between `last` and the sum."""


def residual_blocks(steps: list[Step]) -> list[Block]:
    """Every sum of a branch with affine layers and a skip that has fewer of them."""
    blocks = []
    for k, step in enumerate(steps):
        if step.kind != "add":
            continue
        up = [ancestors(steps, i) for i in step.inputs]
        own = [sorted(a - b) for a, b in (up, up[::-1])]
        affine = [[j for j in part if steps[j].kind == "affine"] for part in own]
        if len(affine[0]) == len(affine[1]):
            continue
        deep = int(len(affine[1]) > len(affine[0]))
        scalable = [j for j in own[deep] if steps[j].kind == "affine" or _scaled_norm(steps[j])]
        blocks.append(
            Block(
                k,
                step.inputs[1 - deep],
                step.inputs[deep],
                scalable[-1],
                tuple(affine[1 - deep]),
                _branch_gain(steps, k, deep, scalable[-1]),
            )
        )
    return blocks


def _branch_gain(steps: list[Step], add: int, deep: int, last: int) -> float:
    gain, k = steps[add].factors[deep] ** 2, steps[add].inputs[deep]
    while k != last and len(steps[k].inputs) == 1:
        gain *= steps[k].factors[0] ** 2 if steps[k].kind == "scale" else 1.0
        k = steps[k].inputs[0]
    return gain


def transparent(steps: list[Step]) -> set[int]:
    """Activations that leave what they read unchanged, because it has passed them before.

    In x -> f(x + branch(x)) with f(f(z)) = f(z) (ReLU) the stream x has passed f: it is not
    Gaussian, and f leaves it as it is but for the branch. So does f behind f.
    """
    passed = activated(steps)
    return {
        k
        for k, step in enumerate(steps)
        if step.activation is not None
        and step.inputs[0] in passed
        and passes_twice(step.activation)
        and passed[step.inputs[0]] == (step.activation.name, step.activation.kinks)
    }


def activated(steps: list[Step]) -> dict[int, tuple | None]:
    """Steps whose output is not Gaussian, and the one activation that its largest part has passed
    (None: several, or something done to it since)."""
    found: dict[int, tuple | None] = {}
    skips = {b.add: b.skip for b in residual_blocks(steps)}
    for k, step in enumerate(steps):
        before = [found[i] for i in step.inputs if i in found]
        if step.activation is not None:
            found[k] = (step.activation.name, step.activation.kinks)
        elif step.kind in ("shape", "pool") and before:
            found[k] = before[0]
        elif step.kind != "affine" and before:
            # a sum with a branch that is small and Gaussian is nearly the skip
            found[k] = before[0] if len(before) == 1 and skips.get(k) in found else None
    return found


def passes_twice(f: Activation) -> bool:
    """Whether f(f(z)) = f(z): what has passed once passes unchanged."""
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    with torch.no_grad():
        once = f.function(z.clone())
        return bool(torch.allclose(f.function(once.clone()), once, atol=1e-12))


def _scaled_norm(step: Step) -> bool:
    return step.kind == "norm" and getattr(step.module, "weight", None) is not None
