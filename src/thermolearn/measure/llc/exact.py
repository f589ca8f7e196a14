"""Learning coefficients that are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from thermolearn.core import checks


class ExactCoefficient(NamedTuple):
    """Learning coefficient and its multiplicity m.

    The free energy is F = n L(w*) + value ln n - (m - 1) ln ln n + O(1), so that at a finite
    n beta the estimator expects about value - (m - 1)/ln(n beta).
    """

    value: float
    multiplicity: int


def monomial_lambda(powers: Sequence[float]) -> ExactCoefficient:
    """lambda = sum_i 1/p_i of K(w) = 1/2 sum_i |w_i|^{p_i} at w = 0, exact at every n beta.

    By the virial identity <w_i dU/dw_i> = 1 in each coordinate, and w dU/dw = p U.

    Parameters
    ----------
    powers : sequence of float
        p_i > 0.

    Raises
    ------
    ValueError
        No power, or one that is not positive and finite.
    """
    if len(powers) == 0:
        raise ValueError("powers must hold at least one number")
    return ExactCoefficient(sum(1 / checks.real("powers", p, above=0) for p in powers), 1)


def reduced_rank_lambda(m: int, h: int, n: int, r: int) -> ExactCoefficient:
    """Learning coefficient of the two-layer linear network y = B A x + noise.

    A is h x m, B is n x h, the true map has rank r and lies in the model (r <= min(h, m, n)).
    With s = h + r the four cases of the theorem are: n + r <= m + h, m + r <= n + h and
    h + r <= m + n: (2 s (m + n) - s^2 - (m - n)^2)/8 with multiplicity 1 if m + h + n + r is even,
    1/8 more and multiplicity 2 if it is odd; m + h < n + r: (h m - h r + n r)/2;
    n + h < m + r: (h n - h r + m r)/2; m + n < h + r: m n/2 (all with multiplicity 1).

    It is the smallest local coefficient over all (A, B) with the true product; at a point of the
    fiber that is not the most singular one the local coefficient is larger.

    Parameters
    ----------
    m, h, n : int
        Inputs, hidden units, outputs; at least 1.
    r : int
        True rank, from 0 to min(m, h, n).

    Raises
    ------
    ValueError
        A size below 1 or a rank that the network cannot have.

    References
    ----------
    M. Aoyagi, S. Watanabe, Neural Netw. 18 (2005) 924, doi:10.1016/j.neunet.2005.03.014.
    """
    m, h, n = (checks.whole(k, v, 1) for k, v in (("m", m), ("h", h), ("n", n)))
    r = checks.whole("r", r, 0, min(m, h, n))
    if m + h < n + r:
        return ExactCoefficient((h * m - h * r + n * r) / 2, 1)
    if n + h < m + r:
        return ExactCoefficient((h * n - h * r + m * r) / 2, 1)
    if m + n < h + r:
        return ExactCoefficient(m * n / 2, 1)
    s = h + r
    odd = (m + h + n + r) % 2
    return ExactCoefficient((odd + 2 * s * (m + n) - s * s - (m - n) ** 2) / 8, 1 + odd)
