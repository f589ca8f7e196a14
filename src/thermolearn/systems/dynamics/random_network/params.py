"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass

from thermolearn.core.checks import real, whole

# Lags of the correlation, in units of the time constant; also the "points" in ABOUT.
LAGS = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Params:
    """Chaotic random networks, dh/dt = -h + J tanh(g h), J_ij ~ N(0, 1/N), in Euler steps.

    Attributes
    ----------
    n_units : int
        N, at least 2.
    gain : float
        g, in [1.5, 20]: chaos begins at 1, and slows down towards it.
    dt : float
        Euler step in units of the time constant, in (0, 0.5]; 1 / dt must be an integer.
    burn_in : float
        Time before the measurement, in time constants, at least 0.
    duration : float
        Time that is measured, at least 10.
    networks : int
        Networks that one seed averages over, at least 2.
    starts : int
        Random initial states of each network, at least 1.
    """

    n_units: int = 200
    gain: float = 5.0
    dt: float = 0.2
    burn_in: float = 25.0
    duration: float = 20.0
    networks: int = 50
    starts: int = 2

    def __post_init__(self) -> None:
        whole("n_units", self.n_units, 2)
        real("gain", self.gain, least=1.5, most=20)
        dt = real("dt", self.dt, above=0, most=0.5)
        if abs(round(1 / dt) * dt - 1) > 1e-9:
            raise ValueError(f"dt must be 1 over an integer, got {dt}")
        real("burn_in", self.burn_in, least=0)
        real("duration", self.duration, least=10)
        whole("networks", self.networks, 2)
        whole("starts", self.starts, 1)

    @property
    def lags(self) -> tuple[int, ...]:
        """`LAGS` in steps."""
        return tuple(round(lag / self.dt) for lag in LAGS)
