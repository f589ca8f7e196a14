"""Convolutions acting on the covariance of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.errors import NotApplicableError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Window:
    """The positions that one output position of a convolution reads, axis by axis."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def window_of(name: str, module: Any) -> Window:
    """The window of a Conv1d, Conv2d or Conv3d.

    Raises
    ------
    NotApplicableError
        Groups, or a padding that is not with zeros.
    """
    if module.groups != 1:
        raise NotApplicableError(
            f"{name} has groups = {module.groups}: each output reads {module.weight.shape[1]} of "
            f"{module.in_channels} channels, and the kernel of wide layers is no limit of that; "
            "use groups=1"
        )
    if module.padding_mode != "zeros":
        raise NotApplicableError(
            f"{name} pads with {module.padding_mode!r}; only padding with zeros has its kernel "
            "here: use padding_mode='zeros'"
        )
    size, dilation = tuple(module.kernel_size), tuple(module.dilation)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    elif module.padding == "valid":
        padding = tuple((0, 0) for _ in size)
    else:
        padding = tuple((int(p), int(p)) for p in module.padding)
    return Window(size, tuple(module.stride), padding, dilation)


def window_mean(k: Tensor, window: Window, lead: int, full: bool) -> Tensor:
    """(1 / |window|) sum_o K(s p + o, s p' + o), positions outside counting as zero.

    The covariance of a convolution with weights of variance 1 / fan-in, of a signal with
    covariance K (..., *positions[, *positions]) between neurons of one kind
    (arXiv:1810.05148, eq. 7; arXiv:1904.11955, section 4). A sum over one axis after the other.
    """
    rank = len(window.size)
    for d in range(rank):
        axes = [lead + d] + ([lead + rank + d] if full else [])
        k = _slide(k, axes, window, d)
    return k


def _slide(k: Tensor, axes: Sequence[int], window: Window, d: int) -> Tensor:
    before, after = window.padding[d]
    if before or after:
        pad = [0, 0] * k.dim()
        for axis in axes:
            at = 2 * (k.dim() - 1 - axis)
            pad[at], pad[at + 1] = before, after
        k = F.pad(k, pad)
    size, stride, dilation = window.size[d], window.stride[d], window.dilation[d]
    count = (k.shape[axes[0]] - dilation * (size - 1) - 1) // stride + 1
    total = None
    for o in range(size):
        part = k
        for axis in axes:
            part = part.narrow(axis, o * dilation, (count - 1) * stride + 1)
            if stride > 1:
                index = [slice(None)] * part.dim()
                index[axis] = slice(None, None, stride)
                part = part[tuple(index)]
        total = part.clone() if total is None else total.add_(part)
    assert total is not None
    return total.div_(size)
