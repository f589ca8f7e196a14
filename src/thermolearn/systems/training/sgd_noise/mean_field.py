"""Dynamical mean-field theory of gradient descent on a Gaussian mixture, for d to infinity.

One sample sees, with xi Gaussian of covariance Delta C and s the mask of its batch,

    h(t) = c m(t) + xi(t) - Delta eta sum_{s<t} R(t, s) g(s),   g(t) = s(t) l'(h(t), y),

and the averages mu = <c g>, M(t, t') = <g(t) g(t')>, G(t, s) = <dg(t)/dP(s)> close the equations
of m(t) = w.v/d, C(t, t') = w.w'/d and R(t, s) = (1/d) sum_i dw_i(t)/dF_i(s), in which w(s + 1)
holds eta F(s): R(s + 1, s) = 1.

References: F. Mignacco, P. Urbani, arXiv:2112.10852; F. Mignacco, F. Krzakala, P. Urbani,
L. Zdeborova, arXiv:2006.06098; E. Agoritsas, G. Biroli, P. Urbani, F. Zamponi, arXiv:1710.04894.
The response enters here step by step (R per impulse eta F), not as a continuous-time kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core import dmft
from thermolearn.core.errors import DivergedError
from thermolearn.systems.training.sgd_noise.schedules import Schedule, first_batch, next_batch

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron


HUGE = 1e8  # |w|^2/d over that of the start and of the labels: beyond, the run has diverged


class Site:
    """One sample of the training set, n_mc times; a row of fields per replica."""

    leak = 0.0

    def __init__(
        self, model: GaussianMixturePerceptron, schedule: Schedule, replicas: int, n_mc: int
    ):
        self.model, self.schedule, self.shape = model, schedule, (replicas, n_mc)
        self.c, self.y = model.clusters.stratified(n_mc)
        pairs = zip(model.clusters.positions, model.clusters.labels, strict=True)
        # c carries the mean of the field; orthogonal to the rest, xi has mean 0 in each cluster
        self.matched = np.stack([self.c, *((self.c == c) & (self.y == y) for c, y in pairs)]) * 1.0

    def step(
        self, t: int, field: np.ndarray, memory: np.ndarray, state: Any, rng: np.random.Generator
    ) -> dmft.SiteStep:
        """Gradient of the samples in the batch."""
        h, y, loss = field + memory, self.y, self.model.losses
        batch = first_batch(self.schedule, self.shape, rng) if state is None else state
        mask = self.schedule.weight * batch
        signal = mask * loss.first(h, y)
        observables = {
            "mu": (self.c * signal).mean(0),
            "loss": loss.value(h, y).mean(0),
            "error": (np.sign(self.model.decision(h)) != np.sign(y)).mean(0),
        }
        # replicas are alike: the response of the first stands for all
        gain = mask[:1] * loss.second(h[:1], y)
        return dmft.SiteStep(signal, gain, observables, next_batch(self.schedule, batch, rng))


class Order:
    """m, C, R and, with two replicas of one start, C12(t, t') = w_1(t).w_2(t')/d."""

    def __init__(
        self,
        model: GaussianMixturePerceptron,
        schedule: Schedule,
        weight_decay: float,
        replicas: int,
        start: tuple[float, float],
    ):
        self.alpha, self.Delta, self.rate = model.alpha, model.Delta, schedule.rate
        self.keep, self.rows = 1 - schedule.rate * weight_decay, 1 + len(model.clusters)
        self.m, self.R, self.steps = np.zeros(8), np.zeros((8, 8)), 0
        self.C = np.zeros((replicas, 8, 8))  # C11 = C22, and C12
        self.m[0], self.C[:, 0, 0] = start[1], start[0] + start[1] ** 2
        self.bound = HUGE * (1 + self.C[0, 0, 0] + max(y**2 for y in model.clusters.labels))

    def mean(self, t: int) -> np.ndarray:
        """Coefficients of the matched rows: m(t) of c."""
        return np.eye(1, self.rows) * self.m[t] * np.ones((len(self.C), 1))

    def covariance(self, t: int) -> np.ndarray:
        """Delta C, with C12 between the replicas."""
        which = np.abs(np.subtract.outer(np.arange(len(self.C)), np.arange(len(self.C))))
        return self.Delta * self.C[which, t, : t + 1]

    def kernel(self, t: int) -> np.ndarray:
        """-Delta eta R(t, s)."""
        return -self.Delta * self.rate * self.R[t : t + 1, :t]

    def advance(self, t: int, averages: dmft.Averages) -> None:
        """m, R and C of step t + 1; C(t + 1, t + 1) last, from C(t, t + 1)."""
        n, eta = t + 1, self.rate
        self.m, self.R = dmft.enlarged(self.m, n + 1, (0,)), dmft.enlarged(self.R, n + 1)
        self.C = dmft.enlarged(self.C, n + 1, (1, 2))
        assert averages.G is not None
        past = -eta * self.alpha * self.Delta * averages.G[0]
        past[t] += self.keep  # acts like one more term of the memory
        push = -eta * self.alpha * averages.observables["mu"]
        self.m[n] = past @ self.m[:n] + push
        self.R[n, :n] = past @ self.R[:n, :n]
        self.R[n, t] = 1.0
        who = np.arange(len(self.C))
        for k, C in enumerate(self.C):
            # replicas are alike: mean of M11 and M22, or of M12 and M21
            M = averages.M[who, (who + k) % len(who)].mean(0)
            noise = eta**2 * self.alpha * self.Delta * (self.R[: n + 1, :n] @ M)
            C[n, :n] = past @ C[:n, :n] + push * self.m[:n] + noise[:n]
            C[:n, n] = C[n, :n]
            C[n, n] = past @ C[:n, n] + push * self.m[n] + noise[n]
        self.steps = n
        if not self.C[0, n, n] < self.bound:
            raise DivergedError(
                n,
                f"diverged at step {n}: |w|^2/d = {self.C[0, n, n]:.3g}; the rate "
                f"{self.rate:g} is beyond stability, lower it",
            )

    def order_parameters(self) -> dict[str, np.ndarray]:
        """m, C, R and, as "between", C12 up to the present."""
        n = self.steps + 1
        out = {"m": self.m[:n].copy(), "R": self.R[:n, :n].copy(), "C": self.C[0, :n, :n].copy()}
        return out | ({"between": self.C[1, :n, :n].copy()} if len(self.C) > 1 else {})
