"""What the Probe fixes before it measures: checked arguments, the copy, the energy, the header."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

import thermolearn
from thermolearn.core.copying import check_measurable, named_state, unwrap
from thermolearn.core.estimate import Estimate
from thermolearn.measure.recorder import ACCUMULATORS, plain_settings
from thermolearn.measure.reference import (
    check_pair,
    infer_energy,
    loss_copy,
    loss_name,
    prepare_copy,
    sha256_of,
    to_precision,
)
from thermolearn.measure.window import Pair, Quantity, Setting, Snapshot, Window, evaluate

ENERGIES = (None, "squared", "cross-entropy")
UNITS = "natural logarithms, k_B = 1"


# -- arguments ---------------------------------------------------------------------------------
def check_objects(model: Any, loss_fn: Any, optimizer: Any) -> None:
    """Raise TypeError or ValueError for what cannot be a model, its loss and its optimizer."""
    check_model_and_loss(model, loss_fn)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: its step "
            "hook counts the steps; pass the torch optimizer inside a wrapper"
        )
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer holds none of the model's parameters; build it from model.parameters()"
        )


def check_model_and_loss(model: Any, loss_fn: Any) -> None:
    """Raise TypeError for what cannot be a model and its loss."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(loss_fn):
        raise TypeError("loss_fn must be callable as loss_fn(outputs, targets)")


def check_numbers(
    every: Any, reference_size: Any, budget: Any, memory_limit: Any, seed: Any, energy: Any
) -> None:
    """Raise TypeError or ValueError naming the argument."""
    integers = {"every": every, "reference_size": reference_size, "memory_limit": memory_limit}
    for name, value in {**integers, "seed": seed}.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}")
    for name, value in integers.items():
        if value < (0 if name == "memory_limit" else 1):
            raise ValueError(f"{name} must be positive, got {value}")
    if budget is not None:
        number = isinstance(budget, int | float) and not isinstance(budget, bool)
        if not number or not 0 < budget < 1:
            raise ValueError(
                f"budget must be a fraction of the training time between 0 and 1, got {budget!r}"
            )
    if energy not in ENERGIES:
        raise ValueError(f"energy must be 'squared', 'cross-entropy' or None, got {energy!r}")


def checked_info(info: dict[str, Any] | None) -> dict[str, Any]:
    """A JSON copy of the user's header entries."""
    if info is not None and not isinstance(info, dict):
        raise TypeError(f"info must be a dict, got {type(info).__name__}")
    try:
        return json.loads(json.dumps(info or {}))
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must hold plain JSON values ({error})") from error


def default_quantities(model: nn.Module, segments: Any, beta: float | None) -> list[Quantity]:
    """All quantities but those that train (`LearningRate`); the table of temperatures comes last,
    because it reads the others."""
    from thermolearn.measure.canonical import quantity
    from thermolearn.measure.curvature import Curvature
    from thermolearn.measure.layers import Layers
    from thermolearn.measure.learning import Learning
    from thermolearn.measure.llc import LocalLearningCoefficient
    from thermolearn.measure.noise import GradientNoise, Virial
    from thermolearn.measure.propagation import Propagation
    from thermolearn.measure.relative_entropy import RelativeEntropy
    from thermolearn.measure.spectra import WeightSpectra
    from thermolearn.measure.temperature.heat import Heat
    from thermolearn.measure.thermometers import Thermometers

    names = quantity.segment_names(unwrap(model), segments)
    canonical = quantity.default_quantities(segments=names, beta=beta)
    return [
        Learning(), *canonical, Layers(), GradientNoise(), Virial(), Heat(), Curvature(),
        Propagation(), RelativeEntropy(), WeightSpectra(), LocalLearningCoefficient(),
        Thermometers(),
    ]  # fmt: skip


def checked_quantities(quantities: Sequence[Any]) -> list[Quantity]:
    """Each with a name of its own, a measure method and known accumulators."""
    names = [str(getattr(q, "name", "")) for q in quantities]
    for quantity in quantities:
        name = getattr(quantity, "name", None)
        if not isinstance(name, str) or not callable(getattr(quantity, "measure", None)):
            raise TypeError(f"quantities: {quantity!r} needs a name and a measure(window) method")
        unknown = set(getattr(quantity, "accumulators", ())) - set(ACCUMULATORS)
        if unknown:
            raise ValueError(
                f"quantities: {name} declares unknown accumulators {sorted(unknown)}; "
                f"there are {list(ACCUMULATORS)}"
            )
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"quantities: the name {twice[0]!r} occurs twice")
    return list(quantities)


# -- what is fixed -----------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured, as the user gave it."""

    model: nn.Module
    loss_fn: Any
    optimizer: torch.optim.Optimizer | None
    validation: Pair | None
    energy: str | None
    seed: int


def make_setting(subject: Subject, reference: Pair, cache: dict[str, Any]) -> Setting:
    """Copy of the model, sample sets in its precision, energy.

    Raises
    ------
    NotApplicableError
        The model or the loss cannot be copied.
    """
    template, dtype = prepare_copy(unwrap(subject.model), reference)
    reference = to_precision(reference, template, dtype)
    validation = subject.validation
    setting = Setting(
        template=template,
        dtype=dtype,
        reference=reference,
        validation=None if validation is None else to_precision(validation, template, dtype),
        loss_fn=loss_copy(subject.loss_fn, dtype),
        energy=None,
        energy_rule="",
        optimizer_name="" if subject.optimizer is None else type(subject.optimizer).__name__,
        seed=subject.seed,
        cache=cache,
    )
    try:
        outputs = evaluate(template, reference[0])
        energy, rule = infer_energy(subject.loss_fn, outputs, reference[1], subject.energy)
    except Exception as error:  # each quantity that needs outputs will say so, too
        energy, rule = None, str(error)
    return replace(setting, energy=energy, energy_rule=rule)


def window_of(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    seed: int = 0,
) -> Window:
    """A window on a model as it is, for a measurement outside a training run.

    The window's model is an eval-mode float64 copy; call it, and measure, inside
    ``copying.untouched()``, so that nothing outside is changed.

    Parameters
    ----------
    data : (x, y)
        All of them are the reference set; the first axis counts the samples.
    optimizer : torch.optim.Optimizer, optional
        Its settings; without one the window's optimizer is ``{"name": ""}``.

    Raises
    ------
    TypeError, ValueError
        Arguments that cannot be right; the message names the argument.
    NotApplicableError
        The model or the loss cannot be copied.
    """
    check_model_and_loss(model, loss_fn)
    data = check_pair("data", data)
    subject = Subject(model, loss_fn, optimizer, None, None, seed)
    setting = make_setting(subject, data, {})
    settings = {} if optimizer is None else plain_settings(optimizer)
    own = unwrap(model)
    check_measurable(own)
    state = {name: t.detach().clone() for name, t in named_state(own).items()}
    rate = float(settings.get("lr") or math.nan)
    return Window(Snapshot(0, rate, settings, state), None, setting)


def make_header(
    subject: Subject,
    reference: tuple[Pair, str] | None,
    every: int,
    info: dict[str, Any],
    window: Window | None,
    quantities: Iterable[Quantity],
) -> dict[str, Any]:
    """The first row of run.jsonl.

    Parameters
    ----------
    reference : (pair, source), optional
        The samples and where they come from.
    window : Window, optional
        The first one; None if nothing can be measured.
    """
    info, model, optimizer = dict(info), unwrap(subject.model), subject.optimizer
    conventions = ["quantities are taken on the reference set with an eval-mode copy of the model"]
    if window is not None and window.setting.dtype != torch.float64:
        conventions.append(f"the model does not run in float64: measured in {window.setting.dtype}")
    header: dict[str, Any] = {
        "kind": "header",
        "schema": 1,
        "library": thermolearn.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": type(model).__name__,
            "parameters": _count_parameters(model),
            "repr": repr(model),
        },
        "segmentation": None,
        "reference": {
            "n": 0 if reference is None else len(reference[0][0]),
            "sha256": "" if reference is None else sha256_of(reference[0]),
            "source": "none" if reference is None else reference[1],
        },
        "loss": {
            "name": loss_name(subject.loss_fn),
            "energy": None if window is None else window.energy,
            "rule": "the model is not measured" if window is None else window.energy_rule,
        },
        "optimizer": _optimizer_row(optimizer),
        "every": every,
        "data": info.pop("data", {}),
        "seed": info.pop("seed", None),
        "command": info.pop("command", None),
        "conventions": conventions,
    }
    if info:
        header["info"] = info
    if window is not None:
        _describe(header, window, quantities)
    if not any(said.startswith(UNITS) for said in conventions):
        conventions.insert(1, f"{UNITS}, entropies in nats")
    return header


def _optimizer_row(optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    if optimizer is None:
        return {}
    return {"name": type(optimizer).__name__, **plain_settings(optimizer)}


def _describe(header: dict[str, Any], window: Window, quantities: Iterable[Quantity]) -> None:
    """What the quantities have to say in the header."""
    for quantity in quantities:
        describe = getattr(quantity, "describe", None)
        try:
            said = {} if describe is None else describe(window)
        except Exception:  # measuring will raise the same, and there it is recorded
            continue
        header["segmentation"] = said.get("segmentation") or header["segmentation"]
        header["conventions"] += said.get("conventions", [])


def _count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p))


def flagged(value: Any) -> Estimate:
    """An Estimate; a scalar that is NaN or infinite without a word about it gets a status."""
    estimate = value if isinstance(value, Estimate) else Estimate(value)
    scalar = np.ndim(estimate.value) == 0
    if estimate.status == "ok" and scalar and not math.isfinite(float(estimate.value)):
        return replace(estimate, status="not finite")
    return estimate
