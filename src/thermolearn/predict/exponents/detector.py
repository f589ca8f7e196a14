"""Error exponents, error rates and thresholds of a trained detector, from its scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ThresholdOutsideSupportError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.predict.exponents.cgf import CGF, AnalyticCGF, EmpiricalCGF
from thermolearn.predict.exponents.flags import flag, merged
from thermolearn.predict.exponents.rate import RatePoint, rate_point
from thermolearn.predict.exponents.tails import (
    Method,
    TailProbability,
    between_values,
    log_tail,
    tail,
)

H0, H1 = "scores under H0", "scores under H1"


@dataclass(frozen=True)
class Exponents:
    """Exponents of the two errors at one threshold, nats per observation.

    Attributes
    ----------
    gamma : float
    false_alarm, miss : Estimate
        alpha_n ~ exp(-n false_alarm), beta_n ~ exp(-n miss); 0, with a status, where the
        threshold is on the wrong side of the mean and the error tends to 1.
    """

    gamma: float
    false_alarm: Estimate
    miss: Estimate


class ErrorExponents:
    """Error rates of the test T_n = (1/n) sum f(x_i) > gamma, from calibration scores f.

    False alarm alpha_n = P_0(T_n > gamma), miss beta_n = P_1(T_n <= gamma), for n independent
    observations of one class: alpha_n ~ zeta_n exp(-n I_0(gamma)), I_0 the Fenchel-Legendre
    transform of the cumulant generating function of the scores. All of it is a model: it holds
    for independent observations like those of the calibration, and trusts the sampled tail. The
    guarantee is `guaranteed_threshold`.

    Parameters
    ----------
    scores_h0, scores_h1 : arrays (M0,), (M1,), or AnalyticCGF
        Scores of samples *not* used in training: numbers before any threshold (logits), larger
        under H1; at least 50 of each.

    Attributes
    ----------
    h0, h1 : EmpiricalCGF or AnalyticCGF
    mean_h0, mean_h1, std_h0, std_h1 : float

    Raises
    ------
    ValueError
        Too few, constant or non-finite scores, or a mean under H0 that is not below the one under
        H1: an inverted classifier; change the sign of the scores.

    References
    ----------
    P. Braca, L. M. Millefiori, A. Aubry, S. Marano, A. De Maio, P. Willett, arXiv:2207.10939.
    """

    def __init__(self, scores_h0: ArrayLike | AnalyticCGF, scores_h1: ArrayLike | AnalyticCGF):
        self.h0, self.h1 = _as_cgf("scores_h0", scores_h0), _as_cgf("scores_h1", scores_h1)
        starts = self.h0.moments(0.0), self.h1.moments(0.0)
        self.mean_h0, self.mean_h1 = (float(s.mean) for s in starts)
        self.std_h0, self.std_h1 = (math.sqrt(float(s.var)) for s in starts)
        if not self.mean_h0 < self.mean_h1:
            raise ValueError(
                f"the mean score under H0, {self.mean_h0:.6g}, is not below the one under H1, "
                f"{self.mean_h1:.6g}: the classifier is inverted. Change the sign of the scores, "
                "or exchange scores_h0 and scores_h1"
            )

    # -- exponents -----------------------------------------------------------------------------
    def rates(self, gamma: ArrayLike) -> tuple[RatePoint, RatePoint]:
        """I_0 and I_1 at many thresholds, on either side of the means.

        Raises
        ------
        ThresholdOutsideSupportError
            A threshold outside the range of one of the samples.
        """
        return rate_point(self.h0, gamma, H0), rate_point(self.h1, gamma, H1)

    def exponents(self, gamma: float) -> Exponents:
        """Exponents of both errors with their error bars.

        Raises
        ------
        ThresholdOutsideSupportError
            gamma outside the range of one of the samples.
        """
        zero, one = self.rates(float(gamma))
        return Exponents(
            float(gamma),
            _exponent(self.h0, zero, upper=True),
            _exponent(self.h1, one, upper=False),
        )

    def rate_std(self, gamma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """sd of I_0 and I_1, sqrt((M/ESS - 1)/M); probabilities are off by a factor exp(n sd)."""
        zero, one = self.rates(gamma)
        return zero.stderr, one.stderr

    def chernoff_point(self) -> tuple[Estimate, Estimate]:
        """Threshold of equal exponents and the exponent there, the best one of the larger error.

        Returns
        -------
        (gamma, exponent) : Estimate, Estimate

        Raises
        ------
        ThresholdOutsideSupportError
            The samples do not overlap around that threshold: the exponent cannot be estimated.
        """
        low = max(self.mean_h0, self.h1.support[0])
        high = min(self.mean_h1, self.h0.support[1])
        if not low < high:
            raise self._apart((low + high) / 2, (high, low))
        step = 1e-6 * (high - low)
        ends = low + step, high - step

        def gap(gamma: float) -> float:
            zero, one = self.rates(gamma)
            return float(zero.rate - one.rate)

        if not gap(ends[0]) < 0 < gap(ends[1]):
            raise self._apart(ends[0] if gap(ends[0]) >= 0 else ends[1], (low, high))
        # in units of the gap between the ends, whatever the units of the scores
        width = high - low
        gamma = low + width * bracketed_root(lambda z: gap(low + width * z), 1e-6, 1 - 1e-6)
        zero, one = self.rates(gamma)
        t0, t1 = float(zero.tilt), float(one.tilt)
        s0, s1 = float(zero.stderr), float(one.stderr)
        ess = min(float(zero.ess), float(one.ess))
        status = merged(flag(self.h0, zero.tilt, zero.ess), flag(self.h1, one.tilt, one.ess))
        count = None if math.isinf(ess) else ess
        return (
            Estimate(gamma, math.hypot(s0, s1) / (t0 - t1), count, status),
            Estimate(float(zero.rate), math.hypot(t0 * s1, t1 * s0) / (t0 - t1), count, status),
        )

    def _apart(self, gamma: float, support: tuple[float, float]) -> ThresholdOutsideSupportError:
        error = ThresholdOutsideSupportError(gamma, support)
        error.args = (
            f"the scores of the two classes hardly overlap (H0 reaches up to "
            f"{self.h0.support[1]:.6g}, H1 down to {self.h1.support[0]:.6g}): their exponent "
            "cannot be measured. Calibrate with more scores",
        )
        return error

    # -- probabilities -------------------------------------------------------------------------
    def false_alarm(
        self, n: ArrayLike, gamma: ArrayLike, method: Method = "lugannani-rice"
    ) -> TailProbability:
        """P_0(T_n > gamma), see `tail`; its log_stderr is about n sd(I_0)."""
        return tail(self.h0, n, gamma, True, method, H0)

    def miss(
        self, n: ArrayLike, gamma: ArrayLike, method: Method = "lugannani-rice"
    ) -> TailProbability:
        """P_1(T_n <= gamma), see `tail`; its log_stderr is about n sd(I_1)."""
        return tail(self.h1, n, gamma, False, method, H1)

    # -- thresholds ----------------------------------------------------------------------------
    def cfar_threshold(self, n: int, alpha: float) -> Estimate:
        """gamma_n = mu_0 + sigma_0 Q^{-1}(alpha)/sqrt(n), the threshold of Gaussian normalization.

        Its false alarm tends to alpha; at finite n it is off by the skewness of the scores (see
        `threshold`, which is not). The stderr is that of the sampled mean and deviation; flagged
        where a tail looks like a power law, and the deviation may not exist.

        Raises
        ------
        ValueError
            n below 1 or alpha not in (0, 1).
        """
        whole("n", n, 1)
        quantile = -ndtri(real("alpha", alpha, above=0, below=1)) / math.sqrt(n)
        stderr, status = 0.0, "ok"
        if isinstance(self.h0, EmpiricalCGF):
            x = (self.h0.scores - self.mean_h0) / self.std_h0
            influence = self.std_h0 * (x + quantile * (x**2 - 1) / 2)
            stderr = float(influence.std()) / math.sqrt(len(x))
            status = merged(*(self.h0.heavy_tail(upper) for upper in (True, False)))
        value = self.mean_h0 + self.std_h0 * quantile
        return Estimate(value, stderr, status=status, note="Gaussian")

    def threshold(self, n: int, alpha: float, method: Method = "lugannani-rice") -> Estimate:
        """Smallest gamma of model-based false alarm alpha; see `model_threshold`."""
        return model_threshold(self.h0, n, alpha, method)

    # -- against the best ----------------------------------------------------------------------
    def efficiency(self, best: ErrorExponents) -> Estimate:
        """Ratio of the Chernoff exponents, this over best: 1/efficiency times more observations.

        Parameters
        ----------
        best : ErrorExponents
            Of log-likelihood ratios, known for synthetic data: in closed form, or from samples
            independent of the ones used here.
        """
        mine, theirs = self.chernoff_point()[1], best.chernoff_point()[1]
        ratio = float(mine) / float(theirs)
        relative = math.hypot(
            float(mine.stderr) / float(mine), float(theirs.stderr) / float(theirs)
        )
        status = merged(mine.status, theirs.status)
        return Estimate(ratio, ratio * relative, mine.n_eff, status)

    @cached_property
    def heavy_tails(self) -> tuple[str, ...]:
        """Sentences about tails that look like power laws; they have no exponents."""
        samples = ((self.h0, True, "H0: "), (self.h1, False, "H1: "))
        found = [
            (prefix, cgf.heavy_tail(upper))
            for cgf, upper, prefix in samples
            if isinstance(cgf, EmpiricalCGF)
        ]
        return tuple(prefix + text for prefix, text in found if text)


def model_threshold(cgf: CGF, n: int, alpha: float, method: Method = "lugannani-rice") -> Estimate:
    """Smallest gamma with P(T_n > gamma) <= alpha by a saddle-point tail: model-based.

    Parameters
    ----------
    cgf : EmpiricalCGF or AnalyticCGF
        Of the negatives.
    n : int
        Observations per decision.
    alpha : float
        False-alarm rate, in (0, 1).

    Returns
    -------
    Estimate
        For lattice scores a value of the mean, the lowest one if that is enough, plus its rounding
        error; the stderr carries the error of the tail over.

    Raises
    ------
    ThresholdOutsideSupportError
        The scores do not reach so far.
    ValueError
        n or alpha out of range.
    """
    whole("n", n, 1)
    target = math.log(real("alpha", alpha, above=0, below=1))
    low, high = cgf.support
    start = cgf.moments(0.0)
    mean, std = float(start.mean), math.sqrt(float(start.var))

    def excess(gamma: float) -> float:
        return log_tail(cgf, n, gamma, True, method, H0) - target

    guess = 2 * std / math.sqrt(n)
    if cgf.span is not None and excess(cgf.origin) <= 0:
        gamma = cgf.origin  # the lowest value is so common that passing it is rare enough
    else:
        ends = [_reach(excess, mean, sign * guess, (low, high), sign) for sign in (-1.0, 1.0)]
        if cgf.span is None:
            left, right = ((g - mean) / std for g in ends)
            gamma = mean + std * bracketed_root(lambda z: excess(mean + std * z), left, right)
        else:
            gamma = _lattice_root(excess, ends, cgf.span / n, cgf.origin)
    if cgf.span is not None:
        # means of one value differ by the order of their sums: none of them shall pass
        gamma += min(n * cgf.rounding, cgf.span / (4 * n))
    found = tail(cgf, n, gamma, True, method, H0)
    middle = between_values(cgf, np.array(gamma), np.array(float(n)))
    slope = n * max(abs(float(rate_point(cgf, middle, H0).tilt)), 1 / (guess * n))
    return Estimate(
        gamma,
        float(found.log_stderr) / slope,
        None if math.isinf(float(found.ess)) else float(found.ess),
        str(found.status),
        "model-based: saddle point of the sampled cumulant generating function",
    )


def _reach(
    excess: Callable[[float], float],
    mean: float,
    step: float,
    support: tuple[float, float],
    sign: float,
) -> float:
    """A threshold where the false alarm is above (sign -1) or below (+1) the wanted one."""
    end = support[1] if sign > 0 else support[0]
    gamma = mean
    for _ in range(60):
        gamma = mean + step
        last = (gamma - end) * sign >= 0
        if last:
            gamma = end - 1e-9 * (end - mean)
        if excess(gamma) * sign <= 0:
            return gamma
        if last:
            break
        step *= 1.6
    raise ThresholdOutsideSupportError(gamma, support, H0)


def _lattice_root(
    excess: Callable[[float], float], ends: list[float], spacing: float, origin: float
) -> float:
    """Smallest lattice value of the mean with excess <= 0, by bisection over whole numbers."""
    low, high = (math.floor((g - origin) / spacing) for g in ends)
    high += 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(origin + middle * spacing) > 0 else (low, middle)
    return origin + high * spacing


def _as_cgf(name: str, scores: ArrayLike | AnalyticCGF) -> EmpiricalCGF | AnalyticCGF:
    if isinstance(scores, (AnalyticCGF, EmpiricalCGF)):
        return scores
    try:
        return EmpiricalCGF(scores)
    except ValueError as error:
        raise ValueError(str(error).replace("scores", name, 1)) from error


def _exponent(cgf: CGF, point: RatePoint, upper: bool) -> Estimate:
    ess = float(point.ess)
    count = None if math.isinf(ess) else ess
    rate, tilt = float(point.rate), float(point.tilt)
    if tilt != 0 and (tilt > 0) != upper:
        what = "false alarm" if upper else "miss"
        return Estimate(
            0.0,
            0.0,
            count,
            f"wrong side of the mean: the {what} tends to 1",
            f"its complement decays with {rate:.6g} nats per observation",
        )
    status = flag(cgf, point.tilt, point.ess)
    return Estimate(rate, float(point.stderr), count, status, "nats per observation")
