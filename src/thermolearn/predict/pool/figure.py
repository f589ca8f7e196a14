"""The figure of a predicted learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.drawing import COLORS, Drawing
from thermolearn.predict.pool.self_check import FEW

if TYPE_CHECKING:
    from thermolearn.predict.pool.result import Curve, PoolCurve
    from thermolearn.predict.pool.validation import Measured

LABELS = {"error": "test error / variance of the target", "error_rate": "error rate"}


def draw(
    result: PoolCurve,
    curve: Curve,
    measured: Sequence[Measured],
    quantity: str,
    title: str,
) -> Drawing:
    """See `PoolCurve.figure`; dashed beyond the pool, dotted below 10 samples."""
    drawing = Drawing(title, size=(6.4, 4.2))
    drawing.parameters.update({"pool": result.pool, "ridge": result.ridge, "task": result.task})
    ax = drawing.axes[0, 0]
    ax.set(xlabel="training samples", ylabel=LABELS[quantity], xscale="log", yscale="log")
    asked = max([float(result.n.max()), *(float(np.max(m.n)) for m in measured)])
    shown = np.isfinite(curve.value) & (curve.value > 0) & (curve.n <= max(asked, result.pool))
    n, value = curve.n[shown], curve.value[shown]
    # a lower end of zero has no place on a logarithmic axis: the band then has no lower line
    lower, upper = curve.lower[shown], curve.upper[shown]
    positive = lower > 0
    ax.fill_between(
        n, np.where(positive, lower, value / 30), upper, color=COLORS[0], alpha=0.15, lw=0
    )
    inside = (n <= result.pool * (1 + 1e-9)) & (n >= min(FEW, n.max()))
    drawing.theory(ax, n[inside], value[inside], label="predicted", quantity=quantity)
    few = n <= (n[inside].min() if inside.any() else np.inf)
    if few.sum() > 1:
        drawing.theory(ax, n[few], value[few], linestyle=":", quantity=quantity, few=True)
    for end, name in ((np.where(positive, lower, np.nan), "lower"), (upper, "upper")):
        known = np.isfinite(end)
        drawing.theory(
            ax, n[known], end[known], linestyle=":", band=name, confidence=result.confidence
        )
    if n.max() > result.pool * (1 + 1e-9):
        beyond = n >= result.pool * (1 - 1e-9)
        drawing.theory(ax, n[beyond], value[beyond], label="extrapolated", linestyle="--")
    for k, points in enumerate(measured, start=1):
        chosen = points.test_error if quantity == "error" else points.error_rate
        if chosen is None:
            continue
        values, errors = np.asarray(chosen.value), np.asarray(chosen.stderr)
        good = np.isfinite(values) & (values > 0)
        drawing.simulation(
            ax, points.n[good], (values[good], errors[good]), label=points.name, color=k,
            draws=points.draws,
        )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        _label(axis)
    ax.legend(frameon=False)
    return drawing


def _label(axis: Any) -> None:
    """Plain numbers at 1, 2, 5 of every decade; over more than three decades at 1 only."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    parts = (1.0, 2.0, 5.0) if high <= 1000 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=parts))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
