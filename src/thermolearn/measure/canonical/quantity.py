"""The canonical ensemble as quantities of the Probe: state functions and laws per snapshot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.canonical import backends, block, summaries
from thermolearn.measure.canonical.ensemble import (
    WIDEST_BLOCK,
    CanonicalEnsemble,
    per_sample,
)
from thermolearn.measure.canonical.jacobian import JacobianBlocks
from thermolearn.measure.canonical.laws import (
    FirstLaw,
    LawPoint,
    effective_degrees,
    law_point,
    law_steps,
    with_quadrature,
)
from thermolearn.measure.canonical.rows import FIXED_BETAS
from thermolearn.measure.canonical.system import NeuronSystem
from thermolearn.measure.window import Run, Window

OPERATIONS = 2e8  # of one exact evaluation: well below a second
BLOCK_BYTES = 2**30  # Jacobian blocks of all samples
FEWEST_SAMPLES, SLQ_SAMPLES = 8, 4
MOST_PARAMETERS = 10**7  # of a matrix-free ensemble: some seconds per snapshot
CONVENTIONS = [
    "natural logarithms, k_B = 1, T = 1/beta, entropies in nats",
    "ensemble of all neurons incl. inputs, unit Gaussian reference around the forward pass, "
    "mass 0, Gaussian approximation",
    "beta fitted so that the average bulk loss equals the boundary loss on the reference set",
    "complexity = +log Z(b, w); the source's sign is a convention",
    "work = (dF/dJ)_beta dJ; heat = dU - work up to the closure, at the log-mean temperature",
]


class SoftmaxOutput(nn.Module):
    """A classifier with softmax as its output activation."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.model(x), 1)


@dataclass(eq=False)
class Point:
    """One snapshot as an ensemble: what all canonical quantities of a window share."""

    system: NeuronSystem
    x: Tensor
    target: Tensor
    labels: Tensor | None
    losses: Tensor
    ensemble: CanonicalEnsemble
    fitted: bool


@dataclass(frozen=True)
class Options:
    """How the ensemble is built: segmentation, inputs, and beta (None: fitted)."""

    segments: Any = "auto"
    inputs: str = "free"
    beta: float | None = None


def default_quantities(
    segments: Any = "auto", beta: float | None = None, inputs: str = "free"
) -> list[Any]:
    """The canonical quantities of a Probe.

    Parameters
    ----------
    segments : "auto" or list
        Names of submodules, or lists of names to be joined, in order.
    beta : float, optional
        Inverse temperature; default: fitted to the boundary loss at each snapshot.
    inputs : "free" or "clamped"
    """
    if beta is not None and not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta!r}")
    options = Options(segments, inputs, beta)
    return [Canonical(options), Laws(options)]


# -- building the ensemble of a window ----------------------------------------------------------


def targets(window: Window, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Targets on the output neurons (B, K) and class labels, by the energy of the loss."""
    y = window.reference[1]
    if window.energy == "cross-entropy":
        if outputs.ndim == 2 and outputs.shape[1] == 1:
            raise NotApplicableError(
                "the softmax of one output is 1 whatever the network does: give the classifier two "
                "outputs and nn.CrossEntropyLoss"
            )
        if outputs.ndim != 2:
            raise NotApplicableError(
                f"outputs of shape {tuple(outputs.shape)} are several predictions per sample; the "
                "ensemble is defined for one output vector per sample"
            )
        if y.is_floating_point():
            return y.double(), y.argmax(1)
        if int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
            raise NotApplicableError(
                f"the labels run from {int(y.min())} to {int(y.max())}, the model has "
                f"{outputs.shape[1]} outputs"
            )
        return torch.nn.functional.one_hot(y.long(), outputs.shape[1]).double(), y.long()
    if window.energy != "squared":
        raise NotApplicableError(
            f"the loss has no boundary energy ({window.energy_rule}): give energy='squared' or "
            "'cross-entropy' to the Probe"
        )
    flat = y.double().reshape(len(y), -1)
    if flat.shape[1] != outputs.reshape(len(y), -1).shape[1]:
        raise NotApplicableError(
            f"the target has {flat.shape[1]} values per sample, the output "
            f"{outputs.reshape(len(y), -1).shape[1]}"
        )
    one_hot = flat.shape[1] > 1 and bool(((flat == 0) | (flat == 1)).all())
    one_hot = one_hot and bool((flat.sum(1) == 1).all())
    return flat, flat.argmax(1) if one_hot else None


def resolve_segments(model: nn.Module, segments: Any, softmax: bool) -> Any:
    """Segment names as modules of the measured copy, with the softmax in the last one."""
    if isinstance(segments, str):
        return segments

    def module(item: Any) -> nn.Module:
        if isinstance(item, str):
            return model.get_submodule(item)
        if isinstance(item, (list, tuple)):
            return nn.Sequential(*(module(i) for i in item))
        raise NotApplicableError(
            "the segments of a Probe are names of submodules, or lists of names: "
            f"got {type(item).__name__}"
        )

    modules = [module(item) for item in segments]
    if softmax and modules:
        modules[-1] = nn.Sequential(modules[-1], nn.Softmax(1))
    return modules


def build_point(window: Window, options: Options) -> Point:
    """The ensemble of the window's snapshot (made once per window).

    Raises
    ------
    NotApplicableError
        With the reason: unsupported model or loss, or no temperature for this loss.
    """
    if "canonical" in window.scratch:
        return window.scratch["canonical"]
    outputs = window.outputs
    target, labels = targets(window, outputs)
    softmax = window.energy == "cross-entropy"
    model = SoftmaxOutput(window.model).eval() if softmax else window.model
    try:
        segments = resolve_segments(window.model, options.segments, softmax)
        system = NeuronSystem(model, segments, options.inputs)
        x = window.reference[0]
        n, matrix_free = affordable_samples(system, x)
        parameters = sum(p.numel() for p in model.parameters())
        if matrix_free and parameters > MOST_PARAMETERS:
            raise NotApplicableError(
                f"{parameters} parameters in layers too wide for the exact elimination: each "
                "snapshot would take minutes; call CanonicalEnsemble on a part of the model"
            )
        x, target = x[:n], target[:n]
        losses = system.boundary_loss(x, target)
        jacobian: Any = system.jacobian_operator(x) if matrix_free else system.jacobian_blocks(x)
    except (TypeError, AttributeError) as error:
        raise NotApplicableError(str(error)) from error
    ensemble = (
        CanonicalEnsemble(jacobian, options.beta)
        if options.beta is not None
        else _fitted(window, jacobian, float(losses.mean()))
    )
    point = Point(
        system, x, target, None if labels is None else labels[:n], losses, ensemble,
        options.beta is None,
    )  # fmt: skip
    window.scratch["canonical"] = point
    return point


def _fitted(window: Window, jacobian: Any, loss: float) -> CanonicalEnsemble:
    """Fit beta, starting from the ratio 2 beta U / N of the snapshot before."""
    ratio = window.cache.get("canonical_ratio", 1.0)
    neurons = CanonicalEnsemble(jacobian, 1.0).neurons
    start = 0.5 * ratio * neurons / loss if loss > 0 else None
    ensemble = CanonicalEnsemble.fit(jacobian, average_loss=loss, start=start)
    window.cache["canonical_ratio"] = 2 * ensemble.beta * loss / neurons
    return ensemble


def affordable_samples(system: NeuronSystem, x: Tensor) -> tuple[int, bool]:
    """How many reference samples are used, and whether products must be matrix-free."""
    widths = system.widths(x[:1])
    hidden = max(widths[1:-1], default=0)
    cost = min(block.elimination_cost(widths), block.elimination_cost(widths[::-1]))
    size = 8 * sum(a * b for a, b in pairwise(widths)) or 8
    n = int(min(OPERATIONS / max(cost, 1.0), BLOCK_BYTES / size))
    if hidden > WIDEST_BLOCK or n < 1:
        return min(SLQ_SAMPLES, len(x)), True
    return min(max(n, FEWEST_SAMPLES), len(x)), False


# -- state functions ----------------------------------------------------------------------------


class Canonical:
    """State functions of the ensemble at the snapshot; beta fitted unless given.

    Error bars: spread over the reference samples, with the response of the fitted temperature to
    the same samples included (delta method), so that numbers that share samples are not treated
    as independent.
    """

    name = "canonical"

    def __init__(self, options: Options):
        self.options = options

    def describe(self, window: Window) -> dict[str, Any]:
        """Segmentation and conventions, for the header of the run."""
        point = build_point(window, self.options)
        used = f"canonical quantities on {len(point.x)} of {len(window.reference[0])} samples"
        if point.ensemble.method == "slq":
            used += ", stochastic Lanczos quadrature"
        conventions = [*CONVENTIONS, used]
        if self.options.inputs == "clamped":
            conventions[1] = conventions[1].replace("incl. inputs", "without the clamped inputs")
        if self.options.beta is not None:
            conventions[2] = f"beta given: {self.options.beta:g}"
        if window.energy == "cross-entropy":
            conventions.append(
                "boundary loss = 1/2 |onehot - softmax|^2, softmax as output activation; the "
                "cross-entropy is printed beside it and never fitted"
            )
        segmentation = point.system.segmentation(point.x)
        if window.energy == "cross-entropy":
            segmentation = _without_wrapper(segmentation)
        return {"segmentation": segmentation, "conventions": conventions}

    def measure(self, window: Window) -> dict[str, Estimate]:
        point = build_point(window, self.options)
        values = state_functions(point)
        for beta in FIXED_BETAS:
            fixed = point.ensemble.at(beta)
            values[f"free_energy_beta_{beta:.0f}"] = fixed.free_energy
            values[f"entropy_differential_beta_{beta:.0f}"] = fixed.entropy("differential")
        if len(point.losses) > 2:
            values["loss_n_eff"] = effective_degrees(point.losses)
        return values

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Everything that is said once per run; see `summaries`."""
        points = [build_point(w, self.options) for w in (run.first, run.last)]
        return summaries.all_rows(run, *points)


def _without_wrapper(segmentation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Names as in the user's model, not in `SoftmaxOutput`."""

    def plain(name: str) -> str:
        return name.removeprefix("model.")

    return [
        {**s, "name": plain(s["name"]), "modules": [plain(m) for m in s["modules"]]}
        for s in segmentation
    ]


def state_functions(point: Point) -> dict[str, Estimate]:
    """All state functions at the point's temperature, with sample and fit error together."""
    e = point.ensemble
    t, n = 1 / e.beta, e.neurons
    log_det, slope, bend = (per_sample(v).cpu().numpy() for v in e._log_det(2))
    average_loss = 0.5 * n * t - 0.5 * t**2 * slope
    capacity = 0.5 * n - t * slope - 0.5 * t**2 * bend
    log_z = 0.5 * n * math.log(2 * math.pi * t) - 0.5 * log_det
    variance = capacity * t**2
    losses = point.losses.cpu().numpy()
    beta_influence = np.zeros(len(losses))
    if point.fitted:
        # mean_s (U(beta; G_s) - loss_s) = 0 moves beta with the samples
        mismatch = average_loss - losses
        beta_influence = (mismatch - mismatch.mean()) / variance.mean()

    status = "ok"
    if e.method == "slq":
        bad = [v.status for v in (e.average_loss, e.complexity, e.heat_capacity)]
        status = next((word for word in bad if word != "ok"), "ok")

    def estimate(values: np.ndarray | float, beta_slope: float) -> Estimate:
        sample = np.broadcast_to(np.asarray(values, float), losses.shape)
        influence = sample - sample.mean() + beta_slope * beta_influence
        count = len(losses)
        stderr = influence.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
        return Estimate(float(sample.mean()), stderr, count, status)

    entropy = e.beta * average_loss + log_z - 0.5 * n * math.log(2 * math.pi)
    complexity = -0.5 * log_det
    thermal = e.thermodynamic_entropy
    u, var = float(average_loss.mean()), float(variance.mean())
    complexity_slope = 0.5 * t**2 * float(slope.mean())
    third = _third_derivatives(point)
    return {
        "beta": estimate(e.beta, 1.0),
        "temperature": estimate(t, -(t**2)),
        "average_loss": estimate(average_loss, -var),
        "log_partition": estimate(log_z, -u),
        "free_energy": estimate(-t * log_z, t**2 * float(log_z.mean()) + t * u),
        "entropy_relative": estimate(entropy, -e.beta * var),
        "thermodynamic_entropy": estimate(thermal, -0.5 * n * t),
        "complexity": estimate(complexity, complexity_slope),
        "entropy_differential": estimate(thermal + complexity, -0.5 * n * t + complexity_slope),
        "total_entropy": estimate(thermal + complexity, -0.5 * n * t + complexity_slope),
        "heat_capacity": estimate(capacity, third),
        "energy_variance": estimate(variance, t**2 * third - 2 * t**3 * float(capacity.mean())),
        "equipartition_ratio": estimate(
            2 * e.beta * average_loss / n, 2 * u / n - 2 * e.beta * var / n
        ),
        "boundary_loss_fitted": estimate(losses, 0.0),
    }


def _third_derivatives(point: Point) -> float:
    """dC_V/dbeta, by a finite difference on a few samples (it only enters error bars)."""
    e, step = point.ensemble, 1e-3
    jacobian = e._jacobian
    if isinstance(jacobian, JacobianBlocks):
        e = CanonicalEnsemble(jacobian.samples(slice(0, 8)), e.beta)
    low, high = (float(e.at(e.beta * f)._heat_capacity().mean()) for f in (1 - step, 1 + step))
    return (high - low) / (2 * step * e.beta)


# -- laws ---------------------------------------------------------------------------------------


class Laws:
    """First law over the window from the previous snapshot: dU = heat + work + residual."""

    name = "laws"

    def __init__(self, options: Options):
        self.options = options

    def measure(self, window: Window) -> dict[str, Estimate]:
        point = build_point(window, self.options)
        present = point.ensemble
        if not isinstance(present._jacobian, JacobianBlocks):
            raise NotApplicableError(
                "work needs Jacobian blocks; this network is measured matrix-free"
            )
        point_now = law_point(present)
        complexity = -0.5 * per_sample(present._log_det(0)[0])
        before = window.cache.get(self.name)
        kept = {**point_now._asdict(), "complexity": complexity, "losses": point.losses}
        window.cache[self.name] = kept
        if before is None:
            return {}
        past = LawPoint(**{name: before[name] for name in LawPoint._fields})
        change, heat, work, residual = law_steps([past, point_now])
        if point.fitted:
            # U equals the mean loss at both ends: the samples move beta, and with it dU and heat
            shift = (point.losses.to(change) - before["losses"].to(change)) - change
            change, heat = change + shift, heat + shift
        steps = torch.stack([change, heat, work, residual])
        # per-sample sums over the run: its windows share their samples, so errors do not add up
        kept["totals"] = steps + before.get("totals", 0.0)
        law = with_quadrature(FirstLaw(*(mean_estimate(step) for step in steps)))
        return {
            "energy_change": law.energy_change,
            "heat": law.heat,
            "work": law.work,
            "closure_residual": law.residual,
            "complexity_change": mean_estimate(complexity - before["complexity"]),
        }


def dense_allowed(ensemble: CanonicalEnsemble) -> bool:
    """Whether exact eigenvalues of all samples fit in memory and time."""
    need = 3 * ensemble.batch * ensemble.neurons**2 * 8
    return need < backends.DENSE_LIMIT and ensemble.neurons <= 1500


def segment_names(model: nn.Module, segments: Any) -> Any:
    """Segments given as submodules of the user's model, as names that survive a copy."""
    if isinstance(segments, str):
        if segments != "auto":
            raise ValueError(f"segments must be 'auto' or a list of submodules, got {segments!r}")
        return segments
    if not isinstance(segments, Sequence) or len(segments) == 0:
        raise ValueError("segments must be 'auto' or a non-empty list of submodules or names")
    names = {id(m): name for name, m in model.named_modules()}

    def name(item: Any) -> Any:
        if isinstance(item, nn.Module):
            if id(item) not in names:
                raise ValueError(
                    f"segment {type(item).__name__} is not a submodule of the model: give names, "
                    "or lists of names to be joined"
                )
            return names[id(item)]
        if isinstance(item, Sequence) and not isinstance(item, str):
            return [name(i) for i in item]
        return item

    return [name(item) for item in segments]
