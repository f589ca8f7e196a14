"""Random units at the rate of the memory: one pass of numba over a layer.

A float32 uniform from torch's generator costs as much as the matrix product that it follows (784 x
200 weights); 32 interleaved xoshiro128+ streams, which the compiler turns into vector
instructions, cost a fifth of that.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

from thermolearn.systems.memory.rbm import units

LANES = 32


@numba.njit(cache=True, inline="always")
def _advance(s, lane):  # pragma: no cover
    """One xoshiro128+ step of a lane: a uniform on the midpoints of a grid of 2^-23.

    23 bits and not 24: the last midpoint, 1 - 2^-25, would be rounded to 1 in float32.
    """
    result = np.uint32(s[0, lane] + s[3, lane])
    t = np.uint32(s[1, lane] << np.uint32(9))
    s[2, lane] ^= s[0, lane]
    s[3, lane] ^= s[1, lane]
    s[1, lane] ^= s[2, lane]
    s[0, lane] ^= s[3, lane]
    s[2, lane] ^= t
    last = s[3, lane]
    s[3, lane] = np.uint32(last << np.uint32(11)) | np.uint32(last >> np.uint32(21))
    bits = np.int32(result >> np.uint32(9))
    return (np.float32(bits) + np.float32(0.5)) * np.float32(2.0**-23)


@numba.njit(cache=True)
def _uniform(out, s):  # pragma: no cover
    n, lanes = out.size, s.shape[1]
    whole = n - n % lanes
    for start in range(0, whole, lanes):
        for lane in range(lanes):
            out[start + lane] = _advance(s, lane)
    for lane in range(n - whole):
        out[whole + lane] = _advance(s, lane)


@numba.njit(cache=True)
def _below(p, out, low):  # pragma: no cover
    """Turn uniforms into 1 where they are below p, `low` elsewhere."""
    high = out.dtype.type(1.0)
    for i in range(out.size):
        out[i] = high if out[i] < p[i] else low


class Noise:
    """A private random stream for layers of units.

    Parameters
    ----------
    seed : int or sequence of int
        Of numpy's SeedSequence, from which every lane takes its own state.
    """

    def __init__(self, seed: int | list[int] = 0):
        words = np.random.SeedSequence(seed).generate_state(4 * LANES, np.uint32)
        self.state = words.reshape(4, LANES)

    def uniform_(self, out: Tensor) -> Tensor:
        """Fill a contiguous tensor with uniforms in the open interval (0, 1), to 23 bits."""
        _uniform(out.view(-1).numpy(), self.state)
        return out

    def normal_(self, out: Tensor) -> Tensor:
        """Fill a contiguous tensor with standard normals (Box-Muller, cut at 5.8)."""
        half = -(-out.numel() // 2)
        u = self.uniform_(torch.empty(2, half, dtype=out.dtype))
        radius = torch.sqrt(-2 * torch.log(u[0]))
        pair = torch.cat(
            [radius * torch.cos(2 * math.pi * u[1]), radius * torch.sin(2 * math.pi * u[1])]
        )
        return out.copy_(pair[: out.numel()].view(out.shape))

    def units_(self, kind: str, field: Tensor, out: Tensor) -> Tensor:
        """Draw a layer in its field into `out`, another tensor; the field is overwritten."""
        if kind == "gaussian":
            return torch.add(field, self.normal_(torch.empty_like(field)), out=out)
        if kind == "ising":
            field.mul_(2)
        return self.from_probability_(kind, torch.sigmoid(field, out=field), out)

    def from_probability_(self, kind: str, p: Tensor, out: Tensor) -> Tensor:
        """Draw discrete units that are 1 with probability p into `out`, another tensor."""
        flat = out.view(-1).numpy()
        _uniform(flat, self.state)
        _below(p.view(-1).numpy(), flat, flat.dtype.type(units.low_value(kind)))
        return out
