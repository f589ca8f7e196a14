"""The single site and the closure of SGD on a Gaussian mixture with a general covariance.

The samples of cluster k are taken as x = m_k + S^(1/2) z, z normal, with the means m_k and the
pooled covariance S = sum_i lambda_i e_i e_i^T of the data. In the eigenbasis of S the modes of the
weights are coupled by averages over one effective sample only (cavity; derived here as in
arXiv:2112.10852, to which it reduces for a single lambda = Delta). With h = x.w/sqrt(d) and
alpha = n/d,

    h(t) = q_k(t) + xi(t) + sum_s K(t, s) g(s),     g(t) = s(t) l'(h(t), y_k),
    <xi xi'> = (1/d) sum_i lambda_i C_i(t, t'),     K = -(eta/d) sum_i lambda_i R_i(t, s),
    w_i(t+1) = (1 - eta lambda) w_i(t) - eta alpha [sqrt(d) <g m_ki> + lambda_i sum_s G(t, s) w_i(s)
               + sqrt(lambda_i/alpha) zeta_i(t)],   <zeta_i zeta_i'> = M(t, t') = <g(t) g(t')>,

with G(t, s) = <d g(t)/d P(s)>, C_i = <w_i w_i'> and R_i the response of mode i. The temperatures
are those of the mean over the d modes.

Finitely many dimensions: noise and curvature of mode i are second moments of x_i beside g and g',
<g g' x_i^2> less the product of the means, and <D x_i^2>. With the means' own shares and with
E[z_i | xi] = sqrt(lambda_i/d) w_i xi/V, V = <xi^2>, they become

    sum_k p_k [m_ki^2 <g g'>_k + 2 m_ki lambda_i w_i/(sqrt(d) V) <g g' xi>_k
               + lambda_i <g g'>_k + lambda_i^2 C_i/(d V) (<g g' xi xi'>_k/V - <g g'>_k)],

the diagonal of the terms of relative order 1/d (xi at two times taken for one: most of it stands
still). `finite="moments"` keeps them, "means" those of the means alone (mu_i = sum_k p_k m_ki^2
added to lambda_i in curvature, noise and the field of the fluctuations), "none" is the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core import dmft
from thermolearn.core.errors import DivergedError
from thermolearn.systems.training.sgd_noise.schedules import Schedule, first_batch, next_batch

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.matched import MatchedMixture

Array = np.ndarray
FINITE = ("moments", "means", "none")
HUGE = 1e8  # variance of h over that of the start and of the labels: beyond, the run has diverged


class Sample:
    """The effective sample: its cluster, its mask, its field.

    Signals: g, then g 1_k and g xi 1_k for every cluster where `moments` is asked for.
    """

    leak = 0.0

    def __init__(self, mixture: MatchedMixture, schedule: Schedule, n: int, moments: bool):
        k = len(mixture.labels)
        edges = np.round(np.cumsum(mixture.probabilities) * n).astype(int)
        self._cluster = np.searchsorted(edges, np.arange(n), side="right").clip(max=k - 1)
        self._y = mixture.labels[self._cluster]
        self._loss, self._schedule, self._shape = mixture.loss, schedule, (n,)
        self._moments = moments
        self.matched = np.eye(k)[:, self._cluster]  # indicators of the clusters

    def step(
        self, t: int, field: Array, memory: Array, state: Any, rng: np.random.Generator
    ) -> dmft.SiteStep:
        s, own = self._schedule, self.matched
        batch = first_batch(s, self._shape, rng) if state is None else next_batch(s, state, rng)
        h, weight = field[0] + memory[0], batch * s.weight
        g, gain = weight * self._loss.first(h, self._y), weight * self._loss.second(h, self._y)
        seen = {"loss": self._loss.value(h, self._y), "error": (h * self._y <= 0) * 1.0}
        signals, parts = g[None], {"drive": own * g}
        if self._moments:
            xi = field[0] - ((own @ field[0]) / own.sum(1))[self._cluster]
            signals = np.concatenate([signals, own * g, own * g * xi])
            parts |= {"tilt": own * g * xi, "bend": own * gain}
            parts |= {"bend_xi": own * gain * xi, "bend_xi2": own * gain * xi**2}
        seen |= {f"{name}_{k}": row for name, rows in parts.items() for k, row in enumerate(rows)}
        return dmft.SiteStep(signals, gain[None], seen, batch)


class Modes:
    """The closure: d modes of the weights, their means, covariances and responses."""

    def __init__(
        self, mixture: MatchedMixture, rate: float, decay: float, scale: float, finite: str
    ):
        self._mix, self._rate, self._keep = mixture, rate, 1 - rate * decay
        d, p = mixture.dimension, mixture.probabilities
        self._moments = finite == "moments"
        self._own = np.zeros(d) if finite == "none" else p @ mixture.means**2  # mu_i
        self._all = mixture.eigenvalues + self._own
        self._t = 0
        self._mean = np.zeros((8, d))
        self._C = np.zeros((8, 8, d))  # of the fluctuations
        self._R = np.zeros((8, 8, d))
        self._V = np.zeros(8)
        self._first = np.zeros((8, 2, len(p)))  # <g 1_k>, <g xi 1_k>
        self._C[0, 0] = scale**2
        largest = float(np.max(mixture.labels**2))
        self._bound = HUGE * (1 + largest + float(self.covariance(0)[0, 0, 0]))

    def mean(self, t: int) -> Array:
        """q_k(t)."""
        m = self._mix.means
        return (m @ self._mean[t] / np.sqrt(m.shape[1]))[None]

    def covariance(self, t: int) -> Array:
        d = self._mix.dimension
        regular = (self._mean[: t + 1] * self._mix.eigenvalues) @ self._mean[t]
        return ((self._C[t, : t + 1] @ self._all + regular) / d)[None, None]

    def kernel(self, t: int) -> Array:
        return (-self._rate / self._mix.dimension * (self._R[t, :t] @ self._all))[None]

    def advance(self, t: int, averages: dmft.Averages) -> None:
        mix, n, keep = self._mix, t + 1, self._keep
        assert averages.G is not None
        self._grow(t + 2)
        push, G = self._rate * mix.alpha, averages.G[0]
        self._first[t, 0] = drive = self._seen(averages, "drive")
        if self._moments:
            self._first[t, 1] = self._seen(averages, "tilt")
        noise, stiff = self._noise(t, averages), self._stiffness(t, averages)
        R, C, m = self._R, self._C, self._mean
        pull = push * np.sqrt(mix.dimension) * (drive @ mix.means)
        m[n] = keep * m[t] - pull - push * mix.eigenvalues * (G @ m[:n])
        R[n, :n] = keep * R[t, :n] - push * stiff * np.tensordot(G, R[:n, :n], 1)
        R[n, t] += 1
        added = self._rate * push * np.einsum("usd,sd->ud", R[: n + 1, :n], noise)
        C[n, :n] = keep * C[t, :n] - push * stiff * np.tensordot(G, C[:n, :n], 1) + added[:n]
        C[:n, n] = C[n, :n]
        C[n, n] = keep * C[t, n] - push * stiff * (G @ C[:n, n]) + added[n]
        self._t = n
        variance = float(self.covariance(n)[0, 0, n])
        if not variance < self._bound:
            raise DivergedError(n, f"diverged at step {n}: the variance of h is {variance:.3g}")

    def _seen(self, averages: dmft.Averages, name: str) -> Array:
        return np.array([averages.observables[f"{name}_{k}"] for k in range(len(self._mix.labels))])

    def _noise(self, t: int, averages: dmft.Averages) -> Array:
        """Covariance over the samples of g(t) x_i and g(s) x_i, s = 0 ... t: (t + 1, d)."""
        mix, M, n = self._mix, averages.M, t + 1
        p, lam = mix.probabilities, mix.eigenvalues
        g = self._first[:n, 0] / np.sqrt(p)  # (s, k)
        if not self._moments:
            return lam * M[0, 0, :, None] + self._own * (M[0, 0] - g @ g[t])[:, None]
        K, d = len(p), mix.dimension
        u = self._first[:n, 1] / np.sqrt(p)
        plain = np.arange(1, K + 1)
        tilted = plain + K
        squares = M[plain, plain].T - g * g[t]  # (s, k): less the product of the means
        cross = (M[plain, tilted] + M[tilted, plain]).T - g * u[t] - u * g[t]
        self._V[t] = self.covariance(t)[0, 0, t]
        V = np.sqrt(self._V[:n] * self._V[t])[:, None]
        V = np.where(V > 0, V, np.inf)
        tilt = self._mean[:n] + self._mean[t]  # twice the mean of w_i over s and t
        C = self._C[t, :n] + self._mean[:n] * self._mean[t]
        bent = ((M[tilted, tilted].T - u * u[t]) / V - M[plain, plain].T).sum(1)[:, None]
        return (
            lam * M[0, 0, :, None]
            + squares @ mix.means**2
            + lam * tilt / 2 / np.sqrt(d) / V * (cross @ mix.means)
            + lam**2 * C / (d * V) * bent
        )

    def _stiffness(self, t: int, averages: dmft.Averages) -> Array:
        """<D x_i^2>/<D> of the samples (d,), from the derivatives of this step."""
        if not self._moments:
            return self._all
        mix, d = self._mix, self._mix.dimension
        bend, xi, xi2 = (self._seen(averages, name) for name in ("bend", "bend_xi", "bend_xi2"))
        V = float(self.covariance(t)[0, 0, t])
        if not (V > 0 and bend.sum() > 0):
            return self._all
        C = self._C[t, t] + self._mean[t] ** 2
        lam = mix.eigenvalues
        return (
            lam
            + bend @ mix.means**2 / bend.sum()
            + 2 * lam * self._mean[t] / np.sqrt(d) / V * (xi @ mix.means) / bend.sum()
            + lam**2 * C / (d * V) * (xi2.sum() / V / bend.sum() - 1)
        )

    def _grow(self, n: int) -> None:
        self._V = dmft.enlarged(self._V, n, (0,))
        self._mean, self._first = (dmft.enlarged(a, n, (0,)) for a in (self._mean, self._first))
        self._C, self._R = (dmft.enlarged(a, n) for a in (self._C, self._R))

    def order_parameters(self) -> dict[str, Array]:
        n, m = self._t + 1, self._mean[: self._t + 1]
        C = self._C[:n, :n].mean(2) + m @ m.T / self._mix.dimension
        return {"q": m @ self._mix.means.T / np.sqrt(m.shape[1]), "C": C,
                "R": self._R[:n, :n].mean(2)}  # fmt: skip
