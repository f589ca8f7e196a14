"""Chaos in random recurrent networks.

N units with dh/dt = -h + J tanh(g h) and independent J_ij ~ N(0, 1/N): quiet up to g = 1, chaotic
beyond. Mean-field theory replaces the network by one unit in a Gaussian field with the correlation
of the unit's own signal; the chaotic state is a frictionless particle that comes to rest on a hill.

Reference: H. Sompolinsky, A. Crisanti, H. J. Sommers, doi:10.1103/PhysRevLett.61.259.
"""

from __future__ import annotations

from thermolearn.systems.dynamics.random_network.figures import figure
from thermolearn.systems.dynamics.random_network.mean_field import two_time_correlation
from thermolearn.systems.dynamics.random_network.params import Params
from thermolearn.systems.dynamics.random_network.simulation import simulate
from thermolearn.systems.dynamics.random_network.theory import (
    euler_correlation,
    stationary_correlation,
    stationary_variance,
    theory,
)

__all__ = [
    "ABOUT",
    "Params",
    "euler_correlation",
    "figure",
    "simulate",
    "stationary_correlation",
    "stationary_variance",
    "theory",
    "two_time_correlation",
]

ABOUT = {
    "title": "Chaos in random recurrent networks",
    "papers": ["doi:10.1103/PhysRevLett.61.259"],
    "claims": [
        "A random network with gain g is quiescent up to g = 1 and chaotic beyond.",
        "The variance of the chaotic state follows in closed form, and its autocorrelation from "
        "the motion of a particle in a potential.",
        "Marching the mean-field equations in time reaches the same state from any start.",
    ],
    "axes": {"correlation": "lag"},
    "points": {"correlation": (1.0, 2.0, 3.0)},
    "size": "n_units",
    "sizes": (200, 300),
    # N times the deviation, measured at N = 100 and 200: -0.3(1) and -0.5(2), -0.67(2) and
    # -0.70(3), at most 4.8(2) and 4.0(3)
    "allowance": {
        "variance": (0.8, 1.0),
        "activity": (0.8, 1.0),
        "correlation": (5.0, 1.0),
    },
    "contrast": {"gain": 4.5},
    "seeds": 24,
    "figures": {"1": "figure"},
}
