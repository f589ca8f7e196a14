"""Dropping weak modes: the spectrum, the kernel, and regression with it data set by data set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference_kernels import relu

from thermolearn.predict.curves import ZonalKernel, learning_curve, renormalize
from thermolearn.predict.spectrum import Spectrum, sphere_spectrum

DIM = 8
TARGET = {1: 0.5, 2: 0.3, 3: 0.2}


def points(rng: np.random.Generator, count: int, dim: int = DIM) -> np.ndarray:
    x = rng.standard_normal((count, dim))
    return x * math.sqrt(dim) / np.linalg.norm(x, axis=1, keepdims=True)


def test_weight_is_conserved() -> None:
    spec = sphere_spectrum(relu(4), DIM)
    kept, extra = renormalize(spec, 3)
    assert extra == pytest.approx(1.65933, rel=1e-5)
    assert kept.trace + extra == pytest.approx(spec.trace, rel=1e-14)
    assert kept.tail() == 0
    np.testing.assert_array_equal(kept.eigenvalues[:4], spec.eigenvalues[:4])
    assert (kept.eigenvalues[4:] == 0).all()
    kernel, noise = renormalize(relu(4), 3, dim=DIM)
    assert noise == extra
    assert kernel(np.ones(1))[0] == pytest.approx(kept.trace, rel=1e-14)


def test_kernel_of_few_degrees_has_their_spectrum() -> None:
    kernel, _ = renormalize(np.exp, 2, dim=5)
    spec, full = sphere_spectrum(kernel, 5, 10), sphere_spectrum(np.exp, 5, 10)
    np.testing.assert_allclose(spec.eigenvalues[:3], full.eigenvalues[:3], rtol=1e-12)
    assert (spec.eigenvalues[3:] == 0).all()
    # degree 0 and 1 in closed form: a constant and a multiple of t
    first, _ = renormalize(np.exp, 1, dim=5)
    weight = full.degeneracies * full.eigenvalues
    t = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(first(t), weight[0] + weight[1] * t, rtol=1e-12)


def test_the_orders_are_those_of_the_kept_spectrum() -> None:
    """("renormalized", r) is the leading order of what renormalize returns, at the larger noise."""
    spec = sphere_spectrum(relu(4), DIM)
    kept, extra = renormalize(spec, 2)
    for order, plain in (
        ("renormalized", "equivalence-kernel"),
        ("renormalized-subleading", "subleading"),
    ):
        one = learning_curve(spec, TARGET, [50, 500], 2.0, 0.1, (order, 2))
        other = learning_curve(kept, TARGET, [50, 500], 2.0 + extra, 0.1, plain)
        np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-12)
        np.testing.assert_allclose(one.loop_ratio, other.loop_ratio, rtol=1e-12)
        np.testing.assert_allclose(one.log_det, other.log_det, rtol=1e-12)
        assert "r=2" in one.order
        # the target of degree 3 is out of reach
        assert (one.test_error > 0.2).all()
        assert (one.learnability[:, 3:] == 0).all()


def test_renormalization_brings_train_error_and_variance_near_the_resummed_ones() -> None:
    spec = sphere_spectrum(relu(4), DIM)
    full = learning_curve(spec, TARGET, 800, 20.0)
    one = learning_curve(spec, TARGET, 800, 20.0, order=("renormalized-subleading", 4))
    for name in ("test_error", "train_error", "predictive_variance", "log_evidence"):
        np.testing.assert_allclose(getattr(one, name), getattr(full, name), rtol=0.01)


def test_regression_with_the_renormalized_kernel() -> None:
    """Degree <= 4 with the noise of the rest predicts as the full kernel; without it it fails."""
    rng = np.random.default_rng(0)
    full, sets, n = relu(4), 10, 200
    spec = sphere_spectrum(full, DIM)
    # a harmonic of unit norm along w is sqrt(N_l) P_l
    coefficients = np.sqrt([0.0, *TARGET.values()] * spec.degeneracies[:4])
    target = ZonalKernel(DIM, coefficients)
    kernels = {r: renormalize(full, r, dim=DIM) for r in (3, 4)}
    x_test = points(rng, 500)
    gaps, errors, bare = [], [], []
    for _ in range(sets):
        x, w = points(rng, n), points(rng, 1)[0]
        y, truth = target(x @ w / DIM), target(x_test @ w / DIM)
        t, t_test = np.clip(x @ x.T / DIM, -1, 1), np.clip(x_test @ x.T / DIM, -1, 1)
        exact = full(t_test) @ np.linalg.solve(full(t), y)
        few, noise = kernels[4]
        renormalized = few(t_test) @ np.linalg.solve(few(t) + noise * np.eye(n), y)
        three, _ = kernels[3]
        forgotten = three(t_test) @ np.linalg.solve(three(t) + 1e-9 * np.eye(n), y)
        gaps.append(np.mean((renormalized - exact) ** 2))
        errors.append(np.mean((exact - truth) ** 2))
        bare.append(np.mean((forgotten - truth) ** 2))
    assert np.mean(gaps) < 0.002
    # the kernel of three degrees interpolates the cubic target
    assert np.mean(bare) < 1e-6
    theory = learning_curve(spec, TARGET, n, 0.0).test_error[0]
    error = np.std(errors, ddof=1) / math.sqrt(sets)
    assert abs(np.mean(errors) - theory) < 4 * error + 0.06 * theory


def test_gram_matrix_on_the_sphere() -> None:
    rng = np.random.default_rng(0)
    x = points(rng, 5)
    kernel, _ = renormalize(np.exp, 2, dim=DIM)
    gram = kernel.gram(torch.as_tensor(x))
    assert gram.dtype == torch.float64
    np.testing.assert_allclose(gram.diagonal(), kernel(np.ones(5)), rtol=1e-14)
    np.testing.assert_allclose(gram[0, 1], kernel(x[0] @ x[1] / DIM), rtol=1e-12)
    assert kernel.gram(x, x[:2]).shape == (5, 2)
    with pytest.raises(ValueError, match="empirical_spectrum"):
        kernel.gram(2 * x)
    with pytest.raises(ValueError, match="shape"):
        kernel.gram(x[:, :3])


def test_bad_input() -> None:
    spec = Spectrum(np.array([1.0, 0.1]))
    with pytest.raises(ValueError, match="r must be"):
        renormalize(spec, 2)
    with pytest.raises(ValueError, match="dim"):
        renormalize(np.exp, 2)
    with pytest.raises(TypeError, match="Spectrum or a kernel"):
        renormalize(3.0, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise > 0"):
        learning_curve(spec, [1.0], 5, 0.0, order=("renormalized", 1))
