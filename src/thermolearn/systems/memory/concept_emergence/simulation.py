"""Heat bath of a finite memory of examples, started at an archetype it has never seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.memory.concept_emergence.data import ArchetypeDataset
from thermolearn.systems.memory.glauber import GlauberSampler


@dataclass(frozen=True)
class Retrieval:
    """Averages over chains started at archetypes of one data set.

    Attributes
    ----------
    m : float array (starts,)
        Overlap of the mean spins with the archetype started at.
    n : float array (starts,)
        With the mean example of that archetype.
    q : float array (starts,)
        Edwards-Anderson parameter: product of the mean spins of two independent chains, so that
        the noise of a finite run does not add to it.
    energy : float array (starts,)
        Per spin, J without its diagonal.
    """

    m: np.ndarray
    n: np.ndarray
    q: np.ndarray
    energy: np.ndarray


def run_from_archetypes(
    J: ArrayLike,
    data: ArchetypeDataset,
    T: float,
    sweeps: int,
    seed: int,
    starts: int = 1,
) -> Retrieval:
    """Two chains from each of the first archetypes; a quarter of the sweeps is warm-up.

    Parameters
    ----------
    J : array (N, N)
        Couplings made of the examples, with labels or without, zero diagonal.
    data : ArchetypeDataset
        Where the archetypes and the mean examples come from.
    T : float
        Temperature >= 0. At T = 0 a chain ends with its first sweep without a flip.
    sweeps : int
        At least 4.
    seed : int
        Of the chains.
    starts : int
        Archetypes started at, from 1 to K.

    Raises
    ------
    ValueError
        More starts than archetypes, or what `GlauberSampler` refuses.
    """
    if not 1 <= starts <= data.K:
        raise ValueError(f"starts must lie between 1 and K = {data.K}, got {starts!r}")
    patterns = data.archetypes[:starts]
    run = GlauberSampler(J).run(np.concatenate([patterns, patterns]), T, sweeps, seed)
    mean = run.spins.astype(np.float64) if T == 0 else run.mean_spins
    first, second = mean[:starts], mean[starts:]
    center = (first + second) / 2
    kept = run.energy[:, run.warmup :] if T > 0 else run.energy
    energy = np.array(
        [row[np.isfinite(row)][slice(-1, None) if T == 0 else slice(None)].mean() for row in kept]
    )
    return Retrieval(
        (center * patterns).mean(1),
        (center * data.means()[:starts]).mean(1),
        (first * second).mean(1),
        (energy[:starts] + energy[starts:]) / 2,
    )


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
