"""Exact block elimination: log det(t + M M^T) of a layered network in O(sum n_l^3).

M = 1 - J with J block strictly lower bidiagonal (blocks J_l, l = 1..L), so that M M^T is block
tridiagonal with diagonal 1 + J_l J_l^T and off-diagonal -J_l. Eliminating from the input,

    C_0 = 1 + t_0,   C_l = 1 + t_l + J_l (1 - C_{l-1}^{-1}) J_l^T,   log det = sum_l log det C_l,

costs nothing for the widest layer of most networks, the input. det(t + M^T M) is the same
recursion on the reversed, transposed blocks. The recursion is carried in E_l = C_l - 1, which
is of order t, as is log det in the cold limit t -> 0: few digits are lost there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Blocks = Sequence[Tensor]


class NotPositiveDefiniteError(ValueError):
    """A pivot block is not positive definite: the shift lies below -lambda_min(G)."""


def widths_of(blocks: Blocks) -> list[int]:
    """Layer widths [n_0, ..., n_L] of the blocks J_l of shape (B, n_l, n_{l-1})."""
    return [blocks[0].shape[-1], *(block.shape[-2] for block in blocks)]


def reversed_blocks(blocks: Blocks) -> list[Tensor]:
    """Blocks of the network read from the output: M M^T <-> M^T M."""
    return [block.mT for block in reversed(blocks)]


def elimination_cost(widths: Sequence[int]) -> float:
    """Leading operation count per sample of the elimination that starts at widths[0]."""
    cost = 0.0
    for i, (source, target) in enumerate(pairwise(widths)):
        sandwich = target**2 * source + (0 if i == 0 else target * source**2)
        cost += sandwich + target**3
    return cost


def cheaper_direction(blocks: Blocks) -> list[Tensor]:
    """The blocks, or the reversed ones, whichever is cheaper to eliminate (equal log det)."""
    widths = widths_of(blocks)
    if elimination_cost(widths[::-1]) < elimination_cost(widths):
        return reversed_blocks(blocks)
    return list(blocks)


def _symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mT)


def _cholesky(pivot: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(pivot)
    if bool((info != 0).any()):
        raise NotPositiveDefiniteError("the shifted matrix is not positive definite")
    return factor


def _identity_like(x: Tensor) -> Tensor:
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def log_det(blocks: Blocks, shifts: Sequence[Tensor]) -> Tensor:
    """log det(diag(t) + M M^T) per sample, differentiable in the blocks and the shifts.

    Parameters
    ----------
    blocks : sequence of Tensor, shapes (B, n_l, n_{l-1})
    shifts : sequence of Tensor, shapes broadcastable to (B, n_l), l = 0..L
        The diagonal t; one value per layer (shape (B, 1)) or per neuron.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    NotPositiveDefiniteError
        If the matrix is not positive definite.
    """
    batch, width = blocks[0].shape[0], blocks[0].shape[-1]
    t = shifts[0].expand(batch, width)
    if bool((t <= -1).any()):
        raise NotPositiveDefiniteError("the shifted matrix is not positive definite")
    total = torch.log1p(t).sum(-1)
    inner = (blocks[0] * (t / (1 + t)).unsqueeze(-2)) @ blocks[0].mT
    for layer in range(1, len(shifts)):
        t = shifts[layer].expand(batch, inner.shape[-1])
        excess = _symmetric(inner) + torch.diag_embed(t)
        factor = _cholesky(excess + _identity_like(excess))
        total = total + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if layer < len(blocks):
            block = blocks[layer]
            inner = block @ torch.cholesky_solve(excess, factor) @ block.mT
    return total


def quadratic_form(blocks: Blocks, shifts: Sequence[Tensor], vector: Tensor) -> Tensor:
    """b^T (diag(t) + M M^T)^{-1} b per sample, differentiable; vector b of shape (B, N)."""
    parts = vector.split(widths_of(blocks), -1)
    t = shifts[0].expand_as(parts[0])
    total = (parts[0] ** 2 / (1 + t)).sum(-1)
    inner = (blocks[0] * (t / (1 + t)).unsqueeze(-2)) @ blocks[0].mT
    carried = (blocks[0] @ (parts[0] / (1 + t)).unsqueeze(-1)).squeeze(-1)
    for layer in range(1, len(shifts)):
        rhs = parts[layer] + carried
        excess = _symmetric(inner) + torch.diag_embed(shifts[layer].expand_as(rhs))
        factor = _cholesky(excess + _identity_like(excess))
        solution = torch.cholesky_solve(rhs.unsqueeze(-1), factor)
        total = total + (rhs * solution.squeeze(-1)).sum(-1)
        if layer < len(blocks):
            block = blocks[layer]
            carried = (block @ solution).squeeze(-1)
            inner = block @ torch.cholesky_solve(excess, factor) @ block.mT
    return total


class BlockElimination:
    """L(tau) = log det(G + tau), its slope and curvature, for one batch of blocks.

    G = M^T M. The product of the first block with its transpose is formed once and serves every
    tau, so that fitting a temperature costs hidden widths only.
    """

    exact = True

    def __init__(self, blocks: Blocks):
        self.blocks = cheaper_direction(blocks)
        self.widths = widths_of(self.blocks)
        self.first_gram = _symmetric(self.blocks[0] @ self.blocks[0].mT)

    def traces(self) -> tuple[Tensor, Tensor]:
        """tr G and tr G^2 per sample, from the blocks of G = M^T M (or M M^T, alike)."""
        batch = self.first_gram.shape[0]
        first = second = self.first_gram.new_zeros(batch)
        for layer, width in enumerate(self.widths):
            # diagonal blocks 1 + J_l J_l^T of M M^T, off-diagonal blocks -J_l
            first = first + width
            if layer == 0:
                second = second + width
                continue
            block = self.blocks[layer - 1]
            square = (block**2).sum((-2, -1))
            gram = self.first_gram if layer == 1 else block @ block.mT
            first = first + square
            second = second + width + 2 * square + (gram**2).sum((-2, -1)) + 2 * square
        return first, second

    def log_det(self, tau: float, order: int = 0) -> list[Tensor]:
        """L, dL/dtau and d2L/dtau2 up to the order asked for, each of shape (B,)."""
        if tau <= -1:
            raise NotPositiveDefiniteError("the shifted matrix is not positive definite")
        n0, gram = self.widths[0], self.first_gram
        batch = gram.shape[0]
        total = [
            gram.new_full((batch,), value)
            for value in (
                n0 * float(torch.log1p(torch.tensor(tau, dtype=torch.float64))),
                n0 / (1 + tau),
                -n0 / (1 + tau) ** 2,
            )[: order + 1]
        ]
        # 1 - C_0^{-1} and its derivatives are multiples of the identity.
        inner = [
            gram * factor
            for factor in (tau / (1 + tau), (1 + tau) ** -2, -2 * (1 + tau) ** -3)[: order + 1]
        ]
        for layer in range(1, len(self.widths)):
            excess, inner = self._eliminate(layer, inner, tau, order)
            for i, term in enumerate(excess):
                total[i] = total[i] + term
        return total

    def _eliminate(
        self, layer: int, inner: list[Tensor], tau: float, order: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One layer: the terms of the log det and the sandwiches passed to the next layer."""
        identity = _identity_like(inner[0])
        excess = inner[0] + tau * identity
        factor = _cholesky(excess + identity)
        terms = [2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)]
        block = None if layer == len(self.blocks) else self.blocks[layer]
        if order == 0:
            if block is None:
                return terms, []
            return terms, [block @ torch.cholesky_solve(excess, factor) @ block.mT]
        # With R = C^{-1}: (1 - R)' = R C' R and (1 - R)'' = R C'' R - 2 R C' R C' R
        inverse = torch.cholesky_inverse(factor)
        relative = inverse @ (inner[1] + identity)
        terms.append(relative.diagonal(dim1=-2, dim2=-1).sum(-1))
        middle = [] if block is None else [excess @ inverse, relative @ inverse]
        if order == 2:
            bend = (inverse * inner[2]).sum((-2, -1))
            terms.append(bend - (relative * relative.mT).sum((-2, -1)))
            if block is not None:
                middle.append((inverse @ inner[2] - 2 * relative @ relative) @ inverse)
        return terms, [] if block is None else [block @ m @ block.mT for m in middle]
