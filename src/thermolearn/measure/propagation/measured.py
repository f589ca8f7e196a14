"""Variance, correlation and gradient gain from layer to layer of a real network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core import copying
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.propagation.graph import trace_steps
from thermolearn.measure.propagation.network_theory import Expected, expected_propagation
from thermolearn.measure.propagation.watch import PAIRS, measured_values
from thermolearn.measure.setting import window_of
from thermolearn.measure.window import Pair, Run, Window


@dataclass(frozen=True, eq=False)
class PropagationReport:
    """What `measure_propagation` found; arrays over the layers `names`, printable.

    Attributes
    ----------
    variance : Estimate
        q_l, mean square of the pre-activations over samples and units.
    correlation : Estimate
        c_l, mean cosine between the pre-activations of two samples.
    gradient_gain : Estimate
        Sum over samples of |dL/dz_l|^2 over that of the next layer; NaN for the last layer.
    dead_fraction, saturated_fraction : Estimate
        See `measure.layers.Layers`.
    theory : Expected or None
        Mean-field expectation from the statistics of the weights; None if they do not look like
        an i.i.d. initialization, or the wiring is not known (`notes` say why).
    notes : tuple of str
    """

    names: tuple[str, ...]
    variance: Estimate
    correlation: Estimate
    gradient_gain: Estimate
    dead_fraction: Estimate
    saturated_fraction: Estimate
    theory: Expected | None
    notes: tuple[str, ...]

    def table(self) -> dict[str, list[Any]]:
        """Columns and rows: measured value, its error, theory (None where there is none)."""
        return comparison_table(
            list(self.names),
            {
                "q": self.variance,
                "c": self.correlation,
                "gain": self.gradient_gain,
            },
            self.theory,
        )

    def __str__(self) -> str:
        width = max(len(n) for n in (*self.names, "layer"))
        table = self.table()
        heads = [str(h) for h in table["columns"]]
        lines = [f"{heads[0]:{width}}  " + "  ".join(f"{h:>11}" for h in heads[1:])]
        for row in table["rows"]:
            cells = [f"{'' if v is None else f'{v:.4g}':>11}" for v in row[1:]]
            lines.append(f"{row[0]:{width}}  " + "  ".join(cells))
        return "\n".join([*lines, *self.notes])


def measure_propagation(
    model: nn.Module, data: Pair | Tensor, loss_fn: Any = None, *, seed: int = 0
) -> PropagationReport:
    """Signal propagation through a model on data: what reaches each Linear and Conv layer.

    Parameters
    ----------
    model : nn.Module
        Not changed: an eval-mode float64 copy is measured.
    data : (x, y) or x
        Samples along the first axis, at least 2.
    loss_fn : callable, optional
        ``loss_fn(outputs, y)``, whose gradient is followed. Without it, that of a random linear
        function of the outputs (Gaussian, for every sample its own, of the given seed).
    seed : int

    Returns
    -------
    PropagationReport
        Layers in the order of their first call; theory beside them while the weights look like
        independent draws (statistics of each layer, no claim about a training step).

    Raises
    ------
    NotApplicableError
        No Linear or Conv layer, or the model does not run on the data.
    TypeError, ValueError
        Arguments that cannot be right; too few samples.
    """
    if loss_fn is None:
        x = data[0] if isinstance(data, tuple | list) else data
        if not isinstance(x, Tensor):
            raise TypeError(f"data must be a tensor or a pair of tensors, got {type(x).__name__}")
        pair, loss = (x, torch.zeros(len(x), 1)), torch.nn.functional.mse_loss
    elif isinstance(data, tuple | list) and len(data) == 2:
        pair, loss = (data[0], data[1]), loss_fn
    else:
        raise TypeError("data must be a pair (x, y) when a loss_fn is given")
    with copying.untouched():
        window = window_of(model, loss, pair, seed=seed)
        names, values = measured_values(window, random_readout=loss_fn is None)
        theory, notes = theory_of(window)
    missing = Estimate(np.full(len(names), math.nan), math.nan)
    return PropagationReport(
        tuple(names),
        values["variance"],
        values["correlation"],
        values["gradient_gain"],
        values.get("dead_fraction", missing),
        values.get("saturated_fraction", missing),
        theory,
        tuple(notes),
    )


class Propagation:
    """Signal propagation on the reference set; arrays over the Linear and Conv layers.

    Values: ``variance`` q_l, ``correlation`` c_l, ``gradient_gain``, ``dead_fraction`` and
    ``saturated_fraction`` (see `PropagationReport`), and the scalar ``mean_log_gain``, the mean of
    ln(gain) per layer: below 0 gradients vanish towards the input, above 0 they explode. At the
    end of the run the first snapshot stands beside mean-field theory, if it is the initialization
    (step 0) and its weights look like independent draws.

    Source: Poole et al., arXiv:1606.05340; Schoenholz et al., arXiv:1611.01232.
    """

    name = "propagation"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if the model has no affine layer or does not run."""
        names, values = measured_values(window)
        window.names[self.name] = names
        return values

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Theory and network side by side at initialization; the last snapshot beside them."""
        names, first = measured_values(run.first)
        theory, notes = None, [f"the first snapshot is step {run.first.step}: no theory beside it"]
        if run.first.step == 0:
            theory, notes = theory_of(run.first)
        shown = {
            "q": first["variance"],
            "c": first["correlation"],
            "gain": first["gradient_gain"],
        }
        tables = {"propagation": comparison_table(names, shown, theory)}
        values = {"mean_log_gain_first": first["mean_log_gain"].to_dict()}
        if run.last is not run.first:
            later, last = measured_values(run.last)
            values["mean_log_gain_last"] = last["mean_log_gain"].to_dict()
            shown = {"q": last["variance"], "c": last["correlation"], "gain": last["gradient_gain"]}
            tables[f"network_at_step_{run.last.step}"] = comparison_table(later, shown, None)
        return [
            {
                "kind": "summary",
                "quantity": self.name,
                "values": values,
                "tables": tables,
                "notes": notes,
            }
        ]


def comparison_table(
    names: list[str], measured: dict[str, Estimate], theory: Expected | None
) -> dict[str, list[Any]]:
    """Rows: layer, then value, stderr (and theory) of each measured array."""
    columns: list[Any] = ["layer"]
    rows: list[list[Any]] = [[name] for name in names]
    expected = {} if theory is None else {
        "q": theory.variance, "c": theory.correlation, "gain": theory.gain
    }  # fmt: skip
    for head, e in measured.items():
        columns += [f"{head} network", f"{head} stderr"]
        columns += [f"{head} theory"] if theory is not None else []
        errors = np.broadcast_to(np.asarray(e.stderr), np.shape(e.value))
        for row, value, error in zip(rows, np.asarray(e.value), errors, strict=True):
            row += [_finite(value), _finite(error)]
            row += [_finite(expected[head].get(row[0], math.nan))] if theory is not None else []
    return {"columns": columns, "rows": rows}


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def theory_of(window: Window) -> tuple[Expected | None, list[str]]:
    """The mean-field expectation for the window's model, or why there is none."""
    try:
        steps = trace_steps(window.model)
        expected = expected_propagation(steps, window.reference[0][:PAIRS])
    except (NotApplicableError, ValueError) as error:
        return None, [f"no theory beside the network: {error}"]
    note = (
        "theory: mean field of wide layers with each layer's own weight and bias variance, from "
        "the inputs on; a network of width N differs from it by about sqrt(depth/N), beyond the "
        "error bars, which are those of this one network"
    )
    return expected, [note, *expected.notes]
