"""The guaranteed threshold: its promise over many calibrations, its refusals, its ties."""

import math

import numpy as np
import pytest
from scipy import stats

from thermolearn.predict.exponents import clopper_pearson, guaranteed_threshold, negatives_needed

DRAWS = 2000


def violations(rng, draw, survival, size, a, confidence, observations=1):
    """Share of calibrations whose threshold has a true false alarm above a."""
    thresholds = np.array(
        [
            guaranteed_threshold(
                draw(rng, size), a, confidence, observations=observations
            ).threshold
            for _ in range(DRAWS)
        ]
    )
    return float((survival(thresholds) > a).mean())


LAWS = {
    "exponential": (lambda rng, m: rng.exponential(size=m), stats.expon.sf),
    "cauchy": (lambda rng, m: rng.standard_cauchy(m), stats.cauchy.sf),
    "poisson": (lambda rng, m: rng.poisson(3.0, m), lambda t: stats.poisson.sf(t, 3.0)),
    "binomial": (lambda rng, m: rng.binomial(4, 0.2, m), lambda t: stats.binom.sf(t, 4, 0.2)),
    "rounded": (
        lambda rng, m: np.round(rng.normal(size=m), 1),
        lambda t: stats.norm.sf(t + 0.05),
    ),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("a", "confidence", "size"),
    [
        (0.01, 0.95, 299),
        pytest.param(0.05, 0.9, 400, marks=pytest.mark.slow),
        pytest.param(0.2, 0.7, 57, marks=pytest.mark.slow),
        pytest.param(0.01, 0.95, 2000, marks=pytest.mark.slow),
    ],
)
def test_the_promise_is_kept(law, a, confidence, size):
    draw, survival = LAWS[law]
    rng = np.random.default_rng(0)
    d = 1 - confidence
    found = violations(rng, draw, survival, size, a, confidence)
    assert found <= d + 2 * math.sqrt(d * (1 - d) / DRAWS)


@pytest.mark.parametrize(("a", "confidence", "size"), [(0.01, 0.95, 1000), (0.1, 0.8, 200)])
def test_the_promise_is_tight_for_continuous_scores(a, confidence, size):
    draw, survival = LAWS["exponential"]
    bound = guaranteed_threshold(np.arange(float(size)), a, confidence).violation_bound
    found = violations(np.random.default_rng(1), draw, survival, size, a, confidence)
    assert abs(found - bound) < 4 * math.sqrt(bound * (1 - bound) / DRAWS)


@pytest.mark.slow
def test_the_promise_of_means_is_kept():
    n, a, confidence = 5, 0.05, 0.9
    found = violations(
        np.random.default_rng(2),
        lambda rng, m: rng.exponential(size=m),
        lambda t: stats.gamma.sf(n * t, n),
        n * 200,
        a,
        confidence,
        n,
    )
    assert found <= 0.1 + 2 * math.sqrt(0.09 / DRAWS)


@pytest.mark.parametrize(
    ("a", "confidence", "size"),
    [(0.01, 0.95, 299), (0.01, 0.95, 3000), (0.3, 0.5, 2), (0.1, 0.99, 500)],
)
def test_the_smallest_valid_rank(a, confidence, size):
    found = guaranteed_threshold(np.arange(float(size))[::-1], a, confidence)
    valid = [k for k in range(1, size + 1) if stats.binom.sf(k - 1, size, 1 - a) <= 1 - confidence]
    assert found.rank == valid[0] and found.threshold == valid[0] - 1
    assert found.violation_bound == stats.binom.sf(found.rank - 1, size, 1 - a) <= 1 - confidence
    # the coverage of an order statistic is a Beta variable
    beta = stats.beta.cdf(1 - a, found.rank, size - found.rank + 1)
    assert found.violation_bound == pytest.approx(beta, rel=1e-9)
    assert found.expected_false_alarm == pytest.approx((size - found.rank + 1) / (size + 1))


@pytest.mark.parametrize(
    ("a", "confidence", "needed"),
    [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.1, 0.9, 22), (0.5, 0.5, 1)],
)
def test_how_many_negatives_are_needed(a, confidence, needed):
    assert negatives_needed(a, confidence) == needed
    assert needed == max(1, math.ceil(math.log(1 - confidence) / math.log(1 - a) - 1e-12))
    if needed < 3:
        return
    scores = np.arange(float(needed))
    assert guaranteed_threshold(scores, a, confidence).rank == needed
    with pytest.raises(ValueError, match=f"{needed - 1} negatives are too few .* {needed} negat"):
        guaranteed_threshold(scores[1:], a, confidence)


def test_the_false_alarm_that_a_refusal_offers_can_be_had():
    scores = np.arange(200.0)
    with pytest.raises(ValueError, match=r"or a false alarm of 0\.0149"):
        guaranteed_threshold(scores, 0.01)
    assert guaranteed_threshold(scores, 0.0149).rank == 200


def test_what_is_missed():
    rng = np.random.default_rng(3)
    negatives, positives = rng.normal(size=1000), rng.normal(size=300) + 2
    found = guaranteed_threshold(negatives, 0.05, 0.9, positives)
    missed = int((positives <= found.threshold).sum())
    assert found.miss == missed / 300 and found.positives == 300
    low, high = found.miss_interval
    assert stats.binom.sf(missed - 1, 300, low) == pytest.approx(0.05)
    assert stats.binom.cdf(missed, 300, high) == pytest.approx(0.05)
    assert "with confidence 0.9 at most 0.05" in str(found) and "are missed" in str(found)
    assert "missed" not in str(guaranteed_threshold(negatives, 0.05))


def test_blocks_of_a_sorted_file_are_mixed():
    scores = np.sort(np.random.default_rng(4).normal(size=3000))
    found = guaranteed_threshold(scores, 0.05, 0.9, observations=10)
    # means of sorted neighbors would spread like single scores
    assert found.negatives == 300 and 0.3 < found.threshold < 1.0
    assert found == guaranteed_threshold(scores, 0.05, 0.9, observations=10)
    assert "mean of 10 scores" in str(found)
    with pytest.raises(ValueError, match=r"300 decisions of 10 .* at least 4490 negatives"):
        guaranteed_threshold(scores, 0.01, 0.989, observations=10)


@pytest.mark.parametrize("m", [3, 7, 10])
def test_tied_means_do_not_pass_by_the_order_of_their_sums(m):
    rng = np.random.default_rng(1)
    for n in (3, 5, 10):
        found = guaranteed_threshold(rng.binomial(m, 0.2, 6000) / m, 0.05, 0.9, observations=n)
        counts = rng.binomial(m, 0.2, (4000, n))
        above = counts.sum(1) > round(found.threshold * n * m)
        assert ((np.array([sum(row) / n for row in counts / m]) > found.threshold) == above).all()


@pytest.mark.parametrize("place", [0.0, 1.7e9])
def test_the_threshold_is_printed_with_all_its_digits(place):
    rng = np.random.default_rng(0)
    thirds = rng.choice(4, 3000, p=[0.6, 0.395, 0.004, 0.001]) / 3
    for scores in (thirds + place, rng.normal(size=3000) + place, 1 - thirds * 1e-8):
        found = guaranteed_threshold(scores, 0.01)
        said = float(str(found).split(" is above ")[1].split(":")[0])
        assert said == found.threshold and (scores > said).mean() <= 0.01


def test_a_tie_at_the_threshold_is_no_alarm():
    scores = np.repeat([0.0, 1.0], [900, 100])
    found = guaranteed_threshold(scores, 0.05)
    assert found.threshold == 1.0  # 0 would call a tenth of the negatives positive
    assert guaranteed_threshold(scores, 0.2).threshold == 0.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"false_alarm": 0}, "false_alarm must be in"),
        ({"false_alarm": 1.0}, "false_alarm must be in"),
        ({"confidence": 1.0}, "confidence must be in"),
        ({"confidence": math.nan}, "confidence must be in"),
        ({"observations": 0}, "observations must be"),
        ({"observations": 2.0}, "observations must be"),
        ({"seed": -1}, "seed must be"),
        ({"negatives": []}, "0 negatives are too few"),
        ({"negatives": np.full(400, np.inf)}, "400 of 400 scores are not finite"),
        ({"negatives": np.ones(400)}, "all 400 scores are 1"),
        ({"positives": [np.nan, 1.0]}, "positives: 1 of 2"),
        ({"positives": np.arange(3.0), "observations": 4}, "make no decision of 4"),
    ],
)
def test_bad_input(arguments, words):
    defaults = {"negatives": np.arange(400.0), "false_alarm": 0.1}
    with pytest.raises(ValueError, match=words):
        guaranteed_threshold(**defaults | arguments)


def test_clopper_pearson():
    assert clopper_pearson(0, 10) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert clopper_pearson(10, 10) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    for hits, trials in ((11, 10), (-1, 10), (0, 0)):
        with pytest.raises(ValueError):
            clopper_pearson(hits, trials)
