"""The learning coefficient of a model: its loss as a function of flat parameter vectors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core import checks
from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.llc.analysis import make_result
from thermolearn.measure.llc.objective import Objective
from thermolearn.measure.llc.result import LearningCoefficient
from thermolearn.measure.llc.sampler import make_plan, run_chains
from thermolearn.measure.objective import flat_gradient, mean_loss, trained_parameters
from thermolearn.measure.reference import loss_name, sha256_of
from thermolearn.measure.setting import window_of
from thermolearn.measure.window import Pair, Window

ROWS = 16384  # samples times chains in one forward pass


def local_learning_coefficient(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    data: Pair,
    *,
    batch_size: int | None = None,
    beta: float | None = None,
    method: str | None = None,
    chains: int = 4,
    draws: int = 1000,
    warmup: int = 1000,
    step: float | None = None,
    localization: float | None = None,
    seed: int = 0,
) -> LearningCoefficient:
    """lambda = n beta (<L_n>_w - L_n(w*)) around the model's trained parameters w*.

    w is drawn from exp(-n beta L_n(w) - gamma/2 |w - w*|^2), L_n the mean loss of the n samples.
    lambda is half the number of parameters for a regular model and smaller the more singular the
    minimum. All chains go through the model at once where `torch.func.vmap` can, one after the
    other where it cannot. The user's model is not changed.

    Parameters
    ----------
    model : nn.Module
        Its parameters that require gradients are w (a tied one counts once); frozen ones and
        buffers stay; eval mode, in float64 where it runs.
    loss_fn : callable
        loss_fn(outputs, targets), mean or sum over samples. It is taken as -ln p per sample in
        nats: lambda scales with the loss (squared error is a likelihood of variance 1/2).
    data : (x, y)
        The training data; n of at least 3 samples.
    batch_size : int, optional
        Minibatch of each chain and step (drawn with replacement), for ``method="sgld"`` only;
        needs a loss that is a mean or sum over samples. Default: all data.
    method : "mala" or "sgld", optional
        Default: "mala" with all data, "sgld" with a batch_size.
    beta, step, localization, seed
        As in `llc_of_function`.
    chains, draws, warmup : int
        Number of chains, recorded and discarded steps of each. A step costs one gradient of all
        data (or of the minibatch) per chain.

    Returns
    -------
    LearningCoefficient

    Raises
    ------
    TypeError, ValueError
        A bad argument, or a loss that is not finite at w*.
    NotApplicableError
        No trained parameter; a model that cannot be copied; a minibatch of a loss that couples
        its samples; a loss that sees trainable parameters other than through the outputs.
    ConvergenceError
        An SGLD chain diverged.

    References
    ----------
    E. Lau, Z. Furman, G. Wang, D. Murfet, S. Wei, arXiv:2308.12108.
    """
    method = method or ("mala" if batch_size is None else "sgld")
    with untouched():
        window = window_of(model, loss_fn, data, seed=seed)
        n = len(window.reference[0])
        plan = make_plan(n, beta, method, chains, draws, warmup, step, localization, seed)
        if batch_size is not None:
            batch_size = checks.whole("batch_size", batch_size, 1, n)
            if method != "sgld":
                raise ValueError("batch_size is for method='sgld'; MALA needs all data")
        objective = model_objective(window, batch_size)
        plan = replace(plan, least_localization=weight_scale(objective.w0))
        return make_result(
            run_chains(objective, plan), objective, plan, settings_of(window, batch_size)
        )


def weight_scale(w0: Tensor) -> float:
    """P/|w*|^2, the localization at which flat directions wander as far as the weights are long."""
    square = float(w0.square().sum())
    return w0.numel() / square if square > 0 else 0.0


def settings_of(window: Window, batch_size: int | None) -> dict[str, Any]:
    """What a comparison must have in common, but for the sampler's own settings."""
    shapes = [(k, tuple(p.shape)) for k, p in trained_parameters(window.model).items()]
    text = f"{window.model!r}{shapes}"
    return {
        "architecture": hashlib.sha256(text.encode()).hexdigest()[:16],
        "loss": loss_name(window.loss_fn),
        "data": sha256_of(window.reference)[:16],
        "batch_size": batch_size,
    }


def model_objective(window: Window, batch_size: int | None = None) -> Objective:
    """The mean loss of the window's samples on flat parameter vectors (C, P).

    Raises
    ------
    NotApplicableError, ValueError
        See `local_learning_coefficient`.
    """
    parameters = trained_parameters(window.model)
    x, y = window.reference
    if not window.finite:
        raise ValueError("the model has parameters that are not finite; the loss is not defined")
    losses, total, reduction = sample_losses(window.loss_fn, window.outputs, y)
    check_loss(window)
    if not bool(torch.isfinite(total)):
        raise ValueError(f"the loss at w* is {float(total)}; it must be finite")
    chains = ChainLoss(window.model, window.loss_fn, parameters, reduction)
    w0 = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    value, gradient = chains.of_all(w0[None], x, y)

    def all_data(w: Tensor) -> tuple[Tensor, Tensor]:
        return chains.of_all(w, x, y)

    def values(w: Tensor) -> Tensor:
        return chains.of_all(w, x, y)[0]

    def minibatch(w: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (len(w), batch_size or len(x))
        index = torch.randint(len(x), shape, generator=generator, device=w.device)
        loss, slope = chains.of_batches(w, x[index], y[index])
        # the same samples at w*: unbiased, and most of their scatter drops out
        return loss - losses[index].mean(1), slope

    if batch_size is not None and reduction == "other":
        raise NotApplicableError(
            "the loss is neither the mean nor the sum of the losses of its samples, so a "
            "minibatch has no unbiased gradient: leave batch_size away"
        )
    noisy = batch_size is not None
    slope = gradient[0].clone()
    if not bool(torch.isfinite(slope).all()):
        raise ValueError("the gradient of the loss at w* is not finite")
    stochastic = minibatch if noisy else None
    return Objective(
        all_data, values, w0, float(value[0]), slope, stochastic, noisy,
        eps=torch.finfo(window.outputs.dtype).eps,
    )  # fmt: skip


def check_loss(window: Window) -> None:
    """The loss may see the model through its outputs only: nothing else of it moves with w.

    What a loss reads without a gradient (detached, in no_grad) is a constant in training, too.

    Raises
    ------
    NotApplicableError
        With outputs that carry no graph the loss still has one, to parameters that are not the
        loss module's own.
    """
    loss_fn = window.loss_fn
    with torch.enable_grad():
        loss = loss_fn(window.outputs.detach(), window.reference[1])
    own = list(loss_fn.parameters()) if isinstance(loss_fn, nn.Module) else []
    # a module that holds the model was copied with it: the same values as the copied model
    twins = [q for q in window.setting.template.parameters() if q.numel() > 1]
    own = [p for p in own if not any(p.shape == q.shape and torch.equal(p, q) for q in twins)]
    foreign = [p for p in _leaves(loss) if not any(p is q for q in own)]
    if foreign:
        raise NotApplicableError(
            f"the loss depends on a trainable parameter of shape {tuple(foreign[0].shape)} not "
            "through the outputs (a penalty on the weights?), and would not move with the chains: "
            "give the loss of the outputs alone, or the whole loss as a function of all "
            "parameters to llc_of_function"
        )


def _leaves(loss: Tensor) -> list[Tensor]:
    """The leaves that a backward pass from here would reach, without running it."""
    if loss.grad_fn is None:
        return [loss] if loss.requires_grad else []
    seen, stack, found = set(), [loss.grad_fn], []
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)  # type: ignore[attr-defined]
        stack += [parent for parent, _ in node.next_functions if parent is not None]
    return found


class ChainLoss:
    """Loss and gradient (C,), (C, P) of one module at several parameter vectors."""

    def __init__(
        self, model: nn.Module, loss_fn: Any, parameters: dict[str, Tensor], reduction: str
    ):
        self.model = model
        self.loss_fn = loss_fn
        self.parameters = parameters
        self.reduction = reduction
        self.sizes = [p.numel() for p in parameters.values()]
        self.usable = True  # until vmap refuses the model

    def of_all(self, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss over all samples, in pieces that fit."""
        rows = len(x) if self.reduction == "other" else max(1, ROWS // len(w))
        value, gradient = 0.0, 0.0
        for xs, ys in zip(x.split(rows), y.split(rows), strict=True):
            loss, slope = self._of(w, xs, ys, False)
            part = len(xs) / len(x)
            value, gradient = value + part * loss, gradient + part * slope
        return value, gradient  # type: ignore[return-value]

    def of_batches(self, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss over a batch for each chain: x (C, b, ...), y (C, b, ...)."""
        return self._of(w, x, y, True)

    def _of(self, w: Tensor, x: Tensor, y: Tensor, own: bool) -> tuple[Tensor, Tensor]:
        if self.usable and len(w) > 1:
            try:
                dims = (0, 0, 0) if own else (0, None, None)
                batched = torch.func.vmap(torch.func.grad_and_value(self._loss), in_dims=dims)
                gradient, value = batched(w, x, y)
                return value.detach(), gradient.detach()
            except Exception:  # a model that vmap does not take is run chain by chain
                self.usable = False
        pairs = [(x[c], y[c]) if own else (x, y) for c in range(len(w))]
        found = [self._single(v, *pair) for v, pair in zip(w, pairs, strict=True)]
        return torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])

    def _loss(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = flat.split(self.sizes)
        values = {k: v.view_as(p) for v, (k, p) in zip(parts, self.parameters.items(), strict=True)}
        # a forward pass may change its inputs in place
        outputs = torch.func.functional_call(self.model, values, (x.clone(),))
        return self.loss_fn(outputs, y).mean() / (len(x) if self.reduction == "sum" else 1)

    def _single(self, flat: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient of one chain, written into the private copy's parameters."""
        with torch.no_grad():
            for v, p in zip(flat.split(self.sizes), self.parameters.values(), strict=True):
                p.copy_(v.view_as(p))
        loss = mean_loss(self.model, self.loss_fn, x.clone(), y, self.reduction)
        if not bool(torch.isfinite(loss)):
            return loss.detach(), torch.full_like(flat, math.nan)
        return loss.detach(), flat_gradient(loss, self.parameters).to(flat.dtype)
