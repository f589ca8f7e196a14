"""The network as a stack of engines along a run: heat per layer between snapshots."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.temperature.heat_flow import (
    CLOSED,
    HEAT_CONVENTION,
    Work,
    one_device,
    temperatures,
)
from thermolearn.measure.temperature.network_entropy import (
    ENTROPY_CONVENTION,
    LAWS,
    Law,
    initial_entropy,
)
from thermolearn.measure.temperature.signals import Signal, signals
from thermolearn.measure.window import Run, Window

CHORD_CONVENTION = (
    "Between two snapshots the work is taken along the straight line of the parameters: what the "
    "layers exchange on a path that bends between snapshots is not seen, and the sum over layers "
    "closes to the change of the loss however coarse the snapshots are. Closer snapshots make the "
    "split among layers that of the run."
)


class Heat:
    """Heat of each layer between consecutive snapshots, on the reference set.

    Q_l = - integral g_l . dw_l along the straight line from the snapshot before, g the gradient
    of the loss on the reference set, by Simpson's rule with one midpoint; the error bar is the
    difference from the trapezoidal rule. Values: ``heat`` and ``cumulative_heat`` (layers),
    ``energy_released``, the fall of the reference loss in the window, ``closure``, sum_l Q_l less
    that, and ``cumulative_closure``; ``heat_buffers``, the fall of the loss that goes with running
    statistics, where there are any. `summarize`: Q_l, initial entropy S_l, T_l = Q_l/S_l of the
    whole run, and the activations as engines. The stack of engines: Zhang, arXiv:2404.13218; the
    formulas are ours.

    Parameters
    ----------
    init : "auto", "normal" or "uniform"
        Law of the initial parameters (`heat_flow.initial_entropy`).
    """

    name = "heat"

    def __init__(self, init: Law = "auto"):
        if init not in LAWS:
            raise ValueError(f"init must be one of {', '.join(LAWS)}, got {init!r}")
        self.init: Law = init

    def describe(self, window: Window) -> dict[str, Any]:
        return {"conventions": [HEAT_CONVENTION, ENTROPY_CONVENTION]}

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError for a model without trained parameters, or on two devices."""
        model = window.model
        one_device(model)
        work = Work(model, window.loss_fn, window.reference)
        layers = list(work.groups)
        window.names[self.name] = layers
        nothing, zero = np.full(len(layers), math.nan), np.zeros(len(layers))
        if window.previous is None:
            window.cache[self.name] = {
                "heat": zero, "error": zero, "released": 0.0, "buffers": 0.0, "windows": 0
            }  # fmt: skip
            return {"heat": Estimate(nothing, nothing, note="no snapshot before this one"),
                    "cumulative_heat": Estimate(zero)}  # fmt: skip
        heat, error, energies = _chord(work, window)
        moved, released = energies[1] - energies[2], energies[0] - energies[2]
        total = window.cache.setdefault(
            self.name,
            {"heat": zero, "error": zero, "released": 0.0, "buffers": 0.0, "windows": 0},
        )
        total["heat"] = np.asarray(total["heat"]) + heat
        total["error"] = np.asarray(total["error"]) + error
        total["released"] += released
        total["buffers"] += energies[0] - energies[1]
        total["windows"] += 1
        steps = window.step - window.previous.step
        closure = float(heat.sum()) - moved
        values = {
            "heat": Estimate(heat, error, status=_status(closure, heat), note=f"{steps} steps"),
            "cumulative_heat": Estimate(total["heat"], total["error"]),
            "energy_released": Estimate(released, note="on the reference set, in this window"),
            "closure": Estimate(closure, note="error of the quadrature between snapshots"),
            "cumulative_closure": Estimate(
                float(total["heat"].sum()) - total["released"] + total["buffers"]
            ),
        }
        if energies[0] != energies[1]:
            values["heat_buffers"] = Estimate(
                energies[0] - energies[1], note="running statistics changed since the last snapshot"
            )
        return values

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Raises NotApplicableError with fewer than two snapshots."""
        total = run.cache.get(self.name)
        if not total or not total["windows"]:
            raise NotApplicableError("heat needs at least two snapshots")
        model = run.first.model
        work = Work(model, run.first.loss_fn, run.first.reference)
        state = run.first.snapshot.load()
        entropy = initial_entropy(work.groups, state, work.parameters, self.init)
        Q, error = np.asarray(total["heat"]), np.asarray(total["error"])
        closure = float(Q.sum()) - total["released"] + total["buffers"]
        heat, local, whole = temperatures(Q, error, closure, entropy)
        n = int(entropy.counted.sum())
        values = {
            "heat_total": Estimate(float(Q.sum()), abs(closure), status=heat.status),
            "energy_released": Estimate(total["released"], note="fall of the reference loss"),
            "run_closure": Estimate(closure, note="sum of the heats less the energy released"),
            "initial_entropy": Estimate(float(entropy.scale_free.sum()), note=ENTROPY_CONVENTION),
            "initial_entropy_raw": Estimate(
                float(entropy.raw.sum()), float(np.linalg.norm(entropy.raw_stderr))
            ),
            "global_temperature": whole,
            "parameters_counted": Estimate(n),
        }
        if total["buffers"]:
            values["heat_buffers"] = Estimate(total["buffers"])
        engines = _engine_rows(signals(model, run.first.reference[0]),
                               signals(run.last.model, run.last.reference[0]))  # fmt: skip
        rows = [
            [name, heat.value[k], error[k], entropy.scale_free[k], entropy.raw[k],  # type: ignore[index]
             local.value[k], local.stderr[k], int(entropy.counted[k]), entropy.laws[k]]  # type: ignore[index]
            for k, name in enumerate(entropy.layers)
        ]  # fmt: skip
        tables = {"heat": {"columns": HEAT_COLUMNS, "rows": _plain(rows)}}
        if engines:
            tables["engines"] = {"columns": ENGINE_COLUMNS, "rows": _plain(engines)}
        return [{
            "kind": "summary", "quantity": self.name, "values": values, "tables": tables,
            "notes": _notes(run, entropy.excluded, closure, Q, bool(engines)),
        }]  # fmt: skip


HEAT_COLUMNS = [
    "layer", "heat Q", "heat Q stderr", "entropy S", "raw entropy", "temperature Q/S",
    "temperature Q/S stderr", "parameters", "law",
]  # fmt: skip
ENGINE_COLUMNS = [
    "activation behind", "function", "class", "input scale, first", "efficiency, first",
    "efficiency, first stderr", "Gaussian, first", "input scale, last", "efficiency, last",
    "efficiency, last stderr", "Gaussian, last",
]  # fmt: skip


def _chord(work: Work, window: Window) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Heat and quadrature error per layer, and the losses: before, before with the buffers of
    now, now."""
    if window.previous is None:
        raise ValueError("there is no snapshot before this one")
    state = window.previous.load()
    after, before = work.values(), work.values(state)
    step = [b - a for a, b in zip(before, after, strict=True)]
    # parameters last: the model is left as it was found
    start, g0 = work.gradient(before)
    _, gm = work.gradient([a + d / 2 for a, d in zip(before, step, strict=True)])
    end, g1 = work.gradient(after)
    if not math.isfinite(start + end):
        raise ValueError("the reference loss is not finite: no heat is recorded for this window")
    trapezoid = work.heat([(a + b) / 2 for a, b in zip(g0, g1, strict=True)], step)
    middle = work.heat(gm, step)
    simpson = (trapezoid + 2 * middle) / 3
    then = start
    if _others_moved(work, window, state):
        earlier = Window(window.previous, None, window.setting)
        then = Work(earlier.model, window.loss_fn, window.reference).gradient()[0]
    return simpson, np.abs(simpson - trapezoid), (then, start, end)


def _others_moved(work: Work, window: Window, state: dict[str, Tensor]) -> bool:
    """Whether a buffer, or a parameter that is not trained, changed since the last snapshot."""
    now = window.snapshot.load()
    return any(
        t.is_floating_point() and n not in work.parameters and not torch.equal(t, now[n])
        for n, t in state.items()
    )


def _status(closure: float, heat: np.ndarray) -> str:
    return "not closed" if abs(closure) > CLOSED * float(np.abs(heat).sum()) else "ok"


def _engine_rows(first: list[Signal], last: list[Signal]) -> list[list[Any]]:
    later = {s.place: s for s in last}
    rows = []
    for s in first:
        row: list[Any] = [s.place, s.function, s.engine]
        for t in (s, later.get(s.place)):
            if t is None:
                row += [math.nan] * 4
            else:
                row += [t.scale, float(t.efficiency), float(t.efficiency.stderr), float(t.gaussian)]
        rows.append(row)
    return rows


def _plain(rows: list[list[Any]]) -> list[list[Any]]:
    """JSON-ready: no number that is not finite."""
    return [
        [None if isinstance(c, float) and not math.isfinite(c) else c for c in
         (float(c) if isinstance(c, np.floating) else c for c in row)]
        for row in rows
    ]  # fmt: skip


def _notes(
    run: Run, excluded: list[str], closure: float, Q: np.ndarray, engines: bool
) -> list[str]:
    share = 100 * abs(closure) / max(float(np.abs(Q).sum()), 1e-300)
    notes = [
        HEAT_CONVENTION,
        ENTROPY_CONVENTION + f" The state of step {run.first.step} is taken as the initial one.",
        CHORD_CONVENTION,
        f"The heats add up to the fall of the reference loss within {share:.2g}% of the heat "
        "exchanged (an identity; what is left is the quadrature between snapshots).",
    ]
    if excluded:
        more = f", and {len(excluded) - 4} more" if len(excluded) > 4 else ""
        notes.append(
            "Without entropy, but with their heat: " + "; ".join(excluded[:4]) + more + "."
        )
    if engines:
        notes.append(
            "Efficiency of an activation: mean square out over mean square in, on the reference "
            "samples; beside it that of Gaussian inputs of the same scale. Class I: independent of "
            "the scale when it is large; class II: falls as its inverse square (a bounded output). "
            "This definition is ours."
        )
    return notes
