"""How much more often the new inputs fall where a labelled point lies: density ratios."""

from __future__ import annotations

import warnings

import numpy as np

MOST_DIRECTIONS = 20
POINTS_PER_DIRECTION = 10
FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse penalties
WORTH = 1e-3  # nats per point by which a classifier must beat "no shift"
NEIGHBORS = 12
# Weights beyond this multiple of the mean are cut: a few points must not carry the estimate.
CUT = 20.0


def importance_weights(
    X: np.ndarray, X_new: np.ndarray, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """p_new(x) / p_pool(x) at the labelled points, mean 1, from a classifier of pool against new.

    Logistic regression on the leading principal components of the pool and their squares, its
    penalty chosen by log loss in five folds; every point is scored by the classifier of the folds
    without it. Where no classifier beats a constant all weights are 1.

    Parameters
    ----------
    X, X_new : array (N, d), (M, d)
    replicates : int
        How often the weights are estimated again, with other folds and resampled new inputs.

    Returns
    -------
    weights : ndarray (N,)
    again : ndarray (replicates, N)
    """
    N, M = len(X), len(X_new)
    z = _coordinates(X, np.concatenate([X, X_new]))
    known, new = z[:N], z[N:]
    base = M / (N + M)
    label = np.repeat([0, 1], [N, M])
    best, score, strength = None, _log_loss(np.full(N + M, base), label) - WORTH, 0.0
    folds = int(rng.integers(2**31))
    for candidate in STRENGTHS:
        chance = _out_of_fold(known, new, candidate, folds)
        loss = _log_loss(chance, label)
        if loss < score:
            best, score, strength = chance, loss, candidate
    if best is None:
        return np.ones(N), np.ones((replicates, N))
    again = []
    for _ in range(replicates):
        drawn = new[rng.integers(M, size=M)]
        again.append(_ratios(_out_of_fold(known, drawn, strength, int(rng.integers(2**31)))[:N]))
    return _ratios(best[:N]), np.array(again)


def neighbor_weights(
    X: np.ndarray, X_new: np.ndarray, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How often a labelled point is among the 12 nearest of a new input, mean 1.

    Sees what no direction shows, such as a cluster that comes more often; noisier than a
    classifier. Replicates are with resampled new inputs.

    Parameters, returns: as for `importance_weights`.
    """
    from sklearn.neighbors import NearestNeighbors

    N, M = len(X), len(X_new)
    k = min(NEIGHBORS, N)
    found = NearestNeighbors(n_neighbors=k).fit(X).kneighbors(X_new, return_distance=False)

    def counted(rows: np.ndarray) -> np.ndarray:
        return np.bincount(found[rows].ravel(), minlength=N) * (N / (k * M))

    again = [counted(rng.integers(M, size=M)) for _ in range(replicates)]
    return counted(np.arange(M)), np.array(again)


def effective_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _out_of_fold(known: np.ndarray, new: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Probability of being new, of every point, by a classifier that has not seen it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    z, label = np.concatenate([known, new]), np.repeat([0, 1], [len(known), len(new)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # not fully converged is good enough: it is judged by what it predicts
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=strength, max_iter=300)
        chance = cross_val_predict(model, z, label, cv=folds, method="predict_proba")
    return np.asarray(chance)[:, 1]


def _ratios(chance: np.ndarray) -> np.ndarray:
    odds = chance / np.maximum(1 - chance, 1e-12)
    weights = np.minimum(odds / odds.mean(), CUT)
    return weights / weights.mean()


def _log_loss(chance: np.ndarray, label: np.ndarray) -> float:
    p = np.clip(np.where(label == 1, chance, 1 - chance), 1e-12, None)
    return float(-np.log(p).mean())


def _coordinates(X: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Leading components of the pool, scaled to unit variance, and their squares."""
    center = X.mean(0)
    _, singular, rows = np.linalg.svd(X - center, full_matrices=False)
    keep = singular > 1e-8 * max(float(singular[0]), 1e-300)
    keep[max(1, min(MOST_DIRECTIONS, len(X) // POINTS_PER_DIRECTION)) :] = False
    scale = singular[keep] / np.sqrt(len(X))
    # squares see a change of covariance; bounded, so that far points do not dominate
    z = np.clip((both - center) @ rows[keep].T / scale, -6, 6)
    return np.concatenate([z, (z**2 - 1) / 2], axis=1)
