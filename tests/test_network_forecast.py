"""What the random initial output of one network adds to the error of its kernel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn.core.estimate import Estimate
from thermolearn.data import load_pool
from thermolearn.forecast import _disagreements, _initial_functions, forecast
from thermolearn.predict import kernel_of, pool_curve, train_module
from thermolearn.predict.pool import Measured


def network(seed: int, width: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.normal_(0, np.sqrt(2 / layer.in_features), generator=generator)
            layer.bias.zero_()
    return model


@pytest.mark.slow
def test_trained_networks_have_the_predicted_error():
    """Wide networks trained from f0, and f - f0: the two columns of the table."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=5) / np.sqrt(5)
    x = rng.normal(size=(400, 5))
    y = (x @ w)[:, None]
    n, ridge = 60, 2.0
    model = network(0, 1024)
    given = {"sigma_w2": 2.0, "sigma_b2": 0.0}
    gram = kernel_of(model, "ntk", **given).gram(torch.from_numpy(x)).numpy()
    prior = kernel_of(model, "nngp", **given).gram(torch.from_numpy(x)).numpy()
    extra = []
    for draw in range(12):
        order = np.random.default_rng(draw).permutation(400)
        train, test = order[:n], order[n:]
        errors = []
        for from_initial in (False, True):
            fitted = train_module(
                network(draw + 1, 1024), x[train], y[train], x[test], ridge=ridge,
                from_initial=from_initial,
            )  # fmt: skip
            assert fitted.converged
            errors.append(np.mean((fitted.predictions - y[test]) ** 2))
        extra.append(errors[0] - errors[1])
    one = pool_curve(gram, y, [n], ridge, initial=_initial_functions(prior, 0) / y.std())
    average = pool_curve(gram, y, [n], ridge)
    predicted = (one.test_error - average.test_error)[0] * y.var()
    stderr = np.std(extra) / np.sqrt(len(extra))
    assert predicted == pytest.approx(np.mean(extra), abs=4 * stderr + 0.06 * predicted)
    assert predicted > 6 * stderr  # the test can tell it from nothing


def test_bayesian_inference_has_no_initial_output():
    found = forecast(load_pool("iris"), "mlp:16", [20], kind="nngp", activation="relu")
    assert found.average is found.curve and found.kernel.kind == "nngp"
    assert 0 < found.curve.test_error[0] < 1


@pytest.mark.parametrize(("factor", "said"), [(1.0, 0), (1.15, 0), (2.0, 1), (0.4, 1)])
def test_a_network_that_does_not_follow_its_kernel_is_named(factor, said):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 5))
    gram = x @ x.T + 1
    curve = pool_curve(gram, x[:, 0] + 0.3 * rng.normal(size=100), [20, 50], 0.5)
    single = dataclasses.replace(curve, test_error=1.5 * curve.test_error)
    value = factor * single.test_error * np.array([1.0, np.nan])
    points = Measured(
        "trained network", curve.n, Estimate(value, 0.01 * value), None, np.zeros(2), 5, ("ok", "")
    )
    found = _disagreements(single, curve, [points])
    assert len(found) == said and all("at 20 rows" in sentence for sentence in found)
    kernel = dataclasses.replace(points, name="kernel machine")
    expected = abs(factor * 1.5 - 1) > 0.25
    assert bool(_disagreements(single, curve, [kernel])) == expected
