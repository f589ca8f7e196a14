"""The catalogue's entry, and the comparison of equations of state, Gaussian process and sampler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from thermolearn.systems.training import feature_learning
from thermolearn.systems.training.feature_learning import (
    BayesianFCN,
    Params,
    compare,
    linear_network_exact,
    sample_posterior,
    simulate,
    theory,
)

data = np.random.default_rng(3)
X, TEST = data.normal(size=(16, 3)), data.normal(size=(80, 3))


def run(net: BayesianFCN, y: np.ndarray, noise: float, **options: int):
    options = {"chains": 12, "draws": 80, "n_warmup": 50, "steps": 8} | options
    solution = net.equations_of_state(X, y, noise).solve()
    return solution, sample_posterior(net, X, y, noise, **options)


def test_simulated_linear_networks_are_the_exact_ones():
    """The exact network stands in for the theory: no allowance."""
    p = Params(activation="linear", channels=8, sigma_a2=0.2, noise=0.1, chains=64)
    X, y, test, labels = p.data()
    exact = linear_network_exact(X, y, [8], p.noise, p.sigma_w2, p.sigma_a2)
    sigma = np.asarray(exact.input_covariance) * p.dim
    expected = {
        "learned_variance": sigma[0, 0],
        "input_variance": np.trace(sigma) / p.dim,
        "train_alpha": exact.predict(X) @ y / (y @ y),
        "test_alpha": exact.predict(test) @ labels / (labels @ labels),
    }
    found = simulate(p, 0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(float(found[name]) - value) < 4 * float(found[name].stderr) < 0.15, name


def test_theory_says_where_it_is_not_controlled():
    assert {e.status for e in theory(Params()).values()} == {"ok"}
    found = theory(Params(sigma_a2=1.0))
    assert {e.status for e in found.values()} == {"not controlled"}
    assert "saddle point not controlled" in found["test_alpha"].note


def test_wide_networks_keep_the_prior():
    found = theory(Params(channels=10**6))
    assert float(found["learned_variance"]) == pytest.approx(1, abs=1e-3)
    assert float(found["input_variance"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("activation", "tanh"), ("dim", 1), ("n_samples", 1), ("noise", 0.0), ("sigma_a2", -1.0)],
)
def test_bad_parameters(field: str, value):
    with pytest.raises(ValueError, match=field):
        Params(**{field: value})


def test_public_names():
    assert set(feature_learning.__all__) <= set(dir(feature_learning))
    for name in ("BayesianFCN", "BayesianCNN", "equations_of_state", "sample_posterior"):
        assert hasattr(feature_learning, name)


# -- comparison ----------------------------------------------------------------------------------
def test_mean_field_scaling_gains():
    y, labels = erf(X[:, 0]), erf(TEST[:, 0])
    net = BayesianFCN([20], 3, sigma_a2=0.05)
    found = compare(*run(net, y, 0.02), TEST, labels)
    assert float(found.gp_distance) > 4 * float(found.eos_distance)
    assert "remove" in found.statement and "predictor" not in found.worse
    assert found["learned variance"].gp == 1.0 and found["learned variance"].eos > 1.5
    assert float(found.kernel_shift_captured) == pytest.approx(1, abs=0.1)
    assert float(found.direction_overlap) > 0.99
    text = str(found)
    assert all(row.name in text for row in found.rows) and found.statement in text
    with pytest.raises(KeyError, match="no row"):
        found["loss"]


@pytest.mark.slow
def test_linear_networks_in_standard_scaling_lose_and_it_is_said():
    rng = np.random.default_rng(1)
    inputs, test = rng.normal(size=(30, 8)), rng.normal(size=(500, 8))
    net = BayesianFCN([20], 8, activation="linear")
    with pytest.warns(UserWarning, match="not controlled"):
        solution = net.equations_of_state(inputs, inputs[:, 0], 0.05).solve()
    samples = sample_posterior(
        net, inputs, inputs[:, 0], 0.05, chains=12, draws=80, n_warmup=50, steps=8
    )
    found = compare(solution, samples, test, test[:, 0])
    assert "WORSE than the plain Gaussian process" in found.statement
    assert "predictor" in found.worse
    assert any("not controlled" in flag for flag in found.flags)


@pytest.mark.slow
def test_distances_are_those_of_the_exact_network():
    """The sampler's own noise is taken out: an exact predictor has distance 0 within its error."""
    net = BayesianFCN([20], 3, 1.0, 0.05, "linear")
    y = X[:, 0]
    solution, samples = run(net, y, 0.05)
    found = compare(solution, samples, TEST, TEST[:, 0])
    exact = linear_network_exact(X, y, [20], 0.05, 1.0, 0.05)
    truth = np.asarray(exact.predict(TEST))
    for distance, f in (
        (found.eos_distance, solution.predict(TEST)),
        (found.gp_distance, net.gp(X, y, 0.05).predict(TEST)),
    ):
        expected = np.linalg.norm(f - truth) / np.linalg.norm(truth)
        assert abs(float(distance) - expected) < 4 * float(distance.stderr)


def test_samples_that_are_not_ready_say_nothing():
    net, y = BayesianFCN([20], 3, sigma_a2=0.05), erf(X[:, 0])
    with pytest.warns(UserWarning, match="draws per chain"):
        solution, samples = run(net, y, 0.02, draws=5)
    assert "nothing can be said" in compare(solution, samples, TEST, TEST[:, 0]).statement


@pytest.mark.filterwarnings("ignore::thermolearn.core.errors.SamplerWarning")
def test_different_problems_are_not_compared():
    net, y = BayesianFCN([20], 3, sigma_a2=0.05), erf(X[:, 0])
    solution = net.equations_of_state(X, y, 0.02).solve()
    few = {"draws": 2, "chains": 2, "n_warmup": 2, "steps": 2}
    other_noise = sample_posterior(net, X, y, 0.03, **few)
    other_labels = sample_posterior(net, X, -y, 0.02, **few)
    other_inputs = sample_posterior(net, X + 0.1, y, 0.02, **few)
    other_net = sample_posterior(replace(net, sigma_a2=0.06), X, y, 0.02, **few)
    for samples in (other_noise, other_labels, other_inputs):
        with pytest.raises(ValueError, match="same training data"):
            compare(solution, samples, TEST, TEST[:, 0])
    with pytest.raises(ValueError, match="samples are of"):
        compare(solution, other_net, TEST, TEST[:, 0])
