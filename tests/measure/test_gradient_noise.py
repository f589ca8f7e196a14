"""Gradient noise against closed forms and the jackknife."""

import math

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import jackknife
from thermolearn.measure.noise import gradient_noise
from thermolearn.measure.noise.gradient_noise import GradientNoise, gradient_products, noise_from
from thermolearn.measure.objective import trained_parameters
from thermolearn.measure.window import Setting, Snapshot, Window


def regression(n=60, d=4, seed=0):
    """Linear regression 1/2 (w x - y)^2: g_i = (w x_i - y_i) x_i, Hessian X^T X / n."""
    x, y = numbers(n, d, seed=seed), numbers(n, 1, seed=seed + 1)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(numbers(1, d, seed=99))
    return model, lambda o, t: 0.5 * ((o - t) ** 2).sum(1).mean(), x, y


def from_gradients(g):
    mean = g.mean(0)
    return noise_from((g**2).sum(1), g @ mean, float(mean @ mean))


@pytest.mark.parametrize("stubborn", [False, True])
def test_per_sample_gradients_of_linear_regression(stubborn):
    model, loss, x, y = regression()
    g = ((model(x) - y) * x).detach()
    mean = g.mean(0)

    def value_dependent(o, t):  # vmap refuses this: the samples are then taken one by one
        return loss(o, t) if float(o.detach().sum()) > -1e9 else 0 * o.sum()

    squares, products, square = gradient_products(
        model, value_dependent if stubborn else loss, x, y, "mean", trained_parameters(model)
    )
    np.testing.assert_allclose(squares, g.square().sum(1), rtol=1e-12)
    np.testing.assert_allclose(products, g @ mean, rtol=1e-10, atol=1e-14)
    assert math.isclose(square, float(mean @ mean), rel_tol=1e-12)


def test_chunks_do_not_matter(monkeypatch):
    model, loss, x, y = regression()
    parameters = trained_parameters(model)
    whole = gradient_products(model, loss, x, y, "mean", parameters)
    monkeypatch.setattr(gradient_noise, "CHUNK_ELEMENTS", 28)  # 7 samples at once
    parts = gradient_products(model, loss, x, y, "mean", parameters)
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-12)
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-9, atol=1e-13)


def test_a_sum_over_samples_has_the_same_noise():
    model, loss, x, y = regression()
    parameters = trained_parameters(model)
    mean = gradient_products(model, loss, x, y, "mean", parameters)
    total = gradient_products(
        model, lambda o, t: 0.5 * ((o - t) ** 2).sum(), x, y, "sum", parameters
    )
    np.testing.assert_allclose(mean[2], total[2], rtol=1e-12)


def test_estimators_and_errors_are_the_jackknife_of_the_gradients():
    g = np.random.default_rng(0).normal(0.3, 1, (50, 7))
    out = from_gradients(g)

    def signal(g):
        n, mean = len(g), g.mean(0)
        return (n * mean @ mean - (g**2).sum(1).mean()) / (n - 1)

    def trace(g):
        return np.trace(np.cov(g.T))

    for name, statistic in (
        ("gradient_norm_squared", signal),
        ("noise_trace", trace),
        ("noise_scale", lambda g: trace(g) / signal(g)),
    ):
        expected = jackknife(statistic, g)
        assert math.isclose(out[name].item(), statistic(g), rel_tol=1e-9), name
        assert math.isclose(out[name].stderr, expected.stderr, rel_tol=1e-9), name


def test_estimators_are_unbiased_and_their_errors_are_right():
    rng, truth, spread = np.random.default_rng(1), np.array([0.5, -0.2, 0.1]), 0.7
    runs = [from_gradients(truth + spread * rng.normal(size=(30, 3))) for _ in range(600)]
    for name, value in (
        ("gradient_norm_squared", float(truth @ truth)),
        ("noise_trace", 3 * spread**2),
    ):
        found = np.array([r[name].item() for r in runs])
        assert abs(found.mean() - value) < 4 * found.std() / math.sqrt(600), name
        error = math.sqrt(np.mean([r[name].stderr ** 2 for r in runs]))
        assert abs(error / found.std() - 1) < 0.15, name
        # the naive |gbar|^2 would be caught
    biased = np.mean([r["gradient_norm_squared"].item() + spread**2 * 3 / 30 for r in runs])
    assert abs(biased - truth @ truth) > 4 * found.std() / math.sqrt(600)


def test_noise_without_signal_is_under_sampled():
    g = np.random.default_rng(2).normal(size=(40, 5))
    out = from_gradients(g - g.mean(0))
    assert out["noise_scale"].status == "under-sampled" and math.isnan(out["noise_scale"].stderr)
    with pytest.raises(NotApplicableError, match="at least 4"):
        from_gradients(g[:3])


def measure(model, loss, x, y):
    state = {k: v.detach().clone() for k, v in model.named_parameters()}
    setting = Setting(model, torch.float64, (x, y), None, loss, None, "", "SGD", 0, {})
    snapshot = Snapshot(5, 0.1, {"lr": 0.1}, state, None, 32.0)
    return GradientNoise().measure(Window(snapshot, None, setting))


def test_measure():
    model, loss, x, y = regression()
    values = measure(model, loss, x, y)
    assert values["batch_size"].item() == 32
    g = ((model(x) - y) * x).detach().numpy()
    assert math.isclose(values["noise_trace"].item(), np.trace(np.cov(g.T)), rel_tol=1e-10)
    assert not any(p.grad is not None for p in model.parameters())


def test_losses_that_couple_samples_do_not_apply():
    model = nn.Linear(4, 3).double()
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    with pytest.raises(NotApplicableError, match="class weights"):
        measure(model, nn.CrossEntropyLoss(weight=weight), numbers(12, 4), torch.arange(12) % 3)


def test_a_frozen_model_does_not_apply():
    model = nn.Linear(4, 1).double().requires_grad_(False)
    with pytest.raises(NotApplicableError, match="no parameter"):
        measure(model, nn.MSELoss(), numbers(12, 4), numbers(12, 1))
