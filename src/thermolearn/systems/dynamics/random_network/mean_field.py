"""The random network as a single site and a closure: two-time correlations, transient included.

A unit of the large network in Euler steps is h(t+1) = (1 - dt) h(t) + dt eta(t), eta Gaussian with
<eta(t) eta(s)> = <phi(h(t)) phi(h(s))>, phi(h) = tanh(g h), and nothing comes back from the others:
couplings J_ij and J_ji are independent.

References: H. Sompolinsky, A. Crisanti, H. J. Sommers, doi:10.1103/PhysRevLett.61.259.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.signal import lfilter

from thermolearn.core import dmft
from thermolearn.core.checks import real


class Unit:
    """One unit, n_mc times; its field of step t is dt eta(t - 1), at first h(0)."""

    def __init__(self, gain: float, dt: float, n_mc: int):
        self.gain, self.leak, self.matched = gain, 1 - dt, np.zeros((0, n_mc))

    def step(
        self, t: int, field: np.ndarray, memory: np.ndarray, state: Any, rng: np.random.Generator
    ) -> dmft.SiteStep:
        """One Euler step of h; the signal is what the other units feel."""
        h = field if state is None else self.leak * state + field
        return dmft.SiteStep(np.tanh(self.gain * h), state=h)


class Order:
    """C(t, s) = <h(t) h(s)>; the law of the field is that of the signal one step before."""

    def __init__(self, dt: float, start: float):
        self.dt, self.field, self.C = dt, np.full((1, 1, 1), start), np.zeros((8, 8))

    def covariance(self, t: int) -> np.ndarray:
        """dt^2 <phi(t-1) phi(s-1)>; the initial state is independent of the later fields."""
        return self.field

    def kernel(self, t: int) -> None:
        """No memory."""

    def advance(self, t: int, averages: dmft.Averages) -> None:
        """C is linear in the field: <h(s) field(t)> = (1 - dt) <h(s-1) field(t)> + ..."""
        keep, n = 1 - self.dt, t + 1
        self.C = dmft.enlarged(self.C, n)
        pushed = lfilter([1.0], [1.0, -keep], self.field[0, 0])
        self.C[t, :t] = keep * self.C[t - 1, :t] + pushed[:t]
        self.C[t, t] = keep**2 * self.C[t - 1, t - 1] + 2 * keep * pushed[t - 1] if t else 0.0
        self.C[t, t] += self.field[0, 0, t]
        self.C[:t, t] = self.C[t, :t]
        self.field = np.r_[0.0, self.dt**2 * averages.M[0, 0]][None, None]

    def order_parameters(self) -> dict[str, np.ndarray]:
        """C at times 0, dt, ..."""
        steps = self.field.shape[-1] - 1
        return {"C": self.C[:steps, :steps]}


def two_time_correlation(
    gain: float,
    duration: float,
    dt: float = 0.1,
    n_mc: int = 4000,
    start_variance: float = 1.0,
    runs: int = 4,
    seed: int = 0,
) -> dmft.Solution:
    """Mean-field theory of dh/dt = -h + J tanh(g h) from h(0) ~ N(0, start_variance).

    Parameters
    ----------
    gain : float
        g >= 0.
    duration : float
        Last time; about 1 / dt steps each.
    dt : float
        Euler step, in (0, 0.5].
    n_mc, runs, seed : int
        As of `core.dmft.solve`.
    start_variance : float
        Not negative.

    Returns
    -------
    Solution
        ``order_parameters["C"]`` (T, T) at times k dt; ``covariance`` is that of the field.

    Raises
    ------
    ValueError
        A parameter out of range.
    """
    gain, dt = real("gain", gain, least=0), real("dt", dt, above=0, most=0.5)
    start = real("start_variance", start_variance, least=0)
    steps = round(real("duration", duration, least=dt) / dt) + 1
    return dmft.solve(
        lambda n, rng: Unit(gain, dt, n),
        lambda: Order(dt, start),
        steps,
        n_mc,
        runs=runs,
        seed=seed,
    )
