"""Labeled +-1 examples: checking, binarisation, and the couplings of their class means."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import is_signs
from thermolearn.systems.memory.archetypes import check_memory, hebb_matrix


def hebb_supervised(
    X: ArrayLike,
    y: ArrayLike,
    normalise: bool = True,
    classes: ArrayLike | None = None,
    diagonal: bool = False,
) -> np.ndarray:
    """Hebb matrix of labeled examples: average each class first, then store the averages.

        J_ij = (1 / (N calR)) sum_mu bar eta^mu_i bar eta^mu_j,  bar eta^mu = mean of class mu.

    Classes may differ in size. Each enters through its mean, so a class does not count more for
    having more examples; but the mean of few examples is longer, |bar eta|^2 / N =
    r^2 + (1 - r^2) / M_mu, and its attractor deeper and noisier.

    Parameters
    ----------
    X : array (n, N)
        +-1.
    y : array (n,)
        Labels of any kind.
    normalise : bool
        Divide by calR, the mean of |bar eta|^2 / N over classes, so that a mode has strength 1 on
        average and the temperature means what it means for the Hopfield model.
    classes : array, optional
        Labels that must be present, in this order; by default those in y.
    diagonal : bool
        Keep J_ii (a constant of the energy); by default zero, as simulations need.

    Returns
    -------
    float32 array (N, N)

    Raises
    ------
    ValueError
        X and y do not match, entries other than +-1, a class without examples or unknown labels.

    References
    ----------
    arXiv:2203.01304.
    """
    examples, groups, _ = labeled_examples(X, y, classes)
    means = np.stack([examples[rows].mean(axis=0, dtype=np.float64) for rows in groups])
    strength = float((means**2).mean()) if normalise else 1.0
    if strength == 0:
        raise ValueError("the mean of every class is zero: there is nothing to store")
    n = means.shape[1]
    check_memory(4 * n**2, f"a coupling matrix of {n} x {n} float32")
    return hebb_matrix([means], n, n * strength, diagonal)


def binarise(X: ArrayLike, threshold: float | ArrayLike) -> np.ndarray:
    """+1 where X > threshold, else -1.

    Parameters
    ----------
    X : array (n, N)
        Finite numbers.
    threshold : float or array (N,)
        One for all features, or one each: `median_thresholds`.

    Returns
    -------
    int8 array (n, N)

    Raises
    ------
    ValueError
        NaN or infinity, or shapes that do not match.
    """
    values, level = np.asarray(X), np.asarray(threshold, dtype=np.float64)
    if values.ndim != 2 or level.shape not in ((), (values.shape[1],)):
        raise ValueError(
            f"X must be (n, N) and threshold a number or (N,); got {values.shape}, {level.shape}"
        )
    if not (np.isfinite(values).all() and np.isfinite(level).all()):
        raise ValueError("X or threshold holds a NaN or an infinity")
    return np.where(values > level, 1, -1).astype(np.int8)


def median_thresholds(X: np.ndarray) -> np.ndarray:
    """Thresholds (N,) that split each column of X near its median.

    The median, unless no value exceeds it (a column that is mostly at its maximum): then the next
    smaller value, so that only constant columns become constant. +-1 columns stay as they are.
    """
    level = np.median(X, axis=0)
    stuck = X.max(axis=0) <= level
    below = np.where(level > X, X, -np.inf).max(axis=0)
    return np.where(stuck & np.isfinite(below), below, level)


def labeled_examples(
    X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Examples int8 (n, N), the row numbers of each class, and the labels of the classes."""
    given, labels = np.asarray(X), np.asarray(y)
    check_signs(given)
    if labels.shape != (len(given),):
        raise ValueError(f"y must hold one label per row of X ({len(given)}), got {labels.shape}")
    known: Any = np.unique(labels) if classes is None else np.asarray(classes).ravel()
    if len(np.unique(known)) != len(known):
        raise ValueError("classes holds a label twice")
    unknown = np.setdiff1d(labels, known)
    if len(unknown):
        raise ValueError(f"y holds labels that are not in classes: {unknown[:5].tolist()}")
    groups = [np.flatnonzero(labels == label) for label in known]
    for label, rows in zip(known.tolist(), groups, strict=True):
        if not len(rows):
            raise ValueError(f"class {label!r} has no examples")
    return given.astype(np.int8), groups, known


def check_signs(X: np.ndarray) -> None:
    """ValueError unless X is a table of -1 and +1."""
    if X.ndim != 2 or not X.size:
        raise ValueError(f"X must have shape (n, N), neither of them 0; got {X.shape}")
    if not is_signs(X):
        raise ValueError("X must consist of -1 and +1; binarise(X, threshold) makes them")
