"""Synapses that act back on the neurons: what a stimulus that does not saturate them changes.

With many neurons J_ij = sum_mu,nu M_mu,nu xi_i^mu xi_j^nu, and while xi is shown after xi' the
neurons are sigma_i = m xi_i + m' xi'_i (an odd function of two signs has no other part):

    tau  d(m +- m') = tanh beta[h + (M m)_xi +- (M m)_xi'] - (m +- m'),
    tau' dM         = gamma m m^T - M,     m = (m, m') on the patterns xi, xi'.

The pattern shown builds up its own weight, so that s rises within its presentation and with the
number of recent ones. The order of the patterns is drawn at random; the linear filter, whose
averages are known, follows the same order and takes most of the sampling noise away.

The fields of third patterns through mixed weights M_mu,nu, of order gamma (tau / T_present) / K^2,
are left out, also those that a neuron keeps from the presentation before.

References: the dynamics are those of arXiv:2204.07954; the reduction is our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

CHAINS = 16
STEPS = 4_000_000  # time steps of all chains together, some tenths of a second
LIMIT = 200_000_000


@dataclass(frozen=True)
class FieldCorrection:
    """Exact minus linear filter, with standard errors between chains.

    Attributes
    ----------
    slope, slope_error : float
        Of E tr M.
    own, own_error : float
        Of sum_mu Var M_mu,mu.
    total, total_error : float
        Of Var tr M.
    own_filter, total_filter : float
        The two variances of the linear filter itself, in the same order of patterns.
    leftover : float
        Largest share of the preceding pattern in a neuron at the end of a presentation.
    """

    slope: float
    slope_error: float
    own: float
    own_error: float
    total: float
    total_error: float
    own_filter: float
    total_filter: float
    leftover: float

    def by_class(self, K: int, couplings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Correction of Var J, its error, and the filter's Var J, per J^H, from diagonal M.

        Var J = own + (total - own)(K J_H^2 - 1)/(K - 1): products xi_i xi_j of two patterns have
        the mean (K J_H^2 - 1)/(K - 1) given J^H.
        """
        share = np.zeros(1) if K == 1 else (K * couplings**2 - 1) / (K - 1)
        return (
            self.own + (self.total - self.own) * share,
            np.hypot((1 - share) * self.own_error, share * self.total_error),
            self.own_filter + (self.total_filter - self.own_filter) * share,
        )


@njit(cache=True, nogil=True)
def _follow(
    shown: np.ndarray,
    K: int,
    skip: int,
    beta: float,
    h: float,
    gamma: float,
    step: float,
    rate: float,
    steps: int,
    s: float,
    filtered: tuple[float, float],
) -> np.ndarray:
    """Moments of M and of the linear filter over the presentations after `skip`.

    Returns (7,): means of t, t^2, o for M, the same for the filter, and the leftover; with
    t = tr M - g and o = sum (M_mu,mu - g / K)^2, g = gamma s^2.
    """
    a, b = filtered
    g = gamma * s * s
    survives = (1 - rate) ** steps
    M, L = np.zeros((K, K)), np.empty(K)
    for mu in range(K):
        M[mu, mu] = L[mu] = g / K
    out = np.zeros(7)
    last, p = shown[0], s
    for n in range(1, shown.shape[0]):
        mu = shown[n]
        own, other, mixed = M[mu, mu], M[last, last], M[mu, last]
        for i in range(K):
            L[i] *= survives
            for j in range(K):
                M[i, j] *= survives
        if mu == last:
            for _ in range(steps):
                target = math.tanh(beta * (h + own * p))
                own += rate * (gamma * p * p - own)
                p += step * (target - p)
            L[mu] += (1 - survives) * g
        else:
            q = -p
            for _ in range(steps):
                m, w = (p + q) / 2, (p - q) / 2
                field, cross = h + own * m + mixed * w, mixed * m + other * w
                own += rate * (gamma * m * m - own)
                other += rate * (gamma * w * w - other)
                mixed += rate * (gamma * m * w - mixed)
                if abs(w) < 1e-9 and abs(cross) < 1e-9:
                    p += step * (math.tanh(beta * field) - p)
                    q = p
                else:
                    p += step * (math.tanh(beta * (field + cross)) - p)
                    q += step * (math.tanh(beta * (field - cross)) - q)
            if n > skip:
                out[6] = max(out[6], abs(p - q) / 2)
            p = (p + q) / 2
            M[last, last] = other
            M[mu, last] = M[last, mu] = mixed
            L[mu] += (1 - survives) * g * a
            L[last] += (1 - survives) * g * b
        M[mu, mu] = own
        last = mu
        if n > skip:
            for kind in range(2):
                t, o = -g, 0.0
                for i in range(K):
                    value = M[i, i] if kind == 0 else L[i]
                    t += value
                    o += (value - g / K) ** 2
                out[3 * kind] += t
                out[3 * kind + 1] += t * t
                out[3 * kind + 2] += o
    out[:6] /= shown.shape[0] - 1 - skip
    return out


def field_correction(
    K: int,
    beta: float,
    h: float,
    gamma: float,
    step: float,
    rate: float,
    steps: int,
    order: str,
    s: float,
    filtered: tuple[float, float],
) -> FieldCorrection | None:
    """What the internal field adds to slope and variance of the linear filter.

    Parameters
    ----------
    K, beta, h, gamma, step, rate, steps, order
        As in `theory.predict`.
    s : float
        Activity of the linear filter.
    filtered : (float, float)
        A, B of the linear filter.

    Returns
    -------
    FieldCorrection, or None
        For random order an average over 16 chains with a fixed seed; in cyclic order a limit
        cycle, without sampling error. None if more than 2e8 time steps would be needed.
    """
    memory = 1 / (rate * steps)  # of the synapses, in presentations
    if order == "cyclic":
        n = 1 + (math.ceil(20 * memory / K) + 1) * K
        chains = [np.arange(n) % K]
        skip = n - 1 - K
    else:
        skip = math.ceil(5 * memory)
        n = 1 + skip + max(math.ceil(STEPS / (CHAINS * steps)), 200)
        rng = np.random.default_rng(220407954)
        chains = [rng.integers(K, size=n) for _ in range(CHAINS)] if n * steps < LIMIT else []
    if n * steps * max(len(chains), 1) > LIMIT:
        return None
    moments = np.array(
        [_follow(c, K, skip, beta, h, gamma, step, rate, steps, s, filtered) for c in chains]
    )
    exact, linear = moments[:, :3], moments[:, 3:6]
    gain, mean, base = (exact - linear).mean(0), exact.mean(0), linear.mean(0)
    error = np.zeros(3)
    if len(chains) > 1:
        error = (exact - linear).std(0, ddof=1) / math.sqrt(len(chains))
    return FieldCorrection(
        slope=float(gain[0]),
        slope_error=float(error[0]),
        own=float(gain[2] - (mean[0] ** 2 - base[0] ** 2) / K),
        own_error=float(error[2]),
        total=float(gain[1] - (mean[0] ** 2 - base[0] ** 2)),
        total_error=float(error[1]),
        own_filter=float(base[2] - base[0] ** 2 / K),
        total_filter=float(base[1] - base[0] ** 2),
        leftover=float(moments[:, 6].max()),
    )
