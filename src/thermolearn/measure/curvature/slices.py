"""The loss along random directions whose size follows the weights filter by filter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.measure.curvature.hessian import private_window
from thermolearn.measure.learning import loss_estimate
from thermolearn.measure.objective import trained_parameters
from thermolearn.measure.window import Pair, Window, evaluate

Direction = Mapping[str, Tensor]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class LossSlice:
    """The loss on a line or a plane through the parameters.

    Attributes
    ----------
    steps : ndarray (points,)
        Distance from the parameters in units of the directions, the same along each.
    loss : Estimate (points,) or (points, points)
        Mean loss; the first axis belongs to the first direction. stderr: over the samples, which
        all points share, so that the shape of the curve is known better than its height.
    """

    steps: np.ndarray
    loss: Estimate

    @property
    def center(self) -> float:
        """Loss at the parameters themselves."""
        middle = len(self.steps) // 2
        return float(np.asarray(self.loss.value)[(middle,) * np.ndim(self.loss.value)])


def loss_slice(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    directions: int | Sequence[Direction] = 1,
    *,
    span: float = 1.0,
    points: int = 21,
    seed: int = 0,
) -> LossSlice:
    """Mean loss at theta + a d_1 (+ b d_2), a and b from -span to span.

    Parameters
    ----------
    model, loss_fn, data
        As `hessian_trace`. The model is in eval mode.
    directions : 1, 2 or a sequence of one or two dicts
        A number: random Gaussian directions, filter-normalized. Dicts of tensors by the name of
        the parameter are taken as they are; parameters that are not named stay.
    span : float
        Largest step; at 1 the change of each filter is as large as the filter.
    points : int
        Along each direction; odd, so that the parameters themselves are among them.
    seed : int
        Of the directions.

    Raises
    ------
    ValueError, TypeError, NotApplicableError
        Arguments that cannot be right, no trained parameter, or no weight with filters.

    Notes
    -----
    Filter normalization: each row of a linear layer, output channel of a convolution, or row of
    an embedding gets a Gaussian direction with the norm of that row. Tensors with one axis
    (biases, the gains of normalization layers) and frozen parameters do not move. Two random
    directions are nearly orthogonal and are not made so. A slice shows what lies on it: random
    directions miss the few sharp ones in most cases.

    References
    ----------
    Li, Xu, Taylor, Studer, Goldstein, arXiv:1712.09913.
    """
    real("span", span, above=0.0)
    whole("seed", seed, least=0)
    if whole("points", points, least=3) % 2 == 0:
        raise ValueError(f"points must be odd, so that the middle one is the model, got {points}")
    with private_window(model, loss_fn, data, torch.float64) as window:
        chosen = _chosen(window.model, directions, seed)
        return slice_along(window, chosen, span, points)


def _chosen(
    model: nn.Module, directions: int | Sequence[Direction], seed: int
) -> list[dict[str, Tensor]]:
    """One or two directions, checked."""
    if isinstance(directions, int):
        if isinstance(directions, bool) or directions not in (1, 2):
            raise ValueError(f"directions must be 1 or 2, got {directions!r}")
        return [filter_normalized(model, seed + k * 1_000_003) for k in range(directions)]
    if isinstance(directions, Mapping) or len(directions) not in (1, 2):
        raise ValueError("directions must be 1, 2, or a sequence of one or two dicts of tensors")
    named = dict(model.named_parameters())
    chosen = []
    for direction in directions:
        unknown = sorted(set(direction) - set(named))
        wrong = [n for n in direction if n in named and direction[n].shape != named[n].shape]
        if unknown or wrong or not direction:
            raise ValueError(
                "directions must name parameters of the model, with their shapes; "
                f"unknown: {unknown}, of another shape: {wrong}"
            )
        chosen.append({n: d.detach().to(named[n]) for n, d in direction.items()})
    return chosen


def filter_normalized(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A Gaussian direction with the norm of each filter; biases and frozen tensors stay.

    Raises
    ------
    ValueError
        No trained tensor has two axes.
    """
    generator = torch.Generator().manual_seed(seed)
    transposed = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, TRANSPOSED)
    }
    found = {}
    for name, p in trained_parameters(model).items():
        if p.dim() < 2:
            continue
        d = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        axis = 1 if name in transposed else 0  # of the filters
        others = [k for k in range(p.dim()) if k != axis]
        size = torch.linalg.vector_norm(p.detach(), dim=others, keepdim=True)
        found[name] = d * (size / torch.linalg.vector_norm(d, dim=others, keepdim=True))
    if not found:
        raise ValueError("directions: no trained tensor has filters (two axes or more)")
    return found


def slice_along(
    window: Window, directions: Sequence[Direction], span: float, points: int
) -> LossSlice:
    """The slice on the private copy of a window, whose parameters are put back."""
    model, (x, y) = window.model, window.reference
    named = dict(model.named_parameters())
    origin = {n: named[n].detach().clone() for d in directions for n in d}
    steps = np.linspace(-span, span, points)
    steps[points // 2] = 0.0
    shape = (points,) * len(directions)
    value, stderr = np.full(shape, math.nan), np.full(shape, math.nan)
    try:
        for index in track(list(np.ndindex(shape)), "loss slice"):
            with torch.no_grad():
                for name, start in origin.items():
                    moved = start.clone()
                    for k, direction in zip(index, directions, strict=True):
                        if name in direction:
                            moved += float(steps[k]) * direction[name]
                    named[name].copy_(moved)
            e = loss_estimate(window.loss_fn, evaluate(model, x), y)
            n = len(x) if e.note.startswith("sum") else 1
            value[index], stderr[index] = float(e) / n, float(e.stderr) / n
    finally:
        with torch.no_grad():
            for name, start in origin.items():
                named[name].copy_(start)
    finite = bool(np.isfinite(value).all())
    return LossSlice(
        steps,
        Estimate(
            value,
            stderr,
            n_eff=float(len(x)),
            status="ok" if finite else "not finite",
            note=f"{len(x)} samples shared by all points",
        ),
    )
