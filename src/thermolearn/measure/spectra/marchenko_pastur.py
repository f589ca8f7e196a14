"""Singular values of random matrices: the Marchenko-Pastur law and the Tracy-Widom edge.

A matrix of independent entries of mean 0 and variance sigma^2, with n >= m its two sizes, has
singular values s; x = s^2/(n sigma^2) follows the Marchenko-Pastur law of ratio q = m/n, which
lives between (1 - sqrt q)^2 and (1 + sqrt q)^2.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

# Gamma law that approximates Tracy-Widom's for real matrices to 1e-3 (Chiani, arXiv:1209.3394)
GAMMA_SHAPE, GAMMA_SCALE, GAMMA_SHIFT = 46.446, 0.186054, 9.84801


def edges(q: float) -> tuple[float, float]:
    """Ends of the law of ratio q, 0 < q <= 1.

    Raises
    ------
    ValueError
        q out of range.
    """
    if not 0 < q <= 1:
        raise ValueError(f"q must lie in (0, 1], got {q!r}")
    return (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2


def density(x: np.ndarray, q: float) -> np.ndarray:
    """sqrt((b - x)(x - a))/(2 pi q x) between the edges a and b, else 0."""
    a, b = edges(q)
    x = np.asarray(x, dtype=float)
    inside = np.maximum((b - x) * (x - a), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(inside > 0, np.sqrt(inside) / (2 * math.pi * q * x), 0.0)


def cdf(x: np.ndarray, q: float) -> np.ndarray:
    """Distribution function of the law, in closed form."""
    a, b = edges(q)
    x = np.asarray(x, dtype=float)
    y = np.clip(x, a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.sqrt((b - y) / (y - a))
        inner = math.pi * q + np.sqrt((b - y) * (y - a)) - (1 + q) * np.arctan((r * r - 1) / 2 / r)
        if q < 1:
            inner += (1 - q) * np.arctan((a * r * r - b) / (2 * (1 - q) * r))
    return np.where(x <= a, 0.0, np.where(x >= b, 1.0, inner / (2 * math.pi * q)))


@lru_cache(maxsize=256)
def median(q: float) -> float:
    """Median of the law."""
    from scipy.optimize import brentq

    a, b = edges(q)
    return float(brentq(lambda x: float(cdf(np.array(x), q)) - 0.5, a, b, xtol=1e-12))  # type: ignore[arg-type]


def largest(n: int, m: int) -> tuple[float, float]:
    """Center and scale of the largest squared singular value of n x m unit-variance entries.

    (s^2 - center)/scale follows the Tracy-Widom law of real matrices, to second order in the
    sizes (Johnstone, Ann. Statist. 29 (2001) 295; the shift by 1/2: Ma, arXiv:1203.0839). It
    holds for any entries with a finite fourth moment.
    """
    a, b = math.sqrt(n - 0.5), math.sqrt(m - 0.5)
    return (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)


def tracy_widom_tail(z: np.ndarray | float) -> np.ndarray:
    """Probability that the Tracy-Widom law of real matrices exceeds z."""
    from scipy.special import gammaincc

    return gammaincc(GAMMA_SHAPE, np.maximum(np.asarray(z) + GAMMA_SHIFT, 0.0) / GAMMA_SCALE)


@lru_cache(maxsize=16)
def tracy_widom_quantile(tail: float) -> float:
    """Value that the Tracy-Widom law of real matrices exceeds with probability `tail`."""
    from scipy.special import gammainccinv

    return float(GAMMA_SCALE * gammainccinv(GAMMA_SHAPE, tail) - GAMMA_SHIFT)
