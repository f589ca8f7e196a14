"""The other ways to run a sweep: a dask cluster, submitit, and what workers check."""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_sweep
from typer.testing import CliRunner

from thermolearn.cli import app
from thermolearn.core.errors import SweepError
from thermolearn.study import backends
from thermolearn.study.grid import Grid
from thermolearn.study.sweep import make_plan, sweep


def grid(**changes) -> Grid:
    return Grid(toy_sweep, **{"product": {"load": [0.1, 0.5]}, "seeds": 3, **changes})


def same_as_serial(rows: pd.DataFrame, tmp_path: Path) -> None:
    expected = sweep(grid(), store=tmp_path / "serial", backend="serial").rows
    pd.testing.assert_frame_equal(
        rows.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True
    )


# -- dask --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_dask_makes_a_local_cluster_of_processes(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    result = sweep(grid(), store=tmp_path / "s", backend="dask", jobs=2, heartbeat=0)
    same_as_serial(result.rows, tmp_path)


def test_dask_on_a_given_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By client and by address; more tasks than the scheduler is given at once; resumed."""
    distributed = pytest.importorskip("distributed")
    trace = tmp_path / "trace"
    monkeypatch.setenv("TOY_TRACE", str(trace))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = {info["pid"] for info in client.run(lambda: {"pid": os.getpid()}).values()}
        assert len(workers) == 2 and os.getpid() not in workers
        result = sweep(grid(), store=tmp_path / "s", backend="dask", scheduler=client)
        assert len(trace.read_text().splitlines()) == 8
        many = grid(seeds=20)
        address = cluster.scheduler_address
        larger = sweep(many, store=tmp_path / "s", backend="dask", scheduler=address)
        assert len(trace.read_text().splitlines()) == 42
        assert larger.missing.empty and larger.rows["task"].nunique() == 42
    same_as_serial(result.rows, tmp_path)


# -- submitit ----------------------------------------------------------------------------------
def test_submitit_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    trace = tmp_path / "trace"
    monkeypatch.setenv("TOY_TRACE", str(trace))
    options = {"cluster": "local", "timeout_min": 2}
    result = sweep(
        grid(), store=tmp_path / "s", backend="submitit", jobs=2, submitit=options, heartbeat=0
    )
    assert result.missing.empty and len(trace.read_text().splitlines()) == 8
    assert (tmp_path / "s" / "submitit").is_dir()
    same_as_serial(result.rows, tmp_path)
    trace.unlink()
    again = sweep(grid(), store=tmp_path / "s", backend="submitit", jobs=2, submitit=options)
    assert not trace.exists() and len(again.rows) == len(result.rows)


def test_wrong_options_of_submitit_are_named(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = {"cluster": "local", "timeuot_min": 2}
    with pytest.raises(SweepError, match="no option 'timeuot_min'; did you mean timeout_min"):
        sweep(grid(), store=tmp_path / "s", backend="submitit", submitit=options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("timeut = 3", "no option 'timeut'; did you mean timeout_min"),
        ("slurm_partitoin = 'cpu'", "did you mean slurm_partition"),
        ("timeout_min = '3'", "timeout_min = '3'"),
    ],
)
@pytest.mark.parametrize("backend", ["joblib", "submitit"])
def test_options_of_submitit_are_checked_by_a_dry_run(
    backend: str, line: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    file = tmp_path / "toy.toml"
    file.write_text(f'[sweep]\nsystem = "toy_sweep"\n[submitit]\n{line}\n')
    shown = CliRunner().invoke(app, ["sweep", str(file), "--dry-run", "--backend", backend])
    assert shown.exit_code == 2 and message in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    with pytest.raises(SweepError, match=message):
        sweep(file, backend=backend)
    assert not file.with_suffix(".store").exists()


def test_all_kinds_of_options_of_submitit_are_taken() -> None:
    pytest.importorskip("submitit")
    options = {
        "timeout_min": 240, "mem_gb": 4, "slurm_partition": "cpu", "slurm_array_parallelism": 5,
        "slurm_additional_parameters": {"reservation": "x"}, "cluster": "slurm",
    }  # fmt: skip
    backends.check("joblib", 2, None, options)
    for name in backends.SUBMITIT:
        if name not in ("cluster", "name", "stderr_to_stdout", "slurm_additional_parameters"):
            backends.check("joblib", 2, None, {name: 1})
    with pytest.raises(SweepError, match=r"cannot run here: .*no_such"):
        backends.check("submitit", 2, None, {"cluster": "no_such"})


@pytest.mark.parametrize("address", ["foo", "tcp://node", "tcp://node:x", ""])
def test_a_wrong_address_of_a_scheduler_is_named(address: str, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(SweepError, match="no address of a dask scheduler"):
        sweep(grid(), store=tmp_path / "s", backend="dask", scheduler=address)
    assert not (tmp_path / "s").exists()
    file = tmp_path / "toy.toml"
    file.write_text('[sweep]\nsystem = "toy_sweep"\n')
    shown = CliRunner().invoke(
        app, ["sweep", str(file), "--backend", "dask", "--scheduler", address]
    )
    assert shown.exit_code == 2 and "no address of a dask scheduler" in shown.stderr


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    assert distributed
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(SweepError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        sweep(grid(), store=tmp_path / "s", backend="dask", scheduler="tcp://127.0.0.1:9")


def test_a_job_that_ends_early_leaves_its_tasks_missing(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("submitit")
    plan = make_plan(grid(), tmp_path / "s")
    from thermolearn.study.store import open_store

    assert open_store(plan.path, plan.header)

    class Job:
        job_id = "7"

        def done(self) -> bool:
            return True

        def exception(self) -> Exception:
            return TimeoutError("time limit")

    class Executor:
        def __init__(self, folder: Path, cluster: str | None) -> None: ...
        def update_parameters(self, **options) -> None: ...
        def map_array(self, function, lists):
            backends.execute(lists[0][0])
            return [Job()]

    import submitit

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    with pytest.warns(UserWarning, match="job 7 ended early: time limit"):
        outcomes = list(backends.submitit(plan.todo, 1))
    assert outcomes == [(plan.todo[0].key, "ok")]
    assert len(make_plan(grid(), tmp_path / "s").todo) == 7


# -- what is not installed ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("module", "extra"), [("distributed", "distributed"), ("submitit", "submitit")]
)
def test_a_missing_extra_is_named(module: str, extra: str, tmp_path: Path, monkeypatch) -> None:
    hide(module, monkeypatch)
    backend = "dask" if module == "distributed" else module
    with pytest.raises(ImportError, match=rf"thermolearn\[{extra}\]"):
        sweep(grid(), store=tmp_path / "s", backend=backend)


def test_without_xarray_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    result = sweep(grid(), store=tmp_path / "s", backend="serial")
    hide("xarray", monkeypatch)
    with pytest.raises(ImportError, match=r"thermolearn\[xarray\]"):
        result.to_xarray()


def hide(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments, **keywords):
        if name.split(".")[0] == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)


# -- workers -----------------------------------------------------------------------------------
def test_a_worker_with_other_sources_refuses(tmp_path: Path, monkeypatch) -> None:
    task = make_plan(grid(), tmp_path / "s").todo[0]
    monkeypatch.setattr(backends, "__version__", "0.0.1")
    backends._system.cache_clear()
    with pytest.raises(SweepError, match="install the same on all machines"):
        backends.execute(task)
    monkeypatch.undo()
    monkeypatch.setattr(backends, "source_hash", lambda module: "other")
    with pytest.raises(SweepError, match="another source of toy_sweep"):
        backends.execute(task)
    backends._system.cache_clear()


def test_a_task_done_by_another_is_not_run(tmp_path: Path, monkeypatch) -> None:
    sweep(grid(), store=tmp_path / "s", backend="serial")
    plan = make_plan(grid(seeds=4), tmp_path / "s")
    sweep(grid(seeds=4), store=tmp_path / "s", backend="serial")
    monkeypatch.setattr(toy_sweep, "simulate", lambda p, seed: 1 / 0)
    assert backends.execute(plan.todo[0]) == (plan.todo[0].key, "ok")


def test_one_thread_and_back() -> None:
    import threadpoolctl
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with backends.one_thread():
        np.ones((4, 4)) @ np.ones((4, 4))
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_dying_worker_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch) -> None:
    """The system kills a worker, as for want of memory."""
    (tmp_path / "dying_toy.py").write_text(
        Path(toy_sweep.__file__).read_text()
        + "\n\ndef simulate(p, seed):\n    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    dying = importlib.import_module("dying_toy")
    one = Grid(dying, product={"load": [0.1]}, seeds=1)
    with pytest.raises(RuntimeError, match=r"workers ended early: .*run the same sweep again"):
        sweep(one, store=tmp_path / "s", jobs=2, heartbeat=0)
    assert make_plan(one, tmp_path / "s").total == 2
