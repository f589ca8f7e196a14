"""The classifier by mean examples: scikit-learn's checks, plain oracles, digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import parametrize_with_checks

from thermolearn.systems.memory.supervised_hebbian import HebbClassifier, digits_accuracy

VARIANTS = [
    HebbClassifier(),
    HebbClassifier(replicas=2, rule="dot"),
    HebbClassifier(replicas=2, clustering="kmeans", rule="sign", binarise=0.0, random_state=0),
]


@parametrize_with_checks(VARIANTS)
def test_estimator_checks(estimator: HebbClassifier, check) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


# -- digits ------------------------------------------------------------------------------------
def test_digits_gain_from_branches() -> None:
    one, twenty = digits_accuracy(1), digits_accuracy(20)
    assert float(one["bias"]) == pytest.approx(0.875, abs=0.015)
    assert float(twenty["bias"]) == pytest.approx(0.948, abs=0.015)
    assert float(twenty["bias"]) - float(one["bias"]) >= 0.05
    assert float(twenty["sign"]) - float(one["sign"]) >= 0.10
    assert (float(one["sign"]), float(one["dot"])) == pytest.approx((0.784, 0.862), abs=0.001)
    assert (float(twenty["sign"]), float(twenty["dot"])) == pytest.approx((0.914, 0.919), abs=0.006)


@pytest.mark.parametrize(
    ("replicas", "sign", "dot", "bias"),
    [
        (2, 0.844, 0.884, 0.909),
        (5, 0.881, 0.895, 0.934),
        (10, 0.892, 0.914, 0.944),
        (40, 0.917, 0.921, 0.946),
    ],
)
def test_digits_table(replicas: int, sign: float, dot: float, bias: float) -> None:
    found = digits_accuracy(replicas)
    values = [float(found[rule]) for rule in ("sign", "dot", "bias")]
    assert values == pytest.approx([sign, dot, bias], abs=0.006)


@pytest.mark.slow
def test_k_means_on_digits() -> None:
    assert float(digits_accuracy(20, "kmeans")["bias"]) == pytest.approx(0.946, abs=0.01)


def test_default_needs_no_threshold(digits: tuple) -> None:
    X, y = digits
    machine = HebbClassifier(replicas=20).fit(X[::2], y[::2])
    assert machine.score(X[1::2], y[1::2]) > 0.9
    np.testing.assert_array_equal(machine.predict(X), machine.predict(X.astype(np.float32)))


# -- oracles -----------------------------------------------------------------------------------
def test_one_unit_with_bias_is_the_nearest_centroid(digits: tuple) -> None:
    X, y = digits
    spins = np.where(X > 7.5, 1.0, -1.0)
    machine = HebbClassifier(binarise=None).fit(spins[:900], y[:900])
    expected = NearestCentroid().fit(spins[:900], y[:900]).predict(spins[900:])
    np.testing.assert_array_equal(machine.predict(spins[900:]), expected)
    np.testing.assert_allclose(machine.units_[3], spins[:900][y[:900] == 3].mean(axis=0))


def test_rules(digits: tuple) -> None:
    X, y = digits
    spins = np.where(X > 7.5, 1.0, -1.0)
    for rule in ("sign", "dot", "bias"):
        machine = HebbClassifier(3, rule=rule, binarise=7.5).fit(X, y)
        sigma, decision = spins[5], machine.decision_function(X[5:6])[0]
        for k in range(10):
            activities = []
            for w in machine.units_[machine.unit_classes_ == k]:
                pairs = list(zip(sigma, w, strict=True))
                signs = sum(s * np.sign(v) for s, v in pairs)
                dot = sum(s * v for s, v in pairs)
                # s.w - w.w / 2 = s.s / 2 - |s - w|^2 / 2
                bias = (64 - sum((s - v) ** 2 for s, v in pairs)) / 2
                activities.append({"sign": signs, "dot": dot, "bias": bias}[rule])
            assert decision[k] == pytest.approx(max(activities), abs=1e-9)


def test_as_many_units_as_examples_know_the_training_set(digits: tuple) -> None:
    X, y = digits
    rows = np.concatenate([np.flatnonzero(y == k)[:30] for k in range(10)])
    machine = HebbClassifier(30, binarise=7.5, min_examples=1).fit(X[rows], y[rows])
    assert len(machine.units_) == 300
    assert machine.score(X[rows], y[rows]) == 1.0


# -- groups ------------------------------------------------------------------------------------
@pytest.mark.parametrize("clustering", ["ward", "average", "complete", "kmeans"])
def test_small_groups_are_merged(digits: tuple, clustering: str) -> None:
    X, y = digits[0][:600], digits[1][:600]
    settings = {"clustering": clustering, "binarise": 7.5, "random_state": 0}
    free = HebbClassifier(15, min_examples=1, **settings).fit(X, y)
    merged = HebbClassifier(15, min_examples=4, **settings).fit(X, y)
    assert free.unit_sizes_.min() < 4 <= merged.unit_sizes_.min()
    assert np.bincount(free.unit_classes_).tolist() == [15] * 10
    for machine in (free, merged):
        assert machine.unit_sizes_.sum() == 600
        # sizes and means add up to the class
        spins = np.where(X > 7.5, 1.0, -1.0)
        own = machine.unit_classes_ == 2
        total = machine.unit_sizes_[own] @ machine.units_[own]
        np.testing.assert_allclose(total, spins[y == 2].sum(axis=0), atol=1e-9)


def test_a_class_smaller_than_min_examples_stays_one_unit() -> None:
    X = np.array([[0.0, 1.0], [1.0, 0.0], [3.0, 3.0], [3.0, 2.0]])
    machine = HebbClassifier(min_examples=3).fit(X, ["a", "a", "b", "b"])
    assert machine.unit_sizes_.tolist() == [2, 2]


# -- scikit-learn's ways -----------------------------------------------------------------------
def test_labels_of_any_kind_and_grid_search(digits: tuple) -> None:
    X, y = digits[0][:500], np.array([f"digit {k}" for k in digits[1][:500]])
    search = GridSearchCV(HebbClassifier(binarise=7.5), {"replicas": [1, 5]}, cv=3).fit(X, y)
    assert search.best_params_ == {"replicas": 5}
    assert set(search.predict(X)) <= set(y)
    assert list(search.best_estimator_.classes_) == sorted(set(y))
    assert clone(search.best_estimator_).get_params()["replicas"] == 5


def test_two_classes_and_one() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 12)), np.repeat([3, 7], 20)
    X[y == 7] += 1.5
    machine = HebbClassifier().fit(X, y)
    decision = machine.decision_function(X)
    assert decision.shape == (40,)
    np.testing.assert_array_equal(machine.predict(X), np.where(decision > 0, 7, 3))
    assert machine.score(X, y) > 0.9
    assert set(HebbClassifier().fit(X, np.zeros(40)).predict(X)) == {0}


def test_the_settings_decide_alone() -> None:
    X, y = load_digits(return_X_y=True)
    state = np.random.get_state()[1].copy()
    first, second = (
        HebbClassifier(5, "kmeans", random_state=1).fit(X[:400], y[:400]) for _ in range(2)
    )
    np.testing.assert_array_equal(first.units_, second.units_)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


# -- bad input ---------------------------------------------------------------------------------
def test_more_replicas_than_examples() -> None:
    X = np.eye(9)
    y = ["cat"] * 6 + ["dog"] * 3
    with pytest.raises(ValueError, match=r"replicas=4 .*class 'dog' with n_samples = 3"):
        HebbClassifier(replicas=4).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": 1.5}, "replicas"),
        ({"replicas": True}, "replicas"),
        ({"min_examples": 0}, "min_examples"),
        ({"rule": "loud"}, "rule"),
        ({"clustering": "single"}, "clustering"),
        ({"binarise": "mean"}, "binarise"),
        ({"binarise": float("nan")}, "binarise"),
        ({"binarise": None}, "binarise=None"),
    ],
)
def test_bad_settings(settings: dict, name: str) -> None:
    X = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match=name):
        HebbClassifier(**settings).fit(X, [0, 1] * 3)
