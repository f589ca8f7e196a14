"""Effective temperatures of the mean-field theory: exact ones of least squares, published ones."""

import numpy as np
import pytest

from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise import EffectiveTemperature, OnlineLeastSquares
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD
from thermolearn.systems.training.sgd_noise.temperature import (
    fdt_temperature,
    stationarity,
    virial_sides,
    virial_temperature,
)


def marchenko_pastur(alpha, Delta, points=4000):
    """Nodes and weights of the density of eigenvalues of Delta Z^T Z/d, alpha > 1."""
    low, high = (Delta * (1 + s * np.sqrt(alpha)) ** 2 for s in (-1, 1))
    phi = np.pi * (np.arange(points) + 0.5) / points
    a = (high + low) / 2 + (high - low) / 2 * np.cos(phi)
    density = np.sqrt((high - a) * (a - low)) / (2 * np.pi * Delta * a)
    weight = density * (high - low) / 2 * np.sin(phi) * np.pi / points
    assert abs(weight.sum() - 1) < 1e-6
    return a, weight


def test_least_squares_has_the_temperatures_of_its_modes():
    """T_a = eta sigma^2 a/(2 - eta (a + 2 lambda) - ...): fast modes are hotter.

    A mode of curvature a has <w^2> = eta^2 s a/(1 - f^2) and relaxes by f = 1 - eta (a + lambda);
    s = (1 - b)/b <r^2> closes by the residuals' own share.
    """
    alpha, Delta, lam, eta, b = 3.0, 1.0, 0.5, 0.1, 0.5
    model = GaussianMixturePerceptron(alpha, Delta, loss="quadratic")
    a, rho = marchenko_pastur(alpha, Delta)
    f = 1 - eta * (a + lam)
    gain = eta**2 * (1 - b) / b / alpha * (rho @ (a**2 / (1 - f**2)))
    s = (1 - b) / b * 2 * float(model.static(lam).loss) / (1 - gain)
    spread = eta**2 * s * a / (1 - f**2)
    fast = rho @ (spread * (1 - f)) / eta
    overall = (rho @ spread) / (rho @ (1 / (a + lam)))
    assert fast > 1.2 * overall

    found = model.dmft(SGD(eta, b), lam, 90, n_mc=1500, start=(1.0, 0.5), runs=6)
    t = found.effective_temperature((40, 90), lag=30)
    assert isinstance(t, EffectiveTemperature) and t.stationary
    virial = found.effective_temperature((40, 90), "virial")
    assert isinstance(virial, Estimate) and virial.status == "ok"
    for e, exact in ((t.t_fast, fast), (t.t_glob, overall), (virial, fast)):
        assert abs(e.value - exact) < 4 * e.stderr and e.stderr < 0.03 * exact
    chi = rho @ ((1 - f[:, None] ** np.arange(1, 31)[None]) / (a + lam)[:, None])
    np.testing.assert_allclose(t.response.value, chi, rtol=0.02)
    msd = rho @ (spread[:, None] * (1 - f[:, None] ** np.arange(1, 31)[None]))
    np.testing.assert_allclose(t.half_msd.value, msd, rtol=0.06)


def test_many_samples_seen_once_are_online_least_squares():
    """alpha to infinity with eta alpha and b alpha fixed: hardly any sample returns."""
    alpha, share, rate, d = 100.0, 2.0, 0.5, 2000
    online = OnlineLeastSquares(d, int(share * d), rate * d, eigenvalues=(1 / d,) * d)
    model = GaussianMixturePerceptron(alpha, 1.0, [(0.5, 0, 1), (0.5, 0, -1)], "quadratic")
    found = model.dmft(SGD(rate / alpha, share / alpha), 0.0, 40, n_mc=6000, runs=6, start=(0.2, 0))
    t = found.effective_temperature((10, 40), "virial")
    # of the sum over n = alpha d samples, there of the mean
    exact = alpha * d * online.temperature
    assert abs(t.value - exact) < 4 * t.stderr + exact / alpha and t.stderr < 0.03 * exact


def langevin(a, rate, T, steps, origin=4000):
    """Exact C and R of w <- (1 - eta a) w + sqrt(2 eta T) xi, stationary, twice."""
    t = np.arange(steps + 1)
    lag = t[:, None] - t[None]
    f = 1 - rate * a
    C = 2 * rate * T / (1 - f**2) * f ** np.abs(lag)
    R = np.where(lag > 0, f ** np.maximum(lag - 1, 0.0), 0.0)
    return np.stack([C, C]), np.stack([R, R])


def test_a_parabola_has_one_temperature_at_every_lag():
    a, rate, T = 1.5, 0.1, 0.3
    t = fdt_temperature(*langevin(a, rate, T, 100), rate, (0, 100), 40)
    exact = T / (1 - rate * a / 2)  # 0.324324
    np.testing.assert_allclose(t.half_msd.value / t.response.value, exact, rtol=1e-12)
    for e in (t.t_fast, t.t_slope, t.t_glob):
        assert e.value == pytest.approx(exact, rel=1e-10)


def test_the_virial_temperature_is_the_fast_one_up_to_the_drift():
    rng = np.random.default_rng(0)
    w = np.cumsum(rng.standard_normal((3, 30, 50)), 1)  # three runs, d = 50
    C = np.einsum("rti,rsi->rts", w, w) / 50
    R = np.tril(np.ones((3, 30, 30)), -1)
    fast = fdt_temperature(C, R, 0.2, (5, 25), 5)
    left = virial_temperature(C, 0.2, (5, 25))
    assert fast.stationary is False and left.status == "not stationary"
    assert fast.t_fast.status == "not stationary" and np.isfinite(fast.t_fast.value)
    # the sides over the same steps: their difference is the telescoping sum
    square = ((w[:, 6:26] - w[:, 5:25]) ** 2).mean((0, 2)).mean() / (2 * 0.2)
    drift = ((w[:, 25] ** 2).mean() - (w[:, 5] ** 2).mean()) / (2 * 0.2 * 20)
    assert left.value == pytest.approx(square - drift, rel=1e-10)
    alone = stationarity(C[:1], 0.2, (5, 25))
    assert alone.still is False and "later window" in alone.statement


def test_a_path_that_ends_as_far_from_0_as_it_began_is_seen_to_move():
    """|w|^2 of the start is that of the end here, while the loss and the weights still relax."""
    model = GaussianMixturePerceptron(3, 1.0, loss="hinge2")
    result = model.dmft(SGD(0.1, 0.5), 0.5, 60, n_mc=500, start=(0.6, 0.0))
    left, right = virial_sides(result.per_run["C"], 0.1, (0, 51))
    assert abs((right - left).mean()) < 0.05 * right.mean()
    t = result.effective_temperature((0, 51))
    assert t.stationary is False and "H(12)" in t.statement
    for e in (t.t_fast, t.t_slope, t.t_glob, result.effective_temperature((0, 51), "virial")):
        assert e.status == "not stationary"


def test_a_simulation_is_judged_by_the_steps_of_its_curves():
    """Not by those of the window: after the lags of the first waiting times it stands still."""
    model = GaussianMixturePerceptron(3, 1.0, loss="hinge2")
    run = model.simulate(
        100, SGD(0.1, 0.5), 0.5, 400, start=(0.583, 0.0), waiting_times=[0, 5, 10], lag=20
    )
    C = run.per_seed["C"]
    assert stationarity(C, 0.1, (200, 400)).still is not False
    t = run.effective_temperature((0, 400))
    assert "steps 0 to 30" in t.statement and t.stationary is False
    assert {e.status for e in (t.t_fast, t.t_slope, t.t_glob)} == {"not stationary"}


def noisy_langevin(samples, runs, seed):
    """C and R of a parabola's Langevin equation in `samples` dimensions."""
    rng = np.random.default_rng(seed)
    C, R = langevin(1.5, 0.1, 0.3, 40)
    w = np.linalg.cholesky(C[0]) @ rng.standard_normal((runs, 41, samples))
    return w @ w.transpose(0, 2, 1) / samples, np.tile(R[0], (runs, 1, 1))


def test_a_drift_within_the_noise_asks_for_more_samples():
    """A stationary process of few samples: not a word of a later window, and not ok."""
    seen = []
    for seed in range(40):
        C, R = noisy_langevin(100, 4, seed)
        steady = stationarity(C, 0.1, (0, 40))
        t = fdt_temperature(C, R, 0.1, (0, 40), 10)
        assert t.t_fast.status == steady.status == virial_temperature(C, 0.1, (0, 40)).status
        assert (steady.status == "under-sampled") == ("more samples" in steady.statement)
        seen.append(steady.status)
    assert seen.count("not stationary") <= 4  # three tests at 1%
    assert seen.count("under-sampled") > 20
    assert stationarity(noisy_langevin(30_000, 4, 0)[0], 0.1, (0, 40)).status == "ok"


def test_full_batches_have_no_temperature():
    """The way to the minimum is not noise, and its end is the temperature 0."""
    model = GaussianMixturePerceptron(3, 1.0)
    for schedule in (GD(0.1), SGD(0.1, 1.0)):
        result = model.dmft(schedule, 0.5, 20, n_mc=300, runs=3, start=(1.0, 0.0))
        t = result.effective_temperature((0, 20), lag=8)
        assert t.stationary is None and t.t_fast.status == "no noise" and "is 0" in t.statement
        assert result.effective_temperature((0, 20), "virial").status == "no noise"


def test_a_single_run_does_not_tell_its_error():
    model = GaussianMixturePerceptron(3, 1.0, loss="hinge2")
    result = model.dmft(SGD(0.1, 0.5), 0.5, 20, n_mc=300, runs=1, start=(1.0, 0.5))
    assert result.m.status == result.C.status == result.solution.M.status == "one run"
    virial = result.effective_temperature((18, 20), method="virial")
    assert np.isnan(virial.stderr) and virial.status in ("not tested", "not stationary")
    still = noisy_langevin(100_000, 1, 0)[0]
    assert virial_temperature(still, 0.1, (0, 40)).status == "not tested"
    with pytest.raises(ValueError, match="runs"):
        result.effective_temperature()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"method": "kinetic"}, "method"),
        ({"window": (3, 30)}, "window"),
        ({"window": (8, 8)}, "window"),
        ({"window": (8,)}, "window"),
        ({"window": (4, 40)}, "last <= 20"),
        ({"window": (4, 20), "lag": 17}, "lag"),
        ({"window": (4, 20), "lag": 4}, "lag"),
        ({"window": (10, 12)}, "window must have at least 5 steps"),
    ],
)
def test_bad_windows_are_named(bad, message):
    model = GaussianMixturePerceptron(3, 1.0)
    result = model.dmft(SGD(0.1, 0.5), 0.5, 20, n_mc=200, runs=2)
    with pytest.raises(ValueError, match=message):
        result.effective_temperature(**bad)


# -- published numbers: squared hinge, alpha = 3, Delta = 1, lambda = .5, T = 150 -----------------
def published(schedule, runs=3, n_mc=1500):
    model = GaussianMixturePerceptron(3, 1.0, loss="hinge2")
    result = model.dmft(schedule, 0.5, 150, n_mc=n_mc, runs=runs, start=(1.0, 0.5))
    return result.effective_temperature((70, 150), lag=40)


@pytest.mark.slow
def test_published_temperatures_of_sgd():
    base = published(SGD(0.1, 0.5))
    assert abs(base.t_glob.value - 0.0335) < 0.0015 and base.stationary
    assert abs(base.t_fast.value - 0.05276) < 4 * np.hypot(0.00009, base.t_fast.stderr)
    assert abs(base.t_slope.value - 0.0203) < 4 * np.hypot(0.0001, base.t_slope.stderr)
    assert abs(base.plateau.value - 0.529) < 4 * np.hypot(0.003, base.plateau.stderr)
    assert base.t_fast > base.t_glob > base.t_slope


@pytest.mark.slow
def test_published_temperatures_of_persistent_sgd():
    base = published(PersistentSGD(0.1, 0.5, 1.0))
    assert abs(base.t_glob.value - 0.137) < 0.006
    assert abs(base.t_fast.value - 0.0261) < 4 * np.hypot(0.0001, base.t_fast.stderr)
    assert abs(base.t_slope.value - 0.218) < 4 * np.hypot(0.001, base.t_slope.stderr)
    assert base.t_fast < base.t_glob < base.t_slope


@pytest.mark.slow
def test_the_temperature_grows_as_one_less_b_over_b():
    hot, cold = (published(SGD(0.1, b), runs=2).t_glob.value for b in (0.25, 0.75))
    assert abs(hot / cold - 10) < 0.8
