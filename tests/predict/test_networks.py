"""Ensembles of really trained networks against kernel regression."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_gegenbauer
from torch import nn

from thermolearn.predict import networks
from thermolearn.predict.networks import train_networks

DIM, POWERS = 8, {1: 0.5, 2: 0.3, 3: 0.2}


def ntk(x, z, depth=4, sigma_w2=2.0, sigma_b2=0.0):
    """The infinitely wide ReLU network's tangent kernel, written out."""
    k = sigma_w2 * x @ z.T / x.shape[1] + sigma_b2
    qx, qz = (sigma_w2 * (a * a).sum(1) / x.shape[1] + sigma_b2 for a in (x, z))
    theta = k
    for _ in range(depth - 1):
        scale = np.sqrt(np.outer(qx, qz))
        angle = np.arccos(np.clip(k / scale, -1, 1))
        slopes = (math.pi - angle) / (2 * math.pi)
        k = sigma_w2 * scale * (np.sin(angle) / (2 * math.pi) + slopes * np.cos(angle)) + sigma_b2
        theta = k + sigma_w2 * theta * slopes
        qx, qz = (sigma_w2 * q / 2 + sigma_b2 for q in (qx, qz))
    return theta


def regression(x, y, z, ridge=0.0, **kernel):
    return ntk(z, x, **kernel) @ np.linalg.solve(ntk(x, x, **kernel) + ridge * np.eye(len(x)), y)


def target(t):
    """sum_l sqrt(g_l^2 N_l) P_l(t), P_l(1) = 1: unit power on the sphere in DIM dimensions."""
    alpha = DIM / 2 - 1
    total = np.zeros_like(t)
    for degree, power in POWERS.items():
        number = (2 * degree + DIM - 2) / (DIM - 2) * math.comb(degree + DIM - 3, degree)
        p = eval_gegenbauer(degree, alpha, t) / eval_gegenbauer(degree, alpha, 1.0)
        total += math.sqrt(power * number) * p
    return total


def sphere_task(n, seed, n_test=1000):
    """Inputs (n, 8) with |x|^2 = 8, targets along one random direction, and test points."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + n_test, DIM))
    x *= math.sqrt(DIM) / np.linalg.norm(x, axis=1, keepdims=True)
    w = rng.standard_normal(DIM)
    y = target(x @ w / np.linalg.norm(w) / math.sqrt(DIM))
    return x[:n], y[:n], x[n:], y[n:]


def tasks(n, seeds):
    return (np.stack(part) for part in zip(*(sphere_task(n, s) for s in range(seeds)), strict=True))


def measured(width, n, seeds, **options):
    """Test errors of nets and of NTK regression on the same data, mean-square differences."""
    x, y, z, g = tasks(n, seeds)
    found = train_networks(x, y[..., None], z, depth=4, width=width, **options)
    assert found.converged.all()
    assert set(found.status) == {"converged"} and found.flags == ()
    kernel = np.stack(
        [regression(*d, ridge=options.get("ridge", 0.0)) for d in zip(x, y, z, strict=True)]
    )
    f = found.predictions[..., 0]
    return tuple(((a - b) ** 2).mean(1) for a, b in ((f, g), (kernel, g), (f, kernel)))


def mean(values):
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))


def agrees(found, value, stderr):
    """Within four standard errors of both."""
    return abs(found[0] - value) < 4 * math.hypot(found[1], stderr)


def test_target_has_unit_power_and_the_kernel_its_value_at_coinciding_points():
    *_, x, g = sphere_task(1, 0, 200_000)
    assert abs((g**2).mean() - 1) < 0.02
    np.testing.assert_allclose(np.diag(ntk(x[:3], x[:3])), 8.0, rtol=1e-6)


# -- the wide limit -----------------------------------------------------------------------------
def test_difference_to_kernel_regression_at_small_width():
    """0.097(7) at width 64, 50 samples; and the net is worse than the kernel machine."""
    net, kernel, difference = measured(64, 50, 20)
    assert agrees(mean(difference), 0.097, 0.007)
    assert net.mean() > kernel.mean()


@pytest.mark.slow
def test_difference_to_kernel_regression_falls_with_the_width():
    """0.042(16) and 0.018(2) at widths 256 and 512: inversely proportional to the width."""
    narrow, wide, wider = (mean(measured(width, 50, 20)[2]) for width in (64, 256, 512))
    assert agrees(wide, 0.042, 0.016) and agrees(wider, 0.018, 0.002)
    for (a, b), factor in (((narrow, wide), 4), ((wide, wider), 2)):
        assert abs(a[0] / b[0] / factor - 1) < 4 * math.hypot(a[1] / a[0], b[1] / b[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "error", "kernel_error"),
    [
        (25, (0.591, 0.026), (0.577, 0.030)),
        (50, (0.392, 0.018), (0.389, 0.018)),
        (100, (0.270, 0.016), (0.277, 0.017)),
    ],
)
def test_learning_curve_of_wide_networks(n, error, kernel_error):
    net, kernel, _ = measured(512, n, 20)
    assert agrees(mean(net), *error) and agrees(mean(kernel), *kernel_error)
    ratio = net.mean() / kernel.mean() - 1
    assert abs(ratio) < 0.06


def test_ridge_approaches_kernel_ridge_regression():
    """The distance to the initial parameters is the ridge: 1/width, and far from no ridge."""
    ridge = 8.0
    x, y, z, _ = tasks(50, 8)
    with_ridge, without = (
        np.stack([regression(*data, ridge=r) for data in zip(x, y, z, strict=True)])
        for r in (ridge, 0.0)
    )
    narrow, wide = (
        train_networks(x, y[..., None], z, depth=4, width=width, ridge=ridge) for width in (24, 192)
    )
    assert narrow.converged.all() and wide.converged.all()
    assert (wide.train_loss > 1e-3).all()  # the ridge keeps it from interpolating
    far, near = (((n.predictions[..., 0] - with_ridge) ** 2).mean() for n in (narrow, wide))
    assert 3 < far / near < 24 and near < 0.02
    assert ((wide.predictions[..., 0] - without) ** 2).mean() > 5 * near


def test_linear_networks_of_one_layer_are_exact():
    """Depth 1 is linear in its parameters: the kernel x.x' sigma_w2/d + sigma_b2, exactly."""
    x, y, z, _ = sphere_task(30, 0, 50)
    y = np.stack([y, x[:, 0] + 1], 1)
    options = {"depth": 1, "width": 1, "sigma_w2": 1.5, "sigma_b2": 0.3, "nets": 2}
    for ridge in (0.1, 3.0):
        found = train_networks(
            x, y, z, ridge=ridge, tolerance=1e-13, dtype=torch.float64, **options
        )
        assert found.converged.all()
        k = [1.5 * a @ x.T / DIM + 0.3 for a in (z, x)]
        exact = k[0] @ np.linalg.solve(k[1] + ridge * np.eye(30), y)
        np.testing.assert_allclose(found.predictions, np.stack([exact, exact]), atol=1e-5)


def test_biases_and_other_activations_follow_the_wide_limit():
    """A network of width 1000 on few samples, with biases: within a few percent of the kernel."""
    x, y, z, _ = sphere_task(12, 3, 200)
    found = train_networks(x, y, z, depth=3, width=1000, sigma_w2=1.5, sigma_b2=0.4, nets=2)
    exact = regression(x, y, z, depth=3, sigma_w2=1.5, sigma_b2=0.4)
    assert ((found.predictions[..., 0] - exact) ** 2).mean() < 0.03 * (exact**2).mean()
    for activation in ("erf", "tanh", nn.GELU()):
        found = train_networks(x, y, z, depth=3, width=64, activation=activation)
        assert found.converged.all() and found.predictions.shape == (1, 200, 1)


def test_single_precision_is_safe():
    x, y, z, _ = tasks(50, 4)
    single, double = (
        train_networks(x, y[..., None], z, depth=4, width=128, dtype=dtype).predictions
        for dtype in (torch.float32, torch.float64)
    )
    assert np.sqrt(((single - double) ** 2).mean()) < 2e-4 * double.std()


def test_same_seed_same_networks_whatever_else_is_trained():
    x, y, z, _ = sphere_task(20, 0, 30)
    one = train_networks(x, y, z, depth=3, width=48, nets=3, seed=4)
    again = train_networks(x, y, z, depth=3, width=48, nets=3, seed=4)
    assert np.array_equal(one.predictions, again.predictions)
    fewer = train_networks(x, y, z, depth=3, width=48, nets=2, seed=4)
    np.testing.assert_allclose(one.predictions[:2], fewer.predictions, rtol=1e-3, atol=1e-3)
    other = train_networks(x, y, z, depth=3, width=48, nets=3, seed=5)
    assert abs(one.predictions - other.predictions).max() > 0.01
    assert abs(one.predictions[0] - one.predictions[1]).max() > 0.01
    before = torch.get_rng_state()
    train_networks(x, y, z, depth=2, width=4)
    assert torch.equal(before, torch.get_rng_state())


def test_groups_of_networks_do_not_matter(monkeypatch):
    x, y, z, _ = tasks(20, 5)
    whole = train_networks(x, y[..., None], z, depth=3, width=32, dtype=torch.float64)
    monkeypatch.setattr(networks, "PARAMETERS_AT_ONCE", 3000)
    parts = train_networks(x, y[..., None], z, depth=3, width=32, dtype=torch.float64)
    np.testing.assert_allclose(whole.predictions, parts.predictions, rtol=1e-8, atol=1e-10)
    assert np.array_equal(whole.steps, parts.steps)


def test_networks_that_do_not_converge_are_marked():
    x, y, z, _ = sphere_task(60, 0, 30)
    found = train_networks(x, y, z, depth=3, width=32, nets=2, max_steps=2)
    assert not found.converged.any()
    assert all(s.startswith("not converged") for s in found.status)
    found = train_networks(x, y, z, depth=3, width=32, nets=2, max_steps=2, ridge=0.1)
    assert not found.converged.any() and "raise max_steps" in found.status[0]
    # two labels for one input: no network fits both
    found = train_networks(x[[0, 0]], np.array([1.0, -1.0]), z, depth=2, width=8)
    assert not found.converged[0] and "out of the network's reach" in found.status[0]
    assert found.steps[0] == networks.PATIENCE
    assert found.train_loss[0] > 0.9


def test_a_step_that_is_too_long_is_halved(monkeypatch):
    x, y, z, _ = sphere_task(30, 0, 30)
    good = train_networks(x, y, z, depth=3, width=32)
    tuned = networks._tuned
    monkeypatch.setattr(networks, "_tuned", lambda a, b, s: tuned(a, b, 16 * s))
    found = train_networks(x, y, z, depth=3, width=32)
    assert found.converged.all() and found.learning_rate[0] < 4 * good.learning_rate[0]
    monkeypatch.setattr(networks, "_tuned", lambda a, b, s: tuned(a, b, 1e6))
    found = train_networks(x, y, z, depth=3, width=32)
    assert found.status[0].startswith("diverged") and np.isnan(found.predictions).all()


def test_constant_and_zero_targets():
    x, _, z, _ = sphere_task(20, 0, 30)
    found = train_networks(x, np.full(20, 3.0), z, depth=3, width=64, sigma_b2=0.5)
    assert found.converged[0] and "constant targets" in found.flags[0]
    found = train_networks(x, np.zeros(20), z, depth=3, width=64)
    assert found.converged[0] and (found.predictions == 0).all()


GOOD = {
    "X": np.ones((3, 2)),
    "y": np.arange(3.0),
    "X_test": np.ones((4, 2)),
    "depth": 2,
    "width": 4,
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"depth": 0}, "depth"),
        ({"width": 0}, "width"),
        ({"width": 2.5}, "width"),
        ({"nets": 0}, "nets"),
        ({"X": np.full((3, 2), np.nan)}, "X must be finite"),
        ({"y": np.array([1.0, np.inf, 0.0])}, "y must be finite"),
        ({"y": np.zeros(4)}, "samples"),
        ({"X_test": np.ones((4, 3))}, "features"),
        ({"X": np.ones(3)}, "axes"),
        ({"X": np.ones((2, 3, 2)), "nets": 3}, "leading"),
        ({"X": np.ones((2, 3, 2)), "y": np.zeros((3, 3, 1))}, "leading"),
        ({"sigma_w2": 0.0}, "sigma_w2"),
        ({"sigma_b2": -1.0}, "sigma_b2"),
        ({"ridge": -1.0}, "ridge"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_steps": 0}, "max_steps"),
        ({"seed": -1}, "seed"),
        ({"dtype": torch.float16}, "dtype"),
        ({"activation": "unknown"}, "activation"),
    ],
)
def test_bad_input(change, word):
    with pytest.raises(ValueError, match=word):
        train_networks(**{**GOOD, **change})
