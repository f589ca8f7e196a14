"""Exact sums over the states of one discrete layer, the other layer summed in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thermolearn.core.progress import track
from thermolearn.systems.memory.rbm import units
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.units import Weights

MOST_UNITS = 25
# numbers in one block of the sum
BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact averages of a machine: log Z, <v>, <h> and <v h^T>."""

    log_partition: float
    visible: Tensor
    hidden: Tensor
    product: Tensor


def enumerated_layer(w: Weights, layer: str | None = None, most: int = MOST_UNITS) -> str:
    """The layer to enumerate: the smaller discrete one, or the one asked for.

    Raises
    ------
    ValueError
        The layer is Gaussian, or has more than `most` units.
    """
    sizes = {
        name: n
        for name, n, kind in (
            ("hidden", w.n_hidden, w.hidden),
            ("visible", w.n_visible, w.visible),
        )
        if kind != "gaussian"
    }
    if layer is None:
        layer = min(sizes, key=lambda name: sizes[name])
    if layer not in ("hidden", "visible"):
        raise ValueError(f"layer must be 'hidden' or 'visible', got {layer!r}")
    if layer not in sizes:
        raise ValueError(f"the {layer} layer is gaussian and cannot be enumerated")
    if sizes[layer] > most:
        raise ValueError(
            f"exact enumeration of {sizes[layer]} {layer} units means 2^{sizes[layer]} states; the "
            f"limit is {most} units. Use log_partition(method='ais') for an estimate with its "
            "error, and method='pcd' or 'pt' to train"
        )
    return layer


def blocks(w: Weights, layer: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """States s (m, n) of the layer, their log weights (m,), and the fields on the other layer."""
    w = w if layer == "visible" else w.transposed()  # the enumerated layer plays the visible one
    n = w.n_visible
    low = min(n, max(1, int(math.log2(max(2, BLOCK // max(1, w.n_hidden))))))
    table = units.states(w.visible, low)
    field, weight = table @ w.W[:low], table @ w.a[:low]
    n_high = 2 ** (n - low)
    for number in track(range(n_high), "enumerating states", n_high):
        rest = units.states(w.visible, n - low, number, 1)[0] if n > low else table.new_zeros(0)
        fields = field + (w.b + rest @ w.W[low:])
        log_weight = weight + rest @ w.a[low:]
        log_weight = log_weight + units.log_normalizer(w.hidden, fields).sum(-1)
        yield torch.cat([table, rest.expand(len(table), -1)], 1), log_weight, fields


def log_partition(w: Weights, layer: str | None = None) -> float:
    """ln Z of the machine, exact, in float64."""
    w = w.double()
    layer = enumerated_layer(w, layer)
    parts = [torch.logsumexp(log_weight, 0) for _, log_weight, _ in blocks(w, layer)]
    return float(torch.logsumexp(torch.stack(parts), 0))


def moments(w: Weights, layer: str | None = None) -> Moments:
    """Exact averages by enumeration, in float64; the model side of the exact gradient."""
    w = w.double()
    layer = enumerated_layer(w, layer)
    kind = w.hidden if layer == "visible" else w.visible
    top, total = -math.inf, 0.0
    own = other = product = torch.zeros(())
    for s, log_weight, fields in blocks(w, layer):
        new_top = max(top, float(log_weight.max()))
        shrink = math.exp(top - new_top)
        p = torch.exp(log_weight - new_top)
        average = units.mean(kind, fields)
        total = shrink * total + float(p.sum())
        own = shrink * own + p @ s
        other = shrink * other + p @ average
        product = shrink * product + (s * p[:, None]).T @ average
        top = new_top
    own, other, product = own / total, other / total, product / total
    log_z = top + math.log(total)
    if layer == "visible":
        return Moments(log_z, own, other, product)
    return Moments(log_z, other, own, product.T)


def exact_samples(w: Weights, n: int, noise: Noise, layer: str | None = None) -> Tensor:
    """n independent visible states of the machine, float64."""
    w = w.double()
    layer = enumerated_layer(w, layer, most=20)
    log_weight = torch.cat([part for _, part, _ in blocks(w, layer)])
    cumulative = torch.cumsum(torch.softmax(log_weight, 0), 0)
    # two words of noise: 23 bits would leave out states below 1e-7
    u = noise.uniform_(torch.empty(2, n, dtype=torch.float64))
    number = torch.searchsorted(cumulative, (u[0] + (u[1] - 0.5) * 2.0**-23) * cumulative[-1])
    number = number.clamp(max=len(cumulative) - 1)
    size, kind = (w.n_visible, w.visible) if layer == "visible" else (w.n_hidden, w.hidden)
    bits = ((number[:, None] >> torch.arange(size)) & 1).double()
    drawn = 2 * bits - 1 if kind == "ising" else bits
    if layer == "visible":
        return drawn
    field = w.visible_field(drawn)
    return noise.units_(w.visible, field, torch.empty_like(field))
