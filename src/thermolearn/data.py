"""Data sets: the shipped ones, and tables from .csv, .parquet and .npz files, ready to train on.

Nothing is ever unpickled, and every way in which a file can be unusable is a `DataError` that
names the file, the column and the row, and says what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.errors import DataError
from thermolearn.tables import RawData, read_features, read_file

SHIPPED = ("digits", "breast_cancer", "wine", "diabetes", "iris")
TASKS = ("classification", "regression")
MAX_INTEGER_CLASSES = 20
MIN_ROWS = 10
_DIGITS_TEST = 500


@dataclass(frozen=True, eq=False)
class Standardization:
    """The affine map applied to the inputs and, in regression, to the target.

    x -> (x - center) / scale and y -> (y - target_center) / target_scale, with the constants of
    the training split; `rule` says in words which constants. Scales are positive.
    """

    rule: str
    center: np.ndarray
    scale: np.ndarray
    target_center: np.ndarray
    target_scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split as tensors.

    Attributes
    ----------
    name : str
        The shipped name or the file name.
    x_train, x_test : Tensor, float32, (n, features) or (n, *feature_shape)
    y_train, y_test : Tensor
        int64 class indices (n,), or float32 values (n, targets).
    task : "classification" or "regression"
    classes : tuple of str
        What the class indices stand for; empty in regression.
    feature_names : tuple of str
        One per input column; empty for arrays with more than two axes.
    rule : str
        The sentence that says why the task is what it is.
    standardization : Standardization
    image_shape : (channels, height, width) or None
        How one sample reads as an image, for convolutional models.
    notes : tuple of str
        What was done to the data that a user would want to know.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    task: str
    classes: tuple[str, ...]
    feature_names: tuple[str, ...]
    rule: str
    standardization: Standardization
    image_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_inputs(self) -> int:
        """Numbers per sample."""
        return math.prod(self.x_train.shape[1:])

    @property
    def n_outputs(self) -> int:
        """Outputs a model needs: one per class, or one per target."""
        return len(self.classes) or self.y_train.shape[1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: the image shape where there is one, else that of the tensor."""
        return self.image_shape or tuple(self.x_train.shape[1:])


def load(
    name_or_path: str | Path,
    target: str | None = None,
    task: str | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    standardize: bool = True,
) -> Dataset:
    """A shipped data set by name, or a table from a file, split and standardized.

    Rows are split at random, in proportion to the classes where there are classes. Inputs are
    standardized per feature with mean and standard deviation of the training split; images
    (digits, and arrays with more than two axes) are centered per pixel and divided by the one
    standard deviation of all training pixels. Regression targets are standardized too.

    Parameters
    ----------
    name_or_path : str or Path
        One of `SHIPPED`, or a .csv, .parquet or .npz file. A .csv has a header line and commas;
        text columns become one column per distinct text. A .npz holds x (or X) and y.
    target : str, optional
        Column of the target (.csv, .parquet; required there) or array name (.npz; default y).
    task : "classification" or "regression", optional
        Default: by the rule of `infer_task`.
    test_fraction : float in (0, 1), optional
        Share of the rows that is held out; default 1/4, for digits 500 of the 1797.
    seed : int >= 0
        Of the split.
    standardize : bool
        False leaves all numbers as they are, for a model that brings its own scaling.

    Raises
    ------
    DataError
        The file cannot be read or used; the message names file, column and row.
    ValueError
        task, test_fraction or seed outside the values above.
    """
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    raw = _raw(name_or_path, target, task)
    if raw.source == "digits" and test_fraction is None:
        test_fraction = _DIGITS_TEST / len(raw.y)
    return _prepare(raw, task, 0.25 if test_fraction is None else test_fraction, seed, standardize)


def load_pool(
    name_or_path: str | Path,
    target: str | None = None,
    task: str | None = None,
    standardize: bool = True,
) -> Dataset:
    """As `load`, with every row in the training split and none held out.

    For what tests itself on rows it leaves out, as a predicted learning curve does.
    """
    return _prepare(_raw(name_or_path, target, task), task, 0.0, 0, standardize)


def load_unlabelled(path: str | Path, dataset: Dataset) -> Tensor:
    """Inputs without a target, scaled with the constants of a data set that was read before.

    A .csv or .parquet file needs the features of the data set by name, in any order; what else is
    in it, as a target, is left out. A .npz needs x of the same shape per row.

    Returns
    -------
    Tensor, float32, (n, features) or (n, *feature_shape)

    Raises
    ------
    DataError
        The file cannot be read, lacks a feature, or holds a text the data set does not know.
    """
    path = _existing(path)
    x = read_features(path, dataset.feature_names)
    wanted = tuple(dataset.x_train.shape[1:])
    if x.shape[1:] != wanted:
        raise DataError(f"{path}: one row has shape {x.shape[1:]}, one of {dataset.name} {wanted}")
    constants = dataset.standardization
    return _tensors(
        (x - constants.center) / constants.scale, np.zeros(len(x)), "regression", str(path)
    )[0]


def infer_task(y: np.ndarray, target: str, task: str | None = None) -> tuple[str, str]:
    """(task, sentence) for a target column y, numbers or text, (n,) or (n, k).

    A target that is text, or holds 2 to 20 distinct integers each seen at least twice, is
    classification; anything else is regression. A task that is asked for wins if it can be done.

    Raises
    ------
    DataError
        The task asked for does not fit the target.
    """
    text = y.dtype.kind == "U"
    several = y.ndim > 1 and y.shape[1] > 1
    if task == "regression" and text:
        raise DataError(f"target {target!r} is text, which has no regression; use classification")
    if task == "classification" and (several or not (text or np.all(y == np.round(y)))):
        raise DataError(
            f"target {target!r} does not hold one class per row (integers or text); use regression"
        )
    if task is not None:
        return task, f"{task}, as asked for"
    if text:
        return "classification", f"classification, because target {target!r} is text"
    if several:
        return "regression", f"regression, because target {target!r} has {y.shape[1]} columns"
    values, counts = np.unique(y, return_counts=True)
    if not np.all(values == np.round(values)):
        return "regression", f"regression, because target {target!r} is not made of integers"
    if len(values) > MAX_INTEGER_CLASSES:
        why = f"has {len(values)} distinct integers, more than {MAX_INTEGER_CLASSES}"
        return "regression", f"regression, because target {target!r} {why}"
    if counts.min() < 2:
        once = f"value {values[counts.argmin()]:g} is seen only once"
        return "regression", f"regression, because target {target!r} is integer but its {once}"
    why = f"holds {len(values)} distinct integers (at most {MAX_INTEGER_CLASSES}), none only once"
    return "classification", f"classification, because target {target!r} {why}"


def _raw(name_or_path: str | Path, target: str | None, task: str | None) -> RawData:
    if task not in (None, *TASKS):
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if str(name_or_path) not in SHIPPED:
        return read_file(_existing(name_or_path), target)
    if target is not None:
        raise DataError(f"{name_or_path} has a fixed target; leave target {target!r} out")
    return _shipped(str(name_or_path))


def _existing(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    try:
        if path.is_dir():
            raise DataError(f"{path} is a directory; name a file in it")
        found = path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(name_or_path)!r} is not a usable path: {error}") from error
    if not found:
        raise DataError(
            f"no file {str(name_or_path)!r}, and no shipped data set of that name; "
            f"shipped are {', '.join(SHIPPED)}"
        )
    return path


def _shipped(name: str) -> RawData:
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.float64)
    classes = () if name == "diabetes" else tuple(str(t) for t in bunch.target_names)
    image = (1, 8, 8) if name == "digits" else None
    features = tuple(str(f) for f in bunch.feature_names)
    return RawData(name, x / 16 if image else x, y, features, "target", classes, image)


def _prepare(
    raw: RawData, task: str | None, test_fraction: float, seed: int, standardize: bool
) -> Dataset:
    if len(raw.y) < MIN_ROWS:
        raise DataError(
            f"{raw.source} has {len(raw.y)} rows; at least {MIN_ROWS} are needed to split and "
            "standardize them"
        )
    task, rule = infer_task(raw.y, raw.target, task)
    labels, classes = _labels(raw, task)
    notes = list(raw.notes)
    if test_fraction == 0:
        train, test = np.arange(len(labels)), np.arange(0)
    else:
        train, test = _split(labels, task, test_fraction, seed, notes)
    if test_fraction and (len(train) < 2 or len(test) < 1):
        raise DataError(
            f"test_fraction {test_fraction:g} leaves {len(train)} training and {len(test)} test "
            f"rows of the {len(raw.y)} in {raw.source}; choose it nearer to 1/4"
        )
    x, names, standardization = _scale(raw, labels, task, train, standardize, notes)
    y = labels
    if task == "regression":
        y = (y - standardization.target_center) / standardization.target_scale
    parts = [_tensors(x[rows], y[rows], task, raw.source) for rows in (train, test)]
    return Dataset(
        raw.source, *parts[0], *parts[1], task, classes, names, rule, standardization,
        raw.image_shape, tuple(notes),
    )  # fmt: skip


def _labels(raw: RawData, task: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices (n,) and names, or float64 values (n, k) and no names."""
    if task == "regression":
        y = np.asarray(raw.y, dtype=np.float64).reshape(len(raw.y), -1)
        constant = np.flatnonzero(y.max(0) == y.min(0))
        if len(constant):
            raise DataError(
                f"target {raw.target!r} of {raw.source} is {y[0, constant[0]]:g} in every row; "
                "there is nothing to learn, choose another target"
            )
        return y, ()
    values, index = np.unique(raw.y.reshape(-1), return_inverse=True)
    if len(values) < 2:
        raise DataError(
            f"target {raw.target!r} of {raw.source} holds one class only, {values[0]!s}; "
            "at least two are needed"
        )
    if len(values) > len(raw.y) / 2:
        raise DataError(
            f"target {raw.target!r} of {raw.source} has {len(values)} distinct values in "
            f"{len(raw.y)} rows, e.g. {values[0]!s}; that is not a class label. Choose another "
            "target, or mend the cells that are not numbers and use regression"
        )
    text = raw.y.dtype.kind == "U"
    names = raw.class_names or tuple(str(v) if text else str(int(v)) for v in values)
    return index.astype(np.int64), names


def _split(
    labels: np.ndarray, task: str, test_fraction: float, seed: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    n = len(labels)
    n_test = round(test_fraction * n)
    if not 1 <= n_test <= n - 2:
        return np.arange(n_test, n), np.arange(n_test)
    stratify = None
    if task == "classification":
        counts = np.bincount(labels)
        if counts.min() >= 2 and min(n_test, n - n_test) >= len(counts):
            stratify = labels
        else:
            notes.append("split without regard to the classes: some are too rare for it")
    train, test = train_test_split(
        np.arange(n), test_size=n_test, stratify=stratify, random_state=seed % 2**32
    )
    return np.sort(train), np.sort(test)


def _scale(
    raw: RawData, labels: np.ndarray, task: str, train: np.ndarray, standardize: bool,
    notes: list[str],
) -> tuple[np.ndarray, tuple[str, ...], Standardization]:  # fmt: skip
    """Inputs after the affine map, the names that are left, and the map."""
    x, names = raw.x, raw.feature_names
    if not standardize:
        one, zero = np.ones(()), np.zeros(())
        return x, names, Standardization("numbers as they are", zero, one, zero, one)
    images = x.ndim > 2 or raw.image_shape is not None
    if not images:
        x, names = _drop_constant(raw, train, notes)
    with np.errstate(over="ignore", invalid="ignore"):
        center = x[train].mean(0)
        scale = np.asarray((x[train] - center).std()) if images else x[train].std(0)
    _check_scale(raw, center, scale, names)
    pixels = "each pixel minus its mean, all divided by one standard deviation"
    rule = pixels if images else "each feature minus its mean, divided by its standard deviation"
    y_center, y_scale = np.zeros(()), np.ones(())
    if task == "regression":
        with np.errstate(over="ignore", invalid="ignore"):
            y_center, y_scale = labels[train].mean(0), labels[train].std(0)
        _check_scale(raw, y_center, y_scale, (raw.target,) * len(y_scale))
        rule += "; the target likewise"
    rule += " (of the training split)" if len(train) < len(x) else " (of all rows)"
    return (x - center) / scale, names, Standardization(rule, center, scale, y_center, y_scale)


def _drop_constant(
    raw: RawData, train: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    varies = raw.x[train].max(0) > raw.x[train].min(0)
    dropped = [raw.feature_names[i] for i in np.flatnonzero(~varies)]
    if not varies.any():
        raise DataError(f"every feature of {raw.source} is constant; nothing can be learned")
    if dropped:
        shown = ", ".join(dropped[:5]) + (" ..." if len(dropped) > 5 else "")
        notes.append(f"dropped {len(dropped)} constant feature(s): {shown}")
    kept = tuple(raw.feature_names[i] for i in np.flatnonzero(varies))
    return raw.x[:, varies], kept


def _check_scale(
    raw: RawData, center: np.ndarray, scale: np.ndarray, names: tuple[str, ...]
) -> None:
    """A mean or a deviation that over- or underflows would spread non-finite numbers."""
    good = np.isfinite(center) & np.isfinite(scale) & (scale > 0)
    if np.all(good):
        return
    name = names[int(np.argmin(good))] if good.ndim == 1 and len(names) == len(good) else "x"
    raise DataError(
        f"{name!r} of {raw.source} cannot be standardized: its numbers are too large, too close "
        "together or constant in the training split; rescale or drop it"
    )


def _tensors(x: np.ndarray, y: np.ndarray, task: str, source: str) -> tuple[Tensor, Tensor]:
    with np.errstate(over="ignore"):
        inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        dtype = np.int64 if task == "classification" else np.float32
        targets = torch.from_numpy(np.ascontiguousarray(y, dtype=dtype))
    if not (torch.isfinite(inputs).all() and torch.isfinite(targets.double()).all()):
        raise DataError(f"{source} holds numbers beyond the range of float32; rescale them")
    return inputs, targets
