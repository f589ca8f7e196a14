"""A figure as files: PDF, SVG, the numbers in it as parquet, and what to cite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermolearn import __version__
from thermolearn.core.drawing import Drawing
from thermolearn.study.citation import bibtex
from thermolearn.study.contract import Entry, find

if TYPE_CHECKING:
    import pandas as pd

# key of the parquet schema under which everything but the rows is kept, as JSON
METADATA = b"thermolearn"
LIBRARIES = ("torch", "numpy", "numba", "scipy")


def export(
    drawing: Drawing,
    stem: str | Path,
    system: str | Entry,
    params: Any = None,
    figure: str = "",
    quick: bool | None = None,
) -> list[Path]:
    """Write ``stem.pdf``, ``stem.svg``, ``stem.parquet`` and ``stem.bib``.

    The table holds one row per number drawn: panel, kind (theory, simulation or map), curve, x, y,
    stderr, the axis labels, the number of seeds and the conditions of the curve. Its metadata
    hold system, parameters, figure, numbers of seeds, versions and date.

    Parameters
    ----------
    drawing : Drawing
        From the figure function of a system.
    stem : path
        Of the files, without extension; missing folders are made.
    system : str or Entry
        Whose figure it is.
    params : Params or mapping, optional
        What the figure was made with, as far as it is not in its rows.
    figure : str
        Number or name of the figure.
    quick : bool, optional
        Whether it is the quick version.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        No such system, or a paper of it without a BibTeX entry.
    """
    entry = find(system) if isinstance(system, str) else system
    reference = bibtex(entry)
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{end}") for end in ("pdf", "svg", "parquet", "bib")]
    for path in files[:2]:
        save_picture(drawing, path)
    about = provenance(entry, params, drawing.rows) | {"figure": figure, "quick": quick}
    _write_table(drawing.rows, files[2], about)
    files[3].write_text(reference, encoding="utf-8")
    return files


def save_picture(drawing: Drawing, path: str | Path) -> Path:
    """Write the figure as .pdf, .svg or .png, without a date and with text as text: the same figure
    makes the same file.

    Raises
    ------
    ValueError
        Another extension.
    """
    import matplotlib

    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".pdf", ".svg", ".png"):
        raise ValueError(f"{path} must end in .pdf, .svg or .png")
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "thermolearn", "svg.fonttype": "none"}):
        drawing.figure.savefig(path, metadata=undated, dpi=160)
    return path


def provenance(entry: Entry, params: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Where a figure comes from: system, papers, parameters, seeds, versions, date (UTC)."""
    if params is not None and is_dataclass(params) and not isinstance(params, type):
        params = asdict(params)
    seeds = sorted({int(row["seeds"]) for row in rows if isinstance(row.get("seeds"), Integral)})
    return {
        "system": entry.name,
        "title": entry.title,
        "papers": entry.papers,
        "params": _plain(dict(params)) if isinstance(params, Mapping) else {},
        "seeds_per_point": seeds,
        "versions": {"thermolearn": __version__} | {n: metadata.version(n) for n in LIBRARIES},
        "source": entry.source_hash(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(x: Any) -> Any:
    """numpy's numbers and arrays as Python's, for JSON."""
    if isinstance(x, Mapping):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    return x.tolist() if hasattr(x, "tolist") else x


def _write_table(rows: list[dict[str, Any]], path: Path, about: dict[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = dict.fromkeys(name for row in rows for name in row)
    data = {name: _column([row.get(name) for row in rows]) for name in columns}
    table = pa.table(data).replace_schema_metadata({METADATA: json.dumps(about)})
    parquet.write_table(table, path)


def _column(values: list[Any]) -> Any:
    """One column: numbers and texts as they are, other things (tuples, a mixture) as text."""
    import pyarrow as pa

    plain = [value.item() if hasattr(value, "item") else value for value in values]
    kinds = {type(value) for value in plain if value is not None}
    if kinds <= {int, float}:
        return pa.array(
            [None if v is None else float(v) for v in plain] if float in kinds else plain
        )
    if len(kinds) <= 1 and kinds <= {int, float, str, bool}:
        return pa.array(plain)
    return pa.array([None if value is None else str(value) for value in plain])


def read_export(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of an exported figure and where they come from.

    Raises
    ------
    ValueError
        Not the parquet file of a figure.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    about = (table.schema.metadata or {}).get(METADATA)
    if about is None:
        raise ValueError(f"{path} was not written by export: it has no record of its origin")
    return table.replace_schema_metadata(None).to_pandas(), json.loads(about)
