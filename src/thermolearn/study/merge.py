"""Putting together the stores of a sweep that ran on several machines."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

from thermolearn.core.errors import SweepError
from thermolearn.study import table
from thermolearn.study.store import (
    DONE,
    Store,
    open_store,
    read_header,
    replacing,
    require_same,
    write_shard,
)


def merge(target: str | Path, *others: str | Path) -> int:
    """Copy into a store what other stores hold beyond it; the others are left as they are.

    A task has the same name everywhere, so what two stores both hold is the same.

    Returns
    -------
    int
        Number of finished tasks that came in.

    Raises
    ------
    SweepError
        One is no store, or of another system, source or version.
    """
    target = Path(target)
    headers = {Path(path): read_header(Path(path)) for path in others}
    for path, header in headers.items():
        if header is None:
            raise SweepError(f"{path} is not a store of a sweep; name the directory of one")
    first = read_header(target) or next((h for h in headers.values() if h is not None), None)
    if first is None:
        raise SweepError("name at least one store to merge into the first")
    for path, header in headers.items():
        if header is not None:
            require_same(path, header, first)
    store = open_store(target, first)
    assert store is not None
    return sum(_take(store, Store(path, first)) for path in headers)


def _take(store: Store, other: Store) -> int:
    if store.path.resolve() == other.path.resolve():
        raise SweepError(f"{store.path} cannot be merged with itself")
    mine, mine_compacted = store.read()
    theirs, their_compacted = other.read(set_aside=False)
    have = {key for key, record in mine.items() if record.status in DONE}
    have |= table.keys(mine_compacted)
    new = {key for key, record in theirs.items() if record.status in DONE} - have
    for key, record in theirs.items():
        if key in new or (key not in have and key not in mine):
            write_shard(store.shards, record)
    fresh = table.keys(their_compacted) - have - new
    if fresh and their_compacted is not None:
        rows = table.select(their_compacted, their_compacted["task"].isin(list(fresh)))
        path = store.path / f"{table.COMPACTED}{uuid.uuid4().hex[:12]}.parquet"
        with replacing(path) as temporary:
            table.write_parquet(rows, temporary, dataclasses.asdict(other.header))
        store.forget(fresh)
    return len(new | fresh)
