"""Moments of accepted jumps from a point, by quadrature that knows the kinks."""

from __future__ import annotations

import math

import numpy as np

from thermolearn.systems.sampling.metropolis.jumps import Jump
from thermolearn.systems.sampling.metropolis.potentials import Potential

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
# values of U per slice of the points, a memory limit
_SLICE = 1_000_000


def accepted_moment(
    x: np.ndarray,
    potential: Potential,
    jump: Jump,
    beta: float,
    length: float,
    order: int = 0,
    center: float = 0.0,
    size: float = math.inf,
) -> np.ndarray:
    """int w(y) |y|^order min(1, e^{-beta (U(x + y) - U(x))}) dy for every x (n,).

    Gauss-Legendre panels no longer than `length` (that of the potential) and half the jump's
    scale, cut at the edges of w, at the walls, and where U(x + y) crosses U(x). center and size:
    middle and width of the grid, from whose points no jump is accepted that leads farther than a
    width beyond its ends.
    """
    farthest = 2 * size if np.all(np.abs(x - center) <= size / 2) else math.inf
    panels = _panels(jump, length, farthest)
    per_point = len(panels[0]) * len(_NODES)
    slices = np.array_split(x, max(1, -(-len(x) * per_point // _SLICE)))
    return np.concatenate(
        [_moment(part, potential, jump, beta, panels, order) for part in slices if len(part)]
    )


def _panels(jump: Jump, length: float, farthest: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the panels, both signs of y, |y| up to `farthest`."""
    edges = [np.zeros(1)]
    longest = min(length, jump.scale / 2)
    for start, stop in zip(jump.breaks[:-1], jump.breaks[1:], strict=True):
        if start >= farthest:
            break
        stop = min(stop, farthest)
        pieces = max(1, int(np.ceil((stop - start) / longest)))
        edges.append(np.linspace(start, stop, pieces + 1)[1:])
    right = np.concatenate(edges)
    both = np.concatenate([-right[:0:-1], right])
    return both[:-1], both[1:]


def _moment(x, potential, jump, beta, panels, order):
    """One slice of `accepted_moment`."""
    here = beta * potential(x)
    start = np.clip(x[:, None] + panels[0], potential.low, potential.high)
    stop = np.clip(x[:, None] + panels[1], potential.low, potential.high)

    def uphill(row, at):
        return beta * potential(at) > here[row]

    def integral(row, low, high):
        """Of the panels low to high (m,), those of the points x[row] (m,)."""
        half = (high - low) / 2
        at = (low + high)[:, None] / 2 + half[:, None] * _NODES
        y = at - x[row][:, None]
        rise = np.maximum(beta * potential(at) - here[row][:, None], 0)
        value = jump.density(y) * np.exp(-rise)
        if order:
            value = value * np.abs(y) ** order
        return half * (value @ _WEIGHTS)

    total = np.zeros(len(x))
    row, panel = np.nonzero(stop > start)
    low, high = start[row, panel], stop[row, panel]
    crossed = uphill(row, low) != uphill(row, high)
    np.add.at(total, row[~crossed], integral(row[~crossed], low[~crossed], high[~crossed]))
    row, low, high = row[crossed], low[crossed], high[crossed]
    if len(row):
        left, right, side = low.copy(), high.copy(), uphill(row, low)
        for _ in range(50):
            middle = (left + right) / 2
            same = uphill(row, middle) == side
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        np.add.at(total, row, integral(row, low, left) + integral(row, left, high))
    return total
