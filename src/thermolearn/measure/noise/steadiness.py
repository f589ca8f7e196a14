"""Means of correlated steps with their errors, and how much of a drift a run would have shown."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from thermolearn.core.diagnostics import autocorrelation_time
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate

LIMIT = 2**15  # bins before two are joined
SEEN = 4.0  # standard errors beyond which a difference counts as seen
VISIBLE = SEEN + 1.645  # those that a difference must have to be seen with 95% probability
SLOW = 3.0  # SEEN is so many times larger where the error is not to be relied on
LARGEST = 0.1  # drift beside the two sides that must be visible in a run called stationary
FEWEST = 8  # points of a path, and steps per block
ENOUGH = 20  # points of a path that allow a verdict, and autocorrelation times
CUBIC = 4  # numbers in a cubic; taking it away halves the autocorrelation time of slow motion
STEADY, DRIFTS, UNTOLD = "ok", "not stationary", "under-sampled"  # outcomes, as statuses
REPEATED = 1e-2  # squared difference after a period, beside that of independent points


class BinnedSeries:
    """Rows of numbers, one per step, as means of `width` successive steps.

    The width doubles when there are 2 x `LIMIT` bins, so that a run of any length fits.
    """

    def __init__(self, columns: int):
        self.width = 1
        self._bins: list[np.ndarray] = []
        self._rest = np.empty((0, columns))

    def extend(self, rows: np.ndarray) -> None:
        """Append rows (steps, columns)."""
        rows = np.concatenate([self._rest, rows])
        while len(rows) >= self.width:
            n = min(len(rows) // self.width, 2 * LIMIT - len(self._bins))
            used, rows = rows[: n * self.width], rows[n * self.width :]
            self._bins += list(used.reshape(n, self.width, -1).mean(1))
            if len(self._bins) == 2 * LIMIT:
                pairs = np.array(self._bins).reshape(LIMIT, 2, -1)
                self._bins, self.width = list(pairs.mean(1)), 2 * self.width
        self._rest = rows

    @property
    def values(self) -> np.ndarray:
        """Full bins (n, columns)."""
        return np.array(self._bins).reshape(len(self._bins), self._rest.shape[1])

    def state_dict(self) -> dict[str, Any]:
        return {"width": self.width, "bins": self.values, "rest": self._rest}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> BinnedSeries:
        series = cls(int(np.shape(state["rest"])[1]))
        series.width = int(state["width"])
        series._bins = list(np.asarray(state["bins"], dtype=np.float64))
        series._rest = np.asarray(state["rest"], dtype=np.float64)
        return series


def block_means(series: np.ndarray, blocks: int) -> np.ndarray:
    """Means over equal blocks along the first axis; what is left over at the start is dropped."""
    length = len(series) // blocks
    kept = series[len(series) - length * blocks :]
    return kept.reshape(blocks, length, *series.shape[1:]).mean(1)


def correlated_mean(series: np.ndarray, blocks: int) -> Estimate:
    """Mean of a correlated series with its block error.

    Where blocks are shorter than 10 autocorrelation times, the larger of the block error and
    sd sqrt(2 tau/n); status "under-sampled" if the series is shorter than 20 of them. (A series
    such as theta . g is anticorrelated, which only blocks see.)
    """
    means = block_means(series, blocks)
    stderr = float(means.std(ddof=1)) / math.sqrt(blocks)
    tau, status = _tau(series), "ok"
    if tau is not None and len(series) < 10 * tau * blocks:
        stderr = max(stderr, float(series.std()) * math.sqrt(2 * tau / len(series)))
        if len(series) < 20 * tau:
            status = "under-sampled"
    n_eff = float(series.var()) / stderr**2 if stderr > 0 else float(len(series))
    return Estimate(float(series.mean()), stderr, n_eff, status)


def _tau(series: np.ndarray) -> float | None:
    """Autocorrelation time in elements; None if the series is too short or constant."""
    if len(series) < 50:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        tau = float(autocorrelation_time(series))
    return tau if math.isfinite(tau) else None


def drift_of_path(path: np.ndarray, steps: float) -> Estimate:
    """(end - start)/steps of a path, with the error that its fluctuations alone would give.

    The fluctuations are what is left of a cubic in time, so that a drift does not widen its own
    error bar; their correlations are paid for. stderr = sqrt(2) sd/steps. Status "under-sampled"
    if there are fewer than 20 points or 20 autocorrelation times: the error is too small then.

    Raises
    ------
    ValueError
        Fewer than 8 points.
    """
    n = len(path)
    if n < FEWEST:
        raise ValueError(f"a drift needs at least {FEWEST} points, got {n}")
    rest = _rest(path)
    tau = _positive_tau(rest)
    free = max(0.25, 1 - CUBIC * 2 * tau / n)
    sd = math.sqrt(float((rest**2).mean()) / free)
    few = n < ENOUGH or n < 2 * ENOUGH * tau
    return Estimate(
        float(path[-1] - path[0]) / steps,
        math.sqrt(2) * sd / steps,
        n / (2 * tau),
        UNTOLD if few else "ok",
    )


def _rest(path: np.ndarray) -> np.ndarray:
    time = np.linspace(-1, 1, len(path))
    return path - np.polynomial.Chebyshev.fit(time, path, CUBIC - 1)(time)


def _positive_tau(rest: np.ndarray) -> float:
    """Autocorrelation time in elements from the lags before the first negative one, since what is
    left of a fit is anticorrelated at long lags."""
    n = len(rest)
    covariance = np.fft.irfft(np.abs(np.fft.rfft(rest, 2 * n)) ** 2, 2 * n)[:n]
    if not covariance[0] > 0:
        return 0.5
    rho = covariance / covariance[0]
    negative = np.flatnonzero(rho <= 0)
    return 0.5 + float(rho[1 : negative[0] if len(negative) else n].sum())


def repeats(path: np.ndarray) -> bool:
    """Whether a path is a cycle without noise: after some period it comes back to where it was.

    The mean squared difference of points a lag apart, which for independent points is twice the
    variance, must first rise to that and then fall below a hundredth of it.
    """
    rest = _rest(path)
    n = len(rest)
    if n < ENOUGH or not np.isfinite(rest).all():
        return False
    variance = float(rest.var())
    if math.sqrt(variance) <= 1e-12 * float(np.abs(path).max()):
        return True
    lags = np.arange(1, n // 2)
    squares = np.concatenate([[0.0], np.cumsum(rest**2)])
    products = np.fft.irfft(np.abs(np.fft.rfft(rest, 2 * n)) ** 2, 2 * n)[lags]
    apart = squares[n] - squares[lags] + squares[n - lags] - 2 * products
    apart /= (n - lags) * 2 * variance
    away = np.flatnonzero(apart > 0.3)
    return bool(len(away)) and bool((apart[away[0] :] < REPEATED).any())


def left_side(right: Estimate, drift: Estimate) -> Estimate:
    """<theta . g> as the right side less the drift, which it is step by step.

    Its error is that of both: what is common to theta and g cancels over the steps, and neither a
    sample of the steps nor the scatter of blocks would see that.
    """
    status = right.status if right.status != "ok" else drift.status
    error = math.hypot(float(right.stderr), float(drift.stderr))
    return Estimate(float(right) - float(drift), error, right.n_eff, status)


def judge(drift: Estimate, scale: float, steps: int) -> tuple[str, float, str]:
    """`STEADY`, `DRIFTS` or `UNTOLD`, the smallest drift that would have been seen (a share of
    `scale`, the size of the two sides; with 95% probability), and the sentence.

    A drift is seen beyond 4 standard errors (12 where the error is under-sampled: random walks
    reach that in 1 of 100). None is seen only where one of 10% of `scale` would have been.
    """
    if not scale > 0:
        return DRIFTS, math.nan, "nothing was updated: there is nothing to be told"
    error, sure = float(drift.stderr) / scale, drift.status == "ok"
    factor = 1.0 if sure else SLOW
    share, smallest = abs(float(drift)) / scale, (VISIBLE - SEEN + factor * SEEN) * error
    if not math.isfinite(share + smallest):
        return DRIFTS, math.nan, "the sides are not finite: the run diverged"
    if share > factor * SEEN * error:
        way = "grows" if float(drift) > 0 else "shrinks"
        return (
            DRIFTS,
            smallest,
            f"the run drifts: over {steps} steps the norm of the parameters {way}, and the two "
            f"sides differ by {_percent(share)}: no temperature",
        )
    if sure and smallest <= LARGEST:
        return (
            STEADY,
            smallest,
            f"no drift seen over {steps} steps; a drift above {_of_sides(smallest)} would have "
            "been seen",
        )
    return (
        UNTOLD,
        smallest,
        f"it cannot be told if the run drifts: over {steps} steps a drift below "
        f"{_of_sides(smallest)} would not have been seen",
    )


def _percent(share: float) -> str:
    """Two digits, without an exponent where a factor is plainer."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{share:.2g} times their size"


def _of_sides(share: float) -> str:
    text = f"{100 * share:.2g}% of" if share < 0.995 else f"{share:.2g} times"
    return f"{text} the two sides"
