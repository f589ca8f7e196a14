"""Axes of a plot: range, nice ticks and their labels, linear or logarithmic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thermolearn.report.numbers import plain, power_of_ten, typographic

UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Axis:
    """A map from data to pixels with its ticks; ``low < high``, and ``low > 0`` if log."""

    low: float
    high: float
    log: bool
    ticks: list[float]
    labels: list[str]

    def share(self, value: float) -> float:
        """Position between 0 (low) and 1 (high); values outside are put on the edge."""
        if self.log:
            start = math.log(self.low)
            t = (math.log(max(value, self.low)) - start) / (math.log(self.high) - start)
        else:
            t = (value - self.low) / (self.high - self.low)
        return min(max(t, 0.0), 1.0)


def nice_step(span: float, n: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten with at most `n` intervals in `span`."""
    raw = span / max(n, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10):
        if factor * power >= raw * (1 - 1e-9):
            return factor * power
    return 10 * power


def linear_axis(
    low: float,
    high: float,
    n: int,
    whole: bool = True,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Axis:
    """A linear axis over [low, high]; with `whole` it is widened to its outer ticks.

    A range of no width is widened as well, but not across the bounds.
    """
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        pad = 0.1 * abs(low) or 1.0
        low = min(low, max(low - pad, bounds[0]))
        high = max(high, min(high + pad, bounds[1]))
    step = nice_step(high - low, n)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if whole:
        low, high = min(first * step, low), max(last * step, high)
    ticks = [k * step for k in range(first, last + 1)]
    slack = 1e-9 * (high - low)
    ticks = [t for t in ticks if low - slack <= t <= high + slack]
    return Axis(low, high, False, ticks, [_label(t, step) for t in ticks])


def log_axis(low: float, high: float, n: int) -> Axis:
    """A logarithmic axis around [low, high], both positive, ending a little outside the data."""
    if high < 1.05 * low:
        low, high = low / 1.5, high * 1.5
    pad = math.exp(0.03 * (math.log(high) - math.log(low)))
    low, high = low / pad, high * pad
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / max(n, 2)))
    ticks = [10.0**k for k in range(first, last + 1, stride)]
    if last - first < 2:
        fine = [m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5)]
        ticks = [t for t in fine if low <= t <= high]
    if len(ticks) < 2:  # less than about half a decade: equal steps read better
        inner = linear_axis(low, high, n, whole=False)
        return Axis(low, high, True, inner.ticks, inner.labels)
    return Axis(low, high, True, ticks, [_log_label(t) for t in ticks])


def _label(tick: float, step: float) -> str:
    if tick == 0 or abs(tick) < 1e-9 * step:
        return "0"
    exponent = math.floor(math.log10(step) + 1e-9)
    if exponent < -4 or abs(tick) >= 1e6:
        return plain(tick, 3)
    text = f"{tick:,.{max(0, -exponent)}f}"
    return typographic(text.replace(",", "\u202f") if abs(tick) >= 1e4 else text.replace(",", ""))


def _log_label(tick: float) -> str:
    exponent = math.floor(math.log10(tick) + 1e-9)
    if -3 <= exponent <= 3:
        return f"{tick:.{max(0, -exponent)}f}"
    mantissa = round(tick / 10.0**exponent)
    return ("" if mantissa == 1 else f"{mantissa}\u00d7") + power_of_ten(exponent)
