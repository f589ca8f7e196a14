"""Rare error rates by simulation: draws from tilted scores, weighted back."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real, whole
from thermolearn.core.progress import track
from thermolearn.predict.exponents.cgf import EmpiricalCGF
from thermolearn.predict.exponents.rate import rate_point
from thermolearn.predict.exponents.tails import TailProbability, between_values

CHUNK = 2**21
# Fewer draws than this beyond the threshold, and the error bar is not one
LEAST_HITS = 30


def tilted_monte_carlo(
    scores: ArrayLike | EmpiricalCGF,
    n: int,
    gamma: float,
    draws: int = 20_000,
    upper: bool = True,
    seed: int = 0,
) -> TailProbability:
    """P(T_n > gamma) (or P(T_n <= gamma)) of scores drawn with replacement from a population.

    n scores are drawn with weights w ~ exp(t f), t the tilt of the rate function, so that their
    mean is gamma; with S their sum, P = E[exp(-t S + n phi(t)) 1{S > n gamma}]. Unbiased for the
    population given: it checks the saddle-point formula, and with an independent population the
    calibration too. Always the tail away from the mean; the other is its complement.

    Parameters
    ----------
    scores : array (M,), or EmpiricalCGF
        The population; its own finite size is not in the error bar.
    n : int
        Observations per decision.
    gamma : float
        Threshold inside the range of the scores.
    draws : int
        At least 100; the relative error is about sqrt(1.25 u/draws), u = |t| sqrt(n phi''(t)).
    upper : bool
        Which tail.
    seed : int
        Not negative.

    Returns
    -------
    TailProbability
        log_stderr over the draws; flagged if fewer than 30 of them lie beyond the threshold.

    Raises
    ------
    ThresholdOutsideSupportError
        gamma outside the range of the scores.
    ValueError
        Bad scores, n, gamma or draws.
    """
    whole("n", n, 1)
    whole("draws", draws, 100)
    whole("seed", seed, 0)
    cgf = scores if isinstance(scores, EmpiricalCGF) else EmpiricalCGF(scores)
    threshold = float(between_values(cgf, np.array(real("gamma", gamma)), np.array(float(n))))
    point = rate_point(cgf, threshold)
    t, rate = float(point.tilt), float(point.rate)
    population = np.sort(cgf.scores)
    exponent = t * (population - (population[-1] if t > 0 else population[0]))
    ladder = np.cumsum(np.exp(exponent))
    above = t >= 0
    rng = np.random.default_rng(seed)
    sums = np.empty(draws)
    rows = max(1, CHUNK // n)
    starts = range(0, draws, rows)
    for start in track(starts, f"tilted draws at n = {n}", len(starts)):
        size = min(rows, draws - start), n
        drawn = np.searchsorted(ladder, ladder[-1] * rng.random(size), side="right")
        picked = population[np.minimum(drawn, len(population) - 1)]
        sums[start : start + size[0]] = (picked - threshold).sum(1)
    # a sum on the threshold belongs below; lattice sums never touch the middle between values
    beyond = sums > 0 if above else sums <= 0
    weight = np.where(beyond, np.exp(np.where(beyond, -t * sums, 0.0)), 0.0)
    mean = float(weight.mean())
    hits = int(beyond.sum())
    if not mean > 0:
        return TailProbability(
            np.array(-math.inf), np.array(math.nan), np.array(0.0),
            np.array("no draw beyond the threshold: more draws", dtype=object),
        )  # fmt: skip
    log_far = math.log(mean) - n * rate
    error = float(weight.std(ddof=1)) / math.sqrt(draws) / mean
    status = "ok" if hits >= LEAST_HITS else f"only {hits} draws beyond the threshold: more draws"
    ess = float(weight.sum() ** 2 / (weight**2).sum())
    if above != upper:
        far = min(math.exp(log_far), 1 - 1e-16)
        log_far, error = math.log1p(-far), error * far / (1 - far)
    return TailProbability(
        np.array(log_far), np.array(error), np.array(ess), np.array(status, dtype=object)
    )
