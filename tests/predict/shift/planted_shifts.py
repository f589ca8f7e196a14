"""Twelve planted shifts with known labels, fixed before any forecast was made.

Six synthetic or noisy ones, and six in which new inputs are chosen from real rows with
probabilities that depend on the input: at the same input, the same law of the label.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from sklearn import datasets
from sklearn.cluster import KMeans

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

NAMES = (
    "synthetic: mean +0.7 sd along one input",
    "synthetic: standard deviations 1.4 to 0.6",
    "synthetic: scale 1.3",
    "synthetic: two clusters, 80/20 to 20/80",
    "digits parity: 1, 8, 9 five times as often",
    "digits parity: pixel noise 0.5",
    "digits parity: tilt along component 1",
    "breast cancer: tilt along component 1",
    "breast cancer: noise 0.3 on the features",
    "diabetes: tilt along the body mass index",
    "diabetes: tilt to large norms",
    "wine: one cluster six times as often",
)


@cache
def real_set(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardized inputs (digits: one scale for all pixels), labels; diabetes standardized."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = x - x.mean(0)
    if name == "digits":
        return x / np.sqrt((x**2).mean()), y
    scale = x.std(0)
    if name == "diabetes":
        y = (y - y.mean()) / y.std()
    return x / np.where(scale > 0, scale, 1), y


def component(x: np.ndarray, k: int) -> np.ndarray:
    """Scores along a principal component, of unit variance."""
    centered = x - x.mean(0)
    u = centered @ np.linalg.svd(centered, full_matrices=False)[2][k]
    return u / u.std()


def chosen(
    rng: np.random.Generator, x: np.ndarray, n: int, m: int, log_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """n rows at random, and m of the others without replacement in proportion to a weight."""
    rows = rng.permutation(len(x))
    pool, rest = rows[:n], rows[n:]
    key = log_weight[rest] + rng.gumbel(size=len(rest))
    return pool, rest[np.argsort(-key)[:m]]


def _synthetic(rng: np.random.Generator, change: Callable[[np.ndarray], np.ndarray]) -> Split:
    x, new = rng.normal(size=(200, 8)), change(rng.normal(size=(200, 8)))

    def labels(x: np.ndarray) -> np.ndarray:
        return np.tanh(1.5 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.5 * x[:, 3]

    y = labels(x) + 0.2 * rng.normal(size=200)
    return x, y, new, labels(new) + 0.2 * rng.normal(size=200)


def _clusters(rng: np.random.Generator) -> Split:
    def draw(share: float) -> tuple[np.ndarray, np.ndarray]:
        second = rng.random(200) < share
        x = rng.normal(size=(200, 6))
        x[:, 0] += np.where(second, 1.5, -1.5)
        smooth, rough = 0.5 * x[:, 0], np.sin(2.5 * x[:, 1]) + 0.5 * x[:, 2]
        return x, np.where(second, rough, smooth) + 0.2 * rng.normal(size=200)

    return (*draw(0.2), *draw(0.8))


def _rows(
    x: np.ndarray, y: np.ndarray, rows: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator | None = None, noise: float = 0.0,
) -> Split:  # fmt: skip
    new = x[rows[1]]
    if rng is not None:
        new = new + noise * rng.normal(size=new.shape)
    return x[rows[0]], y[rows[0]], new, y[rows[1]]


def planted(k: int, split: int) -> Split:
    """X, y, X_new, y_new of shift k = 0..11, freshly drawn for every split."""
    rng = np.random.default_rng((1, k, split))
    if k == 0:
        return _synthetic(rng, lambda z: z + 0.7 * np.eye(8)[0])
    if k == 1:
        return _synthetic(rng, lambda z: z * np.geomspace(1.4, 0.6, 8))
    if k == 2:
        return _synthetic(rng, lambda z: z * 1.3)
    if k == 3:
        return _clusters(rng)
    if k in (4, 5, 6):
        x, digit = real_set("digits")
        y = 1.0 - 2 * (digit % 2)
        if k == 4:
            often = np.log(5) * np.isin(digit, (1, 8, 9))
            return _rows(x, y, chosen(rng, x, 300, 200, often))
        if k == 5:
            return _rows(x, y, chosen(rng, x, 300, 200, np.zeros(len(x))), rng, 0.5)
        return _rows(x, y, chosen(rng, x, 300, 200, component(x, 0)))
    if k in (7, 8):
        x, label = real_set("breast_cancer")
        y = 2.0 * label - 1
        if k == 7:
            return _rows(x, y, chosen(rng, x, 200, 100, 0.7 * component(x, 0)))
        return _rows(x, y, chosen(rng, x, 200, 100, np.zeros(len(x))), rng, 0.3)
    if k in (9, 10):
        x, y = real_set("diabetes")
        if k == 9:
            return _rows(x, y, chosen(rng, x, 200, 80, 0.8 * x[:, 2]))
        norm = (x**2).sum(1)
        return _rows(x, y, chosen(rng, x, 200, 80, 0.5 * (norm - norm.mean()) / norm.std()))
    x, label = real_set("wine")
    cluster = KMeans(3, n_init=5, random_state=0).fit_predict(x)  # type: ignore[arg-type]
    often = np.log(np.array([1.0, 1.0, 6.0]))[cluster]
    return _rows(x, np.where(label == 0, 1.0, -1.0), chosen(rng, x, 90, 40, often))
