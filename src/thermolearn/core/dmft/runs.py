"""Several independent runs of one problem, one after the other, and whether they can be trusted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from thermolearn.core.dmft.march import MakeClosure, MakeSite, March
from thermolearn.core.estimate import mean_estimate
from thermolearn.core.progress import track

OWN = ("M", "G", "covariance")
SIGMAS = 4.0  # an eigenvalue that is more negative than this many errors is not noise
ROUNDING = 1e-9  # of the largest one
HARMLESS = 1e-4  # share of a field's variance that may be missing or too much
CROWDED = 4  # samples per Gaussian row below which the rows are hardly independent


@dataclass(frozen=True)
class Problem:
    """What is solved: the arguments of `solve` but for the number of steps."""

    single_site: MakeSite
    closure: MakeClosure
    n_mc: int
    fields: int
    runs: int
    seed: int
    pivot: float
    dtype: np.dtype
    keep: bool
    stream: int = 0  # runs of another stream share no random numbers

    def march(self, run: int) -> March:
        """A new run."""
        seed = (self.seed, run, self.stream)
        return March(
            self.single_site, self.closure, self.n_mc, self.fields, self.pivot, self.dtype, seed
        )

    def rows(self, march: March, steps: int) -> int:
        """Orthogonal rows that so many steps may need.

        Raises
        ------
        ValueError
            There are no more samples than that.
        """
        rows = march.gaussian.fixed + self.fields * steps
        if rows >= self.n_mc:
            raise ValueError(
                f"n_mc = {self.n_mc} samples cannot hold {rows} orthogonal rows ({self.fields} "
                f"fields x {steps} steps, the constant and the matched rows): n_mc must be at "
                f"least {rows + 1}, and better {CROWDED * rows}"
            )
        return rows


@dataclass
class Found:
    """Results of the runs that are finished, or of the first one as far as it came."""

    steps: int
    order_parameters: list[dict[str, np.ndarray]] = field(default_factory=list)
    averages: list[dict[str, np.ndarray]] = field(default_factory=list)
    kept: list[March] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dropped: int = 0
    deficit: float = 0.0

    def add(self, march: March) -> None:
        """The numbers of a run."""
        self.order_parameters.append(march.order_parameters())
        self.averages.append(march.averages())
        self.dropped += march.gaussian.dropped
        self.deficit = min(self.deficit, march.gaussian.deficit)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the order parameters."""
        return tuple(self.order_parameters[0])

    @property
    def per_run(self) -> dict[str, np.ndarray]:
        """All quantities, runs first."""
        twice = sorted(self.order_parameters[0].keys() & self.averages[0].keys())
        if twice:
            raise ValueError(f"{', '.join(twice)}: two quantities of one name; rename one")
        both = [a | b for a, b in zip(self.order_parameters, self.averages, strict=True)]
        return {name: np.stack([one[name] for one in both]) for name in both[0]}

    def flags(self, pivot: float) -> tuple[str, ...]:
        """What is wrong or unfinished."""
        out = list(self.problems)
        arrays = self.per_run
        for name in self.names:
            if name.startswith("R"):
                out += causality(name, arrays[name])
            elif name.startswith("C"):
                out += positivity(name, arrays[name])
        if self.deficit < -max(pivot**2, HARMLESS):
            out.append(
                f"the covariance of the fields is not positive: a variance of {self.deficit:.2g} "
                "of itself was left; more samples, or a mistake in the closure"
            )
        return tuple(out)


def run_all(problem: Problem, marches: tuple[March, ...], target: int) -> Found:
    """All runs up to step `target`; Ctrl-C ends after a step and keeps what is finished.

    Marches that stand at or before the target go on, others are made again.

    Raises
    ------
    KeyboardInterrupt
        Before the first step was finished.
    """
    there = {m.run: m for m in marches if not m.broken and m.steps <= target}
    found = Found(target)
    total = problem.runs * target - sum(m.steps for m in there.values())
    try:
        for march in track(_each_step(problem, there, target, found), "DMFT", total):
            with whole_steps():
                march.step()
    except KeyboardInterrupt:
        if not _partial(found, problem.runs, target):
            raise
        found.kept += there.values()
    return found


def _each_step(
    problem: Problem, there: dict[int, March], target: int, found: Found
) -> Iterator[March]:
    """The march whose turn it is; finished ones are added to `found`."""
    for run in range(problem.runs):
        march = there.pop(run, None) or problem.march(run)
        if CROWDED * problem.rows(march, target) > problem.n_mc and not run:
            found.problems.append(
                f"few samples: {problem.n_mc} for {problem.rows(march, target)} orthogonal rows"
            )
        found.kept.append(march)
        while march.steps < target:
            yield march
        found.add(march)
        if not problem.keep:
            found.kept.remove(march)


def _partial(found: Found, runs: int, target: int) -> bool:
    """Settle for the finished runs, or else for the first one as it is; False if it has nothing."""
    last = found.kept[-1] if found.kept else None
    if last and last.run == len(found.averages) and last.steps == target and not last.broken:
        found.add(last)  # its last step was the one that was waited for
    if done := len(found.averages):
        found.problems.append(f"interrupted after {done} of {runs} runs")
        return True
    if last is None or last.broken or not last.steps:
        return False
    found.steps = last.steps
    found.add(last)
    found.problems.append(f"interrupted at step {last.steps} of {target} of the first run")
    return True


@contextmanager
def whole_steps() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, where it can be waited for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        before(received[0], None)


# -- can they be trusted ---------------------------------------------------------------------------
def causality(name: str, samples: np.ndarray) -> list[str]:
    """A sentence if a response (runs, ..., T, T) is not 0 at equal and earlier times."""
    if samples.ndim < 3 or samples.shape[-1] != samples.shape[-2]:
        return []
    worst = float(np.abs(np.triu(samples)).max())
    return [f"{name} is not causal: {worst:.3g} at t <= s, where it must be 0"] if worst else []


def positivity(name: str, samples: np.ndarray) -> list[str]:
    """A sentence if a correlation (runs, T, T) has an eigenvalue that is negative beyond noise.

    The noise is the standard error between the runs of the quadratic form of that eigenvector; a
    single run has none to tell, and only an asymmetry is seen.
    """
    if samples.ndim != 3 or samples.shape[-1] != samples.shape[-2]:
        return []
    mean = samples.mean(0)
    scale = float(np.abs(mean).max())
    if np.abs(mean - mean.T).max() > ROUNDING * scale:
        return [f"{name} is not symmetric"]
    values, vectors = np.linalg.eigh(mean)
    v = vectors[:, 0]
    form = mean_estimate(np.einsum("i,rij,j->r", v, samples, v))
    if len(samples) == 1 or values[0] > -SIGMAS * float(form.stderr) - ROUNDING * values[-1]:
        return []
    return [
        f"{name} is not positive: its smallest eigenvalue is {values[0]:.3g}, with a standard "
        f"error of {float(form.stderr):.2g}"
    ]
