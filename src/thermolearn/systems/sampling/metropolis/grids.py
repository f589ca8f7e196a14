"""The interval and the cells on which an operator is diagonalized."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.systems.sampling.metropolis.jumps import Jump
from thermolearn.systems.sampling.metropolis.potentials import NotNormalisableError, Potential

# -ln of the density, relative to its maximum, at the ends of an automatic grid: e^-40 = 4e-18
DEPTH = 40.0
# half-length of the longest automatic grid, in units of x
FARTHEST = 1e6
# cells of the largest automatic grid; a dense matrix of 4000^2 takes 128 MiB and ten seconds
MOST_CELLS = 4000


@dataclass(frozen=True)
class Grid:
    """n cells of equal width on [low, high]; the points are their centers.

    Parameters
    ----------
    low, high : float
        Ends, in units of x; a wall of the potential must be an end.
    n : int
        Cells, at least 8; even for parity blocks.
    """

    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", real("low", self.low))
        object.__setattr__(self, "high", real("high", self.high, above=self.low))
        object.__setattr__(self, "n", whole("n", self.n, 8))

    @property
    def step(self) -> float:
        """Width of a cell."""
        return (self.high - self.low) / self.n

    @property
    def points(self) -> np.ndarray:
        """Centers of the cells (n,), mirror images of each other to rounding."""
        center, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return center + half * (2 * np.arange(self.n) + 1 - self.n) / self.n

    def coarser(self) -> Grid:
        """The same interval with half as many cells (an even number if n is even)."""
        return Grid(self.low, self.high, max(8, 2 * (self.n // 4)))


def ends(potential: Potential, beta: float) -> tuple[float, float]:
    """Walls, or where e^{-beta U} has fallen by e^-40 on the outermost branch.

    Found by a scan with steps of a hundredth of |x|, finer around every minimum that it shows: a
    well far out that is narrower is not seen.

    Raises
    ------
    NotNormalisableError
        If it never does within 1e6.
    """
    reach = np.geomspace(1e-6, FARTHEST, 3000)
    x = np.concatenate([-reach[::-1], [0.0], reach])
    for wall in (potential.low, potential.high):
        if math.isfinite(wall):
            x = np.unique(np.concatenate([x, wall + np.concatenate([-reach, reach])]))
    x = x[(x >= potential.low) & (x <= potential.high)]
    x = _around_minima(potential, x, reach[::10])
    u = beta * potential(x)
    if np.isneginf(u).any():
        raise NotNormalisableError(f"{potential.name}: U is -inf at {x[np.isneginf(u)][0]:.6g}")
    deep = np.flatnonzero(u < u.min() + DEPTH)
    out = []
    for wall, inner, outer in (
        (potential.low, deep[0], deep[0] - 1),
        (potential.high, deep[-1], deep[-1] + 1),
    ):
        if math.isfinite(wall):
            out.append(wall)
            continue
        if not 0 <= outer < len(x):
            raise NotNormalisableError(
                f"{potential.name} does not confine: e^(-beta U) has not fallen by e^-{DEPTH:.0f} "
                f"within |x| < {FARTHEST:g}; add walls (low, high) or a confining term"
            )
        level = float(u.min()) + DEPTH
        out.append(_crossing(potential, beta, float(x[inner]), float(x[outer]), level))
    return out[0], out[1]


def _around_minima(potential: Potential, x: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The points of a scan and more about its deepest minima, each located between neighbors."""
    u = potential(x)
    dips = 1 + np.flatnonzero((u[1:-1] < u[:-2]) & (u[1:-1] <= u[2:]) & np.isfinite(u[1:-1]))
    found = [x]
    for i in dips[np.argsort(u[dips], kind="stable")[:30]]:
        low, high = float(x[i - 1]), float(x[i + 1])
        for _ in range(12):  # an eighth each time; U may be anything but a parabola
            fine = np.linspace(low, high, 17)
            k = int(np.argmin(potential(fine)))
            low, high = float(fine[max(k - 1, 0)]), float(fine[min(k + 1, 16)])
        middle = (low + high) / 2
        found += [middle + reach, middle - reach, np.array([middle])]
    points = np.unique(np.concatenate(found))
    return points[(points >= potential.low) & (points <= potential.high)]


def _crossing(
    potential: Potential, beta: float, inside: float, outside: float, level: float
) -> float:
    """Bisection of beta U = level between two points."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if beta * float(potential(middle)) < level:
            inside = middle
        else:
            outside = middle
    return inside


def automatic(potential: Potential, jump: Jump, beta: float, cells: int) -> Grid:
    """A grid that knows both scales: ends at e^-40, steps below a tenth of the jump's scale.

    Raises
    ------
    NotNormalisableError
        The potential does not confine.
    ValueError
        The jump is too short for a dense matrix.
    """
    low, high = ends(potential, beta)
    wanted = 20 * (high - low) / jump.finest
    if wanted > 2 * MOST_CELLS:
        raise ValueError(
            f"jump: its length {jump.finest:.3g} is too short for a grid from {low:.4g} to "
            f"{high:.4g} (more than {MOST_CELLS} cells of a tenth of it); at such jumps the "
            "relaxation is diffusion: 1 - Lambda is proportional to the variance of the jump"
        )
    n = min(max(cells, 4 * math.ceil(wanted / 4)), max(cells, 1200))
    n = max(n, 4 * math.ceil(wanted / 8))
    return Grid(low, high, n)


def check(
    grid: Grid, potential: Potential, jump: Jump, beta: float, coarse: float = 0.1
) -> np.ndarray:
    """beta U at the points, minus its minimum, if the grid fits the potential.

    Raises
    ------
    NotNormalisableError
        More than 1e-10 of the weight lies in the last cell of an end without a wall.
    ValueError
        A wall that is not an end, U not finite, or cells wider than the wells of U.

    Warns
    -----
    UserWarning
        A step above the fraction `coarse` of the jump's scale.
    """
    size = grid.high - grid.low
    for name, wall, end in (("low", potential.low, grid.low), ("high", potential.high, grid.high)):
        beyond = (wall > end) if name == "low" else (wall < end)
        if beyond and abs(wall - end) > 1e-9 * size:
            raise ValueError(
                f"grid.{name} = {end:.6g} lies beyond the wall at {wall:.6g}; "
                "walls must be ends of the grid"
            )
    u = beta * potential(grid.points)
    if not np.all(np.isfinite(u)):
        bad = grid.points[~np.isfinite(u)][0]
        raise ValueError(
            f"{potential.name}: U({bad:.6g}) is not finite inside the grid; give hard walls as "
            "low and high of the Potential"
        )
    u = u - u.min()
    weight = np.exp(-u)
    rise = float(weight[:-1] @ np.abs(np.diff(u)) / weight.sum())
    if rise > 1:
        raise ValueError(
            f"{potential.name}: beta U changes by {rise:.3g} per cell where the weight is; cells "
            f"of width {grid.step:.3g} do not resolve it. Give a grid of more than {grid.n} cells "
            f"from {grid.low:.6g} to {grid.high:.6g}"
        )
    edge = np.array([weight[0], weight[-1]]) / weight.sum()
    open_end = np.array(
        [
            abs(potential.low - grid.low) > 1e-9 * size,
            abs(potential.high - grid.high) > 1e-9 * size,
        ]
    )
    if np.any(edge[open_end] > 1e-10):
        raise NotNormalisableError(
            f"{potential.name}: a fraction {edge[open_end].max():.1e} of the weight e^(-beta U) "
            f"lies in the last cell of the grid from {grid.low:.6g} to {grid.high:.6g}; widen the "
            "grid, or give a potential that confines"
        )
    if grid.step > coarse * jump.finest * (1 + 1e-9):
        warnings.warn(
            f"the step {grid.step:.3g} of the grid is above {coarse:g} of the length "
            f"{jump.finest:.3g} of the jump: the eigenvalues are coarse; take "
            f"n >= {math.ceil(size / (coarse * jump.finest))}",
            stacklevel=4,
        )
    return u
