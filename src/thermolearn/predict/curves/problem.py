"""What every order of the theory starts from, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Problem:
    """A spectrum, a target in its modes, and the two noises.

    Attributes
    ----------
    eigenvalues, degeneracies : ndarray (modes,)
    tail : float
        T, the weight of the modes that are not listed.
    power : ndarray (modes, outputs)
        g_n^2.
    noise : float
        sigma^2, added to the diagonal of the Gram matrix.
    label_noise : ndarray (outputs,)
        Variance of the noise in the labels.
    """

    eigenvalues: np.ndarray
    degeneracies: np.ndarray
    tail: float
    power: np.ndarray
    noise: float
    label_noise: np.ndarray

    @property
    def rank(self) -> float:
        """Number of listed eigenfunctions with an eigenvalue above 0."""
        return float(self.degeneracies[self.eigenvalues > 0].sum())

    @property
    def trace(self) -> float:
        """Weight of all modes, listed or not."""
        return float(self.degeneracies @ self.eigenvalues) + self.tail


@dataclass(frozen=True, eq=False)
class Moments:
    """Averages over data sets, for S sizes.

    Attributes
    ----------
    kappa, gamma, predictive_variance, log_det : ndarray (S,)
    learnability : ndarray (S, modes)
    bias, test_error, train_error, quadratic : ndarray (S, outputs)
        Quadratic is E y^T (K + sigma^2)^{-1} y, log_det E log det(K + sigma^2).
    """

    kappa: np.ndarray
    gamma: np.ndarray
    learnability: np.ndarray
    bias: np.ndarray
    test_error: np.ndarray
    train_error: np.ndarray
    predictive_variance: np.ndarray
    log_det: np.ndarray
    quadratic: np.ndarray


def learnability(problem: Problem, kappa: np.ndarray) -> np.ndarray:
    """L_n = lambda_n / (lambda_n + kappa), (S, modes); modes without weight are never learned."""
    total = problem.eigenvalues + kappa[:, None]
    return np.divide(problem.eigenvalues, total, out=np.zeros_like(total), where=total > 0)


def loops(problem: Problem, kappa: np.ndarray) -> np.ndarray:
    """C = sum_n kappa lambda_n / (lambda_n + kappa) + T: posterior variance at ridge kappa (S,)."""
    return kappa * (learnability(problem, kappa) @ problem.degeneracies) + problem.tail


def log_determinant(problem: Problem, n: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """sum_n log(1+lambda_n/kappa) + N log(N kappa) + (sigma^2 + T)/kappa - N, (S,).

    Stationary at the self-consistent kappa, where it is E log det(K + sigma^2). At kappa = 0 the
    Gram matrix is singular: NaN.
    """
    out = np.full(len(n), math.nan)
    some = kappa > 0
    k, size = kappa[some], n[some]
    out[some] = (
        np.log1p(problem.eigenvalues / k[:, None]) @ problem.degeneracies
        + size * np.log(size * k)
        + (problem.noise + problem.tail) / k
        - size
    )
    return out


def quadratic_form(problem: Problem, kappa: np.ndarray) -> np.ndarray:
    """sum_n g_n^2 / (lambda_n + kappa) + label_noise / kappa, (S, outputs); NaN at kappa = 0."""
    out = np.full((len(kappa), problem.power.shape[1]), math.nan)
    some = kappa > 0
    k = kappa[some, None]
    out[some] = (1 / (problem.eigenvalues + k)) @ problem.power + problem.label_noise / k
    return out
