"""The estimator by scikit-learn's own checks, and what it says about bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from thermolearn.systems.memory.rbm import RBM, bars_and_stripes

QUICK = {"n_hidden": 3, "n_epochs": 2, "n_checkpoints": 2}
X = bars_and_stripes(3, copies=5)


# These checks fit real numbers, which Bernoulli units refuse.
REAL_DATA = [
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_n_features_in_after_fitting",
    "check_estimators_dtypes",
    "check_dtype_object",
    "check_pipeline_consistency",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_n_features_in",
    "check_fit2d_predict1d",
]


def excused(estimator: RBM) -> dict[str, str]:
    """Gaussian visible units take any real data: every check applies to them."""
    if estimator.visible == "gaussian":
        return {}
    return dict.fromkeys(REAL_DATA, "the data of the check are not 0 and 1")


@parametrize_with_checks(
    [RBM(visible=kind, **QUICK) for kind in ("gaussian", "bernoulli")],
    expected_failed_checks=excused,
)
def test_sklearn_checks(estimator: RBM, check: Any) -> None:
    check(estimator)


def test_clone_params_and_names() -> None:
    rbm = RBM(5, "ising", k=3, trajectory="here")
    copy = clone(rbm)
    assert copy.get_params() == rbm.get_params()
    rbm = RBM(**QUICK).set_output(transform="pandas").fit(X)
    assert list(rbm.transform(X).columns) == ["rbm0", "rbm1", "rbm2"]


def test_works_in_a_pipeline() -> None:
    y = X[:, 0]
    model = make_pipeline(
        RBM(12, n_epochs=60, learning_rate=0.1, batch_size=10), LogisticRegression()
    )
    assert model.fit(X, y).score(X, y) > 0.8


def test_transform_is_that_of_scikit_learn() -> None:
    theirs = BernoulliRBM(4, n_iter=3, random_state=0).fit(X)
    mine = RBM.from_weights(
        theirs.components_.T, theirs.intercept_visible_, theirs.intercept_hidden_
    )
    np.testing.assert_allclose(mine.transform(X), theirs.transform(X), atol=1e-12)
    np.testing.assert_array_equal(mine.components_, theirs.components_)
    expected = theirs._free_energy(X)
    np.testing.assert_allclose(mine.free_energy(X), expected, atol=1e-10)


def test_pseudo_likelihood_is_the_sum_of_conditionals() -> None:
    rbm = RBM.from_weights(np.random.default_rng(0).normal(0, 1, (9, 4)))
    f = rbm.free_energy(X)
    total = 0.0
    for i in range(9):
        flipped = X.copy()
        flipped[:, i] = 1 - flipped[:, i]
        total -= np.logaddexp(0, f - rbm.free_energy(flipped)).mean()
    assert rbm.pseudo_likelihood(X) == pytest.approx(total, abs=1e-12)
    spins = RBM.from_weights(np.zeros((9, 4)), visible="ising")
    assert spins.pseudo_likelihood(2 * X - 1) == pytest.approx(-9 * math.log(2))
    with pytest.raises(ValueError, match="discrete"):
        RBM.from_weights(np.zeros((9, 4)), visible="gaussian").pseudo_likelihood(X)


def test_likelihood_of_all_states_sums_to_one() -> None:
    rbm = RBM(4, n_epochs=20, batch_size=10, learning_rate=0.1).fit(X)
    bits = ((np.arange(512)[:, None] >> np.arange(9)) & 1).astype(float)
    log_z = rbm.log_partition("exact")
    assert np.exp(-rbm.free_energy(bits) - float(log_z)).sum() == pytest.approx(1, abs=1e-10)
    mean = rbm.log_likelihood(X, log_partition=log_z)
    assert float(mean) == pytest.approx(np.mean(-rbm.free_energy(X)) - float(log_z))
    assert rbm.score(X) == pytest.approx(float(mean))
    annealed = rbm.log_likelihood(X, rbm.log_partition("ais"))
    assert annealed.stderr > 0
    assert abs(float(annealed) - float(mean)) < 4.5 * annealed.stderr


def test_partial_fit_follows_the_gradient() -> None:
    rbm = RBM(6, method="exact", learning_rate=0.2, monitor=None)
    scores = []
    for _ in range(5):
        for _ in range(20):
            rbm.partial_fit(X)
        scores.append(rbm.score(X))
    assert np.all(np.diff(scores) > 0)
    assert rbm.n_steps_ == 100
    rbm = RBM(6).partial_fit(X).partial_fit(X[:7])  # another batch size
    assert rbm.n_steps_ == 2


# -- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({}, X * 2, "bernoulli visible units take the values 0 and 1"),
        ({}, X * 0.5, "binarize"),
        ({"visible": "ising"}, X, "ising visible units take the values -1 and 1"),
        ({}, np.where(X > 2, 0, np.nan), "NaN"),
        ({}, np.full_like(X, np.inf), "infinity|too large"),
        ({"batch_size": len(X) + 1}, X, "batch_size"),
        ({"learning_rate": math.nan}, X, "learning_rate must be finite and positive"),
        ({"learning_rate": 0.0}, X, "learning_rate"),
        ({"weight_decay": -1.0}, X, "weight_decay"),
        ({"init_std": math.inf}, X, "init_std"),
        ({"method": "scd"}, X, "method must be one of cd, pcd, pt, exact"),
        ({"schedule": "cosine"}, X, "schedule"),
        ({"k": 0}, X, "k must be at least 1"),
        ({"n_hidden": 0}, X, "n_hidden"),
        ({"n_replicas": 1}, X, "n_replicas"),
        ({"monitor": "loss"}, X, "monitor"),
        ({"dtype": "float16"}, X, "dtype"),
        ({"visible": "potts"}, X, "visible must be one of"),
        ({"method": "exact", "n_hidden": 30}, np.tile(X, (1, 4)), r"2\^30 states"),
        ({"monitor": "exact", "n_hidden": 30}, np.tile(X, (1, 4)), r"2\^30 states"),
    ],
)
def test_bad_input_raises(changes: dict[str, Any], data: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RBM(**{**QUICK, **changes}).fit(data)


@pytest.mark.parametrize("name", ["k", "n_hidden", "n_epochs", "batch_size", "random_state"])
def test_integers_are_integers(name: str) -> None:
    with pytest.raises(TypeError, match="integer"):
        RBM(**{**QUICK, name: 1.5}).fit(X)


def test_resume_asks_for_the_same_data() -> None:
    rbm = RBM(**QUICK, batch_size=40).fit(X)
    with pytest.raises(ValueError, match="trained on"):
        rbm.resume(X[:10])
    with pytest.raises(ValueError, match="features"):
        rbm.resume(X[:, :5])
