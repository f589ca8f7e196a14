"""The figures of the Hopfield model."""

from __future__ import annotations

import math

import numpy as np

from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.hopfield.phase_map import hopfield_map
from thermolearn.systems.memory.hopfield.simulation import sampled_overlaps
from thermolearn.systems.memory.hopfield.theory import (
    hopfield_phase_diagram,
    hopfield_theory,
    spinodal_temperature,
)

# Above the remanent overlap of failed retrieval, below that of retrieval.
LEVEL = 0.7
SWEEPS = 100


def phase_diagram_figure(quick: bool) -> Drawing:
    """T_M, T_c and T_g over the overlap of the retrieval states; points from simulation."""
    n_spins, seeds = (2000, 3) if quick else (4000, 10)
    drawing = Drawing("Hopfield model", columns=2, size=(11, 4.4))
    drawing.parameters = {"sweeps": SWEEPS}
    lines, colored = drawing.axes[0]
    for axis in (lines, colored):
        axis.set(xlabel=r"load $\alpha = K/N$", ylabel="temperature $T$")
    loads = np.linspace(0.002, 0.1375, 28 if quick else 60)
    diagram = hopfield_phase_diagram(loads)
    drawing.theory(lines, loads, diagram.T_g, "$T_g$: spin glass", color=2)
    drawing.theory(lines, loads, diagram.T_M, "$T_M$: retrieval ends", color=0)
    global_minimum = np.isfinite(diagram.T_c)
    drawing.theory(
        lines,
        loads[global_minimum],
        diagram.T_c[global_minimum],
        "$T_c$: retrieval is the ground state",
        color=1,
    )
    measured = (0.02, 0.05, 0.08) if quick else (0.01, 0.02, 0.035, 0.05, 0.065, 0.08, 0.1)
    ends = [_measured_end(a, n_spins, seeds) for a in track(measured, "networks", len(measured))]
    drawing.simulation(
        lines,
        measured,
        ends,
        f"overlap of {n_spins} spins falls to\n{LEVEL} of its value at $T_M$",
        color=0,
        seeds=seeds,
        n_spins=n_spins,
    )
    lines.set_ylim(0, 1.45)
    lines.legend(frameon=False, fontsize=8)
    cells = 24 if quick else 40
    grid = hopfield_map(np.linspace(0.003, 0.15, cells), np.linspace(0.02, 1.0, cells))
    drawing.map(
        colored, grid.alphas, grid.temperatures, grid.overlap, "overlap $m$ of the retrieval states"
    )
    return drawing


def overlap_curves(quick: bool) -> Drawing:
    """m(T) at three loads."""
    n_spins, seeds = (2000, 4) if quick else (4000, 16)
    drawing = Drawing("Hopfield model: overlap of the retrieval state")
    drawing.parameters = {"sweeps": SWEEPS}
    axis = drawing.axes[0, 0]
    axis.set(xlabel="temperature $T$", ylabel="overlap $m$")
    for color, alpha in enumerate((0.02, 0.05, 0.08)):
        end = float(spinodal_temperature(alpha))
        grid = end * (1 - np.geomspace(1e-6, 0.98, 60)[::-1])
        theory = [hopfield_theory(alpha, float(T)).m for T in grid]
        drawing.theory(axis, grid, theory, rf"$\alpha = {alpha}$", color=color, load=alpha)
        heats = end * np.linspace(0.2, 0.85, 5)
        points = [_mean_overlap(alpha, float(T), n_spins, seeds) for T in heats]
        drawing.simulation(
            axis, heats, points, color=color, seeds=seeds, load=alpha, n_spins=n_spins
        )
    axis.legend(frameon=False, title=f"lines: replica symmetric\npoints: {n_spins} spins")
    return drawing


def _mean_overlap(alpha: float, T: float, n_spins: int, seeds: int) -> Estimate:
    return mean_estimate([sampled_overlaps(n_spins, alpha, T, SWEEPS, s)[0] for s in range(seeds)])


def _measured_end(alpha: float, n_spins: int, seeds: int) -> Estimate:
    """Temperature where each network's overlap falls below `LEVEL` of theory's at the fold.

    NaN, and no point, unless every network crosses it within the temperatures tried.
    """
    end = float(spinodal_temperature(alpha))
    level = LEVEL * hopfield_theory(alpha, end * (1 - 1e-6)).m
    heats = end * np.linspace(0.55, 1.3, 11)
    found = []
    for seed in range(seeds):
        m = np.array([sampled_overlaps(n_spins, alpha, float(T), SWEEPS, seed)[0] for T in heats])
        below = np.flatnonzero(m < level)
        if not len(below) or below[0] == 0:
            found.append(math.nan)
            continue
        k = int(below[0])
        share = (m[k - 1] - level) / (m[k - 1] - m[k])
        found.append(float(heats[k - 1] + share * (heats[k] - heats[k - 1])))
    return mean_estimate(found)
