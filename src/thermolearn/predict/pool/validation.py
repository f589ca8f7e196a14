"""The experiments behind a predicted curve: machines trained on subsets of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.predict.pool.equivalent import JITTER, as_pool
from thermolearn.predict.pool.targets import Target, prepare_target

if TYPE_CHECKING:
    from torch import nn

LEAST_TESTED = 10  # samples of the pool left to test on

# (training indices, test indices, number of the draw) -> normalized predictions, a word if the
# training is not to be trusted
Fit = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, str]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Errors of machines trained on random subsets of a pool and tested on the rest of it.

    Attributes
    ----------
    name : str
    n : ndarray (sizes,)
    test_error : Estimate
        (sizes,); fraction of the target's variance. NaN where the rest is under 10 samples.
    error_rate : Estimate or None
        (sizes,); None in regression.
    spread : ndarray (sizes,)
        Standard deviation of the test error between training sets.
    draws : int
    status : tuple of str
        Per size: "ok" or why not.
    flags : tuple of str
    """

    name: str
    n: np.ndarray
    test_error: Estimate
    error_rate: Estimate | None
    spread: np.ndarray
    draws: int
    status: tuple[str, ...]
    flags: tuple[str, ...] = ()


def measure_kernel_machine(
    K: Any,
    y: Any,
    n: int | Sequence[int],
    ridge: float,
    draws: int = 20,
    seed: int = 0,
    task: str = "regression",
) -> Measured:
    """Kernel regression on random n of the pool's samples, tested on all the others.

    Error bars are those of the average over training sets and new samples. Draws from one pool
    overlap, so that more draws do not bring them to zero: with e_i the mean error of sample i over
    the draws that test it, and s^2 the variance between draws of the mean deviation from e_i,
    stderr^2 = s^2 (1/draws + p / (1 - p)) + var(e_i) / M, p = n/M. p is the most that the training
    sets of two draws can be correlated (Nadeau and Bengio, doi:10.1023/A:1024068626366), so that
    the bar is somewhat too long.

    Parameters
    ----------
    K, y, ridge, task
        As for `pool_curve`.
    n : int or sequence of int
        Sizes; those that leave fewer than 10 samples to test on come back as NaN.
    draws : int
        Random subsets per size, 2 or more.
    seed : int
        Draw k of size n comes from (seed, n, k).

    Raises
    ------
    ValueError
        As `pool_curve`; fewer than two draws.
    """
    ridge = real("ridge", ridge, least=0.0)
    target = prepare_target(y, task)
    gram = as_pool(K, len(target.values))

    def fit(train: np.ndarray, test: np.ndarray, draw: int) -> tuple[np.ndarray, str]:
        return kernel_predictions(gram, target.values, ridge, train, test), ""

    return _measure("kernel machine", fit, target, _sizes(n), draws, seed)


def measure_networks(
    make_model: Callable[[int], nn.Module],
    X: Any,
    y: Any,
    n: int | Sequence[int],
    draws: int = 5,
    seed: int = 0,
    task: str = "regression",
    *,
    name: str = "trained network",
    **training: Any,
) -> Measured:
    """Finite networks trained to the end on random n of the pool's samples, tested on the others.

    Squared loss on the normalized target of `prepare_target` (mean 0, variance 1; -1 and +1, or
    one-hot, before that), so that the numbers compare with the predicted curve. Error bars as in
    `measure_kernel_machine`; the initial weights are part of the scatter between draws.

    Parameters
    ----------
    make_model : callable
        Takes a seed and returns a freshly initialized nn.Module with one output per target column
        (one for two classes, else one per class).
    X : array or tensor (M, ...)
        Inputs of the pool, as the model takes them.
    y, n, draws, seed, task
        As for `measure_kernel_machine`. The subsets are the same for the same seed.
    training
        Passed to `thermolearn.predict.trained_module.train_module`: ridge, from_initial, tolerance,
        max_steps, dtype.

    Raises
    ------
    ValueError, TypeError, NotApplicableError
        From the checks above or from `train_module`.
    """
    from thermolearn.predict.trained_module import train_module

    target = prepare_target(y, task)
    inputs = np.asarray(X.detach().cpu() if hasattr(X, "detach") else X)
    if len(inputs) != len(target.values):
        raise ValueError(f"X has {len(inputs)} samples, y has {len(target.values)}")

    def fit(train: np.ndarray, test: np.ndarray, draw: int) -> tuple[np.ndarray, str]:
        model = make_model(_model_seed(seed, len(train), draw))
        trained = train_module(model, inputs[train], target.values[train], inputs[test], **training)
        return trained.predictions, "" if trained.converged else trained.reason

    return _measure(name, fit, target, _sizes(n), draws, seed)


def _model_seed(seed: int, n: int, draw: int) -> int:
    return int(np.random.SeedSequence([seed, n, draw, 1]).generate_state(1)[0])


def _sizes(n: int | Sequence[int]) -> list[int]:
    listed = [n] if isinstance(n, int | np.integer) else list(n)
    if not listed:
        raise ValueError("n must name at least one size")
    return [whole("n", size, 1) for size in listed]


def _measure(
    name: str, fit: Fit, target: Target, sizes: list[int], draws: int, seed: int
) -> Measured:
    whole("draws", draws, 2)
    whole("seed", seed, 0)
    rows: list[tuple[Estimate, Estimate, float, str]] = []
    flags: list[str] = []
    done: list[int] = []
    try:
        for n in track(sizes, name, len(sizes)):
            rows.append(_one_size(fit, target, n, draws, seed))
            done.append(n)
    except KeyboardInterrupt:
        if not rows:
            raise
        flags.append(f"interrupted after {len(rows)} of {len(sizes)} sizes")
    errors, rates, spread, status = zip(*rows, strict=True)
    return Measured(
        name, np.array(done, dtype=np.float64), _stacked(errors),
        None if target.labels is None else _stacked(rates),
        np.array(spread), draws, status, tuple(flags),
    )  # fmt: skip


def _one_size(
    fit: Fit, target: Target, n: int, draws: int, seed: int
) -> tuple[Estimate, Estimate, float, str]:
    """(test error, error rate, standard deviation between draws, status) at one size."""
    m = len(target.values)
    nothing = Estimate(np.nan, np.nan, status="not applicable")
    if m - n < LEAST_TESTED:
        why = f"refused: {n} of the {m} samples leave fewer than {LEAST_TESTED} to test on"
        return nothing, nothing, np.nan, why
    squares, wrong = np.full((2, draws, m), np.nan)
    troubles: list[str] = []
    for k in range(draws):
        order = np.random.default_rng([seed, n, k]).permutation(m)
        train, test = np.sort(order[:n]), np.sort(order[n:])
        predictions, trouble = fit(train, test, k)
        squares[k, test] = ((predictions - target.values[test]) ** 2).sum(1)
        if target.labels is not None:
            wrong[k, test] = target.decide(predictions) != target.labels[test]
        troubles += [trouble] * bool(trouble)
    error, spread = average(squares, n / m)
    rate = nothing if target.labels is None else average(wrong, n / m)[0]
    status = "ok"
    if troubles:
        status = f"{len(troubles)} of {draws} trainings ended as: {troubles[0]}"
    return error, rate, spread, status


def kernel_predictions(
    gram: np.ndarray, values: np.ndarray, ridge: float, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Kernel regression on the samples `train` of a pool, evaluated on `test`.

    The ridge is 1e-8 of the mean diagonal at least, so that repeated inputs do no harm.

    Raises
    ------
    ConvergenceError
        K + ridge cannot be factorized.
    """
    shift = max(ridge, JITTER * float(gram.diagonal().mean()))
    system = gram[np.ix_(train, train)] + shift * np.eye(len(train))
    try:
        factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        raise ConvergenceError("K + ridge cannot be factorized; give a larger ridge") from None
    return gram[np.ix_(test, train)] @ cho_solve(factor, values[train], check_finite=False)


def average(values: np.ndarray, share: float) -> tuple[Estimate, float]:
    """Mean over draws of the mean over tested samples (draws, M), with its error bar."""
    draws, m = values.shape
    each = np.nanmean(values, axis=1)
    values = values[:, np.isfinite(values).any(0)]
    per_sample = np.nanmean(values, axis=0)
    # which samples happen to be tested is in per_sample already: only the training sets are left
    variance = float(np.nanmean(values - per_sample, axis=1).var(ddof=1))
    stderr = np.sqrt(variance * (1.0 / draws + share / (1.0 - share)) + per_sample.var(ddof=1) / m)
    return Estimate(float(each.mean()), float(stderr), float(draws)), float(each.std(ddof=1))


def _stacked(estimates: Sequence[Estimate]) -> Estimate:
    values = np.array([e.value for e in estimates])
    return Estimate(
        values,
        np.array([e.stderr for e in estimates]),
        status="ok" if np.isfinite(values).all() else "refused: too few samples left to test on",
        note="mean over training sets from one pool, tested on the rest of it",
    )
