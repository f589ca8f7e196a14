"""Mean field for the networks, exact solutions for the Ising models."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.measure.relative_entropy import layer_relative_entropy
from thermolearn.systems.dynamics.relative_entropy.enumeration import torus_fill
from thermolearn.systems.dynamics.relative_entropy.flow import relative_entropy_flow
from thermolearn.systems.dynamics.relative_entropy.params import Params

STEPS = 2  # decimations of the chain


def theory(p: Params) -> dict[str, Estimate]:
    """Relative entropies, nats per neuron or per site.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        push, gaussian, two_input : layers 1..depth against layer 0, infinite width.
        chain_coupling : K_1, K_2 of the decimated chain.
        chain_fill : divergence from the exact marginal times uniform spins after 1, 2 decimations.
        torus_fill : the same after one checkerboard step on the 4 x 4 torus, by enumeration.
        square_plateau : ln 2 - s(K) of the infinite square lattice, from Onsager's solution.
    """
    net = (p.activation, p.sigma_w2, p.sigma_b2, p.q0, p.depth)
    kinds = {"push": "push", "gaussian": "gaussian", "two_input": "two-input"}
    found = {name: _tail(layer_relative_entropy(*net, kind, p.c0)) for name, kind in kinds.items()}
    chain = relative_entropy_flow("ising1d", p.chain_coupling, STEPS, "fill")
    square = relative_entropy_flow("ising2d", p.coupling, 0)
    return {
        **found,
        "chain_coupling": Estimate(chain.couplings[1:]),
        "chain_fill": Estimate(chain.divergence[1:]),
        "torus_fill": Estimate(torus_fill(p.coupling)),
        "square_plateau": Estimate(square.plateau),
    }


def _tail(e: Estimate) -> Estimate:
    """Without layer 0, where it is 0."""
    stderr = np.broadcast_to(e.stderr, np.shape(e.value))
    return Estimate(np.asarray(e.value)[1:], stderr[1:], status=e.status, note=e.note)
