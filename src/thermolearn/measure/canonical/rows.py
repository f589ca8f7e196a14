"""Rows of run.jsonl from Estimates, and series of values from rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate

Row = dict[str, Any]
FIXED_BETAS = (1.0, 100.0)  # where the report compares snapshots at one temperature


def values_row(**estimates: Estimate | float) -> dict[str, Any]:
    """The values of a row; a plain number has no error bar."""
    return {
        name: (e if isinstance(e, Estimate) else Estimate(e)).to_dict()
        for name, e in estimates.items()
    }


def history(run: Any, quantity: str, name: str) -> np.ndarray:
    """One value over all snapshots of a run, NaN where it is missing."""
    found = [
        r["values"].get(name, {}).get("value")
        for r in run.rows
        if r.get("kind") == "snapshot" and r.get("quantity") == quantity
    ]
    return np.array([math.nan if v is None else v for v in found], dtype=float)
