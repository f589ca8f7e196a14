"""The section on relative entropy along depth."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.report.blocks import MAX_ROWS, Section, Table, clip, notes_of
from thermolearn.report.numbers import count, plain, with_error
from thermolearn.report.reader import Run

Q = "relative_entropy"
LEAD = (
    "How far the pre-activations of each layer are from those of the first, both taken as one "
    "Gaussian over units and reference samples, in nats per neuron. The number depends on the "
    "definition, so three stand side by side. It describes the scales and the similarity of "
    "inputs; nothing about quality follows from it."
)
DEFINITIONS = [
    "Scales: \u00bd ln(q\u2097 / q\u2080), q the pooled variance. It is what comparing densities "
    "along the forward pass gives; a logarithm of a ratio, not a divergence, and negative where "
    "a layer is narrower than the first.",
    "Gaussians: \u00bd [q\u2080/q\u2097 \u2212 1 \u2212 ln(q\u2080/q\u2097) + "
    "(\u03bc\u2097 \u2212 \u03bc\u2080)\u00b2/q\u2097], the Kullback\u2013Leibler divergence, "
    "never negative.",
    "Two inputs: the same for the average covariance of two samples; large where layers make "
    "different inputs alike.",
]
COLUMNS = (("push", "Scales"), ("gaussian", "Gaussians"), ("two_input", "Two inputs"))


def relative_entropy(run: Run) -> Section:
    """Per layer at the first and the last snapshot, with the definitions beside the numbers."""
    tables = _tables(run)
    return Section(
        "relative-entropy",
        "Relative entropy along depth",
        LEAD,
        statements=DEFINITIONS if tables else [],
        tables=tables,
        notes=notes_of(run, Q),
    )


def _tables(run: Run) -> list[Table]:
    snapshots = [s for s in run.snapshots.get(Q, []) if "push" in s.values]
    ends = dict.fromkeys([0, len(snapshots) - 1]) if snapshots else {}
    tables = []
    for k in ends:
        values = snapshots[k].values
        size = int(np.size(values["push"].value))
        names = [*snapshots[k].names, *(f"layer {n + 1}" for n in range(size))][:size]
        cells = [_cells(values.get(name), size) for name, _ in COLUMNS]
        rows = [[clip(name, 60), *row] for name, *row in zip(names, *cells, strict=True)]
        title = f"Nats per neuron against the first layer, step {count(snapshots[k].step)}"
        heads = ["Layer", *(head for _, head in COLUMNS)]
        tables.append(Table(title, heads, rows[:MAX_ROWS], max(size - MAX_ROWS, 0)))
    return tables


def _cells(e: Estimate | None, size: int) -> list[str]:
    if e is None or np.size(e.value) != size:
        return [plain(np.nan)] * size
    value = np.ravel(e.value)
    error = np.broadcast_to(e.stderr, value.shape)
    return [with_error(float(v), float(s)) for v, s in zip(value, error, strict=True)]
