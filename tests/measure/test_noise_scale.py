"""The gradient noise scale, its interval, and the scaling of temperatures."""

import math

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn

from thermolearn import Probe
from thermolearn.core import copying
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise import (
    GradientNoise,
    OnlineLeastSquares,
    Virial,
    gradient_noise_scale,
    noise_scale_from_norms,
    scaling_exponent,
)
from thermolearn.measure.noise.gradient_noise import fieller, noise_from


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


def covered(draws, exact, n, repeats, seed):
    """How often the interval covers, whether it is closed, and whether value +- 2 stderr covers."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(repeats):
        g = draws(rng, n)
        square, mean = (g**2).sum(1), g.mean(0)
        products = (square, g @ mean, float(mean @ mean))
        scale = noise_from(*products)["noise_scale"]
        model = nn.Linear(g.shape[1], 1, bias=False).double()
        data = (torch.from_numpy(g), torch.zeros(n, 1))
        whole = gradient_noise_scale(model, lambda o, t: o.mean(), data)
        low, high = whole.interval
        assert (scale.status == "ok") == (whole.noise_scale.status == "ok") == math.isfinite(high)
        inside = scale.status == "ok" and abs(scale.item() - exact) < 2 * float(scale.stderr)
        found.append((low <= exact <= high, math.isfinite(high), inside))
    return np.array(found, dtype=float).T


def softmax_gradients():
    """Per-sample gradients of a softmax regression at its start: skewed, and few directions."""
    rng = np.random.default_rng(7)
    kind = rng.integers(5, size=1000)
    x = np.abs(rng.normal(size=(5, 12))[kind] + 0.7 * rng.normal(size=(1000, 12)))
    p = np.full((1000, 5), 0.2) - np.eye(5)[kind]
    return (p[:, :, None] * x[:, None, :]).reshape(1000, -1)


def test_the_interval_covers_a_softmax_regressions_noise_scale():
    """95% promised, also where few samples leave most intervals open; and seldom a wrong ok."""
    g = softmax_gradients()
    mean = g.mean(0)
    exact = float(((g - mean) ** 2).sum(1).mean() / (mean @ mean))
    for n, closed in ((16, (0.0, 0.6)), (200, (0.9, 1.0))):
        hit, ok, inside = covered(lambda r, n: g[r.integers(1000, size=n)], exact, n, 150, n)
        least = 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150)
        assert hit.mean() > least and closed[0] <= ok.mean() <= closed[1], (n, hit.mean())
        assert 1 - (ok * (1 - inside)).mean() > least  # ok, but off by two of its error bars


def test_heavy_tails_widen_what_the_interval_does_not_see():
    """A log-normal factor before every gradient: 4 of 5, as the docstring says, not 95%."""
    truth = np.eye(50)[0]  # |G|^2 = 1, tr Sigma = 10

    def draws(rng, n):
        factor = np.exp(0.8 * rng.normal(size=(n, 1)) - 0.64)  # mean square 1
        return truth + factor * rng.normal(size=(n, 50)) * math.sqrt(10 / 50)

    hit = covered(draws, 10.0, 64, 200, 1)[0]
    assert abs(hit.mean() - 0.81) < 4 * math.sqrt(0.81 * 0.19 / 200)


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


def autoregressive(n, rho, rng):
    x = rng.normal(size=(n, 2, 4))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * x[t]
    return x


@pytest.mark.parametrize(("n", "rho"), [(20, 0.0), (79, 0.0), (79, 0.5), (40, 0.95), (400, 0.9)])
def test_correlated_steps_count_as_fewer(n, rho):
    """The interval covers at any number of steps; too few independent ones are flagged."""
    rng, truth, b, most = np.random.default_rng(n), np.array([1.0, -0.4, 0.2, 0.6]), 4, 32
    exact, hits, flagged = 4 * 0.81 / float(truth @ truth), 0, 0
    for _ in range(150):
        x = 0.9 * autoregressive(n, rho, rng)
        g = truth + x[:, 0] / math.sqrt(b)
        rest = truth + x[:, 1] / math.sqrt(most - b)
        both = (b * g + (most - b) * rest) / most
        found = noise_scale_from_norms((g**2).sum(1), (both**2).sum(1), b, most)
        hits += found.interval[0] <= exact <= found.interval[1]
        flagged += found.noise_scale.status == "under-sampled"
        assert found.samples == n
    assert hits / 150 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150)
    if rho == 0.95:
        assert flagged >= 147
    if n == 400 or (rho == 0 and n == 79):
        assert flagged <= 3


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


# -- the temperature -------------------------------------------------------------------------------
def test_the_step_of_a_sum_is_larger_than_that_of_a_mean():
    """The batch's gradient is B times as large, so at lr/B the steps are the same."""
    model, loss, data = regression()
    mean = gradient_noise_scale(model, loss, data)
    total = gradient_noise_scale(model, lambda o, t: 0.5 * ((o - t) ** 2).sum(), data)
    # T = lr <g^2>/2d scales as lr times the square of the gradient
    expected = mean.temperature(0.1, 8, 4) * 8
    assert math.isclose(total.temperature(0.1 / 8, 8, 4).item(), expected.item(), rel_tol=1e-9)
    assert total.reduction == "sum" and mean.reduction == "mean"


class Functional(nn.Module):
    """Dropout as a function, which no module tells."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, self.training)


def test_the_temperature_of_a_model_that_trains_in_another_mode_is_flagged():
    _, loss, data = regression()
    for model, word in (
        (nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)).double(), "Dropout"),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)).double(), "BatchNorm1d"),
        (Functional().double(), "training mode"),
    ):
        found = gradient_noise_scale(model, loss, data)
        assert word in found.caveat
        assert found.temperature(0.1, 8, 5).status == "eval mode"
    plain = nn.Sequential(nn.Linear(4, 1), nn.LayerNorm(1), nn.Dropout(0.0)).double()
    found = gradient_noise_scale(plain, loss, data)
    assert found.caveat == "" and found.temperature(0.1, 8, 5).status == "ok"


def training_run(loss, layers=(), steps=1600, batch=16, **settings):
    """Last summary of `Virial` on noise that a linear model cannot fit."""
    x, y = numbers(256, 5, seed=11).float(), numbers(256, 1, seed=12).float()
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(5, 1))
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    quantities = [GradientNoise(), Virial()]
    probe = Probe(model, loss, optimizer, (x, y), 8, quantities=quantities)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        index = torch.randint(256, (batch,), generator=generator)
        optimizer.zero_grad()
        value = loss(model(x[index]), y[index])
        value.backward()
        optimizer.step()
        probe.step(x[index], y[index], value)
    probe.flush()
    return [r for r in probe.rows if r["kind"] == "summary" and r["quantity"] == "virial"][-1][
        "values"
    ]


@pytest.mark.parametrize(
    ("reduction", "settings"),
    [
        ("sum", {"lr": 0.02 / 16}),
        ("mean", {"lr": 0.01, "momentum": 0.8, "dampening": 0.6}),
        ("mean", {"lr": 0.005, "momentum": 0.8, "nesterov": True}),
    ],
)
def test_the_leading_order_is_that_of_the_run(reduction, settings):
    values = training_run(nn.MSELoss(reduction=reduction), **settings)
    leading, measured = (
        values[k] for k in ("temperature_leading_order", "temperature_from_updates")
    )
    assert leading.get("status", "ok") == "ok"
    # the mean gradient and the finite rate add some percent
    assert 0.9 < measured["value"] / leading["value"] < 1.25


def test_the_leading_order_of_a_run_with_dropout_is_flagged():
    values = training_run(nn.MSELoss(), (nn.Dropout(0.5),), lr=0.02)
    leading = values["temperature_leading_order"]
    assert leading["status"] == "eval mode" and "Dropout" in leading["note"]
    assert values["temperature_from_updates"]["value"] > 0


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
