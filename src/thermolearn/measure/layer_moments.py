"""First and second moments of the pre-activations of every layer, with what an error bar needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.window import CHUNK, evaluate

BLOCKS = 16  # for the jackknife
FEWEST_INPUTS = 8  # with fewer the error bar is taken over units

Layer = (
    nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)  # fmt: skip


@dataclass(frozen=True)
class LayerMoments:
    """Sums over the pre-activations z_iu of one layer (input i, unit u).

    Every array starts with the sum over all, followed by the sums without one block each.

    Attributes
    ----------
    over : "inputs" or "units"
        What the blocks consist of.
    width : int
        Units.
    inputs, units : ndarray (1 + blocks,)
        How many of them are in the sums.
    total, square, paired : ndarray (1 + blocks,)
        sum_iu z_iu, sum_iu z_iu^2 and sum_u (sum_i z_iu)^2.
    """

    over: str
    width: int
    inputs: np.ndarray
    units: np.ndarray
    total: np.ndarray
    square: np.ndarray
    paired: np.ndarray

    @property
    def count(self) -> np.ndarray:
        """Of inputs or units, whichever are resampled."""
        return self.inputs if self.over == "inputs" else self.units

    def statistics(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and variance, pooled over inputs and units, and the correlation of two inputs.

        c = sum_u sum_{i != j} (z_iu - mu)(z_ju - mu) / [(n - 1) sum_iu (z_iu - mu)^2]; NaN for
        one input. Arrays (1 + blocks,).
        """
        mean = self.total / (self.inputs * self.units)
        deviations = np.maximum(self.square - self.total * mean, 0.0)
        together = self.paired - self.units * (self.inputs * mean) ** 2 - deviations
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = together / ((self.inputs - 1) * deviations)
        # a constant has a variance of rounding
        real = deviations > 1e-24 * self.square
        variance = np.where(real, deviations / (self.inputs * self.units), 0.0)
        several = (self.inputs > 1) & real
        return mean, variance, np.where(several, np.minimum(correlation, 1.0), math.nan)


def layer_moments(model: nn.Module, x: Tensor) -> dict[str, LayerMoments]:
    """Sums over the outputs of Linear and Conv layers of a private copy, in calling order.

    A layer that is called again (tied weights) appears again, as "name (2)".

    Raises
    ------
    NotApplicableError
        Fewer than two such layers run, or what they give is not finite.
    """
    n = len(x)
    pieces = x.split(min(-(-n // min(BLOCKS, n)), CHUNK) if n >= FEWEST_INPUTS else n)
    collected: dict[str, list[Tensor]] = {}
    for piece in pieces:
        with preactivations(model) as seen:
            evaluate(model, piece)
        for name, z in seen.items():
            if len(z) != len(piece):
                raise NotApplicableError(
                    f"layer {name} has {len(z)} rows for {len(piece)} inputs: the first axis must "
                    "count the inputs"
                )
            # of a block of inputs three numbers and one vector are kept
            z = z.flatten(1)
            collected.setdefault(name, []).append(z if n < FEWEST_INPUTS else _summed(z))
    if len(collected) < 2:
        raise NotApplicableError(
            "at least two Linear or Conv layers must be called as modules to be compared along "
            f"depth, the model has {len(collected)}"
        )
    if any(len(parts) != len(pieces) for parts in collected.values()):
        raise NotApplicableError("the model does not call the same layers for all inputs")
    sizes = np.array([len(p) for p in pieces])
    make = _over_units if n < FEWEST_INPUTS else _over_inputs
    moments = {name: make(parts, sizes) for name, parts in collected.items()}
    for name, m in moments.items():
        if not (np.isfinite(m.total).all() and np.isfinite(m.square).all()):
            raise NotApplicableError(f"the pre-activations of layer {name} are not finite")
    return moments


def _summed(z: Tensor) -> Tensor:
    """Sums of z^2 and, per unit, of z over the inputs of a block, (1 + units,)."""
    total = z.new_empty(1 + z.shape[1])
    total[0], total[1:] = z.square().sum(), z.sum(0)
    return total


def _over_inputs(parts: list[Tensor], sizes: np.ndarray) -> LayerMoments:
    blocks = np.stack([p.cpu().numpy() for p in parts])
    blocks = np.concatenate([blocks.sum(0)[None], blocks.sum(0) - blocks])
    columns = blocks[:, 1:]
    inputs = np.concatenate([[sizes.sum()], sizes.sum() - sizes])
    width = columns.shape[1]
    units = np.full(len(blocks), width)
    paired = (columns**2).sum(1)
    return LayerMoments("inputs", width, inputs, units, columns.sum(1), blocks[:, 0], paired)


def _over_units(parts: list[Tensor], sizes: np.ndarray) -> LayerMoments:
    z = parts[0].cpu().numpy()
    width = z.shape[1]
    of_units = np.stack([np.ones(width), z.sum(0), (z**2).sum(0), z.sum(0) ** 2], axis=1)
    blocks = np.array([part.sum(0) for part in np.array_split(of_units, min(BLOCKS, width))])
    units, total, square, paired = np.concatenate([[blocks.sum(0)], blocks.sum(0) - blocks]).T
    if width == 1:  # nothing is left without the only unit
        units, total, square, paired = (a[:1] for a in (units, total, square, paired))
    inputs = np.full(len(units), sizes[0])
    return LayerMoments("units", width, inputs, units, total, square, paired)


@contextmanager
def preactivations(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect what Linear and Conv layers of a private copy return, in float64."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            k, label = 1, name
            while label in seen:
                k += 1
                label = f"{name} ({k})"
            seen[label] = out.detach().double()

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Layer)]
    hooks = [m.register_forward_hook(keep(name or "(model)")) for name, m in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
