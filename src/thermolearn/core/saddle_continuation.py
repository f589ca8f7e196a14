"""Following a branch of saddle points along a control parameter, through folds and bifurcations.

Pseudo-arclength continuation (Keller, in Applications of Bifurcation Theory, 1977; Allgower and
Georg, Numerical Continuation Methods, 1990): the curve grad f(x; c) = 0 in (x, c) is followed along
its tangent, so that a fold, where it turns back in c, is a point like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.core.saddle_curve import Curve, SpecialPoint
from thermolearn.core.saddle_functional import Jet
from thermolearn.core.saddle_newton import EPS

if TYPE_CHECKING:
    from thermolearn.core.saddle_point import SaddlePoint
    from thermolearn.core.saddle_state import SaddleState

# Shortest step along the curve, and distance to the border of the domain that ends it.
SHORTEST = 1e-8
# The tangent may turn by this much per step (cosine).
SHARPEST = 0.95


@dataclass(frozen=True)
class _Point:
    """A point y = scale u = (x, c) on the curve, the tangent in u and what is known there."""

    y: np.ndarray
    u: np.ndarray
    tangent: np.ndarray
    jet: Jet
    steps: int

    def turning(self) -> float:
        """Component of the tangent along the parameter: zero at a fold."""
        return float(self.tangent[-1])


class _Tracer:
    """The scaled equations along one curve."""

    def __init__(self, model: SaddlePoint, state: SaddleState, parameter: str, width: float):
        self.model, self.parameter, self.controls = model, parameter, state.controls
        self.functional = model.functional
        self.scale = np.append(self.functional.scale(state.x), width)
        self.n = len(state.x)

    def rescaled(self, point: _Point) -> _Point:
        """The point in units of the scales at the point itself, which become those of the tracer.

        Unbounded variables may grow by orders of magnitude along a curve.
        """
        old = self.scale
        self.scale = np.append(self.functional.scale(point.y[: self.n]), old[-1])
        t = point.tangent * old / self.scale
        return _Point(point.y, point.y / self.scale, t / np.linalg.norm(t), point.jet, point.steps)

    def jet(self, u: np.ndarray) -> Jet:
        return self.functional.jet(u * self.scale, self.controls, self.parameter)

    def jacobian(self, jet: Jet) -> np.ndarray:
        """(n, n + 1), of the scaled gradient in the scaled variables."""
        return self.scale[: self.n, None] * jet.hessian[: self.n] * self.scale

    def tangent(self, jet: Jet, like: np.ndarray) -> np.ndarray:
        t = np.linalg.svd(self.jacobian(jet))[2][-1]
        return t if t @ like >= 0 else -t

    def branching(self, point: _Point) -> float:
        """Determinant of (Jacobian, tangent), per size of its rows: zero where curves cross."""
        square = np.vstack([self.jacobian(point.jet), point.tangent])
        square = square / np.maximum(np.linalg.norm(square, axis=1, keepdims=True), 1e-100)
        return float(np.linalg.det(square))

    def correct(
        self,
        guess: np.ndarray,
        normal: np.ndarray,
        like: np.ndarray,
        reach: float,
        accuracy: float = 1e-9,
    ) -> _Point | None:
        """Newton's method to the curve in the plane through guess; None if it fails."""
        u = guess.copy()
        n, s = self.n, self.scale[: self.n]
        before = math.inf
        for steps in range(12):
            if not self.functional.inside(u[:n] * s):
                return None
            jet = self.jet(u)
            if not jet.finite:
                return None
            residual = float(np.abs(jet.gradient[:n]).max())
            matrix = np.vstack([self.jacobian(jet), normal])
            wrong = np.append(s * jet.gradient[:n], normal @ (u - guess))
            try:
                correction = np.linalg.solve(matrix, wrong)
            except np.linalg.LinAlgError:
                correction = np.linalg.lstsq(matrix, wrong, rcond=None)[0]
            size = float(np.linalg.norm(correction))
            if residual <= self.model.tol and (size <= accuracy or size >= 0.5 * before):
                return _Point(u * self.scale, u, self.tangent(jet, like), jet, steps)
            if size > reach or (steps > 2 and size > before):
                return None
            u, before = u - correction, size
        return None

    def along(self, start: _Point, distance: float) -> _Point | None:
        guess = start.u + distance * start.tangent
        return self.correct(guess, start.tangent, start.tangent, max(distance, 1e-6))

    def room(self, point: _Point) -> tuple[float, int]:
        """Scaled distance to the border of the domain, and the order parameter next to it."""
        x = point.y[: self.n]
        room = np.minimum(x - self.functional.lower, self.functional.upper - x)
        room = room / self.scale[: self.n]
        k = int(np.argmin(room))
        return float(room[k]), k

    def to_border(self, point: _Point) -> float:
        """Distance along the tangent at which the domain is left."""
        x, p = point.u[: self.n], point.tangent[: self.n]
        s = self.scale[: self.n]
        end = np.where(p > 0, self.functional.upper / s - x, x - self.functional.lower / s)
        return float(np.min(np.where(p == 0, np.inf, end / np.maximum(np.abs(p), 1e-300))))


def follow(
    model: SaddlePoint,
    state: SaddleState,
    parameter: str,
    ends: tuple[float, float],
    step: float,
    max_points: int,
    through_folds: bool,
) -> Curve:
    """Trace the curve from a state at ends[0]; see `SaddlePoint.continuation`."""
    width = abs(ends[1] - ends[0])
    tracer = _Tracer(model, state, parameter, width)
    u = np.append(state.x, ends[0]) / tracer.scale
    jet = tracer.jet(u)
    forward = np.zeros(len(u))
    forward[-1] = math.copysign(1.0, ends[1] - ends[0])
    points = [_Point(u * tracer.scale, u, tracer.tangent(jet, forward), jet, 0)]
    special: list[SpecialPoint] = []
    distance, end = step / 4, "max_points"
    while len(points) < max_points:
        here = tracer.rescaled(points[-1])
        new, distance = _advance(tracer, here, distance, step)
        if new is None:
            if tracer.room(here)[0] > 1e-3:
                raise ConvergenceError(
                    f"the branch is lost at {parameter} = {here.y[-1]:.6g} after "
                    f"{len(points)} points: f may be undefined beyond, or reduce step"
                )
            end = "border"
            break
        last, reached = _clip(tracer, here, new, ends)
        found = _special_points(tracer, here, last, len(points) - 1)
        special += found
        if found and not through_folds and here.turning() * last.turning() < 0:
            points.append(_turning_point(tracer, last, found[-1]))
            end = "fold"
            break
        points.append(last)
        if reached:
            end = "interval"
            break
        if tracer.room(last)[0] < 100 * SHORTEST and tracer.to_border(last) < step:
            end = "border"
            break
    border = model.functional.names[tracer.room(points[-1])[1]] if end == "border" else None
    return _curve(tracer, points, tuple(special), end, border)


def _advance(
    tracer: _Tracer, here: _Point, distance: float, longest: float
) -> tuple[_Point | None, float]:
    """One accepted step, and the length to try next; None if even the shortest fails."""
    distance = min(distance, longest)
    while distance >= SHORTEST:
        trial = min(distance, 0.9 * tracer.to_border(here))
        new = tracer.along(here, trial)
        if new is not None and new.tangent @ here.tangent >= SHARPEST:
            easy = new.steps <= 4 and new.tangent @ here.tangent > 0.99
            return new, min(longest, distance * (1.5 if easy else 1.0))
        distance = min(distance, trial) / 2
    return None, distance


def _clip(
    tracer: _Tracer, here: _Point, new: _Point, ends: tuple[float, float]
) -> tuple[_Point, bool]:
    """The point itself, or the one on an end of the interval if that was passed."""
    width = tracer.scale[-1]
    lo, hi = min(ends) / width, max(ends) / width
    if lo <= new.u[-1] <= hi:
        return new, False
    bound = lo if new.u[-1] < lo else hi
    share = (bound - here.u[-1]) / (new.u[-1] - here.u[-1])
    guess = here.u + share * (new.u - here.u)
    guess[-1] = bound
    normal = np.zeros(len(guess))
    normal[-1] = 1.0
    reach = max(float(np.linalg.norm(new.u - here.u)), 1e-6)
    clipped = tracer.correct(guess, normal, new.tangent, reach)
    if clipped is None:
        raise ConvergenceError(
            f"no solution at {tracer.parameter} = {bound * width:.6g}, the end of the interval, "
            "though the branch passes it: it lies on a fold; widen the interval"
        )
    return clipped, True


def _locate(
    tracer: _Tracer, a: _Point, b: _Point, test: Callable[[_Point], float]
) -> tuple[_Point, float]:
    """The point between a and b where test changes sign, and the error of its place."""
    distance = float(a.tangent @ (b.u - a.u))
    known: dict[float, _Point] = {0.0: a}
    failed: list[float] = []

    def value(s: float) -> float:
        guess = a.u + s * a.tangent
        point = tracer.correct(guess, a.tangent, a.tangent, 2 * distance + 1e-6, accuracy=1e-13)
        # where two curves cross Newton's matrix is singular, and it may end on the other one
        if point is None or point.tangent @ a.tangent < SHARPEST:
            failed.append(s)
            return 0.0
        known[s] = point
        return test(point)

    s = bracketed_root(value, 0.0, distance, 1e-15)
    for aside in (sign * 10.0**k * distance for k in range(-7, -1) for sign in (-1, 1)):
        if not failed or min(abs(s - k) for k in known) <= 0.01 * distance:
            break
        value(s + aside)
    nearest = min(known, key=lambda k: abs(k - s))
    return known[nearest], 1e-13 + abs(nearest - s)


def _special_points(tracer: _Tracer, a: _Point, b: _Point, k: int) -> list[SpecialPoint]:
    folds = a.turning() * b.turning() < 0
    crosses = tracer.branching(a) * tracer.branching(b) < 0
    if crosses:  # also if the curve turns there: a pitchfork seen from its prongs
        point, error = _locate(tracer, a, b, tracer.branching)
        return [_special(tracer, "bifurcation", a, b, point, error, k)]
    if folds:
        point, error = _locate(tracer, a, b, _Point.turning)
        return [_special(tracer, "fold", a, b, point, error, k)]
    return []


def _special(
    tracer: _Tracer, kind: str, a: _Point, b: _Point, point: _Point, error: float, k: int
) -> SpecialPoint:
    n, s = tracer.n, tracer.scale
    hessian = s[:n, None] * point.jet.hessian[:n, :n] * s[:n]
    values, vectors = np.linalg.eigh(hessian)
    soft = vectors[:, np.argmin(np.abs(values))]
    rounding = 4 * EPS * (np.abs(tracer.jacobian(point.jet)) @ np.abs(point.u))
    wrong = np.abs(soft) @ (s[:n] * np.abs(point.jet.gradient[:n]) + rounding)
    slope = abs(soft @ (s[:n] * point.jet.hessian[:n, -1] * s[-1]))
    # where the curve turns, c is stationary along it
    bend = 10 * error**2 if a.turning() * b.turning() < 0 else error
    stderr = s[-1] * (bend + (wrong / slope if kind == "fold" and slope > 0 else 4 * EPS))
    length = float(np.linalg.norm(b.u - a.u))
    return SpecialPoint(
        kind=kind,
        value=Estimate(point.u[-1] * s[-1], stderr),
        order_parameters=dict(
            zip(tracer.functional.names, (point.u * s)[:n].tolist(), strict=True)
        ),
        f=point.jet.value,
        position=k + float(np.linalg.norm(point.u - a.u)) / length,
    )


def _turning_point(tracer: _Tracer, b: _Point, fold: SpecialPoint) -> _Point:
    """The point of the fold itself, so that a curve that stops there is monotone."""
    x = np.append(list(fold.order_parameters.values()), float(fold.value)) / tracer.scale
    return _Point(x * tracer.scale, x, b.tangent, tracer.jet(x), 0)


def _curve(
    tracer: _Tracer,
    points: list[_Point],
    special: tuple[SpecialPoint, ...],
    end: str,
    border: str | None,
) -> Curve:
    model, n = tracer.model, tracer.n
    y = np.stack([p.y for p in points])
    hessians = [p.jet.hessian[:n, :n] for p in points]
    replicon = None
    if model.replicon is not None:
        settings = [tracer.controls | {tracer.parameter: c} for c in y[:, -1].tolist()]
        pairs = zip(y[:, :n], settings, strict=True)
        replicon = np.array([model._replicon(x, c) for x, c in pairs])
    return Curve(
        parameter=tracer.parameter,
        values=y[:, -1],
        order_parameters={name: y[:, i] for i, name in enumerate(model.functional.names)},
        f=np.array([p.jet.value for p in points]),
        stable=np.array([model._stable(h) for h in hessians]),
        index=np.array([int((np.linalg.eigvalsh(h) < 0).sum()) for h in hessians]),
        replicon=replicon,
        residual=max(float(np.abs(p.jet.gradient[:n]).max()) for p in points),
        special=special,
        end=end,
        border=border,
        model=model,
        controls={k: v for k, v in tracer.controls.items() if k != tracer.parameter},
    )


def check_values(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """First and last of the values to follow; ValueError unless finite numbers that differ."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"values must be numbers (first, ..., last), got {values!r}") from None
    if numbers.ndim != 1 or len(numbers) < 2 or not np.isfinite(numbers).all():
        raise ValueError(f"values must be two or more finite numbers, got {values!r}")
    if numbers[0] == numbers[-1]:
        raise ValueError("the first and the last of values are equal: nothing to follow")
    return float(numbers[0]), float(numbers[-1])
