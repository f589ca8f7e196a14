"""ln Z, likelihood and draws of one machine: which method, and with what error."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.rbm import enumeration, partition, sampling, units
from thermolearn.systems.memory.rbm.monitor import mean_log_likelihood
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.partition import Bounds
from thermolearn.systems.memory.rbm.units import Weights

__all__ = [
    "draw",
    "log_partition",
    "log_partition_bounds",
    "mean_log_likelihood",
    "pseudo_likelihood",
]

# Smaller layers than this are enumerated without being asked.
AUTO_UNITS = 16
SAMPLE_UNITS = 20


def log_partition(
    w: Weights,
    method: str = "auto",
    n_betas: int = 1000,
    n_chains: int = 500,
    seed: int = 0,
    layer: str | None = None,
    a0: Tensor | None = None,
) -> Estimate:
    """ln Z; see `RBM.log_partition`."""
    if method not in ("auto", "exact", "ais"):
        raise ValueError(f"method must be 'auto', 'exact' or 'ais', got {method!r}")
    if method == "auto":
        method = "exact" if _smaller(w) <= AUTO_UNITS else "ais"
    if method == "exact":
        value = enumeration.log_partition(w, layer)
        return Estimate(value, 1e-15 * abs(value), note="exact enumeration")
    return partition.anneal(w.double(), n_betas, n_chains, Noise(seed), a0).log_partition


def log_partition_bounds(
    w: Weights,
    n_betas: int,
    n_chains: int,
    seed: int,
    sweeps: int,
    n_replicas: int,
    a0: Tensor | None = None,
) -> Bounds:
    """Both directions of annealing; see `RBM.log_partition_bounds`."""
    w = w.double()
    noise = Noise([seed, 4])
    forward = partition.anneal(w, n_betas, n_chains, noise, a0)
    exact = _smaller(w) <= SAMPLE_UNITS
    start = draw(w, n_chains, "exact" if exact else "pt", sweeps, n_replicas, [seed, 5])
    reverse = partition.anneal(w, n_betas, n_chains, noise, a0, start)
    upper = reverse.log_partition
    if not exact and upper.status == "ok":
        note = f"an upper bound if {sweeps} sweeps of parallel tempering reach equilibrium"
        upper = replace(upper, status="approximate start", note=note)
    return Bounds(forward.log_partition, upper, forward, reverse)


def draw(
    w: Weights, n: int, method: str, sweeps: int, n_replicas: int, seed: int | list[int]
) -> Tensor:
    """n visible states; see `RBM.sample`."""
    if n < 1 or sweeps < 1:
        raise ValueError(f"n and sweeps must be at least 1, got {n} and {sweeps}")
    if method not in ("auto", "exact", "gibbs", "pt"):
        raise ValueError(f"method must be 'auto', 'exact', 'gibbs' or 'pt', got {method!r}")
    if method == "auto":
        method = "exact" if _smaller(w) <= AUTO_UNITS else "pt"
    noise = Noise(seed)
    if method == "exact":
        return enumeration.exact_samples(w, n, noise)
    if method == "gibbs":
        v = sampling.random_visible(w, n, noise)
        for _ in track(range(sweeps), "sampling", sweeps):
            v, _ = sampling.gibbs(w, v, 1, noise)
        return v
    chains = sampling.Tempering.start(w, n_replicas, n, noise)
    for _ in track(range(sweeps), "tempering", sweeps):
        chains.sweep(w, noise)
    return chains.v[-1].clone()


def pseudo_likelihood(w: Weights, v: Tensor) -> float:
    """Mean over the rows of sum_i ln p(v_i | rest); flips one unit at a time."""
    if w.visible == "gaussian":
        raise ValueError("pseudo_likelihood needs discrete visible units; use log_likelihood")
    field = w.hidden_field(v)
    old = units.log_normalizer(w.hidden, field).sum(-1)
    total = torch.zeros(len(v), dtype=v.dtype)
    for i in range(w.n_visible):
        step = (1.0 + units.low_value(w.visible)) - 2 * v[:, i]  # to the other value
        new = units.log_normalizer(w.hidden, field + step[:, None] * w.W[i]).sum(-1)
        gain = step * w.a[i] + new - old
        total -= units.log_normalizer("bernoulli", gain)
    value = float(total.mean())
    if not math.isfinite(value):
        raise ValueError("the pseudo-likelihood is not finite: the weights are too large")
    return value


def _smaller(w: Weights) -> int:
    pairs = ((w.n_visible, w.visible), (w.n_hidden, w.hidden))
    return min(n for n, kind in pairs if kind != "gaussian")
