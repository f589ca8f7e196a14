"""Running samples through a model, and what is kept of every affine layer on the way."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.layer_moments import Layer
from thermolearn.measure.layers import CHANNELS_SECOND, activation_fractions, parameter_groups
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.window import Window

PAIRS = 256  # samples whose pairs are compared
CHUNK_ELEMENTS = 2**24  # of pre-activations held at once (128 MiB)
NOTES = {
    "variance": "second moment of the pre-activations; error over samples and units",
    "correlation": "mean cosine between the pre-activations of two samples; error over samples",
    "gradient_gain": "|dL/dz_l|^2 over |dL/dz_{l+1}|^2, all samples; error over samples and units",
}


class _Layer:
    """What one affine layer has shown so far, chunk by chunk."""

    def __init__(self) -> None:
        self.squares: list[Tensor] = []  # per sample, mean over units
        self.unit_sum: Tensor | float = 0.0
        self.vectors: list[Tensor] = []
        self.gradients: list[Tensor] = []  # per sample, |dL/dz|^2
        self.unit_gradient: Tensor | float = 0.0  # the same per unit, summed over samples


def measured_values(
    window: Window, random_readout: bool = False
) -> tuple[list[str], dict[str, Estimate]]:
    """Names of the layers and the arrays over them.

    Raises
    ------
    NotApplicableError
        No affine layer is called on one tensor with a row per sample, or the model does not run.
    """
    x, y = window.reference
    if len(x) < 2:
        raise NotApplicableError("signal propagation needs at least 2 samples")
    outputs = window.outputs
    reduction = "sum"
    readout = torch.empty(0)
    if random_readout:
        readout = torch.randn(
            outputs.shape, generator=window.generator("readout"), dtype=torch.float64
        ).to(outputs)
    else:
        *_, reduction = sample_losses(window.loss_fn, outputs, y)
    layers, first = _watch(window, readout, reduction)
    names = list(layers)
    if not names:
        raise NotApplicableError(
            "the model calls no Linear or Conv layer, whose pre-activations could be measured"
        )
    variance = [_variance_of(layer) for layer in layers.values()]
    correlation = [_correlation_of(torch.cat(layer.vectors)) for layer in layers.values()]
    gains = _gains(list(layers.values()))
    values = {
        "variance": _array(variance, NOTES["variance"], len(x)),
        "correlation": _array(correlation, NOTES["correlation"], min(len(x), PAIRS)),
        "gradient_gain": Estimate(gains[0], gains[1], float(len(x)), note=NOTES["gradient_gain"]),
        "mean_log_gain": gains[2],
    }
    groups = parameter_groups(window.model)
    dead, saturated = activation_fractions(window.model, x, groups)
    at = [list(groups).index(n) if n in groups else -1 for n in first]
    for name, e in (("dead_fraction", dead), ("saturated_fraction", saturated)):
        value = np.append(np.asarray(e.value), math.nan)[at]
        error = np.append(np.broadcast_to(e.stderr, np.shape(e.value)), math.nan)[at]
        values[name] = Estimate(value, error, e.n_eff, note=e.note)
    return names, values


def _array(pairs: list[tuple[float, float]], note: str, n: int) -> Estimate:
    table = np.array(pairs)
    return Estimate(table[:, 0], table[:, 1], float(n), note=note)


def _watch(window: Window, readout: Tensor, reduction: str) -> tuple[dict[str, _Layer], list[str]]:
    """Run the samples through; a zero added to every pre-activation carries its gradient."""
    x, y = window.reference
    model = window.model
    layers: dict[str, _Layer] = defaultdict(_Layer)
    owners: dict[str, str] = {}
    seen: list[tuple[str, Tensor, Tensor, int]] = []
    calls: dict[str, int] = defaultdict(int)
    hooks = []

    def hook(owner: str, channels_second: bool) -> Any:
        def after(module: nn.Module, args: Any, out: Any) -> Any:
            if not isinstance(out, Tensor) or out.dim() < 2:
                return None
            calls[owner] += 1
            name = owner if calls[owner] == 1 else f"{owner} (call {calls[owner]})"
            owners.setdefault(name, owner)
            zero = torch.zeros_like(out, requires_grad=True)
            seen.append((name, out.detach().clone(), zero, 1 if channels_second else -1))
            return out + zero

        return after

    for name, module in model.named_modules():
        if isinstance(module, Layer):
            hooks.append(
                module.register_forward_hook(
                    hook(name or "(model)", isinstance(module, CHANNELS_SECOND))
                )
            )
    try:
        start, chunk = 0, 2
        while start < len(x):
            part = slice(start, start + chunk)
            seen.clear()
            calls.clear()
            with torch.enable_grad():
                out = model(x[part])
                if readout.numel():
                    loss = (out * readout[part]).sum()
                else:
                    # the mean of a chunk has a larger share of each sample than the whole mean
                    share = len(out) / len(x) if reduction == "mean" else 1.0
                    loss = window.loss_fn(out, y[part]).mean() * share
                zeros = [zero for _, _, zero, _ in seen]
                gradients = (
                    torch.autograd.grad(loss, zeros, materialize_grads=True) if zeros else ()
                )
            for (name, z, _, axis), gradient in zip(seen, gradients, strict=True):
                if len(z) == len(out):
                    _collect(layers[name], z, gradient, axis, PAIRS - start)
            start += len(out)
            elements = sum(z.numel() for _, z, _, _ in seen) // max(len(out), 1)
            chunk = max(1, min(len(x), CHUNK_ELEMENTS // max(elements, 1)))
    finally:
        for one in hooks:
            one.remove()
    kept = {n: layer for n, layer in layers.items() if sum(map(len, layer.squares)) == len(x)}
    return kept, [owners[n] for n in kept]


def _collect(layer: _Layer, z: Tensor, gradient: Tensor, axis: int, room: int) -> None:
    def by_unit(t: Tensor) -> Tensor:
        units = t.movedim(axis, 1).flatten(2) if t.dim() > 2 else t[:, :, None]
        return units.double().square()

    squares = by_unit(z).mean(2)
    layer.squares.append(squares.mean(1))
    layer.unit_sum = layer.unit_sum + squares.sum(0)
    if room > 0:
        layer.vectors.append(z[:room].flatten(1))
    slopes = by_unit(gradient).sum(2)
    layer.gradients.append(slopes.sum(1))
    layer.unit_gradient = layer.unit_gradient + slopes.sum(0)


def _variance_of(layer: _Layer) -> tuple[float, float]:
    """Mean square and its error over samples and over units, in quadrature."""
    samples = torch.cat(layer.squares)
    assert isinstance(layer.unit_sum, Tensor)
    units = layer.unit_sum / len(samples)
    error = float(samples.var()) / len(samples)
    if len(units) > 1:
        error += float(units.var()) / len(units)
    return float(samples.mean()), math.sqrt(error)


def _correlation_of(z: Tensor) -> tuple[float, float]:
    """Mean cosine over all pairs of samples and its jackknife error (NaN if a row is zero)."""
    n = len(z)
    unit = nn.functional.normalize(z.double(), dim=1)
    total = unit.sum(0)
    cosines = unit @ total - unit.square().sum(1)  # with all others
    whole = float(cosines.sum()) / (n * (n - 1))
    if n < 3:
        return whole, math.nan
    left_out = (cosines.sum() - 2 * cosines) / ((n - 1) * (n - 2))
    return whole, math.sqrt((n - 1) * float(left_out.var(correction=0)))


def _gains(layers: list[_Layer]) -> tuple[np.ndarray, np.ndarray, Estimate]:
    """Ratios of neighboring sums and the mean of their logarithms.

    Errors: the jackknife over samples and, because the samples share the weights, the spread over
    the units of the layer, in quadrature.
    """
    table = torch.stack([torch.cat(layer.gradients) for layer in layers]).cpu().numpy()
    n, steps = table.shape[1], max(len(table) - 1, 1)
    over_units = np.array([_relative_error(layer.unit_gradient) for layer in layers])
    with np.errstate(divide="ignore", invalid="ignore"):
        totals = table.sum(1)
        left_out = totals[:, None] - table
        gain = np.append(totals[:-1] / totals[1:], math.nan)
        spread = np.sqrt((n - 1) * (left_out[:-1] / left_out[1:]).var(1))
        error = np.append(np.hypot(spread, gain[:-1] * over_units[:-1]), math.nan)
        growth = float(np.log(totals[0] / totals[-1])) / steps
        log_spread = np.log(left_out[0] / left_out[-1]) / steps
    if len(table) < 2:
        return gain, error, Estimate(math.nan, math.nan, status="one layer")
    if not math.isfinite(growth):
        return (
            gain,
            error,
            Estimate(
                math.nan,
                math.nan,
                status="no gradient",
                note="no gradient reaches an end of the model",
            ),
        )
    units = float(np.sqrt(np.square(over_units[:-1]).sum())) / steps
    return (
        gain,
        error,
        Estimate(
            growth,
            math.hypot(math.sqrt((n - 1) * float(log_spread.var())), units),
            float(n),
            note="per layer; below 0 gradients vanish towards the input",
        ),
    )


def _relative_error(units: Tensor | float) -> float:
    """Standard error of the mean over units, relative to it."""
    if not isinstance(units, Tensor) or len(units) < 2 or float(units.mean()) == 0:
        return 0.0
    return float(units.std() / units.mean()) / math.sqrt(len(units))
