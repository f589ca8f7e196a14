"""Exponents, error rates and thresholds of two classes of scores, against closed forms."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from thermolearn.core.errors import ThresholdOutsideSupportError
from thermolearn.predict.exponents import (
    AnalyticCGF,
    EmpiricalCGF,
    ErrorExponents,
    model_threshold,
    tail,
)

GAUSS = ErrorExponents(AnalyticCGF.gaussian(-1.0, 1.0), AnalyticCGF.gaussian(1.0, 2.0))


def laplace_ratios(m: int, mu: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    noise, signal = rng.laplace(size=m), rng.laplace(size=m) + mu
    return tuple(np.abs(x) - np.abs(x - mu) for x in (noise, signal))  # type: ignore[return-value]


RATIO = ErrorExponents(*laplace_ratios(200_000))
CHERNOFF = -math.log(1.5 * math.exp(-0.5))


# -- exponents -----------------------------------------------------------------------------------
def test_gaussian_exponents_and_rates():
    found = GAUSS.exponents(0.2)
    assert float(found.false_alarm) == pytest.approx(1.2**2 / 2)
    assert float(found.miss) == pytest.approx(0.8**2 / 8)
    n = np.array([1, 3, 30])
    alarm = stats.norm.sf(1.2 * np.sqrt(n))
    assert GAUSS.false_alarm(n, 0.2).probability == pytest.approx(alarm, rel=1e-10)
    assert GAUSS.miss(n, 0.2).probability == pytest.approx(stats.norm.cdf(-0.4 * np.sqrt(n)))
    gamma, exponent = GAUSS.chernoff_point()
    assert float(gamma) == pytest.approx(-1 / 3) and float(exponent) == pytest.approx(2 / 9)


@pytest.mark.parametrize("gamma", [-0.2, 0.0, 0.2])
def test_the_identity_of_likelihood_ratios(gamma):
    zero, one = RATIO.rates(gamma)
    assert abs(float(zero.rate - one.rate) - gamma) < 0.008
    spread = math.hypot(float(zero.stderr), float(one.stderr))
    assert abs(float(zero.rate - one.rate) - gamma) < 4 * spread


def test_the_chernoff_information():
    gamma, exponent = RATIO.chernoff_point()
    assert abs(CHERNOFF - 0.0945349) < 1e-7
    assert abs(float(exponent) - CHERNOFF) < 4 * exponent.stderr < 0.004
    assert abs(float(gamma)) < 4 * gamma.stderr
    assert float(RATIO.rates(0.0)[0].rate) == pytest.approx(0.09614, abs=0.0045)


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1e9, 0.0), (1.0, 1e4)])
def test_units_of_the_scores_do_not_matter(scale, shift):
    noise, signal = laplace_ratios(2000)
    plain, other = (
        ErrorExponents(noise * a + b, signal * a + b) for a, b in ((1, 0), (scale, shift))
    )
    for mine, theirs in zip(plain.chernoff_point(), other.chernoff_point(), strict=True):
        assert mine.status == theirs.status
    gamma, exponent = other.chernoff_point()
    assert (float(gamma) - shift) / scale == pytest.approx(
        float(plain.chernoff_point()[0]), abs=1e-7
    )
    assert float(exponent) == pytest.approx(float(plain.chernoff_point()[1]), rel=1e-7)
    at, there = plain.threshold(20, 0.01), other.threshold(20, 0.01)
    assert (float(there) - shift) / scale == pytest.approx(float(at), rel=1e-7)
    assert there.stderr / scale == pytest.approx(at.stderr, rel=1e-6)
    same = plain.miss(20, float(at)), other.miss(20, float(there))
    assert float(same[0]) == pytest.approx(float(same[1]), rel=1e-6)


def test_errors_of_the_chernoff_point_against_repeats():
    found = [ErrorExponents(*laplace_ratios(500, seed=s)).chernoff_point() for s in range(60)]
    for k in (0, 1):
        spread = np.std([float(f[k]) for f in found], ddof=1)
        assert spread / np.mean([f[k].stderr for f in found]) == pytest.approx(1, abs=0.37)


def test_no_score_beats_the_likelihood_ratio():
    rng = np.random.default_rng(1)
    x, y = rng.laplace(size=50_000), rng.laplace(size=50_000) + 1
    linear = ErrorExponents(x, y)
    gamma = 0.5
    t = (math.hypot(1, gamma) - 1) / gamma
    exact = (t * gamma + math.log1p(-(t**2))) / CHERNOFF
    found = linear.efficiency(RATIO)
    assert exact == pytest.approx(0.6420, abs=1e-4)
    assert abs(float(found) - exact) < 4 * found.stderr < 0.06
    assert float(GAUSS.efficiency(GAUSS)) == 1


def test_the_lines_of_the_page_run(capsys):
    page = Path(__file__).resolve().parents[3] / "docs" / "exponents.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, "exponents.md", "exec"), {})
    assert "with confidence 0.95 at most 0.01" in capsys.readouterr().out


# -- the sides of the means ----------------------------------------------------------------------
def test_the_wrong_side_of_a_mean_is_said():
    low, high = GAUSS.exponents(-2.0), GAUSS.exponents(3.0)
    assert float(low.false_alarm) == 0 and "false alarm tends to 1" in low.false_alarm.status
    assert float(high.miss) == 0 and "miss tends to 1" in high.miss.status
    assert low.miss.status == high.false_alarm.status == "ok"
    alarm = float(GAUSS.false_alarm(9, -2.0))
    assert alarm == pytest.approx(stats.norm.sf(-3.0)) and alarm > 0.99


@pytest.mark.parametrize(
    ("h0", "h1", "words"),
    [
        (np.arange(60.0), -np.arange(60.0), "inverted. Change the sign"),
        (np.arange(10.0), np.arange(60.0), "scores_h0: 10 scores are too few"),
        (np.arange(60.0), np.ones(60), "scores_h1: all 60 scores are 1"),
        (np.arange(60.0), np.full(60, np.nan), "scores_h1: 60 of 60 scores are not finite"),
    ],
)
def test_bad_classes(h0, h1, words):
    with pytest.raises(ValueError, match=words):
        ErrorExponents(h0, h1)


def test_thresholds_outside_name_the_class():
    rng = np.random.default_rng(2)
    e = ErrorExponents(rng.random(100), rng.random(100) + 0.5)
    with pytest.raises(ThresholdOutsideSupportError, match="scores under H0"):
        e.exponents(1.2)
    with pytest.raises(ThresholdOutsideSupportError, match="scores under H1"):
        e.exponents(0.2)


@pytest.mark.parametrize("shift", [2.0, 0.99])
def test_classes_that_hardly_overlap_have_no_exponent(shift):
    rng = np.random.default_rng(3)
    e = ErrorExponents(rng.random(100), rng.random(100) + shift)
    with pytest.raises(ThresholdOutsideSupportError, match="hardly overlap") as error:
        e.chernoff_point()
    assert error.value.support[0] <= error.value.support[1]
    assert re.search(r"H0 reaches up to 0\.9\d+, H1 down to \d\.[\d]+\)", str(error.value))


def test_heavy_tails_are_named():
    rng = np.random.default_rng(4)
    e = ErrorExponents(rng.standard_t(2, 4000), rng.normal(size=4000) + 2)
    assert len(e.heavy_tails) == 1 and e.heavy_tails[0].startswith("H0: heavy upper tail")
    assert "heavy" in e.exponents(1.0).false_alarm.status
    assert "heavy" in e.threshold(20, 0.01).status


def test_heavy_tails_flag_every_number():
    rng = np.random.default_rng(0)
    e = ErrorExponents(rng.standard_cauchy(3000), rng.standard_cauchy(3000) + 5)
    for found in (*e.chernoff_point(), e.cfar_threshold(10, 0.01)):
        assert "heavy upper tail" in found.status and "heavy lower tail" in found.status
    light = ErrorExponents(rng.normal(size=3000), rng.normal(size=3000) + 1)
    assert light.cfar_threshold(10, 0.01).status == light.chernoff_point()[0].status == "ok"


# -- thresholds ----------------------------------------------------------------------------------
def test_gaussian_normalization():
    found = GAUSS.cfar_threshold(16, 0.01)
    assert float(found) == pytest.approx(-1 + stats.norm.isf(0.01) / 4) and found.stderr == 0
    assert float(GAUSS.threshold(16, 0.01)) == pytest.approx(float(found), abs=1e-9)
    samples = np.random.default_rng(5).exponential(size=(100, 800))
    far = AnalyticCGF.gaussian(9.0)
    repeats = [ErrorExponents(s, far).cfar_threshold(5, 0.01) for s in samples]
    spread = np.std([float(r) for r in repeats], ddof=1)
    assert spread / np.mean([r.stderr for r in repeats]) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("alpha", [0.7, 0.1, 1e-3, 1e-30])
def test_a_model_threshold_has_its_false_alarm(alpha):
    exact = stats.gamma.isf(alpha, 20) / 20
    found = model_threshold(AnalyticCGF.exponential(), 20, alpha)
    assert float(found) == pytest.approx(exact, rel=1e-4)
    assert float(tail(AnalyticCGF.exponential(), 20, float(found), True)) == pytest.approx(
        alpha, rel=1e-8
    )


def test_a_lattice_threshold_is_the_smallest_that_holds():
    cgf, n = AnalyticCGF.weighted([0, 1], [0.7, 0.3]), 40
    gamma = float(model_threshold(cgf, n, 0.01))
    assert round(gamma * n) == int(stats.binom.isf(0.01, n, 0.3))
    assert gamma * n == pytest.approx(round(gamma * n), abs=1e-9)


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.05), (3, 0.98), (10, 0.999)])
def test_the_lowest_value_of_a_lattice_may_be_the_threshold(n, alpha):
    scores = np.repeat([0.0, 1.0], [990, 10])
    cgf = EmpiricalCGF(scores)
    assert stats.binom.sf(0, n, 0.01) <= alpha
    found = model_threshold(cgf, n, alpha)
    assert float(found) == pytest.approx(0, abs=1e-12) and math.isfinite(found.stderr)
    assert float(tail(cgf, n, 0.0, True)) == pytest.approx(stats.binom.sf(0, n, 0.01), rel=0.2)
    with pytest.raises(ThresholdOutsideSupportError, match=r"threshold [01]\S* is not inside"):
        model_threshold(cgf, 1, 0.001)


@pytest.mark.parametrize("m", [3, 7, 10])
def test_no_mean_on_a_lattice_threshold_passes_by_rounding(m):
    rng = np.random.default_rng(1)
    for n in (1, 5, 10):
        gamma = float(model_threshold(EmpiricalCGF(rng.binomial(m, 0.2, 3000) / m), n, 0.02))
        counts = rng.binomial(m, 0.2, (4000, n))
        above = counts.sum(1) > round(gamma * n * m)
        assert ((np.array([sum(row) / n for row in counts / m]) > gamma) == above).all()


def test_the_error_of_a_model_threshold_against_repeats():
    samples = np.random.default_rng(6).exponential(size=(60, 1000))
    found = [model_threshold(EmpiricalCGF(s), 20, 0.01) for s in samples]
    spread = np.std([float(f) for f in found], ddof=1)
    assert spread / np.mean([f.stderr for f in found]) == pytest.approx(1, abs=0.37)
    assert "model-based" in found[0].note


def test_bad_false_alarms():
    for alpha in (0, 1, -0.1, math.nan, "x"):
        with pytest.raises(ValueError, match="alpha"):
            GAUSS.cfar_threshold(5, alpha)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="alpha"):
            GAUSS.threshold(5, alpha)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be"):
        GAUSS.cfar_threshold(0, 0.1)
    sample = np.random.default_rng(7).normal(size=100)
    with pytest.raises(ThresholdOutsideSupportError, match="calibrate with more"):
        model_threshold(EmpiricalCGF(sample), 1, 1e-9)
