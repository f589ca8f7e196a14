"""The Hopfield model: patterns stored in Hebb's couplings, and how many of them can be recalled.

N spins s_i = +-1 with energy H = -(1/2) sum_ij J_ij s_i s_j, J_ij = (1/N) sum_mu xi_i^mu xi_j^mu,
for K = alpha N random patterns xi^mu, at temperature T. The theory is replica symmetric: overlap m
with one pattern, Edwards-Anderson parameter q, and the noise of the other patterns. Four phases:
retrieval states that are the ground states (T < T_c), metastable ones (T < T_M), the spin glass
(T < T_g = 1 + sqrt(alpha)) and the paramagnet.

The experiment is heat-bath dynamics from a stored pattern. Above capacity it ends at a remanent
overlap of 0.2 to 0.3 at sizes of a thousand spins, not at 0.

References
----------
Hopfield, Proc. Natl. Acad. Sci. 79 (1982) 2554; Amit, Gutfreund, Sompolinsky, Phys. Rev. Lett. 55
(1985) 1530 and Ann. Phys. 173 (1987) 30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thermolearn.core.checks import real, whole
from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.hopfield.phase_map import PhaseMap, hopfield_map
from thermolearn.systems.memory.hopfield.simulation import (
    HopfieldNetwork,
    Recall,
    hebb,
    sampled_overlaps,
)
from thermolearn.systems.memory.hopfield.theory import (
    Capacity,
    PhaseDiagram,
    hopfield_capacity,
    hopfield_phase_diagram,
    hopfield_theory,
    spinodal_temperature,
    transition_temperature,
)

__all__ = [
    "ABOUT",
    "Capacity",
    "HopfieldNetwork",
    "Params",
    "PhaseDiagram",
    "PhaseMap",
    "Recall",
    "figure",
    "hebb",
    "hopfield_capacity",
    "hopfield_map",
    "hopfield_phase_diagram",
    "hopfield_theory",
    "overlap_figure",
    "simulate",
    "spinodal_temperature",
    "theory",
    "transition_temperature",
]

ABOUT = {
    "title": "Hopfield model of associative memory",
    "papers": [
        "doi:10.1103/PhysRevLett.55.1530",
        "doi:10.1016/0003-4916(87)90092-3",
        "doi:10.1073/pnas.79.8.2554",
    ],
    "claims": [
        "The overlap, the Edwards-Anderson parameter and the energy of retrieval states are those "
        "of replica-symmetric theory.",
        "Retrieval ends at a load of 0.1379 at T = 0, and at the line T_M above it.",
    ],
    "axes": {},
    "size": "n_spins",
    "sizes": (800, 1600),
    # the energy of N spins lies above its limit by about 1 / (2 N)
    "allowance": {"energy": (0.6, 1.0)},
    "contrast": {"load": 0.05},
    "seeds": 24,
    "figures": {"1": "figure", "2": "overlap_figure"},
}


@dataclass(frozen=True)
class Params:
    """Parameters of one experiment.

    Parameters
    ----------
    load : float
        Patterns per spin, alpha = K / N, in (0, 1]; rounded to whole patterns.
    temperature : float
        T > 0, in units of the coupling.
    n_spins : int
        Spins, at least 50.
    sweeps : int
        Heat-bath sweeps after the warm-up of a quarter as many, at least 40.
    """

    load: float = 0.03
    temperature: float = 0.5
    n_spins: int = 800
    sweeps: int = 200

    def __post_init__(self) -> None:
        real("load", self.load, above=0, most=1)
        real("temperature", self.temperature, above=0)
        whole("n_spins", self.n_spins, 50)
        if round(self.load * self.n_spins) < 1:
            raise ValueError(f"load = {self.load} of {self.n_spins} spins is less than one pattern")
        whole("sweeps", self.sweeps, 40)

    @property
    def patterns(self) -> int:
        """K, the number of patterns."""
        return round(self.load * self.n_spins)


def theory(p: Params) -> dict[str, Estimate]:
    """Replica-symmetric overlap, Edwards-Anderson parameter and energy per spin (no diagonal).

    At the load K / N of whole patterns. Where retrieval states do not exist the values are those
    of the spin glass with status "no retrieval state": a start at a pattern does not reach them.
    """
    alpha = p.patterns / p.n_spins
    state = hopfield_theory(alpha, p.temperature)
    status = "ok" if state.branch == "retrieval" else "no retrieval state"
    if status == "ok" and state.replicon < 0:
        status = "replica symmetry broken"
    values = {"overlap": state.m, "edwards_anderson": state.q, "energy": state.u + alpha / 2}
    return {name: Estimate(value, state.residual, status=status) for name, value in values.items()}


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """The same three numbers of one network started at a pattern."""
    m, q, energy = sampled_overlaps(
        p.n_spins, p.patterns / p.n_spins, p.temperature, p.sweeps, seed
    )
    values = {"overlap": m, "edwards_anderson": q, "energy": energy}
    return {name: Estimate(value, math.nan) for name, value in values.items()}


def figure(quick: bool = True) -> Drawing:
    """Phase diagram: T_M, T_c, T_g, the overlap of the retrieval states, and simulated ends.

    Points: the temperature at which the mean overlap of networks started at a pattern falls
    through 1/2, interpolated; finite networks stay a little beyond T_M.
    """
    from thermolearn.systems.memory.hopfield.figures import phase_diagram_figure

    return phase_diagram_figure(quick)


def overlap_figure(quick: bool = True) -> Drawing:
    """Overlap against temperature at three loads, theory and heat bath."""
    from thermolearn.systems.memory.hopfield.figures import overlap_curves

    return overlap_curves(quick)
