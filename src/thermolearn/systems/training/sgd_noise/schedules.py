"""How the samples of a step are chosen: all of them, a fresh batch, or one that changes slowly.

The step is w <- (1 - eta lambda) w - eta sum_mu s_mu(t) l'(h_mu, y_mu) x_mu / sqrt(d), with the
mask s_mu = 1/b (normalized) or 1 for the samples of the batch and 0 for the others. All masks
are two-state Markov chains, independent between samples, that start at P(in) = b.

References: F. Mignacco, P. Urbani, arXiv:2112.10852 (Bernoulli batches, persistent SGD);
F. Mignacco, F. Krzakala, P. Urbani, L. Zdeborova, arXiv:2006.06098.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thermolearn.core.checks import real


@dataclass(frozen=True)
class GD:
    """Full-batch gradient descent.

    Attributes
    ----------
    rate : float
        Learning rate eta > 0.
    """

    rate: float

    def __post_init__(self) -> None:
        real("rate", self.rate, above=0)

    batch_fraction = 1.0
    weight = 1.0
    switch_on = 1.0
    switch_off = 0.0


@dataclass(frozen=True)
class SGD:
    """A new batch at every step: each sample is in it with probability b, independently.

    There is no limit eta -> 0 with noise.

    Attributes
    ----------
    rate : float
        Learning rate eta > 0.
    batch_fraction : float
        b in (0, 1]; 1 is full-batch gradient descent.
    normalize : bool
        Whether samples of the batch count 1/b, so that the gradient is unbiased; without it they
        count 1, which is the normalized algorithm at rate eta b and weight decay lambda/b.
    """

    rate: float
    batch_fraction: float
    normalize: bool = True

    def __post_init__(self) -> None:
        real("rate", self.rate, above=0)
        real("batch_fraction", self.batch_fraction, above=0, most=1)
        _flag(self.normalize)

    @property
    def weight(self) -> float:
        """What a sample of the batch counts, 1/b or 1."""
        return 1 / self.batch_fraction if self.normalize else 1.0

    @property
    def switch_on(self) -> float:
        """P(out -> in) of a step."""
        return self.batch_fraction

    @property
    def switch_off(self) -> float:
        """P(in -> out) of a step."""
        return 1 - self.batch_fraction


@dataclass(frozen=True)
class PersistentSGD:
    """A batch that keeps its samples for a while: P(out -> in) = eta/tau per step.

    With P(in -> out) = eta (1 - b)/(b tau) the stationary share is b, and the mask forgets in a
    time b tau, in units of eta times steps: the noise survives in the limit eta -> 0.

    Attributes
    ----------
    rate : float
        Learning rate eta > 0, at most tau min(1, b/(1 - b)).
    batch_fraction : float
        b in (0, 1].
    persistence : float
        tau > 0.
    normalize : bool
        As in `SGD`.

    Raises
    ------
    ValueError
        A number out of range, or a rate at which a probability would exceed 1.
    """

    rate: float
    batch_fraction: float
    persistence: float
    normalize: bool = True

    def __post_init__(self) -> None:
        real("rate", self.rate, above=0)
        b = real("batch_fraction", self.batch_fraction, above=0, most=1)
        tau = real("persistence", self.persistence, above=0)
        _flag(self.normalize)
        bound = tau * min(1.0, b / (1 - b)) if b < 1 else tau
        # one part in 1e12: at rate = bound exactly, a rounded probability of 1 is meant
        if self.rate > bound * (1 + 1e-12):
            raise ValueError(
                f"rate {self.rate:g} makes a transition probability of the mask exceed 1: it must "
                f"be at most persistence * min(1, b/(1 - b)) = {bound:.6g}"
            )

    @property
    def weight(self) -> float:
        """What a sample of the batch counts, 1/b or 1."""
        return 1 / self.batch_fraction if self.normalize else 1.0

    @property
    def switch_on(self) -> float:
        """P(out -> in) of a step, eta/tau."""
        return min(1.0, self.rate / self.persistence)

    @property
    def switch_off(self) -> float:
        """P(in -> out) of a step, eta (1 - b)/(b tau)."""
        b = self.batch_fraction
        return min(1.0, self.rate * (1 - b) / (b * self.persistence))


Schedule = GD | SGD | PersistentSGD


def check_schedule(schedule: Any) -> Schedule:
    """The schedule itself; TypeError if it is none."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be GD, SGD or PersistentSGD, got {schedule!r}")
    return schedule


def first_batch(
    schedule: Schedule, shape: int | tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Who is in the batch of step 0, bool; with b = 1 no random number is drawn."""
    if schedule.batch_fraction == 1:
        return np.ones(shape, dtype=bool)
    return rng.random(shape) < schedule.batch_fraction


def next_batch(schedule: Schedule, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Who is in the batch after `batch`, bool of its shape; with b = 1 nothing is drawn."""
    if schedule.batch_fraction == 1:
        return batch
    u = rng.random(batch.shape)
    return np.where(batch, u >= schedule.switch_off, u < schedule.switch_on)


def _flag(normalize: Any) -> None:
    if not isinstance(normalize, bool):
        raise ValueError(f"normalize must be True or False, got {normalize!r}")
