"""Decimation of one sampled matrix by Monte Carlo, each column started at its true value.

The start replaces the search, which is what the theory is silent about: the experiment asks whether
the state next to a column has the predicted overlap, and nothing of the theory enters it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.memory.decimation.problem import (
    Params,
    SymmetricFactorisation,
    couplings,
    factorization_error,
)
from thermolearn.systems.memory.glauber import GlauberSampler

# At T = 0 a descent that has not ended by then is reported.
DESCENT = 200


@dataclass(frozen=True, eq=False)
class PlantedDecimation:
    """Decimation from planted starts; see `planted_decimation`.

    Attributes
    ----------
    p, q, energy : arrays (P,)
        Overlap eta . xi / N, squared norm |eta|^2 / N and energy per spin (zero diagonal; at T > 0
        the average over the sweeps) of the columns in the order in which they were taken off.
    factors : array (N, P)
        The estimates eta.
    mse : float
        (1/N^2) |X X^T / sqrt(N) - sum eta eta^T / sqrt(N)|_F^2.
    converged : bool
        At T = 0: every descent ended. At T > 0 True: the run length is the caller's choice.
    """

    p: np.ndarray
    q: np.ndarray
    energy: np.ndarray
    factors: np.ndarray
    mse: float
    converged: bool


def planted_decimation(
    X: ArrayLike, Y: ArrayLike, T: float = 0.0, sweeps: int = 300, seed: int = 0
) -> PlantedDecimation:
    """Take the columns of X off Y in their order, each estimated by a chain started at it.

    Parameters
    ----------
    X : array (N, P)
        Columns of +-1.
    Y : array (N, N)
        X X^T / sqrt(N) + noise; symmetric. Its diagonal is not used.
    T : float
        Temperature >= 0. At T > 0 an estimate is the time average of the spins, whose finite
        length adds about (1 - q) (2 tau + 1) / sweeps to q; at T = 0 it is the state where greedy
        descent ends.
    sweeps : int
        Per column at T > 0, at least 4; the first quarter is left out.
    seed : int
        Of the chains.

    Raises
    ------
    ValueError
        Shapes that do not match, X not +-1, Y not symmetric or finite, T < 0, too few sweeps.
    """
    truth = np.asarray(X, dtype=np.float64)
    J = couplings(Y)
    n = len(J)
    if truth.ndim != 2 or len(truth) != n:
        raise ValueError(f"X must have {n} rows, as Y has; got shape {truth.shape}")
    whole("sweeps", sweeps, 4)
    np.fill_diagonal(J, 0.0)
    rank = truth.shape[1]
    factors, energy, converged = np.empty((n, rank)), np.empty(rank), True
    for column, child in enumerate(np.random.SeedSequence(seed).generate_state(rank)):
        length = sweeps if T > 0 else DESCENT
        sampler = GlauberSampler(J.astype(np.float32))
        run = sampler.run(truth[:, column], T, length, seed=int(child))
        trace = run.energy[0][np.isfinite(run.energy[0])]
        energy[column] = trace[run.warmup :].mean() if T > 0 else trace[-1]
        eta = run.mean_spins[0] if T > 0 else run.spins[0].astype(np.float64)
        converged &= bool(run.converged[0])
        factors[:, column] = eta
        J -= np.outer(eta, eta) / n
        np.fill_diagonal(J, 0.0)
    return PlantedDecimation(
        (truth * factors).mean(0),
        (factors**2).mean(0),
        energy,
        factors,
        factorization_error(truth, factors),
        converged,
    )


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """One matrix, decimated from planted starts.

    Returns
    -------
    dict of Estimate
        p_first, p_last : mean overlap of the first and last quarter of the columns; q : mean
        squared norm; recovered : 1 - mse / alpha, the share of X X^T that is recovered. stderr is
        the spread between columns, which share a matrix; NaN for `recovered`.
    """
    X, Y = SymmetricFactorisation(p.n_spins, p.rank / p.n_spins, p.delta).sample(seed)
    run = planted_decimation(X, Y, p.temperature, p.sweeps, seed)
    first = math.ceil(p.rank / 4)
    return {
        "p_first": mean_estimate(run.p[:first]),
        "p_last": mean_estimate(run.p[-first:]),
        "q": mean_estimate(run.q),
        "recovered": Estimate(1 - run.mse * p.n_spins / p.rank, math.nan),
    }
