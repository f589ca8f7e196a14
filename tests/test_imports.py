"""Imports point one way, and starting is quick: heavy libraries are loaded by the call that needs
them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import thermolearn

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "thermolearn"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import from its own layer and from lower ones. Data, models and training stand beside
# the report: the command line joins them.
LAYER = {
    "core": 0,
    "measure": 1,
    "predict": 1,
    "tables": 1,
    "systems": 2,
    "study": 3,
    "report": 4,
    "data": 4,
    "forecast": 4,
    "models": 4,
    "train": 4,
}
TOP = 5  # the modules of the command line, and anything new until it is given a layer
# Only the command line joins these; they know nothing of each other.
APART = [{"report"}, {"data", "models", "train"}]
# `probe.report()` writes the report: the user's one line, and the only look upwards.
UPWARDS = {("measure/probe.py", "report")}
HEAVY = (
    "torch",
    "scipy",
    "numpy",
    "sklearn",
    "matplotlib",
    "pyarrow",
    "pandas",
    "numba",
)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def absolute_name(path: Path, node: ast.ImportFrom) -> str:
    """The module a `from` import names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parents = ["thermolearn", *path.relative_to(PACKAGE).parts[:-1]]
    kept = parents[: len(parents) + 1 - node.level]
    return ".".join([*kept, node.module] if node.module else kept)


def imported_names(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file: in functions, for types, by `import_module` too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = absolute_name(path, node)
            names.add(module)
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return names


def own_parts(names: set[str]) -> set[str]:
    """Parts of thermolearn among dotted names: thermolearn.core.x -> core."""
    parts = {name.split(".")[1] for name in names if name.startswith("thermolearn.")}
    return {part for part in parts if part != "__version__" and part not in thermolearn.__all__}


def violations(part: str, imported: set[str]) -> set[str]:
    """The imported parts that a part must not know."""
    level = LAYER.get(part, TOP)
    wrong = {other for other in imported if LAYER.get(other, TOP) > level}
    for side in APART:
        if part in side:
            wrong |= imported & set().union(*(other for other in APART if other is not side))
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return  # the lazy table of public names points anywhere
    wrong = violations(part, own_parts(imported_names(path)))
    wrong -= {other for file, other in UPWARDS if file == path.relative_to(PACKAGE).as_posix()}
    assert not wrong, f"{path.relative_to(ROOT)} must not import {sorted(wrong)}"


def test_a_wrong_import_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    for line in ("from thermolearn.report import page", "import_module('thermolearn.report')"):
        source.write_text(f"def f():\n    {line}\n")
        found = own_parts(imported_names(source))
        assert violations("core", found) == violations("train", found) == {"report"}
        assert violations("cli", found) == set()
    source.write_text("from thermolearn.study.compare import judge\n")
    found = own_parts(imported_names(source))
    assert violations("systems", found) == violations("measure", found) == {"study"}
    assert violations("study", found) == set()


def test_every_requirement_is_imported_and_every_import_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {text.split(">")[0].replace("-", "_") for text in project["dependencies"]}
    required = {{"scikit_learn": "sklearn"}.get(name, name) for name in required}
    imported = {name.split(".")[0] for path in MODULES for name in imported_names(path)}
    third_party = imported - set(sys.stdlib_module_names) - {"thermolearn", ""}
    third_party -= {"click", "markupsafe"}  # parts of typer and jinja2
    development = {"test", "docs", "browser", "dev"}
    extras = {
        re.split(r"[\[<>=]", text)[0].replace("-", "_")
        for name, group in project.get("optional-dependencies", {}).items()
        if name not in development
        for text in group
    }
    extras = {{"mlflow_skinny": "mlflow"}.get(name, name) for name in extras}
    missing = third_party - required - extras
    assert not missing, "imported, but neither a dependency nor an extra in pyproject.toml"
    assert required - third_party == set(), "a dependency in pyproject.toml, but never imported"


def run_python(code: str) -> tuple[str, float]:
    """Output and CPU seconds of a fresh interpreter (CPU time: other processes do not count)."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    after = os.times()
    used = after.children_user + after.children_system
    return done.stdout, used - before.children_user - before.children_system


@pytest.mark.parametrize(
    "code",
    [
        "import thermolearn",
        "import sys; sys.argv = ['thermolearn', '--help']\n"
        "from thermolearn.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code",
        "import sys; sys.argv = ['thermolearn', 'list']\n"
        "from thermolearn.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code",
    ],
    ids=["import", "help", "list"],
)
def test_starting_is_quick_and_light(code: str) -> None:
    loaded = f"\nimport sys\nprint('loaded', *sorted({HEAVY!r} & sys.modules.keys()))"
    loaded = loaded.replace(repr(HEAVY), repr(set(HEAVY)))
    output, seconds = run_python(code + loaded)
    assert output.splitlines()[-1].split() == ["loaded"]
    for _ in range(2):  # the best of three: the first may read the disk
        seconds = min(seconds, run_python(code)[1])
        time.sleep(0.01)
    assert seconds < 0.5


def test_public_names_resolve() -> None:
    for name in thermolearn.__all__:
        assert getattr(thermolearn, name) is not None
    assert set(thermolearn.__all__) <= set(dir(thermolearn))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = thermolearn.no_such_name
