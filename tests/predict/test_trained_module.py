"""Any module trained to the end: closed forms, its own tangent kernel, reasons of ending."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.predict import trained_module
from thermolearn.predict.kernels.empirical import empirical_ntk
from thermolearn.predict.trained_module import train_module

DIM = 8


def sphere_task(n, seed, n_test):
    """Inputs with |x|^2 = 8, a quadratic target along one direction, and test points."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + n_test, DIM))
    x *= math.sqrt(DIM) / np.linalg.norm(x, axis=1, keepdims=True)
    t = x @ (w := rng.standard_normal(DIM)) / np.linalg.norm(w)
    y = t + 0.5 * (t**2 - 1)
    return x[:n], y[:n], x[n:], y[n:]


def mlp(*sizes, seed=0, activation=nn.Tanh, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b, **kwargs), activation()]
        return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("ridge", [0.3, 20.0])
@pytest.mark.parametrize("from_initial", [True, False])
def test_linear_module_is_ridge_regression_about_its_initial_weights(ridge, from_initial):
    x, y, z, _ = sphere_task(40, 1, 20)
    model = mlp(DIM, 1, bias=False).double()
    start = model[0].weight.detach().numpy()[0]
    found = train_module(
        model, x, y, z, ridge=ridge, from_initial=from_initial, tolerance=1e-12,
        dtype=torch.float64,
    )  # fmt: skip
    assert found.converged and found.reason == "minimum"
    left = y if from_initial else y - x @ start
    moved = np.linalg.solve(x.T @ x + ridge * np.eye(DIM), x.T @ left)
    exact = z @ moved + (0 if from_initial else z @ start)
    np.testing.assert_allclose(found.predictions[:, 0], exact, atol=1e-5)
    assert np.array_equal(model[0].weight.detach().numpy()[0], start)  # the user's is as it was


def test_wide_module_follows_its_own_empirical_kernel():
    """f - f0 after training is kernel regression with the tangent kernel at initialization."""
    x, y, z, _ = sphere_task(15, 2, 100)
    model = mlp(DIM, 600, 600, 1, activation=nn.ReLU)
    found = train_module(model, x, y, z, from_initial=True)
    assert found.converged and found.reason == "interpolates"
    k, across = empirical_ntk(model, x).numpy(), empirical_ntk(model, z, x).numpy()
    exact = across @ np.linalg.solve(k, y)
    assert ((found.predictions[:, 0] - exact) ** 2).mean() < 0.04 * (exact**2).mean()


def test_standard_network_is_trained_to_the_end_and_left_alone():
    x, y, z, g = sphere_task(200, 0, 500)
    model = mlp(DIM, 64, 64, 1).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    found = train_module(model, x, y, z)
    assert found.reason == "interpolates" and found.converged
    assert found.train_loss < 1e-4 * (y**2).mean() * 1.01
    assert found.predictions.shape == (500, 1)
    assert ((found.predictions[:, 0] - g) ** 2).mean() < 0.7 * (g**2).mean()  # it has learned
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    with torch.no_grad():
        again = found.model(torch.as_tensor(z, dtype=torch.float32)).double().numpy()
    np.testing.assert_allclose(again, found.predictions, rtol=1e-5, atol=1e-5)


def test_convolutions_several_outputs_and_normalization():
    rng = np.random.default_rng(0)
    x, z, y = rng.standard_normal((30, 1, 6, 6)), rng.standard_normal((5, 1, 6, 6)), np.eye(3)
    y = y[rng.integers(0, 3, 30)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(128, 3),
        )  # fmt: skip
    found = train_module(model, x, y, z, ridge=1e-3)
    assert found.converged and found.train_loss < 1e-3 and found.predictions.shape == (5, 3)


def test_a_network_too_small_for_its_data_is_stationary():
    x, y, z, _ = sphere_task(100, 0, 20)
    found = train_module(mlp(DIM, 1), x, y, z)
    least = np.linalg.lstsq(np.c_[x, np.ones(100)], y, rcond=None)[1][0] / 100
    assert found.reason == "stationary" and found.converged
    assert abs(found.train_loss / least - 1) < 1e-3


def test_out_of_steps_and_diverged_are_said():
    x, y, z, _ = sphere_task(100, 0, 20)
    found = train_module(mlp(DIM, 32, 1), x, y, z, max_steps=3)
    assert not found.converged and found.reason == "out of steps" and found.steps == 3

    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.exp(100 * self.w) * x[:, :1]

    found = train_module(Exploding(), x, y, z)
    assert not found.converged and found.reason == "diverged"


def test_power_iteration_finds_the_curvature():
    x, y, *_ = sphere_task(40, 1, 20)
    model = mlp(DIM, 1, bias=False).double()
    theta = list(model.parameters())
    objective = trained_module._Objective(
        model, theta, torch.tensor(x), torch.tensor(y)[:, None], ridge=0.7
    )
    found, _ = objective.sharpness(objective()[2], 200)
    assert math.isclose(found, np.linalg.eigvalsh(x.T @ x)[-1] + 0.7, rel_tol=1e-4)


def test_bad_input_of_a_module():
    x, y, z, _ = sphere_task(10, 0, 5)
    model = mlp(DIM, 4, 1)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        train_module(lambda x: x, x, y, z)
    with pytest.raises(ValueError, match="one column of y per output"):
        train_module(model, x, np.zeros((10, 2)), z)
    with pytest.raises(ValueError, match="one row per sample"):
        train_module(model, x, y[:-1], z)
    with pytest.raises(ValueError, match="y must be finite"):
        train_module(model, x, y * np.nan, z)
    for name, value in (("ridge", -1.0), ("tolerance", 2.0), ("max_steps", 0), ("dtype", int)):
        with pytest.raises(ValueError, match=name):
            train_module(model, x, y, z, **{name: value})
    with pytest.raises(NotApplicableError, match="requires a gradient"):
        train_module(mlp(DIM, 1).requires_grad_(False), x, y, z)
    with pytest.raises(NotApplicableError, match="row per sample"):
        train_module(nn.Sequential(model, nn.Flatten(0, 1), nn.Unflatten(0, (1, -1))), x, y, z)
