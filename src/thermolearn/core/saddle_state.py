"""A saddle point with its error bars, and the set of those found at one setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.saddle_functional import check_parameter
from thermolearn.core.saddle_newton import EPS

if TYPE_CHECKING:
    from thermolearn.core.saddle_point import SaddlePoint


@dataclass(frozen=True, eq=False)
class SaddleState:
    """A saddle point of the free energy; the order parameters are attributes too (``state.m``).

    Attributes
    ----------
    order_parameters : dict of Estimate
        stderr bounds the distance to the exact solution (Newton and Kantorovich). The error of
        quadratures inside the functional is the user's and not in it.
    f : Estimate
        The free energy.
    residual : float
        max |grad f| at these values.
    eigenvalues : ndarray (n,)
        Of the Hessian of f in the order parameters, ascending.
    index : int
        Number of negative eigenvalues.
    stable : bool
        Whether f has the declared signature; see `SaddlePoint`.
    replicon : float or None
        The de Almeida-Thouless eigenvalue of the user's `replicon` function.
    controls : dict
        The control parameters.
    status : str
        "ok"; "degenerate" at a critical point or fold, where the error bars are those of a double
        root; "border" where an order parameter has run into an end of its open domain.
    reached : int
        Number of starts of `SaddlePoint.branches` that led here.
    """

    order_parameters: dict[str, Estimate]
    f: Estimate
    residual: float
    eigenvalues: np.ndarray
    index: int
    stable: bool
    replicon: float | None
    controls: dict[str, Any]
    status: str
    model: SaddlePoint = field(repr=False)
    hessian: np.ndarray = field(repr=False)
    reached: int = 1

    def __getattr__(self, name: str) -> Estimate:
        found = self.__dict__.get("order_parameters", {})
        if name in found:
            return found[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or order parameter {name!r}")

    @property
    def converged(self) -> bool:
        """The certificate holds; a solve that fails raises instead."""
        return self.residual <= self.model.tol

    @property
    def at_stable(self) -> bool | None:
        """Stable against replica symmetry breaking: replicon > 0; None without a `replicon`."""
        return None if self.replicon is None else self.replicon > 0

    @property
    def x(self) -> np.ndarray:
        """The order parameters as an array, in the order of the declaration."""
        return np.array([float(v) for v in self.order_parameters.values()])

    def derivative(self, control: str) -> Estimate:
        """df/d(control) along the branch, the partial derivative by the envelope theorem.

        The entropy is ``-state.derivative("T")``.

        Raises
        ------
        ValueError
            The name is not that of a numerical control parameter, or f does not depend on it
            through torch operations.
        """
        gradient, hessian = self._jet_with(control)
        error = np.abs(hessian[:-1, -1]) @ self.errors + 8 * EPS * max(1.0, abs(gradient[-1]))
        return Estimate(gradient[-1], error, status=self.status)

    def response(self, control: str) -> dict[str, Estimate]:
        """d(order parameter)/d(control) along the branch, -H^-1 d(grad f)/d(control).

        Diverges at a spinodal. To first order in the error of the solution; raises as `derivative`.
        """
        _, hessian = self._jet_with(control)
        inverse = np.linalg.pinv(self.hessian, rcond=EPS, hermitian=True)
        slope = -inverse @ hessian[:-1, -1]
        # relative change of H over the error bar, by the change of the solution that it makes
        error = np.abs(inverse) @ np.abs(self.hessian) @ np.abs(slope) * 64 * EPS
        error = error + np.abs(slope) * float(self.errors.max())
        return {
            name: Estimate(slope[i], error[i], status=self.status)
            for i, name in enumerate(self.order_parameters)
        }

    @property
    def errors(self) -> np.ndarray:
        """The error bars of `x`."""
        return np.array([float(v.stderr) for v in self.order_parameters.values()])

    def _jet_with(self, control: str) -> tuple[np.ndarray, np.ndarray]:
        functional = self.model.functional
        check_parameter(functional, control, self.controls)
        y = np.append(self.x, self.controls[control])
        functional.check_gradient(y, self.controls, control)
        jet = functional.jet(y, self.controls, control)
        return jet.gradient, jet.hessian


@dataclass(frozen=True, eq=False)
class Branches:
    """All saddle points found at one setting, sorted by f; behaves as a sequence of them.

    Attributes
    ----------
    states : tuple of SaddleState
    starts, failed : int
        Starts tried, and those among them that led nowhere.
    """

    states: tuple[SaddleState, ...]
    starts: int
    failed: int

    def __iter__(self) -> Iterator[SaddleState]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, k: int) -> SaddleState:
        return self.states[k]

    @property
    def stable(self) -> tuple[SaddleState, ...]:
        """Those with the declared signature."""
        return tuple(s for s in self.states if s.stable)

    @property
    def stable_branch(self) -> SaddleState:
        """The stable one of lowest f.

        Raises
        ------
        ConvergenceError
            None of those found is stable.
        """
        if not self.stable:
            raise ConvergenceError(
                f"none of the {len(self)} saddle points found from {self.starts} starts is stable: "
                "add starts, and check the declared maximize and conjugate"
            )
        return self.stable[0]


def same_state(a: SaddleState, b: SaddleState) -> bool:
    """Equal within the error bars, or one part in 10^6."""
    scale = np.maximum(1.0, np.abs(a.x))
    return bool(np.all(np.abs(a.x - b.x) <= 1e-6 * scale + 2 * (a.errors + b.errors)))
