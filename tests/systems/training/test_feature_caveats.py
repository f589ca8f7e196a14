"""What a solution of the equations of state says about itself, against exact and sampled truth."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.special import erf

from thermolearn.core.errors import ConvergenceError, DataError, NotApplicableError
from thermolearn.systems.training.feature_learning import (
    BayesianCNN,
    BayesianFCN,
    compare,
    equations_of_state,
    linear_network_exact,
    load_samples,
    sample_posterior,
)
from thermolearn.systems.training.feature_learning.caveats import _worse
from thermolearn.systems.training.feature_learning.self_check import fresh_inputs, self_checks

data = np.random.default_rng(1)
X = data.normal(size=(30, 8))
LINEAR, CURVED = X[:, 0], erf(X[:, 0])
WORSE = "worse than the plain Gaussian process at fresh inputs"


def flags(net, y, noise, inputs=X, **options) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return "; ".join(equations_of_state(net, inputs, y, noise, **options).flags)


# -- worse than the Gaussian process -------------------------------------------------------------
@pytest.mark.parametrize(
    ("net", "size", "noise"),
    [
        (BayesianFCN([50], 8, 2.0, 1.0, "relu"), 1.0, 0.05),  # sampled: 0.0331(22), GP 0.0210(21)
        (BayesianFCN([50], 8, 0.02, 40.0), 1.0, 0.05),  # 0.0039, GP 0.0013
        (BayesianFCN([20], 8, 0.02, 0.15), 0.06, 1.8e-4),  # 0.0062, GP 0.0019
    ],
)
def test_nearly_linear_networks_are_said_to_be_worse_than_the_gp(net, size, noise) -> None:
    with pytest.warns(UserWarning, match=WORSE):
        solution = equations_of_state(net, X, size * LINEAR, noise)
    (flag,) = (flag for flag in solution.flags if "plain Gaussian" in flag)
    assert flag.startswith(WORSE) and "also at the training inputs" in flag


@pytest.mark.slow
def test_the_relu_network_is_worse_than_the_gp_by_the_sampler() -> None:
    net, test = BayesianFCN([50], 8, 2.0, 1.0, "relu"), data.normal(size=(200, 8))
    with pytest.warns(UserWarning, match=WORSE):
        solution = equations_of_state(net, X, LINEAR, 0.05)
    samples = sample_posterior(net, X, LINEAR, 0.05, chains=12, draws=150)
    found = compare(solution, samples, test, test[:, 0])
    assert "predictor" in found.worse and found.statement.startswith("The equations of state are")


def test_a_verdict_says_at_which_inputs() -> None:
    # the sampler at fresh inputs: 0.0315 against 0.0463 of the Gaussian process
    found = flags(BayesianFCN([20], 8), CURVED, 0.05)
    assert "worse than the plain Gaussian process at the training inputs, not at fresh" in found
    assert WORSE not in found
    undecided = _worse(["worse than the GP", "cannot tell"], ["2 against 1", "3 against 3"], "how")
    assert "at the training inputs, perhaps at fresh inputs" in undecided


def test_linear_networks_are_judged_at_both_inputs() -> None:
    with pytest.warns(UserWarning, match=WORSE):
        solution = equations_of_state(BayesianFCN([20], 8, activation="linear"), X, LINEAR, 0.05)
    (flag,) = (flag for flag in solution.flags if flag.startswith(WORSE))
    exact = linear_network_exact(X, LINEAR, [20], 0.05)
    fresh = fresh_inputs(X[:, None])[:, 0]
    truth = exact.predict(fresh)
    for f in (solution.predict(fresh), solution.gp.predict(fresh)):
        assert f"{np.linalg.norm(f - truth) / np.linalg.norm(truth):.2g}" in flag
    assert flags(BayesianFCN([20], 8, 1.0, 0.05, "linear"), LINEAR, 0.02) == ""


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (BayesianFCN([50, 50], 8, 2.0, 1.0, "relu"), "more than one hidden layer"),
        (BayesianFCN([20], 8, 2.0, 0.5, "relu"), "effective samples"),
        (BayesianFCN([2000], 8, 2.0, 0.5, "relu"), "call self_check"),
    ],
)
def test_what_was_not_checked_is_said(net, why) -> None:
    found = flags(net, LINEAR, 0.05)
    assert "not checked against the plain Gaussian process" in found and why in found


def test_mean_field_scaling_has_no_flags() -> None:
    assert flags(BayesianFCN([20], 8, 1.0, 0.05), CURVED, 0.02) == ""
    assert flags(BayesianFCN([20, 20], 8, 2.0, 0.1), erf(2 * CURVED), 0.02, init="prior") == ""
    assert flags(BayesianFCN([10**6], 8), CURVED, 0.05) == ""  # both predictors are one


def test_fresh_inputs_have_the_moments_of_the_given_ones() -> None:
    x = data.normal(size=(12, 2, 3)) * [1.0, 2.0, 3.0] + 5
    fresh = fresh_inputs(x, 40000).reshape(-1, 6)
    flat = x.reshape(-1, 6)
    assert np.allclose(fresh.mean(0), flat.mean(0), atol=0.06)
    assert np.allclose(np.cov(fresh.T), np.cov(flat.T), atol=0.3)
    few = fresh_inputs(x[:2], 50).reshape(50, 6)
    assert np.linalg.matrix_rank(few - flat[:2].mean(0), tol=1e-9) == 1
    assert (fresh_inputs(x[:1], 3) == x[:1]).all()


def test_checks_of_several_sets_are_those_of_each() -> None:
    with pytest.warns(UserWarning):
        solution = equations_of_state(BayesianFCN([20], 8), X, CURVED, 0.05)
    fresh = fresh_inputs(X[:, None], 5)
    together = self_checks(solution, [solution.X, fresh], 400)
    for found, inputs in zip(together, (None, fresh[:, 0]), strict=True):
        alone = solution.self_check(inputs, draws=400)
        assert found.error.value == pytest.approx(alone.error.value, rel=1e-9)
        assert np.allclose(found.predictor.value, alone.predictor.value)


# -- units ---------------------------------------------------------------------------------------
def test_flags_do_not_change_with_the_units() -> None:
    plain = flags(BayesianFCN([20], 8), CURVED, 0.05)
    assert "saddle point not controlled" in plain
    c = 30.0
    assert flags(BayesianFCN([20], 8, 1.0, c**2), c * CURVED, 0.05 * c**2) == plain
    mean_field = BayesianFCN([20], 8, 1.0, 0.05 * c**2)
    assert flags(mean_field, c * CURVED, 0.02 * c**2) == ""
    relu = [flags(BayesianFCN([20], 8, w, 2 / w, "relu"), LINEAR, 0.05) for w in (2.0, 40.0)]
    assert relu[0] == relu[1] and "saddle point not controlled" in relu[0]


# -- labels, inputs and options at the edge ------------------------------------------------------
def test_labels_of_zero() -> None:
    zero, net = np.zeros(30), BayesianFCN([20], 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        solution = equations_of_state(net, X, zero, 0.05)
        samples = sample_posterior(net, X, zero, 0.05, chains=2, draws=50, n_warmup=10, steps=4)
    assert not solution.predict(X).any() and "worse" not in "".join(solution.flags)
    assert not np.any(samples.predict(X).value) and not samples.traces["alignment"].any()
    with pytest.raises(NotApplicableError, match="not all 0"):
        solution.self_check()
    with pytest.raises(ValueError, match="all 0"):
        compare(solution, samples, X, LINEAR)


def test_one_of_everything_makes_no_numerical_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        for x, y in (([[-0.6]], [0.9]), ([[0.3]], [-0.3])):
            solution = equations_of_state(BayesianFCN([1], 1), x, y, 0.02)
            assert np.isfinite(solution.free_energy)


def test_jitter_is_an_option_of_the_call_and_the_advice_works() -> None:
    net, inputs = BayesianFCN([20, 20], 1), np.sort(X[:20, :1], axis=0)
    with pytest.raises(np.linalg.LinAlgError, match="jitter=1e-6"):
        equations_of_state(net, inputs, erf(inputs[:, 0]), 0.02)
    assert "worse" not in flags(net, erf(inputs[:, 0]), 0.02, inputs, jitter=1e-6)


@pytest.mark.slow
def test_inputs_that_are_nearly_equal_are_named() -> None:
    net, near = BayesianFCN([20, 20], 8, 1.0, 0.1), X[:15].copy()
    near[1] = near[0] + 1e-6
    with pytest.raises(ConvergenceError, match=r"nearly equal.*jitter=1e-6"):
        equations_of_state(net, near, erf(near[:, 0]), 0.02)
    assert flags(net, erf(near[:, 0]), 0.02, near, jitter=1e-6) == ""


def test_a_check_that_fails_leaves_the_solution() -> None:
    inputs = np.random.default_rng(1).normal(size=(40, 8))
    net, y = BayesianFCN([20], 8, 1.0, 0.05, "linear"), 1e5 * inputs[:, 0]
    with pytest.raises(ConvergenceError):
        linear_network_exact(inputs, y, [20], 0.02, 1.0, 0.05)
    found = flags(net, y, 0.02, inputs)
    assert "not checked against the plain Gaussian process: the quadrature" in found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "activation", ["erf", "linear", torch.abs, pytest.param("gelu", marks=pytest.mark.slow)]
)
def test_results_can_be_pickled(activation) -> None:
    net = BayesianFCN([6], 8, 1.0, 0.1, activation)
    few, y = X[:8], LINEAR[:8]
    solution = equations_of_state(net, few, y, 0.05, init="prior")
    assert np.allclose(pickle.loads(pickle.dumps(solution)).predict(few), solution.predict(few))
    samples = sample_posterior(net, few, y, 0.05, chains=2, draws=4, n_warmup=10)
    again = pickle.loads(pickle.dumps(samples))
    assert (again.predict(few).value == samples.predict(few).value).all()


@pytest.mark.slow
def test_patches_near_standard_scaling_are_checked() -> None:
    patches = np.random.default_rng(1).normal(size=(30, 3, 5))
    y = patches[:, :, 0].sum(1) / 3**0.5
    found = flags(BayesianCNN(50, 3, 5, 2.0, 2.0, "relu"), y, 0.05, patches)
    assert "worse than the plain Gaussian process at the training inputs, not at fresh" in found


# -- what is printed and kept --------------------------------------------------------------------
def test_short_texts_begin_with_the_answer() -> None:
    with pytest.warns(UserWarning):
        solution = equations_of_state(BayesianFCN([20], 8), X, CURVED, 0.05)
    exact = linear_network_exact(X, LINEAR, [20], 0.05)
    for text, head in ((repr(solution), "Solution(free_energy="), (repr(exact), "ExactLinear")):
        assert text.startswith(head) and len(text) < 300
    assert f"{solution.free_energy:.6g}" in repr(solution) and str(exact.log_evidence) in repr(
        exact
    )


@pytest.mark.slow
def test_inputs_far_too_large_are_told() -> None:
    with pytest.raises(ConvergenceError, match="scale the inputs"):
        equations_of_state(BayesianFCN([20], 8, 1.0, 0.05), 1e8 * X, CURVED, 0.02)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("collapsed", [True, False])
def test_samples_survive_a_file(tmp_path, collapsed) -> None:
    net = BayesianCNN(4, 2, 4, 1.0, 0.1, "tanh")
    inputs = X.reshape(30, 2, 4)
    samples = sample_posterior(
        net, inputs, LINEAR, 0.05, "mala", collapsed, chains=2, draws=4, n_warmup=10
    )
    samples.save(tmp_path / "samples.npz")
    again = load_samples(tmp_path / "samples.npz")
    assert again.net == net and torch.equal(again.x, samples.x)
    assert np.array_equal(again.predict(inputs).value, samples.predict(inputs).value)
    assert (again.status, again.note, again.step) == (samples.status, samples.note, samples.step)
    (tmp_path / "other.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="no saved posterior samples"):
        load_samples(tmp_path / "other.npz")
    callable_net = BayesianFCN([4], 8, activation=torch.sin)
    other = sample_posterior(callable_net, X, LINEAR, 0.05, chains=2, draws=2, n_warmup=5)
    with pytest.raises(NotApplicableError, match="pickle"):
        other.save(tmp_path / "no.npz")
