"""Extreme eigenvalues of the Hessian by Lanczos, with residual error bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate
from thermolearn.core.linalg import Matvec, lanczos
from thermolearn.measure.curvature.hessian import (
    DENSE,
    Hessian,
    private_window,
    vectors_that_fit,
    window_hessian,
)
from thermolearn.measure.window import Pair

MOST_STEPS = 256  # of one recursion
CONVERGED = 0.05  # residual over value above which an eigenvalue is flagged


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """Both ends of a spectrum.

    Attributes
    ----------
    largest, smallest : Estimate (k,)
        The k largest in descending, the k smallest in ascending order. stderr: the residual
        |H v - theta v|, within which an eigenvalue lies; 0 up to rounding where the whole matrix
        was computed. status "not converged" if a residual exceeds 5% of the spectral norm.
    steps : int
        Products that were made.
    """

    largest: Estimate
    smallest: Estimate
    steps: int


def top_eigenvalues(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    k: int = 5,
    *,
    layer: str | None = None,
    tolerance: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Eigenvalues:
    """The k largest and k smallest eigenvalues of the Hessian of the mean loss.

    Parameters
    ----------
    model, loss_fn, data, seed, dtype
        As `hessian_trace`.
    k : int
        How many at each end (all, if there are fewer).
    layer : str, optional
        Of the diagonal block of one layer, by the name of the module that owns the parameters.
    tolerance : float
        The recursion ends when every residual is below this share of the largest |eigenvalue|,
        after 256 steps, or when the basis would not fit in 1 GiB.

    Raises
    ------
    ValueError
        Also a layer that is not there, with the names that are.
    TypeError, NotApplicableError
        As `hessian_trace`.

    Notes
    -----
    Up to 128 parameters the matrix itself is computed. Beyond, Lanczos with full
    reorthogonalization: it finds distinct eigenvalues, a multiple one once; the residual bounds
    the distance to an eigenvalue, not the number of those that were passed over (Golub & Van
    Loan, Matrix Computations, chapter 10). Where the recursion ends in an invariant subspace (a
    Hessian of low rank), it is begun again beside it, which counts multiple eigenvalues.
    """
    whole("k", k, least=1)
    whole("seed", seed, least=0)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance!r}")
    with private_window(model, loss_fn, data, dtype) as window:
        hessian = window_hessian(window)
        check_layer(hessian, layer)
        return extreme_eigenvalues(hessian, k, layer, tolerance, seed)


def check_layer(hessian: Hessian, layer: str | None) -> None:
    """ValueError unless the layer has trained parameters."""
    if layer is not None and layer not in hessian.layers:
        raise ValueError(
            f"layer {layer!r} has no trained parameters; there are {list(hessian.layers)}"
        )


def extreme_eigenvalues(
    hessian: Hessian,
    k: int,
    layer: str | None = None,
    tolerance: float = 1e-3,
    seed: int = 0,
    most: int = MOST_STEPS,
) -> Eigenvalues:
    """Both ends of the spectrum of the Hessian or of a diagonal block."""
    size = hessian.block_size(layer)
    k = min(k, size)
    note = f"{hessian.note}" + ("" if layer is None else f", block of {layer}")
    if size <= DENSE:
        values = torch.linalg.eigvalsh(hessian.dense(layer).double()).cpu().numpy()
        eps = float(torch.finfo(hessian.like.dtype).eps)
        rounding = np.full(k, size * eps * np.abs(values).max())
        note = f"full matrix, {note}"
        return Eigenvalues(
            Estimate(values[::-1][:k], rounding, note=note),
            Estimate(values[:k], rounding, note=note),
            size,
        )
    most = min(most, size, vectors_that_fit(size) // 2)
    if most < min(2 * k + 2, size):
        nothing = Estimate(np.full(k, np.nan), np.nan, status="too large", note=note)
        return Eigenvalues(nothing, nothing, 0)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(hessian.like)
    operator = recalled(hessian.operator(layer))
    schedule = sorted({min(n, most) for n in (16 + 4 * k, 32 + 8 * k, 128, most)})
    values, residuals = np.zeros(0), np.zeros(0)
    ends = np.r_[:k, -k:0]
    for steps in schedule:
        operator.rewind()
        values, residuals = ritz(operator, start, steps)
        if len(values) < steps:  # an invariant subspace
            values, residuals = _beside(operator, values, start, k, most, generator)
            break
        if residuals[ends].max() <= tolerance * np.abs(values).max():
            break
    norm = float(np.abs(values).max())
    floor = 4 * float(torch.finfo(hessian.like.dtype).eps) * norm
    residuals = np.maximum(residuals, floor)
    bad = residuals[ends].max() > CONVERGED * norm
    status, note = "not converged" if bad else "ok", f"Lanczos, {operator.made} products, {note}"
    return Eigenvalues(
        Estimate(values[::-1][:k], residuals[::-1][:k], status=status, note=note),
        Estimate(values[:k], residuals[:k], status=status, note=note),
        operator.made,
    )


def _beside(
    operator: recalled,
    values: np.ndarray,
    start: Tensor,
    k: int,
    most: int,
    generator: torch.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and residuals where the recursion met an invariant subspace before its end.

    A recursion finds each distinct eigenvalue once; from a random vector orthogonal to all
    subspaces found it finds each that is left once more. If its first vector is an eigenvector,
    all that is left is this one eigenvalue (with probability 1), as the zeros of a low rank.
    """
    size, norm = start.numel(), float(np.abs(values).max())
    small = 1e3 * float(torch.finfo(start.dtype).eps) * norm
    found = list(values)
    residuals = [small] * len(found)  # below it the recursion takes a residual for none
    seen = torch.stack(_basis(operator, start, len(found)))
    for _ in range(k):  # the k-th copy is the last that is asked for
        if len(found) == size:
            break

        def product(v: Tensor, seen: Tensor = seen) -> Tensor:
            w = _outside(operator.plain(v), seen)
            return w if float(torch.linalg.vector_norm(w)) > small else torch.zeros_like(w)

        fresh = torch.randn(size, generator=generator, dtype=torch.float64).to(start)
        fresh = _outside(fresh, seen)
        again = recalled(product)
        steps = min(most, (vectors_that_fit(size) - len(found)) // 2, size - len(found))
        more, error = ritz(again, fresh, steps)
        operator.made += again.made
        if len(more) == 1:
            rest = size - len(found)
            return _sorted([*found, *[more[0]] * rest], [*residuals, *[small] * rest])
        found += list(more)
        residuals += list(np.maximum(error, small))
        if len(more) == steps:  # not to its end: what was reached, with its residuals
            break
        seen = torch.cat([seen, torch.stack(_basis(again, fresh, len(more)))])
        seen = torch.linalg.qr(seen.mT)[0].mT  # a last vector of rounding overlaps with the others
    return _sorted(found, residuals)


def _outside(v: Tensor, seen: Tensor) -> Tensor:
    """The part of v that is orthogonal to the rows, to rounding of what is left."""
    for _ in range(2):
        v = v - (seen @ v) @ seen
    return v


def _basis(operator: recalled, start: Tensor, steps: int) -> list[Tensor]:
    """The vectors of a recursion whose products are remembered."""
    vectors: list[Tensor] = []

    def listed(v: Tensor) -> Tensor:
        vectors.append(v)
        return operator(v)

    operator.rewind()
    lanczos(listed, start, steps)
    return vectors


def _sorted(values: list[float], residuals: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Ascending values and the residuals that belong to them."""
    order = np.argsort(values, kind="stable")
    return np.array(values)[order], np.array(residuals)[order]


class recalled:
    """An operator that remembers its products in order: a longer recursion from the same start
    repeats the vectors of the shorter one, so that only the new products are made."""

    def __init__(self, operator: Matvec):
        self.plain, self.made = operator, 0
        self._products, self._next = [], 0

    def rewind(self) -> None:
        self._next = 0

    def __call__(self, v: Tensor) -> Tensor:
        if self._next == len(self._products):
            # beyond an invariant subspace the recursion goes on with zeros
            zero = not bool(v.any())
            self._products.append(v if zero else self.plain(v).detach())
            self.made += not zero
        self._next += 1
        return self._products[self._next - 1]


def ritz(product: Matvec, start: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values, ascending, and their residuals beta_{k+1} |s_k|, after `steps` steps."""
    whole_space = steps == start.numel()
    alpha, beta = lanczos(product, start, steps if whole_space else steps + 1)
    last = 0.0 if whole_space else float(beta[steps - 1])
    diagonal, side = alpha[:steps].double(), beta[: steps - 1].double()
    matrix = torch.diag(diagonal) + torch.diag(side, 1) + torch.diag(side, -1)
    values, vectors = torch.linalg.eigh(matrix.cpu())
    residuals = last * vectors[-1].abs()
    # after an early end the diagonal is filled up; what has no weight is no eigenvalue
    found = _reached(side.cpu())
    if found < steps:
        values = torch.linalg.eigvalsh(matrix[:found, :found].cpu())
        residuals = torch.zeros_like(values)
    return values.numpy(), residuals.numpy()


def _reached(side: Tensor) -> int:
    """Steps before the recursion met an invariant subspace."""
    zero = (side == 0).nonzero()
    return len(side) + 1 if not len(zero) else int(zero[0]) + 1
