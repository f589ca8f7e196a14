"""What the random initial output of one network adds to the error of its kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn.data import load_pool
from thermolearn.forecast import _initial, forecast
from thermolearn.predict import kernel_of, train_module


def network(seed: int, width: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.normal_(0, np.sqrt(2 / layer.in_features), generator=generator)
            layer.bias.zero_()
    return model


def test_initial_output_by_averaging_over_kernel_machines():
    """E over f0 ~ N(0, NNGP) of the error of f0 - k (K + ridge)^-1 f0(X), training set by set."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 5)))
    model, n, ridge = network(0, 64), 60, 0.3
    given = {"sigma_w2": 2.0, "sigma_b2": 0.0}
    gram = kernel_of(model, "ntk", **given).gram(x).numpy()
    prior = kernel_of(model, "nngp", **given).gram(x).numpy()
    found = _initial(prior, gram, 1, [n], ridge, 0)[0]
    errors = []
    for draw in range(40):
        order = np.random.default_rng(draw).permutation(300)
        train, test = order[:n], order[n:]
        a = np.linalg.solve(gram[np.ix_(train, train)] + ridge * np.eye(n), gram[train][:, test])
        cross = prior[np.ix_(test, train)] @ a
        left = prior[np.ix_(test, test)] - cross - cross.T + a.T @ prior[np.ix_(train, train)] @ a
        errors.append(np.trace(left) / len(test))
    stderr = np.std(errors) / np.sqrt(len(errors))
    assert found == pytest.approx(np.mean(errors), abs=4 * stderr + 0.06 * np.mean(errors))
    assert _initial(prior, gram, 3, [n], ridge, 0)[0] == pytest.approx(3 * found)


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
    predicted = _initial(prior, gram, 1, [n], ridge, 0)[0]
    stderr = np.std(extra) / np.sqrt(len(extra))
    assert predicted == pytest.approx(np.mean(extra), abs=4 * stderr + 0.06 * predicted)
    assert predicted > 6 * stderr  # the test can tell it from nothing


def test_bayesian_inference_has_no_initial_output():
    found = forecast(load_pool("iris"), "mlp:16", [20], kind="nngp", activation="relu")
    assert found.initial is None and found.kernel.kind == "nngp"
    assert 0 < found.curve.test_error[0] < 1
