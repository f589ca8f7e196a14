"""Replica-symmetric theory of unlabeled examples: limits, an independent oracle, known numbers."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from thermolearn.systems.memory import example_noise
from thermolearn.systems.memory.concept_emergence import (
    ArchetypeDataset,
    ExampleState,
    critical_sample_size,
    load_capacity,
    phase_diagram,
    small_quality_constant,
    spectral_sample_size,
    subspace_overlap,
    supervised_engine,
    unsupervised_engine,
    unsupervised_theory,
)
from thermolearn.systems.memory.hopfield import spinodal_temperature
from thermolearn.systems.memory.replica_symmetric import RSAssociative

CRITICAL = {
    ("unsupervised", 0.01): (71, 26, 13, 7, 3),
    ("unsupervised", 0.02): (113, 38, 18, 9, 3),
    ("unsupervised", 0.05): (319, 94, 41, 22, 7),
    ("supervised", 0.01): (55, 23, 12, 7, 3),
    ("supervised", 0.02): (74, 31, 16, 9, 3),
    ("supervised", 0.05): (153, 65, 34, 19, 6),
}
QUALITIES = (0.2, 0.3, 0.4, 0.5, 0.7)


# -- exact truth -----------------------------------------------------------------------------
@pytest.mark.parametrize("T", [0.0, 0.3])
@pytest.mark.parametrize("M", [1, 2, 7, 2000])
def test_clean_examples_are_the_hopfield_model(M: int, T: float) -> None:
    known = RSAssociative([(0.05, 1.0)]).solve(T)
    for kind in (unsupervised_engine, supervised_engine):
        state = kind(0.05, 1.0, M).solve(T)
        for name in ("m", "n", "q", "f", "u"):
            assert getattr(state, name) == pytest.approx(getattr(known, name), abs=1e-9)


def test_many_examples_are_the_hopfield_model() -> None:
    known = RSAssociative([(0.05, 1.0)]).solve(0.3).m
    errors = [abs(unsupervised_theory(0.05, 0.4, M, 0.3).m - known) for M in (10**4, 10**5, 10**6)]
    assert errors[2] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_modes_are_the_spectrum_of_an_archetype() -> None:
    """Eigenvalues of the covariance of the M examples: one calR M, M - 1 times 1 - r^2."""
    r, M = 0.4, 6
    covariance = (1 - r * r) * np.eye(M) + r * r * np.ones((M, M))
    calR = r * r + (1 - r * r) / M
    engine = unsupervised_engine(0.03, r, M)
    expected = np.sort(np.linalg.eigvalsh(covariance)) / (M * calR)
    modes = np.repeat(engine.lam, np.round(engine.w / 0.03).astype(int))
    np.testing.assert_allclose(np.sort(modes), expected, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.005, 0.2), st.floats(0.1, 1.0), st.integers(1, 300), st.sampled_from((0.0, 0.2)))
@example(0.125, 1 - 2**-53, 1, 0.0)  # (1 + r) / 2 rounds to 1
def test_states_are_solutions_in_their_range(alpha: float, r: float, M: int, T: float) -> None:
    state = unsupervised_theory(alpha, r, M, T)
    assert state.converged and state.residual < 1e-9
    assert 0 <= state.m <= 1 and 0 <= state.q <= 1 and 0 <= state.n <= 1
    assert state.C < 1  # lambda_max = 1
    assert unsupervised_theory(alpha, r, M, T, branch="spin_glass").n == 0


# -- independent oracles ---------------------------------------------------------------------
def test_the_saddle_point_by_plain_quadrature() -> None:
    """The equations written again, with adaptive quadrature."""
    alpha, r, M, T = 0.05, 0.5, 30, 0.25
    state = unsupervised_theory(alpha, r, M, T)
    assert state.m > 0.8
    k = np.arange(M + 1)
    weight = special.binom(M, k) * 0.75**k * 0.25 ** (M - k)
    chi = (2 * k - M) / M
    calR = r * r + (1 - r * r) / M

    def mean(power: int, blur: np.ndarray) -> float:
        def integrand(z: float) -> float:
            t = np.tanh((state.n * chi / calR + math.sqrt(state.R) * z) / T) ** power
            return float((weight * blur) @ t) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        return integrate.quad(integrand, -9, 9, limit=400, epsabs=1e-12, epsrel=1e-12)[0]

    assert state.m == pytest.approx(mean(1, np.ones(M + 1)), abs=1e-9)
    assert state.n == pytest.approx(mean(1, chi), abs=1e-9)
    assert state.q == pytest.approx(mean(2, np.ones(M + 1)), abs=1e-9)
    noise = (1 - r * r) / (M * calR)
    C = (1 - state.q) / T
    slope = 1 / (1 - C) ** 2 + (M - 1) * noise**2 / (1 - noise * C) ** 2
    assert alpha * state.q * slope == pytest.approx(state.R, rel=1e-9)


@pytest.mark.parametrize("T", [0.0, 0.1])
def test_overlap_with_the_mean_example_at_many_examples(T: float) -> None:
    """n = r m / (1 - (1 - r^2) s C / M), by parts in a Gaussian blur: exact above M = 20 000."""
    for alpha, r, M, error in ((1e-4, 0.02, 30_000, 1e-9), (0.02, 0.3, 80, 2e-3)):
        state = unsupervised_theory(alpha, r, M, T)
        s = 1 / (r * r + (1 - r * r) / M)
        expected = r * state.m / (1 - (1 - r * r) * s * state.C / M)
        assert state.n == pytest.approx(expected, rel=error)
        assert state.n > r * state.m * (1 + 2 * error)  # the correction is seen


def test_capacity_is_where_the_solver_loses_retrieval() -> None:
    for kind, engine in (("unsupervised", unsupervised_engine), ("supervised", supervised_engine)):
        for T in (0.0, 0.2):
            capacity = load_capacity(kind, 0.5, 50, T)  # type: ignore[arg-type]
            assert engine(capacity * (1 - 3e-6), 0.5, 50).solve(T).n > 0.1
            assert engine(capacity * (1 + 3e-6), 0.5, 50).solve(T).n == 0


def test_capacity_of_clean_examples() -> None:
    assert load_capacity("unsupervised", 1.0, 3, 0.0) == pytest.approx(0.137905566, abs=1e-8)
    # T_M(0.05) of the Hopfield model, read the other way
    end = float(spinodal_temperature(0.05))
    assert load_capacity("supervised", 1.0, 1, end) == pytest.approx(0.05, abs=1e-6)
    assert load_capacity("unsupervised", 0.5, 20, 1.0) == 0.0


def test_small_quality_constant_is_a_spinodal_of_disorder() -> None:
    x = small_quality_constant(0.05)
    for factor, alive in ((1.001, True), (0.999, False)):
        state = RSAssociative([(0.05, 1.0)], delta=0.05 / (x * factor)).solve(0.0)
        assert (state.n > 0) is alive
    # and the limit of the finite-r engine at M = x / r^4
    r = 0.02
    for factor, alive in ((1.1, True), (0.95, False)):
        assert (unsupervised_theory(0.05, r, round(factor * x / r**4), 0.0).n > 0) is alive


def test_example_state_by_a_plain_iteration() -> None:
    """The three equations as a damped iteration over all patterns of M = 3 examples."""
    alpha, r, M = 0.01, 0.5, 3
    calR = r * r + (1 - r * r) / M
    chi = np.array(np.meshgrid(*[[1.0, -1.0]] * M)).reshape(M, -1)
    weight = np.prod((1 + r * chi) / 2, axis=0)
    noise = (1 - r * r) / (M * calR)

    def equations(x: np.ndarray) -> np.ndarray:
        n, C = x[:M], x[M]
        R = alpha * (1 / (1 - C) ** 2 + (M - 1) * noise**2 / (1 - noise * C) ** 2)
        h = n @ chi / (M * calR) / math.sqrt(2 * R)
        gauss = math.sqrt(2 / (math.pi * R)) * weight @ np.exp(-h * h)
        return np.append(chi @ (weight * special.erf(h)), gauss)

    x = np.array([1.0, r * r, r * r, 1e-3])
    for _ in range(400):
        x = 0.5 * x + 0.5 * equations(x)
    state = unsupervised_theory(alpha, r, M, 0.0, branch="example")
    assert isinstance(state, ExampleState) and state.branch == "example"
    np.testing.assert_allclose(
        [state.n_example, state.n_other, state.n_other, state.C], x, atol=1e-10
    )
    assert state.n == pytest.approx(x[:M].mean(), abs=1e-10)


def test_free_energy_of_an_example_is_stationary() -> None:
    """f of the symmetric solution of the example equations is that of the engine."""
    archetype = unsupervised_theory(0.005, 0.3, 20, 0.0, branch="example")
    assert archetype.f == unsupervised_theory(0.005, 0.3, 20, 0.0).f
    # one example is a Hopfield pattern
    single = unsupervised_theory(0.05, 0.3, 1, 0.0, branch="example")
    hopfield = RSAssociative([(0.05, 1.0)]).solve(0.0)
    assert isinstance(single, ExampleState)
    assert single.f == pytest.approx(hopfield.f, abs=1e-9)
    assert single.n_example == pytest.approx(hopfield.m, abs=1e-9)
    assert single.m == pytest.approx(0.3 * hopfield.m, abs=1e-9)


# -- known numbers ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("alpha", "r", "M", "T", "m", "n", "q"),
    [
        (0.02, 0.3, 20, 0.1, 0.0, 0.0, 0.915),
        (0.02, 0.3, 50, 0.1, 0.9127, 0.2937, 0.9616),
        (0.02, 0.3, 80, 0.1, 0.9733, 0.2980, 0.9830),
        (0.02, 0.3, 160, 0.1, 0.9972, 0.2997, 0.9972),
        (0.02, 0.3, 80, 0.0, 0.9774, 0.2986, 1.0),
        (0.05, 0.5, 40, 0.2, 0.9679, 0.4909, 0.9634),
        (0.02, 0.5, 20, 0.3, 0.9166, 0.4834, 0.8952),
    ],
)
def test_overlaps(alpha: float, r: float, M: int, T: float, m: float, n: float, q: float) -> None:
    state = unsupervised_theory(alpha, r, M, T)
    assert (state.m, state.n, state.q) == pytest.approx((m, n, q), abs=5e-4)


def test_energy() -> None:
    assert unsupervised_theory(0.05, 0.5, 40, 0.2).u == pytest.approx(-0.5553, abs=5e-5)


@pytest.mark.parametrize(("kind", "alpha"), CRITICAL)
def test_critical_sample_size(kind: str, alpha: float) -> None:
    for r, expected in zip(QUALITIES, CRITICAL[kind, alpha], strict=True):
        found = critical_sample_size(kind, alpha, r, 0.0)  # type: ignore[arg-type]
        assert abs(int(found) - expected) <= 1
        assert found.state and found.below and found.monotone
        assert found.below.m < 0.8 <= found.state.m


def test_temperature_hardly_changes_the_critical_size() -> None:
    assert int(critical_sample_size("unsupervised", 0.02, 0.3, 0.1)) == 37
    for alpha in (0.01, 0.02, 0.05):
        for r, cold in zip(QUALITIES[2:], CRITICAL["unsupervised", alpha][2:], strict=True):
            # m rises with M from there on, so two states bracket the critical size
            enough, short = (
                unsupervised_theory(alpha, r, M, 0.1) for M in (cold + 4, max(cold - 5, 1))
            )
            assert enough.m >= 0.8 and (cold <= 5 or short.m < 0.8), (alpha, r)


def test_labels_never_cost_examples() -> None:
    for alpha in (0.01, 0.02, 0.05):
        without, labels = CRITICAL["unsupervised", alpha], CRITICAL["supervised", alpha]
        assert all(a >= b for a, b in zip(without, labels, strict=True))


def test_no_number_of_examples_is_enough_above_capacity() -> None:
    found = critical_sample_size("unsupervised", 0.15, 0.5, 0.0)
    assert found.M is None and "no M suffices" in found.reason
    with pytest.raises(ValueError, match="no M suffices"):
        int(found)
    assert found.status == "no M suffices"
    # one example of r >= threshold is near enough to its archetype
    assert int(critical_sample_size("unsupervised", 0.01, 0.9, 0.0)) == 1


@pytest.mark.parametrize("T", [0.0, 0.1])
def test_beyond_what_is_searched_the_law_is_quoted(T: float) -> None:
    found = critical_sample_size("unsupervised", 0.02, 0.001, T)
    assert found.M is None and found.status == "too many examples"
    law, size = re.search(r"M_c = (\S+) / r\^4 .* gives (\S+) at", found.reason).groups()  # type: ignore[union-attr]
    # with chi = 1 the law is the spinodal, or the threshold, of a Hopfield model with disorder
    for factor, enough in ((0.96, False), (1.04, True)):
        delta = 0.02 / (factor * float(law))
        assert (RSAssociative([(0.02, 1.0)], delta=delta).solve(T).m >= 0.8) is enough
    assert float(size) == pytest.approx(float(law) * 1e12, rel=0.03)
    if T == 0:
        assert float(law) == pytest.approx(small_quality_constant(0.02), rel=0.03)


def test_the_law_joins_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        ("unsupervised", 0.02, 0.03),
        ("supervised", 1e-4, 0.01),
        ("unsupervised", 0.1378, 0.5),
    )
    for kind, alpha, r in cases:
        searched = int(critical_sample_size(kind, alpha, r, 0.0))  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(example_noise, "MOST_EXAMPLES", searched // 2)
            reason = critical_sample_size(kind, alpha, r, 0.0).reason  # type: ignore[arg-type]
        quoted = float(reason.split(" gives ")[1].split()[0])
        assert quoted == pytest.approx(searched, rel=0.06), (kind, alpha, r)
    # nor does a quality far out of reach overflow, or meet a field too steep for quadrature
    assert "e158" in critical_sample_size("unsupervised", 0.02, 1e-40, 0.1).reason


def test_broken_replica_symmetry_is_flagged() -> None:
    for T, r, status in ((0.1, 0.3, "ok"), (0.0, 0.3, "replica symmetry broken")):
        found = critical_sample_size("unsupervised", 0.02, r, T)
        assert found.state and found.status == status and (found.state.replicon < 0) is (T == 0)
    # at T > 0 too, where examples are poor
    poor = critical_sample_size("unsupervised", 0.02, 0.12, 0.1)
    assert poor.state and poor.status == "replica symmetry broken"
    assert -1 < poor.state.replicon < 0


@pytest.mark.parametrize(
    ("alpha", "x"), [(0.005, 0.0122), (0.01, 0.0283), (0.02, 0.0701), (0.05, 0.2915), (0.1, 1.629)]
)
def test_small_quality_law(alpha: float, x: float) -> None:
    assert small_quality_constant(alpha) == pytest.approx(x, abs=1e-3)


def test_the_small_quality_law_is_approached_slowly() -> None:
    assert 113 * 0.2**4 / small_quality_constant(0.02) == pytest.approx(2.6, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "r", "cold", "warm"),
    [
        ("unsupervised", 0.3, (0.00851, 0.02828, 0.05272, 0.10195), 0.02709),
        ("unsupervised", 0.5, (0.04767, 0.08554, 0.10761, 0.12938), 0.07698),
        ("supervised", 0.3, (0.01047, 0.03877, 0.07102, 0.11671), 0.03531),
        ("supervised", 0.5, (0.05307, 0.09262, 0.11303, 0.13126), 0.08229),
    ],
)
def test_load_capacity(kind: str, r: float, cold: tuple[float, ...], warm: float) -> None:
    for M, expected in zip((20, 50, 100, 400), cold, strict=True):
        found = load_capacity(kind, r, M, 0.0)  # type: ignore[arg-type]
        assert found == pytest.approx(expected, abs=1e-5)
    assert load_capacity(kind, r, 50, 0.2) == pytest.approx(warm, abs=1e-5)  # type: ignore[arg-type]


def test_example_branch() -> None:
    for alpha, n_example, m in ((0.005, 1.0, 0.3), (0.01, 0.9995, 0.3003)):
        state = unsupervised_theory(alpha, 0.3, 5, 0.0, branch="example")
        assert isinstance(state, ExampleState)
        assert (state.n_example, state.m) == pytest.approx((n_example, m), abs=1e-4)
    fallen = unsupervised_theory(0.005, 0.3, 20, 0.0, branch="example")
    assert fallen.branch == "retrieval"
    assert fallen.m == pytest.approx(0.786, abs=5e-4)


# -- the spectral bound ----------------------------------------------------------------------
def test_subspace_overlap_formula_and_its_threshold() -> None:
    found = [subspace_overlap(200, 4, M, 0.5) for M in (2, 5, 20, 80, 320)]
    assert found == pytest.approx([0.364, 0.600, 0.862, 0.961, 0.990], abs=3e-3)
    limit = spectral_sample_size(0.1, 0.1)
    assert subspace_overlap(1000, 100, math.floor(limit), 0.1) == 0.0
    assert subspace_overlap(1000, 100, math.ceil(limit) + 1, 0.1) > 0.0
    assert subspace_overlap(100, 10, 3, 1.0) == 1.0


def test_principal_components_see_the_archetypes() -> None:
    N, K, M, r = 400, 4, 20, 0.5
    found = []
    for seed in range(6):
        data = ArchetypeDataset(N, K, M, r, seed)
        vectors = np.linalg.eigh(data.unsupervised_couplings(diagonal=True))[1][:, -K:]
        found.append(((data.archetypes @ vectors) ** 2).sum(1).mean() / N)
    error = np.std(found, ddof=1) / math.sqrt(6)
    assert abs(np.mean(found) - subspace_overlap(N, K, M, r)) < 4 * error + 1 / N


# -- maps --------------------------------------------------------------------------------------
def test_map_cells_are_the_states() -> None:
    sizes = [2, 30, 60]
    found = phase_diagram(0.02, [0.3, 0.5, 0.9], sizes, 0.1)
    assert (found.x_name, found.y_name, found.overlap.shape) == ("r", "M", (3, 3))
    for line, M in enumerate(sizes):
        for column, r in enumerate(found.x):
            state = unsupervised_theory(0.02, float(r), M, 0.1)
            assert found.overlap[line, column] == pytest.approx(state.m, abs=1e-9)
    assert found.status[1].tolist() == ["no retrieval", "retrieval", "retrieval"]
    assert math.isnan(found.free_energy_gap[1, 0]) and found.free_energy_gap[2, 2] < 0
    assert set(found.status.ravel()) == {"retrieval", "no retrieval"}


def test_map_in_load_and_temperature() -> None:
    loads, heats = [0.01, 0.05, 0.08], [0.1, 0.5]
    found = phase_diagram(loads, 0.5, 50, heats, kind="supervised")
    for line, T in enumerate(heats):
        for column, alpha in enumerate(loads):
            state = supervised_engine(alpha, 0.5, 50).solve(T)
            assert found.overlap[line, column] == pytest.approx(state.m, abs=1e-9)


def test_a_cell_that_does_not_converge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from thermolearn.core.errors import ConvergenceError

    solve = RSAssociative.solve

    def failing(self: RSAssociative, T: float, *args: object, **kwargs: object) -> object:
        if T == 0.2:
            raise ConvergenceError("not solved")
        return solve(self, T, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(RSAssociative, "solve", failing)
    found = phase_diagram([0.01, 0.02], 0.5, 50, [0.1, 0.2, 0.3])
    assert (found.status[1] == "not converged").all()
    assert np.isnan(found.overlap[1]).all() and np.isfinite(found.overlap[[0, 2]]).all()


# -- bad input ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"r": 0.0}, r"quality r must be in \(0, 1\]"),
        ({"r": 1.5}, "quality r"),
        ({"M": 0}, "M must be an integer"),
        ({"M": 2.5}, "M must be an integer"),
        ({"T": -0.1}, "T must be"),
        ({"T": float("nan")}, "T must be"),
        ({"branch": "paramagnet"}, "branch"),
        ({"branch": "example", "T": 0.1}, "T = 0 only"),
    ],
)
def test_bad_parameters(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unsupervised_theory(**({"alpha": 0.02, "r": 0.3, "M": 50, "T": 0.1} | change))


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="kind"):
        critical_sample_size("semi", 0.02, 0.3, 0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold"):
        critical_sample_size("supervised", 0.02, 0.3, 0.0, threshold=1.0)
    with pytest.raises(ValueError, match="above the capacity"):
        small_quality_constant(0.14)
    with pytest.raises(ValueError, match="exactly two"):
        phase_diagram(0.02, 0.3, [10, 20], 0.1)
    with pytest.raises(ValueError, match="empty"):
        phase_diagram(0.02, [], [10, 20], 0.1)
    with pytest.raises(ValueError, match="M must be"):
        phase_diagram(0.02, [0.3], [10, 2.5], 0.1)
    with pytest.raises(ValueError, match="T must be"):
        load_capacity("supervised", 0.3, 10, -1.0)


def test_oracle_of_the_small_quality_constant() -> None:
    """The spinodal solved as two equations: m = erf(y), and its derivative."""

    def inverse_x(y: float) -> float:
        C = 2 * y * math.exp(-y * y) / (math.sqrt(math.pi) * math.erf(y))
        return math.erf(y) ** 2 / (2 * 0.05 * y * y) - 1 / (1 - C) ** 2

    top: Any = optimize.brentq(lambda y: inverse_x(y + 1e-5) - inverse_x(y - 1e-5), 1.0, 3.0)
    assert small_quality_constant(0.05) == pytest.approx(1 / inverse_x(top), rel=1e-7)
