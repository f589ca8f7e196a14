"""Gaussian averages of an activation by quadrature: on the line, and in the plane.

With u = s1 r cos(psi), v = s2 r cos(psi - theta), the average over two Gaussians of standard
deviations s1, s2 and correlation cos(theta) is an integral over the plane whose kinks lie on known
lines: panels end there, and the rule is as good for a kinked activation as for a smooth one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.activation import Activation, value_and_slope
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.gaussian import REACH
from thermolearn.measure.propagation.averages import TINY, moments

ACCURACY = 1e-8  # relative to the geometric mean of the two diagonal values; else refused
NODES, COARSE = 12, 10  # per panel; their difference is the error of the quadrature
CHUNK = 2**21  # nodes evaluated at once


# -- one variable ------------------------------------------------------------------------------
def line_averages(activation: Activation, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E phi^2, E phi'^2, E phi at every variance."""
    if not q.numel():
        return q.clone(), q.clone(), q.clone()
    top = moments(activation, float(q.max()))  # refuses what grows too fast
    coarse = moments(activation, float(q.max()), COARSE)
    check(activation, abs(coarse.square - top.square), top.square)
    check(activation, abs(coarse.slope_square - top.slope_square), top.slope_square)
    unique, where = torch.unique(q, return_inverse=True)
    sigma = unique.clamp(min=TINY).sqrt()
    ends = torch.tensor(graded(float(sigma.max())), dtype=torch.double)
    kinks = [abs(t) for t in activation.kinks if t]
    rows: list[tuple[Tensor, ...]] = []
    for part in torch.split(sigma, 512):
        inner = [(t / part).clamp(max=REACH)[:, None] for t in kinks]
        edges = torch.cat([ends.expand(len(part), -1), *inner], dim=1).sort(dim=1).values
        u, w = _panels(edges, NODES)
        w = w * torch.exp(-(u**2) / 2)
        w = w / (2 * w.sum(1, keepdim=True))
        z = part[:, None] * u
        (f, df), (g, dg) = value_and_slope(activation, z), value_and_slope(activation, -z)
        rows.append(
            ((w * (f**2 + g**2)).sum(1), (w * (df**2 + dg**2)).sum(1), (w * (f + g)).sum(1))
        )
    square, slope, mean = (torch.cat(column)[where] for column in zip(*rows, strict=True))
    return square, slope, mean


def graded(sigma: float) -> list[float]:
    """Ends of panels from 0 to REACH in standard units, halved towards 0 below 1 / sigma."""
    octaves = max(6, 1 + math.ceil(math.log2(max(REACH * sigma, 1.0))))
    return [0.0, *(REACH * 2.0 ** -np.arange(octaves)[::-1])]


def _panels(edges: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on the panels between edges (..., m)."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    half = edges.diff(dim=-1)[..., None] / 2
    middle = ((edges[..., 1:] + edges[..., :-1]) / 2)[..., None]
    return (middle + half * x).flatten(-2), (half * w).flatten(-2)


# -- two variables -----------------------------------------------------------------------------
def plane_averages(
    activation: Activation, s1: Tensor, s2: Tensor, theta: Tensor, n: int = NODES
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E phi(u) phi(v), E phi'(u) phi'(v), E phi(u) phi(-v), E phi'(u) phi'(-v).

    At standard deviations s1, s2 (p,) and angles theta (p,); the last two are the first two at
    pi - theta. Half of the plane, between the lines u = 0 and v = 0, and its mirror image. Panels
    in the angle close in on these lines and end where a kink of u crosses a kink of v; panels in
    the radius end at the kinks.
    """
    share, radial, kinks = _plane_panels(activation, float(torch.maximum(s1, s2).max()))
    per_pair = 2 * (len(share) + 2 * len(kinks) ** 2) * n * (len(radial) + 2 * len(kinks)) * n
    parts = [
        _plane_chunk(activation, a, b, t, n, share, radial, kinks)
        for a, b, t in zip(
            *(torch.split(v, max(1, CHUNK // per_pair)) for v in (s1, s2, theta)), strict=True
        )
    ]
    value, slope, mirrored, mirrored_slope = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return value, slope, mirrored, mirrored_slope


def _plane_panels(activation: Activation, sigma: float) -> tuple[Tensor, Tensor, list[float]]:
    """Ends of panels in a sector as shares of it, in the radius, and the sizes of the kinks."""
    levels = 3 + math.ceil(math.log2(1 + sigma))
    inner = 2.0 ** -np.arange(levels, 0, -1)
    share = torch.tensor([0.0, *inner, *(1 - inner[-2::-1]), 1.0], dtype=torch.double)
    kinks = sorted({abs(t) for t in activation.kinks if t})
    return share, torch.tensor(graded(sigma), dtype=torch.double), kinks


def _sectors(theta: Tensor, share: Tensor) -> list[Tensor]:
    """From v = 0 at theta - pi/2 to u = 0 at pi/2, on to v = 0 at theta + pi/2."""
    return [theta - math.pi / 2 + (math.pi - theta) * share, math.pi / 2 + theta * share]


def _plane_chunk(
    activation: Activation, s1: Tensor, s2: Tensor, theta: Tensor, n: int,
    share: Tensor, radial: Tensor, kinks: list[float],
) -> list[Tensor]:  # fmt: skip
    theta = theta[:, None]
    edges = torch.cat([*_sectors(theta, share), _crossings(s1, s2, theta, kinks)], dim=1)
    psi, w_psi = _panels(edges.sort(dim=1).values, n)
    cosines = psi.cos(), (psi - theta).cos()
    ends = [radial.expand(*psi.shape, -1)]
    for s, cosine in zip((s1, s2), cosines, strict=True):
        reach = (s[:, None] * cosine.abs()).clamp(min=TINY)
        ends += [(t / reach).clamp(max=REACH)[..., None] for t in kinks]
    r, w = _panels(torch.cat(ends, dim=-1).sort(dim=-1).values, n)
    w = w * r * torch.exp(-(r**2) / 2) * w_psi[..., None] / (2 * math.pi)
    u, v = (s[:, None, None] * c[..., None] * r for s, c in zip((s1, s2), cosines, strict=True))
    first, negative = value_and_slope(activation, u), value_and_slope(activation, -u)
    second, mirrored = value_and_slope(activation, v), value_and_slope(activation, -v)
    return [
        (w * (f * g + f_negative * g_mirrored)).sum((1, 2))
        for other, back in ((second, mirrored), (mirrored, second))
        for f, f_negative, g, g_mirrored in zip(first, negative, other, back, strict=True)
    ]


def on_grid(activation: Activation, s: Tensor, theta: float, n: int = NODES) -> list[Tensor]:
    """As `plane_averages` for all pairs of s (m,) at once: where no kink but 0 is."""
    share, radial, _ = _plane_panels(activation, float(s.max()))
    angle = torch.tensor(theta, dtype=torch.double)
    psi, w_psi = _panels(torch.cat(_sectors(angle, share)), n)
    r, w = _panels(radial, n)
    w = (w_psi[:, None] * (w * r * torch.exp(-(r**2) / 2))).flatten() / (2 * math.pi)
    u, v = (s[:, None] * (c[:, None] * r).flatten() for c in (psi.cos(), (psi - angle).cos()))
    first, negative = value_and_slope(activation, u), value_and_slope(activation, -u)
    second, mirrored = value_and_slope(activation, v), value_and_slope(activation, -v)
    found = [
        (w * f) @ g.T + (w * f_negative) @ g_mirrored.T
        for other, back in ((second, mirrored), (mirrored, second))
        for f, f_negative, g, g_mirrored in zip(first, negative, other, back, strict=True)
    ]
    return [(m + m.T) / 2 for m in found]


def _crossings(s1: Tensor, s2: Tensor, theta: Tensor, kinks: list[float]) -> Tensor:
    """Angles, from theta - pi/2 over a half turn, of points where |u| and |v| are at kinks."""
    columns = [torch.empty(len(s1), 0, dtype=torch.double)]
    start = theta - math.pi / 2
    for t1 in kinks:
        for t2 in kinks:
            for sign in (1, -1):
                x = (t1 / s1.clamp(min=TINY))[:, None]
                y = (sign * t2 / s2.clamp(min=TINY))[:, None] - x * theta.cos()
                psi = torch.atan2(y, x * theta.sin())
                columns.append(start + torch.remainder(psi - start, math.pi))
    return torch.cat(columns, dim=1)


UNKNOWN_KINK = "its slope jumps at points that are not known, or bends where no panel ends"
SPREAD = "its series over variances this different does not end"


def check(activation: Activation, error: float, scale: float, why: str = UNKNOWN_KINK) -> None:
    """Raises NotApplicableError if the error exceeds `ACCURACY` times the scale."""
    if not error <= ACCURACY * abs(scale) + 1e-300:
        raise unresolved(activation, error / max(abs(scale), 1e-300), why)


def unresolved(activation: Activation, error: float, why: str) -> NotApplicableError:
    """The error to raise, with what to do about it."""
    kinks = (
        "a callable with an attribute kinks = (z_1, ...), the points where its slope jumps, or "
        if why != SPREAD else ""
    )  # fmt: skip
    return NotApplicableError(
        f"the averages of activation {activation.name!r} are right to {error:.1e} only: {why}; "
        f"give {kinks}inputs of less different, or smaller, norms"
    )
