"""Initial variances for the layers of a model, on the critical line of its activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.activation import resolve_activation
from thermolearn.core.checks import real
from thermolearn.core.copying import check_measurable, unwrap
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.conclusions import recommendation as conclude
from thermolearn.measure.propagation.graph import ROOT, chain_steps, trace_steps
from thermolearn.measure.propagation.mean_field import ActivationLike
from thermolearn.measure.propagation.plan import Recommendation
from thermolearn.measure.propagation.walk import Plan

RESIDUAL = ("scaled", "zero")


def recommend_init(
    model: nn.Module,
    q: float | None = None,
    *,
    sigma_w2: float | None = None,
    sigma_b2: float | None = None,
    input_mean_square: float | Tensor | None = 1.0,
    activation: ActivationLike | None = None,
    residual: str = "scaled",
) -> Recommendation:
    """Variances that let signals and gradients through a deep model; nothing is changed.

    A layer behind an activation f at variance q gets sigma_w2 = 1/E f'(z)^2 and the bias variance
    that leads to the next target, sigma_b2 = q_next - sigma_w2 E f(z)^2: in a chain of one
    activation, the critical pair. A layer without a bias, or where that would be negative, keeps
    the variance instead, sigma_w2 = q_next / E f^2, and its chi_1 says what that costs.

    Residual sums of B blocks, x + branch(x): the last layer of each branch gets a variance that
    makes the branch 1/B of the stream, so that the stream grows by (1 + 1/B)^B < e in all instead
    of 2^B, and gradients by the same; with ``residual="zero"`` it starts at zero. If the branch
    ends in a normalization, its weight is set to 1/sqrt(B) (or 0) instead.

    Where a normalization reads the layer's output, or set what the activation in front reads, no
    sigma_w2 is critical: the variance is kept (1 in front of the normalization) without a bias,
    and chi_1 is that through the normalization, sigma_w2 E f'(g x)^2 g^2 / q for a normalization
    of weight g in front of f. Frozen and shared weights are counted as they are. Behind an
    operation whose effect is not known (pooling, products, concatenations, an activation of a
    signal that is not Gaussian) q and chi_1 are NaN, with a note.

    Parameters
    ----------
    model : nn.Module
        Linear and Conv1d/2d/3d layers (fan-in: in_channels * kernel / groups).
    q : float, optional
        Pre-activation variance to keep. Default: 1 for scale-free activations, 0.4 for tanh-like
        ones, else the smallest q from 0.4 up with V'(q*) <= 0.995 (GELU, SiLU: the critical points
        of smaller q are unstable).
    sigma_w2, sigma_b2 : float, optional
        ``sigma_b2`` alone picks the critical point of that bias variance; both together are used
        in every layer as they are (critical or not).
    input_mean_square : float or Tensor, optional
        Mean square of the inputs (or the inputs themselves), from which the first layer is scaled
        to q*. None: the first layer gets the same pair as the others, and the inputs must be
        rescaled to `Recommendation.input_mean_square` to start at q*.
    activation : optional
        Needed for a model whose wiring cannot be traced, or whose activation is a module or formula
        of its own: its Linear and Conv layers are then taken as a chain, in order of registration,
        with this activation between them.
    residual : "scaled" or "zero"

    Raises
    ------
    NotApplicableError
        No affine layer, no activation, wiring that cannot be traced, or an activation that jumps
        or bends at points that are not known.
    ValueError, TypeError
        A number out of range or off the critical line, contradicting arguments, not a module.
    ConvergenceError
        No finite fixed point q* for the given pair.

    Notes
    -----
    Schoenholz et al., arXiv:1611.01232 (the critical line); residual scaling as derived above,
    compare Zhang, Dauphin, Ma, arXiv:1901.09321, and Hayou et al., arXiv:2010.12859.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if residual not in RESIDUAL:
        raise ValueError(f"residual must be 'scaled' or 'zero', got {residual!r}")
    own = unwrap(model)
    check_measurable(own)
    square = _mean_square(input_mean_square)
    if activation is None:
        steps = trace_steps(own)
    else:
        steps = chain_steps(own, resolve_activation(activation))
    plan = Plan(steps, q, sigma_w2, sigma_b2, residual, square)
    return conclude(plan, own)


def apply_init_(
    model: nn.Module,
    recommendation: Recommendation | None = None,
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Recommendation:
    """Draw the weights and biases of a model, in place, as `recommend_init` says.

    Parameters
    ----------
    model : nn.Module
    recommendation : Recommendation, optional
        Made from this model; default: ``recommend_init(model, **options)``.
    seed : int
        Of a private CPU generator, or give the `generator`. Global generators are not drawn from.
    **options
        Arguments of `recommend_init`.

    Returns
    -------
    Recommendation
        What was applied. Frozen parameters (of normalizations, too) and what is not covered are
        left as they are.

    Raises
    ------
    NotApplicableError
        As in `recommend_init`, or a weight that is computed from others (weight norm, pruning).
    ValueError
        Both a recommendation and options, or a recommendation for another model.
    """
    if recommendation is not None and options:
        raise ValueError(f"give a recommendation or options, not both: {sorted(options)}")
    plan = recommendation or recommend_init(model, **options)
    modules = {**dict(unwrap(model).named_modules()), ROOT: unwrap(model)}
    missing = [x.name for x in plan.layers if x.name not in modules]
    if missing:
        raise ValueError(f"the recommendation is for another model: no layer {missing[0]!r}")
    generator = generator or torch.Generator().manual_seed(seed)
    drawn: set[int] = set()
    with torch.no_grad():
        for layer in plan.layers:
            module: Any = modules[layer.name]
            weight, bias = module.weight, module.bias
            if not weight.requires_grad and (bias is None or not bias.requires_grad):
                continue
            _check_plain(layer.name, module)
            if layer.fan_in != weight[0].numel():
                raise ValueError(
                    f"the recommendation is for another model: {layer.name!r} has fan-in "
                    f"{weight[0].numel()}, not {layer.fan_in}"
                )
            variances = ((weight, layer.sigma_w2 / layer.fan_in), (bias, layer.sigma_b2))
            for parameter, variance in variances:
                if parameter is None or id(parameter) in drawn or not parameter.requires_grad:
                    continue
                _draw_(parameter, variance, generator)
                drawn.add(id(parameter))
        for name, value in plan.norms.items():
            norm: Any = modules[name]
            if norm.weight.requires_grad:
                norm.weight.fill_(value)
    return plan


def _draw_(parameter: Tensor, variance: float, generator: torch.Generator) -> None:
    draw = torch.randn(
        parameter.shape, generator=generator, dtype=torch.float64, device=generator.device
    )
    parameter.copy_(math.sqrt(variance) * draw)


def _check_plain(name: str, module: nn.Module) -> None:
    if "weight" not in module._parameters or module._parameters["weight"] is None:
        raise NotApplicableError(
            f"the weight of {name!r} is computed from other parameters (weight norm, pruning, a "
            "parametrization): initialize it before that is applied"
        )


def _mean_square(given: float | Tensor | None) -> float | None:
    if given is None:
        return None
    if isinstance(given, Tensor):
        if not given.is_floating_point():
            raise TypeError(f"input_mean_square: inputs must be floating point, got {given.dtype}")
        given = float(given.detach().double().square().mean())
    return real("input_mean_square", given, above=0.0)
