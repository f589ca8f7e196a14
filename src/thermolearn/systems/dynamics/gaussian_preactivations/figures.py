"""The headline figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
from thermolearn.measure.propagation.gaussianity import RandomNetworks, ks_gaussianity

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

WIDTHS, DEPTH = (1, 3, 10), 6
MEAN_SQUARE_KS = 0.8687  # mean of sqrt(S) times the distance of S Gaussian samples


def figure(quick: bool = True) -> Drawing:
    """The activations, and the distance of pre-activations to the normal law against depth.

    Left: phi for several theta. Right: Kolmogorov-Smirnov distance of random networks of widths 1,
    3 and 10; lines, what Gaussian samples of that number give on average (theory: no deviation);
    points, the pair at theta = 2.5 and tanh on the critical line (divided by its standard
    deviation).

    Parameters
    ----------
    quick : bool
        20000 networks, else 100000.
    """
    from thermolearn.core.drawing import Drawing

    n = 20000 if quick else 100000
    drawing = Drawing("Exactly Gaussian pre-activations", columns=2, size=(11, 4.2))
    left, right = drawing.axes[0]
    left.set(xlabel="x", ylabel=r"$\varphi_\theta(x)$")
    x = torch.linspace(-4, 4, 161, dtype=torch.float64)
    for color, theta in enumerate((2.05, 2.5, 4.0, 10.0)):
        phi = GaussianPreactivation(theta).double()
        drawing.theory(left, x.numpy(), phi(x).numpy(), rf"$\theta={theta:g}$", color, theta=theta)
    right.set(xlabel="layer", ylabel="Kolmogorov-Smirnov distance", yscale="log")
    layers = np.arange(1, DEPTH + 1)
    level = np.full(DEPTH, MEAN_SQUARE_KS / math.sqrt(n))
    drawing.theory(right, layers, level, "Gaussian samples, mean", 5, networks=n)
    cases = [(width, name) for width in WIDTHS for name in ("pair", "tanh")]
    for width, name in track(cases, "drawing networks"):
        networks = (
            RandomNetworks(GaussianPreactivation(2.5), width, DEPTH)
            if name == "pair"
            else RandomNetworks("tanh", width, DEPTH, 1.46, 0.013)
        )
        found = ks_gaussianity(networks, torch.ones(1), n, standardize=name == "tanh")
        color = WIDTHS.index(width) + (3 if name == "tanh" else 0)
        points: Estimate = found.distance
        drawing.simulation(right, layers, points, f"{name}, width {width}", color, n, width=width)
    left.legend(frameon=False, fontsize=8)
    right.set_ylim(1e-3, 1)
    right.legend(frameon=False, fontsize=7, ncols=2, loc="upper left")
    return drawing
