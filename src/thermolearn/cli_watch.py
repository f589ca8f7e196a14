"""`thermolearn watch`: a recorded run in the terminal, while it grows."""

from __future__ import annotations

import json
import math
import os
import stat
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thermolearn.cli_common import one_line_errors

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from thermolearn.report.reader import Run, Series

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
LOST = "\u00b7"  # a stretch of losses that are not finite
MARKS = {"good": ("+", "green"), "warn": ("!", "yellow"), "bad": ("x", "red"), "unknown": ("?", "")}
WIDTH = 60  # of the sparkline
TRACE = 512  # bytes by which a file that was rewritten is recognized
SHOWN = 6  # remarks, the newest
IDLE = 3  # times as long as a look at the file took, at least, before the next one
LONGEST = 100  # characters of a text from outside


def watch(
    run: Annotated[Path, typer.Argument(help="A run.jsonl, finished or growing.")],
    once: Annotated[
        bool, typer.Option("--once", help="Print it once; also where there is no terminal.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.05, help="Seconds between two looks at the file.")
    ] = 1.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Follow a run: newest values with errors, the loss, verdicts and flags; Ctrl-C ends."""
    with one_line_errors(debug):
        from rich.console import Console

        if run.is_dir():
            raise IsADirectoryError(f"{run} is a directory; give the run.jsonl in it")
        console = Console()
        tail = Tail(run)
        if once or not console.is_terminal:
            if not tail.poll():
                raise FileNotFoundError(f"no file {run}; give the run.jsonl of a measurement")
            console.print(render(tail.rows))
            return
        if not run.parent.is_dir():
            raise FileNotFoundError(f"there is no directory {run.parent}; no run is written there")
        try:
            _follow(tail, console, interval)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def _follow(tail: Tail, console: Console, interval: float) -> None:
    """Draw whenever the file has changed."""
    from rich.live import Live
    from rich.text import Text

    waiting = Text(
        f"waiting for {clean(str(tail.path))}: rows come with probe.flush() or probe.report(), "
        "and during training with budget="
    )
    growing = Growing()
    with Live(waiting, console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        live.refresh()
        while True:
            start = time.monotonic()
            if tail.poll():
                live.update(_screen(growing.view(tail.rows)), refresh=True)
            time.sleep(max(interval, IDLE * (time.monotonic() - start)))


class Tail:
    """The rows of a file that grows, or is replaced by another of the same name.

    A half-written last line waits for its end; other lines that cannot be read are left out.
    `rows` is another list after the file was replaced.

    Raises
    ------
    DataError
        From `poll`: lines, and none of them is a row; or a pipe or device, which has no end.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._half = b""
        self._seen: tuple[int, int] = (-1, 0)  # which file, how much of it
        self._end = b""  # what stood there last

    def poll(self) -> bool:
        """Read what is new; whether there was anything (an empty file counts the first time)."""
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # opening a pipe would wait for a writer
                from thermolearn.core.errors import DataError

                raise DataError(f"{self.path} is no ordinary file; give a run.jsonl on a disk")
            with self.path.open("rb") as file:
                now = os.fstat(file.fileno())
                which, read = self._seen
                # a file that is rewritten may get the number of the one it replaced
                file.seek(max(0, read - len(self._end)))
                same = now.st_ino == which and file.read(len(self._end)) == self._end
                if same and now.st_size == read:
                    return False
                if not same:
                    file.seek(0)
                    self.rows, self._half, self._end = [], b"", b""
                new = file.read()
                self._seen = (now.st_ino, file.tell())
                self._end = (self._end + new)[-TRACE:]
        except FileNotFoundError:
            return False
        lines = (self._half + new).split(b"\n")
        self._half = lines.pop()
        found = [row for row in map(_row, lines) if row is not None]
        self.rows += found
        if not self.rows and any(line.strip() for line in lines):
            from thermolearn.core.errors import DataError

            raise DataError(f"{self.path}: not a run.jsonl; give the file that a Probe wrote")
        return True


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("kind"), str) else None


# -- drawing -----------------------------------------------------------------------------------
def clean(text: Any, longest: int = LONGEST) -> str:
    """A text from outside on one line, its control characters written out, cut to a length."""
    out = "".join(_printable(c) for c in str(text)[: longest + 1])
    return out if len(out) <= longest else out[: longest - 3] + "..."


def _printable(c: str) -> str:
    if c.isprintable():
        return c
    return " " if unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()


def sparkline(values: Any, width: int = WIDTH) -> str:
    """Means over `width` equal stretches as bars between their least and greatest."""
    import numpy as np

    values = np.asarray(values, dtype=float)
    if not len(values):
        return ""
    with np.errstate(all="ignore"):  # sums and differences of huge numbers stay finite
        peak = np.max(np.abs(values), initial=0.0, where=np.isfinite(values))
        values = values / peak if peak > 0 else values
    means = [_mean(part) for part in np.array_split(values, min(width, len(values)))]
    finite = [m for m in means if math.isfinite(m)]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    top = len(BARS) - 1
    return "".join(
        LOST if not math.isfinite(m) else BARS[round(top * (m - low) / span) if span else 0]
        for m in means
    )


def _mean(part: Any) -> float:
    return float(part.mean()) if len(part) else math.nan


class Growing:
    """The view of rows that become more; only the new ones are read."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] | None = None
        self._seen = 0
        self._run: Run | None = None

    def view(self, rows: list[dict[str, Any]]) -> Run:
        """Of all rows; another list is another run."""
        from thermolearn.report.reader import view

        known = self._run if rows is self._rows else None
        later = view(rows[self._seen :]) if known is not None else None
        if known is None or later is None or not _follows(known, later):
            self._run = view(rows)
        else:
            self._run = _joined(known, later)
        self._rows, self._seen = rows, len(rows)
        return self._run


def _follows(run: Run, later: Run) -> bool:
    """Whether nothing in the later rows is about steps that were there before."""
    if later.header:
        return False
    if len(run.losses) and len(later.losses) and later.losses.step[0] <= run.losses.step[-1]:
        return False
    both = run.snapshots.keys() & later.snapshots.keys()
    return all(later.snapshots[q][0].step > run.snapshots[q][-1].step for q in both)


def _joined(run: Run, later: Run) -> Run:
    """`view` of the rows of both."""
    from dataclasses import replace

    samples = [s for s in (run.samples, later.samples) if not math.isnan(s)]
    names = [*run.snapshots, *(q for q in later.snapshots if q not in run.snapshots)]
    return replace(
        run,
        losses=_end_to_end(run.losses, later.losses),
        samples=sum(samples) if samples else math.nan,
        snapshots={q: run.snapshots.get(q, []) + later.snapshots.get(q, []) for q in names},
        summaries={**run.summaries, **later.summaries},
        not_applicable=list({**dict(run.not_applicable), **dict(later.not_applicable)}.items()),
        flags=run.flags + later.flags,
        cost=run.cost if later.cost is None else later.cost,
        unchanged=run.unchanged if later.unchanged is None else later.unchanged,
        restates=later.restates if "restates" in later.summaries else run.restates,
        missing=[text for text in run.missing if text in later.missing],
    )


def _end_to_end(a: Series, b: Series) -> Series:
    import numpy as np

    columns = ("step", "value", "stderr")
    return type(a)(*(np.concatenate([getattr(a, c), getattr(b, c)]) for c in columns))


def render(rows: list[dict[str, Any]]) -> RenderableType:
    """The whole screen, from rows in any state of completeness."""
    return _screen(Growing().view(rows))


def _screen(run: Run) -> RenderableType:
    """One block below the other; one that cannot be drawn leaves the others alone."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType | None] = []
    for draw in (_title, _losses, _cards, _remarks, _values):
        try:
            parts.append(draw(run))
        except Exception as error:
            what = clean(f"{draw.__name__[1:]}: {type(error).__name__}: {error}")
            parts.append(Text(f"(cannot be shown: {what})", style="yellow"))
    return Group(*(part for part in parts if part is not None))


def _title(run: Run) -> RenderableType:
    from rich.text import Text

    from thermolearn.report.reader import as_dict

    header = run.header
    names = [as_dict(header.get(key)).get("name") for key in ("model", "data", "optimizer")]
    names[0] = as_dict(header.get("info")).get("model") or names[0]
    said = ", ".join(clean(n, 40) for n in names if n) or "no header yet"
    steps = [_step(run.last_step), _step(run.measured_step)]
    out = Text(said, style="bold", no_wrap=True, overflow="ellipsis")
    out.append(f"   trained to step {steps[0]}, measured to step {steps[1]}", style="not bold")
    if run.unchanged is not None:
        ok = run.unchanged.get("ok") is True
        out.append("   run unchanged" if ok else "   RUN CHANGED", style="green" if ok else "red")
    return out


def _step(step: float) -> str:
    return "-" if math.isnan(step) else f"{step:.0f}"


def _losses(run: Run) -> RenderableType | None:
    from rich.text import Text

    if not len(run.losses):
        return None
    value = run.losses.value
    ends = f"{value[0]:.4g} to {value[-1]:.4g}"
    return Text(f"minibatch loss {sparkline(value)} {ends}", no_wrap=True, overflow="ellipsis")


def _cards(run: Run) -> RenderableType | None:
    from rich.table import Table
    from rich.text import Text

    from thermolearn.report.cards import all_cards

    if not run.snapshots and not len(run.losses):
        return None
    table = Table(box=None, show_header=False, padding=(0, 1))
    for card in all_cards(run):
        mark, style = MARKS.get(card.status, ("?", ""))
        cells = (card.question, card.answer, card.number)
        table.add_row(Text(mark, style=style), *(Text(clean(c), style=style) for c in cells))
    return table


def _remarks(run: Run) -> RenderableType | None:
    from rich.text import Text

    said = [f"flag, step {'-' if k is None else k}: {text}" for k, text in run.flags]
    said += [f"not applicable: {name}: {reason}" for name, reason in run.not_applicable]
    if not said:
        return None
    more = [f"({len(said) - SHOWN} remarks before)"] if len(said) > SHOWN else []
    return Text("\n".join(clean(line) for line in [*more, *said[-SHOWN:]]), style="dim")


def _values(run: Run) -> RenderableType | None:
    """Newest value of every quantity; of arrays their smallest and largest."""
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from thermolearn.core.estimate import format_with_error

    if not run.snapshots:
        return None
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("quantity", "", "step", "value", ""):
        table.add_column(column, no_wrap=True)
    for quantity, snapshots in run.snapshots.items():
        newest = snapshots[-1]
        for name, e in newest.values.items():
            value = np.asarray(e.value, dtype=float)
            if value.ndim == 0:
                text = format_with_error(float(e.value), float(e.stderr))
            elif np.isfinite(value).any():
                text = f"{np.nanmin(value):.3g} ... {np.nanmax(value):.3g}"
            else:
                text = "-"
            status = "" if e.status == "ok" else e.status
            cells = (clean(quantity, 24), clean(name, 36), str(newest.step), text)
            table.add_row(*map(Text, cells), Text(clean(status, 40), style="yellow"))
    return table
