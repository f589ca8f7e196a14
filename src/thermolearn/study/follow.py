"""Waiting for the tasks of a sweep: signs of life, and an end that says how to go on."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermolearn.core.errors import SweepError
from thermolearn.core.progress import track
from thermolearn.study.backends import Outcome


@dataclass
class _Count:
    """How far a sweep is."""

    store: Path
    total: int
    done: int
    failed: int = 0

    @property
    def kept(self) -> str:
        return (
            f"{self.done} of {self.total} tasks are finished and kept in {self.store}; "
            "run the same sweep again to go on from there"
        )


def follow(
    outcomes: Generator[Outcome], name: str, store: Path, done: int, total: int, heartbeat: float
) -> None:
    """Wait for all outcomes; Ctrl-C and SIGTERM end the workers and say what is kept.

    Parameters
    ----------
    outcomes : generator of (task, status)
        Of a backend.
    name : str
        Of the system.
    store : Path
        Where the tasks are kept.
    done, total : int
        Tasks finished before, and all.
    heartbeat : float
        Seconds between lines of JSON on a stderr that is no terminal; 0 for none.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C, or SIGTERM where the program has no handler of its own.
    RuntimeError
        The workers ended early.
    """
    count = _Count(store, total, done)
    try:
        with (
            _terminated_like_interrupted(),
            contextlib.closing(outcomes) as running,
            _heartbeat(count, heartbeat),
        ):
            for _, status in track(running, f"sweep {name}", total - done):
                count.done += 1
                count.failed += status != "ok"
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {count.kept}") from None
    except (SweepError, ImportError):
        raise
    except Exception as error:  # a worker was killed, by the system for want of memory, say
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RuntimeError(f"the workers ended early: {count.kept} ({cause})") from error


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, unless the program has a handler of its own."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent again, it must not disturb the end
    raise KeyboardInterrupt


@contextlib.contextmanager
def _heartbeat(count: _Count, every: float) -> Iterator[None]:
    """A line of JSON on stderr every so often, unless a terminal shows a bar."""
    if every <= 0 or sys.stderr.isatty() or count.done == count.total:
        yield
        return
    ended = threading.Event()
    start, before = time.monotonic(), count.done

    def beat() -> None:
        while not ended.wait(min(every, threading.TIMEOUT_MAX)):
            new, left = count.done - before, count.total - count.done
            eta = round(left * (time.monotonic() - start) / new, 1) if new else None
            line = {"done": count.done, "total": count.total, "eta_s": eta, "failed": count.failed}
            print(json.dumps(line), file=sys.stderr, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
