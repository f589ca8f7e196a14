"""Laplacian of the free energy: the learning efficiency of arXiv:2004.09280, in two versions.

Over *edges*: sum over connections of d2F/dw_ij^2 at fixed slopes f' (exact for linear and
piecewise-linear nets without weight sharing). Over *weights*: the trace of the Hessian of F over
the model's parameters, with f'' and weight sharing. They differ, so they have different names.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.core.linalg import hutchinson, hvp_operator
from thermolearn.measure.canonical import block
from thermolearn.measure.canonical.jacobian import JacobianBlocks
from thermolearn.measure.canonical.system import NeuronSystem

PARAMETERS = ("weights", "biases", "all")


def edge_laplacian(ensemble: Any) -> Tensor:
    """sum_edges d2F/dw_ij^2 at fixed slopes, per sample (B,), in loss units.

    With R = (tau + G)^{-1}, S = (tau + M M^T)^{-1} and T = 1/beta,
    d2F/dw_ij^2 = T f'_i^2 { tau R_jj S_ii - [(M R)_ij]^2 }   (i target, j source).
    The diagonals and (M R) on the edges are derivatives of log det(diag(t) + G) with respect to
    t and J, so that one reverse sweep through the block elimination gives them all.
    """
    blocks = ensemble._jacobian
    if not isinstance(blocks, JacobianBlocks) or len(blocks) == 0:
        raise NotApplicableError(
            "the edge Laplacian needs feed-forward blocks with slopes: NeuronSystem.jacobian_blocks"
        )
    if blocks.slopes is None or blocks.edges is None:
        raise NotApplicableError(f"no edge Laplacian: {blocks.not_elementwise}")
    tau, temperature = ensemble.tau, 1 / ensemble.beta
    # J only carries the free energy's derivative through log det, for every reference but the
    # origin, whose displaced mean would add terms of its own.
    if ensemble.reference == "origin":
        raise NotApplicableError("the edge Laplacian is not defined for reference='origin'")
    try:
        source, mixed = _resolvent(block.reversed_blocks(blocks), tau)
        target, _ = _resolvent(list(blocks), tau)
    except block.NotPositiveDefiniteError:
        ensemble._log_det(0)  # raises the named error
        raise
    source, mixed = source[::-1], [g.mT for g in mixed[::-1]]
    total = blocks[0].new_zeros(ensemble.batch)
    for layer, (slope, mask) in enumerate(zip(blocks.slopes, blocks.edges, strict=True)):
        diagonal = tau * target[layer + 1].unsqueeze(-1) * source[layer].unsqueeze(-2)
        curvature = diagonal - (0.5 * mixed[layer]) ** 2
        total = total + ((slope**2).unsqueeze(-1) * curvature * mask).sum((-2, -1))
    return temperature * total


def _resolvent(blocks: list[Tensor], tau: float) -> tuple[list[Tensor], list[Tensor]]:
    """d log det(diag(t) + M M^T)/dt (the diagonal of the inverse) and d/dJ_l = -2 (M R)_edges."""
    with torch.enable_grad():
        leaves = [b.detach().requires_grad_(True) for b in blocks]
        batch = leaves[0].shape[0]
        shifts = [
            leaves[0].new_full((batch, n), tau).requires_grad_(True)
            for n in block.widths_of(leaves)
        ]
        total = block.log_det(leaves, shifts).sum()
        gradients = torch.autograd.grad(total, [*shifts, *leaves])
    return list(gradients[: len(shifts)]), list(gradients[len(shifts) :])


def dense_edge_laplacian(
    jacobian: Tensor, slopes: Tensor, edges: Tensor, beta: float, mass: float = 0.0
) -> Tensor:
    """The same sum for a general (recurrent) J, by explicit inverses; shape (B,).

    Parameters
    ----------
    jacobian : Tensor (B, N, N)
    slopes : Tensor (B, N)
        f'_i of the target neurons.
    edges : Tensor (N, N) of bool
        Which w_ij exist. With loops the low-temperature limit is -T sum f'_i^2 [(M^{-1})_ji]^2,
        negative; feed-forward nets have no such term.
    """
    identity = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    m, tau = identity - jacobian, 1 / beta - mass
    resolvent = torch.linalg.inv(tau * identity + m.mT @ m)
    target = tau * torch.linalg.inv(tau * identity + m @ m.mT).diagonal(dim1=-2, dim2=-1)
    source = resolvent.diagonal(dim1=-2, dim2=-1)
    curvature = target.unsqueeze(-1) * source.unsqueeze(-2) - (m @ resolvent) ** 2
    return ((slopes**2).unsqueeze(-1) * curvature * edges).sum((-2, -1)) / beta


def number_of_edges(blocks: JacobianBlocks) -> int:
    """Connections of the element-wise segments."""
    if blocks.edges is None:
        raise NotApplicableError(f"no edges: {blocks.not_elementwise}")
    return int(sum(mask.sum() for mask in blocks.edges))


def free_energy_of(
    system: NeuronSystem, tensors: Sequence[dict[str, Tensor]], x: Tensor, beta: float, mass: float
) -> Tensor:
    """Batch-mean F as a differentiable function of each segment's tensors."""
    state, blocks = x, []
    for i, (segment, local) in enumerate(zip(system.segments, tensors, strict=True)):

        def call(u: Tensor, module: Any = segment.module, local: Any = local) -> Tensor:
            return functional_call(module, local, (u.clone(),))  # it may work in place

        def single(one: Tensor, call: Any = call) -> Tensor:
            return call(one[None])[0].flatten()

        if i or system.inputs == "free":
            blocks.append(vmap(jacrev(single), chunk_size=64)(state).flatten(2))
        state = call(state)
    if not blocks:
        raise NotApplicableError("one clamped segment: F does not depend on the parameters")
    tau = (0.0 if system.reference == "flat" else 1 / beta) - mass
    directed = block.cheaper_direction(blocks)
    shifts = [x.new_full((1, 1), tau)] * (len(blocks) + 1)
    neurons = sum(block.widths_of(blocks))
    log_det = block.log_det(directed, shifts).mean()
    return 0.5 * (neurons * math.log(beta / (2 * math.pi)) + log_det) / beta


def weight_trace(
    system: NeuronSystem,
    x: Any,
    beta: float,
    probes: int = 64,
    *,
    mass: float = 0.0,
    parameters: str = "weights",
    seed: int = 0,
) -> Estimate:
    """tr d2F/dq^2 over the model's parameters by Hutchinson's estimator, with its error bar.

    Parameters
    ----------
    x : Tensor (B, ...)
        F is the mean over this batch.
    probes : int
        Rademacher vectors; one gradient of the gradient each.
    parameters : "weights", "biases" or "all"
        Tensors of two or more dimensions, of one, or both. They are kept apart because bias
        curvature (which exists through f'' only) is negative and can dominate.

    Notes
    -----
    F at the forward-pass fixed point: x* and f' move with the parameters. Shared weights count
    once, the edges of `edge_laplacian` each. For piecewise-linear activations f'' vanishes almost
    everywhere and the bias part is zero.
    """
    if parameters not in PARAMETERS:
        raise ValueError(f"parameters must be one of {PARAMETERS}, got {parameters!r}")
    if probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta!r}")
    if system.reference == "origin":
        raise NotApplicableError("the weight Laplacian is not defined for reference='origin'")
    if any(segment.kinked for segment in system.segments):
        warnings.warn(
            "an activation has kinks: f'' is zero almost everywhere, the Laplacian misses them",
            stacklevel=2,
        )
    data = system._input(x)
    tensors, chosen = _leaves(system, parameters)
    generator = torch.Generator(device=data.device).manual_seed(seed)
    count = sum(c.numel() for c in chosen)
    try:
        hessian = hvp_operator(lambda: free_energy_of(system, tensors, data, beta, mass), chosen)
        trace = hutchinson(hessian, count, probes, generator)
    except (RuntimeError, NotImplementedError) as error:
        raise NotApplicableError(
            "the weight Laplacian needs second derivatives that a module does not have: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return replace(trace, note=f"trace over {count} {parameters}, {probes} Rademacher probes")


def _leaves(system: NeuronSystem, parameters: str) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Float64 copies of each segment's tensors, and those over which the trace runs.

    Tied tensors appear under several names and must stay one leaf.
    """
    copies: dict[int, Tensor] = {}
    tensors: list[dict[str, Tensor]] = []
    chosen: list[Tensor] = []
    for segment in system.segments:
        local: dict[str, Tensor] = {}
        for name, buffer in segment.module.named_buffers():
            local[name] = buffer.double() if buffer.is_floating_point() else buffer
        for name, value in segment.module.named_parameters(remove_duplicate=False):
            if id(value) not in copies:
                copies[id(value)] = value.detach().double().clone().requires_grad_(True)
                is_weight = value.ndim >= 2
                if parameters == "all" or (parameters == "weights") == is_weight:
                    chosen.append(copies[id(value)])
            local[name] = copies[id(value)]
        tensors.append(local)
    if not chosen:
        raise NotApplicableError(f"the model has no {parameters}")
    return tensors, chosen
