"""A private copy of a model, in eval mode and one precision; nothing else moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.copying import private_copy, unwrap
from thermolearn.core.errors import NotApplicableError


def private_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`core.copying.private_copy` of a model, or of what a wrapper holds, in another precision.

    Raises
    ------
    TypeError
        Not an nn.Module.
    NotApplicableError
        Parameters without numbers (lazy, meta, sharded), or a model that cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    return private_copy(unwrap(model)).to(dtype)


def check_copied(model: nn.Module, outputs: Tensor) -> None:
    """Raise NotApplicableError if outputs of the copy still depend on the model's own parameters.

    A function kept as an attribute (``layer.forward = lambda ...``) is not copied with the model.
    """
    own = [p for p in model.parameters() if p.requires_grad]
    if outputs.requires_grad:
        found = torch.autograd.grad(outputs.sum(), own, allow_unused=True, retain_graph=True)
        if any(g is not None for g in found):
            raise NotApplicableError(
                "a copy of the model still uses the original's parameters, through a function or "
                "lambda that refers to them; make it a method of a class"
            )


def as_samples(name: str, x: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Samples (n, ...) as a detached tensor; integers stay integers, numbers become `dtype`.

    Raises
    ------
    TypeError
        Not an array or tensor of numbers.
    ValueError
        No sample axis, no sample, or a number that is not finite.
    """
    try:
        tensor = torch.as_tensor(x).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or an array of numbers: {error}") from error
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}")
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(
            f"{name} must have a sample axis and at least one number, shape {tuple(tensor.shape)}"
        )
    tensor = tensor.to(device)
    if not tensor.is_floating_point():
        return tensor
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite, it holds NaN or infinity")
    return tensor.to(dtype)
