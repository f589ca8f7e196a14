"""The building blocks of a section: value lists, tables, figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from thermolearn.core.estimate import Estimate
from thermolearn.report.axes import UNBOUNDED
from thermolearn.report.glossary import lookup
from thermolearn.report.numbers import count, plain, with_error
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run, Series, as_list, number

RESTATING = ("canonical", "laws")  # whose values may restate the loss
MAX_ROWS, MAX_ITEMS, MAX_TEXT, MAX_NOTES = 40, 80, 300, 20


@dataclass(frozen=True)
class Item:
    """One number with everything that is shown on demand."""

    label: str
    symbol: Markup
    cells: list[str]
    unit: str
    meaning: str
    formula: Markup
    source: str
    restates: str = ""
    status: str = ""
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Items under common column heads."""

    title: str
    columns: list[str]
    items: list[Item]


@dataclass(frozen=True)
class Table:
    """Plain cells; the first column names the row. `rest` rows are not shown."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    rest: int = 0


@dataclass(frozen=True)
class Figure:
    """A plot with its caption; `narrow` is the same plot laid out for a phone."""

    svg: Markup
    caption: str
    narrow: Markup | None = None


@dataclass(frozen=True)
class Section:
    """One closed part of the page."""

    key: str
    title: str
    lead: str
    statements: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.groups or self.figures or self.tables or self.notes)


def clip(text: str, most: int = MAX_TEXT) -> str:
    """Text from outside, cut to a length that cannot flood the page."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def cell(e: Estimate | None) -> str:
    """A scalar with its error; an array as its range."""
    if e is None:
        return plain(np.nan)
    if np.ndim(e.value) == 0:
        return with_error(float(e.value), float(e.stderr))
    finite = np.asarray(e.value)[np.isfinite(e.value)]
    if not finite.size:
        return plain(np.nan)
    return (
        f"{plain(float(finite.min()))} \u2026 {plain(float(finite.max()))} ({count(finite.size)})"
    )


def item(run: Run, quantity: str, name: str, found: Sequence[Estimate | None]) -> Item:
    """The row of one value; `found` has one Estimate per column."""
    term = lookup(name, quantity)
    known = [e for e in found if e is not None]
    status = next((e.status for e in reversed(known) if e.status != "ok"), "")
    return Item(
        label=clip(term.label, 80),
        symbol=Markup(term.symbol),
        cells=[cell(e) for e in found],
        unit=term.unit,
        meaning=term.meaning,
        formula=Markup(term.formula),
        source=term.source,
        # the comparison with the loss is made for the ensemble; others use the same names
        restates=run.restates.get(name, "") if quantity in RESTATING else "",
        status=clip(status, 60),
        note=clip(next((e.note for e in reversed(known) if e.note), "")),
    )


def first_and_last(
    run: Run, quantity: str, names: Iterable[str] | None = None, title: str = ""
) -> Group | None:
    """First and last snapshot of the scalars of a quantity; None if none is there."""
    snapshots = run.snapshots.get(quantity, [])
    if not snapshots:
        return None
    recorded = list(dict.fromkeys(n for s in snapshots for n in s.values))
    wanted = recorded if names is None else [n for n in names if n in recorded]
    ends = [snapshots[0], snapshots[-1]] if len(snapshots) > 1 else snapshots
    items = [
        item(run, quantity, name, [s.values.get(name) for s in ends]) for name in wanted[:MAX_ITEMS]
    ]
    columns = [f"step {count(s.step)}" for s in ends]
    return Group(title, columns, items) if items else None


def summary_groups(run: Run, quantity: str, title: str = "") -> list[Group]:
    """The scalars of a summary: pairs ``x_first``, ``x_last`` side by side, then the others."""
    summary = run.summaries.get(quantity)
    values = {n: e for n, e in summary.values.items() if not np.ndim(e.value)} if summary else {}
    ends = ("_first", "_last")
    bases = dict.fromkeys(n.removesuffix(e) for n in values for e in ends if n.endswith(e))
    pairs = [
        item(run, quantity, base, [values.get(base + end) for end in ends])
        for base in list(bases)[:MAX_ITEMS]
    ]
    single = [n for n in values if not n.endswith(ends)][:MAX_ITEMS]
    groups = [Group(title, ["first snapshot", "last snapshot"], pairs)] if pairs else []
    if single:
        rows = [item(run, quantity, n, [values[n]]) for n in single]
        groups.append(Group("" if pairs else title, ["value"], rows))
    return groups


def column(run: Run, quantity: str, name: str) -> np.ndarray:
    """A column of the summary's table of the same name as numbers, NaN where there is none."""
    summary = run.summaries.get(quantity)
    table = summary.tables.get(quantity, {}) if summary else {}
    heads, rows = as_list(table.get("columns")), as_list(table.get("rows"))
    if name not in heads:
        return np.full(len(rows), np.nan)
    k = heads.index(name)
    cells = [as_list(r)[k] if len(as_list(r)) > k else None for r in rows]
    return np.array([number(c) for c in cells])


def summary_tables(run: Run, quantity: str) -> list[Table]:
    """The tables that a summary carries, cells as text."""
    summary = run.summaries.get(quantity)
    tables = []
    for name, raw in list(summary.tables.items())[:8] if summary else []:
        rows = [as_list(r)[:12] for r in as_list(raw.get("rows"))]
        heads = [clip(str(c), 40) for c in as_list(raw.get("columns"))[:12]]
        bars = [k for k, head in enumerate(heads) if k and head.split()[-1:] == ["stderr"]]
        kept = [_cells(r, bars) for r in rows[:MAX_ROWS]]
        heads = [head for k, head in enumerate(heads) if k not in bars]
        if kept:
            title = clip(name.replace("_", " ").capitalize(), 80)
            tables.append(Table(title, heads, kept, len(rows) - len(kept)))
    return tables


def _cells(row: list[Any], bars: list[int]) -> list[str]:
    """Cells as text; a column of error bars is put behind the number before it."""
    shown = []
    for k, cell in enumerate(row):
        if k in bars:
            continue
        value = number(cell)
        if k + 1 in bars and k + 1 < len(row) and not np.isnan(value):
            shown.append(with_error(value, number(row[k + 1])))
        else:
            shown.append(_any_cell(cell))
    return shown


def _any_cell(x: Any) -> str:
    value = number(x)
    if value == value:
        return plain(value)
    return plain(np.nan) if x is None or isinstance(x, float) else clip(str(x), 80)


def notes_of(run: Run, *quantities: str) -> list[str]:
    """The notes of summaries, as they were recorded."""
    found = [n for q in quantities if q in run.summaries for n in run.summaries[q].notes]
    return [clip(n, 600) for n in found[:MAX_NOTES]]


def label_of(name: str, quantity: str = "") -> str:
    """Label of a value with its unit."""
    term = lookup(name, quantity)
    return f"{clip(term.label, 40)} ({term.unit})" if term.unit else clip(term.label, 40)


def history(
    run: Run,
    key: str,
    caption: str,
    names: Sequence[tuple[str, str, str]],
    *,
    y_label: str,
    y_log: bool = False,
    y_bounds: tuple[float, float] = UNBOUNDED,
    rule: tuple[float, str] | None = None,
) -> Figure | None:
    """Scalars along the run. `names` are (quantity, name, legend); None if nothing is there."""
    traces = []
    for color, (quantity, name, legend) in enumerate(names, 1):
        series = run.series(quantity, name)
        if len(series.finite()):
            traces.append(series_trace(series, legend, color))
    if not traces:
        return None
    if y_log and not all((np.asarray(t.y)[np.isfinite(t.y)] > 0).all() for t in traces):
        y_log = False
    if rule is not None:
        traces.append(Trace([], [rule[0]], rule[1], kind="rule", color=4))
    svg = plot(
        traces,
        key=key,
        title=caption,
        x_label="optimizer step",
        y_label=y_label,
        y_log=y_log,
        y_bounds=y_bounds,
    )
    return Figure(svg, caption) if svg is not None else None


def series_trace(series: Series, legend: str, color: int) -> Trace:
    """Points with bars while they are few, a line with a band of one standard error beyond."""
    kind = "points" if len(series) <= 40 else "line"
    return Trace(series.step, series.value, legend, kind, series.stderr, color=color, joined=True)


def present(*blocks: Any) -> list[Any]:
    """The blocks that are not None."""
    return [b for b in blocks if b is not None]
