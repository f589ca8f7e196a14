"""What `thermolearn list SYSTEM` prints, read from the source: nothing heavy is imported."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thermolearn.study.contract import Entry

WIDTH = 100
Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Parameter:
    """A field of Params: type and default as they stand in the source, meaning with its range."""

    name: str
    kind: str
    default: str
    meaning: str


def describe(entry: Entry) -> str:
    """Title, papers, claims, parameters and figures of a system, as text."""
    about = entry.about
    lines = [f"{entry.name}: {entry.title}"]
    lines += _wrapped(", ".join(entry.papers), "papers: ")
    for claim in about.get("claims", []):
        lines += _wrapped(str(claim), "- ")
    found, rest = parameters(entry)
    lines += ["", "parameters, with their defaults"]
    for one in found:
        lines.append(f"  {one.name}: {one.kind} = {one.default}")
        lines += _wrapped(one.meaning, "      ")
    lines += _wrapped(rest, "  ")
    lines += ["", "figures"]
    for number, name in about.get("figures", {}).items():
        lines += _wrapped(_first_line(_definition(entry, name)), f"  {number}  ")
    numbers = (one for one in found if re.fullmatch(r"[\d.]+", one.default))
    options = [f" --{one.name.replace('_', '-')} {one.default}" for one in numbers]
    lines += ["", f"thermolearn show {entry.name}{''.join(options[:1])}"]
    return "\n".join(lines)


def parameters(entry: Entry) -> tuple[list[Parameter], str]:
    """The fields of Params, and of its docstring what is not about one of them.

    That is nothing if the docstring lists the fields in numpy style, and else all of it.
    """
    node = _definition(entry, "Params")
    if not isinstance(node, ast.ClassDef):
        return [], ""
    text = ast.get_docstring(node) or ""
    meanings = _fields(text)
    found = [
        Parameter(name, ast.unparse(item.annotation), default, meanings.get(name, ""))
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        for name, default in [(ast.unparse(item.target), _default(item.value))]
        if default and "ClassVar" not in ast.unparse(item.annotation)
    ]
    return found, "" if meanings else text


def _default(value: ast.expr | None) -> str:
    """As in the source; "" for a field that cannot be given."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field")):
        return ast.unparse(value) if value is not None else "(needed)"
    given = {word.arg: ast.unparse(word.value) for word in value.keywords}
    if given.get("init") == "False":
        return ""
    return given.get("default") or given.get("default_factory", "(needed)")


def _fields(docstring: str) -> dict[str, str]:
    """Name -> meaning from the section Parameters or Attributes of a docstring in numpy style."""
    lines = docstring.splitlines()
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch("-{3,}", below):
            inside, names = line in ("Parameters", "Attributes"), []
        elif not inside or re.fullmatch("-{3,}", line):
            continue
        elif line[:1].strip():  # "sigma_w2, sigma_b2 : float"
            names = [name.strip() for name in line.partition(":")[0].split(",")]
            found |= dict.fromkeys(names, "")
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _definition(entry: Entry, name: str) -> Definition | None:
    """The class or function of that name in a system, followed to where it is imported from."""
    path, module = entry.path, entry.module
    for _ in range(5):
        package = path.name == "__init__.py"
        root = path.parents[module.count(".") + package]
        wanted = None
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, Definition) and node.name == name:
                return node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        wanted = _absolute(node, module, package), alias.name
        if wanted is None:
            return None
        module, name = wanted
        place = root.joinpath(*module.split("."))
        files = (place.with_suffix(".py"), place / "__init__.py")
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            return None
        path = found
    return None


def _absolute(node: ast.ImportFrom, module: str, package: bool) -> str:
    """The module that a `from` import names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + package]
    return ".".join([*parts, node.module] if node.module else parts)


def _first_line(node: Definition | None) -> str:
    text = ast.get_docstring(node) if node is not None else None
    return text.partition("\n\n")[0] if text else ""


def _wrapped(text: str, start: str) -> list[str]:
    """Paragraphs in lines of WIDTH, the first behind `start`, the others as far in."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines += textwrap.wrap(
            " ".join(paragraph.split()), WIDTH, initial_indent=start,
            subsequent_indent=" " * len(start), break_on_hyphens=False,
        )  # fmt: skip
        start = " " * len(start)
    return lines or ([start.rstrip()] if start.strip() else [])
