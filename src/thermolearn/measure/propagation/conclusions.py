"""What a walk along the wiring amounts to: the pair that stands for it, depth scales, remarks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import nn

from thermolearn.core.estimate import Estimate
from thermolearn.measure.propagation.graph import Step
from thermolearn.measure.propagation.mean_field import MeanFieldMap
from thermolearn.measure.propagation.plan import LayerInit, Recommendation
from thermolearn.measure.propagation.walk import BY_SAMPLE, Plan, identity


def recommendation(plan: Plan, model: nn.Module) -> Recommendation:
    """The plan carried out over the layers of the model, with its head and its remarks."""
    plan.assign()
    w2, b2, q, slope, chi, xi_c, xi_q = _head(plan)
    wanted = (float(q) - float(b2)) / float(w2)
    if plan.input_square is not None and plan.fixed is None:
        wanted = plan.input_square
    result = Recommendation(
        tuple(plan.layers), plan.norms, plan.main, w2, b2, q, slope, chi, xi_c, xi_q,
        _depth(plan.steps), len(plan.blocks), wanted, _not_covered(model, plan.steps), (),
    )  # fmt: skip
    return replace(result, notes=tuple(_remarks(plan, result)))


def _head(plan: Plan) -> tuple[Estimate, ...]:
    """Pair, q*, V'(q*), chi_1, xi_c and xi_q: of the point, or of a layer that stands for
    those that get another pair."""
    layer = _typical(plan)
    if layer is not None:
        return _head_of(plan, layer)
    if plan.fixed is None:
        point = plan.point(plan.main)
        at, field = float(point.q), point.map()
        xi_c = Estimate(math.inf, note="critical")
        numbers = (point.sigma_w2, point.sigma_b2, point.q, point.variance_slope)
    else:
        field = MeanFieldMap(plan.main, *plan.fixed)
        q = field.q_star()
        at, xi_c = float(q), field.xi_c(float(q))
        numbers = (
            Estimate(plan.fixed[0]),
            Estimate(plan.fixed[1]),
            q,
            field.variance_slope(at),
        )
    chi = field.chi(at)
    if _by_batch(plan) and not plan.between:
        chi = xi_c = Estimate(math.nan, math.nan, status="not predicted")
    return (*numbers, chi, xi_c, field.xi_q(at))


def _typical(plan: Plan) -> LayerInit | None:
    """The layer of the median chi_1; None if the layers have the pair of the point."""
    inside = [
        x
        for x in plan.layers
        if x.name in plan.between
        and identity(plan.between[x.name].f) == identity(plan.main)
        and "residual branch" not in x.note
    ]
    if not inside:
        return None
    inside.sort(key=lambda x: x.chi)
    layer = inside[len(inside) // 2]
    passed = plan.between[layer.name]
    if not (passed.normalized or passed.factor != 1.0):
        if plan.fixed is not None and (layer.sigma_w2, layer.sigma_b2) == plan.fixed:
            return None
        if plan.fixed is None and abs(layer.chi - 1) < 1e-9:
            return None
    return layer


def _head_of(plan: Plan, layer: LayerInit) -> tuple[Estimate, ...]:
    """As if layer followed layer: the map from the activation's variance to itplan."""
    passed = plan.between[layer.name]
    back = passed.q / layer.q
    field = MeanFieldMap(
        passed.centered(), layer.sigma_w2 * passed.factor * back, layer.sigma_b2 * back
    )
    slope, xi_q = field.variance_slope(passed.q), field.xi_q(passed.q)
    if passed.normalized or passed.factor != 1.0:  # whatever comes in
        slope, xi_q = (Estimate(0.0, note="normalized") for _ in range(2))
    return (
        Estimate(layer.sigma_w2), Estimate(layer.sigma_b2), Estimate(layer.q), slope,
        Estimate(layer.chi, note=f"layer {layer.name}"), field.xi_c(passed.q), xi_q,
    )  # fmt: skip


def _by_batch(plan: Plan) -> list[str]:
    return [s.name for s in plan.steps if s.kind == "norm" and not isinstance(s.module, BY_SAMPLE)]


def _remarks(plan: Plan, r: Recommendation) -> list[str]:
    said = []
    if float(r.variance_slope) > 1 + 1e-9:
        gain = float(r.variance_slope) ** r.depth
        said.append(
            f"V'(q*) = {float(r.variance_slope):.4f} > 1: an error of the variance grows "
            f"{gain:.3g} times over {r.depth} layers, so the first layer must start at q* "
            "(it does for inputs of the mean square given); a larger q is stable"
        )
    if plan.input_square is None:
        said.append(
            f"rescale the inputs to mean square {r.input_mean_square:.5g}: the first layer has "
            "the same pair as the others"
        )
    elif plan.fixed is None:
        said.append(f"the first layer is scaled for inputs of mean square {plan.inputs():.5g}")
    if plan.blocks:
        how = "starts at zero" if plan.residual == "zero" else "is scaled"
        said.append(
            f"{len(plan.blocks)} residual blocks: the last layer of each branch {how}; the "
            "depth scales are those of the branch"
        )
    if any(s.kind == "norm" for s in plan.steps):
        said.append(
            "normalization layers set the variance of what they normalize to the mean square "
            "of their weight (and bias), whatever the layers before them do; no choice of "
            "sigma_w2 is critical there, and the layers keep the variance"
        )
    if _by_batch(plan):
        said.append(
            f"{', '.join(_by_batch(plan)[:8])}: statistics over the batch or positions; the "
            "gradient through them is not predicted, in a deep network without skips it grows"
        )
    if any(s.kind == "pool" for s in plan.steps):
        said.append("pooling: its effect on the variance is not predicted, counted as none")
    if plan.lost:
        names = list(dict.fromkeys(plan.lost))
        said.append(
            f"no variance (q, chi_1) is predicted behind {', '.join(names[:8])}, up to the "
            "next normalization; the layers there get the pair as if it had not changed"
        )
    if not r.deep_enough:
        said.append(
            f"inputs become alike, or gradients vanish or explode, over about {r.reach:.4g} "
            "layers: take the critical pair, or fewer layers"
        )
    return said


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
