"""The mean-field solver against systems whose order parameters are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from dmft_systems import (
    Coupled,
    Gated,
    Given,
    LinearPerceptron,
    Network,
    gaussian_perceptron,
    perturbed,
    semicircle,
    solve_network,
)

from thermolearn.core import dmft


# -- exact truth -----------------------------------------------------------------------------------
def test_a_quadratic_loss_closes_on_two_time_functions():
    """Gaussian throughout: C, R and m of ridge regression from matrix recursions, no sampling."""
    steps = 30
    truth = gaussian_perceptron(steps, alpha=2.0, delta=0.5, rate=0.2, decay=0.1, m0=0.1, r0=1.0)
    system = LinearPerceptron(alpha=2.0, delta=0.5, rate=0.2, decay=0.1, m0=0.1, r0=1.0)
    found = dmft.solve(
        system.site,
        system.closure,
        steps,
        300,
        runs=2,
        pivot=1e-7,
        dtype=np.float64,  # dropped: 1e-7 each
    )
    for name in ("m", "C", "R"):
        np.testing.assert_allclose(found.order_parameters[name].value, truth[name], atol=1e-6)
    np.testing.assert_allclose(found.G.value[0], truth["G"], atol=1e-7)
    assert found.flags == ()
    coarse = dmft.solve(system.site, system.closure, steps, 300, runs=2)
    for name in ("m", "C", "R"):
        np.testing.assert_allclose(coarse.order_parameters[name].value, truth[name], atol=3e-4)


@pytest.mark.parametrize("leak", [0.0, 0.7, 1.0])
def test_a_linear_filter_of_a_colored_field(leak):
    """h = leak h + field: C_h = A C A^T and G = A with A(t, s) = leak^(t - s)."""
    steps = 25
    time = np.arange(steps)
    color = 1.3 * 0.8 ** np.abs(time[:, None] - time) * np.cos(time[:, None] / 9 - time / 9)
    given = Given(color[None, None], leak)
    found = dmft.solve(given.site, given.closure, steps, 200, runs=1, pivot=1e-6, dtype="float64")
    filtered = np.where(time[:, None] >= time, leak ** np.maximum(time[:, None] - time, 0.0), 0.0)
    np.testing.assert_allclose(found.G.value[0], filtered, atol=1e-12)
    np.testing.assert_allclose(found.M.value[0, 0], filtered @ color @ filtered.T, atol=1e-9)
    np.testing.assert_allclose(found.covariance.value[0, 0], color, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.0, 0.4])
def test_symmetric_linear_couplings_have_the_semicircle_law(temperature):
    """x' = -x + J x + noise, J symmetric: C and the response are integrals over eigenvalues.

    Leak, field, memory and response at work together.
    """
    steps, dt, g = 40, 0.1, 0.4
    found = solve_network(
        steps, 400, dt, g, symmetry=1.0, phi="linear", temperature=temperature, pivot=1e-5
    )
    C, R = semicircle(steps, dt, g, temperature)
    np.testing.assert_allclose(found.G.value[0], R, atol=1e-9)
    np.testing.assert_allclose(found.M.value[0, 0], C, atol=2e-7)


@pytest.mark.parametrize(("symmetry", "g"), [(0.5, 2.0), (-0.7, 3.0)])
def test_partially_symmetric_networks_agree_with_coupled_units(symmetry, g):
    steps, dt, networks = 40, 0.2, 6
    found = solve_network(steps, 3000, dt, g, symmetry, "tanh", runs=4, dtype=np.float32)
    at = [5, 15, 39]
    theory = found.per_run["M"][:, 0, 0][:, at][:, :, at]
    samples = np.stack(
        [Coupled(1000, symmetry, g, dt, s).correlations(steps, at) for s in range(networks)]
    )
    error = np.hypot(samples.std(0, ddof=1) / networks**0.5, theory.std(0, ddof=1) / 2)
    z = (theory.mean(0) - samples.mean(0)) / error
    # 6 networks and 4 runs: Student's t at the probability of 4 sigma
    assert np.abs(z).max() < 7, z
    wrong = solve_network(steps, 3000, dt, g, 0.0, "tanh", runs=4).M.value[0, 0][at][:, at]
    assert np.abs((wrong - samples.mean(0)) / error).max() > 15


# -- the response ----------------------------------------------------------------------------------
@pytest.mark.parametrize("s", [0, 3, 7])
def test_the_response_is_the_derivative_with_the_same_random_numbers(s):
    steps, eps = 12, 1e-4
    network = Network(0.3, 2.0, -0.5, "tanh")
    found = dmft.solve(network.site, network.closure, steps, 300, runs=1, dtype="float64")
    up, down = (perturbed(network, found, steps, 300, s, x) for x in (eps, -eps))
    np.testing.assert_allclose((up - down) / (2 * eps), found.G.value[0, :, s], atol=2e-8)


def test_single_precision_is_enough():
    one, two = (
        solve_network(60, 800, 0.2, 2.0, 0.8, "tanh", runs=1, dtype=dtype)
        for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(one.G.value, two.G.value, atol=2e-6)
    np.testing.assert_allclose(one.M.value, two.M.value, atol=2e-6)


# -- several fields --------------------------------------------------------------------------------
def test_fields_of_different_covariances_have_exactly_these():
    """Two correlated fields, three signals (one nonlinear), and rows that they must not see."""
    steps, rng = 6, np.random.default_rng(3)
    root = rng.standard_normal((2 * steps, 2 * steps))
    whole = (root @ root.T).reshape(steps, 2, steps, 2).transpose(1, 3, 0, 2)
    given = Given(whole, 0.0, matched=np.repeat([[1.0, -1.0, 0.0]], 40, 0).ravel()[None])
    found = dmft.solve(given.site, given.closure, steps, 120, fields=2, runs=2, pivot=1e-8)
    np.testing.assert_allclose(found.M.value[:2, :2], whole, atol=1e-10)
    assert found.M.value.shape == (3, 3, steps, steps)
    assert found.observables["seen"].value == pytest.approx(np.zeros(steps), abs=1e-12)
    assert found.observables["mean"].value == pytest.approx(np.zeros(steps), abs=1e-12)
    np.testing.assert_allclose(found.M.value, found.M.value.transpose(1, 0, 3, 2), atol=0)


def test_the_mean_of_a_field_is_along_the_matched_rows():
    given = Given(np.eye(4)[None, None], 0.0, matched=np.tile([1.0, -1.0], 20)[None], mean=0.5)
    found = dmft.solve(given.site, given.closure, 4, 40, runs=1)
    assert found.observables["seen"].value == pytest.approx([0.5] * 4)
    assert found.observables["mean"].value == pytest.approx([0.0] * 4, abs=1e-12)


@pytest.mark.parametrize(
    ("a_z", "steps", "expected", "errors"),
    [
        # h and r are Gaussian there: the two-time equations solved without sampling (Mehler series)
        (0.0, (20, 50, 100), (0.20993, 0.13341, 0.14875), (0.0, 0.0, 0.0)),
        # twelve networks of 400 units
        (5.0, (19, 49, 99), (0.3691, 0.2621, 0.2193), (0.006, 0.008, 0.010)),
    ],
)
def test_a_gated_network_has_three_fields(a_z, steps, expected, errors):
    """<h^2> at some steps, from N(0, 1)."""
    gated = Gated(6.0, a_z, 1.0)
    found = dmft.solve(gated.site, gated.closure, 101, 2500, fields=3, runs=8)
    variance = found.observables["variance"]
    z = np.asarray(variance.value)[list(steps)] - expected
    z /= np.hypot(variance.stderr[list(steps)], errors)
    assert np.abs(z).max() < 4.5, z  # 8 runs
    assert (variance.stderr < 0.02 * variance.value).all()
    assert found.M.value.shape == (2, 2, 101, 101) and found.flags == ()


@pytest.mark.parametrize("apart", [0.0, 1e-13, 1e-5])
def test_nearly_equal_replicas_do_not_blow_up(apart):
    """A singular covariance: the second field follows the first, within the threshold."""
    steps = 40
    time = np.arange(steps)
    smooth = np.exp(-(((time[:, None] - time) / 30) ** 2))
    noise = np.random.default_rng(0).standard_normal((steps, steps)) * 1e-9
    whole = np.stack([[smooth, (1 - apart) * smooth], [(1 - apart) * smooth, smooth]])
    whole = whole + noise + noise.T  # as rounding and Monte Carlo would leave it
    given = Given(whole, 0.0)
    found = dmft.solve(given.site, given.closure, steps, 400, fields=2, runs=1)
    M = found.M.value[:2, :2]
    assert found.dropped >= steps
    np.testing.assert_allclose(M, whole, atol=2e-2)
    np.testing.assert_allclose(np.einsum("aatt->at", M), 1.0, atol=2e-4)
    assert found.flags == ()
