"""Element-wise activations: by name, as a torch module or as a callable."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
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


# What torch's modules and functions of the same name are called above; they bring their kinks.
MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "linear", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu", nn.ELU: "elu", nn.Hardtanh: "hardtanh", nn.GELU: "gelu",
    nn.SiLU: "silu", nn.Softplus: "softplus",
}  # fmt: skip


# Kinks away from 0 of torch's piecewise functions at their default arguments.
FUNCTION_KINKS: tuple[tuple[Callable[..., Tensor], tuple[float, ...]], ...] = (
    (F.hardtanh, (-1.0, 1.0)), (F.relu6, (0.0, 6.0)), (F.hardswish, (-3.0, 3.0)),
    (F.hardsigmoid, (-3.0, 3.0)), (F.hardshrink, (-0.5, 0.5)), (F.softshrink, (-0.5, 0.5)),
)  # fmt: skip


def resolve_activation(activation: str | Callable[[Tensor], Tensor] | Activation) -> Activation:
    """An activation given by name (`ACTIVATIONS`), as a module or as an element-wise callable.

    A callable may carry an attribute ``kinks``, a tuple of the points where it or its slope is
    not smooth; 0 is always treated as one, and those of torch's own functions and modules are
    known. A module (``nn.LeakyReLU(0.2)``) is used as it is, in
    the precision and on the device of what it is applied to, if it has no parameters.

    Raises
    ------
    ValueError
        Unknown name; the message lists the known ones.
    TypeError
        Neither a name nor a callable.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is not known; use one of "
                f"{', '.join(ACTIVATIONS)}, or give a torch callable"
            )
        return Activation(activation, *ACTIVATIONS[activation])
    if isinstance(activation, type) or not callable(activation):
        given = activation.__name__ if isinstance(activation, type) else type(activation).__name__
        raise TypeError(
            f"activation must be a name, a module or a torch callable, got {given}"
            + (f"; give {given}(), an instance" if isinstance(activation, type) else "")
        )
    if isinstance(activation, nn.Module):
        return Activation(type(activation).__name__, activation, _kinks_of(activation))
    name = getattr(activation, "__name__", type(activation).__name__)
    known = next((kinks for f, kinks in FUNCTION_KINKS if f is activation), ())
    kinks = tuple(float(k) for k in getattr(activation, "kinks", known))
    return Activation(name, activation, kinks)


def _kinks_of(module: nn.Module) -> tuple[float, ...]:
    if isinstance(module, nn.Hardtanh):
        return (float(module.min_val), float(module.max_val))
    if isinstance(module, nn.Hardswish | nn.Hardsigmoid):
        return (-3.0, 3.0)
    if isinstance(module, nn.Hardshrink | nn.Softshrink):
        return (-float(module.lambd), float(module.lambd))
    if isinstance(module, nn.Threshold):
        return (float(module.threshold),)
    known = MODULES.get(type(module))
    given = ACTIVATIONS[known][1] if known else getattr(module, "kinks", ())
    return tuple(float(k) for k in given)


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


class Elementwise(nn.Module):
    """An activation of one's own that is applied element by element.

    Models that hold such a module are traced without looking inside it, so that its ``forward``
    may check its argument or branch on it; a tuple ``kinks`` names where it is not smooth.
    """
