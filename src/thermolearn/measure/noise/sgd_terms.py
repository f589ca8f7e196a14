"""What one step of torch's SGD leaves behind, and the virial relation's terms in it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import _default_to_fused_or_foreach
from torch.optim.sgd import sgd

from thermolearn.core.errors import NotApplicableError

SMALL = (torch.float16, torch.bfloat16)  # rounding swallows small updates, and terms of a sum


def adds_in_place(parameters: list[Tensor], group: dict[str, Any]) -> bool:
    """Whether a step with Nesterov's momentum has left g + m v in the gradients.

    torch's implementation on lists of tensors (foreach, the default on CUDA) does, where neither
    weight decay nor maximize makes it copy the gradients first.
    """
    if float(group["weight_decay"]) != 0 or group.get("maximize"):
        return False
    foreach = group.get("foreach")
    if foreach is None and group.get("fused") is None:
        foreach = _default_to_fused_or_foreach(parameters, differentiable=False)[1]
    return bool(foreach) and _foreach_adds_in_place()


@lru_cache(maxsize=1)
@torch.no_grad()
def _foreach_adds_in_place() -> bool:
    """Whether this version of torch does so: one step of one number."""
    g = torch.ones(1)
    numbers: dict[str, Any] = {"weight_decay": 0.0, "momentum": 0.5, "lr": 0.1, "dampening": 0.0}
    sgd([torch.zeros(1)], [g], [None], foreach=True, nesterov=True, maximize=False, **numbers)
    return g.item() != 1


@lru_cache(maxsize=64)
def terms_of(
    m: float,
    rate: float,
    decay: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    in_place: bool,
) -> list[tuple[int, int, float, float]]:
    """The two sides as sums over scalar products (i, j, weight in the left, in the right side).

    Everything is a combination of the parameters after the step (0), p.grad (1) and the momentum v
    (2): theta before the step is theta + lr u, and g is p.grad, less m v if the step has added that
    in place. Products without weight are left out, so
    that nothing has to be copied and few products are taken.
    """
    if m != 0 and dampening == 1:
        raise NotApplicableError(
            "dampening=1 keeps all gradients out of the momentum; choose less than 1"
        )
    now, gradient, velocity = np.eye(3)
    if in_place:
        gradient = gradient - m * velocity
    sign = -1.0 if maximize else 1.0
    if m != 0 and not nesterov:
        update = velocity
        before = now + rate * update
        g = sign * gradient + decay * before
        right = rate * (1 + m) / (2 * (1 - dampening)) * np.outer(update, update)
    else:  # the update itself holds the decay of the parameters
        if rate * decay == 1:
            raise NotApplicableError("lr x weight_decay = 1 forgets the parameters at every step")
        before = (now + rate * (sign * gradient + m * velocity)) / (1 - rate * decay)
        g = sign * gradient + decay * before
        update = g + m * velocity
        right = rate * (1 - m) / 2 * np.outer(update, update)
        right += rate * m**2 * np.outer(update, velocity)
    both = [form + form.T - np.diag(np.diag(form)) for form in (np.outer(before, g), right)]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    found = [(i, j, float(both[0][i, j]), float(both[1][i, j])) for i, j in pairs]
    return [term for term in found if term[2] or term[3]]


def mixing_factor(settings: dict[str, Any]) -> float:
    """(1 - m)/(2 lr (1 - t)): what turns a change of |theta|^2 into a gap of the two sides.

    `settings` are those of one parameter group; NaN without a positive learning rate.
    """
    rate = float(settings.get("lr") or 0.0)
    m, t = float(settings.get("momentum") or 0.0), float(settings.get("dampening") or 0.0)
    if not rate > 0 or (m != 0 and t == 1):
        return math.nan
    return (1 - m) / (2 * rate * (1 - (t if m != 0 else 0.0)))
