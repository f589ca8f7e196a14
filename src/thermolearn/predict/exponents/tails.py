"""Tail probabilities of a mean score from its rate function, in log space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfcx, ndtri

from thermolearn.core.checks import real
from thermolearn.core.errors import ThresholdOutsideSupportError
from thermolearn.core.estimate import Estimate
from thermolearn.predict.exponents.cgf import CGF
from thermolearn.predict.exponents.flags import add, sample_flags
from thermolearn.predict.exponents.rate import RatePoint, rate_point
from thermolearn.predict.exponents.resampled import resampled_tail

Method = Literal["lugannani-rice", "bahadur-rao", "esscher", "chernoff"]
METHODS: tuple[Method, ...] = ("lugannani-rice", "bahadur-rao", "esscher", "chernoff")
# Below sqrt(2 I) of this size 1/u - 1/r is lost to rounding, and its series is used
NEAR_MEAN = 2e-3
LOG_2PI = math.log(2 * math.pi)
# A saddle point off by more than this factor is flagged
OFF = 1.25


@dataclass(frozen=True, eq=False)
class TailProbability:
    """A probability with its error bar, in logarithms, so that 1e-1000 is a number like others.

    Attributes
    ----------
    log_probability, log_stderr : ndarray
        Natural logarithm and its standard error from the finite sample of scores (0 for an exact
        phi); the error of the saddle-point formula itself is not in it, but checked (status).
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

    - lugannani-rice: Q(r) + (1/u - 1/r) exp(-n I)/sqrt(2 pi), accurate near the mean and far from
      it: the default
    - bahadur-rao: exp(-n I) / (u sqrt(2 pi)), the large-n limit; poor near the mean
    - esscher: exp(-n I + u^2/2) Q(u)
    - chernoff: exp(-n I), an upper bound

    and on the other side of the mean the complement is taken. Scores on a lattice of spacing d
    have the threshold moved to the middle between two values of the sum and
    u = (2/d) sinh(|t| d/2) sqrt(n v). No formula exceeds the Chernoff bound.

    A saddle point supposes a smooth density. At few observations of scores with atoms, or piled up
    at an end, it may be off by any factor: the default is held against means of n <= 200 scores
    drawn anew (where the scores are finitely many; else against Esscher's form), and flagged with
    what they give where it is more than 25% off.

    Parameters
    ----------
    cgf : EmpiricalCGF or AnalyticCGF
    n : int or array
        Observations per decision, at least 1; broadcast against gamma.
    gamma : float or array
        Thresholds inside the range of the scores; on a lattice, also its lowest value.
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
    counts, point, far, log_far, log_p, error = _solve(cgf, n, gamma, upper, method, name)
    status = _status(cgf, point, error)
    if method == "lugannani-rice":
        _check(cgf, counts, point, far, log_far, log_p, status)
    status[status == ""] = "ok"
    return TailProbability(log_p, error, point.ess, status)


def log_tail(
    cgf: CGF, n: int, gamma: float, upper: bool, method: Method = "lugannani-rice", name: str = ""
) -> float:
    """Logarithm of the probability of `tail`, without its checks: for root-finding."""
    return float(_solve(cgf, n, gamma, upper, method, name or "scores")[4])


def _solve(
    cgf: CGF, n: ArrayLike, gamma: ArrayLike, upper: bool, method: Method, name: str
) -> tuple[np.ndarray, RatePoint, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts, rates, is the tail the far one, logs of the far and of the wanted tail, error."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    counts = _counts(n)
    thresholds, counts = np.broadcast_arrays(np.asarray(gamma, dtype=np.float64), counts)
    low, high = cgf.support
    effective = between_values(cgf, thresholds, counts)
    outside = (effective <= low) | (effective >= high)
    if outside.any():
        rate_point(cgf, thresholds, name)  # what it refuses it names; else the last lattice value
        raise ThresholdOutsideSupportError(float(thresholds[outside][0]), cgf.support, name)
    distinct, back = np.unique(effective, return_inverse=True)
    found = rate_point(cgf, distinct, name)
    point = RatePoint(*(part[back.reshape(counts.shape)] for part in vars(found).values()))
    log_far = _log_far_tail(cgf, point, counts, method)
    log_error = _log_error(cgf, point, counts)
    far = np.asarray((point.tilt >= 0) == upper)
    if method == "chernoff":
        log_p = np.where(far, log_far, 0.0)  # a bound on one side says nothing of the other
        error = np.where(far, log_error, 0.0)
    else:
        complement = _log1mexp(log_far)
        with np.errstate(over="ignore", invalid="ignore"):
            other = np.exp(log_far - complement) * log_error
        log_p, error = np.where(far, log_far, complement), np.where(far, log_error, other)
    return counts, point, far, log_far, log_p, error


def between_values(cgf: CGF, gamma: np.ndarray, n: np.ndarray) -> np.ndarray:
    """gamma, or for lattice scores the middle between the two values of the mean around it."""
    if cgf.span is None:
        return gamma
    # a threshold on a value belongs to the values below: the decision is T > gamma
    slack = np.minimum(np.maximum(1e-9, n * cgf.rounding / cgf.span), 0.25)
    index = np.floor(n * (gamma - cgf.origin) / cgf.span + slack)
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
    u = _lattice_tilt(cgf, point) * np.sqrt(n * point.variance)
    with np.errstate(divide="ignore"):
        if method == "bahadur-rao":
            found = bound - np.log(u) - LOG_2PI / 2
        elif method == "esscher":
            found = bound + _log_mills(u) - LOG_2PI / 2
        else:
            inner = _bracket(cgf, point, n)
            # far from Gaussian the bracket may vanish: Esscher's form is positive
            fallback = _log_mills(u)
            mills = np.where(inner > 0, np.log(np.where(inner > 0, inner, 1.0)), fallback)
            found = bound + mills - LOG_2PI / 2
    return np.minimum(found, bound)


def _lattice_tilt(cgf: CGF, point: RatePoint) -> np.ndarray:
    tilt = np.abs(point.tilt)
    return tilt if cgf.span is None else 2 / cgf.span * np.sinh(tilt * cgf.span / 2)


def _bracket(cgf: CGF, point: RatePoint, n: np.ndarray) -> np.ndarray:
    """Lugannani and Rice's tail over exp(-n I)/sqrt(2 pi)."""
    mills = np.exp(_log_mills(np.sqrt(2 * n * point.rate)))
    return mills + _difference(cgf, point, _lattice_tilt(cgf, point)) / np.sqrt(n)


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


def _status(cgf: CGF, point: RatePoint, log_error: np.ndarray) -> np.ndarray:
    reasons = sample_flags(cgf, point.tilt, point.ess)
    # n sd(I) itself far out
    add(reasons, np.asarray(~(log_error <= 1)), "calibration too small: n > 1/sd(I)")
    return reasons


def _check(
    cgf: CGF,
    n: np.ndarray,
    point: RatePoint,
    far: np.ndarray,
    log_far: np.ndarray,
    log_p: np.ndarray,
    reasons: np.ndarray,
) -> None:
    """Flag a saddle point that draws, or without them Esscher's form, contradict."""
    log_drawn, error = resampled_tail(cgf, point, point.gamma, n)
    drawn = np.where(far, log_drawn, _log1mexp(np.minimum(log_drawn, 0.0)))
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.where(far, error, np.exp(log_drawn - drawn) * error)
        off = np.abs(log_p - drawn) > math.log(OFF) + 3 * error
    for value in np.unique(np.exp(drawn[off])):
        where = off & (np.exp(drawn) == value)
        add(reasons, where, f"saddle point off: {value:.2g} by resampled scores")
    esscher = _log_far_tail(cgf, point, n, "esscher")
    differ = (np.abs(log_far - esscher) > math.log(OFF)) | _fell_back(cgf, point, n)
    add(
        reasons,
        np.asarray(np.isnan(log_drawn) & differ & far),
        "n too small for a saddle point: its formulas differ",
    )


def _fell_back(cgf: CGF, point: RatePoint, n: np.ndarray) -> np.ndarray:
    return np.asarray(~(_bracket(cgf, point, n) > 0))
