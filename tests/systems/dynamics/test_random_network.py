"""The random recurrent network: closed form, orbit, marched mean field and networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from thermolearn.core import dmft
from thermolearn.core.estimate import Estimate
from thermolearn.core.gaussian import gauss_nodes
from thermolearn.systems.dynamics.random_network import (
    Params,
    euler_correlation,
    simulate,
    stationary_correlation,
    stationary_variance,
    theory,
    two_time_correlation,
)
from thermolearn.systems.dynamics.random_network.simulation import trajectories
from thermolearn.systems.dynamics.random_network.theory import log_cosh, pair_average


def two_time(gain, steps, dt, start, terms=120):
    """<h h'> without sampling: h is Gaussian, <phi phi'> by the Mehler series. An oracle that
    shares nothing with the march."""
    C = np.zeros((steps, steps))
    C[0, 0] = start
    z, w = gauss_nodes(1.0, 10)
    hermite = np.zeros((terms, len(z)))  # normalized
    hermite[0], hermite[1] = 1.0, z
    for n in range(1, terms - 1):
        hermite[n + 1] = (z * hermite[n] - math.sqrt(n) * hermite[n - 1]) / math.sqrt(n + 1)
    coefficients, squares = [], []
    for t in range(steps - 1):
        phi = np.tanh(gain * math.sqrt(C[t, t]) * z)
        coefficients.append(hermite @ (w * phi))
        squares.append(w @ phi**2)
        sd = np.sqrt(np.diag(C)[: t + 1])
        rho = C[t, : t + 1] / (sd * sd[t])
        powers = rho[:, None] ** np.arange(terms)
        noise = (np.array(coefficients) * coefficients[t] * powers).sum(1)
        noise[t] = squares[t]
        pushed = np.zeros(t + 1)  # <h(s) eta(t)>
        for s in range(t):
            pushed[s + 1] = (1 - dt) * pushed[s] + dt * noise[s]
        C[t + 1, : t + 1] = C[: t + 1, t + 1] = (1 - dt) * C[t, : t + 1] + dt * pushed
        C[t + 1, t + 1] = (1 - dt) ** 2 * C[t, t] + 2 * dt * (1 - dt) * pushed[t] + dt**2 * noise[t]
    return C


# -- the closed form -------------------------------------------------------------------------------
def test_the_variance_that_a_gated_network_reaches():
    """Gain 6 behind gates that stand at 1/2 is gain 3: <h^2> = 0.151287 there."""
    assert stationary_variance(3.0).value / 4 == pytest.approx(0.151287, abs=5e-7)


def test_chaos_begins_at_gain_one():
    """Delta = g - 1 + ... just above (from Var Phi = Delta^2/2 - 4 Delta^3/3 + ...)."""
    assert stationary_variance(0.9).value == stationary_variance(1.0).value == 0
    for excess in (1e-3, 1e-2):
        g = 1 + excess
        delta = g**2 * float(stationary_variance(g))
        assert delta == pytest.approx(excess * 3 / 4 * 4 / 3, rel=4 * excess)
    with pytest.raises(ValueError, match="gain"):
        stationary_variance(0.0)


def test_large_gain_is_the_network_of_signs():
    """tanh -> sign: Delta^2/2 = g^2 Delta (1 - 2/pi), <h^2> = 2 (1 - 2/pi)."""
    assert stationary_variance(1e4).value == pytest.approx(2 * (1 - 2 / math.pi), rel=1e-3)


def test_pair_averages_against_a_plain_rule():
    """Gauss-Hermite in the two independent variables, with enough nodes for this variance."""
    x, w = np.polynomial.hermite_e.hermegauss(120)
    weight = np.outer(w, w) / w.sum() ** 2
    for f in (np.tanh, log_cosh):
        for c in (0.0, 0.3, 1.1, 1.3):
            u = math.sqrt(1.3) * x[:, None]
            v = c / 1.3 * u + math.sqrt(1.3 - c**2 / 1.3) * x
            assert pair_average(f, 1.3, c)[0] == pytest.approx(
                (weight * f(u) * f(v)).sum(), abs=1e-8
            )


# -- the orbit -------------------------------------------------------------------------------------
@pytest.mark.parametrize("gain", [1.2, 3.0, 8.0])
def test_the_correlation_solves_the_equation_of_motion(gain):
    """C'' = C - g^2 E[phi phi'], by finite differences of the curve found from its energy."""
    step, tau = 0.05, np.array([0.5, 2.0, 6.0])
    delta = gain**2 * float(stationary_variance(gain))
    before, now, after = (
        delta * np.asarray(stationary_correlation(gain, tau + k * step).value) for k in (-1, 0, 1)
    )
    force = now - gain**2 * pair_average(np.tanh, delta, now)
    np.testing.assert_allclose((before - 2 * now + after) / step**2, force, atol=1e-3 * delta)
    start = stationary_correlation(gain, [0.0, 1e-2]).value
    slope = 1 - gain**2 * pair_average(np.tanh, delta, delta)[0] / delta
    assert start[0] == 1
    assert start[1] == pytest.approx(1 + slope * 1e-4 / 2, abs=2e-8)
    assert stationary_correlation(gain, 300.0).value < 1e-3
    with pytest.raises(ValueError, match="times"):
        stationary_correlation(gain, [-1.0])


@pytest.mark.parametrize("gain", [1.00001, 1.0001, 1.00019, 1.00021, 1.0005, 1.001, 1.003, 1.01])
def test_the_correlation_near_the_transition(gain):
    """Beside an expansion in Delta that cancels nothing.

    E Phi(u) Phi(u') = sum_n a_n^2 C^n/n!, a_n = E Phi^(n)(u), and V(Delta) = V(0) leave
    C'^2 = 2 g^2 C^2 sum_{n >= 4} a_n^2/n! (Delta^(n-2) - C^(n-2)).
    """
    delta = gain**2 * float(stationary_variance(gain))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    u, weights = np.sqrt(delta) * nodes, weights / weights.sum()
    derivative, terms = np.polynomial.Polynomial([0, 1.0]), {}
    for n in range(2, 13):  # of tanh as polynomials of it: an odd one less is that of Phi
        derivative = derivative.deriv() * np.polynomial.Polynomial([1, 0, -1.0])
        if n % 2 == 0 and n >= 4:
            a = float(weights @ derivative(np.tanh(u)))
            terms[n] = 2 * gain**2 * a**2 / math.factorial(n) * delta ** (n - 2)

    def speed(_, z):
        r = 1 - z**2  # C/Delta
        return r / 2 * np.sqrt(sum(a * sum(r**k for k in range(n - 2)) for n, a in terms.items()))

    times = np.array([0.5, 1.0, 2.0]) * np.sqrt(3) / (gain - 1)
    path = solve_ivp(speed, (0, times[-1]), [0.0], t_eval=times, rtol=1e-11, atol=1e-13)
    found = stationary_correlation(gain, times)
    assert (np.abs(found.value - (1 - path.y[0] ** 2)) < found.stderr).all()
    assert np.max(found.stderr) < 5e-4
    if gain >= 1.003:
        assert np.max(found.stderr) < 1e-5


@pytest.mark.parametrize("gain", [3.0, pytest.param(1.5, marks=pytest.mark.slow)])
def test_small_euler_steps_reach_the_closed_form(gain):
    """Shooting and the conservation of energy, two ways to one curve; the variance moves in order
    dt^2, the curve in order dt."""
    variance, curve = {}, {}
    for dt in (0.2, 0.1, 0.05):
        C = np.asarray(euler_correlation(gain, dt, round(4 / dt)).value)
        variance[dt] = Estimate(C[0] / gain**2, 0.0)
        curve[dt] = Estimate(C[[round(tau / dt) for tau in (1, 2, 4)]] / C[0], 0.0)
    closed = float(stationary_variance(gain))
    error = [abs(float(v) - closed) for v in variance.values()]
    assert error[0] < 1e-3 * closed
    assert error[0] / error[1] == pytest.approx(4, rel=0.3)
    exact = np.asarray(stationary_correlation(gain, [1, 2, 4]).value)
    limit = dmft.extrapolate(curve)
    assert (np.abs(limit.value - exact) < np.asarray(limit.stderr) + 1e-5).all()
    assert (np.asarray(limit.stderr) < 5e-3).all()


def test_the_orbit_is_enclosed_at_long_lags():
    C = euler_correlation(5.0, 0.1, 600)
    assert abs(C.value[-1]) <= C.stderr[-1] < 1e-4 * C.value[0]
    assert (np.abs(np.diff(C.value)[:200]) > 0).all()


# -- the march -------------------------------------------------------------------------------------
def test_the_march_follows_the_transient():
    """Against the two-time equations without sampling, at all pairs of some times."""
    at = [1, 3, 10, 25, 59]
    exact = two_time(5.0, 60, 0.2, 1.0)[np.ix_(at, at)]
    found = two_time_correlation(5.0, 11.8, 0.2, 3000, runs=12)
    C = found.per_run["C"][:, at][:, :, at]
    # 15 different numbers, 12 runs: Student's t at the probability of 4 sigma
    z = (C.mean(0) - exact) / (C.std(0, ddof=1) / 12**0.5 + 1e-12)
    assert np.abs(z).max() < 6, z
    assert (np.diagonal(C.std(0) / exact) < 0.03).all()
    assert found.flags == ()


def test_the_march_and_the_orbit_meet():
    """The transient without sampling ends in the state that shooting finds."""
    C = two_time(5.0, 301, 0.2, 1.0)
    orbit = np.asarray(euler_correlation(5.0, 0.2, 30).value) / 25
    np.testing.assert_allclose(C[300, 300 - np.arange(31)], orbit, atol=3e-4)
    assert C[300, 300] == pytest.approx(orbit[0], rel=2e-5)


def test_quiet_below_gain_one():
    found = two_time_correlation(0.5, 15.0, 0.2, 500, runs=2)
    variance = np.diagonal(found.order_parameters["C"].value)
    # no slower than exp(-2 (1 - g) t)
    assert variance[-1] < 2e-6 and (np.diff(variance) < 0).all()


def test_the_march_does_not_depend_on_the_step():
    """Richardson's limit of the variance at t = 4 against finer steps without sampling."""
    at = {}
    for seed, dt in enumerate((0.4, 0.2)):
        C = two_time_correlation(3.0, 4.0, dt, 4000, runs=4, seed=seed).order_parameters["C"]
        at[dt] = Estimate(C.value[-1, -1], C.stderr[-1, -1])
    fine = {dt: Estimate(two_time(3.0, round(4 / dt) + 1, dt, 1.0)[-1, -1]) for dt in (0.1, 0.05)}
    limit, exact = dmft.extrapolate(at), dmft.extrapolate(fine)
    assert abs(limit.value - exact.value) < 4 * np.hypot(limit.stderr, exact.stderr)


@pytest.mark.slow
def test_the_march_reaches_the_closed_form():
    """T = 60: within half a percent of 0.151287."""
    found = two_time_correlation(3.0, 60.0, 0.1, 6000)
    C = found.per_run["C"]
    variance = np.einsum("rtt->rt", C)[:, 300:].mean(1) / 4
    assert variance.mean() == pytest.approx(0.151287, rel=5e-3)
    assert variance.std(ddof=1) / 2 < 5e-4
    assert found.flags == ()


# -- the networks ----------------------------------------------------------------------------------
def test_bad_parameters():
    for name, value in (
        ("n_units", 1), ("gain", 1.2), ("gain", math.inf), ("dt", 0.0), ("dt", 0.3), ("dt", 0.6),
        ("burn_in", -1.0), ("duration", 5.0), ("networks", 1), ("starts", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            Params(**{name: value})
    for name, value in (("gain", -1.0), ("dt", 0.6), ("start_variance", -1.0), ("duration", 0.0)):
        with pytest.raises(ValueError, match=name):
            two_time_correlation(**{"gain": 2.0, "duration": 5.0, name: value})


def test_units_follow_the_equation_of_motion():
    """One batch against the loop in float64."""
    path = trajectories(30, 2.0, 0.2, 3, 2, np.random.default_rng(5))
    h = [next(path) for _ in range(6)]
    rng = np.random.default_rng(5)
    J = rng.standard_normal((3, 30, 30), dtype=np.float32).astype(float) / 30**0.5
    x = rng.standard_normal((3, 30, 2), dtype=np.float32).astype(float)
    for k in range(6):
        np.testing.assert_allclose(h[k], x, atol=1e-4)
        x = x + 0.2 * (-x + np.einsum("mij,mjs->mis", J, np.tanh(2 * x)))


def test_theory_speaks_of_euler_steps():
    coarse, fine = theory(Params(dt=0.5)), theory(Params(dt=0.1))
    assert fine["correlation"].value[1] > coarse["correlation"].value[1] + 0.05
    assert simulate(Params(networks=2, n_units=20), 0).keys() == coarse.keys()


def test_the_lags_are_named():
    """The table shows lags, not their index."""
    from thermolearn.systems.dynamics import random_network
    from thermolearn.systems.dynamics.random_network.params import LAGS

    assert random_network.ABOUT["points"]["correlation"] == LAGS
