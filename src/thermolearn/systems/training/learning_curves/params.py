"""What one run of the system is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core.checks import real, whole

if TYPE_CHECKING:
    from thermolearn.predict.kernels.fully_connected import NNGP, NTK


@dataclass(frozen=True)
class Params:
    """Regression with the kernel of a fully connected network, on data from the sphere.

    Attributes
    ----------
    n_samples : int
        N, at least 1.
    dim : int
        Input features, at least 2; inputs have |x|^2 = dim. The theory is for many: below 6 it is
        off by more than 5 per cent, and in 2 by factors, unless the noise is large, and says so.
    depth : int
        Weight layers of the network, at least 1.
    activation : str
        relu, erf, tanh, ...
    kernel : str
        "ntk" (gradient descent) or "nngp" (Bayesian, or Langevin training).
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, > 0, and bias variance, >= 0.
    noise : float
        Ridge sigma^2 >= 0 on the diagonal of the Gram matrix, not divided by N.
    label_noise : float
        Variance of the noise of the labels, >= 0.
    target_power : tuple of float
        Power of the target in degree 0, 1, ...; not negative, not all zero, at most 60 degrees.
    datasets : int
        Data sets that one seed averages over, at least 2.
    targets : int
        Targets per data set, at least 1.
    """

    n_samples: int = 100
    dim: int = 20
    depth: int = 4
    activation: str = "relu"
    kernel: str = "ntk"
    sigma_w2: float = 2.0
    sigma_b2: float = 0.0
    noise: float = 2.0
    label_noise: float = 0.1
    target_power: tuple[float, ...] = (0.25, 0.5, 0.25)
    datasets: int = 8
    targets: int = 16

    def __post_init__(self) -> None:
        for name, least in (("n_samples", 1), ("dim", 2), ("depth", 1), ("targets", 1)):
            whole(name, getattr(self, name), least)
        whole("datasets", self.datasets, 2)
        real("sigma_w2", self.sigma_w2, above=0)
        for name in ("sigma_b2", "noise", "label_noise"):
            real(name, getattr(self, name), least=0)
        if self.kernel not in ("ntk", "nngp"):
            raise ValueError(f'kernel must be "ntk" or "nngp", got {self.kernel!r}')
        if not isinstance(self.target_power, tuple) or not 1 <= len(self.target_power) <= 60:
            raise ValueError("target_power must be a tuple of 1 to 60 numbers, one per degree")
        for power in self.target_power:
            real("target_power", power, least=0)
        if not any(self.target_power):
            raise ValueError("target_power is zero: there is nothing to learn")
        self.machine()  # the activation has a kernel

    @property
    def degrees(self) -> np.ndarray:
        """Degrees in which the target has power."""
        return np.flatnonzero(np.array(self.target_power) > 0)

    def machine(self) -> NNGP | NTK:
        """The network's kernel.

        Raises
        ------
        ValueError
            An unknown activation.
        """
        from thermolearn.predict.kernels.fully_connected import NNGP, NTK

        kind = NTK if self.kernel == "ntk" else NNGP
        return kind(self.depth, self.activation, self.sigma_w2, self.sigma_b2)
