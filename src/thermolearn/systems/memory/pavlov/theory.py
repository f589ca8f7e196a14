"""What the synapses converge to: the slope on the Hebb matrix and the synaptic variance.

A neuron that the stimulus saturates at +-s is a linear filter of the pattern it sees: m steps
after a change of pattern from xi' to xi it is s[(1 - u_m) xi + u_m xi'], u_m = (1 - dt/tau)^m.
Hence, averaged over a presentation with the weights of the synaptic memory,

    <sigma_i sigma_j> = s^2 [A xi_i xi_j + B xi'_i xi'_j + D (xi_i xi'_j + xi'_i xi_j)],
    A = <(1-u)^2>, B = <u^2>, D = <u(1-u)>,  A + B + 2 D = 1,

and J is the first-order recursion J <- e J + (1 - e) gamma <sigma_i sigma_j>.

That is exact if the stimulus saturates the neurons. Otherwise s follows the weight that the pattern
shown has in J at the time: `internal_field` corrects for it.

References: arXiv:2204.07954, and for the synaptic variance arXiv:2405.03823; the corrections
for the relaxation within a presentation are our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import damped_iteration
from thermolearn.systems.memory.pavlov.internal_field import field_correction

VALID = "tau << T_present << tau_syn, stimulus above the internal field, many neurons"
# Relative errors: below the first the linear filter is kept, above the second the status says so.
FILTER, FLAG = 3e-4, 5e-3


@dataclass(frozen=True, eq=False)
class HebbPrediction:
    """Stationary statistics of the couplings at the ends of presentations, i != j.

    Attributes
    ----------
    activity : float
        s, the modulus of a settled neuron in the mean field: s = tanh beta(h + gamma s^3 / K).
    slope : Estimate
        Of mean J on J^H: gamma s^2 (1 - 2 D (1 - 1/K)) in random order, gamma s^2 (1 - 2 D)
        in cyclic order (K > 1); to first order 2 D = tau / T_present. Plus the correction of
        `internal_field`.
    slope_continuous : Estimate
        The slope for dt -> 0: the Euler step changes D, to first order by tau / T_present times
        dt / (2 tau). Theory and simulation share the step, so that they agree at any dt.
    couplings : ndarray
        The classes of |J^H|: K mod 2, ..., K in steps of 2, divided by K.
    variance : Estimate
        Of J_ij per class, averaged over random patterns.
    mean_variance : Estimate
        Averaged over all pairs.
    memory : float
        e, the share of J that survives a presentation.
    gamma, noise : float
        The parameters.
    """

    activity: float
    slope: Estimate
    slope_continuous: Estimate
    couplings: np.ndarray
    variance: Estimate
    mean_variance: Estimate
    memory: float
    gamma: float
    noise: float

    def leading_variance(self, hebb: ArrayLike) -> np.ndarray:
        """gamma^2 (1 - J_H^2)(1 - e)/(1 + e) + s_J^2: random order, instantaneous neurons."""
        e, j = self.memory, np.asarray(hebb, dtype=np.float64)
        return self.gamma**2 * (1 - j**2) * (1 - e) / (1 + e) + self.noise**2


def predict(
    K: int,
    beta: float,
    h: float,
    gamma: float,
    step: float,
    rate: float,
    steps: int,
    order: str,
    noise: float,
    neuron_noise: float,
    N: float = math.inf,
) -> HebbPrediction:
    """Slope and variance for the dynamics in steps of dt; dt -> 0 is the continuous time.

    Parameters
    ----------
    K, beta, h, gamma, order, noise, neuron_noise
        As in `PavlovHebb`.
    step, rate : float
        dt / tau and dt / tau_syn, in (0, 1/2].
    steps : int
        Time steps per presentation.
    N : int
        Neurons. The values are those of many neurons; the correction of order 1/N that is left
        out, see `_size_term`, enters the error bars.

    Returns
    -------
    HebbPrediction
        Error bars: of the sampling in `internal_field`, and of the terms left out. Status
        "neurons not saturated" where the latter exceed 0.5 % of the slope; "neurons not settled"
        where 2 % of the preceding pattern is left at the end of a presentation; "stimulus too
        weak" where h <= gamma: the internal field, at most gamma, may hold the neurons against
        the stimulus. In cyclic order the variance is that of a periodic ripple.
    """
    s = _activity(K, beta, h, gamma)
    survives = (1 - rate) ** steps
    a, b, d = _averages(step, rate, steps)
    changes = 1.0 if order == "cyclic" and K > 1 else 1 - 1 / K
    classes, by_class, probability = _by_class(K, a, b, d, survives, order)
    couplings = classes / K
    linear = gamma * s**2 * (1 - 2 * d * changes)
    slope, variance = linear, (gamma * s**2) ** 2 * by_class
    spread, sampled = np.zeros(len(classes)), 0.0
    # first order: twice the change of s, by the weight gained while shown and by the transient
    gained = min(1.0, rate * steps / 2) * changes + 2 * d
    neglected = 2 * beta * gamma * (1 - s**2) * gained
    status = "ok" if h > gamma else "stimulus too weak"
    if neglected > FILTER and status == "ok":
        found = field_correction(K, beta, h, gamma, step, rate, steps, order, s, (a, b))
        if found is not None:
            slope, sampled = linear + found.slope, found.slope_error
            # what is left out: weights M_mu,nu of third patterns, in the transient
            neglected = 2 * beta * gamma * (1 - s**2) * (2 * d) ** 2 * changes / K
            change, spread, own = found.by_class(K, couplings)
            # mixed products xi_i^mu xi_j^nu: in proportion
            variance = variance + change + ((slope / linear) ** 2 - 1) * (variance - own)
            status = "ok" if found.leftover < 0.02 else "neurons not settled"
    square = slope / linear * s**2
    neglected = math.hypot(neglected, _size_term(K, beta, gamma, square) / N)
    if neglected > FLAG and status == "ok":
        status = "neurons not saturated"

    limit = slope * (1 - 2 * _continuous_d(step, rate, steps) * changes) / (1 - 2 * d * changes)
    drift = abs(limit - slope) * (abs(slope / linear - 1) + neglected)
    error = math.hypot(sampled, neglected * slope)
    note = f"{VALID}; time step {step:g} tau (slope {limit:.5f} in continuous time)"
    spread = np.hypot(spread, 3 * neglected * variance)
    fast = gamma**2 * _neuron_noise(math.sqrt(square), neuron_noise, step, rate)
    variance = variance + fast + noise**2 / (1 - rate / 2)
    mean, mean_spread = float(probability @ variance), float(probability @ spread)
    return HebbPrediction(
        activity=s,
        slope=Estimate(slope, error, status=status, note=note),
        slope_continuous=Estimate(limit, error + drift, status=status, note=VALID),
        couplings=couplings,
        variance=Estimate(variance, spread, status=status, note=note),
        mean_variance=Estimate(mean, mean_spread, status=status, note=note),
        memory=survives,
        gamma=gamma,
        noise=noise,
    )


def _averages(step: float, rate: float, steps: int) -> tuple[float, float, float]:
    """A, B, D of the linear filter in steps of dt."""
    m = np.arange(steps)
    weight = rate * (1 - rate) ** (steps - 1 - m) / (1 - (1 - rate) ** steps)
    u = (1 - step) ** m
    a, b, d = (float(weight @ part) for part in ((1 - u) ** 2, u**2, u * (1 - u)))
    return a, b, d


def _continuous_d(step: float, rate: float, steps: int) -> float:
    """D for dt -> 0, u = exp(-t / tau): <u> - <u^2>."""

    def power(k: int) -> float:
        exponent = steps * (rate - k * step)
        grown = math.expm1(exponent) / exponent if exponent else 1.0
        return steps * rate * grown / math.expm1(steps * rate)

    return power(1) - power(2)


def _size_term(K: int, beta: float, gamma: float, square: float) -> float:
    """N times the relative change of the slope by the overlaps of random patterns, to first order.

    The weights gamma s^2 / K of the other patterns, whose overlaps have the variance 1/N, add
    beta (1 - s^2) gamma s^3 / K sum_nu q_mu,nu xi_i^nu to a neuron, and four such terms to the
    slope: 4 beta (1 - s^2) gamma s^2 (K - 1) / K. In simulations it is 20 to 50 % smaller.
    """
    return 4 * beta * gamma * (1 - square) * square * (K - 1) / K


def _activity(K: int, beta: float, h: float, gamma: float) -> float:
    """s = tanh beta(h + gamma s^3 / K): the field of J = gamma s^2 J^H along the pattern shown."""
    solution = damped_iteration(
        lambda s: np.tanh(beta * (h + gamma * s**3 / K)), np.ones(1), damping=0.0
    )
    return float(solution.x[0])


def _neuron_noise(s: float, temperature: float, step: float, rate: float) -> float:
    """Variance that the noise of two neurons gives their synapse, over gamma^2.

    sigma = +-s + eta with Var eta = T': the product has the parts s eta (twice) and eta eta, which
    decay by the factors r = 1 - dt/tau and r^2 per step; a recursion with the factor
    q = 1 - dt/tau' passes the share (1 - q)/(1 + q) (1 + q r)/(1 - q r) of an autoregression.
    """
    r, q = 1 - step, 1 - rate
    variance = temperature / (1 - step / 2)

    def passed(factor: float) -> float:
        return rate / (2 - rate) * (1 + q * factor) / (1 - q * factor)

    return 2 * s**2 * variance * passed(r) + variance**2 * passed(r**2)


def _by_class(
    K: int, a: float, b: float, d: float, e: float, order: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes K |J^H|, variance of J / (gamma s^2) in each, and their probabilities.

    Enumerates how many of the K patterns have (xi_i, xi_j) = ++, +-, -+, --.
    """
    classes = np.arange(K % 2, K + 1, 2)
    weights, totals = np.zeros((2, len(classes)))
    for pp in range(K + 1):
        for pm in range(K + 1 - pp):
            for mp in range(K + 1 - pp - pm):
                mm = K - pp - pm - mp
                ways = math.factorial(K) / math.prod(map(math.factorial, (pp, pm, mp, mm)))
                hebb = (pp + mm - pm - mp) / K
                first, second = (pp + pm - mp - mm) / K, (pp + mp - pm - mm) / K
                if order == "cyclic":
                    v = _cyclic_order(K, hebb, a, b, d, e)
                else:
                    v = _random_order(hebb, first, second, a, b, d, e)
                place = abs(pp + mm - pm - mp) // 2
                weights[place] += ways / 4.0**K
                totals[place] += v * ways / 4.0**K
    return classes, totals / weights, weights


def _random_order(
    hebb: float, first: float, second: float, a: float, b: float, d: float, e: float
) -> float:
    """Variance of the recursion over independent patterns; hebb, first, second are the means over
    patterns of xi_i xi_j, xi_i and xi_j.

    With X_n the average of one presentation, Var J = (1 - e)/(1 + e) [Var X + 2 e Cov(X_n, X_n+1)]:
    X_n knows the present pattern and the one before.
    """
    spread = 1 - hebb**2
    sides, product = first**2 + second**2, first * second
    mixed = (a + b) * d * (sides - 2 * hebb * product)
    own = (a**2 + b**2) * spread + d**2 * (2 + 2 * hebb**2 - 4 * product**2) + 2 * mixed
    next_one = a * b * spread + mixed + d**2 * (sides + 2 * product * hebb - 4 * product**2)
    return (1 - e) / (1 + e) * (own + 2 * e * next_one)


def _cyclic_order(K: int, hebb: float, a: float, b: float, d: float, e: float) -> float:
    """Variance of the periodic ripple of J, for patterns that are random given their J^H.

    The pattern shown r presentations ago has the weight w_r = (1 - e) e^r / (1 - e^K). The
    products xi_i xi_j of the K patterns are drawn without replacement, hence K / (K - 1); the
    mixed products z = xi_i xi'_j + xi'_i xi_j are uncorrelated with them, and for K > 2 with
    each other.
    """
    if K == 1:
        return 0.0
    w = (1 - e) * e ** np.arange(K) / (1 - e**K)
    filtered = a * w + b * np.roll(w, 1)
    own = ((filtered**2).sum() - (a + b) ** 2 / K) * (1 - hebb**2) * K / (K - 1)
    if K == 2:  # both presentations have the same z
        return float(own)
    z_square = 2 + 2 * (K * hebb**2 - 1) / (K - 1)
    return float(own + d**2 * z_square * ((w**2).sum() - 1 / K))
