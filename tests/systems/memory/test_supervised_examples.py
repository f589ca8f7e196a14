"""Couplings and statistics of labeled examples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.archetypes import ArchetypeDataset
from thermolearn.systems.memory.supervised_hebbian import (
    binarise,
    cophenetic_correlation,
    dataset_entropy,
    hebb_supervised,
    mean_pair_overlap,
    median_thresholds,
    ultrametricity,
)


def labeled(N: int, K: int, M: int, r: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    data = ArchetypeDataset(N, K, M, r, seed)
    return data.all_examples().reshape(K * M, N), data.labels


# -- couplings ---------------------------------------------------------------------------------
def test_couplings_are_those_of_the_class_means() -> None:
    X, y = labeled(12, 3, 5, 0.6)
    X, y = X[2:], y[2:]  # unequal classes
    names = np.array(["a", "b", "c"])[y]
    J = hebb_supervised(X, names, normalise=False)
    means = [X[names == name].mean(axis=0) for name in "abc"]
    for i, j in itertools.permutations(range(12), 2):
        assert J[i, j] == pytest.approx(sum(w[i] * w[j] for w in means) / 12, abs=1e-6)
    assert not np.diagonal(J).any()
    strength = np.mean([w @ w / 12 for w in means])
    np.testing.assert_allclose(hebb_supervised(X, names) * strength, J, atol=1e-6)
    kept = hebb_supervised(X, names, diagonal=True)
    assert np.trace(kept) == pytest.approx(3, rel=1e-5)  # K modes of strength 1 on average


def test_order_of_examples_does_not_matter() -> None:
    X, y = labeled(30, 4, 6, 0.5)
    order = np.random.default_rng(0).permutation(len(y))
    np.testing.assert_allclose(
        hebb_supervised(X, y), hebb_supervised(X[order], y[order]), atol=1e-6
    )


def test_one_example_per_class_is_hopfields_rule() -> None:
    X, _ = labeled(20, 3, 1, 1.0)
    J = hebb_supervised(X, np.arange(3), diagonal=True)
    np.testing.assert_allclose(J, X.T.astype(float) @ X / 20, atol=1e-6)


@pytest.mark.parametrize(
    ("X", "y", "settings", "message"),
    [
        ([[1, 0], [1, -1]], [0, 1], {}, "binarise"),
        ([[1, np.nan], [1, -1]], [0, 1], {}, "-1 and"),
        ([1, -1], [0, 1], {}, "shape"),
        (np.empty((0, 3)), [], {}, "shape"),
        ([[1, -1], [1, 1]], [0], {}, "label per row"),
        ([[1, -1], [1, 1]], [0, 1], {"classes": [0, 1, 7]}, "class 7 has no examples"),
        ([[1, -1], [1, 1]], [0, 1], {"classes": [0]}, "not in classes"),
        ([[1, -1], [1, 1]], [0, 1], {"classes": [0, 1, 1]}, "twice"),
        ([[1, -1], [-1, 1]], [0, 0], {}, "nothing to store"),
    ],
)
def test_bad_examples(X: list, y: list, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hebb_supervised(X, y, **settings)


# -- binarisation ------------------------------------------------------------------------------
def test_binarisation() -> None:
    X = np.array([[0.0, 5.0, 3.0, -1.0], [1.0, 5.0, 9.0, 1.0], [2.0, 5.0, 9.0, 1.0]])
    np.testing.assert_array_equal(binarise(X, 1.5), [[-1, 1, 1, -1], [-1, 1, 1, -1], [1, 1, 1, -1]])
    # a column mostly at its maximum is still split, a constant one cannot be, +-1 stays +-1
    cut = binarise(X, median_thresholds(X))
    np.testing.assert_array_equal(cut, [[-1, -1, -1, -1], [-1, -1, 1, 1], [1, -1, 1, 1]])
    for bad in (np.array([[np.nan]]), np.array([1.0])):
        with pytest.raises(ValueError, match="X"):
            binarise(bad, 0.0)
    with pytest.raises(ValueError, match="threshold"):
        binarise(X, [1.0, 2.0])


# -- entropy -----------------------------------------------------------------------------------
def test_pair_overlap_is_the_mean_over_pairs() -> None:
    X, y = labeled(15, 2, 6, 0.5)
    X, y = X[1:], y[1:]
    expected = np.mean(
        [
            np.mean([a @ b / 15 for a, b in itertools.combinations(X[y == k].astype(float), 2)])
            for k in (0, 1)
        ]
    )
    assert float(mean_pair_overlap(X, y)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("M", "r"), [(2, 0.3), (3, 0.7), (5, 0.5)])
def test_pair_overlap_is_unbiased(M: int, r: float) -> None:
    """All 2^M outcomes of one feature, with their probabilities."""
    total = 0.0
    for outcome in itertools.product((1, -1), repeat=M):
        chance = np.prod([(1 + r * s) / 2 for s in outcome])
        total += chance * float(mean_pair_overlap(np.array(outcome)[:, None], np.zeros(M)))
    assert total == pytest.approx(r * r, abs=1e-12)


@pytest.mark.parametrize(
    ("N", "K", "M", "r"), [(200, 10, 3, 0.3), (400, 5, 10, 0.2), (100, 4, 20, 0.3)]
)
def test_entropy_and_its_error_bar(N: int, K: int, M: int, r: float) -> None:
    runs = 100
    found = [dataset_entropy(*labeled(N, K, M, r, seed)) for seed in range(runs)]
    values = np.array([e.value for e in found])
    error = values.std(ddof=1) / np.sqrt(runs)
    assert abs(values.mean() - (1 - r * r) / (M * r * r)) < 4 * error
    quoted = np.sqrt(np.mean(np.square([e.stderr for e in found])))
    assert quoted == pytest.approx(values.std(ddof=1), rel=0.35)


def test_a_cut_by_the_noise_is_flagged() -> None:
    """r^2 of two standard errors: those kept are a third too small, and none of them is "ok"."""
    found = [dataset_entropy(*labeled(400, 5, 6, 0.12, seed)) for seed in range(200)]
    kept = np.array([e.value for e in found if e.status != "no signal"])
    assert {e.status for e in found} == {"no signal", "weak signal"}
    assert kept.mean() < 0.75 * (1 - 0.12**2) / (6 * 0.12**2)
    clear = [dataset_entropy(*labeled(200, 5, 10, 0.3, seed)) for seed in range(100)]
    assert {e.status for e in clear} == {"ok"}


def test_error_from_the_spread_between_small_classes() -> None:
    X, y = labeled(300, 20, 3, 0.5)
    r2 = mean_pair_overlap(X, y)
    assert r2.n_eff == 20
    single = [float(mean_pair_overlap(X[y == k], y[y == k])) for k in range(20)]
    assert r2.stderr == pytest.approx(np.std(single, ddof=1) / np.sqrt(20), rel=1e-12)
    assert mean_pair_overlap(*labeled(300, 20, 4, 0.5)).n_eff == 80
    # a single class of two examples: nothing tells the error
    alone = dataset_entropy([[1, 1, 1, 1], [1, 1, 1, -1]], [0, 0])
    assert alone.status == "weak signal"


def test_no_signal_is_said() -> None:
    X = np.random.default_rng(0).choice([-1, 1], size=(40, 50))
    estimate = dataset_entropy(X, np.repeat([0, 1], 20))
    assert estimate.status == "no signal"
    assert np.isnan(float(estimate))


def test_entropy_needs_pairs() -> None:
    with pytest.raises(ValueError, match="class 1 has a single example"):
        dataset_entropy([[1, 1], [1, -1], [1, 1]], [0, 0, 1])
    assert np.isnan(dataset_entropy([[1, 1, 1, 1], [1, 1, 1, -1]], [0, 0]).stderr)


# -- trees -------------------------------------------------------------------------------------
def tree(seed: int, depth: int = 5, N: int = 300, flips: float = 0.1) -> np.ndarray:
    """Leaves of a binary tree whose branches flip a tenth of the signs each."""
    rng = np.random.default_rng(seed)
    leaves = np.ones((1, N), dtype=int)
    for _ in range(depth):
        leaves = np.repeat(leaves, 2, axis=0)
        leaves = leaves * np.where(rng.random(leaves.shape) < flips, -1, 1)
    return leaves


def test_a_tree_is_seen_and_noise_is_not() -> None:
    grown = ultrametricity(tree(0))
    assert grown.tree_like
    assert float(grown.correlation) > 0.85
    assert "more tree-like than noise" in str(grown)
    noise = [ultrametricity(labeled(300, 1, 32, 0.6, seed)[0], seed=seed) for seed in range(8)]
    # at p <= 0.05 on two controls, one in 20 by chance at most
    assert sum(u.tree_like for u in noise) <= 2
    assert "not beyond doubt" in str(next(u for u in noise if not u.tree_like))


def test_an_ultrametric_set_has_correlation_one() -> None:
    blocks = np.kron(2 * np.eye(4, dtype=int) - 1, np.ones((5, 8), dtype=int))
    assert cophenetic_correlation(blocks) == pytest.approx(1, abs=1e-12)


def test_digits() -> None:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    spins = binarise(X, 7.5)
    for digit, value in ((0, 0.676), (1, 0.795), (8, 0.606)):
        assert cophenetic_correlation(spins[y == digit]) == pytest.approx(value, abs=6e-4)
    one, eight = (ultrametricity(spins[y == digit], surrogates=19) for digit in (1, 8))
    assert one.tree_like
    assert not eight.tree_like
    assert float(mean_pair_overlap(spins, y)) == pytest.approx(0.6395, abs=1e-4)


def test_structureless_control() -> None:
    values = [cophenetic_correlation(labeled(64, 1, 180, 0.6, seed)[0]) for seed in range(20)]
    assert abs(np.mean(values) - 0.610) < 3 * np.std(values, ddof=1)


def test_bad_trees() -> None:
    X = labeled(20, 1, 30, 0.5)[0]
    for examples, settings, message in (
        (X[:10], {}, "20 examples"),
        (X, {"surrogates": 3}, "surrogates"),
        (X * 2, {}, "-1 and"),
        (np.ones((25, 4)), {}, "equal"),
    ):
        with pytest.raises(ValueError, match=message):
            ultrametricity(examples, **settings)


def test_result_types() -> None:
    found = ultrametricity(labeled(20, 1, 30, 0.5)[0], surrogates=19)
    assert isinstance(found.correlation, Estimate)
    assert found.iid.correlation.n_eff == 19
    assert found.correlation.stderr > 0
