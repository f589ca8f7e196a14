"""Significance: what the error bars of a run allow to say, at 99% confidence, one-sided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from thermolearn.report.numbers import count, percent, plain, with_error
from thermolearn.report.reader import Run, Series

Z99 = 2.326  # one-sided 99% quantile of the normal distribution
T99 = 2.896  # the same for Student's t with 8 degrees of freedom
LOST = math.log(1e4)  # gradient of the last layer over that of the first, or its inverse
DRIFT = 4.0  # standard errors beyond which the parameters drift
BLOCKS = 10  # a trend is fitted through the means of so many blocks


def z99(tries: int = 1) -> float:
    """One-sided 99% quantile for the worst of `tries` numbers (Bonferroni)."""
    return Z99 if tries <= 1 else NormalDist().inv_cdf(1 - 0.01 / tries)


def z_score(change: float, error: float) -> float:
    """A change in standard errors; infinite for an exact change, 0 for an unknown error."""
    if error > 0:
        return change / error
    return math.copysign(math.inf, change) if change and error == 0 else 0.0


def text_at(series: Series, k: int) -> str:
    """The k-th value of a series with its error."""
    return with_error(float(series.value[k]), float(series.stderr[k]))


@dataclass(frozen=True)
class Ratio:
    """A ratio with its error and its 99% limits; the value is NaN where only a limit is known."""

    value: float
    error: float
    lower: float
    upper: float

    @classmethod
    def of(cls, value: float, error: float) -> Ratio:
        return cls(value, error, value - Z99 * error, value + Z99 * error)

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"> {plain(self.lower, 2)}"
        return with_error(self.value, self.error)


def trend(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Relative change of y over the stretch x by a straight line, with its error.

    The line goes through the means of ten blocks (longer than the correlation of neighboring
    minibatches); its error comes from their scatter (8 degrees of freedom). None: fewer than 20
    points, or a level that is not positive.
    """
    if len(y) < 2 * BLOCKS:
        return None
    mean_x = np.array([b.mean() for b in np.array_split(x, BLOCKS)])
    mean_y = np.array([b.mean() for b in np.array_split(y, BLOCKS)])
    level, dx = float(mean_y.mean()), mean_x - mean_x.mean()
    spread = float((dx**2).sum())
    if not level > 0 or spread == 0:
        return None
    slope = float((dx * mean_y).sum() / spread)
    residual = mean_y - level - slope * dx
    error = math.sqrt(float((residual**2).sum()) / (BLOCKS - 2) / spread)
    scale = float(x[-1] - x[0]) / level
    return slope * scale, error * scale


def sharpness_ratio(run: Run) -> Ratio | None:
    """Sharpness over the stability edge; None unless both and the error bar are known."""
    home = curvature_home(run)
    (sharp, error), (edge, _) = _pair(run, "sharpness", home), _pair(run, "stability_edge", home)
    if not edge > 0 or not math.isfinite(sharp) or not math.isfinite(error):
        return None
    return Ratio.of(sharp / edge, error / edge)


def curvature_home(run: Run) -> str:
    """The quantity that holds the sharpness: older files have it beside the gradient noise."""
    return "curvature" if "curvature" in run.snapshots else "gradient_noise"


def noise_ratio(run: Run) -> Ratio | None:
    """Noise scale over batch size.

    Where the squared gradient is not resolved (below 2.326 of its errors) only the lower limit is
    known: the least noise over the largest squared gradient.
    """
    (scale, error), (batch, _) = _pair(run, "noise_scale"), _pair(run, "batch_size")
    if not batch > 0:
        return None
    square, square_error = _pair(run, "gradient_norm_squared")
    trace, trace_error = _pair(run, "noise_trace")
    unresolved = square <= Z99 * square_error  # False if either is NaN
    if unresolved or not (math.isfinite(scale) and math.isfinite(error) and scale > 0):
        top = square + Z99 * square_error
        limit = (trace - Z99 * trace_error) / top / batch if top > 0 else math.nan
        return Ratio(math.nan, math.nan, limit, math.inf) if limit > 0 else None
    return Ratio.of(scale / batch, error / batch)


def _pair(run: Run, name: str, quantity: str = "gradient_noise") -> tuple[float, float]:
    e = run.scalar(quantity, name)
    if e is None or e.status not in ("ok", "under-sampled"):
        return math.nan, math.nan
    return float(e.value), float(e.stderr)


def lost_gradient(run: Run) -> float | None:
    """ln of how the squared gradient grows from the last layer to the first, at the first
    snapshot; None unless it changes by more than 10^4 at 99% confidence."""
    snapshots = run.snapshots.get("propagation", [])
    if not snapshots:
        return None
    values = snapshots[0].values
    mean, gains = values.get("mean_log_gain"), values.get("gradient_gain")
    if mean is None or gains is None:
        return None
    layers = int(np.isfinite(np.asarray(gains.value, dtype=np.float64)).sum())
    total, error = layers * float(mean.value), layers * float(mean.stderr)
    return total if abs(total) - Z99 * error > LOST else None


def drift_in_words(run: Run) -> str:
    """Whether the norm of the parameters drifts, as the virial relation sees it; empty without."""
    drift, steps, sides, smallest = (
        run.summary_value("virial", name)
        for name in ("drift", "steps", "half_rate_update_squared", "smallest_drift_seen")
    )
    if drift is None or steps is None or sides is None or smallest is None:
        return ""
    span, seen = f"over the last {count(float(steps))} steps", percent(float(smallest))
    if drift.status == "not stationary" or (
        drift.status == "ok" and abs(float(drift)) > DRIFT * float(drift.stderr)
    ):
        return f"The norm of the parameters {'grows' if float(drift) > 0 else 'shrinks'} {span}."
    if drift.status == "under-sampled":
        return (
            f"It cannot be told if the parameters' norm drifts {span}: below {seen} it would not "
            "have been seen."
        )
    return f"No drift of the parameters' norm is seen {span}; above {seen} it would have been."


@dataclass(frozen=True)
class Worst:
    """The layer with the largest fraction: its name, the fraction, its error and 99% limits."""

    layer: str
    value: float
    error: float
    lower: float
    upper: float


def worst_layer(run: Run, name: str) -> Worst | None:
    """The largest of a fraction over the layers, last snapshot; limits hold over all layers."""
    e = run.last("layers", name)
    if e is None:
        return None
    value = np.atleast_1d(np.asarray(e.value, dtype=np.float64))
    error = np.broadcast_to(np.asarray(e.stderr, dtype=np.float64), value.shape)
    k = int(np.nanargmax(value))
    bar = float(error[k]) if np.isfinite(error[k]) else math.inf
    z = z99(int(np.isfinite(value).sum()))
    return Worst(layer_name(run, k), float(value[k]), bar, value[k] - z * bar, value[k] + z * bar)


ALL_LAYERS = "all layers"


def stuck_layer(run: Run) -> str | None:
    """The first layer whose parameters did not change at all; `ALL_LAYERS` if none changed."""
    e = run.last("layers", "update_ratio")
    if e is None:
        return None
    value = np.atleast_1d(np.asarray(e.value, dtype=np.float64))
    still = np.flatnonzero(value == 0)
    if len(still) and not np.nanmax(value) > 0:
        return ALL_LAYERS
    return layer_name(run, int(still[0])) if len(still) else None


def layer_name(run: Run, k: int) -> str:
    """The recorded name of the k-th layer, shortened, or its number."""
    snapshots = run.snapshots.get("layers", [])
    names = snapshots[-1].names if snapshots else []
    name = names[k] if k < len(names) else f"layer {k + 1}"
    return name if len(name) <= 40 else name[:39] + "\u2026"
