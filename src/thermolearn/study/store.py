"""A directory in which every finished task of a sweep is one file.

A task is a pure function of (source of the system, version of the library, Params, theory or
simulation, seed), and the hash of those is its name. A shard is written under another name, synced
and renamed, so it is there whole or not at all; going on after any end of the program is a set
difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn import __version__
from thermolearn.core.errors import SweepError
from thermolearn.core.estimate import Estimate
from thermolearn.study.contract import catalogue, short_name

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
HEADER = "store.json"
SHARDS = "shards"
SET_ASIDE = "damaged"
DONE = ("ok", "not converged")  # a failed task is run again


@dataclass(frozen=True)
class Header:
    """What all tasks of a store have in common.

    Attributes
    ----------
    system : str
        Its name.
    source : str
        Hash of its files.
    version : str
        Of the library.
    format : int
        Of the store.
    """

    system: str
    source: str
    version: str = __version__
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class Record:
    """One finished task.

    Attributes
    ----------
    key : str
        Hash that names the task.
    what : str
        ``"theory"`` or ``"simulation"``.
    params : dict
        Fields of Params.
    seed : int or None
        None for theory.
    status : str
        ``"ok"``, ``"not converged"``, ``"failed"``.
    note : str
        Message of the exception, if any.
    seconds : float
        Wall time.
    observables : dict of name -> Estimate
    """

    key: str
    what: str
    params: dict[str, Any]
    seed: int | None
    status: str = "ok"
    note: str = ""
    seconds: float = math.nan
    observables: dict[str, Estimate] = field(default_factory=dict)


def header_of(module: ModuleType) -> Header:
    """The header under which results of a system are stored."""
    return Header(short_name(module), source_hash(module))


def source_hash(module: ModuleType) -> str:
    """Hash of the source of a system: its module, or all modules of its package.

    For a system of the catalogue also of the files that its family shares. What a system imports
    from elsewhere in the library is covered by the library's version.

    Raises
    ------
    SweepError
        The module has no file, as in a notebook.
    """
    file = getattr(module, "__file__", None)
    if file is None or module.__name__ == "__main__":
        raise SweepError(
            f"the source of {module.__name__} is not in an importable file, so workers cannot load "
            "it; write the system in a module of its own"
        )
    path = Path(file)
    entry = None
    if module.__name__.startswith("thermolearn.systems."):
        entry = catalogue().get(short_name(module))
    if entry is not None:
        files = entry.sources
    else:
        files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for source in files:
        name = os.path.relpath(source, path.parent)
        digest.update(f"{name}\0{source.read_text(encoding='utf-8')}\0".encode())
    return digest.hexdigest()[:32]


def task_key(header: Header, params: dict[str, Any], what: str, seed: int | None) -> str:
    """Hash that names a task."""
    content = [header.source, header.version, params, what, seed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


# -- files -------------------------------------------------------------------------------------
@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A name in the same directory to write to; synced and renamed to `path` on leaving.

    The file is there whole or not at all. `durable`: the rename too is on disk before this returns;
    without, a power cut may undo it.
    """
    temporary = path.parent / f".{path.name}.{socket.gethostname()}.{uuid.uuid4().hex[:12]}"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def _sync(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # a directory cannot be opened on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_shard(folder: Path, record: Record) -> None:
    """One line with the record, one with its checksum."""
    content = {
        **{f.name: getattr(record, f.name) for f in dataclasses.fields(record)},
        "observables": {name: _plain(e) for name, e in record.observables.items()},
    }
    line = json.dumps(content)
    check = hashlib.sha256(line.encode()).hexdigest()
    with replacing(folder / f"{record.key}.json", durable=False) as temporary:
        temporary.write_text(f'{line}\n{{"sha256": "{check}"}}\n', encoding="utf-8")


def _plain(e: Estimate) -> dict[str, Any]:
    """JSON with NaN and Infinity as Python writes them: the same bits come back."""
    value, stderr = np.asarray(e.value).tolist(), np.asarray(e.stderr).tolist()
    n_eff = None if e.n_eff is None else float(e.n_eff)
    return {"value": value, "stderr": stderr, "n_eff": n_eff, "status": e.status, "note": e.note}


def read_shard(path: Path) -> Record:
    """The record of a shard.

    Raises
    ------
    ValueError
        The file is truncated or damaged.
    """
    line, _, check = path.read_text(encoding="utf-8").partition("\n")
    if json.loads(check)["sha256"] != hashlib.sha256(line.encode()).hexdigest():
        raise ValueError("the checksum differs")
    content = json.loads(line)
    if content["key"] != path.stem:
        raise ValueError("the name is not that of its task")
    found = {name: Estimate(**e) for name, e in content.pop("observables").items()}
    return Record(**content, observables=found)


# -- the store ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Store:
    """The directory of one system under one version of the library; see `open_store`."""

    path: Path
    header: Header

    @property
    def shards(self) -> Path:
        return self.path / SHARDS

    def read(self, set_aside: bool = True) -> tuple[dict[str, Record], pd.DataFrame | None]:
        """All shards, and the rows of the compacted tasks.

        Damaged files are left out with a warning and, if `set_aside`, moved to ``damaged/``, so
        that their tasks are run again. Shards are read before the compacted rows: what a compaction
        by another process takes away in between is then found there.
        """
        from thermolearn.study.table import read_compacted

        damaged: list[Path] = []
        records = {}
        for path in sorted(self.shards.glob("*.json")):
            try:
                record = read_shard(path)
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                damaged.append(path)
            else:
                records[record.key] = record
        rows = read_compacted(self.path, damaged.append)
        if damaged:
            self._report(damaged, set_aside)
        return records, rows

    def _report(self, damaged: list[Path], set_aside: bool) -> None:
        paths = dict.fromkeys(damaged)
        told = f"{len(paths)} damaged file{'s' if len(paths) > 1 else ''} in the store {self.path}"
        if not set_aside:
            warnings.warn(f"{told}: left out", stacklevel=3)
            return
        folder = self.path / SET_ASIDE
        folder.mkdir(exist_ok=True)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # another process was first
                os.replace(path, folder / f"{path.name}.{uuid.uuid4().hex[:8]}")
        warnings.warn(f"{told}: moved to {folder}; their tasks are run again", stacklevel=3)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove the shards of these tasks."""
        for key in keys:
            (self.shards / f"{key}.json").unlink(missing_ok=True)

    def compact(self, definition: dict[str, Any] | None = None) -> Path | None:
        """All finished tasks in one parquet file; their shards are removed when it is safely there.

        One row per observable and element. Safe against a crash at any point, and beside running
        workers or another compaction: files get names of their own, and a task found twice is
        counted once. Failed tasks stay shards.

        Returns
        -------
        Path or None
            The file; None if nothing is finished.
        """
        from thermolearn.study import table

        parts = table.compacted_files(self.path)
        records, before = self.read()
        parts = [path for path in parts if path.exists()]  # the damaged are set aside
        done = [record for record in records.values() if record.status in DONE]
        if not done and len(parts) < 2:
            return parts[0] if parts else None
        rows = table.join(before, table.frame(done, self.header.system))
        path = self.path / f"{table.COMPACTED}{uuid.uuid4().hex[:12]}.parquet"
        about = {**dataclasses.asdict(self.header), "definition": definition}
        with replacing(path) as temporary:
            table.write_parquet(rows, temporary, about)
        for part in parts:
            part.unlink(missing_ok=True)
        self.forget(record.key for record in done)
        self._clear_away()
        return path

    def _clear_away(self) -> None:
        """Remove what killed writers left behind: hidden files that are a day old."""
        for path in (*self.path.glob(".*"), *self.shards.glob(".*")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 86400:
                    path.unlink()


def open_store(path: str | Path, header: Header, create: bool = True) -> Store | None:
    """The store in a directory, made if there is none (None if not `create`).

    Raises
    ------
    SweepError
        The directory holds something else, or a store of another system, source or version.
    """
    path = Path(path)
    found = read_header(path)
    if found is not None:
        require_same(path, found, header)
    elif not create:
        return None
    else:
        try:
            (path / SHARDS).mkdir(parents=True, exist_ok=True)
            content = json.dumps(dataclasses.asdict(header), indent=2)
            with replacing(path / HEADER) as temporary:
                temporary.write_text(content, encoding="utf-8")
        except OSError as error:
            raise SweepError(f"no store can be made in {path}: {error.strerror}") from error
    (path / SHARDS).mkdir(exist_ok=True)
    return Store(path, header)


def read_header(path: Path) -> Header | None:
    """The header of a store; None if the directory is new or empty.

    Raises
    ------
    SweepError
        It is no directory, or holds something else.
    """
    if not path.exists():
        return None
    if not path.is_dir():
        raise SweepError(f"{path} is a file; a store is a directory")
    try:
        content = json.loads((path / HEADER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        # an interrupted start leaves an empty folder of shards and perhaps a hidden file
        others = [p for p in path.iterdir() if p.name != SHARDS and not p.name.startswith(".")]
        if others or any((path / SHARDS).glob("*.json")):
            raise SweepError(
                f"{path} holds other files and no {HEADER}; choose a new directory as the store"
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise SweepError(f"{path / HEADER} cannot be read ({error}); choose a new store") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SweepError(
            f"the store {path} is not of format {FORMAT}, which this version of the library reads; "
            "choose a new store, or install the version that wrote it"
        )
    return Header(**content)


def require_same(path: Path, found: Header, wanted: Header) -> None:
    """Raise a SweepError that says in what the headers differ, and what to do."""
    if found.system != wanted.system:
        raise SweepError(
            f"the store {path} is of the system {found.system}, not {wanted.system}; choose another"
        )
    if found.version != wanted.version:
        raise SweepError(
            f"the store {path} was written by version {found.version} of thermolearn, this is "
            f"{wanted.version}: their results are not mixed. Choose a new store, or install "
            f"thermolearn=={found.version} to go on with this one"
        )
    if found.source != wanted.source:
        raise SweepError(
            f"the source of {found.system} is not the one whose results the store {path} holds: "
            "they are not mixed. Choose a new store, or take the change back to go on with this one"
        )
