"""A second run.jsonl."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from thermolearn.measure.sinks.runs import Runs, numbered


class JSONL:
    """Another file of the rows, as ``Probe(log=...)`` writes it.

    Parameters
    ----------
    path : path
        It starts anew with the first row; OSError at once if it cannot be written. Used again, the
        sink writes the second run to ``path-2.jsonl``.
    """

    def __init__(self, path: str | os.PathLike[str]):
        from thermolearn.measure.run_log import RunLog  # which hands its rows to sinks

        self._make = RunLog
        self._path = Path(path)
        self._log = RunLog(path)
        self._runs = Runs()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self._runs.begins(row):
            self._log = self._make(numbered(self._path, self._runs.number))
        self._log.append(row)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """A resumed run begins with these rows."""
        if rows and not self._runs.goes_on(rows) and self._runs.begins(rows[0]):
            self._log = self._make(numbered(self._path, self._runs.number))
        self._log.restore(list(rows))

    def close(self) -> None:
        """Nothing is open between rows; what is written now is another run."""
        self._runs.end()
