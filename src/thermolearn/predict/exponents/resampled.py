"""Tails of means of scores drawn anew: the check of the saddle point at few observations."""

from __future__ import annotations

import math

import numpy as np

from thermolearn.core.progress import track
from thermolearn.predict.exponents.cgf import CGF
from thermolearn.predict.exponents.rate import RatePoint

# More observations than this and the saddle point stands
MOST = 200
# Draws of a mean; scores drawn for one estimate
DRAWS, SCORES = (500, 10_000), 40_000
# Tilts tried per number of observations
TILTS = 12


def resampled_tail(
    cgf: CGF, point: RatePoint, gamma: np.ndarray, n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log probability of the tail away from the mean and its error; NaN where it is not known.

    Means of n scores are drawn with weights exp(t f) and weighted back, at up to 12 tilts per n;
    each threshold takes the draws of the nearest. The error holds that of the draws and that of a
    calibration with but M^n means.
    """
    found = np.full(gamma.shape, math.nan)
    error = np.full(gamma.shape, math.nan)
    if cgf.law is None:
        return found, error
    values, shares = cgf.law
    for count in track(np.unique(n[n <= MOST]), "means of scores drawn anew"):
        where = np.flatnonzero(n.ravel() == count)
        tilts = np.unique(point.tilt.ravel()[where])
        if len(tilts) > TILTS:
            tilts = np.quantile(tilts, np.linspace(0, 1, TILTS), method="nearest")
        nearest = np.abs(point.tilt.ravel()[where][:, None] - tilts).argmin(1)
        for k, tilt in enumerate(tilts):
            at = where[nearest == k]
            found.flat[at], error.flat[at] = _draws(
                values, shares, float(tilt), int(count), gamma.ravel()[at], cgf.size
            )
    return found, error


def _draws(
    values: np.ndarray, shares: np.ndarray, tilt: float, n: int, gamma: np.ndarray, size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    draws = min(max(DRAWS[0], SCORES // n), DRAWS[1])
    exponent = tilt * (values - (values[-1] if tilt > 0 else values[0]))
    ladder = np.cumsum(shares * np.exp(exponent))
    picked = np.searchsorted(
        ladder, ladder[-1] * np.random.default_rng(0).random((draws, n)), side="right"
    )
    center = float(values @ shares)
    sums = (values[np.minimum(picked, len(values) - 1)] - center).sum(1)
    # P(S) = tilted P(S) exp(-t S + n phi(t)); sums from the far end, where the weights are small
    side = 1.0 if tilt >= 0 else -1.0
    rising = np.sort(side * sums)
    edge = side * n * (gamma - center)
    beyond = draws - np.searchsorted(rising, edge, side="right" if tilt >= 0 else "left")
    phi = math.log(ladder[-1]) + tilt * ((values[-1] if tilt > 0 else values[0]) - center)
    log_weight = n * phi - abs(tilt) * rising[::-1]
    nearest = log_weight[max(int(beyond.max()) - 1, 0)]
    weight = np.exp(np.minimum(log_weight - nearest, 0.0))
    first, second = (np.append(0.0, np.cumsum(weight**k))[beyond] / draws for k in (1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(first > 0, nearest + np.log(first), math.nan)
        square = (second / first**2 - 1) / draws
        if size is not None:
            square = square + np.exp(np.minimum(-n * math.log(size) - log_p, 50.0))
    return log_p, np.sqrt(square)
