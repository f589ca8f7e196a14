"""The replica-symmetric engine: hand-written equations, limits, the free energy's derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from thermolearn.core.errors import ConvergenceError
from thermolearn.systems.memory.replica_symmetric import RSAssociative, binomial_chi

CASES = {
    "hopfield": (([(0.05, 1.0)],), {}),
    "disorder": (([(0.03, 1.0)],), {"delta": 0.1}),
    "examples": (
        ([(0.05, 1.0), (0.05 * 39, 0.0697)], binomial_chi(40, 0.5)),
        {"scale": 1 / (0.25 + 0.75 / 40)},
    ),
    "negative modes": (([(0.05, 1.0), (0.1, 0.3), (0.1, -0.4)],), {}),
}


def engine(name: str) -> RSAssociative:
    positional, named = CASES[name]
    return RSAssociative(*positional, **named)


def normal_mean(g) -> float:
    """E g(z) by adaptive quadrature: independent of the library's grid."""
    density = 1 / math.sqrt(2 * math.pi)
    return integrate.quad(
        lambda z: g(z) * density * math.exp(-z * z / 2), -9, 9, limit=400, epsabs=1e-13
    )[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("branch", ["retrieval", "spin_glass"])
def test_the_state_solves_the_textbook_equations(name: str, branch: str) -> None:
    e, T = engine(name), 0.25
    s = e.solve(T, branch)  # type: ignore[arg-type]
    beta, (w, lam) = 1 / T, (e.w, e.lam)
    assert pytest.approx(s.C, abs=1e-12) == beta * (1 - s.q)
    R = e.delta * s.q + s.q * sum(w * lam**2 / (1 - lam * s.C) ** 2)
    assert pytest.approx(s.R, rel=1e-12) == R
    signal = e.scale * s.n * e.chi

    def average(g) -> float:
        return sum(
            p * normal_mean(lambda z, h=h, x=x: g(math.tanh(beta * (h + math.sqrt(R) * z)), x))
            for p, h, x in zip(e.weights, signal, e.chi, strict=True)
            if p > 1e-10
        )

    assert average(lambda t, x: t) == pytest.approx(s.m, abs=2e-9)
    assert average(lambda t, x: x * t) == pytest.approx(s.n, abs=2e-9)
    assert average(lambda t, x: t * t) == pytest.approx(s.q, abs=2e-9)
    sech4 = average(lambda t, x: (1 - t * t) ** 2)
    slope = e.delta + sum(w * lam**2 / (1 - lam * s.C) ** 2)
    assert s.replicon == pytest.approx(1 - beta**2 * slope * sech4, abs=1e-7)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("branch", ["retrieval", "spin_glass"])
def test_entropy_is_minus_the_slope_of_the_free_energy(name: str, branch: str) -> None:
    e, T, h = engine(name), 0.3, 1e-3
    low, middle, high = (e.solve(t, branch) for t in (T - h, T, T + h))  # type: ignore[arg-type]
    assert middle.entropy == pytest.approx((low.f - high.f) / (2 * h), rel=1e-4, abs=1e-7)
    assert middle.u == pytest.approx(middle.f + T * middle.entropy, abs=1e-14)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("branch", ["retrieval", "spin_glass"])
def test_zero_temperature_is_the_limit(name: str, branch: str) -> None:
    e = engine(name)
    cold, warm, warmer = (e.solve(t, branch) for t in (0.0, 0.01, 0.02))  # type: ignore[arg-type]
    # f = f(0) - T s(0) + O(T^2), s(0) < 0 in the glass: Richardson takes the first order away
    assert cold.f == pytest.approx(2 * warm.f - warmer.f, abs=1e-4)
    assert cold.n == pytest.approx(warm.n, abs=2e-3)
    assert cold.u == cold.f
    assert cold.entropy == pytest.approx(2 * warm.entropy - warmer.entropy, abs=4e-3)


def test_free_energy_at_zero_temperature_by_its_own_formula() -> None:
    # f = s n^2/2 - E|h| + (R - Delta) C/2 - sum w lambda / (2 (1 - lambda C)), not used by the code
    for name in CASES:
        e = engine(name)
        s = e.solve(0.0)
        h, root = e.scale * s.n * e.chi, math.sqrt(2 * s.R)
        magnitude = h * special.erf(h / root) + root / math.sqrt(math.pi) * np.exp(
            -((h / root) ** 2)
        )
        f = e.scale * s.n**2 / 2 - e.weights @ magnitude + (s.R - e.delta) * s.C / 2
        f -= sum(e.w * e.lam / (1 - e.lam * s.C)) / 2
        assert s.f == pytest.approx(f, abs=1e-12), name


def test_no_disorder_is_the_curie_weiss_model() -> None:
    for T in (0.3, 0.7, 0.99):
        s = RSAssociative([]).solve(T)
        m = optimize.brentq(lambda x, t=T: math.tanh(x / t) - x, 1e-3, 1)
        assert s.m == pytest.approx(m, abs=1e-11)
        f = m * m / 2 - T * math.log(2 * math.cosh(m / T))
        assert s.f == pytest.approx(f, abs=1e-12)
    assert RSAssociative([]).solve(1.05).branch == "paramagnet"
    assert RSAssociative([]).solve(0.0).m == 1.0
    assert RSAssociative([]).solve(0.0, "spin_glass").f == 0.0


@pytest.mark.parametrize("T", [0.999, 0.99999, 1.00001, 1.001])
def test_a_continuous_transition_is_passed(T: float) -> None:
    m = optimize.brentq(lambda x: math.tanh(x / T) - x, 1e-4, 1) if T < 1 else 0.0
    state = RSAssociative([]).solve(T)
    assert state.m == pytest.approx(m, abs=1e-9)
    assert state.branch == ("retrieval" if T < 1 else "paramagnet")


def test_pure_disorder_is_the_sherrington_kirkpatrick_model() -> None:
    e = RSAssociative([], delta=1.0)
    assert e.glass_temperature == pytest.approx(1.0, abs=1e-9)
    glass = e.solve(0.5, "spin_glass")
    q = optimize.brentq(
        lambda x: normal_mean(lambda z: math.tanh(2 * math.sqrt(x) * z) ** 2) - x, 0.1, 1
    )
    assert glass.q == pytest.approx(q, abs=1e-10)
    assert glass.replicon < 0  # de Almeida and Thouless
    hot = e.solve(1.2, "spin_glass")
    assert hot.q == 0 and hot.replicon == pytest.approx(1 - 1 / 1.44)
    assert hot.f == pytest.approx(-1.2 * math.log(2) - 1 / (4 * 1.2), abs=1e-12)
    # known: f(T = 0) = -sqrt(2 / pi), s(0) = -1 / (2 pi) in the replica-symmetric theory
    assert e.solve(0.0, "spin_glass").f == pytest.approx(-math.sqrt(2 / math.pi), abs=1e-12)
    assert e.solve(0.0, "spin_glass").entropy == pytest.approx(-1 / (2 * math.pi), abs=1e-12)
    assert e.solve(0.005, "spin_glass").entropy == pytest.approx(-1 / (2 * math.pi), abs=5e-3)


def test_negative_modes_alone_do_not_freeze() -> None:
    few, many = RSAssociative([(0.5, -1.0)]), RSAssociative([(2.0, -1.0)])
    assert few.glass_temperature == 0
    assert few.solve(0.1, "spin_glass").branch == "paramagnet"
    # sum w lambda^2 / (T + |lambda|)^2 = 1
    assert many.glass_temperature == pytest.approx(math.sqrt(2) - 1, abs=1e-9)
    assert many.solve(0.2, "spin_glass").q > 0
    with pytest.raises(ConvergenceError, match="degenerate"):
        few.solve(0.0, "spin_glass")


def test_modes_of_one_strength_add_up_and_disorder_is_many_weak_modes() -> None:
    one = RSAssociative([(0.05, 1.0)]).solve(0.3)
    two = RSAssociative([(0.02, 1.0), (0.03, 1.0)]).solve(0.3)
    assert (one.m, one.f) == pytest.approx((two.m, two.f), abs=1e-12)
    weak = 1e-4  # w lambda^2 = Delta, and the pairs +-lambda keep the mean of J at zero
    pairs = [(0.05 / weak**2, weak), (0.05 / weak**2, -weak)]
    many = RSAssociative([(0.03, 1.0), *pairs]).solve(0.2)
    gaussian = RSAssociative([(0.03, 1.0)], delta=0.1).solve(0.2)
    assert many.m == pytest.approx(gaussian.m, abs=1e-6)


def test_continuation_and_cold_start_agree() -> None:
    e, state = engine("examples"), None
    for T in np.linspace(0.05, 0.45, 9):
        state = e.solve(float(T), start=state)
        fresh = e.solve(float(T))
        assert (state.m, state.f) == pytest.approx((fresh.m, fresh.f), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    alpha=st.floats(0.001, 0.3),
    T=st.one_of(st.just(0.0), st.floats(0.02, 1.5)),
    delta=st.floats(0, 0.4),
)
def test_every_state_is_within_its_bounds(alpha: float, T: float, delta: float) -> None:
    e = RSAssociative([(alpha, 1.0)], delta=delta)
    glass, state = e.solve(T, "spin_glass"), e.solve(T)
    for s in (glass, state):
        assert s.converged and s.residual <= 1e-9 * max(1, s.C)
        assert 0 <= s.m <= 1 and 0 <= s.q <= 1 and s.C >= 0 and s.C < 1
        assert s.n == pytest.approx(s.m, abs=1e-9)
    assert glass.m == 0
    assert (glass.branch == "paramagnet") == (e.glass_temperature <= T)
    if state.branch == "retrieval":
        assert state.m > 0.1


def test_binomial_signs() -> None:
    values, weights = binomial_chi(7, 0.4)
    assert weights @ values == pytest.approx(0.4, abs=1e-12)
    assert weights @ values**2 - 0.16 == pytest.approx((1 - 0.16) / 7, abs=1e-12)
    assert binomial_chi(3, 1.0)[0].tolist() == [1.0]


@pytest.mark.parametrize("alpha", [1e-4, 1e-3, 0.02])
def test_large_samples_are_resolved_and_meet_the_normal_limit(alpha: float) -> None:
    # quality such that the noise of examples matters at this size
    r, states = 0.05, []
    for M in (700, 20_000, 20_001):
        R = r * r + (1 - r * r) / M
        for T in (0.0, 0.1):
            states.append(RSAssociative([(alpha, 1.0)], binomial_chi(M, r), 1 / R).solve(T))
    # an independent oracle at T = 0, M = 700: the sum over all k in plain Python
    state, R = states[0], r * r + (1 - r * r) / 700
    values = (2 * np.arange(701) - 700) / 700
    weights = stats.binom.pmf(np.arange(701), 700, (1 + r) / 2)
    x = state.n / R * values / math.sqrt(2 * alpha / (1 - state.C) ** 2)
    assert weights @ special.erf(x) == pytest.approx(state.m, abs=1e-9)
    assert weights @ (values * special.erf(x)) == pytest.approx(state.n, abs=1e-9)
    for exact, normal in zip(states[2:4], states[4:6], strict=True):
        assert exact.m == pytest.approx(normal.m, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: RSAssociative([(-0.1, 1.0)]), "modes"),
        (lambda: RSAssociative([(0.1, math.nan)]), "modes"),
        (lambda: RSAssociative([(0.1, 1.0)], delta=-1), "delta"),
        (lambda: RSAssociative([(0.1, 1.0)], scale=0), "scale"),
        (lambda: RSAssociative([(0.1, 1.0)], ([1.0, -1.0], [0.5, 0.4])), "weights"),
        (lambda: RSAssociative([(0.1, 1.0)], ([1.0, -1.0], [1.0])), "chi"),
        (lambda: RSAssociative([(0.1, 1.0)]).solve(-0.1), "T must"),
        (lambda: RSAssociative([(0.1, 1.0)]).solve(1e-5), "T = 0"),
        (lambda: RSAssociative([(0.1, 1.0)]).solve(0.1, "example"), "branch"),  # type: ignore
        (lambda: binomial_chi(0, 0.5), "M must"),
        (lambda: binomial_chi(5, 1.5), "quality"),
    ],
)
def test_bad_input_is_named(call, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()
