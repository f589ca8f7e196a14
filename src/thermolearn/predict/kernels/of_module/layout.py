"""Which axes of a layer's output count neurons and which count positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from thermolearn.core.errors import NotApplicableError

NEURONS = -1


@dataclass(frozen=True)
class Layout:
    """The axes of a tensor (batch, ...) as products of one axis of neurons and of positions.

    Attributes
    ----------
    width : int
        Number of neurons (channels): equal in law, averaged over in the wide limit.
    positions : tuple of int
        Sizes of the position axes of a covariance: (..., *positions) where only equal positions
        are kept, (..., *positions, *positions) where all pairs are.
    axes : tuple of tuple of int
        For every axis of the tensor behind the batch axis what it is made of: indices into
        `positions`, and `NEURONS`. After Flatten of (n, C, H, W): ((NEURONS, 0, 1),).
    """

    width: int
    positions: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @property
    def neuron_axis(self) -> int:
        """The axis (behind the batch axis) that holds the neurons."""
        return next(i for i, axis in enumerate(self.axes) if NEURONS in axis)

    @property
    def count(self) -> int:
        """Number of positions."""
        return math.prod(self.positions)

    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(self._size(f) for f in axis) for axis in self.axes)

    def _size(self, factor: int) -> int:
        return self.width if factor == NEURONS else self.positions[factor]

    def reshaped(self, shape: tuple[int, ...], name: str) -> Layout:
        """After a reshape that keeps the order of the entries.

        Raises
        ------
        NotApplicableError
            The reshape cuts through the neurons or through an axis of positions.
        """
        waiting = [f for axis in self.axes for f in axis]
        axes: list[tuple[int, ...]] = []
        for size in shape:
            axis: list[int] = []
            have = 1
            while have < size and waiting:
                axis.append(waiting.pop(0))
                have *= self._size(axis[-1])
            if have != size:
                raise NotApplicableError(
                    f"{name} regroups (samples, {', '.join(map(str, self.sizes()))}) to (samples, "
                    f"{', '.join(map(str, shape))}), which cuts an axis of neurons or positions "
                    "in pieces: neurons are no longer equal in law and there is no kernel; "
                    "reshape whole axes only"
                )
            axes.append(tuple(axis))
        if waiting:  # axes of size 1
            last = next((i for i, a in enumerate(axes) if not a), len(axes) - 1)
            axes[last] = (*axes[last], *waiting)
        return replace(self, axes=tuple(axes))

    def permuted(self, order: tuple[int, ...]) -> Layout:
        """After a permutation of the axes behind the batch axis."""
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def without(self, axis: int) -> Layout:
        """The other axes alone (a layout without neurons), their positions in order."""
        kept = [a for i, a in enumerate(self.axes) if i != axis]
        order = [f for a in kept for f in a]
        rank = {f: i for i, f in enumerate(order)}
        return Layout(
            self.width,
            tuple(self.positions[f] for f in order),
            tuple(tuple(rank[f] for f in a) for a in kept),
        )


def average_positions(k: Tensor, layout: Layout, axis: int, full: bool) -> Tensor:
    """Mean over equal positions within one axis of the tensor; the rest in order of the axes.

    The covariance of sum over the axis of W h / sqrt(size), with weights of their own for every
    neuron and position: sum_p K(p, p) / P for the positions p that share the axis with the neurons.
    """
    inside = [f for f in layout.axes[axis] if f != NEURONS]
    kept = [f for i, a in enumerate(layout.axes) if i != axis for f in a]
    rank = len(layout.positions)
    lead = k.dim() - rank * (2 if full else 1)
    first = [lead + f for f in kept] + [lead + f for f in inside]
    if not full:
        k = k.permute(*range(lead), *first)
        return k.flatten(lead + len(kept)).mean(-1) if inside else k
    second = [f + rank for f in first]
    k = k.permute(*range(lead), *first[: len(kept)], *second[: len(kept)],
                  *first[len(kept):], *second[len(kept):])  # fmt: skip
    if not inside:
        return k
    start = lead + 2 * len(kept)
    n = math.prod(layout.positions[f] for f in inside)
    return k.reshape(*k.shape[:start], n, n).diagonal(dim1=-2, dim2=-1).mean(-1)


def equal_positions(k: Tensor, rank: int) -> Tensor:
    """K(p, p) of a covariance (..., *positions, *positions) of `rank` position axes."""
    if rank == 0:
        return k
    lead = k.dim() - 2 * rank
    positions = k.shape[lead : lead + rank]
    n = math.prod(positions)
    return k.reshape(*k.shape[:lead], n, n).diagonal(dim1=-2, dim2=-1).unflatten(-1, positions)
