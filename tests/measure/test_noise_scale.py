"""The gradient noise scale, its interval, and the scaling of temperatures."""

import math

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure import copying
from thermolearn.measure.noise import (
    OnlineLeastSquares,
    gradient_noise_scale,
    noise_scale_from_norms,
    scaling_exponent,
)
from thermolearn.measure.noise.noise_scale import fieller


def regression(n=200, d=4, seed=0):
    x, y = numbers(n, d, seed=seed), numbers(n, 1, seed=seed + 1)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(numbers(1, d, seed=99))
    return model, lambda o, t: 0.5 * ((o - t) ** 2).sum(1).mean(), (x, y)


def test_against_the_gradients_written_out():
    model, loss, (x, y) = regression()
    found = gradient_noise_scale(model, loss, (x, y))
    g = ((model(x) - y) * x).detach().numpy()
    trace = np.trace(np.cov(g.T))
    signal = float(g.mean(0) @ g.mean(0)) - trace / len(g)
    assert math.isclose(found.noise_trace.item(), trace, rel_tol=1e-9)
    assert math.isclose(found.gradient_norm_squared.item(), signal, rel_tol=1e-9)
    assert math.isclose(found.noise_scale.item(), trace / signal, rel_tol=1e-9)
    low, high = found.interval
    assert low < found.noise_scale.item() < high and found.samples == 200
    assert math.isclose(found.steps_factor(found.noise_scale.item()), 2.0)
    assert math.isclose(found.samples_factor(found.noise_scale.item()), 2.0)
    leading = found.temperature(0.1, 8, 4)
    assert math.isclose(leading.item(), 0.1 * trace / (2 * 8 * 4), rel_tol=1e-9)


def test_a_sum_over_samples_has_the_same_noise_scale():
    model, loss, data = regression()
    mean = gradient_noise_scale(model, loss, data)
    total = gradient_noise_scale(model, lambda o, t: 0.5 * ((o - t) ** 2).sum(), data)
    assert math.isclose(mean.noise_scale.item(), total.noise_scale.item(), rel_tol=1e-9)


def test_the_interval_covers_the_truth():
    """g = G + N(0, 0.7^2) in 3 dimensions: B = 3 x 0.49/|G|^2."""
    rng, truth, hits, inside = np.random.default_rng(0), np.array([0.5, -0.2, 0.1]), 0, 0
    exact = 3 * 0.49 / float(truth @ truth)
    for _ in range(300):
        g = truth + 0.7 * rng.normal(size=(60, 3))
        # gradients of theta . g_i at any theta are g_i
        model = nn.Linear(3, 1, bias=False).double()
        x = torch.from_numpy(g)
        found = gradient_noise_scale(model, lambda o, t: o.mean(), (x, torch.zeros(60, 1)))
        low, high = found.interval
        hits += low <= exact <= high
        inside += abs(found.noise_scale.item() - exact) < float(found.noise_scale.stderr)
    assert abs(hits / 300 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 300)
    assert 0.55 < inside / 300 < 0.8  # one standard error: 68%


def test_no_signal_is_under_sampled_with_a_lower_bound():
    model, loss, (x, y) = regression(2000, seed=3)
    with torch.no_grad():  # the least-squares solution: the mean gradient vanishes
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    found = gradient_noise_scale(model, loss, (x, y))
    assert found.noise_scale.status == "under-sampled" and found.interval[1] == math.inf
    assert found.interval[0] > 0 and math.isnan(float(found.noise_scale.stderr))
    assert "lower bound" in found.noise_scale.note


def test_two_batch_sizes_give_the_same_answer():
    rng, truth = np.random.default_rng(4), np.array([0.5, -0.2, 0.1, 0.3])
    b, most, steps = 4, 32, 4000
    micro = truth + rng.normal(size=(steps, most // b, 4)) * 0.9 / math.sqrt(b)
    small = (micro[:, 0] ** 2).sum(1)
    big = (micro.mean(1) ** 2).sum(1)
    found = noise_scale_from_norms(small, big, b, most)
    for e, value in (
        (found.gradient_norm_squared, float(truth @ truth)),
        (found.noise_trace, 4 * 0.81),
        (found.noise_scale, 4 * 0.81 / float(truth @ truth)),
    ):
        assert abs(e.item() - value) < 4 * e.stderr and e.stderr < 0.1 * value
    assert found.interval[0] < found.noise_scale.item() < found.interval[1]


def test_fieller_against_the_set_it_stands_for():
    rng = np.random.default_rng(5)
    for _ in range(30):
        a, b = rng.uniform(0.1, 3, 2)
        half = rng.normal(size=(2, 2)) * 0.3
        covariance = half @ half.T
        low, high = fieller(a, b, covariance, 1.96)
        r = np.linspace(0, 200, 200001)
        variance = covariance[0, 0] - 2 * r * covariance[0, 1] + r**2 * covariance[1, 1]
        allowed = r[(a - r * b) ** 2 <= 1.96**2 * variance]
        if math.isfinite(high):
            assert abs(allowed[0] - low) < 2e-3
            assert abs(allowed[-1] - min(high, 200)) < 2e-3
        elif len(allowed) and low > 0:
            assert abs(allowed[0] - low) < 2e-3 or low > 200


def test_nothing_is_changed():
    model, loss, data = regression()
    model = nn.Sequential(nn.BatchNorm1d(4).double(), nn.Dropout(0.5), model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copying.fingerprint(model, optimizer)
    gradient_noise_scale(model, loss, data)
    assert copying.fingerprint(model, optimizer) == before


def test_bad_input():
    model, loss, (x, y) = regression()
    with pytest.raises(TypeError, match="model must be"):
        gradient_noise_scale(None, loss, (x, y))
    with pytest.raises(TypeError, match="loss_fn"):
        gradient_noise_scale(model, None, (x, y))
    with pytest.raises(ValueError, match="at least 8"):
        gradient_noise_scale(model, loss, (x[:7], y[:7]))
    with pytest.raises(ValueError, match="confidence"):
        gradient_noise_scale(model, loss, (x, y), confidence=1.0)
    with pytest.raises(NotApplicableError, match="neither the mean nor the sum"):
        gradient_noise_scale(model, lambda o, t: ((o - t) ** 2).mean().sqrt(), (x, y))
    with pytest.raises(NotApplicableError, match="no parameter"):
        gradient_noise_scale(nn.Tanh(), nn.MSELoss(), (x, x))
    model.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        gradient_noise_scale(model, loss, (x, y))
    ones = np.ones(20)
    for bad in (
        lambda: noise_scale_from_norms(ones, ones[:10], 4, 8),
        lambda: noise_scale_from_norms(ones[:5], ones[:5], 4, 8),
        lambda: noise_scale_from_norms(ones, -ones, 4, 8),
        lambda: noise_scale_from_norms(ones, ones, 8, 8),
    ):
        with pytest.raises(ValueError, match="big"):
            bad()


# -- scaling ---------------------------------------------------------------------------------------
def test_a_power_law_and_its_error():
    x, rng = np.array([1.0, 2.0, 4.0, 8.0]), np.random.default_rng(0)
    found = []
    for _ in range(300):
        values = 3 * x**0.8 * (1 + 0.02 * rng.normal(size=4))
        fit = scaling_exponent(x, [Estimate(v, 0.02 * v) for v in values])
        found.append((fit.exponent.item(), fit.exponent.stderr, fit.p_value))
    z = (np.array(found)[:, 0] - 0.8) / np.array(found)[:, 1]
    assert abs(z.mean()) < 4 / math.sqrt(300) and 0.85 < z.std() < 1.15
    bent = scaling_exponent(x, [Estimate(v, 0.01 * v) for v in 1 + x])
    assert bent.exponent.status == "no power law" and bent.p_value < 0.01


def test_online_least_squares_scales_as_the_leading_order_says():
    def measured(rate, batch, seed):
        system = OnlineLeastSquares(10, batch, rate)
        return system.simulate(100, 100, 0, seed)["half_rate_update_squared"]

    batches, rates = (8, 16, 32), (0.005, 0.01, 0.02)
    by_batch = scaling_exponent(batches, [measured(0.01, b, b) for b in batches])
    by_rate = scaling_exponent(rates, [measured(r, 16, k) for k, r in enumerate(rates, 50)])
    assert abs(by_batch.exponent.item() + 1) < 0.03
    assert abs(by_rate.exponent.item() - 1) < 0.03
    assert by_batch.exponent.status == by_rate.exponent.status == "ok"


def test_what_does_not_scale_is_refused():
    good = [Estimate(1.0, 0.1), Estimate(2.0, 0.1)]
    for x, temperatures, word in (
        ([1.0], good, "one length"),
        ([1.0, 1.0], good, "different x"),
        ([1.0, -2.0], good, "positive"),
        ([1.0, 2.0], [good[0], Estimate(2.0, 0.0)], "positive"),
        ([1.0, 2.0], [good[0], Estimate(2.0, 0.1, status="not stationary")], "not stationary"),
    ):
        with pytest.raises(ValueError, match=word):
            scaling_exponent(x, temperatures)
