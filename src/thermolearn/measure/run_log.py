"""The rows of a run, in memory and in run.jsonl."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from thermolearn.core.estimate import Estimate, format_with_error
from thermolearn.measure.sinks.fanout import Fanout, Sink

REPLACED = {"cost", "unchanged", "summary", "not_applicable"}  # only the newest of these counts
APPLIES = {"snapshot", "summary"}  # a quantity that has one of these does apply


def check_writable(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Raise at once if a file cannot be written there; an existing file is left as it is.

    Raises
    ------
    OSError
        The folder does not exist, is not writable, or the path is a folder. The message says what
        to change.
    """
    path = Path(path)
    existed = path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise type(error)(
            error.errno,
            f"{name}: {path} cannot be written ({error.strerror}); choose a file in an existing "
            "folder that you may write to",
        ) from error
    if not existed:
        path.unlink()
    return path


class RunLog:
    """Appends rows as they are finished; the file always holds whole lines.

    The file starts anew with the first row, so that a finished run is not overwritten by a Probe
    that is only constructed. If writing fails later, the rows are kept in memory, a warning says
    so once, and nothing is raised into a training loop. Each finished row also goes to the sinks.
    """

    def __init__(self, path: str | os.PathLike[str] | None, sinks: Sequence[Sink] = ()):
        self.rows: list[dict[str, Any]] = []
        self.path = None if path is None else check_writable(path, "log")
        self.sinks = Fanout(sinks)
        self._started = False

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; a cost, unchanged, summary or not_applicable row takes the place of the one
        before it, and of a quantity that does not apply, or does again, only the newer word stays.
        """
        row = json.loads(json.dumps(finite(row), allow_nan=False))
        kind = row["kind"]
        if kind == "not_applicable" and row in self.rows:
            return
        gone = {kind} & REPLACED
        gone |= {"not_applicable"} if kind in APPLIES else set()
        gone |= {"summary"} if kind == "not_applicable" else set()
        quantity = row.get("quantity")
        old = [r for r in self.rows if r["kind"] in gone and r.get("quantity") == quantity]
        if old:
            self.rows = [r for r in self.rows if r not in old]
        self.rows.append(row)
        self._write(row, anew=bool(old) or not self._started)
        self.sinks.write(row)

    def _write(self, row: dict[str, Any], anew: bool) -> None:
        """Append one row to the file, or write all of them anew."""
        if self.path is None:
            return
        try:
            if anew:
                write_rows(self.path, self.rows)
                self._started = True
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        except OSError as error:
            warnings.warn(
                f"{self.path} can no longer be written ({error.strerror}); the rows are kept in "
                "memory, use probe.save() on another path",
                RuntimeWarning,
                stacklevel=2,
            )
            self.path = None

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Continue from these rows; what the file holds beyond them is measured again."""
        self.rows = rows
        self.sinks.restore(rows)
        if self.path is not None and rows:
            write_rows(self.path, rows)
            self._started = True


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write all rows, by a rename if the path is an ordinary file, so that no half is ever seen."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    if path.exists() and not path.is_file():  # a pipe or device
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def finite(item: Any) -> Any:
    """Estimates become dicts, non-finite numbers None, at any depth."""
    if isinstance(item, Estimate):
        return item.to_dict()
    if isinstance(item, dict):
        return {str(k): finite(v) for k, v in item.items()}
    if isinstance(item, list | tuple):
        return [finite(v) for v in item]
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return item


def table(rows: list[dict[str, Any]]) -> str:
    """First and last value of every scalar quantity, the last one per layer, and the costs."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    last: dict[tuple[str, str], dict[str, Any]] = {}
    layers: dict[str, Any] | None = None
    for row in rows:
        if row["kind"] != "snapshot":
            continue
        if "names" in row and row["quantity"] == "layers":
            layers = row
        for name, value in row["values"].items():
            if isinstance(value["value"], list):
                continue
            first.setdefault((row["quantity"], name), {**value, "step": row["step"]})
            last[row["quantity"], name] = {**value, "step": row["step"]}
    out = [("quantity", "", "first", "last", "")]
    for key, value in last.items():
        out.append((*key, _text(first[key]), _text(value), value.get("status", "")))
    parts = [_align(out)]
    if layers is not None:
        parts.append(_align(_layer_lines(layers)))
    for row in rows:
        if row["kind"] == "not_applicable":
            parts.append(f"not applicable: {row['quantity']}: {row['reason']}")
        elif row["kind"] == "flag":
            parts.append(f"flag, step {row['step']}: {row['text']}")
        elif row["kind"] == "cost":
            parts.append(
                f"cost: training {row['training_s']:.2f} s, in the loop {row['in_loop_s']:.3f} s, "
                f"measuring {row['deferred_s']:.2f} s, {row['snapshots']} snapshots "
                f"({row['spooled']} in files)"
            )
    return "\n".join(parts)


def _text(value: dict[str, Any]) -> str:
    e = Estimate.from_dict(value)
    return format_with_error(float(e.value), float(e.stderr))


def _layer_lines(row: dict[str, Any]) -> list[tuple[str, ...]]:
    values = {k: v for k, v in row["values"].items() if isinstance(v["value"], list)}
    lines = [("layer", *values)]
    for k, name in enumerate(row["names"]):
        cells = []
        for value in values.values():
            number = value["value"][k]
            cells.append("-" if number is None else f"{number:.3g}")
        lines.append((name, *cells))
    return lines


def _align(lines: list[tuple[str, ...]]) -> str:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
