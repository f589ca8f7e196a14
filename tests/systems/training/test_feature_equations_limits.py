"""Equations of state against other ways to the same numbers: limits, symmetries, sampling."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import erf

from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.fully_connected import NNGP
from thermolearn.systems.training.feature_learning.free_energy import make_problem
from thermolearn.systems.training.feature_learning.gaussian_process import KernelRegression
from thermolearn.systems.training.feature_learning.linear import linear_network_exact
from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN


def data(n: int = 20, d: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, erf(1.5 * X[:, 0]), rng.normal(size=(30, d))


def solve(net, X, y, noise, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return net.equations_of_state(X, y, noise).solve(**options)


def relative(f: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(f - exact) / np.linalg.norm(exact))


# -- closed forms ------------------------------------------------------------------------------
def test_orthogonal_inputs_of_a_linear_network_decouple() -> None:
    # X^T X = lam, y along the first input: one scalar equation for every direction
    n, d, C, s_a, noise = 12, 3, 10, 0.2, 0.1
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(n, d)))[0]
    lam, size = np.array([9.0, 4.0, 2.5]), 2.0
    X, y = U * np.sqrt(lam), size * U[:, 0]
    solution = solve(BayesianFCN([C], d, 1.2, s_a, "linear"), X, y, noise)

    def equation(S: float, i: int) -> float:
        total = s_a * lam[i] * S + noise
        signal = (size / total) ** 2 if i == 0 else 0.0
        return 1 / S - d / 1.2 + s_a * lam[i] / C * (signal - 1 / total)

    scalars = [brentq(equation, 1e-6, 100.0, args=(i,), xtol=1e-14) for i in range(d)]  # type: ignore[misc]
    assert np.allclose(
        solution.input_covariance, np.diag(np.array(scalars, dtype=float)), atol=1e-8
    )


@pytest.mark.parametrize(("activation", "depth"), [("erf", 1), ("erf", 2), ("erf", 3)])
def test_the_gaussian_process_is_that_of_the_nngp_kernel(activation, depth) -> None:
    X, y, Xs = data()
    net = BayesianFCN([10] * depth, 4, 1.7, 0.4, activation)
    kernel = NNGP(depth + 1, activation, 1.7, 0.0)
    scale = 0.4 / 1.7
    K, Ks = (scale * kernel.gram(x, X).numpy() for x in (X, Xs))
    gp, t = net.gp(X, y, 0.1), np.linalg.solve(K + 0.1 * np.eye(20), y)
    assert np.allclose(gp.predict(Xs), Ks @ t, atol=1e-10)
    spread = scale * kernel.diagonal(Xs).numpy()
    spread -= (Ks * np.linalg.solve(K + 0.1 * np.eye(20), Ks.T).T).sum(1)
    assert np.allclose(gp.predictive_variance(Xs), spread, atol=1e-10)
    evidence = -(y @ t + np.linalg.slogdet(K + 0.1 * np.eye(20))[1] + 20 * np.log(2 * np.pi)) / 2
    assert gp.log_evidence == pytest.approx(evidence, abs=1e-9)
    wide = solve(BayesianFCN([10**8] * depth, 4, 1.7, 0.4, activation), X, y, 0.1, init="prior")
    assert np.allclose(wide.predict(Xs), gp.predict(Xs), atol=1e-5)


# -- limits ------------------------------------------------------------------------------------
def test_one_patch_is_the_fully_connected_network() -> None:
    X, y, Xs = data()
    a = solve(BayesianCNN(9, 1, 4, 1.3, 0.2), X[:, None], y, 0.1)
    b = solve(BayesianFCN([9], 4, 1.3, 0.2), X, y, 0.1)
    assert a.free_energy == pytest.approx(b.free_energy, abs=1e-10)
    assert np.allclose(a.predict(Xs[:, None]), b.predict(Xs), atol=1e-10)


def test_equal_patches_are_one_patch() -> None:
    X, y, Xs = data()
    a = solve(BayesianCNN(9, 3, 4, 1.3, 0.2), np.stack([X] * 3, axis=1), y, 0.1)
    b = solve(BayesianFCN([9], 4, 1.3, 0.2), X, y, 0.1)
    assert np.allclose(a.input_covariance, b.input_covariance, atol=1e-9)
    assert np.allclose(a.predict(np.stack([Xs] * 3, axis=1)), b.predict(Xs), atol=1e-9)


def test_an_infinite_first_layer_leaves_two_layers_on_its_kernel() -> None:
    X, y, _ = data(12)
    deep = solve(BayesianFCN([10**9, 15], 4, 2.0, 0.1), X, y, 0.05)
    gram = 2.0 * erf_kernel(2.0 / 4 * X @ X.T)
    rows = np.linalg.cholesky(gram)  # inputs whose pre-activations have this covariance
    flat = solve(BayesianFCN([15], 12, 12.0, 0.1), rows, y, 0.05)
    assert np.allclose(deep.relative_input_covariance, np.eye(4), atol=1e-6)
    assert deep.free_energy == pytest.approx(flat.free_energy, abs=1e-6)
    assert np.allclose(deep.kernels[0], rows @ flat.input_covariance @ rows.T, atol=1e-6)


def erf_kernel(G: np.ndarray) -> np.ndarray:
    q = 1 + 2 * G.diagonal()
    return 2 / np.pi * np.arcsin(2 * G / np.sqrt(np.outer(q, q)))


@pytest.mark.slow
def test_a_wide_second_layer_of_a_linear_network_rescales_the_readout() -> None:
    X, y, Xs = data()
    flat = solve(BayesianFCN([7], 4, 1.5, 0.3, "linear"), X, y, 0.1)
    miss = []
    for wide in (500, 1000):
        deep = solve(BayesianFCN([7, wide], 4, 1.5, 0.2, "linear"), X, y, 0.1)
        miss.append(
            [
                np.linalg.norm(deep.predict(Xs) - flat.predict(Xs)),
                np.linalg.norm(deep.input_covariance - flat.input_covariance),
            ]
        )
    assert np.allclose(np.divide(miss[0], miss[1]), 2, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [[200], [200, 200]])
def test_free_energy_approaches_minus_log_evidence_like_one_over_width(widths) -> None:
    X, y, _ = data()
    misses = []
    for factor in (1, 2, 4, 8):
        sizes = [factor * width for width in widths]
        solution = solve(BayesianFCN(sizes, 4, 1.0, 1.0, "linear"), X, y, 0.1, init="prior")
        exact = linear_network_exact(X, y, sizes, 0.1)
        misses.append(float(exact.log_evidence) + solution.free_energy + 10 * np.log(2 * np.pi))
    assert abs(misses[-1]) < 0.05
    for wide, wider in pairwise(misses[1:]):
        assert wide / wider == pytest.approx(2, rel=0.1)


# -- symmetries --------------------------------------------------------------------------------
@pytest.mark.parametrize("widths", [[9], pytest.param([9, 11], marks=pytest.mark.slow)])
@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_symmetries(widths, activation) -> None:
    X, y, Xs = data(14)
    net = BayesianFCN(widths, 4, 1.5, 0.2, activation)
    plain = solve(net, X, y, 0.1, init="prior")
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    turned = solve(net, X @ turn, y, 0.1, init="prior")
    assert turned.free_energy == pytest.approx(plain.free_energy, abs=1e-8)
    assert np.allclose(turned.predict(Xs @ turn), plain.predict(Xs), atol=1e-7)
    assert np.allclose(turn @ turned.input_covariance @ turn.T, plain.input_covariance, atol=1e-7)
    order = rng.permutation(14)
    assert np.allclose(
        solve(net, X[order], y[order], 0.1, init="prior").predict(Xs), plain.predict(Xs), atol=1e-7
    )
    scaled = solve(replace(net, sigma_a2=4 * 0.2), X, 2 * y, 4 * 0.1, init="prior")
    assert scaled.free_energy - 14 * np.log(2) == pytest.approx(plain.free_energy, abs=1e-8)
    assert np.allclose(scaled.predict(Xs), 2 * plain.predict(Xs), atol=1e-7)


@pytest.mark.parametrize(
    "net",
    [
        BayesianFCN([9], 40, 2.0, 0.2),
        BayesianFCN([9, 11], 40, 2.0, 0.2),
        BayesianFCN([9, 11], 40, 2.0, 0.2, "linear"),
        BayesianCNN(9, 2, 40, 2.0, 0.2),
    ],
)
def test_more_inputs_than_samples_are_rotated_to_their_span(net) -> None:
    rng = np.random.default_rng(0)
    X, Xs = (rng.normal(size=(n, *net.input_shape)) for n in (6, 5))
    y = rng.normal(size=6)
    solution = solve(net, X, y, 0.1)
    problem = make_problem(net, X, y, 0.1)
    assert problem.basis is not None and problem.X.shape[2] == X.shape[0] * X.shape[1]
    # the same without the rotation: full covariances at the solution
    full = replace(problem, X=X, basis=None)
    first = solution.input_covariance
    if net.layers == (9, 11) and problem.averages.linear:
        rest = 2.0 * problem.prior * (np.eye(40) - problem.basis @ problem.basis.T)
        full = replace(full, points=np.eye(40))
        state = [first, problem.basis @ solution.covariances[1] @ problem.basis.T + rest]
    else:
        full = replace(full, points=None if problem.points is None else X[:, 0])
        state = [first, *solution.covariances[1:]]
    direct = KernelRegression(full, state)
    assert np.allclose(direct.predict(Xs), solution.predict_checked(Xs), atol=1e-9)
    found = solution._regression.variance(Xs)
    assert np.allclose(direct.variance(Xs), found, atol=1e-9)
    again = solve(net, X, y, 0.1, init=[first, *solution.covariances[1:]])
    assert again.free_energy == pytest.approx(solution.free_energy, abs=1e-9)


# -- where it is worse than the plain Gaussian process -------------------------------------------
def test_linear_networks_in_standard_scaling_are_said_to_be_worse_than_the_gp() -> None:
    # reference: relative error to the exact network 0.0784 against 0.0028
    rng = np.random.default_rng(2)
    X, Xs = rng.normal(size=(100, 60)), rng.normal(size=(500, 60))
    y = X[:, 0] + 0.3 * rng.normal(size=100)
    solution = solve(BayesianFCN([50], 60, 1.0, 1.0, "linear"), X, y, 0.2, init="prior")
    exact = linear_network_exact(X, y, [50], 0.2)
    assert relative(solution.predict(Xs), exact.predict(Xs)) == pytest.approx(0.0784, abs=1e-3)
    assert relative(solution.gp.predict(Xs), exact.predict(Xs)) == pytest.approx(0.0028, abs=1e-3)
    assert relative(exact.predict_scalar(Xs), exact.predict(Xs)) == pytest.approx(0.0013, abs=1e-3)
    assert solution.relative_input_covariance[0, 0] == pytest.approx(1.6209, abs=1e-3)
    assert exact.input_covariance[0, 0] * 60 == pytest.approx(1.9197, abs=1e-3)
    assert any("worse than the plain Gaussian process" in flag for flag in solution.flags)
    mean_field = solve(BayesianFCN([50], 60, 1.0, 0.02, "linear"), X, y, 0.2, init="prior")
    assert not any("worse than" in flag for flag in mean_field.flags)


def test_self_check_agrees_with_the_exact_linear_network() -> None:
    X, y, Xs = data(20)
    for C, sigma_a2, verdict in ((40, 1.0, "worse"), (40, 0.05, "better")):
        solution = solve(BayesianFCN([C], 4, 1.0, sigma_a2, "linear"), X, y, 0.2)
        check = solution.self_check(Xs, draws=2000)
        exact = linear_network_exact(X, y, [C], 0.2, 1.0, sigma_a2).predict(Xs)
        pull = (check.predictor.value - exact) / check.predictor.stderr
        assert np.sqrt(np.mean(pull**2)) < 2.5 and np.abs(pull).max() < 5
        assert check.verdict == f"{verdict} than the GP" and check.n_eff > 300
        for found, f in (
            (check.error, solution.predict(Xs)),
            (check.gp_error, solution.gp.predict(Xs)),
        ):
            assert abs(found.value - relative(f, exact)) < 4 * found.stderr


@pytest.mark.slow
def test_self_check_of_the_erf_network_in_standard_scaling() -> None:
    # the sampler has 0.029 against 0.054 at fresh inputs
    rng = np.random.default_rng(1)
    X, Xs = rng.normal(size=(40, 8)), rng.normal(size=(200, 8))
    solution = solve(BayesianFCN([20], 8), X, erf(X[:, 0]), 0.05)
    check = solution.self_check(Xs, draws=2000)
    assert abs(check.error.value - 0.029) < 4 * check.error.stderr
    assert abs(check.gp_error.value - 0.054) < 4 * check.gp_error.stderr
    assert check.verdict == "better than the GP" and "effective samples" in str(check)


def test_self_check_says_when_it_cannot_tell() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 8))
    solution = solve(BayesianFCN([20], 8, 1.0, 0.01), X, erf(X[:, 0]), 0.02)
    check = solution.self_check(draws=400)
    assert check.verdict == "cannot tell" and check.error.status == "under-sampled"
    assert str(check).startswith("cannot tell")
    with pytest.raises(ValueError, match="draws"):
        solution.self_check(draws=10)
    deep = solve(BayesianFCN([5, 5], 8, 1.0, 0.05), X[:10], erf(X[:10, 0]), 0.1)
    with pytest.raises(NotApplicableError, match="one hidden layer"):
        deep.self_check()
