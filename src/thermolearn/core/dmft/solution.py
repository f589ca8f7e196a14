"""The order parameters of several runs, with error bars and what to know about them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import whole
from thermolearn.core.dmft.march import March
from thermolearn.core.dmft.runs import OWN, Problem, run_all
from thermolearn.core.errors import DataError, NotApplicableError
from thermolearn.core.estimate import Estimate, difference, mean_estimate


@dataclass(frozen=True)
class Solution:
    """What `solve` found.

    Attributes
    ----------
    per_run : dict of ndarray (runs, ...)
        Order parameters, observables, "M" (K, K, T, T), "G" (K', T, T; only with a response) and
        "covariance" (F, F, T, T) of every run: anything nonlinear in them is computed per run, or
        by `thermolearn.core.estimate.jackknife`.
    names : tuple of str
        The order parameters among them.
    steps, n_mc : int
    dropped : int
        Pivots of the Gaussian fields below the threshold, in all runs.
    flags : tuple of str
        Sentences about what is wrong or unfinished; empty if nothing is.
    requested : int
        Steps asked for; more than `steps` after Ctrl-C in the first run.
    pivot : float
        Threshold of the pivots.
    facts : dict of ndarray
        What a system wrote beside the numbers, by `save`; empty if nothing.
    """

    per_run: dict[str, np.ndarray] = field(repr=False)
    names: tuple[str, ...]
    steps: int
    n_mc: int
    dropped: int
    flags: tuple[str, ...]
    requested: int
    pivot: float
    facts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _problem: Problem | None = field(default=None, repr=False)
    _marches: tuple[March, ...] = field(default=(), repr=False)

    # -- the numbers ---------------------------------------------------------------------------
    @property
    def runs(self) -> int:
        """Independent runs behind the numbers."""
        return len(self.per_run["M"])

    def estimate(self, name: str) -> Estimate:
        """Mean over the runs of one quantity, with the standard error between them.

        The status is "flagged" where there are flags; the note repeats them. Of one run, which
        has no error, it is "one run".

        Raises
        ------
        KeyError
            There is no such quantity.
        """
        status = "flagged" if self.flags else "one run" if self.runs == 1 else "ok"
        note = f"{self.runs} runs of {self.n_mc} samples" + (
            f", {self.dropped} pivots dropped" if self.dropped else ""
        )
        return mean_estimate(self.per_run[name], status=status, note="; ".join((note, *self.flags)))

    @property
    def order_parameters(self) -> dict[str, Estimate]:
        """By the names of the closure; times 0, ..., T."""
        return {name: self.estimate(name) for name in self.names}

    @property
    def observables(self) -> dict[str, Estimate]:
        """By the names of the single site, (T,)."""
        return {
            name: self.estimate(name) for name in self.per_run if name not in (*self.names, *OWN)
        }

    @property
    def M(self) -> Estimate:
        """<g_a(t) g_b(s)>, (K, K, T, T)."""
        return self.estimate("M")

    @property
    def G(self) -> Estimate:
        """<d g_k(t) / d P_k(s)>, (K', T, T); 0 for s > t."""
        return self.estimate("G")

    @property
    def covariance(self) -> Estimate:
        """Of the Gaussian fields, (F, F, T, T)."""
        return self.estimate("covariance")

    # -- more of it ----------------------------------------------------------------------------
    def resume(self, steps: int = 0) -> Solution:
        """The same solution `steps` further, with the bits of one longer run; 0 completes what
        was interrupted.

        The runs go on from where they stand. Where they are gone (``keep=False``), or were moved
        on by an earlier call, they are made again: the same bits, more time.

        Raises
        ------
        NotApplicableError
            The solution was loaded from a file: the single site and the closure are not in it.
        """
        target = self.requested + whole("steps", steps, 0)
        if self._problem is None:
            raise NotApplicableError(
                "a loaded solution has no single site and no closure to go on with; call "
                f"solve(...) again with steps={target}"
            )
        return solution_of(self._problem, self._marches, target)

    def bias(self) -> dict[str, Estimate]:
        """What half the samples change: (value at n_mc / 2) - (value at n_mc), every quantity.

        Averages that enter the order parameters nonlinearly carry a bias of order 1 / n_mc; to
        that order this difference is the bias that is left at n_mc. Runs twice as many runs of
        half the samples, with random numbers of their own.

        Raises
        ------
        NotApplicableError
            The solution was loaded from a file.
        ValueError
            Half the samples are too few.
        """
        if self._problem is None:
            raise NotApplicableError("a loaded solution cannot be run again; call solve(...)")
        p = self._problem
        half = replace(p, n_mc=p.n_mc // 2, runs=2 * p.runs, stream=p.stream + 1, keep=False)
        coarse = solution_of(half, (), self.steps)
        return {
            name: difference(coarse.estimate(name), self.estimate(name)) for name in self.per_run
        }

    def save(self, path: str | Path, facts: Mapping[str, ArrayLike] | None = None) -> None:
        """Write the numbers to an npz file (not the samples: a loaded solution cannot resume).

        Parameters
        ----------
        path : str or Path
        facts : mapping of str to array, optional
            Numbers to be written beside (the parameters of the system, say); the `facts` of a
            loaded solution. Those of this solution by default.
        """
        header = {
            "names": np.array(self.names, dtype=np.str_),
            "flags": np.array(self.flags, dtype=np.str_),
            "sizes": np.array([self.steps, self.n_mc, self.dropped, self.requested]),
            "pivot": np.array(self.pivot),
        }
        arrays = {f"run:{name}": array for name, array in self.per_run.items()}
        beside = self.facts if facts is None else facts
        arrays |= {f"fact:{name}": np.asarray(array, float) for name, array in beside.items()}
        with open(path, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **header, **arrays)


def load(path: str | Path) -> Solution:
    """A solution written by `Solution.save`; nothing in the file is executed.

    Raises
    ------
    DataError
        The file is not such a solution.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        steps, n_mc, dropped, requested = (int(x) for x in arrays.pop("sizes"))
        names, flags = (tuple(map(str, arrays.pop(key))) for key in ("names", "flags"))
        pivot = float(arrays.pop("pivot"))
        per_run, facts = (
            {name.removeprefix(kind): x for name, x in arrays.items() if name.startswith(kind)}
            for kind in ("run:", "fact:")
        )
        return Solution(per_run, names, steps, n_mc, dropped, flags, requested, pivot, facts)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no saved DMFT solution ({error})") from error


def solution_of(problem: Problem, marches: tuple[March, ...], target: int) -> Solution:
    """All runs of a problem up to step `target`, from the marches that there are."""
    found = run_all(problem, marches, target)
    return Solution(
        found.per_run,
        found.names,
        found.steps,
        problem.n_mc,
        found.dropped,
        found.flags(problem.pivot),
        target,
        problem.pivot,
        _problem=problem,
        _marches=tuple(found.kept),
    )
