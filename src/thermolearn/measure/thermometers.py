"""All temperatures of a run in one table: what each means, and which of them should agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise.response import EffectiveTemperature
from thermolearn.measure.noise.steadiness import SEEN, VISIBLE
from thermolearn.measure.window import Run, Window

RESOLVED = 0.5  # difference that must be visible where two temperatures are said to agree
NOISE, STATE, BOOKKEEPING = "noise of the training", "state of the network", "bookkeeping"
COLUMNS = ["temperature", "T", "T stderr", "belongs to", "taken", "status"]


@dataclass(frozen=True)
class Reading:
    """One temperature.

    Attributes
    ----------
    key, label : str
    value : Estimate
        In units of the loss, k_B = 1; status other than "ok" where it is no temperature.
    kind : str
        `NOISE` (per parameter, of the fluctuations of training), `STATE` (per neuron) or
        `BOOKKEEPING` (energy over entropy by convention). Only those of one kind may be compared.
    taken : str
        Over which part of the run.
    meaning : str
        What it is, and when it should agree with which other.
    source : str
    virial_factor : float
        What the value is multiplied by before it is compared with the virial temperature; NaN
        where it cannot be compared.
    difference_error : float
        Standard error of the difference from the virial temperature, where both are taken from the
        same steps; NaN where they are independent.
    """

    key: str
    label: str
    value: Estimate
    kind: str
    taken: str
    meaning: str
    source: str
    virial_factor: float = 1.0
    difference_error: float = math.nan


SETTLED = "last part of the run"  # in words the steps, where they are known

# key, label, quantity, value, kind, taken, meaning, source
RUN = (
    (
        "virial", "virial, from the gradient", "virial", "temperature", NOISE,
        SETTLED,
        "<theta . g>/d. In a settled run of SGD it equals the one from the updates; the first-step "
        "fluctuation-dissipation ratio equals it too, without momentum and with batches drawn with "
        "replacement.",
        "Yaida, arXiv:1810.00004",
    ),
    (
        "virial_updates", "virial, from the updates", "virial", "temperature_from_updates", NOISE,
        SETTLED,
        "lr/2 <|g|^2>/d without momentum. That it agrees with the one from the gradient is the "
        "test of stationarity.",
        "Yaida, arXiv:1810.00004",
    ),
    (
        "leading_order", "from the gradient noise", "virial", "temperature_leading_order", NOISE,
        SETTLED,
        "lr (1 - t) tr Sigma/(2 B d (1 - m)) for momentum m and dampening t (B times tr Sigma for "
        "a loss that sums over the batch), in eval mode, to leading order in the learning rate: "
        "below the virial one where the mean gradient, or a large learning rate, adds to the "
        "noise; it should agree in a settled run at a small learning rate with batches drawn with "
        "replacement.",
        "Yaida, arXiv:1810.00004; Sigma: McCandlish et al., arXiv:1812.06162",
    ),
    (
        "canonical", "canonical ensemble of the neurons", "canonical", "temperature", STATE,
        "last snapshot",
        "Fitted so that noise at every neuron would cost the training loss. It belongs to the "
        "neurons' states, not to the parameters, and need not agree with any other.",
        "Vanchurin, arXiv:2004.09280",
    ),
    (
        "released", "energy released per nat of initial disorder", "heat", "global_temperature",
        BOOKKEEPING, "whole run",
        "Fall of the loss over the entropy of the initial parameters. A convention about how the "
        "entropy is counted, not a property of the noise; it need not agree with any other.",
        "Zhang, arXiv:2404.13218",
    ),
)  # fmt: skip
RESPONSE = (
    (
        "t_fast", "fluctuation over response, first step",
        "H(1)/chi(1). Equal to the virial temperature in a stationary state without momentum; with "
        "plain momentum m smaller by the factor 1 + m; with Nesterov's momentum there is no such "
        "factor and the two cannot be compared.",
    ),
    (
        "t_slope", "fluctuation over response, slope",
        "dH/dchi at long lags. Below the first-step one where fast directions are hotter, as with "
        "independent batches; equal to it only in equilibrium (Langevin).",
    ),
    (
        "t_glob", "fluctuation over response, plateau",
        "H/chi at the largest lags, between the two others unless all are equal.",
    ),
)  # fmt: skip


def thermometers(
    rows: Iterable[dict[str, Any]], response: EffectiveTemperature | None = None
) -> list[Reading]:
    """All temperatures that the rows of a run hold, newest values.

    Parameters
    ----------
    rows : iterable of dict
        ``probe.rows``, or the lines of run.jsonl.
    response : EffectiveTemperature, optional
        The fluctuation-dissipation ratio, from `thermolearn.measure.noise.effective_temperature`;
        it takes trajectories of its own and is not part of a run.

    Returns
    -------
    list of Reading
        Those that were measured, also where their status forbids their use; empty if none was.
    """
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("kind") in ("snapshot", "summary") and isinstance(row.get("values"), dict):
            newest.setdefault(row["quantity"], {}).update(row["values"])
    found = []
    for key, label, quantity, name, kind, taken, meaning, source in RUN:
        value = newest.get(quantity, {}).get(name)
        if value is not None:
            estimate, taken = _scalar(value), _taken(taken, newest[quantity])
            error = (
                _drift_error(newest[quantity], estimate) if key == "virial_updates" else math.nan
            )
            found.append(
                Reading(key, label, estimate, kind, taken, meaning, source, difference_error=error)
            )
    if response is not None:
        for key, label, meaning in RESPONSE:
            value = getattr(response, key)
            source = "Mignacco, Urbani, arXiv:2112.10852"
            factor = getattr(response, "virial_factor", math.nan)
            found.append(
                Reading(key, label, value, NOISE, "separate twin runs", meaning, source, factor)
            )
    return found


def agreement(readings: Sequence[Reading]) -> list[str]:
    """Which temperatures of the noise agree, in sentences; those of other kinds are not compared.

    Two count as different above 4 standard errors. The sides of the virial relation share their
    steps: their difference has the error of the drift; the others are independent. They count as
    agreeing only where a difference of 50% would have been seen with 95% probability.
    """
    said = []
    usable = [r for r in readings if r.kind == NOISE and _usable(r.value)]
    first = next((r for r in usable if r.key == "virial"), None)
    if first is None:
        return [_why_none(readings)]
    for other in usable:
        factor = other.virial_factor
        if other is first or other.key in ("t_slope", "t_glob") or not math.isfinite(factor):
            continue
        a, b = first.value, other.value * factor
        error = other.difference_error
        if math.isnan(error):
            error = math.hypot(float(a.stderr), float(b.stderr))
        ratio = float(b) / float(a)
        times = "" if factor == 1 else f" (times 1 + m = {factor:.3g})"
        detail = f"{float(b):.3g}{times} against {float(a):.3g}, ratio {ratio:.3g}"
        if not math.isfinite(error) or error <= 0:
            said.append(f"{other.label}: {detail}; without an error bar it cannot be told apart.")
            continue
        z = (float(b) - float(a)) / error
        seen = VISIBLE * error / abs(float(a))
        name = f"{other.label[0].upper()}{other.label[1:]}"
        found = f"{detail}, z = {z:+.1f}"
        if abs(z) > SEEN:
            said.append(f"{name} differs from the virial temperature: {found}.")
        elif seen <= RESOLVED:
            said.append(
                f"{name} agrees with the virial temperature: {found}; a difference above "
                f"{_percent(seen)} would have been seen."
            )
        else:
            said.append(
                f"{name}: it cannot be told if it agrees with the virial temperature: {found}; a "
                f"difference below {_percent(seen)} would not have been seen."
            )
    return said or ["The virial temperature stands alone: nothing to compare it with was measured."]


def _why_none(readings: Sequence[Reading]) -> str:
    virial = next((r for r in readings if r.key == "virial"), None)
    if virial is None:
        return "No temperature of the noise was measured."
    reason = {
        "not stationary": "the parameters drift: the run has not settled",
        "not applicable": "the optimizer is not SGD (each parameter has a temperature of its own) "
        "or the parameters are in half precision",
        "under-sampled": "the run is too short to tell if the parameters drift",
        "cycle": "the steps repeat themselves without noise",
    }.get(virial.value.status, virial.value.status)
    return f"The noise has no temperature to compare: {reason}."


def _usable(value: Estimate) -> bool:
    return value.status == "ok" and math.isfinite(float(value))


def _taken(taken: str, values: dict[str, Any]) -> str:
    """The steps, where the quantity says which they were."""
    first, steps = (values.get(k, {}).get("value") for k in ("first_step", "steps"))
    if taken != SETTLED or first is None or steps is None:
        return taken
    return f"steps {first:.0f} to {first + steps:.0f}"


def _drift_error(values: dict[str, Any], temperature: Estimate) -> float:
    """Error of the drift, which is the difference of the two sides, in units of the temperature."""
    drift, side = (values.get(k, {}) for k in ("drift", "half_rate_update_squared"))
    if drift.get("stderr") is None or not side.get("value"):
        return math.nan
    return float(temperature) * drift["stderr"] / side["value"]


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.0f}%"


def _scalar(value: dict[str, Any]) -> Estimate:
    estimate = Estimate.from_dict(value)
    if math.isnan(float(estimate)) and estimate.status == "ok":
        return replace(estimate, status="not measured")
    return estimate


class Thermometers:
    """The table of all temperatures at the end of a run; nothing per snapshot.

    Reads the rows of the quantities before it: put it last.
    """

    name = "temperatures"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Nothing per snapshot."""
        return {}

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Raises NotApplicableError if the run holds no temperature at all."""
        readings = thermometers(run.rows)
        if not readings:
            raise NotApplicableError("no quantity of this run gives a temperature")
        table = [
            [r.label, float(r.value), float(r.value.stderr), r.kind, r.taken, r.value.status]
            for r in readings
        ]
        notes = [*agreement(readings), *(f"{r.label}: {r.meaning} ({r.source})" for r in readings)]
        return [
            {
                "kind": "summary",
                "quantity": self.name,
                "values": {},
                "tables": {self.name: {"columns": COLUMNS, "rows": table}},
                "notes": notes,
            }
        ]
