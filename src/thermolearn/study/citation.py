"""The BibTeX entries of a system's papers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from thermolearn.study.contract import Entry, bare_paper, find, find_by_paper


def references_file() -> Path:
    """The file of BibTeX entries that comes with the library."""
    return Path(__file__).resolve().parent.parent / "systems" / "references.bib"


def bibtex(system: str | Entry | ModuleType) -> str:
    """BibTeX of the papers that a system stands on, in its order, ready to be appended to a file.

    The arXiv id or DOI of a paper stands for that paper, if a system is of it.

    Raises
    ------
    ValueError
        No such system, no system of that paper, or a paper without an entry.
    """
    if isinstance(system, ModuleType):
        return bibtex_of(system.ABOUT["papers"])
    if isinstance(system, str) and is_paper(system):
        find_by_paper(system)
        return bibtex_of([system])
    return bibtex_of((find(system) if isinstance(system, str) else system).papers)


def is_paper(text: str) -> bool:
    """Whether a text is an arXiv id or a DOI rather than the name of a system."""
    paper = r"\d{4}\.\d{4,5}|[a-z-]+(\.[a-z-]+)?/\d{7}|10\.\d{4,}/\S+"
    return re.fullmatch(paper, bare_paper(text)) is not None


def bibtex_of(papers: Iterable[str], file: Path | None = None) -> str:
    """BibTeX of papers named ``"arXiv:2109.00454"`` (field eprint) or ``"doi:..."`` (field doi).

    Raises
    ------
    ValueError
        A paper without an entry, or a damaged file.
    """
    file = file or references_file()
    by_paper = {}
    for entry in read_entries(file):
        for field in ("eprint", "doi"):
            if field in entry[1]:
                by_paper[bare_paper(entry[1][field])] = entry[0]
    texts = []
    for paper in papers:
        if bare_paper(paper) not in by_paper:
            raise ValueError(f"{file.name} has no entry of {paper}; add one")
        texts.append(by_paper[bare_paper(paper)])
    return "\n\n".join(dict.fromkeys(texts)) + "\n"


def read_entries(file: Path) -> list[tuple[str, dict[str, str]]]:
    """Text and fields of every entry, the names of fields in lower case.

    Raises
    ------
    ValueError
        Braces that do not match, or a key that appears twice.
    """
    text = file.read_text(encoding="utf-8")
    entries, keys = [], set()
    for start in re.finditer(r"^@(\w+)\s*\{\s*([^,\s]+)\s*,", text, re.MULTILINE):
        end = _closing_brace(text, text.index("{", start.start()))
        if end < 0:
            raise ValueError(f"{file.name}: the braces of {start.group(2)!r} do not match")
        if start.group(2) in keys:
            raise ValueError(f"{file.name}: the key {start.group(2)!r} appears twice")
        keys.add(start.group(2))
        fields = {}
        for match in re.finditer(r"^\s*(\w+)\s*=\s*([{\"])", text[start.end() : end], re.MULTILINE):
            opening = start.end() + match.start(2)
            closing = (
                _closing_brace(text, opening)
                if match.group(2) == "{"
                else text.index('"', opening + 1)
            )
            fields[match.group(1).lower()] = " ".join(text[opening + 1 : closing].split())
        entries.append((text[start.start() : end + 1], fields))
    return entries


def _closing_brace(text: str, opening: int) -> int:
    """Index of the brace that closes the one at `opening`; -1 if there is none."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
        if text.startswith("\n@", place):
            return -1
    return -1
