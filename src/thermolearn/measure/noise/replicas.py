"""Replicas of a model under SGD with independent batches, as a `Dynamics`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core import checks
from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.noise.response import Dynamics
from thermolearn.measure.noise.training_mode import training_differs
from thermolearn.measure.setting import window_of
from thermolearn.measure.window import Pair

SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


def sgd_replicas(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    replicas: int = 8,
) -> Dynamics:
    """R copies of the model as it is, each under SGD on batches drawn with replacement.

    All replicas step at once (`torch.func.vmap`), in float64 and eval mode, on copies: the user's
    objects are not changed. Momentum starts at zero (give `burn_in`). For data, batch size and
    settings of a run this measures the effective temperature around where the run is: of a model
    that computes the same in training mode. Dropout and batch statistics are no part of it; the
    temperatures of a model that has them get the status "eval mode".

    Parameters
    ----------
    data : (x, y)
        The samples to draw from.
    optimizer : torch.optim.SGD
        Gives learning rate, momentum, dampening, weight decay and Nesterov; the parameters that it
        does not hold, or that are frozen, stay fixed.
    batch_size, replicas : int >= 1

    Raises
    ------
    TypeError, ValueError
        Bad arguments.
    NotApplicableError
        Not SGD, several learning rates, no trained parameter, or a model that cannot be run for
        several parameter vectors at once.
    """
    batch_size = checks.whole("batch_size", batch_size, least=1)
    replicas = checks.whole("replicas", replicas, least=1)
    settings = _settings(optimizer)
    with untouched():
        window = window_of(model, loss_fn, data, optimizer)
        twin, (x, y) = window.model, window.reference
        caveat = training_differs(twin, x)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    names = [n for n, p in model.named_parameters() if p.requires_grad and id(p) in held]
    own = dict(twin.named_parameters())
    if not names or not all(n in own for n in names):
        raise NotApplicableError("optimizer holds no trained parameter of the model")
    shapes = [own[n].shape for n in names]
    sizes = [s.numel() for s in shapes]
    first = torch.cat([own[n].detach().reshape(-1) for n in names]).double()

    def loss(theta: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
        parts = zip(names, theta.split(sizes), shapes, strict=True)
        values = {n: p.reshape(s).to(own[n].dtype) for n, p, s in parts}
        return window.loss_fn(torch.func.functional_call(twin, values, (xs,)), ys).mean()

    gradient = torch.func.vmap(torch.func.grad(loss))

    def draw(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(x), (replicas, batch_size), generator=generator, device="cpu")
        return index.to(x.device)

    def step(state: Tensor, index: Tensor, force: Tensor | float) -> Tensor:
        theta, velocity = state[:, 0], state[:, 1]
        g = gradient(theta, x[index], y[index]) + settings["weight_decay"] * theta - force
        m = settings["momentum"]
        velocity = m * velocity + (1 - settings["dampening"]) * g if m else g
        update = g + m * velocity if settings["nesterov"] else velocity
        return torch.stack([theta - settings["lr"] * update, velocity], 1)

    start = torch.stack([first, torch.zeros_like(first)]).repeat(replicas, 1, 1)
    try:
        step(start, draw(torch.Generator().manual_seed(0)), 0.0)
    except Exception as error:  # whatever a user's forward does under vmap
        raise NotApplicableError(
            f"the model does not run for several parameter vectors at once "
            f"({type(error).__name__}: {error}); write a Dynamics for it"
        ) from error
    # Nesterov: chi(1) = lr (1 + m), and <u^2> alone does not give the virial temperature
    factor = math.nan if settings["nesterov"] else 1 + settings["momentum"]
    return Dynamics(start, draw, step, settings["lr"], lambda state: state[:, 0], factor, caveat)


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The settings that all parameter groups share."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    if type(optimizer) is not torch.optim.SGD:
        raise NotApplicableError(
            f"{type(optimizer).__name__} has no single effective temperature: only SGD is covered"
        )
    found = {tuple(float(g[k]) for k in SETTINGS) for g in optimizer.param_groups}
    if len(found) > 1 or any(g["maximize"] for g in optimizer.param_groups):
        raise NotApplicableError(
            "the parameter groups differ in their settings, or maximize: no single temperature"
        )
    settings: dict[str, float] = dict(zip(SETTINGS, next(iter(found)), strict=True))
    if not settings["lr"] > 0:
        raise ValueError(f"optimizer: the learning rate must be positive, got {settings['lr']}")
    return settings
