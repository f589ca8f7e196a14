"""How many archetypes a finite memory of examples recalls."""

from __future__ import annotations

import math
from dataclasses import replace

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.memory.archetypes import ArchetypeDataset, run_from_archetypes


def retrieval_fraction(
    n_spins: int,
    load: float,
    quality: float,
    examples: int,
    temperature: float,
    seeds: int = 8,
    starts: int = 4,
    sweeps: int = 400,
    level: float = 0.7,
) -> Estimate:
    """Share of archetypes recalled with m > level by networks started at them, over data sets.

    Just below M_c an archetype is left slowly: with 60 sweeps the step appears at a tenth fewer
    examples than with 800.

    Parameters
    ----------
    n_spins : int
    load, quality, temperature : float
        alpha = K / N, r and T.
    examples : int
        M.
    seeds : int
        Data sets 0, 1, ..., at least 2. The error bar is between them, or the binomial one of
        all chains if that is larger.
    starts : int
        Archetypes per data set (all of them if there are fewer).
    sweeps : int
        Per chain.
    level : float
        In (0, 1), between the remanent overlap of failed retrieval (0.2 to 0.5) and retrieval.
    """
    if not 0 < level < 1 or seeds < 2:
        raise ValueError(f"level must lie in (0, 1) and seeds be >= 2, got {level!r}, {seeds!r}")
    shares = []
    for seed in range(seeds):
        data = ArchetypeDataset(n_spins, round(load * n_spins), examples, quality, seed)
        J = data.unsupervised_couplings()
        found = run_from_archetypes(J, data, temperature, sweeps, seed, min(starts, data.K))
        shares.append(float((found.m > level).mean()))
    found, tried = mean_estimate(shares), seeds * min(starts, data.K)
    # all or none recalled is no certainty: at least the binomial error of half an event more
    p = (float(found) * tried + 0.5) / (tried + 1)
    return replace(found, stderr=max(float(found.stderr), math.sqrt(p * (1 - p) / tried)))
