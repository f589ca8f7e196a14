"""Predicted error rates: how far the scores of a held-out sample scatter between training sets."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from thermolearn.core.errors import ConvergenceError
from thermolearn.predict.pool.targets import Target

TOLERANCE = 1e-6
ITERATIONS = 2000
DRAWS = 100  # pairs of opposite Gaussian draws for three classes and more


def error_probabilities(
    target: Target, residuals: np.ndarray, covariance: np.ndarray, seed: int
) -> np.ndarray:
    """Probability (M,) that sample i is put into a wrong class, its scores being Gaussian.

    Parameters
    ----------
    residuals : ndarray (M, outputs)
        Normalized target minus the mean score.
    covariance : ndarray (M, outputs, outputs)
        Of the normalized scores. One output: the exact normal probability; several: 100 pairs of
        opposite draws from a generator of its own.
    """
    labels = target.labels
    if labels is None:
        raise ValueError("a regression target has no error rate")
    mean = target.values - residuals
    if mean.shape[1] == 1:
        raw = target.scores(mean)[:, 0] * (2.0 * labels - 1.0)
        deviation = np.sqrt(target.variance * covariance[:, 0, 0])
        certain = np.where(raw > 0, np.inf, -np.inf)
        ratio = np.divide(raw, deviation, out=certain, where=deviation > 0)
        return ndtr(-ratio)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(mean))
    for _ in range(DRAWS):
        shift = np.einsum("iab,ib->ia", root, rng.standard_normal(mean.shape))
        for scores in (mean + shift, mean - shift):
            wrong += target.decide(scores) != labels
    return wrong / (2 * DRAWS)


def score_covariance(inverse: np.ndarray, residuals: np.ndarray, error: float) -> np.ndarray:
    """Covariance (M, outputs, outputs) of each sample's scores between training sets.

    The squared error of a held-out sample is e_i = r_i^2 + c sum_{j != i} (G_ij / G_ii)^2 e_j: its
    leave-one-out residual in the pool, and the scatter that comes from which samples j are in the
    training set and how wrong they would be predicted themselves (Malzahn and Opper, J. Mach.
    Learn. Res. 4 (2003) 1151, with one ridge for all samples). Of this the shape is used; c is
    set so that the mean of e_i is the predicted `error`.

    Parameters
    ----------
    inverse : ndarray (M, M)
        G = (K + s)^{-1}.
    residuals : ndarray (M, outputs)
        r = G y / diag G.
    error : float
        Predicted mean of |r|^2 over training sets.
    """
    coupling = (inverse / inverse.diagonal()[:, None]) ** 2
    np.fill_diagonal(coupling, 0.0)
    products = residuals[:, :, None] * residuals[:, None, :]
    strength = _strength(coupling, (residuals**2).sum(1), error)
    if strength == 0.0:
        return np.zeros_like(products)
    system = np.eye(len(coupling)) - strength * coupling
    upper = np.triu_indices(residuals.shape[1])
    solved = np.linalg.solve(system, products[:, *upper]) - products[:, *upper]
    covariance = np.empty_like(products)
    covariance[:, *upper] = solved
    covariance[:, upper[1], upper[0]] = solved
    return covariance


def _strength(coupling: np.ndarray, squares: np.ndarray, error: float) -> float:
    """c with mean (1 - c A)^{-1} r^2 = error: e <- r^2 + c A e at the given mean; 0 if below."""
    extra = error - float(squares.mean())
    if extra <= 0:
        return 0.0
    e = squares * (error / squares.mean())
    for _ in range(ITERATIONS):
        spread = coupling @ e
        strength = extra / float(spread.mean())
        new = squares + strength * spread
        change = float(np.abs(new - e).mean()) / error
        e = new
        if change < TOLERANCE:
            return strength
    raise ConvergenceError(
        f"the scatter of the scores did not converge (change {change:.2g} after {ITERATIONS} "
        "iterations); predict fewer samples or more ridge"
    )
