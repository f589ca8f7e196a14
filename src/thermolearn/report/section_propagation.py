"""Signal propagation: network and mean-field theory side by side, and the gain along the run."""

from __future__ import annotations

import numpy as np

from thermolearn.report.blocks import (
    Figure,
    Section,
    column,
    first_and_last,
    history,
    notes_of,
    present,
    summary_tables,
)
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run

QUANTITY = "propagation"
LEAD = (
    "What the layers do to the size of the signal, to the similarity of two inputs and to the "
    "gradient. At initialization mean-field theory of wide random networks says what to expect; "
    "it is no theory of the trained network, which is shown alone."
)


def propagation(run: Run) -> Section:
    """Variance, correlation and gradient gain per layer; gain along the run."""
    return Section(
        QUANTITY,
        "Signal propagation",
        LEAD,
        notes_of(run, QUANTITY),
        groups=present(first_and_last(run, QUANTITY, ["mean_log_gain"])),
        figures=present(
            _layers(run, "q", "Pre-activation variance by layer", "variance q", log=True),
            _layers(run, "c", "Correlation of two inputs by layer", "correlation c"),
            _layers(run, "gain", "Gradient gain by layer", "gain from layer to layer"),
            history(
                run,
                "propagation-gain",
                "Gradient growth per layer along the run",
                [(QUANTITY, "mean_log_gain", "mean of ln(gain)")],
                y_label="ln(gain) per layer",
                rule=(0.0, "neither vanishing nor exploding"),
            ),
        ),
        tables=summary_tables(run, QUANTITY),
    )


def _layers(run: Run, name: str, caption: str, y_label: str, log: bool = False) -> Figure | None:
    """Network (points) and theory (line) against the number of the layer."""
    network, stderr, theory = (
        column(run, QUANTITY, f"{name} {part}") for part in ("network", "stderr", "theory")
    )
    position = np.arange(1.0, len(network) + 1)
    if np.isfinite(network).sum() < 2:
        return None
    traces = [Trace(position, network, "this network", "points", stderr, color=2)]
    if np.isfinite(theory).any():
        traces.insert(0, Trace(position, theory, "theory, infinite width", "line"))
    shown = np.concatenate([network, theory])
    svg = plot(
        traces,
        key=f"propagation-{name}",
        title=caption,
        x_label="layer, from the input",
        y_label=y_label,
        y_log=log and bool((shown[np.isfinite(shown)] > 0).all()),
    )
    return Figure(svg, caption) if svg is not None else None
