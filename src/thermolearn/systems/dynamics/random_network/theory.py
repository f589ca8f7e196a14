r"""The stationary state in closed form, and the motion of its autocorrelation.

For u = g h and phi = tanh, C(tau) = <u(t) u(t + tau)> moves like a particle without friction,

    C'' = C - g^2 E[phi(u) phi(u')] = -V'(C),   V = -C^2/2 + g^2 E[Phi(u) Phi(u')],  Phi = ln cosh,

the averages over Gaussian u, u' of variance Delta = C(0) and covariance C. Chaos is the orbit that
starts at rest in Delta and ends in 0: V(Delta) = V(0). Euler steps dt change it to

    (1 - dt) (C_{k+1} - 2 C_k + C_{k-1}) / dt^2 = C_k - g^2 E[phi phi'],

the same particle by leapfrog with the step dt / sqrt(1 - dt): Delta changes in order dt^2 only.

References: H. Sompolinsky, A. Crisanti, H. J. Sommers, doi:10.1103/PhysRevLett.61.259. The Euler
form is our own.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.gaussian import gauss_nodes
from thermolearn.systems.dynamics.random_network.params import Params

NODES, WEIGHTS = gauss_nodes(1.0, 10)
ROUNDING = 2e-11  # (g - 1)^2 times the error that V(0) - V(C) leaves: orders of Delta cancel
NEAR = 2e-4  # g - 1 below which the limit g -> 1 is closer than that


def log_cosh(x: np.ndarray) -> np.ndarray:
    """ln cosh without overflow, and to the last digits near 0, where it is x^2/2."""
    x = np.abs(x)
    small = np.log1p(2 * np.sinh(np.minimum(x, 1) / 2) ** 2)
    return np.where(x < 1, small, x + np.log1p(np.exp(-2 * x)) - np.log(2))


def pair_average(f, variance: float, covariance: ArrayLike) -> np.ndarray:  # type: ignore[no-untyped-def]
    """E f(u) f(u') for Gaussian u, u' of one variance and covariances in [0, variance]."""
    out = []
    for c in np.atleast_1d(np.asarray(covariance, dtype=np.float64)):
        own, common = np.sqrt(max(variance - c, 0.0)), np.sqrt(c)
        inner = f(own * NODES[:, None] + common * NODES)
        out.append(WEIGHTS @ (WEIGHTS @ inner) ** 2)
    return np.array(out)


def stationary_variance(gain: float) -> Estimate:
    """<h^2> of the chaotic state: Delta / g^2 with g^2 Var Phi(sqrt(Delta) x) = Delta^2 / 2.

    Parameters
    ----------
    gain : float
        g > 0. Up to 1 the state is 0: Delta = 0.

    Returns
    -------
    Estimate
        stderr is the numerical error.

    Raises
    ------
    ValueError
        gain is not positive.
    """
    gain = real("gain", gain, above=0)
    if gain <= 1:
        return Estimate(0.0, note="quiescent: the state 0 is stable up to g = 1")

    def energy(log_delta: float) -> float:
        delta = np.exp(log_delta)
        phi = log_cosh(np.sqrt(delta) * NODES)
        return gain**2 * (WEIGHTS @ phi**2 - (WEIGHTS @ phi) ** 2) / delta**2 - 0.5

    # Var Phi = Delta^2/2 - 4 Delta^3/3 + ... near 1, and <= pi-2/pi Delta for all Delta
    low, high = np.log(1e-3 * (gain - 1)), np.log(gain**2)
    delta = float(np.exp(brentq(energy, low, high, xtol=1e-14)))  # type: ignore[arg-type]
    return Estimate(delta / gain**2, 1e-9 * delta / gain**2)


def stationary_correlation(gain: float, times: ArrayLike) -> Estimate:
    """C(tau) / C(0) of continuous time, from the conservation of energy.

    With C = Delta (1 - z^2) the law C'^2 = 2 (V(0) - V(C)) becomes dz/dtau = f(z), smooth, with
    the stable end z = 1: no shooting. At g - 1 < 0.0002 rounding would spoil that: there it is
    sech(Delta tau / sqrt(3)), the limit of g to 1.

    Parameters
    ----------
    gain : float
        g > 1.
    times : array
        tau, in units of the time constant; not negative, in any order.

    Returns
    -------
    Estimate
        stderr is the numerical error: 1e-6, and more near g = 1 (up to 5e-4).

    Raises
    ------
    ValueError
        gain at most 1 or a negative time.
    ConvergenceError
        The equation of motion could not be integrated.
    """
    gain = real("gain", gain, above=1)
    times = np.asarray(times, dtype=np.float64)
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError("times must be finite and not negative")
    delta = gain**2 * float(stationary_variance(gain))
    if gain - 1 < NEAR:
        ratio = 1 / np.cosh(np.minimum(delta / np.sqrt(3) * times, 700))
        return Estimate(ratio, 2 * (gain - 1), note="the limit g to 1")
    rest = float(WEIGHTS @ log_cosh(np.sqrt(delta) * NODES)) ** 2

    def velocity(z: np.ndarray) -> np.ndarray:
        c = delta * (1 - z**2)
        squared = c**2 - 2 * gain**2 * (pair_average(log_cosh, delta, c) - rest)
        return np.sqrt(np.maximum(squared, 0)) / (2 * delta * z * (1 - z**2))

    # 1 - z^2 is divided out: what is left is smooth and positive at both ends
    series = chebyshev.Chebyshev.interpolate(velocity, 30, domain=[0, 1])
    order = np.unique(np.r_[0.0, times.ravel()])
    path = solve_ivp(
        lambda _, z: series(z) * (1 - z**2), (0, order[-1] + 1), [0.0], t_eval=order, rtol=1e-9,
        atol=1e-12,
    )  # fmt: skip
    if not path.success:
        raise ConvergenceError(f"C(tau) at gain = {gain:g} was not integrated: {path.message}")
    ratio = 1 - path.y[0] ** 2
    return Estimate(ratio[np.searchsorted(order, times)], 1e-6 + ROUNDING / (gain - 1) ** 2)


def euler_correlation(gain: float, dt: float, steps: int) -> Estimate:
    """C_0, ..., C_steps of u = g h in Euler steps, by shooting for C_0.

    Two neighbors in double precision enclose the orbit: one comes back before it reaches 0, the
    other passes it, and both are stopped there. stderr is half their distance.

    Parameters
    ----------
    gain : float
        g >= 1.5: nearer to 1 the orbit is too long to be shot.
    dt : float
        In (0, 0.5].
    steps : int
        Last lag.

    Raises
    ------
    ConvergenceError
        No orbit that ends in 0 was found.
    """
    delta = gain**2 * float(stationary_variance(gain))
    force = _force(gain, delta)
    low, high = delta * np.array([1 - SPAN, 1 + SPAN])
    for _ in range(8):
        starts = np.linspace(low, high, 65)
        returns, orbits = _shoot(starts, force, dt, steps)
        turn = int(np.argmax(returns > 0))  # the first that comes back before it reaches 0
        if not turn:
            raise ConvergenceError(f"no orbit between {low:g} and {high:g} ends in 0")
        low, high = starts[turn - 1 : turn + 1]
    below, above = orbits[turn - 1 : turn + 1]
    return Estimate((above + below) / 2, np.abs(above - below) / 2 + 1e-7 * delta)


SPAN = 0.05  # Delta moves by less in steps up to 0.5


def _force(gain: float, delta: float):  # type: ignore[no-untyped-def]
    """Delta (n,) near the given one -> (C (n,) -> C - g^2 E[phi phi'] elementwise)."""
    at = delta * (1 + SPAN * chebyshev.chebpts1(6))
    z = np.linspace(0, 1, 81)
    curves = [gain**2 * pair_average(np.tanh, d, d * (1 - z**2)) for d in at]
    spline = CubicSpline(z, np.transpose(curves))
    powers = np.linalg.inv(chebyshev.chebvander((at / delta - 1) / SPAN, 5))

    def force(starts: np.ndarray):  # type: ignore[no-untyped-def]
        coefficients = chebyshev.chebvander((starts / delta - 1) / SPAN, 5) @ powers

        def at(c: np.ndarray) -> np.ndarray:
            # beyond 0 and the start the orbit is over
            z = np.sqrt(np.clip(1 - c / starts, 0, 1))
            return c - np.einsum("nk,nk->n", spline(z), coefficients)

        return at

    return force


def _shoot(starts: np.ndarray, force, dt: float, steps: int):  # type: ignore[no-untyped-def]
    """Orbits from rest, and +1 where they come back, -1 where they pass 0, 0 where neither."""
    square, push = dt**2 / (1 - dt), force(starts)
    orbit = [starts, starts + square / 2 * push(starts)]
    returns = np.zeros(len(starts))
    while len(orbit) <= steps or not returns.all():
        now, before = orbit[-1], orbit[-2]
        returns[(returns == 0) & (now < 0)] = -1
        returns[(returns == 0) & (now > before)] = 1
        if len(orbit) > steps + 200 / dt:
            break
        following = 2 * now - before + square * push(now)
        orbit.append(np.where(returns, now, following))
    return returns, np.array(orbit[: steps + 1]).T


def theory(p: Params) -> dict[str, Estimate]:
    """The limit of large N, in the same Euler steps.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        variance : <h^2>.
        activity : <tanh^2(g h)>.
        correlation : <h(t) h(t + tau)> / <h^2> at `LAGS`, (3,).

    Raises
    ------
    ConvergenceError
        The orbit of the autocorrelation was not found.
    """
    C = euler_correlation(p.gain, p.dt, p.lags[-1])
    value, error = np.asarray(C.value), np.asarray(C.stderr)
    lags = list(p.lags)
    activity = float(WEIGHTS @ np.tanh(np.sqrt(value[0]) * NODES) ** 2)
    return {
        "variance": Estimate(value[0] / p.gain**2, error[0] / p.gain**2),
        "activity": Estimate(activity, error[0] / value[0]),
        "correlation": Estimate(value[lags] / value[0], error[lags] / value[0]),
    }
