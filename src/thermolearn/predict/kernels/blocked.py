"""Gram matrices of fully connected kernels in blocks that stay in the cache.

A tile of rows and columns goes through all layers before the next one is begun; of a symmetric
matrix only the tiles on and above the diagonal are computed, and copied below it. Nothing of the
size of the matrix is held besides the result. What runs through the layers is not the
correlation c but the gap 1 - c, which loses nothing where inputs nearly coincide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from thermolearn.core.progress import track
from thermolearn.predict.kernels.dual import Dual

BLOCK = 256  # rows of a tile: five buffers of 0.5 MB in float64
# Gap below which it is computed from the difference of the inputs: rounding of the product of two
# unit vectors, eps, is an error eps / sqrt(2 gap) of the angle.
NEAR = {torch.float64: 1e-6, torch.float32: 1e-3}
AT_ONCE = 2**14  # such pairs at a time


class Layer(NamedTuple):
    """How every input's length passes a layer; unit vectors (weight, bias), one per row.

    A length s becomes s' with weight = sqrt(sigma_w2 E phi^2) / s', bias = sqrt(sigma_b2) / s'.
    """

    weight: Tensor
    half_sine: Tensor
    """sin(h), h half the angle of (weight, bias)"""
    half_cosine: Tensor


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
    scale : Tensor (n,)
        Standard deviation of the last pre-activation, in the precision of the result.
    layers : list of Layer
        Empty unless the activation is piecewise linear.
    """

    unit: Tensor
    fast: Tensor
    variances: list[Tensor]
    scale: Tensor
    layers: list[Layer]


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
        layers = []
        if self.dual.slope is not None:
            layers = [self._layer(b, dtype) for b in variances[1:]]
        return Rows(unit, unit.to(dtype), variances, variances[-1].sqrt().to(dtype), layers)

    def _layer(self, following: Tensor, dtype: torch.dtype) -> Layer:
        bias = (self.sigma_b2 / torch.where(following > 0, following, 1.0)).clamp(max=1).sqrt()
        half = torch.asin(bias) / 2
        weight = (1 - bias**2).clamp(min=0).sqrt()
        return Layer(weight.to(dtype), half.sin().to(dtype), half.cos().to(dtype))


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
    piecewise = recursion.dual.slope is not None
    buffers = [x.new_empty(block * block, dtype=dtype) for _ in range(5 if piecewise else 0)]
    tiles = list(_tiles(*shape, block, x2 is None))
    for rows, columns in track(tiles, "Gram matrix", total=len(tiles)):
        size = rows.stop - rows.start, columns.stop - columns.start
        views = [b[: size[0] * size[1]].view(size) for b in buffers]
        found = (_angular_tile if piecewise else _general_tile)(
            recursion, first, second, rows, columns, ntk, views
        )
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


def _gaps(first: Rows, second: Rows, rows: slice, columns: slice, out: Tensor) -> Tensor:
    """1 - c of the first pre-activations, from differences of unit vectors where it is small."""
    torch.mm(first.fast[rows], second.fast[columns].T, out=out)
    out.neg_().add_(1).clamp_(0, 2)
    if float(out.amin()) < NEAR[out.dtype]:
        i, j = torch.nonzero(out < NEAR[out.dtype], as_tuple=True)
        for at, to in zip(i.split(AT_ONCE), j.split(AT_ONCE), strict=True):
            difference = first.unit[rows][at] - second.unit[columns][to]
            out[at, to] = (difference.square().sum(1) / 2).to(out.dtype)
    return out


# -- piecewise linear activations: in place ----------------------------------------------------
def _angular_tile(
    recursion: Recursion, first: Rows, second: Rows, rows: slice, columns: slice, ntk: bool,
    buffers: Sequence[Tensor],
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Both kernels of a tile for max(z, 0) + a min(z, 0).

    With kappa = (1 - a)^2 / (pi (1 + a^2)) and lengths divided out, a layer is
    c' = w w' [c + kappa (sin t - t c)] + b b' and T' = c' + w w' (1 - kappa t) T, t = arccos c.
    """
    half, tangent, angle, work, weights = buffers
    slope = recursion.dual.slope
    assert slope is not None
    kappa = (1 - slope) ** 2 / (math.pi * (1 + slope**2))
    _gaps(first, second, rows, columns, half).mul_(0.5)  # (1 - c) / 2 = sin^2(t / 2)
    if ntk:
        torch.sub(1, half, alpha=2, out=tangent)
    for one, two in zip(first.layers, second.layers, strict=True):
        torch.sqrt(half, out=angle).asin_()  # t / 2
        torch.sub(1, half, out=work).mul_(half).sqrt_()
        work.addcmul_(angle, half, value=2).sub_(angle)  # (sin t - t cos t) / 2
        half.sub_(work, alpha=kappa)
        if ntk:
            tangent.addcmul_(tangent, angle, value=-2 * kappa)
        if recursion.sigma_b2:
            torch.outer(one.weight[rows], two.weight[columns], out=weights)
            half.mul_(weights)
            # (1 - w w' - b b') / 2, 0 for inputs of one length
            torch.outer(one.half_sine[rows], two.half_cosine[columns], out=work)
            work.addr_(one.half_cosine[rows], two.half_sine[columns], alpha=-1)
            half.addcmul_(work, work)
        half.clamp_(0, 1)
        if ntk:
            torch.sub(1, half, alpha=2, out=angle)
            if recursion.sigma_b2:
                torch.addcmul(angle, tangent, weights, out=tangent)
            else:
                tangent.add_(angle)
    torch.outer(first.scale[rows], second.scale[columns], out=weights)
    nngp = torch.sub(1, half, alpha=2, out=work).mul_(weights)
    return nngp, tangent.mul_(weights) if ntk else None


# -- any other activation ----------------------------------------------------------------------
def _general_tile(
    recursion: Recursion, first: Rows, second: Rows, rows: slice, columns: slice, ntk: bool,
    buffers: Sequence[Tensor],
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Both kernels of a tile by `Dual.pair`, in float64."""
    q1, q2 = first.variances[0][rows, None], second.variances[0][None, columns]
    gap = torch.empty(len(q1), q2.shape[1], dtype=torch.double, device=q1.device)
    exact, exact2 = (replace(side, fast=side.unit) for side in (first, second))
    _gaps(exact, exact2, rows, columns, gap)
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
