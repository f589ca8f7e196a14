"""How many labeled examples a memory needs, and how many branches the classes of digits have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.archetypes import ArchetypeDataset, run_from_archetypes
from thermolearn.systems.memory.example_noise import Kind, critical_sample_size, engine
from thermolearn.systems.memory.supervised_hebbian.classifier import (
    RULES,
    Clustering,
    HebbClassifier,
)

# Pixels of the 8 x 8 digits run from 0 to 16.
INK = 7.5
SPLITS, HELD_OUT = 5, 0.3


def figure(
    quick: bool = True, load: float = 0.02, quality: float = 0.3, temperature: float = 0.1
) -> Drawing:
    """Overlap with the archetype against the number of examples, with labels and without.

    Lines: replica-symmetric theory, dashed without labels; points: heat-bath dynamics of networks
    with labels, mean and standard error over seeds. Theory drops to 0 at the critical number of
    examples, where a start at the archetype keeps a remanent overlap of 0.2 to 0.3.

    Parameters
    ----------
    quick : bool
        1000 spins and 6 seeds, else 3000 and 16.
    load, quality, temperature : float
        alpha = K / N, r and T.
    """
    n_spins, seeds = (1000, 6) if quick else (3000, 16)
    with_labels, without = (
        int(critical_sample_size(kind, load, quality, temperature))
        for kind in ("supervised", "unsupervised")
    )
    low, high = with_labels / 4, with_labels * 8
    steps = [with_labels - 1, with_labels, without - 1, without]
    examples = np.union1d(_spaced(low, high, 25 if quick else 97), steps)
    examples = examples[examples > 0]
    drawing = Drawing(
        rf"{load:g} $N$ classes of examples of quality $r$ = {quality:g}, $T$ = {temperature:g}",
        size=(7.0, 4.0),
    )
    drawing.parameters = {"load": load, "quality": quality, "temperature": temperature}
    axis = drawing.axes[0, 0]
    axis.set(
        xlabel="examples per class",
        ylabel="overlap with the archetype",
        xscale="log",
        ylim=(-0.03, 1.03),
    )
    conditions: dict[str, Any] = {"load": load, "quality": quality, "temperature": temperature}
    curves: tuple[tuple[Kind, str, int, str], ...] = (
        ("supervised", "theory, with labels", 0, "-"),
        ("unsupervised", "theory, without labels", 1, "--"),
    )
    for kind, label, color, style in curves:
        overlap = [engine(kind, load, quality, M).solve(temperature).m for M in examples]
        drawing.theory(axis, examples, overlap, label, color, linestyle=style, **conditions)
    sampled = _spaced(low, high, 9)
    points = [
        mean_estimate(
            [
                _overlap(n_spins, round(load * n_spins) + 1, M, quality, temperature, seed)
                for seed in range(seeds)
            ]
        )
        for M in track(sampled, "Examples per class")
    ]
    label = f"simulation, with labels, N = {n_spins}"
    drawing.simulation(axis, sampled, points, label, 0, seeds, n_spins=n_spins, **conditions)
    axis.legend(frameon=False, loc="center right", fontsize="small")
    return drawing


def _overlap(N: int, K: int, M: int, r: float, T: float, seed: int) -> float:
    """Mean overlap over the starts of one network."""
    data = ArchetypeDataset(N, K, M, r, seed)
    J = data.supervised_couplings()
    return float(run_from_archetypes(J, data, T, 60, seed, starts=min(K, 4)).m.mean())


def _spaced(low: float, high: float, n: int) -> np.ndarray:
    return np.unique(np.geomspace(max(low, 1), high, n).round().astype(int))


def digits_accuracy(replicas: int, clustering: Clustering = "ward") -> dict[str, Estimate]:
    """Share of right answers on 8 x 8 digits by rule, with `replicas` units per class.

    Pixels are cut at 7.5; mean over five splits with 30% held out, stratified, of fixed seed. The
    error is the spread between splits over sqrt 5: they overlap, so it is of the order of the
    error only.

    Parameters
    ----------
    replicas, clustering
        As `HebbClassifier`.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedShuffleSplit

    X, y = load_digits(return_X_y=True)
    splitter = StratifiedShuffleSplit(SPLITS, test_size=HELD_OUT, random_state=0)
    scores: dict[str, list[float]] = {rule: [] for rule in RULES}
    for train, test in splitter.split(X, y):
        machine = HebbClassifier(replicas, clustering, binarise=INK, random_state=0)
        machine.fit(X[train], y[train])
        for rule in RULES:  # enters the activity only, not the units
            scores[rule].append(float(machine.set_params(rule=rule).score(X[test], y[test])))
    note = f"{SPLITS} overlapping splits"
    return {rule: mean_estimate(values, note=note) for rule, values in scores.items()}


def digits_figure(quick: bool = True, replicas: Sequence[int] = (1, 2, 5, 10, 20, 40)) -> Drawing:
    """Accuracy of `HebbClassifier` on 8 x 8 digits against the number of units per class.

    Parameters
    ----------
    quick : bool
        As it is; without, also 3, 7, 14 and 28 units.
    replicas : sequence of int
        Units per class, at most as many as a class has examples.
    """
    units = sorted(replicas) if quick else sorted({*replicas, 3, 7, 14, 28})
    rows = [digits_accuracy(L) for L in track(units, "Units per class")]
    drawing = Drawing("Digits by the most similar mean example")
    drawing.parameters = {"data": "digits of scikit-learn", "splits": SPLITS}
    axis = drawing.axes[0, 0]
    axis.set(xlabel="units per class", ylabel="accuracy on held-out digits", xscale="log")
    for color, rule in enumerate(reversed(RULES)):
        points = [row[rule] for row in rows]
        drawing.simulation(axis, units, points, rule, color, splits=SPLITS)
    axis.legend(frameon=False, title="rule")
    return drawing
