"""The labels of a pool as centered numbers of unit variance, and scores back as classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TASKS = ("regression", "classification")


@dataclass(frozen=True, eq=False)
class Target:
    """What kernel regression is done on, and the way back.

    Attributes
    ----------
    values : ndarray (samples, outputs)
        (raw - center) / sqrt(variance): each column has mean 0 and the variances of the columns
        sum to 1, so that a summed squared error is a fraction of the target's variance.
    center : ndarray (outputs,)
    variance : float
        Of the raw target, summed over columns (mean square about the mean, not unbiased).
    task : "regression" or "classification"
    labels : ndarray of int (samples,) or None
        Index into `classes`; None in regression.
    classes : tuple of str
        Sorted; two classes are coded -1 and +1 in one column, more as one-hot columns.
    notes : tuple of str
    """

    values: np.ndarray
    center: np.ndarray
    variance: float
    task: str
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Normalized values (..., outputs) in the raw units of the target."""
        return values * np.sqrt(self.variance) + self.center

    def decide(self, values: np.ndarray) -> np.ndarray:
        """Class indices (...,) of normalized predictions (..., outputs): the sign, or the largest.

        Raises
        ------
        ValueError
            In regression.
        """
        if self.labels is None:
            raise ValueError("a regression target has no classes")
        raw = self.scores(values)
        return (raw[..., 0] > 0).astype(np.int64) if len(self.classes) == 2 else raw.argmax(-1)


def prepare_target(y: Any, task: str = "regression") -> Target:
    """Center the target and give it unit variance; classes become -1 and +1, or one-hot columns.

    Parameters
    ----------
    y : array or tensor (samples,) or (samples, outputs)
        Numbers in regression; one label per sample (numbers or text) in classification. Several
        regression columns share one scale: standardize them first if their units differ.
    task : "regression" or "classification"

    Raises
    ------
    ValueError
        Another task, an empty or constant target, values that are not finite or not numbers,
        several columns of labels, or more classes than half the samples.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    raw = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if raw.ndim == 0 or len(raw) == 0:
        raise ValueError(f"y must hold one target per sample, got the shape {raw.shape}")
    return _numbers(raw) if task == "regression" else _classes(raw)


def _numbers(raw: np.ndarray) -> Target:
    if raw.ndim > 2 or raw.dtype.kind not in "biuf":
        raise ValueError(
            f"y must hold numbers, (samples,) or (samples, outputs), got {raw.dtype} of shape "
            f"{raw.shape}; labels need task='classification'"
        )
    columns = raw.reshape(len(raw), -1).astype(np.float64)
    if not np.isfinite(columns).all():
        raise ValueError("y holds values that are not finite; drop those samples first")
    constant = np.flatnonzero(columns.max(0) == columns.min(0))
    if len(constant):
        which = f"column {constant[0]} of y" if columns.shape[1] > 1 else "y"
        raise ValueError(
            f"{which} is {columns[0, constant[0]]:g} for every sample; there is nothing to learn"
        )
    values, center, variance = _normalized(columns)
    return Target(values, center, variance, "regression")


def _classes(raw: np.ndarray) -> Target:
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        raise ValueError(f"y must hold one class label per sample, got the shape {raw.shape}")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise ValueError("y holds labels that are not finite; drop those samples first")
    names, labels, counts = np.unique(raw, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"y holds the one class {names[0]!s}; there is nothing to learn")
    if len(names) > len(raw) / 2:
        raise ValueError(
            f"y has {len(names)} distinct values in {len(raw)} samples; those are not class "
            "labels. Use task='regression' for numbers"
        )
    notes = []
    if (counts < 2).any():
        rare = ", ".join(str(n) for n in names[counts < 2][:5])
        notes.append(f"seen once only: class {rare}; it counts as an error whenever it is left out")
    one_hot = np.eye(len(names))[labels]
    columns = 2.0 * one_hot[:, 1:] - 1.0 if len(names) == 2 else one_hot
    values, center, variance = _normalized(columns)
    return Target(
        values, center, variance, "classification", labels, tuple(str(n) for n in names),
        tuple(notes),
    )  # fmt: skip


def _normalized(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    center = columns.mean(0)
    centered = columns - center
    variance = float((centered**2).sum(1).mean())
    return centered / np.sqrt(variance), center, variance


def initial_columns(initial: Any, target: Target) -> np.ndarray:
    """Initial functions as columns whose squared errors sum up to that of all outputs."""
    m, outputs = target.values.shape
    if initial is None:
        return np.empty((m, 0))
    given = initial.detach().cpu() if hasattr(initial, "detach") else initial
    functions = np.asarray(given, dtype=np.float64)
    if functions.ndim != 2 or len(functions) != m or not functions.size:
        raise ValueError(f"initial must have the shape ({m}, draws), got {functions.shape}")
    if not np.isfinite(functions).all():
        raise ValueError("initial holds values that are not finite")
    return functions * np.sqrt(outputs / functions.shape[1])
