"""Spectra: published tables, Bessel functions, small matrices by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from curves.reference_kernels import relu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from thermolearn.predict.spectrum import (
    Spectrum,
    empirical_spectrum,
    harmonics,
    sphere_spectrum,
    zonal,
)

# NTK of ReLU networks with sigma_w2 = 2, sigma_b2 = 0: dim, depth, lambda_0..4, k(1)
TABLE = [
    (3, 2, (1.00000000, 0.66666667, 0.15625, 0.0, 0.0104166667), 4),
    (8, 2, (0.762266146, 0.25, 0.0261408143, 0.0, 4.23437984e-4), 4),
    (8, 4, (2.30523402, 0.255508134, 0.0398491836, 0.00532722314, 0.00124720846), 8),
    (20, 4, (2.19015651, 0.0957243610, 0.00654671176, 4.01123214e-4, 4.42304529e-5), 8),
]


# -- the sphere ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("dim", "depth", "eigenvalues", "trace"), TABLE)
def test_relu_table(dim: int, depth: int, eigenvalues: tuple[float, ...], trace: float) -> None:
    spec = sphere_spectrum(relu(depth), dim)
    np.testing.assert_allclose(spec.eigenvalues[:5], eigenvalues, rtol=1e-7)
    assert spec.trace == pytest.approx(trace, rel=1e-14)
    assert spec.degeneracies @ spec.eigenvalues <= trace
    assert spec.flags == ()
    assert spec.error is not None
    assert spec.error[:5].max() < 1e-12


def test_relu_fractions() -> None:
    """d = 3, depth 2: the integrals are rational."""
    spec = sphere_spectrum(relu(2), 3)
    np.testing.assert_allclose(spec.eigenvalues[:5], [1, 2 / 3, 5 / 32, 0, 1 / 96], rtol=2e-14)


@pytest.mark.parametrize("dim", [3, 8])
def test_parity_zeros_of_a_bias_free_two_layer_network(dim: int) -> None:
    spec = sphere_spectrum(relu(2), dim, max_degree=31)
    assert (spec.eigenvalues[3::2] == 0).all()
    assert (spec.eigenvalues[2::2] > 0).all()


def test_tails() -> None:
    spec = sphere_spectrum(relu(4), 8)
    np.testing.assert_allclose([spec.tail(r) for r in (1, 2, 3)], [3.6507, 2.25598, 1.65933], 1e-5)
    assert spec.tail() == spec.tail(60)
    assert 0 < spec.tail() < spec.tail(59)


@pytest.mark.parametrize("dim", [2, 3, 8, 100, 784, 20_000])
def test_exponential_kernel_against_bessel_functions(dim: int) -> None:
    """exp(t): lambda_l = Gamma(d/2) 2^(d/2-1) I_{d/2-1+l}(1), by its series for large d."""
    spec = sphere_spectrum(np.exp, dim, max_degree=12)
    exact = []
    for degree in range(13):
        order = dim / 2 - 1 + degree
        log = math.lgamma(dim / 2) - math.lgamma(order + 1) - degree * math.log(2)
        exact.append(math.exp(log) * special.hyp0f1(order + 1, 0.25))
    listed = spec.eigenvalues > 0
    assert listed[:4].all()
    tolerance = 1e-11 if dim <= 100 else 1e-9  # of the Gamma functions on this side
    np.testing.assert_allclose(
        spec.degeneracies[:4] * spec.eigenvalues[:4], spec.degeneracies[:4] * exact[:4], tolerance
    )
    assert spec.error is not None
    gap = np.abs(spec.eigenvalues - exact)[listed]
    # the digits of a weak degree are those that its own error announces
    assert (gap <= spec.error[listed] + tolerance * np.array(exact)[listed]).all()


@given(st.integers(2, 40), st.lists(st.floats(0, 3), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_sum_of_harmonics_has_their_weights(dim: int, weights: list[float]) -> None:
    def kernel(t: np.ndarray) -> np.ndarray:
        terms = zip(weights, zonal(t, dim, len(weights) - 1), strict=True)
        return sum((w * p for w, p in terms), np.zeros_like(t))

    spec = sphere_spectrum(kernel, dim, max_degree=8)
    weight = spec.degeneracies * spec.eigenvalues
    np.testing.assert_allclose(weight[: len(weights)], weights, atol=1e-10 * max(1, sum(weights)))
    np.testing.assert_allclose(weight[len(weights) :], 0, atol=1e-12 * max(1, sum(weights)))


def test_number_of_harmonics() -> None:
    assert harmonics(2, 4).tolist() == [1, 2, 2, 2, 2]
    assert harmonics(3, 4).tolist() == [1, 3, 5, 7, 9]
    assert harmonics(4, 4).tolist() == [1, 4, 9, 16, 25]
    assert harmonics(8, 4).tolist() == [1, 8, 35, 112, 294]
    # (2l+d-2)/(d-2) C(l+d-3, l)
    assert harmonics(784, 3)[3] == (2 * 3 + 782) / 782 * math.comb(784, 3)


def test_zonal_polynomials_are_those_of_gegenbauer() -> None:
    t = np.linspace(-1, 1, 41)
    for dim in (3, 8, 21):
        for degree, values in enumerate(zonal(t, dim, 9)):
            gegenbauer = special.eval_gegenbauer(degree, dim / 2 - 1, t)
            unit = special.eval_gegenbauer(degree, dim / 2 - 1, 1.0)
            np.testing.assert_allclose(values, gegenbauer / unit, atol=1e-12)


def test_a_kernel_may_return_a_tensor() -> None:
    one = sphere_spectrum(lambda t: torch.exp(torch.as_tensor(t)), 5, 10)
    np.testing.assert_allclose(one.eigenvalues, sphere_spectrum(np.exp, 5, 10).eigenvalues)


def test_degrees_lost_in_rounding_stay_in_the_tail() -> None:
    spec = sphere_spectrum(relu(3), 784)
    assert (spec.eigenvalues[25:] == 0).all()
    assert (spec.eigenvalues[:4] > 0).all()
    listed = float(spec.degeneracies @ spec.eigenvalues)
    assert listed < spec.trace
    assert spec.tail() == pytest.approx(spec.trace - listed)


def test_a_kink_inside_the_interval_is_flagged() -> None:
    spec = sphere_spectrum(lambda t: np.maximum(0.0, 1 - 3 * np.arccos(t)), 2, 20)
    assert "quadrature" in spec.flags[0]
    assert spec.error is not None
    assert spec.error.max() > 1e-12


@pytest.mark.parametrize(
    ("kernel", "dim", "degree", "message"),
    [
        (np.exp, 1, 10, "dim"),
        (np.exp, 3.0, 10, "dim"),
        (np.exp, 3, -1, "max_degree"),
        (np.exp, 10**6, 100, "1e300"),
        (lambda t: -t, 3, 10, "positive semi-definite"),
        (lambda t: 1 - t, 3, 10, "degree 1"),
        (lambda t: t * np.nan, 3, 10, "non-finite"),
        (lambda t: 1.0, 3, 10, "shape"),
    ],
)
def test_bad_kernels(kernel, dim, degree, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        sphere_spectrum(kernel, dim, degree)


# -- data ----------------------------------------------------------------------------------------
def pool(m: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, 3))
    return np.exp(-0.5 * np.square(x[:, None] - x).sum(-1)), np.stack([x[:, 0], x[:, 1] ** 2], 1)


def test_empirical_spectrum_diagonalizes_the_pool() -> None:
    gram, y = pool(40)
    spec = empirical_spectrum(gram, y)
    assert spec.pool == 40
    assert (np.diff(spec.eigenvalues) <= 0).all()
    assert (spec.degeneracies == 1).all()
    assert spec.trace == pytest.approx(1.0, rel=1e-12)
    assert spec.tail() == 0
    assert spec.target_power is not None
    np.testing.assert_allclose(spec.target_power.sum(0), np.square(y).mean(0), rtol=1e-12)
    # the resolvent in the basis of the eigenfunctions and in that of the points
    resolvent = np.einsum("no,n->o", spec.target_power, 1 / (spec.eigenvalues + 0.1))
    direct = np.einsum("io,io->o", y, np.linalg.solve(gram / 40 + 0.1 * np.eye(40), y)) / 40
    np.testing.assert_allclose(resolvent, direct, rtol=1e-12)


def test_one_output_and_tensors_and_no_target() -> None:
    gram, y = pool(12)
    both = empirical_spectrum(torch.as_tensor(gram), torch.as_tensor(y))
    one = empirical_spectrum(gram, y[:, 1])
    assert both.target_power is not None
    assert one.target_power is not None
    np.testing.assert_allclose(one.target_power, both.target_power[:, 1])
    bare = empirical_spectrum(gram)
    assert bare.target_power is None
    np.testing.assert_allclose(bare.eigenvalues, one.eigenvalues, rtol=1e-9, atol=1e-15)


def test_the_order_of_the_pool_does_not_matter() -> None:
    gram, y = pool(25)
    shuffle = np.random.default_rng(1).permutation(25)
    one = empirical_spectrum(gram, y)
    other = empirical_spectrum(gram[np.ix_(shuffle, shuffle)], y[shuffle])
    np.testing.assert_allclose(one.eigenvalues, other.eigenvalues, atol=1e-14)
    assert one.target_power is not None
    assert other.target_power is not None
    np.testing.assert_allclose(one.target_power, other.target_power, atol=1e-10)


def test_duplicates_lose_modes_and_are_told() -> None:
    gram, y = pool(10)
    twice = np.r_[np.arange(10), 0, 3]
    spec = empirical_spectrum(gram[np.ix_(twice, twice)], y[twice])
    assert spec.rank == 10
    assert "2 of 12 modes" in spec.flags[0]
    assert spec.target_power is not None
    np.testing.assert_allclose(spec.target_power[10:], 0, atol=1e-12)


def test_a_constant_target_is_told() -> None:
    gram, y = pool(10)
    y[:, 1] = 3.0
    assert "constant" in empirical_spectrum(gram, y).flags[0]
    assert "[1]" in empirical_spectrum(gram, y).flags[0]
    spec = empirical_spectrum(gram, np.zeros(10))
    assert spec.target_power is not None
    assert spec.target_power.sum() == 0


def test_the_empirical_spectrum_approaches_that_of_the_sphere() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((800, 3))
    x *= math.sqrt(3) / np.linalg.norm(x, axis=1, keepdims=True)
    exact = sphere_spectrum(np.exp, 3, 10)
    values = empirical_spectrum(np.exp(np.clip(x @ x.T / 3, -1, 1))).eigenvalues
    for degree, (start, stop) in enumerate([(0, 1), (1, 4), (4, 9)]):
        assert values[start:stop].mean() == pytest.approx(exact.eigenvalues[degree], rel=0.03)


@pytest.mark.parametrize(
    ("gram", "y", "message"),
    [
        (np.ones((2, 3)), None, "square"),
        (np.zeros((0, 0)), None, "square"),
        (np.array([[1.0, 0.2], [0.3, 1.0]]), None, "symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), None, "non-finite"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), None, "positive semi-definite"),
        (np.eye(3), np.ones(2), "y must"),
        (np.eye(3), np.array([1.0, np.nan, 0.0]), "missing"),
    ],
)
def test_bad_pools(gram: np.ndarray, y: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        empirical_spectrum(gram, y)


def test_rounding_below_zero_is_clipped() -> None:
    gram = np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) - 1e-9 * np.eye(3)
    assert (empirical_spectrum(gram).eigenvalues >= 0).all()


# -- by hand -------------------------------------------------------------------------------------
def test_a_spectrum_by_hand() -> None:
    spec = Spectrum(np.array([1.0, 0.5, -1e-12]), np.array([1, 3, 5]), 3.0)
    assert spec.eigenvalues[2] == 0
    assert spec.rank == 4
    assert spec.tail() == pytest.approx(0.5)
    assert spec.tail(0) == pytest.approx(2.0)
    assert Spectrum(np.array([1.0, 0.5])).trace == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "eigenvalues"),
        (([1.0, math.nan],), "eigenvalues"),
        (([1.0, -0.1],), "positive semi-definite"),
        (([1.0, 0.5], [1.0]), "degeneracies"),
        (([1.0, 0.5], [1.0, 0.0]), "degeneracies"),
        (([1.0, 0.5], [1, 2], 1.9), "trace"),
        (([1.0, 0.5], [1, 2], math.nan), "trace"),
        (([1.0], [1], 1.0, 0), "pool"),
        (([1.0], [1], 1.0, None, [-1.0]), "target_power"),
        (([1.0], [1], 1.0, None, [1.0, 2.0]), "target_power"),
    ],
)
def test_bad_spectra(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spectrum(*arguments)


def test_tail_of_an_index_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="r must be"):
        Spectrum(np.ones(3)).tail(3)
