"""Factorization of a given symmetric matrix: annealing finds a column, decimation takes it off.

References: Camilli, Mezard, arXiv:2212.02105 (decimation) and arXiv:2307.16564 (search of ground
states). The annealing schedule, the threshold and the second look at every column at the end are
this library's choice.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from thermolearn.core.errors import ConvergenceError, SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.decimation.problem import check_delta, couplings
from thermolearn.systems.memory.decimation.theory import acceptance_energy, decimation_theory
from thermolearn.systems.memory.glauber import GlauberSampler
from thermolearn.systems.memory.tap import tap

HOTTEST = 1.2
DESCENT = 200
CAPACITY = 0.138
ROUNDS = 3


@dataclass
class _Column:
    """A column as far as it was found: its estimate and the state of lowest energy behind it."""

    eta: np.ndarray
    state: np.ndarray
    energy: float
    restarts: int
    threshold: float

    @property
    def accepted(self) -> bool:
        return self.energy < self.threshold


class Decimator(BaseEstimator):
    """Columns x of signs with Y = sum x x^T / sqrt(N) + noise, found one by one.

    For each column sigma is annealed from a random state on H = -sigma^T J sigma / 2, J = Y_R /
    sqrt(N) without its diagonal, and then descends greedily. A state of energy per spin below the
    threshold is accepted, else another is tried; sigma sigma^T / sqrt(N) is taken off Y_R and the
    search goes on. At the end the energy of each column is taken again, all others off, and those
    above the threshold are searched anew. Columns are found in no order and up to their sign:
    compare them by `match_columns`.

    Parameters
    ----------
    T : float
        0: the columns are signs. Above 0 they are mean spins at this temperature in the state that
        was found.
    schedule : int or sequence of float
        Sweeps of an annealing that is linear from T = 1.2 to 0, at least 2, or its temperatures.
    threshold : "theory" or float
        Energy per spin (zero diagonal) below which a state counts as a column. "theory":
        `acceptance_energy`, which rises as columns are accepted and the glass falls behind.
    max_restart : int
        Annealings per column beyond the first.
    delta : float, optional
        Variance of the noise, for the threshold. By default the mean square of Y off the diagonal
        minus P / N, which holds for columns of independent signs.
    average : "sweeps" or "tap"
        For T > 0: time average of the heat bath, or fixed point of the TAP equations (one product
        with J per iteration; where it does not converge the time average is taken, with a
        warning).
    sweeps : int
        Of the time average, at least 20; a quarter is left out.
    random_state : int
        Seed.

    Attributes
    ----------
    factors_ : array (N, P)
        The columns.
    energies_ : array (P,)
        Energy per spin of the T = 0 state of each, zero diagonal, all other columns taken off.
    accepted_ : bool array (P,)
        Energy below the threshold. Where False the column is the best that was seen, a guess that
        may also have spoiled others; a warning names it.
    restarts_ : int array (P,)
        Annealings beyond the first, those of the last rounds included.
    thresholds_ : array (P,)
        The threshold of each.
    delta_ : Estimate
        Given, or estimated with its error.
    residual_ : float
        Mean square of Y - sum x x^T / sqrt(N) off the diagonal; near delta if all columns are
        right.
    converged_ : bool
        All columns were accepted.
    rank_ : int

    Notes
    -----
    An interrupted fit (Ctrl-C) keeps the columns found so far in the attributes and passes the
    interrupt on. The number of restarts grows quickly with alpha N. At N = 600 all 18 columns of
    alpha = 0.03, Delta = 0.1 are found with hardly a restart, all 30 of alpha = Delta = 0.05 with
    20 per column; at N = 400, alpha = 0.1, Delta = 0.02, three quarters of the storage capacity,
    the search fails and says so.

    References
    ----------
    Camilli, Mezard, arXiv:2212.02105.
    """

    def __init__(
        self,
        T: float = 0.0,
        schedule: int | Sequence[float] = 100,
        threshold: float | Literal["theory"] = "theory",
        max_restart: int = 40,
        delta: float | None = None,
        average: Literal["sweeps", "tap"] = "sweeps",
        sweeps: int = 300,
        random_state: int = 0,
    ):
        self.T = T
        self.schedule = schedule
        self.threshold = threshold
        self.max_restart = max_restart
        self.delta = delta
        self.average = average
        self.sweeps = sweeps
        self.random_state = random_state

    def fit(self, Y: ArrayLike, rank: int, start: ArrayLike | None = None) -> Decimator:
        """Find `rank` columns.

        Parameters
        ----------
        Y : array (N, N)
            Symmetric; its diagonal is not used.
        rank : int
            P, from 1 to N - 1.
        start : array (N, P), optional
            States of +-1 from which each column descends instead of a search: an experiment with
            an informed start, or columns to be improved. No restarts.

        Raises
        ------
        ValueError
            Y not square, not symmetric to 1e-8 or not finite; a parameter out of range.

        Warns
        -----
        SamplerWarning
            Above the storage capacity or where theory has no retrieval state; a rank that the
            variance of Y does not allow; columns that were not accepted.
        """
        J = couplings(Y)
        temperatures = self._check(len(J), rank)
        begin = None if start is None else _check_start(start, len(J), rank)
        np.fill_diagonal(J, 0.0)
        self.delta_ = self._noise(J, rank)
        levels = self._levels(len(J), rank, float(self.delta_))
        self._reaction = _Reaction(rank, len(J), float(self.delta_), self.T, self.average)
        columns: list[_Column] = []
        # separate streams: the search of a column does not depend on how the last one went
        streams = np.random.SeedSequence(self.random_state).spawn(rank * (ROUNDS + 1))
        rngs = [np.random.default_rng(stream) for stream in streams]
        try:
            for index in track(range(rank), "decimation", rank):
                state = None if begin is None else begin[:, index]
                level = float(levels[sum(c.accepted for c in columns)])
                column = self._find(J, temperatures, rngs[index], state, index, level)
                columns.append(column)
                _take_off(J, column.eta)
            if begin is None and np.isfinite(levels).all():
                self._retry(J, temperatures, columns, rngs[rank:], levels)
            _recheck(J, columns, levels)
        finally:
            self._store(J, columns, rank)
        self._warn()
        return self

    def reconstruct(self) -> np.ndarray:
        """sum x x^T / sqrt(N), the estimate of the noiseless Y (N, N)."""
        check_is_fitted(self, "factors_")
        return self.factors_ @ self.factors_.T / math.sqrt(len(self.factors_))

    # -- the search ----------------------------------------------------------------------------
    def _find(
        self,
        J: np.ndarray,
        temperatures: np.ndarray,
        rng: np.random.Generator,
        start: np.ndarray | None,
        index: int,
        threshold: float,
    ) -> _Column:
        """The first accepted state, or the best of all."""
        sampler = GlauberSampler(J.astype(np.float32))
        best, energy, restarts = np.empty(0), math.inf, 0
        for attempt in range(1 if start is not None else self.max_restart + 1):
            state = start
            if state is None:
                state = rng.choice(np.array([-1, 1], dtype=np.int8), len(J))
                hot = sampler.run(
                    state, temperatures, len(temperatures), seed=int(rng.integers(2**63))
                )
                state = hot.spins[0]
            run = sampler.run(state, 0.0, DESCENT, seed=int(rng.integers(2**63)))
            found = float(run.energy[0][np.isfinite(run.energy[0])][-1])
            restarts = attempt
            if found < energy:
                best, energy = run.spins[0].astype(np.float64), found
            if energy < threshold:
                break
        eta = best if self.T == 0 else self._mean_spins(J, sampler, best, rng, index)
        return _Column(eta, best, energy, restarts, threshold)

    def _mean_spins(
        self,
        J: np.ndarray,
        sampler: GlauberSampler,
        state: np.ndarray,
        rng: np.random.Generator,
        index: int,
    ) -> np.ndarray:
        if self.average == "tap":
            try:
                return self._reaction.mean_spins(J, state, index)
            except ConvergenceError as error:
                message = f"column {index}: TAP failed, its time average is taken instead ({error})"
                warnings.warn(message, SamplerWarning, stacklevel=4)
        return sampler.run(state, self.T, self.sweeps, seed=int(rng.integers(2**63))).mean_spins[0]

    def _retry(
        self,
        J: np.ndarray,
        temperatures: np.ndarray,
        columns: list[_Column],
        rngs: list[np.random.Generator],
        levels: np.ndarray,
    ) -> None:
        """Search the columns without an accepted state again, all others taken off."""
        rank = len(columns)
        for number in range(ROUNDS):
            _recheck(J, columns, levels)
            failed = [k for k in range(rank) if not columns[k].accepted]
            for k in track(failed, "columns that failed", len(failed)):
                old = columns[k]
                _take_off(J, old.eta, -1.0)
                level = float(levels[sum(c.accepted for c in columns)])
                rng = rngs[number * rank + k]
                new = self._find(J, temperatures, rng, None, rank - 1, level)
                better = new if new.accepted or new.energy < old.energy else old
                better.restarts = old.restarts + new.restarts + 1
                columns[k] = better
                _take_off(J, better.eta)
            if not any(columns[k].accepted for k in failed):
                return

    # -- parameters and results ----------------------------------------------------------------
    def _check(self, n: int, rank: int) -> np.ndarray:
        """The temperatures of an annealing; ValueError for parameters out of range."""
        if isinstance(rank, bool) or int(rank) != rank or not 1 <= rank < n:
            raise ValueError(f"rank must be an integer from 1 to N - 1 = {n - 1}, got {rank!r}")
        if not (math.isfinite(self.T) and self.T >= 0):
            raise ValueError(f"T must be finite and >= 0, got {self.T!r}")
        if isinstance(self.max_restart, bool) or self.max_restart < 0:
            raise ValueError(f"max_restart must be >= 0, got {self.max_restart!r}")
        if self.average not in ("sweeps", "tap"):
            raise ValueError(f'average must be "sweeps" or "tap", got {self.average!r}')
        if self.sweeps < 20:
            raise ValueError(f"sweeps must be at least 20, got {self.sweeps!r}")
        if self.threshold != "theory" and not (
            isinstance(self.threshold, (int, float)) and math.isfinite(self.threshold)
        ):
            raise ValueError(f'threshold must be "theory" or a number, got {self.threshold!r}')
        if self.delta is not None:
            check_delta(self.delta)
        schedule = np.asarray(self.schedule, dtype=np.float64)
        if schedule.ndim == 0 and schedule == int(schedule) and schedule >= 2:
            return np.linspace(HOTTEST, 0.0, int(schedule))
        if schedule.ndim != 1 or not len(schedule) or not (schedule >= 0).all():
            raise ValueError(
                f"schedule must be a number of sweeps >= 2 or temperatures >= 0, got "
                f"{self.schedule!r}"
            )
        return schedule

    def _noise(self, J: np.ndarray, rank: int) -> Estimate:
        """Delta, given or from the variance: E Y_ij^2 = P / N + Delta off the diagonal."""
        if self.delta is not None:
            return Estimate(float(self.delta))
        n = len(J)
        variance = float((J * J).sum()) / (n - 1)
        value, stderr = variance - rank / n, 2 * variance / n
        if value < -4 * stderr:
            warnings.warn(
                f"the variance of Y off its diagonal, {variance:.4g}, is below rank / N = "
                f"{rank / n:.4g}: fewer columns, or columns that are not of +-1",
                SamplerWarning,
                stacklevel=3,
            )
        note = "mean square of Y off the diagonal minus rank / N"
        return Estimate(max(value, 0.0), stderr, note=note)

    def _levels(self, n: int, rank: int, delta: float) -> np.ndarray:
        """Thresholds by the number of columns accepted; -inf where theory has no retrieval."""
        alpha = rank / n
        if alpha >= CAPACITY:
            message = f"above storage capacity: decimation cannot start (rank / N = {alpha:.3g})"
            warnings.warn(message, SamplerWarning, stacklevel=3)
        if self.threshold != "theory":
            return np.full(rank + 1, float(self.threshold))
        levels = np.array([acceptance_energy(k / n, delta, n) for k in range(rank, -1, -1)])
        if math.isinf(levels[0]):
            if alpha < CAPACITY:
                message = (
                    f"theory has no retrieval state at rank / N = {alpha:.3g}, delta = "
                    f"{delta:.3g}: decimation cannot start; no state will be accepted"
                )
                warnings.warn(message, SamplerWarning, stacklevel=3)
            return np.full(rank + 1, -math.inf)
        return levels

    def _store(self, J: np.ndarray, columns: list[_Column], rank: int) -> None:
        n = len(J)
        self.rank_ = rank
        self.factors_ = np.array([c.eta for c in columns]).reshape(len(columns), n).T
        self.energies_ = np.array([c.energy for c in columns])
        self.restarts_ = np.array([c.restarts for c in columns], dtype=int)
        self.thresholds_ = np.array([c.threshold for c in columns])
        self.accepted_ = np.array([c.accepted for c in columns], dtype=bool)
        self.converged_ = len(columns) == rank and bool(self.accepted_.all())
        self.residual_ = float((J * J).sum()) / (n - 1)

    def _warn(self) -> None:
        """Name the columns that were not accepted, with their distance from the threshold."""
        failed = np.flatnonzero(~self.accepted_)
        if not len(failed):
            return
        gaps = self.energies_ - self.thresholds_
        named = ", ".join(f"{k} ({gaps[k]:.3g})" for k in failed)
        warnings.warn(
            f"{len(failed)} of {self.rank_} columns were not found: max_restart = "
            f"{self.max_restart} reached without an energy below the threshold. Column (energy "
            f"above its threshold): {named}. They are guesses, see accepted_; raise max_restart "
            "or schedule, or lower rank / N",
            SamplerWarning,
            stacklevel=3,
        )


class _Reaction:
    """TAP equations of each step, with the modes that theory gives to the columns taken off."""

    def __init__(self, rank: int, n: int, delta: float, T: float, average: str):
        self.rank, self.T, self.delta = rank, T, delta
        wanted = T > 0 and average == "tap"
        self.theory = decimation_theory(rank / n, delta, T, steps=12) if wanted else None

    def mean_spins(self, J: np.ndarray, state: np.ndarray, index: int) -> np.ndarray:
        if self.theory is None or not self.theory.converged:
            raise ConvergenceError("theory has no retrieval state at these parameters")
        modes = self.theory.modes(index / self.rank)
        matrix = J + sum(w * strength for w, strength in modes) * np.eye(len(J))
        return tap(matrix, 0.95 * state, self.T, modes, self.delta).x


def _recheck(J: np.ndarray, columns: list[_Column], levels: np.ndarray) -> None:
    """Energies anew, all other columns taken off, and one threshold for all.

    A wrong column that passed while many were left has a high energy then. The threshold is the
    highest one that belongs to no more columns than pass it.
    """
    for column in columns:
        s = column.state
        own = (s @ column.eta / len(s)) ** 2 - (column.eta**2).sum() / len(s) ** 2
        column.energy = -(float(s @ J @ s) / len(s) + own) / 2
    energies = np.array([column.energy for column in columns])
    passing = len(columns)
    while passing and (count := int((energies < levels[passing - 1]).sum())) < passing:
        passing = count
    for column in columns:
        column.threshold = float(levels[max(passing - 1, 0)])


def _take_off(J: np.ndarray, eta: np.ndarray, sign: float = 1.0) -> None:
    """J <- J - sign eta eta^T / N off the diagonal, in place."""
    J -= np.outer(sign / len(J) * eta, eta)
    np.fill_diagonal(J, 0.0)


def _check_start(start: ArrayLike, n: int, rank: int) -> np.ndarray:
    states = np.asarray(start)
    if states.shape != (n, rank) or not np.isin(states, (-1, 1)).all():
        raise ValueError(f"start must be a matrix ({n}, {rank}) of +-1, got shape {states.shape}")
    return states
