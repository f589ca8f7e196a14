"""Three ways to L(tau) = log det(G + tau) and its derivatives, G = (1 - J)^T (1 - J).

Every state function of the Gaussian ensemble is linear in L, dL/dtau and d2L/dtau2. A back end
offers ``log_det(tau, order)`` -> list of tensors of shape (B,), or (B, P) with a probe axis whose
spread is the statistical error. The third one is `block.BlockElimination`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from thermolearn.core.linalg import gauss_rule, probe_lanczos
from thermolearn.measure.canonical.block import NotPositiveDefiniteError
from thermolearn.measure.canonical.operators import BlockOperator

DENSE_LIMIT = 4 * 2**30  # bytes of one batch of dense M with its decomposition


def dense_matrix(blocks: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    """J of shape (B, N, N) from its blocks, block strictly lower bidiagonal."""
    batch, size = blocks[0].shape[0], sum(widths)
    matrix = blocks[0].new_zeros(batch, size, size)
    start = 0
    for block, source in zip(blocks, widths, strict=False):
        target = block.shape[-2]
        rows = slice(start + source, start + source + target)
        matrix[:, rows, start : start + source] = block
        start += source
    return matrix


def check_dense_memory(batch: int, size: int) -> None:
    """Refuse a dense decomposition that would not fit."""
    need = 3 * batch * size**2 * 8
    if need > DENSE_LIMIT:
        raise ValueError(
            f"method='dense' would need about {need / 2**30:.1f} GiB for {batch} samples of "
            f"{size} neurons; use method='block' or 'slq', or fewer samples"
        )


def _sums(values: Tensor, tau: float, order: int, weights: Tensor | None = None) -> list[Tensor]:
    """sum log(lambda + tau) and derivatives over the last axis."""
    shifted = values + tau
    relevant = shifted if weights is None else shifted[weights > 0]
    if bool((relevant <= 0).any()):
        raise NotPositiveDefiniteError("the shifted matrix is not positive definite")
    safe = shifted.clamp_min(torch.finfo(shifted.dtype).tiny)
    terms = [safe.log(), 1 / safe, -1 / safe**2][: order + 1]
    return [(t if weights is None else weights * t).sum(-1) for t in terms]


class DenseSpectrum:
    """Exact eigenvalues of G from the singular values of M = 1 - J (never negative)."""

    exact = True

    def __init__(self, jacobian: Tensor):
        batch, size = jacobian.shape[0], jacobian.shape[-1]
        check_dense_memory(batch, size)
        identity = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device)
        self.eigenvalues = torch.linalg.svdvals(identity - jacobian).flip(-1) ** 2

    def log_det(self, tau: float, order: int = 0) -> list[Tensor]:
        return _sums(self.eigenvalues, tau, order)

    def traces(self) -> tuple[Tensor, Tensor]:
        """tr G and tr G^2 per sample."""
        return self.eigenvalues.sum(-1), (self.eigenvalues**2).sum(-1)


class LanczosSpectrum:
    """Stochastic Lanczos quadrature on G, or for feed-forward nets on G^{-1}.

    On the inverse, det G = 1 gives log det(G + tau) = tr log(1 + tau G^{-1}): of order tau instead
    of a difference of large terms, hence the choice for cold ensembles (small tau).

    Parameters
    ----------
    operator : BlockOperator or any object with ``gram(v)``, ``size``, ``batch``
        And ``inverse_gram(v)`` if `inverse`.
    inverse : bool
    steps, probes, seed : int
        Lanczos steps per probe, Rademacher probes per sample, seed of the private generator.

    Attributes
    ----------
    half : LanczosSpectrum or None
        The quadrature after half the steps: the change since then is what more steps might move.
    """

    exact = False

    def __init__(self, operator: BlockOperator, inverse: bool, steps: int, probes: int, seed: int):
        if probes < 2:
            raise ValueError(f"probes must be at least 2 (their spread is the error), got {probes}")
        self.inverse, self.size = inverse, operator.size
        product = operator.inverse_gram if inverse else operator.gram
        generator = torch.Generator(device=operator.device).manual_seed(seed)
        alpha, beta = probe_lanczos(
            product, operator.size, (operator.batch,), steps, probes, generator
        )
        steps = alpha.shape[-1]
        self.nodes, self.weights = gauss_rule(alpha, beta)
        self.half: LanczosSpectrum | None = None
        if steps < operator.size:  # a complete recursion is exact
            self.half = copy(self)
            self.half.nodes, self.half.weights = gauss_rule(alpha, beta, max(steps // 2, 1))

    def unresolved(self, tau: float) -> bool:
        """Whether the shift lies below the smallest node while that is still sinking.

        What the recursion has not found then weighs most, and the change since half the steps
        cannot show it.
        """
        if self.inverse or self.half is None:
            return False
        low, before = (float(s.nodes[s.weights > 1e-12].min()) for s in (self, self.half))
        return tau < low < 0.9 * before

    def log_det(self, tau: float, order: int = 0) -> list[Tensor]:
        """Per sample and probe, shape (B, P)."""
        if not self.inverse:
            return [self.size * s for s in _sums(self.nodes, tau, order, self.weights)]
        stretch = 1 + tau * self.nodes
        if bool((stretch[self.weights > 0] <= 0).any()):
            raise NotPositiveDefiniteError("the shifted matrix is not positive definite")
        relative = self.nodes / stretch
        terms = [torch.log1p(tau * self.nodes), relative, -(relative**2)][: order + 1]
        return [self.size * (self.weights * t).sum(-1) for t in terms]

    def traces(self) -> tuple[Tensor, Tensor]:
        """Estimates of tr G and tr G^2, one per probe."""
        nodes = self.eigenvalue_nodes()
        return (
            self.size * (self.weights * nodes).sum(-1),
            self.size * (self.weights * nodes**2).sum(-1),
        )

    def eigenvalue_nodes(self) -> Tensor:
        """Quadrature nodes on the axis of G's eigenvalues."""
        if not self.inverse:
            return self.nodes
        return 1 / self.nodes.clamp_min(torch.finfo(self.nodes.dtype).tiny)


class DenseOperator:
    """G v for a dense J of shape (B, N, N); it has no cheap inverse."""

    def __init__(self, jacobian: Tensor):
        self.jacobian, self.device = jacobian, jacobian.device
        self.batch, self.size = jacobian.shape[0], jacobian.shape[-1]

    def gram(self, v: Tensor) -> Tensor:
        error = v - v @ self.jacobian.mT
        return error - error @ self.jacobian
