"""The heat-bath kernel: its numpy twin, and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from thermolearn.core.lattice import (
    glauber_sweeps,
    glauber_sweeps_numpy,
    largest_and_asymmetry,
)


def couplings(n: int, seed: int) -> np.ndarray:
    J = np.random.default_rng(seed).normal(size=(n, n)) / math.sqrt(n)
    J = (J + J.T) / 2
    np.fill_diagonal(J, 0)
    return J


@pytest.mark.parametrize("schedule", [[0.7] * 40, [0.0] * 40, [2.0, 1.0, 0.5, 0.0, 0.0, 0.0] * 3])
@pytest.mark.parametrize("with_field", [False, True])
def test_kernel_and_twin_make_the_same_chain(schedule: list[float], with_field: bool) -> None:
    n = 60
    J = couplings(n, 1)
    rng = np.random.default_rng(2)
    field = rng.normal(size=n) * with_field
    patterns = rng.choice([-1.0, 1.0], size=(3, n))
    start = rng.choice([-1, 1], size=n).astype(np.int8)
    results = []
    for kernel, spins in (
        (glauber_sweeps, start.copy()),
        (glauber_sweeps_numpy, start.astype(float)),
    ):
        done, energy, mean, overlaps = kernel(
            J, spins, field, np.array(schedule), 5, patterns, np.random.default_rng(3)
        )
        results.append((done, energy[:done], mean, overlaps[:done], np.asarray(spins, float)))
    assert results[0][0] == results[1][0]
    for ours, plain in zip(results[0][1:], results[1][1:], strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-11)


def test_averages_are_those_of_the_gibbs_measure() -> None:
    n, T = 8, 0.8
    J, field = couplings(n, 4), np.linspace(-0.3, 0.4, 8)
    states = np.array(list(itertools.product([-1.0, 1.0], repeat=n)))
    energies = -0.5 * np.einsum("si,ij,sj->s", states, J, states) - states @ field
    weight = np.exp(-(energies - energies.min()) / T)
    weight /= weight.sum()
    chains = [
        glauber_sweeps(
            J,
            np.ones(n, dtype=np.int8),
            field,
            np.full(4000, T),
            200,
            np.empty((0, n)),
            np.random.default_rng(seed),
        )
        for seed in range(32)
    ]
    means = np.array([mean for _, _, mean, _ in chains])
    error = means.std(0, ddof=1) / math.sqrt(len(means))
    assert (np.abs(means.mean(0) - weight @ states) < 4 * error).all()
    mean_energies = np.array([energy[200:].mean() for _, energy, _, _ in chains])
    error = mean_energies.std(ddof=1) / math.sqrt(len(chains))
    assert abs(mean_energies.mean() - weight @ energies) < 4 * error


def test_zero_temperature_ends_in_a_local_minimum() -> None:
    J = couplings(50, 5)
    spins = np.random.default_rng(6).choice([-1, 1], size=50).astype(np.int8)
    done, energy, _, _ = glauber_sweeps(
        J, spins, np.zeros(50), np.zeros(100), 0, np.empty((0, 50)), np.random.default_rng(7)
    )
    assert done < 100
    assert ((J @ spins) * spins >= 0).all()
    assert (np.diff(energy[:done]) <= 1e-12).all()


def test_single_precision_couplings_do_not_drift() -> None:
    n = 300
    J = couplings(n, 8).astype(np.float32)
    spins = np.ones(n, dtype=np.int8)
    _, energy, _, _ = glauber_sweeps(
        J,
        spins,
        np.zeros(n, np.float32),
        np.full(500, 2.0),
        0,
        np.empty((0, n), np.float32),
        np.random.default_rng(9),
    )
    exact = -0.5 * spins.astype(float) @ J.astype(float) @ spins.astype(float)
    assert energy[-1] == pytest.approx(exact, abs=1e-9)


def test_largest_and_asymmetry() -> None:
    J = couplings(130, 10)
    largest, asymmetry = largest_and_asymmetry(J)
    assert largest == np.abs(J).max() and asymmetry == 0
    J[3, 120] += 0.5
    assert largest_and_asymmetry(J)[1] == pytest.approx(0.5)
    J[100, 2] = np.nan
    assert np.isnan(largest_and_asymmetry(J)[0])
