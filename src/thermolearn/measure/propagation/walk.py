"""One walk along the wiring of a model: a weight and a bias variance for every layer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from thermolearn.core.activation import Activation
from thermolearn.core.checks import real
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.averages import (
    COARSE,
    check_resolved,
    moments,
    refuse_jump,
)
from thermolearn.measure.propagation.critical import CriticalPoint, critical_line
from thermolearn.measure.propagation.graph import (
    Step,
    activated,
    independent,
    reader_behind,
    residual_blocks,
    transparent,
    weight_key,
)
from thermolearn.measure.propagation.network_theory import norm_square, weight_law
from thermolearn.measure.propagation.plan import (
    LayerInit,
    default_critical_point,
)

BY_SAMPLE = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Passed:
    """What lies between an affine layer and the next: f at variance q, then (f - mean)^2 * factor
    by a normalization behind it; whether one stands in front of it."""

    f: Activation
    q: float
    normalized: bool
    factor: float = 1.0
    mean: float = 0.0

    def centered(self) -> Activation:
        if self.mean == 0:
            return self.f
        inner, mean = self.f.function, self.mean
        return Activation(self.f.name, lambda z: inner(z) - mean, self.f.kinks)


@dataclass(frozen=True)
class _Signal:
    """What a step puts out: second moment and mean over units as far as they are counted, whether
    they are predicted, and the growth of the squared gradient down to the affine layer before."""

    square: float
    mean: float = 0.0
    known: bool = True
    gain: float = math.nan
    passed: Passed | None = None
    plain: bool = False  # straight from the activation in front
    normed: bool = False  # set by a normalization


class Plan:
    """One walk along the wiring: the variance of every layer, and the moments behind it."""

    def __init__(
        self,
        steps: list[Step],
        q: float | None,
        sigma_w2: float | None,
        sigma_b2: float | None,
        residual: str,
        input_square: float | None,
    ):
        self.steps, self.residual, self.input_square = steps, residual, input_square
        self.fixed: tuple[float, float] | None = None
        kinds = [s.activation for s in steps if s.activation is not None]
        if not kinds:
            raise NotApplicableError(
                "the model has no activation that is recognized, so there is no critical line; "
                "give activation=... if it has one of its own; a linear network keeps its variance "
                "with sigma_w2 = 1, sigma_b2 = 0"
            )
        names = Counter(identity(f) for f in kinds)
        self.main = next(f for f in kinds if identity(f) == names.most_common(1)[0][0])
        if sigma_w2 is not None:
            if q is not None:
                raise ValueError("give q, or sigma_w2 and sigma_b2, not both")
            b2 = 0.0 if sigma_b2 is None else real("sigma_b2", sigma_b2, least=0.0)
            self.fixed = (real("sigma_w2", sigma_w2, above=0.0), b2)
            for f in kinds:
                refuse_jump(f)
                one, other = moments(f, 1.0), moments(f, 1.0, COARSE)
                check_resolved(f, one.slope_square, other.slope_square)
        elif q is not None and sigma_b2 is not None:
            raise ValueError("give q, or sigma_b2, not both: each picks a point of the line")
        self.wanted = (q, sigma_b2)
        self.points: dict[Any, CriticalPoint] = {}
        self.blocks = residual_blocks(steps)
        self.shares = {b.last: b for b in self.blocks}
        self.share = 0.0 if residual == "zero" else 1 / max(len(self.blocks), 1)
        self.clear, self.activated = transparent(steps), activated(steps)
        self.lost: list[str] = []  # steps from which on nothing is predicted
        self.norms: dict[str, float] = {}
        self.layers: list[LayerInit] = []
        self.between: dict[str, Passed] = {}  # what is in front of a layer
        self.drawn: dict[int, tuple[str, float]] = {}  # by weight: first layer, sigma_w2

    def point(self, f: Activation) -> CriticalPoint:
        """The critical point of one of the activations."""
        key = identity(f)
        if key not in self.points:
            q, sigma_b2 = self.wanted
            self.points[key] = (
                default_critical_point(f)
                if q is None and sigma_b2 is None
                else critical_line(f, q, sigma_b2=sigma_b2)
            )
        return self.points[key]

    # -- the walk ------------------------------------------------------------------------------
    def assign(self) -> None:
        """Variances of all layers in order, and the weights of normalizations that end branches."""
        signals: list[_Signal] = []
        for k, step in enumerate(self.steps):
            inputs = [signals[i] for i in step.inputs]
            if not inputs:
                inputs = [_Signal(self.inputs())]
            signals.append(self._pass(k, step, inputs, signals))
            if all(i.known for i in inputs) and not signals[-1].known and step.kind != "affine":
                self.lost.append(step.name)

    def _pass(self, k: int, step: Step, inputs: list[_Signal], signals: list[_Signal]) -> _Signal:
        s = inputs[0]
        if step.kind in ("input", "shape"):
            return s
        if step.kind == "affine":
            branch = None
            if k in self.shares:
                block = self.shares[k]
                branch = self.share * signals[block.skip].square / (block.gain or 1.0)
            return self._affine(k, step, s, branch)
        if step.kind == "activation":
            return self._activation(k, step, s)
        if step.kind == "norm":
            return self._norm(k, step, s)
        if step.kind == "scale":
            c = step.factors[0] ** 2
            passed = s.passed and replace(s.passed, factor=c * s.passed.factor)
            return replace(s, square=c * s.square, mean=step.factors[0] * s.mean,
                           gain=c * s.gain, passed=passed, plain=False)  # fmt: skip
        if step.kind == "add":
            square = sum(c**2 * i.square for c, i in zip(step.factors, inputs, strict=True))
            mean = sum(c * i.mean for c, i in zip(step.factors, inputs, strict=True))
            known = all(i.known for i in inputs) and independent(self.steps, k)
            return _Signal(square, mean, known)
        return _Signal(s.square, s.mean, known=False)

    def _activation(self, k: int, step: Step, s: _Signal) -> _Signal:
        f = step.activation
        assert f is not None
        if k in self.clear:
            return _Signal(s.square, s.mean, s.known)
        if step.inputs[0] in self.activated:  # not Gaussian: counted as it is
            return _Signal(s.square, s.mean, known=False)
        m = moments(f, s.square)
        passed = Passed(f, s.square, s.normed)
        return _Signal(m.square, m.mean, s.known, s.gain * m.slope_square, passed, plain=True)

    def _norm(self, k: int, step: Step, s: _Signal) -> _Signal:
        module: Any = step.module
        if isinstance(module, nn.LocalResponseNorm):
            return _Signal(s.square, s.mean, known=False)
        square = norm_square(module)
        if k in self.shares and _trained(module.weight):
            self.norms[step.name] = math.sqrt(self.share)
            bias = getattr(module, "bias", None)
            own = 0.0 if bias is None else float(bias.detach().double().square().mean())
            return _Signal(self.share + own, normed=True)
        mean = 0.0 if isinstance(module, nn.RMSNorm) else s.mean
        spread = s.square - mean**2
        gain = math.nan
        if isinstance(module, BY_SAMPLE) and s.known and spread > 0:
            gain = s.gain * square / spread
        passed = s.passed and replace(s.passed, factor=square / spread, mean=mean)
        passed = passed if spread > 0 else None
        return _Signal(square, s.mean - mean, True, gain, passed, normed=True)

    def inputs(self) -> float:
        """The mean square of the inputs; by default what the first layer needs to start at q*."""
        if self.input_square is not None:
            return self.input_square
        if self.fixed is not None:
            return 1.0
        return moments(self.main, float(self.point(self.main).q)).square

    def _affine(self, k: int, step: Step, s: _Signal, branch: float | None) -> _Signal:
        module: Any = step.module
        before = next((i for i, x in enumerate(self.layers) if x.name == step.name), None)
        if before is not None:
            layer = self.layers[before]
            q = layer.sigma_w2 * s.square + layer.sigma_b2
            if not (s.known and abs(q - layer.q) <= 0.01 * abs(q)):
                now = f"variance {q:.4g} then" if s.known else "the variance is not predicted then"
                note = f"called again, {now}"
                self.layers[before] = replace(
                    layer, note=", ".join(filter(None, [layer.note, note]))
                )
            return _Signal(q, 0.0, s.known, 1.0)
        w2, b2, note = self._variances(k, step, s, branch)
        q = w2 * s.square + b2
        chi = w2 * s.gain if s.known and s.passed is not None else math.nan
        if s.passed is not None and not math.isnan(chi):
            self.between[step.name] = s.passed
        fan_in = module.weight[0].numel()
        said = q if s.known else math.nan
        self.layers.append(LayerInit(step.name, fan_in, w2, b2, said, chi, note))
        self.drawn.setdefault(weight_key(module), (step.name, w2))
        return _Signal(q, 0.0, s.known, 1.0)

    # -- one layer -----------------------------------------------------------------------------
    def _variances(
        self, k: int, step: Step, s: _Signal, branch: float | None
    ) -> tuple[float, float, str]:
        """sigma_w2, sigma_b2 and what is special, of a layer that reads s."""
        module: Any = step.module
        w2, b2, note = self._wanted(k, s, module.bias is not None)
        if branch is not None:
            w2, b2 = (branch / s.square if s.square > 0 else 1.0), 0.0
            note = f"ends a residual branch: {branch:.4g} of variance is added to the stream"
        elif s.square == 0:
            w2, note = 1.0, "behind a branch that starts at zero"
        tied = self.drawn.get(weight_key(module))
        own_w2, own_b2 = law_of(module)
        total = w2 * s.square + b2
        if tied is not None:
            own_w2, note = tied[1], f"shares its weight with {tied[0]}"
        if own_w2 is not None:
            w2 = own_w2
            b2 = max(total - w2 * s.square, 0.0) if module.bias is not None else 0.0
        if own_b2 is not None:
            b2 = own_b2
            if own_w2 is None and s.square > 0 and total > b2:
                w2 = (total - b2) / s.square
        held = [n for n, p in module.named_parameters(recurse=False) if not p.requires_grad]
        if held:
            note = f"frozen {' and '.join(held)}: apply_init_ leaves it as it is"
        return w2, b2, note

    def _wanted(self, k: int, s: _Signal, has_bias: bool) -> tuple[float, float, str]:
        """The variances of a layer that is free, outside of branches."""
        if self.fixed is not None:
            return self.fixed[0], self.fixed[1] if has_bias else 0.0, ""
        behind = reader_behind(self.steps, k)
        reader = self.steps[behind] if behind is not None else None
        keep = lambda target: target / s.square if s.square > 0 else 1.0  # noqa: E731
        if reader is not None and reader.kind == "norm":
            return keep(1.0), 0.0, "normalized behind it: the variance is kept"
        front = s.passed if s.plain else None
        if reader is None and front is not None and front.normalized:
            target = front.q
        else:
            f = None if reader is None else reader.activation
            target = float(self.point(f or self.main).q)
        if front is not None and front.normalized:
            return keep(target), 0.0, "behind a normalization: the variance is kept"
        slope = None
        if front is not None:
            slope = moments(front.f, front.q).slope_square
        if self.input_square is None and self.steps[k].inputs == [0]:
            # the same rule as the others
            slope = moments(self.main, float(self.point(self.main).q)).slope_square
        if slope and has_bias:
            b2 = target - s.square / slope
            if b2 >= -1e-12 * target:
                return 1 / slope, max(b2, 0.0), ""
        note = "no bias: the variance is kept" if front is not None and not has_bias else ""
        return keep(target), 0.0, note


def law_of(module: nn.Module) -> tuple[float | None, float | None]:
    """sigma_w2 and sigma_b2 of what is frozen in a layer; None for what can be drawn."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is None:
        return None, None
    law = weight_law(module)
    return (
        None if _trained(weight) else law.sigma_w2,
        None if bias is None or _trained(bias) else law.sigma_b2,
    )


def _trained(parameter: Any) -> bool:
    return parameter is not None and parameter.requires_grad


def identity(f: Activation) -> Any:
    """Two modules of one class and setting are one activation."""
    text = repr(f.function) if isinstance(f.function, nn.Module) else ""
    return (f.name, f.kinks, text)
