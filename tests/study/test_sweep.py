"""Sweeps: the same numbers however they are run, each task once, and what comes out of them."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_sweep
from pyarrow import parquet
from typer.testing import CliRunner

from thermolearn.core.errors import SweepError
from thermolearn.core.estimate import Estimate
from thermolearn.study.grid import Grid
from thermolearn.study.store import header_of
from thermolearn.study.sweep import SweepResult, make_plan, sweep


def grid(**changes) -> Grid:
    arguments = {"product": {"load": [0.1, 0.5], "n_spins": [3, 5]}, "seeds": 3, **changes}
    return Grid(toy_sweep, **arguments)


def run(store: Path, backend: str = "serial", **changes) -> SweepResult:
    return sweep(grid(**changes), store=store, backend=backend)


def same_numbers(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        a.drop(columns="seconds"), b.drop(columns="seconds"), check_exact=True
    )


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "trace"
    path.touch()
    monkeypatch.setenv("TOY_TRACE", str(path))

    def lines() -> list[str]:
        found = path.read_text().splitlines()
        path.write_text("")
        return found

    return lines


# -- running -----------------------------------------------------------------------------------
def test_each_task_runs_once_and_theory_once_per_cell(tmp_path: Path, trace) -> None:
    result = run(tmp_path / "s")
    lines = trace()
    assert len(lines) == 16 and sum(line.endswith("None") for line in lines) == 4
    assert result.missing.empty and result.failed.empty
    assert result.summary == "16 tasks of toy_sweep: 12 ok, 4 under-sampled"
    assert str(result) == result.summary and repr(result) == f"<SweepResult: {result.summary}>"
    same_numbers(run(tmp_path / "s").rows, result.rows)
    assert trace() == []


def test_more_seeds_and_cells_run_only_what_is_new(tmp_path: Path, trace) -> None:
    run(tmp_path / "s")
    trace()
    result = run(tmp_path / "s", seeds=4, product={"load": [0.1, 0.5, 0.9], "n_spins": [3, 5]})
    assert len(trace()) == 4 + 2 * 5
    fresh = run(tmp_path / "t", seeds=4, product={"load": [0.1, 0.5, 0.9], "n_spins": [3, 5]})
    same_numbers(result.rows, fresh.rows)
    assert len(run(tmp_path / "s").rows) < len(result.rows)  # a result is of its grid


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_bits_do_not_depend_on_the_workers(jobs: int, tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    many = sweep(grid(), store=tmp_path / "many", jobs=jobs, heartbeat=0)
    same_numbers(one.rows, many.rows)


def test_rows_hold_what_simulate_returned(tmp_path: Path) -> None:
    rows = run(tmp_path / "s").rows
    expected = toy_sweep.simulate(toy_sweep.Params(0.5, 5), 2)
    chosen = rows[(rows["load"] == 0.5) & (rows["n_spins"] == 5) & (rows["seed"] == 2)]
    (overlap,) = chosen[chosen["observable"] == "overlap"].itertuples()
    e = expected["overlap"]
    assert (overlap.value, overlap.stderr, overlap.n_eff) == (e.value, 0.1, 5)
    assert (overlap.status, overlap.note, overlap.what) == ("under-sampled", e.note, "simulation")
    assert overlap.widths == (3, 4) and overlap.seconds > 0
    profile = chosen[chosen["observable"] == "profile"]
    np.testing.assert_array_equal(profile["value"], expected["profile"].value)
    np.testing.assert_array_equal(profile["stderr"], expected["profile"].stderr)
    assert profile["index"].tolist() == list(range(5))


def test_failures_are_recorded_and_the_sweep_goes_on(tmp_path: Path, trace, monkeypatch) -> None:
    monkeypatch.setenv("TOY_BROKEN", "1")
    product = {"kind": ["plain", "stuck", "broken"]}
    with pytest.warns(UserWarning, match=r"12 .* 5 ok, 2 under-sampled, 4 not converged, 1 failed"):
        result = run(tmp_path / "s", product=product)
    assert len(trace()) == 12
    failed = result.failed.set_index(["kind", "what", "seed"]).sort_index()
    assert len(failed) == 5
    one = failed.loc[("broken", "simulation", 1)]
    assert one["status"] == "failed" and "RuntimeError: a bug (toy_sweep.py" in one["note"]
    assert set(failed.loc["stuck", "status"]) == {"not converged"}
    assert "residual 0.1" in failed.loc["stuck", "note"].iloc[0]
    stuck = result.rows[result.rows["kind"] == "stuck"]
    assert set(stuck["observable"]) == {"overlap", "profile"} and stuck["value"].isna().all()
    # failed tasks are tried again, also after a compaction, those not converged are not
    monkeypatch.delenv("TOY_BROKEN")
    with pytest.warns(UserWarning, match=r"6 ok, 2 under-sampled, 4 not converged;"):
        again = sweep(grid(product=product), store=tmp_path / "s", backend="serial", compact=True)
    assert trace() == ["0.1 1"]
    assert len(again.failed) == 4 and again.missing.empty
    with pytest.warns(UserWarning, match=r"6 ok, 2 under-sampled, 4 not converged;"):
        same_numbers(run(tmp_path / "s", product=product).rows, again.rows)
    assert trace() == []


def test_a_result_that_breaks_the_contract_is_a_failure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(toy_sweep, "simulate", lambda p, seed: {"overlap": 0.3})
    with pytest.warns(UserWarning, match="12 failed"):
        result = run(tmp_path / "s")
    assert "a dict of name -> Estimate" in result.failed["note"].iloc[0]


def test_truncated_shards_are_run_again(tmp_path: Path, trace) -> None:
    result = run(tmp_path / "s")
    trace()
    for path in list((tmp_path / "s" / "shards").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="3 damaged files"):
        same_numbers(run(tmp_path / "s").rows, result.rows)
    assert len(trace()) == 3


def test_a_flagged_result_is_counted_under_its_status(tmp_path: Path, monkeypatch) -> None:
    right = toy_sweep.theory

    def theory(p):
        found = right(p)
        overlap = Estimate(found["overlap"].value, status="no retrieval state")
        return {**found, "overlap": overlap} if p.load == 0.5 else found

    monkeypatch.setattr(toy_sweep, "theory", theory)
    result = run(tmp_path / "s", seeds=1)
    assert result.summary == "8 tasks of toy_sweep: 6 ok, 2 no retrieval state"
    assert result.failed.empty and result.missing.empty
    result = run(tmp_path / "t", seeds=0, product={"load": [0.5]})
    assert result.summary == "1 tasks of toy_sweep: 0 ok, 1 no retrieval state"


def test_theory_alone(tmp_path: Path) -> None:
    result = run(tmp_path / "s", seeds=0)
    assert set(result.rows["what"]) == {"theory"}
    assert dict(result.to_xarray()["overlap_theory"].sizes) == {"load": 2, "n_spins": 2}


def test_another_version_is_refused_before_anything_runs(tmp_path: Path, trace) -> None:
    run(tmp_path / "s")
    trace()
    header = tmp_path / "s" / "store.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "version": "0.0.1"}))
    with pytest.raises(SweepError, match=r"version 0\.0\.1 of thermolearn"):
        run(tmp_path / "s", seeds=5)
    assert trace() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "jobilb"}, "backend must be one of"),
        ({"jobs": 0}, "jobs must be"),
        ({"jobs": 1.5}, "jobs must be"),
        ({"jobs": -2}, "jobs must be"),
        ({"heartbeat": -1}, "heartbeat must be"),
        ({"heartbeat": float("nan")}, "heartbeat must be"),
        ({"scheduler": "tcp://1.2.3.4:5"}, 'backend="dask"'),
        ({"store": None}, "where to keep the results"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=message):
        sweep(grid(), **{"store": tmp_path / "s", **arguments})
    assert not (tmp_path / "s").exists()


# -- signs of life -----------------------------------------------------------------------------
def test_a_heartbeat_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    slow = grid(fixed={"pause": 0.02})
    sweep(slow, store=tmp_path / "s", backend="serial", heartbeat=0.1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) >= 2
    assert all(set(line) == {"done", "total", "eta_s", "failed"} for line in lines)
    assert all(line["total"] == 16 and line["failed"] == 0 for line in lines)
    assert lines[0]["done"] <= lines[-1]["done"] <= 16 and 0 < lines[1]["eta_s"] < 60
    sweep(slow, store=tmp_path / "t", backend="serial", heartbeat=0)
    assert capsys.readouterr().err == ""


# -- what comes out ----------------------------------------------------------------------------
def test_xarray(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOY_BROKEN", "1")
    swept = {"product": {"widths": [[1, 2], [3]], "kind": ["plain", "stuck", "broken"]}}
    both = {"zip": {"load": [0.1, 0.2], "n_spins": [3, 5]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run(tmp_path / "s", **swept, **both)
    data = result.to_xarray()
    assert dict(data.sizes) == {"widths": 2, "kind": 3, "zip": 2, "seed": 3, "site": 5}
    assert data["overlap"].dims == ("widths", "kind", "zip", "seed")
    assert data["overlap_theory"].dims == ("widths", "kind", "zip")
    assert data["profile_stderr"].dims == ("widths", "kind", "zip", "seed", "site")
    assert data["widths"].values.tolist() == ["(1, 2)", "(3,)"]
    assert data["load"].dims == ("zip",) and data["n_spins"].values.tolist() == [3, 5]
    cell = data.sel(widths="(3,)", kind="plain").isel(zip=0)
    p = toy_sweep.Params(0.1, 3, (3,))
    for seed in range(3):
        e = toy_sweep.simulate(p, seed)
        assert float(cell["overlap"].sel(seed=seed)) == e["overlap"].value
        assert float(cell["overlap_stderr"].sel(seed=seed)) == 0.1
        np.testing.assert_array_equal(
            cell["profile"].sel(seed=seed), [*np.asarray(e["profile"].value), np.nan, np.nan]
        )
    assert float(cell["overlap_theory"]) == 0.9
    assert cell["status"].values.tolist() == ["ok", "ok", "overlap: under-sampled"]
    assert set(data["status"].sel(kind="stuck").values.ravel()) == {"not converged"}
    assert set(data["status"].sel(kind="broken", seed=1).values.ravel()) == {"failed"}
    assert set(data["status_theory"].sel(kind="broken").values.ravel()) == {"ok"}
    assert data["overlap"].sel(kind="stuck").isnull().all()
    assert data.attrs["version"] and json.loads(data.attrs["definition"])["system"] == "toy_sweep"


def test_xarray_of_a_sweep_half_done(tmp_path: Path) -> None:
    run(tmp_path / "s", product={"load": [0.1], "n_spins": [3]})
    plan = make_plan(grid(), tmp_path / "s")
    assert (plan.total, len(plan.todo)) == (16, 12)
    from thermolearn.study.store import open_store
    from thermolearn.study.sweep import _collect

    opened = open_store(plan.path, plan.header)
    assert opened is not None
    result = _collect(plan.grid, opened)
    assert len(result.missing) == 12 and set(result.missing["what"]) == {"theory", "simulation"}
    assert "12 missing" in result.summary
    data = result.to_xarray()
    assert (data["status"] == "missing").sum() == 9 and data["overlap"].isnull().sum() == 9
    empty = _collect(plan.grid, _empty(tmp_path / "e"))
    assert len(empty.missing) == 16 and (empty.to_xarray()["status"] == "missing").all()


def _empty(path: Path):
    from thermolearn.study.store import open_store

    store = open_store(path, header_of(toy_sweep))
    assert store is not None
    return store


def test_saving(tmp_path: Path) -> None:
    result = run(tmp_path / "s")
    path = result.save(tmp_path / "rows.parquet")
    about = json.loads(parquet.read_metadata(path).metadata[b"thermolearn"])
    assert about["version"] == result.header.version and about["source"] == result.header.source
    assert about["definition"]["product"]["load"] == [0.1, 0.5]
    back = pd.read_parquet(path)
    np.testing.assert_array_equal(back["value"], result.rows["value"])
    assert list(back.columns) == list(result.rows.columns)
    assert len(pd.read_csv(result.save(tmp_path / "rows.csv"))) == len(back)
    with pytest.raises(ValueError, match=r"\.parquet or \.csv"):
        result.save(tmp_path / "rows.xlsx")


# -- the command -------------------------------------------------------------------------------
FILE = """
[sweep]
system = "toy_sweep"
seeds = 2
[product]
load = [0.1, 0.5]
"""


@pytest.fixture
def command(tmp_path: Path):
    import typer

    from thermolearn.cli_sweep import sweep as function

    (tmp_path / "toy.toml").write_text(FILE)
    app = typer.Typer()
    app.command()(function)

    def call(*arguments: str):
        return CliRunner().invoke(app, [str(tmp_path / "toy.toml"), *arguments])

    return call


def test_the_command(command, tmp_path: Path) -> None:
    shown = command("--dry-run")
    assert shown.exit_code == 0
    assert "2 cells, 2 seeds, 6 tasks: 0 done, 6 to do" in shown.output
    assert not (tmp_path / "toy.store").exists()
    rows = tmp_path / "rows.parquet"
    shown = command("--backend", "serial", "--compact", "--output", str(rows))
    assert shown.exit_code == 0, shown.output
    assert "6 tasks of toy_sweep: 6 ok" in shown.output
    assert len(pd.read_parquet(rows)) == 6 * 11
    assert len(list((tmp_path / "toy.store").glob("*.parquet"))) == 1
    assert "6 done, 0 to do" in command("--dry-run").output


def test_the_command_merges(command, tmp_path: Path, trace) -> None:
    other = Grid(toy_sweep, product={"load": [0.1]}, seeds=2)
    sweep(other, store=tmp_path / "other", backend="serial")
    trace()
    shown = command("--backend", "serial", "--merge", str(tmp_path / "other"))
    assert "merged: 3 finished tasks came in" in shown.output and len(trace()) == 3


def test_the_command_says_what_is_damaged_and_goes_on(command, tmp_path: Path, trace) -> None:
    assert command("--backend", "serial", "--compact").exit_code == 0
    (path,) = (tmp_path / "toy.store").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    trace()
    shown = command("--backend", "serial")
    assert shown.exit_code == 0 and len(trace()) == 6
    (line,) = shown.stderr.splitlines()
    assert line.startswith("warning: 1 damaged file in the store ") and "run again" in line
    assert "6 tasks of toy_sweep: 6 ok" in shown.stdout
    assert len(list((tmp_path / "toy.store" / "damaged").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "-2"], "jobs must be a positive integer, or -1"),
        (["--jobs", "0", "--dry-run"], "jobs must be a positive integer, or -1"),
        (["--heartbeat", "0"], "--heartbeat 0 must be"),
        (["--heartbeat", "-1"], "--heartbeat -1 must be"),
        (["--heartbeat", "nan"], "--heartbeat nan must be"),
        (["--backend", "slurm", "--dry-run"], "backend must be one of"),
        (["--backend", "slurm"], "backend must be one of"),
        (["--output", "rows.xlsx"], "saved as .parquet or .csv"),
        (["--merge", "nowhere"], "nowhere is not a store"),
        (["--scheduler", "tcp://x:1"], "dask"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(command, arguments, message) -> None:
    shown = command(*arguments)
    assert shown.exit_code == 2 and message in shown.output
    assert [line for line in shown.output.splitlines() if line][-1].startswith("error: ")
    assert shown.output.count("error") == 1


@pytest.mark.slow
def test_a_large_grid_is_planned_and_read_in_seconds(tmp_path: Path) -> None:
    many = grid(product={"load": {"start": 0, "stop": 1, "num": 100}}, seeds=9)
    sweep(many, store=tmp_path / "s", backend="serial", compact=True, heartbeat=0)
    start = time.perf_counter()
    assert len(make_plan(many, tmp_path / "s").todo) == 0
    assert time.perf_counter() - start < 5
