"""Relaxation of Metropolis sampling: spectrum, localization and the best jump.

How fast a random-walk Metropolis chain forgets its start is an eigenvalue Lambda of its master
operator. Short jumps diffuse; jumps beyond a critical length are rejected, and what is left of the
start localizes where the rejection probability R is largest, with Lambda = max R. The best jump
lies at or near the transition, unless a mode of the energy is slower.

Reference: A. D. Chepelianskii, S. N. Majumdar, H. Schawe, E. Trizac, arXiv:2207.10488.
"""

from __future__ import annotations

from thermolearn.systems.sampling.metropolis.chain import MetropolisRun, simulate_metropolis
from thermolearn.systems.sampling.metropolis.figures import best_jump, figure, localization
from thermolearn.systems.sampling.metropolis.jumps import (
    DensityJump,
    ExponentialJump,
    GaussianJump,
    TwoPeakedJump,
    UniformJump,
)
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator
from thermolearn.systems.sampling.metropolis.optimum import (
    OptimalJump,
    critical_jump,
    optimal_jump,
)
from thermolearn.systems.sampling.metropolis.params import Params
from thermolearn.systems.sampling.metropolis.potentials import (
    NotNormalisableError,
    Potential,
    box,
    double_well,
    harmonic,
    power,
)
from thermolearn.systems.sampling.metropolis.radial import RadialMetropolisOperator
from thermolearn.systems.sampling.metropolis.simulation import simulate
from thermolearn.systems.sampling.metropolis.theory import theory
from thermolearn.systems.sampling.metropolis.tuning import TunedStep, recommended_length, tune_step

__all__ = [
    "ABOUT",
    "DensityJump",
    "ExponentialJump",
    "GaussianJump",
    "MetropolisOperator",
    "MetropolisRun",
    "NotNormalisableError",
    "OptimalJump",
    "Params",
    "Potential",
    "RadialMetropolisOperator",
    "TunedStep",
    "TwoPeakedJump",
    "UniformJump",
    "best_jump",
    "box",
    "critical_jump",
    "double_well",
    "figure",
    "harmonic",
    "localization",
    "optimal_jump",
    "power",
    "recommended_length",
    "simulate",
    "simulate_metropolis",
    "theory",
    "tune_step",
]

ABOUT = {
    "title": "Relaxation of Metropolis sampling",
    "papers": ["arXiv:2207.10488", "arXiv:1211.7103"],
    "claims": [
        "A chain forgets its start like Lambda^n, Lambda an eigenvalue of the Metropolis operator: "
        "0.734281 for a harmonic potential and uniform jumps of twice its standard deviation.",
        "Beyond a critical jump length the slowest mode localizes where most jumps are rejected, "
        "and Lambda is the largest rejection probability.",
        "The best jump of a Gaussian accepts 46% (uniform) or 47% (Gaussian jumps) in one "
        "dimension and about 36% in ten, where relaxation of the energy and of a coordinate are "
        "equally slow.",
    ],
    "axes": {},
    "size": "walkers",
    "sizes": (50_000, 100_000),
    "allowance": {},
    "contrast": {"length": 2.2},
    "seeds": 24,
    "figures": {"1": "figure", "2": "localization", "3": "best_jump"},
}
