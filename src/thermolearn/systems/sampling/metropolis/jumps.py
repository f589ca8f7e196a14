"""Symmetric laws of the proposed jump: density, averages over cells, draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, interpolate
from scipy.special import ndtr

from thermolearn.core.checks import real

Shape = int | tuple[int, ...]


class Jump(Protocol):
    """What the operators and the chains ask of a jump law w(y) = w(-y)."""

    @property
    def scale(self) -> float:
        """Length that names the law: half-width, standard deviation, ..."""
        ...

    @property
    def finest(self) -> float:
        """Shortest length over which w changes; a grid must resolve it."""
        ...

    @property
    def reach(self) -> float:
        """Longest jump of a probability above 1e-17."""
        ...

    @property
    def breaks(self) -> tuple[float, ...]:
        """Points y >= 0 where w or its slope jumps, 0 and `reach` included, ascending."""
        ...

    @property
    def variance(self) -> float:
        """Mean square jump."""
        ...

    def density(self, y: ArrayLike) -> np.ndarray:
        """w(y)."""
        ...

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Probability of a jump below y."""
        ...

    def second_integral(self, y: ArrayLike) -> np.ndarray:
        """Even function G with G'' = w and G(0) = 0."""
        ...

    def draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent jumps."""
        ...


def cell_average(jump: Jump, distance: ArrayLike, step: float) -> np.ndarray:
    """Mean of w(x - x') over two cells of width h whose centers are `distance` apart.

    (G(u + h) - 2 G(u) + G(u - h)) / h^2 with G'' = w: averaging over both cells smooths a sharp
    cut-off, so that the error of an eigenvalue is a smooth multiple of h^2.
    """
    u = np.abs(np.asarray(distance, dtype=np.float64))
    second = jump.second_integral(u + step) + jump.second_integral(np.abs(u - step))
    average = (second - 2 * jump.second_integral(u)) / step**2
    return np.where(u - step < jump.reach, np.maximum(average, 0.0), 0.0)


def check_symmetric(jump: Jump) -> None:
    """ValueError unless w(y) = w(-y) >= 0: the rule min(1, e^{-beta dU}) assumes it."""
    y = jump.reach * (np.arange(2000) + 0.5) / 2000
    right, left = jump.density(y), jump.density(-y)
    if not (np.all(np.isfinite(right)) and np.all(right >= 0)):
        raise ValueError("the density of the jump must be finite and not negative")
    if np.max(np.abs(right - left)) > 1e-9 * np.max(right):
        raise ValueError(
            "the density of the jump is not symmetric: w(y) != w(-y) needs a Hastings correction "
            "in the acceptance, which this operator does not have; symmetrize the jump"
        )


def _array(y: ArrayLike) -> np.ndarray:
    return np.asarray(y, dtype=np.float64)


@dataclass(frozen=True)
class UniformJump:
    """Uniform on [-a, a]; a > 0 in units of x."""

    a: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", real("a", self.a, above=0))

    @property
    def scale(self) -> float:
        """Length that names the law."""
        return self.a

    @property
    def finest(self) -> float:
        """Shortest length over which w changes."""
        return self.a

    @property
    def reach(self) -> float:
        """Longest jump of a probability above 1e-17."""
        return self.a

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where w or its slope jumps, ascending from 0 to `reach`."""
        return (0.0, self.a)

    @property
    def variance(self) -> float:
        """Mean square jump."""
        return self.a**2 / 3

    def density(self, y: ArrayLike) -> np.ndarray:
        """1 / 2a inside."""
        return np.where(np.abs(_array(y)) <= self.a, 0.5 / self.a, 0.0)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """(y + a) / 2a inside."""
        return np.clip((_array(y) + self.a) / (2 * self.a), 0, 1)

    def second_integral(self, y: ArrayLike) -> np.ndarray:
        """y^2 / 4a inside, (\\|y\\| - a/2) / 2 outside."""
        y = np.abs(_array(y))
        return np.where(y < self.a, y**2 / (4 * self.a), (y - self.a / 2) / 2)

    def draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent jumps."""
        return rng.uniform(-self.a, self.a, shape)


@dataclass(frozen=True)
class GaussianJump:
    """Normal of standard deviation s > 0, in units of x."""

    s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "s", real("s", self.s, above=0))

    @property
    def scale(self) -> float:
        """Length that names the law."""
        return self.s

    @property
    def finest(self) -> float:
        """Shortest length over which w changes."""
        return self.s

    @property
    def reach(self) -> float:
        """Longest jump of a probability above 1e-17."""
        return 8.5 * self.s

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where w or its slope jumps, ascending from 0 to `reach`."""
        return (0.0, 8.5 * self.s)

    @property
    def variance(self) -> float:
        """Mean square jump."""
        return self.s**2

    def density(self, y: ArrayLike) -> np.ndarray:
        """e^{-y^2/2s^2} / (s sqrt(2 pi))."""
        return np.exp(-((_array(y) / self.s) ** 2) / 2) / (self.s * math.sqrt(2 * math.pi))

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Phi(y / s)."""
        return ndtr(_array(y) / self.s)

    def second_integral(self, y: ArrayLike) -> np.ndarray:
        """y (Phi(y/s) - 1/2) + s (phi(y/s) - phi(0))."""
        z = np.abs(_array(y)) / self.s
        bell = np.expm1(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return self.s * (z * (ndtr(z) - 0.5) + bell)

    def draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent jumps."""
        return self.s * rng.standard_normal(shape)


@dataclass(frozen=True)
class ExponentialJump:
    """Two-sided exponential e^{-|y|/s} / 2s; mean |y| = s > 0, in units of x."""

    s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "s", real("s", self.s, above=0))

    @property
    def scale(self) -> float:
        """Length that names the law."""
        return self.s

    @property
    def finest(self) -> float:
        """Shortest length over which w changes."""
        return self.s

    @property
    def reach(self) -> float:
        """Longest jump of a probability above 1e-17."""
        return 40 * self.s

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where w or its slope jumps, ascending from 0 to `reach`."""
        return (0.0, 40 * self.s)

    @property
    def variance(self) -> float:
        """Mean square jump."""
        return 2 * self.s**2

    def density(self, y: ArrayLike) -> np.ndarray:
        """e^{-|y|/s} / 2s."""
        return np.exp(-np.abs(_array(y)) / self.s) / (2 * self.s)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """e^{y/s}/2 below 0, its mirror above."""
        y = _array(y)
        tail = np.exp(-np.abs(y) / self.s) / 2
        return np.where(y < 0, tail, 1 - tail)

    def second_integral(self, y: ArrayLike) -> np.ndarray:
        """(|y| - s (1 - e^{-|y|/s})) / 2."""
        y = np.abs(_array(y))
        return (y + self.s * np.expm1(-y / self.s)) / 2

    def draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent jumps."""
        return rng.laplace(0.0, self.s, shape)


@dataclass(frozen=True)
class TwoPeakedJump:
    """Uniform on a (1 - spread) < |y| < a (1 + spread): never a short jump, often an overshoot.

    Such laws have negative eigenvalues, and modes that oscillate in x (arXiv:2402.11267).

    Parameters
    ----------
    a : float
        Center of the peaks, > 0, in units of x.
    spread : float
        Half-width of a peak over a, in (0, 1]; 1 is `UniformJump(2 a)`.
    """

    a: float
    spread: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", real("a", self.a, above=0))
        object.__setattr__(self, "spread", real("spread", self.spread, above=0, most=1))

    @property
    def scale(self) -> float:
        """Length that names the law."""
        return self.a

    @property
    def finest(self) -> float:
        """Shortest length over which w changes."""
        return min(2 * self.spread, 1.0) * self.a

    @property
    def reach(self) -> float:
        """Longest jump of a probability above 1e-17."""
        return self.a * (1 + self.spread)

    @property
    def variance(self) -> float:
        """Mean square jump."""
        return self.a**2 * (1 + self.spread**2 / 3)

    @property
    def breaks(self) -> tuple[float, ...]:
        """0 and the two edges of a peak."""
        edges = (0.0, self.a * (1 - self.spread), self.reach)
        return edges if self.spread < 1 else (0.0, self.reach)

    def density(self, y: ArrayLike) -> np.ndarray:
        """1 / (4 a spread) in the peaks."""
        off = np.abs(np.abs(_array(y)) - self.a)
        return np.where(off <= self.a * self.spread, 0.25 / (self.a * self.spread), 0.0)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Half of the law in each peak."""
        y, width = _array(y), self.a * self.spread
        above = np.clip((np.abs(y) - self.a + width) / (4 * width), 0, 0.5)
        return 0.5 + np.sign(y) * above

    def second_integral(self, y: ArrayLike) -> np.ndarray:
        """0 before the peak, a parabola in it, (|y| - a)/2 behind."""
        y, width = np.abs(_array(y)), self.a * self.spread
        inside = np.clip(y - self.a + width, 0, 2 * width) ** 2 / (8 * width)
        return inside + np.maximum(y - self.reach, 0) / 2

    def draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent jumps."""
        size = self.a * (1 + self.spread * rng.uniform(-1, 1, shape))
        return np.where(rng.random(shape) < 0.5, -size, size)


@dataclass(frozen=True)
class DensityJump:
    """A symmetric law given by its density, smooth inside its reach.

    Parameters
    ----------
    function : callable
        w(y), vectorized; w(y) = w(-y), integral 1 over [-reach, reach].
    reach : float
        Jumps longer than this are not proposed, > 0, in units of x.

    Raises
    ------
    ValueError
        Not finite, negative, not symmetric, or an integral off 1 by more than 1e-6.
    """

    function: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    reach: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "reach", real("reach", self.reach, above=0))
        check_symmetric(self)
        total = 2 * float(self._table[1][-1])
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"the density of the jump integrates to {total:.8g} over [-reach, reach], not 1; "
                "normalize it or enlarge reach"
            )

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """y >= 0 and the probability of a jump in [0, y]."""
        y = np.linspace(0, self.reach, 4097)
        return y, integrate.cumulative_simpson(self.density(y), x=y, initial=0)

    @cached_property
    def _second(self) -> interpolate.CubicHermiteSpline:
        y, below = self._table
        return interpolate.CubicHermiteSpline(
            y, integrate.cumulative_simpson(below, x=y, initial=0), below
        )

    @property
    def scale(self) -> float:
        """Length that names the law."""
        return math.sqrt(self.variance)

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where w or its slope jumps, ascending from 0 to `reach`."""
        return (0.0, self.reach)

    @property
    def finest(self) -> float:
        """1 / max w, at most the root mean square jump."""
        return min(self.scale, 1 / float(np.max(self.density(self._table[0]))))

    @property
    def variance(self) -> float:
        """Mean square jump."""
        y = self._table[0]
        return 2 * float(integrate.simpson(y**2 * self.density(y), x=y))

    def density(self, y: ArrayLike) -> np.ndarray:
        """w(y), 0 beyond the reach."""
        y = _array(y)
        return np.where(np.abs(y) <= self.reach, _array(self.function(y)), 0.0)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Probability of a jump below y."""
        y = _array(y)
        return 0.5 + np.sign(y) * np.interp(np.abs(y), *self._table)

    def second_integral(self, y: ArrayLike) -> np.ndarray:
        """Even function G with G'' = w and G(0) = 0."""
        y = np.abs(_array(y))
        return self._second(np.minimum(y, self.reach)) + np.maximum(y - self.reach, 0) / 2

    def draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent jumps, by the inverse of the tabulated distribution."""
        y, below = self._table
        size = np.interp(rng.random(shape) * below[-1], below, y)
        return np.where(rng.random(shape) < 0.5, -size, size)
