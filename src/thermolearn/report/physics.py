"""Sections that rest on one summary each: trust, spectrum, efficiency, robustness, wide limit."""

from __future__ import annotations

import numpy as np

from thermolearn.report.blocks import (
    Figure,
    Section,
    column,
    notes_of,
    present,
    summary_groups,
    summary_tables,
)
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run


def trust(run: Run) -> Section:
    """May the Gaussian number be trusted: Gaussian beside sampling."""
    return Section(
        "trust",
        "May the Gaussian number be trusted?",
        "The ensemble linearizes the network around its forward pass. Sampling the states gives "
        "the same average loss without that step; both are shown at the run's own temperature.",
        notes_of(run, "trust"),
        groups=summary_groups(run, "trust"),
        tables=summary_tables(run, "trust"),
    )


def spectrum(run: Run) -> Section:
    """Eigenvalues of G at the first and last snapshot, as fractions in logarithmic bins."""
    low, high = column(run, "spectrum", "from"), column(run, "spectrum", "to")
    figures: list[Figure] = []
    bins = (low > 0) & (high > low)  # False where one of them is missing
    if bins.any():
        edges = np.append(low[bins], high[bins][-1])
        width = np.diff(np.log10(edges))
        traces = [
            Trace(
                edges,
                _to_zero(column(run, "spectrum", name)[bins] / width),
                legend,
                "step",
                color=c,
            )
            for name, legend, c in (("first", "first snapshot", 1), ("last", "last snapshot", 2))
        ]
        svg = plot(
            traces,
            key="spectrum",
            title="Spectrum of G",
            x_label="eigenvalue of G",
            y_label="share of the eigenvalues per decade",
            x_log=True,
        )
        figures = [Figure(svg, "Spectrum of G")] if svg is not None else []
    return Section(
        "spectrum",
        "Spectrum of G",
        "Every state function is a sum over the eigenvalues of G = (1 \u2212 J)\u1d40(1 \u2212 J). "
        "Small ones are soft directions, in which noise grows on its way to the output.",
        notes_of(run, "spectrum"),
        groups=summary_groups(run, "spectrum"),
        figures=figures,
        tables=[] if figures else summary_tables(run, "spectrum"),
    )


def _to_zero(values: np.ndarray) -> np.ndarray:
    """An empty bin is no eigenvalue; a column that is missing altogether stays missing."""
    return np.where(np.isnan(values), 0.0, values) if np.isfinite(values).any() else values


def efficiency(run: Run) -> Section:
    """Laplacian of the free energy."""
    return Section(
        "efficiency",
        "Learning efficiency",
        "The Laplacian of the free energy over the trainable variables: how fast gradient descent "
        "destroys the entropy of the parameters. The normalization is part of each name; edges "
        "and parameters differ under weight sharing.",
        notes_of(run, "efficiency"),
        groups=summary_groups(run, "efficiency"),
    )


def robustness(run: Run) -> Section:
    """Accuracy against temperature."""
    q = "robustness"
    accuracy = Trace(
        column(run, q, "temperature"),
        column(run, q, "accuracy"),
        "with noise",
        "points",
        column(run, q, "stderr"),
    )
    clean = run.summary_value(q, "accuracy_clean")
    rule = (
        []
        if clean is None or np.ndim(clean.value)
        else [Trace([], [float(clean)], "without noise", "rule", color=4)]
    )
    svg = plot(
        [accuracy, *rule],
        key="robustness",
        title="Accuracy against temperature",
        x_label="temperature T of the noise (loss)",
        y_label="accuracy",
        x_log=True,
        y_bounds=(0, 1),
    )
    return Section(
        "robustness",
        "Thermal robustness",
        "Accuracy when noise of variance T is added at every neuron, which is the ensemble's own "
        "noise: what analog or coarsely rounded hardware would cost.",
        notes_of(run, q),
        groups=summary_groups(run, q),
        figures=[Figure(svg, "Accuracy against temperature")] if svg is not None else [],
        tables=summary_tables(run, q),
    )


def wide_limit(run: Run) -> Section:
    """Theory of infinitely wide random networks beside the network at initialization."""
    return Section(
        "wide-limit",
        "Wide-limit theory beside this network at initialization",
        "For random weights and many neurons per layer the average loss and the complexity follow "
        "from a matrix Dyson equation. The line is the theory, the points are this network before "
        "training.",
        notes_of(run, "wide_limit"),
        groups=summary_groups(run, "wide_limit"),
        figures=present(
            _theory_figure(run, "U", "Average loss against \u03b2", "U (loss)", True),
            _theory_figure(run, "C", "Complexity against \u03b2", "C (nats)", False),
        ),
        tables=summary_tables(run, "wide_limit"),
    )


def _theory_figure(run: Run, name: str, caption: str, y_label: str, log: bool) -> Figure | None:
    beta, theory, network, stderr = (
        column(run, "wide_limit", head)
        for head in ("beta", f"{name} theory", f"{name} network", f"{name} stderr")
    )
    svg = plot(
        [
            Trace(beta, theory, "theory, infinite width", "line"),
            Trace(beta, network, "this network", "points", stderr, color=2),
        ],
        key=f"wide-{name}",
        title=caption,
        x_label="inverse temperature \u03b2 (1/loss)",
        y_label=y_label,
        x_log=True,
        y_log=log,
    )
    return Figure(svg, caption) if svg is not None else None
