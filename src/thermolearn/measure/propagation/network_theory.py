"""What mean-field theory expects of a given network, from the statistics of its own weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.activation import Activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.averages import TINY, moments, pair_moments
from thermolearn.measure.propagation.graph import (
    Step,
    activated,
    independent,
    neighbors,
    transparent,
)

INTERPOLATION = 9  # Chebyshev nodes per activation
QUICK = 8  # nodes per panel: 2e-6, far below the effect of a finite width
SIGNIFICANT = 5.0  # standard errors beyond which weights do not look independent
FEWEST_WEIGHTS = 100
ALIKE = 0.3  # relative spread of the mean squares of samples up to which they count as equal


@dataclass(frozen=True)
class WeightLaw:
    """Variances estimated from the weights of one layer, with their standard errors."""

    sigma_w2: float
    sigma_w2_error: float
    sigma_b2: float


def weight_law(module: Any) -> WeightLaw:
    """sigma_w2 = fan_in <W^2> and sigma_b2 = <b^2> of a layer."""
    weight = module.weight.detach().double().flatten(1)
    squares = weight.square()
    fan_in, n = weight.shape[1], weight.numel()
    error = fan_in * float(squares.std()) / math.sqrt(n) if n > 1 else math.nan
    bias = module.bias
    b2 = 0.0 if bias is None else float(bias.detach().double().square().mean())
    return WeightLaw(fan_in * float(squares.mean()), error, b2)


def not_random(weight: Tensor) -> str:
    """Why a weight matrix does not look like independent draws of mean zero; "" if it does.

    Compared with independent draws of its own variance and kurtosis, at 5 standard errors: the
    mean, the spread of the mean squares of rows and columns, and the largest singular value
    against (sqrt(rows) + sqrt(columns)) times the standard deviation.
    """
    w = weight.detach().double().flatten(1)
    rows, columns = w.shape
    squares = w.square()
    variance = float(squares.mean())
    if variance == 0:
        return ""
    if w.numel() < FEWEST_WEIGHTS:
        return "too few weights to tell"
    if abs(float(w.mean())) > SIGNIFICANT * math.sqrt(variance / w.numel()):
        return "the mean of the weights is not zero"
    kurtosis = float(squares.square().mean()) / variance**2
    if kurtosis > 9:
        return "the weights have heavy tails"
    for axis, other, count in ((1, "rows", rows), (0, "columns", columns)):
        if count < 2:
            continue
        expected = (kurtosis - 1) * variance**2 / w.shape[axis]
        excess = float(squares.mean(axis).var()) / max(expected, 1e-300) - 1
        if excess > SIGNIFICANT * math.sqrt(2 / (count - 1)):
            return f"{other} of the weight matrix differ in size"
    edge = math.sqrt(variance) * (math.sqrt(rows) + math.sqrt(columns))
    if _largest_singular_value(w) > 1.25 * edge:
        return "the largest singular value stands out"
    return ""


def _largest_singular_value(w: Tensor, rounds: int = 12) -> float:
    """From below, by power iteration; one that stands out is found in a few rounds."""
    start = torch.randn(w.shape[1], generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    v = start.to(w.device)
    for _ in range(rounds):
        v = w.T @ (w @ (v / v.norm()))
    return math.sqrt(float(v.norm()))


@dataclass
class _Signal:
    """Second moments per sample (n,) and correlations per pair (m,); NaN where unknown."""

    square: np.ndarray
    correlation: np.ndarray
    mean: float = 0.0
    """Over units, of the mean sample; what a normalization takes away."""


@dataclass(frozen=True)
class Expected:
    """By name of the affine layer: variance, correlation and gradient gain; and the laws."""

    variance: dict[str, float]
    correlation: dict[str, float]
    gain: dict[str, float]
    laws: dict[str, WeightLaw]
    notes: tuple[str, ...]


def expected_propagation(steps: list[Step], x: Tensor) -> Expected:
    """Variance and correlation of every affine layer for inputs x, and chi between neighbors.

    Each layer's own sigma_w2 and sigma_b2 are estimated from its weights. From a layer that
    normalizes by running statistics, a pooling, or an operation that is not known on, nothing is
    predicted.

    Raises
    ------
    NotApplicableError
        The weights of a layer do not look like a random initialization; the message says which.
    """
    laws: dict[str, WeightLaw] = {}
    for step in steps:
        if step.kind == "affine":
            module: Any = step.module
            why = not_random(module.weight)
            if why:
                raise NotApplicableError(
                    f"{step.name}: {why}; the theory is about independent random weights"
                )
            laws[step.name] = weight_law(module)
    signals: list[_Signal] = []
    variance: dict[str, float] = {}
    correlation: dict[str, float] = {}
    squares: dict[str, np.ndarray] = {}  # per sample
    lost: list[str] = []
    clear, bent = transparent(steps), activated(steps)
    for k, step in enumerate(steps):
        inputs = [signals[i] for i in step.inputs]
        if step.kind == "input":
            signals.append(_input_signal(x))
            continue
        if step.kind == "affine":
            signals.append(_affine(inputs[0], laws[step.name]))
            squares[step.name] = signals[-1].square
            variance[step.name] = float(signals[-1].square.mean())
            correlation[step.name] = float(signals[-1].correlation.mean())
            continue
        unknown = (step.kind == "activation" and step.inputs[0] in bent and k not in clear) or (
            step.kind == "add" and not independent(steps, k)
        )
        signals.append(
            inputs[0] if k in clear else _lost(inputs[0]) if unknown else _pass(step, inputs)
        )
        if np.isnan(signals[-1].square).any() and not any(np.isnan(s.square).any() for s in inputs):
            lost.append(step.name)
    notes = [f"nothing is predicted behind {name!r}" for name in dict.fromkeys(lost)]
    uneven = [n for n, s in squares.items() if float(s.std()) > ALIKE * float(s.mean())]
    if uneven:
        notes.append(
            f"the samples differ in size (by more than {ALIKE:.0%} in mean square at "
            f"{', '.join(uneven[:4])}): the correlations are those of samples of equal size"
        )
    gain = _gains(steps, laws, squares)
    return Expected(variance, correlation, gain, laws, tuple(notes))


def pair_cosines(z: Tensor) -> Tensor:
    """Cosines between the rows of z (n, d), all pairs i < j."""
    unit = nn.functional.normalize(z.double(), dim=1)
    i, j = torch.triu_indices(len(z), len(z), 1)
    return (unit @ unit.T)[i, j]


def _input_signal(x: Tensor) -> _Signal:
    flat = x.detach().double().flatten(1)
    cosines = pair_cosines(flat).clamp(-1, 1)
    return _Signal(flat.square().mean(1).cpu().numpy(), cosines.cpu().numpy())


def _affine(s: _Signal, law: WeightLaw) -> _Signal:
    square = law.sigma_w2 * s.square + law.sigma_b2
    mean = float(s.square.mean())
    total = law.sigma_w2 * mean + law.sigma_b2
    # zero outputs have no direction: 0, which weighs nothing in a sum
    pair = (law.sigma_w2 * mean * s.correlation + law.sigma_b2) / (total or 1.0)
    return _Signal(square, pair)


def _gains(
    steps: list[Step], laws: dict[str, WeightLaw], squares: dict[str, np.ndarray]
) -> dict[str, float]:
    """Growth of the squared gradient, all samples together: each sample has the slopes of its own
    variance, and the weight that the layers behind have given its gradient."""
    gain: dict[str, float] = {}
    reached: dict[str, np.ndarray] = {}
    for below, f, above in reversed(neighbors(steps)):
        q = squares[below]
        if not np.isfinite(q).all():
            gain[below] = math.nan
            continue
        chi = laws[above].sigma_w2 * _over_samples(lambda v, f=f: moments(f, v).slope_square, q)
        weight = reached.get(above, np.ones_like(q))
        total = float((weight * chi).sum())
        gain[below] = total / float(weight.sum())
        reached[below] = weight * chi / total if total > 0 else np.ones_like(q)
    return gain


def _over_samples(function: Any, q: np.ndarray) -> np.ndarray:
    """A function of the variance at that of every sample."""
    logs = np.log(np.maximum(q, max(1e-20 * float(q.max()), TINY)))
    return _interpolated(lambda u: function(math.exp(u)), logs)


def _lost(s: _Signal) -> _Signal:
    return _Signal(np.full_like(s.square, math.nan), np.full_like(s.correlation, math.nan))


def norm_square(module: Any) -> float:
    """Mean square of what a normalization puts out: of its weight and of its bias."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    square = 1.0 if weight is None else float(weight.detach().double().square().mean())
    return square + (0.0 if bias is None else float(bias.detach().double().square().mean()))


def _pass(step: Step, inputs: list[_Signal]) -> _Signal:
    """Everything but affine layers."""
    first = inputs[0]
    if step.kind == "shape":
        return first
    if step.kind == "activation" and step.activation is not None:
        return _activated(step.activation, first)
    if step.kind == "add":
        scaled = [
            _Signal(c**2 * s.square, s.correlation)
            for c, s in zip(step.factors, inputs, strict=True)
        ]
        square = sum((s.square for s in scaled), np.zeros_like(first.square))
        weighted = sum((s.square.mean() * s.correlation for s in scaled), np.zeros(1))
        mean = sum(c * s.mean for c, s in zip(step.factors, inputs, strict=True))
        return _Signal(square, weighted / square.mean(), mean)
    if step.kind == "scale":
        c = step.factors[0]
        return _Signal(c**2 * first.square, first.correlation, c * first.mean)
    if step.kind == "norm" and isinstance(step.module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
        square, correlation = float(first.square.mean()), first.correlation
        if not isinstance(step.module, nn.RMSNorm) and first.mean != 0:
            off = first.mean**2
            correlation = (square * correlation - off) / (square - off)
        return _Signal(np.full_like(first.square, norm_square(step.module)), correlation)
    return _lost(first)


def _activated(f: Activation, s: _Signal) -> _Signal:
    if np.isnan(s.square).any():
        return s
    square = _over_samples(lambda v: moments(f, v).square, s.square)
    q = float(s.square.mean())
    one = moments(f, q).square

    def angle(theta: float) -> float:
        return pair_moments(f, q, math.cos(theta), QUICK)[0] / one if one > 0 else 0.0

    # in the angle also kinked activations are smooth up to parallel inputs
    correlation = _interpolated(angle, np.arccos(np.clip(s.correlation, -1, 1)))
    return _Signal(square, np.clip(correlation, -1, 1), moments(f, q).mean)


def _interpolated(function: Any, at: np.ndarray) -> np.ndarray:
    """A smooth scalar function at many points, from Chebyshev nodes over their range."""
    low, high = float(at.min()), float(at.max())
    if high - low < 1e-9:
        return np.full_like(at, function((low + high) / 2))
    nodes = np.polynomial.Chebyshev.interpolate(
        np.vectorize(function, otypes=[float]), INTERPOLATION - 1, [low, high]
    )
    return np.asarray(nodes(at))
