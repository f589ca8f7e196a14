"""One number per layer: norms, updates, dead and saturated units."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.window import Window

BLOCKS = 8  # of the reference set, for the error bar of the gradient norm
CHUNK = 64  # samples per forward pass while activations are watched
CHANNELS_SECOND = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
TANH = {torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh}
SIGMOID = {torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid}
OTHER = {
    torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu_, F.relu6, F.leaky_relu,
    F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.softplus, F.hardtanh, F.hardswish,
    F.hardsigmoid, F.prelu, F.softsign,
}  # fmt: skip


class Layers:
    """Arrays over the modules that own parameters, in their order; names in ``window.names``.

    Values: ``weight_norm`` |w|; ``gradient_norm`` |dL/dw| of the loss on the reference set, its
    error by the jackknife over 8 blocks of samples; ``update_ratio`` |w - w_prev| / |w_prev| over
    the window; ``dead_fraction``, units (channels) of the activation behind the layer that are
    exactly zero on every reference sample; ``saturated_fraction`` of the values of a tanh with
    |x| > 0.99 or of a sigmoid outside (0.01, 0.99). NaN where no such activation follows, and for
    the update of the first snapshot.
    """

    name = "layers"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if the model has no parameters or does not run."""
        groups = parameter_groups(window.model)
        if not groups:
            raise NotApplicableError("the model has no parameters")
        window.names[self.name] = list(groups)
        dead, saturated = activation_fractions(window.model, window.reference[0], groups)
        return {
            "weight_norm": Estimate(np.array([_norm(group.values()) for group in groups.values()])),
            "gradient_norm": gradient_norms(window, groups),
            "update_ratio": update_ratios(window, groups),
            "dead_fraction": dead,
            "saturated_fraction": saturated,
        }


def parameter_groups(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Parameters by the module that owns them (a tied one counts once, where it comes first)."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        owner = name.split("parametrizations.")[0] if "parametrizations." in name else name
        owner = owner.rpartition(".")[0] or "(model)"
        groups.setdefault(owner, {})[name] = parameter
    return groups


def _norm(tensors: Any) -> float:
    return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors))


def update_ratios(window: Window, groups: dict[str, dict[str, Tensor]]) -> Estimate:
    """|w - w_prev| / |w_prev| per layer."""
    if window.previous is None:
        nothing = np.full(len(groups), math.nan)
        return Estimate(nothing, nothing, note="no snapshot before this one")
    old, new = window.previous.load(), window.snapshot.load()
    ratios = []
    for group in groups.values():
        before = _norm(old[name] for name in group)
        moved = _norm(new[n].double() - old[n].to(new[n].device).double() for n in group)
        ratios.append(moved / before if before > 0 else math.nan)
    steps = window.step - window.previous.step
    return Estimate(np.array(ratios), note=f"over {steps} steps")


def gradient_norms(window: Window, groups: dict[str, dict[str, Tensor]]) -> Estimate:
    """Norm of the gradient of the reference loss per layer (NaN for frozen layers)."""
    x, y = window.reference
    *_, reduction = sample_losses(window.loss_fn, window.outputs, y)
    names = {n: p for group in groups.values() for n, p in group.items() if p.requires_grad}
    owners = list(groups)
    owner_of = {n: k for k, owner in enumerate(owners) for n in groups[owner]}
    frozen = np.array([not any(n in names for n in groups[owner]) for owner in owners])

    def gradient(index: Tensor) -> list[Tensor]:
        loss = window.loss_fn(window.model(x[index]), y[index]).mean()
        return list(torch.autograd.grad(loss, list(names.values()), materialize_grads=True))

    def products(a: list[Tensor], b: list[Tensor]) -> np.ndarray:
        out = np.zeros(len(owners))
        for name, u, v in zip(names, a, b, strict=True):
            out[owner_of[name]] += float((u * v).sum())
        return out

    n = len(x)
    blocks = torch.arange(n, device=x.device).chunk(min(BLOCKS, n))
    if not names:
        return Estimate(np.full(len(owners), math.nan), note="no parameter is trained")
    if reduction == "other" or len(blocks) < 2:
        whole = gradient(torch.arange(n, device=x.device))
        norm = np.where(frozen, math.nan, np.sqrt(products(whole, whole)))
        return Estimate(norm, np.full(len(owners), math.nan), note="no error bar: one block")
    # a sum grows with the number of samples, a mean does not
    weights = [len(b) / n if reduction == "mean" else 1.0 for b in blocks]
    whole = [torch.zeros_like(p) for p in names.values()]
    for weight, block in zip(weights, blocks, strict=True):
        whole = [w + weight * g for w, g in zip(whole, gradient(block), strict=True)]
    square = products(whole, whole)
    left_out = []
    for weight, block in zip(weights, blocks, strict=True):  # again: 8 gradients need not be held
        part = gradient(block)
        rest = square - 2 * weight * products(whole, part) + weight**2 * products(part, part)
        left_out.append(np.sqrt(np.maximum(rest, 0)) * n / (n - len(block)))
    spread = np.stack(left_out)
    stderr = np.sqrt((len(blocks) - 1) * spread.var(0))
    norm = np.where(frozen, math.nan, np.sqrt(square))
    return Estimate(norm, np.where(frozen, math.nan, stderr), n_eff=float(len(blocks)))


class _Watch(TorchFunctionMode):
    """Sees every activation, written as a module or as a function, behind the current layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: str | None = None
        self.axis = -1
        self.seen: dict[str, tuple[str, Tensor, int]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = "tanh" if func in TANH else "sigmoid" if func in SIGMOID else None
        if (kind or func in OTHER) and self.layer is not None and isinstance(out, Tensor):
            if out.dim() > 1:
                self.seen.setdefault(self.layer, (kind or "other", out.detach(), self.axis))
            self.layer = None  # one layer, one activation
        return out


def activation_fractions(
    model: nn.Module, x: Tensor, groups: dict[str, dict[str, Tensor]]
) -> tuple[Estimate, Estimate]:
    """Dead and saturated fractions per layer; the hooks are set on the private copy only."""
    watch = _Watch()
    hooks = []
    for name, module in model.named_modules():
        if (name or "(model)") in groups:

            def after(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                watch.layer = name or "(model)"
                watch.axis = 1 if isinstance(module, CHANNELS_SECOND) else -1

            hooks.append(module.register_forward_hook(after))
    alive: dict[str, Tensor] = {}
    saturated: dict[str, list[Tensor]] = defaultdict(list)
    try:
        for piece in x.split(CHUNK):
            watch.seen, watch.layer = {}, None
            with torch.no_grad(), watch:
                model(piece)
            for name, (kind, out, axis) in watch.seen.items():
                units = out.movedim(axis, -1).flatten(0, -2)
                now = (units != 0).any(0)
                alive[name] = alive[name] | now if name in alive else now
                if kind != "other":
                    outside = out.abs() > 0.99 if kind == "tanh" else (out - 0.5).abs() > 0.49
                    saturated[name].append(outside.double().flatten(1).mean(1))
    finally:
        for hook in hooks:
            hook.remove()
    nothing = math.nan
    dead = [float((~alive[n]).double().mean()) if n in alive else nothing for n in groups]
    values, errors = [], []
    for name in groups:
        per_sample = torch.cat(saturated[name]) if saturated[name] else None
        values.append(nothing if per_sample is None else float(per_sample.mean()))
        several = per_sample is not None and len(per_sample) > 1
        errors.append(float(per_sample.std()) / math.sqrt(len(x)) if several else nothing)  # type: ignore[union-attr]
    return (
        Estimate(np.array(dead), note="exact on the reference set; more samples can only lower it"),
        Estimate(np.array(values), np.array(errors), n_eff=float(len(x))),
    )
