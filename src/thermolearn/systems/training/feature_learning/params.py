"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from thermolearn.core.checks import real, whole

ACTIVATIONS = ("erf", "linear")
TEST_INPUTS = 100


@dataclass(frozen=True)
class Params:
    """A two-layer Bayesian network on a teacher of one direction.

    Inputs x ~ N(0, 1), labels y = phi(x_1); the data set is fixed by `data_seed`, seeds draw
    networks from its posterior.

    Attributes
    ----------
    channels : int
        Hidden units C, at least 1.
    dim : int
        Inputs d, at least 2.
    n_samples : int
        Training inputs n, at least 2.
    sigma_w2 : float
        Prior variance of a hidden weight times d, positive.
    sigma_a2 : float
        Prior variance of a readout weight times C, positive: 1 is standard scaling, 1/C mean-field
        scaling.
    noise : float
        Temperature sigma^2 of the posterior, in squared label units; positive.
    activation : str
        "erf" or "linear".
    data_seed : int
        Of the inputs, not negative.
    chains : int
        Chains of one seed, at least 1; error bars are between them.
    warm_up : int
        Langevin steps before the first draw, at least 10. Too few leave a bias.
    draws : int
        Draws kept of each chain, ten Langevin steps apart; at least 1.
    """

    channels: int = 20
    dim: int = 4
    n_samples: int = 24
    sigma_w2: float = 1.0
    sigma_a2: float = 0.05
    noise: float = 0.02
    activation: str = "erf"
    data_seed: int = 1
    chains: int = 16
    warm_up: int = 250
    draws: int = 20

    def __post_init__(self) -> None:
        least = {"channels": 1, "dim": 2, "n_samples": 2, "data_seed": 0, "chains": 1}
        for name, lowest in (least | {"warm_up": 10, "draws": 1}).items():
            whole(name, getattr(self, name), lowest)
        for name in ("sigma_w2", "sigma_a2", "noise"):
            real(name, getattr(self, name), above=0)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """X (n, d), y (n,), and 100 test inputs with their labels."""
        rng = np.random.default_rng(self.data_seed)
        X = rng.standard_normal((self.n_samples, self.dim))
        test = rng.standard_normal((TEST_INPUTS, self.dim))
        y, test_y = X[:, 0], test[:, 0]
        return (
            (X, y, test, test_y) if self.activation == "linear" else (X, erf(y), test, erf(test_y))
        )
