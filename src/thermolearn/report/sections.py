"""The sections of the page: plain training numbers first, then the physics."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.report.blocks import (
    Figure,
    Section,
    Table,
    cell,
    clip,
    first_and_last,
    history,
    notes_of,
    present,
    series_trace,
    summary_groups,
    summary_tables,
)
from thermolearn.report.numbers import count, percent, plain, with_error
from thermolearn.report.physics import efficiency, robustness, spectrum, trust, wide_limit
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run, Series
from thermolearn.report.section_curvature import curvature
from thermolearn.report.section_heat import heat
from thermolearn.report.section_learning_rate import learning_rate
from thermolearn.report.section_llc import llc
from thermolearn.report.section_propagation import propagation
from thermolearn.report.section_relative_entropy import relative_entropy
from thermolearn.report.section_spectra import spectra
from thermolearn.report.section_temperatures import temperatures
from thermolearn.report.section_virial import virial

ENERGY = (
    "beta", "temperature", "average_loss", "boundary_loss_fitted", "energy_variance",
    "heat_capacity", "equipartition_ratio", "loss_n_eff", "lambda_min", "critical_mass",
)  # fmt: skip
GIBBS = (
    "free_energy", "log_partition", "entropy_relative", "free_energy_beta_1",
    "free_energy_beta_100",
)  # fmt: skip
SHANNON = (
    "entropy_differential", "thermodynamic_entropy", "complexity", "total_entropy",
    "entropy_differential_beta_1", "entropy_differential_beta_100",
)  # fmt: skip
LAWS = ("energy_change", "heat", "work", "closure_residual", "complexity_change")
KNOWN = {
    "learning", "canonical", "laws", "laws_run", "layers", "restates", "gradient_noise", "trust",
    "spectrum", "efficiency", "robustness", "wide_limit", "heat", "virial", "temperatures",
    "propagation", "relative_entropy", "curvature", "spectra", "llc", "learning_rate",
}  # fmt: skip


def physics_sections(run: Run) -> list[Section]:
    """Thermodynamics, section by section; those without any number are left out."""
    sections = [
        temperature(run), temperatures(run), entropy(run), laws(run), heat(run), trust(run),
        spectrum(run), efficiency(run), robustness(run), wide_limit(run), relative_entropy(run),
    ]  # fmt: skip
    return [s for s in sections if not s.empty]


def training_sections(run: Run) -> list[Section]:
    """Ordinary training numbers, and whatever else was recorded."""
    sections = [
        training(run), virial(run), noise(run), curvature(run), learning_rate(run),
        propagation(run), spectra(run), llc(run), *others(run),
    ]  # fmt: skip
    return [s for s in sections if not s.empty]


def training(run: Run) -> Section:
    """Losses and accuracies at the first and the last snapshot."""
    accuracy = [
        ("learning", "accuracy", "reference"),
        ("learning", "validation_accuracy", "validation"),
    ]
    return Section(
        "training",
        "Losses and accuracy in numbers",
        "Error bars are standard errors over the samples of each set.",
        groups=present(first_and_last(run, "learning")),
        figures=present(
            history(run, "accuracy", "Accuracy", accuracy, y_label="share correct", y_bounds=(0, 1))
        ),
        notes=notes_of(run, "learning"),
    )


def noise(run: Run) -> Section:
    """Gradient noise; of older files also the sharpness that was recorded with it."""
    scale = [
        ("gradient_noise", "noise_scale", "noise scale"),
        ("gradient_noise", "batch_size", "batch size"),
    ]
    sharp = [
        ("gradient_noise", "sharpness", "sharpness"),
        ("gradient_noise", "stability_edge", "stability edge"),
    ]
    return Section(
        "noise",
        "Gradient noise",
        "How large the noise of a minibatch is beside the gradient.",
        groups=present(first_and_last(run, "gradient_noise")),
        figures=present(
            history(
                run,
                "noise-scale",
                "Noise scale and batch size",
                scale,
                y_label="samples",
                y_log=True,
            ),
            history(
                run, "sharpness", "Sharpness and stability edge", sharp, y_label="loss", y_log=True
            ),
        ),
        notes=notes_of(run, "gradient_noise"),
    )


def others(run: Run) -> list[Section]:
    """Quantities and summaries that this page does not know: shown, not explained."""
    names = [q for q in dict.fromkeys([*run.snapshots, *run.summaries]) if q not in KNOWN]
    return [
        Section(
            f"other-{k}",
            f"Also recorded: {clip(name, 60)}",
            "",
            groups=[*present(first_and_last(run, name)), *summary_groups(run, name)],
            tables=summary_tables(run, name),
            notes=notes_of(run, name),
        )
        for k, name in enumerate(names[:10])
    ]


def layer_table(run: Run) -> Table | None:
    """One row per layer, last snapshot."""
    snapshots = run.snapshots.get("layers", [])
    if not snapshots:
        return None
    last = snapshots[-1]
    columns = {"weight_norm": "weight norm", "gradient_norm": "gradient norm",
               "update_ratio": "update ratio", "dead_fraction": "dead",
               "saturated_fraction": "saturated"}  # fmt: skip
    arrays = {n: e for n, e in last.values.items() if np.ndim(e.value) == 1}
    heads = [columns.get(n, n.replace("_", " "))[:40] for n in arrays][:10]
    n_layers = max((np.size(e.value) for e in arrays.values()), default=0)
    rows = []
    for k in range(min(n_layers, 60)):
        name = last.names[k] if k < len(last.names) else f"layer {k + 1}"
        cells = [_layer_cell(n, e, k) for n, e in list(arrays.items())[:10]]
        rows.append([clip(name, 60), *cells])
    title = f"Layers at step {count(last.step)}"
    return Table(title, ["layer", *heads], rows, max(0, n_layers - 60)) if rows else None


def _layer_cell(name: str, e: Estimate, k: int) -> str:
    value = np.asarray(e.value)
    if k >= value.size:
        return plain(np.nan)
    bar = float(np.broadcast_to(np.asarray(e.stderr), value.shape)[k])
    if name.endswith("_fraction"):
        return percent(float(value[k]), bar)
    return plain(float(value[k])) if not bar > 0 else with_error(float(value[k]), bar)


# -- thermodynamics -----------------------------------------------------------------------------
def temperature(run: Run) -> Section:
    """Temperature and energy."""
    statements = []
    ratio, beta = run.scalar("canonical", "equipartition_ratio"), run.scalar("canonical", "beta")
    if ratio is not None and abs(float(ratio.value) - 1) < 0.05:
        statements.append(
            f"At the end U equals N T/2 within {percent(abs(float(ratio.value) - 1))}: the "
            "temperature is the training loss in other units, and what depends on it alone "
            "restates the loss."
        )
    n_eff, u = run.scalar("canonical", "loss_n_eff"), run.scalar("canonical", "average_loss")
    if n_eff and ratio and beta and u and float(ratio.value) > 0:
        neurons = 2 * float(beta.value) * float(u.value) / float(ratio.value)
        statements.append(
            f"Over the samples the loss spreads as if it had {plain(float(n_eff.value), 2)} terms; "
            f"the ensemble of {count(neurons)} neurons has about {count(neurons)}. The ensemble is "
            "not the distribution of the data."
        )
    c = "canonical"
    return Section(
        "temperature",
        "Temperature and energy",
        "The states of all neurons are given the law of largest entropy with a prescribed average "
        "loss. Its temperature says how much noise per neuron would cost as much as the training "
        "loss.",
        statements,
        groups=present(first_and_last(run, c, ENERGY), first_and_last(run, c, _unlisted(run))),
        figures=present(
            history(
                run,
                "temperature",
                "Temperature",
                [(c, "temperature", "")],
                y_label="T (loss)",
                y_log=True,
            ),
            history(
                run,
                "equipartition",
                "Equipartition",
                [(c, "equipartition_ratio", "2\u03b2U/N")],
                y_label="2\u03b2U/N",
                rule=(1.0, "U = N T/2"),
            ),
        ),
        notes=notes_of(run, "canonical"),
    )


def _unlisted(run: Run) -> list[str]:
    """Recorded scalars of the ensemble that no section lists."""
    listed = {*ENERGY, *GIBBS, *SHANNON}
    names = [n for s in run.snapshots.get("canonical", []) for n in s.values if n not in listed]
    return list(dict.fromkeys(names))


def entropy(run: Run) -> Section:
    """Free energy, the two entropies (never in one list) and the complexity."""
    c = "canonical"
    return Section(
        "entropy",
        "Free energy, entropy, complexity",
        "Two entropies, never mixed: the relative one belongs to the first law and the free "
        "energy, the differential one splits into a thermodynamic part and the complexity.",
        groups=present(
            first_and_last(run, c, GIBBS, "Free energy and relative entropy"),
            first_and_last(run, c, SHANNON, "Differential entropy and complexity"),
        ),
        figures=present(
            history(
                run,
                "entropy",
                "Differential entropy, fitted temperature",
                [(c, "entropy_differential", "")],
                y_label="nats",
            ),
            history(run, "complexity", "Complexity", [(c, "complexity", "")], y_label="nats"),
            _fixed_entropy(run),
        ),
    )


def _fixed_entropy(run: Run) -> Figure | None:
    """Change of the differential entropy at fixed temperatures since the first snapshot."""
    traces = []
    for color, beta in enumerate((1, 100), 1):
        series = run.series("canonical", f"entropy_differential_beta_{beta}").finite()
        if len(series):
            change = Series(series.step, series.value - series.value[0], 0 * series.step)
            traces.append(series_trace(change, f"\u03b2 = {beta}", color))
    caption = "Differential entropy at fixed temperature"
    svg = plot(
        traces,
        key="fixed-entropy",
        title=caption,
        x_label="optimizer step",
        y_label="change since the start (nats)",
    )
    return Figure(svg, caption) if svg is not None else None


def laws(run: Run) -> Section:
    """First law per window, second law at fitted and at fixed temperature."""
    return Section(
        "laws",
        "Laws: heat, work and entropy",
        "The first law is an identity of the ensemble; its closure tests the spacing of the "
        "snapshots. The second law is counted at the fitted and at fixed temperatures, because "
        "these are different statements.",
        notes_of(run, "laws_run"),
        groups=present(
            *summary_groups(run, "laws_run", "Whole run"),
            first_and_last(run, "laws", LAWS, "First and last window"),
        ),
        figures=present(_law_figure(run)),
        tables=[*present(_window_table(run)), *summary_tables(run, "laws_run")],
        notes=notes_of(run, "laws"),
    )


def _law_figure(run: Run) -> Figure | None:
    names = (("energy_change", "dU"), ("heat", "heat Q"), ("work", "work W"))
    traces = []
    for color, (name, legend) in enumerate(names, 1):
        series = run.series("laws", name).finite()
        kind = "points" if name == "energy_change" else "line"  # heat lies on top of dU
        if len(series):
            traces.append(Trace(series.step, np.cumsum(series.value), legend, kind, color=color))
    traces.reverse()
    svg = plot(
        traces,
        key="laws",
        title="First law, summed from the start",
        x_label="optimizer step",
        y_label="sum since the start (loss)",
    )
    return Figure(svg, "First law, summed from the start") if svg is not None else None


def _window_table(run: Run) -> Table | None:
    """At most twelve windows, evenly chosen, first and last among them."""
    snapshots = run.snapshots.get("laws", [])
    if not snapshots:
        return None
    pick = np.unique(np.linspace(0, len(snapshots) - 1, 12).round().astype(int))
    heads = ["window ends at", "dU", "heat Q", "work W", "dU \u2212 Q \u2212 W", "dC"]
    rows = [
        [f"step {count(s.step)}", *(cell(s.values.get(n)) for n in LAWS)]
        for s in (snapshots[k] for k in pick)
    ]
    title = f"Windows ({len(rows)} of {len(snapshots)})"
    return Table(title, heads, rows)
