"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass

from thermolearn.core.checks import real, whole


@dataclass(frozen=True)
class Params:
    """Random networks with an exactly Gaussian pair.

    Attributes
    ----------
    width : int
        Neurons per layer, at least 2 (a single one has no correlation of two inputs worth the
        name; at width 1 the pre-activations are exactly Gaussian at every depth).
    theta : float
        Exponent of the weights' law, in [2.3, 20].
    depth : int
        Layers behind the first, at least 1.
    correlation : float
        Of the first pre-activations of two inputs, in (-1, 1).
    networks : int
        Networks that one seed averages over, at least 2.
    """

    width: int = 40
    theta: float = 2.5
    depth: int = 4
    correlation: float = 0.6
    networks: int = 150

    def __post_init__(self) -> None:
        whole("width", self.width, 2)
        whole("depth", self.depth, 1)
        whole("networks", self.networks, 2)
        real("theta", self.theta, least=2.3, most=20)
        real("correlation", self.correlation, above=-1, below=1)
