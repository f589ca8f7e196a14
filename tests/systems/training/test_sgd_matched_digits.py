"""One row of the table of digits, and what the terms of order 1/d do on Gaussian data."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from thermolearn.measure.noise import VirialThermometer, effective_temperature
from thermolearn.systems.training.sgd_noise.matched import MatchedMixture
from thermolearn.systems.training.sgd_noise.matched_simulation import (
    gaussian_data,
    training_dynamics,
)
from thermolearn.systems.training.sgd_noise.schedules import SGD

pytestmark = pytest.mark.slow

SCHEDULE, DECAY, LAG = SGD(0.03, 0.5), 4.0, 40


def digits():
    data = load_digits()
    x = data.data[:, data.data.std(0) > 0]
    x = x - x.mean(0)
    x = x * math.sqrt(x.shape[1] / (x**2).sum(1).mean())
    return x, np.where(data.target % 2 == 0, 1.0, -1.0)


@pytest.fixture(scope="module")
def mixture():
    return MatchedMixture.fit(*digits())


def predicted(mixture, finite):
    result = mixture.dmft(SCHEDULE, DECAY, 120, 1000, runs=4, finite=finite)
    return result.effective_temperature((60, 120), lag=LAG)


def test_gaussian_data_of_the_same_size(mixture):
    run = training_dynamics(
        *gaussian_data(mixture, 12, seed=5),
        loss="logistic", schedule=SCHEDULE, weight_decay=DECAY, seed=1,
    )  # fmt: skip
    found = effective_temperature(run, lag=LAG, origins=8, burn_in=60)
    theory = predicted(mixture, "moments")
    for name in ("t_fast", "t_glob", "plateau"):
        a, b = getattr(theory, name), getattr(found, name)
        bar = math.hypot(float(a.stderr), float(b.stderr))
        assert bar < 0.05 * b.item()
        assert abs(a.item() - b.item()) < 4 * bar, name


def test_digits_within_ten_percent_of_the_announced_theory(mixture):
    x, y = digits()
    run = training_dynamics(
        x, y, loss="logistic", schedule=SCHEDULE, weight_decay=DECAY, replicas=8, seed=1
    )
    found, theory = (
        effective_temperature(run, lag=LAG, origins=20, burn_in=60),
        predicted(mixture, "means"),
    )
    for name in ("t_fast", "t_glob", "plateau"):
        a, b = getattr(theory, name), getattr(found, name)
        assert abs(a.item() / b.item() - 1) < 0.1, name
        assert b.stderr < 0.05 * b.item(), name


def test_torchs_optimizer_and_the_virial_thermometer(mixture):
    """Predicted, then measured with the mean loss: T/n at learning rate eta n, decay lambda/n."""
    x, y = digits()
    n, d = x.shape
    b = 0.1
    result = mixture.dmft(SGD(0.03, b), DECAY, 120, 1000, runs=4, finite="means")
    theory = result.effective_temperature((60, 120), method="virial")
    inputs, labels = torch.from_numpy(x / math.sqrt(d)), torch.from_numpy(y)
    model = nn.utils.skip_init(nn.Linear, d, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03 * n, weight_decay=DECAY / n)
    generator = torch.Generator().manual_seed(0)
    with VirialThermometer(model, optimizer) as thermometer:
        for _ in range(2500):
            batch = torch.rand(n, generator=generator) < b
            optimizer.zero_grad()
            h = model(inputs[batch])[:, 0]
            (nn.functional.softplus(-labels[batch] * h).sum() / (b * n)).backward()
            optimizer.step()
    measured = thermometer.result()
    assert measured.stationary
    left, right = (
        n * measured.theta_dot_gradient.item(),
        n * measured.half_rate_update_squared.item(),
    )
    assert abs(left / right - 1) < 0.05
    bar = math.hypot(n * float(measured.temperature.stderr), float(theory.stderr))
    assert bar < 0.05 * theory.item()
    assert abs(n * measured.temperature.item() / theory.item() - 1) < 0.1
