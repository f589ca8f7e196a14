"""The observables of the catalogue from training at finite dimension."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.training.sgd_noise import simulation
from thermolearn.systems.training.sgd_noise.params import Params


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Train `p.data_sets` perceptrons, each on samples of its own; the observables of `theory`.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative.

    Returns
    -------
    dict of Estimate
        stderr between the data sets of this seed.
    """
    T, half = p.steps, p.steps // 2
    seeds = range(seed * p.data_sets, (seed + 1) * p.data_sets)
    run = simulation.simulate(
        p.model(),
        p.dimension,
        p.algorithm(),
        p.weight_decay,
        T,
        seeds=seeds,
        start=p.start(),
        waiting_times=[half],
        lag=T - half,
    )
    if run.flags:  # Ctrl-C: a seed is whole, or not there
        raise KeyboardInterrupt
    found = run.per_seed
    C = found["C"]
    square = np.diagonal(C, axis1=1, axis2=2)
    moved = square[:, 1:] + square[:, :-1] - 2 * np.diagonal(C, 1, axis1=1, axis2=2)
    values = {
        "overlap": found["m"][:, T],
        "square_norm": C[:, T, T],
        "correlation": C[:, T, half],
        "response": found["response"][:, 0, -1],
        "train_loss": found["loss"][:, T],
        "test_error": found["test_error"][:, T],
        "fast_temperature": moved[:, T // 4 :].mean(1) / (2 * p.rate),
    }
    return {name: mean_estimate(value) for name, value in values.items()}
