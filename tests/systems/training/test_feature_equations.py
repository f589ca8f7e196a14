"""Equations of state: the reference rows, residuals, gradients, more than one start."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import root
from scipy.special import erf

from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.systems.training.feature_learning.equations import EquationsOfState
from thermolearn.systems.training.feature_learning.free_energy import (
    free_energy,
    make_problem,
    output_force,
    residuals,
)
from thermolearn.systems.training.feature_learning.linear import linear_network_exact
from thermolearn.systems.training.feature_learning.minimize import Coordinates
from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN


def inputs(n: int, patches: int, size: int, seed: int = 1):
    rng = np.random.default_rng(seed)
    X, Xs = rng.normal(size=(n, patches, size)), rng.normal(size=(200, patches, size))
    return X, Xs, rng


def two_layers():
    X, Xs, _ = inputs(40, 1, 8)
    return X[:, 0], erf(X[:, 0, 0]), Xs[:, 0], erf(Xs[:, 0, 0])


def three_layers():
    X, Xs, _ = inputs(30, 1, 8)
    target = [erf(2 * erf(x[:, 0, 0])) for x in (X, Xs)]
    return X[:, 0], target[0], Xs[:, 0], target[1]


def solve(net, X, y, noise, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return net.equations_of_state(X, y, noise).solve(**options)


def others(solution) -> float:
    R = solution.relative_input_covariance
    return float((np.trace(R) - R[0, 0]) / (len(R) - 1))


def error(f: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((f - y) ** 2) / y.var())


# -- reference rows ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("C", "sigma_a2", "noise", "first", "rest", "gp", "mse"),
    [
        (20, 0.05, 0.02, 3.159, 0.818, 0.139, 0.061),
        (20, 1.0, 0.05, 1.303, 0.893, 0.086, 0.070),
        (20, 1.0, 0.02, 1.370, None, 0.079, 0.059),
        (20, 0.2, 0.02, 2.088, None, 0.094, 0.057),
        (20, 0.01, 0.02, 5.038, None, 0.362, 0.115),
        (80, 1.0, 0.02, 1.111, None, 0.079, 0.073),
        (80, 0.2, 0.02, 1.372, None, 0.094, 0.078),
        (80, 0.05, 0.02, 1.819, None, 0.139, 0.095),
        (80, 0.01, 0.02, 2.517, None, 0.362, 0.197),
    ],
)
def test_two_layer_rows(C, sigma_a2, noise, first, rest, gp, mse) -> None:
    X, y, Xs, ys = two_layers()
    net = BayesianFCN([C], 8, 1.0, sigma_a2)
    solution = solve(net, X, y, noise, init="prior")
    assert solution.relative_input_covariance[0, 0] == pytest.approx(first, abs=0.002)
    assert rest is None or others(solution) == pytest.approx(rest, abs=0.001)
    assert error(solution.gp.predict(Xs), ys) == pytest.approx(gp, abs=0.001)
    assert error(solution.predict(Xs), ys) == pytest.approx(mse, abs=0.001)
    assert solution.residual < 4e-8


def test_convolutional_row() -> None:
    X, Xs, rng = inputs(40, 4, 6)
    b = rng.normal(size=4) / 2
    y, ys = (erf(x[:, :, 0]) @ b for x in (X, Xs))
    solution = solve(BayesianCNN(20, 4, 6, 1.0, 0.1), X, y, 0.02)
    assert solution.relative_input_covariance[0, 0] == pytest.approx(2.577, abs=0.002)
    assert others(solution) == pytest.approx(0.774, abs=0.001)
    assert error(solution.gp.predict(Xs), ys) == pytest.approx(0.215, abs=0.001)
    assert error(solution.predict(Xs), ys) == pytest.approx(0.084, abs=0.001)
    alpha = solution.predict(Xs) @ ys / (ys @ ys)
    assert alpha == pytest.approx(0.785, abs=0.001)


@pytest.mark.parametrize(
    ("sigma_a2", "noise", "energy", "aligned", "first", "mse"),
    [(0.1, 0.02, -10.0249, 19.396, 2.419, 0.086), (1.0, 0.05, -13.2676, 7.51, 1.405, 0.139)],
)
def test_three_layer_rows(sigma_a2, noise, energy, aligned, first, mse) -> None:
    X, y, Xs, ys = three_layers()
    solution = solve(BayesianFCN([20, 20], 8, 2.0, sigma_a2), X, y, noise, init="prior")
    assert solution.free_energy == pytest.approx(energy, abs=1e-3)
    (K,) = solution.kernels
    assert y @ K @ y / (y @ y) == pytest.approx(aligned, abs=0.02)
    assert solution.relative_input_covariance[0, 0] == pytest.approx(first, abs=0.002)
    assert error(solution.predict(Xs), ys) == pytest.approx(mse, abs=0.001)
    assert solution.residual < 1e-8
    prior = solution.problem.at_prior()[1]
    if sigma_a2 == 0.1:
        assert y @ prior @ y / (y @ y) == pytest.approx(4.440, abs=0.001)


def test_linear_row_against_the_exact_network() -> None:
    rng = np.random.default_rng(1)
    X, Xs = rng.normal(size=(30, 8)), rng.normal(size=(500, 8))
    y = X[:, 0]
    solution = solve(BayesianFCN([20], 8, 1.0, 0.05, "linear"), X, y, 0.02)
    assert solution.relative_input_covariance[0, 0] == pytest.approx(3.1946, abs=1e-3)
    exact = linear_network_exact(X, y, [20], 0.02, 1.0, 0.05).predict(Xs)
    relative = np.linalg.norm(solution.predict(Xs) - exact) / np.linalg.norm(exact)
    assert relative == pytest.approx(0.0046, abs=0.0005)
    assert solution.residual < 1e-6


# -- limits ------------------------------------------------------------------------------------
def test_the_gaussian_process_at_infinite_width() -> None:
    X, y, _, _ = two_layers()
    shift = {}
    for C, known in ((100, 0.09571), (200, 0.04881), (400, 0.02466), (800, 0.01240)):
        solution = solve(BayesianFCN([C], 8), X, y, 0.05, init="prior")
        shift[C] = np.linalg.norm(solution.relative_input_covariance - np.eye(8))
        assert shift[C] == pytest.approx(known, abs=1e-5)
    assert shift[200] / shift[400] == pytest.approx(2, rel=0.1)


# -- equations, gradient, sign -----------------------------------------------------------------
def random_covariances(problem, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    at = Coordinates(problem)
    u = at.prior()
    return [L @ L.T for L in at.factors(u + rng.normal(size=len(u)))]


@pytest.mark.parametrize("activation", ["erf", "relu", "linear"])
def test_free_energy_differences_against_the_explicit_equation(activation) -> None:
    # dF/dSigma = -(C/2)[Sigma^{-1} - Sigma_0^{-1} + (1/C) d Tr[(t t^T - Q~^{-1}) Q]]
    X, y, _, _ = two_layers()
    net = BayesianFCN([20], 8, 1.0, 0.05, activation)
    problem = make_problem(net, net.inputs(X), y, 0.02)
    (S,) = random_covariances(problem)
    explicit = (
        np.linalg.inv(S) - np.eye(8) / problem.prior + output_force(problem, S) / 20
    ) * -10.0

    def value(S: np.ndarray) -> float:
        return free_energy(problem, [np.linalg.cholesky(S)])[0]

    h = 1e-5
    for i in range(8):
        for j in range(i + 1):
            step = np.zeros((8, 8))
            step[i, j] += h / 2
            step[j, i] += h / 2
            found = (value(S + step) - value(S - step)) / (2 * h)
            assert found == pytest.approx(explicit[i, j], abs=1e-5 * np.abs(explicit).max())


@pytest.mark.parametrize(
    "net",
    [
        BayesianFCN([20, 15], 3, 2.0, 0.1),
        BayesianFCN([5, 7, 9], 3, 2.0, 0.1, "relu"),
        BayesianFCN([5, 7], 3, 2.0, 0.1, "linear"),
        BayesianCNN(6, 2, 3, 1.0, 0.3, "erf"),
    ],
)
def test_gradient_against_differences(net) -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(6, *net.input_shape))
    at = Coordinates(make_problem(net, X, rng.normal(size=6), 0.1))
    u = 0.5 * rng.normal(size=len(at.prior()))
    _, gradient = at.value_and_gradient(u)
    for k in range(len(u)):
        step = 1e-5 * np.eye(len(u))[k]
        change = at.value_and_gradient(u + step)[0] - at.value_and_gradient(u - step)[0]
        assert gradient[k] == pytest.approx(change / 2e-5, abs=1e-7 * np.abs(gradient).max())


def test_the_term_of_the_noise_enters_with_a_minus() -> None:
    # with a plus the untaught directions would end at 0.872, the sampler has 0.824
    X, y, _, _ = two_layers()
    x, Y = torch.from_numpy(X), torch.from_numpy(y)

    def taught(sign: float) -> np.ndarray:
        rows = np.tril_indices(8)

        def equation(u: np.ndarray) -> np.ndarray:
            S = np.zeros((8, 8))
            S[rows] = u
            S = torch.tensor((S + np.tril(S, -1).T) / 8, requires_grad=True)
            G = x @ S @ x.T
            root_q = (1 + 2 * G.diagonal()).sqrt()
            Q = 0.05 * 2 / math.pi * torch.asin(2 * G / torch.outer(root_q, root_q))
            inverse = torch.linalg.inv(Q + 0.02 * torch.eye(40, dtype=torch.double)).detach()
            t = inverse @ Y
            ((torch.outer(t, t) + sign * inverse) * Q).sum().backward()
            force = S.grad
            assert force is not None
            right = 8 * torch.eye(8, dtype=torch.double) - (force + force.T) / 40
            return (S.detach() @ right - torch.eye(8, dtype=torch.double)).numpy()[rows]

        start = solve(BayesianFCN([20], 8, 1.0, 0.05), X, y, 0.02).relative_input_covariance
        found = root(equation, start[rows], tol=1e-10)
        assert found.success
        S = np.zeros((8, 8))
        S[rows] = found.x
        return S.diagonal()

    assert taught(-1.0)[1:].mean() == pytest.approx(0.818, abs=0.001)
    assert taught(1.0)[1:].mean() == pytest.approx(0.872, abs=0.001)


# -- starts ------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma_a2", "energy", "first"),
    [(0.05, -24.538987, 3.1594), (0.01, 46.578393, 5.0378), (0.003, 151.61382, 6.1355)],
)
def test_six_random_starts_reach_one_minimum(sigma_a2, energy, first) -> None:
    X, y, _, _ = two_layers()
    equations = BayesianFCN([20], 8, 1.0, sigma_a2).equations_of_state(X, y, 0.02)
    rng = np.random.default_rng(0)
    for _ in range(6):
        B = rng.normal(size=(8, 8))
        solution = equations.solve(init=[(B @ B.T + 0.1 * np.eye(8)) / 8])
        assert solution.free_energy == pytest.approx(energy, abs=1e-5)
        assert solution.relative_input_covariance[0, 0] == pytest.approx(first, abs=1e-4)


def test_both_starts_are_reported() -> None:
    X, y, _, _ = two_layers()
    equations = BayesianFCN([20], 8, 1.0, 0.05).equations_of_state(X, y, 0.02)
    both = equations.solve()
    assert set(both.energies) == {"prior", "continuation"}
    assert both.free_energy == min(both.energies.values())
    assert not both.flags
    again = equations.solve(init=both)
    assert again.energies["given"] == pytest.approx(both.free_energy, abs=1e-10)
    assert equations.solve(init="continuation").free_energy == pytest.approx(both.free_energy)


def test_a_discontinuous_onset_is_found_and_flagged() -> None:
    # the phase of sin(4 x_1) is out of the prior's reach: from infinite width learning never starts
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = np.sin(4 * X[:, 0])
    solution = solve(BayesianFCN([20], 4, 1.0, 0.02, torch.sin), X, y, 0.05)
    assert solution.energies["prior"] > solution.energies["continuation"] + 1
    assert solution.free_energy == solution.energies["continuation"]
    assert any("more than one minimum" in flag for flag in solution.flags)
    assert solution.relative_input_covariance[0, 0] > 5


# -- what it says about itself -----------------------------------------------------------------
def test_standard_scaling_warns() -> None:
    X, y, _, _ = two_layers()
    with pytest.warns(UserWarning, match="saddle point not controlled"):
        solution = BayesianFCN([20], 8, 1.0, 1.0).equations_of_state(X, y, 0.05).solve()
    assert any("compare with the sampler" in flag for flag in solution.flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BayesianFCN([20], 8, 1.0, 0.05).equations_of_state(X, y, 0.02).solve()
        BayesianFCN([80], 8, 1.0, 1.0).equations_of_state(X, y, 0.02).solve()


def test_the_predictive_variance_carries_its_caveat() -> None:
    X, y, Xs, _ = two_layers()
    solution = solve(BayesianFCN([20], 8, 1.0, 0.05), X, y, 0.02)
    variance = solution.predictive_variance(Xs)
    assert variance.status == "leading order" and "kernel" in variance.note
    assert np.isnan(variance.stderr)
    assert np.mean(variance.value) == pytest.approx(0.0061, abs=1e-4)
    assert solution.gp.predictive_variance(Xs).mean() == pytest.approx(0.0061, abs=1e-4)


def test_feature_shift_tells_the_regimes_apart() -> None:
    X, y, _, _ = two_layers()
    shift = {
        (C, s): solve(BayesianFCN([C], 8, 1.0, s), X, y, 0.02, init="prior").feature_shift
        for C, s in ((20, 0.05), (2000, 1.0), (4000, 1.0))
    }
    assert shift[20, 0.05] > 1 > 100 * shift[2000, 1.0]
    assert shift[2000, 1.0] / shift[4000, 1.0] == pytest.approx(2, rel=1e-6)


# -- bad input ---------------------------------------------------------------------------------
def test_duplicates_in_a_deep_network_name_the_jitter() -> None:
    X, y, Xs, _ = three_layers()
    X = np.vstack([X[:10], X[:1]])
    y = np.append(y[:10], y[0])
    net = BayesianFCN([20, 20], 8, 2.0, 0.1)
    with pytest.raises(np.linalg.LinAlgError, match=r"duplicate.*jitter"):
        net.equations_of_state(X, y, 0.02).solve()
    loose = net.equations_of_state(X, y, 0.02, jitter=1e-8).solve(tol=1e-5)
    merged = solve(net, X[:10], y[:10], np.append(np.full(9, 0.02), 0.01)[0])
    assert np.isfinite(loose.predict(Xs)).all()
    assert loose.kernels[0].shape == (11, 11) and merged.kernels[0].shape == (10, 10)
    assert np.isfinite(net.gp(X, y, 0.02).predict(Xs)).all()  # no hidden kernel is inverted
    with pytest.raises(ValueError, match="jitter"):
        net.equations_of_state(X, y, 0.02, jitter=-1.0)


def test_not_converged_is_an_error_with_the_residual() -> None:
    X, y, _, _ = three_layers()
    equations = BayesianFCN([20, 20], 8, 2.0, 0.1).equations_of_state(X[:12], y[:12], 0.02)
    with pytest.raises(ConvergenceError, match=r"met to \d.*max_steps"):
        equations.solve(tol=1e-15, max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "random"}, "init must be one of"),
        ({"init": [np.eye(7)]}, "init must hold covariances"),
        ({"init": [np.eye(8), np.eye(8)]}, "init must hold covariances"),
        ({"init": [-np.eye(8)]}, r"init\[0\] is not a positive definite"),
        ({"init": [np.full((8, 8), np.nan)]}, r"init\[0\] is not a positive definite"),
        ({"tol": 0.0}, "tol"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_bad_options(options, message) -> None:
    X, y, _, _ = two_layers()
    equations = BayesianFCN([20], 8, 1.0, 0.05).equations_of_state(X, y, 0.02)
    assert isinstance(equations, EquationsOfState)
    with pytest.raises(ValueError, match=message):
        equations.solve(**options)


def test_an_activation_without_averages_is_refused() -> None:
    X, y, Xs, _ = two_layers()
    with pytest.raises(NotApplicableError, match="use linear, erf, relu"):
        BayesianFCN([20], 8, activation="hardtanh").equations_of_state(X, y, 0.02)
    with pytest.raises(ValueError, match="Xs must have shape"):
        solve(BayesianFCN([20], 8, 1.0, 0.05), X, y, 0.02).predict(Xs[:, :5])


def test_residuals_are_not_zero_elsewhere() -> None:
    X, y, _, _ = three_layers()
    net = BayesianFCN([20, 20], 8, 2.0, 0.1)
    problem = make_problem(net, net.inputs(X), y, 0.02)
    solution = solve(net, X, y, 0.02, init="prior")
    moved = [1.01 * K for K in solution.covariances]
    assert min(residuals(problem, moved)) > 1e-3
    assert max(residuals(problem, problem.at_prior())) > 0.1
