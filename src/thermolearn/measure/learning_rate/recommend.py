"""A learning rate from short trainings of copies of the user's model, and nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from thermolearn.core import copying
from thermolearn.core.checks import real, whole
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.measure.learning_rate.conclusion import conclude
from thermolearn.measure.learning_rate.copies import (
    Watch,
    check_own,
    check_reached,
    copy_training,
    watched,
)
from thermolearn.measure.learning_rate.result import RecommendedRate
from thermolearn.measure.learning_rate.search import Plan, Search, make_plan
from thermolearn.measure.learning_rate.trial import (
    Task,
    batches,
    constant_loss,
    held_loss,
    loss_of,
    seed_globals,
)
from thermolearn.measure.objective import trained_parameters
from thermolearn.measure.reference import check_pair, draw
from thermolearn.measure.setting import check_objects
from thermolearn.measure.window import Pair

HELD = 512  # samples on which losses are taken
EPOCHS = 20
LEAST_STEPS = 64


def recommend_lr(
    model: nn.Module,
    loss: Any,
    data: Pair,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    backoff: float = 2.0,
    cost: float = 3.5,
) -> RecommendedRate:
    """The learning rate that lowers the loss most in short trainings, below the measured edge.

    Copies of model and optimizer are trained from the present parameters and optimizer state, on
    minibatches in the order of at least three seeds. (1) *Edge*: decades, then geometric bisection
    to a factor of 2, bracket the learning rate at which trials of steps/32 diverge: a loss that is
    not finite, rises by 100 times the start, or ends above the start by a quarter of it. (2)
    *Choice*: from edge/`backoff` downward in factors of 2.5, rates are compared by the loss they
    reach; the best are continued to steps/10, then with the first seed to steps/4, and two of them
    as far as `cost` allows. All groups' rates are multiplied by one factor, which keeps their
    ratios. The initial curvature is not used: it changes by orders of magnitude in the first
    steps. Nothing of the user's is changed, and global random generators are put back.

    Memory: at the most about 24 copies of model and optimizer state are held.

    Parameters
    ----------
    model : nn.Module
        In train mode as it would be trained; a model in eval mode is trained in train mode.
    loss : callable
        ``loss(outputs, targets)``, one number per batch. One that needs the model (a penalty on its
        weights, say) is a module, callable object or bound method that holds it: model, loss and
        optimizer are copied together. A function that reads a model from outside is refused.
    data : (x, y)
        The training samples, as the model takes them.
    optimizer : torch.optim.Optimizer
        Any whose groups have an ``lr`` > 0 and whose ``step`` needs no closure. Its own rate is
        where the search starts; a rate within a few decades of the edge saves steps.
    batch_size : int >= 1
        Of the training loop. A last batch of one sample joins the one before.
    steps : int >= 64, optional
        Length of the training in optimizer steps that the rate is for; default 20 epochs, at least
        64. The best rate of a short training is not that of a long one (arXiv:1803.02021).
    seeds : int >= 3
        Orders of the batches; `seed` is the first of them.
    backoff : float > 1
        The largest rate recommended is the lower end of the edge divided by it.
    cost : float > 0
        Optimizer steps that may be spent, as a multiple of `steps`. The bracket of the edge and
        the first round are always run; what then remains decides how long the last round is.

    Returns
    -------
    RecommendedRate
        With status "plateau" and lr NaN if no rate brings the loss below both its start and the
        best constant output (the note says whether the initialization has to be mended first), and
        with status "unbounded" and lr NaN if the loss has no lower bound.

    Raises
    ------
    TypeError, ValueError
        Arguments that cannot be right; the message names the argument.
    NotApplicableError
        Nothing to train, an optimizer without lr, with a closure (LBFGS) or with maximize=True,
        float16, several devices, a loss that is not finite at the present parameters, a model, loss
        or optimizer that cannot be copied or that fails on a batch, or a loss that works on your
        model itself (its gradients and buffers are put back).

    References
    ----------
    Jamieson, Talwalkar, arXiv:1502.07943 (successive halving); Smith, arXiv:1506.01186 (the range
    test, which raises the rate within one run; here every rate has its own); Wu et al.,
    arXiv:1803.02021 (short-horizon bias); Cohen et al., arXiv:2103.00065 (the curvature follows
    the rate).
    """
    batch_size = whole("batch_size", batch_size, 1)
    seeds, seed = whole("seeds", seeds, 3), whole("seed", seed, 0)
    backoff = real("backoff", backoff, above=1.0)
    cost = real("cost", cost, above=0.0)
    if steps is not None:
        steps = whole("steps", steps, LEAST_STEPS)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_trainable(model)
    check_objects(model, loss, optimizer)
    rates = group_rates(model, optimizer)
    pair = check_pair("data", data)
    n = len(pair[0])
    if steps is None:
        steps = max(LEAST_STEPS, EPOCHS * math.ceil(n / batch_size))
    held = draw(pair, HELD, seed)
    size = min(batch_size, n)
    plan = make_plan(steps, seeds, seed, backoff, cost)
    with copying.untouched(), watched(model, loss, optimizer) as watch:
        task = Task(model, loss, optimizer, pair, held, size, rates)
        return conclude(*_search(task, plan, seed, watch), steps)


# -- what can be trained -------------------------------------------------------------------------
def check_trainable(model: nn.Module) -> None:
    """Raise NotApplicableError unless the trained parameters can be trained as they are."""
    copying.check_measurable(copying.unwrap(model))
    parameters = trained_parameters(model)
    devices = sorted({str(p.device) for p in model.parameters()})
    if len(devices) > 1:
        raise NotApplicableError(
            f"the model's parameters are on {', '.join(devices)}; put it on one device"
        )
    for name, p in parameters.items():
        if p.dtype == torch.float16:
            raise NotApplicableError(
                f"parameter {name} is float16, which trains only with loss scaling, and the trials "
                "have none; search on a float32 copy of the model"
            )


def group_rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """The learning rate of each group.

    Raises
    ------
    NotApplicableError
        No ``lr``, a step that needs a closure, or no trained parameter of the model in any group.
    ValueError
        All rates are 0, or one is negative or not finite.
    """
    kind = type(optimizer).__name__
    argument = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs_closure = argument is not None and argument.default is argument.empty
    if isinstance(optimizer, torch.optim.LBFGS) or needs_closure:
        raise NotApplicableError(
            f"{kind} evaluates the loss through a closure, several times per step; the trials take "
            "plain steps: choose the learning rate of such an optimizer by its line search"
        )
    own = {id(p) for p in model.parameters() if p.requires_grad}
    rates = []
    for k, group in enumerate(optimizer.param_groups):
        if "lr" not in group or group["lr"] is None:
            raise NotApplicableError(f"optimizer {kind} has no lr in parameter group {k}")
        if group.get("maximize"):
            raise NotApplicableError(
                "the optimizer has maximize=True, and the trials judge a rate by how far the loss "
                "falls; give minus the loss and maximize=False"
            )
        rate = float(group["lr"])
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"optimizer: the lr of parameter group {k} is {rate}")
        rates.append(rate)
    if not any(id(p) in own for g in optimizer.param_groups for p in g["params"]):
        raise NotApplicableError("all parameters that the optimizer holds are frozen")
    if not any(rates):
        raise ValueError("optimizer: all learning rates are 0; give a positive one to start from")
    return tuple(rates)


# -- the search ----------------------------------------------------------------------------------
def _search(task: Task, plan: Plan, seed: int, watch: Watch) -> tuple[Search, float, float]:
    """The finished search, the loss of the best constant output and the outputs' spread."""
    seed_globals(seed, 0)
    slope = _first_gradient(task, seed)
    check_reached(watch)
    seed_globals(seed, 0)
    model, loss, _ = copy_training(task.model, task.loss, task.optimizer)
    start, spread = held_loss(model, loss, task.held, task.batch_size)
    if not math.isfinite(start):
        raise NotApplicableError(
            f"the loss is {start} at the present parameters, before any step; no learning rate "
            "mends that: look at data and initialization"
        )
    constant, output_spread = constant_loss(model, loss, task.held, task.batch_size)
    search = Search(task, plan, start, max(abs(start), spread, 1e-30), slope)
    try:
        for _ in track(_rounds(search), "learning rate"):
            pass
    except NotApplicableError:
        raise
    except Exception as error:  # a user's optimizer or backward pass may raise anything
        raise NotApplicableError(
            f"a training step of the copy failed ({type(error).__name__}: {error})"
        ) from error
    finally:
        for trials in search.trials.values():
            for trial in trials:
                trial.release()
    return search, constant, output_spread


def _first_gradient(task: Task, seed: int) -> float:
    """Norm of the first batch's gradient on a copy; 0 means that no learning rate does anything."""
    model, loss, optimizer = copy_training(task.model, task.loss, task.optimizer)
    x, y = task.data
    rows = next(batches(len(x), task.batch_size, seed)).to(x.device)
    value = loss_of(model, loss, x[rows], y[rows.to(y.device)])
    check_own(value, model, loss, optimizer)
    optimizer.zero_grad()
    try:
        value.backward()
    except Exception as error:  # a loss without a gradient, say
        raise NotApplicableError(
            f"the backward pass of the loss failed ({type(error).__name__}: {error})"
        ) from error
    held = (p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None)
    return math.sqrt(sum(float(g.detach().to_dense().double().square().sum()) for g in held))


def _rounds(search: Search) -> Iterator[None]:
    yield from search.bracket()
    if search.low:
        yield from search.choose()
