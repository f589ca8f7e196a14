"""The tuned jump: the operator's optimum, and pilot runs that find it without the operator."""

from __future__ import annotations

import numpy as np
import pytest

from thermolearn.core.errors import ConvergenceError, SamplerWarning
from thermolearn.systems.sampling.metropolis import (
    GaussianJump,
    UniformJump,
    box,
    harmonic,
    recommended_length,
    tune_step,
)


def normal(x: np.ndarray) -> np.ndarray:
    return -x * x / 2


def test_the_box_is_crossed_in_one_jump():
    """The best uniform jumps are as wide as the box, where Lambda = 1/2."""
    tuned = tune_step(box(), family="uniform")
    assert isinstance(tuned.jump, UniformJump)
    assert tuned.jump.a == pytest.approx(2, abs=0.01)
    assert float(tuned.relaxation_time) == pytest.approx(1 / np.log(2), rel=0.01)
    assert tuned.scale is None and not tuned.trials


@pytest.mark.slow
def test_the_harmonic_optimum():
    """a = 3.331 and s = 2.2 standard deviations, at acceptances of 0.455 and 0.47; with stiffness
    and temperature only the units change."""
    tuned = tune_step(harmonic(), family="uniform")
    assert tuned.jump.a == pytest.approx(3.331, abs=5e-3)
    assert float(tuned.acceptance) == pytest.approx(0.455, abs=2e-3)
    assert "rejected" in tuned.advice and tuned.limit == "diffusion and rejection"
    gaussian = tune_step(harmonic(4.0), beta=0.25)
    assert gaussian.jump.s == pytest.approx(2.2, abs=0.05)
    assert gaussian.limit == "diffusion and energy"
    assert float(gaussian.acceptance) == pytest.approx(0.47, abs=5e-3)
    assert float(gaussian.relaxation_time) == pytest.approx(-1 / np.log(0.6475), rel=5e-3)


@pytest.mark.parametrize(("family", "length"), [("gaussian", 2.2), ("uniform", 3.33)])
def test_pilot_runs_find_the_optimum_of_one_dimension(family, length):
    """In units of 3: the covariance is measured. The optimum of integrated times is flat."""
    tuned = tune_step(
        log_prob=lambda x: -((x - 5) ** 2) / 18, x0=0.0, family=family, steps=400, seed=1
    )
    assert tuned.scale is not None and tuned.scale[0, 0] == pytest.approx(3, rel=0.05)
    used = tuned.jump.a if family == "uniform" else tuned.jump.s
    assert used == pytest.approx(length, rel=0.2)
    assert 0.4 < float(tuned.acceptance) < 0.53
    assert float(tuned.relaxation_time) == pytest.approx(2.2, rel=0.2)
    assert tuned.relaxation_time.status == "ok" and tuned.relaxation_time.stderr > 0
    assert tuned.limit in ("diffusion", "energy")
    worst = [float(t.times[t.slowest]) for t in tuned.trials]
    assert worst[-1] < 1.1 * min(worst) and worst[0] > 1.3 * min(worst)


def test_pilot_runs_do_not_depend_on_the_axes():
    """Variances from 1 to 10^4 along random axes."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    covariance = axes @ np.diag([1.0, 100.0, 10_000.0]) @ axes.T
    inverse = np.linalg.inv(covariance)
    tuned = tune_step(
        log_prob=lambda x: -0.5 * np.einsum("wi,ij,wj->w", x, inverse, x),
        x0=[3.0, 3.0, 3.0],
        steps=400,
    )
    assert isinstance(tuned.jump, GaussianJump) and tuned.scale is not None
    white = np.linalg.solve(tuned.scale, np.linalg.cholesky(covariance))
    np.testing.assert_allclose(white @ white.T, np.eye(3), atol=0.2)
    assert tuned.jump.s * 3**0.5 == pytest.approx(recommended_length(3), rel=0.25)
    assert 0.27 < float(tuned.acceptance) < 0.5
    assert float(tuned.relaxation_time) == pytest.approx(5.5, rel=0.25)


def test_two_modes_are_noticed_if_walkers_are_in_both():
    start = np.repeat([[-30.0], [30.0]], 32, axis=0)

    def log_prob(x: np.ndarray) -> np.ndarray:
        return np.logaddexp(-((x - 30) ** 2) * 50, -((x + 30) ** 2) * 50)

    with pytest.warns(SamplerWarning, match="several modes"):
        tuned = tune_step(log_prob=log_prob, x0=start, steps=200)
    assert tuned.relaxation_time.status == "not mixed"
    assert "not mixed" in tuned.advice


def test_places_where_a_chain_sticks_are_told():
    """A spike of half the mass on a broad background."""

    def log_prob(x: np.ndarray) -> np.ndarray:
        r2 = (x * x).sum(1)
        return np.logaddexp(-r2 / 2, 2 * np.log(100.0) - r2 * 100.0**2 / 2)

    with pytest.warns(SamplerWarning):
        tuned = tune_step(
            log_prob=log_prob, x0=np.random.default_rng(0).normal(size=(64, 2)), steps=300
        )
    assert "longest run of rejections" in tuned.advice
    assert "too long for some places" in tuned.advice or tuned.relaxation_time.status != "ok"


def test_recommendations():
    assert recommended_length(1) == 2.2 and recommended_length(10) == 1.9
    assert recommended_length(1000) == 1.9 and 2.0 < recommended_length(4) < 2.1
    with pytest.raises(ValueError, match="dimension"):
        recommended_length(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either"),
        ({"potential": harmonic(), "log_prob": normal}, "either"),
        ({"potential": harmonic(), "family": "cauchy"}, "family"),
        ({"potential": harmonic(), "family": "uniform", "dimension": 2}, "family"),
        ({"potential": harmonic(), "dimension": 0}, "dimension"),
        ({"potential": harmonic(), "beta": 0.0}, "beta"),
        ({"log_prob": normal}, "x0"),
        ({"log_prob": normal, "x0": 0.0, "beta": 2.0}, "beta"),
        ({"log_prob": normal, "x0": 0.0, "steps": 10}, "steps"),
        ({"log_prob": normal, "x0": 0.0, "walkers": 1}, "walkers"),
        ({"log_prob": normal, "x0": 0.0, "seed": -1}, "seed"),
        ({"log_prob": lambda x: -(x * x).sum(1), "x0": [0.0, 0.0], "family": "uniform"}, "family"),
        ({"log_prob": lambda x: x * np.nan, "x0": 0.0}, "nan"),
    ],
)
def test_bad_input(given, message):
    with pytest.raises(ValueError, match=message):
        tune_step(**given)


def test_a_flat_density_has_no_jump():
    with pytest.raises(ConvergenceError, match="acceptance"):
        tune_step(log_prob=lambda x: np.zeros(len(x)), x0=0.0)


# -- times that cannot be trusted -----------------------------------------------------------------
def gamma_half(x: np.ndarray) -> np.ndarray:
    """The density diverges at 0: chains near it stand still for any time."""
    inside = np.maximum(x, 1e-300)
    return np.where(x > 0, -0.5 * np.log(inside) - x, -np.inf)


@pytest.mark.parametrize(
    "log_prob",
    [
        gamma_half,
        lambda x: -2 * np.log1p(x * x / 3),  # Student, 3 degrees
        lambda x: -np.log1p(x * x),  # Cauchy
    ],
)
def test_times_of_sticky_and_heavy_tailed_targets_are_flagged(log_prob):
    """Their true time is infinite, or that of a function without a variance."""
    with pytest.warns(SamplerWarning, match="heavy tails|stood still|autocorrelation times|agree"):
        tuned = tune_step(log_prob=log_prob, x0=1.0, steps=250)
    assert tuned.relaxation_time.status == "under-sampled"
    assert "lower bound" in tuned.advice


@pytest.mark.slow
def test_slow_targets_are_run_until_the_time_is_stable():
    """A banana: 2000 steps show 50(5), long runs at the lengths chosen 85 to 105."""

    def banana(x: np.ndarray) -> np.ndarray:
        return -0.5 * (x[:, 0] / 2) ** 2 - 2 * (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2

    time = tune_step(log_prob=banana, x0=[0.0, 0.0]).relaxation_time
    assert abs(float(time) - 95) < 10 + 4 * time.stderr < 60


def test_nearly_singular_covariances_are_resolved():
    """Standard deviations of 1.4 and 7e-7 along the diagonals: the time is that of a Gaussian."""

    def log_prob(x: np.ndarray) -> np.ndarray:
        return -0.5 * ((x[:, 0] + x[:, 1]) ** 2 / 4 + 1e12 * (x[:, 0] - x[:, 1]) ** 2)

    tuned = tune_step(log_prob=log_prob, x0=[0.0, 0.0], steps=400)
    assert float(tuned.acceptance) == pytest.approx(0.4, abs=0.07)
    assert float(tuned.relaxation_time) == pytest.approx(4.0, rel=0.2)
    assert tuned.relaxation_time.status == "ok"
    assert tuned.scale is not None
    across = np.array([1, -1]) @ tuned.scale
    assert np.linalg.norm(across) == pytest.approx(1e-6, rel=0.2)


def test_the_shape_of_the_argument_of_log_prob_is_said():
    with pytest.raises(ValueError, match=r"plain arrays \(64,\)"):
        tune_step(log_prob=lambda x: -(x[:, 0] ** 2), x0=[1.0])
