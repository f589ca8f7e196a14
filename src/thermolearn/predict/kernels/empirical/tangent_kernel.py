"""The tangent kernel of a finite network, from its present parameters.

Jacot, Gabriel, Hongler, arXiv:1806.07572. Of Linear and Conv layers no gradient is formed where
products of layer inputs and output gradients are cheaper (Novak, Sohl-Dickstein, Schoenholz,
arXiv:2206.08720, structured derivatives).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thermolearn.core.checks import real
from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.predict.kernels.empirical.inputs import (
    as_samples,
    check_copied,
    private_model,
)
from thermolearn.predict.kernels.empirical.jacobian import Jacobian, split_by_size
from thermolearn.predict.kernels.empirical.layers import (
    Factor,
    NotLayerwise,
    factors,
    forward,
    gradients,
    layer_parameters,
)
from thermolearn.predict.kernels.empirical.products import ELEMENTS, add_products

Outputs = Literal["trace", "each", "full"]
TESTED = 16  # samples on which the model and the layer-wise form are tested
BLOCK = 64  # samples in a block of Jacobians, if a single tensor is not too large for that
OVERHEAD = 4  # memory of a block over that of its factors: the graph, and copies while forming them

Rows = Callable[[Tensor], list[Factor]]


def empirical_ntk(
    model: nn.Module,
    X: Any,
    X2: Any = None,
    *,
    outputs: Outputs = "trace",
    dtype: torch.dtype = torch.float64,
    memory_gib: float = 1.0,
) -> Tensor:
    """Empirical neural tangent kernel of a model at its present parameters.

    Theta_ij = sum_o <d f_o(x_i)/d theta, d f_o(x'_j)/d theta>, summed (not averaged) over outputs,
    theta the parameters that require gradients in the model's own parametrization, in eval mode.
    Linear and Conv layers contribute sum_ts (a_it . a_js + 1) sum_o g_oit . g_ojs with layer inputs
    a, gradients g at the layer's output and positions t, s (or by their per-sample gradients
    where these are cheaper); parameters used in any other way by Jacobians. Which is which is
    tested, not assumed.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to (n, outputs), (n,) or (n, ...), samples independent of each other. It is
        copied, and not changed; forward hooks of the user's are not part of the copy.
    X : array or Tensor (n, ...)
        Integers (token indices) are passed as they are.
    X2 : array or Tensor (n2, ...), optional
        Default: X. The kernel is then exactly symmetric.
    outputs : "trace", "each" or "full"
        "trace": (n, n2). "each": (n, n2, outputs), the kernel of every output; its sum is the
        trace. "full": (n, n2, outputs, outputs), Theta_ij,op = <d f_o(x_i), d f_p(x'_j)>.
    dtype : torch.float64 or torch.float32
        Of the private copy and of the result.
    memory_gib : float > 0
        Working memory to aim at beside the model's copy and the result. Samples are taken in
        blocks, and blocks again for each block of rows: little memory costs time. At the least,
        one sample at once with all outputs and all layers, or one other parameter tensor.

    Returns
    -------
    Tensor, on the device of the model.

    Raises
    ------
    NotApplicableError
        No trained parameter; samples that influence each other, or outputs that are random in
        eval mode; a model that cannot be copied, applied to X or differentiated.
    TypeError, ValueError
        Not a module; samples that are not finite; an unknown option.
    """
    if outputs not in ("trace", "each", "full"):
        raise ValueError(f'outputs must be "trace", "each" or "full", got {outputs!r}')
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    limit = int(real("memory_gib", memory_gib, above=0.0) * 2**30) // dtype.itemsize
    with untouched():
        twin = private_model(model, dtype)
        trained = {id(p) for p in twin.parameters() if p.requires_grad}
        if not trained:
            raise NotApplicableError("the model has no parameter that requires a gradient")
        device = next(p for p in twin.parameters() if p.requires_grad).device
        x = as_samples("X", X, dtype, device)
        x2 = None if X2 is None else as_samples("X2", X2, dtype, device)
        if x2 is not None and (x2.shape[1:] != x.shape[1:] or x2.dtype != x.dtype):
            raise ValueError(
                f"X2 has samples of shape {tuple(x2.shape[1:])} and {x2.dtype}, X of "
                f"{tuple(x.shape[1:])} and {x.dtype}"
            )
        n_out = _check_independent(twin, x, x2, model)
        layerwise = layer_parameters(twin)
        while True:  # each round takes parameters out, so that this ends
            try:
                size = _numbers(factors(twin, x[:1], layerwise))
                tested = min(TESTED, max(1, limit // (OVERHEAD * size)))
                layerwise -= _wrong(twin, x[:tested], layerwise)
                return _assembled(twin, x, x2, n_out, layerwise, trained, outputs, limit)
            except NotLayerwise as found:
                if not found.ids & layerwise:
                    raise NotApplicableError("the model's layers cannot be recorded") from found
                layerwise -= found.ids


def _check_independent(model: nn.Module, x: Tensor, x2: Tensor | None, original: nn.Module) -> int:
    """Number of outputs.

    Raises
    ------
    NotApplicableError
        The outputs of samples change when their neighbors in the batch do, or the model is not
        separate from the `original`.
    """
    some = x[:TESTED] if len(x) > 1 or x2 is None else torch.cat([x, x2[:1]])
    if len(some) == 1:
        some = torch.cat([some, some + 1.0 if some.is_floating_point() else some])
    out = forward(model, some)
    check_copied(original, out)
    out = out.detach()
    if not torch.isfinite(out).all():
        raise NotApplicableError("the model's outputs are not finite")
    other = 0.5 * (some + some.roll(1, 0)) if some.is_floating_point() else some.roll(1, 0)
    index = torch.arange(len(some), device=some.device)
    kept = [index >= 0]  # first nobody is replaced: the outputs may be random
    for bit in range((len(some) - 1).bit_length()):  # then such that every pair is told apart
        kept += [index >> bit & 1 == side for side in (0, 1)]
    tolerance = torch.finfo(out.dtype).eps ** 0.6 * out.abs().max()
    for own in kept:
        batch = torch.where(own.view(-1, *[1] * (some.ndim - 1)), some, other)
        if (forward(model, batch).detach()[own] - out[own]).abs().max() > tolerance:
            raise NotApplicableError(
                "a sample's outputs depend on the other samples in the batch, or are random in "
                "eval mode; the tangent kernel needs f(x) of one sample alone (first axis of X: "
                "samples; batch normalization: with running statistics)"
            )
    return out.shape[1]


def _wrong(model: nn.Module, x: Tensor, layerwise: set[int]) -> set[int]:
    """ids whose factors do not give the gradient of a random combination of outputs.

    The last word on whether the layer-wise form is exact, on a few samples.
    """
    found = factors(model, x, layerwise)
    out = forward(model, x)
    draw = torch.Generator().manual_seed(1)
    c, r = (1 + torch.rand(k, generator=draw, dtype=torch.float64) for k in out.shape)
    c, r = c.to(out), r.to(out)
    parameters: list[Tensor] = [p for p in model.parameters() if id(p) in layerwise]
    if not parameters or not out.requires_grad:
        return set()
    combined = (out * c[:, None] * r).sum()
    exact = dict(zip(map(id, parameters), gradients(combined, model, parameters), strict=True))
    missing = set(exact)
    bad: set[int] = set()
    tolerance = torch.finfo(out.dtype).eps ** 0.6
    for factor in found:
        g = torch.einsum("n,o,nogtw->ngtw", c, r, factor.g)
        whole = g.sum((0, 2))[..., None]
        if factor.a is not None:
            whole = torch.einsum("ngti,ngtw->gwi", factor.a, g)
        weight, bias = factor.parameters
        parts = {id(bias): whole[..., -1]} if bias is not None else {}
        if weight is not None:
            parts[id(weight)] = whole[..., :-1] if bias is not None else whole
        for key, part in parts.items():
            missing.discard(key)
            truth = exact[key]
            if (part.reshape(truth.shape) - truth).abs().max() > tolerance * truth.abs().max():
                bad.add(key)
    return bad | {key for key in missing if bool((exact[key] != 0).any())}


def _numbers(found: list[Factor]) -> int:
    return sum(f.g.numel() + (0 if f.a is None else f.a.numel()) for f in found) or 1


def _assembled(
    model: nn.Module, x: Tensor, x2: Tensor | None, n_out: int,
    layerwise: set[int], trained: set[int], outputs: Outputs, limit: int,
) -> Tensor:  # fmt: skip
    """The kernel as a sum of products over parameters, block by block of samples."""
    tail = {"trace": (), "each": (n_out,), "full": (n_out, n_out)}[outputs]
    first = next(p for p in model.parameters() if id(p) in trained)
    kernel = first.new_zeros(len(x), len(x2 if x2 is not None else x), *tail, requires_grad=False)
    passes: list[tuple[Rows, int]] = []
    if layerwise:
        size = _numbers(factors(model, x[:1], layerwise))
        passes.append((lambda block: factors(model, block, layerwise), size))
    room = limit // (2 * OVERHEAD * n_out * min(len(x), BLOCK))
    for names in split_by_size(model, trained - layerwise, room):
        rows = Jacobian(model, names)
        passes.append((rows, n_out * sum(p.numel() for p in rows.parameters.values())))
    tasks = []
    for rows, size in passes:
        step = max(1, (limit - 4 * ELEMENTS) // (2 * OVERHEAD * size))
        tasks += [(rows, i, step) for i in range(0, len(x), step)]
    with torch.no_grad():
        for rows, start, step in track(tasks, "empirical tangent kernel"):
            _add_rows(kernel, rows, (x, x2), start, step, outputs)
    if x2 is None:
        _symmetrize(kernel, outputs)
    return kernel


def _add_rows(
    kernel: Tensor, rows: Rows, data: tuple[Tensor, Tensor | None],
    start: int, step: int, outputs: Outputs,
) -> None:  # fmt: skip
    """Products of one block of rows with the columns, without X2 with those from its own on."""
    x, x2 = data
    i = slice(start, start + step)
    with torch.enable_grad():
        ones = _by_parameters(rows(x[i]))
    for second in range(0 if x2 is not None else start, len(x if x2 is None else x2), step):
        j = slice(second, second + step)
        twos = ones
        if x2 is not None or j != i:
            with torch.enable_grad():
                twos = _by_parameters(rows((x if x2 is None else x2)[j]))
        for key in ones.keys() & twos.keys():  # a layer may be left out by some samples
            add_products(kernel[i, j], ones[key], twos[key], outputs)


def _by_parameters(found: list[Factor]) -> dict[tuple[int, int], Factor]:
    return {(id(f.parameters[0]), id(f.parameters[1])): f for f in found}


def _symmetrize(kernel: Tensor, outputs: Outputs, step: int = 512) -> None:
    """Copy the upper triangle to the lower, in place."""
    n = len(kernel)

    def mirrored(block: Tensor) -> Tensor:
        return block.permute(1, 0, 3, 2) if outputs == "full" else block.transpose(0, 1)

    for start in range(0, n, step):
        i = slice(start, min(start + step, n))
        kernel[i.stop :, i] = mirrored(kernel[i, i.stop :])
        block = kernel[i, i]
        below = torch.ones(len(block), len(block), dtype=torch.bool, device=kernel.device).tril(-1)
        kernel[i, i] = torch.where(
            below[(..., *[None] * (kernel.ndim - 2))], mirrored(block), block
        )
    if outputs == "full":
        own = kernel.diagonal().clone()  # (outputs, outputs, n)
        kernel.diagonal().copy_(0.5 * (own + own.transpose(0, 1)))
