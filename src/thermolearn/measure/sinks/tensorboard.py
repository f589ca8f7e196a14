"""Rows to TensorBoard."""

from __future__ import annotations

import json
import os
from typing import Any

from thermolearn.measure.sinks.scalars import ROOT, remark, require, scalars


class TensorBoard:
    """Writes an event file; look at it with ``tensorboard --logdir FOLDER``.

    Names are those of `scalars.scalars`; the header and what the run says in words are texts.

    Parameters
    ----------
    folder : path
        Of the event file, made with the first row.

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

    def write(self, row: dict[str, Any]) -> None:
        """Every number of a row at its step."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder)
        for name, step, value in scalars(row, self._step):
            self._writer.add_scalar(name, value, step)
            self._step = max(self._step, step)
        if row["kind"] == "header":
            text = json.dumps(row, indent=1).replace("\n", "\n    ")  # indented: shown as it is
            self._writer.add_text(f"{ROOT}/header", "    " + text, 0)
        elif said := remark(row):
            self._writer.add_text(f"{ROOT}/remarks", said, row.get("step") or self._step)
        elif row["kind"] == "cost":  # the last row of a flush
            self._writer.flush()

    def close(self) -> None:
        """Write out what is buffered and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
