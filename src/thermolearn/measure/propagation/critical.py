"""The line of initializations on which gradients neither vanish nor explode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.measure.propagation.averages import (
    COARSE,
    NODES,
    check_resolved,
    moments,
    refuse_jump,
)
from thermolearn.measure.propagation.mean_field import WIDE, ActivationLike, MeanFieldMap

# Where admissible q are looked for.
GRID = np.geomspace(1e-6, 1e4, 241)
ANY_Q = "every q is critical with the same sigma_w2 and sigma_b2 = 0"
UNSTABLE = (
    "V'(q*) > 1: variances beside q* run away from it; rescale the inputs so that the first "
    "layer has exactly this variance, or take a larger q"
)


@dataclass(frozen=True)
class CriticalPoint:
    """A pair of variances with chi_1 = 1; see `critical_line`.

    Attributes
    ----------
    sigma_w2, sigma_b2, q : Estimate
        Weight variance times fan-in, bias variance, and the pre-activation variance q* = V(q*).
    variance_slope : Estimate
        V'(q*); status "unstable" above 1.
    stable : bool
        Whether V'(q*) <= 1.
    """

    activation: Activation
    sigma_w2: Estimate
    sigma_b2: Estimate
    q: Estimate
    variance_slope: Estimate

    @property
    def stable(self) -> bool:
        """Whether variances near q* stay there: V'(q*) <= 1."""
        return float(self.variance_slope) <= 1 + 1e-9

    def map(self) -> MeanFieldMap:
        """The mean-field map at this point."""
        return MeanFieldMap(self.activation, float(self.sigma_w2), float(self.sigma_b2))

    def __str__(self) -> str:
        kind = "stable" if self.stable else "UNSTABLE"
        return (
            f"{self.activation.name}: sigma_w2 = {float(self.sigma_w2):.6g}, sigma_b2 = "
            f"{float(self.sigma_b2):.6g}, q* = {float(self.q):.6g}, "
            f"V'(q*) = {float(self.variance_slope):.5g} ({kind})"
        )


def critical_line(
    activation: ActivationLike, q: float | None = None, *, sigma_b2: float | None = None
) -> CriticalPoint:
    """The point of the critical line chi_1 = 1 at a variance q, or at a bias variance.

    sigma_w2 = 1 / E f'(sqrt(q) x)^2,   sigma_b2 = q - sigma_w2 E f(sqrt(q) x)^2.

    Parameters
    ----------
    activation : str, module or callable
    q : float
        The pre-activation variance that stays, > 0; no root has to be found.
    sigma_b2 : float
        The bias variance instead, >= 0. Of several points that with |V'(q*)| < 1 and the smallest
        q is taken; for a scale-free activation (ReLU, sigma_b2 = 0) q = 1.

    Raises
    ------
    ValueError
        Not exactly one of the two, a q whose sigma_b2 would be negative (the message names the
        admissible range), or a sigma_b2 that no q has.
    NotApplicableError
        The activation jumps, or bends at points that are not known, so that the quadrature is not
        right to 1e-6.

    Notes
    -----
    Schoenholz et al., arXiv:1611.01232; the parametrization by q needs no iteration.
    """
    f = resolve_activation(activation)
    if (q is None) == (sigma_b2 is None):
        raise ValueError("critical_line needs exactly one of q and sigma_b2")
    refuse_jump(f)
    if q is not None:
        return _at(f, real("q", q, above=0.0))
    target = real("sigma_b2", sigma_b2, least=0.0)
    biases = np.array([pair(f, float(v))[1] for v in GRID])
    flat = np.abs(biases) <= 1e-12 * GRID
    if target == 0 and flat.all():
        return _at(f, 1.0, note=ANY_Q)
    candidates = [_solve(f, target, k) for k in _crossings(biases, target)]
    if target == 0 and moments(f, 0.0).square < 1e-24:
        candidates.insert(0, 0.0)
    if not candidates:
        low, high = float(np.nanmin(biases)), float(np.nanmax(biases))
        raise ValueError(
            f"sigma_b2 = {target:.6g} is not on the critical line of {f.name}: for q from "
            f"{GRID[0]:g} to {GRID[-1]:g} sigma_b2 runs from {max(low, 0.0):.6g} to "
            f"{max(high, 0.0):.6g}"
            + (" (it must be 0 for a scale-free activation)" if flat.all() else "")
        )
    points = [_at(f, v) for v in candidates]
    return next((p for p in points if p.stable), points[0])


def _crossings(biases: np.ndarray, target: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        above = biases - target
        return np.flatnonzero(above[:-1] * above[1:] < 0)


def _solve(f: Activation, target: float, k: int) -> float:
    low, high = float(GRID[k]), float(GRID[k + 1])
    return bracketed_root(lambda v: pair(f, v)[1] - target, low, high, tol=1e-15, log=True)


def pair(f: Activation, q: float, n: int = NODES) -> tuple[float, float]:
    """sigma_w2 and sigma_b2 (negative where there is none); NaN where the averages diverge."""
    try:
        m = moments(f, q, n)
    except ValueError:
        return math.nan, math.nan
    if m.slope_square <= 0:
        return math.nan, math.nan
    sigma_w2 = 1 / m.slope_square
    return sigma_w2, q - sigma_w2 * m.square


def _at(f: Activation, q: float, note: str = "") -> CriticalPoint:
    (w2, b2), coarse = pair(f, q), pair(f, q, COARSE)
    if math.isnan(w2):
        raise ConvergenceError(
            f"the averages of {f.name} at q = {q:.6g} are not finite, or its slope is 0; "
            "choose another q"
        )
    check_resolved(f, 1 / w2, 1 / coarse[0])
    if b2 < -1e-11 * max(q, 1e-12):
        raise ValueError(
            f"q = {q:.6g} is not on the critical line of {f.name}: it would need sigma_b2 = "
            f"{b2:.6g} < 0; admissible q: {_admissible(f)}. {variance_preserving(f, q)}"
        )
    error = abs(b2 - coarse[1]) + 1e-15 * q
    if b2 <= 1e-12 * q:
        b2 = error = 0.0
    slope = w2 * moments(f, q).growth
    slope_error = abs(slope - coarse[0] * moments(f, q, COARSE).growth)
    unstable = slope > 1 + 1e-9
    return CriticalPoint(
        f,
        Estimate(w2, abs(w2 - coarse[0]), note=note or WIDE),
        Estimate(b2, error, note=note or WIDE),
        Estimate(q, 0.0, note=note),
        Estimate(
            slope,
            slope_error,
            status="unstable" if unstable else "ok",
            note=UNSTABLE if unstable else WIDE,
        ),
    )


def variance_preserving(f: Activation, q: float) -> str:
    """What can be had at q where there is no critical pair, in words."""
    m = moments(f, q)
    w2 = q / m.square if m.square > 0 else math.nan
    if not math.isfinite(w2):
        return ""
    return (
        f"sigma_w2 = {w2:.6g}, sigma_b2 = 0 keeps the variance {q:.6g}, at chi_1 = "
        f"{w2 * m.slope_square:.4g} (gradients grow by that per layer)"
    )


def _admissible(f: Activation) -> str:
    """The ranges of q with sigma_b2 >= 0, in words."""
    good = np.array([pair(f, float(v))[1] for v in GRID]) >= -1e-12 * GRID
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    ranges = [f"{GRID[a]:.4g} to {GRID[b - 1]:.4g}" for a, b in edges.reshape(-1, 2)]
    return ", ".join(ranges) if ranges else "none"
