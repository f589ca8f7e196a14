"""Hands finished rows to the sinks; what goes wrong there is said once and goes no further."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from thermolearn.core.copying import untouched


class Sink(Protocol):
    """Takes rows of run.jsonl (plain JSON values) as they are finished.

    ``restore(rows)`` is optional: a resumed run begins with these rows. A sink that was closed may
    be given to another Probe, which begins with its header or with `restore`.
    """

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def checked_sinks(sinks: Any) -> list[Sink]:
    """Raise TypeError for what is no sequence of sinks."""
    if isinstance(sinks, str) or not isinstance(sinks, Sequence):
        raise TypeError(f"sinks must be a list of sinks, got {type(sinks).__name__}")
    for sink in sinks:
        methods = (getattr(sink, name, None) for name in ("write", "close"))
        if isinstance(sink, type) or not all(callable(m) for m in methods):
            raise TypeError(
                f"sinks: {sink!r} needs the methods write(row) and close(); "
                "take one of thermolearn.measure.sinks, for example sinks=[TensorBoard('runs/a')]"
            )
    return list(sinks)


class Fanout:
    """Several sinks as one that never raises an exception and leaves all generators alone."""

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = list(sinks)

    def write(self, row: dict[str, Any]) -> None:
        """To every sink."""
        self._each("write", row)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """To every sink that wants to know."""
        self._each("restore", rows)

    def close(self) -> None:
        """Every sink, once."""
        self._each("close")
        self._sinks.clear()

    def _each(self, method: str, *args: Any) -> None:
        if not self._sinks:
            return
        with untouched():
            for sink in list(self._sinks):
                try:
                    if method != "restore" or hasattr(sink, method):
                        # its own copy, with which it may do as it likes
                        getattr(sink, method)(*json.loads(json.dumps(args)))
                except Exception as error:
                    self._drop(sink, error)

    def _drop(self, sink: Sink, error: Exception) -> None:
        """A sink that failed once gets no further rows."""
        self._sinks.remove(sink)
        with suppress(Exception):
            sink.close()
        text = " ".join(str(error).split())
        warnings.warn(
            f"the sink {type(sink).__name__} failed and gets no further rows "
            f"({type(error).__name__}: {text}); the record of the run is complete without it",
            RuntimeWarning,
            stacklevel=2,
        )
