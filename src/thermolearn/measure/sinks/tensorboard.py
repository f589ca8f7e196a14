"""Rows to TensorBoard."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from thermolearn.measure.sinks.runs import Runs
from thermolearn.measure.sinks.scalars import ROOT, Names, remark, require, scalars

FORBIDDEN = re.compile(r"[^-/\w.]")  # in the name of a curve


class TensorBoard:
    """Writes an event file; look at it with ``tensorboard --logdir FOLDER``.

    Names are those of `scalars.scalars`, with underscores for other characters than letters,
    digits and ``-_./``; the header and what the run says in words are texts.

    Parameters
    ----------
    folder : path
        Of the event file, made with the first row. Used again, the sink writes the second run to
        ``folder-2``.

    Raises
    ------
    ImportError
        tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] = "runs/thermolearn"):
        require("tensorboard", "tensorboard")
        self.folder = os.fspath(folder)
        self._writer: Any = None
        self._step = 0
        self._runs = Runs()
        self._names = Names(FORBIDDEN)

    def write(self, row: dict[str, Any]) -> None:
        """Every number of a row at its step."""
        if self._runs.begins(row):
            self._end()
            self._step, self._names = 0, Names(FORBIDDEN)
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            number = self._runs.number
            self._writer = SummaryWriter(self.folder if number == 1 else f"{self.folder}-{number}")
        for name, step, value in scalars(row, self._step):
            self._writer.add_scalar(self._names(name), value, step)
            self._step = max(self._step, step)
        if row["kind"] == "header":
            text = json.dumps(row, indent=1).replace("\n", "\n    ")  # indented: shown as it is
            self._writer.add_text(f"{ROOT}/header", "    " + text, 0)
        elif said := remark(row):
            self._writer.add_text(f"{ROOT}/remarks", said, row.get("step") or self._step)
        elif row["kind"] == "cost":  # the last row of a flush
            self._writer.flush()

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """A run that goes on writes into its folder again."""
        self._runs.goes_on(rows)

    def close(self) -> None:
        """Write out what is buffered and close the file."""
        self._end()
        self._runs.end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
