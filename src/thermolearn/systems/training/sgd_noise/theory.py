"""The observables of the catalogue from the mean-field theory."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.training.sgd_noise.params import Params

RUNS = 8


def theory(p: Params) -> dict[str, Estimate]:
    """Dynamical mean-field theory, d to infinity, at the last step T = `p.steps`.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        overlap : m(T) = w.v/d.
        square_norm : C(T, T) = |w|^2/d.
        correlation : C(T, T/2) = w(T).w(T/2)/d.
        response : chi(T, T/2), to a constant force since T/2.
        train_loss, test_error : at T.
        fast_temperature : eta <|g|^2>/(2d), g the gradient of a step, mean over the steps
            from T/4 on.

        The error is that of the Monte Carlo samples, between 8 runs.
    """
    found = p.model().dmft(
        p.algorithm(), p.weight_decay, p.steps, p.n_mc, start=p.start(), runs=RUNS
    )
    if any("interrupted" in flag for flag in found.flags):
        raise KeyboardInterrupt
    T, half = p.steps, p.steps // 2
    C = found.per_run["C"]
    steps = range(T // 4, T)
    heat = [C[:, t, t] + C[:, t + 1, t + 1] - 2 * C[:, t, t + 1] for t in steps]
    values = {
        "overlap": found.per_run["m"][:, T],
        "square_norm": C[:, T, T],
        "correlation": C[:, T, half],
        "response": found.per_run["chi"][:, T, half],
        "train_loss": found.per_run["loss"][:, T],
        "test_error": found.per_run["test_error"][:, T],
        "fast_temperature": np.mean(heat, axis=0) / (2 * p.rate),
    }
    status = "; ".join(found.flags) or "ok"
    return {name: mean_estimate(value, status=status) for name, value in values.items()}
