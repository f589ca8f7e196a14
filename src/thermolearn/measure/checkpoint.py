"""Plain containers for a checkpoint that loads with ``weights_only=True``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate
from thermolearn.measure.window import Snapshot

KIND = "__kind__"


def encode(item: Any) -> Any:
    """Tensors, numbers, texts and containers; arrays and Estimates are marked.

    Raises
    ------
    TypeError
        Anything else.
    """
    if isinstance(item, np.generic):
        item = item.item()
    if item is None or isinstance(item, bool | int | float | complex | str | bytes):
        return item
    if isinstance(item, Tensor):
        return item.detach()
    if isinstance(item, np.ndarray):
        return {KIND: "array", "value": torch.from_numpy(np.ascontiguousarray(item))}
    if isinstance(item, Estimate):
        fields = ("value", "stderr", "n_eff", "status", "note")
        return {KIND: "estimate", **{f: encode(getattr(item, f)) for f in fields}}
    if isinstance(item, dict):
        pairs = [[encode(k), encode(v)] for k, v in item.items()]
        return {KIND: "dict", "items": pairs}
    if isinstance(item, list | tuple):
        kind = "list" if isinstance(item, list) else "tuple"
        return {KIND: kind, "items": [encode(v) for v in item]}
    raise TypeError(f"a {type(item).__name__} cannot be kept in a checkpoint")


def decode(item: Any) -> Any:
    """Inverse of `encode`."""
    if not isinstance(item, dict):
        return item
    kind = item[KIND]
    if kind == "array":
        return item["value"].numpy()
    if kind == "estimate":
        return Estimate(**{k: decode(v) for k, v in item.items() if k != KIND})
    if kind == "dict":
        return {decode(k): decode(v) for k, v in item["items"]}
    values = [decode(v) for v in item["items"]]
    return tuple(values) if kind == "tuple" else values


def encode_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """Tensors and plain containers only."""
    return {
        "step": snapshot.step,
        "learning_rate": snapshot.learning_rate,
        "optimizer": dict(snapshot.optimizer),
        "batch_size": snapshot.batch_size,
        "accumulators": {
            k: v.to_dict() if isinstance(v, Estimate) else v
            for k, v in snapshot.accumulators.items()
        },
        "state": snapshot.load() if snapshot.held else None,
    }


def decode_snapshot(row: dict[str, Any]) -> Snapshot:
    """Inverse of `encode_snapshot`."""
    return Snapshot(
        row["step"],
        row["learning_rate"],
        row["optimizer"],
        row["state"],
        None,
        row["batch_size"],
        {
            k: Estimate.from_dict(v) if isinstance(v, dict) else v
            for k, v in row["accumulators"].items()
        },
    )
