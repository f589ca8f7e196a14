"""The wheel works in an empty environment, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import thermolearn

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed; nothing of the checkout is on its path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT,
        cwd=folder,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--no-input", "-c", ROOT / "constraints.txt"]
    run(*install, "torch", cwd=folder)
    run(*install, wheel, cwd=folder)
    return python


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in (source / "thermolearn").rglob("*")
        if path.is_file() and not any(part.startswith(("__pyc", ".")) for part in path.parts)
    }
    assert "thermolearn/py.typed" in names
    assert any(name.startswith("thermolearn/report/") and ".html" in name for name in names)
    assert expected <= names
    assert not {n for n in names if n.startswith(("tests/", "docs/", "benchmarks/", "tools/"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_measures_in_an_empty_environment(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import thermolearn; print(thermolearn.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where
    command = python.parent / "thermolearn"
    assert thermolearn.__version__ in run(command, "--version", cwd=tmp_path)
    run(
        command, "measure", "--data", "iris", "--model", "mlp:8", "--epochs", "2",
        "--report", "report.html", "--json", "run.jsonl",
        cwd=tmp_path,
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert rows[0]["kind"] == "header" and rows[0]["library"] == thermolearn.__version__
    values = [row["values"] for row in rows if row.get("quantity") == "canonical"][-1]
    assert values["average_loss"]["value"] > 0 and values["temperature"]["value"] > 0
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    run(command, "report", "run.jsonl", cwd=tmp_path)


def test_the_pinned_dependencies_agree_with_each_other(python: Path, tmp_path: Path) -> None:
    assert "No broken requirements" in run(python, "-m", "pip", "check", cwd=tmp_path)
