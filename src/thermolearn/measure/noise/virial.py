"""The virial relation along a run: has the training settled, and at what temperature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise.steadiness import (
    FEWEST,
    SEEN,
    correlated_mean,
    drift_of_path,
    judge,
)
from thermolearn.measure.noise.virial_sides import mixing_factor
from thermolearn.measure.window import Run, Window

SIDES = ("theta_dot_gradient", "half_rate_update_squared", "virial_gap")
KEPT = 2 / 3  # of the windows, at the end of the run
CONVENTION = (
    "temperature of SGD: <theta . g>/d per updated parameter in units of the loss, g with weight "
    "decay (virial relation); it is no temperature while the run drifts"
)


class Virial:
    """Both sides of the virial relation over the steps of each window, and |theta|^2.

    ``theta_dot_gradient`` <theta . g> and ``half_rate_update_squared`` (lr/2 <|g|^2> without
    momentum; see `VirialSides`), their difference ``virial_gap``, the squared norm
    ``parameter_norm_squared`` of the trained parameters and ``parameter_drift``, its change since
    the snapshot before in the units of the gap: (1 - m) d|theta|^2/(2 lr (1 - t)) per step.

    The summary takes the last two thirds of the windows, back to the last change of the
    optimizer's settings, and says whether a drift was seen, or which would have been seen; with
    SGD it gives the temperature per parameter (Yaida, arXiv:1810.00004).
    """

    name = "virial"
    accumulators = ("virial",)

    def describe(self, window: Window) -> dict[str, Any]:
        return {"conventions": [CONVENTION]} if window.optimizer["name"] == "SGD" else {}

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if the model has no trained parameter."""
        norm = _norm_squared(window)
        found = {k: _estimate(window.accumulators[k]) for k in SIDES if k in window.accumulators}
        count = window.accumulators.get("updated_parameters", math.nan)
        values = {**found, "parameter_norm_squared": Estimate(norm)}
        history: list[list[float]] = window.cache.setdefault(self.name, [])
        if history and history[-1][0] >= window.step:  # measured again after a resume
            del history[next(k for k, r in enumerate(history) if r[0] >= window.step) :]
        factor = _factor(window)
        if history and window.step > history[-1][0]:
            change = factor * (norm - history[-1][1]) / (window.step - history[-1][0])
            values["parameter_drift"] = Estimate(
                change, status="ok" if math.isfinite(change) else "several learning rates"
            )
        changed = any(e.status == "settings changed" for e in found.values())
        sides = [float(found[k]) if k in found else math.nan for k in SIDES[:2]]
        history.append([window.step, norm, factor, *sides, float(count), float(changed)])
        return values

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """One row; raises NotApplicableError where fewer than 8 windows have equal settings."""
        window = run.last
        history = np.array(run.cache.get(self.name, [])).reshape(-1, 7)
        with_sides = history[np.isfinite(history[:, 3])]
        if not len(with_sides):
            raise NotApplicableError("no step was read: the virial relation needs the loop's steps")
        kept = _settled(with_sides)
        if len(kept) < FEWEST:
            raise NotApplicableError(
                f"{len(kept)} windows with unchanged optimizer settings at the end of the run, "
                f"{FEWEST} are needed: lower every= or train longer at a constant learning rate"
            )
        values, statement = summary_of(kept, window.optimizer["name"] == "SGD")
        leading = _leading_order(run, kept, window)
        if leading is not None:
            values["temperature_leading_order"] = leading
        row = {"values": {k: e.to_dict() for k, e in values.items()}, "notes": [statement]}
        return [{"kind": "summary", "quantity": self.name, **row, "tables": {}}]


def summary_of(kept: np.ndarray, sgd: bool) -> tuple[dict[str, Estimate], str]:
    """Values and statement from rows (step, |theta|^2, factor, left, right, d, changed)."""
    steps, norms, factor = kept[:, 0], kept[:, 1], kept[:, 2]
    blocks = min(20, len(kept) // 2)
    left, right = (correlated_mean(kept[:, k], blocks) for k in (3, 4))
    span = int(steps[-1] - steps[0])
    if np.isfinite(factor).all():
        drift = drift_of_path(norms * factor, span)
    else:  # several learning rates: only the sampled steps tell
        drift = -correlated_mean(kept[:, 3] - kept[:, 4], blocks)
    stationary, smallest, statement = judge(drift, float(right), span)
    unsteady = "ok" if stationary else "not stationary"
    count = float(kept[-1, 5])

    def temperature(side: Estimate) -> Estimate:
        if not sgd:
            return Estimate(math.nan, math.nan, status="not applicable")
        status = unsteady if unsteady != "ok" else side.status
        return Estimate(
            side.value / count,
            side.stderr / count,
            side.n_eff,
            status,
            "per updated parameter; a temperature only where no drift is seen",
        )

    values = {
        "temperature": temperature(left),
        "temperature_from_updates": temperature(right),
        "theta_dot_gradient": left,
        "half_rate_update_squared": right,
        "drift": drift,
        "smallest_drift_seen": Estimate(smallest, note=f"{SEEN:g} standard errors"),
        "steps": Estimate(float(span)),
    }
    if not sgd:
        statement += (
            "; the optimizer is not SGD: each parameter has a temperature of its own, and none is "
            "given for the whole"
        )
    return values, statement[0].upper() + statement[1:] + "."


def _settled(history: np.ndarray) -> np.ndarray:
    """The last windows without a change of settings, at most two thirds of all.

    The factor compares the settings at the snapshots; the flag says if they changed in between.
    """
    start = len(history) - round(KEPT * len(history))
    factor, changed = history[:, 2], history[:, 6]
    same = (factor[1:] == factor[:-1]) | (np.isnan(factor[1:]) & np.isnan(factor[:-1]))
    breaks = np.flatnonzero(~same | (changed[1:] > 0))
    if len(breaks):
        start = max(start, int(breaks[-1]) + 2)  # a window with a change in it belongs to neither
    return history[start:]


def _factor(window: Window) -> float:
    settings = window.optimizer
    if not settings.get("one_rate", True):
        return math.nan
    if settings["name"] == "SGD":
        return mixing_factor(settings)
    rate = float(settings.get("lr") or 0.0)
    return 1 / (2 * rate) if rate > 0 else math.nan


def _norm_squared(window: Window) -> float:
    names = [n for n, p in window.setting.template.named_parameters() if p.requires_grad]
    if not names:
        raise NotApplicableError("the model has no parameter that requires a gradient")
    state = window.snapshot.load()
    return sum(float(state[n].double().square().sum()) for n in names if n in state)


def _estimate(value: Estimate | float) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(float(value))


def _leading_order(run: Run, kept: np.ndarray, window: Window) -> Estimate | None:
    """lr tr Sigma/(2 B d (1 - m)) from the gradient noise measured in the same windows."""
    settings = window.optimizer
    rows = [
        r["values"]
        for r in run.rows
        if r.get("kind") == "snapshot"
        and r.get("quantity") == "gradient_noise"
        and r.get("step", -1) >= kept[0, 0]
    ]
    noise, bars = [], []
    for values in rows:
        trace, size = values.get("noise_trace", {}), values.get("batch_size", {}).get("value")
        if trace.get("value") is not None and size:
            noise.append(trace["value"] / size)
            bars.append((trace.get("stderr") or 0.0) / size)
    if len(noise) < 2 or settings["name"] != "SGD" or not np.isfinite(kept[-1, 2]):
        return None
    m = float(settings.get("momentum") or 0.0)
    rate = float(settings.get("lr") or 0.0) / (2 * (1 - m) * float(kept[-1, 5]))
    # all windows share the reference samples, whose error does not average out
    error = math.hypot(float(np.std(noise, ddof=1)) / math.sqrt(len(noise)), float(np.mean(bars)))
    return Estimate(
        rate * float(np.mean(noise)),
        rate * error,
        note="lr tr Sigma/(2 B d (1 - m)): small learning rates, batches with replacement; tr "
        "Sigma on the reference samples",
    )
