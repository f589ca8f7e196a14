"""What the activations of a network do to the energy of their signals, on samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate, jackknife
from thermolearn.measure.layers import OTHER, SIGMOID, TANH
from thermolearn.measure.temperature.efficiency import activation_efficiency, engine_class

ACTIVATIONS = TANH | SIGMOID | OTHER | {torch.erf, Tensor.erf}
KINKS = (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0)  # at default arguments; more do no harm
CHUNK = 64  # samples per forward pass


@dataclass(frozen=True, eq=False)
class Signal:
    """One activation, met once in a forward pass.

    Attributes
    ----------
    place, function : str
        The module with parameters before it (a number is added where several follow), its name.
    scale : float
        Root mean square of the pre-activations.
    efficiency : Estimate
        mean(phi(z)^2)/mean(z^2) over samples and units, error by the jackknife over samples.
    gaussian : Estimate
        eta of Gaussian pre-activations of that scale; NaN where it cannot be computed.
    engine : "I", "II", "neither" or "unknown"
    """

    place: str
    function: str
    scale: float
    efficiency: Estimate
    gaussian: Estimate
    engine: str


@dataclass(eq=False)
class _Seen:
    function: Callable[[Tensor], Tensor]
    name: str
    before: list[Tensor]
    after: list[Tensor]


class _Watch(TorchFunctionMode):
    """Mean squares per sample before and after every activation, module or function."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = "(input)"
        self.count: dict[str, int] = {}
        self.seen: dict[str, _Seen] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        z = args[0] if args else kwargs.get("input")
        if func not in ACTIVATIONS or not isinstance(z, Tensor) or z.dim() < 2:
            return func(*args, **kwargs)
        before = _mean_square(z)  # now: the activation may work in place
        out = func(*args, **kwargs)
        k = self.count[self.layer] = self.count.get(self.layer, 0) + 1
        key = self.layer if k == 1 else f"{self.layer} ({k})"
        if key not in self.seen:
            rest = args[1:]
            extra = {a: v for a, v in kwargs.items() if a not in ("input", "inplace")}

            def phi(t: Tensor) -> Tensor:
                return func(t.clone(), *rest, **extra)

            numbers = [a for a in (*rest, *extra.values()) if isinstance(a, int | float)]
            own = tuple(float(a) for a in numbers if math.isfinite(a))  # F.hardtanh(z, -2, 2)
            phi.kinks = (*KINKS, *own)  # type: ignore[attr-defined]
            self.seen[key] = _Seen(phi, func.__name__.rstrip("_"), [], [])
        self.seen[key].before.append(before)
        self.seen[key].after.append(_mean_square(out))
        return out


def _mean_square(t: Tensor) -> Tensor:
    return t.detach().double().square().flatten(1).mean(1).cpu()


def signals(model: nn.Module, x: Tensor) -> list[Signal]:
    """The activations of a private eval-mode copy in the order of its forward pass.

    Known are torch's element-wise functions, called as modules or as functions. Empty for a model
    without any.
    """
    watch = _Watch()
    hooks = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):

            def after(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                watch.layer = name or "(model)"

            hooks.append(module.register_forward_hook(after))
    try:
        for piece in x.split(CHUNK):
            watch.count, watch.layer = {}, "(input)"
            with torch.no_grad(), watch:
                model(piece)
    finally:
        for hook in hooks:
            hook.remove()
    classes: dict[str, str] = {}
    return [_signal(place, seen, len(x), classes) for place, seen in watch.seen.items()]


def _signal(place: str, seen: _Seen, n: int, classes: dict[str, str]) -> Signal:
    before, after = torch.cat(seen.before).numpy(), torch.cat(seen.after).numpy()
    total = float(before.mean())
    scale = math.sqrt(total)
    nothing = Estimate(math.nan, math.nan, status="not applicable")
    if len(before) != n:  # called a different number of times from chunk to chunk
        return Signal(place, seen.name, scale, nothing, nothing, "unknown")
    if not (math.isfinite(total) and total > 0):
        return Signal(place, seen.name, scale, nothing, nothing, "unknown")
    error = math.nan
    if n > 1:
        error = float(jackknife(lambda a, b: a.mean() / b.mean(), after, before).stderr)
    measured = Estimate(float(after.mean()) / total, error, float(n))
    try:
        gaussian = activation_efficiency(seen.function, scale)
        if seen.name not in classes:
            classes[seen.name] = engine_class(seen.function)
        kind = classes[seen.name]
    except (ValueError, TypeError, RuntimeError, ConvergenceError):
        gaussian, kind = nothing, "unknown"  # a function of more than one number, as PReLU's
    return Signal(place, seen.name, scale, measured, gaussian, kind)
