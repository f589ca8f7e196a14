"""What a random-feature model keeps of its activation: a linear part and noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from thermolearn.core.activation import Activation
from thermolearn.core.gaussian import gauss_nodes

NODES = 16  # per panel; moments and kinks are right to 1e-13


class LinearPart(NamedTuple):
    """f(u) = mean + slope u + residue, u ~ N(0, s): Hermite components of an activation."""

    mean: float
    """E f(u)"""
    slope: float
    """c1 = E f(u) u / s"""
    residue: float
    """b = E f(u)^2 - (E f(u))^2 - s c1^2, the variance of what is neither constant nor linear"""


def linear_part(activation: Activation, s: float) -> LinearPart:
    """Mean, slope and residual variance of an activation at pre-activations of variance s > 0.

    By Gauss-Legendre panels between kinks; for erf at s = 1 the slope is 2/sqrt(3 pi) and the
    residue (2/pi) asin(2/3) - 4/(3 pi).

    Raises
    ------
    TypeError
        The activation is not element-wise.
    ValueError
        It is not finite where it is needed.
    """
    u, weight = gauss_nodes(math.sqrt(s), NODES, activation.kinks)
    nodes = torch.from_numpy(u)
    with torch.no_grad():
        f = activation.function(nodes)
    if not isinstance(f, torch.Tensor) or f.shape != nodes.shape:
        raise TypeError(
            f"activation {activation.name!r} must map a tensor to a tensor of the same shape"
        )
    value = np.asarray(f.numpy(), dtype=np.float64)
    if not np.isfinite(value).all():
        raise ValueError(
            f"activation {activation.name!r} is not finite within 10 standard deviations of "
            f"pre-activations of variance {s:.6g}; scale the inputs down"
        )
    mean = float(weight @ value)
    centered = value - mean
    slope = float(weight @ (centered * u)) / s
    # as a sum of squares: the difference of moments cancels for activations that are nearly linear
    residue = float(weight @ (centered - slope * u) ** 2)
    scale = float(weight @ centered**2)
    return LinearPart(mean, slope, residue if residue > 1e-14 * scale else 0.0)
