"""The variational free energy whose minimum is the adapted kernels of a finite network.

With Sigma = K_1 the covariance of the first layer's weights, K_l that of the pre-activations of
layer l over its units, Q_1 = (sigma_w2 / S) I, Q_{l+1}(K_l) = sigma_w2 E phi phi and the output
kernel Q = (sigma_a2 / P) sum_i E phi phi:
F = sum_l N_l KL(N(0, K_l) || N(0, Q_l(K_{l-1}))) + (1/2) log det(Q + noise)
    + (1/2) y^T (Q + noise)^{-1} y.
Its stationarity conditions are the equations of state of I. Seroussi, G. Naveh, Z. Ringel
(arXiv:2112.15383); F itself approximates -log evidence - (n / 2) log 2 pi, with the empirical
kernels of the N_l units replaced by their means: neither bound holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve

from thermolearn.systems.training.feature_learning.duals import PairAverages, pair_averages

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.networks import _Network

Covariances = Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Problem:
    """A network on a data set, as the free energy sees it.

    Attributes
    ----------
    X : ndarray (n, P, r)
        Inputs, rotated to the r <= S directions that they span: the others keep the prior.
    basis : ndarray (S, r) or None
        These directions; None if they are the coordinates themselves.
    y : ndarray (n,)
    noise, prior, sigma_w2, sigma_a2, jitter : float
        prior = sigma_w2 / S. jitter is added to the diagonal of the hidden kernels Q_l, l > 1.
    widths : tuple of int
    averages : PairAverages
    points : ndarray (p, r) or None
        Where the pre-activations of the second layer on are represented: the inputs, or for a
        linear network the coordinates, in which its kernels have full rank.
    """

    X: np.ndarray
    basis: np.ndarray | None
    y: np.ndarray
    noise: float
    prior: float
    sigma_w2: float
    sigma_a2: float
    jitter: float
    widths: tuple[int, ...]
    averages: PairAverages
    points: np.ndarray | None

    def hidden_kernel(self, inner: np.ndarray) -> np.ndarray:
        """Q_{l+1} from the covariance of the pre-activations of layer l at `points`."""
        Q = self.sigma_w2 * self.averages.matrix(inner)
        Q[np.diag_indices(len(Q))] += self.jitter
        return Q

    def first_gram(self, sigma: np.ndarray) -> np.ndarray:
        """Covariance of the first layer's pre-activations at `points`."""
        assert self.points is not None
        return self.points @ sigma @ self.points.T

    def output_grams(self, last: np.ndarray) -> list[np.ndarray]:
        """Covariance of the last pre-activations on the inputs, for every patch."""
        if len(self.widths) == 1 or self.averages.linear:
            return [x @ last @ x.T for x in self.X.transpose(1, 0, 2)]
        return [last]

    def output_kernel(self, last: np.ndarray) -> np.ndarray:
        """Q (n, n) from the last covariance."""
        grams = self.output_grams(last)
        return self.sigma_a2 * np.mean([self.averages.matrix(G) for G in grams], axis=0)

    def at_prior(self) -> list[np.ndarray]:
        """The covariances of infinite width."""
        out = [self.prior * np.eye(self.X.shape[2])]
        for number in range(1, len(self.widths)):
            inner = self.first_gram(out[0]) if number == 1 else out[-1]
            out.append(self.hidden_kernel(inner))
        return out


def make_problem(
    net: _Network, X: np.ndarray, y: np.ndarray, noise: float, jitter: float = 0.0
) -> Problem:
    """The problem of a network on checked data."""
    n, patches, size = X.shape
    basis = None
    if size > n * patches:
        _, _, rows = np.linalg.svd(X.reshape(n * patches, size), full_matrices=False)
        basis = rows.T
        X = X @ basis
    averages = pair_averages(net.activation)
    points = None
    if len(net.layers) > 1:
        points = np.eye(X.shape[2]) if averages.linear else X[:, 0]
    return Problem(
        X, basis, y, noise, net.sigma_w2 / size, net.sigma_w2, net.sigma_a2, jitter, net.layers,
        averages, points,
    )  # fmt: skip


def free_energy(problem: Problem, factors: Covariances) -> tuple[float, list[np.ndarray]]:
    """F, and its derivative by the entries of lower triangular factors L_l, K_l = L_l L_l^T.

    Raises
    ------
    numpy.linalg.LinAlgError
        A hidden kernel is not positive definite.
    """
    widths = problem.widths
    covariances = [L @ L.T for L in factors]
    value, slopes = 0.0, [np.zeros_like(K) for K in covariances]  # by K, symmetric
    for number, (K, L, width) in enumerate(zip(covariances, factors, widths, strict=True)):
        log_det = 2 * np.log(np.abs(L.diagonal())).sum()
        if number == 0:
            value += width / 2 * (np.trace(K) / problem.prior - len(K) - log_det)
            value += width / 2 * len(K) * np.log(problem.prior)
            slopes[0] += width / (2 * problem.prior) * np.eye(len(K))
            continue
        previous = covariances[number - 1]
        inner = problem.first_gram(previous) if number == 1 else previous
        slopes_inner = problem.averages.slopes(inner)
        Q = problem.sigma_w2 * slopes_inner.value
        Q[np.diag_indices(len(Q))] += problem.jitter
        half = cholesky(Q)
        inverse = cho_solve((half, True), np.eye(len(Q)))
        ratio = inverse @ K
        log_det -= 2 * np.log(half.diagonal()).sum()
        value += width / 2 * (np.trace(ratio) - len(K) - log_det)
        slopes[number] += width / 2 * inverse
        back = width / 2 * (inverse - ratio @ inverse)
        back = problem.sigma_w2 * (back + back.T) / 2
        by_inner = problem.averages.pullback(slopes_inner, back)
        if number == 1:
            assert problem.points is not None
            by_inner = problem.points.T @ by_inner @ problem.points
        slopes[number - 1] += by_inner
    value += _output(problem, covariances[-1], slopes[-1])
    gradients = []
    for L, slope, width in zip(factors, slopes, widths, strict=True):
        gradient = np.tril((slope + slope.T) @ L)
        gradient[np.diag_indices(len(L))] -= width / L.diagonal()  # of -(width / 2) log det K
        gradients.append(gradient)
    return float(value), gradients


def _output(problem: Problem, last: np.ndarray, slope: np.ndarray) -> float:
    """The terms of the data; adds their derivative by the last covariance to `slope`."""
    grams = problem.output_grams(last)
    share = problem.sigma_a2 / len(grams)
    averages = [problem.averages.slopes(G) for G in grams]
    Q = problem.noise * np.eye(len(problem.y)) + share * sum(a.value for a in averages)
    half = cholesky(Q)
    t = cho_solve((half, True), problem.y)
    bracket = (cho_solve((half, True), np.eye(len(Q))) - np.outer(t, t)) / 2
    for number, pair in enumerate(averages):
        by_gram = problem.averages.pullback(pair, share * bracket)
        if len(problem.widths) == 1 or problem.averages.linear:
            x = problem.X[:, number]
            by_gram = x.T @ by_gram @ x
        slope += by_gram
    return float(np.log(half.diagonal()).sum() + problem.y @ t / 2)


def cholesky(Q: np.ndarray) -> np.ndarray:
    """The lower factor.

    Raises
    ------
    numpy.linalg.LinAlgError
        Not positive definite, or so close to singular that rounding decides.
    """
    try:
        L = np.linalg.cholesky(Q)
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError(SINGULAR) from None
    if L.diagonal().min() ** 2 <= 4 * len(Q) * np.finfo(float).eps * Q.diagonal().max():
        raise np.linalg.LinAlgError(SINGULAR)
    return L


SINGULAR = (
    "a kernel between the inputs is not positive definite: look for duplicate, opposite or zero "
    "inputs and remove them, or pass jitter=1e-6 to equations_of_state (the only way if many "
    "inputs lie in one or two dimensions)"
)


def whitened(problem: Problem) -> list[np.ndarray]:
    """Lower factors of the covariances of infinite width: where a minimization starts."""
    first, *rest = problem.at_prior()
    return [np.sqrt(first), *(cholesky(K) for K in rest)]


def residuals(problem: Problem, covariances: Covariances) -> list[float]:
    """By how much the explicit equations of state are missed, layer by layer.

    ||A^T (K_l^{-1} - right side) A||_2 / max(1, ||A^T K_l^{-1} A||_2), A A^T the covariance of
    infinite width:
    K_L^{-1} = Q_L^{-1} - (1 / N_L) d_K Tr[(t t^T - (Q + noise)^{-1}) Q(K)],
    K_l^{-1} = Q_l^{-1} - (N_{l+1} / N_l) d_K Tr[(Q_{l+1}^{-1} K_{l+1} Q_{l+1}^{-1} - Q_{l+1}^{-1})
    Q_{l+1}(K)], brackets held fixed.
    """
    widths, out = problem.widths, []
    for number, (K, white) in enumerate(zip(covariances, whitened(problem), strict=True)):
        if number == 0:
            right = np.eye(len(K)) / problem.prior
        else:
            right = np.linalg.inv(problem.hidden_kernel(_inner(problem, covariances, number)))
        if number == len(widths) - 1:
            right = right - output_force(problem, K) / widths[number]
        else:
            force = _hidden_force(problem, covariances, number)
            right = right - widths[number + 1] / widths[number] * force
        left = white.T @ np.linalg.inv(K) @ white
        miss = left - white.T @ right @ white
        out.append(_size(miss) / max(1.0, _size(left)))
    return out


def _size(A: np.ndarray) -> float:
    """Largest eigenvalue of the symmetric part, in size."""
    return float(np.abs(np.linalg.eigvalsh((A + A.T) / 2)).max())


def output_force(problem: Problem, last: np.ndarray) -> np.ndarray:
    """d_K Tr[(t t^T - (Q + noise)^{-1}) Q(K)], bracket held fixed, at the last covariance."""
    inverse = np.linalg.inv(problem.output_kernel(last) + problem.noise * np.eye(len(problem.y)))
    t = inverse @ problem.y
    grams = problem.output_grams(last)
    bracket = problem.sigma_a2 / len(grams) * (np.outer(t, t) - (inverse + inverse.T) / 2)
    average = problem.averages
    pulled = [average.pullback(average.slopes(G), bracket) for G in grams]
    if len(problem.widths) > 1 and not problem.averages.linear:
        return pulled[0]
    return sum(
        (x.T @ D @ x for x, D in zip(problem.X.transpose(1, 0, 2), pulled, strict=True)),
        np.zeros_like(last),
    )


def _hidden_force(problem: Problem, covariances: Covariances, number: int) -> np.ndarray:
    """d_K Tr[(Q^{-1} K' Q^{-1} - Q^{-1}) Q(K)] of the layer above `number`."""
    inner = _inner(problem, covariances, number + 1)
    inverse = np.linalg.inv(problem.hidden_kernel(inner))
    bracket = inverse @ covariances[number + 1] @ inverse - inverse
    bracket = problem.sigma_w2 * (bracket + bracket.T) / 2
    force = problem.averages.pullback(problem.averages.slopes(inner), bracket)
    if number == 0:
        assert problem.points is not None
        force = problem.points.T @ force @ problem.points
    return force


def _inner(problem: Problem, covariances: Covariances, number: int) -> np.ndarray:
    """Covariance of the pre-activations below layer `number` at `points`."""
    below = covariances[number - 1]
    return problem.first_gram(below) if number == 1 else below
