"""Checks of what a forecast is given, and the coding of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thermolearn.predict.shift.residuals import FeatureKernel, Kernel

LEAST_POOL = 20
LEAST_NEW = 10
MOST_SCALE = 1e60  # fourth powers stay within double precision


@dataclass(frozen=True, eq=False)
class Inputs:
    """Labelled and new inputs as given and as rows of numbers, coded targets (N, outputs)."""

    X: np.ndarray
    X_new: np.ndarray
    rows: np.ndarray
    rows_new: np.ndarray
    targets: np.ndarray
    kernel: Kernel
    notes: tuple[str, ...]
    fresh: np.ndarray
    """(new inputs as given,) of bool: not labelled points; only these are in X_new."""


def checked_inputs(
    X: Any,
    y: Any,
    X_new: Any,
    kernel: Kernel | None,
    features: Callable[[np.ndarray], Any] | None,
    task: str,
) -> Inputs:
    """The arguments of `expected_error`, in float64; ValueError where they cannot be used."""
    if task not in ("regression", "classification"):
        raise ValueError(f"task must be 'regression' or 'classification', got {task!r}")
    if (kernel is None) == (features is None):
        raise ValueError("give a kernel (an object with .gram) or features (a callable), not both")
    if features is not None and not callable(features):
        raise ValueError("features must be a callable that maps inputs to (rows, p) features")
    if kernel is not None and not hasattr(kernel, "gram"):
        raise ValueError("kernel must have a method gram(X, X2=None)")
    known, new = _array("X", X), _array("X_new", X_new)
    if known.shape[1:] != new.shape[1:]:
        raise ValueError(f"X has inputs of shape {known.shape[1:]}, X_new of {new.shape[1:]}")
    if len(known) < LEAST_POOL:
        raise ValueError(f"X has {len(known)} labelled inputs, at least {LEAST_POOL} are needed")
    if len(new) < LEAST_NEW:
        raise ValueError(f"X_new has {len(new)} inputs, at least {LEAST_NEW} are needed")
    rows, rows_new = known.reshape(len(known), -1), new.reshape(len(new), -1)
    if not (rows != rows[0]).any():
        raise ValueError("X: all labelled inputs are the same, nothing can be learned")
    targets = _targets(y, len(known), task)
    notes = []
    distinct = len(np.unique(rows, axis=0))
    if distinct < len(rows):
        notes.append(
            f"{len(rows) - distinct} labelled inputs are copies of others: leaving one out leaves "
            "its copy in, which makes the forecast too low; remove them"
        )
    fresh = unseen(rows, rows_new)
    copies = int((~fresh).sum())
    if fresh.sum() < LEAST_NEW:
        raise ValueError(
            f"X_new: {copies} of {len(fresh)} inputs are labelled points of X, whose labels are "
            f"known; at least {LEAST_NEW} others are needed"
        )
    if copies:
        notes.append(
            f"{copies} new inputs are labelled points and left out: the forecast is for the others"
        )
    chosen = FeatureKernel(features) if features is not None else kernel
    assert chosen is not None
    return Inputs(known, new[fresh], rows, rows_new[fresh], targets, chosen, tuple(notes), fresh)


def unseen(rows: np.ndarray, rows_new: np.ndarray) -> np.ndarray:
    """Which new inputs are farther from all labelled ones than rounding.

    A thousandth of the median distance between labelled neighbors counts as none: the machine has
    learned these labels by heart, noise included, and left-out points do not show that.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=2).fit(rows)
    typical = float(np.median(search.kneighbors(rows)[0][:, 1]))
    return search.kneighbors(rows_new, n_neighbors=1)[0][:, 0] > 1e-3 * typical


def _array(name: str, given: Any) -> np.ndarray:
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers (encode categories first)") from error
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{name} must be (rows, features), got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has missing or infinite values; drop or fill these rows first")
    return array


def _targets(y: Any, n: int, task: str) -> np.ndarray:
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    labels = np.asarray(y)
    if labels.ndim not in (1, 2) or len(labels) != n:
        raise ValueError(f"y must have one row per labelled input ({n}), got {labels.shape}")
    if task == "classification":
        return coded_classes(labels)
    try:
        target = labels.astype(np.float64).reshape(n, -1)
    except (TypeError, ValueError) as error:
        raise ValueError("y must be numbers; for classes use task='classification'") from error
    if not np.isfinite(target).all():
        raise ValueError("y has missing or infinite values; drop these rows first")
    if not (target != target[0]).any():
        raise ValueError("y is constant: there is no error to forecast")
    if not 1 / MOST_SCALE < float(np.abs(target).max()) < MOST_SCALE:
        raise ValueError(
            f"y reaches {float(np.abs(target).max()):.3g}: its powers leave double precision; "
            "scale it to a standard deviation near one"
        )
    return target


def coded_classes(labels: np.ndarray) -> np.ndarray:
    """-1, +1 of two classes (N, 1); of more, one-hot minus 1/classes (N, classes).

    Raises
    ------
    ValueError
        Not (N,), missing labels, or only one class.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError("y must be class labels (N,) in classification")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("y has missing labels; drop these rows first")
    classes, index = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("y is constant: there is no error to forecast")
    if len(classes) > len(labels) // 2:
        raise ValueError(f"y has {len(classes)} classes in {len(labels)} rows; is it a regression?")
    if len(classes) == 2:
        return 2.0 * index[:, None] - 1
    return np.eye(len(classes))[index] - 1 / len(classes)
