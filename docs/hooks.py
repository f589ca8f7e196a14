"""Build hook: the API pages, from the modules that exist, and the catalogue, by running it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import gallery
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from thermolearn.study.contract import catalogue

SOURCE = Path(__file__).resolve().parent.parent / "src" / "thermolearn"

# The order a reader meets them in; a part without modules makes no page. The systems have pages of
# their own in the catalogue.
PARTS = {
    "measure": "Measuring a run",
    "measure/canonical": "Canonical ensemble and laws",
    "measure/temperature": "Heat engines",
    "measure/noise": "Gradient noise",
    "measure/propagation": "Signal propagation",
    "measure/curvature": "Curvature",
    "measure/learning_rate": "Learning rate",
    "measure/llc": "Local learning coefficient",
    "measure/spectra": "Spectra of weights",
    "measure/hosts": "Frameworks",
    "measure/sinks": "Sinks",
    "predict": "Predicting before training",
    "predict/kernels": "Kernels",
    "predict/kernels/of_module": "Kernel of a module",
    "predict/kernels/empirical": "Empirical tangent kernel",
    "predict/curves": "Learning curves",
    "predict/pool": "Learning curves of real data",
    "predict/shift": "Covariate shift",
    "predict/exponents": "Error exponents and thresholds",
    "systems/memory": "Tools for associative memories",
    "systems/training": "Tools for training",
    "systems/sampling": "Tools for sampling",
    "study": "Comparison, scaling, sweeps",
    "report": "Report",
    "core": "Numerics",
    "": "Data, models, training, command line",
}


def _modules(folder: Path) -> list[Path]:
    """Public modules of a folder: the package, the modules whose names it exports, the others."""
    package = folder / "__init__.py"
    if not package.exists():
        return []
    exporting = [
        folder / f"{node.module.rpartition('.')[2]}.py"
        for node in ast.parse(package.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    systems = {entry.path for entry in catalogue().values()}
    others = [f for f in sorted(folder.glob("*.py")) if not f.name.startswith("_")]
    others = [f for f in others if f not in systems]
    return [package, *dict.fromkeys(f for f in [*exporting, *others] if f in others)]


def _has_docstring(path: Path) -> bool:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is not None


def _dotted(path: Path) -> str:
    parts = ["thermolearn", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _entry(path: Path) -> str:
    """Heading and directive of one module; what a package re-exports is shown where it is made."""
    if path.name == "__init__.py":
        return f"`{_dotted(path)}`\n\n::: {_dotted(path)}\n    options:\n      members: false"
    return f"## `{path.stem}`\n\n::: {_dotted(path)}"


def api_pages() -> dict[str, tuple[str, str]]:
    """Page address -> (title, markdown)."""
    pages = {}
    for part, title in PARTS.items():
        paths = [p for p in _modules(SOURCE / part) if _has_docstring(p)]
        if not [p for p in paths if p.name != "__init__.py"]:
            continue
        body = "\n\n".join(map(_entry, paths))
        name = part.replace("/", "-") or "programs"
        pages[f"api/{name}.md"] = (title, f"# {title}\n\n{body}\n")
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages under API and Catalogue in the navigation."""
    api: list[Any] = [{title: address} for address, (title, _) in api_pages().items()]
    systems: list[Any] = [{title: address} for address, (title, _) in gallery.pages().items()]
    children = {"API": ["api/index.md", *api], "Catalogue": systems}
    nav: list[Any] = config.nav or []
    config.nav = [{name: children.get(name, page) for name, page in e.items()} for e in nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for address, (_, text) in (api_pages() | gallery.pages()).items():
        files.append(File.generated(config, address, content=text))
    for address, picture in gallery.pictures().items():
        files.append(File.generated(config, address, content=picture))
    return files
