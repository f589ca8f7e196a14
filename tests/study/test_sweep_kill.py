"""Sweeps ended at random moments: no finished task is lost or run again, and none is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_sweeps
import pandas as pd
import pytest

from thermolearn.study.follow import follow
from thermolearn.study.sweep import make_plan, sweep

PROGRAM = Path(kill_sweeps.__file__)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


def end_again_and_again(folder: Path, *arguments: object) -> tuple[dict, list[str], str]:
    """Outcome of `kill_sweeps`, the trace, what the sweeps wrote on stderr."""
    store, trace = folder / "s", folder / "trace"
    trace.touch()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(store), str(trace), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "TOY_TRACE": str(trace)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), trace.read_text().splitlines(), done.stderr


def check_the_end(folder: Path, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is run; every task then has one result, that of an uninterrupted sweep."""
    grid = kill_sweeps.grid(cells)
    before = kill_sweeps.finished(folder / "s")
    trace = folder / "trace"
    trace.write_text("")
    monkeypatch.setenv("TOY_TRACE", str(trace))
    result = sweep(grid, store=folder / "s", backend="serial", heartbeat=0)
    lines = trace.read_text().splitlines()
    assert len(lines) + len(before) == 5 * cells and not before & set(lines)
    monkeypatch.delenv("TOY_TRACE")
    whole = sweep(grid, store=folder / "whole", backend="serial", heartbeat=0)
    pd.testing.assert_frame_equal(
        result.rows.drop(columns="seconds"), whole.rows.drop(columns="seconds"), check_exact=True
    )
    assert not result.rows.duplicated(["task", "observable", "index"]).any()
    assert result.rows["task"].nunique() == 5 * cells and result.missing.empty


# rounds, signal, whom it reaches, longest life in seconds, cells
CASES = {
    "killed": ("serial", 36, "SIGKILL", "parent", 0.05, 32),
    "interrupted": ("serial", 16, "SIGINT", "group", 0.05, 24),
    "terminated": ("serial", 6, "SIGTERM", "parent", 0.05, 24),
    "workers and all killed": ("joblib", 2, "SIGKILL", "group", 0.2, 30),
}
MANY = {
    "killed with workers": ("joblib", 16, "SIGKILL", "group", 0.12, 140),
    "parent killed": ("joblib", 16, "SIGKILL", "parent", 0.12, 140),
    "interrupted with workers": ("joblib", 12, "SIGINT", "group", 0.12, 100),
    "parent interrupted": ("joblib", 12, "SIGINT", "parent", 0.12, 100),
    "terminated with workers": ("joblib", 6, "SIGTERM", "group", 0.12, 100),
}


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MANY)]
)
def test_no_finished_task_is_lost_or_repeated(case: str, tmp_path: Path, monkeypatch) -> None:
    backend, rounds, name, target, longest, cells = {**CASES, **MANY}[case]
    outcome, _, said = end_again_and_again(tmp_path, backend, rounds, name, target, longest, cells)
    assert outcome["repeated"] == []
    assert outcome["cut"] >= rounds // 2
    if name != "SIGKILL":  # one that comes before the work has begun ends the program at once
        assert set(outcome["codes"]) <= {130, 0, -getattr(signal, name)}
        assert "tasks are finished and kept in" in said and "run the same sweep again" in said
    assert 0 < len(kill_sweeps.finished(tmp_path / "s")) <= 5 * cells
    check_the_end(tmp_path, cells, monkeypatch)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """They hold the output of `kill_sweeps` open, which ends only with the last of them."""
    start = time.monotonic()
    end_again_and_again(tmp_path, "joblib", 1, "SIGKILL", "parent", 0.3, 2000)
    assert time.monotonic() - start < 60  # idle workers would live for five minutes
    assert 0 < len(kill_sweeps.finished(tmp_path / "s")) < 5 * 2000


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("target", ["group", "parent"])
def test_an_end_of_the_command_says_how_to_go_on(ending, target: str, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(
        '[sweep]\nsystem = "toy_sweep"\nseeds = 4\n[product]\n'
        "load = {start = 0, stop = 1, num = 2000}\n[fixed]\npause = 0.01\n"
    )
    code = "import typer; from thermolearn.cli_sweep import sweep; typer.run(sweep)"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "toy.toml", "--heartbeat", "0.2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(PROGRAM.parent)},
    )  # fmt: skip
    shards = tmp_path / "toy.store" / "shards"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (shards.exists() and any(shards.glob("*.json"))):
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    (os.killpg if target == "group" else os.kill)(running.pid, ending)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    last = said.strip().splitlines()[-1]
    assert last.startswith("interrupted: ") and "run the same sweep again to go on" in last
    others = [line for line in said.splitlines() if line != last and not line.startswith("{")]
    assert others == []  # neither tracebacks nor warnings
    beats = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert beats and beats[-1]["total"] == 10000
    plan = make_plan(kill_sweeps.grid(3), tmp_path / "toy.store")
    assert plan.total == 15  # the store can be read


def test_a_handler_of_the_program_is_left_alone(tmp_path: Path) -> None:
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        outcomes = ((os.kill(os.getpid(), signal.SIGTERM), "ok")[::-1] for _ in range(3))
        follow(outcomes, "toy", tmp_path, 0, 3, heartbeat=0)  # type: ignore[arg-type]
        assert got == [signal.SIGTERM] * 3
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        outcomes = ((os.kill(os.getpid(), signal.SIGTERM), "ok")[::-1] for _ in range(3))
        with pytest.raises(KeyboardInterrupt, match="0 of 3 tasks are finished and kept in"):
            follow(outcomes, "toy", tmp_path, 0, 3, heartbeat=0)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
