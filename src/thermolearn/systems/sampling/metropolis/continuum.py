"""Edges of the continuous spectrum: the supremum of R, and waves in linear tails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.systems.sampling.metropolis.grids import Grid
from thermolearn.systems.sampling.metropolis.jumps import Jump
from thermolearn.systems.sampling.metropolis.potentials import Potential, growth

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


def laplace(jump: Jump, rate: float) -> float:
    """int_0^inf w(y) e^{-rate y} dy."""
    total = 0.0
    end = 45 / rate if rate > 0 else np.inf
    for start, stop in zip(jump.breaks[:-1], jump.breaks[1:], strict=True):
        if start >= end:
            break
        stop = min(stop, end)
        edges = np.linspace(start, stop, 201)
        half = np.diff(edges)[:, None] / 2
        y = edges[:-1, None] + half * (1 + _NODES)
        total += float((half * jump.density(y) * np.exp(-rate * y) * _WEIGHTS).sum())
    return total


def far_rejection(jump: Jump, beta: float, kind: str, slope: float) -> float:
    """R far out: 1/2 on a steepening slope, 1/2 - int_0^inf w e^{-beta slope y} on a constant."""
    if kind == "superlinear":
        return 0.5
    if kind == "linear":
        return 0.5 - laplace(jump, beta * slope)
    return 0.0


def tail_continuum(potential: Potential, jump: Jump, beta: float, grid: Grid) -> tuple[str, float]:
    """Kind of the tails that decide, and the edge of their continuum.

    On a constant slope c the operator is a convolution: a wave e^{iqx} has the eigenvalue
    R + int w(y) e^{-beta c |y|/2} cos(qy) dy, the largest at q = 0.
    """
    edge = 0.0
    for end, direction in ((grid.low, -1), (grid.high, 1)):
        kind, slope = growth(potential, end, direction)
        if kind == "sublinear":
            return kind, 1.0
        if kind == "linear":
            wave = 2 * laplace(jump, beta * slope / 2)
            edge = max(edge, far_rejection(jump, beta, kind, slope) + wave)
    return ("linear", edge) if edge else ("none", 0.0)


def shallow(potential: Potential, jump: Jump, beta: float, grid: Grid, value: float) -> bool:
    """Whether a mode of this eigenvalue may feel the open ends of the grid.

    With the slope at the end the tail would carry waves up to an eigenvalue that is not .05 below
    that of the mode; then the mode falls off slowly and the end cuts it.
    """
    delta = 0.01 * (grid.high - grid.low)
    for end, inner, wall in (
        (grid.low, grid.low + delta, potential.low),
        (grid.high, grid.high - delta, potential.high),
    ):
        if np.isfinite(wall):
            continue
        u = beta * potential(np.array([end, inner]))
        slope = max(float(u[0] - u[1]) / delta, 0.0)
        if 0.5 - laplace(jump, slope) + 2 * laplace(jump, slope / 2) > value - 0.05:
            return True
    return False


def with_truncation(value: Estimate, change: float) -> Estimate:
    """The Estimate with the change that a wider grid makes in its error bar, twice."""
    if change > 1e-4:
        warnings.warn(
            f"the potential is shallow: a grid half as wide again changes Lambda by {change:.1g} "
            "(in the error bar); give a wider grid",
            stacklevel=4,
        )
    return replace(value, stderr=float(value.stderr) + 2 * change)


def sup_rejection(
    rejection: Callable[[np.ndarray], np.ndarray], low: float, high: float, far: float
) -> tuple[Estimate, float]:
    """Supremum of R and where it is (NaN: far out): the best of a scan, zoomed in on.

    Parameters
    ----------
    rejection : callable
        R(x), vectorized.
    low, high : float
        Ends of the scan.
    far : float
        The larger limit of R far out.
    """
    x = np.linspace(low, high, 101)
    values = rejection(x)
    radius = x[1] - x[0]
    top, center = _best(x, values)
    previous = top
    for _ in range(5):
        x = np.clip(center + radius * np.linspace(-1, 1, 13), low, high)
        values = np.append(rejection(x), top)
        previous, radius = top, radius / 5
        top, center = _best(np.append(x, center), values)
    if far > top + 1e-9:
        return Estimate(far, note="far out"), np.nan
    return Estimate(max(top, far), abs(top - previous) + 1e-10, note=f"at {center:.4g}"), center


def _best(x: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The largest value, and the middle of the points that share it."""
    ties = np.flatnonzero(values > values.max() - 1e-13)
    return float(values.max()), float(x[ties[len(ties) // 2]])
