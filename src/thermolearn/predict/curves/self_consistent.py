"""The self-consistent learning curve: the tadpole and bubble chains summed.

P. Sollich, A. Halees, arXiv:cond-mat/0105015; B. Bordelon, A. Canatar, C. Pehlevan,
arXiv:2002.02561; J. Simon, M. Dickens, D. Karkada, M. DeWeese, arXiv:2110.03922.
"""

from __future__ import annotations

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.predict.curves.problem import (
    Moments,
    Problem,
    learnability,
    log_determinant,
    loops,
    quadratic_form,
)

# Of the conservation law, in units of N.
CERTIFICATE = 1e-10
# Newton in ln kappa walks in steps of about 1 at first: room for noises down to 1e-300.
MOST_STEPS = 1000


def self_consistent(problem: Problem, n: np.ndarray) -> Moments:
    """Averages over data sets of size N at the self-consistent ridge kappa.

    With L_n = lambda_n/(lambda_n + kappa), gamma = sum_n L_n^2 / N, label noise s:
    bias = sum_n g_n^2 (1-L_n)^2, test error = (bias + gamma s)/(1 - gamma),
    train error = (sigma^2/(N kappa))^2 (bias + s)/(1 - gamma),
    posterior variance of the function = N kappa - sigma^2.

    Raises
    ------
    ValueError
        kappa = 0 (no noise, no tail, N at or above the rank) with labels that the kernel cannot
        fit, or a kernel without any weight and no noise.
    ConvergenceError
        The root does not satisfy the conservation law.
    """
    kappa = effective_ridge(problem, n)
    singular = kappa == 0
    if singular.any():
        check_singular(problem, f"n = {n[singular][0]:g} reaches")
    learned = learnability(problem, kappa)
    gamma = (learned**2 @ problem.degeneracies) / n
    # 1 - gamma, by the conservation law: no cancellation where gamma comes near 1
    rest = _unlearned(problem, learned, kappa) / n
    bias = (1 - learned) ** 2 @ problem.power
    variance = np.zeros_like(bias)
    some = ~singular
    variance[some] = (gamma / np.where(some, rest, 1))[some, None] * (
        bias[some] + problem.label_noise
    )
    scale = np.zeros_like(kappa)
    scale[some] = (problem.noise / (n[some] * kappa[some])) ** 2
    return Moments(
        kappa=kappa,
        gamma=gamma,
        learnability=learned,
        bias=bias,
        test_error=bias + variance,
        train_error=scale[:, None] * (bias + variance + problem.label_noise),
        predictive_variance=loops(problem, kappa),
        log_det=log_determinant(problem, n, kappa),
        quadratic=quadratic_form(problem, kappa),
    )


def effective_ridge(problem: Problem, n: np.ndarray) -> np.ndarray:
    """The root kappa of kappa N = sigma^2 + sum_n kappa lambda_n/(lambda_n + kappa) + T, (S,).

    Unique: N - (sigma^2 + T)/kappa - sum_n lambda_n/(lambda_n + kappa) rises with kappa. Newton in
    log kappa, kept inside a bracket. Without noise and tail it is 0 from N = rank on.

    Raises
    ------
    ValueError
        No eigenvalue, no tail and no noise.
    ConvergenceError
        sum_n L_n + (sigma^2 + T)/kappa misses N by more than 1e-10 of it, or ln kappa still moves
        by that much.
    """
    source = problem.noise + problem.tail
    weight = problem.eigenvalues > 0
    eigenvalues, count = problem.eigenvalues[weight], problem.degeneracies[weight]
    if source == 0 and not len(eigenvalues):
        raise ValueError("the kernel is zero and so is the noise: give noise > 0")
    if not len(eigenvalues):
        return source / n
    kappa = np.zeros_like(n)
    some = (n < problem.rank) | (source > 0)
    size = n[some]
    least = float(eigenvalues.min())
    low = np.maximum(source / size, least * (problem.rank - size) / size)
    low, high = np.log(low), np.log((source + count @ eigenvalues) / size)
    low = np.minimum(low, high)
    u, change = high.copy(), 0.0
    for _ in range(MOST_STEPS):
        k = np.exp(u)[:, None]
        excess = _excess(eigenvalues, count, source, size, k)
        slope = (
            source / k[:, 0] + ((eigenvalues / (eigenvalues + k)) * (k / (eigenvalues + k))) @ count
        )
        low, high = np.where(excess < 0, u, low), np.where(excess > 0, u, high)
        step = u - excess / slope
        step = np.where((step < low) | (step > high), 0.5 * (low + high), step)
        change, u = np.abs(step - u).max(initial=0.0), step
        if change < 1e-15 * max(1.0, np.abs(u).max(initial=0.0)):
            break
    kappa[some] = np.exp(u)
    k = kappa[some, None]
    miss = _excess(eigenvalues, count, source, size, k)
    worst = float(np.abs(miss / size).max(initial=0.0))
    if not max(worst, change) <= CERTIFICATE:
        raise ConvergenceError(
            f"the self-consistent ridge misses its conservation law by {worst:.2g} of N "
            f"(last step {change:.2g}); the spectrum spans too many orders of magnitude: raise the "
            "noise or drop weak modes"
        )
    return kappa


def _excess(
    eigenvalues: np.ndarray, count: np.ndarray, source: float, size: np.ndarray, k: np.ndarray
) -> np.ndarray:
    """N - sum_n L_n - source/kappa, (S,); k (S, 1).

    Modes that are learned count with 1 - L_n, the others with L_n: only whole numbers cancel, and
    a tiny kappa at a gap of the spectrum (N the number of modes above it) keeps its digits.
    """
    total = eigenvalues + k
    learned = eigenvalues > k
    part = np.where(learned, -k, eigenvalues) / total
    return (size - learned @ count) - part @ count - source / k[:, 0]


def _unlearned(problem: Problem, learned: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """sum_n L_n (1 - L_n) + (sigma^2 + T)/kappa = N (1 - gamma), (S,); 0 at kappa = 0."""
    k = kappa[:, None]
    total = problem.eigenvalues + k
    left = np.divide(k, total, out=np.zeros_like(total), where=total > 0)
    source = np.full(len(kappa), problem.noise + problem.tail)
    return (learned * left) @ problem.degeneracies + np.divide(
        source, kappa, out=np.zeros_like(kappa), where=kappa > 0
    )


def check_singular(problem: Problem, what: str) -> None:
    """ValueError where kappa = 0 meets labels that the kernel cannot fit; `what` reaches it."""
    idle = problem.power[problem.eigenvalues == 0].sum()
    noisy = (problem.label_noise > 0).any() or idle > 1e-12 * problem.power.sum()
    if noisy:
        raise ValueError(
            f"{what} the {problem.rank:g} modes of the kernel and the noise is 0: "
            "the Gram matrix is singular and cannot fit noisy labels; give noise > 0"
        )
