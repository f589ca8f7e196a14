"""What the hosts share: settings checked early, and an end that loses nothing."""

from __future__ import annotations

import inspect
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thermolearn.measure.probe import Probe

RECORD, REPORT = "run.jsonl", "report.html"
OWN = ("self", "model", "loss_fn", "optimizer", "reference", "every", "log")


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Raise TypeError, before any training, for a setting that `Probe` does not have."""
    known = [name for name in inspect.signature(Probe.__init__).parameters if name not in OWN]
    wrong = sorted(set(settings) - set(known))
    if wrong:
        raise TypeError(f"{wrong[0]} is no setting of Probe; there are {', '.join(known)}")
    return dict(settings)


def record_in(folder: Path | None) -> Path | None:
    """Path of run.jsonl in a folder, which is made; None for no files."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / RECORD


def finish(probe: Probe, folder: Path | None) -> None:
    """Measure what waits, write the report into the folder, and close the probe.

    An exception becomes a warning. Ctrl-C ends the measuring: the report holds what was finished,
    then KeyboardInterrupt is raised again.
    """
    try:
        with _interruptible():
            try:
                probe.flush()
            except KeyboardInterrupt:
                done = max((r["step"] for r in probe.rows if r["kind"] == "snapshot"), default=0)
                probe.flag(f"measuring was ended by Ctrl-C: measured to step {done}")
                raise
            finally:
                if folder is not None and probe.rows:
                    probe.report(folder / REPORT, flush=False)
    except Exception as error:  # the host's training is done and must not die of this
        warnings.warn(
            f"the run could not be reported ({type(error).__name__}: {error}); "
            "callback.probe.report(path) tries again",
            RuntimeWarning,
            stacklevel=2,
        )
    finally:
        probe.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a host that shuts down ignores it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
