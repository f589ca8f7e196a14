"""The learning coefficient of the last snapshot, with the traces that it rests on."""

from __future__ import annotations

import numpy as np

from thermolearn.report.blocks import Figure, Section, column, notes_of, present, summary_groups
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run

MAX_CHAINS = 8


def llc(run: Run) -> Section:
    """Learning coefficient with its verdict; energy of each chain along the draws."""
    draws = column(run, "llc", "draw")
    chains = [column(run, "llc", f"chain {c}") for c in range(1, MAX_CHAINS + 1)]
    traces = [
        Trace(draws, energy, f"chain {c}", "line", color=1 + (c - 1) % 4)
        for c, energy in enumerate(chains, 1)
        if np.isfinite(energy).any()
    ]
    svg = None
    if traces:
        svg = plot(
            traces,
            key="llc",
            title="Energy of the chains around the last snapshot",
            x_label="draw",
            y_label="n\u03b2 (L \u2212 L*), mean of neighboring draws",
        )
    return Section(
        "llc",
        "Local learning coefficient",
        "How fast the loss rises, in volume, around the parameters at the end of the run: half "
        "the number of parameters for a regular minimum, less where directions are flat. It is "
        "no measure of quality, and compares only within one architecture at equal settings.",
        notes_of(run, "llc"),
        groups=summary_groups(run, "llc"),
        figures=present(
            Figure(svg, "Chains that agree and do not drift are what the number rests on")
            if svg is not None
            else None
        ),
    )
