"""Factorization of a given symmetric matrix: annealing finds a column, decimation takes it off.

References: Camilli, Mezard, arXiv:2212.02105 (decimation) and arXiv:2307.16564 (search of ground
states). The annealing schedule, the threshold, the second look at every column at the end and the
count of the columns that are left are this library's choice.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from thermolearn.core.checks import is_signs, real, whole
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.decimation.counting import count_columns, exceeds
from thermolearn.systems.memory.decimation.problem import couplings
from thermolearn.systems.memory.decimation.search import Reaction, Search
from thermolearn.systems.memory.decimation.theory import acceptance_energy

HOTTEST = 1.2
CAPACITY = 0.138


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
    max_rank : int, optional
        Most columns to be searched where `fit` is not told the rank; by default the storage
        capacity 0.138 N.
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
        may also have spoiled others; a warning names it. All True where the rank was not given.
    restarts_ : int array (P,)
        Annealings beyond the first, those of the last rounds included.
    thresholds_ : array (P,)
        The threshold of each.
    delta_ : Estimate
        Given, or estimated with its error.
    residual_ : float
        Mean square of Y - sum x x^T / sqrt(N) off the diagonal. A check only if delta is given:
        the estimated delta follows it even if columns are wrong.
    columns_left_ : Estimate
        Columns still in Y by the third moment, see `estimate_rank`, once the T = 0 states of all
        that were found are taken off; near 0 if these are right and no more are left.
    converged_ : bool
        All columns were accepted and nothing says that more are left: neither a last search, nor
        columns_left_, nor, if delta is given, the residual. What does is told in a warning.
    rank_ : int
        Given, or the number of columns found.

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
        max_rank: int | None = None,
    ):
        self.T = T
        self.schedule = schedule
        self.threshold = threshold
        self.max_restart = max_restart
        self.delta = delta
        self.average = average
        self.sweeps = sweeps
        self.random_state = random_state
        self.max_rank = max_rank

    def fit(
        self, Y: ArrayLike, rank: int | None = None, start: ArrayLike | None = None
    ) -> Decimator:
        """Find `rank` columns, or as many as there are.

        Parameters
        ----------
        Y : array (N, N)
            Symmetric; its diagonal is not used.
        rank : int, optional
            P, from 1 to N - 1. By default as many as `estimate_rank` gives are searched,
            those that are not accepted are put back, and the search goes on until it accepts none.
        start : array (N, P), optional
            States of +-1 from which each column descends instead of a search: an experiment with
            an informed start, or columns to be improved. No restarts; sets the rank.

        Raises
        ------
        ValueError
            Y not square, not symmetric to 1e-8 or not finite; a parameter out of range.

        Warns
        -----
        SamplerWarning
            Above the storage capacity or where theory has no retrieval state; a rank that the
            variance of Y does not allow; columns that were not accepted; columns left in Y.
        """
        J = couplings(Y)
        n = len(J)
        begin = None if start is None else _check_start(start, n, rank)
        if begin is not None:
            rank = begin.shape[1]
        temperatures = self._check(n, rank)
        np.fill_diagonal(J, 0.0)
        variance, content = float((J * J).sum()) / (n - 1), _content(J, rank)
        self.delta_ = self._noise(variance, n, content)
        delta = float(self.delta_)
        limit = rank or min(self.max_rank or max(int(CAPACITY * n), 1), n - 1)
        levels = self._levels(n, limit, content, delta)
        wanted = self.T > 0 and self.average == "tap"
        reaction = Reaction(content, n, delta, self.T) if wanted else None
        search = Search(J, levels, temperatures, self.T, self.sweeps, reaction, self.random_state)
        try:
            if rank is None:
                search.of_any_rank(content, limit, self.max_restart + 1)
            else:
                search.of_rank(rank, self.max_restart + 1, begin)
        finally:
            self._store(search, rank)
        if rank is None and self.delta is None:
            self.delta_ = self._noise(variance, n, self.rank_)
        self._warn()
        self._check_rest(search, rank, searched=begin is None)
        return self

    def reconstruct(self) -> np.ndarray:
        """sum x x^T / sqrt(N), the estimate of the noiseless Y (N, N)."""
        check_is_fitted(self, "factors_")
        return self.factors_ @ self.factors_.T / math.sqrt(len(self.factors_))

    # -- parameters and results ----------------------------------------------------------------
    def _check(self, n: int, rank: int | None) -> np.ndarray:
        """The temperatures of an annealing; ValueError for parameters out of range."""
        for name, value in {"rank": rank, "max_rank": self.max_rank}.items():
            if value is not None and whole(name, value, 1) >= n:
                raise ValueError(f"{name} must be at most N - 1 = {n - 1}, got {value!r}")
        real("T", self.T, least=0)
        whole("max_restart", self.max_restart, 0)
        whole("random_state", self.random_state, 0)
        whole("sweeps", self.sweeps, 20)
        if self.average not in ("sweeps", "tap"):
            raise ValueError(f'average must be "sweeps" or "tap", got {self.average!r}')
        if self.threshold != "theory":
            if isinstance(self.threshold, str):
                raise ValueError(f'threshold must be "theory" or a number, got {self.threshold!r}')
            real("threshold", self.threshold)
        if self.delta is not None:
            real("delta", self.delta, least=0)
        if isinstance(self.schedule, (int, np.integer)):
            return np.linspace(HOTTEST, 0.0, whole("schedule", self.schedule, 2))
        schedule = np.asarray(self.schedule, dtype=np.float64)
        if schedule.ndim != 1 or not len(schedule) or not (schedule >= 0).all():
            raise ValueError(
                f"schedule must be a number of sweeps >= 2 or temperatures >= 0, got "
                f"{self.schedule!r}"
            )
        return schedule

    def _noise(self, variance: float, n: int, columns: int) -> Estimate:
        """Delta, given or from the variance: E Y_ij^2 = P / N + Delta off the diagonal."""
        if self.delta is not None:
            return Estimate(float(self.delta))
        value, stderr = variance - columns / n, 2 * variance / n
        if value < -4 * stderr:
            warnings.warn(
                f"the variance of Y off its diagonal, {variance:.4g}, is below rank / N = "
                f"{columns / n:.4g}: fewer columns, or columns that are not of +-1",
                SamplerWarning,
                stacklevel=3,
            )
        note = "mean square of Y off the diagonal minus rank / N"
        return Estimate(max(value, 0.0), stderr, note=note)

    def _levels(self, n: int, limit: int, content: int, delta: float) -> np.ndarray:
        """Thresholds by the number of columns accepted; -inf where theory has no retrieval."""
        alpha = content / n
        if alpha >= CAPACITY:
            message = f"above storage capacity: decimation cannot start (rank / N = {alpha:.3g})"
            warnings.warn(message, SamplerWarning, stacklevel=3)
        if self.threshold != "theory":
            return np.full(limit + 1, float(self.threshold))
        first = acceptance_energy(alpha, delta, n)
        if math.isinf(first):
            if alpha < CAPACITY:
                message = (
                    f"theory has no retrieval state at rank / N = {alpha:.3g}, delta = "
                    f"{delta:.3g}: decimation cannot start; no state will be accepted"
                )
                warnings.warn(message, SamplerWarning, stacklevel=3)
            return np.full(limit + 1, -math.inf)
        left = [max(content - k, 1) for k in range(limit + 1)]
        level = {k: acceptance_energy(k / n, delta, n) for k in set(left)}
        return np.array([level[k] for k in left])

    def _store(self, search: Search, rank: int | None) -> None:
        columns, n = search.columns, len(search.J)
        self.rank_ = len(columns) if rank is None else rank
        self.factors_ = np.array([c.eta for c in columns]).reshape(len(columns), n).T
        self.energies_ = np.array([c.energy for c in columns])
        self.restarts_ = np.array([c.restarts for c in columns], dtype=int)
        self.thresholds_ = np.array([c.threshold for c in columns])
        self.accepted_ = np.array([c.accepted for c in columns], dtype=bool)
        self.residual_ = float((search.J**2).sum()) / (n - 1)
        self.columns_left_ = count_columns(search.residual())
        # until all checks are done, so that an interrupted fit has not converged
        self.converged_ = False

    def _check_rest(self, search: Search, rank: int | None, searched: bool) -> None:
        """Whether more columns are left than were taken off; sets `converged_`."""
        n, told = len(search.J), []
        if not self.accepted_.all() or not np.isfinite(search.levels).all():
            return
        if searched:
            probe = search.probe(self.max_restart + 1)
            if probe.accepted:
                told.append(
                    f"a search in what is left of Y found a state of energy {probe.energy:.4g}, "
                    f"below the {probe.threshold:.4g} that tells a column from noise"
                )
        left = self.columns_left_
        if exceeds(left, 0.0):
            told.append(
                f"the third moment of what is left is that of {float(left):.1f} +- "
                f"{left.stderr:.1f} more columns"
            )
        if self.delta is not None:
            noise = float((search.residual() ** 2).sum()) / (n - 1)
            excess, stderr = noise - self.delta, 2 * noise / n
            if excess > max(4 * stderr, 0.5 / n):
                told.append(
                    f"what is left has the variance {noise:.4g} +- {stderr:.2g}, above delta = "
                    f"{self.delta:.4g}"
                )
        self.converged_ = not told
        if not told:
            return
        if rank is not None or self.rank_ == len(search.levels) - 1:
            name = "rank" if rank is not None else "max_rank"
            advice = f"{name} = {self.rank_} is too low, and columns may be mixtures; raise it"
            advice += " (rank = None finds it)" if rank is not None else ""
        else:
            advice = f"the search ended too early, at {self.rank_} columns; raise max_restart"
        if len(told) == 1 and "above delta" in told[0]:
            advice = f"either delta is too low or {advice}"
        warnings.warn(f"{'; '.join(told)}: {advice}", SamplerWarning, stacklevel=3)

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


def _content(J: np.ndarray, rank: int | None) -> int:
    """Columns in Y: the rank, or what the third moment says if that is not given or too low.

    The threshold must know of all columns, or mixtures of those that are left pass it.
    """
    count = count_columns(J)
    if rank is not None and not exceeds(count, rank):
        return rank
    return max(round(float(count)), 1)


def _check_start(start: ArrayLike, n: int, rank: int | None) -> np.ndarray:
    states = np.asarray(start)
    fits = states.ndim == 2 and len(states) == n and rank in (None, states.shape[1])
    if not fits or not is_signs(states):
        columns = "P" if rank is None else rank
        raise ValueError(
            f"start must be a matrix ({n}, {columns}) of +-1, got shape {states.shape}"
        )
    return states
