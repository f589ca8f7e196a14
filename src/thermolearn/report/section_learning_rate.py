"""The recommended learning rate and its evidence: loss reached against the rate."""

from __future__ import annotations

import numpy as np

from thermolearn.report.blocks import (
    Figure,
    Section,
    column,
    first_and_last,
    notes_of,
    present,
    summary_groups,
    summary_tables,
)
from thermolearn.report.numbers import plain
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run

Q = "learning_rate"


def learning_rate(run: Run) -> Section:
    """Recommended rate, edge, the run's own rate, and every trial."""
    return Section(
        "learning-rate",
        "Learning rate: the run's own and what short trainings recommend",
        "Copies of the initial model were trained for a while at many learning rates. The edge is "
        "where such a training diverges; below it the rates are compared by the loss they reach. "
        "The answer holds for this length of training, this batch size and a constant rate.",
        statements=present(_beside(run)),
        groups=[*present(first_and_last(run, Q)), *summary_groups(run, Q)],
        figures=present(_evidence(run)),
        tables=summary_tables(run, Q),
        notes=notes_of(run, Q),
    )


def _number(run: Run, name: str) -> float:
    found = run.summary_value(Q, name)
    return float("nan") if found is None or np.ndim(found.value) else float(found)


def _beside(run: Run) -> str | None:
    """The run's own rate beside the interval and the edge; no verdict."""
    own, low, high = (_number(run, n) for n in ("run_lr", "recommended_low", "recommended_high"))
    if not np.isfinite([own, low, high]).all():
        return None
    where = "inside" if low <= own <= high else "below" if own < low else "above"
    upper = run.summary_value(Q, "recommended_high")
    capped = upper is not None and upper.status == "limit"
    limit = (
        ", whose upper end is the largest rate compared, not one that is worse" if capped else ""
    )
    return (
        f"The run began at {plain(own)}, which is {where} the interval of the trials, "
        f"{plain(low)} to {plain(high)}{limit}."
    )


def _evidence(run: Run) -> Figure | None:
    """Loss reached against the rate, and vertical marks at the edge and the run's own rate."""
    rate, loss = column(run, Q, "learning rate"), column(run, Q, "loss")
    last = column(run, Q, "last loss")
    level = np.concatenate([loss, last])
    level = level[np.isfinite(level) & (level > 0)]
    if not level.size:
        return None
    start = _number(run, "start_loss")
    ends = [float(level.min()), float(max(level.max(), start if start > 0 else 0.0))]
    stderr = column(run, Q, "loss stderr")
    traces = [
        Trace(rate, loss, "all seeds, short", "points", stderr, color=1, joined=True),
        Trace(rate, last, "first seed, its last step", "points", color=2, joined=True),
    ]
    for name, legend, color in (("edge_low", "edge", 3), ("run_lr", "the run's own", 4)):
        at = _number(run, name)
        if np.isfinite(at) and at > 0:
            traces.append(Trace([at, at], ends, legend, "line", color=color))
    title = "Loss reached against the learning rate"
    svg = plot(
        traces,
        key="learning-rate",
        title=title,
        x_label="learning rate",
        y_label="loss",
        x_log=True,
        y_log=True,
    )
    return Figure(svg, title) if svg is not None else None
