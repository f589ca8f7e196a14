"""Archetypes seen only through blurred examples: data, Hebb matrices, and the dynamics of recall.

Shared by the memories that learn from examples, with labels and without.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import is_signs, real, whole
from thermolearn.systems.memory.example_noise import second_moment
from thermolearn.systems.memory.glauber import GlauberSampler

# Examples held in memory at a time, as spins (float32 for the product: four bytes each).
CHUNK = 2**24


class ArchetypeDataset:
    """K random archetypes of N signs and M noisy examples of each, made when asked for.

    eta^{mu a}_i = chi^{mu a}_i xi^mu_i,  P(xi = +1) = 1/2,  P(chi = +1) = (1 + r) / 2.

    Examples are drawn again from the seed whenever they are needed, always the same: only one
    chunk of them is in memory. Example a of archetype mu does not depend on K or M.

    Parameters
    ----------
    N : int
        Signs per archetype, at least 1.
    K : int
        Archetypes, at least 1.
    M : int
        Examples per archetype, at least 1.
    r : float
        Quality in (0, 1]: the mean overlap of an example with its archetype.
    seed : int
        Of the private generators.

    Attributes
    ----------
    archetypes : int8 array (K, N)
        xi.
    labels : int array (K M,)
        The archetype of each example, in the order of `all_examples`.
    second_moment : float
        calR = r^2 + (1 - r^2) / M, the mean square of a component of a mean example.

    Raises
    ------
    ValueError
        A parameter out of range.

    References
    ----------
    Agliari, Alemanno, Barra, De Marzo, arXiv:2109.00454.
    """

    def __init__(self, N: int, K: int, M: int, r: float, seed: int = 0):
        self.N, self.K = whole("N", N, 1), whole("K", K, 1)
        self.M, self.r = whole("M", M, 1), real("quality r", r, above=0, most=1)
        self.seed = seed
        # drawn as single precision, kept as one byte
        check_memory(5 * self.K * self.N, f"{self.K} archetypes of {self.N} signs")
        # one child per archetype, so that neither K nor M shifts the draws of another
        source = np.random.default_rng([seed, 0])
        self.archetypes = signs(source, (self.K, self.N), 0.0)
        self.second_moment = second_moment(self.r, self.M)

    @property
    def labels(self) -> np.ndarray:
        return np.repeat(np.arange(self.K), self.M)

    def examples(self, mu: int) -> np.ndarray:
        """The M examples of archetype mu, int8 (M, N).

        Raises
        ------
        ValueError
            They do not fit into memory; the message says how large they are.
        IndexError
            No archetype mu.
        """
        check_memory(self.M * self.N, f"{self.M} examples of {self.N} signs")
        return np.concatenate(list(self._chunks(mu)))

    def all_examples(self) -> np.ndarray:
        """All examples, int8 (K, M, N); raises ValueError, with the size, if memory is short."""
        size = self.K * self.M * self.N
        check_memory(size, f"K M N = {self.K} x {self.M} x {self.N} signs")
        return np.stack([self.examples(mu) for mu in range(self.K)])

    def means(self) -> np.ndarray:
        """Mean example of every archetype, float32 (K, N)."""
        total = np.zeros((self.K, self.N), dtype=np.int64)
        for mu in range(self.K):
            for chunk in self._chunks(mu):
                total[mu] += chunk.sum(axis=0, dtype=np.int64)
        return (total / self.M).astype(np.float32)

    def unsupervised_couplings(self, normalise: bool = True, diagonal: bool = False) -> np.ndarray:
        """J_ij = (1 / (N M calR)) sum_{mu a} eta_i eta_j, float32 (N, N), chunk by chunk.

        Parameters
        ----------
        normalise : bool
            Divide by calR, so that the temperature means what it means for the Hopfield model.
            Without, J and the temperature shrink by calR.
        diagonal : bool
            Keep J_ii (a constant of the energy); by default it is zero, as simulations need.
        """
        check_memory(4 * self.N**2, f"a coupling matrix of {self.N} x {self.N} float32")
        strength = self.second_moment if normalise else 1.0
        chunks = (chunk for mu in range(self.K) for chunk in self._chunks(mu))
        return hebb_matrix(chunks, self.N, self.N * self.M * strength, diagonal)

    def supervised_couplings(self) -> np.ndarray:
        """J_ij = (1 / (N calR)) sum_mu etabar_i etabar_j, float32 (N, N), zero diagonal.

        etabar is the mean example of an archetype: what one learns from examples with labels.
        """
        check_memory(4 * self.N**2, f"a coupling matrix of {self.N} x {self.N} float32")
        return hebb_matrix([self.means()], self.N, self.N * self.second_moment, False)

    def _chunks(self, mu: int) -> Iterator[np.ndarray]:
        """The examples of one archetype, int8 (rows, N), in order."""
        if not -self.K <= mu < self.K:
            raise IndexError(f"there is no archetype {mu}; K = {self.K}")
        mu = mu % self.K
        source = np.random.default_rng([self.seed, 1, mu])
        rows = max(1, CHUNK // self.N)
        for first in range(0, self.M, rows):
            shape = (min(rows, self.M - first), self.N)
            yield signs(source, shape, self.r) * self.archetypes[mu]


def hebb_unsupervised(
    eta: ArrayLike, normalise: bool = True, r: float | None = None, diagonal: bool = False
) -> np.ndarray:
    """Hebb matrix of unlabeled examples, J_ij = (1 / (N M calR)) sum_{mu a} eta_i eta_j.

    Parameters
    ----------
    eta : array (K, M, N)
        +-1: M examples of each of K archetypes.
    normalise : bool
        Divide by calR = r^2 + (1 - r^2) / M; without, only the temperature is rescaled.
    r : float, optional
        Quality in (0, 1]. By default calR is measured as the mean square of the mean examples,
        right to a relative 1 / sqrt(K N).
    diagonal : bool
        Keep J_ii (a constant of the energy); by default zero.

    Returns
    -------
    float32 array (N, N)

    Raises
    ------
    ValueError
        Not three-dimensional, entries other than +-1, or r out of range.

    References
    ----------
    Agliari, Alemanno, Barra, De Marzo, arXiv:2109.00454; calR is the normalisation of
    arXiv:2203.01304, which leaves the temperature that of the Hopfield model.
    """
    examples = checked_examples(eta)
    M, N = examples.shape[1:]
    strength = 1.0
    if normalise and r is None:
        strength = float((examples.mean(axis=1, dtype=np.float64) ** 2).mean())
        if strength == 0:
            raise ValueError("the mean examples are all zero: there is no archetype; give r")
    elif normalise:
        strength = second_moment(real("quality r", r, above=0, most=1), M)
    check_memory(4 * N**2, f"a coupling matrix of {N} x {N} float32")
    return hebb_matrix(examples, N, N * M * strength, diagonal)


@dataclass(frozen=True)
class Retrieval:
    """Averages over chains started at archetypes of one data set.

    Attributes
    ----------
    m : float array (starts,)
        Overlap of the mean spins with the archetype started at.
    n : float array (starts,)
        With the mean example of that archetype.
    q : float array (starts,)
        Edwards-Anderson parameter: product of the mean spins of two independent chains, so that
        the noise of a finite run does not add to it.
    energy : float array (starts,)
        Per spin, J without its diagonal.
    """

    m: np.ndarray
    n: np.ndarray
    q: np.ndarray
    energy: np.ndarray


def run_from_archetypes(
    J: ArrayLike,
    data: ArchetypeDataset,
    T: float,
    sweeps: int,
    seed: int,
    starts: int = 1,
) -> Retrieval:
    """Two chains from each of the first archetypes; a quarter of the sweeps is warm-up.

    Parameters
    ----------
    J : array (N, N)
        Couplings made of the examples, with labels or without, zero diagonal.
    data : ArchetypeDataset
        Where the archetypes and the mean examples come from.
    T : float
        Temperature >= 0. At T = 0 a chain ends with its first sweep without a flip.
    sweeps : int
        At least 4.
    seed : int
        Of the chains.
    starts : int
        Archetypes started at, from 1 to K.

    Raises
    ------
    ValueError
        More starts than archetypes, or what `GlauberSampler` refuses.
    """
    whole("starts", starts, 1, data.K)
    patterns = data.archetypes[:starts]
    run = GlauberSampler(J).run(np.concatenate([patterns, patterns]), T, sweeps, seed)
    mean = run.spins.astype(np.float64) if T == 0 else run.mean_spins
    first, second = mean[:starts], mean[starts:]
    center = (first + second) / 2
    kept = run.energy[:, run.warmup :] if T > 0 else run.energy
    energy = np.array(
        [row[np.isfinite(row)][slice(-1, None) if T == 0 else slice(None)].mean() for row in kept]
    )
    return Retrieval(
        (center * patterns).mean(1),
        (center * data.means()[:starts]).mean(1),
        (first * second).mean(1),
        (energy[:starts] + energy[starts:]) / 2,
    )


def checked_examples(eta: ArrayLike) -> np.ndarray:
    """The examples as int8 (K, M, N); ValueError if they are not signs of three dimensions."""
    given = np.asarray(eta)
    if given.ndim != 3 or not given.size:
        raise ValueError(f"eta must have shape (K, M, N), none of them 0; got {given.shape}")
    if not is_signs(given):
        raise ValueError("eta must consist of -1 and +1")
    return given.astype(np.int8)


def signs(source: np.random.Generator, shape: tuple[int, ...], mean: float) -> np.ndarray:
    """Independent signs of a given mean, int8."""
    up = source.random(shape, dtype=np.float32) < np.float32((1 + mean) / 2)
    return up.view(np.int8) * np.int8(2) - np.int8(1)


def check_memory(size: int, what: str) -> None:
    """Raise ValueError, with the size, if `what` (in bytes) exceeds the machine's memory."""
    if not hasattr(os, "sysconf"):  # pragma: no cover - not on POSIX: the allocator decides
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > 0.8 * memory:
        raise ValueError(
            f"{what} take {size / 1e9:.3g} GB, this machine has {memory / 1e9:.3g} GB; "
            "lower them; the couplings of an ArchetypeDataset are made chunk by chunk"
        )


def hebb_matrix(chunks: Iterable[np.ndarray], N: int, divisor: float, diagonal: bool) -> np.ndarray:
    """Sum of outer products of the rows of all chunks over the divisor, float32 (N, N)."""
    J = np.zeros((N, N), dtype=np.float32)
    held: list[np.ndarray] = []

    def add() -> None:
        rows = np.concatenate(held).astype(np.float32)
        np.add(J, rows.T @ rows, out=J)
        held.clear()

    for chunk in chunks:
        held.append(chunk)
        if sum(map(np.size, held)) >= CHUNK:
            add()
    if held:
        add()
    J /= divisor
    if not diagonal:
        np.fill_diagonal(J, 0)
    return J
