"""Potentials on the line and in boxes, and how they grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real


class NotNormalisableError(ValueError):
    """e^{-beta U} has no finite integral on its domain: there is no law to relax to."""


@dataclass(frozen=True)
class Potential:
    """U(x) between two hard walls, which may be infinitely far.

    Parameters
    ----------
    function : callable
        U(x) in units of 1/beta, vectorized, finite between the walls. A potential that is only
        defined up to a constant is fine.
    low, high : float
        Walls: jumps beyond are rejected.
    name : str
        For messages and labels.
    """

    function: Callable[[np.ndarray], ArrayLike] = field(repr=False)
    low: float = -math.inf
    high: float = math.inf
    name: str = "potential"

    def __post_init__(self) -> None:
        if not callable(self.function):
            hint = "; take harmonic(), box(), power(k), double_well(b) of this module"
            raise ValueError(
                f"potential must be a callable U(x) or a Potential, got {self.function!r}"
                f"{hint if isinstance(self.function, str) else ''}"
            )
        if not self.low < self.high:
            raise ValueError(f"low must lie below high, got {self.low!r} and {self.high!r}")

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """U(x), +inf beyond the walls.

        Raises
        ------
        ValueError
            If U is NaN somewhere between the walls.
        """
        x = np.asarray(x, dtype=np.float64)
        inside = np.clip(x, self.low, self.high)
        with np.errstate(over="ignore"):
            u = np.broadcast_to(np.asarray(self.function(inside), dtype=np.float64), x.shape)
        if np.isnan(u).any():
            bad = inside[np.isnan(u)].ravel()[0]
            raise ValueError(f"{self.name}: U({bad:.6g}) is nan; U must be a number on its domain")
        return u if inside is x else np.where((x < self.low) | (x > self.high), np.inf, u)


def as_potential(potential: Potential | Callable[[np.ndarray], ArrayLike]) -> Potential:
    """The potential itself, or a callable U(x) on the whole line as one."""
    return potential if isinstance(potential, Potential) else Potential(potential)


def box(half_width: float = 1.0) -> Potential:
    """U = 0 for |x| <= half_width > 0, walls outside."""
    size = real("half_width", half_width, above=0)
    return Potential(lambda x: np.zeros_like(x), -size, size, "box")


def harmonic(stiffness: float = 1.0) -> Potential:
    """U = stiffness x^2 / 2, stiffness > 0: standard deviation (beta stiffness)^(-1/2)."""
    k = real("stiffness", stiffness, above=0)
    return Potential(lambda x: k * x**2 / 2, name="harmonic")


def power(exponent: float, strength: float = 1.0) -> Potential:
    """U = strength |x|^exponent; both > 0.

    Below exponent 1 the chain has no spectral gap: far out the force vanishes and the relaxation
    is slower than any exponential.
    """
    k, c = real("exponent", exponent, above=0), real("strength", strength, above=0)
    return Potential(lambda x: c * np.abs(x) ** k, name=f"|x|^{k:g}")


def double_well(barrier: float, tilt: float = 0.0) -> Potential:
    """U = barrier (x^2 - 1)^2 + tilt x: wells near -1 and +1, not symmetric if tilted."""
    b, t = real("barrier", barrier, above=0), real("tilt", tilt)
    return Potential(lambda x: b * (x**2 - 1) ** 2 + t * x, name="double well")


def growth(potential: Potential, edge: float, direction: int) -> tuple[str, float]:
    """How U rises far outside: ("wall" | "superlinear" | "linear" | "sublinear", slope).

    The exponent p of U ~ |x|^p between 2^20 and 2^21 edges away; linear is |p - 1| < .005. The
    slope is that of U there (NaN unless linear).
    """
    wall = potential.high if direction > 0 else -potential.low
    if math.isfinite(wall):
        return "wall", math.nan
    far = max(abs(edge), 1e-300) * 2.0**20
    u = potential(direction * np.array([far, 2 * far, 4 * far]))
    if not np.all(np.isfinite(u)):
        return "superlinear", math.nan
    near, next_one = np.diff(u)
    if near <= 0 or next_one <= 0:
        return "sublinear", math.nan
    p = math.log2(next_one / near)
    if abs(p - 1) < 0.005:
        return "linear", float(next_one / (2 * far))
    return ("superlinear" if p > 1 else "sublinear"), math.nan
