"""Relative entropy along decimation and along depth.

How far a distribution is from its coarse-grained descendants: Ising models under decimation, the
pre-activations of random networks from layer to layer. The divergence grows to a plateau that
depends on the parameters and does not single out criticality; only that of two inputs does.

References: J. Erdmenger, K. T. Grosvenor, R. Jefferson, arXiv:2107.06898; L. Onsager,
doi:10.1103/PhysRev.65.117 (the square lattice); B. Poole et al., arXiv:1606.05340 (mean field).
"""

from __future__ import annotations

from thermolearn.measure.relative_entropy import (
    layer_relative_entropy,
    measure_layer_relative_entropy,
)
from thermolearn.systems.dynamics.relative_entropy import enumeration, ising1d, ising2d
from thermolearn.systems.dynamics.relative_entropy.figures import figure
from thermolearn.systems.dynamics.relative_entropy.flow import Flow, relative_entropy_flow
from thermolearn.systems.dynamics.relative_entropy.params import Params
from thermolearn.systems.dynamics.relative_entropy.simulation import simulate
from thermolearn.systems.dynamics.relative_entropy.theory import theory

__all__ = [
    "ABOUT",
    "Flow",
    "Params",
    "enumeration",
    "figure",
    "ising1d",
    "ising2d",
    "layer_relative_entropy",
    "measure_layer_relative_entropy",
    "relative_entropy_flow",
    "simulate",
    "theory",
]

ABOUT = {
    "title": "Relative entropy along decimation and along depth",
    "papers": [
        "arXiv:2107.06898",
        "doi:10.1103/PhysRev.65.117",
        "arXiv:1606.05340",
    ],
    "claims": [
        "The relative entropy between a distribution and its coarse-grained descendant grows "
        "monotonically to a plateau: ln 2 - s(K) per spin of an Ising model, (1/2) ln(q*/q_0) per "
        "neuron of a random network.",
        "The plateau is smooth in the parameters and does not mark the critical point.",
        "The relative entropy of two inputs tells the phases apart: exponential growth with depth "
        "in the ordered phase, algebraic at criticality, saturation in the chaotic one.",
        "Finite networks follow the mean field up to corrections of order 1 / width.",
    ],
    "axes": {
        "push": "layer",
        "gaussian": "layer",
        "two_input": "layer",
        "chain_coupling": "step",
        "chain_fill": "step",
    },
    "size": "width",
    "sizes": (200, 400),
    # measured at widths 50 and 100 with up to 3200 networks: width times deviation, largest layer
    "allowance": {"push": (0.6, 1.0), "gaussian": (0.4, 1.0), "two_input": (0.25, 1.0)},
    "contrast": {"sigma_w2": 1.6, "chain_coupling": 0.8, "coupling": 0.33},
    "seeds": 24,
    "figures": {"1": "figure"},
}
