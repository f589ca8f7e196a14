"""The virial relation along a run: has the training settled, and at what temperature."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise.leading_order import leading_order
from thermolearn.measure.noise.sgd_terms import SMALL, mixing_factor
from thermolearn.measure.noise.steadiness import (
    ENOUGH,
    FEWEST,
    STEADY,
    UNTOLD,
    correlated_mean,
    drift_of_path,
    judge,
    left_side,
    repeats,
)
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
        phi = window.accumulators.get("virial_phi", factor * norm)
        history.append(
            [window.step, norm, factor, *sides, float(count), float(changed), float(phi)]
        )
        return values

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """One row; raises NotApplicableError where fewer than 8 windows have equal settings."""
        window = run.last
        history = np.array(run.cache.get(self.name, [])).reshape(-1, 8)
        with_sides = history[np.isfinite(history[:, 3])]
        if not len(with_sides):
            raise NotApplicableError("no step was read: the virial relation needs the loop's steps")
        kept = _settled(with_sides)
        if len(kept) < FEWEST:
            raise NotApplicableError(
                f"{len(kept)} windows with unchanged optimizer settings at the end of the run, "
                f"{FEWEST} are needed: lower every= or train longer at a constant learning rate"
            )
        reason = _reason(window)
        values, statement = summary_of(kept, not reason)
        if reason:
            statement = f"{statement.removesuffix('.')}; {reason}."
        leading = leading_order(run, window, int(kept[0, 0]), float(kept[-1, 5]))
        if leading is not None:
            values["temperature_leading_order"] = leading
        row = {"values": {k: e.to_dict() for k, e in values.items()}, "notes": [statement]}
        return [{"kind": "summary", "quantity": self.name, **row, "tables": {}}]


def summary_of(kept: np.ndarray, sgd: bool) -> tuple[dict[str, Estimate], str]:
    """Values and statement from rows (step, |theta|^2, factor, left, right, d, changed, Phi)."""
    steps, phi, count = kept[:, 0], kept[:, 7], float(kept[:, 5].mean())
    blocks = min(20, len(kept) // 2)
    right = correlated_mean(kept[:, 4], blocks)
    span = int(steps[-1] - steps[0])
    told = bool(np.isfinite(phi).all())
    # several learning rates and no Phi: only the sampled steps tell
    drift = drift_of_path(phi, span) if told else -correlated_mean(kept[:, 3] - kept[:, 4], blocks)
    status, smallest, statement = judge(drift, float(right), span)
    if status == STEADY and len(kept) < ENOUGH:
        status = UNTOLD
    if status != "not stationary" and told and repeats(phi):
        status = "cycle"
        statement += "; the windows repeat themselves: a cycle without noise has no temperature"
    drift = replace(drift, status=status)
    left = left_side(right, drift)

    def temperature(side: Estimate) -> Estimate:
        if not sgd:
            return Estimate(math.nan, math.nan, status="not applicable")
        return Estimate(
            side.value / count,
            side.stderr / count,
            side.n_eff,
            status if status != STEADY else side.status,
            "per updated parameter; a temperature only where no drift is seen",
        )

    values = {
        "temperature": temperature(left),
        "temperature_from_updates": temperature(right),
        "theta_dot_gradient": left,
        "half_rate_update_squared": right,
        "drift": drift,
        "smallest_drift_seen": Estimate(smallest, note="seen with 95% probability"),
        "first_step": Estimate(float(steps[0])),
        "steps": Estimate(float(span)),
    }
    return values, statement[0].upper() + statement[1:] + "."


def _reason(window: Window) -> str:
    """Why no temperature belongs to the run; empty if one does."""
    if window.optimizer["name"] != "SGD":
        return (
            "the optimizer is not SGD: each parameter has a temperature of its own, and none is "
            "given for the whole"
        )
    state = window.snapshot.load()
    names = [n for n, p in window.setting.template.named_parameters() if p.requires_grad]
    if any(state[n].dtype in SMALL for n in names if n in state):
        return "rounding to half precision swallows small updates: no temperature is given"
    return ""


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
