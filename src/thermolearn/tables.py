"""Reading .csv, .parquet and .npz files into plain arrays, with errors that name the place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thermolearn.core.errors import DataError

EXTENSIONS = (".csv", ".parquet", ".npz")
MAX_ONE_HOT = 20


@dataclass(frozen=True, eq=False)
class RawData:
    """Inputs and target as read: x float64 (n, ...), y numbers or text (n,) or (n, k)."""

    source: str
    x: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    target: str
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()


def read_file(path: Path, target: str | None) -> RawData:
    """Read a table or a pair of arrays.

    Parameters
    ----------
    path : Path
        An existing .csv, .parquet or .npz file.
    target : str or None
        Name of the target column; for .npz the array that is the target (default y).

    Raises
    ------
    DataError
        Anything that keeps the file from being used.
    """
    if _suffix(path) == ".npz":
        return _read_npz(path, target or "y")
    table, place = _read_table(path)
    return _from_table(path, table, target, place)


def read_columns(
    path: Path, names: tuple[str, ...]
) -> tuple[list[np.ndarray], Callable[[int], str]]:
    """Columns of numbers by name, float64 (n,), and how rows are named in messages.

    Raises
    ------
    DataError
        Not a .csv or .parquet file with each of the columns once, or they do not hold numbers.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{path}: columns are read from .csv and .parquet files")
    _suffix(path)
    table, place = _read_table(path)
    there = list(table.column_names)
    columns = []
    for name in names:
        if there.count(name) != 1:
            raise DataError(
                f"{path} has {there.count(name) or 'no'} columns {name!r}; the columns are "
                f"{', '.join(there[:30])}"
            )
        columns.append(_column(table, name, path, place))
        if columns[-1].dtype.kind == "U":
            raise DataError(f"{path}: column {name!r} holds text; it must hold numbers")
    return columns, place


def read_features(path: Path, feature_names: tuple[str, ...]) -> np.ndarray:
    """Inputs alone, float64 (n, features), in the order of the features of a table read before.

    Columns that are not among them, as the target, are left out. A feature "column=text" is 1
    where that text stands in the column; texts that were not seen before are refused.

    Parameters
    ----------
    path : Path
        An existing .csv or .parquet file with a header, or .npz with x.
    feature_names : tuple of str
        `RawData.feature_names` of the first table; of a .npz with two axes they are "x[3]", the
        number of the column.

    Raises
    ------
    DataError
        A feature is missing, or anything that keeps the file from being used.
    """
    if _suffix(path) == ".npz":
        return _npz_features(path, feature_names)
    table, place = _read_table(path)
    if table.num_rows == 0:
        raise DataError(f"{path} has column names but no rows")
    names = list(table.column_names)
    found = {name: _column_of(name, names) for name in feature_names}
    missing = [name for name, column in found.items() if column is None]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the {len(feature_names)} features: "
            f"{', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}"
        )
    values = {c: _column(table, c, path, place) for c in dict.fromkeys(found.values()) if c}
    _refuse_new_texts(path, values, feature_names, place)
    columns = []
    for name, column in found.items():
        cells = values[str(column)]
        if cells.dtype.kind == "U":
            if column == name:
                raise DataError(f"{path}: column {name!r} is text, but it was a number before")
            cells = (cells == name.removeprefix(f"{column}=")).astype(np.float64)
        elif column != name:
            raise DataError(f"{path}: column {column!r} holds numbers, but it was text before")
        columns.append(cells)
    return np.stack(columns, axis=1)


def _column_of(feature: str, columns: list[str]) -> str | None:
    """The column that a feature is made from: of its name, or the text column before "="."""
    if feature in columns:
        return feature
    before = [c for c in columns if feature.startswith(f"{c}=")]
    return max(before, key=len, default=None)


def _refuse_new_texts(
    path: Path,
    values: dict[str, np.ndarray],
    feature_names: tuple[str, ...],
    place: Callable[[int], str],
) -> None:
    known = set(feature_names)
    for column, cells in values.items():
        if cells.dtype.kind != "U" or column in known:
            continue
        new = [f"{column}={cell}" not in known for cell in cells]
        if any(new):
            row = int(np.argmax(new))
            raise DataError(
                f"{path}: column {column!r} holds {str(cells[row])[:40]!r} at {place(row)}, which "
                "the first table does not know; nothing can be said about it"
            )


def _suffix(path: Path) -> str:
    """The extension of a file that is known and not empty."""
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise DataError(
            f"{path}: unknown extension {suffix!r}; files may be {', '.join(EXTENSIONS)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    return suffix


# -- rows and cells ---------------------------------------------------------------------------


def _csv_row(row: int) -> str:
    return f"row {row + 2} (the header is row 1)"


def _row_from_zero(row: int) -> str:
    return f"row {row} (the first is row 0)"


def _require_finite(
    values: np.ndarray, path: Path, column: str, place: Callable[[int], str]
) -> None:
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    where = np.argwhere(bad)[0]
    what = "missing or NaN" if np.isnan(values[tuple(where)]) else "infinite"
    inside = f", element {tuple(int(i) for i in where[1:])}" if len(where) > 1 else ""
    raise DataError(
        f"{path}: column {column!r} is {what} at {place(int(where[0]))}{inside} "
        f"({int(bad.sum())} such in the column); remove the row or fill the value in"
    )


# -- tables -----------------------------------------------------------------------------------


def _read_table(path: Path) -> tuple[Any, Callable[[int], str]]:
    """The table of a .csv or .parquet file, and how its rows are named."""
    if path.suffix.lower() == ".csv":
        return _read_csv(path), _csv_row
    return _read_parquet(path), _row_from_zero


def _read_csv(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    # One block for the whole file: types are then inferred from every row, not from the first MB.
    block = min(path.stat().st_size + 1, 2**31 - 1)
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=block),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(strings_can_be_null=True),
        )
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable .csv: {_first_line(error)}. Every row needs as many "
            "comma-separated cells as the header line"
        ) from error
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}: the first row holds numbers, not names; add a header line with column names"
        )
    if len(names) == 1:
        raise DataError(
            f"{path} has one column only, {names[0][:60]!r}; separate columns by commas, and give "
            "at least one feature and the target"
        )
    return table


def _read_parquet(path: Path) -> Any:
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()
        _ = table.column_names  # raises here if they are not UTF-8
        return table
    except Exception as error:  # a damaged file fails in many ways inside the reader
        raise DataError(f"{path} is not a readable .parquet file: {_first_line(error)}") from error


def _from_table(path: Path, table: Any, target: str | None, place: Callable[[int], str]) -> RawData:
    names = list(table.column_names)
    listed = ", ".join(names[:30]) + (" ..." if len(names) > 30 else "")
    for position, name in enumerate(names):
        if not name.strip():
            raise DataError(
                f"{path}: column {position + 1} has no name; name it, or remove it if it only "
                "numbers the rows"
            )
        if name in names[:position]:
            raise DataError(f"{path}: two columns are called {name!r}; rename or remove one")
    if target is None:
        raise DataError(f"{path}: say which column is the target; the columns are {listed}")
    if target not in names:
        raise DataError(f"{path} has no column {target!r}; the columns are {listed}")
    if table.num_rows == 0:
        raise DataError(f"{path} has column names but no rows")
    if len(names) == 1:
        raise DataError(f"{path} holds the target {target!r} only; features are missing")
    y = _column(table, target, path, place)
    if y.dtype.kind == "U":
        _require_words(y, target, path, place)
    blocks, features, notes = [], [], []
    for name in names:
        if name == target:
            continue
        values = _column(table, name, path, place)
        if values.dtype.kind == "U":
            block, labels = _one_hot(values, name, path, place)
            notes.append(f"text column {name!r} became {len(labels)} columns of 0 and 1")
            blocks.append(block)
            features += labels
        else:
            blocks.append(values[:, None])
            features.append(name)
    x = np.concatenate(blocks, axis=1)
    return RawData(path.name, x, y, tuple(features), target, notes=tuple(notes))


def _column(table: Any, name: str, path: Path, place: Callable[[int], str]) -> np.ndarray:
    """One column as float64, or as text; numbers finite, no text missing."""
    import pyarrow as pa

    column = table.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string)):
        texts = column.to_pylist()
        if None in texts:
            raise DataError(
                f"{path}: column {name!r} is missing at {place(texts.index(None))}; remove the "
                "row or fill the value in"
            )
        return np.array(texts, dtype=np.str_)
    numeric = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
        pa.types.is_null,
    )  # fmt: skip
    if not any(test(kind) for test in numeric):
        hint = " (is the file UTF-8?)" if pa.types.is_binary(kind) else ""
        raise DataError(
            f"{path}: column {name!r} is of type {kind}{hint}, which is neither numbers nor text; "
            "turn it into numbers or remove it"
        )
    try:
        values = column.cast(pa.float64(), safe=False).to_numpy()
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: column {name!r}: {_first_line(error)}") from error
    values = np.asarray(values, dtype=np.float64)
    _require_finite(values, path, name, place)
    return values


def _one_hot(
    texts: np.ndarray, name: str, path: Path, place: Callable[[int], str]
) -> tuple[np.ndarray, list[str]]:
    _require_words(texts, name, path, place)
    values, index = np.unique(texts, return_inverse=True)
    if len(values) > MAX_ONE_HOT:
        raise DataError(
            f"{path}: text column {name!r} has {len(values)} distinct values, more than "
            f"{MAX_ONE_HOT}; remove it or turn it into numbers"
        )
    return np.eye(len(values))[index], [f"{name}={value}" for value in values]


def _require_words(texts: np.ndarray, name: str, path: Path, place: Callable[[int], str]) -> None:
    """A column of many numbers and a few texts is a damaged column of numbers, not categories."""
    number = np.array([_is_number(text) for text in texts])
    if number.mean() > 0.5 and len(np.unique(texts)) > MAX_ONE_HOT:
        row = int(np.argmin(number))
        raise DataError(
            f"{path}: column {name!r} holds numbers, but {str(texts[row])[:40]!r} at {place(row)}; "
            "mend that cell"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


# -- arrays -----------------------------------------------------------------------------------


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, memory
        hint = ""
        if "pickle" in str(error).lower():
            hint = "; arrays of Python objects are never opened, save arrays of numbers"
        raise DataError(
            f"{path} is not a readable .npz file of arrays: {_first_line(error)}{hint}"
        ) from error


def _inputs_name(arrays: dict[str, np.ndarray], path: Path) -> str:
    inputs = next((name for name in ("x", "X") if name in arrays), None)
    if inputs is None:
        listed = ", ".join(arrays) or "none"
        raise DataError(f"{path} has no array x or X; its arrays are {listed}")
    return inputs


def _npz_features(path: Path, feature_names: tuple[str, ...]) -> np.ndarray:
    arrays = _load_npz(path)
    name = _inputs_name(arrays, path)
    x = _numbers(arrays[name], path, name)
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{path}: {name} has shape {x.shape}; it must be (rows, features)")
    numbers = [re.fullmatch(r"[xX]\[(\d+)\]", feature) for feature in feature_names]
    kept = [int(found[1]) for found in numbers if found]
    if x.ndim > 2 or not kept or len(kept) < len(numbers) or max(kept) >= x.shape[1]:
        return x
    return x[:, kept]


def _read_npz(path: Path, target: str) -> RawData:
    arrays = _load_npz(path)
    listed = ", ".join(arrays) or "none"
    inputs = _inputs_name(arrays, path)
    if target == "y" and "y" not in arrays and "Y" in arrays:
        target = "Y"
    if target not in arrays or target == inputs:
        raise DataError(f"{path} has no target array {target!r}; its arrays are {listed}")
    x = _numbers(arrays[inputs], path, inputs)
    y = arrays[target]
    y = y if y.dtype.kind == "U" else _numbers(y, path, target)
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(
            f"{path}: {inputs} has shape {x.shape}; it must be (rows, features) or (rows, "
            "channels, height, width)"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.dtype.kind == "U") or 0 in y.shape:
        raise DataError(f"{path}: {target} has shape {y.shape}; it must be (rows,)")
    if len(x) != len(y):
        raise DataError(f"{path}: {inputs} has {len(x)} rows but {target} has {len(y)}")
    names = tuple(f"{inputs}[{i}]" for i in range(x.shape[1])) if x.ndim == 2 else ()
    image = None
    if x.ndim in (3, 4):
        image = (1 if x.ndim == 3 else x.shape[1], x.shape[-2], x.shape[-1])
    return RawData(path.name, x, y, names, target, image_shape=image)


def _numbers(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: array {name!r} is of type {array.dtype}; save real numbers")
    values = array.astype(np.float64)
    if values.ndim:
        _require_finite(values, path, name, _row_from_zero)
    return values
