"""Trace of the Hessian with an error bar, in total and per layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.linalg import Matvec
from thermolearn.measure.curvature.hessian import (
    DENSE,
    Hessian,
    finite,
    private_window,
    rademacher,
    vectors_that_fit,
    window_hessian,
)
from thermolearn.measure.window import Pair

FEWEST = 4  # probes of XTrace; below, Hutchinson's estimator without a basis
BLOCK = 64  # probes of one basis: what is left out in pairs is held for all pairs at once


def hessian_trace(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    probes: int = 20,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Estimate:
    """Trace of the Hessian of the mean loss in the trained parameters, tr H.

    Parameters
    ----------
    model : torch.nn.Module
        Measured on an eval-mode copy; not changed.
    loss_fn : callable
        ``loss_fn(outputs, targets)``; a sum over samples is divided by their number.
    data : (x, y)
        All of them are used.
    probes : int
        Products with the Hessian, each about one and a half gradients; at least 2. Up to 128
        parameters the trace is exact, whatever the number. Beyond 128 products the mean of
        independent estimates from at most 128 each is taken.
    seed : int
        Of the random probes.
    dtype : torch.dtype
        Precision of the copy; float32 halves the time.

    Returns
    -------
    Estimate
        In units of the loss. stderr: jackknife over the probes, times the factor of Student's t
        that makes two of it hold 95%; 0 where exact.

    Raises
    ------
    ValueError, TypeError
        Arguments that cannot be right, or products that are not finite.
    NotApplicableError
        No trained parameter, or a model or loss that cannot be measured.

    Notes
    -----
    XTrace: half of the products find the range of H, the other half give its trace there exactly;
    each probe in turn is held out and estimates what lies outside the range of the others. On a
    network whose Hessian has few large eigenvalues the error is several times smaller than that
    of Hutchinson's estimator (the mean of z^T H z) from as many products. The spread of the
    held-out estimates, which the paper proposes as an error, is too small by a third because they
    share their probes; the jackknife over probes is right on average (Efron and Stein 1981). From
    few probes it is itself uncertain: at 8 products (4 probes) Student's factor is 1.7, at 20 it
    is 1.2, and what lies beyond two errors can still be several of them away.

    References
    ----------
    Epperly, Tropp, Webber, XTrace, SIAM J. Matrix Anal. Appl. 45 (2024) 1, arXiv:2301.07825;
    Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059. Deviation: Rademacher probes without
    the paper's normalization, the jackknife, and blocks of probes.
    """
    return traces(model, loss_fn, data, probes, seed, dtype)[0]


def layer_traces(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    probes: int = 20,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Estimate]:
    """Trace of each layer's diagonal block, tr H_ll, by the name of the layer.

    Arguments and errors as `hessian_trace`. All layers come from the same products, so that their
    errors are correlated; the traces of the blocks add up to the trace of H.
    """
    return traces(model, loss_fn, data, probes, seed, dtype)[1]


def traces(
    model: nn.Module, loss_fn: Any, data: Pair, probes: int, seed: int, dtype: torch.dtype
) -> tuple[Estimate, dict[str, Estimate]]:
    """Trace of the whole and of each layer."""
    whole("probes", probes, least=2)
    whole("seed", seed, least=0)
    with private_window(model, loss_fn, data, dtype) as window:
        return estimate_traces(window_hessian(window), probes, seed)


def estimate_traces(
    hessian: Hessian, products: int, seed: int, operator: Matvec | None = None
) -> tuple[Estimate, dict[str, Estimate]]:
    """Trace of the whole and of each layer from at most so many products (exact if small);
    `operator` is that of the Hessian where it is there already."""
    size, layers = hessian.size, hessian.layers
    if size <= max(DENSE, products):
        diagonal = finite(hessian.dense()).diagonal().double()
        note = f"exact, {hessian.note}"
        found = [Estimate(float(diagonal[s].sum()), note=note) for s in layers.values()]
        return Estimate(float(diagonal.sum()), note=note), dict(zip(layers, found, strict=True))
    count = min(products // 2, vectors_that_fit(size) // 4)
    if count < FEWEST:
        rows, kind = _hutchinson(hessian, products, seed), "Hutchinson"
        estimates = [_widened(mean_estimate(r), products - 1) for r in rows]
    else:
        estimates, kind = _xtrace(hessian, count, seed, operator), "XTrace"
        products = 2 * count
    note = f"{kind}, {products} products, {hessian.note}"
    estimates = [replace(e, n_eff=None, note=note) for e in estimates]
    return estimates[0], dict(zip(layers, estimates[1:], strict=True))


def _hutchinson(hessian: Hessian, products: int, seed: int) -> Tensor:
    """z_l . (H z)_l of the whole and of each layer (1 + layers, products), one probe at a time."""
    operator, rows = hessian.operator(), []
    for k in range(products):
        z = rademacher(hessian, 1, seed * 1_000_003 + k)
        terms = (z * finite(operator(z)))[0].double()
        rows.append(torch.stack([terms.sum(), *(terms[s].sum() for s in hessian.layers.values())]))
    return torch.stack(rows, 1).cpu()


def _xtrace(
    hessian: Hessian, count: int, seed: int, operator: Matvec | None = None
) -> list[Estimate]:
    """The whole, then each layer; `count` probes, twice as many products."""
    operator = operator or hessian.operator()
    blocks = rademacher(hessian, count, seed).tensor_split(-(-count // BLOCK))
    found = [_block(hessian, operator, probes) for probes in blocks]
    n = len(blocks)
    means = []
    for parts in zip(*found, strict=True):
        stderr = math.sqrt(sum(float(e.stderr) ** 2 for e in parts)) / n
        mean = Estimate(sum(float(e.value) for e in parts) / n, stderr)
        means.append(_widened(mean, count - n))
    return means


def _widened(e: Estimate, freedom: int) -> Estimate:
    """Two standard errors hold 95%: Student's t in place of the normal law."""
    from scipy.special import ndtr, stdtrit

    return replace(e, stderr=float(e.stderr) * float(stdtrit(freedom, ndtr(2.0))) / 2)


def _block(hessian: Hessian, operator: Matvec, probes: Tensor) -> list[Estimate]:
    """The whole, then each layer, from the probes of one basis.

    With Y = H Omega, Q = orth(Y), C the projector on the range of the columns of Y that are kept
    (in coordinates of Q) and w_i = Q^T omega_i, a held-out probe estimates the diagonal block l by
    tr(C Q_l^T (H Q)_l) + omega_il . (H omega_i - H Q C w_i)_l. For the whole the residual is
    projected on both sides.
    """
    image = finite(operator(probes))
    basis, r = torch.linalg.qr(image.mT)
    deep = finite(operator(basis.mT.contiguous()))  # (H Q)^T
    turn, first, second = _left_out(r.double())
    w = (basis.mT @ probes.mT).double().mT @ turn  # rows: Q^T omega_i
    # C w_i without the probes i and j
    seen = w[:, None] - first * (first @ w[:, :, None]) - second * (second @ w[:, :, None])
    parts = [slice(0, hessian.size), *hessian.layers.values()]
    found = []
    for k, s in enumerate(parts):
        q, hq, z = basis[s], deep[:, s], probes[:, s]
        inner = turn.mT @ (hq @ q).double() @ turn
        own = (z * image[:, s]).double().sum(1)
        cross = (z @ hq.mT).double() @ turn
        low = inner.trace() - sum(((d @ inner) * d).sum(-1) for d in (first, second))
        rest = own[:, None] - (cross[:, None] * seen).sum(-1)
        if k == 0:
            rest = rest - (cross[:, None] * seen).sum(-1) + ((seen @ inner) * seen).sum(-1)
        found.append(_jackknife((low + rest).cpu()))
    return found


def _left_out(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the range of the columns of r loses without columns i and j.

    Column i of r^-T is orthogonal to all other columns of r: the range loses the span of columns
    i and j of r^-T. They are taken in the coordinates of r's left singular vectors (the matrix
    `turn`), where the large components of nearly parallel ones cancel exactly.

    Returns
    -------
    turn : (n, n)
    first, second : (n, n, n)
        For each (i, j) an orthonormal pair of directions; `second` is zero for i = j.
    """
    turn, sizes, right = torch.linalg.svd(r.cpu())
    floor = 1e-14 * float(sizes[0]) or 1.0  # of a range of lower rank
    s = (right / sizes.clamp_min(floor)[:, None]).mT
    s = s / torch.linalg.vector_norm(s, dim=1, keepdim=True)
    at = s[:, s.abs().argmax(1)].mT  # (i, j): where s_i is largest, the component of s_j
    second = s[None] - (at / at.diagonal()[:, None])[..., None] * s[:, None]
    second = second / torch.linalg.vector_norm(second, dim=2, keepdim=True).clamp_min(1e-300)
    first = s[:, None] - second * (second @ s[:, :, None])
    first = first / torch.linalg.vector_norm(first, dim=2, keepdim=True)
    return turn.to(r), first.to(r), second.to(r)


def _jackknife(estimates: Tensor) -> Estimate:
    """Mean of the held-out estimates (i, j): by probe i, without j; its error by leaving out one
    probe altogether."""
    n = len(estimates)
    value = float(estimates.diagonal().mean())
    without = (estimates.sum(0) - estimates.diagonal()) / (n - 1)
    stderr = math.sqrt((n - 1) * float(without.var(correction=0)))
    return Estimate(value, max(stderr, 1e-14 * abs(value)))
