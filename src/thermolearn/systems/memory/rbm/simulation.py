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
MEAN_FIELD_SWEEPS = 3


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
    `theory`; the error bars are those between the pairs. Status ``"low-ess"`` if the annealing of
    any machine kept less than 10% effective samples.
    """
    pairs, statuses = [], []
    for i in range(PAIRS):
        runs = [
            _one(p, random_machine(p, [seed, i], s), Noise([seed, i, j]))
            for j, s in ((1, 1.0), (2, -1.0))
        ]
        pairs.append(np.mean([values for values, _ in runs], axis=0))
        statuses += [status for _, status in runs]
    bad = [status for status in statuses if status != "ok"]
    status = bad[0] if bad else "ok"
    note = f"{len(bad)} of {len(statuses)} machines: {status}" if bad else ""
    names = ("log_partition", "energy", "overlap_visible", "overlap_hidden")
    return {
        # every observable is taken from the annealed chains, hence one status
        name: mean_estimate([row[j] for row in pairs], status=status, note=note)
        for j, name in enumerate(names)
    }


def _one(p: Params, w: Weights, noise: Noise) -> tuple[tuple[float, ...], str]:
    """ln Z / N, -<v W h> / N and the overlaps of one machine, and the status of its annealing."""
    n = w.n_visible + w.n_hidden
    n_betas = max(LEAST_BETAS, int(BETAS_PER_SPIN * p.coupling**2 * n))
    run = partition.anneal(w, n_betas, N_CHAINS, noise, a0=_mean_field(w))
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
    values = (float(run.log_partition) / n, energy / n, *overlaps)
    return values, run.log_partition.status


def _mean_field(w: Weights) -> Tensor:
    """Visible field after a few sweeps of m = tanh(field), near the mean state of the machine.

    Annealing from this field instead of w.a more than doubles the smallest effective sample. It is
    exact from any field.
    """
    field = w.a
    for _ in range(MEAN_FIELD_SWEEPS):
        h = torch.tanh(w.b + torch.tanh(field) @ w.W)
        field = w.a + w.W @ h
    return field


def _overlap(m: Tensor) -> float:
    """Mean over pairs of different chains of m . m' / n, rows independent."""
    n_chains, n = m.shape
    total = m.double().sum(0).square().sum() - m.double().square().sum()
    return float(total) / (n * n_chains * (n_chains - 1))
