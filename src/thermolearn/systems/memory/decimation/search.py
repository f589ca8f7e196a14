"""Search of columns in given couplings: annealing, greedy descent, decimation, a second look."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from thermolearn.core.errors import ConvergenceError, SamplerWarning
from thermolearn.core.progress import track
from thermolearn.systems.memory.decimation.theory import decimation_theory
from thermolearn.systems.memory.glauber import GlauberSampler
from thermolearn.systems.memory.tap import tap

DESCENT = 200
ROUNDS = 3
# Replica symmetry puts the ground state of pure noise 4% too low; as much again for its scatter.
NOISE = 1.04
# Half the energy of a column, which the rest without any noise is not to exceed.
HALF = -0.25
# Annealings of a probe: where a column is left almost every one ends below the bound, and where
# none is left all end far above.
PROBES = 8


@dataclass
class Column:
    """A column as far as it was found: its estimate and the state of lowest energy behind it."""

    eta: np.ndarray
    state: np.ndarray
    energy: float
    restarts: int
    threshold: float

    @property
    def accepted(self) -> bool:
        return self.energy < self.threshold


@dataclass
class Search:
    """Columns found in J (N, N), zero diagonal, from which they are taken off in place.

    `levels` are the thresholds by the number of columns accepted. Mean spins at T > 0 are those of
    the TAP equations if `reaction` is given, else averages over `sweeps`.
    """

    J: np.ndarray
    levels: np.ndarray
    temperatures: np.ndarray
    T: float
    sweeps: int
    reaction: Reaction | None
    seed: int

    def __post_init__(self) -> None:
        self.columns: list[Column] = []
        self._seeds = np.random.SeedSequence(self.seed)

    def rng(self) -> np.random.Generator:
        """A stream for each search: it does not depend on how the last one went."""
        return np.random.default_rng(self._seeds.spawn(1)[0])

    def level(self) -> float:
        """Threshold of the next column."""
        return float(self.levels[sum(c.accepted for c in self.columns)])

    def add(self, column: Column) -> None:
        self.columns.append(column)
        self.take_off(column)

    def take_off(self, column: Column, sign: float = 1.0) -> None:
        """J <- J - sign eta eta^T / N off the diagonal."""
        self.J -= np.outer(sign / len(self.J) * column.eta, column.eta)
        np.fill_diagonal(self.J, 0.0)

    def find(self, attempts: int, index: int, start: np.ndarray | None = None) -> Column:
        """The first accepted state, or the best of all; with a start its descent alone."""
        rng, threshold = self.rng(), self.level()
        sampler = GlauberSampler(self.J.astype(np.float32))
        best, energy, restarts = np.empty(0), math.inf, 0
        for attempt in range(1 if start is not None else attempts):
            state = start
            if state is None:
                state = rng.choice(np.array([-1, 1], dtype=np.int8), len(self.J))
                length, seed = len(self.temperatures), int(rng.integers(2**63))
                state = sampler.run(state, self.temperatures, length, seed=seed).spins[0]
            run = sampler.run(state, 0.0, DESCENT, seed=int(rng.integers(2**63)))
            found = float(run.energy[0][np.isfinite(run.energy[0])][-1])
            restarts = attempt
            if found < energy:
                best, energy = run.spins[0].astype(np.float64), found
            if energy < threshold:
                break
        eta = best if self.T == 0 else self._mean_spins(sampler, best, rng, index)
        return Column(eta, best, energy, restarts, threshold)

    def _mean_spins(
        self, sampler: GlauberSampler, state: np.ndarray, rng: np.random.Generator, index: int
    ) -> np.ndarray:
        if self.reaction is not None:
            try:
                return self.reaction.mean_spins(self.J, state, index)
            except ConvergenceError as error:
                message = f"column {index}: TAP failed, its time average is taken instead ({error})"
                warnings.warn(message, SamplerWarning, stacklevel=4)
        return sampler.run(state, self.T, self.sweeps, seed=int(rng.integers(2**63))).mean_spins[0]

    def of_rank(self, rank: int, attempts: int, start: np.ndarray | None) -> None:
        """`rank` columns, those without an accepted state searched again in the end."""
        for index in track(range(rank), "decimation", rank):
            state = None if start is None else start[:, index]
            self.add(self.find(attempts, index, state))
        if start is None and np.isfinite(self.levels).all():
            self._retry(attempts)
        self.recheck()

    def of_any_rank(self, expected: int, limit: int, attempts: int) -> None:
        """First as many columns as expected, then on until a search accepts none, or `limit`.

        The number expected lets the first pass go on after a column that it does not find, which
        may be found once others are off; what is not accepted in the end goes back into J.
        """
        if not np.isfinite(self.levels).all():
            return
        self.of_rank(min(expected, limit), attempts, None)
        for _ in range(ROUNDS):
            self._drop()
            before = len(self.columns)
            for index in track(range(before, limit), "columns beyond those expected"):
                column = self.find(attempts, index)
                if not column.accepted:
                    break
                self.add(column)
            self.recheck()
            if len(self.columns) == before or all(c.accepted for c in self.columns):
                break
        self._drop()

    def probe(self, attempts: int) -> Column:
        """One more search in the rest; accepted already below what noise alone could reach."""
        rest = self.residual()
        variance = float((rest**2).sum()) / (len(rest) - 1)
        noise = -NOISE * math.sqrt(2 * variance / math.pi)
        bound = max(self.level(), min(noise, HALF))
        search = Search(rest, np.array([bound]), self.temperatures, 0.0, self.sweeps, None, 0)
        search._seeds = self._seeds
        return search.find(min(attempts, PROBES), len(self.columns))

    def _drop(self) -> None:
        """Put the columns that are not accepted back into J, until all are."""
        while failed := [column for column in self.columns if not column.accepted]:
            for column in failed:
                self.take_off(column, -1.0)
            self.columns = [column for column in self.columns if column.accepted]
            self.recheck()

    def _retry(self, attempts: int) -> None:
        """Search the columns without an accepted state again, all others taken off."""
        for _ in range(ROUNDS):
            self.recheck()
            failed = [k for k, column in enumerate(self.columns) if not column.accepted]
            for k in track(failed, "columns that failed", len(failed)):
                old = self.columns[k]
                self.take_off(old, -1.0)
                new = self.find(attempts, len(self.columns) - 1)
                better = new if new.accepted or new.energy < old.energy else old
                better.restarts = old.restarts + new.restarts + 1
                self.columns[k] = better
                self.take_off(better)
            if not any(self.columns[k].accepted for k in failed):
                return

    def recheck(self) -> None:
        """Energies anew, all other columns taken off, and one threshold for all.

        A wrong column that passed while many were left has a high energy then. The threshold is
        the highest one that belongs to no more columns than pass it.
        """
        for column in self.columns:
            s = column.state
            own = (s @ column.eta / len(s)) ** 2 - (column.eta**2).sum() / len(s) ** 2
            column.energy = -(float(s @ self.J @ s) / len(s) + own) / 2
        energies = np.array([column.energy for column in self.columns])
        passing = len(self.columns)
        while passing and (count := int((energies < self.levels[passing - 1]).sum())) < passing:
            passing = count
        for column in self.columns:
            column.threshold = float(self.levels[max(passing - 1, 0)])

    def residual(self) -> np.ndarray:
        """J less the states s s^T / N in place of the mean spins, zero diagonal.

        Mean spins take off less than a column and lean on the noise, the states do neither: what
        they leave of correct columns has the moments of the noise.
        """
        if self.T == 0 or not self.columns:
            return self.J
        eta = np.array([column.eta for column in self.columns])
        states = np.array([column.state for column in self.columns])
        J = self.J + (eta.T @ eta - states.T @ states) / len(self.J)
        np.fill_diagonal(J, 0.0)
        return J


class Reaction:
    """TAP equations of each step, with the modes that theory gives to the columns taken off."""

    def __init__(self, rank: int, n: int, delta: float, T: float):
        self.rank, self.T, self.delta = rank, T, delta
        self.theory = decimation_theory(rank / n, delta, T, steps=12)

    def mean_spins(self, J: np.ndarray, state: np.ndarray, index: int) -> np.ndarray:
        if not self.theory.converged:
            raise ConvergenceError("theory has no retrieval state at these parameters")
        modes = self.theory.modes(min(index / self.rank, 1.0))
        matrix = J + sum(w * strength for w, strength in modes) * np.eye(len(J))
        return tap(matrix, 0.95 * state, self.T, modes, self.delta).x
