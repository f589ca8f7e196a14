"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass

from thermolearn.core.activation import ACTIVATIONS
from thermolearn.core.checks import check_variances, real, whole


@dataclass(frozen=True)
class Params:
    """Random networks, an Ising chain and an Ising torus.

    Attributes
    ----------
    width : int
        Neurons per layer, at least 2. The Ising observables do not depend on it.
    depth : int
        Layers behind layer 0, at least 1.
    activation : str
        By name: tanh, erf, relu, ...
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, positive; bias variance, not negative.
    q0, c0 : float
        Variance of the pre-activations in layer 0, positive; correlation of two inputs there, in
        (-1, 1).
    networks : int
        Networks that one seed averages over, at least 1.
    chain_coupling : float
        K = beta J of the chain, in [-1.2, 1.2] (beyond, its correlation length would ask for a
        longer chain).
    coupling : float
        K of the square lattice, in (0, 0.36] (beyond, the correlation length asks for a larger
        lattice and longer runs).
    """

    width: int = 200
    depth: int = 5
    activation: str = "tanh"
    sigma_w2: float = 1.3
    sigma_b2: float = 0.05
    q0: float = 0.05
    c0: float = 0.5
    networks: int = 8
    chain_coupling: float = 0.7
    coupling: float = 0.3

    def __post_init__(self) -> None:
        whole("width", self.width, 2)
        whole("depth", self.depth, 1)
        whole("networks", self.networks, 1)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        check_variances(self.sigma_w2, self.sigma_b2, self.q0)
        real("sigma_w2", self.sigma_w2, above=0)
        real("q0", self.q0, above=0)
        real("c0", self.c0, above=-1, below=1)
        real("chain_coupling", self.chain_coupling, least=-1.2, most=1.2)
        real("coupling", self.coupling, above=0, most=0.36)
