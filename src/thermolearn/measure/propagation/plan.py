"""One walk along the wiring of a model: a weight and a bias variance for every layer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from thermolearn.core.activation import Activation
from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.propagation.averages import Moments, moments
from thermolearn.measure.propagation.critical import GRID, CriticalPoint, critical_line
from thermolearn.measure.propagation.graph import (
    Block,
    Step,
    activation_behind,
    residual_blocks,
    transparent,
)
from thermolearn.measure.propagation.mean_field import MeanFieldMap

SATURATING_Q = 0.4  # where tanh-like activations are bent, but not saturated
SETTLED = 0.995  # V'(q*) that counts as stable when a q is chosen
DEPTHS = 6.0  # in xi_c: how far inputs can be told apart (Schoenholz et al.)


@dataclass(frozen=True)
class LayerInit:
    """One layer: weights ~ N(0, sigma_w2 / fan_in), biases ~ N(0, sigma_b2).

    Attributes
    ----------
    q : float
        Predicted second moment of its outputs (with the layer's own scale, before any addition).
    chi : float
        chi_1 = sigma_w2 E f'^2 of the activation in front; NaN if there is none.
    note : str
        What is special about it.
    """

    name: str
    fan_in: int
    sigma_w2: float
    sigma_b2: float
    q: float
    chi: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Recommendation:
    """What `recommend_init` found; printable, and what `apply_init_` applies.

    Attributes
    ----------
    layers : tuple of LayerInit
        In order of execution.
    norms : dict of str to float
        Normalization layers that end a residual branch, and the value of their weight.
    activation : Activation
        The most frequent one; the numbers below belong to it.
    sigma_w2, sigma_b2, q, variance_slope, chi, xi_c, xi_q : Estimate
        Its pair, q*, V'(q*), chi_1 and depth scales (inf on the critical line).
    depth : int
        Affine layers on the longest path through the model.
    blocks : int
        Residual blocks; their branches are scaled by 1/sqrt(blocks) (or start at zero).
    input_mean_square : float
        Mean square of an input that makes the first pre-activations have variance q* exactly.
    not_covered : tuple of str
        Modules with parameters that the theory says nothing about; they are left as they are.
    notes : tuple of str
    """

    layers: tuple[LayerInit, ...]
    norms: dict[str, float]
    activation: Activation
    sigma_w2: Estimate
    sigma_b2: Estimate
    q: Estimate
    variance_slope: Estimate
    chi: Estimate
    xi_c: Estimate
    xi_q: Estimate
    depth: int
    blocks: int
    input_mean_square: float
    not_covered: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def deep_enough(self) -> bool:
        """Whether depth <= 6 xi_c, so that inputs can still be told apart at the output."""
        return self.blocks > 0 or self.depth <= DEPTHS * float(self.xi_c)

    def __str__(self) -> str:
        head = (
            f"{self.activation.name}: sigma_w2 = {self.sigma_w2}, sigma_b2 = {self.sigma_b2}, "
            f"q* = {self.q}\n"
            f"V'(q*) = {self.variance_slope}, chi_1 = {self.chi}, "
            f"xi_c = {_layers(self.xi_c)}, xi_q = {_layers(self.xi_q)}\n"
            f"depth {self.depth} against 6 xi_c = {DEPTHS * float(self.xi_c):.4g}: "
            f"{'fine' if self.deep_enough else 'TOO DEEP for this pair'}\n"
            f"inputs of mean square {self.input_mean_square:.5g} start at q* exactly\n"
        )
        width = max([len(x.name) for x in self.layers] + [5])
        rows = [f"{'layer':{width}}  fan_in   sigma_w2   sigma_b2          q     chi_1"]
        rows += [
            f"{x.name:{width}}  {x.fan_in:6d}  {x.sigma_w2:9.5g}  {x.sigma_b2:9.5g}  "
            f"{x.q:9.5g}  {x.chi:8.4g}" + (f"  {x.note}" if x.note else "")
            for x in self.layers
        ]
        rows += [
            f"{name:{width}}  normalization weight = {v:.5g}" for name, v in self.norms.items()
        ]
        rest = [f"not covered, left as it is: {n}" for n in self.not_covered]
        return head + "\n".join([*rows, *rest, *self.notes])


def _layers(e: Estimate) -> str:
    return "inf" if math.isinf(float(e)) else str(e)


def default_critical_point(f: Activation) -> CriticalPoint:
    """The critical point that is used if none is asked for; see `recommend_init`.

    Raises
    ------
    ConvergenceError
        The critical line has no stable point of variance 0.4 to 1e4.
    """
    for q in [1.0, SATURATING_Q, *GRID[GRID > SATURATING_Q]]:
        try:
            point = critical_line(f, float(q))
        except (ValueError, ConvergenceError):  # not on the line
            continue
        scale_free = float(point.sigma_b2) == 0.0 and abs(float(point.variance_slope) - 1) < 1e-9
        if scale_free or (q != 1.0 and float(point.variance_slope) <= SETTLED):
            return point
    raise ConvergenceError(
        f"the critical line of {f.name} has no stable point with q* from {SATURATING_Q} to "
        f"{GRID[-1]:g}; give q, and rescale the inputs to it"
    )


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
        names = Counter(_identity(f) for f in kinds)
        self.main = next(f for f in kinds if _identity(f) == names.most_common(1)[0][0])
        if sigma_w2 is not None:
            if q is not None:
                raise ValueError("give q, or sigma_w2 and sigma_b2, not both")
            b2 = 0.0 if sigma_b2 is None else real("sigma_b2", sigma_b2, least=0.0)
            self.fixed = (real("sigma_w2", sigma_w2, above=0.0), b2)
        elif q is not None and sigma_b2 is not None:
            raise ValueError("give q, or sigma_b2, not both: each picks a point of the line")
        self.wanted = (q, sigma_b2)
        self.points: dict[Any, CriticalPoint] = {}
        self.blocks = residual_blocks(steps)
        self.notes: list[str] = []

    def point(self, f: Activation) -> CriticalPoint:
        """The critical point of one of the activations."""
        key = _identity(f)
        if key not in self.points:
            q, sigma_b2 = self.wanted
            self.points[key] = (
                default_critical_point(f)
                if q is None and sigma_b2 is None
                else critical_line(f, q, sigma_b2=sigma_b2)
            )
        return self.points[key]

    # -- the walk ------------------------------------------------------------------------------
    def assign(self) -> tuple[list[LayerInit], dict[str, float]]:
        """Variances of all layers in order, and the weights of normalizations that end branches."""
        lasts, clear = {b.last: b for b in self.blocks}, transparent(self.steps)
        squares: list[float] = []  # second moment of every step's output
        fronts: list[int | None] = []  # the activation right in front of it
        layers: list[LayerInit] = []
        norms: dict[str, float] = {}
        seen: dict[int, LayerInit] = {}
        share = 0.0 if self.residual == "zero" else 1 / max(len(self.blocks), 1)
        for k, step in enumerate(self.steps):
            source = step.inputs[0] if step.inputs else 0
            square = squares[source] if step.inputs else self._input()
            front = fronts[source] if step.inputs else None
            if step.kind == "activation":
                assert step.activation is not None
                if k in clear:
                    front = None
                else:
                    square, front = moments(step.activation, square).square, k
            elif step.kind == "norm":
                square = 1.0
                if k in lasts:
                    norms[step.name] = math.sqrt(share)
                    square = share
                front = None
            elif step.kind == "add":
                square, front = sum(squares[i] for i in step.inputs), None
            elif step.kind == "affine":
                assert step.module is not None
                if id(step.module) in seen:
                    square = seen[id(step.module)].q
                else:
                    stream = squares[lasts[k].skip] if k in lasts else None
                    branch = None if stream is None else (lasts[k], share * stream)
                    layer = self._layer(k, step, square, squares, front, branch)
                    seen[id(step.module)] = layer
                    layers.append(layer)
                    square = layer.q
                front = None
            elif step.kind in ("pool", "other"):
                front = None
            squares.append(square)
            fronts.append(front)
        return layers, norms

    def _input(self) -> float:
        """The mean square of the inputs; by default what the first layer needs to start at q*."""
        if self.input_square is not None:
            return self.input_square
        if self.fixed is not None:
            return 1.0
        return moments(self.main, float(self.point(self.main).q)).square

    def _layer(
        self,
        k: int,
        step: Step,
        square: float,
        squares: list[float],
        front: int | None,
        branch: tuple[Block, float] | None,
    ) -> LayerInit:
        module: Any = step.module
        fan_in = module.weight[0].numel()
        has_bias = module.bias is not None
        chi, note, m = math.nan, "", None
        f = self.steps[front].activation if front is not None else None
        if f is not None and front is not None:
            m = moments(f, squares[self.steps[front].inputs[0]])
        w2, b2 = self._variances(k, square, m, has_bias)
        if branch is not None and branch[0].last == k:
            w2, b2 = branch[1] / square, 0.0
            note = f"ends a residual branch: {branch[1]:.4g} of variance is added to the stream"
        elif m is None and k != 0 and square == 0:
            w2, note = 1.0, "behind a branch that starts at zero"
        if m is not None:
            chi = w2 * m.slope_square
        if m is not None and not has_bias and not note and self.fixed is None:
            note = "no bias: the variance is kept"
        if frozen(module):
            note = "frozen: apply_init_ leaves it as it is"
        return LayerInit(step.name, fan_in, w2, b2, w2 * square + b2, chi, note)

    def _variances(
        self, k: int, square: float, m: Moments | None, has_bias: bool
    ) -> tuple[float, float]:
        """sigma_w2 and sigma_b2 of a layer that reads inputs of a given mean square."""
        if self.fixed is not None:
            return self.fixed[0], self.fixed[1] if has_bias else 0.0
        behind, _ = activation_behind(self.steps, k)
        f = self.steps[behind].activation if behind is not None else None
        target = float(self.point(f or self.main).q)
        if self.input_square is None and self.steps[k].inputs == [0]:
            m = moments(self.main, float(self.point(self.main).q))  # the same rule as the others
        if m is not None and has_bias:
            w2 = 1 / m.slope_square
            b2 = target - w2 * square
            if b2 >= -1e-12 * target:
                return w2, max(b2, 0.0)
        return target / square if square > 0 else 1.0, 0.0

    # -- the result ----------------------------------------------------------------------------
    def recommendation(self, model: nn.Module) -> Recommendation:
        layers, norms = self.assign()
        if self.fixed is None:
            point = self.point(self.main)
            field = point.map()
            q, w2, b2, slope = point.q, point.sigma_w2, point.sigma_b2, point.variance_slope
        else:
            field = MeanFieldMap(self.main, *self.fixed)
            q = field.q_star()
            w2, b2 = Estimate(self.fixed[0]), Estimate(self.fixed[1])
            slope = field.variance_slope(float(q))
        at = float(q)
        xi_c = field.xi_c(at) if self.fixed is not None else Estimate(math.inf, note="critical")
        wanted = (at - float(b2)) / float(w2)
        result = Recommendation(
            tuple(layers), norms, self.main, w2, b2, q, slope, field.chi(at), xi_c, field.xi_q(at),
            _depth(self.steps), len(self.blocks), wanted, _not_covered(model, self.steps), (),
        )  # fmt: skip
        return replace(result, notes=tuple(self._remarks(result)))

    def _remarks(self, r: Recommendation) -> list[str]:
        said = []
        if float(r.variance_slope) > 1 + 1e-9:
            gain = float(r.variance_slope) ** r.depth
            said.append(
                f"V'(q*) = {float(r.variance_slope):.4f} > 1: an error of the variance grows "
                f"{gain:.3g} times over {r.depth} layers, so the first layer must start at q* "
                "(it does for inputs of the mean square given); a larger q is stable"
            )
        if self.input_square is None:
            said.append(
                f"rescale the inputs to mean square {r.input_mean_square:.5g}: the first layer has "
                "the same pair as the others"
            )
        elif self.fixed is None:
            said.append(f"the first layer is scaled for inputs of mean square {self._input():.5g}")
        if self.blocks:
            how = "starts at zero" if self.residual == "zero" else "is scaled"
            said.append(
                f"{len(self.blocks)} residual blocks: the last layer of each branch {how}; the "
                "depth scales are those of the branch"
            )
        if any(s.kind == "norm" for s in self.steps):
            said.append(
                "normalization layers set the variance of what they normalize to the square of "
                "their weight, whatever the layers before them do; they are counted as variance 1"
            )
        if any(s.kind == "pool" for s in self.steps):
            said.append("pooling: its effect on the variance is not predicted, counted as none")
        other = sorted({s.name for s in self.steps if s.kind == "other"})
        if other:
            said.append(f"counted as changing no variance: {', '.join(other[:8])}")
        if not r.deep_enough:
            said.append(
                f"inputs become alike, or gradients explode, over {DEPTHS:g} xi_c = "
                f"{DEPTHS * float(r.xi_c):.4g} layers: take the critical pair, or fewer layers"
            )
        return said


def _identity(f: Activation) -> Any:
    """Two modules of one class and setting are one activation."""
    text = repr(f.function) if isinstance(f.function, nn.Module) else ""
    return (f.name, f.kinks, text)


def _depth(steps: list[Step]) -> int:
    """Affine layers on the longest path."""
    depth = np.zeros(len(steps), dtype=int)
    for k, step in enumerate(steps):
        before = max((depth[i] for i in step.inputs), default=0)
        depth[k] = before + (step.kind == "affine")
    return int(depth[-1])


def _not_covered(model: nn.Module, steps: list[Step]) -> tuple[str, ...]:
    """Modules that own parameters but are no affine layer or normalization of the graph."""
    known = {id(s.module) for s in steps if s.kind in ("affine", "norm", "activation")}
    return tuple(
        f"{name or '(model)'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if id(module) not in known and any(True for _ in module.parameters(recurse=False))
    )


def frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())
