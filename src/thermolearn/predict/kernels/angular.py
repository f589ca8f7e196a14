"""Kernels of piecewise linear activations through all layers, element by element in the angle.

For max(z, 0) + a min(z, 0), with kappa = (1 - a)^2 / (pi (1 + a^2)) and lengths divided out, a
layer is c' = w w' [c + kappa (sin t - t c)] + b b' and T' = c' + w w' (1 - kappa t) T,
t = arccos c. What runs through the layers is not c but h = sin^2(t / 2) where t <= pi/2 and
-cos^2(t / 2) beyond, never 0: nothing is lost where inputs coincide, nor where they are opposite.
With m = |h|, x = arcsin sqrt(m), y = sqrt(m (1 - m)) - x (1 - 2 m), before weights and bias

up to pi/2: x = t / 2, (1 - c') / 2 = m - kappa y, 1 - kappa t = 1 - 2 kappa x;
beyond: x = (pi - t) / 2, (1 - c') / 2 = (1 + a)^2 / (2 (1 + a^2)) - 2 a m / (1 + a^2) - kappa y,
1 - kappa t = 2 a / (1 + a^2) + 2 kappa x.

`by_numba` keeps a row of a tile in the cache through all layers, `by_torch` is the same for
any device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# arcsin(sqrt m) / sqrt m on [0, 1/2] in powers of 4 m - 1: interpolation at Chebyshev nodes, to
# a relative 1.3e-16, and in float32 to 2.6e-9.
ARC = {
    torch.float64: (
        1.0471975511965979, 0.05375149359132692, 0.007798902238958053,
        0.0015196685395952834, 0.00034086372383630546, 8.302317801518925e-05,
        2.1345548279996328e-05, 5.701782186274753e-06, 1.5669849102494064e-06,
        4.4020387647402136e-07, 1.257815733346819e-07, 3.647300159179633e-08,
        1.0809676130669179e-08, 3.2049513486427854e-09, 8.51835175897071e-10,
        2.557903437341297e-10, 1.341285869549988e-10, 4.1052321165594074e-11,
    ),
    torch.float32: (
        1.04719758, 0.0537514761, 0.00779889664, 0.00151991751, 0.00034093525,
        8.21422436e-05, 2.10925682e-05, 6.83048802e-06, 1.89076991e-06,
    ),
}  # fmt: skip


class Layers(NamedTuple):
    """How the inputs' lengths pass the layers; unit vectors (weight, bias), (layers, inputs).

    A length s becomes s' with weight = sqrt(sigma_w2 E phi^2) / s', bias = sqrt(sigma_b2) / s'.
    """

    weight: Tensor
    half_sine: Tensor
    """sin(b), b half the angle of (weight, bias)"""
    half_cosine: Tensor
    scale: Tensor
    """Standard deviation of the last pre-activation (inputs,)."""


def constants(slope: float) -> tuple[float, float, float]:
    """kappa, (1 - c') / 2 at t = pi, and kappa t - 1 there."""
    norm = 1 + slope**2
    return (1 - slope) ** 2 / (math.pi * norm), (1 + slope) ** 2 / (2 * norm), -2 * slope / norm


def signed(half: Tensor, rest: Tensor) -> Tensor:
    """h from sin^2(t / 2) and cos^2(t / 2)."""
    tiny = torch.finfo(half.dtype).tiny
    return torch.where(half > rest, -rest.clamp(min=tiny), half.clamp(min=tiny))


def cosine(h: Tensor) -> Tensor:
    """cos t from h, whose sign tells the half circle."""
    return torch.copysign(1 - 2 * h.abs(), h)


def by_torch(slope: float, h: Tensor, first: Layers, second: Layers) -> tuple[Tensor, Tensor]:
    """Covariance and tangent kernel of pairs (n, m) or broadcastable, from h of the first layer."""
    kappa, end, back = constants(slope)
    tangent = cosine(h)
    for layer in range(len(first.weight)):
        w, sine, cos = (v[layer][:, None] for v in first[:3])
        w2, sine2, cos2 = (v[layer] for v in second[:3])
        beyond, m = h < 0, h.abs()
        x = torch.asin(m.sqrt())
        y = (m * (1 - m)).sqrt() - x * (1 - 2 * m)
        factor = torch.where(beyond, h.new_tensor(back), h.new_tensor(1.0))
        half = torch.where(beyond, h.new_tensor(end), h.new_tensor(0.0)) + factor * m - kappa * y
        # (1 - w w' - b b') / 2 is the square, 0 for inputs of one length
        half = half * (w * w2) + (sine * cos2 - cos * sine2).square()
        decay = torch.copysign(torch.ones_like(h), h) * (factor - 2 * kappa * x) * (w * w2)
        h = signed(half, 1 - half)
        tangent = cosine(h) + decay * tangent
    scale = first.scale[:, None] * second.scale
    return cosine(h) * scale, tangent * scale


def by_numba(
    slope: float, h: Tensor, work: Tensor, first: Layers, second: Layers, row: int, column: int
) -> tuple[Tensor, Tensor]:
    """`by_torch` on a CPU for the tile that begins at row, column; the answers are in h, work."""
    number = h.numpy().dtype.type
    _compiled(h.dtype)(
        h.numpy(), work.numpy(), *(number(v) for v in constants(slope)),
        *(v.numpy() for v in first), *(v.numpy() for v in second), row, column,
    )  # fmt: skip
    return h, work


@lru_cache
def _compiled(dtype: torch.dtype) -> Any:
    """The loop over a tile in one precision; compiled when first needed, then kept on disk."""
    import numba

    number: Any = {torch.float64: np.float64, torch.float32: np.float32}[dtype]
    zero, half, one, two, four = (number(v) for v in (0, 0.5, 1, 2, 4))
    tiny = number(np.finfo(number).tiny)
    even, odd = (tuple(number(v) for v in ARC[dtype][k::2]) for k in (0, 1))
    n_even, n_odd = len(even), len(odd)

    # contract: a product and a sum may become one operation with one rounding
    @numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
    def tile(  # pragma: no cover
        h, tangent, kappa, end, back, w, sine, cos, scale, w2, sine2, cos2, scale2, start, start2
    ):
        n = h.shape[1]
        stop2 = start2 + n
        for row in range(h.shape[0]):
            i = start + row
            a, t = h[row], tangent[row]
            for j in range(n):
                t[j] = -one - two * a[j] if a[j] < zero else one - two * a[j]
            for layer in range(w.shape[0]):
                wi, si, ci = w[layer, i], sine[layer, i], cos[layer, i]
                wj = w2[layer, start2:stop2]
                sj, cj = sine2[layer, start2:stop2], cos2[layer, start2:stop2]
                for j in range(n):
                    beyond = a[j] < zero
                    m = -a[j] if beyond else a[j]
                    z = four * m - one
                    zz = z * z
                    p = even[n_even - 1]
                    for k in range(n_even - 1):
                        p = p * zz + even[n_even - 2 - k]
                    q = odd[n_odd - 1]
                    for k in range(n_odd - 1):
                        q = q * zz + odd[n_odd - 2 - k]
                    root = math.sqrt(m)
                    x = root * (p + z * q)
                    y = root * math.sqrt(one - m) - x * (one - two * m)
                    factor = back if beyond else one
                    ww = wi * wj[j]
                    bend = si * cj[j] - ci * sj[j]
                    new = ((end if beyond else zero) + factor * m - kappa * y) * ww + bend * bend
                    decay = (factor - two * kappa * x) * ww
                    decay = -decay if beyond else decay
                    low = new - one if new - one < -tiny else -tiny
                    high = new if new > tiny else tiny
                    a[j] = low if new > half else high
                    t[j] = (-one - two * low if new > half else one - two * high) + decay * t[j]
            for j in range(n):
                s = scale[i] * scale2[start2 + j]
                a[j] = s * (-one - two * a[j] if a[j] < zero else one - two * a[j])
                t[j] *= s

    return tile
