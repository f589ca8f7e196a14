"""The emergence of a concept: a memory of blurred examples that recalls what it has never seen.

K archetypes of N signs are shown only as M noisy examples each, without labels, and Hebb's rule
stores the examples. With few of them the memory recalls examples, or nothing; from a critical
number on its attractors are the archetypes. The same memory is a restricted Boltzmann machine with
one Gaussian hidden unit per example.

The experiment is heat-bath dynamics started at an archetype. Where retrieval fails it ends at a
remanent overlap of 0.2 to 0.3 at sizes of a thousand spins, not at 0.

References
----------
Agliari, Alemanno, Barra, De Marzo, arXiv:2109.00454.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thermolearn.core.checks import real, whole
from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.archetypes import (
    ArchetypeDataset,
    Retrieval,
    hebb_unsupervised,
    run_from_archetypes,
)
from thermolearn.systems.memory.concept_emergence.boltzmann import block_gibbs, rbm_weights
from thermolearn.systems.memory.concept_emergence.diagram import ExampleMap, phase_diagram
from thermolearn.systems.memory.concept_emergence.simulation import retrieval_fraction
from thermolearn.systems.memory.concept_emergence.theory import (
    ExampleState,
    small_quality_constant,
    spectral_sample_size,
    subspace_overlap,
    unsupervised_theory,
)
from thermolearn.systems.memory.example_noise import (
    CriticalSampleSize,
    critical_sample_size,
    load_capacity,
    supervised_engine,
    unsupervised_engine,
)

__all__ = [
    "ABOUT",
    "ArchetypeDataset",
    "CriticalSampleSize",
    "ExampleMap",
    "ExampleState",
    "Params",
    "Retrieval",
    "block_gibbs",
    "critical_sample_size",
    "figure",
    "hebb_unsupervised",
    "load_capacity",
    "map_figure",
    "phase_diagram",
    "rbm_weights",
    "retrieval_fraction",
    "run_from_archetypes",
    "simulate",
    "small_quality_constant",
    "spectral_sample_size",
    "step_figure",
    "subspace_overlap",
    "supervised_engine",
    "theory",
    "unsupervised_engine",
    "unsupervised_theory",
]

ABOUT = {
    "title": "Emergence of a concept from unlabeled examples",
    "papers": ["arXiv:2109.00454", "arXiv:math/0403022"],
    "claims": [
        "A memory that stores only noisy examples recalls the archetypes behind them once it has "
        "more than a critical number of examples.",
        "Overlaps with the archetype and the mean example, the Edwards-Anderson parameter and the "
        "energy there are those of replica-symmetric theory at a finite number of examples.",
    ],
    "axes": {},
    "size": "n_spins",
    "sizes": (800, 1600),
    # above the limit by, of 1 / N: 0.5 to 0.9 in the energy (sizes 200 to 1600); 300 seeds at 200
    # spins and 250 at 400 give 0.14(5) and 0.15(7) in the overlap, 0.13(3) and 0.12(4) in q, and
    # 0.04(5) and 0.05(8), none, in the overlap with the mean example
    "allowance": {
        "overlap": (0.15, 1.0),
        "edwards_anderson": (0.15, 1.0),
        "energy": (0.9, 1.0),
    },
    "contrast": {"examples": 40},
    "seeds": 24,
    "figures": {"1": "figure", "2": "step_figure", "3": "map_figure"},
}

# Archetypes from which one network is started; their average is what a seed reports.
STARTS = 4


@dataclass(frozen=True)
class Params:
    """Parameters of one experiment.

    Parameters
    ----------
    load : float
        Archetypes per spin, alpha = K / N, in (0, 1]; rounded to whole archetypes.
    quality : float
        r in (0, 1], mean overlap of an example with its archetype.
    examples : int
        M, examples per archetype, at least 1.
    temperature : float
        T > 0, in the units of the Hopfield model.
    n_spins : int
        Spins N, at least 50.
    sweeps : int
        Heat-bath sweeps, the warm-up of a quarter included, at least 20.
    """

    load: float = 0.02
    quality: float = 0.4
    examples: int = 60
    temperature: float = 0.1
    n_spins: int = 800
    sweeps: int = 100

    def __post_init__(self) -> None:
        real("load", self.load, above=0, most=1)
        real("quality r", self.quality, above=0, most=1)
        whole("examples", self.examples, 1)
        real("temperature", self.temperature, above=0)
        whole("n_spins", self.n_spins, 50)
        if self.archetypes < 1:
            raise ValueError(
                f"load = {self.load} of {self.n_spins} spins is less than one archetype"
            )
        whole("sweeps", self.sweeps, 20)

    @property
    def archetypes(self) -> int:
        """K, the number of archetypes."""
        return round(self.load * self.n_spins)


def theory(p: Params) -> dict[str, Estimate]:
    """Replica-symmetric overlaps, Edwards-Anderson parameter and energy per spin (no diagonal).

    At the load K / N of whole archetypes. Where no retrieval state exists the values are those of
    the spin glass, with status "no retrieval state": a start at an archetype does not reach them.
    Below the line of de Almeida and Thouless, where the state is unstable, the status is "replica
    symmetry broken".
    """
    engine = unsupervised_engine(p.archetypes / p.n_spins, p.quality, p.examples)
    state = engine.solve(p.temperature)
    status = "ok" if state.branch == "retrieval" else "no retrieval state"
    if status == "ok" and state.replicon < 0:
        status = "replica symmetry broken"
    values = {
        "overlap": state.m,
        "example_overlap": state.n,
        "edwards_anderson": state.q,
        "energy": state.u + engine.diagonal,
    }
    return {name: Estimate(value, state.residual, status=status) for name, value in values.items()}


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """The same four numbers of one network of examples, started at up to four of its archetypes."""
    data = ArchetypeDataset(p.n_spins, p.archetypes, p.examples, p.quality, seed)
    found = run_from_archetypes(
        data.unsupervised_couplings(),
        data,
        p.temperature,
        p.sweeps,
        seed,
        min(STARTS, p.archetypes),
    )
    values = {
        "overlap": found.m,
        "example_overlap": found.n,
        "edwards_anderson": found.q,
        "energy": found.energy,
    }
    # the starts share one matrix of couplings: only seeds tell the error
    return {name: Estimate(float(value.mean()), math.nan) for name, value in values.items()}


def figure(quick: bool = True) -> Drawing:
    """Overlaps with the archetype and the mean example against the number of examples."""
    from thermolearn.systems.memory.concept_emergence.figures import examples_figure

    return examples_figure(quick)


def step_figure(quick: bool = True) -> Drawing:
    """Share of recalled archetypes around M_c: the step sharpens with the number of spins."""
    from thermolearn.systems.memory.concept_emergence.figures import sharpening_figure

    return sharpening_figure(quick)


def map_figure(quick: bool = True) -> Drawing:
    """Retrieval in the (quality, examples) and the (load, temperature) plane."""
    from thermolearn.systems.memory.concept_emergence.figures import plane_figure

    return plane_figure(quick)
