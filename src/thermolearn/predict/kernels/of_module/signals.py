"""Covariances of signals and of their gradients, and what needs no weights: sums, factors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thermolearn.predict.kernels.of_module.layout import Layout, average_positions, equal_positions
from thermolearn.predict.kernels.of_module.operations import Op


@dataclass(frozen=True)
class Signal:
    """Second moments of a signal h over neurons, and of its gradients.

    Attributes
    ----------
    k : Tensor
        E h h'.
    theta : Tensor or None
        Sum over parameters of dh/dtheta dh'/dtheta, for every neuron the same; None for 0.
    own : Tensor or None
        Adds own * h h' to it, with the neuron's own h (a trained scale); None for 0.
    mean : Tensor or None
        E h (samples, *positions), when every input is paired with itself; None for 0.
    gain : str
        Name of the normalization behind `own`, or behind a theta that is `mixed`.
    mixed : bool
        Whether theta is an average over neurons, because `own` was taken into it.
    """

    k: Tensor
    theta: Tensor | None = None
    own: Tensor | None = None
    mean: Tensor | None = None
    gain: str = ""
    mixed: bool = False


@dataclass
class Profile:
    """Of single inputs, (samples, *positions): the variance that every activation reads; at every
    normalization E h, its mean over all that is normalized together, and the standard deviation."""

    variance: dict[int, Tensor] = field(default_factory=dict)
    norm: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    @staticmethod
    def joined(parts: list[Profile]) -> Profile:
        """Of all inputs, from those of parts of them."""

        whole = Profile()
        for k in parts[0].variance:
            whole.variance[k] = torch.cat([p.variance[k] for p in parts])
        for k in parts[0].norm:
            whole.norm[k] = tuple(map(torch.cat, zip(*(p.norm[k] for p in parts), strict=True)))
        return whole

    def select(self, index: Tensor) -> Profile:
        """Of some of the inputs."""
        return Profile(
            {k: v[index] for k, v in self.variance.items()},
            {k: tuple(t[index] for t in found) for k, found in self.norm.items()},
        )


class Sides:
    """Quantities of single inputs beside a covariance of two."""

    def __init__(self, lead: int, rank: int, full: bool, same: tuple[Tensor, ...] | None):
        self.lead, self.rank, self.full, self.same = lead, rank, full, same

    def left(self, t: Tensor) -> Tensor:
        """(n1, *positions) of the first input."""
        t = t if self.lead == 1 else t[:, None]
        return t.reshape(*t.shape, *(1,) * self.rank) if self.full else t

    def right(self, t: Tensor) -> Tensor:
        """(n2, *positions) of the second input."""
        n, positions = t.shape[:1], t.shape[1:]
        front = n if self.lead == 1 else (1, *n)
        between = (1,) * self.rank if self.full else ()
        return t.reshape(*front, *between, *positions)

    def averages(self, k: Tensor, q1: Tensor, q2: Tensor):
        """Averages of a dual activation over pairs of covariance k; equal inputs exactly so."""
        if self.same is None and not self.full:
            return lambda f, slope: f.diagonal(q1)
        if self.same is not None and len(self.same[0]):
            k = k.clone(memory_format=torch.contiguous_format)
            i, j = self.same
            flat = k.view(*k.shape[:2], -1)
            if self.full:
                n = q1[0].numel()
                flat = flat.view(*k.shape[:2], n, n).diagonal(dim1=-2, dim2=-1)
            flat[i, j] = q1[i].reshape(len(i), -1)
        a, b = self.left(q1), self.right(q2)
        return lambda f, slope: f.pair(a, b, k, slope=slope)


def folded(signal: Signal) -> Signal:
    """The part of a neuron's own value in the tangent kernel, averaged over neurons."""
    if signal.own is None:
        return signal
    part = signal.own * signal.k
    theta = part if signal.theta is None else signal.theta + part
    return Signal(signal.k, theta, None, signal.mean, signal.gain, True)


def equal_only(signal: Signal, layout: Layout) -> Signal:
    """The signal at equal positions alone, of one that holds all pairs of positions."""
    rank = len(layout.positions)

    def part(t: Tensor | None) -> Tensor | None:
        return None if t is None else equal_positions(t.expand_as(signal.k), rank)

    k = part(signal.k)
    assert k is not None
    return Signal(k, part(signal.theta), part(signal.own), signal.mean, signal.gain, signal.mixed)


def scaled(signal: Signal, a: float) -> Signal:
    """The signal times a constant: its kernels times the square."""
    times = lambda t, f: None if t is None else f * t  # noqa: E731
    return Signal(
        a * a * signal.k, times(signal.theta, a * a), signal.own, times(signal.mean, a),
        signal.gain, signal.mixed,
    )  # fmt: skip


def summed(
    op: Op,
    inputs: list[tuple[Signal, Layout]],
    layout: Layout | None,
    lead: int,
    full: bool,
) -> Signal:
    """Independent signals: kernels add, times the squared factors."""
    parts = []
    assert layout is not None
    for (signal, at), a in zip(inputs, op.factors, strict=True):
        signal = scaled(folded(signal), a)
        parts.append(signal if at == layout else tidy(signal, at, layout, lead, full))
    one, other = parts

    def add(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        return y if x is None else x if y is None else x + y

    return Signal(
        one.k + other.k, add(one.theta, other.theta), None, add(one.mean, other.mean),
        one.gain or other.gain, one.mixed or other.mixed,
    )  # fmt: skip


def tidy(signal: Signal, at: Layout, layout: Layout, lead: int, full: bool) -> Signal:
    """With positions in the order of the axes of the tensor."""
    sizes = layout.positions * 2 if full else layout.positions

    def part(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        t = average_positions(t.expand_as(signal.k), at, at.neuron_axis, full)
        return t.reshape(*t.shape[:lead], *sizes)

    k = part(signal.k)
    assert k is not None
    mean = signal.mean
    if mean is not None:
        mean = average_positions(mean, at, at.neuron_axis, False)
        mean = mean.reshape(len(mean), *layout.positions)
    return Signal(k, part(signal.theta), None, mean, signal.gain, signal.mixed)
