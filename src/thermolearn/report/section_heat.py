"""The network as a stack of engines: heat, entropy and temperature of the layers."""

from __future__ import annotations

import numpy as np

from thermolearn.report.blocks import (
    Figure,
    Section,
    clip,
    notes_of,
    present,
    summary_groups,
    summary_tables,
)
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run

MOST = 4  # lines in one plot


def heat(run: Run) -> Section:
    """Table of the stack, and the cumulative heat per layer along the run."""
    return Section(
        "heat",
        "Heat per layer: the network as a stack of engines",
        "How much of the fall of the loss each layer's movement accounts for, over the entropy of "
        "its initialization. The sum over layers restates the loss; only the split is new. The "
        "temperatures are bookkeeping under the conventions named below, not the noise of the "
        "optimizer, and say nothing about what to change.",
        notes_of(run, "heat"),
        groups=summary_groups(run, "heat"),
        figures=present(_cumulative(run)),
        tables=summary_tables(run, "heat"),
    )


def _cumulative(run: Run) -> Figure | None:
    """The layers that exchange most heat, in their order; None without two snapshots."""
    snapshots = [s for s in run.snapshots.get("heat", []) if "cumulative_heat" in s.values]
    if len(snapshots) < 2:
        return None
    last = snapshots[-1]
    total = np.atleast_1d(np.asarray(last.values["cumulative_heat"].value))
    n = len(total)
    kept = [s for s in snapshots if np.size(s.values["cumulative_heat"].value) == n]
    values = np.array([np.atleast_1d(s.values["cumulative_heat"].value) for s in kept])
    errors = np.array(
        [np.broadcast_to(np.asarray(s.values["cumulative_heat"].stderr), (n,)) for s in kept]
    )
    largest = sorted(np.argsort(-np.nan_to_num(np.abs(total)))[:MOST])
    steps = [float(s.step) for s in kept]
    kind = "points" if len(kept) <= 40 else "line"
    traces = [
        Trace(
            steps,
            values[:, k],
            f"layer {clip(last.names[k] if k < len(last.names) else str(k), 24)}",
            kind,
            errors[:, k],
            color=c,
            joined=True,
        )
        for c, k in enumerate(largest, 1)
    ]
    caption = "Cumulative heat of the layers" + (
        f" (the {MOST} of {n} that exchange most)" if n > MOST else ""
    )
    svg = plot(
        traces,
        key="heat-layers",
        title=caption,
        x_label="optimizer step",
        y_label="heat released (loss)",
    )
    return Figure(svg, caption) if svg is not None else None
