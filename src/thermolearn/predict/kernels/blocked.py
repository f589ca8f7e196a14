"""Gram matrices of fully connected kernels in blocks that stay in the cache.

A tile of rows and columns goes through all layers before the next one is begun; of a symmetric
matrix only the tiles on and above the diagonal are computed, and copied below it. Nothing of the
size of the matrix is held besides the result. What runs through the layers is not the
correlation c but the gap 1 - c, which loses nothing where inputs nearly coincide; for piecewise
linear activations (see `angular`) nothing is lost where they are nearly opposite, either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from thermolearn.core.progress import track
from thermolearn.predict.kernels import angular
from thermolearn.predict.kernels.dual import Dual

BLOCK = 256  # rows of a tile: buffers of 0.5 MB in float64
# Gap to 1 or -1 below which it is computed from the difference or sum of the inputs: rounding of
# the product of two unit vectors, eps, is an error eps / sqrt(2 gap) of the angle.
NEAR = {torch.float64: 1e-6, torch.float32: 1e-2}
AT_ONCE = 2**14  # such pairs at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """The inputs of one side of a Gram matrix.

    Attributes
    ----------
    unit : Tensor (n, d + 1)
        Inputs with the bias as a last column, of length 1 (of 0 for q = 0), float64.
    fast : Tensor (n, d + 1)
        The same in the precision of the result.
    variances : list of Tensor (n,)
        Of the pre-activations of every layer, float64.
    layers : Layers or None
        In the precision of the result; None unless the activation is piecewise linear.
    """

    unit: Tensor
    fast: Tensor
    variances: list[Tensor]
    layers: angular.Layers | None


@dataclass(frozen=True, eq=False)
class Recursion:
    """Depth, activation and variances of a fully connected network; inputs prepared by `rows`."""

    depth: int
    dual: Dual
    sigma_w2: float
    sigma_b2: float

    def variances(self, q: Tensor) -> list[Tensor]:
        """Of the pre-activations of layers 1 to depth, from those of the first."""
        found = [q]
        for _ in range(self.depth - 1):
            found.append(self.sigma_w2 * self.dual.diagonal(found[-1])[0] + self.sigma_b2)
        return found

    def tangent(self, variances: list[Tensor]) -> Tensor:
        """The diagonal of the tangent kernel from `variances`."""
        theta = variances[0]
        for q, following in itertools.pairwise(variances):
            theta = following + self.sigma_w2 * self.dual.diagonal(q)[1] * theta
        return theta

    def rows(self, x: Tensor, dtype: torch.dtype) -> Rows:
        """Float64 inputs (n, d) with all that does not depend on a partner."""
        bias = x.new_full((len(x), 1), math.sqrt(self.sigma_b2))
        x = torch.cat([x * math.sqrt(self.sigma_w2 / x.shape[1]), bias], dim=1)
        q = x.square().sum(1)
        unit = x / torch.where(q > 0, q, 1.0).sqrt()[:, None]
        variances = self.variances(q)
        layers = None if self.dual.slope is None else self.layers(variances, dtype)
        return Rows(unit, unit.to(dtype), variances, layers)

    def layers(self, variances: list[Tensor], dtype: torch.dtype) -> angular.Layers:
        """How lengths pass the layers, from the variances (n,) of all of them."""
        following = torch.stack(variances)[1:]
        bias = (self.sigma_b2 / torch.where(following > 0, following, 1.0)).clamp(max=1).sqrt()
        half, weight = torch.asin(bias) / 2, (1 - bias**2).clamp(min=0).sqrt()
        parts = weight, half.sin(), half.cos(), variances[-1].sqrt()
        return angular.Layers(*(v.to(dtype).contiguous() for v in parts))


def gram(
    recursion: Recursion,
    x: Tensor,
    x2: Tensor | None,
    dtype: torch.dtype,
    nngp: bool,
    ntk: bool,
    block: int = BLOCK,
) -> tuple[Tensor | None, Tensor | None]:
    """The NNGP and the tangent Gram matrix (n, m), each if asked for.

    Parameters
    ----------
    x, x2 : Tensor (n, d), (m, d)
        Float64 inputs; without x2 those of x with themselves.
    dtype : float64 or float32
        Of the matrices and of the work.
    block : int
        Rows and columns of a tile.
    """
    first = recursion.rows(x, dtype)
    second = first if x2 is None else recursion.rows(x2, dtype)
    shape = len(first.unit), len(second.unit)
    results = [x.new_empty(shape, dtype=dtype) if wanted else None for wanted in (nngp, ntk)]
    _prepare_tables(recursion, first, second)
    tile_of: Callable[..., tuple[Tensor | None, Tensor | None]] = _general_tile
    if recursion.dual.slope is not None:
        tile_of = partial(_angular_tile, buffers=x.new_empty(3, block * block, dtype=dtype))
    tiles = list(_tiles(*shape, block, x2 is None))
    for rows, columns in track(tiles, "Gram matrix", total=len(tiles)):
        found = tile_of(recursion, first, second, rows, columns, ntk)
        for result, tile in zip(results, found, strict=True):
            if result is not None and tile is not None:
                if x2 is None and rows == columns:
                    tile = tile.triu() + tile.triu(1).T
                result[rows, columns] = tile
                if x2 is None and rows != columns:
                    result[columns, rows] = tile.T
    if x2 is None:
        diagonals = first.variances[-1], recursion.tangent(first.variances) if ntk else None
        for result, diagonal in zip(results, diagonals, strict=True):
            if result is not None and diagonal is not None:
                result.diagonal().copy_(diagonal)
    return results[0], results[1]


def _tiles(n: int, m: int, block: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    for i in range(0, n, block):
        for j in range(i if symmetric else 0, m, block):
            yield slice(i, min(i + block, n)), slice(j, min(j + block, m))


def _near(first: Rows, second: Rows, rows: slice, columns: slice, c: Tensor, gap: Tensor) -> None:
    """Puts in gap = 1 - |c| what is below `NEAR`, from differences or sums of unit vectors."""
    if not float(gap.amin()) < NEAR[gap.dtype]:
        return
    i, j = torch.nonzero(gap < NEAR[gap.dtype], as_tuple=True)
    for at, to in zip(i.split(AT_ONCE), j.split(AT_ONCE), strict=True):
        difference = first.unit[rows][at] - c[at, to].sign()[:, None] * second.unit[columns][to]
        gap[at, to] = (difference.square().sum(1) / 2).to(gap.dtype)


# -- piecewise linear activations --------------------------------------------------------------
def _angular_tile(
    recursion: Recursion, first: Rows, second: Rows, rows: slice, columns: slice, ntk: bool,
    buffers: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both kernels of a tile for max(z, 0) + a min(z, 0), in the precision of the result."""
    slope, one, two = recursion.dual.slope, first.layers, second.layers
    assert slope is not None and one is not None and two is not None
    size = rows.stop - rows.start, columns.stop - columns.start
    c, h, work = (b[: size[0] * size[1]].view(size) for b in buffers)
    torch.mm(first.fast[rows], second.fast[columns].T, out=c)
    torch.abs(c, out=h).neg_().add_(1)
    _near(first, second, rows, columns, c, h)
    torch.copysign(h.mul_(0.5).clamp_(min=torch.finfo(h.dtype).tiny), c, out=h)
    if h.device.type == "cpu":
        return angular.by_numba(slope, h, work, one, two, rows.start, columns.start)
    one = angular.Layers(*(v[..., rows] for v in one))
    two = angular.Layers(*(v[..., columns] for v in two))
    return angular.by_torch(slope, h, one, two)


# -- any other activation ----------------------------------------------------------------------
def _general_tile(
    recursion: Recursion, first: Rows, second: Rows, rows: slice, columns: slice, ntk: bool
) -> tuple[Tensor, Tensor | None]:
    """Both kernels of a tile by `Dual.pair`, in float64."""
    q1, q2 = first.variances[0][rows, None], second.variances[0][None, columns]
    c = first.unit[rows] @ second.unit[columns].T
    gap = 1 - c.abs()
    _near(first, second, rows, columns, c, gap)
    gap = torch.where(c < 0, 2 - gap, gap)
    same = (gap == 0) & (q1 == q2)
    return through_layers(
        recursion, _lists(first, rows, 0), _lists(second, columns, 1), gap, same, ntk
    )


def _lists(rows: Rows, part: slice, axis: int) -> list[Tensor]:
    return [q[part].unsqueeze(1 - axis) for q in rows.variances]


def through_layers(
    recursion: Recursion,
    variances: list[Tensor],
    variances2: list[Tensor],
    gap: Tensor,
    same: Tensor,
    ntk: bool,
) -> tuple[Tensor, Tensor | None]:
    """NNGP and tangent kernel, element by element, from 1 - c of the first pre-activations.

    Parameters
    ----------
    variances, variances2 : list of Tensor
        Of all layers, broadcastable to gap.
    same : Tensor of bool
        Where both inputs are one: the gap stays 0.
    """
    s = _product(variances[0], variances2[0])
    gap = gap * s
    k = theta = s - gap
    for layer in range(recursion.depth - 1):
        q1, q2 = variances[layer], variances2[layer]
        value, slope = recursion.dual.pair(q1, q2, k, slope=ntk, gap=gap)
        k = recursion.sigma_w2 * value + recursion.sigma_b2
        if slope is not None:
            theta = k + recursion.sigma_w2 * slope * theta
        s = _product(variances[layer + 1], variances2[layer + 1])
        k = torch.minimum(torch.maximum(k, -s), s)  # a table may be beyond by its accuracy
        gap = (s - k).masked_fill(same, 0.0)
    return k, theta if ntk else None


def on_sphere(recursion: Recursion, t: Tensor, ntk: bool) -> tuple[Tensor, Tensor | None]:
    """NNGP and tangent kernel of |x|^2 = |x'|^2 = d, x.x' = t d; t in [-1, 1], of any shape."""
    q = t.new_full((1,), recursion.sigma_w2 + recursion.sigma_b2)
    variances = recursion.variances(q)
    gap = (recursion.sigma_w2 / q) * (1 - t)
    if recursion.dual.slope is None:
        k, theta = through_layers(recursion, variances, variances, gap, gap == 0, ntk)
        return k.reshape(t.shape), None if theta is None else theta.reshape(t.shape)
    rest = (recursion.sigma_w2 * (1 + t) + 2 * recursion.sigma_b2) / q
    layers = recursion.layers(variances, torch.double)
    h = angular.signed(gap / 2, rest / 2).reshape(-1, 1)
    pair = angular.by_torch(recursion.dual.slope, h, layers, layers)
    return pair[0].reshape(t.shape), pair[1].reshape(t.shape)


def _product(q1: Tensor, q2: Tensor) -> Tensor:
    """sqrt(q1 q2), exactly q where they agree."""
    return torch.where(q1 == q2, q1, q1.sqrt() * q2.sqrt())


def _prepare_tables(recursion: Recursion, first: Rows, second: Rows) -> None:
    """One call with the extreme variances of every layer: all tiles share its table."""
    if recursion.dual.closed_form:
        return
    for q, q2 in list(zip(first.variances, second.variances, strict=True))[:-1]:
        ends = torch.stack([torch.minimum(q.min(), q2.min()), torch.maximum(q.max(), q2.max())])
        recursion.dual.pair(ends[:1], ends[1:], torch.zeros_like(ends[:1]))
