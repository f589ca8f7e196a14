"""Kurtosis of sampled networks: priors, known laws, published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf

from thermolearn.systems.training.feature_learning import (
    BayesianCNN,
    BayesianFCN,
    gaussianity,
    sample_posterior,
    weight_kurtosis,
)
from thermolearn.systems.training.feature_learning.collapsed import posterior
from thermolearn.systems.training.feature_learning.gaussianity import unit_values
from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples

rng = np.random.default_rng(5)


def made(net, X, x: torch.Tensor) -> PosteriorSamples:
    """Samples with given whitened weights (draws, chains, n_weights)."""
    density = posterior(net, X, np.sign(np.arange(len(X)) - 0.5), 0.1)
    return PosteriorSamples(net, density, x, np.zeros(x.shape[:2]), 0.8, 0.1, "hmc")


def prior(net, X, draws: int = 200, chains: int = 10) -> PosteriorSamples:
    n = posterior(net, X, np.ones(len(X)), 0.1).n_weights
    generator = torch.Generator().manual_seed(1)
    return made(net, X, torch.randn(draws, chains, n, generator=generator, dtype=torch.float64))


def test_prior_weights_are_gaussian():
    net = BayesianFCN([8], 4, sigma_w2=2.0)
    s = prior(net, rng.normal(size=(6, 4)), draws=1500)
    found = weight_kurtosis(s, [1.0, 0.0, -2.0, 0.0])
    assert abs(float(found) - 3) < 4 * float(found.stderr) < 0.1
    (layer,) = gaussianity(s)
    assert layer.gaussian and "are Gaussian" in layer.statement
    assert unit_values(s, np.eye(4)[0]).std() == pytest.approx(1, abs=0.01)
    assert unit_values(s).shape == (10, 1500 * 8)


def test_the_second_layer_of_the_prior_has_the_kurtosis_of_a_scale_mixture():
    """Linear, N1 units: h = |u|^2-scaled Gaussian, E h^4 / (E h^2)^2 = 3 (1 + 2 / N1)."""
    net = BayesianFCN([4, 6], 3, 1.0, 1.0, "linear")
    _, second = gaussianity(prior(net, rng.normal(size=(5, 3)), draws=3000))
    for found in (second.learned, second.inputs):
        assert abs(float(found) - 4.5) < 4 * float(found.stderr)
        assert float(found.stderr) < 0.1
    assert second.gaussian is False and "NOT Gaussian" in second.statement


def test_two_groups_of_units():
    """All weights +-w along one direction: kurtosis 1 there, found without being told."""
    net, X = BayesianFCN([6], 3), rng.normal(size=(5, 3))
    x = 0.01 * torch.randn(60, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    x[..., 1] += torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    s = made(net, X, x.double().flatten(2))
    assert float(weight_kurtosis(s)) == pytest.approx(1, abs=0.01)
    assert gaussianity(s)[0].gaussian is False


def test_kurtosis_is_that_of_the_network_s_own_preactivations():
    """Every layer and patch, against the network and a plain formula."""
    for net, X in (
        (BayesianFCN([5, 3], 4, 2.0, 0.1), rng.normal(size=(6, 4))),
        (BayesianCNN(5, 3, 2), rng.normal(size=(6, 3, 2))),
    ):
        s = prior(net, X, draws=60)
        weights = s.density.weights(s.x.flatten(0, 1))
        layers = net.preactivations(weights, torch.as_tensor(net.inputs(X)))
        for found, h in zip(gaussianity(s), layers, strict=True):
            flat = h.movedim(-1, 1).flatten(0, 1).flatten(1)
            expected = (flat.pow(4).mean(0) / flat.square().mean(0).square()).mean()
            # the jackknife takes a bias of the order of its error out
            assert abs(float(found.inputs) - float(expected)) < 2 * float(found.inputs.stderr)


@pytest.mark.parametrize(
    "direction", [np.zeros(3), np.ones(4), np.array([1.0, np.nan, 0.0]), np.ones((3, 1))]
)
def test_bad_directions(direction):
    s = prior(BayesianFCN([2], 3), rng.normal(size=(4, 3)), draws=50, chains=2)
    with pytest.raises(ValueError, match="direction must be a finite vector of length 3"):
        weight_kurtosis(s, direction)
    with pytest.raises(ValueError, match="direction"):
        unit_values(s, direction)


def test_without_error_bars_there_is_no_verdict():
    s = prior(BayesianFCN([4], 3), rng.normal(size=(4, 3)), draws=60, chains=1)
    (layer,) = gaussianity(s)
    assert layer.gaussian is None and "cannot be told" in layer.statement


@pytest.mark.slow
@pytest.mark.parametrize(("sigma_a2", "noise", "expected"), [(1.0, 0.05, 2.94), (0.05, 0.02, 2.27)])
def test_units_specialize_in_mean_field_scaling(sigma_a2: float, noise: float, expected: float):
    data = np.random.default_rng(1)
    X = data.normal(size=(40, 8))
    net = BayesianFCN([20], 8, 1.0, sigma_a2)
    s = sample_posterior(net, X, erf(X[:, 0]), noise, draws=150, n_warmup=80, seed=4)
    found = weight_kurtosis(s, np.eye(8)[0])
    # the published number has an error of its own, of about 0.03
    assert abs(float(found) - expected) < 4 * np.hypot(float(found.stderr), 0.03)
    (layer,) = gaussianity(s)
    assert (layer.gaussian is False) == (sigma_a2 < 1)
