"""Finding the systems of the catalogue without importing them, and checking their contract.

A system is a module or package under `thermolearn.systems` with a literal ``ABOUT`` at its top
level. It defines ``Params`` (a frozen dataclass), ``theory(p)``, ``simulate(p, seed)`` and the
functions named in ``ABOUT["figures"]``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from thermolearn import __version__
from thermolearn.study.about import about_violations


@dataclasses.dataclass(frozen=True)
class Entry:
    """A system of the catalogue, as far as it can be read without importing it.

    Attributes
    ----------
    name : str
        ``family.system``, such as ``"memory.hopfield"``.
    module : str
        Dotted name of the module.
    path : Path
        The file that holds ABOUT: the module, or the ``__init__.py`` of the package.
    about : dict
        The literal ABOUT.
    """

    name: str
    module: str
    path: Path
    about: dict[str, Any]

    @property
    def title(self) -> str:
        return str(self.about.get("title", self.name))

    @property
    def papers(self) -> list[str]:
        return list(self.about.get("papers", []))

    @property
    def sources(self) -> list[Path]:
        """The files of the system and those that its family shares, sorted."""
        family = self.path.parent.parent if self.path.name == "__init__.py" else self.path.parent
        systems = {path for path in family.glob("*.py") if path != self.path and _holds_about(path)}
        shared = [path for path in family.glob("*.py") if path not in systems]
        own = self.path.parent.rglob("*.py") if self.path.name == "__init__.py" else [self.path]
        return sorted({*shared, *own})

    def source_hash(self) -> str:
        """Hash of the version of the library and of `sources`: what was computed with it is valid
        as long as this does not change."""
        digest = hashlib.sha256(__version__.encode())
        for path in self.sources:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]


# -- finding -----------------------------------------------------------------------------------
def catalogue() -> dict[str, Entry]:
    """All systems by name, sorted; reads the sources and imports none of them.

    Raises
    ------
    ValueError
        An ABOUT that is not a literal dict; the message names the file.
    """
    import thermolearn.systems as systems

    entries = {}
    for root in map(Path, systems.__path__):
        for path in sorted(root.rglob("*.py")):
            about = _read_about(path)
            if about is None:
                continue
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            entries[name] = Entry(name, f"{systems.__name__}.{name}", path, about)
    return dict(sorted(entries.items()))


def find(name: str) -> Entry:
    """The system of that name: ``"memory.hopfield"``, or ``"hopfield"`` where that is unique.

    Raises
    ------
    ValueError
        No such system, or several of that short name; the message says which are meant or close.
    """
    entries = catalogue()
    wanted = name.strip().lower().replace("-", "_")
    if wanted in entries:
        return entries[wanted]
    matches = [entry for entry in entries.values() if entry.name.endswith(f".{wanted}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(entry.name for entry in matches)
        raise ValueError(f"{name!r} is short for several systems: {names}; give one in full")
    known = {short: full for full in entries for short in (full, full.rpartition(".")[2])}
    close = [known[match] for match in difflib.get_close_matches(wanted, known, cutoff=0.5)]
    raise ValueError(f"no system {name!r} in the catalogue{did_you_mean(close, entries)}")


def find_by_paper(paper: str) -> list[Entry]:
    """The systems of a paper: ``"2109.00454"``, ``"arXiv:2109.00454"`` or a DOI.

    Raises
    ------
    ValueError
        No system has this paper.
    """
    entries = catalogue().values()
    wanted = bare_paper(paper)
    found = [entry for entry in entries if wanted in map(bare_paper, entry.papers)]
    if not found:
        papers = sorted({p for entry in entries for p in entry.papers})
        close = difflib.get_close_matches(wanted, map(bare_paper, papers), n=2)
        close = [p for p in papers if bare_paper(p) in close]
        raise ValueError(f"no system of the paper {paper!r}{did_you_mean(close, papers)}")
    return found


def did_you_mean(close: Iterable[str], known: Iterable[str]) -> str:
    """The end of an error message: the close names, or else the known ones."""
    close = list(dict.fromkeys(close))
    if close:
        return f"; did you mean {' or '.join(close)}?"
    known = list(known)
    return f"; known: {', '.join(known)}" if known else "; there is none"


def bare_paper(paper: str) -> str:
    """arXiv:2109.00454v2 -> 2109.00454, doi:10.1103/X -> 10.1103/x."""
    text = re.sub(
        r"^(https?://)?(www\.)?((export\.)?arxiv\.org/(abs|pdf)/|(dx\.)?doi\.org/)|^(arxiv:|doi:)",
        "",
        paper.strip().lower(),
    )
    text = re.sub(r"^arxiv:", "", text)
    return re.sub(r"^(\d{4}\.\d{4,5}|[a-z-]+(?:\.[a-z-]+)?/\d{7})v\d+$", r"\1", text)


def _holds_about(path: Path) -> bool:
    return re.search(r"^ABOUT\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _read_about(path: Path) -> dict[str, Any] | None:
    """The literal ABOUT of a file; None without one."""
    if not _holds_about(path):
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path}: line {error.lineno}: {error.msg}") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id == "ABOUT" and value is not None:
            try:
                about = ast.literal_eval(value)
            except ValueError:
                about = None
            if not isinstance(about, dict):
                raise ValueError(f"{path}: ABOUT must be a dict of literals, readable as it stands")
            return about
    return None


# -- loading and checking ----------------------------------------------------------------------
def load(system: str | Entry | ModuleType) -> ModuleType:
    """Import a system and check that it keeps the contract.

    Parameters
    ----------
    system : str, Entry or module
        A name for `find`, the name of a module of your own (the working directory is searched
        too), an entry of `catalogue`, or a module.

    Raises
    ------
    ValueError
        No such system, and no such module.
    TypeError
        The module breaks the contract; the message lists in what.
    """
    if not isinstance(system, str | Entry | ModuleType):
        raise TypeError(f"system must be a name or a module, not {type(system).__name__}")
    if isinstance(system, ModuleType):
        module = system
    else:
        module = import_module(_module_name(system) if isinstance(system, str) else system.module)
    broken = list(_violations(module))
    if broken:
        raise TypeError(f"{module.__name__} breaks the contract of a system: {'; '.join(broken)}")
    return module


def _module_name(name: str) -> str:
    """Where a system of the catalogue is, or else the name itself if such a module exists."""
    try:
        return find(name).module
    except ValueError:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            known = find_spec(name) is not None
        except (ImportError, ValueError):
            known = False
        if not known:
            raise
    return name


def short_name(module: ModuleType) -> str:
    """thermolearn.systems.memory.hopfield -> memory.hopfield."""
    return module.__name__.removeprefix("thermolearn.systems.")


def _violations(module: ModuleType) -> Iterable[str]:
    params = getattr(module, "Params", None)
    frozen = dataclasses.is_dataclass(params) and params.__dataclass_params__.frozen  # type: ignore[union-attr]
    if not (frozen and isinstance(params, type)):
        yield "Params is not a frozen dataclass"
    for name in ("theory", "simulate"):
        if not callable(getattr(module, name, None)):
            yield f"{name} is not a function of it"
    about = getattr(module, "ABOUT", None)
    if not isinstance(about, dict):
        yield "it has no dict ABOUT"
        return
    yield from about_violations(about)
    for name in dict(about.get("figures") or {}).values():
        if not callable(getattr(module, str(name), None)):
            yield f"the figure {name!r} is not a function of it"
    if not frozen:
        return
    fields = {field.name: field for field in dataclasses.fields(params)}  # type: ignore[arg-type]
    used = [about.get("size"), *dict(about.get("contrast") or {})]
    for name in used:
        if name not in fields:
            yield f"ABOUT names {name!r}, which is no field of Params"
    size = fields.get(str(about.get("size")))
    if size is not None and tuple(about.get("sizes") or ())[:1] != (size.default,):
        yield f"the first of sizes is not the default of {size.name}"


# -- parameters ----------------------------------------------------------------------------------
def make_params(system: ModuleType, values: Mapping[str, Any] | None = None) -> Any:
    """Params from named values; the others keep their defaults.

    An int is accepted for a float, a list for a tuple; nothing else is converted.

    Raises
    ------
    ValueError
        Unknown names, wrong types, values out of range; the message names the field.
    """
    return _params(system, values or {}, from_text=False)


def params_from_text(system: ModuleType, texts: Mapping[str, str]) -> Any:
    """Params from texts, as a command line gives them: ``{"load": "0.1", "sizes": "3,4"}``.

    Raises
    ------
    ValueError
        As `make_params`.
    """
    return _params(system, texts, from_text=True)


def params_to_text(params: Any) -> dict[str, str]:
    """Every field as text from which `params_from_text` makes the same Params again."""
    return {
        field.name: _to_text(getattr(params, field.name)) for field in dataclasses.fields(params)
    }


def _to_text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_to_text, value))
    return repr(value) if isinstance(value, float) else str(value)


def _params(system: ModuleType, values: Mapping[str, Any], from_text: bool) -> Any:
    hints = typing.get_type_hints(system.Params)
    fields = [field.name for field in dataclasses.fields(system.Params) if field.init]
    name = short_name(system)
    unknown = [key for key in values if key not in fields]
    if unknown:
        close = difflib.get_close_matches(unknown[0], fields)
        raise ValueError(f"{name} has no parameter {unknown[0]!r}{did_you_mean(close, fields)}")
    return system.Params(
        **{key: _convert(name, key, hints[key], v, from_text) for key, v in values.items()}
    )


def _convert(system: str, name: str, hint: Any, value: Any, from_text: bool) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        if from_text:
            return _read_text(hint, value)
        # strict Python types, except that TOML and JSON know lists and no tuples
        value = tuple(value) if isinstance(value, list) else value
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        what = error.errors()[0]["msg"]
        raise ValueError(
            f"parameter {name!r} of {system} must be {kind}, got {value!r} ({what})"
        ) from None


def _read_text(hint: Any, text: str) -> Any:
    from pydantic import TypeAdapter

    args = typing.get_args(hint)
    if type(None) in args and text.strip().lower() in ("", "none"):
        return None
    if typing.get_origin(hint) is not tuple:
        return TypeAdapter(hint).validate_strings(text)
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    kinds = [args[0]] * len(items) if args[-1] is Ellipsis else args
    read = [TypeAdapter(kind).validate_strings(v) for kind, v in zip(kinds, items, strict=False)]
    return TypeAdapter(hint).validate_python((*read, *items[len(read) :]))
