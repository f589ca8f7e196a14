"""Regression on drawn data sets."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.predict.simulate import simulate_gp_regression
from thermolearn.systems.training.learning_curves.params import Params


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Mean over `p.datasets` data sets, each averaged over its targets; the error is exact.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative; seeds share no data set.

    Returns
    -------
    dict of Estimate
        The observables of `theory`; stderr between the data sets of this seed.
    """
    found = simulate_gp_regression(
        p.machine(),
        p.dim,
        p.target_power,
        p.n_samples,
        p.noise,
        p.label_noise,
        n_datasets=p.datasets,
        n_targets=p.targets,
        seed=seed,
    )
    learned = found.learnability
    kept = p.degrees
    return {
        "test_error": found.test_error,
        "train_error": found.train_error,
        "learnability": Estimate(np.asarray(learned)[kept], np.asarray(learned.stderr)[kept]),
        "predictive_variance": found.predictive_variance,
        "log_evidence_per_sample": found.log_evidence / p.n_samples,
    }
