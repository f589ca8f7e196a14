"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass

from thermolearn.core.checks import real, whole

POTENTIALS = ("harmonic", "quartic", "absolute", "box")
JUMPS = ("uniform", "gaussian", "exponential")


@dataclass(frozen=True)
class Params:
    """Metropolis chains in a radial potential.

    Attributes
    ----------
    walkers : int
        Independent chains of one seed, at least 400; only the error depends on it.
    potential : str
        U(r), r = |x|: "harmonic" r^2/2, "quartic" r^4, "absolute" r, "box" 0 for |x| <= 1 and
        infinite outside (one dimension).
    jump : str
        Law of the jumps: "uniform" on [-length, length], "gaussian" of standard deviation
        `length` per coordinate, "exponential" (two-sided, density e^{-|y|/length}/(2 length));
        in more than one dimension "gaussian".
    length : float
        Scale of the jumps, > 0, in units of x.
    beta : float
        Inverse temperature, > 0; the density is e^{-beta U}.
    dimension : int
        From 1 to 1000.
    lag : int
        Steps of every chain; even, from 2 to 1000. The relaxation is read off the correlation of
        its two ends: best about half the relaxation time (something must be left of it).
    """

    walkers: int = 50_000
    potential: str = "harmonic"
    jump: str = "uniform"
    length: float = 2.0
    beta: float = 1.0
    dimension: int = 1
    lag: int = 2

    def __post_init__(self) -> None:
        whole("walkers", self.walkers, 400)
        whole("dimension", self.dimension, 1, 1000)
        whole("lag", self.lag, 2, 1000)
        real("length", self.length, above=0)
        real("beta", self.beta, above=0)
        if self.lag % 2:
            raise ValueError(f"lag must be even, got {self.lag}")
        if self.potential not in POTENTIALS:
            raise ValueError(f"potential must be one of {POTENTIALS}, got {self.potential!r}")
        if self.jump not in JUMPS:
            raise ValueError(f"jump must be one of {JUMPS}, got {self.jump!r}")
        if self.dimension > 1 and self.jump != "gaussian":
            raise ValueError("jump must be 'gaussian' in more than one dimension")
        if self.dimension > 1 and self.potential == "box":
            raise ValueError("potential: the box is one-dimensional")
