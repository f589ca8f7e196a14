"""run.jsonl (schema 1) to rows, and rows to the one view of a run that the report draws from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thermolearn.core.errors import DataError
from thermolearn.core.estimate import Estimate

SCHEMA = 1
RESTATES = 0.99  # share of the variance explained by the loss above which a quantity is marked


# -- the file ----------------------------------------------------------------------------------
def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run.jsonl, one dict per line.

    A broken line (a run that was killed while writing) and an empty file are survived: a row
    ``{"kind": "flag", ...}`` says what was lost. Rows of an unknown kind are kept.

    Raises
    ------
    DataError
        No such file, not JSON lines of this library, or another schema. The message says what to
        do.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the run.jsonl that Probe wrote") from None
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: not a text file; give the run.jsonl that Probe wrote, not the weights"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    lines = [(k, line) for k, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return [_flag("the file is empty: the run ended before anything was recorded")]
    rows, broken = _parse(lines)
    if not rows and not lines[0][1].lstrip().startswith('{"kind"'):
        raise DataError(
            f"{path}: not a run.jsonl (no line is a JSON object with a 'kind'); "
            "give the file that Probe(log=...) or `thermolearn measure --json` wrote"
        )
    check_schema(rows, str(path))
    last = lines[-1][0]
    for k in broken:
        what = "the last line is cut off" if k == last else f"line {k} cannot be read"
        rows.append(_flag(f"{what}; it is ignored, everything else is shown"))
    return rows


def _parse(lines: Iterable[tuple[int, str]]) -> tuple[list[dict[str, Any]], list[int]]:
    rows: list[dict[str, Any]] = []
    broken: list[int] = []
    for k, line in lines:
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("kind"), str):
            rows.append(row)
        else:
            broken.append(k)
    return rows, broken


def check_schema(rows: Iterable[dict[str, Any]], source: str = "rows") -> None:
    """Raise DataError if a header names another schema than the one this version reads."""
    for row in rows:
        if row.get("kind") == "header" and row.get("schema") != SCHEMA:
            raise DataError(
                f"{source}: schema {row.get('schema')!r}, this version reads schema {SCHEMA}; use "
                f"the thermolearn that wrote it (library {row.get('library', 'unknown')!r}) or "
                "record the run again"
            )


def _flag(text: str) -> dict[str, Any]:
    return {"kind": "flag", "step": None, "text": text}


# -- the view ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Snapshot:
    """The values of one quantity at one step; `names` are the layers behind array values."""

    step: int
    values: dict[str, Estimate]
    names: list[str]


@dataclass(frozen=True)
class Series:
    """A scalar along the run: steps, values and error bars of equal length (NaN = missing)."""

    step: np.ndarray
    value: np.ndarray
    stderr: np.ndarray

    def __len__(self) -> int:
        return len(self.step)

    def finite(self) -> Series:
        """Without the steps where the value is missing."""
        keep = np.isfinite(self.value)
        return Series(self.step[keep], self.value[keep], self.stderr[keep])


@dataclass(frozen=True)
class Summary:
    """What a quantity says once, at the end of the run."""

    values: dict[str, Estimate]
    tables: dict[str, dict[str, Any]]
    notes: list[str]
    names: list[str]


@dataclass(frozen=True)
class Run:
    """Everything recorded of one run; `missing` says in words what is not there."""

    header: dict[str, Any] = field(default_factory=dict)
    losses: Series = field(default_factory=lambda: _series([]))
    samples: float = math.nan
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    not_applicable: list[tuple[str, str]] = field(default_factory=list)
    flags: list[tuple[int | None, str]] = field(default_factory=list)
    cost: dict[str, Any] | None = None
    unchanged: dict[str, Any] | None = None
    restates: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> float:
        """The last step that was trained or measured; NaN if there is none."""
        steps = [s[-1].step for s in self.snapshots.values() if s]
        steps += [self.losses.step[-1]] if len(self.losses) else []
        return float(max(steps)) if steps else math.nan

    @property
    def measured_step(self) -> float:
        """The last step that was measured; NaN if there is none."""
        steps = [s[-1].step for s in self.snapshots.values() if s]
        return float(max(steps)) if steps else math.nan

    def series(self, quantity: str, name: str) -> Series:
        """One scalar along the run (empty if it was not measured)."""
        found = []
        for snapshot in self.snapshots.get(quantity, []):
            e = snapshot.values.get(name)
            if e is not None and np.ndim(e.value) == 0:
                found.append((snapshot.step, float(e.value), float(e.stderr)))
        return _series(found)

    def last(self, quantity: str, name: str) -> Estimate | None:
        """The latest finite value, scalar or array."""
        for snapshot in reversed(self.snapshots.get(quantity, [])):
            e = snapshot.values.get(name)
            if e is not None and np.any(np.isfinite(e.value)):
                return e
        return None

    def scalar(self, quantity: str, name: str) -> Estimate | None:
        """The latest finite value if it is a single number."""
        e = self.last(quantity, name)
        return e if e is not None and np.ndim(e.value) == 0 else None

    def summary_value(self, quantity: str, name: str) -> Estimate | None:
        """A finite value of a summary, or None."""
        summary = self.summaries.get(quantity)
        e = summary.values.get(name) if summary else None
        return e if e is not None and np.any(np.isfinite(e.value)) else None


def _series(found: list[tuple[float, float, float]]) -> Series:
    table = np.array(sorted(found), dtype=np.float64).reshape(-1, 3)
    return Series(table[:, 0], table[:, 1], table[:, 2])


def number(x: Any) -> float:
    """A finite float, or NaN for anything that is not one."""
    if isinstance(x, bool) or not isinstance(x, (int, float, np.floating, np.integer)):
        return math.nan
    try:
        value = float(x)
    except OverflowError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def as_estimate(obj: Any) -> Estimate:
    """An Estimate from its dict or from a bare number or list; what cannot be read is NaN."""
    if not isinstance(obj, dict):
        obj = {"value": obj}
    text = {k: str(obj[k]) for k in ("status", "note") if obj.get(k)}
    n_eff = number(obj.get("n_eff"))
    for stderr in (obj.get("stderr", math.nan), math.nan):  # an unreadable bar is an unknown one
        try:
            e = Estimate.from_dict({"value": obj.get("value"), "stderr": stderr})
        except (ValueError, TypeError, OverflowError):
            continue
        value = np.where(np.isfinite(e.value), e.value, np.nan)
        bar = np.where(np.isfinite(e.stderr), e.stderr, np.nan)
        return Estimate(value, bar, None if math.isnan(n_eff) else n_eff, **text)
    return Estimate(math.nan, math.nan, status="unreadable")


def as_dict(x: Any) -> dict[str, Any]:
    """x if it is a dict, else an empty one."""
    return x if isinstance(x, dict) else {}


def as_list(x: Any) -> list[Any]:
    """x if it is a list or tuple, else an empty list."""
    return list(x) if isinstance(x, (list, tuple)) else []


def view(rows: Iterable[dict[str, Any]]) -> Run:
    """Rows, in any state of completeness, as a Run.

    The first header counts; of rows for the same step and quantity, the last one (a resumed run
    repeats some steps).
    """
    rows = [row for row in rows if isinstance(row, dict)]
    check_schema(rows)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(str(row.get("kind")), []).append(row)
    headers = kinds.get("header", [])
    losses, samples = _losses(kinds.get("losses", []))
    flags = [
        (None if math.isnan(number(r.get("step"))) else int(number(r["step"])), str(r.get("text")))
        for r in kinds.get("flag", [])
    ]
    if len(headers) > 1:
        flags.append((None, f"{len(headers)} header rows (a resumed run?): the first one counts"))
    summaries = _summaries(kinds.get("summary", []))
    snapshots = _snapshots(kinds.get("snapshot", []))
    last = {name: (kinds.get(name) or [None])[-1] for name in ("cost", "unchanged")}
    reasons = {
        str(r.get("quantity")): str(r.get("reason")) for r in kinds.get("not_applicable", [])
    }
    return Run(
        header=headers[0] if headers else {},
        losses=losses,
        samples=samples,
        snapshots=snapshots,
        summaries=summaries,
        not_applicable=list(reasons.items()),
        flags=flags,
        cost=last["cost"],
        unchanged=last["unchanged"],
        restates=_restates(summaries.get("restates")),
        missing=_missing(headers, losses, snapshots, last["cost"]),
    )


def _losses(rows: list[dict[str, Any]]) -> tuple[Series, float]:
    value: dict[int, float] = {}
    samples: dict[int, float] = {}
    for row in rows:
        steps, values = as_list(row.get("step")), as_list(row.get("value"))
        sizes = as_list(row.get("samples"))
        for k, (step, loss) in enumerate(zip(steps, values, strict=False)):
            if math.isnan(number(step)):
                continue
            value[int(step)] = number(loss)
            samples[int(step)] = number(sizes[k]) if k < len(sizes) else math.nan
    total = float(np.sum(list(samples.values()))) if samples else math.nan
    return _series([(s, v, math.nan) for s, v in value.items()]), total


def _snapshots(rows: list[dict[str, Any]]) -> dict[str, list[Snapshot]]:
    found: dict[str, dict[int, Snapshot]] = {}
    for row in rows:
        step = number(row.get("step"))
        if math.isnan(step):
            continue
        values = {str(k): as_estimate(v) for k, v in as_dict(row.get("values")).items()}
        names = [str(n) for n in as_list(row.get("names"))]
        quantity = found.setdefault(str(row.get("quantity")), {})
        quantity[int(step)] = Snapshot(int(step), values, names)
    return {q: [by_step[s] for s in sorted(by_step)] for q, by_step in found.items()}


def _summaries(rows: list[dict[str, Any]]) -> dict[str, Summary]:
    return {
        str(row.get("quantity")): Summary(
            {str(k): as_estimate(v) for k, v in as_dict(row.get("values")).items()},
            {str(k): as_dict(t) for k, t in as_dict(row.get("tables")).items()},
            [str(n) for n in as_list(row.get("notes"))],
            [str(n) for n in as_list(row.get("names"))],
        )
        for row in rows
    }


def _restates(summary: Summary | None) -> dict[str, str]:
    """Name -> how well the loss explains it, for r2 > 0.99; rows of the table are name, r2 and
    what it was compared with (the loss or its logarithm)."""
    tables = summary.tables.values() if summary else []
    found = {}
    for cells in (as_list(row) for table in tables for row in as_list(table.get("rows"))):
        if len(cells) >= 2 and number(cells[1]) > RESTATES:
            against = str(cells[2])[:40] if len(cells) > 2 else "the loss"
            found[str(cells[0])] = f"r\u00b2 {_r2(number(cells[1]))} against {against}"
    return found


def _r2(r2: float) -> str:
    return "> 0.9999" if r2 > 0.9999 else f"= {math.floor(r2 * 1e4) / 1e4:.4f}"


def _missing(headers: list, losses: Series, snapshots: dict, cost: Any) -> list[str]:
    missing = []
    if not headers:
        missing.append("the header (model, data, optimizer and conventions are unknown)")
    if not len(losses):
        missing.append("the minibatch losses")
    if not snapshots:
        missing.append("the snapshots (nothing was measured)")
    if cost is None:
        missing.append("the cost of measuring (the run did not reach its end)")
    return missing
