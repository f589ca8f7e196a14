"""A sink that is used again begins another run; where it may not, it says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def numbered(path: str | os.PathLike[str], number: int) -> Path:
    """``run.jsonl``, then ``run-2.jsonl``, ``run-3.jsonl``, ..."""
    path = Path(path)
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


class Runs:
    """Which run of a sink a row belongs to: a header, or a row after the end, begins the next.

    Attributes
    ----------
    number : int
        Of the present run, counted from 1.
    """

    def __init__(self) -> None:
        self.number = 1
        self._header: dict[str, Any] | None = None
        self._written = self._ended = False

    def begins(self, row: dict[str, Any]) -> bool:
        """Whether this row is the first of a further run; call it once for every row."""
        header = row.get("kind") == "header"
        further = self._written and (self._ended or header)
        self.number += further
        self._written, self._ended = True, False
        if header or further:
            self._header = row if header else None
        return further

    def goes_on(self, rows: list[dict[str, Any]]) -> bool:
        """Whether restored rows continue the run that was written here last; it is open again."""
        same = self._written and self._header is not None and self._header in rows[:1]
        if same:
            self._ended = False
        elif rows and rows[0].get("kind") == "header":
            self._ended = True  # whatever comes is another run
        return same

    def end(self) -> None:
        """The sink was closed."""
        self._ended = True
