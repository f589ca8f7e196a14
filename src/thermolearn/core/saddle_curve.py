"""A branch of saddle points along a control parameter, as it was followed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.saddle_state import SaddleState

if TYPE_CHECKING:
    from thermolearn.core.saddle_point import SaddlePoint


@dataclass(frozen=True, eq=False)
class SpecialPoint:
    """A fold (spinodal) or a bifurcation on a curve.

    Attributes
    ----------
    kind : str
        "fold": the branch turns back, and stability against one mode is lost. "bifurcation":
        another branch crosses (a simple eigenvalue of the Hessian changes sign without a fold, or
        with one where a symmetric pair of branches meets: a pitchfork).
    value : Estimate
        The control parameter there, with its numerical error.
    order_parameters : dict of float
    f : float
    position : float
        Place on the curve, in units of its points.
    """

    kind: str
    value: Estimate
    order_parameters: dict[str, float]
    f: float
    position: float


@dataclass(frozen=True, eq=False)
class Curve:
    """A branch of saddle points followed in a control parameter; see `SaddlePoint.continuation`.

    Attributes
    ----------
    parameter : str
    values : ndarray (k,)
        The control parameter along the curve; it turns back at folds.
    order_parameters : dict of ndarray (k,)
    f : ndarray (k,)
    stable : ndarray (k,) of bool
        Whether the Hessian has the declared signature.
    index : ndarray (k,) of int
        Negative eigenvalues of the Hessian.
    replicon : ndarray (k,) or None
    residual : float
        Largest |grad f| on the curve.
    special : tuple of SpecialPoint
        Folds and bifurcations in the order of the curve.
    end : str
        Why it ends: "interval" (the parameter reached an end of it), "fold" (if asked to stop),
        "border" (an order parameter reached an end of its open domain, `border` names it), or
        "max_points".
    border : str or None
    """

    parameter: str
    values: np.ndarray
    order_parameters: dict[str, np.ndarray]
    f: np.ndarray
    stable: np.ndarray
    index: np.ndarray
    replicon: np.ndarray | None
    residual: float
    special: tuple[SpecialPoint, ...]
    end: str
    border: str | None
    model: SaddlePoint = field(repr=False)
    controls: dict[str, Any] = field(repr=False)

    @property
    def spinodals(self) -> tuple[SpecialPoint, ...]:
        """The folds."""
        return tuple(s for s in self.special if s.kind == "fold")

    @property
    def bifurcations(self) -> tuple[SpecialPoint, ...]:
        return tuple(s for s in self.special if s.kind == "bifurcation")

    def at(self, value: float) -> tuple[SaddleState, ...]:
        """The states at a value of the parameter, in the order of the curve; () if none.

        Raises
        ------
        ConvergenceError
            The solution nearest to the curve is not on it (next to a fold or bifurcation).
        """
        x = np.stack(list(self.order_parameters.values()), axis=1)
        found: list[SaddleState] = []
        for k, (a, b) in enumerate(itertools.pairwise(self.values)):
            last = k == len(self.values) - 2
            if not (min(a, b) <= value <= max(a, b)) or (value == b and not last):
                continue
            share = (value - a) / (b - a) if b != a else 0.0
            guess = x[k] + share * (x[k + 1] - x[k])
            state = self.model.solve(guess, **(self.controls | {self.parameter: value}))
            scale = self.model.functional.scale(guess)
            room = np.linalg.norm((x[k + 1] - x[k]) / scale) + 1e-4
            if np.linalg.norm((state.x - guess) / scale) > room:
                raise ConvergenceError(
                    f"the solution at {self.parameter} = {value:.6g} jumps off the curve: "
                    "too close to a fold or bifurcation, or follow the branch with a smaller step"
                )
            found.append(state)
        return tuple(found)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per point, for a table."""
        columns = {self.parameter: self.values, **self.order_parameters, "f": self.f}
        columns |= {"stable": self.stable, "index": self.index}
        if self.replicon is not None:
            columns["replicon"] = self.replicon
        return [{k: v[i].item() for k, v in columns.items()} for i in range(len(self.values))]
