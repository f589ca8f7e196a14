"""How the temperature scales with a setting: the exponent of a power law, and whether it is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from thermolearn.core.estimate import Estimate


@dataclass(frozen=True)
class ScalingExponent:
    """T = prefactor x^exponent.

    Attributes
    ----------
    exponent, prefactor : Estimate
        Status "no power law" if the fit is rejected at 1%.
    chi_squared, degrees_of_freedom, p_value : float
        Goodness of the fit; p_value is NaN with two points.
    """

    exponent: Estimate
    prefactor: Estimate
    chi_squared: float
    degrees_of_freedom: int
    p_value: float


def scaling_exponent(x: Sequence[float], temperatures: Sequence[Estimate]) -> ScalingExponent:
    """Weighted fit of ln T = ln c + a ln x to temperatures of independent runs.

    Near a minimum SGD has T = lr tr Sigma/(2 B d (1 - m)): exponent 1 in lr/(1 - m), -1 in the
    batch size B. At larger learning rates T rises faster than that (1/(1 - lr a/2) and the noise
    that noise makes), so an exponent that differs is no error of the run.

    Parameters
    ----------
    x : floats > 0
        The setting, at least two different values.
    temperatures : Estimates > 0 with error bars
        One per x, of independent runs, all with status "ok".

    Raises
    ------
    ValueError
        Other lengths, numbers or statuses.
    """
    values = np.array([float(t) for t in temperatures])
    errors = np.array([float(t.stderr) for t in temperatures])
    at = np.array([float(v) for v in x])
    if len(at) != len(values) or len(set(at.tolist())) < 2:
        raise ValueError("x and temperatures must have one length, with two different x or more")
    bad = [t.status for t in temperatures if t.status != "ok"]
    if bad:
        raise ValueError(f"temperatures: a run is {bad[0]!r}; only runs with status 'ok' scale")
    if not (np.isfinite(at) & (at > 0) & (values > 0) & (errors > 0)).all():
        raise ValueError("x, temperatures and their error bars must be positive and finite")
    relative = errors / values
    design = np.stack([np.ones_like(at), np.log(at)], 1) / relative[:, None]
    target = np.log(values) / relative
    covariance = np.linalg.inv(design.T @ design)
    fit = covariance @ design.T @ target
    chi2 = float(((target - design @ fit) ** 2).sum())
    free = len(at) - 2
    p = float(stats.chi2.sf(chi2, free)) if free else math.nan
    status = "no power law" if p < 0.01 else "ok"
    prefactor = math.exp(fit[0])
    return ScalingExponent(
        Estimate(float(fit[1]), math.sqrt(covariance[1, 1]), float(len(at)), status),
        Estimate(prefactor, prefactor * math.sqrt(covariance[0, 0]), float(len(at)), status),
        chi2,
        free,
        p,
    )
