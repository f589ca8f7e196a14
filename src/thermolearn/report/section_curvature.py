"""The section on the curvature of the loss."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.report.blocks import (
    Figure,
    Section,
    Table,
    clip,
    first_and_last,
    history,
    notes_of,
    present,
    summary_groups,
    summary_tables,
)
from thermolearn.report.numbers import count, plain, with_error
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run, as_list, number

Q = "curvature"
SHOWN = ("sharpness", "stability_edge", "hessian_trace", "lambda_min")


def curvature(run: Run) -> Section:
    """Sharpness, trace, spectral density, loss slices."""
    sharp = [(Q, "sharpness", "sharpness"), (Q, "stability_edge", "stability edge")]
    tables = [t for t in summary_tables(run, Q) if t.title not in ("Density", "Loss slice")]
    return Section(
        "curvature",
        "Curvature of the loss",
        "How steep the training loss is around the parameters: its largest curvature beside what "
        "the learning rate can follow, the sum of all curvatures, and their distribution.",
        groups=[*present(first_and_last(run, Q, SHOWN)), *summary_groups(run, Q)],
        figures=present(
            history(
                run,
                "curvature-sharpness",
                "Sharpness and stability edge",
                sharp,
                y_label="loss",
                y_log=True,
            ),
            history(
                run,
                "hessian-trace",
                "Trace of the Hessian",
                [(Q, "hessian_trace", "")],
                y_label="tr H (loss)",
                y_log=True,
            ),
            _density(run),
            _slice(run),
        ),
        tables=[*present(_layers(run)), *tables],
        notes=notes_of(run, Q),
    )


def _density(run: Run) -> Figure | None:
    """Spectral density at the first and the last snapshot."""
    x = _column(run, "density", "eigenvalue")
    traces = []
    for color, when in enumerate(("first", "last"), 1):
        y, bar = (_column(run, "density", c) for c in (when, f"{when} stderr"))
        good = np.isfinite(y) & (y > 1e-6 * np.nanmax(y)) if np.isfinite(y).any() else y > 0
        if len(y) == len(x) == len(bar) and good.any():
            traces.append(
                Trace(x[good], y[good], f"{when} snapshot", "line", bar[good], color=color)
            )
    caption = "Spectral density of the Hessian"
    svg = plot(
        traces,
        key="hessian-density",
        title=caption,
        x_label="eigenvalue",
        y_label="density",
        y_log=True,
    )
    return Figure(svg, caption) if svg is not None else None


def _slice(run: Run) -> Figure | None:
    """Loss along two filter-normalized directions."""
    x = _column(run, "loss_slice", "step")
    traces = []
    for color, name in enumerate(("direction 1", "direction 2"), 1):
        y = _column(run, "loss_slice", name)
        if len(y) == len(x) and np.isfinite(y).any():
            traces.append(Trace(x, y, name, "line", color=color))
    caption = "Loss along random filter-normalized directions, last snapshot"
    svg = plot(
        traces,
        key="loss-slice",
        title=caption,
        x_label="step, in units of each filter's norm",
        y_label="loss",
    )
    return Figure(svg, caption) if svg is not None else None


def _column(run: Run, table: str, name: str) -> np.ndarray:
    """A column of a recorded table as numbers."""
    summary = run.summaries.get(Q)
    found = summary.tables.get(table, {}) if summary else {}
    heads, rows = as_list(found.get("columns")), as_list(found.get("rows"))
    if name not in heads:
        return np.full(len(rows), np.nan)
    k = heads.index(name)
    cells = [as_list(r)[k] if len(as_list(r)) > k else None for r in rows]
    return np.array([number(c) for c in cells])


def _layers(run: Run) -> Table | None:
    """Trace per layer at the first and the last snapshot."""
    snapshots = run.snapshots.get(Q, [])
    ends = [snapshots[0], snapshots[-1]] if len(snapshots) > 1 else snapshots
    ends = [s for s in ends if np.ndim(s.values.get("layer_trace", Estimate(0.0)).value) == 1]
    if not ends:
        return None
    names = ends[-1].names
    n = min(60, max(np.size(s.values["layer_trace"].value) for s in ends))
    rows = []
    for k in range(n):
        cells = []
        for s in ends:
            e = s.values["layer_trace"]
            value = np.ravel(e.value)
            bar = np.broadcast_to(np.asarray(e.stderr), value.shape)
            known = k < value.size
            cells.append(with_error(float(value[k]), float(bar[k])) if known else plain(np.nan))
        rows.append([clip(names[k] if k < len(names) else f"layer {k + 1}", 60), *cells])
    heads = ["layer", *(f"step {count(s.step)}" for s in ends)]
    return Table("Trace of the Hessian per layer", heads, rows)
