"""Cumulant generating functions and rate functions, against closed forms and plain numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from thermolearn.core.errors import ConvergenceError, ThresholdOutsideSupportError
from thermolearn.predict.exponents import (
    AnalyticCGF,
    EmpiricalCGF,
    bootstrap_std,
    rate,
    rate_curve,
    rate_point,
)
from thermolearn.predict.exponents.scores import (
    lattice,
    outer_excess,
    tail_shape,
    weight_shape,
)

SCORES = np.random.default_rng(0).gamma(2.0, size=300) - 1


# -- cumulants -----------------------------------------------------------------------------------
def test_moments_are_weighted_averages():
    t = np.array([[-3.0, -0.5, 0.0], [0.2, 1.0, 40.0]])
    found = EmpiricalCGF(SCORES).moments(t)
    for at in np.ndindex(t.shape):
        w = np.exp(t[at] * (SCORES - SCORES.max()))
        phi = t[at] * SCORES.max() + math.log(w.mean())
        w /= w.sum()
        mean = w @ SCORES
        expected = phi, mean, w @ (SCORES - mean) ** 2, 1 / (w @ w)
        got = [part[at] for part in (found.cgf, found.mean, found.var, found.ess)]
        assert got == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_extreme_tilts_stay_finite_and_sit_on_the_ends():
    cgf = EmpiricalCGF(SCORES * 1e3 + 1e6)
    assert cgf.mean(np.array([-1e4, 1e4])) == pytest.approx(cgf.support)
    assert np.isfinite(cgf.cgf([-1e4, 1e4])).all() and cgf.ess(1e4) == pytest.approx(1)


def test_repeated_scores_count():
    ties = np.repeat([0.0, 1.0, 3.5], [70, 20, 10])
    exact = AnalyticCGF.weighted([0.0, 1.0, 3.5], [0.7, 0.2, 0.1])
    sample, t = EmpiricalCGF(ties), np.linspace(-2, 2, 5)
    for name in ("cgf", "mean", "var"):
        assert getattr(sample, name)(t) == pytest.approx(getattr(exact, name)(t), abs=1e-12)
    assert sample.ess(0.0) == pytest.approx(100)


def test_blocks_of_tilts_agree_with_single_ones(monkeypatch):
    cgf, t = EmpiricalCGF(SCORES), np.linspace(-2, 2, 41)
    together = cgf.moments(t)
    monkeypatch.setattr("thermolearn.predict.exponents.cgf.BLOCK", 1000)
    apart = cgf.moments(t)
    assert apart.cgf == pytest.approx(together.cgf, rel=1e-13, abs=1e-15)
    assert apart.var == pytest.approx(together.var, rel=1e-13)


def test_a_tensor_of_logits_is_taken():
    logits = torch.from_numpy(SCORES)[:, None].requires_grad_()
    assert EmpiricalCGF(logits).mean() == pytest.approx(SCORES.mean())


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.zeros(100), "all 100 scores are 0"),
        (SCORES[:49], "49 scores are too few; give at least 50"),
        (np.append(SCORES, np.nan), "1 of 301 scores are not finite, the first at index 300"),
        (np.append(SCORES, np.inf), "not finite"),
        (SCORES.reshape(100, 3), r"got \(100, 3\)"),
        (["a"] * 60, "must be numbers"),
    ],
)
def test_bad_scores(scores, words):
    with pytest.raises(ValueError, match=words):
        EmpiricalCGF(scores)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AnalyticCGF.gaussian(0, 0),
        lambda: AnalyticCGF.exponential(-1),
        lambda: AnalyticCGF.weighted([0, 1], [0.5, 0.6]),
        lambda: AnalyticCGF.weighted([0, 1], [-0.5, 1.5]),
        lambda: AnalyticCGF.weighted([0], [1.0]),
        lambda: AnalyticCGF(lambda t: t + 1, lambda t: 1 + 0 * t, lambda t: 0 * t),
        lambda: AnalyticCGF(np.expm1, np.exp, np.exp, domain=(0.0, 1.0)),
    ],
)
def test_bad_formulas(make):
    with pytest.raises(ValueError):
        make()


# -- lattices and tails --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "span"),
    [
        (np.arange(11) * 0.1, 0.1),
        (1e6 + np.array([0, 2, 5]) / 3, 1 / 3),
        (np.array([-4.0, 2.0, 8.0]), 6.0),
        (np.round(np.random.default_rng(1).normal(size=2000), 3), 1e-3),
        (np.random.default_rng(1).normal(size=200), None),
        (np.random.default_rng(1).random(3000, dtype=np.float32).astype(float), None),
        (np.array([0.0, 1.0, math.pi]), None),
        # the outputs of networks are float32, and their lattices rounded
        *(
            ((np.random.default_rng(2).binomial(m, 0.3, 2000) / np.float32(m)).astype("f4"), 1 / m)
            for m in (3, 7, 10, 100)
        ),
        (np.array([0, 1, 2, 100], dtype=np.float32) / np.float32(100) + np.float32(0.5), 0.01),
        (np.array([0.0, 1.0, 99_999.0]), 1.0),
        (np.random.default_rng(2).normal(size=60).astype(np.float32), None),
    ],
)
def test_lattices_are_found(values, span):
    found = lattice(np.unique(values).astype(np.float64))[0]
    assert found == (None if span is None else pytest.approx(span, rel=1e-6))


def test_power_laws_are_flagged_and_exponentials_are_not():
    rng = np.random.default_rng(2)
    heavy, light = EmpiricalCGF(rng.standard_t(2, 4000)), EmpiricalCGF(rng.laplace(size=4000))
    assert "heavy upper tail" in heavy.heavy_tail(True)
    assert "heavy lower tail" in heavy.heavy_tail(False)
    assert not light.heavy_tail(True) and not light.heavy_tail(False)
    assert not EmpiricalCGF(rng.poisson(3, 4000)).heavy_tail(True)
    assert math.isnan(tail_shape(SCORES[:100])[0])


def test_scores_within_0_and_1_are_not_told_that_they_have_no_exponent():
    scores = 1 / (1 + np.exp(-np.random.default_rng(1).normal(10, 3, 3000)))
    said = EmpiricalCGF(scores).heavy_tail(False)
    assert "heavy lower tail" in said and "within [0, 1]" in said and "infinite" not in said


def test_heavy_tails_flag_the_rate():
    cauchy = EmpiricalCGF(np.random.default_rng(0).standard_cauchy(3000))
    assert "heavy upper tail" in rate(cauchy, 30.0).status
    assert "heavy lower tail" in rate(cauchy, -30.0).status


@pytest.mark.parametrize("scale", [1e160, 1e-160, 1e-300])
def test_scores_whose_squares_are_no_floats(scale):
    with pytest.raises(ValueError, match="squares leave the range of floats"):
        EmpiricalCGF(SCORES * scale)


def test_weights_without_a_variance_are_flagged():
    # Exp(1): weights exp(t f) have the shape t, and phi(2t) is infinite from t = 1/2 on
    rng = np.random.default_rng(5)
    samples = [EmpiricalCGF(rng.exponential(size=10_000)) for _ in range(40)]
    for t, least, most in ((0.3, 0, 1), (0.75, 34, 40)):
        found = sum(bool(cgf.uneven(t)) for cgf in samples)
        assert least <= found <= most
        assert not any(bool(cgf.uneven(-t)) for cgf in samples)
    bounded = EmpiricalCGF(rng.random(3000))
    assert not bounded.uneven(np.array([-30.0, -1.0, 0.0, 1.0, 30.0])).any()
    assert not EmpiricalCGF(rng.normal(size=3000)).uneven([-1.0, 1.0]).any()
    votes = EmpiricalCGF(rng.binomial(5, 0.3, 3000))
    assert not votes.uneven([-50.0, 50.0]).any()


def test_the_shape_of_weights_is_that_of_their_law():
    excess = outer_excess(np.random.default_rng(6).exponential(size=200_000))
    t = np.array([1e-7, 0.2, 0.4])
    assert weight_shape(excess, t) == pytest.approx(t, abs=4 * 1.5 / math.sqrt(len(excess)))
    assert math.isfinite(weight_shape(excess, np.array([1e3]))[0])


def test_the_shape_of_a_pareto_tail_within_its_error():
    rng = np.random.default_rng(3)
    for xi in (0.0, 0.2):
        u = rng.random(20_000)
        draws = -np.log(u) if xi == 0 else (u**-xi - 1) / xi
        shape, error = tail_shape(draws)
        assert abs(shape - xi) < 4 * error


# -- rates ---------------------------------------------------------------------------------------
def test_rates_in_closed_form():
    gamma = np.array([0.01, 0.5, 1.0, 1.5, 30.0])
    found = rate_point(AnalyticCGF.exponential(), gamma)
    assert found.rate == pytest.approx(gamma - 1 - np.log(gamma), abs=1e-12)
    assert found.tilt == pytest.approx(1 - 1 / gamma, rel=1e-10, abs=1e-12)
    assert found.variance == pytest.approx(gamma**2, rel=1e-8)
    assert (found.stderr == 0).all() and np.isinf(found.ess).all()
    assert float(found.rate[3]) == pytest.approx(0.0945349, abs=1e-7)
    bell = rate_point(AnalyticCGF.gaussian(2.0, 3.0), [-7.0, 2.0, 11.0])
    assert bell.rate == pytest.approx([4.5, 0, 4.5], abs=1e-12)
    bit = rate_point(AnalyticCGF.weighted([0, 1], [0.7, 0.3]), 0.6)
    relative = 0.6 * math.log(0.6 / 0.3) + 0.4 * math.log(0.4 / 0.7)
    assert float(bit.rate) == pytest.approx(relative, rel=1e-12)


def test_many_thresholds_at_once_are_the_suprema():
    cgf = EmpiricalCGF(SCORES)
    gamma = np.linspace(*np.quantile(SCORES, [0.003, 0.997]), 25)
    found = rate_point(cgf, gamma.reshape(5, 5))
    assert found.rate.shape == (5, 5)
    assert found.residual.max() < 1e-12
    for g, value in zip(gamma, found.rate.ravel(), strict=True):
        plain = minimize_scalar(lambda t, g=g: math.log(np.mean(np.exp(t * (SCORES - g)))))
        assert value == pytest.approx(-plain.fun, abs=1e-8)
    assert float(rate_point(cgf, gamma[3]).rate) == pytest.approx(found.rate.ravel()[3], rel=1e-9)


def test_a_rate_is_convex_and_zero_at_the_mean():
    cgf = EmpiricalCGF(SCORES)
    curve = rate_curve(cgf)
    slopes = np.diff(curve.rate) / np.diff(curve.gamma)
    assert (np.diff(slopes) > -1e-9).all()
    assert float(rate(cgf, float(cgf.mean()))) == 0
    inside = (curve.gamma > cgf.support[0]) & (curve.gamma < cgf.support[1])
    again = rate_point(cgf, curve.gamma[inside][::10])
    assert again.rate == pytest.approx(curve.rate[inside][::10], abs=1e-9)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("beyond", [0.0, 0.1])
def test_a_threshold_outside_the_scores(end, beyond):
    cgf = EmpiricalCGF(SCORES)
    gamma = cgf.support[end] + (2 * end - 1) * beyond
    with pytest.raises(ThresholdOutsideSupportError, match="not inside the range") as error:
        rate_point(cgf, [0.5, gamma])
    assert error.value.threshold == gamma and error.value.support == cgf.support
    near = cgf.support[end] - (2 * end - 1) * 1e-3
    assert "ESS" in rate(cgf, near).status


def test_thresholds_that_are_no_numbers_or_out_of_reach():
    with pytest.raises(ValueError, match="gamma must be finite"):
        rate_point(AnalyticCGF.gaussian(), math.nan)
    flat = AnalyticCGF(
        lambda t: np.logaddexp(t, -t) - math.log(2), np.tanh, lambda t: 1 - np.tanh(t) ** 2
    )
    with pytest.raises(ConvergenceError, match="no tilt reaches"):
        rate_point(flat, 1.5)  # the support was not said


# -- error bars ----------------------------------------------------------------------------------
def test_the_delta_formula_against_repeats_and_bootstrap():
    rng = np.random.default_rng(4)
    samples = rng.laplace(size=(30, 2000))
    found = [rate(EmpiricalCGF(s), 0.8) for s in samples]
    spread = np.std([float(e) for e in found], ddof=1)
    delta = np.mean([e.stderr for e in found])
    assert 1 / 1.5 < spread / delta < 1.5
    boot = bootstrap_std(samples[0], 0.8, 100)
    assert abs(float(boot) / found[0].stderr - 1) < 0.35 and boot.status == "ok"
    exact = rate_point(AnalyticCGF(
        lambda t: -np.log1p(-(t**2)), lambda t: 2 * t / (1 - t**2),
        lambda t: 2 * (1 + t**2) / (1 - t**2) ** 2, domain=(-1.0, 1.0),
    ), 0.8)  # fmt: skip
    mean = np.mean([float(e) for e in found])
    assert abs(mean - float(exact.rate)) < 4 * spread / math.sqrt(30)


def test_a_bootstrap_that_does_not_reach():
    far = float(np.sort(SCORES)[-2])
    assert "do not reach" in bootstrap_std(SCORES, far, 50).status
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_std(SCORES, 0.5, 3)
