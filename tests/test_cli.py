"""The command line, in its own process where the process matters and in this one otherwise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from thermolearn import __version__
from thermolearn.cli import app
from thermolearn.models import build

QUICK = ["--data", "iris", "--model", "mlp:4", "--epochs", "2", "--reference-size", "8"]


def outputs(folder):
    return ["--report", str(folder / "r.html"), "--json", str(folder / "r.jsonl")]


@pytest.fixture(autouse=True)
def threads():
    """A command in this process sets the number of threads for all that follows."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def process(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "thermolearn.cli", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, runpy\nsys.argv = ['thermolearn', 'measure', '--help']\n"
        "try: runpy.run_module('thermolearn.cli', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'pyarrow', 'matplotlib', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert "--weights" in done.stdout
    assert min(seconds) < 0.5


def test_version():
    assert call("--version").output == f"thermolearn {__version__}\n"


def test_measure_from_end_to_end(tmp_path):
    done = process("measure", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "task: classification, because target" in done.stdout
    assert re.search(r"\d\.\d+\(\d+\)", done.stdout)  # a number with its error bar
    assert str(tmp_path / "report.html") in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    header = rows[0]
    assert header["command"].startswith("thermolearn measure --data iris")
    assert header["data"]["rule"].startswith("classification") and header["seed"] == 0
    assert {"snapshot", "losses", "cost"} <= {row["kind"] for row in rows}
    first = (tmp_path / "report.html").read_text()
    assert first.lstrip().lower().startswith("<!doctype html")
    again = process("report", "run.jsonl", "--output", "again.html", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.html").read_text() == first


def test_error_is_one_line_and_code_2(tmp_path):
    done = process("measure", "--data", "no_such_data", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no file 'no_such_data'")
    assert done.stderr.count("\n") == 1 and not done.stdout
    debug = process("measure", "--data", "no_such_data", "--debug", cwd=tmp_path)
    assert debug.returncode and "Traceback" in debug.stderr


@pytest.mark.parametrize("option", ["--report", "--json"])
@pytest.mark.parametrize("kind", ["directory", "no parent", "not writable", "the data"])
def test_output_is_checked_before_training(tmp_path, monkeypatch, option, kind):
    monkeypatch.setattr("thermolearn.train.train", lambda *a, **k: pytest.fail("training began"))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "t.csv"
    data.write_text("a,y\n" + "1,2.5\n2,3.5\n" * 10)
    path, message = {
        "directory": (tmp_path, "is a directory"),
        "no parent": (tmp_path / "absent" / "f", "there is no directory"),
        "not writable": ("/proc/thermolearn-report", "cannot be written"),
        "the data": (data, "is also an input"),
    }[kind]
    done = call("measure", "--data", data, "--target", "y", option, path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {option} {path}") and message in done.stderr
    assert data.read_text().startswith("a,y\n1,2.5")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_report_and_record_need_two_names(tmp_path):
    done = call("measure", *QUICK, "--report", tmp_path / "a", "--json", tmp_path / "a")
    assert done.exit_code == 2 and "--json" in done.stderr and "also --report" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "hinge"], "loss must be one of squared, cross-entropy"),
        (["--model", "mlp:x"], "mlp:64,64"),
        (["--lr", "-1"], "lr must be positive"),
        (["--task", "cluster"], "task must be one of"),
        (["--beta", "-2"], "beta"),
        (["--every", "0"], "every"),
        (["--weights", "absent.pt"], "no weights file absent.pt"),
        (["--optimizer", "adam", "--momentum", "0.5"], "momentum belongs to sgd"),
    ],
)
def test_bad_option_is_one_line(tmp_path, arguments, message):
    done = call("measure", *QUICK, *arguments, *outputs(tmp_path))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_brought_network_is_measured_as_it_is(tmp_path):
    torch.save(build("mlp:4", 4, 3, seed=7).state_dict(), tmp_path / "w.pt")
    done = call("measure", "--data", "iris", "--model", "mlp:4", "--weights", tmp_path / "w.pt",
                "--reference-size", 8, "--no-standardize", *outputs(tmp_path))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "0 steps" in done.output and "numbers as they are" in done.output
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    snapshots = [row for row in rows if row["kind"] == "snapshot"]
    assert {row["step"] for row in snapshots} == {0}
    assert {"learning", "canonical"} <= {row["quantity"] for row in snapshots}


def test_nan_in_mid_run_is_flagged_and_the_report_written(tmp_path):
    done = call("measure", *QUICK, "--epochs", 30, "--lr", 1e3, *outputs(tmp_path))
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert any(row["kind"] == "flag" and "finite" in row["text"] for row in rows)
    assert sum(len(row["step"]) for row in rows if row["kind"] == "losses") == 120
    assert (tmp_path / "r.html").stat().st_size > 1000


def test_ctrl_c_while_snapshots_are_evaluated(tmp_path, monkeypatch):
    from thermolearn.measure.layers import Layers

    measure, calls = Layers.measure, []

    def interrupted(self, window):
        calls.append(window.step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, window)

    monkeypatch.setattr(Layers, "measure", interrupted)
    done = call("measure", *QUICK, *outputs(tmp_path))
    assert done.exit_code == 0 and "ended by Ctrl-C" in done.output, done.output
    assert (tmp_path / "r.html").stat().st_size > 1000
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r.get("quantity") == "layers"] == calls[:3]


@pytest.mark.parametrize("cut", [0, 40, 0.5, -10])
def test_report_of_an_incomplete_record(tmp_path, cut):
    assert call("measure", *QUICK, *outputs(tmp_path)).exit_code == 0
    whole = (tmp_path / "r.jsonl").read_bytes()
    end = int(cut * len(whole)) if isinstance(cut, float) else cut
    (tmp_path / "cut.jsonl").write_bytes(whole[:end])
    done = call("report", tmp_path / "cut.jsonl", "--output", tmp_path / "cut.html")
    if done.exit_code:
        assert done.exit_code == 2 and done.stderr.startswith("error: ")
    else:
        assert (tmp_path / "cut.html").stat().st_size > 1000


def test_report_of_a_file_that_is_not_there(tmp_path):
    done = call("report", tmp_path / "absent.jsonl", "--output", tmp_path / "r.html")
    assert done.exit_code == 2 and "no file" in done.stderr


@pytest.mark.slow
def test_demo_learns_the_digits():
    """Ten splits and initializations, without the probe: all above .95, not one chosen."""
    import thermolearn.train as training
    from thermolearn.data import load

    class Silent:
        def step(self, x, y, loss):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Probe", lambda *a, **k: Silent())
        for seed in range(10):
            data = load("digits", seed=seed)
            model = build("mlp:32,32", 64, 10, seed=seed)
            training.train(model, data, seed=seed)
            with torch.no_grad():
                accuracy = (model(data.x_test).argmax(1) == data.y_test).float().mean()
            assert accuracy > 0.95
