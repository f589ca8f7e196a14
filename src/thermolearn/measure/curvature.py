"""Curvature of the loss at the parameters of a snapshot."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.estimate import Estimate
from thermolearn.core.linalg import hvp_operator, lanczos
from thermolearn.measure.objective import mean_loss, trained_parameters

BASIS_ELEMENTS = 2**27  # of the Lanczos basis (1 GiB)
# Samples of the Hessian; a sequence counts as its length, because each product costs as much.
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
    length = y[0].numel() if not y.is_floating_point() else 1
    n = max(SHARPNESS_SAMPLES // max(length, 1), SHARPNESS_FEWEST)
    x, y = x[:n], y[:n]
    parameters = trained_parameters(model)
    size = sum(p.numel() for p in parameters.values())
    most = min(64, size, BASIS_ELEMENTS // size)
    if most < min(8, size):
        return Estimate(
            math.nan, math.nan, status="too large", note=f"{size} parameters do not fit in memory"
        )

    product = hvp_operator(lambda: mean_loss(model, loss_fn, x, y, reduction), parameters.values())
    first = next(iter(parameters.values()))
    start = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(first)
    value = residual = math.nan
    for steps in sorted({min(24, most), most}):
        value, residual = _top_ritz_value(product, start, steps)
        if residual <= 1e-3 * abs(value):
            break
    # rounding of the products bounds what the residual can tell
    residual = max(residual, 1e-12 * abs(value))
    converged = residual <= 0.05 * abs(value) or residual <= 1e-12
    return Estimate(
        value,
        residual,
        status="ok" if converged else "not converged",
        note=f"on {len(x)} reference samples, the error is the Lanczos residual",
    )


def _top_ritz_value(product: Any, start: Tensor, steps: int) -> tuple[float, float]:
    """Largest Ritz value after `steps` Lanczos steps and its residual beta_{k+1} |s_k|."""
    whole = steps == start.numel()
    alpha, beta = lanczos(product, start, steps if whole else steps + 1)
    alpha, last = alpha[:steps], 0.0 if whole else float(beta[steps - 1])
    inner = beta[: steps - 1]
    tridiagonal = torch.diag(alpha) + torch.diag(inner, 1) + torch.diag(inner, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return float(values[-1]), last * abs(float(vectors[-1, -1]))


def stability_edge(optimizer: dict[str, Any]) -> Estimate:
    """Sharpness at which gradient descent on a quadratic loses stability; NaN but for SGD.

    2 (1 + mu)/(lr (1 - dampening)) - weight_decay; with Nesterov momentum the factor is
    2 (1 + mu)/(1 + 2 mu). Full-batch; minibatch noise lowers it.
    """
    plain = (
        optimizer.get("name") == "SGD"
        and not optimizer.get("maximize")
        and optimizer.get("one_rate", True)
    )
    rate = optimizer.get("lr") or 0.0
    if not plain or rate <= 0:
        return Estimate(
            math.nan,
            math.nan,
            status="not applicable",
            note="defined for SGD with one positive learning rate",
        )
    mu = optimizer.get("momentum") or 0.0
    factor = 2 * (1 + mu) / (1 - (optimizer.get("dampening") or 0.0) if mu else 1.0)
    if optimizer.get("nesterov"):
        factor = 2 * (1 + mu) / (1 + 2 * mu)
    return Estimate(factor / rate - (optimizer.get("weight_decay") or 0.0))
