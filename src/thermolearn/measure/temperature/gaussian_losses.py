"""Gaussian averages of the losses of a random score, and of their fourth derivatives.

With z ~ N(0, s^2): A(s) = E log(1 + e^z), and for K independent scores
L_K(s) = E log sum_k e^{z_k}. The second is reduced to one dimension: adding a Gumbel variable to
each score turns the log-sum into a maximum, so that with Phi(t) = E exp(-e^{t + z}),

    L_K = integral (exp(-e^t) - Phi(t)^K) dt,   E d^4/dz_1^4 = - integral Phi''''(t) Phi(t)^{K-1} dt

(the second by the heat equation dPhi/d(s^2) = Phi''/2 in the variance of one score). Both
integrands are analytic in a strip, where the trapezoidal rule converges exponentially.
"""

from __future__ import annotations

import math

import numpy as np

from thermolearn.core.gaussian import gauss_nodes

ROWS = 2**20  # elements of one block of the quadrature
STEP = 0.25  # of the trapezoidal rules, in units of the narrower of the two factors
REACH = 9.0  # standard deviations; beyond them 1e-19 of the mass
CHEBYSHEV = 24  # nodes of an interpolation in s
MOST_SCALE = 200.0  # K classes: the cost grows as s^2


def softplus_mean(s: np.ndarray, n: int = 16) -> np.ndarray:
    """A(s) = E log(1 + e^{s g}) = s/sqrt(2 pi) + E log(1 + e^{-s |g|}), g ~ N(0, 1)."""
    return s / math.sqrt(2 * math.pi) + _mean(s, n, lambda z: np.log1p(np.exp(-np.abs(z))))


def softplus_fourth(s: np.ndarray, n: int = 16) -> np.ndarray:
    """E q (1 - q)(1 - 6 q + 6 q^2), q = sigmoid(s g): the fourth derivative of log(1 + e^z)."""

    def fourth(z: np.ndarray) -> np.ndarray:
        spread = 0.25 / np.cosh(np.minimum(np.abs(z), 700.0) / 2) ** 2  # q (1 - q), no overflow
        return spread * (1 - 6 * spread)

    return _mean(s, n, fourth)


def _mean(s: np.ndarray, n: int, f: object) -> np.ndarray:
    """E f(s_i g) for many s: the nodes that are fine enough for the largest serve all."""
    largest = float(s.max(initial=0.0))
    z, w = gauss_nodes(max(largest, 1.0), n, kinks=(0.0,))
    g = z / max(largest, 1.0)
    rows = max(1, ROWS // len(g))
    parts = [f(s[k : k + rows, None] * g) @ w for k in range(0, len(s), rows)]  # type: ignore[operator]
    return np.concatenate(parts) if parts else np.empty(0)


def logsumexp_mean(s: float, classes: int, step: float = STEP) -> tuple[float, float]:
    """L_K(s) = E log sum_k e^{s g_k} and E d^4/dz_1^4 of it, for one s >= 0.

    To about 1e-12 absolute, until s = 200.
    """
    g = np.arange(0.0, REACH, min(step, step / s if s > 0 else step))
    g = np.concatenate([-g[:0:-1], g])
    weight = np.exp(-(g**2) / 2)
    weight /= weight.sum()
    # exp(-e^t) - Phi^K falls as K e^{t + s^2/2} to the left (Chernoff; beyond -9 s as the mass)
    left = math.log(classes) + min(s * s / 2, REACH * s) + 38.0
    t = np.arange(-left, REACH * s + 4.0, step)
    phi, phi4 = np.empty_like(t), np.empty_like(t)
    rows = max(1, ROWS // len(g))
    for k in range(0, len(t), rows):
        x = np.exp(np.minimum(t[k : k + rows, None] + s * g, 700.0))
        survive = np.exp(-x)
        phi[k : k + rows] = survive @ weight
        with np.errstate(over="ignore", invalid="ignore"):
            poly = np.where(survive > 0, x * (x * (x * (x - 6) + 7) - 1) * survive, 0.0)
        phi4[k : k + rows] = poly @ weight
    first = step * float((np.exp(-np.exp(np.minimum(t, 700.0))) - phi**classes).sum())
    return first, -step * float((phi4 * phi ** (classes - 1)).sum())


def logsumexp_means(s: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, float]:
    """L_K and its fourth derivative for many s, and the error of the former.

    Both are smooth in s: beyond a few values they are interpolated on Chebyshev nodes, their
    number doubled until the interpolation and its coarser predecessor agree to 1e-10.

    Raises
    ------
    ValueError
        A scale beyond 200.
    """
    low, high = float(s.min()), float(s.max())
    if high > MOST_SCALE:
        raise ValueError(
            f"the scores of a sample have standard deviation {high:.4g} at initialization; the "
            f"K-class average is computed up to {MOST_SCALE:g}: rescale X or the initialization"
        )
    unique, back = np.unique(s, return_inverse=True)
    if len(unique) <= CHEBYSHEV or high - low < 1e-9 * high:
        pairs = np.array([logsumexp_mean(float(v), classes) for v in unique])
        return pairs[back, 0], pairs[back, 1], 1e-12
    before = None
    nodes = CHEBYSHEV // 2
    while True:
        fits = _chebyshev(low, high, nodes, classes)
        now = [np.polynomial.chebyshev.chebval(_unit(s, low, high), fit) for fit in fits]
        error = math.inf if before is None else float(np.abs(now[0] - before).max())
        if error < 1e-10 or nodes >= 4 * CHEBYSHEV:
            return now[0], now[1], max(error, 1e-12)
        before, nodes = now[0], 2 * nodes


def _unit(s: np.ndarray, low: float, high: float) -> np.ndarray:
    return (2 * s - low - high) / (high - low)


def _chebyshev(low: float, high: float, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    values = np.array([logsumexp_mean((low + high + (high - low) * v) / 2, classes) for v in x])
    fit = np.polynomial.chebyshev.chebfit(x, values, n - 1)
    return fit[:, 0], fit[:, 1]
