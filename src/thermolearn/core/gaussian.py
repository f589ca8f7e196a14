"""Averages over a Gaussian variable by quadrature.

Plain Gauss-Hermite rules fail silently where a function is steeper than the node spacing (tanh'
to the fourth power at a standard deviation of 3: 3% off with 161 nodes) and converge slowly at a
kink. The rule used here is Gauss-Legendre on panels that end at the kinks and grow by factors of
2 away from the origin, which cures both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

# Beyond this many standard deviations the Gaussian carries less than 1e-22 of its mass.
REACH = 10.0
# Panels on a half axis: the innermost is 1/6 of a standard deviation long.
OCTAVES = 7
# A large sigma over a small fineness would take too many nodes.
MOST_PANELS = 400


def gauss_nodes(
    sigma: float, n: int = 16, kinks: Sequence[float] = (), fineness: float = math.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z_i and weights w_i with E g(z) = sum_i w_i g(z_i) for z ~ N(0, sigma^2).

    Symmetric about 0, where panels meet, and cut at 10 standard deviations. With 16 nodes the
    moments up to the 16th, kinks at the origin and features of unit width at the origin
    (exp(-2 z^2), whatever sigma) are right to 1e-13 relative, with 12 to 1e-10, with 8 to 2e-6.
    What is narrow and far from the origin, as exp(-2 (z - 20)^2) at sigma = 10, is missed unless
    `fineness` is about its width.

    Parameters
    ----------
    sigma : float
        Standard deviation >= 0; 0 puts all nodes at 0.
    n : int
        Nodes per panel, at least 1. On each side of the origin there are 7 panels, and one more
        for every factor of 2 in sigma above 6.4; `kinks` and `fineness` add to them.
    kinks : sequence of float
        Where g or a derivative of it jumps, in units of z: no panel contains one.
    fineness : float
        Longest panel, in units of z, > 0; but at most 400 panels are made out of one.

    Returns
    -------
    nodes, weights : ndarray (m,)
        In ascending order of the nodes; weights > 0 with sum 1.

    Raises
    ------
    ValueError
        sigma negative or not finite, n below 1, a kink that is not finite, or fineness not
        positive.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be finite and >= 0, got {sigma}")
    if n < 1:
        raise ValueError(f"n must be at least 1 node, got {n}")
    if not all(map(math.isfinite, kinks)):
        raise ValueError(f"kinks must be finite, got {kinks}")
    if not fineness > 0:
        raise ValueError(f"fineness must be positive, got {fineness}")
    edge = _panel_edges(sigma, kinks, fineness)
    x, w = np.polynomial.legendre.leggauss(n)
    half = np.diff(edge)[:, None] / 2
    u = ((edge[1:] + edge[:-1])[:, None] / 2 + half * x).ravel()
    weight = (half * w).ravel() * np.exp(-(u**2) / 2)
    weight /= 2 * weight.sum()
    return sigma * np.concatenate([-u[::-1], u]), np.concatenate([weight[::-1], weight])


def _panel_edges(sigma: float, kinks: Sequence[float], fineness: float) -> np.ndarray:
    """Ends of the panels in u = z / sigma from 0 to `REACH`."""
    # the innermost panel is also at most 1 long in z
    octaves = max(OCTAVES, 1 + math.ceil(math.log2(max(REACH * sigma, 1.0))))
    graded = REACH * 2.0 ** -np.arange(octaves)
    inner = [abs(k) / sigma for k in kinks if 0 < abs(k) < REACH * sigma]
    breaks = np.unique(np.concatenate([[0.0], graded, inner]))
    edges = [np.zeros(1)]
    for low, high in itertools.pairwise(breaks):
        parts = min(math.ceil((high - low) * sigma / fineness), MOST_PANELS)
        edges.append(np.linspace(low, high, max(parts, 1) + 1)[1:])
    return np.concatenate(edges)
