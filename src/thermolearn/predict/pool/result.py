"""The predicted learning curve of a pool: numbers, samples for a target error, figure, file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.checks import real
from thermolearn.core.json_ready import json_ready
from thermolearn.predict.pool.self_check import FEW, Check

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.predict.pool.validation import Measured

QUANTITIES = ("error", "error_rate")


@dataclass(frozen=True, eq=False)
class Curve:
    """A line over sample numbers with its band; NaN where refused.

    Attributes
    ----------
    n, value, lower, upper : ndarray (points,)
    """

    n: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class SamplesNeeded:
    """How many samples a target needs.

    Attributes
    ----------
    n : float
        Where the curve reaches the target; NaN if it does not within 10 pools.
    interval : (float, float)
        Where the lower and the upper end of the band reach it; inf if that end does not.
    status : str
        "ok", "few samples: ...", "extrapolated: ..." (more samples than the pool has) or
        "refused: ..."; and whether the curve was corrected, or rises again.
    """

    n: float
    interval: tuple[float, float]
    status: str

    def __iter__(self) -> Any:
        """Unpacks as n, interval, status."""
        return iter((self.n, self.interval, self.status))


@dataclass(frozen=True, eq=False)
class PoolCurve:
    """Predicted test error of kernel regression, averaged over training sets of n samples.

    Attributes
    ----------
    n : ndarray (sizes,)
    test_error, lower, upper : ndarray (sizes,)
        Mean squared error on new samples as a fraction of the target's variance, and the band at
        `confidence`. NaN where refused. Times `variance`: in the squared units of the target.
    stderr : ndarray (sizes,)
        Sampling error of the pool alone (jackknife; of a corrected curve that of the measurement);
        NaN beyond the pool.
    error_rate, error_rate_lower, error_rate_upper : ndarray (sizes,) or None
        Share of new samples put into a wrong class; None in regression.
    kappa, df1, gamma : ndarray (sizes,)
        Resolution of n samples: modes with eigenvalue above kappa are learned; effective number of
        modes; share df2/n of the variance. NaN beyond the pool.
    status : tuple of str
        Per size: "ok", "few samples: ...", "corrected: ..." (the theory is contradicted by this
        pool), "uncertain: ..." (sampling error above 35%: a few samples carry the error, and the
        band can be too narrow), "extrapolated: ..." or "refused: ...".
    pool : int
        M, the samples the prediction comes from.
    ridge, variance, confidence : float
    task : str
    error_curve : Curve
        On a fine grid up to 10 pools; what the figure draws and `samples_needed` reads.
    rate_curve : Curve or None
    flags, notes : tuple of str
        What limits the prediction; what was done to the data.
    check, rate_check : Check or None
        The theory alone beside kernel machines on random parts of the pool: its own accuracy on
        these data. None if not asked for; `rate_check` also in regression.
    """

    n: np.ndarray
    test_error: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    stderr: np.ndarray
    error_rate: np.ndarray | None
    error_rate_lower: np.ndarray | None
    error_rate_upper: np.ndarray | None
    kappa: np.ndarray
    df1: np.ndarray
    gamma: np.ndarray
    status: tuple[str, ...]
    pool: int
    ridge: float
    variance: float
    confidence: float
    task: str
    error_curve: Curve
    rate_curve: Curve | None = None
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    check: Check | None = None
    rate_check: Check | None = None

    def samples_needed(self, target: float, quantity: str = "error") -> SamplesNeeded:
        """Number of samples at which the error (a fraction of the variance) or rate is `target`.

        The first n at which the curve has come down to the target. The interval is where the two
        ends of the band come down to it: the same confidence as the band's.

        Raises
        ------
        ValueError
            A target that is not positive, another quantity, or a rate in regression.
        """
        target = real("target", target, above=0.0)
        curve = self._curve(quantity)
        reach = _reaches(curve.n, curve.value, target)
        interval = (
            _reaches(curve.n, curve.lower, target),
            _reaches(curve.n, curve.upper, target),
        )
        if math.isinf(reach):
            known = curve.value[np.isfinite(curve.value)]
            least = f"{known.min():.3g}" if len(known) else "nothing"
            why = f"refused: the predicted curve comes down to {least}, not to {target:g}"
            return SamplesNeeded(math.nan, interval, why)
        status = "ok"
        if reach > self.pool:
            status = f"extrapolated: more than the pool of {self.pool}"
        elif reach <= curve.n[0]:
            status = f"ok: reached at the fewest samples considered, {curve.n[0]:g}"
        elif reach < FEW:
            status = f"few samples: below {FEW} the theory has errors of order 1/n"
        check = self.check if quantity == "error" else self.rate_check
        if check is not None and check.corrected:
            status += "; on a curve corrected by measurement"
        above = curve.n[(curve.n > reach) & (curve.value > target)]
        if len(above):
            status += f"; the curve rises above the target again, up to n = {above[-1]:.0f}"
        return SamplesNeeded(reach, interval, status)

    def _curve(self, quantity: str) -> Curve:
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity must be one of {', '.join(QUANTITIES)}, got {quantity!r}")
        curve = self.error_curve if quantity == "error" else self.rate_curve
        if curve is None:
            raise ValueError("a regression curve has no error rate; use quantity='error'")
        return curve

    def figure(
        self,
        measured: Sequence[Measured] = (),
        quantity: str = "error",
        title: str = "",
    ) -> Drawing:
        """The curve with its band, and measured points with bars, on logarithmic axes.

        Parameters
        ----------
        measured : sequence of Measured
            Of `measure_kernel_machine` and `measure_networks`.
        quantity : "error" or "error_rate"

        Raises
        ------
        TypeError
            Something else than measurements.
        """
        from thermolearn.predict.pool.figure import draw
        from thermolearn.predict.pool.validation import Measured

        if isinstance(measured, str) or not all(isinstance(p, Measured) for p in measured):
            raise TypeError(
                "measured must be a sequence of Measured, of measure_kernel_machine "
                "or measure_networks"
            )
        return draw(self, self._curve(quantity), measured, quantity, title)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that are not finite become None."""
        return json_ready(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> PoolCurve:
        """Inverse of `to_dict`.

        Raises
        ------
        ValueError
            Not the dictionary of a curve.
        """
        missing = {f.name for f in fields(cls)} - {"check", "rate_check"} - row.keys()
        if missing:
            inside = "; give the part under 'curve'" if "curve" in row else ""
            raise ValueError(f"not a predicted curve: {sorted(missing)[0]} is missing{inside}")
        texts = ("status", "flags", "notes")
        values: dict[str, Any] = {
            k: _array(v) if isinstance(v, list) else v for k, v in row.items() if k not in texts
        }
        values |= {k: tuple(row[k]) for k in texts}
        for name in ("error_curve", "rate_curve"):
            if row[name] is not None:
                values[name] = Curve(**{k: _array(v) for k, v in row[name].items()})
        for name in ("check", "rate_check"):
            if row.get(name) is not None:
                stored: dict[str, Any] = {
                    k: _array(v) if isinstance(v, list) else v for k, v in row[name].items()
                }
                values[name] = Check(**stored)
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PoolCurve:
        """Inverse of `save`."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def _reaches(n: np.ndarray, values: np.ndarray, target: float) -> float:
    """First n with values <= target, between grid points on log scales; inf if never."""
    below = np.flatnonzero(values <= target)
    if not len(below):
        return math.inf
    k = int(below[0])
    if k == 0:
        return float(n[0])
    # values can be 0 (an error rate): interpolate the value, not its logarithm
    share = (values[k - 1] - target) / (values[k - 1] - values[k])
    return float(n[k - 1] * (n[k] / n[k - 1]) ** share)


def _array(values: list[Any]) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)
