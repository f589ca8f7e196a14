"""The Ising model on the square lattice: Onsager's solution and checkerboard decimation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.special import ellipk

from thermolearn.core.checks import real
from thermolearn.systems.dynamics.relative_entropy.ising1d import log_cosh

CRITICAL = 0.5 * math.log(1 + math.sqrt(2))  # K_c
FIXED_POINT = 0.5069810190775669  # of the truncated decimation
SERIES_BELOW = 1e-2  # where coth(2K) [...] cancels


class Onsager(NamedTuple):
    """Per site of the infinite lattice."""

    f: float
    """ln Z / N"""
    u: float
    """f'(K): mean of sigma sigma' summed over the two bonds of a site"""
    s: float
    """entropy f - K u, nats"""


def onsager(K: float) -> Onsager:
    """f, u and s of the infinite square lattice at coupling K = beta J, any sign.

    f = ln(2 cosh 2K) + (1/pi) int_0^{pi/2} ln{[1 + sqrt(1 - k^2 sin^2)] / 2}, k = 2 sinh 2K /
    cosh^2 2K, and u = coth 2K [1 + (2/pi)(2 tanh^2 2K - 1) K(k)]; right to about 1e-12.

    Raises
    ------
    ValueError
        K not finite.
    """
    K = real("K", K)
    size = abs(K)
    f, u = _series(size) if size < SERIES_BELOW else _exact(size)
    return Onsager(f, math.copysign(u, K) if K else 0.0, f - size * u)


def _exact(K: float) -> tuple[float, float]:
    t = math.tanh(2 * K)
    k = 2 * t * math.exp(-log_cosh(2 * K))

    def integrand(theta: float) -> float:
        # 1 - k^2 sin^2 = (1 - k^2) + k^2 cos^2, without cancellation at the critical point
        return math.log(0.5 + 0.5 * math.sqrt(max(1 - k * k, 0.0) + (k * math.cos(theta)) ** 2))

    integral = quad(integrand, 0, math.pi / 2, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
    f = math.log(2) + log_cosh(2 * K) + integral / math.pi
    m = min(k * k, 1 - 1e-15)  # at K_c the factor before the elliptic integral vanishes
    return f, (1 + 2 / math.pi * (2 * t * t - 1) * float(ellipk(m))) / t


def _series(K: float) -> tuple[float, float]:
    """ln Z / N = ln 2 + 2 ln cosh K + t^4 + 2 t^6 + 9/2 t^8 + ..., t = tanh K."""
    t = math.tanh(K)
    f = math.log(2) + 2 * log_cosh(K) + t**4 + 2 * t**6 + 4.5 * t**8
    return f, 2 * t + (1 - t * t) * (4 * t**3 + 12 * t**5 + 36 * t**7)


class Decimation(NamedTuple):
    """Exact couplings after one checkerboard decimation, beside the constant A per erased spin.

    An erased spin with kept neighbors a, b, c, d leaves exp{A + B (sum of the six pair products)
    + four abcd}. A bond between neighbors of the new lattice belongs to two erased spins.
    """

    constant: float
    nearest: float
    diagonal: float
    four: float


def checkerboard(K: float) -> Decimation:
    """Couplings of the kept half of the spins (new lattice spacing sqrt 2), exact.

    A = ln 2 + (1/2) ln cosh 2K + (1/8) ln cosh 4K;  nearest = 2B = (1/4) ln cosh 4K;
    diagonal = B;  four = (1/8) ln cosh 4K - (1/2) ln cosh 2K.
    """
    two, four = log_cosh(2 * real("K", K)), log_cosh(4 * K)
    return Decimation(math.log(2) + two / 2 + four / 8, four / 4, four / 8, four / 8 - two / 2)


def decimate(K: float) -> float:
    """K' = nearest + diagonal = (3/8) ln cosh 4K, the textbook truncation to one coupling.

    Not exact: it has its fixed point at 0.506981 (the transition is at 0.440687) with the
    exponent nu = 0.9346 instead of 1. K >= 0.

    Raises
    ------
    ValueError
        K negative or not finite.
    """
    return 0.375 * log_cosh(4 * real("K", K, least=0.0))


def fill_divergence(K: float, neighbor_sums: np.ndarray) -> np.ndarray:
    """One-step fill-in divergence that an erased spin contributes, ln 2 - h(K m).

    h(x) = ln 2 cosh x - x tanh x is the entropy of a spin in the field x; erased spins are
    independent given the kept ones, so D_1 = sum over erased spins of the mean of this. Exact on
    any lattice in which neighbors are of two kinds.

    Parameters
    ----------
    neighbor_sums : array
        Sums m of the neighbors of erased spins.
    """
    x = np.abs(real("K", K) * np.asarray(neighbor_sums, dtype=np.float64))
    return x * np.tanh(x) - (x + np.log1p(np.exp(-2 * x)) - math.log(2))
