"""`thermolearn predict`: the curve of one's own data, in words, as a figure and as numbers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from thermolearn.cli import app
from thermolearn.cli_predict import default_sizes
from thermolearn.core.estimate import Estimate
from thermolearn.predict import PoolCurve


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def table(tmp_path):
    """80 rows: a smooth target of two numbers and a text, with a little noise."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 80))
    color = rng.choice(["red", "blue"], size=80)
    y = 30 + 10 * (a - b + (color == "red") + 0.1 * rng.normal(size=80))
    path = tmp_path / "houses.csv"
    rows = [f"{p:.4f},{q:.4f},{c},{v:.4f}" for p, q, c, v in zip(a, b, color, y, strict=True)]
    path.write_text("\n".join(["a,b,color,price", *rows]) + "\n")
    return path


def test_a_file_of_ones_own(table, tmp_path):
    found = run(
        "--data", table, "--target", "price", "--model", "mlp:32", "--n", "20,40,80,200,100000",
        "--target-error", 0.1, "--plot", tmp_path / "c.svg", "--json", tmp_path / "c.json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "80 rows (the pool), 4 inputs" in found.output
    assert "text column 'color' became 2 columns" in found.output
    assert "each feature minus its mean, divided by its standard deviation" in found.output
    printed = found.output.split("\nrows ")[1].splitlines()
    lines = {line.split()[0]: line for line in printed if line[:1].isdigit()}
    assert list(lines) == ["20", "40", "80", "200", "100000"]
    assert "extrapolated" in lines["200"] and "refused" in lines["100000"]
    assert "extrapolated" not in lines["80"] and "refused" not in lines["80"]
    assert re.search(r"rows for error / variance 0.1, one network: \d+ \[", found.output)
    assert re.search(r"root mean squared error \d", found.output)
    assert (tmp_path / "c.svg").read_text().lstrip().startswith("<?xml")
    written = json.loads((tmp_path / "c.json").read_text())
    assert PoolCurve.from_dict(written["curve"]).pool == 80
    alone = written["leave_one_out"]["test_error"]
    assert f"error {Estimate(alone['value'], alone['stderr'])}" in found.output
    assert written["rows_needed"]["target"] == 0.1 and written["settings"]["seed"] == 0
    assert len(written["status"]) == 5 and "scaling" in written["settings"]
    errors = written["curve"]["test_error"]
    assert PoolCurve.from_dict(written["average"]).test_error[0] < errors[0]
    assert written["curve"]["n"] == [20, 40, 80, 200, 100000]
    assert errors[4] is None and all(np.diff(errors[:4]) < 0) and 0 < errors[2] < 0.1


def test_measured_points_stand_beside_the_curve(table, tmp_path):
    new = np.random.default_rng(1).normal(size=(30, 2))
    (tmp_path / "new.csv").write_text("a,b,color\n" + "".join(f"{a},{b},red\n" for a, b in new))
    found = run(
        "--data", table, "--target", "price", "--model", "mlp:64", "--n", "20,40", "--validate",
        "--draws", 2, "--unlabelled", tmp_path / "new.csv", "--plot", tmp_path / "c.png",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    (line,) = [line for line in found.output.splitlines() if line.startswith("40 ")]
    value = r"(\d*\.\d+)(?:\(\d+\))?"
    single, average, machine, network = re.fullmatch(
        rf"40\s+{value}\s+\[.*\]\s+{value}\s+{value}\s+{value}\s+\w.*", line
    ).groups()
    assert float(machine) == pytest.approx(float(average), rel=0.5)
    assert float(network) == pytest.approx(float(single), rel=1.0)
    assert float(single) > float(average)
    assert "squared error on these inputs" in found.output


def test_classes_have_an_error_rate(tmp_path):
    found = run("--data", "iris", "--model", "mlp:16", "--n", "30,150", "--plot",
                tmp_path / "c.pdf", "--target-error", 0.08)  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "error rate" in found.output and "rows for error rate 0.08, one" in found.output
    assert "error rate 0.0" in found.output  # leave-one-out: some percent of the irises
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--n", "10,x"], "--n 10,x: give positive whole numbers"),
     (["--n", "0"], "--n 0: give positive whole numbers"),
     (["--kernel", "rbf"], "kind must be ntk or nngp, got 'rbf'"),
     (["--ridge", "-1"], "ridge"),
     (["--target-error", "-1"], "--target-error must be positive"),
     (["--plot", "c.txt"], "must end in .pdf, .svg or .png"),
     (["--model", "transformer:3"], "model 'transformer:3'"),
     (["--confidence", "1.5"], "confidence"),
     (["--draws", "1", "--validate"], "draws"),
     (["--unlabelled", "none.csv"], "no file")],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run("--data", "iris", "--model", "mlp:8", *arguments)
    assert found.exit_code == 2, found.output
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_model_without_a_kernel_names_its_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\n"
        "def make(n_inputs, n_outputs):\n"
        "    return nn.Sequential(nn.Linear(n_inputs, 8), nn.BatchNorm1d(8), nn.ReLU(),\n"
        "                         nn.Linear(8, n_outputs))\n"
    )
    found = run("--data", "iris", "--model", "own_model:make")
    assert found.exit_code == 2 and "BatchNorm" in found.stderr and "'1'" in found.stderr


def test_a_missing_value_and_a_constant_target(table, tmp_path):
    text = table.read_text().splitlines()
    (tmp_path / "gap.csv").write_text("\n".join([*text, ",1.0,red,3.0"]) + "\n")
    found = run("--data", tmp_path / "gap.csv", "--target", "price")
    assert found.exit_code == 2 and "'a' is missing or NaN at row 82" in found.stderr
    same = [text[0], *(line.rsplit(",", 1)[0] + ",5" for line in text[1:])]
    (tmp_path / "same.csv").write_text("\n".join(same) + "\n")
    found = run("--data", tmp_path / "same.csv", "--target", "price", "--task", "regression")
    assert found.exit_code == 2 and "nothing to learn" in found.stderr


def test_repeated_rows_are_said(table, tmp_path):
    lines = table.read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([*lines, *lines[1:]]) + "\n")
    found = run("--data", tmp_path / "twice.csv", "--target", "price", "--model", "mlp:8", "--plot",
                tmp_path / "c.svg")  # fmt: skip
    assert found.exit_code == 0 and "80 rows repeat the inputs of another" in found.output
    assert found.output.count("repeated rows: too optimistic") == 5


def test_a_large_initial_output_and_a_narrow_network_are_said(table, tmp_path):
    arguments = ("--data", table, "--target", "price", "--n", "20", "--plot", tmp_path / "c.svg")
    wide = run(*arguments, "--model", "mlp:64", "--sigma-w2", 4)
    assert "initial output of one network adds up to" in wide.output
    narrow = run(*arguments, "--model", "mlp:64,3")
    assert "narrow network" in narrow.output and "layer '2' has 3 neurons" in narrow.output
    plain = run(*arguments, "--model", "mlp:64")
    assert "adds up to" not in plain.output and "narrow network" not in plain.output


def test_outputs_that_do_not_fit_the_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one_output.py").write_text(
        "from torch import nn\ndef make(n_inputs):\n    return nn.Linear(n_inputs, 1)\n"
    )
    found = run("--data", "iris", "--model", "one_output:make")
    assert found.exit_code == 2 and "has 1 outputs for one row; these data need 3" in found.stderr


def test_default_sizes():
    assert default_sizes(150) == [10, 20, 40, 80, 150]
    assert default_sizes(1797)[-2:] == [1280, 1797] and len(default_sizes(10**5)) == 7
