"""The section on the curvature of the loss."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

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
    drawn = ("Density", "Loss slice", "Loss plane")
    tables = [t for t in summary_tables(run, Q) if t.title not in drawn]
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
            _plane(run),
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


def _plane(run: Run) -> Figure | None:
    """Loss on the plane of both directions as shades, the darker the larger."""
    summary = run.summaries.get(Q)
    found = summary.tables.get("loss_plane", {}) if summary else {}
    rows = [[number(c) for c in as_list(r)] for r in as_list(found.get("rows"))]
    n = len(rows)
    if not 2 <= n <= 41 or any(len(r) != n + 1 for r in rows):
        return None
    steps, loss = np.array(rows)[:, 0], np.array(rows)[:, 1:]
    known = loss[np.isfinite(loss)]
    if not known.size or not np.isfinite(steps).all():
        return None
    low, high = float(known.min()), float(known.max())
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        wide = low > 0 and high > 20 * low
        share = np.log(loss / low) / np.log(high / low) if wide else (loss - low) / (high - low)
    caption = "Loss on the plane of both directions, last snapshot"
    scale = f"lightest {plain(low)}, darkest {plain(high)}{' (logarithmic)' if wide else ''}"
    return Figure(_shades(steps, loss, share, caption, scale), caption)


def _shades(
    steps: np.ndarray, loss: np.ndarray, share: np.ndarray, title: str, scale: str
) -> Markup:
    """A square of cells; direction 1 to the right, direction 2 upward."""
    n, left, top, side = len(steps), 46.0, 34.0, 246.0
    size, bottom = side / n, top + side
    cells = []
    for a in range(n):
        for b in range(n):
            if not np.isfinite(loss[a, b]):
                continue
            shade = 0.04 + 0.92 * float(np.clip(np.nan_to_num(share[a, b]), 0, 1))
            cells.append(
                f'<rect class="s1" style="fill:var(--c);fill-opacity:{shade:.3f}" '
                f'x="{left + a * size:.1f}" y="{bottom - (b + 1) * size:.1f}" '
                f'width="{size:.1f}" height="{size:.1f}"><title>{plain(float(steps[a]))}, '
                f"{plain(float(steps[b]))}: {plain(float(loss[a, b]))}</title></rect>"
            )
    ticks = []
    for k in (0, n // 2, n - 1):
        at, label = (k + 0.5) * size, plain(float(steps[k]), 2)
        ticks.append(
            f'<text class="tick" x="{left + at:.1f}" y="{bottom + 17:.1f}" '
            f'text-anchor="middle">{label}</text>'
            f'<text class="tick" x="{left - 6:.1f}" y="{bottom - at + 4:.1f}" '
            f'text-anchor="end">{label}</text>'
        )
    names = (
        f'<text class="name" x="{left + side / 2:.1f}" y="{bottom + 35:.1f}" '
        f'text-anchor="middle">step along direction 1</text>'
        f'<text class="name" x="2" y="{top - 19:.1f}">step along direction 2</text>'
        f'<text class="name" x="2" y="{top - 5:.1f}">loss: {scale}</text>'
    )
    return Markup(
        f'<svg class="plot" role="img" viewBox="0 0 440 {bottom + 42:.0f}" '
        f'aria-labelledby="loss-plane-t loss-plane-d"><title id="loss-plane-t">{title}</title>'
        f'<desc id="loss-plane-d">Loss against the steps along two directions: {scale}.</desc>'
        f"{''.join(cells)}{''.join(ticks)}{names}</svg>"
    )


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
