"""Exact cumulant generating functions of the two scores, and their tails."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from thermolearn.core.estimate import Estimate
from thermolearn.predict.exponents import AnalyticCGF, ErrorExponents

if TYPE_CHECKING:
    from thermolearn.systems.inference.error_exponents import Params

NODES = 40  # of the quadrature between the atoms; the integrand is an exponential


def llr_detector(shift: float) -> ErrorExponents:
    """The log-likelihood ratio |x| - |x - shift| of Laplace noise.

    Half of the noise lies left of 0, where the ratio is -shift, exp(-shift)/2 right of the shift,
    where it is +shift; in between it is 2 x - shift. Under H1 it is reflected.
    """
    node, weight = np.polynomial.legendre.leggauss(NODES)
    x, w = shift * (1 + node) / 2, shift * weight / 2
    values = np.concatenate([[-shift], 2 * x - shift, [shift]])
    noise = np.concatenate([[0.5], 0.5 * w * np.exp(-x), [0.5 * math.exp(-shift)]])
    signal = noise * np.exp(values)  # a likelihood ratio: p1 = p0 exp(ratio)
    return ErrorExponents(
        *(AnalyticCGF.weighted(values, p / p.sum(), discrete=False) for p in (noise, signal))
    )


def linear_detector(shift: float) -> ErrorExponents:
    """The score x itself: phi_0(t) = -log(1 - t^2), phi_1(t) = phi_0(t) + shift t."""

    def cgf(mean: float) -> AnalyticCGF:
        return AnalyticCGF(
            lambda t: mean * t - np.log1p(-(t**2)),
            lambda t: mean + 2 * t / (1 - t**2),
            lambda t: 2 * (1 + t**2) / (1 - t**2) ** 2,
            domain=(-1.0, 1.0),
        )

    return ErrorExponents(cgf(0.0), cgf(shift))


def chernoff_information(shift: float) -> float:
    """-log[(1 + shift/2) exp(-shift/2)], the best exponent of Laplace noise."""
    return shift / 2 - math.log1p(shift / 2)


def predict(p: Params) -> dict[str, Estimate]:
    """See `thermolearn.systems.inference.error_exponents.theory`."""
    llr, linear = llr_detector(p.shift), linear_detector(p.shift)
    n, gamma, at = p.n_observations, p.threshold, (p.shift + p.threshold) / 2
    cfar = math.sqrt(2 / n) * -float(ndtri(p.alpha))  # the noise has variance 2
    note = "Lugannani-Rice: relative error O(1/n)"
    exact = "exact"
    return {
        "exponent_llr": Estimate(float(llr.rates(gamma)[0].rate), note=exact),
        "exponent_linear": Estimate(float(linear.rates(at)[0].rate), note=exact),
        "efficiency": Estimate(
            float(linear.rates(p.shift / 2)[0].rate) / chernoff_information(p.shift), note=exact
        ),
        "false_alarm_llr": Estimate(float(llr.false_alarm(n, gamma)), note=note),
        "miss_llr": Estimate(float(llr.miss(n, gamma)), note=note),
        "false_alarm_linear": Estimate(float(linear.false_alarm(n, at)), note=note),
        "miss_linear": Estimate(float(linear.miss(n, at)), note=note),
        "cfar_false_alarm": Estimate(float(linear.false_alarm(n, cfar)), note=note),
    }
