"""The decimator: exact ground states, the published cases, its failures told, and bad input."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from sklearn.base import clone

from thermolearn.core.errors import ConvergenceError, SamplerWarning
from thermolearn.systems.memory.decimation import (
    Decimator,
    SymmetricFactorisation,
    acceptance_energy,
    decimation_theory,
    estimate_rank,
    factorization_error,
    match_columns,
)
from thermolearn.systems.memory.glauber import GlauberSampler
from thermolearn.systems.memory.tap import tap


def factorize(n: int, alpha: float, delta: float, seed: int, **options):
    X, Y = SymmetricFactorisation(n, alpha, delta).sample(seed)
    model = Decimator(random_state=seed, **options).fit(Y, X.shape[1])
    return X, Y, model, match_columns(X, model.factors_)


@pytest.mark.parametrize("seed", range(4))
def test_one_column_is_the_ground_state(seed: int):
    Y = np.random.default_rng(seed).standard_normal((12, 12))
    Y = Y + Y.T
    J = Y / math.sqrt(12)
    np.fill_diagonal(J, 0)
    states = np.array(list(itertools.product([-1, 1], repeat=12)))
    energies = -np.einsum("si,ij,sj->s", states, J, states) / 24
    model = Decimator(threshold=-10.0, max_restart=20, random_state=seed)
    with pytest.warns(SamplerWarning, match="1 of 1 columns"):
        model.fit(Y, 1)
    assert model.energies_[0] == pytest.approx(energies.min(), abs=1e-6)
    assert abs(model.factors_[:, 0] @ states[energies.argmin()]) == 12
    assert model.restarts_[0] >= 20


def test_without_noise_all_columns_are_exact():
    _, Y, model, matched = factorize(300, 0.03, 0.0, 0)
    assert (matched.overlaps == 1).all() and model.converged_
    assert model.residual_ == pytest.approx(0.0, abs=1e-12)
    off = ~np.eye(300, dtype=bool)
    assert model.reconstruct()[off] == pytest.approx(Y[off], abs=1e-9)


@pytest.mark.parametrize(("n", "seed"), [(300, 0), (600, 0), (600, 1)])
def test_search_finds_every_column(n: int, seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X, _, model, matched = factorize(n, 0.03, 0.05, seed)
    assert len(matched.overlaps) == round(0.03 * n)
    assert matched.overlaps.min() >= 0.98
    assert model.converged_ and model.accepted_.all()
    assert (model.energies_ < model.thresholds_).all()
    assert model.restarts_.mean() < 3
    assert set(np.unique(model.factors_)) == {-1.0, 1.0}
    assert factorization_error(X, model.factors_) < 3e-4


def test_search_at_stronger_noise():
    # theory: mean overlap 0.9962
    _, _, model, matched = factorize(600, 0.03, 0.1, 0)
    assert model.converged_
    assert matched.overlaps.mean() == pytest.approx(0.9962, abs=0.0025)
    assert model.residual_ == pytest.approx(0.1, abs=0.003)


@pytest.mark.slow
def test_search_next_to_the_glass_is_saved_by_the_second_look():
    # at N = 600, alpha = Delta = 0.05 glass states compete: the first pass accepts a wrong column,
    # which its energy betrays when all others are off
    X, _, model, matched = factorize(600, 0.05, 0.05, 0)
    assert model.converged_ and matched.overlaps.min() > 0.98
    theory = float(decimation_theory(0.05, 0.05).mse)
    assert factorization_error(X, model.factors_) < 4 * theory
    assert model.residual_ == pytest.approx(0.05, abs=0.001)


def test_search_that_fails_says_which_columns():
    X, Y = SymmetricFactorisation(300, 0.1, 0.02).sample(0)
    model = Decimator(max_restart=5, random_state=0)
    with pytest.warns(SamplerWarning, match=r"of 30 columns were not found: max_restart = 5"):
        model.fit(Y, 30)
    assert not model.converged_
    matched = match_columns(X, model.factors_)
    right = np.zeros(30, dtype=bool)
    right[matched.found] = matched.overlaps > 0.9
    assert not right.all()
    assert not model.accepted_[~right].any()  # what is wrong is flagged
    assert model.restarts_.max() >= 5
    assert model.residual_ - 0.02 > 10 * model.delta_.stderr


@pytest.mark.parametrize("delta", [None, 0.1])
@pytest.mark.parametrize("rank", [8, 14])
def test_rank_too_low_is_told(rank: int, delta: float | None):
    _, Y = SymmetricFactorisation(300, 0.05, 0.1).sample(0)  # 15 columns
    model = Decimator(delta=delta, max_restart=20, random_state=0)
    with pytest.warns(SamplerWarning, match=f"found a state of energy.*rank = {rank} is too low"):
        model.fit(Y, rank)
    assert model.accepted_.all() and not model.converged_
    left = model.columns_left_
    assert 0.7 * (15 - rank) < float(left) < 15 - rank + 4 * left.stderr
    assert model.factors_.shape == (300, rank)


def test_delta_too_low_is_told():
    _, Y = SymmetricFactorisation(300, 0.03, 0.1).sample(0)
    with pytest.warns(SamplerWarning, match=r"above delta = 0.08: either delta is too low"):
        assert not Decimator(delta=0.08).fit(Y, 9).converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Decimator(delta=0.1).fit(Y, 9).converged_


RANKS = [
    (100, 3, 0.1),
    (300, 6, 0.15),
    (200, 10, 0.05),
    (300, 1, 0.1),
    (300, 9, 0.1),
    (400, 8, 0.0),
]


@pytest.mark.parametrize(("n", "rank", "delta"), RANKS)
def test_rank_is_found(n: int, rank: int, delta: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2):
            X, Y = SymmetricFactorisation(n, rank / n, delta).sample(seed)
            model = Decimator(random_state=seed).fit(Y)
            assert model.rank_ == rank and model.factors_.shape == (n, rank)
            assert model.converged_ and model.accepted_.all()
            assert match_columns(X, model.factors_).overlaps.min() > 0.8
            assert abs(float(model.columns_left_)) < 0.5
            assert abs(float(model.delta_) - delta) <= 4 * model.delta_.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rank", "delta"), [(300, 15, 0.1), (600, 18, 0.1), (600, 30, 0.05)])
def test_rank_is_found_next_to_the_glass(n: int, rank: int, delta: float):
    for seed in range(1 if rank == 30 else 3):
        X, Y = SymmetricFactorisation(n, rank / n, delta).sample(seed)
        model = Decimator(random_state=seed).fit(Y)
        assert model.rank_ == rank and model.converged_
        assert match_columns(X, model.factors_).overlaps.min() > 0.9


@pytest.mark.parametrize(("n", "delta"), [(100, 0.1), (100, 0.3), (300, 0.4)])
def test_pure_noise_has_no_columns(n: int, delta: float):
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(4):
            Z = rng.standard_normal((n, n))
            model = Decimator(random_state=seed).fit(math.sqrt(delta / 2) * (Z + Z.T))
            assert model.rank_ == 0 and model.factors_.shape == (n, 0) and model.converged_
    assert (model.reconstruct() == 0).all()


def test_noise_beyond_retrieval_gives_no_verdict():
    Z = np.random.default_rng(0).standard_normal((200, 200))
    with pytest.warns(SamplerWarning, match="no retrieval state"):
        model = Decimator().fit((Z + Z.T) / math.sqrt(2))
    assert model.rank_ == 0 and not model.converged_


def test_max_rank_that_is_reached_is_told():
    _, Y = SymmetricFactorisation(300, 0.03, 0.1).sample(0)
    with pytest.warns(SamplerWarning, match="max_rank = 6 is too low"):
        model = Decimator(max_rank=6).fit(Y)
    assert model.rank_ == 6 and not model.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Decimator(max_rank=9).fit(Y).converged_


def test_search_that_ends_too_early_is_told():
    _, Y = SymmetricFactorisation(300, 0.03, 0.1).sample(0)
    with pytest.warns(SamplerWarning, match="ended too early, at 0 columns"):
        model = Decimator(threshold=-0.9, max_restart=1).fit(Y)
    assert model.rank_ == 0 and not model.converged_
    assert abs(float(model.columns_left_) - 9) < 4 * model.columns_left_.stderr


def test_mean_spins_leave_no_column_either():
    _, Y = SymmetricFactorisation(400, 0.02, 0.2).sample(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Decimator(T=0.3, delta=0.2).fit(Y)
    assert model.rank_ == 8 and model.converged_
    assert model.residual_ < 0.2  # mean spins lean on the noise


@pytest.mark.parametrize(
    ("n", "rank", "delta"), [(300, 15, 0.1), (300, 30, 0.02), (150, 3, 0.5), (200, 0, 0.3)]
)
def test_third_moment_counts_columns_with_its_error(n: int, rank: int, delta: float):
    rng, z = np.random.default_rng(0), []
    for _ in range(60):
        X = rng.choice([-1.0, 1.0], (n, rank))
        Z = rng.standard_normal((n, n))
        Y = X @ X.T / math.sqrt(n) + math.sqrt(delta / 2) * (Z + Z.T)
        count = estimate_rank(Y)
        z.append((float(count) - rank) / count.stderr)
    assert abs(np.mean(z)) < 4 / math.sqrt(60)
    assert 0.65 < np.std(z) < 1.35


def test_third_moment_is_the_sum_over_triangles():
    Y = np.random.default_rng(0).standard_normal((7, 7))
    Y = Y + Y.T
    triangles = (Y[i, j] * Y[j, k] * Y[k, i] for i, j, k in itertools.combinations(range(7), 3))
    exact = 6 * sum(triangles) / 7**1.5 / (6 / 7) / (5 / 7)
    assert float(estimate_rank(Y)) == pytest.approx(exact, rel=1e-12)
    with pytest.raises(ValueError, match="3 rows"):
        estimate_rank(Y[:2, :2])


def test_warning_names_column_and_gap():
    _, Y = SymmetricFactorisation(100, 0.03, 0.1).sample(0)
    model = Decimator(threshold=-0.9, max_restart=1, random_state=0)
    with pytest.warns(SamplerWarning) as record:
        model.fit(Y, 3)
    (text,) = [str(w.message) for w in record]
    gaps = model.energies_ + 0.9
    assert f"0 ({gaps[0]:.3g}), 1 ({gaps[1]:.3g}), 2 ({gaps[2]:.3g})" in text
    assert not model.accepted_.any() and not model.converged_


def test_noise_is_estimated_with_its_error():
    z = []
    for seed in range(12):
        _, Y = SymmetricFactorisation(200, 0.05, 0.2).sample(seed)
        variance = (_off_diagonal(Y) ** 2).sum() / 199
        delta = Decimator()._noise(variance, 200, 10)
        z.append((float(delta) - 0.2) / delta.stderr)
    assert abs(np.mean(z)) < 4 / math.sqrt(12)
    assert 0.4 < np.std(z) < 1.8
    _, Y = SymmetricFactorisation(100, 0.03, 0.05).sample(0)
    given = Decimator(delta=0.07).fit(Y, 3)
    assert float(given.delta_) == 0.07 and given.delta_.stderr == 0


def _off_diagonal(Y: np.ndarray) -> np.ndarray:
    J = Y / math.sqrt(len(Y))
    np.fill_diagonal(J, 0)
    return J


@pytest.mark.parametrize("average", ["sweeps", "tap"])
def test_finite_temperature_columns_have_the_overlap_of_theory(average: str):
    p, q = [], []
    for seed in range(4):
        _, _, model, matched = factorize(400, 0.03, 0.1, seed, T=0.2, average=average)
        p.append(matched.overlaps.mean())
        q.append((model.factors_**2).mean())
    theory = decimation_theory(0.03, 0.1, 0.2, steps=12)
    assert np.mean(p) == pytest.approx(theory.average(theory.p), abs=0.005)
    assert np.mean(q) == pytest.approx(theory.average(theory.q), abs=0.005)


def test_tap_needs_a_start_near_a_column():
    n, delta, T = 1000, 0.1, 0.2
    X, Y = SymmetricFactorisation(n, 0.03, delta).sample(0)
    J = _off_diagonal(Y) + 0.03 * np.eye(n)
    rng = np.random.default_rng(0)
    for column in range(3):
        start = np.where(rng.random(n) < 0.65, X[:, column], -X[:, column])  # overlap 0.3
        point = tap(J, 0.9 * start, T, [(0.03, 1.0)], delta, max_iter=300)
        assert 20 < point.iterations < 200
        assert X[:, column] @ point.x / n == pytest.approx(0.983, abs=0.012)
    lost = 0
    for seed in range(3):
        _, Y = SymmetricFactorisation(n, 0.03, delta).sample(seed)
        J = _off_diagonal(Y) + 0.03 * np.eye(n)
        for _ in range(2):
            try:
                tap(J, rng.uniform(-0.5, 0.5, n), T, [(0.03, 1.0)], delta, max_iter=300)
            except ConvergenceError:
                lost += 1
    assert lost >= 3  # from nowhere it is a matter of luck


def test_planted_start():
    X, Y = SymmetricFactorisation(400, 0.03, 0.1).sample(0)
    model = Decimator().fit(Y, 12, start=X)
    overlaps = (X * model.factors_).mean(0)
    assert overlaps.min() > 0.97 and (model.restarts_ == 0).all()
    assert Decimator().fit(Y, start=X).rank_ == 12
    for wrong in (X[:, :5], X[:5], X[:, 0], 2 * X):
        with pytest.raises(ValueError, match="start"):
            Decimator().fit(Y, 12, start=wrong)


def test_interrupt_keeps_what_was_found(monkeypatch):
    X, Y = SymmetricFactorisation(300, 0.03, 0.05).sample(0)
    run, calls = GlauberSampler.run, itertools.count()

    def interrupted(self, *arguments, **options):
        if next(calls) == 9:
            raise KeyboardInterrupt
        return run(self, *arguments, **options)

    monkeypatch.setattr(GlauberSampler, "run", interrupted)
    model = Decimator(random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(Y, 9)
    assert 1 <= model.factors_.shape[1] < 9 and not model.converged_
    assert len(model.energies_) == len(model.accepted_) == model.factors_.shape[1]
    assert match_columns(X, model.factors_).overlaps.min() > 0.98


def test_same_seed_same_columns_and_sklearn_conventions():
    _, Y = SymmetricFactorisation(150, 0.03, 0.05).sample(0)
    model = Decimator(random_state=3)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    first = model.fit(Y, 4).factors_
    assert (copy.fit(Y, 4).factors_ == first).all()
    assert model.fit(Y, 4) is model


def test_thresholds_follow_theory():
    for alpha, delta in [(0.03, 0.05), (0.03, 0.1), (0.05, 0.05)]:
        assert -0.52 < acceptance_energy(alpha, delta, 600) < -0.46
    # where the glass is the limit it falls behind as columns are taken off
    assert acceptance_energy(0.02, 0.05, 600) > acceptance_energy(0.05, 0.05, 600) + 0.02
    # where it is not, the scatter of columns is
    assert acceptance_energy(0.01, 0.05, 2500) == pytest.approx(
        -0.5 + 4 * math.sqrt(0.06 / 5000), abs=1e-4
    )
    assert acceptance_energy(0.2, 0.05, 600) == -math.inf
    assert acceptance_energy(0.0, 0.0, 600) == -0.25


@pytest.mark.filterwarnings("ignore:.*columns were not found")
def test_out_of_reach_is_told():
    _, Y = SymmetricFactorisation(60, 0.2, 0.05).sample(0)
    with pytest.warns(SamplerWarning) as record:
        model = Decimator(max_restart=0, schedule=10).fit(Y, 12)
    assert any("above storage capacity: decimation cannot start" in str(w.message) for w in record)
    assert not model.accepted_.any()
    _, Y = SymmetricFactorisation(100, 0.04, 0.6).sample(0)
    with pytest.warns(SamplerWarning, match="no retrieval state"):
        Decimator(max_restart=0, schedule=10).fit(Y, 4)
    _, Y = SymmetricFactorisation(100, 0.02, 0.0).sample(0)
    with pytest.warns(SamplerWarning, match="below rank / N"):
        Decimator(max_restart=0, schedule=10).fit(Y, 10)


def test_bad_input_is_named():
    _, Y = SymmetricFactorisation(60, 0.05, 0.05).sample(0)
    bent = Y.copy()
    bent[3, 4] += 1e-6
    with pytest.raises(ValueError, match="not symmetric"):
        Decimator().fit(bent, 3)
    bent[3, 4] = bent[4, 3] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        Decimator().fit(bent, 3)
    with pytest.raises(ValueError, match="square"):
        Decimator().fit(Y[:-1], 3)
    for name, options in {
        "delta": {"delta": -0.1},
        "T must": {"T": -1.0},
        "max_restart": {"max_restart": -1},
        "max_restart must": {"max_restart": 2.5},
        "max_rank": {"max_rank": 0},
        "max_rank must": {"max_rank": 60},
        "random_state": {"random_state": None},
        "T must be": {"T": "0"},
        "sweeps must": {"sweeps": 300.5},
        "delta must": {"delta": "0.1"},
        "average": {"average": "amp"},
        "sweeps": {"sweeps": 2},
        "threshold": {"threshold": "energy"},
        "schedule": {"schedule": [1.0, -0.5]},
    }.items():
        with pytest.raises(ValueError, match=name):
            Decimator(**options).fit(Y, 3)
    with pytest.raises(ValueError, match="schedule"):
        Decimator(schedule=1).fit(Y, 3)
    for rank in (0, 60, 2.5, True):
        with pytest.raises(ValueError, match="rank"):
            Decimator().fit(Y, rank)


def test_complex_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="complex"):
        Decimator().fit(np.eye(50) * 1j, 3)
