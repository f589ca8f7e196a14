"""Linear networks of finite width, exactly: published numbers, brute force, special functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import gammaln, kve

from thermolearn.core.errors import ConvergenceError
from thermolearn.systems.training.feature_learning import linear
from thermolearn.systems.training.feature_learning.linear import (
    linear_network_exact,
    log_scale_density,
)
from thermolearn.systems.training.feature_learning.networks import BayesianFCN


def data(n: int, d: int, seed: int = 1, label_noise: float = 0.0):
    rng = np.random.default_rng(seed)
    X, Xs = rng.normal(size=(n, d)), rng.normal(size=(500, d))
    return X, Xs, X[:, 0] + label_noise * rng.normal(size=n)


def relative(f: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(f - exact) / np.linalg.norm(exact))


def test_reference_numbers() -> None:
    X, _, y = data(30, 8)
    exact = linear_network_exact(X, y, [20], 0.02, 1.0, 0.05)
    assert float(exact.log_evidence) == pytest.approx(-15.9132, abs=1e-3)
    assert exact.input_covariance[0, 0] * 8 == pytest.approx(3.3464, abs=1e-3)
    assert exact.scale_posterior.mean == pytest.approx(3.0214, abs=1e-3)
    assert exact.log_evidence.stderr < 1e-10
    assert max(exact.quadrature_error.values()) < 1e-10


@pytest.mark.parametrize(
    ("C", "sigma_a2", "first", "mean", "saddle"),
    [
        (5, 1.0, 2.4384, 1.0767, 0.9879),
        (20, 1.0, 1.3540, 1.0134, 0.9945),
        (100, 1.0, 1.0680, 0.9998, 0.9986),
        (400, 1.0, 1.0168, 0.9997, 0.9996),
        (5, 1 / 5, 3.8718, 2.5455, 2.4560),
        (20, 1 / 20, 3.1048, 2.8203, 2.8029),
        (100, 1 / 100, 2.0301, 2.0876, 2.0879),
        (400, 1 / 400, 1.1607, 1.2074, 1.2078),
    ],
)
def test_table_of_widths(C, sigma_a2, first, mean, saddle) -> None:
    X, _, y = data(30, 8)
    exact = linear_network_exact(X, y, [C], 0.05, 1.0, sigma_a2)
    assert exact.input_covariance[0, 0] * 8 == pytest.approx(first, abs=1e-4)
    assert exact.scale_posterior.mean == pytest.approx(mean, abs=1e-4)
    assert exact.scalar_renormalization() == pytest.approx(saddle, abs=1e-4)


def test_a_product_of_two_gammas_is_a_bessel_function() -> None:
    u = np.linspace(-12, 3, 61)
    for first, second in ((6, 9), (1, 1), (1, 40), (20, 20), (400, 300)):
        a, b = first / 2, second / 2
        x = 2 * np.sqrt(a * b * np.exp(u))
        known = np.log(2) + (a + b) / 2 * np.log(a * b * np.exp(u)) - gammaln(a) - gammaln(b)
        known += np.log(kve(a - b, x)) - x
        found = log_scale_density(u, [first, second])
        assert np.abs(found - known).max() < 1e-10 * max(1.0, np.abs(known).max())


def test_the_order_of_layers_does_not_matter_to_the_function() -> None:
    X, Xs, y = data(12, 4)
    a, b = (linear_network_exact(X, y, w, 0.1, 1.5, 0.4) for w in ([3, 20], [20, 3]))
    assert float(a.log_evidence) == pytest.approx(float(b.log_evidence), abs=1e-10)
    assert np.allclose(a.predict(Xs), b.predict(Xs), atol=1e-12)


def test_a_very_wide_layer_changes_nothing() -> None:
    X, Xs, y = data(12, 4)
    one, two = (linear_network_exact(X, y, w, 0.1, 1.0, 0.4) for w in ([7], [7, 10**7]))
    assert float(two.log_evidence) == pytest.approx(float(one.log_evidence), abs=1e-5)
    assert np.allclose(one.predict(Xs), two.predict(Xs), atol=1e-5)


def test_infinite_width_is_the_gaussian_process() -> None:
    X, Xs, y = data(12, 4)
    gp = BayesianFCN([10], 4, 1.3, 0.4, "linear").gp(X, y, 0.1)
    exact = linear_network_exact(X, y, [10**8], 0.1, 1.3, 0.4)
    assert float(exact.log_evidence) == pytest.approx(gp.log_evidence, abs=1e-5)
    assert np.allclose(exact.predict(Xs), gp.predict(Xs), atol=1e-6)
    assert np.allclose(exact.predictive_variance(Xs), gp.predictive_variance(Xs), atol=1e-6)
    assert np.allclose(exact.input_covariance, 1.3 / 4 * np.eye(4), atol=1e-6)


@pytest.mark.parametrize(
    ("widths", "n", "d"), [([3], 2, 2), pytest.param([2, 3], 3, 2, marks=pytest.mark.slow)]
)
def test_against_tiny_networks_drawn_from_the_prior(widths, n, d) -> None:
    # importance sampling: every prior sample weighted by its likelihood
    X, Xs, y = data(n, d, seed=4)
    Xs, noise, samples = Xs[:5], 0.3, 200_000
    net = BayesianFCN(widths, d, 1.5, 0.8, "linear")
    W = net.sample_prior(torch.Generator().manual_seed(0), samples)
    f, fs = (net.forward(W, torch.from_numpy(x[:, None])).numpy() for x in (X, Xs))
    log_r = -((f - y) ** 2).sum(1) / (2 * noise) - n / 2 * np.log(2 * np.pi * noise)
    r = np.exp(log_r)
    exact = linear_network_exact(X, y, widths, noise, 1.5, 0.8)

    evidence, error = r.mean(), r.std() / np.sqrt(samples)
    assert abs(evidence - np.exp(float(exact.log_evidence))) < 4 * error
    first = torch.einsum("sci,scj->sij", W[0], W[0]).numpy() / widths[0]
    mean = (r[:, None] * fs).mean(0) / evidence
    expected = {
        "mean": (fs, exact.predict(Xs)),
        "variance": ((fs - mean) ** 2, exact.predictive_variance(Xs)),
        "first layer": (first.reshape(samples, -1), exact.input_covariance.ravel()),
    }
    for values, found in expected.values():
        average = (r[:, None] * values).mean(0) / evidence
        spread = (r[:, None] * (values - average)).std(0) / np.sqrt(samples) / evidence
        assert (np.abs(average - found) < 4 * spread).all()


def test_scale_posterior_is_normalized_and_averages() -> None:
    X, _, y = data(6, 3)
    posterior = linear_network_exact(X, y, [1], 0.2).scale_posterior
    assert posterior.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert float(posterior.average(posterior.s)) == pytest.approx(posterior.mean)


def test_symmetries() -> None:
    X, Xs, y = data(9, 5)
    exact = linear_network_exact(X, y, [4], 0.2, 1.1, 0.6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    turned = linear_network_exact(X @ turn, y, [4], 0.2, 1.1, 0.6)
    assert np.allclose(turned.predict(Xs @ turn), exact.predict(Xs), atol=1e-12)
    assert np.allclose(turn @ turned.input_covariance @ turn.T, exact.input_covariance, atol=1e-12)
    scaled = linear_network_exact(X, 3 * y, [4], 9 * 0.2, 1.1, 9 * 0.6)
    assert np.allclose(scaled.predict(Xs), 3 * exact.predict(Xs), atol=1e-11)
    lifted = float(scaled.log_evidence) + 9 * np.log(3)
    assert lifted == pytest.approx(float(exact.log_evidence), abs=1e-10)


def test_duplicate_and_zero_inputs_and_targets() -> None:
    X = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    exact = linear_network_exact(X, np.zeros(3), [3], 0.1)
    assert np.abs(exact.predict(X)).max() == 0.0
    assert np.isfinite(float(exact.log_evidence))


def test_the_scalar_saddle_is_stationary() -> None:
    X, Xs, y = data(30, 8)
    for widths in ([20], [20, 20], [5, 40, 9]):
        exact = linear_network_exact(X, y, widths, 0.05, 1.0, 0.05)
        K = 0.05 / 8 * X @ X.T
        shift = exact.scalar_renormalization()

        def cost(scales: np.ndarray, K: np.ndarray = K, widths: list[int] = widths) -> float:
            total = np.prod(scales) * K + 0.05 * np.eye(30)
            sizes = np.array(widths) / 2
            return float(
                (sizes * (scales - np.log(scales))).sum()
                + np.linalg.slogdet(total)[1] / 2
                + y @ np.linalg.solve(total, y) / 2
            )

        # N_l (s_l - 1) is one number for all layers
        low, high = 0.0, 1e4
        for _ in range(200):
            middle = (low + high) / 2
            above = np.prod(1 + middle / np.array(widths)) > shift
            low, high = (low, middle) if above else (middle, high)
        scales = 1 + low / np.array(widths)
        for layer in range(len(widths)):
            step = 1e-5 * np.eye(len(widths))[layer]
            assert abs(cost(scales + step) - cost(scales - step)) / 2e-5 < 1e-5
    assert relative(exact.predict_scalar(Xs), exact.predict(Xs)) < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros(5)}, "X must have shape"),
        ({"X": np.zeros((5, 0))}, "X must"),
        ({"X": np.full((5, 3), np.nan)}, "X holds NaN"),
        ({"y": np.zeros(4)}, "y must"),
        ({"widths": [0]}, "widths"),
        ({"widths": []}, "widths"),
        ({"noise": 0.0}, "noise"),
        ({"sigma_a2": 0.0}, "sigma_a2"),
        ({"sigma_w2": float("inf")}, "sigma_w2"),
    ],
)
def test_bad_input(changes, message) -> None:
    given = {"X": np.ones((5, 3)), "y": np.ones(5), "widths": [4], "noise": 0.1, **changes}
    with pytest.raises(ValueError, match=message):
        linear_network_exact(**given)


def test_a_rule_that_is_too_coarse_is_an_error(monkeypatch) -> None:
    X, _, y = data(30, 8)
    monkeypatch.setattr(linear, "NODES", 5)
    monkeypatch.setattr(linear, "MOST_NODES", 9)
    with pytest.raises(ConvergenceError, match="quadrature"):
        linear_network_exact(X, y, [20], 0.02)
    with pytest.raises(ValueError, match="tol"):
        linear_network_exact(X, y, [20], 0.02, tol=0.0)
