"""Theory of memories that see their archetypes only through examples, with labels or without.

Both Hebb rules are modes of one engine. Without labels the M examples of an archetype are M
rank-one terms with covariance (1 - r^2) 1 + r^2 11^T: one mode of the archetype and M - 1 of
noise. With labels the examples are averaged first and only the first mode is left. What remains of
the noise in the condensed pattern is the binomial blur chi of its mean example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, special

from thermolearn.core.checks import real, whole
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.systems.memory.replica_equations import normal_grid
from thermolearn.systems.memory.replica_symmetric import RSAssociative, RSState, binomial_chi

Kind = Literal["unsupervised", "supervised"]

# Up to here every M is tried, because m(M) is not monotone among few examples (parity, and the
# memory of the examples themselves); beyond, a bisection.
SCANNED = 24
MOST_EXAMPLES = 10**8
# Steeper tanh are expanded around a sign; the next term of the expansion is below 1e-7.
SHARP = 50.0


def unsupervised_engine(alpha: float, r: float, M: int) -> RSAssociative:
    """J = (1 / (N M calR)) sum_{mu a} eta eta^T, calR = r^2 + (1 - r^2) / M, as an RSAssociative.

    modes = [(alpha, 1), (alpha (M - 1), lambda_1)], lambda_1 = (1 - r^2) / (M calR),
    s = 1 / calR, chi the mean of M signs of mean r. Exact within replica symmetry at finite M.

    Parameters
    ----------
    alpha : float
        Load K / N > 0.
    r : float
        Quality in (0, 1].
    M : int
        Examples per archetype, at least 1.

    Raises
    ------
    ValueError
        A parameter out of range.

    References
    ----------
    Agliari, Alemanno, Barra, De Marzo, arXiv:2109.00454, whose Gaussian field of the mean example
    is the limit of many examples of this one.
    """
    moment = second_moment(real("quality r", r, above=0, most=1), whole("M", M, 1))
    noise = (1 - r * r) / (M * moment)
    modes = [(real("alpha", alpha, above=0), 1.0), (alpha * (M - 1), noise)]
    return RSAssociative(modes, binomial_chi(M, r), 1 / moment)


def supervised_engine(alpha: float, r: float, M: int) -> RSAssociative:
    """J = (1 / (N calR)) sum_mu etabar etabar^T, etabar the mean example, as an RSAssociative.

    modes = [(alpha, 1)], s = 1 / calR, chi as without labels. Parameters and errors as for
    `unsupervised_engine`.

    References
    ----------
    Alemanno, Aquaro, Kanter, Barra, Agliari, arXiv:2203.01304, with the binomial in the place of
    their Gaussian blur.
    """
    moment = second_moment(real("quality r", r, above=0, most=1), whole("M", M, 1))
    return RSAssociative([(real("alpha", alpha, above=0), 1.0)], binomial_chi(M, r), 1 / moment)


def engine(kind: Kind, alpha: float, r: float, M: int) -> RSAssociative:
    """The engine of a kind, "unsupervised" or "supervised"; ValueError for another word."""
    if kind not in ("unsupervised", "supervised"):
        raise ValueError(f'kind must be "unsupervised" or "supervised", got {kind!r}')
    return (unsupervised_engine if kind == "unsupervised" else supervised_engine)(alpha, r, M)


@dataclass(frozen=True)
class CriticalSampleSize:
    """The fewest examples per archetype with which the archetype is recalled.

    Attributes
    ----------
    M : int or None
        M_c; None if no number of examples is enough.
    state : RSState or None
        At M_c, its m at or above the threshold.
    below : RSState or None
        At M_c - 1, its m below the threshold; None if M_c = 1.
    monotone : bool
        Whether m is at or above the threshold at M_c + 1 and M_c + 2 too; larger M are not looked
        at. In 50 cases solved at every M up to 1.5 M_c + 24 (with labels and without; alpha
        0.001 to 0.05, r 0.2 to 0.9, T = 0 and 0.1, M_c <= 150) this told the truth.
    reason : str
        Why there is no M_c, or none is searched for: with 10^8 examples too few, the law of many
        examples (see `critical_sample_size`) and the M_c it gives. Empty otherwise.
    status : str
        "ok", "replica symmetry broken" (the state at M_c lies below the line of de Almeida and
        Thouless: its replicon is negative, as always at T = 0 with other patterns stored), "no M
        suffices" or "too many examples".
    """

    M: int | None
    state: RSState | None
    below: RSState | None
    monotone: bool
    reason: str = ""
    status: str = "ok"

    def __int__(self) -> int:
        if self.M is None:
            raise ValueError(self.reason)
        return self.M


def critical_sample_size(
    kind: Kind, alpha: float, r: float, T: float, threshold: float = 0.8
) -> CriticalSampleSize:
    """Smallest number M_c of examples whose retrieval state has m >= threshold.

    A threshold is needed: with few examples a state with m of about r, which remembers the
    examples and not the archetype, also solves the equations.

    Up to 24 examples every M is tried; beyond, M_c is bisected, as if m(M) crossed the threshold
    once. No proof is known to us that it does; see `CriticalSampleSize.monotone`. Beyond 10^8
    examples only the law of many examples is given: M_c = x / r^4 without labels, their disorder
    of other archetypes being Gaussian there, and x / r^2 with labels.

    Parameters
    ----------
    kind : "unsupervised" or "supervised"
    alpha : float
        Load K / N > 0.
    r : float
        Quality in (0, 1].
    T : float
        Temperature >= 0.
    threshold : float
        In (0, 1).

    Returns
    -------
    CriticalSampleSize
        With M = None and a reason where even infinitely many examples do not suffice, or M_c is
        above 10^8.

    Raises
    ------
    ValueError
        A parameter out of range.
    ConvergenceError
        The equations at some M are not solved.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie in (0, 1), got {threshold!r}")
    found: dict[int, RSState] = {}

    def state(M: int) -> RSState:
        if M not in found:
            found[M] = engine(kind, alpha, r, M).solve(T)
        return found[M]

    first = next((M for M in range(1, SCANNED + 1) if state(M).m >= threshold), None)
    if first is None:
        # the limit of infinitely many examples is the Hopfield model
        limit = RSAssociative([(alpha, 1.0)]).solve(T).m
        if limit < threshold:
            return CriticalSampleSize(
                None,
                None,
                None,
                True,
                f"no M suffices: with the archetypes themselves stored m = {limit:.4g} is below "
                f"{threshold:g} at alpha = {alpha:g}, T = {T:g}",
                "no M suffices",
            )
        law = _ManyExamples(alpha, r, T, 4 if kind == "unsupervised" else 2)
        if law.overlap(law.log_most) < threshold:  # much faster than the state itself
            reason = law.reason(threshold)
            return CriticalSampleSize(None, None, None, True, reason, "too many examples")
        first = _bisect(lambda M: state(M).m >= threshold)
    above = all(state(M).m >= threshold for M in (first + 1, first + 2))
    status = "ok" if state(first).replicon >= 0 else "replica symmetry broken"
    return CriticalSampleSize(first, state(first), found.get(first - 1), above, "", status)


def _bisect(enough: Callable[[int], bool]) -> int:
    """Smallest M above `SCANNED` that is enough, given that `MOST_EXAMPLES` is."""
    low = high = SCANNED
    while high < MOST_EXAMPLES and not enough(high):
        low, high = high, min(2 * high, MOST_EXAMPLES)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class _ManyExamples:
    """The law M_c = x / r^power of many examples, of which `MOST_EXAMPLES` already are."""

    alpha: float
    r: float
    T: float
    power: int

    def overlap(self, log_x: float) -> float:
        """m at M = x / r^power, the mean example in units of r: 1 + a Gaussian blur."""
        # fewer examples are too few for certain: noise above 1, or a blur that hides the mean
        x = max(math.exp(log_x), self.alpha if self.power == 4 else 1e-6)
        rest = 1 - self.r**2
        blur = rest * self.r ** (self.power - 2) / x
        # M - 1 modes of little strength are Gaussian disorder
        delta = self.alpha * rest**2 / (x * (1 + blur) ** 2) if self.power == 4 else 0.0
        # with labels the blur is wide, and resolved on the scale of the other noise, sqrt alpha
        nodes = 41 if self.power == 4 else min(max(round(10 / math.sqrt(self.alpha)), 41), 401)
        z = np.linspace(-6, 6, nodes)
        weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
        chi = (1 + math.sqrt(blur) * z, weights)
        return RSAssociative([(self.alpha, 1.0)], chi, 1 / (1 + blur), delta).solve(self.T).m

    @property
    def log_most(self) -> float:
        """log x at `MOST_EXAMPLES`."""
        return math.log(MOST_EXAMPLES) + self.power * math.log(self.r)

    def reason(self, threshold: float) -> str:
        """The law, to half a percent, and the M_c above `MOST_EXAMPLES` that it gives."""
        # Delta < 2 / pi; and of a Gaussian blur alone m = erf sqrt(x / 2)
        least = math.log(self.alpha if self.power == 4 else 1.5 * threshold**2)
        low = high = max(self.log_most, least)
        while high < low + 80 and self.overlap(high) < threshold:
            high += 2.0
        low = max(low, high - 2.0)
        while high - low > 5e-3:
            middle = (low + high) / 2
            low, high = (low, middle) if self.overlap(middle) >= threshold else (middle, high)
        exponent = (high - self.power * math.log(self.r)) / math.log(10)
        size = f"{10 ** (exponent % 1):.1f}e{math.floor(exponent)}"
        return (
            f"more than {MOST_EXAMPLES} examples: the law M_c = {math.exp(high):.2g} / "
            f"r^{self.power} of many examples gives {size} at alpha = {self.alpha:g}, "
            f"r = {self.r:g}, T = {self.T:g}"
        )


def load_capacity(kind: Kind, r: float, M: int, T: float) -> float:
    """alpha_c: the largest load K / N with a retrieval state n > 0, to a relative 1e-6.

    Read backwards the equations are explicit: with y = s n / sqrt(R) and a = beta sqrt(R)

        n = E chi tanh a (y chi + z),  q = E tanh^2 a (y chi + z),  T = s n / (a y),
        C = (1 - q) / T,  alpha = (s n / y)^2 / (q g(C)),  g = R / (alpha q),

    so every y has one a at a given T and one alpha(y), whose maximum is alpha_c.

    Parameters
    ----------
    kind : "unsupervised" or "supervised"
    r : float
        Quality in (0, 1].
    M : int
        Examples per archetype, at least 1.
    T : float
        Temperature >= 0.

    Returns
    -------
    float
        0 for T >= 1, where no load works. For r = 1, M = 1, or M -> infinity that of the Hopfield
        model: 0.137906 at T = 0. There replica-symmetric retrieval is reentrant, so that alpha_c
        first rises with T: 0.138099, 0.138184, 0.138161, 0.138031, 0.137794 at T = 0.01, ..., 0.05.

    Raises
    ------
    ValueError
        A parameter out of range.
    """
    real("T", T, least=0)
    unit = engine(kind, 1.0, r, M)
    if T >= 1:
        return 0.0

    def load(log_y: float) -> float:
        return _load_at(unit, math.exp(log_y), T)

    # chi is discrete, so alpha(y) may have several maxima: the best of a grid, then refined
    grid = np.linspace(math.log(0.05), math.log(1000.0), 400 if T == 0 else 80)
    best = int(np.argmax([load(x) for x in grid]))
    step = float(grid[1] - grid[0])
    refined: Any = optimize.minimize_scalar(
        lambda x: -load(x), bounds=(grid[best] - step, grid[best] + step), options={"xatol": 1e-7}
    )
    return max(-float(refined.fun), load(grid[best]))


def _load_at(unit: RSAssociative, y: float, T: float) -> float:
    """alpha(y) for an engine of load 1; 0 where lambda C >= 1."""
    equations = unit.equations(T)
    if T == 0:
        n, one_minus_q = _tanh_moments(unit, y, math.inf)
        q, C = 1.0, one_minus_q * y / (unit.scale * n)
    else:
        # n / a falls with a: from T = 1 at a = 0 to at most T where a y = s / T. Clean examples
        # reach T there to rounding, as n = 1: hence a little further
        a = bracketed_root(
            lambda a: unit.scale * _tanh_moments(unit, y, a)[0] / (a * y) - T,
            1e-6 / y,
            unit.scale / (T * y) * (1 + 1e-6),
            tol=1e-12,
            log=True,
        )
        n, one_minus_q = _tanh_moments(unit, y, a)
        q, C = 1 - one_minus_q / a, one_minus_q / (a * T)
    inside = equations.top > C
    return (unit.scale * n / y) ** 2 / (q * equations.slope(C)) if inside else 0.0


def _tanh_moments(unit: RSAssociative, y: float, a: float) -> tuple[float, float]:
    """E chi tanh a (y chi + z) and a E sech^2 a (y chi + z); also for a = inf."""
    chi, weights = unit.chi, unit.weights
    if a > SHARP:  # tanh(a u) = sign(u) + pi^2 / (12 a^2) delta'(u) + O(a^-4)
        x, width = y * chi, math.pi**2 / (12 * a * a)
        normal = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        sign = special.erf(x / math.sqrt(2)) - width * x * normal
        return float((chi * weights) @ sign), float(weights @ ((2 - width * (1 - x * x)) * normal))
    z, weight = normal_grid(a)
    t = np.tanh(a * (y * chi[:, None] + z))
    return float((chi * weights) @ (t @ weight)), a * float(weights @ ((1 - t * t) @ weight))


def second_moment(r: float, M: int) -> float:
    """calR = r^2 + (1 - r^2) / M, the mean square of a component of a mean example."""
    return r * r + (1 - r * r) / M
