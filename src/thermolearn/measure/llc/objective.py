"""A loss on batched positions, and the tempered potential made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thermolearn.core import langevin

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss L on batched positions, and what is known at w*.

    Attributes
    ----------
    value_and_gradient : callable
        (C, d) -> L (C,), grad L (C, d), of all data.
    values : callable
        (B, d) -> L (B,) for any B.
    w0 : Tensor (d,)
    loss, gradient : float, Tensor (d,)
        L and grad L at w*.
    stochastic : callable, optional
        (C, d), generator -> L_B(w) - L_B(w*) (C,) or None, grad L_B (C, d), on a random minibatch
        for each chain; without it SGLD takes `value_and_gradient`.
    noisy : bool
        Whether `stochastic` is a minibatch, not just the gradient without the value.
    supplied : bool
        Whether the gradient is the user's own, to be compared with the function.
    eps : float
        Rounding of the values, relative.
    """

    value_and_gradient: ValueAndGradient
    values: Callable[[Tensor], Tensor]
    w0: Tensor
    loss: float
    gradient: Tensor
    stochastic: Callable[[Tensor, torch.Generator], tuple[Tensor | None, Tensor]] | None = None
    noisy: bool = False
    supplied: bool = False
    eps: float = torch.finfo(torch.float64).eps


def tempered(objective: Objective, n_beta: float, gamma: float) -> langevin.Potential:
    """U(w) = n beta (L(w) - L(w*)) + gamma/2 |w - w*|^2 with its gradient, of all data."""

    def potential(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = objective.value_and_gradient(x)
        away = x - objective.w0
        energy = torch.sub(loss, objective.loss).mul_(n_beta)
        energy.add_(torch.linalg.vecdot(away, away), alpha=0.5 * gamma)
        return energy, away.mul_(gamma).add_(gradient, alpha=n_beta)

    return potential
