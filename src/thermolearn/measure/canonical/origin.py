"""Reference and mass centered at the origin: the terms of the displaced mean.

With x - f(w x + b) ~ M x - b, b = M x*, the exponent's minimum leaves
Q(tau) = b^T (1 - beta M A^{-1} M^T) b = tau b^T (tau + M M^T)^{-1} b, exact for linear f.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thermolearn.measure.canonical import block


def origin_terms(ensemble: Any, order: int) -> list[Tensor]:
    """Q, dQ/dtau and d2Q/dtau2 up to the order asked for, per sample, by autograd in tau."""
    with torch.enable_grad():
        tau = torch.tensor(ensemble.tau, requires_grad=True, **ensemble._place)
        per_sample = tau.expand(ensemble.batch).clone()
        value = per_sample * _resolvent_form(ensemble, per_sample)
        terms = [value]
        for _ in range(order):
            (slope,) = torch.autograd.grad(terms[-1].sum(), per_sample, create_graph=True)
            terms.append(slope)
    return [t.detach() for t in terms]


def _resolvent_form(ensemble: Any, tau: Tensor) -> Tensor:
    """b^T (tau + M M^T)^{-1} b for tau of shape (B,)."""
    fixed = torch.as_tensor(ensemble.fixed_point).to(tau)
    if fixed.shape != (ensemble.batch, ensemble.neurons):
        raise ValueError(
            f"fixed_point must have shape {(ensemble.batch, ensemble.neurons)}, "
            f"got {tuple(fixed.shape)}"
        )
    if ensemble.method == "dense" or len(ensemble._jacobian) == 0:
        jacobian = ensemble.dense_jacobian()
        identity = torch.eye(ensemble.neurons, dtype=torch.float64, device=jacobian.device)
        m = identity - jacobian
        b = (m @ fixed.unsqueeze(-1)).squeeze(-1)
        matrix = m @ m.mT + tau[:, None, None] * identity
        return (b * torch.linalg.solve(matrix, b.unsqueeze(-1)).squeeze(-1)).sum(-1)
    blocks = ensemble._jacobian
    parts = fixed.split(blocks.widths, -1)
    b = [parts[0]] + [
        parts[i + 1] - (j @ parts[i].unsqueeze(-1)).squeeze(-1) for i, j in enumerate(blocks)
    ]
    shifts = [tau.unsqueeze(-1)] * len(blocks.widths)
    return block.quadratic_form(blocks, shifts, torch.cat(b, -1))
