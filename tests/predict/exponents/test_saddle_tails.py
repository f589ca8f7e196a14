"""Tails of mean scores against exact Gamma, Gaussian, binomial and convolved probabilities."""

import math
import re

import mpmath
import numpy as np
import pytest
from scipy import stats

from thermolearn.core.errors import ThresholdOutsideSupportError
from thermolearn.predict.exponents import (
    AnalyticCGF,
    EmpiricalCGF,
    model_threshold,
    rate_point,
    tail,
    tilted_monte_carlo,
)
from thermolearn.predict.exponents.resampled import resampled_tail
from thermolearn.predict.exponents.tails import METHODS

EXP, BELL = AnalyticCGF.exponential(), AnalyticCGF.gaussian()
N = np.array([1, 5, 20, 100, 200])


# -- closed forms --------------------------------------------------------------------------------
# gamma = 1.5: ratios of approximation and exact Gamma tail
RATIOS = {
    "bahadur-rao": (3.25331, 1.68422, 1.23137, 1.05606, 1.02910),
    "lugannani-rice": (0.99957, 1.00039, 1.00009, 1.00002, 1.00001),
    "esscher": (1.42554, 1.16202, 1.06562, 1.01808, 1.00964),
    "chernoff": (4.077, 4.720, 6.902, 13.24, 18.24),
}


@pytest.mark.parametrize("method", METHODS)
def test_exponential_scores(method):
    exact = stats.gamma.sf(1.5 * N, N)
    assert exact == pytest.approx(
        [2.231302e-1, 1.320619e-1, 2.187347e-2, 5.924540e-6, 3.371103e-10]
    )
    ratio = tail(EXP, N, 1.5, True, method).probability / exact
    assert ratio == pytest.approx(RATIOS[method], rel=5e-4 if method == "chernoff" else 1e-5)


def test_acceptance_of_the_exponential_tail():
    exact = stats.gamma.sf(1.5 * N, N)
    assert np.abs(tail(EXP, N, 1.5, True).probability / exact - 1).max() < 1e-3
    ratio = tail(EXP, 100, 1.5, True, "bahadur-rao").probability / exact[3]
    assert float(ratio) == pytest.approx(1.0561, abs=1e-3)


def test_gaussian_scores_are_exact():
    n = np.array([1, 5, 20, 80, 20_000])
    exact = stats.norm.logsf(0.8 * np.sqrt(n))
    for method in ("lugannani-rice", "esscher"):
        found = tail(BELL, n, 0.8, True, method).log_probability
        assert np.abs(found / exact - 1).max() < 1e-10
    ratio = np.exp(tail(BELL, n[1:4], 0.8, True, "bahadur-rao").log_probability - exact[1:4])
    assert ratio == pytest.approx([1.2229, 1.0690, 1.0188], abs=1e-4)


def test_far_below_the_smallest_float():
    n = 20_000
    exact = float(mpmath.log(mpmath.gammainc(n, 1.5 * n, regularized=True)))
    found = tail(EXP, n, 1.5, True)
    assert exact < -1800 and float(found.probability) == 0
    assert float(found.log_probability) == pytest.approx(exact, abs=1e-6)
    assert float(found.log10) == pytest.approx(exact / math.log(10))


# -- both sides, and the mean --------------------------------------------------------------------
def test_both_tails_on_both_sides_of_the_mean():
    gamma = np.array([0.3, 0.9, 1 - 1e-6, 1.0, 1 + 1e-9, 1.0005, 1.0021, 1.1, 2.0])
    upper, lower = (tail(EXP, 20, gamma, side).probability for side in (True, False))
    assert upper == pytest.approx(stats.gamma.sf(20 * gamma, 20), rel=3e-4)
    assert lower == pytest.approx(stats.gamma.cdf(20 * gamma, 20), rel=3e-4)
    assert upper + lower == pytest.approx(np.ones(9), abs=1e-14)


def test_the_limit_at_the_mean_joins_the_formula():
    gamma = 1 + np.linspace(1.9e-3, 2.2e-3, 31)  # across the switch to the series
    ratio = tail(EXP, 7, gamma, True).probability / stats.gamma.sf(7 * gamma, 7)
    assert np.ptp(ratio) < 1e-6
    skewed = float(tail(EXP, 50, 1.0, True).probability)
    assert skewed == pytest.approx(0.5 - 2 / (6 * math.sqrt(2 * math.pi * 50)), abs=1e-4)


def test_a_tail_falls_with_the_threshold_and_stays_below_the_bound():
    rng = np.random.default_rng(0)
    cgf = EmpiricalCGF(rng.gamma(0.5, size=400))
    gamma = np.linspace(cgf.support[0], cgf.support[1], 202)[1:-1]
    for method in METHODS[:1] + METHODS[2:]:
        log_p = tail(cgf, 3, gamma, True, method).log_probability
        assert (np.diff(log_p) < 1e-6).all()
        assert (log_p <= tail(cgf, 3, gamma, True, "chernoff").log_probability + 1e-12).all()


# -- lattices ------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [5, 20, 100])
def test_binomial_tails(n):
    # the last values of the sum, 4 scores from its end, are off by up to 7%
    k = np.arange(n // 20 + 1, n - 1 - n // 10)
    gamma = k / n  # on the values of the mean: T > gamma excludes them
    cgf = AnalyticCGF.weighted([0, 1], [0.7, 0.3])
    assert cgf.span == 1
    upper, lower = stats.binom.sf(k, n, 0.3), stats.binom.cdf(k, n, 0.3)
    assert tail(cgf, n, gamma, True).probability == pytest.approx(upper, rel=0.01)
    assert tail(cgf, n, gamma, False).probability == pytest.approx(lower, rel=0.01)
    between = tail(cgf, n, gamma + 0.5 / n, True).log_probability
    assert between == pytest.approx(tail(cgf, n, gamma, True).log_probability, rel=1e-9)
    uncorrected = AnalyticCGF.weighted([0, 1], [0.7, 0.3], discrete=False)
    middle = n // 2
    wrong = float(tail(uncorrected, n, middle / n, True).probability)
    assert abs(wrong / stats.binom.sf(middle, n, 0.3) - 1) > 0.1


def test_a_discrete_score_against_its_convolution():
    values, p, n = np.array([-2, 0, 1, 5]), np.array([0.3, 0.4, 0.25, 0.05]), 30
    single = np.zeros(8)
    single[values + 2] = p
    law = np.ones(1)
    for _ in range(n):
        law = np.convolve(law, single)
    sums = np.arange(len(law)) - 2 * n
    for total in (-50, -35, -10, 3, 20, 60, 100):
        exact = law[sums > total].sum(), law[sums <= total].sum()
        cgf = AnalyticCGF.weighted(values * 0.1, p)  # the unit does not matter
        got = [float(tail(cgf, n, 0.1 * total / n, side)) for side in (True, False)]
        # the lowest is 10 scores of 60 from the end of the sums
        assert got == pytest.approx(exact, rel=0.04 if total == -50 else 0.01)
        if total == 60:  # the lattice factor of the leading order
            leading = float(tail(cgf, n, 0.1 * total / n, True, "bahadur-rao"))
            assert leading == pytest.approx(exact[0], rel=0.15)


@pytest.mark.parametrize("n", [3, 20])
def test_lattices_in_float32_are_those_in_float64(n):
    votes = np.random.default_rng(0).binomial(10, 0.3, 2000) / 10
    wide, narrow = EmpiricalCGF(votes), EmpiricalCGF(votes.astype(np.float32))
    gamma = np.arange(3 * n + 1, 5 * n) / (10 * n)
    for upper in (True, False):
        expected = tail(wide, n, gamma, upper).probability
        assert tail(narrow, n, gamma, upper).probability == pytest.approx(expected, rel=1e-4)


# -- the check by scores drawn anew --------------------------------------------------------------
def piled_up() -> tuple[np.ndarray, np.ndarray]:
    """Sigmoid scores of a sure network: nearly all at 1."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=3000) * 3 + 10, rng.normal(size=500) * 3 + 16
    return tuple(1 / (1 + np.exp(-z)) for z in logits)  # type: ignore[return-value]


def test_a_saddle_point_of_piled_up_scores_is_flagged():
    negatives, positives = piled_up()
    gamma = float(model_threshold(EmpiricalCGF(negatives), 2, 0.01))
    found = tail(EmpiricalCGF(positives), 2, gamma, False)
    pairs = (positives[:, None] + positives) / 2 <= gamma
    assert float(found) < 0.3 * pairs.mean()
    said = re.search(r"saddle point off: (\S+) by resampled scores", str(found.status))
    assert said and float(said[1]) == pytest.approx(pairs.mean(), rel=0.1)
    fine = tail(EmpiricalCGF(negatives), 2, gamma, True)
    assert "saddle" not in str(fine.status)


def test_a_smooth_law_is_not_flagged():
    rng = np.random.default_rng(2)
    for draw in (rng.normal, rng.exponential, rng.laplace, rng.uniform):
        cgf = EmpiricalCGF(draw(size=2000))
        for n in (1, 2, 5, 30, 100):
            gamma = cgf.mean() + cgf.var() ** 0.5 * np.array([-1.5, -0.5, 0.0, 0.5, 1.5]) / n**0.5
            gamma = gamma[(gamma > cgf.support[0]) & (gamma < cgf.support[1])]
            for upper in (True, False):
                status = tail(cgf, n, gamma, upper).status
                assert not any("saddle" in text for text in status), (draw, n, status)


def test_atoms_of_a_known_law_are_flagged():
    # the log-likelihood ratio of Laplace noise: atoms of 1/2 and exp(-1)/2 at -1 and 1
    node, weight = np.polynomial.legendre.leggauss(40)
    p = np.concatenate([[0.5], weight / 4 * np.exp(-(1 + node) / 2), [0.5 * math.exp(-1)]])
    cgf = AnalyticCGF.weighted(np.concatenate([[-1], node, [1]]), p / p.sum(), discrete=False)
    found = tail(cgf, 2, 0.1, True)
    values, shares = cgf.law  # type: ignore[misc]
    exact = np.outer(shares, shares)[values[:, None] + values > 0.2].sum()
    assert float(found) / exact == pytest.approx(1.37, abs=0.02)
    assert "saddle point off" in str(found.status)
    assert "saddle" not in str(tail(cgf, 50, 0.1, True).status)


def test_formulas_that_differ_are_flagged_where_no_draw_can_be_had():
    assert "formulas differ" in str(tail(EXP, 1, 1.5, True).status)
    assert str(tail(EXP, 5, 1.5, True).status) == str(tail(BELL, 1, 1.5, True).status) == "ok"


@pytest.mark.parametrize("n", [1, 2, 7])
def test_means_drawn_anew_against_a_binomial_law(n):
    cgf = AnalyticCGF.weighted([0, 1], [0.7, 0.3])
    k = np.arange(n)
    gamma = (k + 0.5) / n
    point = rate_point(cgf, gamma)
    log_p, error = resampled_tail(cgf, point, gamma, np.full(n, float(n)))
    exact = np.where(point.tilt >= 0, stats.binom.sf(k, n, 0.3), stats.binom.cdf(k, n, 0.3))
    assert (error < 0.1).all() and (np.abs(log_p - np.log(exact)) < 4 * error + 1e-12).all()


# -- error bars and flags ------------------------------------------------------------------------
@pytest.mark.parametrize("gamma", [0.97, 1.0, 1.1, 1.4])
def test_the_error_bar_against_repeats(gamma):
    rng = np.random.default_rng(1)
    found = [tail(EmpiricalCGF(s), 20, gamma, True) for s in rng.exponential(size=(200, 2000))]
    spread = np.std([float(f.log_probability) for f in found], ddof=1)
    assert spread / np.mean([f.log_stderr for f in found]) == pytest.approx(1, abs=0.2)
    truth = stats.gamma.sf(20 * gamma, 20)
    ends = np.array([f.interval(0.95) for f in found]).squeeze()
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
    assert covered > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)


@pytest.mark.parametrize(("gamma", "m", "most"), [(1.5, 1000, 1.0), (4.0, 10_000, 0.1)])
def test_what_is_not_flagged_is_covered(gamma, m, most):
    # at gamma = 4 the tilt is 3/4, phi(2t) is infinite, and 62% of the bars cover
    rng = np.random.default_rng(5)
    truth = stats.gamma.sf(10 * gamma, 10)
    found = [tail(EmpiricalCGF(rng.exponential(size=m)), 10, gamma, True) for _ in range(60)]
    kept = [f for f in found if str(f.status) == "ok"]
    assert len(kept) <= most * len(found)
    covered = sum(f.interval()[0] <= truth <= f.interval()[1] for f in kept)
    if most == 1:
        assert covered >= (0.95 - 4 * math.sqrt(0.95 * 0.05 / len(kept))) * len(kept)


def test_the_error_bar_far_out_is_n_sd():
    cgf = EmpiricalCGF(np.random.default_rng(2).normal(size=5000))
    found, stderr = tail(cgf, 200, 0.5, True), math.sqrt((5000 / cgf.ess(0.5) - 1) / 5000)
    assert float(found.log_stderr) == pytest.approx(200 * stderr, rel=0.06)


def test_what_the_flags_say():
    rng = np.random.default_rng(3)
    cgf = EmpiricalCGF(rng.normal(size=1000))
    status = tail(cgf, [5, 500, 5, 500], [0.5, 0.5, 2.5, 2.5], True).status
    assert status[0] == "ok"
    assert status[1] == "calibration too small: n > 1/sd(I)"
    assert status[2].startswith("ESS < 100")
    assert "ESS" in status[3] and "calibration" in status[3]
    heavy = EmpiricalCGF(rng.standard_t(2, 5000))
    assert "heavy upper tail" in str(tail(heavy, 20, 0.5, True).status)
    assert "heavy lower tail" in str(tail(heavy, 20, -0.5, True).status)
    e = tail(cgf, 5, 0.5, True).estimate()
    assert e.status == "ok" and "model-based" in e.note and 0 < e.stderr < 0.5 * float(e)


@pytest.mark.parametrize("n", [0, -1, 2.0, 1.5, "x", math.nan])
def test_bad_numbers_of_observations(n):
    with pytest.raises(ValueError, match="n must be whole"):
        tail(EXP, n, 1.5, True)
    with pytest.raises(ValueError, match="n must be"):
        tilted_monte_carlo(np.arange(99.0), n, 1.5)


def test_bad_thresholds_methods_and_levels():
    with pytest.raises(ThresholdOutsideSupportError):
        tail(EXP, 5, -0.1, True)
    with pytest.raises(ThresholdOutsideSupportError):
        tail(AnalyticCGF.weighted([0, 1], [0.5, 0.5]), 5, [0.5, 1.0], True)
    with pytest.raises(ValueError, match="finite"):
        tail(EXP, 5, math.inf, True)
    with pytest.raises(ValueError, match="method must be one of lugannani-rice"):
        tail(EXP, 5, 1.5, True, "saddle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level"):
        tail(EXP, 5, 1.5, True).interval(1.0)


# -- Monte Carlo ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("gamma", "upper"), [(2.5, True), (2.5, False), (0.8, True), (0.8, False)])
def test_tilted_draws_of_a_known_population(gamma, upper):
    # a population of binomial scores: its means have exact tails
    values = np.repeat(np.arange(5.0), [16, 32, 24, 8, 1])  # 81 (2/3, 1/3)^4
    n = 15
    exact = (stats.binom.sf if upper else stats.binom.cdf)(math.floor(n * gamma), 4 * n, 1 / 3)
    found = tilted_monte_carlo(values, n, gamma, 4000, upper)
    assert abs(float(found) - exact) < 4 * float(found.probability * found.log_stderr)
    assert found.status == "ok"


def test_tilted_draws_reach_where_plain_ones_do_not():
    scores = np.random.default_rng(4).normal(size=4000)
    found = tilted_monte_carlo(scores, 150, 0.6, 3000)
    model = tail(EmpiricalCGF(scores), 150, 0.6, True)
    assert float(found) < 1e-12 and float(found.log_stderr) < 0.1
    assert abs(float(found.log_probability - model.log_probability)) < 4 * float(found.log_stderr)
    again = tilted_monte_carlo(scores, 150, 0.6, 3000)
    assert float(again) == float(found)


def test_bad_draws():
    scores = np.random.default_rng(5).normal(size=100)
    with pytest.raises(ThresholdOutsideSupportError):
        tilted_monte_carlo(scores, 5, 9.0)
    with pytest.raises(ValueError, match="draws"):
        tilted_monte_carlo(scores, 5, 0.5, 10)


def test_few_draws_beyond_the_threshold_are_flagged(monkeypatch):
    monkeypatch.setattr("thermolearn.predict.exponents.monte_carlo.LEAST_HITS", 90)
    scores = np.random.default_rng(5).normal(size=100)
    assert "draws beyond" in str(tilted_monte_carlo(scores, 5, 0.5, 100).status)
