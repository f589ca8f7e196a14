"""The headline figure: random machines against theory, and training against its bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.rbm.data import bars_and_stripes
from thermolearn.systems.memory.rbm.estimator import RBM
from thermolearn.systems.memory.rbm.simulation import simulate
from thermolearn.systems.memory.rbm.theory import Params, two_layer_theory

METHODS = {"CD-1": "cd", "PCD-1": "pcd", "exact gradient": "exact"}


def figure(quick: bool = True) -> Drawing:
    """Left: ln Z per unit of random machines over the coupling, theory and annealing at two sizes.

    Right: exact log-likelihood of bars and stripes (4 x 4, 10 hidden units) over the epochs of
    training, mean over seeds, with the bound -ln 30.
    """
    drawing = Drawing("Restricted Boltzmann machines", columns=2)
    base = Params()
    drawing.parameters = {
        "hidden_share": base.hidden_share,
        "visible_field": base.visible_field,
        "hidden_field": base.hidden_field,
        "training": "bars and stripes 4 x 4, 20 copies, 10 hidden units",
    }
    left, right = drawing.axes[0]
    _random_machines(drawing, left, quick)
    _training(drawing, right, quick)
    return drawing


def _random_machines(drawing: Drawing, ax: Any, quick: bool) -> None:
    ax.set(xlabel="coupling g", ylabel="ln Z per unit - its value at g = 0 (nats)")
    base = Params()
    zero = two_layer_theory(replace(base, coupling=0.0)).log_partition
    line = np.linspace(0, 1.4, 29)
    values = [two_layer_theory(replace(base, coupling=float(g))).log_partition - zero for g in line]
    drawing.theory(ax, line, values, "replica symmetric")
    sizes, n_seeds, couplings = ((40, 200), 3, 4) if quick else ((40, 300), 12, 9)
    points = np.linspace(0.2, 1.4, couplings)
    jobs = [(n, float(g)) for n in sizes for g in points]
    results = {}
    for n, g in track(jobs, "random machines", len(jobs)):
        p = replace(base, n_spins=n, coupling=g)
        runs = [float(simulate(p, seed)["log_partition"]) - zero for seed in range(n_seeds)]
        results[n, g] = mean_estimate(runs)
    for color, n in enumerate(sizes, 1):
        drawing.simulation(
            ax,
            points,
            [results[n, float(g)] for g in points],
            f"annealing, N = {n}",
            color=color,
            seeds=n_seeds,
            n_spins=n,
        )
    ax.legend(frameon=False)


def _training(drawing: Drawing, ax: Any, quick: bool) -> None:
    ax.set(xlabel="epochs", ylabel="log-likelihood (nats per image)")
    X = bars_and_stripes(4, copies=20)
    bound = -math.log(30)
    epochs, n_seeds = (150, 3) if quick else (600, 8)
    drawing.theory(ax, [0, epochs], [bound, bound], "bound, -ln 30", color=5)
    for color, (label, method) in enumerate(METHODS.items()):
        runs = [_run(X, method, epochs, seed) for seed in track(range(n_seeds), label, n_seeds)]
        x = [c.epoch for c in runs[0].history_]
        y = [
            mean_estimate([float(r.history_[i].log_likelihood) for r in runs])
            for i in range(len(x))
        ]
        drawing.simulation(ax, x, y, label, color=color, seeds=n_seeds)
    ax.legend(frameon=False)


def _run(X: np.ndarray, method: str, epochs: int, seed: int) -> RBM:
    rbm = RBM(
        10,
        method=method,
        learning_rate=0.2,
        n_epochs=epochs,
        batch_size=60,
        init_std=0.1,
        n_checkpoints=16,
        random_state=seed,
    )
    return rbm.fit(X)
