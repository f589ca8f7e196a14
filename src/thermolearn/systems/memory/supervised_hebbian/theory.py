"""Replica-symmetric theory of Hebbian learning from labeled examples.

The mean example of class mu, bar eta = (1/M) sum_a eta^{mu a}, has components of variance
calR = r^2 + (1 - r^2) / M = r^2 (1 + rho): as a noise pattern it is as good as any other pattern of
that variance, so the load enters as for Hopfield; as the condensed pattern it is not, and keeps
its binomial distribution.

Reference: F. Alemanno, M. Aquaro, I. Kanter, A. Barra, E. Agliari, arXiv:2203.01304.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from thermolearn.core.checks import real, whole
from thermolearn.core.fixed_point import bracketed_root, damped_iteration
from thermolearn.core.gaussian import gauss_nodes
from thermolearn.systems.memory.example_noise import supervised_engine
from thermolearn.systems.memory.replica_symmetric import Branch, RSState

# Panel ends around the step of tanh, in units of T.
STEEP = np.arange(-20.0, 21.0, 2.0)
# Below this overlap the large-M iteration has left retrieval.
FORGOTTEN = 1e-3


def supervised_theory(
    alpha: float, r: float, M: int, T: float, branch: Branch = "retrieval"
) -> RSState:
    """Overlaps of a network with J = (1 / (N calR)) sum_mu bar eta^mu bar eta^mu^T.

    One mode per class of strength 1, a condensed field n chi / calR with
    chi = (2 k - M) / M, k ~ Bin(M, (1 + r) / 2): see `supervised_engine`. At r = 1, and for
    M -> infinity, this is the theory of Amit, Gutfreund and Sompolinsky.

    Parameters
    ----------
    alpha : float
        Classes per neuron K / N, > 0.
    r : float
        Quality in (0, 1]: mean overlap of an example with its archetype.
    M : int
        Examples per class, at least 1.
    T : float
        Temperature >= 0, in the units of the Hopfield model.
    branch : "retrieval" or "spin_glass"

    Returns
    -------
    RSState
        m with the archetype, n with the mean example, q, f, and so on. Without retrieval
        m = n = 0 and `branch` says so.

    Raises
    ------
    ValueError
        A parameter out of range.
    ConvergenceError
        The equations are not solved to 1e-9.

    References
    ----------
    arXiv:2203.01304. There M is large and chi is Gaussian (`supervised_theory_large_m`); here it is
    binomial, exact in M.
    """
    return supervised_engine(alpha, r, M).solve(T, branch)


def entropy_of_dataset(r: float, M: int) -> float:
    """rho = (1 - r^2) / (M r^2), all that theory at large M needs to know of the examples."""
    quality = real("quality r", r, above=0, most=1)
    return (1 - quality**2) / (whole("M", M, 1) * quality**2)


# -- the published form ------------------------------------------------------------------------
@dataclass(frozen=True)
class LargeMState:
    """Solution of the large-M equations.

    Attributes
    ----------
    m, q : float
        Overlap with the archetype and Edwards-Anderson parameter.
    n_p : float
        Overlap with the mean example over r (1 + rho).
    C : float
        beta (1 - q).
    residual : float
        Error of the equation of n_p.
    """

    m: float
    q: float
    n_p: float
    C: float
    residual: float


def supervised_theory_large_m(alpha: float, rho: float, T: float) -> LargeMState:
    """The equations for many examples, whose only trace is rho = (1 - r^2) / (M r^2).

        m = E tanh beta (n_p + psi sqrt V),  q = E tanh^2 beta (n_p + psi sqrt V),
        V = rho n_p^2 + alpha q / (1 - C)^2,  n_p = m / (1 + rho - rho C),  C = beta (1 - q),

    psi ~ N(0, 1): Hopfield's with more noise and less signal. At T = 0 tanh is a sign.

    Parameters
    ----------
    alpha : float
        Load, > 0.
    rho : float
        >= 0; 0 is Hopfield's model. For r and M see `entropy_of_dataset`.
    T : float
        Temperature >= 0.

    Returns
    -------
    LargeMState
        m = n_p = 0 where there is no retrieval (q and C are then NaN: not asked for).

    Raises
    ------
    ValueError
        A parameter out of range.
    ConvergenceError
        No fixed point, at a spinodal.

    References
    ----------
    arXiv:2203.01304; rederived here from the binomial equations by Gaussian integration by parts.
    """
    load = real("alpha", alpha, above=0)
    real("rho", rho, least=0)
    real("T", T, least=0)

    def step(x: np.ndarray) -> np.ndarray:
        n_p = float(x[0])
        if n_p < FORGOTTEN:
            return np.zeros(1)
        C = _susceptibility(n_p, load, rho, T)
        return np.array([_averages(n_p, C, load, rho, T)[0] / (1 + rho - rho * C)])

    # monotone from above: no solution lies between two iterates
    point = damped_iteration(step, np.array([1.0]), damping=0.0, tol=1e-12, max_iter=20_000)
    n_p = float(point.x[0])
    if n_p == 0:
        return LargeMState(0.0, math.nan, 0.0, math.nan, point.residual)
    C = _susceptibility(n_p, load, rho, T)
    m, _ = _averages(n_p, C, load, rho, T)
    return LargeMState(m, 1 - T * C, n_p, C, point.residual)


def _susceptibility(n_p: float, alpha: float, rho: float, T: float) -> float:
    """C between 0 and min(1, beta) at fixed n_p."""
    top = 1.0 if T == 0 else min(1.0, 1 / T)
    return bracketed_root(
        lambda C: _averages(n_p, C, alpha, rho, T)[1] - C, 0.0, top * (1 - 1e-9), tol=1e-14
    )


def _averages(n_p: float, C: float, alpha: float, rho: float, T: float) -> tuple[float, float]:
    """E tanh beta h and beta E sech^2 beta h, h = n_p + psi sqrt V."""
    q = 1 - T * C
    variance = rho * n_p**2 + alpha * q / (1 - C) ** 2
    if T == 0:
        x = n_p / math.sqrt(2 * variance)
        height = math.sqrt(2 / (math.pi * variance))
        return float(special.erf(x)), height * math.exp(-x * x)
    # tanh changes over 2 T around psi sqrt V = -n_p and is constant elsewhere
    z, weight = gauss_nodes(math.sqrt(variance), n=12, kinks=list(T * STEEP - n_p))
    t = np.tanh((n_p + z) / T)
    return float(weight @ t), float(weight @ (1 - t * t)) / T
