"""The Hopfield model: published numbers, the phase diagram, networks against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thermolearn.systems.memory.glauber import GlauberSampler
from thermolearn.systems.memory.hopfield import (
    HopfieldNetwork,
    Params,
    hebb,
    hopfield_capacity,
    hopfield_map,
    hopfield_phase_diagram,
    hopfield_theory,
    spinodal_temperature,
    theory,
    transition_temperature,
)
from thermolearn.systems.memory.hopfield.simulation import sampled_overlaps
from thermolearn.systems.memory.replica_symmetric import RSAssociative
from thermolearn.systems.memory.tap import tap


def network(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    xi = np.random.default_rng(seed).choice([-1, 1], size=(k, n))
    return hebb(xi), xi


def test_capacity() -> None:
    capacity = hopfield_capacity()
    assert float(capacity.alpha_c) == pytest.approx(0.137905566, abs=2e-9)
    assert float(capacity.m_c) == pytest.approx(0.967417, abs=1e-6)
    assert float(capacity.alpha_1) == pytest.approx(0.05185, abs=1e-4)
    # the general solver finds the same end
    assert hopfield_theory(0.13790, 0).branch == "retrieval"
    assert hopfield_theory(0.13791, 0).branch == "spin_glass"


@pytest.mark.parametrize(
    ("alpha", "retrieval", "glass"),
    [(0.05, -0.5250004, -0.5217223), (0.1, -0.5501542, -0.6206231)],
)
def test_ground_state_energies(alpha: float, retrieval: float, glass: float) -> None:
    assert hopfield_theory(alpha, 0).f == pytest.approx(retrieval, abs=1e-6)
    assert hopfield_theory(alpha, 0, "spin_glass").f == pytest.approx(glass, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "T", "m"),
    [(0.05, 0.2, 0.99888), (0.05, 0.4, 0.96619), (0.1, 0.2, 0.98909), (0.1, 0.0, 0.99800)],
)
def test_overlaps(alpha: float, T: float, m: float) -> None:
    assert hopfield_theory(alpha, T).m == pytest.approx(m, abs=6e-6)


# Published values to the digits that a bracketed search without the fold condition gives; a dense
# scan of the overlap equation confirms the last digits here.
@pytest.mark.parametrize(
    ("alpha", "T_M"),
    [(0.01, 0.801018), (0.03, 0.650417), (0.05, 0.542255), (0.1, 0.315432), (0.13, 0.148919)],
)
def test_end_of_retrieval(alpha: float, T_M: float) -> None:
    found = spinodal_temperature(alpha)
    assert float(found) == pytest.approx(T_M, abs=1e-6)
    below, above = (hopfield_theory(alpha, float(found) * x) for x in (1 - 1e-6, 1 + 1e-6))
    assert (below.branch, above.branch) == ("retrieval", "spin_glass")


def test_transition_lines() -> None:
    assert float(spinodal_temperature(0.05)) == pytest.approx(0.5423, abs=5e-4)
    for alpha, T_c in [(0.01, 0.72162), (0.03, 0.47879)]:
        found = transition_temperature(alpha)
        assert found is not None and float(found) == pytest.approx(T_c, abs=1e-5)
        gap = hopfield_theory(alpha, float(found)).f
        gap -= hopfield_theory(alpha, float(found), "spin_glass").f
        assert abs(gap) < 1e-9
    diagram = hopfield_phase_diagram([0.001, 0.03, 0.06, 0.137, 0.2])
    # known: T_M = 1 - 1.95 sqrt(alpha) at small load
    assert diagram.T_M[0] == pytest.approx(1 - 1.95 * math.sqrt(0.001), abs=2e-3)
    assert np.isnan(diagram.T_M[-1])
    assert np.isnan(diagram.T_c[2:]).all() and (diagram.T_c[:2] < diagram.T_M[:2]).all()
    assert "spin glass is lower" in diagram.status[2] and "above capacity" in diagram.status[4]
    np.testing.assert_allclose(diagram.T_g, 1 + np.sqrt(diagram.alphas))
    assert transition_temperature(0.06) is None


def test_retrieval_is_reentrant() -> None:
    # known: the negative entropy of the replica-symmetric states bends both lines back at low T
    end = spinodal_temperature(0.138)
    assert float(end) == pytest.approx(0.041606, abs=1e-6) and "reentrant" in end.note
    lower = float(end.note.split()[-1])
    for T, branch in ((lower - 1e-5, "spin_glass"), (lower + 1e-5, "retrieval")):
        assert hopfield_theory(0.138, T).branch == branch
    assert 0.0229 < float(spinodal_temperature(0.138188)) < 0.03
    with pytest.raises(ValueError, match="every temperature"):
        spinodal_temperature(0.1382)
    T_c = transition_temperature(0.0525)
    assert T_c is not None and float(T_c) == pytest.approx(0.14388, abs=1e-5)
    assert float(T_c.note.split()[-1]) == pytest.approx(0.0254957, abs=1e-6)
    assert transition_temperature(0.0535) is None
    diagram = hopfield_phase_diagram([0.0525, 0.138])
    assert all("reentrant" in status for status in diagram.status)


def test_map_agrees_with_the_lines() -> None:
    loads, heats = np.linspace(0.01, 0.15, 8), np.linspace(0.03, 1.2, 9)
    cells = hopfield_map(loads, heats)
    assert (cells.phase != "not converged").all()
    for column, alpha in enumerate(loads):
        end = float(spinodal_temperature(alpha)) if alpha < 0.1379 else 0.0
        found = cells.overlap[:, column] > 0
        np.testing.assert_array_equal(found, heats < end)
        T_c = transition_temperature(alpha)
        stable = cells.phase[:, column] == "retrieval"
        np.testing.assert_array_equal(stable, heats < (float(T_c) if T_c else 0.0))
        hot = cells.phase[:, column] == "paramagnet"
        np.testing.assert_array_equal(hot, heats > 1 + math.sqrt(alpha))


def test_networks_agree_with_theory_at_two_thousand_spins() -> None:
    runs = [sampled_overlaps(2000, 0.05, 0.4, 200, seed) for seed in range(5)]
    m, q, _ = np.mean(runs, axis=0)
    state = hopfield_theory(0.05, 0.4)
    assert abs(m - state.m) < 0.006
    assert abs(q - state.q) < 0.01


def test_zero_temperature_and_above_capacity() -> None:
    final = []
    for alpha, seeds in ((0.1, 3), (0.25, 3)):
        overlaps = []
        for seed in range(seeds):
            J, xi = network(2000, round(alpha * 2000), seed)
            run = GlauberSampler(J).run(xi[0], 0.0, 200, seed)
            assert run.converged.all()
            overlaps.append(float(xi[0] @ run.spins[0]) / 2000)
        final.append(np.mean(overlaps))
    assert final[0] == pytest.approx(hopfield_theory(0.1, 0).m, abs=0.005)
    assert 0.05 < final[1] < 0.5  # a remanent overlap, not zero


@pytest.mark.parametrize(("alpha", "delta", "T"), [(0.05, 0.0, 0.4), (0.03, 0.1, 0.2)])
def test_tap_fixed_points_are_the_replica_symmetric_state(
    alpha: float, delta: float, T: float
) -> None:
    state = RSAssociative([(alpha, 1.0)], delta=delta).solve(T)
    overlaps = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        xi = rng.choice([-1.0, 1.0], size=(round(alpha * 2000), 2000))
        J = xi.T @ xi / 2000
        noise = rng.normal(size=J.shape) * math.sqrt(delta / 2000 / 2)
        point = tap(J + noise + noise.T, xi[0], T, [(alpha, 1.0)], delta)
        overlaps.append([xi[0] @ point.x / 2000, point.x @ point.x / 2000])
    m, q = np.mean(overlaps, axis=0)
    error = np.std(overlaps, axis=0, ddof=1) / math.sqrt(3)
    assert abs(m - state.m) < max(4 * error[0], 0.004)
    assert abs(q - state.q) < max(4 * error[1], 0.006)


def test_recall() -> None:
    xi = np.random.default_rng(0).choice([-1, 1], size=(20, 500))
    memory = HopfieldNetwork().fit(xi)
    cues = xi[:5].copy()
    cues[:, :100] *= -1
    recall = memory.recall(cues)
    assert recall.pattern.tolist() == [0, 1, 2, 3, 4]
    assert recall.converged.all() and (np.diag(recall.overlaps) > 0.98).all()
    assert (memory.recall(cues, threads=2).states == recall.states).all()
    warm = HopfieldNetwork(T=0.3, sweeps=100).fit(xi).recall(-xi[0])
    assert warm.pattern[0] == 0 and warm.overlaps[0, 0] < -0.9 and warm.converged[0]


def test_what_is_not_recalled_is_not_named() -> None:
    rng = np.random.default_rng(1)
    with pytest.warns(UserWarning, match="recall no random pattern"):
        crowded = HopfieldNetwork().fit(rng.choice([-1, 1], size=(60, 50)))
    assert (crowded.recall(rng.choice([-1, 1], size=(20, 50))).pattern == -1).mean() > 0.8
    with pytest.warns(UserWarning, match="lower T"):
        hot = HopfieldNetwork(T=1.5).fit(rng.choice([-1, 1], size=(3, 50)))
    assert hot.recall(hot.patterns_[0]).pattern[0] == -1
    # a few sweeps do not leave a metastable state
    xi = rng.choice([-1, 1], size=(100, 500))
    with pytest.warns(UserWarning):
        short = HopfieldNetwork(T=0.6, sweeps=4).fit(xi).recall(xi[:10])
    assert not short.converged.all()


def test_sampler_traces_and_bars() -> None:
    J, xi = network(400, 12, 1)
    run = GlauberSampler(J).run(np.stack([xi[0]] * 4), 0.4, 300, 5, observe=xi[:2], threads=2)
    again = GlauberSampler(J).run(np.stack([xi[0]] * 4), 0.4, 300, 5, observe=xi[:2])
    assert (run.spins == again.spins).all()
    assert run.overlaps is not None and run.overlaps.shape == (4, 300, 2)
    m = run.mean_overlap()
    direct = run.mean_spins @ xi[0] / 400
    assert float(m) == pytest.approx(direct.mean(), abs=1e-12)
    assert abs(float(m) - hopfield_theory(0.03, 0.4).m) < 0.02
    assert 0 < float(run.mean_energy().stderr) < 0.005
    schedule = np.linspace(1.5, 0, 60)
    cooled = GlauberSampler(J).run(np.stack([xi[0]] * 3), schedule, 60, 6)
    last = np.array([row[np.isfinite(row)][-1] for row in cooled.energy])
    assert (last < run.energy[:, -50:].mean()).all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: hopfield_theory(0, 0.1), "alpha"),
        (lambda: hopfield_theory(-0.1, 0.1), "alpha"),
        (lambda: hopfield_theory(0.1, -0.1), "T must"),
        (lambda: spinodal_temperature(0.2), "above capacity"),
        (lambda: hopfield_phase_diagram([]), "alphas"),
        (lambda: hopfield_map([0.1], [0.5, 0.2]), "ascend"),
        (lambda: hebb(np.zeros((2, 5))), "binarize"),
        (lambda: HopfieldNetwork().recall(np.ones(5)), "fit"),
        (lambda: HopfieldNetwork(T=-1), "T must"),
        (lambda: Params(load=0.001, n_spins=100), "less than one pattern"),
        (lambda: Params(temperature=0.0), "temperature"),
        (lambda: GlauberSampler(np.ones((3, 3))), "diagonal"),
        (lambda: GlauberSampler(np.triu(np.ones((3, 3)), 1)), "symmetric"),
        (lambda: GlauberSampler(np.full((3, 3), np.nan)), "NaN"),
        (lambda: GlauberSampler(np.zeros((3, 2))), "square"),
        (lambda: GlauberSampler(np.zeros((3, 3))).run(np.zeros(3), 1.0), "sigma0"),
        (lambda: GlauberSampler(np.zeros((3, 3))).run(np.ones(3), -1.0), "T must"),
        (lambda: GlauberSampler(np.zeros((3, 3))).run(np.ones(4), 1.0), "3 spins"),
        (lambda: GlauberSampler(np.zeros((3, 3))).run(np.ones(3), 1.0, 10, warmup=10), "warmup"),
        (lambda: GlauberSampler(np.zeros((3, 3)), np.ones(2)), "field"),
        (lambda: GlauberSampler(np.zeros((3, 3))).run(np.ones(3), 1.0, threads=0), "threads"),
        (lambda: HopfieldNetwork().fit(np.ones((1, 8))).recall(np.ones(7)), "x must be cues"),
        (lambda: tap(np.eye(3), np.ones(3), 0.0, []), "T must"),
        (lambda: tap(np.eye(3), 2 * np.ones(3), 1.0, []), "x0"),
    ],
)
def test_bad_input_is_named(call, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()


def test_theory_says_where_it_does_not_hold() -> None:
    assert theory(Params())["overlap"].status == "ok"
    assert theory(Params(load=0.2))["overlap"].status == "no retrieval state"


@pytest.mark.parametrize(("alpha", "T"), [("a", 0.1), (np.array([0.1, 0.2]), 0.1), (0.1, [0.1])])
def test_one_load_and_one_temperature_at_a_time(alpha, T) -> None:
    with pytest.raises(TypeError, match="one number"):
        hopfield_theory(alpha, T)
