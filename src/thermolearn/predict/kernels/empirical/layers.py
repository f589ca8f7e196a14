"""Per-sample gradients of Linear and Conv layers as products, read off one forward pass.

A layer z_t = W a_t + b, applied at positions t of a sample (time steps, pixels, repeated calls),
has the gradient sum_t g_t a_t^T of its weight and sum_t g_t of its bias, g = df/dz: the factors a
and g hold it in far less memory than the gradient itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.errors import NotApplicableError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Factor:
    """Gradients sum_t g_t a_t^T of a group of parameters, per sample and output.

    Attributes
    ----------
    a : Tensor (n, groups, positions, inputs), or None
        None stands for a single 1: g is then the gradient itself, positions 1.
    g : Tensor (n, outputs, groups, positions, width)
    parameters : tuple
        The weight and the bias, None where it is not part; a bias is the last of the inputs.
    """

    a: Tensor | None
    g: Tensor
    parameters: tuple[nn.Parameter | None, nn.Parameter | None] = (None, None)


class NotLayerwise(Exception):
    """Parameters whose gradient is not (only) that of the layers recorded; they are `ids`."""

    def __init__(self, ids: set[int]):
        super().__init__("not layer-wise")
        self.ids = ids


@dataclass
class Call:
    """One use of a layer: what went in, and where the gradient of what came out arrives."""

    module: nn.Module
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    input: Tensor
    version: int
    edge: Any
    shape: torch.Size

    def ids(self) -> set[int]:
        return {id(p) for p in (self.weight, self.bias) if p is not None}


def layer_parameters(model: nn.Module) -> set[int]:
    """ids of the trained parameters of plain Linear and Conv layers.

    Subclasses, layers with their own ``forward`` and computed weights (parametrizations, weight
    norm, pruning) are not among them.
    """
    found: set[int] = set()
    for module in _layers(model):
        found |= {id(p) for p in module._parameters.values() if p is not None and p.requires_grad}
    return found


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        plain = type(module) in (nn.Linear, *CONVOLUTIONS) and "forward" not in module.__dict__
        if plain and isinstance(module._parameters.get("weight"), nn.Parameter):
            yield module


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs (n, outputs) of the model.

    Raises
    ------
    NotApplicableError
        The model fails on these samples, or returns something else.
    """
    try:
        out = model(x.clone())  # it may work in place
    except Exception as error:  # anything a user's class may do
        raise NotApplicableError(
            f"the model cannot be applied to X ({type(error).__name__}: {error}); X needs the "
            "sample axis first and the shape of the training data; if the model casts to a "
            "precision of its own, give that as dtype"
        ) from error
    if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != len(x):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise NotApplicableError(
            f"the model must return one tensor with a row per sample, got {got} for "
            f"{len(x)} samples; wrap it in a module that returns the outputs of interest"
        )
    return out.flatten(1) if out.ndim > 1 else out[:, None]


def gradients(
    value: Tensor, model: nn.Module, parameters: Sequence[Tensor], keep: bool = False
) -> list[Tensor]:
    """Gradient of a number by a plain backward pass, which accumulates in the copy's ``.grad``.

    Not by ``torch.autograd.grad``: what passes a reentrant checkpoint is missing there, in silence.

    Raises
    ------
    NotApplicableError
        The model cannot be differentiated.
    """
    model.zero_grad(set_to_none=True)
    try:
        value.backward(retain_graph=keep)
    except RuntimeError as error:
        raise NotApplicableError(f"the model cannot be differentiated: {error}") from error
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    model.zero_grad(set_to_none=True)
    return found


@contextmanager
def tapped(model: nn.Module, layerwise: set[int]) -> Iterator[list[Call]]:
    """Inside, layers apply detached copies of the `layerwise` parameters and record their calls.

    What then still depends on such a parameter uses it in another way than by a recorded call.
    """
    calls: list[Call] = []
    modules = [m for m in _layers(model) if {id(p) for p in m._parameters.values()} & layerwise]
    try:
        for module in modules:
            module.forward = _recorder(module, layerwise, calls)  # type: ignore[method-assign]
        yield calls
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _recorder(
    module: nn.Module, layerwise: set[int], calls: list[Call]
) -> Callable[[Tensor], Tensor]:
    def apply(input: Tensor) -> Tensor:
        own = [module._parameters.get(k) for k in ("weight", "bias")]
        weight, bias = (p if p is not None and id(p) in layerwise else None for p in own)
        used = [p if q is None else q.detach() for p, q in zip(own, (weight, bias), strict=True)]
        if used[1] is None:
            used[1] = used[0].detach().new_zeros(len(used[0]))  # type: ignore[union-attr]
        if not used[1].requires_grad:
            used[1] = used[1].requires_grad_()  # so that z has a place in the graph
        if isinstance(module, nn.Linear):
            z = F.linear(input, used[0], used[1])  # type: ignore[arg-type]
        else:
            z = module._conv_forward(input, used[0], used[1])  # type: ignore[operator]
        if not z.requires_grad:  # under no_grad, or a checkpoint that runs again later
            raise NotLayerwise({id(p) for p in (weight, bias) if p is not None})
        a = input.detach()
        edge = torch.autograd.graph.get_gradient_edge(z)
        calls.append(Call(module, weight, bias, a, a._version, edge, z.shape))
        return z

    return apply


def factors(model: nn.Module, x: Tensor, layerwise: set[int]) -> list[Factor]:
    """Factors of the gradients of every output in the `layerwise` parameters.

    The gradients of each output summed over samples are those of the samples; that a call's rows
    belong to the samples in order is tested by random weights per sample.

    Raises
    ------
    NotLayerwise
        A parameter is used outside of the recorded calls, or by calls that mix samples.
    """
    with tapped(model, layerwise) as recorded:
        try:
            out = forward(model, x)
        except NotApplicableError as error:
            if isinstance(error.__cause__, NotLayerwise):
                raise error.__cause__ from None
            raise
        calls = list(recorded)  # the backward pass of a checkpoint records its calls again
        # an input overwritten after its use is an error of the model in plain differentiation, too
        usable = [_has_rows(c, len(x)) and c.input._version == c.version for c in calls]
        bad = set().union(*(c.ids() for c, ok in zip(calls, usable, strict=True) if not ok))
        if bad:
            raise NotLayerwise(bad)
        if not calls or not out.requires_grad:
            return []
        slopes = _slopes(out, calls, layerwise, model)
    return _grouped(model, layerwise, calls, slopes, len(x))


def _has_rows(call: Call, n: int) -> bool:
    """Whether the first axis can hold the samples, in order, each with equally many rows."""
    own = call.module._parameters["weight"]
    axes = own.ndim if own is not None else 2  # those of a batch, also for convolutions
    return len(call.shape) >= axes and call.shape[0] > 0 and call.shape[0] % n == 0


def _slopes(
    out: Tensor, calls: list[Call], layerwise: set[int], model: nn.Module
) -> list[Tensor | None]:
    """df_o/dz of every call as (n, outputs, rows per sample, ...); None where f does not use it."""
    n, n_out = out.shape
    edges = [c.edge for c in calls]
    parameters = [p for p in model.parameters() if id(p) in layerwise]
    draw = torch.Generator().manual_seed(0)
    c, r = (1 + torch.rand(k, generator=draw, dtype=torch.float64) for k in (n, n_out))
    c, r = c.to(out), r.to(out)
    weighted = (out * c[:, None] * r).sum()
    try:
        tested = torch.autograd.grad(
            weighted, [*edges, *parameters], retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:  # a reentrant checkpoint, or no gradient at all
        raise NotLayerwise(set().union(*(call.ids() for call in calls))) from error
    elsewhere = {
        id(p) for p, g in zip(parameters, tested[len(edges) :], strict=True) if g is not None
    }
    if elsewhere:
        raise NotLayerwise(elsewhere)
    slopes = [
        None if t is None else t.new_empty(n, n_out, k.shape[0] // n, *k.shape[1:])
        for k, t in zip(calls, tested, strict=False)
    ]
    for o in range(n_out):
        last = o == n_out - 1
        parts = torch.autograd.grad(
            out[:, o].sum(), edges, retain_graph=not last, allow_unused=True
        )
        for k, part in enumerate(parts):
            target = slopes[k]
            if target is not None:
                target[:, o] = 0.0 if part is None else part.view(target[:, o].shape)
    bad: set[int] = set()
    tolerance = torch.finfo(out.dtype).eps ** 0.6
    for call, slope, t in zip(calls, slopes, tested, strict=False):
        if slope is None:
            continue
        expected = torch.einsum("o,no...->n...", r, slope) * c.view(n, *[1] * (slope.ndim - 2))
        if (expected - t.view(expected.shape)).abs().max() > tolerance * t.abs().max():
            bad |= call.ids()
    if bad:
        raise NotLayerwise(bad)
    return slopes


def _grouped(
    model: nn.Module, layerwise: set[int], calls: list[Call], slopes: list[Tensor | None], n: int
) -> list[Factor]:
    """One factor per set of parameters: the calls of a layer used repeatedly end to end.

    A weight and a bias make one factor if they belong to each other alone.
    """
    own = [m._parameters for m in _layers(model)]
    pairs = {(id(p.get("weight")), id(p.get("bias"))) for p in own}
    weights, biases = Counter(w for w, _ in pairs), Counter(b for _, b in pairs)
    groups: dict[tuple[int, int], list[Factor]] = {}
    for call, slope in zip(calls, slopes, strict=True):
        if slope is None:
            continue
        w, b = call.weight, call.bias
        a, g = _positions(call, slope, n)
        if w is not None and b is not None and weights[id(w)] == biases[id(b)] == 1:
            a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)
            groups.setdefault((id(w), id(b)), []).append(Factor(a, g, (w, b)))
            continue
        if w is not None:
            groups.setdefault((id(w), 0), []).append(Factor(a, g, (w, None)))
        if b is not None:
            # (n, outputs, groups, positions, width): the bias does not know of groups
            g = g.sum(3).reshape(n, g.shape[1], 1, 1, -1)
            groups.setdefault((0, id(b)), []).append(Factor(None, g, (None, b)))
    return [_joined(parts) for parts in groups.values()]


def _joined(parts: list[Factor]) -> Factor:
    first = parts[0]
    if len(parts) == 1:
        return first
    if first.a is None:
        return Factor(None, sum((p.g for p in parts[1:]), first.g), first.parameters)
    inputs = torch.cat([p.a for p in parts if p.a is not None], 2)
    return Factor(inputs, torch.cat([p.g for p in parts], 3), first.parameters)


def _positions(call: Call, slope: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """a (n, groups, positions, inputs) and g (n, outputs, groups, positions, width) of a call."""
    n_out = slope.shape[1]
    if isinstance(call.module, nn.Linear):
        return (
            call.input.reshape(n, 1, -1, call.input.shape[-1]),
            slope.reshape(n, n_out, 1, -1, slope.shape[-1]),
        )
    groups: int = call.module.groups  # type: ignore[assignment]
    a = patches(call.module, call.input)  # (rows, groups, pixels, inputs)
    a = a.unflatten(0, (n, -1)).transpose(1, 2).flatten(2, 3)
    g = slope.flatten(4).unflatten(3, (groups, -1))  # (n, outputs, rows, groups, width, pixels)
    return a, g.permute(0, 1, 3, 2, 5, 4).flatten(3, 4)


def patches(conv: Any, x: Tensor) -> Tensor:
    """What each output pixel of a convolution sees: (n, groups, pixels, channels x kernel)."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    spatial = len(conv.kernel_size)
    for k in range(spatial):
        reach = conv.dilation[k] * (conv.kernel_size[k] - 1) + 1
        x = x.unfold(2 + k, reach, conv.stride[k])[..., :: conv.dilation[k]]
    # (n, channels, pixels ..., kernel ...)
    x = x.unflatten(1, (conv.groups, -1))
    order = [0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial)]
    return x.permute(order).flatten(2 + spatial).flatten(2, 1 + spatial)
