"""The virial thermometer: both sides of the virial relation over a run, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from thermolearn.core import checks
from thermolearn.core.copying import check_measurable, unwrap
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise.steadiness import (
    FEWEST,
    STEADY,
    BinnedSeries,
    correlated_mean,
    drift_of_path,
    judge,
    left_side,
    repeats,
)
from thermolearn.measure.noise.virial_sides import VirialSides

CYCLE = "cycle"
READ_EVERY = 256  # steps between two looks at numbers that may lie on an accelerator


@dataclass(frozen=True)
class GroupResult:
    """The two sides of one parameter group; the relation holds for each group alone."""

    parameters: float
    theta_dot_gradient: Estimate
    half_rate_update_squared: Estimate
    temperature: Estimate


@dataclass(frozen=True)
class VirialResult:
    """What a `VirialThermometer` has seen.

    Attributes
    ----------
    theta_dot_gradient, half_rate_update_squared : Estimate
        The two sides, in units of the loss, summed over the groups (see `VirialSides`).
    ratio : Estimate
        Left over right; 1 in a stationary run.
    temperature : Estimate
        <theta . g>/d per parameter, in units of the loss. NaN with status "not applicable" for an
        optimizer that is not SGD; status "not stationary", "settings changed" or "cycle" (the
        same steps over and over, without noise) where the value is no temperature, "under-sampled"
        where that cannot be told.
    temperature_from_updates : Estimate
        The same from the right side, which often fluctuates less.
    drift : Estimate
        Right minus left side: (|theta|^2_end - |theta|^2_start)/(2 lr steps) without momentum,
        (Phi_end - Phi_start)/steps with it (see `VirialSides`), per step in units of the loss.
    smallest_drift_seen : float
        Drift, as a share of the right side, that would have been seen with 95% probability.
    stationary : bool
        No drift was seen, and one of 10% of the right side would have been.
    statement : str
        That in one sentence.
    steps, discarded, parameters : int
        Steps used, steps left out at the start, parameters updated per step (on average).
    groups : tuple of GroupResult
    status : str
        "ok", "not stationary", "under-sampled", "cycle", "settings changed" or "not applicable".
    """

    theta_dot_gradient: Estimate
    half_rate_update_squared: Estimate
    ratio: Estimate
    temperature: Estimate
    temperature_from_updates: Estimate
    drift: Estimate
    smallest_drift_seen: float
    stationary: bool
    statement: str
    steps: int
    discarded: int
    parameters: float
    groups: tuple[GroupResult, ...]
    status: str


class VirialThermometer:
    """Reads the virial (Yaida) temperature of a training run from the optimizer's own steps.

    The hooks only read; the run stays bitwise the same. Gradient accumulation, clipping and steps
    that a GradScaler skips are seen as the optimizer sees them::

        with VirialThermometer(model, optimizer) as thermometer:
            for x, y in loader:
                ...
                optimizer.step()
        result = thermometer.result()

    <theta . g>/d is a temperature if the batches are drawn independently of theta (with
    replacement); with shuffled epochs the two sides still test the drift, but g and theta are
    correlated, and `effective_temperature` is the measure.

    Parameters
    ----------
    model : nn.Module
    optimizer : torch.optim.Optimizer
        SGD for a temperature; any other for the drift test alone.

    Raises
    ------
    TypeError, ValueError
        Not a module, not an optimizer, or an optimizer without parameters of this model.
    NotApplicableError
        No parameter of the model requires a gradient, or the model is sharded or not initialized.

    References
    ----------
    Yaida, arXiv:1810.00004; Mignacco, Urbani, arXiv:2112.10852.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        check_measurable(unwrap(model))
        self._sides = VirialSides(optimizer)
        own = {id(p) for p in model.parameters() if p.requires_grad}
        if not own:
            raise NotApplicableError("the model has no parameter that requires a gradient")
        if not any(id(p) in own for g in optimizer.param_groups for p in g["params"]):
            raise ValueError(
                "optimizer holds no trained parameter of the model; build it from "
                "model.parameters()"
            )
        self._series: BinnedSeries | None = None
        self.steps = 0
        self._changes = 0
        self._columns = 0
        self.changed_at = 0  # step of the last change of the optimizer's settings
        self.reason = ""  # why steps could not be read
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    # -- in the loop -------------------------------------------------------------------------------
    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._guarded(self._sides.before)

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        sides = self._sides
        if not self._guarded(sides.after):
            return
        if sides.columns != self._columns:  # another number of groups: the series starts anew
            self._columns, self._series = sides.columns, None
            self.steps, self.changed_at, self._changes = 0, 0, sides.changes
        if sides.changes != self._changes:
            self._changes, self.changed_at = sides.changes, self.steps
        self.steps += 1
        if len(sides.rows) >= READ_EVERY:
            self._read()

    def _guarded(self, action: Any) -> Any:
        """The training loop never dies because of a measurement."""
        if self.reason:
            return False
        try:
            return action()
        except Exception as error:
            self.reason = str(error)
            return False

    def _read(self) -> BinnedSeries:
        sides = self._sides
        if self._series is None:
            self._series = BinnedSeries(max(sides.columns, 2) // 2 * 3)
        if sides.rows:
            self._series.extend(sides.drain_with_counts())
        return self._series

    def close(self) -> None:
        """Remove the hooks; what was seen can still be asked for."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> VirialThermometer:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # -- resume ------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, for a checkpoint."""
        series = self._read().state_dict()
        return {
            "steps": self.steps,
            "changed_at": self.changed_at,
            "reason": self.reason,
            "width": series["width"],
            "bins": torch.from_numpy(series["bins"].copy()),
            "rest": torch.from_numpy(series["rest"].copy()),
            "sides": self._sides.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; call it after the model and the optimizer are loaded.

        Raises
        ------
        ValueError
            Not a state of a VirialThermometer, or one of another number of parameter groups.
        """
        if not isinstance(state, dict) or "bins" not in state or "sides" not in state:
            raise ValueError("state is not what VirialThermometer.state_dict() returned")
        groups = len(self._sides.optimizer.param_groups)
        if state["sides"]["columns"] not in (0, 2 * groups):
            raise ValueError(
                f"state was taken with {state['sides']['columns'] // 2} parameter groups, the "
                f"optimizer has {groups}"
            )
        self.steps, self.changed_at = int(state["steps"]), int(state["changed_at"])
        self.reason = str(state["reason"])
        self._sides.load_state_dict(state["sides"])
        self._changes, self._columns = self._sides.changes, self._sides.columns
        arrays = {k: state[k].numpy() for k in ("bins", "rest")}
        self._series = BinnedSeries.from_state({"width": state["width"], **arrays})

    # -- what was seen -----------------------------------------------------------------------------
    def result(self, discard: float = 1 / 3, blocks: int = 20) -> VirialResult:
        """Both sides, the temperature and the drift over the steps that are kept.

        Parameters
        ----------
        discard : float in [0, 1) or int
            Share of the steps, or number of steps, to leave out at the start.
        blocks : int
            Of the block errors, at least 4.

        Raises
        ------
        ValueError
            Fewer than 8 steps per block are kept, or a bad argument.
        NotApplicableError
            The steps could not be read; the message says why.
        """
        blocks = checks.whole("blocks", blocks, least=4)
        discard = checks.real("discard", discard, least=0)
        if self.reason:
            raise NotApplicableError(self.reason)
        series = self._read()
        total = len(series.values)
        first = round(discard * total) if discard < 1 else math.ceil(discard / series.width)
        rows = series.values[first:]
        if len(rows) < FEWEST * blocks:
            raise ValueError(
                f"{max(len(rows), 0) * series.width} steps are left of {self.steps}, fewer than "
                f"{FEWEST} for each of {blocks} blocks: train longer, or lower discard or blocks"
            )
        discarded = first * series.width
        result = _analyze(rows, series.width, blocks, self._sides)
        result = replace(result, discarded=discarded)
        return _with_changes(result, self.changed_at) if self.changed_at > discarded else result


def _analyze(rows: np.ndarray, width: int, blocks: int, sides: VirialSides) -> VirialResult:
    n_groups = rows.shape[1] // 3
    parts = [_group(rows[:, k::n_groups], width, blocks) for k in range(n_groups)]
    left, right, counts = (part.sum(1) for part in np.split(rows, 3, axis=1))
    steps, parameters = len(rows) * width, float(counts.mean())
    path = _path(left, right, width)
    drift, right_mean = drift_of_path(path, steps), correlated_mean(right, blocks)
    left_mean = left_side(right_mean, drift)
    status, smallest, statement = judge(drift, float(right_mean), steps)
    stationary = status == STEADY
    if status != "not stationary" and repeats(path):
        status = CYCLE
        statement += "; the steps repeat themselves: a cycle without noise has no temperature"
    if not sides.covered:
        statement, status = f"{statement}; {sides.reason}", "not applicable"
    groups = tuple(
        replace(g, temperature=_per_parameter(g.theta_dot_gradient, g.parameters, status))
        for g in parts
    )
    temperatures = [_per_parameter(s, parameters, status) for s in (left_mean, right_mean)]
    return VirialResult(
        left_mean,
        right_mean,
        _ratio(right_mean, drift),
        temperatures[0],
        temperatures[1],
        drift,
        smallest,
        stationary,
        statement,
        steps,
        0,
        parameters,
        groups,
        status,
    )


def _path(left: np.ndarray, right: np.ndarray, width: int) -> np.ndarray:
    """Phi along the steps, from zero."""
    with np.errstate(all="ignore"):
        path = -np.concatenate([[0.0], np.cumsum(left - right)]) * width
    if not np.isfinite(path).all():
        raise ValueError("the gradients or the parameters became NaN or infinite: the run diverged")
    return path


def _ratio(right: Estimate, drift: Estimate) -> Estimate:
    if not float(right) > 0:
        return Estimate(math.nan, math.nan, status="nothing was updated")
    share = float(drift) / float(right)
    error = math.hypot(float(drift.stderr), share * float(right.stderr)) / float(right)
    return Estimate(1 - share, error, drift.n_eff, drift.status)


def _group(sides: np.ndarray, width: int, blocks: int) -> GroupResult:
    """One group from its columns left, right, count; the temperature is filled in later."""
    left, right, counts = sides.T
    drift = drift_of_path(_path(left, right, width), len(sides) * width)
    mean = correlated_mean(right, blocks)
    return GroupResult(float(counts.mean()), left_side(mean, drift), mean, Estimate(math.nan))


def _per_parameter(side: Estimate, parameters: float, status: str) -> Estimate:
    if status == "not applicable" or parameters == 0:
        return Estimate(math.nan, math.nan, status="not applicable")
    status = side.status if status == "ok" else status
    return replace(
        side / parameters, status=status, note="per updated parameter, units of the loss"
    )


def _with_changes(result: VirialResult, step: int) -> VirialResult:
    """The result of a run whose settings changed inside the window: no stationary state."""

    def mark(e: Estimate) -> Estimate:
        return e if e.status == "not applicable" else replace(e, status="settings changed")

    return replace(
        result,
        temperature=mark(result.temperature),
        temperature_from_updates=mark(result.temperature_from_updates),
        groups=tuple(replace(g, temperature=mark(g.temperature)) for g in result.groups),
        stationary=False,
        status="settings changed" if result.status != "not applicable" else result.status,
        statement=f"the optimizer's settings changed at step {step}: the sides belong to no one "
        f"stationary state; discard at least {step} steps",
    )
