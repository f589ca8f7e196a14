"""Inner products of per-sample gradients that are given as factors."""

from __future__ import annotations

import torch
from torch import Tensor

from thermolearn.predict.kernels.empirical.layers import Factor

ELEMENTS = 2**21  # of one temporary (16 MiB in float64): large enough for BLAS, small for caches
ELEMENTWISE = 8  # cost of reading, multiplying and summing an element, in multiply-adds


def add_products(target: Tensor, one: Factor, two: Factor, outputs: str) -> None:
    """Add <gradient of i, gradient of j> to target (n1, n2), (n1, n2, o) or (n1, n2, o, o).

    Either over pairs of positions, sum_ts (a_it . a_js) (g_it . g_js), or by forming the gradients
    sum_t g_t a_t^T, whichever takes fewer operations.
    """
    if one.a is None or two.a is None:
        _add_gradients(target, one.g.flatten(2), two.g.flatten(2), outputs)
        return
    groups = one.g.shape[2]
    for k in range(groups) if _pairs_are_cheaper(one, two, outputs) else ():
        _add_pairs(target, (one.a[:, k], one.g[:, :, k]), (two.a[:, k], two.g[:, :, k]), outputs)
    if not _pairs_are_cheaper(one, two, outputs):
        width, size = one.g.shape[4], one.g[:, :, :, 0, 0].numel() * one.a.shape[3]
        step = max(1, min(width, 2 * ELEMENTS // size))
        for first in range(0, width, step):
            chosen = slice(first, first + step)
            g1 = _gradients(one, chosen)
            g2 = g1 if two is one else _gradients(two, chosen)
            _add_gradients(target, g1, g2, outputs)


def _pairs_are_cheaper(one: Factor, two: Factor, outputs: str) -> bool:
    n1, o, _, t, width = one.g.shape
    n2, _, _, s, _ = two.g.shape
    inputs = one.a.shape[3] if one.a is not None else 1
    both = o * o if outputs == "full" else o
    kept = {"trace": 1, "each": o, "full": o * o}[outputs]
    pairs = n1 * n2 * t * s * (inputs + both * width + ELEMENTWISE * kept)
    forming = o * inputs * width * (n1 * t + (n2 * s if two is not one else 0))
    return pairs <= forming + n1 * n2 * both * inputs * width


def _gradients(factor: Factor, chosen: slice) -> Tensor:
    """(n, outputs, groups x width x inputs) of some rows of the weight."""
    assert factor.a is not None
    g = factor.g[..., chosen].transpose(3, 4)  # (n, outputs, groups, width, positions)
    return torch.matmul(g, factor.a[:, None]).flatten(2)


def _add_gradients(target: Tensor, g1: Tensor, g2: Tensor, outputs: str) -> None:
    """Products of gradients (n, outputs, size)."""
    if outputs == "trace":
        target.addmm_(g1.flatten(1), g2.flatten(1).mT)
    elif outputs == "each":
        for o in range(g1.shape[1]):
            target[..., o].addmm_(g1[:, o], g2[:, o].mT)
    else:
        n1, n2, size = len(g1), len(g2), g1.shape[1]
        flat = g1.flatten(0, 1) @ g2.flatten(0, 1).mT
        target += flat.view(n1, size, n2, size).transpose(1, 2)


def _add_pairs(
    target: Tensor, one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], outputs: str
) -> None:
    """Products over pairs of positions; a (n, positions, inputs), g (n, outputs, ...) each."""
    (a1, g1), (a2, g2) = one, two
    t, s, o = a1.shape[1], a2.shape[1], g1.shape[1]
    step = max(1, int((ELEMENTS / (t * s)) ** 0.5)) if t * s > 1 else 2048
    if outputs == "full":
        step = max(1, step // o)
    for first in range(0, len(a1), step):
        i = slice(first, first + step)
        for second in range(0, len(a2), step):
            j = slice(second, second + step)
            inputs = a1[i].flatten(0, 1) @ a2[j].flatten(0, 1).mT
            part = target[i, j]
            if outputs == "trace":
                _accumulate(part, inputs, _positioned(g1[i]), _positioned(g2[j]), t, s)
                continue
            for p in range(o):
                if outputs == "each":
                    _accumulate(part[..., p], inputs, g1[i, p], g2[j, p], t, s)
                    continue
                for q in range(o):
                    _accumulate(part[..., p, q], inputs, g1[i, p], g2[j, q], t, s)


def _positioned(g: Tensor) -> Tensor:
    """(n, outputs, positions, width) -> (n, positions, outputs x width)."""
    return g.transpose(1, 2).flatten(2)


def _accumulate(target: Tensor, inputs: Tensor, g1: Tensor, g2: Tensor, t: int, s: int) -> None:
    products = g1.flatten(0, 1) @ g2.flatten(0, 1).mT
    if t == s == 1:
        target.addcmul_(inputs, products)
    else:
        products *= inputs
        target += products.view(len(g1), t, len(g2), s).sum((1, 3))
