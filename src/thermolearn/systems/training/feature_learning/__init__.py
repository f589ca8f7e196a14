"""Feature learning in finite Bayesian networks: adapted kernels against exact sampling.

A finite network trained by noisy gradient descent to equilibrium has hidden layers whose
covariances adapt to the data. The equations of state predict these kernels, the mean predictor
and its test error without training; the experiment draws networks from the posterior itself.

References: I. Seroussi, G. Naveh, Z. Ringel, arXiv:2112.15383 (the equations of state; N. Rubin
et al., arXiv:2502.03210, where they hold); C. K. I. Williams, doi:10.1162/089976698300017412 (the
erf kernel).
"""

from __future__ import annotations

from typing import Any

from thermolearn.systems.training.feature_learning.comparison import FeatureComparison, compare
from thermolearn.systems.training.feature_learning.equations import EquationsOfState, Solution
from thermolearn.systems.training.feature_learning.figures import figure, gaussianity_figure
from thermolearn.systems.training.feature_learning.gaussian_process import GaussianProcess
from thermolearn.systems.training.feature_learning.gaussianity import gaussianity, weight_kurtosis
from thermolearn.systems.training.feature_learning.linear import (
    ExactLinearNetwork,
    linear_network_exact,
)
from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN
from thermolearn.systems.training.feature_learning.params import Params
from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples
from thermolearn.systems.training.feature_learning.sampling import sample_posterior
from thermolearn.systems.training.feature_learning.self_check import SelfCheck
from thermolearn.systems.training.feature_learning.simulation import simulate
from thermolearn.systems.training.feature_learning.storage import load_samples
from thermolearn.systems.training.feature_learning.theory import theory

__all__ = [
    "ABOUT",
    "BayesianCNN",
    "BayesianFCN",
    "EquationsOfState",
    "ExactLinearNetwork",
    "FeatureComparison",
    "GaussianProcess",
    "Params",
    "PosteriorSamples",
    "SelfCheck",
    "Solution",
    "compare",
    "equations_of_state",
    "figure",
    "gaussianity",
    "gaussianity_figure",
    "linear_network_exact",
    "load_samples",
    "sample_posterior",
    "simulate",
    "theory",
    "weight_kurtosis",
]

ABOUT = {
    "title": "Feature learning in finite Bayesian networks: adapted kernels",
    "papers": ["arXiv:2112.15383", "arXiv:2502.03210", "doi:10.1162/089976698300017412"],
    "claims": [
        "The covariance of the hidden weights adapts to the data as the equations of state say: "
        "it grows along the teacher and shrinks elsewhere.",
        "The posterior mean of a finite network in mean-field scaling is that of a Gaussian "
        "process with the adapted kernel, not with that of infinite width.",
    ],
    "axes": {},
    "size": "channels",
    "sizes": (20, 40),
    # measured at 10, 20, 40 and 80 channels with up to 12800 networks: from 10 to 40 the deviations
    # fall by .73 to .77 for twice the channels, about like the inverse square root (.71), then
    # like the inverse
    "allowance": {
        "learned_variance": (0.05, 0.5),
        "input_variance": (0.04, 0.5),
        "train_alpha": (0.02, 0.5),
        "test_alpha": (0.025, 0.5),
    },
    "contrast": {"sigma_a2": 0.1},
    "seeds": 24,
    "figures": {"1": "figure", "2": "gaussianity_figure"},
}


def equations_of_state(
    net: BayesianFCN | BayesianCNN,
    X: Any,
    y: Any,
    noise: float,
    jitter: float = 0.0,
    **options: Any,
) -> Solution:
    """The adapted kernels of a network on data: ``net.equations_of_state(X, y, noise).solve()``.

    Parameters
    ----------
    net : BayesianFCN or BayesianCNN
    X : array (n, d), of a CNN (n, patches, patch_dim)
    y : array (n,)
    noise : float
        Temperature sigma^2 of the posterior, positive.
    jitter : float
        As in `net.equations_of_state`: for duplicate inputs and more than one hidden layer.
    **options
        Of `EquationsOfState.solve`, which says what is raised and warned.
    """
    return net.equations_of_state(X, y, noise, jitter).solve(**options)
