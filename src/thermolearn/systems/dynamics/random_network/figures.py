"""The headline figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.drawing import COLORS, MARKERS
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.dynamics.random_network.mean_field import two_time_correlation
from thermolearn.systems.dynamics.random_network.simulation import trajectories
from thermolearn.systems.dynamics.random_network.theory import (
    euler_correlation,
    stationary_variance,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thermolearn.core.drawing import Drawing

DT, BURN_IN, LAST, STARTS = 0.2, 25.0, 8.0, 2
GAINS = (2.0, 3.0, 5.0)
CIRCLE, DIAMOND = 0, 3  # indices of markers


def figure(quick: bool = True) -> Drawing:
    """Autocorrelation and variance of the chaotic state.

    Left: C(tau)/C(0); lines, the conservative motion in the same Euler steps; circles, networks,
    which lie above by terms of order 1/N; diamonds, the mean-field equations marched in time from
    h ~ N(0, 1). Right: the variance against the gain; line, closed form; the same points.

    Parameters
    ----------
    quick : bool
        48 networks of 200 units and 2000 samples of the mean-field unit, else 80 of 400 and 10000.
    """
    from thermolearn.core.drawing import Drawing

    networks, n_units, n_mc = (48, 200, 2000) if quick else (80, 400, 10000)
    duration = 60.0 if quick else 120.0  # with small errors the start is still seen after 60
    drawing = Drawing("Random recurrent networks", columns=2, size=(11, 4.2))
    drawing.parameters = {"dt": DT, "n_units": n_units, "networks": networks, "n_mc": n_mc}
    left, right = drawing.axes[0]
    left.set(xlabel=r"lag $\tau$ (time constants)", ylabel=r"$C(\tau)/C(0)$")
    right.set(xlabel="gain g", ylabel=r"$\langle h^2\rangle$")
    gains = np.linspace(0.6, 5.2, 93)
    closed = np.array([float(stationary_variance(g)) for g in gains])
    drawing.theory(right, gains, closed, "closed form", 0)
    lags = np.arange(0, round(LAST / DT) + 1, 4)
    found, marched = [], []
    # below the transition the state is quiet: only its variance is shown
    all_gains = (0.8, 1.5, *GAINS)
    for gain in track(all_gains, "drawing networks"):
        C = _networks(gain, networks, n_units, lags)
        D = _march(gain, duration if gain in GAINS else duration / 2, n_mc, lags)
        found.append(mean_estimate(C[:, 0]))
        marched.append(mean_estimate(D[:, 0]))
        if gain not in GAINS:
            continue
        color = GAINS.index(gain)
        exact = np.asarray(euler_correlation(gain, DT, int(lags[-1])).value)
        where: dict[str, Any] = {"gain": gain}
        drawing.theory(
            left, np.arange(len(exact)) * DT, exact / exact[0], f"g = {gain:g}", color, **where
        )
        drawing.simulation(
            left,
            lags * DT,
            _ratio(C),
            f"networks, g = {gain:g}",
            color,
            networks,
            marker=CIRCLE,
            n_units=n_units,
            **where,
        )
        drawing.simulation(
            left, lags * DT, _ratio(D), f"DMFT, g = {gain:g}", color, 4, marker=DIAMOND, **where
        )
    labels = f"networks, N = {n_units}", "DMFT, marched"
    drawing.simulation(
        right, all_gains, found, labels[0], 1, networks, marker=CIRCLE, n_units=n_units
    )
    drawing.simulation(right, all_gains, marched, labels[1], 2, 4, marker=DIAMOND)
    _legend(left, (f"{labels[0]} (above the line: finite size)", labels[1]))
    right.legend(frameon=False, fontsize=8)
    return drawing


def _legend(axis: Axes, kinds: tuple[str, str]) -> None:
    """The color says the gain, the marker what it is."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=COLORS[k], label=f"theory, g = {g:g}") for k, g in enumerate(GAINS)
    ]
    points = [
        Line2D([], [], ls="none", color="0.3", mfc="white", marker=MARKERS[m], label=kind)
        for m, kind in zip((CIRCLE, DIAMOND), kinds, strict=True)
    ]
    axis.legend(handles=[*lines, *points], frameon=False, fontsize=8)


def _ratio(C: np.ndarray) -> Estimate:
    """C(tau)/C(0) of samples (n, lags): ratio of the means, error by linearization."""
    ratio = C.mean(0) / C[:, 0].mean()
    spread = (C - ratio * C[:, :1]).std(0, ddof=1) / C[:, 0].mean()
    return Estimate(ratio, spread / len(C) ** 0.5)


def _networks(gain: float, networks: int, n_units: int, lags: np.ndarray) -> np.ndarray:
    """C at the lags of each network, (networks, lags)."""
    path = []
    h = trajectories(n_units, gain, DT, networks, STARTS, np.random.default_rng(0))
    for _ in range(round((BURN_IN + 30) / DT)):
        path.append(next(h))
    h = np.array(path)[round(BURN_IN / DT) :]
    pairs = [np.einsum("tmns,tmns->m", h[k:], h[: len(h) - k]) / (len(h) - k) for k in lags]
    return np.array(pairs, dtype=np.float64).T / (n_units * STARTS)


def _march(gain: float, duration: float, n_mc: int, lags: np.ndarray) -> np.ndarray:
    """C at the lags of each run, averaged over the times of the last half."""
    C = two_time_correlation(gain, duration, DT, n_mc).per_run["C"]
    T = C.shape[1]
    return np.stack(
        [np.diagonal(C[:, T // 2 :, T // 2 - k : T - k], 0, 1, 2).mean(1) for k in lags], 1
    )
