"""Sizes, priors and outputs of Bayesian networks, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_forward_is_the_sum_over_patches_and_channels() -> None:
    net = BayesianCNN(3, 4, 5, activation="tanh")
    W, a = net.sample_prior(generator(), 2)
    X = torch.randn(6, 4, 5, generator=generator(1), dtype=torch.double)
    for chain in range(2):
        for mu in range(6):
            naive = sum(
                a[chain, i * 3 + c] * torch.tanh(W[chain, c] @ X[mu, i])
                for i in range(4)
                for c in range(3)
            )
            assert float(net.forward([W, a], X)[chain, mu]) == pytest.approx(
                float(naive), abs=1e-14
            )


def test_a_deep_network_layer_by_layer() -> None:
    net = BayesianFCN([4, 3], 5)
    W1, W2, a = net.sample_prior(generator(), 1)
    X = torch.randn(7, 1, 5, generator=generator(1), dtype=torch.double)
    h = W2[0] @ torch.erf(W1[0] @ X[:, 0].T)
    assert torch.allclose(net.preactivations([W1, W2], X)[1][0, :, 0].T, h, atol=1e-14)
    assert torch.allclose(net.forward([W1, W2, a], X)[0], a[0] @ torch.erf(h), atol=1e-14)


@pytest.mark.parametrize(
    ("net", "shapes", "variances"),
    [
        (BayesianFCN([20], 8, 1.5, 0.3), ((20, 8), (20,)), (1.5 / 8, 0.3 / 20)),
        (BayesianFCN((6, 9), 4, 2.0, 0.5), ((6, 4), (9, 6), (9,)), (0.5, 2 / 6, 0.5 / 9)),
        (BayesianCNN(20, 4, 6, 1.0, 0.1), ((20, 6), (80,)), (1 / 6, 0.1 / 80)),
    ],
)
def test_shapes_and_prior(net, shapes, variances) -> None:
    assert net.shapes == shapes
    assert net.prior_variances == pytest.approx(variances)
    assert net.n_parameters == sum(int(np.prod(s)) for s in shapes)
    samples = net.sample_prior(generator(), 4000)
    for w, variance in zip(samples, variances, strict=True):
        assert float(w.var()) == pytest.approx(variance, rel=4 * (2 / w.numel()) ** 0.5)


def test_random_networks_have_the_covariance_of_infinite_width() -> None:
    # two layers: at any width, E f f^T is the kernel
    net = BayesianCNN(5, 3, 4, 1.3, 0.7)
    X = np.random.default_rng(0).normal(size=(4, 3, 4))
    f = net.forward(net.sample_prior(generator(), 60_000), torch.from_numpy(X))
    products = (f[:, :, None] * f[:, None]).numpy()
    error = products.std(0) / np.sqrt(len(f))
    kernel = net.gp(X, np.zeros(4), 1.0).output_kernel
    assert np.abs((products.mean(0) - kernel) / error).max() < 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BayesianFCN([0], 8), "widths"),
        (lambda: BayesianFCN([], 8), "widths"),
        (lambda: BayesianFCN([2.5], 8), "widths"),  # type: ignore[list-item]
        (lambda: BayesianFCN(20, 8), "widths"),  # type: ignore[arg-type]
        (lambda: BayesianFCN([20], 0), "d must"),
        (lambda: BayesianFCN([20], 8, sigma_w2=0.0), "sigma_w2"),
        (lambda: BayesianFCN([20], 8, sigma_a2=-1.0), "sigma_a2"),
        (lambda: BayesianFCN([20], 8, sigma_a2=float("nan")), "sigma_a2"),
        (lambda: BayesianFCN([20], 8, activation="no such"), "activation"),
        (lambda: BayesianCNN(0, 4, 6), "channels"),
        (lambda: BayesianCNN(20, 0, 6), "patches"),
        (lambda: BayesianCNN(20, 4, 0), "patch_dim"),
        (lambda: BayesianCNN(20, 4, 6, sigma_w2=float("inf")), "sigma_w2"),
    ],
)
def test_bad_networks(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("X", "y", "noise", "message"),
    [
        (np.zeros((5, 7)), np.zeros(5), 0.1, r"X must have shape \(n, 8\)"),
        (np.zeros(8), np.zeros(5), 0.1, "X must have shape"),
        (np.zeros((0, 8)), np.zeros(0), 0.1, "X must have shape"),
        (np.full((5, 8), np.nan), np.zeros(5), 0.1, "X holds NaN"),
        (np.array([["a"] * 8]), np.zeros(1), 0.1, "X must hold real numbers"),
        (np.zeros((5, 8)), np.zeros(4), 0.1, "y must have one target per input"),
        (np.zeros((5, 8)), np.array([0, 1, np.inf, 0, 0]), 0.1, "y holds NaN"),
        (np.zeros((5, 8)), np.zeros(5), 0.0, "noise"),
        (np.zeros((5, 8)), np.zeros(5), -0.1, "noise"),
        (np.zeros((5, 8)), np.zeros(5), float("nan"), "noise"),
    ],
)
@pytest.mark.parametrize("call", ["equations_of_state", "gp"])
def test_bad_data(X, y, noise, message, call) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(BayesianFCN([20], 8), call)(X, y, noise)


def test_bad_patches_and_test_inputs() -> None:
    net = BayesianCNN(20, 4, 6)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 4, 6\)"):
        net.gp(np.zeros((5, 24)), np.zeros(5), 0.1)
    X = np.random.default_rng(0).normal(size=(5, 4, 6))
    gp = net.gp(torch.from_numpy(X), np.ones((5, 1)), 0.1)  # tensors, and a column of targets
    with pytest.raises(ValueError, match="Xs must have shape"):
        gp.predict(np.zeros((5, 6, 4)))
    with pytest.raises(ValueError, match="samples"):
        net.sample_prior(generator(), 0)
