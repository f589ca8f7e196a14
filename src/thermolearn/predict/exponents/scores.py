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
    x = finite_scores(name, scores)
    if len(x) < least:
        raise ValueError(f"{name}: {len(x)} scores are too few; give at least {least}")
    if x.min() == x.max():
        raise ValueError(
            f"{name}: all {len(x)} scores are {x[0]:g}; a constant score decides nothing. Take the "
            "number before it is thresholded (the logit)"
        )
    return x


def finite_scores(name: str, scores: ArrayLike) -> np.ndarray:
    """Scores as a float64 array (M,), on the CPU; however few, and equal ones too.

    Raises
    ------
    ValueError
        Not one-dimensional, or not finite.
    """
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


def lattice(values: np.ndarray) -> tuple[float | None, float]:
    """Largest d with all values in a + d Z, or None, and how far the values are off by rounding.

    Numbers that are all float32, the outputs of most networks, may be off by a rounding of that
    format.

    Parameters
    ----------
    values : ndarray (K,)
        Distinct and sorted.
    """
    largest = float(np.abs(values).max())
    errors = [float(np.finfo(kind).eps) * largest for kind in (np.float64, np.float32)]
    with np.errstate(over="ignore", under="ignore"):
        single = bool((values.astype(np.float32) == values).all())
    for error in errors[: 1 + single]:
        span = _common_divisor(values, 8 * error)
        if span is not None:
            return span, error
    return None, errors[0]


def _common_divisor(values: np.ndarray, tolerance: float) -> float | None:
    """Euclid's algorithm on the gaps."""
    gaps = np.diff(values)
    reach = float(values[-1] - values[0])
    # differences of rounded numbers are off by a rounding of the numbers, not of the differences
    tolerance = max(1e-9 * reach, tolerance)
    span = float(gaps.min())
    while span > max(FINEST_SPAN * reach, 100 * tolerance):
        counts = np.round(gaps / span)
        rest = np.abs(gaps - span * counts)
        # k spans are off by k times the error of the span
        odd = rest > tolerance * (1 + counts)
        if not odd.any():
            # the range has the smallest relative rounding error
            finer = reach / float(counts.sum())
            misfit = np.abs(values[1:] - values[0] - finer * np.cumsum(counts)).max()
            return finer if misfit <= tolerance else None
        span = float(rest[odd].min())
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


def outer_excess(scores: np.ndarray) -> np.ndarray:
    """The min(M/5, 3 sqrt(M)) largest scores over the next one, rising; empty if there are few.

    The part of the sample that tells the tail of weights exp(t f), t > 0 (`weight_shape`).
    """
    count = min(len(scores) // 5, int(3 * math.sqrt(len(scores))))
    ordered = np.sort(scores)[::-1]
    excess = (ordered[:count] - ordered[count])[::-1]
    excess = excess[excess > 0]
    # the weights of a handful of values, counts of votes say, are bounded
    return excess if len(np.unique(excess)) >= 20 else np.empty(0)


def weight_shape(excess: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Shape k of a generalized Pareto law of the largest weights exp(t f), at tilts t > 0.

    By probability-weighted moments. Weights with k >= 1/2 have no variance, phi(2t) is infinite,
    and an average of them no error bar: Vehtari, Simpson, Gelman, Yao, Gabry, arXiv:1507.02646.

    Parameters
    ----------
    excess : ndarray (K,)
        From `outer_excess`.
    tilt : ndarray (T,)
    """
    shape = np.zeros(len(tilt))
    rank = np.arange(len(excess) - 1, -1, -1) / (len(excess) - 1)
    for k, t in enumerate(tilt):
        peak = t * excess[-1]
        # the shape does not depend on the scale
        weight = np.expm1(t * excess) if peak < 500 else np.exp(t * excess - peak)
        b0, b1 = weight.mean(), (weight * rank).mean()
        shape[k] = 2 - b0 / (b0 - 2 * b1) if b0 > 2 * b1 else math.inf
    return shape
