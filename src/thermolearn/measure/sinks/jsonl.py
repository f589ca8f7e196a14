"""A second run.jsonl."""

from __future__ import annotations

import os
from typing import Any


class JSONL:
    """Another file of the rows, as ``Probe(log=...)`` writes it.

    Parameters
    ----------
    path : path
        It starts anew with the first row; OSError at once if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        from thermolearn.measure.run_log import RunLog  # which hands its rows to sinks

        self._log = RunLog(path)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._log.append(row)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """A resumed run begins with these rows."""
        self._log.restore(list(rows))

    def close(self) -> None:
        """Nothing is open between rows."""
