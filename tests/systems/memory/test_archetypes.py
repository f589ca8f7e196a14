"""Archetypes, blurred examples and the Hebb matrix of the examples."""

from __future__ import annotations

import numpy as np
import pytest

from thermolearn.systems.memory import archetypes
from thermolearn.systems.memory.archetypes import ArchetypeDataset, hebb_unsupervised


def test_examples_are_blurred_archetypes() -> None:
    made = ArchetypeDataset(4000, 3, 40, 0.3, seed=1)
    eta = made.all_examples()
    assert eta.shape == (3, 40, 4000) and eta.dtype == np.int8
    assert set(np.unique(eta)) == {-1, 1} == set(np.unique(made.archetypes))
    overlap = (eta * made.archetypes[:, None]).mean()
    assert abs(overlap - 0.3) < 4 * np.sqrt((1 - 0.09) / eta.size)
    # noise of different examples, and archetypes, are independent
    noise = (eta * made.archetypes[:, None])[0].astype(float)
    pairs = np.corrcoef(noise)[np.triu_indices(40, 1)]
    assert abs(pairs.mean()) < 4 / np.sqrt(4000 * len(pairs))
    assert abs(made.archetypes.mean()) < 4 / np.sqrt(12000)
    assert made.labels.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    np.testing.assert_allclose(made.means(), eta.mean(1), atol=1e-7)
    np.testing.assert_array_equal(made.examples(-1), eta[2])


def test_an_example_depends_on_its_seed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    big = ArchetypeDataset(100, 5, 30, 0.5, seed=3)
    small = ArchetypeDataset(100, 5, 7, 0.5, seed=3)
    np.testing.assert_array_equal(big.examples(2)[:7], small.examples(2))
    J = big.unsupervised_couplings()
    monkeypatch.setattr(archetypes, "CHUNK", 450)  # four examples at a time
    np.testing.assert_array_equal(big.examples(2)[:7], small.examples(2))
    np.testing.assert_allclose(big.unsupervised_couplings(), J, atol=1e-6)
    assert not np.array_equal(big.examples(0), ArchetypeDataset(100, 5, 30, 0.5, 4).examples(0))


def test_couplings_are_the_sum_over_examples() -> None:
    made = ArchetypeDataset(30, 4, 5, 0.6, seed=0)
    eta = made.all_examples().astype(float)
    calR = 0.36 + 0.64 / 5
    naive = np.einsum("kai,kaj->ij", eta, eta) / (30 * 5 * calR)
    np.testing.assert_allclose(made.unsupervised_couplings(diagonal=True), naive, rtol=1e-5)
    np.testing.assert_allclose(hebb_unsupervised(eta, r=0.6, diagonal=True), naive, rtol=1e-5)
    plain = made.unsupervised_couplings(normalise=False)
    assert not np.diagonal(plain).any()
    np.testing.assert_allclose(plain, hebb_unsupervised(eta, normalise=False), rtol=1e-6)
    np.testing.assert_allclose(plain, calR * made.unsupervised_couplings(), rtol=1e-5)


def test_couplings_with_labels_are_those_of_the_mean_examples() -> None:
    made = ArchetypeDataset(30, 4, 5, 0.6, seed=0)
    means = made.all_examples().mean(axis=1)
    naive = np.einsum("ki,kj->ij", means, means) / (30 * (0.36 + 0.64 / 5))
    np.fill_diagonal(naive, 0)
    np.testing.assert_allclose(made.supervised_couplings(), naive, rtol=1e-5, atol=1e-7)


def test_the_strength_is_measured_if_the_quality_is_not_given() -> None:
    made = ArchetypeDataset(2000, 10, 8, 0.5, seed=0)
    eta = made.all_examples()
    measured = np.diagonal(hebb_unsupervised(eta, diagonal=True))
    ratio = measured / np.diagonal(hebb_unsupervised(eta, r=0.5, diagonal=True))
    assert np.ptp(ratio) < 1e-5
    # the square of a mean example has a relative standard deviation of 0.97
    assert abs(ratio[0] - 1) < 4 * 0.97 / np.sqrt(20_000)


@pytest.mark.parametrize("r", [0.0, -0.1, 1.1, float("nan")])
def test_quality_out_of_range(r: float) -> None:
    with pytest.raises(ValueError, match=r"quality r must be in \(0, 1\]"):
        ArchetypeDataset(10, 2, 3, r)


def test_bad_input() -> None:
    for bad in ((0, 2, 3), (10, 0, 3), (10, 2, 0), (10, 2, 2.5)):
        with pytest.raises(ValueError, match="must be an integer >= 1"):
            ArchetypeDataset(*bad, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1 and"):
        hebb_unsupervised(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="shape"):
        hebb_unsupervised(np.ones((2, 3)))
    with pytest.raises(ValueError, match="all zero"):
        hebb_unsupervised(np.array([[[1, -1], [-1, 1]]]))
    with pytest.raises(IndexError, match="no archetype 2"):
        ArchetypeDataset(10, 2, 3, 0.5).examples(2)


def test_too_much_data_is_told_with_its_size() -> None:
    huge = ArchetypeDataset(1000, 1, 10**12, 0.5)
    with pytest.raises(ValueError, match=r"1e\+06 GB"):
        huge.examples(0)
    with pytest.raises(ValueError, match="GB"):
        huge.all_examples()


def test_archetypes_beyond_the_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="GB"):
        ArchetypeDataset(10**7, 10**6, 2, 0.3)
