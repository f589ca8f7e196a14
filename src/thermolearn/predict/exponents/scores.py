"""Scores as they are handed in: checks, lattices and heavy tails."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

# Fewer scores than this say nothing about a tail
LEAST_SCORES = 50
# Spacings below this share of the range are no lattice worth a correction
FINEST_SPAN = 1e-6


def as_scores(name: str, scores: ArrayLike, least: int = LEAST_SCORES) -> np.ndarray:
    """Scores as a float64 array (M,), on the CPU.

    Raises
    ------
    ValueError
        Not one-dimensional, fewer than `least`, not finite, or all equal.
    """
    x = _plain(name, scores)
    if len(x) < least:
        raise ValueError(f"{name}: {len(x)} scores are too few; give at least {least}")
    if x.min() == x.max():
        raise ValueError(
            f"{name}: all {len(x)} scores are {x[0]:g}; a constant score decides nothing. Take the "
            "number before it is thresholded (the logit)"
        )
    return x


def _plain(name: str, scores: ArrayLike) -> np.ndarray:
    if hasattr(scores, "detach"):
        scores = scores.detach().cpu().numpy()  # type: ignore[union-attr]
    try:
        x = np.array(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if x.ndim == 2 and x.shape[1] == 1:
        x = x[:, 0]
    if x.ndim != 1:
        raise ValueError(f"{name} must be one score per sample, shape (M,), got {x.shape}")
    bad = ~np.isfinite(x)
    if bad.any():
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(x)} scores are not finite, the first at index "
            f"{int(np.argmax(bad))}; remove them or find out why"
        )
    return x


def lattice_span(values: np.ndarray) -> float | None:
    """Largest d with all values in a + d Z, or None: Euclid's algorithm on the gaps.

    Parameters
    ----------
    values : ndarray (K,)
        Distinct and sorted.
    """
    gaps = np.diff(values)
    reach = float(values[-1] - values[0])
    # differences of rounded numbers are off by a rounding of the numbers, not of the differences
    tolerance = max(1e-9 * reach, 8 * np.finfo(float).eps * float(np.abs(values).max()))
    span = float(gaps.min())
    while span > max(FINEST_SPAN * reach, 100 * tolerance):
        rest = np.abs(gaps - span * np.round(gaps / span))
        if rest.max() <= tolerance:
            # the range has the smallest relative rounding error
            return reach / round(reach / span)
        span = float(rest[rest > tolerance].min())
    return None


def tail_shape(scores: np.ndarray) -> tuple[float, float]:
    """Shape xi of a generalized Pareto law of the 10% largest scores, and its standard error.

    By probability-weighted moments (Hosking and Wallis, doi:10.1080/00401706.1987.10488243), which
    do not depend on location and scale; xi > 0 is a power law of index 1/xi, 0 an exponential tail,
    xi < 0 a bounded one. The error is the asymptotic one at xi = 0; NaN below 20 distinct excesses.
    """
    ordered = np.sort(scores)[::-1]
    rest = len(ordered) // 10
    excess = ordered[ordered > ordered[rest]] - ordered[rest]
    k = len(excess)
    # a handful of distinct values, counts of votes say, has no shape
    if k < 20 or len(np.unique(excess)) < 20:
        return math.nan, math.nan
    b0 = excess.mean()
    # E[x (1 - F)]: the largest excess has weight 0
    b1 = (excess * np.arange(k) / (k - 1)).mean()
    if not b0 > 2 * b1:
        return math.nan, math.nan
    return float(2 - b0 / (b0 - 2 * b1)), math.sqrt(4 / 3 / k)
