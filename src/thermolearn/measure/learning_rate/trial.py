"""Short trainings of private copies: the evidence on which a learning rate is chosen."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.learning_rate.copies import copy_training
from thermolearn.measure.window import Pair

HOPELESS = 100.0  # a minibatch loss this many scales above the start ends a trial
RISE = 0.25  # in scales: an end that far above the start is no recovery
NOT_FINITE, BLOWN_UP, NO_GAIN = "not finite", "above 100 x the start", "not below its start"


@dataclass(frozen=True, eq=False)
class Task:
    """What all trials share: the user's objects, which are only read, and the samples.

    `held` are the samples on which every loss of the evidence is taken.
    """

    model: nn.Module
    loss: Any
    optimizer: torch.optim.Optimizer
    data: Pair
    held: Pair
    batch_size: int
    rates: tuple[float, ...]  # of the parameter groups

    @property
    def rate(self) -> float:
        """The learning rate that stands for all groups: that of the first trained one."""
        return next(r for r in self.rates if r > 0)


@dataclass(eq=False)
class Trial:
    """One training at `factor` times the optimizer's learning rates.

    Attributes
    ----------
    seed : int
        Of the order of the batches (and of dropout); the same for all learning rates.
    losses : dict
        Loss on the held samples by optimizer steps done; the first entry is that of step 0.
    reason : str
        Why the trial diverged; empty if it has not.
    """

    factor: float
    lr: float
    seed: int
    steps: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    _state: tuple[nn.Module, Any, torch.optim.Optimizer, Iterator[Tensor]] | None = None

    @property
    def diverged(self) -> bool:
        return bool(self.reason)

    @property
    def first(self) -> float:
        return next(iter(self.losses.values()))

    @property
    def last(self) -> float:
        return self.losses[max(self.losses)]

    def release(self) -> None:
        """Drop the copies; the evidence stays."""
        self._state = None


def start_trial(task: Task, factor: float, seed: int, start: float) -> Trial:
    """A trial at its step 0, from the present parameters and optimizer state."""
    model, loss, optimizer = copy_training(task.model, task.loss, task.optimizer)
    for group, rate in zip(optimizer.param_groups, task.rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"] = torch.full_like(group["lr"], rate * factor)
        else:
            group["lr"] = rate * factor
    order = batches(len(task.data[0]), task.batch_size, seed)
    trial = Trial(factor, task.rate * factor, seed, losses={0: start})
    trial._state = (model, loss, optimizer, order)
    return trial


def advance(task: Task, trial: Trial, to: int, scale: float) -> int:
    """Train until `to` steps are done or the trial is hopeless; the steps taken.

    A trial has diverged if a loss is not finite, if a minibatch loss is `HOPELESS` scales above
    the loss of step 0 (both end it at once), or if at `to` steps the loss on the held samples is
    above that of step 0 by more than `RISE` scales.
    """
    assert trial._state is not None
    model, loss_fn, optimizer, order = trial._state
    before, ceiling = trial.steps, trial.first + HOPELESS * scale
    x, y = task.data
    seed_globals(trial.seed, trial.steps)
    while trial.steps < to and not trial.reason:
        rows = next(order).to(x.device)
        loss = loss_of(model, loss_fn, x[rows], y[rows.to(y.device)])
        value = float(loss.detach())
        if not value <= ceiling:
            trial.reason = BLOWN_UP if math.isfinite(value) else NOT_FINITE
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trial.steps += 1
    _judge(task, trial, scale)
    if trial.diverged:
        trial.release()
    return trial.steps - before


def _judge(task: Task, trial: Trial, scale: float) -> None:
    """Enter the loss on the held samples, and what it says."""
    assert trial._state is not None
    model, loss_fn, *_ = trial._state
    end = held_loss(model, loss_fn, task.held, task.batch_size)[0]
    trial.losses[trial.steps] = end
    if trial.reason:
        return
    if not math.isfinite(end):
        trial.reason = NOT_FINITE
    elif end > trial.first + HOPELESS * scale:
        trial.reason = BLOWN_UP
    elif end > trial.first + RISE * scale:
        trial.reason = NO_GAIN


def batches(n: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Rows of one batch after another, every epoch in a new order, without end.

    A last batch of one sample, which batch normalization rejects, joins the one before.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = list(range(batch_size, n, batch_size))
    if batch_size > 1 and ends and n - ends[-1] == 1:
        ends.pop()
    while True:
        yield from torch.randperm(n, generator=generator).tensor_split(ends)


def loss_of(model: Any, loss: Any, x: Tensor, y: Tensor) -> Tensor:
    """The loss of one batch.

    Raises
    ------
    NotApplicableError
        The user's forward or loss fails, with anything.
    ValueError
        What it returns is not one number.
    """
    try:
        value = loss(model(x), y)
    except Exception as error:
        raise NotApplicableError(
            f"model and loss do not run on a batch of {len(x)} of the samples "
            f"({type(error).__name__}: {error})"
        ) from error
    return scalar(value)


def scalar(loss: Any) -> Tensor:
    """The loss, if it is one number with a gradient to follow."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss must return one number per batch (mean or sum), got {what}")
    return loss.reshape(())


def seed_globals(*numbers: int) -> None:
    """Seed what dropout and a user's forward may draw from; inside ``untouched()`` only."""
    state = np.random.SeedSequence([abs(int(k)) for k in numbers]).generate_state(1)
    seed = int(state[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def held_loss(model: Any, loss: Any, held: Pair, batch_size: int) -> tuple[float, float]:
    """Mean and standard deviation over batches of the loss, in the modes of training.

    Batch normalization sees the batch, as in training; buffers that this moves are put back.
    A short last batch is left out.
    """
    buffers = [] if not isinstance(model, nn.Module) else list(model.buffers())
    before = [b.clone() for b in buffers]
    n, values = len(held[0]), []
    with torch.no_grad():
        for k in range(0, n, batch_size):
            if k and k + batch_size > n:
                break
            x, y = (t[k : k + batch_size].clone() for t in held)  # a forward may work in place
            values.append(float(loss_of(model, loss, x, y)))
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
    mean = float(np.mean(values))
    return mean, float(np.std(values)) if math.isfinite(mean) else math.nan


def constant_loss(
    model: Callable[[Tensor], Any], loss: Any, held: Pair, batch_size: int
) -> tuple[float, float]:
    """Loss of the best output that does not depend on the input, and the outputs' spread.

    The spread is the root mean square over the outputs of their standard deviation between
    samples: about 0 for a network that no signal passes. The loss is NaN where outputs are no
    single tensor, a quasi-Newton search over constants finds no minimum, or a constant is all
    there is to learn: one sample, or inputs or targets that are all the same.
    """
    with torch.no_grad():
        outputs = model(held[0][: max(2, batch_size)].clone())
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.dim() == 0:
        return math.nan, math.nan
    spread = math.sqrt(float(outputs.double().var(0, correction=0).mean()))
    if any(bool((t == t[:1]).all()) for t in held):
        return math.nan, spread
    constant = outputs.mean(0).clone().requires_grad_(True)
    search = torch.optim.LBFGS([constant], max_iter=60, line_search_fn="strong_wolfe")

    def same(x: Tensor) -> Tensor:
        return constant.expand(len(x), *constant.shape)

    def closure() -> Tensor:
        search.zero_grad()
        value = scalar(loss(same(held[0]), held[1].clone()))
        value.backward()
        return value

    try:
        search.step(closure)  # type: ignore[arg-type]
        value = held_loss(same, loss, held, batch_size)[0]
    except Exception:  # a loss without a gradient in its outputs, say
        return math.nan, spread
    return (value if math.isfinite(value) else math.nan), spread
