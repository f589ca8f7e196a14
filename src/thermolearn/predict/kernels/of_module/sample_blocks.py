"""Samples as they are given, and the blocks of pairs in which a Gram matrix is computed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from thermolearn.predict.kernels.of_module.plan import Plan

ARRAYS = 16  # covariances of a block that are alive at once, with those inside a dual activation
CACHE = 2.0**24  # bytes of a block that is fastest


def as_samples(name: str, given: Any, like: Tensor | None = None) -> Tensor:
    """Samples (n, ...) as float64 on their device; `like`: others of the same shape.

    Raises
    ------
    ValueError
        No axis of samples, none of them, NaN or infinite, or not like the others.
    TypeError
        Not real numbers.
    """
    try:
        x = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or array of real numbers (n, ...)") from error
    if x.dim() < 2 or len(x) == 0:
        raise ValueError(
            f"{name} must have shape (n, ...) with at least one sample of at least one axis, got "
            f"{tuple(x.shape)}"
        )
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {x.dtype}")
    x = x.detach().double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} has entries that are not finite (NaN or inf)")
    if like is not None and (x.shape[1:] != like.shape[1:] or x.device != like.device):
        raise ValueError(
            f"X2 must have samples of shape {tuple(like.shape[1:])} on {like.device}, as X, got "
            f"{tuple(x.shape[1:])} on {x.device}"
        )
    return x


def pairs_at_once(plan: Plan, memory: float) -> int:
    """Number of pairs of samples of a block: no more than fit into the cache, or one."""
    one = 8.0 * ARRAYS * plan.pair_elements()
    if one > memory:
        raise ValueError(
            f"one pair of samples takes {one / 2**30:.3g} GiB ({plan.pair_elements():.3g} pairs of "
            f"positions, which an average over positions mixes), memory = {memory / 2**30:.3g} "
            "GiB: use inputs of fewer positions, a stride in the first layers, Flatten and Linear "
            "instead of the average, or raise memory="
        )
    return int(min(memory, max(one, CACHE)) / one)


def tiles(rows: int, columns: int, pairs: int, symmetric: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of every block, on and above the diagonal only if symmetric."""
    step = math.isqrt(pairs)
    cut = lambda n: [slice(at, min(at + step, n)) for at in range(0, n, step)]  # noqa: E731
    return [(i, j) for i in cut(rows) for j in cut(columns) if not symmetric or j.start >= i.start]


def refuse_slow(seconds: float, total: int, hours: float) -> None:
    """ValueError if `total` blocks of so many seconds take longer than that."""
    needed = seconds * total / 3600
    if needed > hours:
        raise ValueError(
            f"the Gram matrix would take about {needed:.3g} hours ({total} blocks of "
            f"{seconds:.3g} s), more than hours = {hours:g}: use fewer samples or inputs of fewer "
            "positions, Flatten and Linear instead of an average over positions, or raise hours="
        )
