"""Gaussian of unit variance in every layer, and the correlation map of the pair."""

from __future__ import annotations

import numpy as np
from scipy.special import gamma, ndtr

from thermolearn.core.estimate import Estimate
from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
from thermolearn.measure.propagation.mean_field import MeanFieldMap
from thermolearn.systems.dynamics.gaussian_preactivations.params import Params

THRESHOLDS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)


def theory(p: Params) -> dict[str, Estimate]:
    """Exact at width 1 and in the limit of wide layers.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        variance : of the last pre-activations, 1.
        below : P(|z| < t) in the last layer for the thresholds t, of a standard normal.
        correlation : of two inputs, layers 1..depth: C(c) = E W^2 E phi(u) phi(v).
        chi1 : growth of squared gradients per layer, Gamma(1 + 2/theta) E phi'(X)^2.
    """
    pair = GaussianPreactivation(p.theta).double()
    field = MeanFieldMap(pair, float(gamma(1 + 2 / p.theta)))
    path = field.trajectory(1.0, p.depth, p.correlation)[1]
    error = np.broadcast_to(path.stderr, np.shape(path.value))
    return {
        "variance": Estimate(1.0),
        "below": Estimate(2 * ndtr(np.array(THRESHOLDS)) - 1),
        "correlation": Estimate(np.asarray(path.value)[1:], error[1:], note=path.note),
        "chi1": Estimate(pair.chi1(), 1e-9),
    }
