"""The expansion in 1/noise of the grand-canonical field theory: leading and first order.

O. Cohen, O. Malka, Z. Ringel, arXiv:1906.05301. The data-set size is Poisson with mean N; a fixed
size differs by -(N/2) d^2 error/dN^2, small against the correction when many modes are being
learned. The quadratic action has mass N/sigma^2, its propagator is c_n = (1/lambda_n +
N/sigma^2)^{-1}; the quartic vertex N/(8 sigma^4) gives the first correction, which is the first
order of the self-consistent curve in 1/N at fixed sigma^2/N.
"""

from __future__ import annotations

import numpy as np

from thermolearn.predict.curves.problem import (
    Moments,
    Problem,
    learnability,
    log_determinant,
    loops,
    quadratic_form,
)


def equivalence_kernel(problem: Problem, n: np.ndarray) -> Moments:
    """Leading order: the mean predictor sum_n lambda_n/(lambda_n + sigma^2/N) g_n f_n.

    No scatter between data sets, and a train error equal to that on new noisy samples: both
    differ only at the next order.

    Raises
    ------
    ValueError
        The noise is 0.
    """
    kappa = _bare_ridge(problem, n)
    learned = learnability(problem, kappa)
    bias = (1 - learned) ** 2 @ problem.power
    return Moments(
        kappa=kappa,
        gamma=(learned**2 @ problem.degeneracies) / n,
        learnability=learned,
        bias=bias,
        test_error=bias.copy(),
        train_error=bias + problem.label_noise,
        predictive_variance=loops(problem, kappa),
        log_det=log_determinant(problem, n, kappa),
        quadratic=quadratic_form(problem, kappa),
    )


def subleading(problem: Problem, n: np.ndarray) -> Moments:
    """First order, with kappa0 = sigma^2/N, Lambda the leading learnability and C0 = C(x, x):

    L_n = Lambda_n - (C0/N) lambda_n/(lambda_n + kappa0)^2,
    error = b + 2 (C0/N) sum_n g_n^2 (1 - Lambda_n) Lambda_n/(lambda_n + kappa0)
            + gamma (b + label noise),
    b = sum_n g_n^2 (1 - Lambda_n)^2,  gamma = sum_n Lambda_n^2 / N.

    Everything is expanded to that order and reported raw: a learnability may be negative where
    C0/sigma^2 is not small. On data C(x, x) is replaced by its mean over the pool.

    Raises
    ------
    ValueError
        The noise is 0.
    """
    first = equivalence_kernel(problem, n)
    kappa, learned = first.kappa, first.learnability
    loop = loops(problem, kappa)
    shift = loop / n
    resolvent = 1 / (problem.eigenvalues + kappa[:, None])
    bias = first.bias + 2 * shift[:, None] * (((1 - learned) * learned * resolvent) @ problem.power)
    test_error = bias + first.gamma[:, None] * (first.bias + problem.label_noise)
    ratio = (loop / problem.noise)[:, None]
    return Moments(
        kappa=kappa + shift,
        gamma=first.gamma,
        learnability=learned - shift[:, None] * learned * resolvent,
        bias=bias,
        test_error=test_error,
        train_error=test_error + problem.label_noise - 2 * ratio * first.train_error,
        predictive_variance=loop + first.gamma * loop,
        log_det=first.log_det - 0.5 * n * ratio[:, 0] ** 2,
        quadratic=first.quadratic
        - shift[:, None]
        * (resolvent**2 @ problem.power + problem.label_noise / kappa[:, None] ** 2),
    )


def loop_ratio(problem: Problem, n: np.ndarray) -> np.ndarray:
    """C0/sigma^2 (S,), the size of the first correction; infinite without noise."""
    if problem.noise == 0:
        return np.full(len(n), np.inf)
    return loops(problem, problem.noise / n) / problem.noise


def _bare_ridge(problem: Problem, n: np.ndarray) -> np.ndarray:
    if problem.noise <= 0:
        raise ValueError(
            "order='equivalence-kernel' and order='subleading' expand in 1/noise and need "
            "noise > 0: use order='self-consistent' or order=('renormalized', r)"
        )
    return problem.noise / n
