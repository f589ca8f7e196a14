"""Averages of an activation over one Gaussian pre-activation, or over two correlated ones."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch

from thermolearn.core.activation import Activation, value_and_slope
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.gaussian import REACH, gauss_nodes

NODES, COARSE = 16, 12  # per panel; their difference is the numerical error
NARROW = 1e-4  # distance 1 - c below which an average over y leaves smooth what is smooth
UNRESOLVED = 1e-6  # relative numerical error above which a pair is not given
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
    mean: float
    """E f(z)"""


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
    value = f if q > 0 else _evaluate(activation, np.zeros_like(z))[0]
    growth = float(w @ (f * slope * z)) / variance
    return Moments(float(w @ value**2), float(w @ slope**2), growth, float(w @ value))


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
    points = _bends(activation)
    outer, w_outer = _outer_nodes(sigma * math.sqrt(share), sigma * math.sqrt(1 - share), points, n)
    f, slope, _ = _inner_average(activation, outer, sigma * math.sqrt(1 - share), points, n)
    if c < 0:  # the outer nodes are symmetric about 0
        return float(w_outer @ (f * f[::-1])), float(w_outer @ (slope * slope[::-1]))
    return float(w_outer @ f**2), float(w_outer @ slope**2)


def half_square_difference(
    activation: Activation, q: float, distance: float, n: int = NODES
) -> float:
    """E [f(u) - f(v)]^2 / 2, u and v ~ N(0, q) of correlation 1 - distance, 0 < distance <= 1.

    As the average over x of the variance over y (see `pair_moments`): E f^2 - E f(u) f(v) without
    the cancellation, to a relative 1e-10 also at a distance of 1e-12.
    """
    if not 0 < distance <= 1:
        raise ValueError(f"distance must lie in (0, 1], got {distance!r}")
    sigma, points = math.sqrt(max(q, TINY)), _bends(activation)
    width = sigma * math.sqrt(distance)
    # a narrow average leaves smooth what is smooth: only at kinks do panels close in on a point
    near = (
        points
        if distance > NARROW
        else np.unique([*activation.kinks, *np.negative(activation.kinks)])
    )
    outer, w_outer = _outer_nodes(sigma * math.sqrt(1 - distance), width, near, n, points)
    return float(w_outer @ _inner_average(activation, outer, width, points, n)[2])


@lru_cache(maxsize=64)
def jump(activation: Activation) -> float | None:
    """Where the activation jumps; None if no jump is found.

    There the slope of the correlation map at c = 1 is infinite, and no average of f' tells. Found:
    jumps above 0.1 within +-20, and any above 1e-6 at a kink that is known.
    """
    z = np.linspace(-20.0, 20.0, 4002)  # without 0, on whose value alone nothing depends
    f, slope = _evaluate(activation, z)
    step = z[1] - z[0]
    steep = np.maximum(np.abs(slope[:-1]), np.abs(slope[1:])) + 1
    where = np.flatnonzero(np.abs(np.diff(f)) > np.maximum(4 * step * steep, 0.1))
    spans = [(z[k], z[k + 1]) for k in where]
    spans += [(k - 1e-9 * (1 + abs(k)), k + 1e-9 * (1 + abs(k))) for k in activation.kinks]
    for low, high in spans:
        ends = np.array([low, high])
        while True:
            middle = ends.mean()
            values = _evaluate(activation, np.array([ends[0], middle, ends[1]]))[0]
            if not np.abs(values[2] - values[0]) > 1e-6:
                break
            if ends[1] - ends[0] <= 1e-12 * (1 + abs(middle)):
                return float(f"{middle:.9g}")
            left = abs(values[1] - values[0]) > abs(values[2] - values[1])
            ends = np.array([ends[0], middle] if left else [middle, ends[1]])
    return None


def find_jump(activation: Activation) -> float | None:
    """`jump`, also of an activation that cannot be hashed and is searched anew each time."""
    try:
        return jump(activation)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return jump.__wrapped__(activation)


def refuse_jump(activation: Activation) -> None:
    """Raises NotApplicableError if the activation jumps: chi_1 is infinite then."""
    at = find_jump(activation)
    if at is not None:
        raise NotApplicableError(
            f"activation {activation.name!r} jumps at z = {at:g}: inputs however close are torn "
            "apart there and chi_1 is infinite, which its slope does not show; there is no "
            "critical pair"
        )


def check_resolved(activation: Activation, fine: float, coarse: float) -> None:
    """Raises NotApplicableError if two rules disagree by more than a relative 1e-6."""
    if not abs(fine - coarse) <= UNRESOLVED * abs(fine):
        raise NotApplicableError(
            f"the averages of activation {activation.name!r} are right to "
            f"{abs(fine - coarse) / max(abs(fine), 1e-300):.1e} only: its slope jumps at points "
            "that are not known; give a callable with an attribute kinks = (z_1, ...), the points "
            "where the slope jumps"
        )


def _bends(activation: Activation) -> np.ndarray:
    """Where panels end, in units of z, symmetric about 0."""
    points = np.unique(np.concatenate([BENDS, np.abs(activation.kinks)]))
    return np.concatenate([-points[:0:-1], points])


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
    scale: float, width: float, points: np.ndarray, n: int, ends: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes for x ~ N(0, scale^2) of a function with features of the given width at the points.

    No panel contains one of the `ends`.
    """
    if scale < 1e-150:
        return np.zeros(1), np.ones(1)
    standard = np.concatenate([[0.0], STANDARD, np.array(STANDARD[:1]) / 2])
    # around every point: half a width, one, two, ... until the panels of a standard deviation
    octaves = max(0, math.ceil(math.log2(max(scale / width, 1.0)))) + 2
    steps = width * 2.0 ** np.arange(-1, octaves)
    near = points[np.abs(points) < REACH * scale][:, None] + np.concatenate([-steps, [0.0], steps])
    inner = np.append(near.ravel(), points[:0] if ends is None else ends) / scale
    edges = np.concatenate([standard, -standard, inner, -inner])
    edges = np.unique(edges[np.abs(edges) <= REACH])
    u, w = _panels(edges, n)
    return scale * u, w


def _inner_average(
    activation: Activation, mean: np.ndarray, width: float, points: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E f(mean + width y), E f'(mean + width y) and Var f, y ~ N(0, 1), at every mean."""
    standard = np.concatenate([[0.0], STANDARD])
    fixed = np.unique(np.concatenate([standard, -standard]))
    at = np.clip((points - mean[:, None]) / width, -REACH, REACH)
    edges = np.sort(np.concatenate([np.tile(fixed, (len(mean), 1)), at], axis=1), axis=1)
    value, slope, spread = (np.empty(len(mean)) for _ in range(3))
    for part in np.array_split(np.arange(len(mean)), 1 + len(mean) // 256):
        y, w = _panels(edges[part], n)
        f, df = _evaluate(activation, mean[part, None] + width * y)
        value[part], slope[part] = (w * f).sum(1), (w * df).sum(1)
        spread[part] = (w * (f - value[part, None]) ** 2).sum(1)
    return value, slope, spread
