"""Activations and weights whose pre-activations are exactly Gaussian.

W symmetric Weibull and an odd activation with W phi(X) ~ N(0, 1): variance 1 and a normal law in
every layer, at width 1 exactly and at every depth. At width 2 and above the units of one layer
are uncorrelated but not independent, and from the third layer on a deviation of order 1 / width
is left (at width 3 and depth 6 the standard deviation has fallen by 3% and the
Kolmogorov-Smirnov distance is 0.025, half that of tanh).

References: P. Wolinski, J. Arbel, arXiv:2205.12379; B. Poole et al., arXiv:1606.05340 (the
correlation map); M. Kanter, doi:10.1214/aop/1176996309 (stable variables, in the simulation).
"""

from __future__ import annotations

from thermolearn.systems.dynamics.gaussian_preactivations.figures import figure
from thermolearn.systems.dynamics.gaussian_preactivations.params import Params
from thermolearn.systems.dynamics.gaussian_preactivations.simulation import simulate
from thermolearn.systems.dynamics.gaussian_preactivations.theory import theory

__all__ = ["ABOUT", "Params", "figure", "simulate", "theory"]

ABOUT = {
    "title": "Exactly Gaussian pre-activations",
    "papers": [
        "arXiv:2205.12379",
        "arXiv:1606.05340",
        "doi:10.1214/aop/1176996309",
    ],
    "claims": [
        "With Weibull weights and the activation that belongs to them, pre-activations have "
        "variance 1 and a normal law in every layer.",
        "The growth of gradients, chi_1 = Gamma(1 + 2/theta) E phi'^2, exceeds 1 for odd pairs: "
        "they are weakly chaotic and approach criticality as theta grows.",
        "At width 2 and above the units of a layer are not independent: a small deviation, of "
        "order 1 / width, is left from the third layer on.",
    ],
    "axes": {"below": "threshold", "correlation": "layer"},
    "size": "width",
    "sizes": (40, 80),
    # measured at widths 10, 20 and 40 with up to 45000 networks: width times deviation
    "allowance": {
        "variance": (0.1, 1.0),
        "below": (0.08, 1.0),
        "correlation": (0.08, 1.0),
        "chi1": (0.06, 1.0),
    },
    "contrast": {"theta": 5.0},
    "seeds": 24,
    "figures": {"1": "figure"},
}
