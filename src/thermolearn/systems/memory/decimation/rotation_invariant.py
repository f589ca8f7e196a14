"""The rotationally invariant estimator: the best that can be done from eigenvalues alone.

It keeps the eigenvectors of Y and cleans its eigenvalues. Reference: Bun, Allez, Bouchaud, Potters,
arXiv:1502.06736.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.decimation.problem import couplings

# Quadrature in the angle: nodes are doubled from the first to the last number.
FIRST, LAST = 64, 65536
ROWS = 512


def rie_denoise(Y: ArrayLike, delta: float, width: float | None = None) -> np.ndarray:
    """Estimate of X X^T / sqrt(N) from Y = X X^T / sqrt(N) + sqrt(Delta) Z by cleaned eigenvalues.

    The eigenvalues l of Y / sqrt(N) become l - 2 Delta Re g(l), with
    g(l) = (1/N) sum_j (l - l_j) / ((l - l_j)^2 + width^2) in place of the resolvent; the
    eigenvectors stay. No prior on X enters. Costs O(N^3).

    Parameters
    ----------
    Y : array (N, N)
        Symmetric.
    delta : float
        Delta >= 0, variance of an off-diagonal entry of the noise.
    width : float, optional
        Smoothing > 0 in units of the eigenvalues of Y / sqrt(N); by default 1 / (2 sqrt(N)).

    Returns
    -------
    array (N, N)
        In the units of Y.

    Raises
    ------
    ValueError
        Y not square, not symmetric to 1e-8 or not finite; delta < 0; width not positive.

    References
    ----------
    Bun, Allez, Bouchaud, Potters, arXiv:1502.06736, the additive Gaussian case.
    """
    J, noise = couplings(Y), real("delta", delta, least=0)
    n = len(J)
    smooth = 0.5 / math.sqrt(n) if width is None else real("width", width, above=0)
    values, vectors = np.linalg.eigh(J)
    resolvent = np.empty(n)
    for start in range(0, n, ROWS):
        gap = values[start : start + ROWS, None] - values
        resolvent[start : start + ROWS] = (gap / (gap * gap + smooth**2)).mean(1)
    cleaned = values - 2 * noise * resolvent
    return (vectors * (cleaned * math.sqrt(n))) @ vectors.T


def rie_mse(alpha: float, delta: float) -> Estimate:
    """Error (1/N^2) |X X^T / sqrt(N) - estimate|_F^2 of `rie_denoise` for N to infinity.

    mse = Delta - (4 pi^2 Delta^2 / 3) int rho^3, rho the density of eigenvalues of Y / sqrt(N); see
    `eigenvalue_density`. Compare alpha, the error of the estimate 0.

    Parameters
    ----------
    alpha : float
        P / N >= 0.
    delta : float
        Delta >= 0.

    Returns
    -------
    Estimate
        stderr is the error of the quadrature, or its departure from int rho = 1 if that is larger.

    Raises
    ------
    ValueError
        A parameter out of range.
    ConvergenceError
        The density does not integrate to 1 within 1e-3, or the quadrature does not converge.

    References
    ----------
    Bun, Allez, Bouchaud, Potters, arXiv:1502.06736.
    """
    real("alpha", alpha, least=0)
    if real("delta", delta, least=0) == 0:
        return Estimate(0.0)
    total, cubic, error = _moments(alpha, delta)
    scale = 4 * math.pi**2 * delta**2 / 3
    error = max(scale * error, delta * abs(total - 1), 1e-14 * delta)
    return Estimate(delta - scale * cubic, error, note="stderr is the error of the quadrature")


def eigenvalue_density(alpha: float, delta: float, eigenvalues: ArrayLike) -> Estimate:
    """Density of eigenvalues of Y / sqrt(N), N to infinity: |Im G(x)| / pi.

    G solves x = alpha / (1 - G) + Delta G + 1 / G, the sum of the R-transforms of X X^T / N
    (Marchenko and Pastur) and of the noise (Wigner), so that rho is their free convolution.

    Parameters
    ----------
    alpha : float
        P / N >= 0.
    delta : float
        Delta > 0.
    eigenvalues : array
        Where to take it.

    Raises
    ------
    ValueError
        A parameter out of range, or eigenvalues that are not finite.
    """
    real("alpha", alpha, least=0)
    if real("delta", delta, least=0) == 0:
        raise ValueError("delta must be > 0: without noise there is a point mass at 0")
    x = np.asarray(eigenvalues, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("eigenvalues must be finite")
    value = _density(alpha, delta, x.ravel()).reshape(x.shape)
    return Estimate(value, 1e-10 * np.maximum(value, 1e-3))


def _cubic(alpha: float, delta: float, x: np.ndarray) -> np.ndarray:
    """Coefficients (4, len(x)) of -Delta G^3 + (Delta + x) G^2 + (alpha - 1 - x) G + 1."""
    one = np.ones_like(x)
    return np.stack([-delta * one, delta + x, alpha - 1 - x, one])


def _density(alpha: float, delta: float, x: np.ndarray) -> np.ndarray:
    """|Im G| / pi, by Cardano's formula for the depressed cubic; 0 outside the support."""
    a, b, c, d = _cubic(alpha, delta, x)
    shift = -b / (3 * a)
    p = c / a - b * b / (3 * a * a)
    q = 2 * b**3 / (27 * a**3) - b * c / (3 * a * a) + d / a
    discriminant = (q / 2) ** 2 + (p / 3) ** 3
    inside = discriminant > 0  # one real root and a complex pair
    root = np.sqrt(np.where(inside, discriminant, 0.0))
    # the larger of the two cube roots first, the other from their product -p / 3
    large = -q / 2 - np.copysign(root, q)
    u = np.cbrt(large)
    v = np.where(u == 0, 0.0, -p / (3 * np.where(u == 0, 1.0, u)))
    G = -(u + v) / 2 + shift + 1j * math.sqrt(3) / 2 * (u - v)
    for _ in range(2):  # Newton polishes what cancellation cost
        value = ((a * G + b) * G + c) * G + d
        slope = (3 * a * G + 2 * b) * G + c
        G = G - np.where(np.abs(slope) > 1e-8, value / np.where(slope == 0, 1.0, slope), 0.0)
    return np.where(inside, np.abs(G.imag) / math.pi, 0.0)


def _support(alpha: float, delta: float) -> list[tuple[float, float]]:
    """Intervals where the density is positive: between the extrema of x(G) at real G."""
    if alpha == 0:
        return [(-2 * math.sqrt(delta), 2 * math.sqrt(delta))]
    square = np.polynomial.Polynomial([1.0, -2.0, 1.0])  # (1 - G)^2
    G2 = np.polynomial.Polynomial([0.0, 0.0, 1.0])
    roots = (alpha * G2 + delta * G2 * square - square).roots()
    G = np.sort(roots.real[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))])
    edges = np.sort(alpha / (1 - G) + delta * G + 1 / G)
    return [
        (low, high)
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if _density(alpha, delta, np.array([(low + high) / 2]))[0] > 0
    ]


def _moments(alpha: float, delta: float) -> tuple[float, float, float]:
    """int rho, int rho^3 and the error of the latter; nodes x = center + half cos(angle)."""
    total, cubic, error = 0.0, 0.0, 0.0
    for low, high in _support(alpha, delta):
        center, half = (low + high) / 2, (high - low) / 2
        before, nodes = np.full(2, math.inf), FIRST
        while True:
            angle = (np.arange(nodes) + 0.5) * math.pi / nodes
            rho = _density(alpha, delta, center + half * np.cos(angle))
            weight = half * math.pi / nodes * np.sin(angle)
            now = np.array([weight @ rho, weight @ rho**3])
            change = np.abs(now - before)
            if (change < 1e-11 * np.maximum(1e-3, now)).all() or nodes >= LAST:
                break
            before, nodes = now, 2 * nodes
        total, cubic, error = total + now[0], cubic + now[1], error + change[1]
    if abs(total - 1) > 1e-3 or not error < 1e-3 * max(cubic, 1e-300):
        raise ConvergenceError(
            f"the density at alpha = {alpha:.6g}, delta = {delta:.6g} integrates to {total:.6g}, "
            f"its cube to {cubic:.6g} +- {error:.2g}; move the parameters off the closing gap"
        )
    return float(total), float(cubic), float(error)
