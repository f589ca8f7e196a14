"""Running the seeds of a simulation, here or in worker processes, with the same bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from threadpoolctl import threadpool_limits

from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track

Sample = dict[str, Estimate]


@dataclass(frozen=True)
class Failure:
    """A seed in which the simulation raised an error."""

    seed: int
    error: str


def run_seeds(
    module: str, params: Any, seeds: int, jobs: int = 1
) -> tuple[list[Sample], list[Failure]]:
    """simulate(params, seed) of an importable module for seed = 0, ..., seeds - 1.

    Every simulation has one thread, in this process or in a worker, so that the numbers do not
    depend on the number of workers. Ctrl-C ends it at once.

    Returns
    -------
    samples : list of dict of Estimate
        Of the seeds that ended well, in their order.
    failures : list of Failure
        The others.

    Raises
    ------
    ValueError
        jobs is 0 or not an integer.
    RuntimeError
        Every seed failed; the message is that of the first.
    """
    if not isinstance(jobs, int) or (jobs < 1 and jobs != -1):
        raise ValueError(f"jobs must be a positive integer, or -1 for all processors, got {jobs!r}")
    samples, failures = [], []
    name = module.removeprefix("thermolearn.systems.")
    for result in track(_results(module, params, seeds, jobs), f"{name}: seeds", seeds):
        (failures if isinstance(result, Failure) else samples).append(result)
    if seeds and not samples:
        raise RuntimeError(f"simulate of {name} failed in every seed: {failures[0].error}")
    return samples, failures


def _results(module: str, params: Any, seeds: int, jobs: int) -> Iterator[Sample | Failure]:
    if jobs == 1:
        for seed in range(seeds):
            yield run_one(module, params, seed)
        return
    from joblib import Parallel, delayed, parallel_config

    # the workers' libraries read their number of threads when they are loaded
    with parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = Parallel(n_jobs=jobs, return_as="generator")
        yield from parallel(delayed(run_one)(module, params, seed) for seed in range(seeds))  # type: ignore[misc]


def run_one(module: str, params: Any, seed: int) -> Sample | Failure:
    """One seed on one thread; an error becomes a Failure that names it."""
    simulate = import_module(module).simulate
    with one_thread():
        try:
            return dict(simulate(params, seed))
        except Exception as error:
            return Failure(seed, f"{type(error).__name__}: {error}")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS, OpenMP and torch: the same bits on all backends, and no crowding."""
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
