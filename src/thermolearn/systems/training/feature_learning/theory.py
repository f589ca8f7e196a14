"""The equations of state on the catalogue's data set."""

from __future__ import annotations

import warnings

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.systems.training.feature_learning.networks import BayesianFCN
from thermolearn.systems.training.feature_learning.params import Params

TOLERANCE = 1e-8


def theory(p: Params) -> dict[str, Estimate]:
    """Adapted kernels and the predictor that they make, to leading order in 1 / channels.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        learned_variance : Sigma_11 d / sigma_w2, of hidden weights along the teacher; 1 is the
            prior.
        input_variance : tr Sigma / sigma_w2, of hidden weights in all directions; 1 is the prior.
        train_alpha, test_alpha : f . y / y . y of the posterior mean f, on training and test data.
        The status is "not controlled" where the solution carries a flag.

    Raises
    ------
    ConvergenceError
        The equations were not solved.
    """
    X, y, test, test_y = p.data()
    net = BayesianFCN((p.channels,), p.dim, p.sigma_w2, p.sigma_a2, p.activation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the flag becomes the status
        solution = net.equations_of_state(X, y, p.noise).solve(TOLERANCE)
    sigma = solution.relative_input_covariance
    values = {
        "learned_variance": sigma[0, 0],
        "input_variance": np.trace(sigma) / p.dim,
        "train_alpha": solution.predict(X) @ y / (y @ y),
        "test_alpha": solution.predict(test) @ test_y / (test_y @ test_y),
    }
    status, note = ("not controlled", "; ".join(solution.flags)) if solution.flags else ("ok", "")
    return {
        name: Estimate(float(value), 10 * TOLERANCE * abs(float(value)), status=status, note=note)
        for name, value in values.items()
    }
