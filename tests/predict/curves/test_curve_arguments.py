"""Limits, symmetries, several outputs and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_kernels import relu

from thermolearn.predict.curves import learning_curve
from thermolearn.predict.curves.problem import Problem, log_determinant
from thermolearn.predict.curves.self_consistent import effective_ridge
from thermolearn.predict.spectrum import Spectrum, sphere_spectrum

spectra = st.lists(st.floats(1e-6, 10), min_size=1, max_size=12)


# -- properties ----------------------------------------------------------------------------------
@given(spectra, st.floats(1e-3, 10), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_properties(values: list[float], noise: float, tail: float) -> None:
    eigenvalues = np.array(values)
    power = np.linspace(0.1, 1, len(values))
    spec = Spectrum(eigenvalues, np.ones(len(values)), eigenvalues.sum() + tail)
    curve = learning_curve(spec, power, np.geomspace(1, 1e4, 25), noise)
    assert (np.diff(curve.kappa) < 0).all()
    assert (np.diff(curve.bias) <= 1e-12).all()
    assert ((curve.learnability >= 0) & (curve.learnability <= 1)).all()
    assert ((curve.gamma >= 0) & (curve.gamma < 1)).all()
    assert (curve.train_error <= curve.test_error_noisy).all()
    np.testing.assert_allclose(curve.bias + curve.variance_over_data_sets, curve.test_error)
    law = curve.learnability.sum(1) + (noise + spec.tail()) / curve.kappa
    np.testing.assert_allclose(law, curve.n, rtol=1e-9)
    order = np.random.default_rng(0).permutation(len(values))
    other = learning_curve(
        Spectrum(eigenvalues[order], np.ones(len(values)), spec.trace), power[order], curve.n, noise
    )
    np.testing.assert_allclose(other.test_error, curve.test_error, rtol=1e-10)
    np.testing.assert_allclose(other.log_evidence, curve.log_evidence, rtol=1e-10, atol=1e-9)


@given(spectra, st.floats(1e-3, 10))
@settings(max_examples=40, deadline=None)
def test_a_target_drawn_from_the_prior(values: list[float], noise: float) -> None:
    """g_n^2 = lambda_n and labels as noisy as assumed: the error is the posterior variance, falls
    with N, and no other noise does better."""
    eigenvalues, n = np.array(values), np.geomspace(1, 1e4, 25)
    spec = Spectrum(eigenvalues)
    curve = learning_curve(spec, eigenvalues, n, noise, label_noise=noise)
    np.testing.assert_allclose(curve.test_error, curve.predictive_variance, rtol=1e-8, atol=1e-12)
    assert (np.diff(curve.test_error) < 0).all()
    assert (curve.test_error <= eigenvalues.sum()).all()
    # E y^T (K + noise)^{-1} y = N for labels drawn from the model itself
    np.testing.assert_allclose(curve.quadratic, n, rtol=1e-8)
    for wrong in (0.5 * noise, 2 * noise):
        other = learning_curve(spec, eigenvalues, n, wrong, label_noise=noise)
        assert (other.test_error >= curve.test_error * (1 - 1e-10)).all()
        assert (other.log_evidence <= curve.log_evidence + 1e-8 * n).all()


def test_a_small_ridge_peaks_where_a_degree_is_being_counted_out() -> None:
    """Unlearned power is noise to the modes above it: the curve need not fall with N."""
    spec = Spectrum(np.array([1.0, 1e-4]), np.array([10.0, 1000.0]))
    curve = learning_curve(spec, [0.0, 1.0], [2, 10, 100], 1e-6)
    assert curve.test_error[1] > 1.5 * curve.test_error[0]
    assert curve.test_error[1] > 1.5 * curve.test_error[2]


def test_splitting_a_degenerate_mode_changes_nothing() -> None:
    one = Spectrum(np.array([1.0, 0.2]), np.array([1.0, 4.0]))
    five = Spectrum(np.array([1.0, 0.2, 0.2, 0.2, 0.2]))
    a = learning_curve(one, [1.0, 2.0], [1, 3, 30], 0.1, 0.5)
    b = learning_curve(five, [1.0, 0.5, 0.5, 0.5, 0.5], [1, 3, 30], 0.1, 0.5)
    np.testing.assert_allclose(a.test_error, b.test_error, rtol=1e-12)
    np.testing.assert_allclose(a.log_evidence, b.log_evidence, rtol=1e-12)


def test_units_of_the_kernel_drop_out() -> None:
    """k -> c k, noise -> c noise leaves the predictor alone and scales kappa by c."""
    eigenvalues = np.array([1.0, 0.3, 0.01])
    a = learning_curve(Spectrum(eigenvalues, trace=1.5), [1, 1, 1], [5, 50], 0.1, 0.2)
    b = learning_curve(Spectrum(7 * eigenvalues, trace=10.5), [1, 1, 1], [5, 50], 0.7, 0.2)
    np.testing.assert_allclose(a.test_error, b.test_error, rtol=1e-12)
    np.testing.assert_allclose(7 * a.kappa, b.kappa, rtol=1e-12)


def test_limits() -> None:
    spec = sphere_spectrum(relu(4), 8)
    target = {1: 0.5, 2: 0.3}
    nothing = learning_curve(spec, target, 10, 1e12)
    assert nothing.test_error[0] == pytest.approx(0.8, rel=1e-9)
    assert nothing.predictive_variance[0] == pytest.approx(spec.trace, rel=1e-9)
    assert nothing.train_error[0] == pytest.approx(0.8, rel=1e-9)
    few = Spectrum(np.array([1.0, 0.3]), np.array([1.0, 5.0]))
    everything = learning_curve(few, [0.5, 0.5], 1e7, 0.1, label_noise=0.1)
    # label noise times parameters over samples
    assert everything.test_error[0] == pytest.approx(0.1 * 6 / 1e7, rel=1e-4)
    assert everything.train_error[0] == pytest.approx(0.1, rel=1e-5)
    # one eigenvalue far above all: learned from a single sample on
    strong = learning_curve(Spectrum(np.array([1e6, 1e-6])), [1.0, 0.0], 5, 0.1)
    assert strong.test_error[0] < 1e-9


def test_parity_zeros_leave_a_plateau() -> None:
    spec = sphere_spectrum(relu(2), 8)
    curve = learning_curve(spec, {1: 0.5, 3: 0.5}, [10, 1e3, 1e5], 10.0)
    assert curve.test_error[-1] == pytest.approx(0.5, rel=0.01)
    np.testing.assert_array_equal(curve.learnability[:, 3], 0)
    assert (curve.test_error > 0.5).all()
    assert "never learns" in curve.flags[-1]


@pytest.mark.parametrize("n", [3.0, 40.0, 900.0])
def test_log_evidence_is_stationary_in_kappa(n: float) -> None:
    spec = sphere_spectrum(relu(4), 8)
    problem = Problem(
        spec.eigenvalues, spec.degeneracies, spec.tail(), np.zeros((61, 1)), 0.3, np.zeros(1)
    )
    size = np.array([n])
    kappa = effective_ridge(problem, size)
    step = 1e-4
    values = [log_determinant(problem, size, kappa * math.exp(i * step))[0] for i in (-1, 0, 1)]
    slope = (values[2] - values[0]) / (2 * step)
    curvature = (values[2] - 2 * values[1] + values[0]) / step**2
    assert abs(slope) < 1e-6 * n
    # of the right sign to be a maximum over kappa, and no plateau that any kappa would satisfy
    assert abs(curvature) > 1e-3 * n


def test_many_scales_at_once() -> None:
    spec = Spectrum(10.0 ** -np.arange(0, 60, 3.0), np.full(20, 5.0))
    curve = learning_curve(spec, np.ones(20), np.array([1.0, 7.0, 50.0, 99.0, 99.999]), 0.0)
    assert (np.diff(curve.kappa) < 0).all()
    assert (curve.kappa > 0).all()
    np.testing.assert_allclose(curve.learnability @ spec.degeneracies, curve.n, rtol=1e-9)


# -- the boundary at noise 0 ---------------------------------------------------------------------
def test_no_noise_and_as_many_samples_as_modes() -> None:
    spec = Spectrum(np.array([1.0, 0.5, 0.1]))
    curve = learning_curve(spec, [1.0, 1.0, 1.0], [2, 3, 10], 0.0)
    assert curve.test_error[0] > 0.1
    np.testing.assert_array_equal(curve.test_error[1:], 0)
    np.testing.assert_array_equal(curve.kappa[1:], 0)
    assert np.isnan(curve.log_evidence[1:]).all()
    assert curve.status == ("ok", "no evidence", "no evidence")
    with pytest.raises(ValueError, match="give noise > 0"):
        learning_curve(spec, [1.0, 1.0, 1.0], 3, 0.0, label_noise=0.1)
    idle = Spectrum(np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="give noise > 0"):
        learning_curve(idle, [1.0, 1.0], 3, 0.0)
    with pytest.raises(ValueError, match="kernel is zero"):
        learning_curve(Spectrum(np.zeros(2)), [1.0, 1.0], 3, 0.0)
    zero = learning_curve(Spectrum(np.zeros(2)), [1.0, 1.0], 4, 1.0)
    assert zero.test_error[0] == 2.0
    assert zero.kappa[0] == 0.25


def test_poisson_sizes_that_reach_the_number_of_modes_without_noise() -> None:
    """Nodes above the rank: negligible ones change nothing, others are told by the size given."""
    spec = Spectrum(np.r_[np.ones(20), 0.1 * np.ones(30)])
    power = np.full(50, 0.02)
    for label_noise in (0.0, 0.1):
        few = learning_curve(spec, power, 10, 0.0, label_noise, size="poisson")
        assert few.status == ("ok",) and np.isfinite(few.log_evidence).all()
        noisy = learning_curve(spec, power, 10, 1e-6, label_noise, size="poisson")
        assert few.test_error[0] == pytest.approx(noisy.test_error[0], rel=1e-4)
        assert few.log_evidence[0] == pytest.approx(noisy.log_evidence[0], rel=1e-4)
    many = learning_curve(spec, power, 40, 0.0, size="poisson")
    assert many.status == ("no evidence",) and "noise > 0" in many.flags[0]
    assert math.isnan(many.log_evidence[0]) and many.test_error[0] > 0.1
    with pytest.raises(ValueError, match="mean 40 may reach the 50 modes"):
        learning_curve(spec, power, 40, 0.0, 0.1, size="poisson")


@pytest.mark.parametrize("noise", [1e-10, 1e-30, 1e-36, 1e-300])
def test_as_many_samples_as_modes_at_a_tiny_noise(noise: float) -> None:
    """kappa^2 (1/1 + 1/0.5) = noise to leading order, 1 - gamma = 3 kappa."""
    kappa = math.sqrt(noise / 3)
    curve = learning_curve(Spectrum(np.array([1.0, 0.5])), [1, 1], 2, noise, label_noise=0.1)
    assert curve.kappa[0] == pytest.approx(kappa, rel=1e-4)
    assert curve.test_error[0] == pytest.approx(0.1 / (3 * kappa), rel=1e-4)
    # at a gap of the spectrum: two modes far above a third, which alone has power
    gap = Spectrum(np.array([1.0, 0.5, 1e-3 * noise]))
    three = learning_curve(gap, [0, 0, 1], 2, noise)
    assert three.test_error[0] == pytest.approx(1 / (3 * kappa), rel=2e-3)


def test_a_spectrum_that_would_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="common factor"):
        Spectrum(np.array([1e200, 1e-200]))


def test_zero_target() -> None:
    spec = Spectrum(np.array([1.0, 0.5]))
    curve = learning_curve(spec, np.zeros(2), [1, 10], 0.1)
    np.testing.assert_array_equal(curve.test_error, 0)
    assert np.isnan(curve.learned_fraction).all()
    assert "the target is zero" in curve.flags[0]
    noisy = learning_curve(spec, np.zeros(2), [1, 10], 0.1, label_noise=0.3)
    assert (noisy.test_error > 0).all()


# -- outputs and targets -------------------------------------------------------------------------
def test_several_outputs_are_several_curves() -> None:
    spec = Spectrum(np.array([1.0, 0.3, 0.01]), np.array([1.0, 3, 20]))
    power = np.array([[1.0, 0.0], [0.5, 0.2], [0.0, 0.4]])
    for order in (
        "self-consistent",
        "equivalence-kernel",
        "subleading",
        ("renormalized", 1),
        ("renormalized-subleading", 1),
    ):
        for size in ("fixed", "poisson"):
            both = learning_curve(spec, power, [5, 20], 0.1, [0.0, 0.3], order, size)
            assert both.test_error.shape == both.log_evidence.shape == (2, 2)
            for i, label_noise in enumerate((0.0, 0.3)):
                one = learning_curve(spec, power[:, i], [5, 20], 0.1, label_noise, order, size)
                for name in ("test_error", "train_error", "bias", "log_evidence", "quadratic"):
                    np.testing.assert_allclose(
                        getattr(both, name)[:, i], getattr(one, name), rtol=1e-12, atol=1e-14
                    )
            np.testing.assert_allclose(both.total("test_error"), both.test_error.sum(1))
    with pytest.raises(ValueError, match="total"):
        both.total("kappa")


def test_ways_to_give_a_target() -> None:
    spec = Spectrum(np.array([1.0, 0.3, 0.01]), target_power=np.array([0.0, 2.0, 1.0]))
    curves = [
        learning_curve(spec, power, [4, 8], 0.1).test_error
        for power in (
            None,
            [0.0, 2.0, 1.0],
            {1: 2.0, 2: 1.0},
            torch.tensor([0.0, 2.0, 1.0]),
            [0.0, 2.0, 1.0, 0.0],
        )
    ]
    for other in curves[1:]:
        np.testing.assert_array_equal(curves[0], other)
    short = learning_curve(spec, [1.0], 4, 0.1)
    np.testing.assert_array_equal(
        short.test_error, learning_curve(spec, {0: 1.0}, 4, 0.1).test_error
    )
    two = learning_curve(spec, {1: [1.0, 2.0]}, 4, 0.1)
    assert two.test_error.shape == (1, 2)


def test_numbers_for_others() -> None:
    spec = sphere_spectrum(relu(4), 8)
    curve = learning_curve(spec, {1: 1.0}, [10, 100], 0.1)
    first = curve.estimates()[0]
    assert float(first) == curve.test_error[0]
    assert 0 <= float(first.stderr) < 1e-10
    assert first.status == "ok"
    assert curve.table()[1]["n"] == 100
    assert curve.table()[1]["test_error"] == curve.test_error[1]


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must"),
        ({"n": -3}, "n must"),
        ({"n": math.nan}, "n must"),
        ({"n": [10, math.inf]}, "n must"),
        ({"n": []}, "n must"),
        ({"n": "many"}, "n must"),
        ({"noise": -0.1}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"label_noise": math.nan}, "label_noise"),
        ({"label_noise": [0.1, 0.2]}, "label_noise"),
        ({"target_power": [0.0, -1.0]}, "target_power"),
        ({"target_power": [0.0, math.nan]}, "target_power"),
        ({"target_power": {5: 1.0}}, "raise max_degree"),
        ({"target_power": [0, 0, 0, 1.0]}, "raise max_degree"),
        ({"target_power": {}}, "empty"),
        ({"target_power": {-1: 1.0}}, "index"),
        ({"target_power": {0.5: 1.0}}, "index"),
        ({"target_power": {0: 1.0, 1: [1.0, 2.0]}}, "outputs"),
        ({"target_power": None}, "target_power is missing"),
        ({"target_power": 3.0}, "target_power"),
        ({"order": "exact"}, "order must"),
        ({"order": ("renormalized", 7)}, "r in order"),
        ({"order": ("self-consistent", 1)}, "order must"),
        ({"order": "subleading", "noise": 0.0}, "order='self-consistent'"),
        ({"order": "equivalence-kernel", "noise": 0.0}, "renormalized"),
        ({"size": "random"}, "size must"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    arguments = {"target_power": [1.0, 0.5], "n": 10, "noise": 0.1} | change
    with pytest.raises(ValueError, match=message):
        learning_curve(Spectrum(np.array([1.0, 0.5, 0.1])), **arguments)
