"""Start a sweep again and again and end it at random moments; run by the tests as a program.

Arguments: directory of the store, trace of executions, backend, number of rounds, signal, and
whether it goes to the whole process group ("group") or to the parent alone ("parent").
Prints one line of JSON: how often the sweep was cut short, and the tasks run once more although
their shard had been there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401
import threadpoolctl  # noqa: F401
import toy_sweep

from thermolearn.study.grid import Grid
from thermolearn.study.store import read_shard
from thermolearn.study.sweep import make_plan, sweep


def grid(cells: int) -> Grid:
    product = {"load": {"start": 0, "stop": 1, "num": cells}}
    return Grid(toy_sweep, product=product, fixed={"pause": 0.005, "n_spins": 3}, seeds=4)


def finished(store: Path) -> set[str]:
    """The tasks whose shards are there, as they stand in the trace."""
    records = [read_shard(path) for path in (store / "shards").glob("*.json")]
    return {f"{record.params['load']} {record.seed}" for record in records}


def child(cells: int, store: Path, backend: str) -> None:
    try:
        sweep(grid(cells), store=store, backend=backend, jobs=2, heartbeat=0)
    except KeyboardInterrupt as interrupt:
        os.write(2, f"{interrupt}\n".encode())
        os._exit(130)
    os._exit(0)


def wait_for_work(pid: int, trace: Path) -> None:
    """Until the sweep runs tasks or has ended."""
    size = trace.stat().st_size
    deadline = time.monotonic() + 30
    while trace.stat().st_size == size and time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def main() -> None:
    store, trace, backend = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    rounds, name, target = int(sys.argv[4]), sys.argv[5], sys.argv[6]
    longest, cells = float(sys.argv[7]), int(sys.argv[8])
    make_plan(grid(cells), store)  # what is imported here, no child need import again
    rng = random.Random(1)
    cut, repeated, codes = 0, [], []
    for n in range(rounds):
        there = finished(store)
        before = len(trace.read_text().splitlines())
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            child(cells, store, backend)
        with contextlib.suppress(OSError):  # whoever comes first
            os.setpgid(pid, pid)
        if n % 3 != 2:  # else perhaps before the first task
            wait_for_work(pid, trace)
        time.sleep(rng.uniform(0.0, longest))
        (os.killpg if target == "group" else os.kill)(pid, getattr(signal, name))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        codes.append(code)
        cut += code != 0
        repeated += there & set(trace.read_text().splitlines()[before:])
    print(json.dumps({"cut": cut, "repeated": sorted(repeated), "codes": codes}))


if __name__ == "__main__":
    main()
