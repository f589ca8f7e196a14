"""Thresholds with a finite-sample guarantee on the false alarm, by order statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom

from thermolearn.core.checks import real, whole
from thermolearn.predict.exponents.scores import as_scores, finite_scores, lattice


@dataclass(frozen=True)
class OrderStatisticThreshold:
    """Decide H1 if score > threshold; what that guarantees, and what it costs.

    Attributes
    ----------
    threshold : float
        The rank-th smallest score of the negatives (of block means if observations > 1). To be
        used with all its digits: rounded down it may let ties through.
    rank, negatives : int
        k and the number of independent negatives (blocks) it was taken from.
    false_alarm, confidence : float
        a and 1 - d: P(false-alarm probability of a new decision > a) <= d over calibrations.
    violation_bound : float
        The exact P(Bin(negatives, 1 - a) >= rank) <= d: attained by continuous scores, an upper
        bound for scores with ties.
    expected_false_alarm : float
        (negatives - rank + 1) / (negatives + 1), the mean over calibrations; with ties an upper
        bound.
    observations : int
        Observations per decision; the score of a decision is their mean.
    miss : float or None
        Share of the positives at or below the threshold; None without positives.
    miss_interval : (float, float) or None
        Clopper-Pearson, at `confidence`, for this threshold.
    positives : int
        Decisions behind `miss`.
    """

    threshold: float
    rank: int
    negatives: int
    false_alarm: float
    confidence: float
    violation_bound: float
    expected_false_alarm: float
    observations: int = 1
    miss: float | None = None
    miss_interval: tuple[float, float] | None = None
    positives: int = 0

    def __str__(self) -> str:
        what = "score" if self.observations == 1 else f"mean of {self.observations} scores"
        text = (
            f"decide positive if the {what} is above {self.threshold!r}: with confidence "
            f"{self.confidence:g} at most {self.false_alarm:g} of new negatives are false alarms"
        )
        if self.miss is None or self.miss_interval is None:
            return text
        low, high = self.miss_interval
        return f"{text}; {self.miss:.4g} [{low:.4g}, {high:.4g}] of positives are missed"


def negatives_needed(false_alarm: float, confidence: float = 0.95) -> int:
    """Smallest number of negatives for a guarantee: the ceiling of ln d / ln(1 - a), d = 1 - conf.

    Raises
    ------
    ValueError
        false_alarm or confidence not in (0, 1).
    """
    a = real("false_alarm", false_alarm, above=0, below=1)
    d = 1 - real("confidence", confidence, above=0, below=1)
    n = max(1, math.floor(math.log(d) / math.log1p(-a)) - 1)
    while n * math.log1p(-a) > math.log(d) * (1 - 1e-12):
        n += 1
    return n


def guaranteed_threshold(
    negatives: ArrayLike,
    false_alarm: float,
    confidence: float = 0.95,
    positives: ArrayLike | None = None,
    observations: int = 1,
    seed: int = 0,
) -> OrderStatisticThreshold:
    """Smallest order statistic s_(k) with P(P(score of a new negative > s_(k)) > a) <= d.

    For independent negatives the coverage F(s_(k)) of a continuous law is Beta(k, n0 - k + 1), so
    that the probability of a violation is P(Bin(n0, 1 - a) >= k), whatever the law. With ties F is
    only larger: the decision is score > threshold, strictly, and the guarantee stays.

    The assumption: negatives are independent draws of the law of future negatives, and neither
    trained on nor used to choose the detector.

    Parameters
    ----------
    negatives : array (M0,)
        Scores; larger means more positive.
    false_alarm : float
        a, in (0, 1).
    confidence : float
        1 - d, in (0, 1).
    positives : array (M1,), optional
        Scores from which the miss rate is estimated; they do not move the threshold.
    observations : int
        A decision takes the mean of so many scores: then the order statistics are those of means
        of disjoint blocks, formed after a shuffle, and M0/observations blocks count as negatives;
        the threshold is moved up by the rounding error of a mean.
    seed : int
        Of the shuffle.

    Raises
    ------
    ValueError
        Fewer negatives (blocks) than ln d / ln(1 - a), with the number needed; scores not finite
        or all equal; false_alarm, confidence or observations out of range.

    References
    ----------
    S. S. Wilks, doi:10.1214/aoms/1177731788 (tolerance limits); X. Tong, Y. Feng, J. J. Li,
    arXiv:1608.03109 (the umbrella algorithm of Neyman-Pearson classification); C. J. Clopper, E. S.
    Pearson, doi:10.1093/biomet/26.4.404.
    """
    needed = negatives_needed(false_alarm, confidence)
    whole("observations", observations, 1)
    rng = np.random.default_rng(whole("seed", seed, 0))
    sample = as_scores("negatives", negatives, least=1) if np.size(negatives) else np.empty(0)
    blocks = np.sort(_block_means(sample, observations, rng))
    n0 = len(blocks)
    if n0 < needed:
        raise ValueError(_too_few(len(sample), n0, needed, false_alarm, confidence, observations))
    d = 1 - confidence
    rank = int(binom.isf(d, n0, 1 - false_alarm)) + 1
    # isf returns the smallest k with sf(k) <= d, and sf(rank - 1) is P(Bin >= rank)
    while rank > 1 and binom.sf(rank - 2, n0, 1 - false_alarm) <= d:
        rank -= 1
    while rank < n0 and binom.sf(rank - 1, n0, 1 - false_alarm) > d:
        rank += 1
    threshold = float(blocks[rank - 1])
    if observations > 1:
        # means of tied scores differ by the order of their sums: none of them shall pass
        threshold += observations * lattice(np.unique(sample))[1]
    miss, interval, count = None, None, 0
    if positives is not None:
        taken = _block_means(finite_scores("positives", positives), observations, rng)
        count = len(taken)
        if not count:
            raise ValueError(
                f"positives: {np.size(positives)} scores make no decision of {observations} "
                "observations; give more, or leave them out"
            )
        below = int((taken <= threshold).sum())
        miss, interval = below / count, clopper_pearson(below, count, confidence)
    return OrderStatisticThreshold(
        threshold,
        rank,
        n0,
        false_alarm,
        confidence,
        float(binom.sf(rank - 1, n0, 1 - false_alarm)),
        (n0 - rank + 1) / (n0 + 1),
        observations,
        miss,
        interval,
        count,
    )


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a probability from `hits` of `trials`.

    Raises
    ------
    ValueError
        hits not within 0..trials, no trials, or level not in (0, 1).
    """
    whole("trials", trials, 1)
    whole("hits", hits, 0, trials)
    tail = (1 - real("level", level, above=0, below=1)) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def _block_means(scores: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    if size == 1:
        return scores
    # shuffled: files are often sorted, and neighbors alike
    mixed = rng.permutation(scores)
    return mixed[: len(mixed) // size * size].reshape(-1, size).mean(1)


def _too_few(
    scores: int, blocks: int, needed: int, false_alarm: float, confidence: float, observations: int
) -> str:
    have = f"{scores} negatives"
    if observations > 1:
        have += f" make {blocks} decisions of {observations} observations, which"
    at_all = 1 - (1 - confidence) ** (1 / blocks) if blocks else 1.0
    best = f" (or a false alarm of {math.ceil(at_all * 1e4) / 1e4:.4g})" if at_all < 0.5 else ""
    return (
        f"{have} are too few to guarantee a false alarm of {false_alarm:g} with confidence "
        f"{confidence:g}: give at least {needed * observations} negatives{best}"
    )
