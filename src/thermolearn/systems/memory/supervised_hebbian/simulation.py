"""Heat-bath dynamics of finite networks that learned from labeled examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thermolearn.systems.memory.concept_emergence.data import ArchetypeDataset
from thermolearn.systems.memory.glauber import GlauberSampler
from thermolearn.systems.memory.supervised_hebbian.examples import couplings_of_means


@dataclass(frozen=True)
class MeasuredOverlaps:
    """Overlaps of one network; the leading axis is the class whose archetype was the start.

    Attributes
    ----------
    m, n : float64 array (starts,)
        Overlap with the archetype and with the mean example, over sweeps and two chains.
    q : float64 array (starts,)
        Overlap of the mean spins of two independent chains.
    """

    m: np.ndarray
    n: np.ndarray
    q: np.ndarray


def measure_overlaps(
    data: ArchetypeDataset, T: float, sweeps: int, starts: int, seed: int
) -> MeasuredOverlaps:
    """Two chains from each of the first archetypes in the couplings of the mean examples.

    Parameters
    ----------
    data : ArchetypeDataset
    T : float
        Temperature >= 0. At T = 0 a chain runs until no spin flips, and both chains of a start
        differ only in the order of their updates.
    sweeps : int
        At least 4; the first quarter is left out at T > 0, all but the final state at T = 0.
    starts : int
        1 <= starts <= K.
    seed : int
        Of the dynamics.
    """
    means = data.means()
    sampler = GlauberSampler(couplings_of_means(means, data.second_moment))
    first = data.archetypes[:starts]
    run = sampler.run(np.repeat(first, 2, axis=0), T, sweeps, seed)
    spins = (run.mean_spins if T > 0 else run.spins.astype(np.float64)).reshape(starts, 2, data.N)
    average = spins.mean(axis=1)
    return MeasuredOverlaps(
        m=(first * average).mean(axis=1),
        n=(means[:starts] * average).mean(axis=1),
        q=(spins[:, 0] * spins[:, 1]).mean(axis=1),
    )
