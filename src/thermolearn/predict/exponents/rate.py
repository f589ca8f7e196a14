"""The rate function: Fenchel-Legendre transform of a cumulant generating function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.errors import ConvergenceError, ThresholdOutsideSupportError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.predict.exponents.cgf import CGF, EmpiricalCGF
from thermolearn.predict.exponents.flags import flag

DOUBLINGS, ITERATIONS = 80, 100
# Residual of phi'(t) = gamma, over the standard deviation of the scores
TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class RatePoint:
    """The rate function at thresholds gamma; all arrays of the shape of gamma.

    Attributes
    ----------
    gamma : ndarray
    rate : ndarray
        I(gamma) = sup_t [t gamma - phi(t)], nats per observation.
    tilt : ndarray
        The maximizer, phi'(tilt) = gamma; positive above the mean.
    variance : ndarray
        phi''(tilt).
    ess : ndarray
        Effective number of scores behind the tilted averages; infinite for an exact phi.
    stderr : ndarray
        Of the rate, sqrt((M/ess - 1)/M) by the delta method; 0 for an exact phi.
    residual : ndarray
        |phi'(tilt) - gamma| over the standard deviation: the certificate of the root.
    """

    gamma: np.ndarray
    rate: np.ndarray
    tilt: np.ndarray
    variance: np.ndarray
    ess: np.ndarray
    stderr: np.ndarray
    residual: np.ndarray


def rate_point(cgf: CGF, gamma: ArrayLike, name: str = "scores") -> RatePoint:
    """Solve phi'(t) = gamma for many thresholds at once.

    The roots are bracketed on one doubling sweep of t, then found by Newton's method with
    bisection as its safeguard, all thresholds together.

    Parameters
    ----------
    cgf : EmpiricalCGF, AnalyticCGF or alike
    gamma : float or array
        Thresholds strictly inside the range of the scores.
    name : str
        What the scores are called in messages.

    Raises
    ------
    ThresholdOutsideSupportError
        A threshold at or beyond the smallest or largest score.
    ConvergenceError
        A root was not found; the message gives the residual.
    ValueError
        A threshold is not a finite number.
    """
    wanted = np.asarray(gamma, dtype=np.float64)
    if not np.isfinite(wanted).all():
        raise ValueError(f"gamma must be finite, got {gamma!r}")
    flat = wanted.ravel()
    low, high = cgf.support
    outside = (flat <= low) | (flat >= high)
    if outside.any():
        raise ThresholdOutsideSupportError(float(flat[outside][0]), cgf.support, name)
    start = cgf.moments(0.0)
    mean, scale = float(start.mean), math.sqrt(float(start.var))
    left, right = _bracket(cgf, flat, mean, scale)
    tilt = _solve(cgf, flat, left, right, scale)
    tilt[flat == mean] = 0.0
    at = cgf.moments(tilt)
    residual = np.abs(at.mean - flat) / scale
    bad = ~(residual <= TOLERANCE * np.maximum(1, np.abs(flat - mean) / scale))
    if bad.any():
        raise ConvergenceError(
            f"phi'(t) = {flat[bad][0]:g} was not solved: the residual is {residual[bad][0]:.1e} "
            "standard deviations; move the threshold away from the end of the scores"
        )
    # I = t gamma - phi is second order at the mean: rounding may leave it a little below 0
    rate = np.maximum(0.0, tilt * (flat - mean) - (at.cgf - tilt * mean))
    spread = np.zeros_like(rate)
    if cgf.size is not None:
        spread = np.sqrt(np.maximum(0.0, cgf.size / at.ess - 1) / cgf.size)
    parts = (flat, rate, tilt, at.var, at.ess, spread, residual)
    return RatePoint(*(part.reshape(wanted.shape) for part in parts))


def rate(cgf: CGF, gamma: float, name: str = "scores") -> Estimate:
    """I(gamma) with its error bar; flagged as `tail`: few scores, uneven weights, heavy tails.

    Raises
    ------
    As `rate_point`.
    """
    point = rate_point(cgf, float(gamma), name)
    ess = float(point.ess)
    return Estimate(
        float(point.rate),
        float(point.stderr),
        n_eff=None if math.isinf(ess) else ess,
        status=flag(cgf, point.tilt, point.ess),
        note="nats per observation; stderr by the delta method",
    )


def rate_curve(cgf: CGF, points: int = 201, reach: float = 8.0) -> RatePoint:
    """The parametric curve t -> (phi'(t), t phi'(t) - phi(t)): no root-finding, best for plots.

    Parameters
    ----------
    points : int
        Tilts, evenly spaced from -reach to +reach standard tilts 1/std, cut at the domain.
    """
    start = cgf.moments(0.0)
    scale = math.sqrt(float(start.var))
    low, high = (
        max(-reach / scale, 0.98 * cgf.domain[0]),
        min(reach / scale, 0.98 * cgf.domain[1]),
    )
    t = np.linspace(low, high, points)
    at = cgf.moments(t)
    spread = np.zeros(points)
    if cgf.size is not None:
        spread = np.sqrt(np.maximum(0.0, cgf.size / at.ess - 1) / cgf.size)
    rates = np.maximum(0.0, t * at.mean - at.cgf)
    return RatePoint(at.mean, rates, t, at.var, at.ess, spread, np.zeros(points))


def bootstrap_std(scores: ArrayLike, gamma: float, resamples: int = 200, seed: int = 0) -> Estimate:
    """Standard deviation of the rate over resamples of the scores: the check of the delta method.

    Returns
    -------
    Estimate
        stderr of a standard deviation, value / sqrt(2 (resamples - 1)); flagged where a resample
        does not reach the threshold (it is left out).

    Raises
    ------
    ValueError
        Fewer than 20 resamples.
    """
    if resamples < 20:
        raise ValueError(f"resamples must be at least 20, got {resamples}")
    sample = EmpiricalCGF(scores).scores
    rng = np.random.default_rng(seed)
    found = []
    for _ in track(range(resamples), "resamples of the scores"):
        drawn = sample[rng.integers(len(sample), size=len(sample))]
        try:
            found.append(float(rate_point(EmpiricalCGF(drawn), gamma).rate))
        except ThresholdOutsideSupportError:
            continue
    missing = resamples - len(found)
    if len(found) < 2:
        return Estimate(math.nan, math.nan, status="no resample reaches the threshold")
    spread = float(np.std(found, ddof=1))
    return Estimate(
        spread,
        spread / math.sqrt(2 * (len(found) - 1)),
        n_eff=float(len(found)),
        status="ok" if not missing else f"{missing} resamples do not reach the threshold",
    )


# -- roots ---------------------------------------------------------------------------------------
def _bracket(
    cgf: CGF, gamma: np.ndarray, mean: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tilts with phi'(left) <= gamma <= phi'(right), from one sweep that doubles |t|."""
    grid, slopes = [0.0], [mean]
    for sign, end, wanted in (
        (1.0, cgf.domain[1], float(gamma.max())),
        (-1.0, -cgf.domain[0], -float(gamma.min())),
    ):
        t, step, found = 0.0, 0.25 / scale, []
        for _ in range(DOUBLINGS):
            if (found[-1][1] if found else sign * mean) >= wanted:
                break
            t = min(t + step, (t + end) / 2)
            step *= 2
            found.append((t, sign * float(cgf.moments(sign * t).mean)))
        else:
            raise ConvergenceError(
                f"no tilt reaches the threshold {sign * wanted:g}: phi' stays below "
                f"{sign * found[-1][1]:g}; move it away from the end of the scores"
            )
        grid += [sign * t for t, _ in found]
        slopes += [sign * s for _, s in found]
    order = np.argsort(grid)
    t, slope = np.array(grid)[order], np.maximum.accumulate(np.array(slopes)[order])
    right = np.clip(np.searchsorted(slope, gamma), 1, max(1, len(t) - 1))
    if len(t) == 1:
        return np.zeros_like(gamma), np.zeros_like(gamma)
    return t[right - 1], t[right]


def _solve(
    cgf: CGF, gamma: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float
) -> np.ndarray:
    """Newton's method inside shrinking brackets."""
    left, right = left.copy(), right.copy()
    t = (left + right) / 2
    active = np.arange(len(gamma))
    for _ in range(ITERATIONS):
        at = cgf.moments(t[active])
        miss = at.mean - gamma[active]
        left[active] = np.where(miss <= 0, t[active], left[active])
        right[active] = np.where(miss >= 0, t[active], right[active])
        with np.errstate(divide="ignore", invalid="ignore"):
            step = t[active] - miss / at.var
        inside = (step > left[active]) & (step < right[active])
        new = np.where(inside, step, (left[active] + right[active]) / 2)
        done = np.abs(miss) <= 1e-3 * TOLERANCE * scale
        t[active] = np.where(done, t[active], new)
        width = right[active] - left[active]
        still = ~done & (width > 4 * np.finfo(float).eps * np.abs(t[active]))
        active = active[still]
        if not len(active):
            break
    return t
