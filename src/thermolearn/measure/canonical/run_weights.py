"""What the weights say once per run: learning efficiency, and the wide limit at the start."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.canonical.ensemble import CanonicalEnsemble
from thermolearn.measure.canonical.jacobian import JacobianBlocks
from thermolearn.measure.canonical.laplacian import number_of_edges, weight_trace
from thermolearn.measure.canonical.rows import FIXED_BETAS, Row, values_row
from thermolearn.measure.canonical.segments import SHAPES, Segment
from thermolearn.measure.canonical.system import NeuronSystem
from thermolearn.measure.canonical.wide_networks import wide_limit

EDGE_SAMPLES = 32
WEIGHT_SAMPLES, WEIGHT_PROBES, WEIGHT_NEURONS = 8, 16, 400


def efficiency(run: Any, first: Any, last: Any) -> Row:
    """Laplacian of the free energy, over edges (fixed slopes) and over weights (with f'')."""
    rows: list[list[Any]] = []
    values: dict[str, Any] = {}
    reasons = []
    for name, point in (("first", first), ("last", last)):
        for label, beta in _efficiency_betas(point):
            for over, element, laplacian in (
                ("edges", "edge", _over_edges),
                ("weights", "parameter", _over_weights),
            ):
                try:
                    total, count = laplacian(point, beta)
                except NotApplicableError as error:
                    reasons.append(str(error))
                    continue
                each = total / count
                named = {f"{over}_total_{label}_{name}": total,
                         f"{over}_per_{element}_{label}_{name}": each}  # fmt: skip
                values.update(values_row(**named))
                numbers = (total, total.stderr, each, each.stderr)
                bars = [b if math.isfinite(b) else None for b in map(float, numbers)]
                rows.append([name, label, beta, over, *bars])
    if not rows:
        raise NotApplicableError(reasons[0] if reasons else "no element-wise segments")
    columns = ["snapshot", "at", "beta", "over", "total", "total stderr", "per element",
               "per element stderr"]  # fmt: skip
    notes = [
        "Over edges: fixed slopes f', one term per connection. Over weights: trace over the "
        "parameters, with f'' and weight sharing. Two different quantities.",
        "Per-element efficiency grows with depth at low temperature and hardly at T ~ 1 or after "
        "training; with beta fitted it is set by T^2. No claim about depth is drawn here.",
        _destruction(run, values),
        *dict.fromkeys(reasons),
    ]
    return {
        "values": values,
        "tables": {"efficiency": {"columns": columns, "rows": rows}},
        "notes": notes,
    }


def _destruction(run: Any, values: dict[str, Any]) -> str:
    """Entropy destruction rate gamma <Lap F> at the fitted temperature, and what it is worth."""
    optimizer = run.last.optimizer
    if optimizer.get("name") != "SGD" or optimizer.get("momentum"):
        return (
            "Entropy destruction gamma <Lap F> is for plain gradient descent: not given for "
            f"{optimizer.get('name')}{' with momentum' if optimizer.get('momentum') else ''}."
        )
    for name, window in (("first", run.first), ("last", run.last)):
        total = values.get(f"weights_total_beta_fitted_{name}")
        if total is not None:
            rate = Estimate.from_dict(total) * float(window.optimizer["lr"])
            values.update(values_row(**{f"entropy_destruction_{name}": rate}))
    return (
        "Entropy destruction is gamma <Lap F>, gamma the learning rate, in nats per step: the rate "
        "at which descent of F would compress a cloud of weights. The optimizer descends the loss, "
        "not F, so this evaluates the source's claim and measures no cloud; entropy production "
        "needs the density of the weights over many runs and is not measured on one."
    )


def _over_edges(point: Any, beta: float) -> tuple[Estimate, int]:
    """Closed form over the edges, on a part of the samples (two eliminations with gradients)."""
    blocks = point.ensemble._jacobian
    if not isinstance(blocks, JacobianBlocks):
        raise NotApplicableError("no edge Laplacian for a network that is measured matrix-free")
    ensemble = CanonicalEnsemble(blocks.samples(slice(0, EDGE_SAMPLES)), beta)
    return ensemble.laplacian("edges"), number_of_edges(blocks)


def _efficiency_betas(point: Any) -> list[tuple[str, float]]:
    fixed = [(f"beta_{b:.0f}", b) for b in FIXED_BETAS]
    return [*fixed, ("beta_fitted", point.ensemble.beta)]


def _over_weights(point: Any, beta: float) -> tuple[Estimate, int]:
    """Hutchinson trace over the weights, for networks where double backward is cheap."""
    if point.ensemble.neurons > WEIGHT_NEURONS:
        raise NotApplicableError(
            f"no weight Laplacian above {WEIGHT_NEURONS} neurons here: call "
            "NeuronSystem.free_energy_laplacian"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the note on kinks stands in the report
        total = weight_trace(point.system, point.x[:WEIGHT_SAMPLES], beta, WEIGHT_PROBES)
    shared = {id(p): p for s in point.system.segments for p in s.module.parameters()}
    return total, sum(p.numel() for p in shared.values() if p.ndim >= 2)


def wide_limit_row(first: Any) -> Row:
    """U and complexity of the network as it was initialized, beside the wide-limit theory."""
    shape = _random_network_shape(first.system)
    x = first.x
    widths = first.system.widths(x[:1])
    q0 = float((x.double().flatten(1) ** 2).mean())
    betas = np.geomspace(0.1, 1000.0, 9)
    limit = wide_limit(
        widths, shape["sigma_w2"], shape["sigma_b2"], shape["activation"], betas, q0,
        output_activation=shape["output"],
    )  # fmt: skip
    predicted_u = np.asarray(limit.average_loss)
    predicted_c = np.asarray(limit.complexity)
    rows = []
    for i, beta in enumerate(betas):
        ensemble = first.ensemble.at(float(beta))
        u, c = ensemble.average_loss, ensemble.complexity
        rows.append([float(beta), float(predicted_u[i]), float(u), float(u.stderr),
                     float(predicted_c[i]), float(c), float(c.stderr)])  # fmt: skip
    columns = ["beta", "U theory", "U network", "U stderr", "C theory", "C network", "C stderr"]
    worst = max(abs(r[2] - r[1]) / abs(r[1]) for r in rows)
    rows = [[v if math.isfinite(v) else None for v in row] for row in rows]
    return {
        "values": values_row(
            sigma_w2=shape["sigma_w2"], sigma_b2=shape["sigma_b2"], q0=q0,
            largest_relative_deviation_of_U=worst,
        ),
        "tables": {"wide_limit": {"columns": columns, "rows": rows}},
        "notes": [
            "Theory: matrix Dyson equation for random weights of the measured variances at "
            "infinite width; network: this one at its first snapshot, finite width, one draw. "
            f"Largest deviation of U: {100 * worst:.2g}%. Bars: spread over samples only, not over "
            "draws of the weights."
        ],
    }  # fmt: skip


# Element-wise modules and functions that the theory has a name for, with their default settings.
_MODULES = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.SiLU: "silu"}
RESHAPES = {"flatten", "view", "reshape", "size", "contiguous"}
_FUNCTIONS = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid"}


def _layer_of(segment: Segment) -> tuple[nn.Linear, str]:
    """The linear map and the activation of a segment that is just these two (and reshapes)."""
    parts = [m for m in segment.module.modules() if not any(True for _ in m.children())]
    linear = [m for m in parts if type(m) is nn.Linear]
    others = [m for m in parts if m not in linear and not isinstance(m, SHAPES)]
    functions = [m for m in segment.modules if ": " not in m and m not in RESHAPES]
    names = [_MODULES.get(type(m), "") for m in others] + [_FUNCTIONS.get(f, "") for f in functions]
    plain = segment.affine is not None and segment.ordered and len(linear) == 1
    if not plain or len(names) > 1 or "" in names:
        raise NotApplicableError(
            "the wide-limit theory is for fully connected layers with one of the activations "
            f"{', '.join(_MODULES.values())}: one segment is {', '.join(segment.modules)}"
        )
    return linear[0], names[0] if names else "linear"


def _random_network_shape(system: NeuronSystem) -> dict[str, Any]:
    """Common variances and activation of a fully connected net, or why there are none."""
    if system.inputs != "free":
        raise NotApplicableError("the wide-limit theory is for free inputs")
    variances, errors, biases, activations = [], [], [], []
    for segment in system.segments:
        linear, activation = _layer_of(segment)
        weight = linear.weight.detach().double()
        variances.append(float((weight**2).mean()) * weight.shape[1])
        errors.append(variances[-1] * math.sqrt(2 / weight.numel()))
        bias = linear.bias
        biases.append(0.0 if bias is None else float((bias.detach().double() ** 2).mean()))
        activations.append(activation)
    mean = float(np.average(variances, weights=np.array(errors) ** -2.0))
    if any(abs(v - mean) > 4 * e + 0.02 * mean for v, e in zip(variances, errors, strict=True)):
        raise NotApplicableError(
            "the layers were initialized with different sigma_w2 "
            f"({', '.join(f'{v:.3g}' for v in variances)}); the theory has one"
        )
    hidden = set(activations[:-1]) or {activations[-1]}
    if len(hidden) != 1:
        raise NotApplicableError("the hidden layers have different activations; the theory has one")
    return {
        "sigma_w2": mean,
        "sigma_b2": float(np.mean(biases)),
        "activation": hidden.pop(),
        "output": activations[-1],
    }
