"""The training loop: epochs, learning rate, checkpoints, interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.rbm import monitor, units
from thermolearn.systems.memory.rbm.gradient import METHODS, GradientSampler
from thermolearn.systems.memory.rbm.monitor import Checkpoint
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.units import Weights

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Settings:
    """How to train; the fields are those of `RBM`, checked here."""

    method: str
    k: int
    learning_rate: float
    schedule: str
    n_epochs: int
    batch_size: int
    n_chains: int
    n_replicas: int
    centered: bool
    weight_decay: float
    init_std: float
    dtype: str
    monitor: str | None
    n_checkpoints: int
    seed: int

    def __post_init__(self) -> None:
        _choice("method", self.method, METHODS)
        _choice("schedule", self.schedule, ("constant", "linear"))
        _choice("dtype", self.dtype, tuple(DTYPES))
        for name, least in (
            ("k", 1),
            ("n_epochs", 1),
            ("batch_size", 1),
            ("n_chains", 1),
            ("n_replicas", 2),
            ("n_checkpoints", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        real("learning_rate", self.learning_rate, above=0)
        real("weight_decay", self.weight_decay, least=0)
        real("init_std", self.init_std, least=0)


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


@dataclass(eq=False)
class Run:
    """A training run that can be saved and continued: machine, chains, step, history."""

    weights: Weights
    sampler: GradientSampler
    settings: Settings
    step: int = 0
    history: list[Checkpoint] = field(default_factory=list)
    interrupted: bool = False
    best: Estimate | None = None  # highest trusted log-likelihood of all looks

    @property
    def behind(self) -> bool:
        """Whether the chains have fallen behind at any time."""
        return any(c.status == "chains behind" for c in self.history)

    @property
    def status(self) -> str:
        """One word on the run; see `RBM.status_`."""
        if self.behind:
            return "chains behind"
        if self.interrupted:
            return "interrupted"
        if not self.history or self.history[-1].step < self.step:
            return "not monitored"
        return self.history[-1].status

    def update(self, batch: Tensor, learning_rate: float) -> None:
        """One step of gradient ascent on the log-likelihood."""
        g, w = self.sampler(batch), self.weights
        if self.settings.weight_decay:
            w.W.mul_(1 - learning_rate * self.settings.weight_decay)
        w.W.add_(g.W, alpha=learning_rate)
        w.a.add_(g.a, alpha=learning_rate)
        w.b.add_(g.b, alpha=learning_rate)
        self.step += 1


def start(mean: Tensor, n_hidden: int, visible: str, hidden: str, settings: Settings) -> Run:
    """A fresh run: W ~ N(0, init_std^2), b = 0, a the field with the mean of the data."""
    dtype = DTYPES[settings.dtype]
    rng = np.random.default_rng([settings.seed, 0])
    W = torch.from_numpy(rng.normal(0.0, settings.init_std, (len(mean), n_hidden))).to(dtype)
    mean = mean.to(dtype)
    w = Weights(
        W.contiguous(), units.field_of_mean(visible, mean), W.new_zeros(n_hidden), visible, hidden
    )
    return resumed(w, mean, settings)


def resumed(w: Weights, mean: Tensor, settings: Settings) -> Run:
    """A run that goes on from given weights, with new chains."""
    sampler = GradientSampler(
        w,
        settings.batch_size,
        settings.n_chains,
        settings.method,
        settings.k,
        settings.n_replicas,
        settings.centered,
        mean.clone(),
        Noise([settings.seed, 1]),
    )
    return Run(w, sampler, settings)


def checkpoint_steps(n_steps: int, n_checkpoints: int) -> set[int]:
    """Steps spaced evenly in their logarithm, from 1 to the last."""
    return {round(x) for x in np.geomspace(1, n_steps, n_checkpoints)} | {n_steps}


def train(run: Run, X: Tensor, saved: Callable[[Run], None]) -> None:
    """Bring the run to its last epoch; Ctrl-C ends it after the step in progress.

    Parameters
    ----------
    run : Run
    X : Tensor (n, n_visible)
        n >= batch_size; rows left over after whole batches sit out an epoch.
    saved : callable
        Called with the run at every checkpoint.

    Raises
    ------
    ConvergenceError
        The weights have left the finite numbers.
    """
    s = run.settings
    per_epoch = len(X) // s.batch_size
    n_steps = per_epoch * s.n_epochs
    stops = checkpoint_steps(n_steps, s.n_checkpoints)
    how = monitor.resolve(s.monitor, run.weights)
    looks = stops
    if how == "exact" and s.n_checkpoints < monitor.LEAST_LOOKS:
        looks = stops | checkpoint_steps(n_steps, monitor.LEAST_LOOKS)
    run.interrupted = False
    order = np.empty(0, dtype=np.int64)
    first = run.step
    with _interrupt() as asked:
        for step in track(range(first, n_steps), "training", n_steps - first):
            epoch, number = divmod(step, per_epoch)
            if step == first or number == 0:
                # a function of seed and epoch alone, so that a run can go on in mid-epoch
                order = np.random.default_rng([s.seed, 2, epoch]).permutation(len(X))
            rows = order[number * s.batch_size : (number + 1) * s.batch_size]
            decay = 1 - step / n_steps if s.schedule == "linear" else 1.0
            run.update(X[torch.from_numpy(rows)], s.learning_rate * decay)
            if run.step in looks:
                _look(run, X, how, run.step / per_epoch, run.step in stops)
            if run.step in stops:
                saved(run)
            if asked.is_set():
                run.interrupted = run.step < n_steps
                return


def _look(run: Run, X: Tensor, how: str | None, epoch: float, keep: bool) -> None:
    """Look at the run; what is seen enters the history at a checkpoint, or if it is bad news."""
    w, s = run.weights, run.settings
    if not all(bool(torch.isfinite(x).all()) for x in (w.W, w.a, w.b)):
        raise ConvergenceError(
            f"the weights are not finite after step {run.step}; lower learning_rate = "
            f"{s.learning_rate:g}"
        )
    if how is None:
        return
    chains = run.sampler.chain_v if s.method in ("pcd", "pt") and run.sampler.n_chains > 1 else None
    a0 = units.field_of_mean(w.visible, run.sampler.visible_offset).double()
    row = monitor.inspect(w, X, chains, how, a0, [s.seed, 3, run.step], run.step, epoch, run.best)
    news = row.status == "chains behind" and not run.behind
    if news:
        monitor.tell(row, run.best, s.learning_rate, s.k, s.method)
    if keep or news:
        run.history.append(row)
    run.best = monitor.better(row.log_likelihood, run.best)


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event set by Ctrl-C, so that a step is never cut in two; a second one raises at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)
