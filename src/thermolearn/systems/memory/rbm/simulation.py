"""Random Boltzmann machines, annealed: ln Z, energy and overlaps at finite size."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.memory.rbm import partition, sampling
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.theory import Params
from thermolearn.systems.memory.rbm.units import Weights

PAIRS = 8
N_CHAINS = 30
# Intervals of beta per unit at g = 1: the spread of the work grows with g^2 N.
LEAST_BETAS, BETAS_PER_SPIN = 40, 0.15
SWEEPS = 5


def random_machine(p: Params, seed: int | list[int], sign: float = 1.0) -> Weights:
    """A machine with independent normal couplings of variance g^2 / N times `sign`, float32."""
    n_visible, n_hidden = p.layers
    rng = np.random.default_rng(seed)
    W = rng.normal(0.0, p.coupling / math.sqrt(p.n_spins), (n_visible, n_hidden))
    a, b = torch.full((n_visible,), p.visible_field), torch.full((n_hidden,), p.hidden_field)
    return Weights(torch.from_numpy(sign * W).float(), a, b, "ising", "ising")


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Mean over eight pairs of random machines W and -W, each annealed and then sampled.

    W and -W are equally likely and their fluctuations of first order in W cancel. Keys as in
    `theory`; the error bars are those between the pairs.
    """
    pairs = []
    for i in range(PAIRS):
        rows = [
            _one(p, random_machine(p, [seed, i], s), Noise([seed, i, j]))
            for j, s in ((1, 1.0), (2, -1.0))
        ]
        pairs.append(np.mean(rows, axis=0))
    names = ("log_partition", "energy", "overlap_visible", "overlap_hidden")
    return {name: mean_estimate([row[j] for row in pairs]) for j, name in enumerate(names)}


def _one(p: Params, w: Weights, noise: Noise) -> tuple[float, float, float, float]:
    """ln Z / N, -<v W h> / N and the overlaps of one machine."""
    n = w.n_visible + w.n_hidden
    n_betas = max(LEAST_BETAS, int(BETAS_PER_SPIN * p.coupling**2 * n))
    run = partition.anneal(w, n_betas, N_CHAINS, noise, a0=w.a)
    v, energy = run.samples, 0.0
    mean_v, mean_h = [], []
    for _ in range(SWEEPS):
        v, _ = sampling.gibbs(w, v, 1, noise)
        h = torch.tanh(w.hidden_field(v))
        energy -= float(((v @ w.W) * h).sum(1).mean()) / SWEEPS
        # means given the other layer: same expectation, less noise
        mean_v.append(torch.tanh(w.visible_field(sampling.sample_hidden(w, v, noise))))
        mean_h.append(h)
    overlaps = [_overlap(torch.stack(m).mean(0)) for m in (mean_v, mean_h)]
    return float(run.log_partition) / n, energy / n, overlaps[0], overlaps[1]


def _overlap(m: Tensor) -> float:
    """Mean over pairs of different chains of m . m' / n, rows independent."""
    n_chains, n = m.shape
    total = m.double().sum(0).square().sum() - m.double().square().sum()
    return float(total) / (n * n_chains * (n_chains - 1))
