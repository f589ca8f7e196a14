"""Running the tasks of a sweep: in this process, on its cores, on a dask or a Slurm cluster.

Every backend is a generator of (task, status) as tasks end; the results themselves are written to
the store by whoever computed them.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from thermolearn import __version__
from thermolearn.core.errors import ConvergenceError, SweepError
from thermolearn.core.estimate import Estimate
from thermolearn.study.contract import did_you_mean
from thermolearn.study.seeds import one_thread
from thermolearn.study.store import SHARDS, Record, read_shard, source_hash, write_shard

Outcome = tuple[str, str]
NAMES = ("joblib", "dask", "submitit", "serial")
# What most clusters need; submitit itself says what else it takes.
SUBMITIT = (
    "cluster", "name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "nodes",
    "tasks_per_node", "stderr_to_stdout", "slurm_partition", "slurm_account", "slurm_qos",
    "slurm_constraint", "slurm_array_parallelism", "slurm_additional_parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Everything a worker needs, in plain types.

    Attributes
    ----------
    key : str
        Hash that names it.
    what : str
        ``"theory"`` or ``"simulation"``.
    params : dict
        Fields of Params.
    seed : int or None
    module, root : str
        Import name of the system and the directory its top package is in.
    source, version : str
        What the worker must find there.
    store : str
        Directory of the store.
    """

    key: str
    what: str
    params: dict[str, Any]
    seed: int | None
    module: str
    root: str
    source: str
    version: str
    store: str


# -- one task ----------------------------------------------------------------------------------
def execute(task: Task) -> Outcome:
    """Run one task and write its shard, unless another process has done so in the meantime.

    What the system raises becomes the status of the task: ConvergenceError "not converged",
    anything else "failed".

    Raises
    ------
    SweepError
        This worker has another version of the library or of the system.
    """
    module = _system(task.module, task.root, task.source, task.version)
    folder = Path(task.store) / SHARDS
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return task.key, read_shard(folder / f"{task.key}.json").status
    start = time.perf_counter()
    status, note, found = "ok", "", {}
    try:
        params = module.Params(**task.params)
        result = module.theory(params) if task.seed is None else module.simulate(params, task.seed)
        found = _checked(result, task.what)
    except ConvergenceError as error:
        status, note = "not converged", str(error)
    except Exception as error:
        status, note = "failed", _told(error)
    seconds = time.perf_counter() - start
    record = Record(task.key, task.what, task.params, task.seed, status, note, seconds, found)
    write_shard(folder, record)
    return task.key, status


@functools.lru_cache
def _system(name: str, root: str, source: str, version: str) -> ModuleType:
    if version != __version__:
        raise SweepError(
            f"a worker has version {__version__} of thermolearn, the sweep was started with "
            f"{version}; install the same on all machines"
        )
    if root not in sys.path:
        sys.path.append(root)
    module = importlib.import_module(name)
    if source_hash(module) != source:
        raise SweepError(
            f"a worker finds another source of {name} (in {module.__file__}) than the one that the "
            "sweep was started with; let all machines see the same, and restart running workers"
        )
    return module


def _checked(result: Any, what: str) -> dict[str, Estimate]:
    if not isinstance(result, Mapping) or not all(
        isinstance(name, str) and isinstance(e, Estimate) for name, e in result.items()
    ):
        raise TypeError(
            f"{what} must return a dict of name -> Estimate, got {type(result).__name__}"
        )
    return dict(result)


def _told(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {message} ({Path(place.filename).name}, line {place.lineno})"


@functools.lru_cache
def _settle(*system: str) -> contextlib.ExitStack:
    """Once in a worker process: the libraries of the system are loaded, then kept to one thread."""
    _system(*system)
    stack = contextlib.ExitStack()  # kept by the cache for the life of the worker
    stack.enter_context(one_thread())
    return stack


def execute_in_worker(task: Task) -> Outcome:
    """`execute` in a process that has no other work."""
    _settle(task.module, task.root, task.source, task.version)
    return execute(task)


def _start_child(parent: int) -> None:
    """In a new child of the sweep's process, which alone minds signals, and whom none outlives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


# -- what can be checked before anything is made -------------------------------------------------
def check(backend: str, jobs: Any, scheduler: Any, options: Mapping[str, Any]) -> None:
    """Refuse what no backend takes: its name, the number of jobs, an address, names of options.

    Raises
    ------
    SweepError
        Options of submitit are checked wherever it is installed, whatever the backend.
    ImportError
        The backend is not installed.
    """
    if backend not in NAMES:
        raise SweepError(f"backend must be one of {', '.join(NAMES)}, got {backend!r}")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or (jobs < 1 and jobs != -1):
        raise SweepError(
            f"jobs must be a positive integer, or -1 for one per processor, got {jobs!r}"
        )
    if scheduler is not None and backend != "dask":
        raise SweepError('a scheduler is for backend="dask"; name that too')
    if backend == "dask":
        _check_address(scheduler)
    if options or backend == "submitit":
        try:
            _check_options(options, options.get("cluster") if backend == "submitit" else "debug")
        except ImportError:
            if backend == "submitit":
                raise


def _check_address(scheduler: Any) -> None:
    try:
        from distributed.comm.addressing import parse_address, parse_host_port
    except ImportError as error:
        raise ImportError(
            'backend="dask" needs dask.distributed: pip install "thermolearn[distributed]"'
        ) from error
    if isinstance(scheduler, str):
        try:
            kind, place = parse_address(scheduler)
            if kind != "inproc":
                parse_host_port(place)
        except ValueError as error:
            raise SweepError(
                f"scheduler = {scheduler!r} is no address of a dask scheduler ({error}); it is "
                "like tcp://node17:8786"
            ) from None


def _check_options(options: Mapping[str, Any], cluster: str | None) -> None:
    """Every option by itself, so that the error names it; submitit knows those of all clusters."""
    executor_of = _submitit()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated names
        try:
            executor_of(folder, cluster)
        except (ValueError, RuntimeError) as error:
            raise SweepError(f"submitit cannot run here: {error}") from error
        executor = executor_of(folder, "debug")
        for name, value in options.items():
            if name == "cluster":
                continue
            try:
                executor.update_parameters(**{name: value})
            except NameError:
                known = did_you_mean(difflib.get_close_matches(name, SUBMITIT), SUBMITIT)
                raise SweepError(f"submitit has no option {name!r}{known}") from None
            except (AssertionError, TypeError, ValueError) as error:
                raise SweepError(f"submitit does not take {name} = {value!r}: {error}") from error


def _submitit() -> Any:
    try:
        from submitit import AutoExecutor
    except ImportError as error:
        raise ImportError(
            'backend="submitit" needs submitit: pip install "thermolearn[submitit]"'
        ) from error
    return AutoExecutor


# -- backends ----------------------------------------------------------------------------------
def serial(tasks: Sequence[Task]) -> Generator[Outcome]:
    """One after the other in this process."""
    if not tasks:
        return
    first = tasks[0]
    _system(first.module, first.root, first.source, first.version)
    with one_thread():
        yield from map(execute, tasks)


def joblib(tasks: Sequence[Task], jobs: int) -> Generator[Outcome]:
    """On `jobs` processes of this machine."""
    from joblib import Parallel, delayed, parallel_config

    if jobs == 1:
        yield from serial(tasks)
        return

    start = {"initializer": _start_child, "initargs": (os.getpid(),)}
    with parallel_config(backend="loky", inner_max_num_threads=1, **start):  # type: ignore[arg-type]
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        work = (delayed(execute_in_worker)(task) for task in tasks)
        with contextlib.closing(parallel(work)) as outcomes:  # type: ignore[arg-type]
            yield from outcomes  # type: ignore[misc]


def dask(tasks: Sequence[Task], jobs: int, scheduler: Any = None) -> Generator[Outcome]:
    """On the workers of a dask cluster, or of a local one of `jobs` processes made for this.

    Parameters
    ----------
    scheduler : Client or str, optional
        A client, or the address of a scheduler. Its workers must see the store under the same path.
    """
    from distributed import Client, LocalCluster, as_completed

    with contextlib.ExitStack() as stack:
        if isinstance(scheduler, Client):
            client = scheduler
        else:
            if scheduler is None:
                cluster = LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)  # type: ignore[arg-type]
                scheduler = stack.enter_context(cluster)
            try:
                client = stack.enter_context(Client(scheduler))
            except (OSError, ValueError) as error:
                raise SweepError(f"no dask scheduler answers at {scheduler}: {error}") from error
        # a window of tasks, so that the scheduler never holds them all
        threads: Any = client.nthreads()
        window = 4 * max(jobs, sum(threads.values())) + 16
        rest = iter(tasks)
        futures = {
            client.submit(execute_in_worker, task, pure=False)
            for task in itertools.islice(rest, window)
        }
        pending = as_completed(futures)
        try:
            for future in pending:
                futures.discard(future)
                yield future.result()
                for task in itertools.islice(rest, 1):
                    new = client.submit(execute_in_worker, task, pure=False)
                    futures.add(new)
                    pending.add(new)
        finally:
            client.cancel(list(futures))


def submitit(
    tasks: Sequence[Task], jobs: int, options: Mapping[str, Any] | None = None
) -> Generator[Outcome]:
    """As an array of `jobs` jobs of Slurm, or of processes of this machine where there is none.

    Parameters
    ----------
    options : mapping
        ``cluster`` ("slurm", "local"; default: what is there) and parameters of submitit's
        executor: ``timeout_min``, ``mem_gb``, ``slurm_partition``, ... Jobs that end early (time,
        preemption) keep what they finished; the next run does the rest.
    """
    executor_of = _submitit()
    if not tasks:
        return
    parameters = {"cpus_per_task": 1, "timeout_min": 24 * 60, "name": "sweep", **(options or {})}
    store = Path(tasks[0].store)
    executor = executor_of(store / "submitit", parameters.pop("cluster", None))
    executor.update_parameters(**parameters)
    running = executor.map_array(_execute_all, [list(tasks[k::jobs]) for k in range(jobs)])
    try:
        yield from _watch(tasks, running, store / SHARDS)
    finally:
        for job in running:
            if not job.done():
                job.cancel()
    for job in running:
        error = job.exception()
        if error is not None:
            warnings.warn(f"job {job.job_id} ended early: {error}", stacklevel=2)


def _execute_all(tasks: Sequence[Task]) -> None:
    for task in tasks:
        execute_in_worker(task)


def _watch(tasks: Sequence[Task], running: Sequence[Any], shards: Path) -> Generator[Outcome]:
    """The tasks whose shards appear, until the jobs have ended."""
    waiting = {task.key for task in tasks}
    pause = 0.05
    while waiting:
        ended = all(job.done() for job in running)
        here = {path.stem for path in shards.glob("*.json")} & waiting
        for key in here:
            yield key, read_shard(shards / f"{key}.json").status
        waiting -= here
        if ended and not here:
            return
        pause = 0.05 if here else min(1.5 * pause, 5.0)
        time.sleep(pause)
