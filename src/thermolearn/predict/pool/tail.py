"""Beyond the pool: a power law with a floor, fitted to the resolved end of the curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

REACH = 10.0  # no prediction beyond this many pools
FITTED = 8.0  # the fit covers n from M / 8 to M
MISFIT = 0.1  # root mean square deviation of the logarithm above which no law is seen
PEAK = 0.6  # share of the variance, extrapolated, that announces a peak of interpolation
FAST = 0.5  # exponent of its growth above which it does; a kernel of finite rank d has n/d
GAIN = 0.02  # least exponent that counts as falling


@dataclass(frozen=True)
class Tail:
    """error(n) = floor + amplitude (n/M)^-exponent for n > M, continuous at M.

    Attributes
    ----------
    pool, at_pool : float
        M and the curve there.
    floor, amplitude, exponent : float
    steepest : float
        Exponent of the lower end: a pure power law with the slope of the second half of the fitted
        range, and steeper by as much as it is steeper than the first half. The upper end is
        `at_pool`: no gain from more data at all.
    misfit : float
        Root mean square of log(fit / curve) over the fitted range.
    gamma, growth : float
        Share of the variance df2/n at M, and its exponent in n there. Where it grows fast it will
        reach 1, and the error a peak of interpolation: the upper end then rises by
        (1 - gamma(M)) / (1 - gamma(n)).
    refusal : str
        Why nothing is extrapolated; empty if it is.
    """

    pool: float
    at_pool: float
    floor: float
    amplitude: float
    exponent: float
    steepest: float
    misfit: float
    refusal: str = ""
    gamma: float = 0.0
    growth: float = 0.0

    @property
    def reach(self) -> float:
        """Most samples that are answered for."""
        limit = REACH * self.pool
        if self.growth > FAST and self.gamma > 0:
            peak = max(1.0, (PEAK / self.gamma) ** (1.0 / self.growth))
            limit = min(limit, self.pool * peak)
        return limit

    def value(self, n: np.ndarray) -> np.ndarray:
        """The central line."""
        return self.floor + self.amplitude * (n / self.pool) ** -self.exponent

    def lower(self, n: np.ndarray) -> np.ndarray:
        """A pure power law, the steepest."""
        return np.minimum(self.at_pool * (n / self.pool) ** -self.steepest, self.value(n))

    def upper(self, n: np.ndarray) -> np.ndarray:
        """No further gain, or the rise towards a peak of interpolation."""
        gamma = self.gamma * (n / self.pool) ** self.growth if self.growth > FAST else self.gamma
        return np.full(np.shape(n), self.at_pool) * (1.0 - self.gamma) / (1.0 - gamma)

    def why_not(self, n: float) -> str:
        """The reason for refusing n, or an empty string."""
        if self.refusal:
            return self.refusal
        if n > REACH * self.pool:
            return f"more than {REACH:g} times the pool of {self.pool:g}"
        if n > self.reach * (1 + 1e-9):
            peak = self.pool * self.gamma ** (-1.0 / self.growth)
            return (
                f"the variance grows like that of a kernel of finite rank, towards a peak of the "
                f"error near n = {peak:.0f}; a larger ridge would remove it"
            )
        return ""


def fit_tail(n: np.ndarray, error: np.ndarray, gamma: float = 0.0, growth: float = 0.0) -> Tail:
    """Fit the last factor of 8 of a curve that ends at the pool's size.

    The floor minimizes the squared deviation of log(error - floor) from a line in log n, on a
    bounded interval; amplitude and floor are rescaled together to meet the curve at its end.

    Parameters
    ----------
    n, error : ndarray
        Ascending, the last n being the pool's size.
    gamma, growth : float
        As in `Tail`.
    """
    pool, last = float(n[-1]), float(error[-1])
    fitted = n >= pool / FITTED * (1 - 1e-9)
    if error[fitted].min() <= 0:
        return Tail(pool, last, 0.0, last, 0.0, 0.0, 0.0, "the curve is zero before the pool ends")
    x, y = np.log(n[fitted] / pool), error[fitted]

    def deviation(share: float) -> float:
        floor = share * y.min()
        slope, height = np.polyfit(x, np.log(y - floor), 1)
        line = np.log(floor + np.exp(height + slope * x))
        return float(((line - np.log(y)) ** 2).mean())

    found = minimize_scalar(deviation, bounds=(0.0, 0.98), method="bounded")
    share = 0.0 if deviation(0.0) <= float(found.fun) else float(found.x)  # type: ignore[union-attr]
    floor = share * y.min()
    slope, height = np.polyfit(x, np.log(y - floor), 1)
    exponent = -float(slope)
    # slopes of the two halves of the fitted range; a curve that steepens may go on steepening
    late = x >= x[0] / 2
    early, local = (-float(np.polyfit(x[half], np.log(y[half]), 1)[0]) for half in (~late, late))
    steepest = max(local + max(0.0, local - early), exponent * (1.0 - floor / last))
    scale = last / (floor + float(np.exp(height)))
    misfit = float(np.sqrt(deviation(share)))
    refusal = ""
    if local < GAIN:
        refusal = (
            "the curve does not fall any more at the pool's size, so there is no law to extend"
        )
    elif misfit > MISFIT:
        refusal = f"no power law with a floor describes the curve (misfit {misfit:.0%})"
    return Tail(
        pool, last, floor * scale, float(np.exp(height)) * scale, exponent, steepest, misfit,
        refusal, gamma, growth,
    )  # fmt: skip
