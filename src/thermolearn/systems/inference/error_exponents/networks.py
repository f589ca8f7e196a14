"""Small networks trained to detect, and their scores on samples they have not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from thermolearn.core.checks import real, whole
from thermolearn.predict.exponents import (
    EmpiricalCGF,
    ErrorExponents,
    TailProbability,
    tail,
    tilted_monte_carlo,
)

LAPLACE_SHIFT, LAPLACE_TRAINING, LAPLACE_CALIBRATION = 0.5, 2000, 50_000
REAL = ("digits_parity", "digits_3_8", "breast_cancer")


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A trained network as a detector: calibrated exponents, and scores to hold them against.

    Attributes
    ----------
    data : str
    exponents : ErrorExponents
        From the calibration scores.
    test_h0, test_h1 : ndarray
        Scores of further samples: the population that observations are drawn from.
    train_loss : float
        Cross-entropy at the end of the training.
    notes : tuple of str
        What was done.
    """

    data: str
    exponents: ErrorExponents
    test_h0: np.ndarray
    test_h1: np.ndarray
    train_loss: float
    notes: tuple[str, ...] = ()

    @cached_property
    def _populations(self) -> tuple[EmpiricalCGF, EmpiricalCGF]:
        return EmpiricalCGF(self.test_h0), EmpiricalCGF(self.test_h1)

    def measure(
        self, n: int, gamma: float, draws: int = 20_000, seed: int = 0
    ) -> tuple[TailProbability, TailProbability]:
        """False alarm and miss of means of n test scores, by tilted Monte Carlo.

        The error bars hold the finite number of draws and of test scores.
        """
        found = []
        for population, upper in zip(self._populations, (True, False), strict=True):
            drawn = tilted_monte_carlo(population, n, gamma, draws, upper, seed + (not upper))
            sampled = tail(population, n, gamma, upper).log_stderr
            found.append(replace(drawn, log_stderr=np.hypot(drawn.log_stderr, sampled)))
        return found[0], found[1]


def train_detector(
    data: str,
    calibration: int | None,
    hidden: int,
    steps: int | None,
    seed: int,
    population: int,
    noise: float,
) -> TrainedDetector:
    """See `thermolearn.systems.inference.error_exponents.trained_detector`."""
    whole("hidden", hidden, 1)
    whole("seed", seed, 0)
    whole("population", population, 1000)
    if data == "laplace":
        length = whole("steps", 300 if steps is None else steps, 1)
        per_class = LAPLACE_CALIBRATION if calibration is None else calibration
        return _laplace(whole("calibration", per_class, 50), hidden, length, seed, population)
    if data not in REAL:
        raise ValueError(f"data must be laplace, {', '.join(REAL)}, got {data!r}")
    if calibration is not None:
        raise ValueError("calibration is set by the split of real data; leave it out")
    length = whole("steps", 30 if steps is None else steps, 1)
    return _real(data, hidden, length, seed, real("noise", noise, least=0))


def _laplace(
    calibration: int, hidden: int, steps: int, seed: int, population: int
) -> TrainedDetector:
    rng = np.random.default_rng((2207_10939, seed))

    def draw(size: int) -> np.ndarray:
        return rng.laplace(size=(size, 2))

    parts = [(draw(m), draw(m) + LAPLACE_SHIFT) for m in (LAPLACE_TRAINING, calibration)]
    network, loss = fit(*parts[0], hidden, steps, seed)
    test_h0, test_h1 = (scores(network, draw(population) + shift) for shift in (0.0, LAPLACE_SHIFT))
    exponents = ErrorExponents(*(scores(network, x) for x in parts[1]))
    notes = (
        f"trained on {LAPLACE_TRAINING}, calibrated on {calibration}, tested on {population} "
        "samples per class",
    )
    return TrainedDetector("laplace", exponents, test_h0, test_h1, loss, notes)


def _real(data: str, hidden: int, steps: int, seed: int, noise: float) -> TrainedDetector:
    x, positive = _load(data)
    rng = np.random.default_rng((2207_10939, seed))
    order = rng.permutation(len(x))
    # a sixth to train on leaves scores enough for both tails
    cuts = [len(x) // 6, len(x) // 6 + 5 * len(x) // 12]
    train, calibrate, test = np.split(order, cuts)
    mean, std = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(std > 0, std, 1.0)
    # one look at every sample, so that scores stay independent
    x = x + noise * rng.normal(size=x.shape)
    network, loss = fit(x[train][~positive[train]], x[train][positive[train]], hidden, steps, seed)
    parts = [
        scores(network, x[part][positive[part] == side])
        for part in (calibrate, test)
        for side in (False, True)
    ]
    sizes = [len(part) for part in (train, calibrate, test)]
    notes = (
        f"{sizes[0]} training, {sizes[1]} calibration and {sizes[2]} test samples; noise of "
        f"standard deviation {noise:g} on standardized inputs",
    )
    return TrainedDetector(data, ErrorExponents(*parts[:2]), parts[2], parts[3], loss, notes)


def _load(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and which of them are positive."""
    from sklearn.datasets import load_breast_cancer, load_digits

    if data == "breast_cancer":
        x, y = load_breast_cancer(return_X_y=True)
        return np.asarray(x), np.asarray(y) == 0  # malignant
    x, y = (np.asarray(part) for part in load_digits(return_X_y=True))
    if data == "digits_parity":
        return x, y % 2 == 1
    keep = (y == 3) | (y == 8)
    return x[keep], y[keep] == 8


# -- the network ---------------------------------------------------------------------------------
def fit(
    noise: np.ndarray, signal: np.ndarray, hidden: int, steps: int, seed: int
) -> tuple[nn.Module, float]:
    """A tanh network by full-batch Adam on the cross-entropy, and its last loss."""
    generator = torch.Generator().manual_seed(seed)
    inputs = noise.shape[1]
    # made without initial weights: these are drawn from our own generator
    network = nn.Sequential(
        nn.utils.skip_init(nn.Linear, inputs, hidden, dtype=torch.float64),
        nn.Tanh(),
        nn.utils.skip_init(nn.Linear, hidden, 1, dtype=torch.float64),
    )
    with torch.no_grad():
        for layer in (network[0], network[2]):
            bound = 1 / math.sqrt(layer.in_features)  # type: ignore[arg-type]
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    x = torch.from_numpy(np.concatenate([noise, signal]))
    y = torch.cat([torch.zeros(len(noise)), torch.ones(len(signal))]).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    loss = torch.tensor(math.nan)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(x)[:, 0], y)
        loss.backward()
        optimizer.step()
    return network, loss.item()


def scores(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """Logits of samples, (M,)."""
    with torch.no_grad():
        return network(torch.from_numpy(x))[:, 0].numpy()
