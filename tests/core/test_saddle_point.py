"""Saddle points against closed forms, hand-written equations and published numbers."""

import math
import time

import mpmath
import numpy as np
import pytest
import torch
from saddle_models import (
    binary_perceptron,
    curie_weiss,
    hopfield,
    hopfield_ground_state,
    sherrington_kirkpatrick,
)
from scipy import integrate, optimize

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.saddle_point import SaddlePoint, log2cosh


def gauss(g):
    return integrate.quad(
        lambda z: g(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -9, 9, epsabs=1e-13,
        limit=400,
    )[0]  # fmt: skip


def within_bar(estimate, exact, slack=1.0):
    return abs(float(estimate) - exact) <= slack * estimate.stderr + 4e-16 * abs(exact)


# -- Curie-Weiss: everything is known ------------------------------------------------------------
@pytest.mark.parametrize(
    ("T", "h"), [(0.3, 0.0), (0.5, 0.0), (0.9, 0.02), (1.5, 0.3), (0.7, -0.05)]
)
def test_curie_weiss_solves_its_equation(T, h):
    state = curie_weiss().solve({"m": 0.9}, T=T, h=h)
    m = float(state.m)
    root = optimize.brentq(lambda x: x - math.tanh((x + h) / T), m - 1e-3, m + 1e-3, xtol=1e-15)
    assert within_bar(state.m, root, 2)
    assert 0 < state.m.stderr < 1e-13
    assert within_bar(state.f, m**2 / 2 - T * math.log(2 * math.cosh((m + h) / T)), 2)
    assert state.residual < 1e-15 and state.converged and state.status == "ok"


def test_curie_weiss_entropy_energy_and_susceptibility():
    T, h = 0.6, 0.1
    state = curie_weiss().solve({"m": 0.9}, T=T, h=h)
    m = float(state.m)
    entropy = -sum(p * math.log(p) for p in ((1 + m) / 2, (1 - m) / 2))
    assert within_bar(-state.derivative("T"), entropy, 2)
    assert within_bar(-state.derivative("h"), m, 2)
    chi = (1 - m * m) / (T - (1 - m * m))
    assert float(state.response("h")["m"]) == pytest.approx(chi, rel=1e-12)
    step = 1e-5
    shifted = [float(curie_weiss().solve(state, T=T + s, h=h).m) for s in (-step, step)]
    slope = (shifted[1] - shifted[0]) / (2 * step)
    assert float(state.response("T")["m"]) == pytest.approx(slope, rel=1e-7)


def test_curie_weiss_branches_and_their_stability():
    branches = curie_weiss().branches(T=0.5, h=0.05)
    assert [s.stable for s in branches] == [True, True, False]
    assert [s.index for s in branches] == [0, 0, 1]
    low, middle, high = branches[1], branches[2], branches[0]
    assert low.m < middle.m < 0 < high.m
    assert branches.stable_branch is high and len(branches.stable) == 2
    assert sum(s.reached for s in branches) + branches.failed == branches.starts == 32
    assert min(s.reached for s in branches) >= 3
    # one solution only above the critical temperature
    (only,) = curie_weiss().branches(T=1.5, h=0.05)
    assert only.stable and only.reached == 32


def test_given_starts_come_first_and_are_enough():
    branches = curie_weiss().branches([{"m": 0.9}, [-0.9]], n_starts=0, T=0.5, h=0.0)
    assert sorted(round(float(s.m), 4) for s in branches) == [-0.9575, 0.9575]
    assert branches.starts == 2


def test_the_critical_point_is_called_degenerate_and_its_error_bar_holds():
    state = curie_weiss().solve({"m": 0.9}, T=1.0, h=0.0)
    assert state.status == "degenerate"
    assert abs(float(state.m)) <= state.m.stderr < 1e-3


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6, 1e-9])
def test_the_error_bar_near_a_spinodal(distance):
    # next to the fold the Hessian is nearly singular: the bar must grow with the true error
    T = 0.5
    spinodal = T * math.atanh(math.sqrt(1 - T)) - math.sqrt(1 - T)
    h = spinodal + distance
    state = curie_weiss().solve({"m": 0.9}, T=T, h=h)
    mpmath.mp.dps = 40
    exact = mpmath.findroot(lambda x: x - mpmath.tanh((x + mpmath.mpf(h)) / T), float(state.m))
    assert abs(float(exact - mpmath.mpf(float(state.m)))) <= state.m.stderr < 1e-5


# -- replica theories ----------------------------------------------------------------------------
@pytest.mark.parametrize("T", [0.3, 0.5, 0.8])
def test_sherrington_kirkpatrick(T):
    model = sherrington_kirkpatrick()
    glass = model.branches(T=T).stable_branch
    q = optimize.brentq(
        lambda q: q - gauss(lambda z: math.tanh(math.sqrt(q) * z / T) ** 2), 1e-3, 1
    )
    assert float(glass.q) == pytest.approx(q, abs=1e-12)
    f = -((1 - q) ** 2) / (4 * T) - T * gauss(
        lambda z: math.log(2 * math.cosh(math.sqrt(q) * z / T))
    )
    assert float(glass.f) == pytest.approx(f, abs=1e-12)
    # de Almeida, Thouless (1978): unstable everywhere below T = 1 without a field
    replicon = 1 - gauss(lambda z: math.cosh(math.sqrt(q) * z / T) ** -4) / T**2
    assert glass.replicon == pytest.approx(replicon, abs=1e-11) and replicon < 0
    assert glass.at_stable is False


def test_the_paramagnet_of_sherrington_kirkpatrick_lies_on_the_border():
    model = sherrington_kirkpatrick()
    (state,) = model.branches(T=1.25)
    assert state.status == "border" and float(state.q) <= state.q.stderr < 1e-7
    assert state.stable and state.at_stable
    assert float(state.f) == pytest.approx(-1 / 5 - 1.25 * math.log(2), abs=1e-12)
    # below T = 1 it is a minimum in q: not the declared signature
    low = [s for s in model.branches(T=0.5) if s.status == "border"]
    assert low and not low[0].stable


def test_hopfield_reference_numbers():
    model = hopfield()
    start = {"m": 0.98, "q": 0.98, "r": 1}
    assert float(model.solve(start, alpha=0.1, T=0.2).m) == pytest.approx(0.98909, abs=5e-6)
    assert float(model.solve(start, alpha=0.05, T=0.2).m) == pytest.approx(0.99888, abs=5e-6)
    branches = model.branches(alpha=0.05, T=0.4)
    retrieval = next(s for s in branches if s.m > 0.9)
    assert float(retrieval.m) == pytest.approx(0.96619, abs=5e-6)
    assert retrieval.stable and retrieval.at_stable and retrieval.index == 1
    glass = branches.stable_branch
    assert abs(float(glass.m)) < 1e-12 and not glass.at_stable
    # between the two lies the barrier
    barrier = next(s for s in branches if 0.1 < s.m < 0.9)
    assert not barrier.stable and barrier.index == 2 and barrier.f > retrieval.f > glass.f
    assert len(branches) == 5  # retrieval and barrier with both signs


def test_hopfield_solves_the_equations_of_amit_gutfreund_sompolinsky():
    alpha, T = 0.07, 0.35
    state = hopfield().solve({"m": 0.95, "q": 0.9, "r": 1}, alpha=alpha, T=T)
    m, q, r = state.x

    def average(power):
        return gauss(lambda z: math.tanh((m + math.sqrt(alpha * r) * z) / T) ** power)

    assert average(1) == pytest.approx(m, abs=1e-12)
    assert average(2) == pytest.approx(q, abs=1e-12)
    assert q / (1 - (1 - q) / T) ** 2 == pytest.approx(r, abs=1e-11)
    slope = [hopfield().solve(state, alpha=alpha, T=T + s).f for s in (-1e-4, 1e-4)]
    entropy = -(float(slope[1]) - float(slope[0])) / 2e-4
    assert float(-state.derivative("T")) == pytest.approx(entropy, abs=1e-7)


@pytest.mark.parametrize(
    ("alpha", "retrieval", "glass"),
    [(0.05, -0.5250004, -0.5217223), (0.1, -0.5501542, -0.6206231)],
)
def test_hopfield_ground_states(alpha, retrieval, glass):
    branches = hopfield_ground_state().branches(alpha=alpha)
    upper = next(s for s in branches if s.m > 0.95)
    lower = next(s for s in branches if abs(float(s.m)) < 1e-9)
    assert float(upper.f) == pytest.approx(retrieval, abs=1e-7)
    assert float(lower.f) == pytest.approx(glass, abs=1e-7)
    assert upper.stable and lower.stable


def test_capacity_of_the_binary_perceptron():
    # Krauth, Mezard (1989): the replica-symmetric entropy vanishes at 0.833
    model = binary_perceptron()
    (start,) = model.branches(alpha=0.8, n_starts=8)
    capacity = optimize.brentq(lambda a: float(model.solve(start, alpha=a).f), 0.7, 0.9)
    assert capacity == pytest.approx(0.833, abs=5e-4)
    # and nothing stored leaves ln 2
    free = model.solve({"q": 1e-3, "q_hat": 1e-3}, alpha=1e-8)
    assert float(free.f) == pytest.approx(-math.log(2), abs=1e-7)


def test_signature_of_a_quadratic_form():
    def f(a, b, c, d, *, s):
        return a**2 - b**2 + s * a * b + c * d

    form = {"a": None, "b": None, "c": None, "d": None}
    start = {"a": 0.3, "b": 0.2, "c": 0.1, "d": -0.4}
    right = SaddlePoint(f, form, maximize=["b"], conjugate=[("c", "d")]).solve(start, s=5.0)
    assert right.stable and right.index == 2
    np.testing.assert_allclose(right.x, 0, atol=1e-15)
    assert not SaddlePoint(f, form, conjugate=[("c", "d")]).solve(start, s=5.0).stable
    assert not SaddlePoint(f, form, maximize=["b"]).solve(start, s=5.0).stable
    assert (
        not SaddlePoint(f, form, maximize=["a"], conjugate=[("c", "d")]).solve(start, s=0.0).stable
    )


def test_a_rescaled_order_parameter_changes_nothing():
    def f(m, *, T):
        return (m / 50) ** 2 / 2 - T * log2cosh(m / 50 / T)

    wide = SaddlePoint(f, {"m": None}).solve({"m": 45.0}, T=0.5)
    assert float(wide.m) / 50 == pytest.approx(0.9575040240772688, abs=1e-15)


# -- where there is nothing to find --------------------------------------------------------------
def test_a_flat_tail_is_not_a_solution():
    def runaway(m, *, T):
        return torch.exp(-m / T)

    with pytest.raises(ConvergenceError, match="no saddle point"):
        SaddlePoint(runaway, {"m": None}).solve({"m": 0.0}, T=1.0)


def test_a_slope_up_to_the_border_is_not_a_solution():
    with pytest.raises(ConvergenceError, match=r"max \|grad f\|"):
        SaddlePoint(lambda m, *, T: T * m, {"m": (0, 1)}).solve({"m": 0.5}, T=1.0)
    with pytest.raises(ConvergenceError, match="none of 32 starts"):
        SaddlePoint(lambda m, *, T: T * m, {"m": (0, 1)}).branches(T=1.0)


def test_no_retrieval_beyond_capacity():
    model = hopfield()
    found = model.branches(alpha=0.2, T=0.1)
    assert all(abs(float(s.m)) < 1e-9 for s in found)


def test_stable_branch_refuses_when_all_are_unstable():
    inverted = SaddlePoint(lambda m, *, T: -T * m**2, {"m": (-1, 1)}).branches(T=1.0)
    with pytest.raises(ConvergenceError, match="none of the 1 saddle points"):
        _ = inverted.stable_branch


def test_same_starts_same_bits_and_no_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = (hopfield().branches(alpha=0.05, T=0.4, n_starts=8) for _ in range(2))
    assert [s.x.tolist() for s in one] == [s.x.tolist() for s in two]
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_a_solve_takes_milliseconds():
    model, best = hopfield(), math.inf
    for _ in range(5):
        begin = time.process_time()
        model.solve({"m": 0.95, "q": 0.9, "r": 1.0}, alpha=0.05, T=0.4)
        best = min(best, time.process_time() - begin)
    assert best < 0.1
