"""The Jacobian of all neurons in its three forms: blocks, one dense matrix, products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thermolearn.measure.canonical.block import widths_of
from thermolearn.measure.canonical.operators import SegmentOperator


class JacobianBlocks(list):
    """The blocks J_l = dx_l/dx_{l-1} of a batch, shapes (B, n_l, n_{l-1}), input side first.

    Attributes
    ----------
    widths : list of int
        [n_0, ..., n_L] of the layers that belong to the ensemble.
    slopes : list of Tensor (B, n_l) or None
        f'_i of each target neuron; None where a segment is not element-wise.
    edges : list of Tensor (n_l, n_{l-1}), bool, or None
        Which connections exist.
    fixed_point : Tensor (B, N)
        The forward-pass state x*.
    not_elementwise : str
        Why slopes and edges are missing.
    samples_key : str or None
        Hash of the data batch: laws compare only ensembles of the same samples.
    """

    def __init__(
        self,
        blocks: Iterable[Tensor],
        widths: Sequence[int],
        fixed_point: Tensor,
        slopes: list[Tensor] | None = None,
        edges: list[Tensor] | None = None,
        not_elementwise: str = "",
        samples_key: str | None = None,
    ):
        super().__init__(blocks)
        self.widths = list(widths)
        self.fixed_point = fixed_point
        self.slopes = slopes
        self.edges = edges
        self.not_elementwise = not_elementwise
        self.samples_key = samples_key

    def samples(self, index: slice | Tensor) -> JacobianBlocks:
        """The same blocks for some of the samples."""
        return JacobianBlocks(
            [block[index] for block in self],
            self.widths,
            self.fixed_point[index],
            None if self.slopes is None else [s[index] for s in self.slopes],
            self.edges,
            self.not_elementwise,
        )


def device_of(matrix: Any) -> torch.device:
    """Where a Jacobian of any form lies."""
    if isinstance(matrix, JacobianBlocks):
        return matrix[0].device if len(matrix) else matrix.fixed_point.device
    return matrix.device


def sizes_of(matrix: Any) -> tuple[int, int]:
    """Samples B and neurons N of a Jacobian of any form."""
    if isinstance(matrix, Tensor):
        return matrix.shape[0], matrix.shape[-1]
    if isinstance(matrix, SegmentOperator):
        return matrix.batch, matrix.size
    return matrix.fixed_point.shape[0] if len(matrix) == 0 else len(matrix[0]), sum(matrix.widths)


def validated_jacobian(J: Any) -> Tensor | JacobianBlocks | SegmentOperator:
    """J in one of its three forms, in float64, checked."""
    if isinstance(J, SegmentOperator):
        return J
    if isinstance(J, Tensor):
        dense = (J if J.ndim == 3 else J.unsqueeze(0)).double()
        if dense.ndim != 3 or dense.shape[-1] != dense.shape[-2]:
            raise ValueError(f"a dense J must have shape (B, N, N), got {tuple(J.shape)}")
        _check_finite([dense])
        return dense
    if not isinstance(J, (list, tuple)) or (len(J) == 0 and not isinstance(J, JacobianBlocks)):
        raise ValueError("J must be a list of blocks, a tensor (B, N, N) or a SegmentOperator")
    blocks = [torch.as_tensor(b).double() for b in J]
    blocks = [b.unsqueeze(0) if b.ndim == 2 else b for b in blocks]
    for i, one in enumerate(blocks):
        if one.ndim != 3:
            raise ValueError(f"block {i} must have shape (B, n_l, n_l-1), got {tuple(one.shape)}")
        if i and (one.shape[-1] != blocks[i - 1].shape[-2] or one.shape[0] != blocks[0].shape[0]):
            raise ValueError(
                f"block {i} has shape {tuple(one.shape)}, which does not chain to block {i - 1} of "
                f"shape {tuple(blocks[i - 1].shape)}: J_l must be (B, n_l, n_l-1)"
            )
    _check_finite(blocks)
    if isinstance(J, JacobianBlocks):
        return JacobianBlocks(
            blocks, J.widths, J.fixed_point, J.slopes, J.edges, J.not_elementwise, J.samples_key
        )
    return JacobianBlocks(
        blocks,
        widths_of(blocks),
        blocks[0].new_zeros(blocks[0].shape[0], 0),
        not_elementwise="plain blocks carry no slopes: use NeuronSystem.jacobian_blocks(x)",
    )


def _check_finite(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.shape[0] == 0 or tensor.numel() == 0:
            raise ValueError("J is empty: it needs at least one sample and one neuron")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError("J has NaN or infinite values")
