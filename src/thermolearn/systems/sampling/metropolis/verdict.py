"""From the eigenvalues of two grids to Lambda with its error and its kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thermolearn.core.estimate import Estimate

# below this gap above the supremum of R a mode is as narrow as the cells: localized in practice
CLEAR_GAP = 5e-4
# of eigenvalues near 1
ROUNDING = 1e-11


@dataclass(frozen=True)
class Level:
    """The slowest mode of a sector on two grids.

    Attributes
    ----------
    fine, coarse : float
        Signed eigenvalues.
    ratio : float
        Of the numbers of cells.
    bound : callable
        Whether a bound state above the continuum is certain, asked when the gap is narrow.
    name : str
        Of the sector.
    """

    fine: float
    coarse: float
    ratio: float
    bound: Callable[[], bool]
    name: str

    @property
    def correction(self) -> float:
        """Of \\|lambda\\| by extrapolation of an error proportional to the squared step."""
        return (abs(self.fine) - abs(self.coarse)) / (self.ratio**2 - 1)

    @property
    def value(self) -> float:
        """Extrapolated \\|lambda\\|."""
        return abs(self.fine) + self.correction

    @property
    def stderr(self) -> float:
        """The size of the correction, and rounding."""
        return abs(self.correction) + 1e-12


def judge(levels: Sequence[Level], top: Estimate, tail: tuple[str, float]) -> Estimate:
    """Lambda: the slowest of isolated modes, the supremum of R, and the tails.

    Parameters
    ----------
    levels : sequence of Level
        One per sector.
    top : Estimate
        Supremum of R.
    tail : (str, float)
        "none" | "linear" | "sublinear", and the edge of the tails' continuum.
    """
    kind, band = tail
    if kind == "sublinear":
        return Estimate(1.0, 0.0, status="no gap", note="U grows more slowly than \\|x\\|")
    edge = max(float(top), band)
    best = max(levels, key=lambda level: level.value)
    gap = best.value - edge
    if 1 - best.value < ROUNDING and gap > ROUNDING:
        note = f"1 - Lambda is below the rounding {ROUNDING:g}: a barrier that is hardly crossed"
        return Estimate(min(best.value, 1.0), ROUNDING, status="cannot tell", note=note)
    if gap > CLEAR_GAP:
        sign = "" if best.fine > 0 else ", a negative eigenvalue"
        return Estimate(best.value, best.stderr, status="isolated", note=f"{best.name} mode{sign}")
    if band > float(top):
        return Estimate(band, 0.0, status="continuum", note="waves in the linear tails of U")
    note = "supremum of the rejection probability"
    if gap > 3 * best.stderr and best.bound():
        note = f"{best.name} mode, bound {gap:.1g} above the {note}"
        return Estimate(best.value, best.stderr, status="localised", note=note)
    stderr = max(float(top.stderr), gap, 0.0)
    return Estimate(float(top), stderr, status="localised", note=note)


def relaxation_time(eigenvalue: Estimate) -> Estimate:
    """-1 / ln Lambda with its error bar, status and note."""
    value, status, note = float(eigenvalue), eigenvalue.status, eigenvalue.note
    if value >= 1 or status == "cannot tell":
        return Estimate(math.inf, math.nan, status=status, note=note)
    if value <= 0:
        return Estimate(0.0, math.nan, status=status, note=note)
    time = -1 / math.log(value)
    return Estimate(time, float(eigenvalue.stderr) * time**2 / value, status=status, note=note)
