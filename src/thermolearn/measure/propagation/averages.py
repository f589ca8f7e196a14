"""Averages of an activation over one Gaussian pre-activation, or over two correlated ones."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from thermolearn.core.activation import Activation, value_and_slope
from thermolearn.core.gaussian import REACH, gauss_nodes

NODES, COARSE = 16, 12  # per panel; their difference is the numerical error
# Where an activation may bend, in units of z: ends of panels besides the kinks.
BENDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
# Ends of panels in units of the conditional standard deviation.
STANDARD = (1.25, 2.5, 5.0, REACH)
# Variance that stands for 0: the slope at a kink is not the average of the slopes beside it.
TINY = 1e-200


class Moments(NamedTuple):
    """Averages over z ~ N(0, q)."""

    square: float
    """E f(z)^2"""
    slope_square: float
    """E f'(z)^2"""
    growth: float
    """d/dq E f(z)^2 = E f(z) f'(z) z / q"""


def moments(activation: Activation, q: float, n: int = NODES) -> Moments:
    """E f^2, E f'^2 and d E f^2 / dq at z ~ N(0, q); at q = 0 the limit q -> 0.

    Raises
    ------
    ValueError
        q negative or not finite, or the activation grows too fast for E f^2 to be finite.
    TypeError
        The activation is not an element-wise, differentiable torch function.
    """
    if not (math.isfinite(q) and q >= 0):
        raise ValueError(f"q must be finite and not negative, got {q!r}")
    variance = max(q, TINY)
    z, w = gauss_nodes(math.sqrt(variance), n, activation.kinks)
    f, slope = _evaluate(activation, z)
    squares = np.stack([f**2, slope**2])
    tail = np.abs(z) > 0.9 * np.abs(z).max()
    # not >, so that a NaN is caught as well
    if not (squares[:, tail] @ w[tail]).sum() <= 1e-8 * (squares @ w).sum() + 1e-300 < math.inf:
        raise ValueError(
            f"activation {activation.name!r} grows too fast: E f(z)^2 at variance q = {q:.6g} is "
            f"not finite or lies beyond {0.9 * REACH:.0f} standard deviations; lower q"
        )
    square = w @ f**2 if q > 0 else w @ _evaluate(activation, np.zeros_like(z))[0] ** 2
    return Moments(float(square), float(w @ slope**2), float(w @ (f * slope * z)) / variance)


def pair_moments(activation: Activation, q: float, c: float, n: int = NODES) -> tuple[float, float]:
    """E f(u) f(v) and E f'(u) f'(v), u and v ~ N(0, q) of correlation c.

    With u = sqrt|c| x + sqrt(1 - |c|) y, and v alike with an independent y', both are
    E_x F(x) F(+-x), where F is the average over y: panels of the inner integral end where the
    activation bends, those of the outer one close in on the points that the inner average only
    just smooths. Right to 1e-13 also at kinks and at 1 - |c| of 1e-8.

    Raises
    ------
    ValueError
        c outside [-1, 1], or as in `moments`.
    """
    if not -1 <= c <= 1:
        raise ValueError(f"c must lie in [-1, 1], got {c!r}")
    variance = max(q, TINY)
    sigma, share = math.sqrt(variance), abs(c)
    if share >= 1 - 1e-15:
        one = moments(activation, variance, n)
        if c > 0:
            return one.square, one.slope_square
        z, w = gauss_nodes(sigma, n, activation.kinks)
        f, slope = _evaluate(activation, z)
        return float(w @ (f * f[::-1])), float(w @ (slope * slope[::-1]))
    points = np.unique(np.concatenate([BENDS, np.abs(activation.kinks)]))
    points = np.concatenate([-points[:0:-1], points])
    outer, w_outer = _outer_nodes(sigma * math.sqrt(share), sigma * math.sqrt(1 - share), points, n)
    f, slope = _inner_average(activation, outer, sigma * math.sqrt(1 - share), points, n)
    if c < 0:  # the outer nodes are symmetric about 0
        return float(w_outer @ (f * f[::-1])), float(w_outer @ (slope * slope[::-1]))
    return float(w_outer @ f**2), float(w_outer @ slope**2)


def _evaluate(activation: Activation, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    f, slope = value_and_slope(activation, torch.from_numpy(np.ascontiguousarray(z)))
    return f.numpy(), slope.numpy()


@cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)


def _panels(edges: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and Gaussian weights on the panels between edges (..., m)."""
    x, w = _legendre(n)
    half = np.diff(edges, axis=-1)[..., None] / 2
    middle = ((edges[..., 1:] + edges[..., :-1]) / 2)[..., None]
    u = (middle + half * x).reshape(*edges.shape[:-1], -1)
    weight = (half * w).reshape(u.shape) * np.exp(-(u**2) / 2)
    return u, weight / weight.sum(-1, keepdims=True)


def _outer_nodes(
    scale: float, width: float, points: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes for x ~ N(0, scale^2) of a function with features of the given width at the points."""
    if scale < 1e-150:
        return np.zeros(1), np.ones(1)
    standard = np.concatenate([[0.0], STANDARD, np.array(STANDARD[:1]) / 2])
    # around every point: half a width, one, two, ... until the panels of a standard deviation
    octaves = max(0, math.ceil(math.log2(max(scale / width, 1.0)))) + 2
    steps = width * 2.0 ** np.arange(-1, octaves)
    near = points[np.abs(points) < REACH * scale][:, None] + np.concatenate([-steps, [0.0], steps])
    inner = near.ravel() / scale
    edges = np.concatenate([standard, -standard, inner, -inner])
    edges = np.unique(edges[np.abs(edges) <= REACH])
    u, w = _panels(edges, n)
    return scale * u, w


def _inner_average(
    activation: Activation, mean: np.ndarray, width: float, points: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """E f(mean + width y) and E f'(mean + width y), y ~ N(0, 1), at every mean."""
    standard = np.concatenate([[0.0], STANDARD])
    fixed = np.unique(np.concatenate([standard, -standard]))
    at = np.clip((points - mean[:, None]) / width, -REACH, REACH)
    edges = np.sort(np.concatenate([np.tile(fixed, (len(mean), 1)), at], axis=1), axis=1)
    value, slope = np.empty(len(mean)), np.empty(len(mean))
    for part in np.array_split(np.arange(len(mean)), 1 + len(mean) // 256):
        y, w = _panels(edges[part], n)
        f, df = _evaluate(activation, mean[part, None] + width * y)
        value[part], slope[part] = (w * f).sum(1), (w * df).sum(1)
    return value, slope
