"""Decimation theory: limits in closed form, a naive march as oracle, and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special

from thermolearn.systems.memory.decimation import critical_noise, decimation_theory
from thermolearn.systems.memory.replica_symmetric import RSAssociative

ALPHA_C = 0.137905566


def naive_march(alpha: float, delta: float, T: float, steps: int) -> tuple[np.ndarray, float]:
    """p at the left ends of the steps and the error: past steps enter with their full width."""
    past: list[tuple[float, float]] = []
    p, error = [], 0.0
    for k in range(steps):
        modes = [(alpha * (1 - k / steps), 1.0), *past]
        state = RSAssociative(modes, delta=delta).solve(T)
        p.append(state.m)
        error += alpha * (1 - 2 * state.m**2 + state.q**2) / steps
        square = np.array([[1.0, state.m], [state.m, state.q]])  # Gram matrix of xi and eta
        past += [(alpha / steps, e.real) for e in np.linalg.eigvals(np.diag([1.0, -1.0]) @ square)]
    return np.array(p), error


@pytest.mark.parametrize(("alpha", "delta", "T"), [(0.03, 0.1, 0.0), (0.03, 0.1, 0.2)])
def test_the_march_is_the_limit_of_the_naive_one(alpha: float, delta: float, T: float):
    result = decimation_theory(alpha, delta, T, steps=10)
    rough = [naive_march(alpha, delta, T, steps) for steps in (10, 20, 40)]
    at_half = [p[steps // 2] for (p, _), steps in zip(rough, (10, 20, 40), strict=True)]
    for naive, exact in ((at_half, result.p[5]), ([e for _, e in rough], float(result.mse))):
        gaps = np.abs(np.array(naive) - exact)
        assert gaps[2] < 0.55 * gaps[1] < 0.31 * gaps[0]  # of first order in the step
        assert abs(2 * naive[2] - naive[1] - exact) < 0.02 * gaps[0]


def test_the_quoted_error_of_the_step_size_is_honest():
    for alpha, delta, T in [(0.03, 0.1, 0.2), (0.02, 0.2, 0.3), (0.1, 0.02, 0.0)]:
        rough, exact = (decimation_theory(alpha, delta, T, n) for n in (4, 64))
        assert abs(float(rough.mse) - float(exact.mse)) < float(rough.mse.stderr)
        assert (np.abs(rough.p - exact.p[::16]) <= rough.p_stderr + 1e-9).all()
        assert exact.mse.stderr < 1e-3 * float(exact.mse)


@pytest.mark.parametrize("T", [0.0, 0.2])
def test_first_step_is_the_hopfield_model_with_disorder(T: float):
    result = decimation_theory(0.03, 0.1, T, steps=2)
    state = RSAssociative([(0.03, 1.0)], delta=0.1).solve(T)
    assert result.p[0] == pytest.approx(state.m, abs=1e-9)
    assert result.q[0] == pytest.approx(state.q, abs=1e-9)
    assert result.energy[0] == pytest.approx(state.u + 0.015, abs=1e-9)


def test_last_step_without_patterns_left():
    # at t = 1 and T = 0 only the disorder and the residuals are left: p = erf(p / sqrt(2 R))
    result = decimation_theory(0.03, 0.1, 0.0, steps=20)
    modes = result.modes(1.0)
    w, lam = np.array(modes[1:]).T
    assert modes[0][0] == pytest.approx(0.0)
    assert (w * lam).sum() == pytest.approx(0.0, abs=1e-15)  # q = 1: lambda = +-sqrt(1 - p^2)

    def equations(x: np.ndarray) -> list[float]:
        p, C = x
        R = 0.1 + (w * lam**2 / (1 - lam * C) ** 2).sum()
        slope = math.sqrt(2 / (math.pi * R)) * math.exp(-p * p / (2 * R))
        return [special.erf(p / math.sqrt(2 * R)) - p, slope - C]

    p, _ = optimize.fsolve(equations, [0.99, 0.05], xtol=1e-13)
    assert result.p[-1] == pytest.approx(p, abs=1e-7)


def test_without_noise_decimation_starts_below_the_storage_capacity():
    assert decimation_theory(ALPHA_C - 1e-4, 0.0, steps=4).converged
    lost = decimation_theory(ALPHA_C + 1e-4, 0.0, steps=4)
    assert not lost.converged
    assert float(critical_noise(ALPHA_C - 1e-5)) > 0
    above = critical_noise(ALPHA_C + 1e-5)
    assert float(above) == 0 and above.status == "no retrieval"


def test_at_small_load_the_noise_may_reach_two_over_pi():
    assert decimation_theory(1e-7, 0.60, steps=2).p[0] == pytest.approx(0.3285, abs=2e-3)
    assert decimation_theory(1e-7, 0.66, steps=2).p[0] == 0
    gap = 2 / math.pi - np.array([float(critical_noise(a)) for a in (1e-9, 1e-12)])
    assert gap[1] < 2e-4
    assert gap[0] / gap[1] == pytest.approx(10, rel=0.01)  # as alpha^(1/3)


@pytest.mark.parametrize(("alpha", "T"), [(0.01, 0.0), (0.05, 0.0), (0.02, 0.3)])
def test_critical_noise_is_where_the_solver_loses_the_column(alpha: float, T: float):
    limit = float(critical_noise(alpha, T))
    below, above = (
        RSAssociative([(alpha, 1.0)], delta=f * limit).solve(T).n for f in (0.999, 1.001)
    )
    assert below > 0.3 and above == 0


# (alpha, delta): p(0), p(1/2), p(1), mse at T = 0
ROWS = [
    ((0.03, 0.1), (0.99344, 0.99652, 0.99832), 0.00045),
    ((0.05, 0.05), (0.99823, 0.99973, 0.99999), 0.00010),
    ((0.1, 0.02), (0.99398, 0.99983, 1.0), 0.00041),
    ((0.03, 0.01), (1.0, 1.0, 1.0), 0.0),
]


@pytest.mark.parametrize(("where", "p", "mse"), ROWS)
def test_reference_numbers_at_zero_temperature(where, p, mse):
    result = decimation_theory(*where, T=0.0, steps=20)
    assert result.p[[0, 10, 20]] == pytest.approx(p, abs=1e-5 if where != (0.03, 0.1) else 2e-4)
    assert float(result.mse) == pytest.approx(mse, abs=2e-5)
    assert result.converged and (np.diff(result.p) > -1e-12).all()


def test_reference_numbers_at_finite_temperature():
    result = decimation_theory(0.03, 0.1, 0.2, steps=20)
    assert result.average(result.p, 0, 0.25) == pytest.approx(0.9845, abs=5e-4)
    assert result.average(result.p, 0.75, 1) == pytest.approx(0.9920, abs=5e-4)
    assert float(result.mse) == pytest.approx(0.00042, abs=2e-5)
    assert result.replicon.min() > 0
    hot = decimation_theory(0.02, 0.2, 0.3, steps=20)
    # the reference averages are sums over few steps, 0.001 off
    assert hot.average(hot.p, 0, 0.25) == pytest.approx(0.9073, abs=1.5e-3)
    assert hot.average(hot.p, 0.75, 1) == pytest.approx(0.9294, abs=1.5e-3)
    assert float(hot.mse) == pytest.approx(0.00252, abs=6e-5)
    assert decimation_theory(0.01, 0.3, 0.0, 4).p[0] == pytest.approx(0.867, abs=5e-4)


def test_without_retrieval_the_result_says_so():
    for T in (0.0, 0.3):
        lost = decimation_theory(0.02, 0.3, T, steps=4)
        assert not lost.converged
        assert lost.mse.status == "no retrieval" and math.isnan(lost.mse.value)
        assert "first step" in lost.mse.note
        assert lost.p[0] == 0 and np.isnan(lost.p[1:]).all()


def test_bad_input_is_named():
    for name, arguments in {
        "alpha": (0.0, 0.1),
        "delta": (0.03, -0.1),
        "T": (0.03, 0.1, -0.2),
        "steps": (0.03, 0.1, 0.0, 1),
    }.items():
        with pytest.raises(ValueError, match=name):
            decimation_theory(*arguments)
    with pytest.raises(ValueError, match="alpha"):
        critical_noise(-0.1)
    with pytest.raises(ValueError, match="T"):
        critical_noise(0.1, math.nan)
    result = decimation_theory(0.03, 0.1, steps=2)
    with pytest.raises(ValueError, match="start"):
        result.average(result.p, 0.5, 0.5)
    with pytest.raises(ValueError, match="t must"):
        result.modes(1.5)
