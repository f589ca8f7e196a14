"""The pages of the catalogue: every system is run, and its figure and its comparison are shown.

What was computed is kept in build/gallery under the hash of the sources behind it, so that only
systems that changed are run again.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import shutil
from functools import cache
from pathlib import Path

from thermolearn.study.citation import bibtex
from thermolearn.study.compare import compare
from thermolearn.study.contract import Entry, catalogue, load, params_to_text
from thermolearn.study.export import save_picture

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "thermolearn"
CACHE = ROOT / "build" / "gallery"
FAMILIES = {"training": "Training", "memory": "Associative memory and Boltzmann machines"}

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
    calls = "\n\n".join(_directive(path) for path in module_files(entry))
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


def _address(paper: str) -> str:
    kind, _, name = paper.partition(":")
    return f"https://arxiv.org/abs/{name}" if kind == "arXiv" else f"https://doi.org/{name}"


def _computed(entry: Entry) -> Path:
    """The folder with the table and the figures of a system."""
    return _compute(entry.name)


@cache
def _compute(name: str) -> Path:
    """Run a system if its sources changed since the last time, and forget what was before."""
    entry = catalogue()[name]
    digest = hashlib.sha256(entry.source_hash().encode())
    shared = [*sorted((SOURCE / "core").glob("*.py")), SOURCE / "study" / "compare.py"]
    for path in shared:
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
