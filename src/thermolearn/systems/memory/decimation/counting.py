"""How many columns of signs a symmetric matrix holds, from its third moment alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.decimation.problem import couplings


def estimate_rank(Y: ArrayLike) -> Estimate:
    """Number P of columns of signs in Y = X X^T / sqrt(N) + noise, without a search.

    For J = Y / sqrt(N) without its diagonal E tr J^3 = P (1 - 1/N) (1 - 2/N): noise that is as
    often positive as negative has no part in it. With alpha = P / N and Delta the variance of the
    noise the estimate scatters by

        stderr^2 = 36 alpha^2 (1 - alpha)^2 + 6 alpha^3 + 18 Delta alpha (1 + 2 alpha)
                   + 36 Delta^2 alpha + 6 Delta^3,

    less than a column well below the storage capacity at any N (leading orders in 1 / N, derived
    here; both parameters taken from Y).

    Parameters
    ----------
    Y : array (N, N)
        Symmetric, N at least 3; its diagonal is not used.

    Returns
    -------
    Estimate
        Not rounded, and below 0 by chance where there is none.

    Raises
    ------
    ValueError
        Y too small, not square, not symmetric to 1e-8 or not finite.
    """
    J = couplings(Y)
    if len(J) < 3:
        raise ValueError(f"Y must have at least 3 rows, got {len(J)}")
    np.fill_diagonal(J, 0.0)
    return count_columns(J)


def count_columns(J: np.ndarray) -> Estimate:
    """`estimate_rank` from the couplings J = Y / sqrt(N) with zero diagonal."""
    n = len(J)
    count = float(((J @ J) * J).sum()) / max((1 - 1 / n) * (1 - 2 / n), 1 / n)
    a = max(count, 0.0) / n
    delta = max(float((J * J).sum()) / (n - 1) - a, 0.0)
    variance = 36 * (a * (1 - a)) ** 2 + 6 * a**3 + 18 * delta * a * (1 + 2 * a)
    variance += 36 * delta**2 * a + 6 * delta**3
    note = "third moment of Y: columns of independent signs, noise of symmetric law"
    return Estimate(count, math.sqrt(variance), note=note)


def exceeds(count: Estimate, least: float) -> bool:
    """More than `least` columns beyond doubt: by half a column and by 4 standard errors."""
    return float(count) - least > max(0.5, 4 * float(count.stderr))
