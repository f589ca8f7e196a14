"""The loss as a function of the trained parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that require gradients, by name.

    Raises
    ------
    NotApplicableError
        There is none.
    """
    parameters: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise NotApplicableError("the model has no parameter that requires a gradient")
    return parameters


def mean_loss(model: nn.Module, loss_fn: Any, x: Tensor, y: Tensor, reduction: str) -> Tensor:
    """The mean of the samples' losses, with its graph."""
    return loss_fn(model(x), y).mean() / (len(x) if reduction == "sum" else 1)


def flat_gradient(loss: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """The gradient in all parameters end to end (P,), float64; zero where the loss has none."""
    parts = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return torch.cat([p.reshape(-1) for p in parts]).double()
