"""Decisions on drawn observations; no cumulant generating function in closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import norm

from thermolearn.core.estimate import Estimate, mean_estimate

if TYPE_CHECKING:
    from thermolearn.systems.inference.error_exponents import Params


def run(p: Params, seed: int) -> dict[str, Estimate]:
    """See `thermolearn.systems.inference.error_exponents.simulate`."""
    rng = np.random.default_rng((2207_10939, p.n_observations, seed))
    n, shift, at = p.n_observations, p.shift, (p.shift + p.threshold) / 2
    x = rng.laplace(size=p.scores)
    ratio = np.abs(x) - np.abs(x - shift)
    best, linear = legendre(ratio, 0.0), legendre(x, shift / 2)
    cfar = float(norm.isf(p.alpha)) * math.sqrt(2 / n)
    return {
        "exponent_llr": Estimate(legendre(ratio, p.threshold), math.nan),
        "exponent_linear": Estimate(legendre(x, at), math.nan),
        "efficiency": Estimate(linear / best, math.nan),
        # under H1 everything is reflected about shift/2
        "false_alarm_llr": ratio_above(p, p.threshold, rng),
        "miss_llr": ratio_above(p, -p.threshold, rng),
        "false_alarm_linear": mean_above(p, at, rng),
        "miss_linear": mean_above(p, shift - at, rng),
        "cfar_false_alarm": mean_above(p, cfar, rng),
    }


def legendre(scores: np.ndarray, gamma: float) -> float:
    """Largest t gamma - log mean exp(t f), by a bounded search."""

    def cumulant(t: float) -> float:
        return float(np.asarray(logsumexp(t * (scores - gamma)))) - math.log(len(scores))

    found: Any = minimize_scalar(cumulant, bounds=(-0.95, 0.95), method="bounded")
    return -float(found.fun)


def ratio_above(p: Params, gamma: float, rng: np.random.Generator) -> Estimate:
    """P_0 of a mean likelihood ratio above gamma, from observations of either hypothesis.

    Each observation is noise or signal with probability 1/2, of weight p0/q = 2/(1 + e^ratio).
    """
    size = p.draws, p.n_observations
    x = rng.laplace(size=size) + p.shift * (rng.random(size) < 0.5)
    ratio = np.abs(x) - np.abs(x - p.shift)
    log_weight = (math.log(2) - np.logaddexp(0.0, ratio)).sum(1)
    return mean_estimate(np.exp(log_weight) * (ratio.mean(1) > gamma))


def mean_above(p: Params, gamma: float, rng: np.random.Generator) -> Estimate:
    """P_0(mean > gamma), from skew noise of mean about gamma.

    E/(1 - t) - E'/(1 + t), of density (1 - t^2)/2 exp(t x - |x|), in place of t = 0.
    """
    t = (math.hypot(1.0, gamma) - 1) / gamma if gamma else 0.0
    size = p.draws, p.n_observations
    x = rng.exponential(1 / (1 - t), size) - rng.exponential(1 / (1 + t), size)
    log_weight = -t * x.sum(1) - p.n_observations * math.log1p(-t * t)
    return mean_estimate(np.exp(log_weight) * (x.mean(1) > gamma))
