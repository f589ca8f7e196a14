"""Decisions: loss and error on fresh samples, h ~ N(c m, Delta C), and linear separability."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize
from scipy.special import ndtr

from thermolearn.core.gaussian import gauss_nodes

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron

# Fields between which roots of the decision are looked for; 0 is not a point of the grid.
GRID = np.linspace(-60, 60, 24_000)


@lru_cache(maxsize=32)
def decision_roots(model: GaussianMixturePerceptron) -> tuple[np.ndarray, np.ndarray]:
    """Fields where the predicted label changes, and its sign before, between and behind them."""
    score = np.asarray(model.decision(GRID), dtype=np.float64)
    if score.shape != GRID.shape or not np.isfinite(score).all():
        raise ValueError("decision must keep the shape of h and be finite on [-60, 60]")
    before = np.flatnonzero(np.sign(score[1:]) != np.sign(score[:-1]))

    def at(h: float) -> float:
        return float(np.asarray(model.decision(np.array([h])))[0])

    roots = np.array([optimize.brentq(at, GRID[i], GRID[i + 1], xtol=1e-14) for i in before])
    return roots, np.sign(np.append(score[before], score[-1]))


def share_wrong(
    at: np.ndarray, signs: np.ndarray, mean: float, deviation: float, y: float
) -> float:
    """P(label predicted from omega ~ N(mean, deviation^2) differs from y), changes at `at`."""
    wrong = signs != np.sign(y)
    below = ndtr((at - mean) / deviation)
    above = ndtr((mean - at) / deviation)
    # P(between) from the side where it is not a difference of numbers close to 1
    left = np.diff(np.concatenate([[0.0], below, [1.0]]))
    right = -np.diff(np.concatenate([[1.0], above, [0.0]]))
    return float(np.minimum(left, right)[wrong].sum())


def test_error(model: GaussianMixturePerceptron, m: float, C: float) -> float:
    """P(sign of the decision differs from that of y) of a fresh sample.

    For two symmetric clusters and the decision h: Phi(-m/sqrt(Delta C)). A score of exactly 0
    predicts no label and is wrong, as on the training set: without weights (C = 0) the error is 1.
    """
    if C == 0:
        score = np.sign(np.asarray(model.decision(np.zeros(1)), dtype=np.float64)[0])
        return sum(p for p, _, y in model.clusters.rows() if score != np.sign(y))
    roots, signs = decision_roots(model)
    sd = math.sqrt(model.Delta * C)
    return sum(p * share_wrong(roots, signs, c * m, sd, y) for p, c, y in model.clusters.rows())


def test_loss(model: GaussianMixturePerceptron, m: float, C: float) -> float:
    """Mean loss of a fresh sample, by quadrature."""
    out = 0.0
    for p, c, y in model.clusters.rows():
        kinks = [k - c * m for k in model.losses.kinks(y)]
        z, weight = gauss_nodes(math.sqrt(model.Delta * C), 16, kinks, fineness=4.0)
        out += p * float(weight @ model.losses.value(c * m + z, y))
    return out


def separability(model: GaussianMixturePerceptron) -> float:
    """Load alpha below which a hyperplane through 0 separates the labels (signs of y).

    max over m in (-1, 1) of Delta (1 - m^2)/<max(-y c m - sqrt(Delta) z, 0)^2>, by Gordon's
    comparison of Gaussian processes; 2 for labels that are not to be told (Cover).

    References
    ----------
    F. Mignacco, F. Krzakala, Y. M. Lu, L. Zdeborova, arXiv:2002.11544.
    """
    s = math.sqrt(model.Delta)

    def inverse(m: float) -> float:
        total = 0.0
        for p, c, y in model.clusters.rows():
            u = float(np.sign(y)) * c * m / s
            density = math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
            total += p * ((u * u + 1) * float(ndtr(-u)) - u * density)
        return total / (1 - m * m)

    grid = np.linspace(-1, 1, 401)[1:-1]
    best = int(np.argmin([inverse(m) for m in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(inverse, bounds=(low, high), method="bounded")
    return 1 / float(found.fun)
