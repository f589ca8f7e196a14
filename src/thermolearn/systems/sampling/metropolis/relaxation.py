"""The rate at which simulated chains relax, from their correlations alone.

Chains in detailed balance with p have correlations of functions f of the position
C_ij(m) = <f_i(x_0) f_j(x_m)>_p = sum_k c_ik c_jk Lambda_k^m, so that the largest eigenvalue of
C(m) v = mu C(0) v is at most Lambda^m, with an error of second order in what the functions miss
of the slowest mode. Nothing of the operator is used. Slow modes of large jumps live in the tails of
p: starts drawn from a wider density q, with weights p/q, see them with a fraction of the noise.

Reference: F. Noe, F. Nueske, arXiv:1211.7103 (the variational principle).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import eigh

from thermolearn.core.estimate import Estimate, jackknife

BLOCKS = 20


def slowest_eigenvalue(
    first: np.ndarray,
    later: np.ndarray,
    weights: np.ndarray,
    lag: int,
    center: bool = True,
) -> Estimate:
    """Lambda of the slowest mode that the functions see, a lower bound where noise is small.

    Of several modes that the noise mixes (a continuum, few walkers) the largest is picked, which
    biases the value upwards.

    Parameters
    ----------
    first, later : array (W, k) or (W, d, k)
        k functions (of d components) of the starts and of the positions `lag` steps later.
    weights : array (W,)
        p(x_0)/q(x_0) up to a factor, for independent starts from q.
    lag : int
        m; even, so that negative eigenvalues of the chain count by their size.
    center : bool
        Subtract the means (functions whose mean is 0 by symmetry need not).

    Returns
    -------
    Estimate
        stderr by the jackknife over 20 blocks of walkers. NaN with status ``"cannot tell"`` if
        the correlation left after m steps is below 3 standard errors.
    """
    found = jackknife(lambda c: _largest(c.mean(0), center), _blocks(first, later, weights))
    mu, error = float(found.value), float(found.stderr)
    if not mu > 3 * error:
        note = "no correlation is left after the lag: shorten it, or take more walkers"
        return Estimate(math.nan, math.nan, status="cannot tell", note=note)
    value = mu ** (1 / lag)
    return Estimate(value, error / mu * value / lag, n_eff=found.n_eff)


def _blocks(first: np.ndarray, later: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(blocks, 2 k + 2, k): C(0), C(m), means of both ends, the weight; all weighted."""
    w = len(first) - len(first) % BLOCKS
    k = first.shape[-1]
    a, b = (f[:w].reshape(BLOCKS, -1, k) for f in (first, later))
    repeated = np.repeat(weights[:w], a.size // (w * k)).reshape(BLOCKS, -1, 1)
    weighted = a * repeated
    n = a.shape[1]
    same, product = (weighted.transpose(0, 2, 1) @ f / n for f in (a, b))
    ends = 0.5 * (weighted + b * repeated).mean(1)[:, None]
    total = np.broadcast_to(repeated.mean(1)[:, None], ends.shape)
    return np.concatenate([same, product, ends, total], 1)


def _largest(c: np.ndarray, center: bool) -> float:
    """Largest mu of C(m) v = mu C(0) v."""
    k, total = c.shape[1], c[-1, 0]
    shift = np.outer(c[-2], c[-2]) / total if center else 0.0
    same, later = c[:k] - shift, c[k : 2 * k]
    later = 0.5 * (later + later.T) - shift
    scale = 1 / np.sqrt(np.diag(same))  # powers differ by orders of magnitude
    same, later = (scale[:, None] * m * scale for m in (same, later))
    return float(eigh(later, same, eigvals_only=True)[-1])
