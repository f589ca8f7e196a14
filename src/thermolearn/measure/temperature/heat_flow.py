"""Heat that each layer of a network releases along a training path, and its entropy."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.checks import whole
from thermolearn.core.copying import named_state, untouched, unwrap
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.measure.layers import parameter_groups
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.objective import trained_parameters
from thermolearn.measure.setting import window_of
from thermolearn.measure.temperature.network_entropy import (
    ENTROPY_CONVENTION,
    LAWS,
    InitialEntropy,
    Law,
    initial_entropy,
)
from thermolearn.measure.window import CHUNK, Pair, evaluate

CLOSED = 0.05  # of the heat exchanged: a closure above this is flagged

HEAT_CONVENTION = (
    "Heat of a layer: minus the work of the gradient of the loss on its parameters along the "
    "path; positive when moving the layer lowers the loss. Local temperatures of Zhang, "
    "arXiv:2404.13218, in an additive form of ours."
)


# -- work along a straight piece ---------------------------------------------------------------
class Work:
    """Minus the work of the gradient, layer by layer, on the given model and samples.

    Parameters
    ----------
    model : nn.Module
        A private eval-mode copy; its parameters are overwritten.
    """

    def __init__(self, model: nn.Module, loss_fn: Any, data: Pair):
        self.model, self.loss_fn, self.data = model, loss_fn, data
        self.groups = parameter_groups(model)
        self.parameters = trained_parameters(model)
        owner = {n: k for k, group in enumerate(self.groups.values()) for n in group}
        self.owner = [owner[n] for n in self.parameters]
        self.reduction = sample_losses(loss_fn, evaluate(model, data[0]), data[1])[-1]

    def values(self, state: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Copies of the trained parameters, of a state or of the model now."""
        return [
            (p if state is None else state[n]).detach().to(p).clone()
            for n, p in self.parameters.items()
        ]

    def gradient(self, values: list[Tensor] | None = None) -> tuple[float, list[Tensor]]:
        """Loss of all samples and its gradient, at other parameter values or as they are."""
        if values is not None:
            with torch.no_grad():
                for p, v in zip(self.parameters.values(), values, strict=True):
                    p.copy_(v)
        x, y = self.data
        chunk = len(x) if self.reduction == "other" else CHUNK
        energy, total = 0.0, None
        for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
            weight = len(xs) / len(x) if self.reduction == "mean" else 1.0
            loss = weight * self.loss_fn(self.model(xs), ys).mean()
            part = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
            total = (
                list(part) if total is None else [a + b for a, b in zip(total, part, strict=True)]
            )
            energy += float(loss.detach())
        return energy, total or []

    def heat(self, gradient: list[Tensor], step: list[Tensor]) -> np.ndarray:
        """- g_l . dw_l of each layer (L,)."""
        out = np.zeros(len(self.groups))
        for k, g, d in zip(self.owner, gradient, step, strict=True):
            out[k] -= float((g.double() * d.double()).sum())
        return out


# -- a whole path ------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class HeatFlow:
    """Heat, entropy and temperature of the layers of a network along one training path.

    Attributes
    ----------
    layers : list of str
        Modules that own parameters; a tied parameter belongs to the first of its owners.
    heat : Estimate (L,)
        Q_l; the error bar is that of the quadrature, |trapezoid - trapezoid of every other step|.
    entropy, raw_entropy : Estimate (L,)
        S_l in scale-free coordinates and in the parameters' own unit, nats.
    temperature : Estimate (L,)
        T_l = Q_l / S_l, loss per nat; NaN where a layer has no entropy.
    energy_released : Estimate
        E_start - E_end on the samples.
    closure : float
        sum_l Q_l - (E_start - E_end): what the quadrature leaves over.
    global_temperature : Estimate
        sum_l Q_l / sum_l S_l, the mean of T_l with the weights S_l.
    cumulative : ndarray (steps + 1, L)
        Heat up to each step.
    energy : ndarray (steps + 1,)
        The loss at each step.
    counted : ndarray (L,) of int
        Parameters behind the entropy. Others release heat, which is counted, but have no entropy.
    excluded : list of str
        What is left out of the entropy, and why.
    laws : list of str
        Law of the initial parameters of each layer: the likelier of normal and uniform (no other
        law is compared), "(assumed)" where the tensors are too small to tell; "none" without any.
    convention : str
    """

    layers: list[str]
    heat: Estimate
    entropy: Estimate
    raw_entropy: Estimate
    temperature: Estimate
    energy_released: Estimate
    closure: float
    global_temperature: Estimate
    cumulative: np.ndarray
    energy: np.ndarray
    counted: np.ndarray
    excluded: list[str]
    laws: list[str]
    convention: str

    def index(self, layer: str) -> int:
        """Place of a layer in the arrays.

        Raises
        ------
        ValueError
            No such layer; the message lists them.
        """
        if layer not in self.layers:
            raise ValueError(f"no layer {layer!r}; there are {', '.join(self.layers)}")
        return self.layers.index(layer)

    def __str__(self) -> str:
        lines = [f"{'layer':<20}{'Q':>18}{'S (nats)':>12}{'T = Q/S':>14}"]
        for k, name in enumerate(self.layers):
            Q = Estimate(self.heat.value[k], self.heat.stderr[k])  # type: ignore[index]
            S, T = self.entropy.value[k], self.temperature.value[k]  # type: ignore[index]
            lines.append(f"{name[:19]:<20}{Q!s:>18}{S:>12.4g}{T:>14.4g}")
        total = float(np.sum(self.heat.value))
        lines.append(
            f"{'all':<20}{total:>18.6g}{float(np.sum(self.entropy.value)):>12.4g}"
            f"{float(self.global_temperature):>14.4g}"
        )
        lines.append(f"closure {self.closure:.3g} of {float(self.energy_released):.6g} released")
        return "\n".join([*lines, self.convention])


def layer_heat(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    optimizer: torch.optim.Optimizer | None = None,
    steps: int = 300,
    *,
    path: Iterable[Mapping[str, Tensor]] | None = None,
    init: Law = "auto",
) -> HeatFlow:
    """Heat per layer Q_l = - sum_t 1/2 (g_l(t) + g_l(t+1)) . dw_l(t), entropy S_l, T_l = Q_l/S_l.

    g is the gradient of the loss on all of `data`, dw the change of the parameters from one step
    to the next. sum_l Q_l is the energy released up to the error of the trapezoidal rule, which
    falls with the square of the step. What drives the path (momentum, weight decay, noise) does
    not matter: heat is the work of the loss's own gradient.

    Parameters
    ----------
    model : nn.Module
        At its initial state. It is copied and left alone; the copy runs in eval mode and float64.
    loss_fn : callable
        ``loss_fn(outputs, targets)``; the energy is its mean.
    data : (x, y)
    optimizer : torch.optim.Optimizer
        Over the model's parameters; a copy of it trains the copy for `steps` full-batch steps.
    steps : int
        At least 1; without meaning if a path is given.
    path : iterable of state dicts
        Parameters along a path of your own, in place of an optimizer; the first is the initial
        state. Names as in ``model.state_dict()``; what is missing, and every buffer, stays as it
        is in the model.
    init : "auto", "normal" or "uniform"
        Law of the initial parameters; see `initial_entropy`.

    Returns
    -------
    HeatFlow

    Raises
    ------
    TypeError, ValueError
        Arguments out of range; parameters or a loss that are not finite on the path.
    NotApplicableError
        A model without trained parameters or with parameters on several devices; an optimizer
        that needs a closure.

    Notes
    -----
    Local temperatures: Zhang, arXiv:2404.13218, whose formula could not be seen; this one is
    additive over layers. The initial values are read as one draw of their law.
    """
    if (optimizer is None) == (path is None):
        raise TypeError("give an optimizer, whose steps are taken, or a path of states; not both")
    if init not in LAWS:
        raise ValueError(f"init must be one of {', '.join(LAWS)}, got {init!r}")
    steps = whole("steps", steps, 1)
    with untouched():
        window = window_of(model, loss_fn, data)
        twin = window.model
        one_device(twin)
        work = Work(twin, window.loss_fn, window.reference)
        if optimizer is not None:
            states = _trained(work, _twin_optimizer(optimizer, unwrap(model), twin), steps)
        else:
            states = _given(work, path or ())
        entropy, energy, heats = _along(work, states, init)
    return _flow(entropy, energy, heats)


def one_device(model: nn.Module) -> None:
    """Raise NotApplicableError if the parameters lie on several devices."""
    devices = {str(p.device) for p in model.parameters()}
    if len(devices) > 1:
        raise NotApplicableError(
            f"the parameters lie on several devices ({', '.join(sorted(devices))}); "
            "move the model to one"
        )


def _twin_optimizer(optimizer: Any, model: nn.Module, twin: nn.Module) -> torch.optim.Optimizer:
    """The same optimizer, state included, over the parameters of the copy."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise NotApplicableError("LBFGS takes a closure; record states and give them as path=")
    copies = dict(twin.named_parameters())
    memo: dict[int, Any] = {id(p): copies[name] for name, p in model.named_parameters()}
    if not all(id(p) in memo for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer holds parameters that are not the model's")
    try:
        made = copy.deepcopy(optimizer, memo)
    except Exception as error:  # anything a user's class may do
        raise NotApplicableError(
            f"the optimizer {type(optimizer).__name__} cannot be copied ({error}); record states "
            "and give them as path="
        ) from error
    for p, state in made.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
                state[name] = value.to(p)
    return made


def _trained(
    work: Work, optimizer: torch.optim.Optimizer, steps: int
) -> Iterator[tuple[float, list[Tensor]]]:
    """(energy, gradient) at each state of a full-batch training; the model holds the state."""
    for step in track(range(steps + 1), "heat per layer", steps + 1):
        energy, gradient = work.gradient()
        yield energy, gradient
        if step < steps:
            for p, g in zip(work.parameters.values(), gradient, strict=True):
                p.grad = g.clone()
            optimizer.step()


def _given(
    work: Work, path: Iterable[Mapping[str, Tensor]]
) -> Iterator[tuple[float, list[Tensor]]]:
    own = dict(work.model.named_parameters())
    known = {*named_state(work.model), *work.model.state_dict()}
    for k, state in enumerate(track(path, "heat per layer")):
        if not isinstance(state, Mapping):
            raise TypeError(f"path: state {k} must be a dict of tensors")
        unknown = sorted(set(state) - known)
        if unknown:
            raise ValueError(f"path: state {k} has {unknown[0]!r}, which the model does not have")
        for name, parameter in own.items():
            value = torch.as_tensor(state.get(name, parameter))
            if value.shape != parameter.shape:
                raise ValueError(f"path: state {k} has {name!r} of shape {tuple(value.shape)}")
            with torch.no_grad():
                parameter.copy_(value)
        yield work.gradient()


def _along(
    work: Work, states: Iterator[tuple[float, list[Tensor]]], law: Law
) -> tuple[InitialEntropy, np.ndarray, list[np.ndarray]]:
    """Entropy of the first state, energies, and heats by single and by double steps."""
    entropy: InitialEntropy | None = None
    energies: list[float] = []
    single: list[np.ndarray] = []
    double: list[np.ndarray] = []
    before: tuple[list[Tensor], list[Tensor]] | None = None
    earlier: tuple[list[Tensor], list[Tensor]] | None = None
    for energy, gradient in states:
        now = (work.values(), gradient)
        if not (math.isfinite(energy) and all(bool(torch.isfinite(v).all()) for v in now[0])):
            raise ValueError(
                f"step {len(energies)}: the loss or a parameter is not finite; the path diverges, "
                "lower the learning rate"
            )
        if entropy is None:
            entropy = initial_entropy(work.groups, named_state(work.model), work.parameters, law)
        if before is not None:
            single.append(_trapezoid(work, before, now))
        if len(energies) % 2 == 0:
            if earlier is not None:
                double.append(_trapezoid(work, earlier, now))
            earlier = now
        before = now
        energies.append(energy)
    if entropy is None or not single:
        raise ValueError("path: at least two states are needed")
    return (
        entropy,
        np.array(energies),
        [np.array(single), np.array(double).reshape(-1, len(work.groups))],
    )


def _trapezoid(
    work: Work, a: tuple[list[Tensor], list[Tensor]], b: tuple[list[Tensor], list[Tensor]]
) -> np.ndarray:
    mean = [(g + h) / 2 for g, h in zip(a[1], b[1], strict=True)]
    return work.heat(mean, [w - v for v, w in zip(a[0], b[0], strict=True)])


def _flow(entropy: InitialEntropy, energy: np.ndarray, heats: list[np.ndarray]) -> HeatFlow:
    single, double = heats
    Q = single.sum(0)
    paired = single[: 2 * len(double)].sum(0) - double.sum(0)
    error = np.abs(paired) if len(double) else np.full(len(Q), np.nan)
    released = float(energy[0] - energy[-1])
    closure = float(Q.sum()) - released
    heat, local, total = temperatures(Q, error, closure, entropy)
    return HeatFlow(
        layers=entropy.layers,
        heat=heat,
        entropy=Estimate(entropy.scale_free, note=ENTROPY_CONVENTION),
        raw_entropy=Estimate(
            entropy.raw, entropy.raw_stderr, note="depends on the unit of the parameters"
        ),
        temperature=local,
        energy_released=Estimate(released, note="of the loss on the samples given"),
        closure=closure,
        global_temperature=total,
        cumulative=np.concatenate([np.zeros((1, len(Q))), single.cumsum(0)]),
        energy=energy,
        counted=entropy.counted,
        excluded=entropy.excluded,
        laws=entropy.laws,
        convention=f"{HEAT_CONVENTION} {ENTROPY_CONVENTION}",
    )


def temperatures(
    Q: np.ndarray, error: np.ndarray, closure: float, entropy: InitialEntropy
) -> tuple[Estimate, Estimate, Estimate]:
    """Heat, T_l and T as Estimates; flagged where the heat does not close."""
    exchanged = max(float(np.abs(Q).sum()), 1e-300)
    open_ = abs(closure) > CLOSED * exchanged
    status = "not closed" if open_ else "ok"
    heat = Estimate(Q, error, status=status, note=HEAT_CONVENTION)
    S, total = entropy.scale_free, float(entropy.scale_free.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        T = np.where(S > 0, Q / S, np.nan)
        T_error = np.where(S > 0, error / S, np.nan)
    local = Estimate(T, T_error, status=status, note=ENTROPY_CONVENTION)
    if total <= 0:
        said = "no parameter that has an initial entropy: all are frozen or start as constants"
        return heat, local, Estimate(math.nan, math.nan, status="no entropy", note=said)
    whole_T = Estimate(
        float(Q.sum()) / total, abs(closure) / total, status=status, note=ENTROPY_CONVENTION
    )
    return heat, local, whole_T
