"""Theory and simulation of a system over a grid, resumable at any moment."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from thermolearn.core.errors import SweepError
from thermolearn.study import backends, table
from thermolearn.study.backends import Outcome, Task
from thermolearn.study.follow import follow
from thermolearn.study.grid import Grid, params_dict, read_definition
from thermolearn.study.store import DONE, Header, Store, header_of, open_store, task_key

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """What a sweep has found so far.

    Attributes
    ----------
    grid : Grid
    store : Path or None
        Where the tasks are kept.
    header : Header
        System, source hash and version of the library.
    rows : DataFrame
        One row per task, observable and array element: task, system, the parameters, what
        ("theory" or "simulation"), seed, observable, index, shape, value, stderr, n_eff, status,
        note, seconds. Tasks that did not converge or failed have NaN and say so in status and note.
    """

    grid: Grid
    store: Path | None
    header: Header
    rows: pd.DataFrame

    @cached_property
    def _tasks(self) -> list[tuple[str, int, int | None]]:
        return _enumerate(self.grid, self.header)

    def __str__(self) -> str:
        return self.summary

    def __repr__(self) -> str:
        return f"<SweepResult: {self.summary}>"

    @cached_property
    def _statuses(self) -> dict[str, str]:
        """What became of every task that has ended."""
        return table.statuses(self.rows)

    @property
    def missing(self) -> pd.DataFrame:
        """The tasks that have not ended yet: parameters, what, seed."""
        known = self._statuses
        return self._listed([t for t in self._tasks if t[0] not in known])

    @property
    def failed(self) -> pd.DataFrame:
        """The tasks without a result: parameters, what, seed, status, note."""
        if self.rows.empty:
            return pd.DataFrame()
        bad = self.rows["status"].isin(table.WITHOUT_RESULT) & self.rows["value"].isna()
        whole = table.select(self.rows, bad).drop_duplicates("task").reset_index(drop=True)
        names = list(params_dict(self.grid.cells[0]))
        return table.select(whole, [*names, "what", "seed", "status", "note"])

    def _listed(self, tasks: list[tuple[str, int, int | None]]) -> pd.DataFrame:
        rows = [
            {
                **params_dict(self.grid.cells[cell]),
                "what": "theory" if seed is None else "simulation",
                "seed": seed,
            }
            for _, cell, seed in tasks
        ]
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """One sentence: how many tasks there are, and what became of them.

        Tasks with a number whose status is not "ok" are counted under that status.
        """
        total, failed = len(self._tasks), self.failed
        counts = Counter(self._statuses.values())
        bad = {word: counts.pop(word, 0) for word in table.WITHOUT_RESULT}
        missing = total - len(self._statuses)
        parts = [f"{counts.pop('ok', 0)} ok"]
        parts += [f"{n} {word}" for word, n in sorted(counts.items())]
        parts += [f"{n} {word}" for word, n in bad.items() if n]
        parts += [f"{missing} missing"] if missing else []
        text = f"{total} tasks of {self.grid.name}: {', '.join(parts)}"
        for word, n in bad.items():
            if n:
                note = failed.loc[failed["status"] == word, "note"].iloc[0]
                text += f"; first {word}: {note}"
        again = " and ".join(
            word for word, n in (("failed", bad["failed"]), ("missing", missing)) if n
        )
        return text + (f". The {again} tasks are run when the sweep is run again" if again else "")

    def save(self, path: str | Path) -> Path:
        """Write the rows as .parquet (with version, source and definition in the metadata) or .csv.

        Raises
        ------
        ValueError
            Another extension.
        """
        path = Path(path)
        if path.suffix == ".parquet":
            table.write_parquet(self.rows, path, self._about)
        elif path.suffix == ".csv":
            self.rows.to_csv(path, index=False)
        else:
            raise ValueError(f"{path}: rows are saved as .parquet or .csv; choose one of them")
        return path

    @property
    def _about(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.header), "definition": self.grid.definition}

    def to_xarray(self) -> xarray.Dataset:
        """A Dataset on the grid, theory beside simulation.

        Dimensions are the swept parameters (those of `zip` share the dimension ``"zip"``), then
        ``"seed"``, then the named axes of array observables, padded with NaN where lengths differ.
        For an observable ``m``: ``m`` and ``m_stderr`` with seeds, ``m_theory`` and
        ``m_theory_stderr`` without. Cells without a number are NaN; ``status`` and
        ``status_theory`` say why: "missing", "not converged", "failed", or a flag of an observable.

        Raises
        ------
        ImportError
            xarray is not installed.
        """
        first = self.grid.seed_range.start
        places = {
            key: (cell, 0 if seed is None else seed - first) for key, cell, seed in self._tasks
        }
        return table.to_xarray(self.grid, self.rows, places, self._about)


def sweep(
    definition: Grid | str | Path,
    store: str | Path | None = None,
    jobs: int = 2,
    backend: str = "joblib",
    *,
    scheduler: Any = None,
    submitit: Mapping[str, Any] | None = None,
    heartbeat: float = 30.0,
    compact: bool = False,
) -> SweepResult:
    """Run what is not yet done of a sweep: theory once per cell, simulation once per cell and seed.

    Every finished task is kept in the store at once, so that the sweep may be ended at any moment
    and run again to go on. A task that does not converge or fails does not end the sweep; failed
    ones are run again the next time, the others not.

    Parameters
    ----------
    definition : Grid or path
        What to run over, or the TOML file that says so; see `read_definition`.
    store : path, optional
        Directory of the results; for a file ``name.toml`` by default ``name.store`` beside it.
        Sweeps of one system may share a store.
    jobs : int
        Number of worker processes, -1 for one per processor (dask with a scheduler: as many as it
        has).
    backend : str
        ``"joblib"`` (processes here), ``"dask"``, ``"submitit"`` (Slurm) or ``"serial"``. The
        results are the same bits; every task runs on one thread.
    scheduler : Client or str, optional
        For dask: a client or the address of a scheduler; by default a local cluster is made.
    submitit : mapping, optional
        For submitit: ``cluster``, ``timeout_min``, ``slurm_partition``, ...; goes before the
        section of that name in the file.
    heartbeat : float
        Seconds between the lines of JSON (done, total, eta_s, failed) written to stderr if that is
        no terminal; 0 for none. On a terminal there is a bar.
    compact : bool
        At the end put all finished tasks of the store into one parquet file.

    Returns
    -------
    SweepResult

    Raises
    ------
    SweepError
        Before anything runs: a definition that is wrong, or a store of something else.
    KeyboardInterrupt
        Ctrl-C, or SIGTERM, as a cluster sends it (where the program does not handle that itself);
        the message says what is kept and how to go on.

    Examples
    --------
    >>> grid = Grid("memory.hopfield", product={"load": [0.05, 0.1]}, seeds=4)  # doctest: +SKIP
    >>> sweep(grid, store="hopfield.store").to_xarray()  # doctest: +SKIP
    """
    plan = make_plan(definition, store)
    options = {**plan.submitit, **(submitit or {})}
    backends.check(backend, jobs, scheduler, options)
    if not (math.isfinite(heartbeat) and heartbeat >= 0):
        raise SweepError(f"heartbeat must be a number of seconds, or 0 for none, got {heartbeat!r}")
    jobs = jobs if jobs > 0 else os.cpu_count() or 1
    opened = open_store(plan.path, plan.header)
    assert opened is not None
    opened.forget(plan.again)
    outcomes: Generator[Outcome] = {
        "serial": lambda: backends.serial(plan.todo),
        "joblib": lambda: backends.joblib(plan.todo, jobs),
        "dask": lambda: backends.dask(plan.todo, jobs, scheduler),
        "submitit": lambda: backends.submitit(plan.todo, jobs, options),
    }[backend]()
    at_start = plan.total - len(plan.todo)
    follow(outcomes, plan.grid.name, plan.path, at_start, plan.total, heartbeat)
    if compact:
        opened.compact(plan.grid.definition)
    result = _collect(plan.grid, opened)
    if len(result.failed) or len(result.missing):
        warnings.warn(result.summary, stacklevel=2)
    return result


# -- what is to be done ------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Plan:
    """The tasks of a sweep, and which of them are to be run.

    Attributes
    ----------
    grid : Grid
    path : Path
        Of the store.
    header : Header
    total : int
        Number of tasks.
    todo : tuple of Task
        Those without a result, in an order in which early cells come first.
    again : tuple of str
        Tasks among them that failed before.
    submitit : dict
        Options from the file.
    """

    grid: Grid
    path: Path
    header: Header
    total: int
    todo: tuple[Task, ...]
    again: tuple[str, ...]
    submitit: dict[str, Any]


def make_plan(definition: Grid | str | Path, store: str | Path | None = None) -> Plan:
    """Check a definition and its store, and find what is to be done; writes and runs nothing.

    Parameters, errors: see `sweep`.
    """
    options: dict[str, Any] = {}
    if isinstance(definition, Grid):
        grid = definition
        if store is None:
            raise SweepError('say where to keep the results: store="hopfield.store", say')
    elif not isinstance(definition, str | Path):
        raise TypeError(f"a sweep is a Grid or a TOML file, not {type(definition).__name__}")
    else:
        grid, options = read_definition(definition)
        store = store or Path(definition).with_suffix(".store")
    header = header_of(grid.module)
    opened = open_store(store, header, create=False)
    records, rows = opened.read() if opened else ({}, None)
    done = {key for key, record in records.items() if record.status in DONE} | table.keys(rows)
    tasks = _enumerate(grid, header)
    file = Path(str(grid.module.__file__)).resolve()
    depth = grid.module.__name__.count(".") + (file.name == "__init__.py")
    todo = tuple(
        Task(
            key,
            "theory" if seed is None else "simulation",
            params_dict(grid.cells[cell]),
            seed,
            module=grid.module.__name__,
            root=str(file.parents[depth]),
            source=header.source,
            version=header.version,
            store=str(Path(store).resolve()),
        )
        for key, cell, seed in tasks
        if key not in done
    )
    again = tuple(task.key for task in todo if task.key in records)
    return Plan(grid, Path(store), header, len(tasks), todo, again, options)


def _enumerate(grid: Grid, header: Header) -> list[tuple[str, int, int | None]]:
    """(task, number of its cell, seed): theory of every cell, then its simulations."""
    return [
        (
            task_key(header, params_dict(params), "theory" if seed is None else "simulation", seed),
            c,
            seed,
        )
        for c, params in enumerate(grid.cells)
        for seed in (None, *grid.seed_range)
    ]


def _collect(grid: Grid, store: Store) -> SweepResult:
    records, compacted = store.read()
    tasks = _enumerate(grid, store.header)
    order = {key: position for position, (key, _, _) in enumerate(tasks)}
    wanted = [records[key] for key in order if key in records]
    rows = table.join(compacted, table.frame(wanted, store.header.system))
    values = [params_dict(grid.cells[cell]) for _, cell, _ in tasks]
    names = list(values[0])
    params = pd.DataFrame({n: _column([row[n] for row in values]) for n in names}, columns=names)
    return SweepResult(grid, store.path, store.header, table.of_grid(rows, order, params))


def _column(values: Sequence[Any]) -> Any:
    """Tuples stay tuples."""
    return pd.Series(values, dtype=object) if isinstance(values[0], tuple) else values
