"""The one-dimensional Ising model under decimation: everything in closed form.

p(sigma) = exp(K sum_i sigma_i sigma_{i+1}) / Z; keeping every b-th spin gives the same model at
tanh K' = (tanh K)^b. All numbers per site of the lattice one starts from.
"""

from __future__ import annotations

import math

from thermolearn.core.checks import real, whole


def decimate(K: float, b: int = 2) -> float:
    """K' = artanh[(tanh K)^b], exact; K < 0 (antiferromagnet) allowed.

    Raises
    ------
    ValueError
        K not finite, or b below 2.
    """
    K, b = real("K", K), whole("b", b, 2)
    if K == 0:
        return 0.0
    if abs(K) > 18:  # up to e^(-2K), and tanh rounds to 1
        size = abs(K) - 0.5 * math.log(b)
    else:
        log_t = b * log_tanh(abs(K))
        size = 0.5 * (math.log1p(math.exp(log_t)) - math.log(-math.expm1(log_t)))
    return -size if K < 0 and b % 2 else size


def log_tanh(K: float) -> float:
    """ln tanh K, 0 < K < 300."""
    if K < 0.5:
        return math.log(math.tanh(K))
    return math.log1p(-2 / (math.exp(2 * K) + 1))


def log_cosh(K: float) -> float:
    """ln cosh K without overflow."""
    return abs(K) + math.log1p(math.exp(-2 * abs(K))) - math.log(2)


def free_energy(K: float) -> float:
    """f = ln Z / N = ln 2 cosh K of the infinite chain."""
    return math.log(2) + log_cosh(real("K", K))


def bond_energy(K: float) -> float:
    """u = f'(K) = tanh K, the mean of sigma_i sigma_{i+1}."""
    return math.tanh(real("K", K))


def entropy(K: float) -> float:
    """s = ln 2 cosh K - K tanh K per site, nats."""
    return free_energy(K) - K * bond_energy(K)


def ring_log_partition(n: int, K: float) -> float:
    """ln Z = N ln 2 cosh K + ln(1 + t^N), t = tanh K, of a ring of n >= 2 spins."""
    n, K = whole("n", n, 2), real("K", K)
    return n * free_energy(K) + math.log1p(math.tanh(K) ** n)


def ring_energy(n: int, K: float) -> float:
    """Mean of sum_i sigma_i sigma_{i+1} = N (t + t^{N-1}) / (1 + t^N)."""
    n, t = whole("n", n, 2), math.tanh(real("K", K))
    return n * (t + t ** (n - 1)) / (1 + t**n)


def ring_coupling_divergence(n: int, K: float, b: int = 2) -> float:
    """KL of the ring at K from the ring of the same size at K', over n."""
    target = decimate(K, b)
    shift = (K - target) * ring_energy(n, K)
    return (shift + ring_log_partition(n, target) - ring_log_partition(n, K)) / n


def ring_fill_divergence(n: int, K: float, b: int = 2) -> float:
    """KL of the ring from its exact marginal on every b-th spin times uniform ones, over n.

    Raises
    ------
    ValueError
        b does not divide n, or leaves fewer than two spins.
    """
    if whole("n", n, 2) % whole("b", b, 2) or n < 2 * b:
        raise ValueError(f"b must divide n and leave at least 2 spins, got n = {n}, b = {b}")
    return (
        (n - n // b) * math.log(2) - _ring_entropy(n, K) + _ring_entropy(n // b, decimate(K, b))
    ) / n


def _ring_entropy(n: int, K: float) -> float:
    return ring_log_partition(n, K) - K * ring_energy(n, K)
