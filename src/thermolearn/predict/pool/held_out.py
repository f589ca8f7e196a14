"""Leave-one-out errors of kernel ridge regression in closed form, with jackknife error bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import get_lapack_funcs

from thermolearn.core.checks import real
from thermolearn.core.estimate import Estimate
from thermolearn.predict.pool.equivalent import JITTER, as_pool
from thermolearn.predict.pool.targets import Target, prepare_target


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Every sample predicted from all others.

    Attributes
    ----------
    test_error : Estimate
        Mean squared error as a fraction of the target's variance; jackknife error bar.
    mean_squared_error : Estimate
        The same in the squared units of the target (summed over columns).
    error_rate : Estimate or None
        Share of samples assigned to a wrong class; binomial error bar. None in regression.
    predictions : ndarray (M, outputs)
        In the units of the target (-1 and +1, or one-hot, in classification).
    notes : tuple of str
    """

    test_error: Estimate
    mean_squared_error: Estimate
    error_rate: Estimate | None
    predictions: np.ndarray
    notes: tuple[str, ...] = ()


def leave_one_out(K: Any, y: Any, ridge: float, task: str = "regression") -> LeaveOneOut:
    """Leave-one-out error of f(x) = k(x, X) (K + ridge)^{-1} y, without refitting.

    The residual of sample i predicted by the others is [G y]_i / G_ii with G = (K + ridge)^{-1}
    (Allen, doi:10.1080/00401706.1974.10489157). It assumes nothing about the inputs, and is the
    expected test error at M - 1 samples if the samples are independent. The target's center is
    that of the whole pool, a bias of order 1/M.

    Parameters
    ----------
    K : array or tensor (M, M)
        Gram matrix of the kernel on the pool.
    y : array or tensor (M,) or (M, outputs)
        See `prepare_target`.
    ridge : float >= 0
        Added to the diagonal, not divided by M.
    task : "regression" or "classification"

    Raises
    ------
    ValueError
        Fewer than 20 samples, K not a Gram matrix, a constant target, a negative ridge.
    """
    ridge = real("ridge", ridge, least=0.0)
    target = prepare_target(y, task)
    gram = as_pool(K, len(target.values))
    inverse, notes = inverse_gram(gram, ridge)
    return _result(inverse, target, notes)


def _result(inverse: np.ndarray, target: Target, notes: list[str]) -> LeaveOneOut:
    dual = inverse @ target.values
    residuals = dual / inverse.diagonal()[:, None]
    stderr = delete_one_error(inverse, dual)
    error = float((residuals**2).sum(1).mean())
    m = len(residuals)
    test_error = Estimate(
        error, stderr, float(m), note="fraction of the target's variance; leave-one-out"
    )
    predictions = target.values - residuals
    rate = None
    if target.labels is not None:
        wrong = float((target.decide(predictions) != target.labels).mean())
        rate = Estimate(wrong, binomial_error(wrong, m), float(m), note="leave-one-out")
    return LeaveOneOut(
        test_error, test_error * target.variance, rate, target.scores(predictions),
        (*target.notes, *notes),
    )  # fmt: skip


def inverse_gram(gram: np.ndarray, ridge: float) -> tuple[np.ndarray, list[str]]:
    """(K + ridge)^{-1}, and what was added if that is singular.

    Raises
    ------
    ValueError
        K is not positive semi-definite.
    """
    notes: list[str] = []
    jitter = JITTER * float(gram.diagonal().mean())
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (gram,))
    for shift in (ridge, ridge + jitter):
        factor, failed = potrf(gram + shift * np.eye(len(gram)), lower=1)
        if not failed and (factor.diagonal() ** 2).min() > 0.01 * jitter:
            lower, failed = potri(factor, lower=1)
            if not failed:
                return np.tril(lower) + np.tril(lower, -1).T, notes
        notes = [f"K is singular (duplicated inputs, or few features): {jitter:.2g} was added to "
                 "its diagonal"]  # fmt: skip
    raise ValueError("K is not a Gram matrix (not positive semi-definite)")


def delete_one_error(inverse: np.ndarray, dual: np.ndarray) -> float:
    """Jackknife error over samples of the mean squared leave-one-out residual.

    Without sample j the residual of sample i is
    (G_jj a_i - G_ij a_j) / (G_ii G_jj - G_ij^2), a = G y: everything that j does, as a test point
    and to the training of the others, is left out with it.

    Parameters
    ----------
    inverse : ndarray (M, M)
        G = (K + s)^{-1}.
    dual : ndarray (M, outputs)
        G y.
    """
    m = len(inverse)
    g = inverse.diagonal()
    inner = dual @ dual.T
    own = inner.diagonal()
    # squared numerator, i along rows, j along columns
    squares = g**2 * own[:, None] - 2.0 * inverse * g * inner + inverse**2 * own
    determinant = np.outer(g, g) - inverse**2
    np.fill_diagonal(determinant, 1.0)
    squares /= determinant**2
    np.fill_diagonal(squares, 0.0)
    without = squares.sum(0) / (m - 1)
    return float(np.sqrt((m - 1) / m * ((without - without.mean()) ** 2).sum()))


def binomial_error(rate: float, samples: int) -> float:
    """Standard error of a share, with half a success and half a failure added so it is never 0."""
    smooth = (rate * samples + 0.5) / (samples + 1.0)
    return float(np.sqrt(smooth * (1.0 - smooth) / samples))
