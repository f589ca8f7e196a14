"""Real training runs against the published numbers of the virial temperature."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from thermolearn.measure.noise import VirialThermometer, scaling_exponent


def run(rate, batch, momentum, steps, hidden=None, seed=1):
    """Digits/16, weight decay 0.01, batches with replacement, float32.

    Another seed than that of the published numbers, which would give their digits again.
    """
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hidden is None:
            model = nn.Linear(64, 10)
        else:
            model = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    with VirialThermometer(model, optimizer) as thermometer:
        for _ in range(steps):
            k = torch.randint(len(x), (batch,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[k]), y[k]).backward()
            optimizer.step()
    return thermometer.result()


def test_a_short_run_of_softmax_regression():
    result = run(0.5, 32, 0.0, 4500)
    left, right = result.theta_dot_gradient, result.half_rate_update_squared
    assert abs(left.item() - 0.02443) < 4 * math.hypot(left.stderr, 0.00011)
    assert abs(right.item() - 0.02442) < 4 * math.hypot(right.stderr, 0.00011)
    assert result.stationary and result.status == "ok"
    assert "no drift seen over 3000 steps" in result.statement
    assert result.parameters == 650
    assert result.smallest_drift_seen < 0.05


def test_the_start_of_a_run_drifts():
    result = run(0.5, 32, 0.0, 400)
    early = result
    assert not early.stationary and early.temperature.status == "not stationary"
    assert "drifts" in early.statement
    assert abs(early.ratio.item() - 1) > 0.05


@pytest.mark.slow
def test_softmax_regression_over_30000_steps():
    result = run(0.5, 32, 0.0, 30000)
    left, right = result.theta_dot_gradient.item(), result.half_rate_update_squared.item()
    assert abs(left - 0.0244) < 0.001 and abs(right - 0.0244) < 0.001
    assert abs(left / right - 1) < 0.01
    assert abs(result.temperature.item() - 3.758e-5) < 4 * result.temperature.stderr + 0.01e-5
    assert result.stationary


@pytest.mark.slow
def test_momentum_batch_size_and_the_scaling_of_the_temperature():
    plain, small, momentum = (
        run(0.1, 32, 0.0, 30000), run(0.1, 8, 0.0, 30000), run(0.1, 32, 0.9, 30000),
    )  # fmt: skip
    left, right = momentum.theta_dot_gradient.item(), momentum.half_rate_update_squared.item()
    assert abs(left / right - 1) < 0.02
    expected = ((plain, 0.00419, 2e-5), (small, 0.01724, 6e-5), (momentum, 0.04266, 30e-5))
    for result, value, error in expected:
        side = result.half_rate_update_squared
        assert abs(side.item() - value) < 4 * math.hypot(side.stderr, error)
        assert result.stationary
    by_batch = scaling_exponent([32, 8], [r.temperature_from_updates for r in (plain, small)])
    by_rate = scaling_exponent(
        [0.1, 0.1 / (1 - 0.9)], [r.temperature_from_updates for r in (plain, momentum)]
    )
    assert abs(by_batch.exponent.item() + 1) < 0.05  # 4.1 for 4
    assert abs(by_rate.exponent.item() - 1) < 0.05  # 10.2 for 10


@pytest.mark.slow
def test_a_network_with_a_hidden_layer():
    result = run(0.5, 32, 0.0, 30000, hidden=32)
    left, right = result.theta_dot_gradient, result.half_rate_update_squared
    assert abs(left.item() - 0.06045) < 4 * math.hypot(left.stderr, 0.00033)
    assert abs(right.item() - 0.06042) < 4 * math.hypot(right.stderr, 0.00033)
    assert abs(result.temperature.item() - 2.508e-5) < 4 * result.temperature.stderr + 1e-7
