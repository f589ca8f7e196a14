"""A progress bar for loops that take a while, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

# Below this many seconds a bar is noise.
PATIENCE = 2.0
# Two live bars would overwrite each other: the outer loop keeps the terminal.
_drawing = False


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items unchanged; draw a bar with the time left on stderr if the loop is slow.

    Nothing is drawn, and rich is not imported, while stderr is not a terminal, the loop is younger
    than 2 seconds, or another bar is up. The bar is removed when the loop ends, also by an
    exception.

    Parameters
    ----------
    iterable : iterable
        What to loop over.
    description : str
        A few words shown beside the bar, as plain text.
    total : int, optional
        Number of items; ``len(iterable)`` if it has one, else the bar shows no time left.
    """
    if not sys.stderr.isatty():
        yield from iterable
        return
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    items = iter(iterable)
    start = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - start > PATIENCE and not _drawing:
            break
    else:
        return
    yield from _with_bar(items, description, total, done)


def _with_bar(
    items: Iterator[Item], description: str, total: int | None, done: int
) -> Iterator[Item]:
    """The rest of a loop of which `done` items are through, under a bar."""
    global _drawing
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    _drawing = True
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(escape(description), total=total, completed=done)
            for item in items:
                yield item
                bar.advance(task)
    finally:
        _drawing = False
