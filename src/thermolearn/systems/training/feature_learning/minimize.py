"""Minimization of the free energy over triangular factors: L-BFGS, then Newton to the end.

K_l = A_l M_l M_l^T A_l^T, A_l A_l^T the covariance of infinite width, M_l lower triangular.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.systems.training.feature_learning.free_energy import (
    Problem,
    free_energy,
    whitened,
)

PAIRS = 30  # that L-BFGS keeps
NEWTON = 12  # steps at most
OUT = 1e300
Gradient = Callable[[np.ndarray], np.ndarray]


class Coordinates:
    """One vector for all M_l: sqrt(N_l) (M_l - 1), so that every direction is about as stiff."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.white = whitened(problem)
        self.rows = [np.tril_indices(len(A)) for A in self.white]
        self.scales = [np.sqrt(width) for width in problem.widths]

    def factors(self, u: np.ndarray) -> list[np.ndarray]:
        """A_l M_l of every layer."""
        ends = np.cumsum([len(rows[0]) for rows in self.rows])[:-1]
        out = []
        for A, rows, scale, part in zip(
            self.white, self.rows, self.scales, np.split(u, ends), strict=True
        ):
            M = np.eye(len(A))
            M[rows] += part / scale
            out.append(A @ M)
        return out

    def of(self, covariances: Sequence[np.ndarray]) -> np.ndarray:
        """The vector of given covariances.

        Raises
        ------
        numpy.linalg.LinAlgError
            One is not positive definite.
        """
        parts = []
        for A, rows, scale, K in zip(self.white, self.rows, self.scales, covariances, strict=True):
            M = np.linalg.solve(A, np.linalg.cholesky(K))
            parts.append(scale * (M - np.eye(len(A)))[rows])
        return np.concatenate(parts)

    def value_and_gradient(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """F and its gradient by the vector; 1e300 where it cannot be computed.

        That is where a hidden kernel is singular or, far out on a line search, an average of the
        activation is out of reach or numbers overflow.
        """
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                value, by_factor = free_energy(self.problem, self.factors(u))
        except (np.linalg.LinAlgError, NotApplicableError, FloatingPointError):
            return OUT, np.zeros_like(u)
        gradient = [
            (A.T @ G)[rows] / scale
            for A, G, rows, scale in zip(self.white, by_factor, self.rows, self.scales, strict=True)
        ]
        return value, np.concatenate(gradient)

    def prior(self) -> np.ndarray:
        """The vector of infinite width."""
        return np.zeros(sum(len(rows[0]) for rows in self.rows))


def descend(
    at: Coordinates, start: np.ndarray, tol: float, max_steps: int, polish: bool = True
) -> np.ndarray:
    """From a start to the minimum whose basin it lies in, to a gradient below tol if it can.

    Near the minimum F is flat to rounding and tells no step from another; the last digits come
    from Newton steps on the gradient, its curvature by differences.

    Raises
    ------
    numpy.linalg.LinAlgError, NotApplicableError
        The free energy cannot be computed at the start.
    """
    free_energy(at.problem, at.factors(start))
    with closing(track(count(), "equations of state, steps")) as steps:  # type: ignore[type-var]
        found = minimize(
            at.value_and_gradient, start, jac=True, method="L-BFGS-B",
            callback=lambda _: next(steps),
            options={"maxcor": PAIRS, "maxiter": max_steps, "maxfun": 2 * max_steps, "ftol": 0.0,
                     "gtol": tol},
        )  # fmt: skip
    if not polish:
        return found.x
    return _polish(lambda u: at.value_and_gradient(u)[1], found.x, tol)


def _polish(gradient: Gradient, u: np.ndarray, tol: float) -> np.ndarray:
    g = gradient(u)
    for _ in range(NEWTON):
        size = float(np.linalg.norm(g))
        if size <= tol or not np.isfinite(size):
            return u

        def curvature(v: np.ndarray, u: np.ndarray = u) -> np.ndarray:
            length = float(np.linalg.norm(v))
            h = 1e-5 / length if length else 0.0
            return (gradient(u + h * v) - gradient(u - h * v)) / (2 * h) if h else 0 * v

        operator = LinearOperator((len(u), len(u)), matvec=curvature, dtype=np.float64)  # type: ignore[call-arg]
        step, _ = minres(operator, -g, rtol=1e-6, maxiter=200)
        for share in (1.0, 0.3, 0.1):
            trial = u + share * step
            g_trial = gradient(trial)
            if np.linalg.norm(g_trial) < 0.95 * size:
                break
        else:
            return u
        u, g = trial, g_trial
    return u
