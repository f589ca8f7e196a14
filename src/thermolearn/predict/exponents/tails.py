"""Tail probabilities of a mean score from its rate function, in log space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfcx, ndtri

from thermolearn.core.checks import real
from thermolearn.core.estimate import Estimate
from thermolearn.predict.exponents.cgf import CGF, LEAST_ESS
from thermolearn.predict.exponents.rate import RatePoint, rate_point

Method = Literal["lugannani-rice", "bahadur-rao", "esscher", "chernoff"]
METHODS: tuple[Method, ...] = ("lugannani-rice", "bahadur-rao", "esscher", "chernoff")
# Below sqrt(2 I) of this size 1/u - 1/r is lost to rounding, and its series is used
NEAR_MEAN = 2e-3
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class TailProbability:
    """A probability with its error bar, in logarithms, so that 1e-1000 is a number like others.

    Attributes
    ----------
    log_probability, log_stderr : ndarray
        Natural logarithm and its standard error from the finite sample of scores (0 for an exact
        phi); the error of the saddle-point formula itself is not in it.
    ess : ndarray
        Effective number of scores behind the tilted averages.
    status : ndarray of str
        "ok", or why the number must not be used as it stands.
    """

    log_probability: np.ndarray
    log_stderr: np.ndarray
    ess: np.ndarray
    status: np.ndarray = field(default_factory=lambda: np.array("ok"))

    @property
    def probability(self) -> np.ndarray:
        """exp(log_probability); 0 below 1e-308."""
        return np.exp(self.log_probability)

    @property
    def log10(self) -> np.ndarray:
        """Logarithm to base 10."""
        return self.log_probability / math.log(10)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the probability at this level, symmetric in its logarithm and at most 1.

        Raises
        ------
        ValueError
            level not in (0, 1).
        """
        z = ndtri((1 + real("level", level, above=0, below=1)) / 2)
        low, high = (self.log_probability + s * z * self.log_stderr for s in (-1, 1))
        return np.exp(low), np.exp(np.minimum(high, 0.0))

    def estimate(self) -> Estimate:
        """The probability as an Estimate (scalars only)."""
        p = float(self.probability)
        ess = float(self.ess)
        return Estimate(
            p,
            p * float(self.log_stderr),
            n_eff=None if math.isinf(ess) else ess,
            status=str(self.status),
            note="model-based: saddle point of the sampled cumulant generating function",
        )

    def __float__(self) -> float:
        return float(self.probability)


def tail(
    cgf: CGF,
    n: ArrayLike,
    gamma: ArrayLike,
    upper: bool,
    method: Method = "lugannani-rice",
    name: str = "scores",
) -> TailProbability:
    """P(T_n > gamma) if upper, else P(T_n <= gamma), T_n the mean of n independent scores.

    With I, t, v the rate, tilt and variance at gamma, r = sqrt(2 n I) and u = |t| sqrt(n v), the
    tail beyond gamma, away from the mean, is

    - lugannani-rice: Q(r) + (1/u - 1/r) exp(-n I)/sqrt(2 pi), uniformly accurate: the default
    - bahadur-rao: exp(-n I) / (u sqrt(2 pi)), the large-n limit; poor near the mean
    - esscher: exp(-n I + u^2/2) Q(u)
    - chernoff: exp(-n I), an upper bound

    and on the other side of the mean the complement is taken. Scores on a lattice of spacing d
    have the threshold moved to the middle between two values of the sum and
    u = (2/d) sinh(|t| d/2) sqrt(n v). No formula exceeds the Chernoff bound.

    Parameters
    ----------
    cgf : EmpiricalCGF or AnalyticCGF
    n : int or array
        Observations per decision, at least 1; broadcast against gamma.
    gamma : float or array
        Thresholds inside the range of the scores.
    upper : bool
        Which tail.
    method : str
    name : str
        What the scores are called in messages.

    Raises
    ------
    ThresholdOutsideSupportError, ConvergenceError
        As `rate_point`.
    ValueError
        n below 1 or not whole, gamma not finite, or an unknown method.

    References
    ----------
    R. Lugannani, S. Rice, doi:10.2307/1426607; R. R. Bahadur, R. Ranga Rao,
    doi:10.1214/aoms/1177705674; lattices: H. E. Daniels, doi:10.2307/1403269.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    counts = _counts(n)
    thresholds, counts = np.broadcast_arrays(np.asarray(gamma, dtype=np.float64), counts)
    low, high = cgf.support
    inside = np.isfinite(thresholds).all() and ((thresholds > low) & (thresholds < high)).all()
    effective = between_values(cgf, thresholds, counts) if inside else thresholds
    distinct, back = np.unique(effective, return_inverse=True)
    found = rate_point(cgf, distinct, name)  # raises if a threshold is outside
    point = RatePoint(*(part[back.reshape(counts.shape)] for part in vars(found).values()))
    log_far = _log_far_tail(cgf, point, counts, method)
    log_error = _log_error(cgf, point, counts)
    far = (point.tilt >= 0) == upper
    if method == "chernoff":
        log_p = np.where(far, log_far, 0.0)  # a bound on one side says nothing of the other
        error = np.where(far, log_error, 0.0)
    else:
        complement = _log1mexp(log_far)
        with np.errstate(over="ignore", invalid="ignore"):
            other = np.exp(log_far - complement) * log_error
        log_p, error = np.where(far, log_far, complement), np.where(far, log_error, other)
    return TailProbability(log_p, error, point.ess, _status(cgf, point, error, upper))


def between_values(cgf: CGF, gamma: np.ndarray, n: np.ndarray) -> np.ndarray:
    """gamma, or for lattice scores the middle between the two values of the mean around it."""
    if cgf.span is None:
        return gamma
    # a threshold on a value belongs to the values below: the decision is T > gamma
    index = np.floor(n * (gamma - cgf.origin) / cgf.span + 1e-9)
    return cgf.origin + (index + 0.5) * cgf.span / n


def _counts(n: ArrayLike) -> np.ndarray:
    counts = np.asarray(n)
    if counts.dtype.kind not in "iu" or (counts < 1).any():
        raise ValueError(f"n must be whole numbers of observations, at least 1, got {n!r}")
    return counts.astype(np.float64)


def _log_far_tail(cgf: CGF, point: RatePoint, n: np.ndarray, method: Method) -> np.ndarray:
    bound = -n * point.rate
    if method == "chernoff":
        return bound
    tilt = np.abs(point.tilt)
    if cgf.span is not None:
        tilt = 2 / cgf.span * np.sinh(tilt * cgf.span / 2)
    u = tilt * np.sqrt(n * point.variance)
    with np.errstate(divide="ignore"):
        if method == "bahadur-rao":
            found = bound - np.log(u) - LOG_2PI / 2
        elif method == "esscher":
            found = bound + _log_mills(u) - LOG_2PI / 2
        else:
            r = np.sqrt(2 * n * point.rate)
            inner = np.exp(_log_mills(r)) + _difference(cgf, point, tilt) / np.sqrt(n)
            # far from Gaussian the bracket may vanish: Esscher's form is positive
            fallback = _log_mills(u)
            mills = np.where(inner > 0, np.log(np.where(inner > 0, inner, 1.0)), fallback)
            found = bound + mills - LOG_2PI / 2
    return np.minimum(found, bound)


def _log_mills(x: np.ndarray) -> np.ndarray:
    """log of Q(x)/phi(x), the Mills ratio."""
    return np.log(math.sqrt(math.pi / 2) * erfcx(x / math.sqrt(2)))


def _difference(cgf: CGF, point: RatePoint, tilt: np.ndarray) -> np.ndarray:
    """(1/u - 1/r) sqrt(n), by its series in the tilt near the mean."""
    root = np.sqrt(2 * point.rate)
    near = root < NEAR_MEAN
    with np.errstate(divide="ignore", invalid="ignore"):
        direct = 1 / (tilt * np.sqrt(point.variance)) - 1 / root
    if not near.any():
        return direct
    skewness, kurtosis, std = _shape(cgf)
    side = np.where(point.tilt >= 0, 1.0, -1.0)
    lattice = 0.0 if cgf.span is None else (cgf.span / std) ** 2 / 24
    slope = 5 * skewness**2 / 24 - kurtosis / 8 - lattice
    series = -side * skewness / 6 + np.abs(point.tilt) * std * slope
    return np.where(near, series, direct)


def _shape(cgf: CGF) -> tuple[float, float, float]:
    """Skewness, excess kurtosis and standard deviation, from differences of phi''."""
    std = math.sqrt(float(cgf.moments(0.0).var))
    h = 1e-3 / std
    below, at, above = cgf.moments(np.array([-h, 0.0, h])).var / std**2
    return (
        float(above - below) / (2 * h * std),
        float(above - 2 * at + below) / (h * std) ** 2,
        std,
    )


def _log_error(cgf: CGF, point: RatePoint, n: np.ndarray) -> np.ndarray:
    """Standard error of the log of the far tail: n sd(I) far out, that of the mean near it."""
    if cgf.size is None:
        return np.zeros(np.shape(point.rate))
    root = np.sqrt(2 * point.rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        # sd of sqrt(2 I), which tends to 1/sqrt(M)
        per_root = np.where(root > 1e-6, point.stderr / root, cgf.size**-0.5)
    hazard = np.exp(-_log_mills(np.sqrt(n) * root))
    return hazard * np.sqrt(n) * per_root


def _log1mexp(x: np.ndarray) -> np.ndarray:
    """log(1 - e^x) for x <= 0."""
    with np.errstate(divide="ignore"):
        return np.where(
            x > -math.log(2), np.log(-np.expm1(np.minimum(x, 0.0))), np.log1p(-np.exp(x))
        )


def _status(cgf: CGF, point: RatePoint, log_error: np.ndarray, upper: bool) -> np.ndarray:
    reasons = np.full(point.rate.shape, "", dtype=object)

    def add(where: np.ndarray, text: str) -> None:
        reasons[where] = [f"{old}; {text}" if old else text for old in reasons[where]]

    add(np.asarray(point.ess < LEAST_ESS), "ESS < 100: too few scores near the threshold")
    # n sd(I) itself far out
    add(np.asarray(~(log_error <= 1)), "calibration too small: n > 1/sd(I)")
    heavy = getattr(cgf, "heavy_tail", None)
    if heavy is not None:
        for side in (True, False):
            where = np.asarray((point.tilt > 0) == side) & (point.tilt != 0)
            text = heavy(side) if where.any() else ""
            if text:
                add(where, text)
    reasons[reasons == ""] = "ok"
    return reasons
