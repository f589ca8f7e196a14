"""Trace of the Hessian with an error bar, in total and per layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
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
        parameters the trace is exact, whatever the number.
    seed : int
        Of the random probes.
    dtype : torch.dtype
        Precision of the copy; float32 halves the time.

    Returns
    -------
    Estimate
        In units of the loss. stderr: jackknife over the probes; 0 where exact.

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
    share their probes; the jackknife over probes errs on the safe side (Efron and Stein 1981).

    References
    ----------
    Epperly, Tropp, Webber, XTrace, SIAM J. Matrix Anal. Appl. 45 (2024) 1, arXiv:2301.07825;
    Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059. Deviation: Rademacher probes without
    the paper's normalization, and the jackknife.
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
    hessian: Hessian, products: int, seed: int
) -> tuple[Estimate, dict[str, Estimate]]:
    """Trace of the whole and of each layer from at most so many products (exact if small)."""
    size, layers = hessian.size, hessian.layers
    if size <= max(DENSE, products):
        diagonal = finite(hessian.dense()).diagonal().double()
        note = f"exact, {hessian.note}"
        found = [Estimate(float(diagonal[s].sum()), note=note) for s in layers.values()]
        return Estimate(float(diagonal.sum()), note=note), dict(zip(layers, found, strict=True))
    count = min(products // 2, vectors_that_fit(size) // 4)
    if count < FEWEST:
        rows, kind = _hutchinson(hessian, products, seed), "Hutchinson"
        estimates = [mean_estimate(r) for r in rows]
    else:
        estimates, kind = _xtrace(hessian, count, seed), "XTrace"
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


def _xtrace(hessian: Hessian, count: int, seed: int) -> list[Estimate]:
    """The whole, then each layer; `count` probes, twice as many products.

    With Y = H Omega, Q = orth(Y), C the projector on the range of the columns of Y that are kept
    (in coordinates of Q) and w_i = Q^T omega_i, a held-out probe estimates the diagonal block l by
    tr(C Q_l^T (H Q)_l) + omega_il . (H omega_i - H Q C w_i)_l. For the whole the residual is
    projected on both sides.
    """
    operator = hessian.operator()
    probes = rademacher(hessian, count, seed)
    image = finite(operator(probes))
    basis, r = torch.linalg.qr(image.mT)
    deep = finite(operator(basis.mT.contiguous()))  # (H Q)^T
    w = (basis.mT @ probes.mT).double()  # columns Q^T omega_i
    spans = _held_out(r.double())
    parts = [slice(0, hessian.size), *hessian.layers.values()]
    found = []
    for k, s in enumerate(parts):
        q, hq, z = basis[s], deep[:, s], probes[:, s]
        inner = (hq @ q).double()
        own = (z * image[:, s]).double().sum(1)
        cross = (z @ hq.mT).double()
        found.append(_jackknife(spans, inner, own, cross, w, both=k == 0))
    return found


def _held_out(r: Tensor) -> Tensor:
    """Projectors (n, n, n, n) on the columns of r without i and j (i = j: without i)."""
    n = len(r)
    keep = torch.ones(n, n, n, dtype=r.dtype)
    index = torch.arange(n)
    keep[index, :, index] = 0
    keep[:, index, index] = 0
    u, sizes, _ = torch.linalg.svd(r.cpu()[None, None] * keep[:, :, None, :])
    scale = float(torch.linalg.matrix_norm(r, 2))
    kept = (sizes > 1e-10 * scale).to(r.dtype)  # a range of lower rank
    return ((u * kept[..., None, :]) @ u.mT).to(r.device)


def _jackknife(
    spans: Tensor, inner: Tensor, own: Tensor, cross: Tensor, w: Tensor, both: bool
) -> Estimate:
    """Mean of the held-out estimates, its error by leaving out one probe altogether."""
    n = len(own)
    low = (spans * inner.mT).sum((-1, -2))  # (i, j): probe i estimates, j is left out
    seen = (spans @ w.mT[:, None, :, None])[..., 0]
    rest = own[:, None] - (cross[:, None, :] * seen).sum(-1)
    if both:
        rest = rest - (cross[:, None, :] * seen).sum(-1) + ((seen @ inner) * seen).sum(-1)
    estimates = (low + rest).cpu()
    value = float(estimates.diagonal().mean())
    off = estimates.sum(0) - estimates.diagonal()
    without = off / (n - 1)
    stderr = math.sqrt((n - 1) * float(without.var(correction=0)))
    return Estimate(value, max(stderr, 1e-14 * abs(value)))
