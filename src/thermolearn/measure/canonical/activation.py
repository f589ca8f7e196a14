"""What a random network is made of: widths, variances and element-wise activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Activation(NamedTuple):
    """A scalar function f: R -> R applied to every neuron, and where f or f' has a kink."""

    name: str
    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...]


def _linear(z: Tensor) -> Tensor:
    return z


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...]]] = {
    "linear": (_linear, ()),
    "tanh": (torch.tanh, ()),
    "erf": (torch.erf, ()),
    "sigmoid": (torch.sigmoid, ()),
    "relu": (torch.relu, (0.0,)),
    "leaky_relu": (F.leaky_relu, (0.0,)),
    "elu": (F.elu, (0.0,)),
    "hardtanh": (F.hardtanh, (-1.0, 1.0)),
    "gelu": (F.gelu, ()),
    "silu": (F.silu, ()),
    "softplus": (F.softplus, ()),
}


def resolve_activation(activation: str | Callable[[Tensor], Tensor]) -> Activation:
    """An activation given by name (`ACTIVATIONS`) or as an element-wise torch callable.

    A callable may carry an attribute ``kinks``, a tuple of the points where it or its slope is
    not smooth; 0 is always treated as one.

    Raises
    ------
    ValueError
        Unknown name; the message lists the known ones.
    TypeError
        Neither a name nor a callable.
    """
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is not known; use one of "
                f"{', '.join(ACTIVATIONS)}, or give a torch callable"
            )
        return Activation(activation, *ACTIVATIONS[activation])
    if not callable(activation):
        raise TypeError(
            f"activation must be a name or a torch callable, got {type(activation).__name__}"
        )
    name = getattr(activation, "__name__", type(activation).__name__)
    kinks = tuple(float(k) for k in getattr(activation, "kinks", ()))
    return Activation(name, activation, kinks)


def value_and_slope(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and f'(z), the slope by automatic differentiation (at a kink: torch's subgradient).

    Raises
    ------
    TypeError
        The callable is not element-wise or cannot be differentiated by torch.
    """
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        f = activation.function(z)
        if not isinstance(f, Tensor) or f.shape != z.shape:
            raise TypeError(
                f"activation {activation.name!r} must map a tensor to a tensor of the same shape"
            )
        if not f.requires_grad:
            raise TypeError(
                f"activation {activation.name!r} cannot be differentiated by torch; build it "
                "from differentiable torch operations"
            )
        (slope,) = torch.autograd.grad(f.sum(), z)
    return f.detach(), slope


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """The widths as integers; ValueError unless there are two or more, each at least 1."""
    try:
        sizes = tuple(int(n) for n in widths)
    except TypeError as error:
        raise ValueError(f"widths must be a sequence of integers, got {widths!r}") from error
    if len(sizes) < 2:
        raise ValueError(f"widths needs an input layer and at least one more, got {widths!r}")
    if any(n < 1 or n != given for n, given in zip(sizes, widths, strict=True)):
        raise ValueError(f"widths must be integers of at least 1, got {widths!r}")
    return sizes


def check_variances(sigma_w2: float, sigma_b2: float, q0: float) -> None:
    """ValueError unless all three are finite and not negative."""
    for name, value in (("sigma_w2", sigma_w2), ("sigma_b2", sigma_b2), ("q0", q0)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {value!r}")
