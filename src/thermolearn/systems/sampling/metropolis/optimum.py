"""The jump that relaxes fastest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from thermolearn.core.checks import whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.core.progress import track
from thermolearn.systems.sampling.metropolis import grids
from thermolearn.systems.sampling.metropolis.critical import (
    Family,
    checked_bracket,
    critical_jump,
)
from thermolearn.systems.sampling.metropolis.jumps import GaussianJump, Jump
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator
from thermolearn.systems.sampling.metropolis.potentials import Potential, as_potential, growth
from thermolearn.systems.sampling.metropolis.radial import RadialMetropolisOperator
from thermolearn.systems.sampling.metropolis.verdict import CLEAR_GAP

__all__ = ["OptimalJump", "critical_jump", "optimal_jump"]

Operator = MetropolisOperator | RadialMetropolisOperator


@dataclass(frozen=True)
class OptimalJump:
    """The jump law of a family with the smallest Lambda.

    Attributes
    ----------
    jump : Jump
        The law, at the best scale.
    scale : Estimate
        Its parameter; the error bar is that of the location.
    eigenvalue : Estimate
        Lambda there.
    relaxation_time : Estimate
        -1 / ln Lambda, in steps.
    acceptance : Estimate
        Stationary acceptance.
    active : (str, str)
        What limits the relaxation just below and just above the optimum: a sector ("even",
        "odd", "whole", "l = 0", "l = 1"), "rejection" (localization) or "continuum" (linear
        tails). The same name twice: a smooth minimum of one curve.
    """

    jump: Jump
    scale: Estimate
    eigenvalue: Estimate
    relaxation_time: Estimate
    acceptance: Estimate
    active: tuple[str, str]


class _Curves:
    """The curves of an operator against the scale of the jump, remembered."""

    def __init__(self, make: Callable[[float], Operator]) -> None:
        self.make = make
        self._seen: dict[tuple[float, bool], dict[str, float]] = {}

    def __call__(self, scale: float, quick: bool = True) -> dict[str, float]:
        key = float(scale), quick
        if key not in self._seen:
            self._seen[key] = self.make(float(scale)).curves(quick)
        return self._seen[key]

    def top(self, scale: float, quick: bool = False) -> float:
        """The largest curve: Lambda."""
        return max(self(scale, quick).values())

    def worst(self, scale: float) -> tuple[str, float]:
        """The largest curve and its value; the edges of the continuum win narrow gaps."""
        values = self(scale)
        edges = {name: values[name] for name in ("rejection", "continuum") if name in values}
        edge = max(edges, key=lambda name: edges[name])
        modes = {name: value for name, value in values.items() if name not in edges}
        mode = max(modes, key=lambda name: modes[name])
        if modes[mode] - edges[edge] > 4 * CLEAR_GAP:
            return mode, modes[mode]
        return edge, edges[edge]


def optimal_jump(
    potential: Potential | Callable[[np.ndarray], ArrayLike],
    family: Family = GaussianJump,
    dimension: int = 1,
    beta: float = 1.0,
    bracket: tuple[float, float] | None = None,
) -> OptimalJump:
    """The scale of the jump with the smallest Lambda, the largest over all sectors and R.

    Short jumps are limited by diffusion, long ones by rejection. At the optimum two curves cross
    as a rule: two sectors, or a sector and the supremum of R (the localization transition). Where
    a mode follows the supremum of R upwards before its gap has closed (double wells), the optimum
    is the minimum of that mode.

    Parameters
    ----------
    potential : Potential or callable
        U(x) on the line, or U(r) of the radius for dimension > 1.
    family : callable
        scale -> Jump; only `GaussianJump` for dimension > 1.
    dimension : int
        1 to 300.
    beta : float
        Inverse temperature, > 0.
    bracket : (float, float), optional
        Scales between which to search. Default: 1 to 5 standard deviations of a coordinate over
        sqrt(dimension), widened while the minimum is at an end.

    Raises
    ------
    ValueError
        A bad bracket, an optimum at its end, or a potential that grows more slowly than \\|x\\|:
        Lambda is 1 for every jump.
    NotNormalisableError
        The potential does not confine.

    References
    ----------
    Chepelianskii, Majumdar, Schawe, Trizac, arXiv:2207.10488; the sectors of d dimensions are
    derived here.
    """
    dimension = whole("dimension", dimension, 1)
    target = as_potential(potential)
    for end, direction in zip(grids.ends(target, beta), (-1, 1), strict=True):
        if growth(target, end, direction)[0] == "sublinear" and (dimension == 1 or direction > 0):
            raise ValueError(
                f"potential: {target.name} grows more slowly than |x|: Lambda = 1 for every "
                "jump (no gap, relaxation is slower than any exponential) and there is no optimum"
            )

    def make(scale: float) -> Operator:
        jump = family(scale)
        if dimension == 1:
            return MetropolisOperator(target, jump, beta)
        return RadialMetropolisOperator(dimension, target, jump, beta)  # type: ignore[arg-type]

    curves = _Curves(make)
    if bracket is None:
        unit = _standard_deviation(target, beta, dimension) / np.sqrt(dimension)
        left, middle, right = _enclose(curves, unit, 5 * unit, widen=3)
    else:
        left, middle, right = _enclose(curves, *checked_bracket(bracket), widen=0)
    found = optimize.minimize_scalar(
        lambda a: curves.worst(a)[1], bounds=(left, right), method="bounded",
        options={"xatol": 0.01 * middle},
    )  # fmt: skip
    center = float(found.x)  # type: ignore[attr-defined]
    below, above = max(left, 0.95 * center), min(right, 1.05 * center)
    active = curves.worst(below)[0], curves.worst(above)[0]
    scale = _lowest(curves, center, left, right)
    exact = _located(curves, active, below, center, above)
    if exact is None and active[1] == "rejection" and dimension == 1:
        exact = _transition(target, family, beta, active[0], (left, right))
    # a kink or a smooth minimum is located more sharply than by comparing values, if it is one
    if exact is not None and curves.top(float(exact)) < curves.top(float(scale)) + 5e-5:
        scale = exact
    operator = make(float(scale))
    return OptimalJump(
        jump=operator.jump,
        scale=scale,
        eigenvalue=operator.relaxation_eigenvalue(),
        relaxation_time=operator.relaxation_time(),
        acceptance=operator.acceptance(),
        active=active,
    )


def _standard_deviation(potential: Potential, beta: float, dimension: int) -> float:
    """Of one coordinate in the stationary law (d > 1: root mean square radius over sqrt d)."""
    if dimension > 1:
        effective = Potential(
            lambda r: beta * potential(r) - (dimension - 1) * np.log(np.maximum(r, 1e-300)),
            0.0, potential.high, potential.name,
        )  # fmt: skip
        x = np.linspace(*grids.ends(effective, 1.0), 4002)[1:]
        u, center = effective(x), 0.0
    else:
        x = np.linspace(*grids.ends(potential, beta), 4001)
        u = beta * potential(x)
        center = float(np.average(x, weights=np.exp(-(u - u.min()))))
    second = float(np.average((x - center) ** 2, weights=np.exp(-(u - u.min()))))
    return float(np.sqrt(second / dimension))


def _enclose(curves: _Curves, low: float, high: float, widen: int) -> tuple[float, float, float]:
    """Three scales of which the middle one has the smallest Lambda."""
    scales = list(np.geomspace(low, high, 6))
    worst = [curves.worst(a)[1] for a in track(scales, "optimal jump", total=len(scales))]
    best, ratio = int(np.argmin(worst)), scales[1] / scales[0]
    for _ in range(3 * widen):
        if 0 < best < len(scales) - 1:
            break
        at = 0 if best == 0 else len(scales)
        scales.insert(at, scales[0] / ratio if best == 0 else scales[-1] * ratio)
        worst.insert(at, curves.worst(scales[at])[1])
        best = int(np.argmin(worst))
    if best in (0, len(scales) - 1):
        raise ValueError(
            f"bracket: Lambda has no minimum between {scales[0]:.4g} and {scales[-1]:.4g}; the "
            f"smallest, {worst[best]:.5f}, is at the end {scales[best]:.4g}"
        )
    return float(scales[best - 1]), float(scales[best]), float(scales[best + 1])


def _lowest(curves: _Curves, center: float, low: float, high: float) -> Estimate:
    """Minimum of the largest curve, from its values alone: extrapolated, and on the grids."""
    found = []
    for quick in (False, True):
        found.append(
            optimize.minimize_scalar(
                partial(curves.top, quick=quick),
                bounds=(max(low, 0.93 * center), min(high, 1.07 * center)),
                method="bounded",
                options={"xatol": 3e-4 * center},
            ).x  # type: ignore[attr-defined]
        )
    stderr = abs(found[1] - found[0]) / 2 + 5e-4 * center
    return Estimate(float(found[0]), float(stderr), note="minimum of the largest curve")


def _located(
    curves: _Curves, active: tuple[str, str], low: float, center: float, high: float
) -> Estimate | None:
    """The minimum or the crossing that the active curves suggest; None: a closing gap."""
    if active[0] == active[1]:
        return _smooth(curves, active[0], low, center, high)
    if active[1] == "rejection" and active[0] != "continuum":
        return None
    return _cross(curves, *active, low, high)


def _transition(
    potential: Potential, family: Family, beta: float, sector: str, bracket: tuple[float, float]
) -> Estimate | None:
    """The localization transition of a sector, if there is one."""
    try:
        found = critical_jump(
            potential, family, bracket, beta, sector if sector in ("even", "odd") else None
        )
    except (ValueError, ConvergenceError):
        return None
    return found if found.status == "ok" else None


def _cross(curves: _Curves, first: str, second: str, low: float, high: float) -> Estimate:
    """Where two curves cross: on the coarser grid, then corrected by the extrapolated curves."""

    def lead(scale: float, quick: bool = True) -> float:
        values = curves(scale, quick)
        return values[first] - values[second]

    rough = bracketed_root(lead, low, high, tol=1e-5 * low)
    near = np.array([0.995, 1.005]) * rough
    gap = np.array([lead(a, quick=False) for a in near])
    scale = float(near[0] - gap[0] * (near[1] - near[0]) / (gap[1] - gap[0]))
    if not near[0] <= scale <= near[1]:  # a kink of one of the curves is near
        scale = bracketed_root(lambda a: lead(a, False), low, high, tol=1e-5 * low)
    # the extrapolation takes away most of the difference between the two
    stderr = abs(scale - rough) / 4 + 1e-5 * scale
    return Estimate(scale, stderr, note=f"{first} and {second} cross")


def _smooth(curves: _Curves, name: str, low: float, center: float, high: float) -> Estimate:
    """Minimum of the parabola through three points; the error from half their distance."""
    found = []
    for part in (1.0, 0.5):
        x = center + part * (np.array([low, center, high]) - center)
        a, b, _ = np.polyfit(x, [curves(v, quick=False)[name] for v in x], 2)
        found.append(float(-b / (2 * a)))
    return Estimate(
        found[1], abs(found[1] - found[0]) + 1e-5 * center, note=f"minimum of the {name} curve"
    )
