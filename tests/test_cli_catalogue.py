"""The commands of the catalogue: what they print, write and return, and errors in one line."""

import ast
import json
import os
import subprocess
import sys
import typing
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from thermolearn.cli import app
from thermolearn.cli_catalogue import read_parameters
from thermolearn.cli_describe import describe, parameters
from thermolearn.core.estimate import Estimate
from thermolearn.study.contract import Entry, catalogue, load


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


def kind_of(hint):
    """int, or tuple[float, ...]"""
    return str(hint) if typing.get_args(hint) else hint.__name__


def test_list(only_coin):
    lines = run("list").stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["toy.coin", "Flips of a biased coin"]
    assert lines[1].strip() == "arXiv:2109.00454"


def test_list_tells_of_one_system(coin):
    shown = run("list", "coin").stdout.splitlines()
    assert shown[:3] == [
        "toy.coin: Flips of a biased coin",
        "papers: arXiv:2109.00454",
        "- The share of heads is the bias.",
    ]
    for line in (
        "  bias: float = 0.7",
        "  faces: tuple[str, ...] = ('tail', 'head')",
        "  bias in (0, 1): probability of heads; n_flips > 0; faces names; fail_at: a seed.",
        "thermolearn show toy.coin --bias 0.7",
    ):
        assert line in shown
    assert "did you mean toy.coin?" in error("list", "coim")


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda e: e.name)
def test_list_tells_of_every_parameter_and_figure(entry):
    module = load(entry)
    found, rest = parameters(entry)
    assert {one.name: ast.literal_eval(one.default) for one in found} == asdict(module.Params())
    hints = typing.get_type_hints(module.Params)
    assert {one.name: one.kind for one in found} == {n: kind_of(h) for n, h in hints.items()}
    assert all(one.meaning for one in found) and not rest
    shown = run("list", entry.name).stdout
    for number, name in module.ABOUT["figures"].items():
        words = " ".join(getattr(module, name).__doc__.split("\n\n")[0].split())
        assert words and f" {number} {words}" in " ".join(shown.split())
    for paper in entry.papers:
        assert paper in shown


def test_list_follows_imports_and_reads_every_style_of_fields(tmp_path, monkeypatch):
    package = tmp_path / "own_systems" / "one"
    package.mkdir(parents=True)
    (tmp_path / "own_systems" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from .parts import P as Params\n")
    (package / "parts.py").write_text(
        "class P:\n"
        '    """What it is.\n\n    Attributes\n    ----------\n'
        "    a, b : float\n        Both.\n\n        In [0, 1].\n"
        '    c\n        Third.\n\n    Notes\n    -----\n    d : none of it\n    """\n'
        "    a: float = 0.1\n    b: float = field(default=0.2)\n"
        "    c: tuple[int, ...] = field(default_factory=tuple)\n"
        "    d: float = field(init=False)\n    e: ClassVar[int] = 3\n    f: int\n"
    )
    entry = Entry("own", "own_systems.one", package / "__init__.py", {"figures": {"1": "none"}})
    found, rest = parameters(entry)
    assert [(p.name, p.kind, p.default, p.meaning) for p in found] == [
        ("a", "float", "0.1", "Both. In [0, 1]."),
        ("b", "float", "0.2", "Both. In [0, 1]."),
        ("c", "tuple[int, ...]", "tuple", "Third."),
        ("f", "int", "(needed)", ""),
    ]
    assert rest == ""
    assert describe(entry).splitlines()[-1] == "thermolearn show own --a 0.1"


OWN = """
from dataclasses import dataclass
from thermolearn.core.estimate import Estimate
ABOUT = {"title": "Mine", "papers": ["arXiv:2109.00454"], "claims": [], "axes": {}, "size": "n",
         "sizes": (1, 2), "allowance": {}, "contrast": {}, "seeds": 24, "figures": {}}
@dataclass(frozen=True)
class Params:
    "n: the size"
    n: int = 1
def theory(p):
    return {"m": Estimate(1.0)}
def simulate(p, seed):
    return {"m": Estimate(1.0 + 1e-12 * seed)}
"""


def test_own_modules_are_told_of_and_cited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_of_the_cli.py").write_text(OWN)
    assert run("cite", "own_of_the_cli").stdout.startswith("@misc{a,")
    shown = run("list", "own_of_the_cli").stdout
    assert "own_of_the_cli: Mine" in shown and "  n: int = 1\n  n: the size" in shown
    assert "has no figure" in error("show", "own_of_the_cli", "--plot", tmp_path / "x.pdf")
    sys.modules.pop("own_of_the_cli")


def test_show_chooses_among_the_figures_and_says_whose_parameters(coin, tmp_path, monkeypatch):
    right = coin.figure
    monkeypatch.setitem(coin.ABOUT, "figures", {"1": "figure", "2b": "other"})
    monkeypatch.setattr(coin, "other", lambda quick: right(quick), raising=False)
    monkeypatch.setattr(coin, "figure", lambda quick: 1 / 0)
    plot = tmp_path / "x.svg"
    result = run("show", "coin", "--seeds", 8, "--plot", plot, "--figure", "2b")
    assert f"figure 2b, at its own parameters: {plot}" in result.stdout and plot.exists()
    monkeypatch.setattr(coin, "simulate", lambda p, seed: 1 / 0)  # refused before anything runs
    wrong = error("show", "coin", "--plot", plot, "--figure", "3")
    assert "no figure '3'; there are 1, 2b" in wrong
    assert "give --plot" in error("show", "coin", "--figure", "1")


def test_help_says_where_the_parameters_are():
    assert "thermolearn list SYSTEM" in " ".join(run("show", "--help").stdout.split())


@pytest.mark.parametrize("command", [["show", "coin"], ["reproduce", "2109.00454"]])
@pytest.mark.parametrize("jobs", ["-2", "0"])
def test_numbers_of_jobs(only_coin, command, jobs):
    assert "jobs must be a positive integer, or -1" in error(*command, "--jobs", jobs)


def test_reproduce_checks_its_folder_before_it_computes(only_coin, tmp_path, monkeypatch):
    monkeypatch.setattr(only_coin, "simulate", lambda p, seed: 1 / 0)
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "folder"
    wrong = error("reproduce", "2109.00454", "--output", place)
    assert f"--output {place} cannot be written" in wrong
    error("reproduce", "2109.00454", "--figure", "7", "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        wrong = error("reproduce", "2109.00454", "--output", tmp_path / "closed")
        assert "cannot be written" in wrong


def process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "thermolearn", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_module_is_the_command():
    out, told = process("list").communicate(timeout=60)
    assert out.decode().startswith("dynamics.") and not told


def test_telling_of_a_system_imports_nothing_heavy():
    code = (
        "import sys\nfrom thermolearn.cli import app\n"
        "app(['list', 'hopfield'], standalone_mode=False)\n"
        "print(*{'torch', 'numpy', 'numba', 'matplotlib', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "temperature: float" in done.stdout and done.stdout.splitlines()[-1] == "", done.stderr


@pytest.mark.parametrize("command", [["list"], ["list", "hopfield"], ["cite", "hopfield"]])
def test_an_output_that_nobody_reads_ends_the_command_silently(command):
    running = process(*command)
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait(timeout=60) == 141


def test_a_broken_pipe_elsewhere_is_an_error(coin, monkeypatch):
    def broken(system):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("thermolearn.study.citation.bibtex", broken)
    assert "Broken pipe" in error("cite", "coin")


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
    assert run("cite", "arXiv:2109.00454").stdout == run("cite", "coin").stdout
    assert "no system of the paper" in error("cite", "9999.00454")


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
