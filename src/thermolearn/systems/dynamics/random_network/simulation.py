"""N coupled units, many networks at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from thermolearn.core.estimate import Estimate, jackknife
from thermolearn.systems.dynamics.random_network.params import Params

BATCH = 20  # networks in memory together
STRIDE = 0.4  # time between measurements


def trajectories(
    n_units: int, gain: float, dt: float, networks: int, starts: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """h (networks, N, starts) after every Euler step, without end; float32, h(0) ~ N(0, 1)."""
    J = rng.standard_normal((networks, n_units, n_units), dtype=np.float32)
    J /= np.float32(n_units**0.5)
    h = rng.standard_normal((networks, n_units, starts), dtype=np.float32)
    g, step = np.float32(gain), np.float32(dt)
    while True:
        yield h
        h = h + step * (J @ np.tanh(g * h) - h)


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Time averages of the stationary state, by Euler steps from random states.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative; seeds share no network.

    Returns
    -------
    dict of Estimate
        The observables of `theory`; stderr between the networks of this seed. The correlation is
        the ratio of means over the networks.
    """
    rng = np.random.default_rng([seed, 61259])
    sizes = [min(BATCH, p.networks - k) for k in range(0, p.networks, BATCH)]
    moments = np.concatenate([_moments(p, rng, n) for n in sizes])
    return {
        "variance": jackknife(lambda m: m[:, 0].mean(), moments),
        "activity": jackknife(lambda m: m[:, 1].mean(), moments),
        "correlation": jackknife(lambda m: m[:, 2:].mean(0) / m[:, 0].mean(), moments),
    }


def _moments(p: Params, rng: np.random.Generator, networks: int) -> np.ndarray:
    """<h^2>, <tanh^2(g h)> and <h(t) h(t - lag)> of each network, (networks, 2 + lags)."""
    first, every = round(p.burn_in / p.dt), max(round(STRIDE / p.dt), 1)
    last = first + round(p.duration / p.dt)
    past: deque[np.ndarray] = deque(maxlen=p.lags[-1] + 1)
    rows = []
    path = trajectories(p.n_units, p.gain, p.dt, networks, p.starts, rng)
    for k, h in enumerate(path):
        past.append(h)
        if k >= max(first, p.lags[-1]) and (k - first) % every == 0:
            signal = np.tanh(np.float32(p.gain) * h)
            pairs = [(h, h), (signal, signal), *((h, past[-1 - lag]) for lag in p.lags)]
            rows.append([np.einsum("mns,mns->m", a, b) for a, b in pairs])
        if k == last:
            break
    total = np.sum(np.array(rows, dtype=np.float64), axis=0)
    return np.transpose(total) / (len(rows) * p.n_units * p.starts)
