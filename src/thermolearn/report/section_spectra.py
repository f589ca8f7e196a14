"""The section on the singular values of the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thermolearn.report.blocks import (
    Figure,
    Group,
    Section,
    clip,
    notes_of,
    present,
    summary_groups,
    summary_tables,
)
from thermolearn.report.glossary import lookup
from thermolearn.report.numbers import count
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run

Q = "spectra"
LINES = 3  # of four colors, one is the edge


def spectra(run: Run) -> Section:
    """Verdict on each weight matrix, and the largest singular value along the run."""
    return Section(
        "spectra",
        "Spectra of the weights",
        "Singular values of each weight matrix beside those of a matrix of independent random "
        "entries of its size. What the random matrix explains carries no structure; what lies "
        "outside is structure, which says nothing about quality.",
        groups=[_counted(run, g) for g in summary_groups(run, Q)],
        figures=present(_edges(run)),
        tables=summary_tables(run, Q),
        notes=notes_of(run, Q),
    )


def _counted(run: Run, group: Group) -> Group:
    """Shares of the weights as how many of them."""
    found = run.summaries[Q].values
    cells = {}
    for name, e in found.items():
        label = lookup(name, Q).label
        if name.startswith("share_") and np.ndim(e.value) == 0 and (e.n_eff or 0) >= 1:
            share, n = float(e.value), float(e.n_eff or 0)
            if np.isfinite(share):
                cells[label] = [f"{count(round(share * n))} of {count(n)}"]
    items = [replace(i, cells=cells.get(i.label, i.cells)) for i in group.items]
    return replace(group, items=items)


def _edges(run: Run) -> Figure | None:
    """Largest singular value over the edge, the weights with the largest at the end."""
    snapshots = [s for s in run.snapshots.get(Q, []) if "edge_ratio" in s.values]
    if not snapshots:
        return None
    size = min(np.size(s.values["edge_ratio"].value) for s in snapshots)
    values = np.array([np.ravel(s.values["edge_ratio"].value)[:size] for s in snapshots])
    last = np.where(np.isfinite(values[-1]), values[-1], -np.inf) if size else np.empty(0)
    chosen = [int(k) for k in np.argsort(-last)[:LINES] if np.isfinite(last[k])]
    if not chosen:
        return None
    names, steps = snapshots[-1].names, np.array([s.step for s in snapshots], dtype=float)
    traces = [
        Trace(
            steps,
            values[:, k],
            clip(names[k] if k < len(names) else f"weight {k + 1}", 30),
            "line",
            color=1 + color,
        )
        for color, k in enumerate(sorted(chosen))
    ]
    traces.append(Trace([], [1.0], "random edge", kind="rule", color=4))
    caption = "Largest singular value over the edge of a random matrix"
    svg = plot(
        traces,
        key="spectra-edge",
        title=caption,
        x_label="optimizer step",
        y_label="largest singular value / edge",
    )
    return Figure(svg, caption) if svg is not None else None
