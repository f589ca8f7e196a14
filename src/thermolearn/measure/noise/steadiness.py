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
SEEN = 4.0  # standard errors
LARGEST = 0.05  # drift beside the two sides that a stationary run may have
FEWEST = 8  # points of a path, and steps per block
CUBIC = 4  # numbers in a cubic


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
    error bar; their correlations are paid for. stderr = sqrt(2) sd/steps.

    Raises
    ------
    ValueError
        Fewer than 8 points.
    """
    n = len(path)
    if n < FEWEST:
        raise ValueError(f"a drift needs at least {FEWEST} points, got {n}")
    time = np.linspace(-1, 1, n)
    fit = np.polynomial.Chebyshev.fit(time, path, CUBIC - 1)
    rest = path - fit(time)
    tau = _tau(rest) or 0.5
    free = max(0.25, 1 - CUBIC * 2 * tau / n)
    sd = math.sqrt(float((rest**2).mean()) / free)
    return Estimate(float(path[-1] - path[0]) / steps, math.sqrt(2) * sd / steps, n / (2 * tau))


def judge(drift: Estimate, scale: float, steps: int) -> tuple[bool, float, str]:
    """Whether a drift was seen, the smallest that would have been (a share), and the sentence.

    A run counts as stationary if the drift is within 4 standard errors of zero and at most 5% of
    `scale`, the size of the two sides.
    """
    if not scale > 0:
        return False, math.nan, "nothing was updated: there is nothing to be told"
    share, smallest = abs(float(drift)) / scale, SEEN * float(drift.stderr) / scale
    if not math.isfinite(share + smallest):
        return False, math.nan, "the sides are not finite: the run diverged"
    if share * scale > SEEN * float(drift.stderr) or share > LARGEST:
        way = "grows" if float(drift) > 0 else "shrinks"
        known = "" if share > smallest else f", known to {_percent(smallest)}"
        return (
            False,
            smallest,
            f"the run drifts: over {steps} steps the norm of the parameters {way}, and the two "
            f"sides differ by {_percent(share)}{known}: no temperature",
        )
    return (
        True,
        smallest,
        f"no drift seen over {steps} steps; a drift above {_percent(smallest)} of the two sides "
        "would have been seen",
    )


def _percent(share: float) -> str:
    """Two digits, without an exponent where a factor is plainer."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{share:.2g} times their size"
