"""The figures of the emergence of a concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thermolearn.core.drawing import COLORS, Drawing
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.archetypes import ArchetypeDataset, run_from_archetypes
from thermolearn.systems.memory.concept_emergence.diagram import phase_diagram
from thermolearn.systems.memory.concept_emergence.simulation import retrieval_fraction
from thermolearn.systems.memory.concept_emergence.theory import spectral_sample_size
from thermolearn.systems.memory.example_noise import (
    critical_sample_size,
    load_capacity,
    unsupervised_engine,
)

LOAD, HEAT = 0.02, 0.1
# Legible on a map.
FRAMED: dict[str, Any] = {
    "frameon": True,
    "facecolor": "white",
    "framealpha": 1.0,
    "edgecolor": "0.6",
    "labelcolor": "black",
}
# Archetypes tried per network.
STARTS = 4


def examples_figure(quick: bool) -> Drawing:
    """m and n / r against M for three qualities."""
    n_spins, seeds, sweeps = (800, 4, 60) if quick else (3000, 12, 200)
    drawing = Drawing(
        rf"Examples without labels, $\alpha$ = {LOAD}, $T$ = {HEAT}", columns=2, size=(11, 4.2)
    )
    drawing.parameters = {"sweeps": sweeps}
    archetype, mean_example = drawing.axes[0]
    archetype.set(ylabel="overlap $m$ with the archetype")
    mean_example.set(ylabel="overlap with the mean example over quality, $n/r$")
    for axis in (archetype, mean_example):
        axis.set(xlabel="examples per archetype $M$", xscale="log")
    line = np.unique(np.round(np.geomspace(4, 400, 60 if quick else 150)).astype(int))
    measured = (5, 10, 20, 40, 80, 160)
    for color, r in enumerate((0.3, 0.4, 0.6)):
        states = [unsupervised_engine(LOAD, r, int(M)).solve(HEAT) for M in line]
        common = {"color": color, "quality": r, "load": LOAD, "temperature": HEAT}
        drawing.theory(archetype, line, [s.m for s in states], f"$r$ = {r}", **common)
        drawing.theory(mean_example, line, [s.n / r for s in states], f"$r$ = {r}", **common)
        m, n = [], []
        for M in track(measured, f"networks at r = {r}", len(measured)):
            rows = _networks(n_spins, r, M, seeds, sweeps)
            m.append(mean_estimate(rows[:, 0]))
            n.append(mean_estimate(rows[:, 1]) / r)
        common |= {"seeds": seeds, "n_spins": n_spins}
        drawing.simulation(archetype, measured, m, **common)
        drawing.simulation(mean_example, measured, n, **common)
        M_c = critical_sample_size("unsupervised", LOAD, r, HEAT).M
        archetype.axvline(M_c, color=COLORS[color], ls=":", lw=1)
    archetype.legend(frameon=False, title=f"lines: theory\npoints: {n_spins} spins\ndotted: $M_c$")
    return drawing


def _networks(n_spins: int, r: float, M: int, seeds: int, sweeps: int) -> np.ndarray:
    """m and n of networks started at an archetype, shape (seeds, 2)."""
    rows = []
    for seed in range(seeds):
        data = ArchetypeDataset(n_spins, round(LOAD * n_spins), M, r, seed)
        found = run_from_archetypes(data.unsupervised_couplings(), data, HEAT, sweeps, seed, 2)
        rows.append((found.m.mean(), found.n.mean()))
    return np.array(rows)


def sharpening_figure(quick: bool) -> Drawing:
    """Share of archetypes recalled against M at growing numbers of spins.

    Bars are Wilson's intervals of one standard error, which end at 0 and 1. The finite number of
    sweeps moves the step to fewer examples: see `retrieval_fraction`.
    """
    r = 0.3
    sizes = (400, 800, 1600) if quick else (500, 1000, 2000, 3000)
    seeds, counts, sweeps = (4, 7, 200) if quick else (16, 15, 800)
    drawing = Drawing(rf"The step at $M_c$: $r$ = {r}, $\alpha$ = {LOAD}, $T$ = {HEAT}")
    axis = drawing.axes[0, 0]
    axis.set(xlabel="examples per archetype $M$", ylabel="share of archetypes recalled, $m$ > 0.7")
    M_c = int(critical_sample_size("unsupervised", LOAD, r, HEAT))
    edges = np.array([10, M_c - 0.5, M_c - 0.5, 70])
    drawing.theory(axis, edges, [0.0, 0.0, 1.0, 1.0], "infinitely many spins", color=3)
    measured = np.round(np.linspace(14, 66, counts)).astype(int)
    for color, n_spins in enumerate(sizes):
        shares = [
            retrieval_fraction(n_spins, LOAD, r, int(M), HEAT, seeds, STARTS, sweeps)
            for M in track(measured, f"networks of {n_spins} spins", len(measured))
        ]
        drawing.simulation(
            axis,
            measured,
            shares,
            f"{n_spins} spins",
            color,
            seeds,
            interval=share_interval(shares, seeds * STARTS),
            n_spins=n_spins,
            quality=r,
            sweeps=sweeps,
        )
        axis.plot(measured, [float(s) for s in shares], color=COLORS[color], lw=0.6)
    axis.legend(frameon=False)
    return drawing


def share_interval(shares: Sequence[Estimate], tried: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's interval of one standard error around each share, inside [0, 1].

    (p + 1/2n -+ sqrt(p (1 - p) / n + 1/4n^2)) / (1 + 1/n), n the number of independent trials that
    the standard error of the share corresponds to: at most `tried`, fewer where the trials on one
    data set go together.

    References
    ----------
    Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    p = np.array([float(share) for share in shares])
    stderr = np.array([float(share.stderr) for share in shares])
    # as the standard error itself, with half an event more on either side
    inner = (p * tried + 0.5) / (tried + 1)
    n = np.minimum(inner * (1 - inner) / stderr**2, tried)
    half = np.sqrt(p * (1 - p) / n + 0.25 / n**2)
    lower, upper = ((p + 0.5 / n + sign * half) / (1 + 1 / n) for sign in (-1, 1))
    # rounding must not move an end past the value
    return np.clip(lower, 0, p), np.clip(upper, p, 1)


def plane_figure(quick: bool) -> Drawing:
    """Overlap in the (quality, examples) plane at T = 0 and the (load, temperature) plane.

    The plane starts at M = 2: of one example only itself is recalled, and m = r.
    """
    cells = 18 if quick else 40
    drawing = Drawing("Where the archetype is recalled", columns=2, size=(11, 4.2))
    examples, plane = drawing.axes[0]
    examples.set(xlabel="quality $r$", ylabel="examples per archetype $M$", yscale="log")
    plane.set(xlabel=r"load $\alpha = K/N$", ylabel="temperature $T$")
    qualities = np.linspace(0.1, 0.9, cells)
    counts = np.unique(np.round(np.geomspace(2, 2000, cells)).astype(int))
    found = phase_diagram(LOAD, qualities, counts, 0.0)
    drawing.map(examples, found.x, found.y, found.overlap, "overlap $m$", load=LOAD, temperature=0)
    sizes = [critical_sample_size("unsupervised", LOAD, float(r), 0.0).M for r in qualities]
    edges = _cell_edges(qualities)
    drawing.theory(
        examples,
        np.repeat(edges, 2)[1:-1],
        np.repeat(np.array(sizes, float), 2),
        r"$M_c$ ($m \geq 0.8$)",
        color=1,
    )
    spectral = np.array([spectral_sample_size(LOAD, float(r)) for r in qualities])
    drawing.theory(examples, qualities, spectral, "principal components", color=3, linestyle="--")
    examples.set(xlim=(edges[0], edges[-1]), ylim=(2, 2000))
    examples.legend(**FRAMED)
    r, M = 0.5, 50
    heats = np.linspace(0.02, 1.0, cells)
    found = phase_diagram(np.linspace(0.002, 0.1, cells), r, M, heats)
    drawing.map(plane, found.x, found.y, found.overlap, "overlap $m$", quality=r, examples=M)
    line = np.linspace(0.02, 0.99, 14 if quick else 40)
    capacity = [load_capacity("unsupervised", r, M, float(T)) for T in line]
    drawing.theory(plane, capacity, line, r"$\alpha_c$", color=1, quality=r, examples=M)
    plane.legend(**FRAMED)
    return drawing


def _cell_edges(centers: np.ndarray) -> np.ndarray:
    middles = (centers[1:] + centers[:-1]) / 2
    return np.array([2 * centers[0] - middles[0], *middles, 2 * centers[-1] - middles[-1]])
