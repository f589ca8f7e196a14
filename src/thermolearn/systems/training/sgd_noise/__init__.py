"""Effective noise of stochastic gradient descent, exactly, on a Gaussian mixture.

A linear classifier of high-dimensional clusters is trained on all samples, on fresh batches, or on
batches that keep their samples for a while. In the limit of many weights its dynamics follow from
one effective sample in Gaussian noise and memory (`GaussianMixturePerceptron.dmft`); the same
training at finite dimension is `GaussianMixturePerceptron.simulate`. Where it is stationary, the
ratio of fluctuation and response is the temperature of its noise.

References: F. Mignacco, P. Urbani, arXiv:2112.10852; F. Mignacco, F. Krzakala, P. Urbani,
L. Zdeborova, arXiv:2006.06098; E. Agoritsas, G. Biroli, P. Urbani, F. Zamponi, arXiv:1710.04894.
"""

from __future__ import annotations

from thermolearn.systems.training.sgd_noise.experiment import simulate
from thermolearn.systems.training.sgd_noise.figures import figure, replicas, temperatures
from thermolearn.systems.training.sgd_noise.losses import Loss, hinge2
from thermolearn.systems.training.sgd_noise.matched import MatchedMixture, MatchedResult
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.params import Params
from thermolearn.systems.training.sgd_noise.prior import Prior
from thermolearn.systems.training.sgd_noise.result import DMFTResult, load
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD
from thermolearn.systems.training.sgd_noise.simulation import dynamics
from thermolearn.systems.training.sgd_noise.simulation_result import SimulationResult
from thermolearn.systems.training.sgd_noise.static import StaticState
from thermolearn.systems.training.sgd_noise.theory import theory

__all__ = [
    "ABOUT",
    "GD",
    "SGD",
    "DMFTResult",
    "GaussianMixturePerceptron",
    "Loss",
    "MatchedMixture",
    "MatchedResult",
    "Params",
    "PersistentSGD",
    "Prior",
    "SimulationResult",
    "StaticState",
    "dynamics",
    "figure",
    "hinge2",
    "load",
    "replicas",
    "simulate",
    "temperatures",
    "theory",
]

ABOUT = {
    "title": "Effective noise of stochastic gradient descent",
    "papers": ["arXiv:2112.10852", "arXiv:2006.06098", "arXiv:1710.04894"],
    "claims": [
        "Overlap, norm, correlation, response and loss of a perceptron trained on a Gaussian "
        "mixture follow at every step from one effective sample, without a free parameter.",
        "In the stationary state half the mean square displacement over the response is a "
        "temperature: that of SGD grows as eta (1 - b)/b, that of persistent SGD with the "
        "persistence and not with eta.",
        "The noise of SGD is hotter at short lags than at long ones, that of persistent SGD is "
        "colder; where all samples can be fitted the distance of two replicas measures it.",
    ],
    "axes": {},
    "size": "dimension",
    "sizes": (100, 200),
    # measured at 50, 100, 200 and 400 weights with 800 to 3000 data sets: d times the deviation
    "allowance": {
        "square_norm": (0.4, 1.0),
        "correlation": (0.3, 1.0),
        "response": (0.1, 1.0),
        "train_loss": (0.1, 1.0),
        "test_error": (0.03, 1.0),
        "fast_temperature": (0.012, 1.0),
    },
    "contrast": {"batch_fraction": 0.35},
    "seeds": 24,
    "figures": {"1": "figure", "2": "temperatures", "3": "replicas"},
}
