"""Gaussian process regression with the kernels of a network, at the prior or adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_solve

from thermolearn.systems.training.feature_learning.free_energy import (
    Problem,
    cholesky,
    make_problem,
)

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.networks import _Network


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """Q(x, X)(Q + noise)^{-1} y with the output kernel of given covariances.

    Attributes
    ----------
    problem : Problem
    covariances : sequence of ndarray
        K_l of every hidden layer, as `free_energy` represents them.
    adapted : bool
        False if they are those of infinite width: then no hidden kernel is inverted.
    """

    problem: Problem
    covariances: Sequence[np.ndarray]
    adapted: bool = True

    @cached_property
    def output_kernel(self) -> np.ndarray:
        """Q (n, n)."""
        return self.problem.output_kernel(self.covariances[-1])

    @cached_property
    def _factor(self) -> np.ndarray:
        return cholesky(self.output_kernel + self.problem.noise * np.eye(len(self.problem.y)))

    @cached_property
    def discrepancy(self) -> np.ndarray:
        """t = (Q + noise)^{-1} y = (y - f(X)) / noise, (n,)."""
        return cho_solve((self._factor, True), self.problem.y)

    def predict(self, Xs: np.ndarray) -> np.ndarray:
        """f(x) at checked inputs (m, P, S)."""
        return self._cross(Xs)[0] @ self.discrepancy

    def variance(self, Xs: np.ndarray) -> np.ndarray:
        """Q(x, x) - Q(x, X)(Q + noise)^{-1} Q(X, x) at checked inputs (m, P, S)."""
        cross, diagonal = self._cross(Xs)
        explained = (cross * cho_solve((self._factor, True), cross.T).T).sum(1)
        return np.maximum(diagonal - explained, 0.0)

    def log_evidence(self) -> float:
        """log N(y; 0, Q + noise)."""
        problem = self.problem
        log_det = 2 * np.log(self._factor.diagonal()).sum()
        fit = problem.y @ self.discrepancy
        return float(-0.5 * (fit + log_det + len(problem.y) * np.log(2 * np.pi)))

    def _cross(self, Xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q(x, X) (m, n) and Q(x, x) (m,)."""
        problem, depth = self.problem, len(self.problem.widths)
        z = Xs if problem.basis is None else Xs @ problem.basis
        outside = (Xs**2).sum(2) - (z**2).sum(2)  # (m, P): keeps the prior
        average = problem.averages
        if depth > 1 and not average.linear:
            pieces = [self._extended(z[:, 0], outside[:, 0])]
        else:
            scale = problem.prior * (problem.sigma_w2 ** (depth - 1))
            pieces = [
                self._first(z[:, i], problem.X[:, i], self.covariances[-1], scale * outside[:, i])
                for i in range(Xs.shape[1])
            ]
        grams = problem.output_grams(self.covariances[-1])
        cross, diagonal = 0.0, 0.0
        for (gram, variance), inner in zip(pieces, grams, strict=True):
            cross = cross + average.pair(variance[:, None], inner.diagonal()[None], gram).value
            diagonal = diagonal + average.diagonal(variance)
        share = problem.sigma_a2 / len(grams)
        return share * np.asarray(cross), share * np.asarray(diagonal)

    @staticmethod
    def _first(
        z: np.ndarray, x: np.ndarray, K: np.ndarray, outside: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Covariances with the training inputs and variances of linear functions of the input."""
        half = z @ K
        return half @ x.T, np.maximum((half * z).sum(1) + outside, 0.0)

    def _extended(self, z: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last pre-activations at test inputs, by the prior given those at the inputs.

        B = Q(x, X) Q(X, X)^{-1}, K(x, X) = B K, K(x, x) = Q(x, x) - B Q(X, x) + B K B^T.
        """
        problem = self.problem
        assert problem.points is not None
        first = self.covariances[0]
        gram, variance = self._first(z, problem.points, first, problem.prior * outside)
        inner = problem.first_gram(first)
        for K in self.covariances[1:]:
            pair = problem.averages.pair(variance[:, None], inner.diagonal()[None], gram)
            cross = problem.sigma_w2 * pair.value
            prior = problem.sigma_w2 * problem.averages.diagonal(variance)
            gram, variance = cross, prior
            if self.adapted:
                half = cholesky(problem.hidden_kernel(inner))
                B = cho_solve((half, True), cross.T).T
                gram = B @ K
                variance = np.maximum(prior - (B * cross).sum(1) + (gram * B).sum(1), 0.0)
            inner = K
        return gram, variance


class GaussianProcess:
    """The network at infinite width: Bayesian regression with the kernel of the prior (NNGP).

    Its posterior mean is that of Langevin training of an infinitely wide network at temperature
    = noise (R. Neal, doi:10.1007/978-1-4612-0745-0; J. Lee et al., arXiv:1711.00165).

    Parameters
    ----------
    net : BayesianFCN or BayesianCNN
    X, y, noise
        Checked, as `net.data` gives them.

    Attributes
    ----------
    output_kernel : ndarray (n, n)
    discrepancy : ndarray (n,)
        t = (y - f(X)) / noise.
    log_evidence : float
        log N(y; 0, Q + noise).
    """

    def __init__(self, net: _Network, X: np.ndarray, y: np.ndarray, noise: float):
        problem = make_problem(net, X, y, noise)
        self.net = net
        self._regression = KernelRegression(problem, problem.at_prior(), adapted=False)
        self.output_kernel = self._regression.output_kernel
        self.discrepancy = self._regression.discrepancy
        self.log_evidence = self._regression.log_evidence()

    def predict(self, Xs: Any) -> np.ndarray:
        """Posterior mean at test inputs, (m,).

        Raises
        ------
        ValueError
            Inputs of another shape, NaN or infinite.
        """
        return self.predict_checked(self.net.inputs(Xs, "Xs"))

    def predict_checked(self, Xs: np.ndarray) -> np.ndarray:
        """Posterior mean at inputs (m, P, S) that `net.inputs` has checked."""
        return self._regression.predict(Xs)

    def predictive_variance(self, Xs: Any) -> np.ndarray:
        """Posterior variance of f at test inputs, (m,), noise not added; exact at this limit."""
        return self._regression.variance(self.net.inputs(Xs, "Xs"))
