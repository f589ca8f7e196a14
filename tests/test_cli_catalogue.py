"""The commands of the catalogue: what they print, write and return, and errors in one line."""

import json

import pytest
from typer.testing import CliRunner

from thermolearn.cli import app
from thermolearn.cli_catalogue import read_parameters
from thermolearn.core.estimate import Estimate


@pytest.fixture(autouse=True)
def bib(tmp_path, monkeypatch):
    file = tmp_path / "x.bib"
    file.write_text("@misc{a,\n  eprint = {2109.00454},\n}\n", encoding="utf-8")
    monkeypatch.setattr("thermolearn.study.citation.references_file", lambda: file)


@pytest.fixture
def only_coin(coin, monkeypatch):
    import thermolearn.systems as systems

    monkeypatch.setattr(systems, "__path__", systems.__path__[-1:])
    return coin


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def error(*arguments, code=2):
    lines = run(*arguments, code=code).stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_list(only_coin):
    lines = run("list").stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["toy.coin", "Flips of a biased coin"]
    assert lines[1].strip() == "arXiv:2109.00454"


def test_show_prints_the_table_and_writes_what_is_asked(coin, tmp_path):
    plot, record = tmp_path / "coin.svg", tmp_path / "coin.json"
    result = run(
        "show", "coin", "--bias", "0.4", "--n-flips=200", "--param", "faces=a,b", "--seeds", 8,
        "--plot", plot, "--json", record,
    )  # fmt: skip
    assert "bias=0.4, n_flips=200, faces=('a', 'b')" in result.stdout
    assert "Theory and simulation agree." in result.stdout
    assert "<svg" in plot.read_text()
    assert json.loads(record.read_text())["params"]["bias"] == 0.4
    assert str(plot) in result.stdout and str(record) in result.stdout


def test_show_has_exit_code_1_where_they_disagree_or_cannot_tell(coin, monkeypatch):
    right = coin.theory
    assert "cannot be told" in run("show", "coin", "--fail-at", 1, code=1).stdout
    monkeypatch.setattr(coin, "theory", lambda p: {**right(p), "mean": Estimate(0.0)})
    result = run("show", "coin", code=1)
    assert "disagree in mean" in result.stdout and not result.stderr


def test_reproduce(only_coin, tmp_path):
    result = run("reproduce", "2109.00454", "--output", tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {f"toy-coin-figure-1.{end}" for end in ("pdf", "svg", "parquet", "bib")}
    assert "Theory and simulation agree." in result.stdout
    run("reproduce", "arXiv:2109.00454", "--figure", 1, "--full", "--output", tmp_path / "other")


def test_cite(coin):
    assert run("cite", "coin").stdout == "@misc{a,\n  eprint = {2109.00454},\n}\n"


def test_errors_are_one_line(only_coin, tmp_path):
    assert "no system 'coim' in the catalogue; did you mean toy.coin?" in error("show", "coim")
    assert "did you mean bias?" in error("show", "coin", "--bais", "0.1")
    assert "bias must lie in (0, 1)" in error("show", "coin", "--bias", "-0.1")
    assert "must be float" in error("show", "coin", "--bias", "x")
    assert "--bias needs a value" in error("show", "coin", "--bias")
    assert "given twice" in error("show", "coin", "--bias", "0.1", "--param", "bias=0.2")
    assert "write --param NAME=VALUE" in error("show", "coin", "--param", "bias")
    assert "'0.3'" in error("show", "coin", "0.3")
    assert "seeds must be" in error("show", "coin", "--seeds", 1)
    assert "must end in .pdf" in error("show", "coin", "--plot", tmp_path / "x.jpg")
    assert "no directory" in error("show", "coin", "--json", tmp_path / "no" / "x.json")
    assert "known: arXiv:2109.00454" in error("reproduce", "hep-th/0001001")
    assert "no figure '7'" in error("reproduce", "2109.00454", "--figure", 7)
    assert "name a folder" in error("reproduce", "2109.00454", "--output", tmp_path / "x.bib")
    assert "no system" in error("cite", "coim")


def test_debug_shows_the_traceback(coin):
    result = CliRunner().invoke(app, ["show", "coim", "--debug"])
    assert isinstance(result.exception, ValueError)


def test_interrupted(coin, monkeypatch):
    def simulate(p, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(coin, "simulate", simulate)
    assert error("show", "coin", code=130) == "error: interrupted"


def test_parameters_in_every_spelling():
    given = read_parameters(["a=1", "b-c = x=y"], ["--n-spins", "400", "--load=-0.1", "--t", "-2"])
    assert given == {"a": "1", "b_c": "x=y", "n_spins": "400", "load": "-0.1", "t": "-2"}
