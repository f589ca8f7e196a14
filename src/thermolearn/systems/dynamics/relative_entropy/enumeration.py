"""Small Ising systems state by state: what the closed formulas are checked against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.systems.dynamics.relative_entropy.ising1d import decimate

MOST_SPINS = 20


@dataclass(frozen=True)
class Enumeration:
    """All states of a small lattice.

    Attributes
    ----------
    spins : int8 ndarray (2^N, N)
    probability : ndarray (2^N,)
    kept : bool ndarray (N,)
        Spins that a decimation keeps.
    log_partition : float
    """

    spins: np.ndarray
    probability: np.ndarray
    kept: np.ndarray
    log_partition: float

    def marginal(self) -> np.ndarray:
        """Probability of the kept spins (2^kept,), and in which of these cells each state is."""
        return np.bincount(self.cells(), self.probability, 2 ** int(self.kept.sum()))

    def cells(self) -> np.ndarray:
        """Index of the configuration of kept spins of every state (2^N,)."""
        bits = (self.spins[:, self.kept] > 0).astype(np.int64)
        return bits @ (2 ** np.arange(bits.shape[1]))

    def fill(self) -> float:
        """KL of p from marginal times uniform, per spin, nats."""
        erased = int((~self.kept).sum())
        q = self.marginal()[self.cells()] / 2.0**erased
        return float((self.probability * np.log(self.probability / q)).sum()) / len(self.kept)


def ring(n: int, K: float, b: int = 2) -> Enumeration:
    """The ring of n spins, of which every b-th is kept.

    Raises
    ------
    ValueError
        More than 20 spins, or b that does not divide n.
    """
    n, K, b = _size("n", whole("n", n, 2)), real("K", K), whole("b", b, 2)
    if n % b:
        raise ValueError(f"b must divide n, got n = {n}, b = {b}")
    spins = _states(n)
    return _weighed(spins, K * (spins * np.roll(spins, -1, axis=1)).sum(1), np.arange(n) % b == 0)


def torus(rows: int, columns: int, K: float) -> Enumeration:
    """The square lattice on a torus; the checkerboard's even sites are kept.

    Raises
    ------
    ValueError
        More than 20 spins, or an odd side.
    """
    K = real("K", K)
    if whole("rows", rows, 2) % 2 or whole("columns", columns, 2) % 2:
        raise ValueError(f"rows and columns must be even, got {rows} and {columns}")
    n = _size("rows * columns", rows * columns)
    spins = _states(n).reshape(-1, rows, columns)
    bonds = spins * (np.roll(spins, -1, axis=1) + np.roll(spins, -1, axis=2))
    kept = np.add.outer(np.arange(rows), np.arange(columns)).ravel() % 2 == 0
    return _weighed(spins.reshape(-1, n), K * bonds.reshape(-1, n).sum(1), kept)


def ring_fill(n: int, K: float, b: int = 2) -> float:
    """Fill-in divergence per spin of one decimation of a ring, by enumeration."""
    return ring(n, K, b).fill()


def ring_coupling(n: int, K: float, b: int = 2) -> float:
    """KL per spin of the ring at K from the same ring at the renormalized coupling."""
    p, q = ring(n, K, b).probability, ring(n, decimate(K, b), b).probability
    return float((p * np.log(p / q)).sum()) / n


def torus_fill(K: float, rows: int = 4, columns: int = 4) -> float:
    """Fill-in divergence per spin of one checkerboard decimation of a torus, by enumeration."""
    return torus(rows, columns, K).fill()


def neighbor_sums(state: Enumeration, rows: int, columns: int) -> np.ndarray:
    """Sums of the four neighbors of every erased spin of a torus, (2^N, erased)."""
    s = state.spins.reshape(-1, rows, columns).astype(np.int64)
    total = sum(np.roll(s, shift, axis) for shift in (1, -1) for axis in (1, 2))
    return np.asarray(total).reshape(len(s), -1)[:, ~state.kept]


def _size(name: str, n: int) -> int:
    if n > MOST_SPINS:
        raise ValueError(f"{name} must be at most {MOST_SPINS} spins to be enumerated, got {n}")
    return n


def _states(n: int) -> np.ndarray:
    bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
    return (2 * bits - 1).astype(np.int8)


def _weighed(spins: np.ndarray, log_weight: np.ndarray, kept: np.ndarray) -> Enumeration:
    top = float(log_weight.max())
    weight = np.exp(log_weight - top)
    total = float(weight.sum())
    return Enumeration(spins, weight / total, kept, top + math.log(total))
