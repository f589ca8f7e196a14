"""Does a mode stand above the supremum of R? A count of bound states at the edge itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import linalg

from thermolearn.systems.sampling.metropolis.grids import Grid
from thermolearn.systems.sampling.metropolis.jumps import Jump, cell_average
from thermolearn.systems.sampling.metropolis.potentials import Potential


def binding(
    potential: Potential,
    jump: Jump,
    beta: float,
    grid: Grid,
    rejection: Callable[[np.ndarray], np.ndarray],
    peak: tuple[float, float],
    sign: int,
) -> float:
    """Strength mu of the kernel at the edge of the continuum: a mode is isolated iff mu > 1.

    K = R + k has as many eigenvalues above lambda > max R as the operator
    B = (lambda - R)^{-1/2} k (lambda - R)^{-1/2} has above 1 (Birman, Schwinger). At the edge
    lambda = max R = R(m), B diverges on k(., m): that is one bound state, and the others are
    those of k - k(., m) k(m, .)/k(m, m), whose B is finite. Where k(m, m) = 0 but k(., m) is not
    (uniform jumps longer than 2 |m|, odd sector), B diverges as a pair of eigenvalues of both
    signs: again one bound state, and the others are those of B orthogonal to k(., m). The state
    of eigenvalue 1 is one of them in the even sector, and none in the odd one (where k(., m) = 0
    if m is the center).

    Parameters
    ----------
    peak : (float, float)
        m and R(m).
    sign : int
        +1 even, -1 odd sector, 0 the whole line.

    Returns
    -------
    float
        inf: a mode is isolated whatever the strength (its gap may be narrower than any number);
        0: R is constant around its maximum.
    """
    m, top = peak
    center = (grid.low + grid.high) / 2
    if sign:
        m = center + abs(m - center)
    x, width = _cells(center if sign else grid.low, m, grid.high, grid)
    below = top - rejection(x)
    if np.sum(below < 1e-9) > 4:
        return 0.0
    u, at_peak = beta * potential(x), beta * float(potential(m))

    def proposal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        value = cell_average(jump, first - second, grid.step)
        if sign:
            value = value + sign * cell_average(jump, first + second - 2 * center, grid.step)
        return value

    k = proposal(x[:, None], x[None, :]) * np.exp(-np.abs(u[:, None] - u[None, :]) / 2)
    column = proposal(x, np.full_like(x, m))
    itself = float(proposal(np.array(m), np.array(m)))
    # what rounding leaves of a difference of two proposals is small beside one of them
    zero = 1e-9 * float(np.max(cell_average(jump, x - m, grid.step)))
    needed = (1 if sign < 0 else 2) - int(np.max(np.abs(column)) > zero)
    if needed < 1:
        return math.inf
    column = column * np.exp(-np.abs(u - at_peak) / 2)
    scale = np.sqrt(width / np.maximum(below, 1e-13))
    if itself > zero:
        k = k - np.outer(column, column) / itself
    b = scale[:, None] * k * scale
    if itself <= zero and np.any(column):
        away = np.eye(len(x)) - np.outer(g := scale * column, g) / (g @ g)
        b = away @ b @ away
    return float(linalg.eigvalsh(b, check_finite=False)[-needed])


def _cells(low: float, m: float, high: float, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints and widths of cells on [low, high], with m at an edge between two."""
    points, widths = [], []
    for start, stop in ((low, m), (m, high)):
        n = math.ceil((stop - start) / grid.step - 1e-6)
        if n < 1 or stop - start < 1e-6 * grid.step:
            continue
        h = (stop - start) / n
        points.append(start + h * (np.arange(n) + 0.5))
        widths.append(np.full(n, h))
    return np.concatenate(points), np.concatenate(widths)
