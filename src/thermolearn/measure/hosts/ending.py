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
from thermolearn.measure.sinks.runs import numbered

RECORD, REPORT = "run.jsonl", "report.html"
OWN = ("self", "model", "loss_fn", "optimizer", "reference", "every", "log")


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Raise TypeError, before any training, for a setting that `Probe` does not have."""
    known = [name for name in inspect.signature(Probe.__init__).parameters if name not in OWN]
    wrong = sorted(set(settings) - set(known))
    if wrong:
        raise TypeError(f"{wrong[0]} is no setting of Probe; there are {', '.join(known)}")
    return dict(settings)


def record_in(folder: Path | None, used: dict[Path, int], goes_on: bool) -> Path | None:
    """Path of run.jsonl in a folder, which is made; None for no files.

    A further run of the same callback in the same folder is numbered, unless it goes on with the
    run before; `used` remembers the number for each folder.
    """
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    number = used.get(folder, 0)
    if number == 0 or (not goes_on and numbered(folder / RECORD, number).exists()):
        number += 1
        if number > 1:
            warnings.warn(
                f"this callback has measured a run in {folder} already: this one is in "
                f"{numbered(folder / RECORD, number).name}",
                RuntimeWarning,
                stacklevel=3,
            )
    used[folder] = number
    return numbered(folder / RECORD, number)


def report_of(record: Path) -> Path:
    """report.html beside run.jsonl, report-2.html beside run-2.jsonl."""
    number = record.stem.removeprefix(Path(RECORD).stem)
    return record.with_name(f"{Path(REPORT).stem}{number}{Path(REPORT).suffix}")


def abandon(probe: Probe) -> None:
    """Close the probe of a training whose end was not told to the callback."""
    lost = len(probe._recorder.pending)
    probe.close()
    warnings.warn(
        f"the training before ended without a word: {lost} snapshots of it were not measured "
        "(after an error or Ctrl-C, callback.finish() measures them)",
        RuntimeWarning,
        stacklevel=3,
    )


def finish(probe: Probe, record: Path | None) -> None:
    """Measure what waits, write the report beside the record, and close the probe.

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
                if record is not None and probe.rows:
                    probe.report(report_of(record), flush=False)
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
