import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from thermolearn.core.diagnostics import (
    autocorrelation_time,
    bootstrap,
    effective_sample_size,
    importance_ess,
    split_rhat,
)
from thermolearn.core.errors import SamplerWarning


def ar1(rho, n_chains, n_draws, seed=0):
    """Stationary AR(1) chains of variance 1: tau_int = (1 + rho) / (1 - rho) / 2."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_chains, n_draws)) * math.sqrt(1 - rho**2)
    start = rng.standard_normal((n_chains, 1)) * rho
    return signal.lfilter([1.0], [1.0, -rho], noise, axis=1, zi=start)[0]


def naive_tau(x, window):
    """1/2 + sum rho(t) of one chain, by the definition."""
    y = x - x.mean()
    variance = (y**2).mean()
    return 0.5 + sum((y[t:] * y[:-t]).mean() / variance for t in range(1, window + 1))


def test_autocorrelation_time_against_the_closed_form():
    tau = autocorrelation_time(ar1(0.9, 4, 20_000))
    assert tau.status == "ok" and 0.3 < tau.stderr < 0.6
    assert abs(float(tau) - 9.5) < 4 * tau.stderr
    for seed in range(4):
        one = autocorrelation_time(ar1(0.9, 1, 20_000, seed + 1)[0])
        assert abs(float(one) - 9.5) < 1.5


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.97, -0.3, -0.6])
def test_autocorrelation_time_over_the_range_of_correlations(rho):
    tau = autocorrelation_time(ar1(rho, 4, 50_000))
    exact = 0.5 * (1 + rho) / (1 - rho)
    # for antithetic draws the formula for the error is too small: it scales with tau itself
    error = max(tau.stderr, 0.5 * math.sqrt(2 * 21 / 200_000))
    assert abs(float(tau) - exact) < 4 * error


def test_error_bar_of_tau_has_the_scatter_of_tau():
    taus = [autocorrelation_time(ar1(0.8, 4, 2000, seed)) for seed in range(200)]
    values = np.array([float(t) for t in taus])
    # the truncation of the window costs exp(-5 tau / tau_exp), about half a percent
    assert abs(values.mean() - 4.5) < 4 * values.std() / math.sqrt(200) + 0.01 * 4.5
    assert values.std() == pytest.approx(np.mean([t.stderr for t in taus]), rel=0.25)


def test_fft_equals_the_definition():
    x = ar1(0.7, 1, 3000)[0]
    tau = autocorrelation_time(x)
    candidates = [naive_tau(x, w) for w in range(1, 60)]
    assert min(abs(float(tau) - c) for c in candidates) < 1e-12


def test_effective_sample_size_of_the_closed_form():
    assert effective_sample_size(ar1(0.9, 4, 20_000)) == pytest.approx(80_000 / 19, rel=0.1)
    assert effective_sample_size(ar1(0.0, 4, 20_000)) == pytest.approx(80_000, rel=0.05)


def test_ess_and_rhat_against_arviz():
    az = pytest.importorskip("arviz", reason="arviz is not installed (test oracle)")
    for rho, seed in ((0.9, 0), (0.5, 1), (0.0, 2)):
        x = ar1(rho, 4, 5000, seed)
        # one estimator is Sokal's window, the other Geyer's sequence on split chains
        assert effective_sample_size(x) == pytest.approx(float(az.ess(x, method="mean")), rel=0.12)
        assert split_rhat(x) == pytest.approx(float(az.rhat(x, method="rank")), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_chains=st.integers(2, 5),
    n_draws=st.integers(50, 131),
    shift=st.floats(0, 3),
    stretch=st.floats(0.2, 5),
    digits=st.integers(0, 6),
)
def test_rhat_equals_arviz(seed, n_chains, n_draws, shift, stretch, digits):
    """Also with ties (rounded draws), shifted and stretched chains, odd lengths."""
    az = pytest.importorskip("arviz", reason="arviz is not installed (test oracle)")
    x = ar1(0.4, n_chains, n_draws, seed)
    x[0] = x[0] * stretch + shift
    x = np.round(x, digits)
    assert split_rhat(x) == pytest.approx(float(az.rhat(x, method="rank")), rel=1e-10)


def test_rhat_sees_location_scale_and_drift():
    x = ar1(0.9, 2, 20_000)
    assert split_rhat(x) < 1.01
    shifted = x + np.array([[0.0], [3.0]])
    assert split_rhat(shifted) > 1.5
    assert split_rhat(x * np.array([[1.0], [3.0]])) > 1.05  # the folded part
    assert split_rhat(x[:1] + np.linspace(0, 3, 20_000)) > 1.1  # one chain: its halves


def test_rhat_is_invariant_under_monotone_maps_of_bulk():
    x = ar1(0.3, 3, 400)
    # rounding may break the tie of the two draws beside the median
    assert split_rhat(5 * x - 2) == pytest.approx(split_rhat(x), abs=1e-4)
    heavy = np.tan(np.pi * np.random.default_rng(0).uniform(-0.5, 0.5, (4, 2000)))
    assert split_rhat(heavy) < 1.01  # no moments needed


def test_chains_that_disagree_are_under_sampled():
    x = ar1(0.5, 2, 5000) + np.array([[0.0], [3.0]])
    with pytest.warns(SamplerWarning, match="draw at least 50 tau_int"):
        tau = autocorrelation_time(x)
    assert tau.status == "under-sampled" and float(tau) > 100


def test_short_chains_warn_and_long_ones_do_not():
    with pytest.warns(SamplerWarning):
        assert autocorrelation_time(ar1(0.95, 1, 300)).status == "under-sampled"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert autocorrelation_time(ar1(0.9, 4, 20_000)).status == "ok"


def test_constant_draws():
    tau = autocorrelation_time(np.full((2, 60), 0.1))
    assert tau.status == "constant" and math.isnan(float(tau))
    assert math.isnan(split_rhat(np.ones((2, 60))))
    assert split_rhat(np.repeat([[0.0], [1.0]], 60, axis=1)) == math.inf


def test_bootstrap_of_a_mean_and_a_ratio():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(500)
    y = 2 + 0.5 * x + rng.standard_normal(500)
    mean = bootstrap(np.mean, x, n=4000)
    assert float(mean) == pytest.approx(x.mean(), abs=1e-15)
    assert mean.stderr == pytest.approx(x.std() / math.sqrt(500), rel=0.05)
    ratio = bootstrap(lambda a, b: a.mean() / b.mean(), x, y, n=2000)
    r = x.mean() / y.mean()
    delta = np.std(x - r * y) / abs(y.mean()) / math.sqrt(500)
    assert ratio.stderr == pytest.approx(delta, rel=0.07)
    assert bootstrap(lambda a: a.mean(0), np.stack([x, y], 1)).value.shape == (2,)


def test_bootstrap_is_reproducible_and_private():
    state = np.random.get_state()[1].copy()
    x = np.random.default_rng(1).standard_normal(50)
    assert bootstrap(np.mean, x).stderr == bootstrap(np.mean, x).stderr
    assert bootstrap(np.mean, x).stderr != bootstrap(np.mean, x, seed=1).stderr
    assert np.array_equal(np.random.get_state()[1], state)


def test_importance_ess_limits():
    assert importance_ess(np.zeros(7)) == pytest.approx(7)
    assert importance_ess([0.0, -np.inf, -np.inf]) == pytest.approx(1)
    assert importance_ess([0.0, 0.0, -800.0]) == pytest.approx(2)
    # log-normal weights: ESS / N = exp(-s^2)
    log_w = 0.5 * np.random.default_rng(0).standard_normal(200_000)
    assert importance_ess(log_w) / 200_000 == pytest.approx(math.exp(-0.25), rel=0.01)


@given(
    log_w=st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    shift=st.floats(-1e4, 1e4),
)
def test_importance_ess_lies_between_one_and_n_and_forgets_constants(log_w, shift):
    ess = importance_ess(log_w)
    assert 1 - 1e-9 <= ess <= len(log_w) + 1e-9
    assert importance_ess(np.array(log_w) + shift) == pytest.approx(ess, rel=1e-8)


@pytest.mark.parametrize("function", [autocorrelation_time, effective_sample_size, split_rhat])
@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (np.zeros(49), "T >= 50"),
        (np.zeros((2, 3, 60)), "T >= 50"),
        (np.array(1.0), "T >= 50"),
        (np.zeros((0, 60)), "T >= 50"),
        (np.r_[np.zeros(60), np.nan], "non-finite"),
        (np.r_[np.zeros(60), np.inf], "non-finite"),
    ],
)
def test_bad_chains(function, chains, message):
    with pytest.raises(ValueError, match=message):
        function(chains)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap(np.mean, [1.0]),
        lambda: bootstrap(np.mean, 1.0),
        lambda: bootstrap(lambda a, b: 0.0, [1.0, 2.0], [1.0]),
        lambda: bootstrap(np.mean, [1.0, 2.0], n=1),
        lambda: importance_ess([]),
        lambda: importance_ess([0.0, np.nan]),
        lambda: importance_ess([np.inf]),
        lambda: importance_ess([-np.inf, -np.inf]),
    ],
)
def test_bad_samples(call):
    with pytest.raises(ValueError):
        call()
