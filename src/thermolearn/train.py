"""The plain training loop with a Probe in it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.progress import track
from thermolearn.data import Dataset
from thermolearn.measure.probe import Probe
from thermolearn.measure.sinks.fanout import Sink

if TYPE_CHECKING:
    from thermolearn.measure.learning_rate import RecommendedRate

LOSSES = ("squared", "cross-entropy")
SNAPSHOTS = 60  # of a run, by default
OPTIMIZERS = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}  # name -> default learning rate


class SquaredLoss(nn.Module):
    """1/2 |y - x_out|^2, summed over the outputs and averaged over the samples.

    Targets are values (n, outputs); classes come as one-hot vectors (see `targets`).
    """

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        if y.shape != output.shape:
            raise ValueError(
                f"the model's output has shape {tuple(output.shape)}, the target "
                f"{tuple(y.shape)}; they must agree"
            )
        return 0.5 * (y - output).square().sum(-1).mean()


@dataclass(frozen=True)
class TrainingRun:
    """What came out of `train`: the probe, steps taken, epochs begun, wall seconds, and whether
    the user ended it early."""

    probe: Probe
    steps: int
    epochs: int
    seconds: float
    interrupted: bool


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    loss: str = "squared",
    optimizer: str = "sgd",
    lr: float | None = None,
    epochs: int = 60,
    batch_size: int = 32,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    every: int | None = None,
    beta: float | None = None,
    reference_size: int = 256,
    log: str | Path | None = None,
    sinks: Sequence[Sink] = (),
    command: str | None = None,
    info: dict[str, Any] | None = None,
) -> TrainingRun:
    """Train in place while a Probe measures; the same seed gives the same bits.

    The test split is the probe's validation set, `reference_size` training samples its reference
    set. Ctrl-C ends training after the step at hand and keeps what is done. A loss that is not
    finite is recorded by the probe and training goes on. Global generators, which Dropout draws
    from, are seeded for the run and restored afterwards.

    Parameters
    ----------
    model : nn.Module
        Takes (batch, *sample) and returns (batch, outputs).
    dataset : Dataset
    loss : "squared" or "cross-entropy"
        `SquaredLoss`, or cross-entropy of logits (classification only).
    optimizer : "sgd", "adam" or "adamw"
    lr : float > 0, optional
        Learning rate; default .05 for sgd and .001 for the others.
    epochs : int >= 0
        0 measures the model as it is.
    batch_size : int >= 1
    momentum : float in [0, 1)
        For sgd.
    weight_decay : float >= 0
    seed : int >= 0
        Of the order of the samples, the reference set and the probe.
    every : int >= 1, optional
        Steps between snapshots; default: so many that the run has about `SNAPSHOTS`. The first
        law closes the better the denser they are.
    beta, log, sinks
        Handed to `Probe`: inverse temperature (default: fitted), the path of run.jsonl, and where
        rows go besides.
    reference_size : int >= 1
    command, info
        Recorded in the header of the run.

    Raises
    ------
    ValueError
        An option outside its range, or a model that does not fit the data.
    """
    lr = OPTIMIZERS.get(optimizer, 0.0) if lr is None else lr
    _check_options(dataset, loss, optimizer, lr, epochs, batch_size, momentum, weight_decay, seed)
    check_model(model, dataset)
    loss_fn = SquaredLoss() if loss == "squared" else nn.CrossEntropyLoss()
    stepper = _make_optimizer(model, optimizer, lr, momentum, weight_decay)
    train_pair, test_pair = (
        (x, targets(y, dataset.n_outputs, loss))
        for x, y in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test))
    )
    details = {"data": describe(dataset), "seed": seed, "command": command}
    details |= {"epochs": epochs, "batch_size": batch_size, **(info or {})}
    per_epoch = len(_bounds(len(dataset.x_train), batch_size))
    probe = Probe(
        model,
        loss_fn,
        stepper,
        train_pair,
        max(1, round(epochs * per_epoch / SNAPSHOTS)) if every is None else every,
        validation=test_pair,
        reference_size=reference_size,
        beta=beta,
        log=log,
        sinks=sinks,
        seed=seed,
        energy=loss,
        info=details,
    )
    start = time.perf_counter()
    steps, interrupted = _loop(model, loss_fn, stepper, probe, train_pair, epochs, batch_size, seed)
    return TrainingRun(
        probe, steps, -(-steps // per_epoch), time.perf_counter() - start, interrupted
    )


def recommend(
    model: nn.Module,
    dataset: Dataset,
    *,
    loss: str = "squared",
    optimizer: str = "sgd",
    lr: float | None = None,
    epochs: int = 60,
    batch_size: int = 32,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> RecommendedRate:
    """The learning rate for `train` with the same arguments, from short trainings of copies.

    `lr` is where the search starts. See `thermolearn.measure.learning_rate.recommend_lr`.

    Raises
    ------
    ValueError
        As `train`.
    """
    from thermolearn.measure.learning_rate import recommend_lr

    lr = OPTIMIZERS.get(optimizer, 0.0) if lr is None else lr
    _check_options(dataset, loss, optimizer, lr, epochs, batch_size, momentum, weight_decay, seed)
    check_model(model, dataset)
    return recommend_lr(
        model,
        SquaredLoss() if loss == "squared" else nn.CrossEntropyLoss(),
        (dataset.x_train, targets(dataset.y_train, dataset.n_outputs, loss)),
        _make_optimizer(model, optimizer, lr, momentum, weight_decay),
        batch_size=batch_size,
        steps=max(64, epochs * len(_bounds(len(dataset.x_train), batch_size))),
        seed=seed,
    )


def _loop(
    model: nn.Module,
    loss_fn: nn.Module,
    optimizer: torch.optim.Optimizer,
    probe: Probe,
    pair: tuple[Tensor, Tensor],
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[int, bool]:
    """The plain loop: (steps taken, whether Ctrl-C ended it)."""
    n, steps = len(pair[0]), 0
    batches = _batches(n, batch_size, epochs, np.random.default_rng(seed))
    total = epochs * len(_bounds(n, batch_size))
    model.train()
    with torch.random.fork_rng(devices=[]), _stoppable() as stop:
        torch.manual_seed(seed)
        for rows in track(batches, "training", total=total):
            x, y = pair[0][rows], pair[1][rows]
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            probe.step(x, y, loss)
            steps += 1
            if stop.is_set():
                break
    return steps, stop.is_set()


def targets(y: Tensor, n_outputs: int, loss: str) -> Tensor:
    """What the loss compares with: one-hot float32 vectors for classes under the squared loss."""
    if loss == "squared" and not y.is_floating_point():
        return nn.functional.one_hot(y, n_outputs).float()
    return y


def describe(dataset: Dataset) -> dict[str, Any]:
    """The data set in plain values, for the header of a run."""
    return {
        "name": dataset.name,
        "task": dataset.task,
        "rule": dataset.rule,
        "train": len(dataset.x_train),
        "test": len(dataset.x_test),
        "inputs": dataset.n_inputs,
        "outputs": dataset.n_outputs,
        "classes": list(dataset.classes),
        "standardization": dataset.standardization.rule,
        "notes": list(dataset.notes),
    }


def check_model(model: nn.Module, dataset: Dataset) -> None:
    """Raise ValueError unless the model maps samples of the data set to fitting outputs."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = model(dataset.x_train[:2])
    except Exception as error:
        raise ValueError(
            f"the model does not take samples of shape {tuple(dataset.x_train.shape[1:])}, a batch "
            f"of two failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module in training:
            module.training = True
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (2, dataset.n_outputs):
        what = "class" if dataset.classes else "target"
        raise ValueError(
            f"the model's output does not fit the target: for a batch of 2 it is {shape}, and it "
            f"must be (2, {dataset.n_outputs}), one output per {what}"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the model has no parameters to train")


def _check_options(
    dataset: Dataset, loss: str, optimizer: str, lr: float, epochs: int, batch_size: int,
    momentum: float, weight_decay: float, seed: int,
) -> None:  # fmt: skip
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if loss == "cross-entropy" and not dataset.classes:
        raise ValueError("cross-entropy needs classes, and the task is regression; use squared")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    if momentum and optimizer != "sgd":
        raise ValueError(f"momentum belongs to sgd; leave it out with {optimizer}")
    limits = (
        ("lr", lr, math.isfinite(lr) and lr > 0, "positive"),
        ("epochs", epochs, epochs >= 0, "0 or more"),
        ("batch_size", batch_size, batch_size >= 1, "1 or more"),
        ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
        ("seed", seed, seed >= 0, "0 or more"),
    )
    for name, value, good, rule in limits:
        if not good:
            raise ValueError(f"{name} must be {rule}, got {value}")


def _make_optimizer(
    model: nn.Module, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=weight_decay)


def _bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Ends of the batches; a last batch of one sample, which BatchNorm rejects, joins the one
    before."""
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))


def _batches(
    n: int, batch_size: int, epochs: int, generator: np.random.Generator
) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(n))
        for start, end in _bounds(n, batch_size):
            yield order[start:end]


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts as usual.

    An interrupt in the middle of an optimizer step would leave parameters that belong to no step.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def on_interrupt(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
