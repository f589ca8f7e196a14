"""Theory of supervised Hebbian learning: limits, a plain transcription, published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from thermolearn.systems.memory.example_noise import critical_sample_size, load_capacity
from thermolearn.systems.memory.replica_symmetric import RSAssociative
from thermolearn.systems.memory.supervised_hebbian import (
    entropy_of_dataset,
    supervised_theory,
    supervised_theory_large_m,
)

QUALITIES = (0.2, 0.3, 0.4, 0.5, 0.7)
CRITICAL = {0.01: (55, 23, 12, 7, 3), 0.02: (74, 31, 16, 9, 3), 0.05: (153, 65, 34, 19, 6)}
CASES = [
    (alpha, r, M) for alpha, row in CRITICAL.items() for r, M in zip(QUALITIES, row, strict=True)
]


# -- limits ------------------------------------------------------------------------------------
@pytest.mark.parametrize("T", [0.0, 0.2])
@pytest.mark.parametrize("M", [1, 7, 1000])
def test_perfect_examples_are_the_patterns_themselves(M: int, T: float) -> None:
    hopfield = RSAssociative([(0.05, 1.0)]).solve(T)
    state = supervised_theory(0.05, 1.0, M, T)
    assert (state.m, state.q, state.f) == pytest.approx(
        (hopfield.m, hopfield.q, hopfield.f), abs=1e-12
    )


def test_many_examples_are_the_patterns_themselves() -> None:
    hopfield = RSAssociative([(0.05, 1.0)]).solve(0.2)
    gaps = [abs(supervised_theory(0.05, 0.3, M, 0.2).m - hopfield.m) for M in (10**4, 10**5, 10**6)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2] > 0  # falls as 1 / M
    assert gaps[2] < 1e-6


@pytest.mark.parametrize(("alpha", "T"), [(0.05, 0.4), (0.1, 0.2), (0.1, 0.0), (0.1, 0.002)])
def test_without_entropy_the_published_form_is_hopfields(alpha: float, T: float) -> None:
    hopfield = RSAssociative([(alpha, 1.0)]).solve(T)
    state = supervised_theory_large_m(alpha, 0.0, T)
    assert (state.m, state.q, state.n_p) == pytest.approx(
        (hopfield.m, hopfield.q, hopfield.m), abs=1e-10
    )


# -- oracles -----------------------------------------------------------------------------------
def test_plain_transcription() -> None:
    """The saddle-point equations as written, by adaptive quadrature and a general root finder."""
    alpha, r, M, T = 0.02, 0.5, 12, 0.2
    strength = r**2 + (1 - r**2) / M
    chi = (2 * np.arange(M + 1) - M) / M
    weight = stats.binom.pmf(np.arange(M + 1), M, (1 + r) / 2)

    def average(function, n: float, q: float) -> float:
        R = alpha * q / (1 - (1 - q) / T) ** 2

        def integrand(z: float) -> float:
            field = n * chi / strength + math.sqrt(R) * z
            return float(weight @ function(np.tanh(field / T))) * stats.norm.pdf(z)

        return integrate.quad(integrand, -9, 9, epsabs=1e-11, limit=400)[0]

    def equations(x: np.ndarray) -> list[float]:
        n, q = x
        return [average(lambda t: chi * t, n, q) - n, average(np.square, n, q) - q]

    n, q = optimize.root(equations, [0.48, 0.93], tol=1e-10).x
    state = supervised_theory(alpha, r, M, T)
    assert (state.n, state.q) == pytest.approx((n, q), abs=1e-7)
    assert state.m == pytest.approx(average(lambda t: t, n, q), abs=1e-7)


@pytest.mark.parametrize(
    ("alpha", "r", "M", "T"),
    [(0.02, 0.2, 100, 0.1), (0.05, 0.5, 40, 0.2), (0.05, 0.5, 40, 0.0), (0.02, 0.5, 12, 0.3)],
)
def test_published_form_is_the_engine_with_a_gaussian_blur(
    alpha: float, r: float, M: int, T: float
) -> None:
    node, weight = np.polynomial.hermite_e.hermegauss(61)
    blur = (r + math.sqrt((1 - r * r) / M) * node, weight / weight.sum())
    strength = r * r + (1 - r * r) / M
    engine = RSAssociative([(alpha, 1.0)], blur, scale=1 / strength).solve(T)
    state = supervised_theory_large_m(alpha, entropy_of_dataset(r, M), T)
    assert (state.m, state.q, state.n_p * strength / r) == pytest.approx(
        (engine.m, engine.q, engine.n), abs=1e-9
    )


# -- published numbers -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("alpha", "r", "M", "T", "m", "n"),
    [
        (0.02, 0.2, 40, 0.1, 0.0, 0.0),
        (0.02, 0.2, 100, 0.1, 0.9156, 0.1983),
        (0.02, 0.2, 200, 0.1, 0.9866, 0.1996),
        (0.02, 0.3, 60, 0.0, 0.9680, 0.2995),
        (0.05, 0.5, 40, 0.2, 0.9742, 0.4931),
        (0.02, 0.5, 12, 0.3, 0.8328, None),
    ],
)
def test_overlaps(alpha: float, r: float, M: int, T: float, m: float, n: float | None) -> None:
    state = supervised_theory(alpha, r, M, T)
    assert state.m == pytest.approx(m, abs=6e-5)
    assert n is None or state.n == pytest.approx(n, abs=6e-5)
    assert state.branch == ("retrieval" if m else "spin_glass")


@pytest.mark.parametrize(
    ("alpha", "r", "M", "T", "m"),
    [
        (0.02, 0.2, 100, 0.1, 0.9172),
        (0.02, 0.2, 200, 0.1, 0.9872),
        (0.05, 0.5, 40, 0.2, 0.9765),
        (0.02, 0.5, 12, 0.3, 0.8253),
    ],
)
def test_published_form(alpha: float, r: float, M: int, T: float, m: float) -> None:
    state = supervised_theory_large_m(alpha, entropy_of_dataset(r, M), T)
    assert state.m == pytest.approx(m, abs=6e-5)


@pytest.mark.parametrize(("alpha", "r", "M"), CASES)
def test_critical_number_of_examples(alpha: float, r: float, M: int) -> None:
    found = critical_sample_size("supervised", alpha, r, 0.0)
    assert abs(int(found) - M) <= 1
    assert supervised_theory(alpha, r, int(found), 0.0).m >= 0.8
    if r <= 0.5:
        # without labels fewer examples are never enough
        assert int(critical_sample_size("unsupervised", alpha, r, 0.0)) >= int(found)


def plain_overlap(alpha: float, r: float, M: int) -> float:
    """m of the retrieval state at T = 0, all M + 1 terms of the binomial, read off y = s n / R^1/2.

    alpha(y) is explicit; the state is at the largest y, which has the largest n.
    """
    chi = (2 * np.arange(M + 1) - M) / M
    weight, s = stats.binom.pmf(np.arange(M + 1), M, (1 + r) / 2), 1 / (r * r + (1 - r * r) / M)

    def excess(y: float) -> float:
        n = weight @ (chi * special.erf(y * chi / math.sqrt(2)))
        C = math.sqrt(2 / math.pi) * (weight @ np.exp(-((y * chi) ** 2) / 2)) * y / (s * n)
        return (s * n / y) ** 2 * (1 - C) ** 2 / alpha - 1 if C < 1 else -1.0

    grid = np.geomspace(1.0, 3000.0, 800)
    values = np.array([excess(y) for y in grid])
    last = np.flatnonzero((values[:-1] > 0) & (values[1:] <= 0))[-1]
    y = optimize.brentq(excess, grid[last], grid[last + 1])
    return float(weight @ special.erf(y * chi / math.sqrt(2)))


@pytest.mark.parametrize(
    ("alpha", "r", "M"),
    [
        (1e-4, 0.05, 659),
        (1e-3, 0.03, 1888),
        pytest.param(1e-3, 0.05, 679, marks=pytest.mark.slow),
        pytest.param(5e-3, 0.05, 775, marks=pytest.mark.slow),
    ],
)
def test_critical_numbers_of_many_examples(alpha: float, r: float, M: int) -> None:
    found = critical_sample_size("supervised", alpha, r, 0.0)
    assert found.M == M and found.state and found.below and found.monotone
    assert plain_overlap(alpha, r, M - 1) < 0.8 <= plain_overlap(alpha, r, M)
    assert found.state.m == pytest.approx(plain_overlap(alpha, r, M), abs=1e-7)
    # the published form, for many examples, is within 1 / M
    published = supervised_theory_large_m(alpha, entropy_of_dataset(r, M), 0.0)
    assert found.state.m == pytest.approx(published.m, abs=1 / M)


@pytest.mark.slow
def test_critical_number_grows_as_one_over_quality_squared() -> None:
    scaled = [int(critical_sample_size("supervised", 0.05, r, 0.0)) * r**2 for r in QUALITIES]
    assert scaled == pytest.approx([6.12, 5.85, 5.44, 4.75, 2.94], abs=0.006)
    # for r -> 0 only rho matters: M_c r^2 tends to 1 / rho_c
    low, high = 0.01, 1.0
    while high - low > 1e-6:
        rho = (low + high) / 2
        low, high = (rho, high) if supervised_theory_large_m(0.05, rho, 0.0).m > 0.8 else (low, rho)
    r = 0.02
    found = int(critical_sample_size("supervised", 0.05, r, 0.0))
    assert found * r**2 == pytest.approx((1 - r * r) / low, rel=1e-3)


@pytest.mark.parametrize(
    ("r", "M", "T", "alpha"),
    [
        (0.3, 20, 0.0, 0.01047),
        (0.3, 50, 0.0, 0.03877),
        (0.3, 100, 0.0, 0.07102),
        (0.3, 400, 0.0, 0.11671),
        (0.5, 20, 0.0, 0.05307),
        (0.5, 50, 0.0, 0.09262),
        (0.5, 100, 0.0, 0.11303),
        (0.5, 400, 0.0, 0.13126),
        (0.3, 50, 0.2, 0.03531),
        (0.5, 50, 0.2, 0.08229),
    ],
)
def test_capacity(r: float, M: int, T: float, alpha: float) -> None:
    assert load_capacity("supervised", r, M, T) == pytest.approx(alpha, abs=6e-6)
    assert supervised_theory(alpha * 0.999, r, M, T).branch == "retrieval"
    assert supervised_theory(alpha * 1.001, r, M, T).branch == "spin_glass"


@pytest.mark.parametrize(
    ("T", "alpha"),
    [(0.01, 0.138099), (0.02, 0.138184), (0.03, 0.138161), (0.04, 0.138031), (0.05, 0.137794)],
)
def test_capacity_of_undiluted_patterns_is_reentrant(T: float, alpha: float) -> None:
    # a single example per archetype is itself the stored pattern, of whatever quality
    for r, M in ((1.0, 1), (1.0, 7), (0.4, 1)):
        assert load_capacity("supervised", r, M, T) == pytest.approx(alpha, abs=1e-6)
    assert load_capacity("unsupervised", 1.0, 3, T) == pytest.approx(alpha, abs=1e-6)
    assert load_capacity("supervised", 1.0, 1, 0.0) < 0.13791


def test_retrieval_between_two_temperatures() -> None:
    branches = [supervised_theory(0.1381, 1.0, 1, T).branch for T in (0.0, 0.02, 0.05)]
    assert branches == ["spin_glass", "retrieval", "spin_glass"]


# -- properties and bad input ------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(
    alpha=st.floats(0.005, 0.3),
    r=st.floats(0.1, 1.0),
    M=st.integers(1, 60),
    T=st.one_of(st.just(0.0), st.floats(0.05, 1.5)),
)
def test_order_parameters_are_possible_ones(alpha: float, r: float, M: int, T: float) -> None:
    state = supervised_theory(alpha, r, M, T)
    assert state.converged
    assert 0 <= state.m <= 1 + 1e-12
    assert 0 <= state.q <= 1
    assert 0 <= state.C < 1
    # n = E chi tanh <= E |chi|
    assert 0 <= state.n <= math.sqrt(r**2 + (1 - r**2) / M) + 1e-12


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((0.0, 0.5, 10, 0.1), "alpha"),
        ((math.nan, 0.5, 10, 0.1), "alpha"),
        ((0.05, 0.0, 10, 0.1), "quality"),
        ((0.05, 1.1, 10, 0.1), "quality"),
        ((0.05, 0.5, 0, 0.1), "M"),
        ((0.05, 0.5, 2.5, 0.1), "M"),
        ((0.05, 0.5, 10, -0.1), "T"),
    ],
)
def test_bad_parameters(values: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        supervised_theory(*values)


@pytest.mark.parametrize(
    ("values", "name"),
    [((0.0, 0.1, 0.1), "alpha"), ((0.1, -1.0, 0.1), "rho"), ((0.1, 0.1, math.inf), "T")],
)
def test_bad_parameters_of_the_published_form(values: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        supervised_theory_large_m(*values)


def test_no_retrieval_of_the_published_form() -> None:
    state = supervised_theory_large_m(0.05, 5.0, 0.1)
    assert (state.m, state.n_p) == (0, 0)
    assert math.isnan(state.q)
