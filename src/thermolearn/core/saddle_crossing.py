"""First-order points: where the free energies of two branches cross."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from thermolearn.core.estimate import Estimate, difference
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.core.saddle_curve import Curve
from thermolearn.core.saddle_newton import EPS
from thermolearn.core.saddle_state import SaddleState

if TYPE_CHECKING:
    from thermolearn.core.saddle_point import SaddlePoint

# Step along the branches, in units of the interval.
STEP = 0.05


class BranchEndError(ValueError):
    """A branch ends, at a fold or at the border of its domain, before what was looked for.

    Attributes
    ----------
    branch : str
        "a" or "b".
    end : float
        Value of the control parameter where it ends.
    """

    def __init__(self, message: str, branch: str, end: float):
        super().__init__(message)
        self.branch = branch
        self.end = end


@dataclass(frozen=True, eq=False)
class Transition:
    """A crossing of the free energies of two branches.

    Attributes
    ----------
    value : Estimate
        The control parameter at the crossing, with its numerical error.
    a, b : SaddleState
        The two states there.
    jump : Estimate
        d(f_a - f_b)/d(parameter), how fast they cross: in T, the jump of entropy S_b - S_a.
    """

    value: Estimate
    a: SaddleState
    b: SaddleState
    jump: Estimate


def crossing(
    model: SaddlePoint, a: SaddleState, b: SaddleState, parameter: str, lo: float, hi: float
) -> Transition:
    """Where f_a = f_b; see `SaddlePoint.first_order`."""
    pieces = [_monotone(model, state, parameter, lo, hi) for state in (a, b)]
    first = max(float(x[0]) for x, _, _ in pieces)
    last = min(float(x[-1]) for x, _, _ in pieces)
    if not first < last:
        _refuse(pieces, parameter, lo, hi, "they do not coexist")
    grid = np.unique(np.concatenate([x for x, _, _ in pieces] + [[first, last]]))
    grid = grid[(grid >= first) & (grid <= last)]
    gap = [np.interp(grid, x, f) for x, f, _ in pieces]
    gap = gap[0] - gap[1]
    if np.abs(gap).max() < 1e-10:
        raise ValueError("branch_a and branch_b are the same branch: f is equal everywhere")
    changes = np.flatnonzero(gap[:-1] * gap[1:] < 0)
    if len(changes) == 0:
        order = "lower" if gap[len(gap) // 2] < 0 else "higher"
        _refuse(pieces, parameter, lo, hi, f"f of branch a stays {order}")

    def states(c: float) -> tuple[SaddleState, SaddleState]:
        pair = [next(s for curve in curves for s in curve.at(c)) for _, _, curves in pieces]
        return pair[0], pair[1]

    def difference_at(c: float) -> float:
        one, other = states(c)
        return float(one.f) - float(other.f)

    k = int(changes[0])
    root = bracketed_root(difference_at, float(grid[k]), float(grid[k + 1]), 1e-15)
    one, other = states(root)
    jump = difference(one.derivative(parameter), other.derivative(parameter))
    gap_here = difference(one.f, other.f)
    error = (abs(float(gap_here)) + float(gap_here.stderr)) / max(abs(float(jump)), EPS)
    note = "" if len(changes) == 1 else f"the first of {len(changes)} crossings in the interval"
    return Transition(Estimate(root, error + 4 * EPS * abs(root), note=note), one, other, jump)


Piece = tuple[np.ndarray, np.ndarray, list[Curve]]


def _monotone(
    model: SaddlePoint, state: SaddleState, parameter: str, lo: float, hi: float
) -> Piece:
    """The branch of a state between its folds: parameter ascending, f, and the curves."""
    here = state.controls[parameter]
    curves = [
        model.continuation(state, parameter, (here, end), step=STEP, through_folds=False)
        for end in (lo, hi)
        if end != here
    ]
    values = np.concatenate([c.values for c in curves])
    f = np.concatenate([c.f for c in curves])
    values, index = np.unique(values, return_index=True)
    return values, f[index], curves


def _refuse(pieces: list[Piece], parameter: str, lo: float, hi: float, finding: str) -> NoReturn:
    for name, (values, _, _) in zip("ab", pieces, strict=True):
        for end, bound in ((values[0], lo), (values[-1], hi)):
            if abs(end - bound) > 1e-9 * max(1.0, abs(bound)):
                raise BranchEndError(
                    f"no first-order point: branch {name} ends at {parameter} = {end:.6g} inside "
                    f"[{lo:.6g}, {hi:.6g}], and {finding} where both exist",
                    name,
                    float(end),
                )
    raise ValueError(
        f"no first-order point in [{lo:.6g}, {hi:.6g}]: {finding} though both branches exist there"
    )
