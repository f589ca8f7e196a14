"""Squared singular values beside the laws of random matrices, and beside those of shuffles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate
from thermolearn.measure.spectra import marchenko_pastur as mp

LEVEL, EDGE_LEVEL = 0.01, 0.005  # of the two tests: the bulk and the edge
SMALLEST = 8  # of the smaller size: below, no test
FEW = 0.25  # share of the singular values that may be called outliers of a random bulk
FLAT = 1e-3  # relative spread of the singular values of an orthogonal matrix
TAILED = 0.5  # excess kurtosis of the entries above which the laws alone do not decide
SHUFFLES = 99  # with the entries in random places, for the exact test
# The largest count by which n eigenvalues of a random matrix depart from the law grows as ln n:
# 99% quantile a + b ln n and decay c of its tail, simulated for n from 8 to 256, ratios 0.1 to 1,
# Gaussian, uniform and sign entries (which agree within 0.15).
BULK_A, BULK_B, BULK_C = 1.2, 0.44, 0.19


def squared_singular_values(matrix: Tensor) -> np.ndarray:
    """s^2, ascending, from the smaller Gram matrix in float64: faster than a decomposition of the
    matrix, and exact to 1e-16 of the largest."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    scale = float(wide.abs().max()) or 1.0
    small = wide / scale
    values = torch.linalg.eigvalsh(small @ small.mT)
    return np.maximum(values.cpu().numpy(), 0.0) * scale**2


@dataclass(frozen=True)
class Comparison:
    """Eigenvalues beside the null hypothesis."""

    sigma: Estimate
    edge: float
    edge_scale: float
    outliers: list[tuple[float, float]]
    distance: float
    p: float
    verdict: str
    reason: str


def compare(squares: np.ndarray, n: int, precision: float = 0.0) -> Comparison:
    """Squared singular values, ascending, of a matrix whose larger size is n, against random.

    `precision` is the relative one of the entries: rounding spreads equal singular values.
    """
    m, nan = len(squares), math.nan
    squares = np.maximum(squares, 0.0)
    unknown = Estimate(nan, nan, status="not applicable")
    if not squares[-1] > 0:
        return Comparison(unknown, nan, nan, [], nan, nan, "zero", "every entry is zero")
    if m < SMALLEST:
        reason = f"{m} singular values are too few to tell"
        return Comparison(unknown, nan, nan, [], nan, nan, "too small", reason)
    # the singular values of a random matrix spread by 2 sqrt(m/n)
    flat = min(max(FLAT, precision), 0.5 * math.sqrt(m / n))
    if math.sqrt(squares[0]) > (1 - flat) * math.sqrt(squares[-1]):
        reason = "all singular values are equal: an orthogonal matrix, not independent entries"
        return Comparison(unknown, nan, nan, [], nan, nan, "flat", reason)
    variance, k = _fit(squares, n)
    center, scale = mp.largest(n, m)
    edge = math.sqrt(variance * center)
    edge_scale = edge * scale / (2 * center)
    tails = mp.tracy_widom_tail((squares[m - k :] / variance - center) / scale) if k else []
    outliers = [(math.sqrt(v), float(p)) for v, p in zip(squares[m - k :], tails, strict=True)][
        ::-1
    ]
    # a perturbation of rank k leaves the law of a matrix smaller by k
    distance = _distance(squares[: m - k] / ((n - k) * variance), (m - k) / (n - k))
    limit = BULK_A + BULK_B * math.log(m - k)
    p = min(1.0, LEVEL * math.exp(min((limit - (m - k) * distance) / BULK_C, 700.0)))
    sigma = math.sqrt(variance)
    estimate = Estimate(sigma, sigma / math.sqrt(2 * n * m), note="of the random part")
    if k > FEW * m:
        verdict = "other"
        reason = f"{k} of {m} singular values lie above the edge of the rest: not a few outliers"
    elif p < LEVEL:
        verdict = "other"
        reason = f"the bulk departs from the Marchenko-Pastur law (p = {p:.1g})"
    elif k:
        verdict = "outliers"
        reason = (
            f"{k} singular value{'s' if k > 1 else ''} above the edge of a bulk that random "
            f"entries explain (p = {p:.2g})"
        )
    else:
        verdict = "random"
        reason = (
            f"no power law is fitted: independent random entries explain it (bulk p = {p:.2g}, "
            "no singular value above the edge)"
        )
    return Comparison(estimate, edge, edge_scale, outliers, distance, p, verdict, reason)


def _fit(squares: np.ndarray, n: int) -> tuple[float, int]:
    """Variance of the entries and number of outliers, repeated until they agree."""
    m = len(squares)
    center, scale = mp.largest(n, m)
    limit = center + mp.tracy_widom_quantile(EDGE_LEVEL) * scale
    middle = float(np.median(squares)) / (n * mp.median(m / n))
    variance = middle if middle > 0 else float(squares.mean()) / n
    k = m
    for _ in range(20):
        above = min(int((squares > variance * limit).sum()), m // 2)
        if above == k:
            break
        k = above
        variance = float(squares[: m - k].sum()) / ((n - k) * (m - k)) or variance
    return variance, k


def _distance(x: np.ndarray, q: float) -> float:
    """Kolmogorov-Smirnov distance of ascending numbers from the law of ratio q."""
    count = len(x)
    model = mp.cdf(x, q)
    index = np.arange(count)
    return float(np.maximum(model - index / count, (index + 1) / count - model).max())


def no_structure(kurtosis: Estimate, p: float) -> str:
    """Why the laws of random matrices do not decide."""
    said = (
        "the test does not apply: the entries themselves are heavy-tailed or masked (excess "
        f"kurtosis {kurtosis.value:.2g})"
    )
    if math.isnan(p):
        return f"{said}, and fewer than {SHUFFLES} shuffles cannot show structure"
    return f"{said}, and the same entries in random places give such a spectrum (p = {p:.2g})"


def shuffled(matrix: Tensor, squares: np.ndarray, found: Comparison, most: int, seed: int) -> float:
    """Exact p of the largest singular value and the bulk's distance among those of shuffles.

    Of each of the two p = 1/l with the first exceedance at the l-th shuffle, 1/(most + 1) without
    one (Besag and Clifford); the smaller one counts twice.
    """
    if most < SHUFFLES:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    flat, first = matrix.flatten(), [most + 1, most + 1]
    for draw in range(1, most + 1):
        order = torch.randperm(len(flat), generator=generator).to(flat.device)
        other = squared_singular_values(flat[order].view_as(matrix))
        # a shuffle of few different entries may give the very same values
        seen = (
            other[-1] >= squares[-1] * (1 - 1e-12),
            not compare(other, max(matrix.shape)).distance < found.distance,
        )
        first = [min(f, draw) if hit else f for f, hit in zip(first, seen, strict=True)]
        if max(first) <= most:
            break
    return min(1.0, 2 / max(first))


def rounding(matrix: Tensor) -> float:
    """Relative precision of the entries: that of bfloat16 where all are such numbers."""
    coarse = bool((matrix.bfloat16().to(matrix.dtype) == matrix).all())
    return float(torch.finfo(torch.bfloat16).eps) if coarse else 0.0
