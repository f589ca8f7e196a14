"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass

from thermolearn.core.checks import real, whole
from thermolearn.systems.training.sgd_noise.losses import NAMED
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron, check_start
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD, Schedule

SCHEDULES = ("gd", "sgd", "persistent")


@dataclass(frozen=True)
class Params:
    """A perceptron on two symmetric clusters, under gradient descent with or without noise.

    Attributes
    ----------
    dimension : int
        Weights d, at least 2.
    alpha : float
        Samples per weight, > 0.
    Delta : float
        Variance of the noise around the two centers, > 0.
    loss : str
        "logistic", "hinge2" (margin 1) or "quadratic".
    schedule : str
        "gd" (all samples at every step), "sgd" (a fresh batch) or "persistent" (a batch that keeps
        its samples for a while).
    rate : float
        Learning rate eta of the loss summed over the samples, > 0.
    batch_fraction : float
        Share b of the samples in the batch, in (0, 1]; not used by "gd".
    persistence : float
        tau > 0, of "persistent" only: samples stay out of the batch for a time tau.
    weight_decay : float
        lambda >= 0.
    start_variance : float
        R0 >= 0: the weights start at m0 v + sqrt(R0) xi, xi noise of variance 1. R0 + m0^2 <= 1e6.
    start_overlap : float
        m0, the part of the start along the direction v of the centers.
    steps : int
        At least 4.
    data_sets : int
        Whole trainings, each on data of its own, that one seed of the simulation averages over, at
        least 1.
    n_mc : int
        Samples of the theory, above 1000 and far above the number of steps.
    """

    dimension: int = 100
    alpha: float = 2.0
    Delta: float = 1.0
    loss: str = "logistic"
    schedule: str = "sgd"
    rate: float = 0.2
    batch_fraction: float = 0.5
    persistence: float = 1.0
    weight_decay: float = 0.2
    start_variance: float = 0.5
    start_overlap: float = 0.3
    steps: int = 16
    data_sets: int = 48
    n_mc: int = 20_000

    def __post_init__(self) -> None:
        whole("dimension", self.dimension, 2)
        real("alpha", self.alpha, above=0)
        real("Delta", self.Delta, above=0)
        for name, value, known in (
            ("loss", self.loss, tuple(NAMED)),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        real("rate", self.rate, above=0)
        real("batch_fraction", self.batch_fraction, above=0, most=1)
        real("persistence", self.persistence, above=0)
        real("weight_decay", self.weight_decay, least=0)
        real("start_variance", self.start_variance, least=0)
        real("start_overlap", self.start_overlap)
        check_start(self.start())
        whole("steps", self.steps, 4)
        whole("data_sets", self.data_sets, 1)
        whole("n_mc", self.n_mc, 1000)
        if round(self.alpha * self.dimension) < 1:
            raise ValueError(f"dimension = {self.dimension} at this alpha leaves no sample")
        self.algorithm()

    def model(self) -> GaussianMixturePerceptron:
        """The data and the loss."""
        return GaussianMixturePerceptron(self.alpha, self.Delta, loss=self.loss)

    def algorithm(self) -> Schedule:
        """The schedule."""
        if self.schedule == "gd":
            return GD(self.rate)
        if self.schedule == "sgd":
            return SGD(self.rate, self.batch_fraction)
        return PersistentSGD(self.rate, self.batch_fraction, self.persistence)

    def start(self) -> tuple[float, float]:
        """(R0, m0)."""
        return self.start_variance, self.start_overlap
