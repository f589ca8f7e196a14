"""Saddle points of a free energy that is written down once: branches, stability, transitions.

The saddle-point equations are the gradient of the functional by automatic differentiation, solved
by a damped Newton iteration with an error bound (Ortega and Rheinboldt, Iterative Solution of
Nonlinear Equations in Several Variables, 1970). Branches are followed through their folds by
pseudo-arclength continuation (Keller, in Applications of Bifurcation Theory, 1977), in
`saddle_continuation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.saddle_continuation import check_values, follow
from thermolearn.core.saddle_crossing import BranchEndError, Transition, crossing
from thermolearn.core.saddle_curve import Curve, SpecialPoint
from thermolearn.core.saddle_functional import (
    Functional,
    Interval,
    UndefinedStartError,
    check_parameter,
    gauss_average,
    log2cosh,
)
from thermolearn.core.saddle_newton import EPS, Stationary, find_stationary, stable_signature
from thermolearn.core.saddle_state import Branches, SaddleState, same_state

__all__ = [
    "BranchEndError",
    "Branches",
    "Curve",
    "SaddlePoint",
    "SaddleState",
    "SpecialPoint",
    "Transition",
    "gauss_average",
    "log2cosh",
]

Start = Mapping[str, float] | Sequence[float]


class SaddlePoint:
    """Saddle points of a free energy f(order parameters; control parameters).

    Parameters
    ----------
    free_energy : callable
        Takes the order parameters and the control parameters by keyword, all as 0-d float64
        tensors, and returns a 0-d float64 tensor made by torch operations:
        ``def f(m, q, *, beta): ...``. Where f does not exist it returns NaN. For Gaussian averages
        see `gauss_average` and `log2cosh`.
    order_parameters : mapping
        Name to open domain (lo, hi), infinite ends allowed, or None for the real line.
    maximize : sequence of str
        Order parameters b in which f is a maximum, as the overlap q of the replica method, whose
        n (n-1)/2 components turn negative in number as n -> 0.
    conjugate : sequence of pairs of str
        An order parameter and its auxiliary (hat) variable, ``[("q", "r")]``, which an integral
        representation of a delta function brings in: a minimum in one direction of their plane and
        a maximum in another.
    replicon : callable, optional
        The de Almeida-Thouless eigenvalue with the arguments of free_energy, positive if the
        replica-symmetric state is stable; returns a tensor or a float.
    tol : float
        Bound on max |grad f|.
    max_iter : int
        Bound on Newton steps per start.

    Notes
    -----
    A state is *stable* if its Hessian H has the declared signature. With c the variables of all
    conjugate pairs, b the maximized and a the other ones: (1) H_cc has exactly one negative
    eigenvalue per pair; with c eliminated by its own equations, H' = H - H_.c H_cc^-1 H_c.,
    (2) f is a maximum over b at fixed a, H'_bb < 0, and (3) that maximum is a minimum over a,
    H'_aa - H'_ab H'_bb^-1 H'_ba > 0. Together they fix the index, the number of negative
    eigenvalues, to (pairs + maximized). At a spinodal the branch loses (3), or (1) or (2) if it has
    no a. Stability against replica symmetry breaking is the separate matter of `replicon`.

    Raises
    ------
    ValueError, TypeError
        Names that do not match the signature, improper domains, or later a functional that does
        not return a float64 scalar or whose derivative is cut.

    Examples
    --------
    >>> import torch
    >>> from thermolearn.core.saddle_point import SaddlePoint, log2cosh
    >>> def curie_weiss(m, *, T, h):
    ...     return m**2 / 2 - T * log2cosh((m + h) / T)
    >>> state = SaddlePoint(curie_weiss, {"m": (-1, 1)}).solve({"m": 0.9}, T=0.5, h=0.0)
    >>> print(f"{state.m:.6f} {state.stable}")
    0.957504 True
    """

    def __init__(
        self,
        free_energy: Callable[..., torch.Tensor],
        order_parameters: Mapping[str, Interval | None] | Sequence[str],
        *,
        maximize: Sequence[str] = (),
        conjugate: Sequence[tuple[str, str]] = (),
        replicon: Callable[..., Any] | None = None,
        tol: float = 1e-10,
        max_iter: int = 200,
    ):
        self.functional = Functional.create(free_energy, order_parameters)
        names = self.functional.names
        if isinstance(conjugate, str) or any(isinstance(p, str) or len(p) != 2 for p in conjugate):
            raise ValueError(f'conjugate must be pairs such as [("q", "r")], got {conjugate!r}')
        paired = [name for pair in conjugate for name in pair]
        for option, chosen in (("maximize", maximize), ("conjugate", paired)):
            if isinstance(chosen, str) or not set(chosen) <= set(names):
                raise ValueError(f"{option} must name order parameters out of {names}: {chosen!r}")
        if len({*maximize, *paired}) < len(maximize) + len(paired):
            raise ValueError("an order parameter is maximized or in one conjugate pair, only once")
        if not tol > 0 or max_iter < 1:
            raise ValueError(f"tol must be > 0 and max_iter >= 1, got {tol} and {max_iter}")
        if replicon is not None and not callable(replicon):
            raise TypeError("replicon must be a function of the arguments of free_energy")
        self.maximized = [names.index(name) for name in maximize]
        self.conjugate = [names.index(name) for name in paired]
        self.replicon = replicon
        self.tol, self.max_iter = float(tol), int(max_iter)
        self._gradient_checked = False

    def solve(self, start: Start | SaddleState, /, **controls: Any) -> SaddleState:
        """The saddle point reached from a start by damped Newton steps.

        Newton's method is drawn to stationary points of every kind: look at `.stable`, and choose
        the start on the branch that is wanted.

        Parameters
        ----------
        start : mapping, sequence or SaddleState
            Value of every order parameter, inside its domain.
        **controls
            Value of every control parameter.

        Raises
        ------
        ConvergenceError
            No saddle point is reached.
        ValueError, TypeError
            Unknown or missing names, a start outside the domain or where f is not finite, or a
            functional that breaks the rules of `SaddlePoint`.
        """
        values = self.functional.check_controls(controls)
        return self._solve(self._start(start), values)

    def branches(
        self,
        starts: Sequence[Start | SaddleState] | None = None,
        /,
        *,
        n_starts: int = 32,
        seed: int = 0,
        **controls: Any,
    ) -> Branches:
        """All distinct saddle points reached from given and quasi-random starts, sorted by f.

        Parameters
        ----------
        starts : sequence, optional
            Starts as for `solve`, tried first.
        n_starts : int
            Scrambled Sobol points in the domain tried after them, >= 0; infinite directions are
            sampled on the scale 1, and points where f is not finite are passed over.
        seed : int
            Of the Sobol points.
        **controls
            Value of every control parameter.

        Raises
        ------
        ConvergenceError
            No start converges.
        ValueError, TypeError
            As `solve`.
        """
        values = self.functional.check_controls(controls)
        if n_starts < 0 or (n_starts == 0 and not starts):
            raise ValueError("branches needs at least one start: give starts or n_starts > 0")
        points = [self._start(s) for s in starts or ()]
        points += self.functional.random_starts(n_starts, seed, values)
        if not points:
            raise ConvergenceError(
                f"free_energy is not finite at any of {8 * n_starts} points of the domain: check "
                f"the control parameters {values}"
            )
        found: list[SaddleState] = []
        failed = 0
        for x in points:
            try:
                state = self._solve(x, values, checked=True)
            except (ConvergenceError, UndefinedStartError):
                failed += 1
                continue
            same = [k for k, other in enumerate(found) if same_state(state, other)]
            if same:
                k = same[0]
                better = min(found[k], state, key=lambda s: float(s.errors.max()))
                found[k] = replace(better, reached=found[k].reached + 1)
            else:
                found.append(state)
        if not found:
            raise ConvergenceError(
                f"none of {len(points)} starts led to a saddle point: give starts near a solution, "
                "or check the domains"
            )
        found.sort(key=lambda s: float(s.f))
        return Branches(tuple(found), len(points), failed)

    def continuation(
        self,
        start: Start | SaddleState,
        parameter: str,
        values: Sequence[float] | np.ndarray,
        /,
        *,
        step: float = 0.02,
        max_points: int = 2000,
        through_folds: bool = True,
        **controls: Any,
    ) -> Curve:
        """The branch through a start, followed in one control parameter and around its folds.

        Parameters
        ----------
        start : mapping, sequence or SaddleState
            A start for `solve` at ``values[0]``.
        parameter : str
            The control parameter to change.
        values : sequence of float
            First and last value of the parameter; the curve ends where it reaches either of them,
            also after turning around. Values in between are what `Curve.at` is for.
        step : float
            Longest step along the curve, in units of the interval and of the scales of the order
            parameters; features closer together than this can be missed.
        max_points : int
            Bound on the points of the curve.
        through_folds : bool
            False: the curve ends at its first fold.
        **controls
            The other control parameters; those of a SaddleState are kept unless given.

        Raises
        ------
        ConvergenceError
            No solution at the start, or the curve is lost inside the domain.
        ValueError, TypeError
            As `solve`, or values that are not two or more different finite numbers.
        """
        ends = check_values(values)
        if not 1e-6 < step <= 0.2 or max_points < 3:
            raise ValueError(
                f"step must lie in (1e-6, 0.2] and max_points be >= 3, got {step}, {max_points}"
            )
        inherited = dict(start.controls) if isinstance(start, SaddleState) else {}
        checked = self.functional.check_controls(inherited | controls | {parameter: ends[0]})
        check_parameter(self.functional, parameter, checked)
        first = self._solve(self._start(start), checked)
        y = np.append(first.x, ends[0])
        self.functional.check_gradient(y, checked, parameter)
        return follow(self, first, parameter, ends, step, max_points, through_folds)

    def first_order(
        self,
        branch_a: Start | SaddleState,
        branch_b: Start | SaddleState,
        parameter: str,
        lo: float,
        hi: float,
        /,
        **controls: Any,
    ) -> Transition:
        """Where the free energies of two branches cross in a control parameter.

        Parameters
        ----------
        branch_a, branch_b : SaddleState, mapping or sequence
            A state on each branch, with its parameter inside [lo, hi]; or a start for `solve` at
            ``lo``.
        parameter : str
            The control parameter.
        lo, hi : float
            Where to look, lo < hi. Each branch is followed as far as its folds.
        **controls
            The other control parameters; those of a SaddleState are kept unless given.

        Raises
        ------
        BranchEndError
            A branch ends inside the interval, and there is no crossing before.
        ValueError
            No crossing although both branches exist throughout, the same branch twice, or names
            and values that do not fit.
        ConvergenceError
            A start does not converge.
        """
        if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
            raise ValueError(f"first_order needs finite lo < hi, got {lo} and {hi}")
        states = []
        for branch in (branch_a, branch_b):
            inherited = dict(branch.controls) if isinstance(branch, SaddleState) else {}
            merged = {parameter: lo} | inherited | controls
            states.append(self.solve(branch, **merged))
            if not lo <= states[-1].controls[parameter] <= hi:
                raise ValueError(
                    f"a branch is given at {parameter} = {states[-1].controls[parameter]:.6g}, "
                    f"outside [{lo:.6g}, {hi:.6g}]"
                )
        check_parameter(self.functional, parameter, states[0].controls)
        return crossing(self, states[0], states[1], parameter, float(lo), float(hi))

    # -- the pieces --------------------------------------------------------------------------
    def _start(self, start: Start | SaddleState) -> np.ndarray:
        names = self.functional.names
        if isinstance(start, SaddleState):
            numbers = start.x.tolist()
        elif isinstance(start, Mapping):
            unknown = [k for k in start if k not in names]
            missing = [k for k in names if k not in start]
            if unknown or missing:
                wrong = f"unknown {unknown}" if unknown else f"missing {missing}"
                raise ValueError(f"start must give every order parameter of {names}: {wrong}")
            numbers = [float(start[k]) for k in names]
        else:
            numbers = [float(v) for v in np.atleast_1d(np.asarray(start, dtype=np.float64))]
        if len(numbers) != len(names):
            raise ValueError(f"start has {len(numbers)} values for {names}")
        x = np.array(numbers)
        if not np.isfinite(x).all() or not self.functional.inside(x):
            domain = zip(names, self.functional.lower, self.functional.upper, strict=True)
            wanted = ", ".join(f"{k} in ({lo:g}, {hi:g})" for k, lo, hi in domain)
            raise ValueError(f"start {numbers} lies outside the open domain {wanted}")
        return x

    def _solve(self, x: np.ndarray, controls: dict[str, Any], checked: bool = False) -> SaddleState:
        functional = self.functional
        first = functional.jet(x, controls)
        if not first.finite:
            place = ", ".join(f"{k} = {v:.6g}" for k, v in zip(functional.names, x, strict=True))
            raise UndefinedStartError(
                f"free_energy or a derivative is not finite at the start {place}: start where it "
                "exists, or narrow the domain"
            )
        if not (checked and self._gradient_checked):
            functional.check_gradient(x, controls)
            self._gradient_checked = True
        found = find_stationary(
            lambda y: functional.jet(y, controls), x, functional, self.tol, self.max_iter
        )
        return self._state(found, controls)

    def _state(self, found: Stationary, controls: dict[str, Any]) -> SaddleState:
        jet = found.jet
        eigenvalues = np.linalg.eigvalsh(jet.hessian)
        # f is stationary: its error is of second order in that of x
        error = np.abs(jet.gradient) @ found.error + 8 * EPS * max(1.0, abs(jet.value))
        error += found.error @ np.abs(jet.hessian) @ found.error / 2
        return SaddleState(
            order_parameters={
                name: Estimate(found.x[i], found.error[i], status=found.status)
                for i, name in enumerate(self.functional.names)
            },
            f=Estimate(jet.value, error, status=found.status),
            residual=float(np.abs(jet.gradient).max()),
            eigenvalues=eigenvalues,
            index=int((eigenvalues < 0).sum()),
            stable=self._stable(jet.hessian),
            replicon=self._replicon(found.x, controls),
            controls=controls,
            status=found.status,
            model=self,
            hessian=jet.hessian,
        )

    def _stable(self, hessian: np.ndarray) -> bool:
        return stable_signature(hessian, self.maximized, self.conjugate)

    def _replicon(self, x: np.ndarray, controls: dict[str, Any]) -> float | None:
        if self.replicon is None:
            return None
        numbers = dict(zip(self.functional.names, x, strict=True)) | controls
        arguments = {
            k: v if isinstance(v, torch.Tensor) else torch.tensor(float(v), dtype=torch.float64)
            for k, v in numbers.items()
        }
        value = float(self.replicon(**arguments))
        if math.isnan(value):
            raise ValueError("replicon returned NaN at the saddle point")
        return value
