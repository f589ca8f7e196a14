"""Gaussian averages and their derivatives: against another implementation and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn.core.activation import resolve_activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.dual import dual
from thermolearn.systems.training.feature_learning.duals import ACCURACY, pair_averages

CLOSED = ["linear", "erf", "relu", "leaky_relu", torch.abs, torch.sin, torch.cos]
SERIES = ["gelu", "tanh", "silu", "softplus", "sigmoid"]


def covariance(n: int = 6, seed: int = 0) -> np.ndarray:
    B = np.random.default_rng(seed).normal(size=(n, n + 3))
    return B @ B.T / n


@pytest.mark.parametrize("activation", [*CLOSED, "gelu"])
def test_value_and_slope(activation) -> None:
    G = covariance()
    q = torch.from_numpy(G.diagonal().copy())
    value, slope = dual(activation).pair(q[:, None], q[None], torch.from_numpy(G))
    found = pair_averages(activation).slopes(G)
    assert slope is not None
    tolerance = 1e-14 if activation in CLOSED else ACCURACY
    assert np.abs(found.value - value.numpy()).max() < tolerance
    assert np.abs(found.by_covariance - slope.numpy()).max() < tolerance


@pytest.mark.parametrize("activation", SERIES)
def test_a_series_against_quadrature_in_the_plane(activation) -> None:
    G, function = covariance(), resolve_activation(activation).function
    u, w = np.polynomial.hermite_e.hermegauss(140)
    w = w / w.sum()
    found = pair_averages(activation).matrix(G)
    for i, j in ((0, 1), (2, 5), (3, 4)):
        L = np.linalg.cholesky(G[np.ix_([i, j], [i, j])])
        first = function(torch.from_numpy(L[0, 0] * u)).numpy()
        second = function(torch.from_numpy(L[1, 0] * u[:, None] + L[1, 1] * u)).numpy()
        assert found[i, j] == pytest.approx(w @ (first[:, None] * second) @ w, abs=1e-8)


@pytest.mark.parametrize("activation", CLOSED + SERIES)
def test_pullback_against_differences(activation) -> None:
    G, average = covariance(), pair_averages(activation)
    A = np.random.default_rng(1).normal(size=G.shape)
    A, n, h = A + A.T, len(G), 1e-5
    found = average.pullback(average.slopes(G), A)
    assert np.allclose(found, found.T, atol=1e-15)
    for i in range(n):
        for j in range(i + 1):
            step = np.zeros((n, n))
            step[i, j] += h / 2
            step[j, i] += h / 2
            change = ((average.matrix(G + step) - average.matrix(G - step)) * A).sum() / (2 * h)
            assert found[i, j] == pytest.approx(change, abs=2e-9)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", torch.abs, "erf", "tanh"])
def test_equal_inputs_give_the_diagonal(activation) -> None:
    x = np.array([[1.3, -0.4], [1.3, -0.4], [0.2, 2.0]])
    G, average = x @ x.T, pair_averages(activation)
    found = average.slopes(G)
    assert np.allclose(found.value[0, 1], average.diagonal(G.diagonal())[0], rtol=1e-8)
    assert np.isfinite(found.by_first).all() and np.isfinite(found.by_covariance).all()


def test_relu_on_the_diagonal_has_no_singular_derivative() -> None:
    average = pair_averages("relu")
    q = np.array([[0.7]])
    found = average.slopes(q)
    total = found.by_covariance + 2 * found.by_first  # of q / 2
    assert float(found.value[0, 0]) == pytest.approx(0.35, abs=1e-16)
    assert float(total[0, 0]) == pytest.approx(0.5, abs=1e-16)


def test_a_zero_input() -> None:
    G = np.diag([0.0, 1.0])
    for activation in ("erf", "relu", "tanh", "linear"):
        found = pair_averages(activation).slopes(G)
        assert np.abs(found.value[0]).max() < 1e-12
        assert all(np.isfinite(part).all() for part in found)


def test_modules_and_callables_are_the_named_functions() -> None:
    G = covariance()
    for module, name in ((nn.ReLU(), "relu"), (nn.Tanh(), "tanh"), (nn.Identity(), "linear")):
        found = pair_averages(module).matrix(G)
        assert np.allclose(found, pair_averages(name).matrix(G), rtol=1e-13, atol=1e-14)
    assert pair_averages(nn.Identity()).linear and not pair_averages("erf").linear


def test_refusals_name_what_is_supported() -> None:
    with pytest.raises(NotApplicableError, match="relu, leaky_relu"):
        pair_averages("elu")
    with pytest.raises(NotApplicableError, match="kink"):
        pair_averages("hardtanh")
    with pytest.raises(NotApplicableError, match="jumps"):
        pair_averages(torch.sign)
    with pytest.raises(NotApplicableError, match="Hermite series miss"):
        pair_averages("tanh").matrix(np.array([[400.0]]))
    with pytest.raises(ValueError, match="not known"):
        pair_averages("arctan2")


def test_erf_against_its_textbook_formula() -> None:
    G = covariance(4, 3)
    q = 1 + 2 * G.diagonal()
    textbook = 2 / math.pi * np.arcsin(2 * G / np.sqrt(np.outer(q, q)))
    assert np.allclose(pair_averages("erf").matrix(G), textbook, atol=1e-15)
