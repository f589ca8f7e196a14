"""Matrix-free products with J, G and G^{-1} of a feed-forward network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap

from thermolearn.measure.canonical.segments import Segment


class BlockOperator:
    """Products of a batch of vectors (B, P, N) with J, J^T and the sweeps M^{-1}, M^{-T}."""

    def __init__(self, blocks: Sequence[Tensor], widths: Sequence[int]):
        self.blocks, self.widths = list(blocks), list(widths)
        self.batch = self.blocks[0].shape[0]
        self.size = sum(self.widths)
        self.device = self.blocks[0].device

    def push(self, layer: int, v: Tensor) -> Tensor:
        """J_l v, (B, P, n_{l-1}) -> (B, P, n_l)."""
        return v @ self.blocks[layer - 1].mT

    def pull(self, layer: int, v: Tensor) -> Tensor:
        """J_l^T v, (B, P, n_l) -> (B, P, n_{l-1})."""
        return v @ self.blocks[layer - 1]

    def gram(self, v: Tensor) -> Tensor:
        """G v = M^T M v."""
        parts = v.split(self.widths, -1)
        errors = [parts[0]] + [parts[i] - self.push(i, parts[i - 1]) for i in range(1, len(parts))]
        out = [errors[i] - self.pull(i + 1, errors[i + 1]) for i in range(len(parts) - 1)]
        return torch.cat([*out, errors[-1]], -1)

    def inverse_gram(self, v: Tensor) -> Tensor:
        """G^{-1} v = M^{-1} M^{-T} v: one backward and one forward sweep."""
        parts = list(v.split(self.widths, -1))
        for i in range(len(parts) - 2, -1, -1):
            parts[i] = parts[i] + self.pull(i + 1, parts[i + 1])
        for i in range(1, len(parts)):
            parts[i] = parts[i] + self.push(i, parts[i - 1])
        return torch.cat(parts, -1)


class SegmentOperator(BlockOperator):
    """The same products by forward- and reverse-mode derivatives of the segments.

    Parameters
    ----------
    call : callable
        ``call(module, state)``: a segment's module on a batch of states, in float64.
    segments : sequence of Segment
        One per layer l = 1..L of the ensemble.
    states : sequence of Tensor (B, ...)
        The fixed point, layers 0..L, in their own shapes.
    """

    def __init__(
        self,
        call: Callable[[nn.Module, Tensor], Tensor],
        segments: Sequence[Segment],
        states: Sequence[Tensor],
    ):
        self.call, self.segments, self.states = call, list(segments), list(states)
        self.widths = [s[0].numel() for s in self.states]
        self.batch, self.size = states[0].shape[0], sum(self.widths)
        self.device = states[0].device

    def _function(self, layer: int) -> Any:
        module = self.segments[layer - 1].module
        return lambda u: self.call(module, u)

    @torch.no_grad()
    def push(self, layer: int, v: Tensor) -> Tensor:
        state, function = self.states[layer - 1], self._function(layer)

        def one(tangent: Tensor) -> Tensor:
            return jvp(function, (state,), (tangent,))[1]

        shaped = v.transpose(0, 1).reshape(v.shape[1], *state.shape)
        with self._named_errors(layer):
            return vmap(one)(shaped).flatten(2).transpose(0, 1)

    @torch.no_grad()
    def pull(self, layer: int, v: Tensor) -> Tensor:
        state = self.states[layer - 1]
        target = self.states[layer]
        shaped = v.transpose(0, 1).reshape(v.shape[1], *target.shape)
        with self._named_errors(layer):
            back = vjp(self._function(layer), state)[1]
            return vmap(lambda u: back(u)[0])(shaped).flatten(2).transpose(0, 1)

    @contextmanager
    def _named_errors(self, layer: int) -> Iterator[None]:
        """A missing derivative as a TypeError that names the segment."""
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            raise TypeError(
                f"segment {self.segments[layer - 1].name!r} has no products with its Jacobian: "
                f"{str(error).splitlines()[0]}"
            ) from error
