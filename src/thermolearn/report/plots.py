"""SVG plots as text: lines, points with error bars, bands, steps; linear and log axes.

Colors are classes (``s1`` .. ``s4``) and ``currentColor``, so that the page's style sheet, and with
it dark mode, decides. Every text is escaped. Marks never leave the view box.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from thermolearn.report.axes import UNBOUNDED, Axis, linear_axis, log_axis
from thermolearn.report.numbers import plain, with_error

HUGE = 1e280  # larger numbers (log axis: also below 1/HUGE) overflow in an axis: left out
FONT, ROW = 12.0, 18.0
MAX_LINE, MAX_POINTS = 300, 60


@dataclass(frozen=True)
class Trace:
    """One data set of a plot.

    kind: ``line`` (with `stderr`: a band of one standard error), ``points`` (with bars), ``step``
    (y[k] holds from x[k] to x[k+1]; one x more than y), ``range`` (from y to `high`), ``rule`` (a
    dashed horizontal line at y[0]). `color` is 1..4; `joined` points have a thin line between them.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    label: str = ""
    kind: Literal["line", "points", "step", "range", "rule"] = "line"
    stderr: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None
    color: int = 1
    joined: bool = False


@dataclass(frozen=True)
class _Drawn:
    """A trace as finite arrays: center, lower and upper edge of bar or band."""

    trace: Trace
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    stderr: np.ndarray


def plot(
    traces: Sequence[Trace],
    *,
    key: str,
    title: str,
    x_label: str,
    y_label: str,
    x_log: bool = False,
    y_log: bool = False,
    y_bounds: tuple[float, float] = UNBOUNDED,
    size: tuple[int, int] = (440, 290),
) -> Markup | None:
    """The plot as an ``<svg>`` element, or None if no trace has a finite point.

    Parameters
    ----------
    traces : sequence of Trace
        Points that are not finite (on a log axis: not positive) are left out; lines break there.
    key : str
        Unique on the page; the ids of title and description are built from it.
    title, x_label, y_label : str
        Text, escaped here. Labels carry the unit.
    y_bounds : (float, float)
        What y cannot leave, such as (0, 1) for a share: bars, bands and the axis end there.
    """
    drawn = [_bounded(_clean(t, x_log, y_log), y_bounds) for t in traces]
    drawn = [d for d in drawn if np.isfinite(d.y).any()]
    points = [d for d in drawn if d.trace.kind != "rule"]
    if not points:
        return None
    width, height = size
    rows = _legend_rows([d for d in drawn if d.trace.label], width)
    top = ROW * len(rows) + ROW + 12
    x_values = np.concatenate([d.x for d in points])
    y_values = np.concatenate([v for d in drawn for v in (d.low, d.high)])
    bottom = height - 2 * ROW - 4
    y_axis = _axis(y_values, y_log, max(2, int((bottom - top) / 44)), True, y_bounds)
    left = 12 + max(_text_width(s) for s in y_axis.labels)
    right = width - 14
    x_axis = _axis(x_values, x_log, max(2, int((right - left) / 80)), False)
    frame = _Frame(left, right, top, bottom, x_axis, y_axis)
    name = re.sub(r"[^a-z0-9]+", "-", key.lower())
    body = [_grid(frame, x_label, y_label), *(_marks(d, frame) for d in points)]
    body += [_rule(d, frame) for d in drawn if d.trace.kind == "rule"]
    body.append(_legend(rows))
    return Markup(
        f'<svg class="plot" role="img" viewBox="0 0 {width} {height}" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(_describe(points, x_label, y_label))}</desc>'
        f"{''.join(body)}</svg>"
    )


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    top: float
    bottom: float
    x_axis: Axis
    y_axis: Axis

    def px(self, x: float) -> float:
        return self.left + self.x_axis.share(x) * (self.right - self.left)

    def py(self, y: float) -> float:
        return self.bottom - self.y_axis.share(y) * (self.bottom - self.top)


def _array(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).ravel()


def _drawable(values: np.ndarray, log: bool) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (np.abs(values) < HUGE) & ((values > 1 / HUGE) | (not log))


def _clean(trace: Trace, x_log: bool, y_log: bool) -> _Drawn:
    """The trace thinned, without what cannot be drawn; in a line that becomes NaN, a gap."""
    x, y = _array(trace.x), _array(trace.y)
    if trace.kind == "rule":
        y = y[:1][_drawable(y[:1], y_log)]
        return _Drawn(trace, y, y, y, y, 0 * y)
    if trace.kind == "step":
        whole = bool(_drawable(y, y_log).all() and _drawable(x, x_log).all())
        x, y = (x, y) if whole and len(x) == len(y) + 1 else (x[:0], y[:0])
        return _Drawn(trace, x, y, y, y, 0 * y)
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    bar = np.zeros(n) if trace.stderr is None else _array(trace.stderr)[:n]
    bar = np.where(_drawable(bar, False), bar, 0.0)
    top = y if trace.high is None else _array(trace.high)[:n]
    good = _drawable(x, x_log) & _drawable(y, y_log) & _drawable(top, y_log)
    if trace.kind == "line":
        pick = _thin(np.arange(n), MAX_LINE) if good.any() else np.arange(0)
    else:
        pick = _thin(np.flatnonzero(good), MAX_POINTS if trace.kind == "points" else MAX_LINE)
    x, bar = np.where(good, x, np.nan)[pick], bar[pick]
    y, top = np.where(good, y, np.nan)[pick], np.where(good, top, np.nan)[pick]
    # on a log axis a bar that reaches zero ends at a third of the smallest value
    floor = np.nanmin(y) / 3 if y_log and np.isfinite(y).any() else -np.inf
    return _Drawn(trace, x, y, np.maximum(y - bar, floor), top + bar, bar)


def _bounded(d: _Drawn, bounds: tuple[float, float]) -> _Drawn:
    """Bars and bands ended at the bounds; a value beyond them is drawn where it is."""
    return replace(
        d,
        low=np.minimum(np.maximum(d.low, bounds[0]), d.y),
        high=np.maximum(np.minimum(d.high, bounds[1]), d.y),
    )


def _thin(index: np.ndarray, most: int) -> np.ndarray:
    """About `most` of the indices at one stride, first and last among them."""
    stride = -(-len(index) // most)
    return index if stride <= 1 else np.unique(np.append(index[::stride], index[-1]))


def _axis(
    values: np.ndarray,
    log: bool,
    n: int,
    whole: bool,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Axis:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if log:
        return log_axis(low, high, n)
    if not whole and high > low:
        pad = 0.015 * (high - low)
        low, high = low - pad, high + pad
    return linear_axis(low, high, n, whole, bounds)


# -- text ---------------------------------------------------------------------------------------
def _text_width(text: str) -> float:
    """An upper bound of the width in pixels at the plot's font size."""
    return 0.6 * FONT * len(text)


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _legend_rows(drawn: list[_Drawn], width: int) -> list[list[tuple[float, float, _Drawn]]]:
    """Entries (x, baseline, trace), wrapped to the width. One single trace needs no legend."""
    if len(drawn) < 2:
        return []
    rows: list[list[tuple[float, float, _Drawn]]] = [[]]
    x = 2.0
    for d in drawn:
        need = 26 + _text_width(_short(d.trace.label)) + 12
        if rows[-1] and x + need > width:
            rows.append([])
            x = 2.0
        rows[-1].append((x, ROW * len(rows) - 5, d))
        x += need
    return rows


def _legend(rows: list[list[tuple[float, float, _Drawn]]]) -> str:
    parts = []
    for x, y, d in (entry for row in rows for entry in row):
        c, mid = f"s{d.trace.color}", y - 4
        if d.trace.kind == "points":
            parts.append(f'<circle class="{c} dot" cx="{x + 10:.1f}" cy="{mid:.1f}" r="3.2"/>')
        elif d.trace.kind == "range":
            parts.append(
                f'<rect class="{c} area" x="{x:.1f}" y="{mid - 5:.1f}" width="20" height="10"/>'
            )
        else:
            dash = " dash" if d.trace.kind == "rule" else ""
            parts.append(f'<path class="{c} stroke{dash}" d="M{x:.1f} {mid:.1f}h20"/>')
        label = escape(_short(d.trace.label))
        parts.append(f'<text x="{x + 26:.1f}" y="{y:.1f}">{label}</text>')
    return "".join(parts)


def _grid(f: _Frame, x_label: str, y_label: str) -> str:
    parts = []
    for tick, label in zip(f.y_axis.ticks, f.y_axis.labels, strict=True):
        y = f.py(tick)
        parts.append(f'<path class="grid" d="M{f.left:.1f} {y:.1f}H{f.right:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{f.left - 6:.1f}" y="{y + 4:.1f}" '
            f'text-anchor="end">{escape(label)}</text>'
        )
    end = -math.inf
    for tick, label in zip(f.x_axis.ticks, f.x_axis.labels, strict=True):
        x, half = f.px(tick), _text_width(label) / 2
        parts.append(f'<path class="grid" d="M{x:.1f} {f.bottom:.1f}v4"/>')
        center = min(x, f.right + 12 - half)
        if center - half > end + 6:
            end = center + half
            parts.append(
                f'<text class="tick" x="{center:.1f}" y="{f.bottom + ROW - 1:.1f}" '
                f'text-anchor="middle">{escape(label)}</text>'
            )
    middle = (f.left + f.right) / 2
    parts.append(f'<path class="axis" d="M{f.left:.1f} {f.bottom:.1f}H{f.right:.1f}"/>')
    parts.append(
        f'<text class="name" x="{middle:.1f}" y="{f.bottom + 2 * ROW - 1:.1f}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="name" x="2" y="{f.top - 15:.1f}">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _describe(drawn: list[_Drawn], x_label: str, y_label: str) -> str:
    parts = [f"{y_label} against {x_label}."]
    for d in drawn:
        finite = d.y[np.isfinite(d.y)]
        parts.append(
            f"{d.trace.label or y_label}: from {plain(float(finite[0]))} to "
            f"{plain(float(finite[-1]))} ({len(finite)} values drawn)."
        )
    return " ".join(parts)


# -- marks --------------------------------------------------------------------------------------
def _marks(d: _Drawn, f: _Frame) -> str:
    return {"line": _line, "points": _points, "step": _step, "range": _area}[d.trace.kind](d, f)


def _runs(y: np.ndarray) -> list[np.ndarray]:
    """Stretches of consecutive finite values."""
    index = np.flatnonzero(np.isfinite(y))
    return [r for r in np.split(index, np.flatnonzero(np.diff(index) > 1) + 1) if len(r)]


def _path(x: np.ndarray, y: np.ndarray, f: _Frame) -> str:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return "M" + "L".join(f"{f.px(a):.1f} {f.py(b):.1f}" for a, b in pairs)


def _line(d: _Drawn, f: _Frame) -> str:
    parts = []
    color = f"s{d.trace.color}"
    for r in _runs(d.y):
        if d.stderr[r].any():
            edge = _outline(d.x[r], d.low[r], d.high[r], f)
            parts.append(f'<path class="mark {color} area" d="{edge}Z"/>')
        shown = _path(d.x[r], d.y[r], f) + ("h0.1" if len(r) == 1 else "")
        parts.append(f'<path class="mark {color} stroke" d="{shown}"/>')
    for k in _thin(np.flatnonzero(np.isfinite(d.y)), MAX_POINTS).tolist():
        x, y = f.px(float(d.x[k])), f.py(float(d.y[k]))
        parts.append(
            f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="6">{_tooltip(d, k)}</circle>'
        )
    return "".join(parts)


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray, f: _Frame) -> str:
    return _path(np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]]), f)


def _tooltip(d: _Drawn, k: int) -> str:
    label = f"{_short(d.trace.label)}, " if d.trace.label else ""
    text = f"{plain(float(d.x[k]), 6)}: {with_error(float(d.y[k]), float(d.stderr[k]))}"
    return f"<title>{escape(label)}{text}</title>"


def _points(d: _Drawn, f: _Frame) -> str:
    parts = []
    color = f"s{d.trace.color}"
    if d.trace.joined and len(d.y) > 1:
        parts.append(f'<path class="mark {color} thread" d="{_path(d.x, d.y, f)}"/>')
    for k in range(len(d.y)):
        x = f.px(float(d.x[k]))
        bar = ""
        if d.stderr[k] > 0:
            bar = (
                f'<path class="mark {color} bar" d="M{x:.1f} {f.py(d.low[k]):.1f}'
                f'V{f.py(d.high[k]):.1f}"/>'
            )
        parts.append(
            f'<g>{_tooltip(d, k)}{bar}<circle class="mark {color} dot" cx="{x:.1f}" '
            f'cy="{f.py(d.y[k]):.1f}" r="3"/></g>'
        )
    return "".join(parts)


def _step(d: _Drawn, f: _Frame) -> str:
    shown = _path(np.repeat(d.x, 2)[1:-1], np.repeat(d.y, 2), f)
    return f'<path class="mark s{d.trace.color} stroke" d="{shown}"/>'


def _area(d: _Drawn, f: _Frame) -> str:
    edge = _outline(d.x, d.y, d.high, f)
    return f'<path class="mark s{d.trace.color} area" d="{edge}Z"/>'


def _rule(d: _Drawn, f: _Frame) -> str:
    y = f.py(float(d.y[0]))
    return f'<path class="s{d.trace.color} stroke dash" d="M{f.left:.1f} {y:.1f}H{f.right:.1f}"/>'
