"""LayerNorm and RMSNorm behind many neurons: division by numbers that no longer fluctuate."""

from __future__ import annotations

import torch
from torch import Tensor

from thermolearn.predict.kernels.of_module.layout import Layout, equal_positions
from thermolearn.predict.kernels.of_module.operations import Norm, Op
from thermolearn.predict.kernels.of_module.signals import Sides, Signal, folded


def _inside(norm: Norm, layout: Layout) -> list[int]:
    """The positions that are normalized together with the neurons."""
    axes = layout.axes[len(layout.axes) - len(norm.shape) :]
    return [f for axis in axes for f in axis if f >= 0]


def statistics(
    name: str, norm: Norm, signal: Signal, layout: Layout, sides: Sides
) -> tuple[Tensor, Tensor, Tensor]:
    """Of single inputs: m = E h, M = <m> and s = sqrt(<E h^2> - M^2 + eps), <.> the mean over the
    positions that are normalized together; m and M are 0 without centering.

    Raises
    ------
    ValueError
        s = 0.
    """
    q = equal_positions(signal.k, sides.rank) if sides.full else signal.k
    m = signal.mean if norm.centered and signal.mean is not None else torch.zeros_like(q)
    dims = [1 + f for f in _inside(norm, layout)]
    average = lambda t: t.mean(dims, keepdim=True).expand_as(t) if dims else t  # noqa: E731
    square = average(q) - average(m) ** 2 + norm.eps
    if not bool((square > 0).all()):
        raise ValueError(
            f"{name} divides by zero: what it reads does not vary between neurons for some input "
            "of X, and eps is 0"
        )
    return m, average(m), square.sqrt()


def normalized(
    norm: Norm,
    signal: Signal,
    layout: Layout,
    one: tuple[Tensor, ...],
    other: tuple[Tensor, ...],
    sides: Sides,
) -> Signal:
    """K' = w^2 (K - m M' - M m' + M M') / (s s'), T' = w^2 T / (s s').

    Mean and standard deviation are averages over neurons, which become sharp in the wide limit;
    so do their gradients, of which one neuron is a vanishing part. Behind an activation m is not
    zero; over neurons alone K - m M' - M m' + M M' = K - m m'.
    """
    (m1, t1, s1), (m2, t2, s2) = one, other
    left, right = sides.left, sides.right
    signal = folded(signal)
    k = signal.k
    if norm.centered and (bool(m1.any()) or bool(m2.any())):
        k = k - left(m1) * right(t2) - left(t1) * right(m2) + left(t1) * right(t2)
    factor = norm.weight**2 / (left(s1) * right(s2))
    theta = None if signal.theta is None else signal.theta * factor
    mean = None
    if sides.same is None and signal.mean is not None:
        mean = norm.weight * (signal.mean - t1) / s1
    return Signal(k * factor, theta, None, mean, signal.gain, signal.mixed)


def with_gains(op: Op, signal: Signal, layout: Layout, sides: Sides) -> Signal:
    """What trained gains w and shifts of the normalization add to the tangent kernel.

    Of u = w h^: the gain adds h^ h^' = u u' / w^2 with every neuron's own u, the shift 1; both
    only between equal positions where these have gains of their own.
    """
    norm, k = op.norm, signal.k
    assert norm is not None
    mask = k.new_ones((1,) * k.dim())
    for f in _inside(norm, layout) if sides.full else ():
        n = layout.positions[f]
        shape = [1] * k.dim()
        shape[sides.lead + f] = shape[sides.lead + sides.rank + f] = n
        mask = mask * torch.eye(n, dtype=k.dtype, device=k.device).reshape(shape)
    theta = signal.theta
    if norm.trained[1]:
        theta = mask.expand_as(k) if theta is None else theta + mask
    if not norm.trained[0]:
        return Signal(k, theta, None, signal.mean, signal.gain, signal.mixed)
    return Signal(k, theta, mask / norm.weight**2, signal.mean, op.name, signal.mixed)
