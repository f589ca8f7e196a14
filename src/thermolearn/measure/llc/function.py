"""The learning coefficient of a bare loss function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thermolearn.measure.llc.analysis import make_result
from thermolearn.measure.llc.objective import Objective
from thermolearn.measure.llc.result import LearningCoefficient
from thermolearn.measure.llc.sampler import make_plan, run_chains


def llc_of_function(
    function: Callable[[Tensor], Tensor],
    w0: Tensor | ArrayLike,
    n: int,
    *,
    gradient: Callable[[Tensor], Tensor] | None = None,
    beta: float | None = None,
    method: str = "mala",
    chains: int = 64,
    draws: int = 4000,
    warmup: int = 2000,
    step: float | None = None,
    localization: float | None = None,
    seed: int = 0,
) -> LearningCoefficient:
    """lambda = n beta (<L>_w - L(w0)), w ~ exp(-n beta L(w) - gamma/2 |w - w0|^2), of any loss.

    Parameters
    ----------
    function : callable
        L, per sample and in nats (a negative log-likelihood): (B, d) -> (B,) for any number B of
        positions, each row on its own; differentiable by autograd unless `gradient` is given.
    w0 : array (d,)
        A local minimum; its floating type (float64 for integers) and device are those of the
        chains. float32 is up to twice as fast and good where n L is.
    n : int
        Number of samples that L averages over, at least 3.
    gradient : callable, optional
        (C, d) -> (C, d). Compared with differences of the function after the warm-up.
    beta : float, optional
        Inverse temperature of the tempered posterior; default 1/ln n, at which <L> is the free
        energy up to O(sqrt(ln n)).
    method : "mala" or "sgld"
        Metropolis-adjusted, exact at any step; or unadjusted, half of the chains at the step, half
        at half of it, extrapolated to step 0 (for gradients that are dear or noisy).
    chains, draws, warmup : int
        Chains that move together, recorded and discarded steps of each. At least 50 draws.
    step : float, optional
        Step s of w <- w - s/2 grad U + sqrt(s) noise; default: fitted in the warm-up.
    localization : float, optional
        gamma >= 0, of the prior that keeps the chains near w0. Its effect is estimated, and
        subtracted to first order. Default: small against the stiffest curvature. Pass a number if
        results are to be compared.
    seed : int
        Of the private generator.

    Returns
    -------
    LearningCoefficient
        See there for the verdicts. What is merely under-sampled or no minimum is returned with
        its status, not raised.

    Raises
    ------
    TypeError, ValueError
        A bad argument; a loss or gradient of the wrong shape, or not finite at w0; a gradient of
        another function; a loss that does not depend on w.
    ConvergenceError
        An SGLD chain diverged.

    References
    ----------
    E. Lau, Z. Furman, G. Wang, D. Murfet, S. Wei, arXiv:2308.12108; S. Watanabe, arXiv:1208.6338
    (beta = 1/ln n). Here with Metropolis steps or extrapolation, and without the bias of the
    localization to first order.
    """
    plan = make_plan(n, beta, method, chains, draws, warmup, step, localization, seed)
    if not callable(function) or not (gradient is None or callable(gradient)):
        raise TypeError("function and gradient must be callable on positions (C, d)")
    w0 = torch.as_tensor(w0).detach().clone()
    if not w0.is_floating_point():
        w0 = w0.double()
    if w0.dim() != 1 or w0.numel() == 0 or not bool(torch.isfinite(w0).all()):
        raise ValueError(f"w0 must be one finite position (d,), got shape {tuple(w0.shape)}")
    with torch.inference_mode(False), torch.enable_grad():
        objective = _objective(function, gradient, w0.clone())
        settings: dict[str, Any] = {
            "architecture": f"function of {w0.numel()} variables",
            "loss": getattr(function, "__qualname__", type(function).__name__),
        }
        return make_result(run_chains(objective, plan), objective, plan, settings)


def _objective(
    function: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor] | None, w0: Tensor
) -> Objective:
    def values(w: Tensor) -> Tensor:
        with torch.no_grad():
            return function(w).to(w.dtype)

    def by_autograd(w: Tensor) -> tuple[Tensor, Tensor]:
        w = w.detach().requires_grad_(True)
        value = function(w).to(w.dtype)
        if not value.requires_grad:
            raise ValueError("the loss does not depend on the parameters")
        return value.detach(), torch.autograd.grad(value.sum(), w)[0]

    def given(w: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return function(w).to(w.dtype), gradient(w).to(w.dtype)  # type: ignore[misc]

    def gradient_only(w: Tensor, generator: torch.Generator) -> tuple[None, Tensor]:
        with torch.no_grad():
            return None, gradient(w).to(w.dtype)  # type: ignore[misc]

    both = by_autograd if gradient is None else given
    start = w0.repeat(2, 1)
    value, slope = function(start), None
    if not isinstance(value, Tensor) or value.shape != (2,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"function must map (2, {w0.numel()}) to (2,), got {shape}")
    eps = max(torch.finfo(t).eps for t in (value.dtype, w0.dtype) if t.is_floating_point)
    value, slope = both(start)
    if slope.shape != start.shape:
        raise ValueError(
            f"gradient must map (2, {w0.numel()}) to the same shape, got {tuple(slope.shape)}"
        )
    if not (bool(torch.isfinite(value).all()) and bool(torch.isfinite(slope).all())):
        raise ValueError("the loss or its gradient is not finite at w0")
    stochastic = None if gradient is None else gradient_only
    return Objective(
        both, values, w0, float(value[0]), slope[0].clone(), stochastic,
        supplied=gradient is not None, eps=eps,
    )  # fmt: skip
