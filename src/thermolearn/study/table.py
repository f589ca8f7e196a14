"""Results of a sweep as rows, as parquet and as an xarray Dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from thermolearn.core.estimate import Estimate

if TYPE_CHECKING:
    import xarray

    from thermolearn.study.grid import Grid
    from thermolearn.study.store import Record

COMPACTED = "compacted-"
WHATS = ("theory", "simulation")
WITHOUT_RESULT = ("not converged", "failed")


# -- rows --------------------------------------------------------------------------------------
def frame(records: Iterable[Record], system: str) -> pd.DataFrame:
    """One row per task, observable and array element.

    Columns: task, system, the parameters, what, seed (missing for theory), observable, index (in C
    order; missing for scalars), shape (as "3x4"; empty for scalars), value, stderr, n_eff, status,
    note, seconds. A task without a result has one row without an observable.
    """
    heads: list[dict[str, Any]] = []
    values: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    nothing: dict[str | None, Estimate] = {None: Estimate(np.nan, np.nan)}
    for record in records:
        for name, e in (record.observables or nothing).items():
            shape = np.shape(e.value)
            values.append(np.ravel(e.value))
            errors.append(np.broadcast_to(e.stderr, shape).ravel())
            heads.append(
                {
                    "task": record.key,
                    "system": system,
                    **record.params,
                    "what": record.what,
                    "seed": record.seed,
                    "observable": name,
                    "shape": "x".join(map(str, shape)),
                    "n_eff": np.nan if e.n_eff is None else e.n_eff,
                    "status": e.status if record.status == "ok" else record.status,
                    "note": e.note or record.note,
                    "seconds": record.seconds,
                }
            )
    if not heads:
        return pd.DataFrame()
    counts = [len(v) for v in values]
    rows = pd.DataFrame(heads).iloc[np.repeat(np.arange(len(heads)), counts)]
    rows = rows.reset_index(drop=True)
    index = np.concatenate([np.arange(n) for n in counts])
    scalar = (rows["shape"] == "").to_numpy()
    rows.insert(rows.columns.get_loc("shape"), "index", pd.array(index, dtype="Int64"))  # type: ignore[arg-type]
    rows.loc[scalar, "index"] = pd.NA
    after = int(rows.columns.get_loc("shape")) + 1  # type: ignore[arg-type]
    rows.insert(after, "value", np.concatenate(values))
    rows.insert(after + 1, "stderr", np.concatenate(errors))
    rows["seed"] = rows["seed"].astype("Int64")
    for name in ("task", "system", "what", "observable", "shape", "status", "note"):
        rows[name] = rows[name].astype("str" if name != "observable" else "string")
    return rows


def join(first: pd.DataFrame | None, second: pd.DataFrame) -> pd.DataFrame:
    """Both; a task in both is taken from the first."""
    if first is None or first.empty:
        return second
    new = select(second, ~second["task"].isin(first["task"])) if len(second) else second
    return pd.concat([first, new], ignore_index=True) if len(new) else first


def select(rows: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows where the mask holds."""
    chosen: Any = rows[mask]
    return chosen


def keys(rows: pd.DataFrame | None) -> set[str]:
    """The tasks in the rows."""
    return set() if rows is None or rows.empty else set(rows["task"])


def of_grid(rows: pd.DataFrame, order: Mapping[str, int], params: pd.DataFrame) -> pd.DataFrame:
    """The rows of a grid's tasks in the grid's order, failures with a row for each observable.

    Parameters
    ----------
    rows : DataFrame
        As made by `frame`.
    order : mapping of task -> position
    params : DataFrame
        The parameters of every task by position, in their own types (parquet has no tuples).
    """
    if rows.empty:
        return rows
    rows = select(rows, rows["task"].isin(list(order)))
    known = rows["observable"].dropna().unique()
    if len(known):
        bad = rows["observable"].isna()
        names = pd.DataFrame({"observable": pd.array(known, dtype="string")})
        filled = select(rows, bad).drop(columns="observable").merge(names, how="cross")
        rows = pd.concat([select(rows, ~bad), select(filled, list(rows.columns))])
    position = np.array([order[task] for task in rows["task"]], dtype=int)
    ranks = np.argsort(position, kind="stable")
    rows = rows.iloc[ranks].reset_index(drop=True)
    for name in params.columns:
        rows[name] = params[name].to_numpy()[position[ranks]]
    return rows


def statuses(rows: pd.DataFrame) -> dict[str, str]:
    """One word per task: that of a task without a result, else its statuses other than ok."""
    if rows.empty:
        return {}
    out = dict.fromkeys(rows["task"], "ok")
    flagged = select(rows, rows["status"] != "ok")
    for task, group in flagged.drop_duplicates(["task", "status"]).groupby("task"):
        out[str(task)] = " and ".join(sorted(set(group["status"])))
    lost = select(flagged, flagged["status"].isin(WITHOUT_RESULT) & flagged["value"].isna())
    lost = lost.drop_duplicates("task")
    return {**out, **dict(zip(lost["task"], lost["status"], strict=True))}


# -- parquet -----------------------------------------------------------------------------------
def compacted_files(folder: Path) -> list[Path]:
    """The compacted files of a store: one, or more after a merge or a crash."""
    return sorted(folder.glob(f"{COMPACTED}*.parquet"))


def read_compacted(folder: Path, damaged: Callable[[Path], object]) -> pd.DataFrame | None:
    """All rows of the compacted files but the damaged, which are reported; None without any."""
    for attempt in range(20):
        rows: pd.DataFrame | None = None
        try:
            for path in compacted_files(folder):
                part = _read_rows(path)
                if part is None:
                    damaged(path)
                else:
                    rows = join(rows, part)
        except FileNotFoundError:  # another process has just compacted: list again
            if attempt == 19:
                raise
            continue
        return rows
    return None


def _read_rows(path: Path) -> pd.DataFrame | None:
    """The rows of a compacted file; None if it is damaged."""
    import pyarrow as pa

    try:
        rows = pd.read_parquet(path, engine="pyarrow", page_checksum_verification=True)
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is not None:  # the file cannot be reached, which says nothing about it
            raise
        return None
    except (pa.ArrowException, ValueError):
        return None
    return rows if {"task", "observable", "value"} <= set(rows.columns) else None


def write_parquet(rows: pd.DataFrame, path: Path, about: Mapping[str, Any]) -> None:
    """Rows with `about` as JSON under the key ``thermolearn`` of the file's metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    made = pa.Table.from_pandas(rows, preserve_index=False)
    metadata = {**(made.schema.metadata or {}), b"thermolearn": json.dumps(about).encode()}
    made = made.replace_schema_metadata(metadata)
    parquet.write_table(made, path, write_page_checksum=True)


# -- xarray ------------------------------------------------------------------------------------
def to_xarray(
    grid: Grid, rows: pd.DataFrame, places: Mapping[str, tuple[int, int]], about: Mapping[str, Any]
) -> xarray.Dataset:
    """The rows on the grid; see `SweepResult.to_xarray`.

    Parameters
    ----------
    places : mapping of task -> (number of the cell, number of the seed)
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            "to_xarray needs xarray: pip install 'thermolearn[xarray]'; .rows needs nothing more"
        ) from error
    n_seeds = len(grid.seed_range)
    swept = list(grid.dims)
    axes, sizes = _axes(grid, rows)
    out: dict[str, Any] = {}
    for what, suffix in (("simulation", ""), ("theory", "_theory")):
        if what == "simulation" and not n_seeds:
            continue
        seeds = (n_seeds,) if what == "simulation" else ()
        dims = [*swept, *(["seed"] if seeds else [])]
        part = select(rows, rows["what"] == what) if len(rows) else rows
        status = np.full((len(grid.cells), *seeds), "missing", dtype=object)
        for task, word in _status(part).items():
            status[places[task] if seeds else places[task][:1]] = word
        out[f"status{suffix}"] = (dims, status.reshape(*grid.shape, *seeds))
        for name, names in axes.items():
            inner = tuple(sizes[axis] for axis in names)
            mine = select(part, (part["observable"] == name) & part["value"].notna())
            at = _positions(mine, places, bool(seeds))
            for column, ending in (("value", ""), ("stderr", "_stderr")):
                array = np.full((len(grid.cells), *seeds, *inner), np.nan)
                if len(mine):
                    array[at] = mine[column].to_numpy()
                array = array.reshape(*grid.shape, *seeds, *inner)
                out[f"{name}{suffix}{ending}"] = ([*dims, *names], array)
    coords: dict[str, Any] = {
        name: (dim, [v if np.isscalar(v) else str(v) for v in values])
        for dim, columns in grid.dims.items()
        for name, values in columns.items()
    }
    if n_seeds:
        coords["seed"] = ("seed", list(grid.seed_range))
    told = {k: v if isinstance(v, str | int) else json.dumps(v) for k, v in about.items()}
    return xarray.Dataset(out, coords, told)


def _axes(grid: Grid, rows: pd.DataFrame) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Names of the axes of every observable, and the largest length of every axis."""
    axes: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    if rows.empty:
        return axes, sizes
    named = grid.module.ABOUT.get("axes", {})
    seen = rows.dropna(subset=["observable"])
    observables = set(seen["observable"])
    seen = select(seen, seen["value"].notna() | (seen["shape"] != ""))
    for name, shape in dict.fromkeys(zip(seen["observable"], seen["shape"], strict=True)):
        lengths = _shape(shape)
        given = named.get(name, [])
        given = [given] if isinstance(given, str) else list(given)
        if len(given) != len(lengths):
            given = [f"{name}_axis{k}" for k in range(len(lengths))]
        # a dimension cannot share its name with a variable that has other dimensions too
        given = [f"{axis}_index" if axis in observables else axis for axis in given]
        if axes.setdefault(name, given) != given:
            raise ValueError(f"{name} is a scalar in some cells and an array in others; use .rows")
        for axis, length in zip(given, lengths, strict=True):
            sizes[axis] = max(sizes.get(axis, 0), length)
    for name in observables - set(axes):  # NaN everywhere
        axes[name] = []
    return axes, sizes


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x"))) if text else ()


def _positions(
    rows: pd.DataFrame, places: Mapping[str, tuple[int, int]], seeds: bool
) -> tuple[np.ndarray, ...]:
    """Index arrays of the rows: cell, seed, array axes."""
    place = np.array([places[task] for task in rows["task"]], dtype=int).reshape(-1, 2)
    ndim = max((len(_shape(text)) for text in rows["shape"].unique()), default=0)
    inner = np.zeros((ndim, len(rows)), dtype=int)
    for text in rows["shape"].unique() if ndim else ():
        chosen = (rows["shape"] == text).to_numpy()
        index = rows["index"].to_numpy()[chosen].astype(int)
        inner[:, chosen] = np.unravel_index(index, _shape(text))
    return (*place.T[: 2 if seeds else 1], *inner)


def _status(rows: pd.DataFrame) -> dict[str, str]:
    """One word per task: of the task, or of those of its observables that are not ok."""
    if rows.empty:
        return {}
    out = dict.fromkeys(rows["task"], "ok")
    bad = select(rows, rows["status"] != "ok").drop_duplicates(["task", "observable"])
    for task, group in bad.groupby("task"):
        words = sorted(set(group["status"]))
        whole = len(words) == 1 and words[0] in ("not converged", "failed")
        named = [f"{n}: {s}" for n, s in zip(group["observable"], group["status"], strict=True)]
        out[str(task)] = words[0] if whole else "; ".join(named)
    return out
