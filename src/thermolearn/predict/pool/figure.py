"""The figure of a predicted learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core.drawing import COLORS, Drawing

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
    """See `PoolCurve.figure`; dashed beyond the pool."""
    drawing = Drawing(title, size=(6.4, 4.2))
    drawing.parameters.update({"pool": result.pool, "ridge": result.ridge, "task": result.task})
    ax = drawing.axes[0, 0]
    ax.set(xlabel="training samples", ylabel=LABELS[quantity], xscale="log", yscale="log")
    asked = max([float(result.n.max()), *(float(np.max(m.n)) for m in measured)])
    shown = np.isfinite(curve.value) & (curve.value > 0) & (curve.n <= max(asked, result.pool))
    n, value = curve.n[shown], curve.value[shown]
    # a lower end of zero has no place on a logarithmic axis
    lower = np.maximum(curve.lower[shown], value / 30)
    upper = curve.upper[shown]
    ax.fill_between(n, lower, upper, color=COLORS[0], alpha=0.15, lw=0)
    inside = n <= result.pool * (1 + 1e-9)
    drawing.theory(ax, n[inside], value[inside], label="predicted", quantity=quantity)
    for end, name in ((lower, "lower"), (upper, "upper")):
        drawing.theory(ax, n, end, linestyle=":", band=name, confidence=result.confidence)
    if not inside.all():
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
    ax.legend(frameon=False)
    return drawing
