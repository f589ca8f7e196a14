"""Thouless-Anderson-Palmer equations of a +-1 network with random modes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.fixed_point import FixedPoint, damped_iteration

# The R-transform has a pole at lambda C = 1: C is held below this share of it on the way.
CLAMP = 0.9


def tap(
    J: ArrayLike,
    x0: ArrayLike,
    T: float,
    modes: Sequence[tuple[float, float]],
    delta: float = 0.0,
    damping: float = 0.5,
    tol: float = 1e-10,
    max_iter: int = 2000,
) -> FixedPoint:
    """Mean spins x = tanh(beta (J x - Rt(C) x)) from a start, C = beta (1 - |x|^2 / N).

    Rt(C) = sum_k w_k lambda_k / (1 - lambda_k C) + Delta C is the R-transform of the spectrum of J:
    the reaction of the other spins. One product with J per iteration.

    Parameters
    ----------
    J : array (N, N)
        Couplings with their diagonal (sum_k w_k lambda_k on average).
    x0 : array (N,)
        Start in [-1, 1]; from an overlap of 0.3 with a pattern on, the iteration finds it.
    T : float
        Temperature > 0.
    modes, delta
        As for `RSAssociative`.
    damping, tol, max_iter
        As for `damped_iteration`.

    Returns
    -------
    FixedPoint
        x (N,), residual, iterations.

    Raises
    ------
    ValueError
        T not positive, x0 outside [-1, 1], or shapes that do not match.
    ConvergenceError
        No fixed point: the start belongs to no state, or T is in the spin-glass phase.

    References
    ----------
    Thouless, Anderson, Palmer, Philos. Mag. 35 (1977) 593; the R-transform form is that of
    Parisi and Potters, arXiv:cond-mat/9503009.
    """
    matrix, start = np.asarray(J, dtype=np.float64), np.asarray(x0, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape != (len(start), len(start)):
        raise ValueError(f"J {matrix.shape} and x0 {start.shape} do not match")
    if not (math.isfinite(T) and T > 0):
        raise ValueError(f"T must be finite and > 0, got {T!r}; at T = 0 use heat-bath descent")
    if not (np.abs(start) <= 1).all():
        raise ValueError("x0 must lie in [-1, 1]")
    w, lam = np.asarray(list(modes), dtype=np.float64).reshape(-1, 2).T
    strongest = float(lam.max(initial=0.0))

    def step(x: np.ndarray) -> np.ndarray:
        C = (1 - float(x @ x) / len(x)) / T
        if strongest > 0:
            C = min(C, CLAMP / strongest)
        reaction = float((w * lam / (1 - lam * C)).sum()) + delta * C
        return np.tanh((matrix @ x - reaction * x) / T)

    point = damped_iteration(step, start, damping, tol, max_iter)
    if strongest * (1 - float(point.x @ point.x) / len(start)) / T > CLAMP:
        raise ConvergenceError(
            "the iteration ended where lambda C is held below its pole: no TAP state here; start "
            "closer to a pattern or lower T"
        )
    return point
