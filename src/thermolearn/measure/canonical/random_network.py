"""Random feed-forward networks: the Jacobian blocks that the wide limit speaks about."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thermolearn.core.activation import resolve_activation, value_and_slope
from thermolearn.core.checks import check_variances, check_widths


def sampled_network(
    widths: Sequence[int],
    sigma_w2: float,
    sigma_b2: float,
    activation: str | Callable[[Tensor], Tensor],
    q0: float = 1.0,
    seed: int = 0,
    output_activation: str | Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Draw one network and one input, and return the Jacobian blocks along the forward pass.

    x_l = f(W_l x_{l-1} + b_l), W_l ~ N(0, sigma_w2 / n_{l-1}), b_l ~ N(0, sigma_b2), x_0 uniform
    on the sphere |x_0|^2 = q0 n_0;  J_l = diag(f'(W_l x_{l-1} + b_l)) W_l.

    Parameters
    ----------
    widths : sequence of int
        Neurons per layer n_0, ..., n_L, at least two layers.
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, and bias variance; not negative.
    activation : str or callable
        Name or element-wise torch callable of layers 1..L.
    q0 : float
        Squared length of the input per input neuron; not negative.
    seed : int
        Seed of a private generator.
    output_activation : str or callable, optional
        Activation of the last layer if it differs, e.g. ``"linear"``.

    Returns
    -------
    list of Tensor
        L blocks of shape (1, n_l, n_{l-1}), float64.

    Raises
    ------
    ValueError, TypeError
        A parameter out of range, or an activation that cannot be used.
    """
    sizes = check_widths(widths)
    check_variances(sigma_w2, sigma_b2, q0)
    hidden = resolve_activation(activation)
    output = hidden if output_activation is None else resolve_activation(output_activation)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(sizes[0])
    x = x * math.sqrt(q0 * sizes[0]) / torch.linalg.vector_norm(x)
    blocks = []
    for layer, (fan_in, n) in enumerate(itertools.pairwise(sizes), start=1):
        weight = normal(n, fan_in) * math.sqrt(sigma_w2 / fan_in)
        bias = normal(n) * math.sqrt(sigma_b2)
        function = output if layer == len(sizes) - 1 else hidden
        x, slope = value_and_slope(function, weight @ x + bias)
        blocks.append((slope[:, None] * weight)[None])
    return blocks
