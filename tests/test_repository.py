"""What the repository says about itself is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import thermolearn
from thermolearn.study.contract import catalogue

ROOT = Path(__file__).resolve().parent.parent
TEXT = re.compile(r"\.(py|md|toml|txt|yml|cff|sh|j2|css|js|json|html)$|(Makefile|run|LICENSE)$")
SKIPPED = {".venv", ".git", "site", "dist", "build", ".hypothesis", ".ruff_cache", ".pytest_cache"}
PROSE = ["README.md", "docs/index.md", "docs/tutorial.md", "docs/cli.md"]
ARXIV = re.compile(r"arXiv:\s?((?:[a-z-]+/)?\d{4}\.?\d{3,5})")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def text_files() -> list[Path]:
    """The repository's text files, those of git where there is one."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not SKIPPED & set(p.relative_to(ROOT).parts)]
    return [p for p in paths if p.is_file() and TEXT.search(p.name)]


def test_no_machine_paths_and_no_hosts() -> None:
    # Written in pieces, so that this file does not find itself.
    patterns = [
        "/ro" + "ot/",
        "/wo" + "rk/",
        "/ho" + r"me/\w",
        r"\bpypi\.or" + "g",
        r"pythonhosted\.or" + "g",
        r"download\.pytorc" + "h",
        r"deb\.debian\.or" + "g",
        r"registry\.npm" + "js",
        "localho" + r"st:\d",
    ]
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in text_files()
        for match in re.finditer("|".join(patterns), path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_one_version_everywhere() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert thermolearn.__version__ == version
    assert re.search(rf"^version: {re.escape(version)}$", read("CITATION.cff"), re.MULTILINE)
    assert re.search(rf"^## {re.escape(version)}\b", read("CHANGELOG.md"), re.MULTILINE)


def test_every_cited_paper_has_a_reference() -> None:
    cited = {
        name: path.name
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and TEXT.search(path.name)
        for name in ARXIV.findall(path.read_text(encoding="utf-8"))
    }
    listed = set(ARXIV.findall(read("docs/references.md")))
    assert "2004.09280" in cited
    missing = {name: file for name, file in cited.items() if name not in listed}
    assert not missing, f"not in docs/references.md: {missing}"


@pytest.mark.parametrize("name", PROSE)
def test_commands_in_the_prose_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.MULTILINE))
    said = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", read(name), re.MULTILINE))
    assert said <= targets
    if name in ("README.md", "docs/index.md"):
        assert {"demo", "test"} <= said


@pytest.mark.parametrize("command", ["measure", "report", "reproduce", "sweep", "cite", "list"])
def test_options_in_the_prose_exist(command: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from thermolearn.cli import main; main()", command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PATH": ""},
    )
    assert shown.returncode == 0, shown.stderr
    offered = set(re.findall(r"--[a-z][a-z-]+", shown.stdout))
    lines = [line for name in PROSE for line in read(name).splitlines()]
    lines += [line for line in read("Makefile").splitlines() if line.startswith("\t")]
    said = {
        option
        for line in lines
        if f"thermolearn {command}" in line
        for option in re.findall(r"--[a-z][a-z-]+", line)
    }
    assert said <= offered


def test_options_described_on_the_command_line_page_exist() -> None:
    files = sorted((ROOT / "src" / "thermolearn").glob("cli*.py"))
    # the parameters of a system are options of `show`
    files += [path for entry in catalogue().values() for path in entry.sources]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    described = set(re.findall(r"`(--[a-z][a-z0-9-]+)", read("docs/cli.md")))
    unknown = {
        option
        for option in described
        if option not in source and option[2:].replace("-", "_") + ":" not in source
    }
    assert len(described) > 5
    assert not unknown


def test_pins_are_complete_and_plain() -> None:
    pins = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), pins
    names = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    assert "torch==2.13.0" in pins
    assert not {n for n in names if n.startswith("nvidia") or n in ("triton", "torchvision")}
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    wanted = {re.split(r"[\[><=]", r)[0] for r in project["dependencies"] + extras}
    assert wanted - names - {"thermolearn"} == set()


def test_the_readme_shows_a_picture_of_the_report() -> None:
    assert "docs/images/report.png" in read("README.md")
    picture = (ROOT / "docs" / "images" / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
