"""The rotationally invariant estimator: exact limits, sampled matrices, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thermolearn.systems.memory.decimation import (
    SymmetricFactorisation,
    decimation_theory,
    eigenvalue_density,
    rie_denoise,
    rie_mse,
)


@pytest.mark.parametrize("delta", [0.01, 0.3, 2.0])
def test_pure_noise_is_wigners_semicircle(delta: float):
    x = np.linspace(-1.9, 1.9, 39) * math.sqrt(delta)
    density = eigenvalue_density(0.0, delta, x)
    exact = np.sqrt(4 * delta - x**2) / (2 * math.pi * delta)
    assert np.asarray(density) == pytest.approx(exact, rel=1e-9)
    assert float(rie_mse(0.0, delta)) == pytest.approx(0.0, abs=1e-12 * delta)


@pytest.mark.parametrize(("alpha", "delta"), [(0.03, 0.1), (0.1, 0.02), (0.5, 0.1), (2.0, 0.4)])
def test_density_has_the_moments_of_the_free_convolution(alpha: float, delta: float):
    x = np.linspace(-4, 9, 260_001)
    rho = np.asarray(eigenvalue_density(alpha, delta, x))
    moments = [float(np.trapezoid(rho * x**k, x)) for k in range(4)]
    # free cumulants alpha, alpha + delta, alpha of Marchenko and Pastur plus Wigner
    k2 = alpha + delta
    exact = [1.0, alpha, k2 + alpha**2, alpha + 3 * k2 * alpha + alpha**3]
    assert moments[0] == pytest.approx(1.0, abs=1e-3)
    assert moments == pytest.approx(exact, rel=1e-4)


def test_density_is_that_of_a_sampled_matrix():
    n, alpha, delta = 1000, 0.1, 0.05
    _, Y = SymmetricFactorisation(n, alpha, delta).sample(0)
    values = np.linalg.eigvalsh(Y / math.sqrt(n))
    x = np.linspace(-3, 5, 80_001)
    rho = np.asarray(eigenvalue_density(alpha, delta, x))
    cumulative = np.cumsum(rho) * (x[1] - x[0])
    empirical = np.searchsorted(values, x) / n
    assert np.abs(cumulative - empirical).max() < 4 / n + 1e-3


@pytest.mark.parametrize(
    ("alpha", "delta", "value"),
    [
        (0.03, 0.1, 0.00559),
        (0.05, 0.05, 0.00474),
        (0.1, 0.02, 0.00375),
        (0.03, 0.01, 0.00059),
        (0.02, 0.2, 0.00708),
    ],
)
def test_reference_numbers(alpha: float, delta: float, value: float):
    error = rie_mse(alpha, delta)
    assert float(error) == pytest.approx(value, abs=3e-5 if delta == 0.1 else 1e-5)
    assert error.stderr < 1e-8
    assert 0 < float(error) < min(alpha, delta)


def test_decimation_beats_the_eigenvalues_fivefold():
    assert float(decimation_theory(0.03, 0.1, steps=8).mse) < float(rie_mse(0.03, 0.1)) / 5


@pytest.mark.parametrize(("alpha", "delta"), [(0.03, 0.1), (0.1, 0.3)])
def test_estimator_reaches_its_error_and_the_oracle(alpha: float, delta: float):
    n = 1000
    X, Y = SymmetricFactorisation(n, alpha, delta).sample(1)
    signal = X @ X.T / math.sqrt(n)
    error = float(((rie_denoise(Y, delta) - signal) ** 2).mean())
    assert error == pytest.approx(float(rie_mse(alpha, delta)), rel=0.08)
    # the best eigenvalues for these eigenvectors, which needs the signal
    vectors = np.linalg.eigh(Y)[1]
    best = np.einsum("ij,ij->j", vectors, signal @ vectors)
    oracle = float((((vectors * best) @ vectors.T - signal) ** 2).mean())
    assert oracle == pytest.approx(float(rie_mse(alpha, delta)), rel=0.03)
    assert oracle < error


def test_estimator_is_equivariant_and_trivial_without_noise():
    _, Y = SymmetricFactorisation(60, 0.1, 0.1).sample(2)
    assert rie_denoise(Y, 0.0) == pytest.approx(Y, abs=1e-10)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0]
    turned = rotation @ Y @ rotation.T
    turned = (turned + turned.T) / 2
    expected = rotation @ rie_denoise(Y, 0.1) @ rotation.T
    assert rie_denoise(turned, 0.1) == pytest.approx(expected, abs=1e-9)
    assert float(rie_mse(0.03, 0.0)) == 0.0


def test_bad_input_is_named():
    Y = SymmetricFactorisation(30, 0.1, 0.1).sample(0)[1]
    bent = Y.copy()
    bent[0, 1] += 1e-6
    with pytest.raises(ValueError, match="not symmetric"):
        rie_denoise(bent, 0.1)
    bent[0, 1] = bent[1, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        rie_denoise(bent, 0.1)
    with pytest.raises(ValueError, match="square"):
        rie_denoise(Y[:, :-1], 0.1)
    with pytest.raises(ValueError, match="delta"):
        rie_denoise(Y, -0.1)
    with pytest.raises(ValueError, match="width"):
        rie_denoise(Y, 0.1, width=0.0)
    with pytest.raises(ValueError, match="delta"):
        rie_mse(0.03, -1.0)
    with pytest.raises(ValueError, match="alpha"):
        rie_mse(-0.03, 0.1)
    with pytest.raises(ValueError, match="point mass"):
        eigenvalue_density(0.03, 0.0, 0.0)
    with pytest.raises(ValueError, match="eigenvalues"):
        eigenvalue_density(0.03, 0.1, math.nan)
