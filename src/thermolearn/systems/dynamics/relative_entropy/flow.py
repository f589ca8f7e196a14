"""Relative entropy along decimation of the Ising models."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.systems.dynamics.relative_entropy import ising1d, ising2d

MODELS = ("ising1d", "ising2d")
KINDS = ("coupling", "fill")


@dataclass(frozen=True)
class Flow:
    """Divergence per site of the original lattice after 0..n decimations.

    Attributes
    ----------
    model, kind : str
    couplings : ndarray (steps + 1,)
        K_0 = K, K_1, ..., K_n.
    divergence : ndarray (steps + 1,)
        D_n / N, nats.
    plateau : float
        Where it ends if K_n -> 0: ln 2 - s(K), the same for both kinds.
    status : str
        "ok", "truncated" or "diverges".
    note : str
    """

    model: str
    kind: str
    couplings: np.ndarray
    divergence: np.ndarray
    plateau: float
    status: str
    note: str


def relative_entropy_flow(
    model: str, K: float, steps: int, kind: str = "coupling", b: int = 2
) -> Flow:
    """KL divergence between an infinite Ising model and its decimated descendants, per site.

    Two well-defined versions, both >= 0, growing, and with the same plateau ln 2 - s(K):

    - "coupling": against the same lattice at the renormalized coupling,
      D_n / N = (K - K_n) u(K) + f(K_n) - f(K);
    - "fill": against the exact marginal on the kept spins times uniform erased ones,
      D_n / N = (1 - b^-n) ln 2 - [s(K) - b^-n s(K_n)], the information that n decimations destroy.

    In one dimension both are exact. On the square lattice decimation creates couplings of all
    ranges; the flow is truncated to K' = (3/8) ln cosh 4K (`ising2d.decimate`), and only
    "coupling" is defined along it. Below the transition, K < 0.440687, it ends at K = 0 as it
    should; up to the truncation's own fixed point 0.506981 it does too, wrongly (status
    "truncated"); above, K_n grows without bound and D_n with it (status "diverges", a warning).

    Parameters
    ----------
    model : "ising1d" or "ising2d"
    K : float
        Coupling beta J; >= 0 for "ising2d".
    steps : int
        At least 0.
    kind : "coupling" or "fill"
    b : int
        Sites per kept site in a step, at least 2; on the square lattice it is 2.

    Raises
    ------
    ValueError
        An argument out of range, or "fill" on the square lattice (one step of it is exact on a
        finite torus: `enumeration.torus_fill`).

    References
    ----------
    J. Erdmenger, K. T. Grosvenor, R. Jefferson, arXiv:2107.06898. Their normalization of the
    divergence is one of several; these two are ours.
    """
    if model not in MODELS:
        raise ValueError(f"model must be 'ising1d' or 'ising2d', got {model!r}")
    if kind not in KINDS:
        raise ValueError(f"kind must be 'coupling' or 'fill', got {kind!r}")
    K, steps, b = real("K", K), whole("steps", steps, 0), whole("b", b, 2)
    return _chain(K, steps, kind, b) if model == "ising1d" else _square(K, steps, kind, b)


def _chain(K: float, steps: int, kind: str, b: int) -> Flow:
    couplings = [K]
    for _ in range(steps):
        couplings.append(ising1d.decimate(couplings[-1], b))
    f, u, s = ising1d.free_energy(K), ising1d.bond_energy(K), ising1d.entropy(K)
    if kind == "coupling":
        found = [(K - k) * u + ising1d.free_energy(k) - f for k in couplings]
    else:
        share = [float(b) ** -n for n in range(steps + 1)]
        kept = zip(share, couplings, strict=True)
        found = [(1 - p) * math.log(2) - (s - p * ising1d.entropy(k)) for p, k in kept]
    return Flow(
        "ising1d", kind, np.array(couplings), np.array(found), math.log(2) - s, "ok", "exact"
    )


def _square(K: float, steps: int, kind: str, b: int) -> Flow:
    if kind == "fill":
        raise ValueError(
            "kind='fill' is not closed on the square lattice, whose marginal has couplings of all "
            "ranges; use enumeration.torus_fill for one exact step on a small torus"
        )
    if b != 2:
        raise ValueError(f"b must be 2 on the square lattice (checkerboard), got {b}")
    couplings = [real("K", K, least=0.0)]
    for _ in range(steps):
        couplings.append(ising2d.decimate(couplings[-1]))
    start = ising2d.onsager(K)
    found = [(K - k) * start.u + ising2d.onsager(k).f - start.f for k in couplings]
    status, note = "ok", "the flow is truncated to one coupling; f and u are exact"
    if K > ising2d.FIXED_POINT:
        status = "diverges"
        note = (
            f"K = {K:.6g} lies above the fixed point {ising2d.FIXED_POINT:.6f} of the truncated "
            "flow: K_n grows without bound, and the divergence linearly with it"
        )
        warnings.warn(f"relative entropy: {note}", stacklevel=3)
    elif K > ising2d.CRITICAL:
        status = "truncated"
        note = (
            f"K = {K:.6g} is ordered (K_c = {ising2d.CRITICAL:.6f}), but the truncated flow still "
            "runs to K = 0: its plateau is an artifact"
        )
    plateau = math.log(2) - start.s
    return Flow("ising2d", kind, np.array(couplings), np.array(found), plateau, status, note)
