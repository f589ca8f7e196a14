"""Sharpness of the loss beside the sharpness at which the optimizer becomes unstable."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.checks import whole
from thermolearn.core.copying import unwrap
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.core.linalg import Matvec
from thermolearn.measure.curvature.eigenvalues import CONVERGED, MOST_STEPS, recalled, ritz
from thermolearn.measure.curvature.hessian import (
    Hessian,
    hessian_of,
    private_window,
    sequence_length,
    vectors_that_fit,
    window_hessian,
)
from thermolearn.measure.window import Pair

# Samples of the Hessian; a sequence counts as its length, because each product costs as much.
SHARPNESS_WORK = 3 * 10**8  # parameters times samples of one product
SHARPNESS_SAMPLES, SHARPNESS_FEWEST = 1024, 32


def sharpness(
    model: nn.Module,
    loss_fn: Any,
    x: Tensor,
    y: Tensor,
    reduction: str,
    generator: torch.Generator,
) -> Estimate:
    """Largest Hessian eigenvalue of the mean loss by Lanczos; its error is the residual |Hv - tv|.

    One eigenvalue lies within the residual of the Ritz value (Golub & Van Loan, section 10.1). The
    Hessian of a piecewise-linear activation counts as zero. Status "not converged" if the residual
    exceeds 5% of the value, "too large" if the Lanczos basis does not fit in memory.
    """
    n = samples_of(y)
    return both_ends(hessian_of(model, loss_fn, x[:n], y[:n], reduction), generator)[0]


def samples_of(y: Tensor, parameters: int = 1) -> int:
    """How many samples the sharpness of a run is taken on: fewer for a large model."""
    most = min(SHARPNESS_SAMPLES // sequence_length(y), SHARPNESS_WORK // max(parameters, 1))
    return max(most, SHARPNESS_FEWEST)


def both_ends(
    hessian: Hessian,
    generator: torch.Generator,
    product: Matvec | None = None,
    most: int = 64,
) -> tuple[Estimate, Estimate]:
    """Largest and smallest eigenvalue from one short recursion of at most `most` products;
    `product` is the operator of the Hessian where it is there already."""
    size = hessian.size
    most = min(most, size, vectors_that_fit(size))
    if most < min(8, size):
        note = f"{size} parameters do not fit in memory"
        nothing = Estimate(math.nan, math.nan, status="too large", note=note)
        return nothing, nothing
    start = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
    operator = recalled(product or hessian.operator())
    ends: list[tuple[float, float]] = []
    for steps in sorted({min(n, most) for n in (16, 24, 40, 64)}):
        operator.rewind()
        values, residuals = ritz(operator, start.to(hessian.like), steps)
        ends = [(float(values[k]), float(residuals[k])) for k in (-1, 0)]
        if ends[0][1] <= 1e-3 * abs(ends[0][0]):
            break
    norm = max(abs(value) for value, _ in ends)
    eps = float(torch.finfo(hessian.like.dtype).eps)
    found = []
    for k, (value, residual) in enumerate(ends):
        # rounding of the products bounds what the residual can tell
        residual = max(residual, 4e3 * eps * abs(value))
        scale = abs(value) if k == 0 else norm  # the lower end is small beside the upper
        converged = residual <= max(CONVERGED * scale, 1e-12)
        note = f"on {hessian.samples} reference samples, the error is the Lanczos residual"
        found.append(
            Estimate(value, residual, status="ok" if converged else "not converged", note=note)
        )
    return found[0], found[1]


def stability_edge(optimizer: dict[str, Any]) -> Estimate:
    """Sharpness at which gradient descent on a quadratic loses stability; NaN but for SGD.

    2 (1 + mu)/(lr (1 - dampening)) - weight_decay; with Nesterov momentum the factor is
    2 (1 + mu)/(1 + 2 mu) (Cohen et al., arXiv:2103.00065). Full-batch; minibatch noise lowers it.
    Adam rescales every coordinate: see `preconditioned_sharpness`.
    """
    plain = (
        optimizer.get("name") == "SGD"
        and not optimizer.get("maximize")
        and optimizer.get("one_rate", True)
    )
    rate = optimizer.get("lr") or 0.0
    if not plain or rate <= 0:
        note = "defined for SGD with one positive learning rate"
        if str(optimizer.get("name")).startswith("Adam"):
            note += "; for Adam and AdamW call preconditioned_sharpness with the optimizer"
        return Estimate(math.nan, math.nan, status="not applicable", note=note)
    mu = optimizer.get("momentum") or 0.0
    factor = 2 * (1 + mu) / (1 - (optimizer.get("dampening") or 0.0) if mu else 1.0)
    if optimizer.get("nesterov"):
        factor = 2 * (1 + mu) / (1 + 2 * mu)
    return Estimate(factor / rate - (optimizer.get("weight_decay") or 0.0))


# -- Adam --------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class AdamStability:
    """Top eigenvalue of P^-1 (H + l2) and the value at which Adam with frozen P diverges."""

    sharpness: Estimate
    edge: Estimate

    @property
    def ratio(self) -> Estimate:
        """Sharpness over edge; above 1 the step is unstable while P stays as it is."""
        return self.sharpness / float(self.edge.value)


def preconditioned_sharpness(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> AdamStability:
    """Sharpness of the Hessian as Adam or AdamW sees it, from the optimizer's own state.

    With the second moments v after t steps, P = (1 - beta1^t) (sqrt(v/(1 - beta2^t)) + eps) and
    the eigenvalues are those of P^-1/2 (H + l2) P^-1/2, l2 the weight decay of Adam (none for
    AdamW). While P moves little, Adam is momentum descent in rescaled coordinates, stable up to
    2 (1 + beta1)/((1 - beta1) lr) = 38/lr for beta1 = 0.9; decoupled weight decay w lowers it to
    (1 + beta1)(2 - lr w)/((1 - beta1) lr).

    Parameters
    ----------
    model, loss_fn, data, seed, dtype
        As `hessian_trace`. Parameters that the optimizer does not hold do not move and are left
        out.
    optimizer : torch.optim.Adam or AdamW
        After at least one step; read, not changed. All its groups must have the same settings.

    Raises
    ------
    NotApplicableError
        Another optimizer, groups that differ, maximization, no step yet, or a Lanczos basis that
        does not fit in memory.

    References
    ----------
    Cohen et al., Adaptive gradient methods at the edge of stability, arXiv:2207.14484; the
    threshold with decoupled decay is derived.
    """
    whole("seed", seed, least=0)
    group = _adam_settings(optimizer)
    scales = _preconditioner(unwrap(model), optimizer)
    with private_window(model, loss_fn, data, dtype) as window:
        for name, p in window.model.named_parameters():
            p.requires_grad_(p.requires_grad and name in scales)
        hessian = window_hessian(window)
        root = torch.cat([scales[n].reshape(-1) for n in hessian.parameters]).to(hessian.like)
        root = root.rsqrt()
        operator, l2 = hessian.operator(), 0.0
        decay, rate, beta1 = float(group["weight_decay"]), float(group["lr"]), group["betas"][0]
        edge = 2.0
        if group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)):
            edge -= rate * decay
        else:
            l2 = decay

        def product(v: Tensor) -> Tensor:
            u = root * v
            return root * (operator(u) + l2 * u)

        top = _top(product, hessian, seed)
    edge *= (1 + beta1) / ((1 - beta1) * rate)
    note = "while the second moments stay as they are; full batch"
    return AdamStability(replace(top, note=f"{top.note}; {note}"), Estimate(edge, note=note))


def _top(product: Matvec, hessian: Hessian, seed: int) -> Estimate:
    """Largest eigenvalue of a product with the residual as error."""
    size = hessian.size
    most = min(MOST_STEPS, size, vectors_that_fit(size) // 2)
    if most < min(8, size):
        raise NotApplicableError(f"a Lanczos basis of {size} parameters does not fit in memory")
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(hessian.like)
    operator, value, residual = recalled(product), math.nan, math.inf
    for steps in sorted({min(n, most) for n in (32, 64, 128, most)}):
        operator.rewind()
        values, residuals = ritz(operator, start, steps)
        value, residual = float(values[-1]), float(residuals[-1])
        if residual <= 1e-3 * abs(value):
            break
    residual = max(residual, 4 * float(torch.finfo(hessian.like.dtype).eps) * abs(value))
    status = "ok" if residual <= CONVERGED * abs(value) else "not converged"
    return Estimate(value, residual, status=status, note=hessian.note)


def _adam_settings(optimizer: Any) -> dict[str, Any]:
    """The settings that all groups share."""
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        raise NotApplicableError(
            f"optimizer must be torch.optim.Adam or AdamW, got {type(optimizer).__name__}; for SGD "
            "compare the sharpness with stability_edge"
        )
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    keys = ("lr", "betas", "weight_decay", "amsgrad")
    if any(float_like(g[k]) != float_like(settings[0][k]) for g in settings for k in keys):
        raise NotApplicableError("optimizer: its groups differ, so that there is no single edge")
    if settings[0].get("maximize"):
        raise NotApplicableError("optimizer maximizes the loss; there is no edge of descent")
    if not float(settings[0]["lr"]) > 0:
        raise NotApplicableError("optimizer: its learning rate is not positive")
    return settings[0]


def float_like(value: Any) -> Any:
    """A plain number of a tensor, else the value."""
    return float(value) if isinstance(value, Tensor) else value


def _preconditioner(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """P by the name of the parameter."""
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    found = {}
    for name, p in model.named_parameters():
        state, group = optimizer.state.get(p, {}), group_of.get(id(p))
        if group is None or not p.requires_grad:
            continue
        if "exp_avg_sq" not in state:
            raise NotApplicableError(
                f"optimizer has no second moments of parameter {name} yet: measure after a step "
                "that gives it a gradient"
            )
        (beta1, beta2), step = group["betas"], float(state["step"])
        moments = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].detach().double()
        root = (moments / (1 - beta2**step)).sqrt() + group["eps"]
        found[name] = ((1 - beta1**step) * root).cpu()
    if not found:
        raise NotApplicableError("optimizer holds none of the model's trained parameters")
    if not all(bool((s > 0).all()) for s in found.values()):
        raise NotApplicableError("optimizer: a second moment and eps are both zero")
    return found
