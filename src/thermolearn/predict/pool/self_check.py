"""The theory held against the pool it was made from: kernel machines on random parts of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thermolearn.core.progress import track
from thermolearn.predict.pool.targets import Target
from thermolearn.predict.pool.validation import average, kernel_predictions

# Relative errors (one standard deviation) of the theory, chosen from the measurements on the six
# data sets of the documentation.
MODEL_ERROR = 0.04
RATE_MODEL_ERROR = 0.15
RESOLUTION = 0.02  # relative scatter of the average over draws at which drawing stops
FEWEST_DRAWS, MOST_DRAWS = 12, 128
CONTRADICTED = 2.5  # standard deviations
UNSHARED = 0.4  # of the sampling error of the pool
INTERPOLATED = 0.05  # relative error of a ratio interpolated between the sizes checked
FEW = 10  # samples below which corrections of order 1/n are not controlled


@dataclass(frozen=True, eq=False)
class Check:
    """Predicted and measured error (or error rate) at some sizes, M/2, M/4, ...

    Attributes
    ----------
    n : ndarray (sizes,)
        Ascending; the last is M/2.
    predicted, measured : ndarray (sizes,)
        By the theory alone, and the average over random training sets from the same pool, tested on
        the rest of it.
    noise : ndarray (sizes,)
        Standard error of `measured` for this pool: the scatter between training sets.
    stderr : ndarray (sizes,)
        Standard error of `measured` for the population: the pool is a sample, too.
    pool : int
    model : float
        Relative error the theory is credited with.
    corrected : bool
        Whether the theory is contradicted at one of the sizes from 10 on: off by more than 2.5
        standard deviations of `model`, `noise` and the share of the pool's sampling error that the
        two do not have in common. The curve is then the theory times the measured ratio,
        interpolated in log n.
    """

    n: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    noise: np.ndarray
    stderr: np.ndarray
    pool: int
    model: float
    corrected: bool

    def deviation(self, n: float | np.ndarray) -> np.ndarray:
        """log(measured / predicted) at n; 0 at n = M, where the theory is leave-one-out."""
        return self._at(n, np.append(np.log(self._ratio()), 0.0))

    def factor(self, n: float | np.ndarray) -> np.ndarray:
        """What the theory is multiplied by: 1 if it is not contradicted."""
        return np.exp(self.deviation(n)) if self.corrected else np.ones(np.shape(n))

    def model_error(self, n: float | np.ndarray) -> np.ndarray:
        """Relative error of the curve beside the sampling error of the pool.

        `model` or the deviation found, if that is larger; of a corrected curve that of the
        interpolation.
        """
        found = np.abs(self.deviation(n))
        if self.corrected:
            return np.minimum(INTERPOLATED, np.maximum(found, self.model))
        return np.maximum(self.model, found)

    def sampling_error(self, n: float | np.ndarray, at_pool: float) -> np.ndarray:
        """Relative sampling error of the measured curve; `at_pool` is that of leave-one-out."""
        relative = self.stderr / np.where(self.measured > 0, self.measured, 1.0)
        return self._at(n, np.append(relative, at_pool))

    def worst(self) -> tuple[float, float]:
        """(n, predicted / measured - 1) where they differ most, from 10 samples on."""
        gap = 1.0 / self._ratio() - 1.0
        k = int(np.argmax(np.where(_counted(self.n), np.abs(np.log(self._ratio())), -1.0)))
        return float(self.n[k]), float(gap[k])

    def _ratio(self) -> np.ndarray:
        return _ratio(self.predicted, self.measured, self.pool)

    def _at(self, n: float | np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.interp(np.log(n), np.log(np.append(self.n, float(self.pool))), values)


def check_sizes(m: int) -> np.ndarray:
    """M/2, M/4, ... down to 2, ascending."""
    return np.unique((m // 2) // 2 ** np.arange(int(np.log2(m // 2))))


def measured_on_pool(
    gram: np.ndarray, target: Target, columns: np.ndarray, ridge: float, seed: int
) -> dict[str, np.ndarray]:
    """Errors of kernel machines on random parts of the pool, at the sizes of `check_sizes`.

    Per size 12 to 128 training sets, until their average scatters by 2%, at most (2 M/n)^2: a part
    of the time of the eigendecomposition.

    Parameters
    ----------
    columns : ndarray (M, outputs + draws)
        Normalized targets, then the random initial functions, all weighted such that the squared
        error is the sum over columns. In the error rate every machine starts from some of them.

    Returns
    -------
    dict
        "n"; and "error", "noise", "stderr" of the squared error, "rate", "rate_noise",
        "rate_stderr" of the error rate (NaN in regression): arrays (sizes,). Noise and stderr as in
        `Check`.
    """
    sizes = check_sizes(len(gram))
    rows = [
        _measure_at(gram, target, columns, ridge, int(n), seed)
        for n in track(sizes, "check", len(sizes))
    ]
    names = ("error", "noise", "stderr", "rate", "rate_noise", "rate_stderr")
    return {"n": sizes.astype(np.float64)} | dict(
        zip(names, np.array(rows).T, strict=True)
    )  # fmt: skip


def make_check(
    n: np.ndarray,
    predicted: np.ndarray,
    measured: np.ndarray,
    noise: np.ndarray,
    stderr: np.ndarray,
    pool: int,
    model: float,
    sampling: np.ndarray | float = 0.0,
) -> Check:
    """See `Check`; decides whether the theory is contradicted.

    `sampling` is the theory's own relative sampling error (jackknife); prediction and measurement
    come from one pool and share all but some 0.4 of it, as measured on pools of 40 to 300.
    """
    ratio = _ratio(predicted, measured, pool)
    relative = noise / np.where(measured > 0, measured, 1.0)
    allowed = CONTRADICTED * np.sqrt(model**2 + relative**2 + (UNSHARED * sampling) ** 2)
    contradicted = bool((np.abs(np.log(ratio)) > allowed)[_counted(n)].any())
    return Check(n, predicted, measured, noise, stderr, pool, model, contradicted)


def _counted(n: np.ndarray) -> np.ndarray:
    """Sizes that decide; at the others the theory is said not to be controlled."""
    return n >= min(FEW, n[-1])


def _ratio(predicted: np.ndarray, measured: np.ndarray, pool: int) -> np.ndarray:
    """measured / predicted; errors or rates that may be 0 are resolved to half a sample."""
    least = 0.5 / pool * max(float(measured.max()), 1e-300)
    return (measured + least) / (predicted + least)


def _measure_at(
    gram: np.ndarray, target: Target, columns: np.ndarray, ridge: float, n: int, seed: int
) -> tuple[float, ...]:
    m, outputs = len(gram), target.values.shape[1]
    most = int(np.clip((2 * m / n) ** 2, FEWEST_DRAWS, MOST_DRAWS))
    squares, wrong = np.full((2, most, m), np.nan)
    means: list[float] = []
    for k in range(most):
        rng = np.random.default_rng([seed, n, k, 1])
        order = rng.permutation(m)
        train, test = np.sort(order[:n]), np.sort(order[n:])
        off = columns[test] - kernel_predictions(gram, columns, ridge, train, test)
        squares[k, test] = (off**2).sum(1)
        if target.labels is not None:
            scores = (
                target.values[test] - off[:, :outputs] + _started(off[:, outputs:], outputs, rng)
            )
            wrong[k, test] = target.decide(scores) != target.labels[test]
        means.append(float(squares[k, test].mean()))
        if k + 1 >= FEWEST_DRAWS and np.std(means) <= RESOLUTION * np.mean(means) * np.sqrt(k):
            break
    done = len(means)
    rate = (np.nan,) * 3 if target.labels is None else _summary(wrong[:done], n / m)
    return (*_summary(squares[:done], n / m), *rate)


def _started(functions: np.ndarray, outputs: int, rng: np.random.Generator) -> np.ndarray:
    """What is left of a random initial function in every output, (tested, outputs)."""
    draws = functions.shape[1]
    if draws == 0:
        return np.zeros((len(functions), outputs))
    chosen = rng.choice(draws, outputs, replace=draws < outputs)
    return functions[:, chosen] * np.sqrt(draws / outputs)


def _summary(values: np.ndarray, share: float) -> tuple[float, float, float]:
    """Mean over draws of values (draws, M; NaN where trained), noise and standard error."""
    estimate, spread = average(values, share)
    return float(estimate.value), spread / np.sqrt(len(values)), float(estimate.stderr)
