"""The pages of the catalogue: every system is run, and its figure and its comparison are shown.

What was computed is kept in build/gallery under the hash of the sources behind it, so that only
systems that changed are run again.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from thermolearn.study.citation import bibtex
from thermolearn.study.compare import compare
from thermolearn.study.contract import Entry, catalogue, load, params_to_text
from thermolearn.study.export import save_picture

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "thermolearn"
CACHE = ROOT / "build" / "gallery"
FAMILIES = {
    "training": "Training",
    "memory": "Associative memory and Boltzmann machines",
    "dynamics": "Dynamics and propagation",
    "inference": "Shift of the inputs, errors of a detector",
    "sampling": "Sampling",
}

INTRODUCTION = """# Catalogue

Published systems of the statistical mechanics of learning, each with its theory and its experiment
side by side. Figures and tables on these pages were made by running the systems while the pages
were built: lines are theory, points are simulations with the standard error between seeds.

```sh
thermolearn list
thermolearn show memory.hopfield --load 0.05 --plot hopfield.pdf
```
"""


@cache
def pages() -> dict[str, tuple[str, str]]:
    """Page address -> (title, markdown), the index first."""
    _run_all()
    entries = catalogue().values()
    index = [INTRODUCTION]
    found = {}
    for family in sorted({entry.name.partition(".")[0] for entry in entries}, key=_rank):
        index.append(f"## {FAMILIES.get(family, family)}\n")
        index.append('<div class="grid cards" markdown>\n')
        for entry in entries:
            if entry.name.partition(".")[0] == family:
                address = f"{_slug(entry)}.md"
                found[f"catalogue/{address}"] = (entry.title, _page(entry))
                picture = f"[![{entry.title}](images/{_slug(entry)}-1.svg)]({address})"
                index.append(f"-   {picture}\n\n    [{entry.title}]({address})\n")
        index.append("</div>\n")
    return {"catalogue/index.md": ("Catalogue", "\n".join(index)), **found}


def pictures() -> dict[str, bytes]:
    """Address -> SVG of the figures of all systems."""
    return {
        f"catalogue/images/{_slug(entry)}-{k}.svg": (_computed(entry) / f"{k}.svg").read_bytes()
        for entry in catalogue().values()
        for k, _ in enumerate(entry.about["figures"], 1)
    }


def module_files(entry: Entry) -> list[Path]:
    """The files of one system, its entry first."""
    if entry.path.name != "__init__.py":
        return [entry.path]
    others = [path for path in sorted(entry.path.parent.glob("*.py")) if path != entry.path]
    return [entry.path, *(path for path in others if not path.name.startswith("_"))]


def behind(files: Iterable[Path]) -> list[Path]:
    """The files and all that they import of the library, however far, sorted."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found and path.exists():
            found.add(path)
            waiting.extend(_imported(path))
    return sorted(found)


def _imported(path: Path) -> Iterator[Path]:
    """Files of the library that one file may mean by its imports, wherever they stand in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            top, *parts = name.split(".")
            if top == SOURCE.name and parts:
                place = SOURCE.joinpath(*parts)
                yield from (place.with_name(f"{place.name}.py"), place / "__init__.py")


def _rank(family: str) -> int:
    return list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)


def _slug(entry: Entry) -> str:
    return entry.name.replace(".", "-")


def _page(entry: Entry) -> str:
    links = ", ".join(f"[{paper}]({_address(paper)})" for paper in entry.papers)
    claims = "\n".join(f"- {claim}" for claim in entry.about["claims"])
    figures = "\n\n".join(
        f"![{entry.title}: figure {number}](images/{_slug(entry)}-{k}.svg)"
        for k, number in enumerate(entry.about["figures"], 1)
    )
    table = (_computed(entry) / "table.txt").read_text(encoding="utf-8")
    module = load(entry)
    defaults = params_to_text(module.Params())
    kinds = {field.name: field.type for field in dataclasses.fields(module.Params)}
    rows = [f"| `--{n.replace('_', '-')}` | {kinds[n]} | `{v}` |" for n, v in defaults.items()]
    parameters = "\n".join(["| Option | Type | Default |", "| --- | --- | --- |", *rows])
    calls = "\n\n".join([*_hidden(entry), *map(_directive, module_files(entry))])
    return f"""# {entry.title}

`{entry.name}`, after {links}

{claims}

{figures}

## Theory against simulation

What `thermolearn show {entry.name}` prints:

```text
{table}
```

## Parameters

{parameters}

Their meaning and ranges are those of `Params` below.

## Cite

```bibtex
{bibtex(entry).rstrip()}
```

## Calls

{calls}
"""


def _directive(path: Path) -> str:
    """What a file defines itself; what a package re-exports is shown where it is made."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    own = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]
    return f"::: {dotted}\n    options:\n      members: {own or 'false'}"


def _hidden(entry: Entry) -> list[str]:
    """The functions of a package that a module of the same name, such as theory.py, hides from the
    directives, written out."""
    from griffe import Function, visit

    own = visit("entry", entry.path, entry.path.read_text(encoding="utf-8")).members
    hidden = [path.stem for path in module_files(entry) if path != entry.path]
    return [_written_out(own[name]) for name in hidden if isinstance(own.get(name), Function)]


def _written_out(function: Any) -> str:
    """Heading, signature and docstring of a function, as the directives show them."""
    given = ", ".join(f"{p.name}: {p.annotation}" for p in function.parameters)
    lines = [
        f"### `{function.name}`",
        f"```python\n{function.name}({given}) -> {function.returns}\n```",
    ]
    for section in function.docstring.parse("numpy") if function.docstring else []:
        if section.kind.value == "text":
            lines.append(section.value)
        elif isinstance(section.value, list):
            items = [
                f"- `{getattr(item, 'name', '') or item.annotation}`: "
                + " ".join(item.description.split())
                for item in section.value
            ]
            lines.append(f"**{section.kind.value.capitalize()}**\n\n" + "\n".join(items))
    return "\n\n".join(lines)


def _address(paper: str) -> str:
    kind, _, name = paper.partition(":")
    return f"https://arxiv.org/abs/{name}" if kind == "arXiv" else f"https://doi.org/{name}"


def _computed(entry: Entry) -> Path:
    """The folder with the table and the figures of a system."""
    return _compute(entry.name)


def _run_all() -> None:
    """Compute what changed, in as many processes as there are cores."""
    names = list(catalogue())
    count = os.cpu_count() or 1
    parts = [part for part in (names[k::count] for k in range(count)) if part]
    # one thread each: the processes are many, the matrices small
    given = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, __file__, *part], env=given) for part in parts]
    if any([process.wait() for process in running]):
        raise RuntimeError("a system of the catalogue could not be run; the reason is above")


@cache
def _compute(name: str) -> Path:
    """Run a system if its sources changed since the last time, and forget what was before."""
    entry = catalogue()[name]
    digest = hashlib.sha256(entry.source_hash().encode())
    judges = [SOURCE / "study" / f"{n}.py" for n in ("compare", "observable", "seeds", "export")]
    for path in [*behind(entry.sources), *judges]:
        digest.update(path.read_bytes())
    folder = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    if not (folder / "table.txt").exists():
        for old in CACHE.glob(f"{name}-*"):
            shutil.rmtree(old)
        folder.mkdir(parents=True)
        module = load(entry)
        for k, function in enumerate(entry.about["figures"].values(), 1):
            save_picture(getattr(module, function)(quick=True), folder / f"{k}.svg")
        # last: its presence says that the folder is complete
        (folder / "table.txt").write_text(str(compare(entry)), encoding="utf-8")
    return folder


if __name__ == "__main__":
    for system in sys.argv[1:]:
        _compute(system)
