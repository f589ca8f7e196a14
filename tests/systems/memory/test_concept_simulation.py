"""Heat bath and block Gibbs of memories of examples, against theory and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from thermolearn.core.estimate import Estimate
from thermolearn.study.collapse import data_collapse
from thermolearn.systems.memory import concept_emergence
from thermolearn.systems.memory.concept_emergence import (
    ArchetypeDataset,
    Params,
    block_gibbs,
    figure,
    hebb_unsupervised,
    rbm_weights,
    retrieval_fraction,
    run_from_archetypes,
    unsupervised_theory,
)
from thermolearn.systems.memory.glauber import GlauberSampler


# -- the Boltzmann machine is the memory -------------------------------------------------------
def test_partition_functions_are_one() -> None:
    """N = 10, K = 2, M = 3: every sigma, and Gauss-Hermite over each hidden unit."""
    r, T = 0.6, 0.7
    eta = ArchetypeDataset(10, 2, 3, r, seed=4).all_examples()
    calR = r * r + (1 - r * r) / 3
    sigma = np.array(list(itertools.product((-1.0, 1.0), repeat=10)))
    flat = eta.reshape(6, 10).astype(float)
    J = flat.T @ flat / (10 * 3 * calR)
    np.testing.assert_allclose(hebb_unsupervised(eta, r=r, diagonal=True), J, rtol=1e-6)
    network = np.exp(np.einsum("si,ij,sj->s", sigma, J, sigma) / (2 * T)).sum()
    W = rbm_weights(eta, T, r).astype(float)
    np.testing.assert_allclose(W, flat / math.sqrt(T * 30 * calR), rtol=1e-6)
    z, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    # in double precision, as the comparison is to 1e-10
    W = flat / math.sqrt(T * 30 * calR)
    machine = np.prod(np.exp((sigma @ W.T)[:, :, None] * z) @ w, axis=1).sum()
    assert machine == pytest.approx(network, rel=1e-10)


def test_block_gibbs_samples_the_boltzmann_distribution() -> None:
    r, T, n = 0.5, 1.0, 6
    eta = ArchetypeDataset(n, 2, 2, r, seed=2).all_examples()
    J = hebb_unsupervised(eta, r=r)
    sigma = np.array(list(itertools.product((-1, 1), repeat=n)))
    energy = -0.5 * np.einsum("si,ij,sj->s", sigma, J.astype(float), sigma)
    p = np.exp(-energy / T)
    p /= p.sum()
    chains = np.ones((200, n), dtype=np.int8)
    run = block_gibbs(rbm_weights(eta, T, r), chains, T, sweeps=600, seed=0, warmup=50)
    found = run.mean_energy()
    assert abs(float(found) - p @ energy / n) < 4 * float(found.stderr)
    final = (run.spins @ 2 ** np.arange(n - 1, -1, -1) + 2**n - 1) // 2
    share = np.bincount(final, minlength=2**n) / 200
    # chi^2 of 200 independent final states
    assert 200 * ((share - p) ** 2 / p).sum() < 2**n + 4 * math.sqrt(2 * 2**n)


def test_both_dynamics_agree() -> None:
    """Other moves, one distribution: block Gibbs and heat bath on the same couplings."""
    n, r, M, T = 300, 0.5, 20, 0.3
    data = ArchetypeDataset(n, 6, M, r, seed=1)
    start = np.repeat(data.archetypes[:1], 4, axis=0)
    heat = GlauberSampler(data.unsupervised_couplings()).run(
        start, T, 400, observe=data.archetypes[0]
    )
    block = block_gibbs(
        rbm_weights(data.all_examples(), T, r), start, T, 800, observe=data.archetypes[0]
    )
    for name in ("mean_overlap", "mean_energy"):
        a, b = getattr(heat, name)(), getattr(block, name)()
        assert abs(float(a) - float(b)) < 4 * math.hypot(float(a.stderr), float(b.stderr)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "r", "M", "T"), [(0.02, 0.3, 50, 0.1), (0.02, 0.5, 20, 0.3), (0.05, 0.5, 40, 0.2)]
)
def test_block_gibbs_against_theory(alpha: float, r: float, M: int, T: float) -> None:
    n, found = 1000, []
    for seed in range(3):
        data = ArchetypeDataset(n, round(alpha * n), M, r, seed)
        W = rbm_weights(data.all_examples(), T, r)
        run = block_gibbs(W, data.archetypes[:4], T, 80, seed)
        found.append((run.mean_spins * data.archetypes[:4]).mean())
    expected = unsupervised_theory(alpha, r, M, T).m
    error = np.std(found, ddof=1) / math.sqrt(3)
    # 9.2 standard errors of three seeds are as unlikely as 3 of many; finite size adds to it
    assert abs(np.mean(found) - expected) < max(9.2 * error, 0.02)


# -- heat bath against theory ------------------------------------------------------------------
def _overlaps(alpha: float, r: float, M: int, T: float, n: int, seeds: int) -> np.ndarray:
    rows = []
    for seed in range(seeds):
        data = ArchetypeDataset(n, round(alpha * n), M, r, seed)
        found = run_from_archetypes(data.unsupervised_couplings(), data, T, 100, seed)
        rows.append((found.m[0], found.n[0], found.q[0], found.energy[0]))
    return np.mean(rows, axis=0)


def test_retrieval_with_eighty_examples() -> None:
    m, n, q, _ = _overlaps(0.02, 0.3, 80, 0.1, 2000, 5)
    assert abs(m - 0.9733) < 0.015
    assert abs(n - 0.2980) < 0.006
    assert abs(q - 0.9830) < 0.012


def test_no_retrieval_with_twenty_examples() -> None:
    assert _overlaps(0.02, 0.3, 20, 0.1, 2000, 5)[0] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "r", "M", "T", "error"),
    [
        (0.02, 0.3, 50, 0.1, 0.0055),
        (0.02, 0.3, 160, 0.1, 0.0004),
        (0.02, 0.3, 80, 0.0, 0.0026),
        (0.05, 0.5, 40, 0.2, 0.0035),
        (0.02, 0.5, 20, 0.3, 0.0045),
    ],
)
def test_retrieval(alpha: float, r: float, M: int, T: float, error: float) -> None:
    """Within four standard errors of five seeds, as known, of the mean over as many seeds."""
    state = unsupervised_theory(alpha, r, M, T)
    m, n, q, energy = _overlaps(alpha, r, M, T, 2000, 5)
    assert abs(m - state.m) < 4 * error
    assert abs(n - state.n) < 0.01
    assert abs(q - state.q) < 0.015
    diagonal = alpha / (r * r + (1 - r * r) / M) / 2
    assert abs(energy - (state.u + diagonal)) < 0.015


def test_the_concept_emerges_from_an_example() -> None:
    """T = 0 from an example: it is a fixed point among five, and leads to the archetype of 20."""
    n, r = 2000, 0.3
    found = {}
    for M in (5, 20):
        rows = []
        for seed in range(4):
            data = ArchetypeDataset(n, 10, M, r, seed)
            eta = data.examples(0)
            run = GlauberSampler(data.unsupervised_couplings()).run(eta[0], 0.0, 100, seed)
            overlaps = eta.astype(float) @ run.spins[0] / n
            m = float(run.spins[0].astype(float) @ data.archetypes[0]) / n
            rows.append((overlaps[0], overlaps[1:].mean(), m))
        found[M] = np.mean(rows, axis=0)
    state = unsupervised_theory(0.005, r, 5, 0.0, branch="example")
    known = (state.n_example, state.n_other, state.m)  # type: ignore[attr-defined]
    np.testing.assert_allclose(found[5], known, atol=0.03)
    assert found[5][0] > 0.999
    assert found[20][2] == pytest.approx(unsupervised_theory(0.005, r, 20, 0.0).m, abs=0.04)


@pytest.mark.slow
def test_the_step_sharpens() -> None:
    """Shares of recalled archetypes at three sizes fall on one curve around M_c = 37."""
    rows = []
    for size, seeds in ((250, 32), (500, 24), (1000, 20)):
        for M in range(22, 51, 4):
            share = retrieval_fraction(size, 0.02, 0.3, M, 0.1, seeds=seeds, starts=5, sweeps=200)
            rows.append({"size": size, "x": M, "value": share})
    found = data_collapse(rows, n_bootstrap=40)
    assert found.status == "ok"
    # the width falls with size: 1 / nu is positive beyond doubt
    assert float(found.inverse_nu) > 4 * float(found.inverse_nu.stderr)
    assert abs(float(found.x_c) - 37) < 4 * float(found.x_c.stderr)


def test_a_share_of_all_or_none_is_not_certain() -> None:
    every = retrieval_fraction(200, 0.02, 1.0, 1, 0.1, seeds=3, starts=2, sweeps=20)
    assert float(every) == 1.0
    assert 0.05 < float(every.stderr) < 0.2


def test_the_interval_of_a_share_ends_at_none_and_all() -> None:
    from thermolearn.systems.memory.concept_emergence.figures import share_interval

    n = 16
    binomial = [math.sqrt(p * (1 - p) / n) for p in (0.5 / 17, 0.5, 16.5 / 17)]
    shares = [Estimate(p, s) for p, s in zip((0.0, 0.5, 1.0), binomial, strict=True)]
    lower, upper = share_interval(shares, n)
    # Wilson's score interval solves (p' - p)^2 = p' (1 - p') / n
    for share, end in ((0.5, lower[1]), (0.5, upper[1]), (0.0, upper[0]), (1.0, lower[2])):
        assert (end - share) ** 2 == pytest.approx(end * (1 - end) / n)
    assert lower[0] == 0 and upper[2] == 1 and upper[0] == pytest.approx(1 / 17)
    # a spread between data sets twice the binomial one is a quarter of the trials
    wide = share_interval([Estimate(0.5, 2 * binomial[1])], n)
    assert (wide[1][0] - 0.5) ** 2 == pytest.approx(wide[1][0] * (1 - wide[1][0]) / 4)


# -- the system --------------------------------------------------------------------------------
def test_normalise_only_rescales_the_temperature() -> None:
    data = ArchetypeDataset(200, 4, 10, 0.5, seed=0)
    calR = data.second_moment
    a = run_from_archetypes(data.unsupervised_couplings(), data, 0.2, 40, 0)
    b = run_from_archetypes(data.unsupervised_couplings(normalise=False), data, 0.2 * calR, 40, 0)
    np.testing.assert_allclose(a.m, b.m, atol=0.01)
    np.testing.assert_allclose(a.energy * calR, b.energy, rtol=0.01)


def test_same_seed_same_bits() -> None:
    p = Params(n_spins=200)
    for name, value in concept_emergence.simulate(p, 3).items():
        assert float(value) == float(concept_emergence.simulate(p, 3)[name])
        assert float(value) != float(concept_emergence.simulate(p, 4)[name])


def test_theory_without_retrieval_is_flagged() -> None:
    found = concept_emergence.theory(Params(examples=5))
    assert {e.status for e in found.values()} == {"no retrieval state"}
    assert {e.status for e in concept_emergence.theory(Params()).values()} == {"ok"}


def test_figures_hold_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from thermolearn.systems.memory.concept_emergence import figures

    monkeypatch.setattr(figures, "_networks", lambda *a: np.array([[0.9, 0.3], [0.8, 0.2]]))
    rows = figure().rows
    points = [row for row in rows if row["kind"] == "simulation"]
    assert len(points) == 36 and all(row["seeds"] == 4 for row in points)
    assert {row["curve"] for row in rows if row["kind"] == "theory"} >= {"$r$ = 0.3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"load": 0.0}, "load"),
        ({"load": 0.0001}, "less than one"),
        ({"quality": 0.0}, r"quality r must be in \(0, 1\]"),
        ({"examples": 0}, "examples"),
        ({"examples": 1.5}, "examples"),
        ({"temperature": 0.0}, "temperature"),
        ({"n_spins": 10}, "n_spins"),
        ({"sweeps": 3}, "sweeps"),
    ],
)
def test_bad_parameters(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Params(**change)


def test_bad_calls() -> None:
    data = ArchetypeDataset(50, 2, 3, 0.5)
    with pytest.raises(ValueError, match="starts"):
        run_from_archetypes(data.unsupervised_couplings(), data, 0.1, 10, 0, starts=3)
    W = rbm_weights(data.all_examples(), 0.5, 0.5)
    for kwargs, message in (
        ({"sigma0": np.ones(49)}, "do not match"),
        ({"sigma0": np.zeros(50)}, "-1 and"),
        ({"T": 0.0}, "T must be"),
        ({"sweeps": 0}, "sweeps"),
        ({"warmup": 200}, "warmup"),
        ({"observe": np.ones(3)}, "observe"),
    ):
        with pytest.raises(ValueError, match=message):
            block_gibbs(**({"weights": W, "sigma0": np.ones(50), "T": 0.5} | kwargs))  # type: ignore
    with pytest.raises(ValueError, match="T must be"):
        rbm_weights(data.all_examples(), 0.0, 0.5)
    with pytest.raises(ValueError, match="level"):
        retrieval_fraction(100, 0.02, 0.5, 10, 0.1, level=1.0)
