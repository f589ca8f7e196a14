"""Dynamics whose temperature is known exactly: online least squares and Langevin in a parabola."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thermolearn.core import checks
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.measure.noise.response import Dynamics


@dataclass(frozen=True)
class OnlineLeastSquares:
    """SGD on fresh samples of a linear regression, solved exactly.

    Loss 1/2 (w . x - y)^2, x ~ N(0, diag(a)), y = w* . x + N(0, s2), a new batch of B samples at
    every step. With e = w - w*, the virial temperature of mode i is (S = sum_i T_i)

        T_i = a_i <e_i^2> = lr a_i (S + s2)/(B (2 - lr a_i (1 + 1/B))),
        S = s2 k/(1 - k),  k = sum_i lr a_i/(B (2 - lr a_i (1 + 1/B))),

    and `temperature` is their mean. For a = 1 it is lr s2/(B (2 - lr (1 + (d + 1)/B))) =
    <|e|^2>/d. Where only the label noise counts (k -> 0) each mode has
    lr (s2/B) a_i/(2 - lr a_i): fast modes are hotter.

    Parameters
    ----------
    dimension : int >= 1
        d.
    batch_size : int >= 1
        B.
    learning_rate, noise_variance : float > 0
        lr and s2.
    eigenvalues : tuple of d floats > 0, optional
        a; all 1 by default.

    Raises
    ------
    ValueError
        A bad number, or a learning rate at which the second moments grow without bound:
        lr max(a) (1 + 1/B) >= 2 or k >= 1 (for a = 1: lr (1 + (d + 1)/B) >= 2).

    References
    ----------
    Derived here; the isotropic case agrees with Yaida's relation, arXiv:1810.00004.
    """

    dimension: int
    batch_size: int
    learning_rate: float
    noise_variance: float = 1.0
    eigenvalues: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        checks.whole("dimension", self.dimension, least=1)
        checks.whole("batch_size", self.batch_size, least=1)
        checks.real("learning_rate", self.learning_rate, above=0)
        checks.real("noise_variance", self.noise_variance, above=0)
        if self.eigenvalues is not None:
            if len(self.eigenvalues) != self.dimension:
                raise ValueError(
                    f"eigenvalues must be {self.dimension} numbers, got {len(self.eigenvalues)}"
                )
            for a in self.eigenvalues:
                checks.real("eigenvalues", a, above=0)
        if not (self._gain() > 0).all() or not self._gain().sum() < 1:
            limit = f"below {self.largest_learning_rate():.6g}"
            raise ValueError(
                f"learning_rate {self.learning_rate:g} is unstable: the mean square of the errors "
                f"grows at every step; choose it {limit}"
            )

    @property
    def curvatures(self) -> np.ndarray:
        """a (d,)."""
        return np.ones(self.dimension) if self.eigenvalues is None else np.array(self.eigenvalues)

    def _gain(self, rate: float | None = None) -> np.ndarray:
        """The terms of k; negative or infinite beyond the edge of a single mode."""
        x = (self.learning_rate if rate is None else rate) * self.curvatures
        rest = 2 - x * (1 + 1 / self.batch_size)
        return np.where(rest > 0, x / (self.batch_size * np.where(rest > 0, rest, 1)), -1.0)

    def largest_learning_rate(self) -> float:
        """Where the stationary state ends: k = 1."""
        low, high = 0.0, 2 / (float(self.curvatures.max()) * (1 + 1 / self.batch_size))
        for _ in range(200):
            middle = (low + high) / 2
            gain = self._gain(middle)
            stable = bool((gain > 0).all()) and gain.sum() < 1
            low, high = (middle, high) if stable else (low, middle)
        return low

    def mode_temperatures(self) -> np.ndarray:
        """T_i = <e_i g_i> (d,), exact."""
        gain = self._gain()
        energy = self.noise_variance * gain.sum() / (1 - gain.sum())  # S
        return gain * (energy + self.noise_variance)

    def additive_mode_temperatures(self) -> np.ndarray:
        """lr sigma^2 a_i/(2 - lr a_i) (d,) with sigma^2 = s2/B: label noise alone."""
        a, rate = self.curvatures, self.learning_rate
        return rate * self.noise_variance / self.batch_size * a / (2 - rate * a)

    @property
    def temperature(self) -> float:
        """Mean of the modes' temperatures, in units of the loss."""
        return float(self.mode_temperatures().mean())

    def dynamics(self, chains: int, seed: int = 0) -> Dynamics:
        """Independent chains in their stationary state, for `effective_temperature`."""
        checks.whole("chains", chains, least=1)
        generator = torch.Generator().manual_seed(seed)
        a = torch.from_numpy(self.curvatures)
        spread = torch.from_numpy(self.mode_temperatures()) / a
        shape = (chains, self.batch_size, self.dimension)

        def normal(*shape: int, by: torch.Generator) -> Tensor:
            return torch.randn(*shape, generator=by, dtype=torch.float64)

        def draw(by: torch.Generator) -> tuple[Tensor, Tensor]:
            x = normal(*shape, by=by) * a.sqrt()
            return x, normal(*shape[:2], by=by) * math.sqrt(self.noise_variance)

        def step(e: Tensor, noise: tuple[Tensor, Tensor], force: Tensor | float) -> Tensor:
            return e - self.learning_rate * (self.gradient(e, noise) - force)

        start = normal(chains, self.dimension, by=generator) * spread.sqrt()
        return Dynamics(start, draw, step, self.learning_rate)

    def gradient(self, e: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        """Batch gradient (chains, d) at errors e (chains, d)."""
        x, label = noise
        residual = torch.einsum("cbd,cd->cb", x, e) - label
        return torch.einsum("cb,cbd->cd", residual, x) / self.batch_size

    def simulate(
        self, chains: int = 400, steps: int = 1000, discard: int = 200, seed: int = 0
    ) -> dict[str, Estimate]:
        """Three measurements of the temperature from independent chains.

        Returns
        -------
        dict
            ``mean_square`` <sum_i a_i e_i^2>/d, ``theta_dot_gradient`` <e . g>/d and
            ``half_rate_update_squared`` lr <|g|^2>/(2d), and ``modes`` <e_i g_i> (d,); standard
            errors between chains.
        """
        checks.whole("chains", chains, least=2)
        checks.whole("steps", steps, least=1)
        checks.whole("discard", discard, least=0)
        dynamics = self.dynamics(chains, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        e, a = dynamics.start, torch.from_numpy(self.curvatures)
        sums = torch.zeros(3, chains, self.dimension, dtype=torch.float64)
        for t in track(range(discard + steps), "online least squares"):
            noise = dynamics.draw(generator)
            g = self.gradient(e, noise)
            if t >= discard:
                sums += torch.stack([a * e**2, e * g, self.learning_rate / 2 * g**2])
            e = e - self.learning_rate * g
        means = (sums / steps).numpy()
        names = ("mean_square", "theta_dot_gradient", "half_rate_update_squared")
        found = {n: mean_estimate(m.mean(1)) for n, m in zip(names, means, strict=True)}
        return {**found, "modes": mean_estimate(means[1])}


@dataclass(frozen=True)
class Langevin:
    """Euler steps of Langevin dynamics in a parabola: w <- (1 - lr a) w + sqrt(2 lr T) N(0, 1).

    Half-MSD over response is T/(1 - lr a/2) at every lag, the bath's temperature for small steps.

    Parameters
    ----------
    curvature, learning_rate, temperature : float > 0
        a, lr, T.

    Raises
    ------
    ValueError
        A bad number, or lr a >= 2, where there is no stationary state.
    """

    curvature: float
    learning_rate: float
    temperature: float

    def __post_init__(self) -> None:
        checks.real("curvature", self.curvature, above=0)
        checks.real("learning_rate", self.learning_rate, above=0)
        checks.real("temperature", self.temperature, above=0)
        if self.learning_rate * self.curvature >= 2:
            raise ValueError(
                f"learning_rate x curvature = {self.learning_rate * self.curvature:g} is unstable; "
                f"choose a learning_rate below {2 / self.curvature:g}"
            )

    @property
    def ratio(self) -> float:
        """Half-MSD over response, exact, at every lag."""
        return self.temperature / (1 - self.learning_rate * self.curvature / 2)

    def dynamics(self, replicas: int, dimension: int, seed: int = 0) -> Dynamics:
        """Independent replicas in their stationary state."""
        shape = (checks.whole("replicas", replicas, least=1),
                 checks.whole("dimension", dimension, least=1))  # fmt: skip

        def draw(generator: torch.Generator) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def step(w: Tensor, noise: Tensor, force: Tensor | float) -> Tensor:
            rate = self.learning_rate
            drift = rate * (force - self.curvature * w)
            return w + drift + math.sqrt(2 * rate * self.temperature) * noise

        start = draw(torch.Generator().manual_seed(seed)) * math.sqrt(self.ratio / self.curvature)
        return Dynamics(start, draw, step, self.learning_rate)
