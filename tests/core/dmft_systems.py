"""Small systems with known order parameters, for the tests of the mean-field solver."""

from __future__ import annotations

import numpy as np

from thermolearn.core import dmft


# -- ridge regression on two clusters --------------------------------------------------------------
class LinearPerceptron:
    """Gradient descent with quadratic loss on y x = v/sqrt d + sqrt(delta) z."""

    def __init__(self, alpha, delta, rate, decay, m0, r0):
        self.alpha, self.delta, self.rate, self.keep = alpha, delta, rate, 1 - rate * decay
        self.m0, self.c0 = m0, r0 + m0**2

    def site(self, n, rng):
        return _LinearSite(n)

    def closure(self):
        return _LinearOrder(self)


class _LinearSite:
    leak = 0.0

    def __init__(self, n):
        self.matched = np.where(np.arange(n) % 2, 1.0, -1.0)[None]

    def step(self, t, field, memory, state, rng):
        signal = field + memory - self.matched
        mu = {"mu": (self.matched * signal)[0]}
        return dmft.SiteStep(signal, np.ones_like(signal), mu)


class _LinearOrder:
    def __init__(self, p):
        self.p, self.m = p, np.array([p.m0])
        self.C, self.R = np.array([[p.c0]]), np.zeros((1, 1))

    def mean(self, t):
        return self.m[t].reshape(1, 1)

    def covariance(self, t):
        return self.p.delta * self.C[None, None, t]

    def kernel(self, t):
        return -self.p.delta * self.p.rate * self.R[None, t, :t]

    def advance(self, t, averages):
        self.m, self.C, self.R = perceptron_step(
            self.p, self.m, self.C, self.R, averages.observables["mu"], averages.G[0],
            averages.M[0, 0],
        )  # fmt: skip

    def order_parameters(self):
        return {"m": self.m, "C": self.C, "R": self.R}


def perceptron_step(p, m, C, R, mu, G, M):
    n = len(m)
    pull, push = p.rate * p.alpha * p.delta, p.rate * p.alpha * mu
    m_new = p.keep * m[-1] - push - pull * G @ m
    row = p.keep * R[-1] - pull * G @ R
    row[n - 1] += 1
    R = np.block([[R, np.zeros((n, 1))], [row[None], np.zeros((1, 1))]])
    c = p.keep * C[-1] - push * m - pull * G @ C + p.rate * pull * R[:n, :n] @ M
    last = p.keep * c[-1] - push * m_new - pull * G @ c + p.rate * pull * row @ M
    C = np.block([[C, c[:, None]], [c[None], last.reshape(1, 1)]])
    return np.append(m, m_new), C, R


def gaussian_perceptron(steps, alpha, delta, rate, decay, m0, r0):
    """The same without sampling: g = D xi + c a, all linear."""
    p = LinearPerceptron(alpha, delta, rate, decay, m0, r0)
    m, C, R = np.array([m0]), np.array([[p.c0]]), np.zeros((1, 1))
    D, a = np.zeros((steps, steps)), np.zeros(steps)
    for t in range(steps):
        kernel = -delta * rate * R[t, :t]
        D[t, :t] = kernel @ D[:t, :t]
        D[t, t] = 1
        a[t] = m[t] - 1 + kernel @ a[:t]
        n = t + 1
        M = delta * D[t, :n] @ C @ D[:n, :n].T + a[t] * a[:n]
        m, C, R = perceptron_step(p, m, C, R, a[t], D[t, :n], M)
    return {"m": m, "C": C, "R": R, "G": D}


# -- fields of a given law -------------------------------------------------------------------------
class Given:
    """h(t) = leak h(t - 1) + field of a covariance (F, F, T, T); signals h and, if F > 1, h_0^2."""

    def __init__(self, covariance, leak, matched=None, mean=None):
        self.full, self.leak, self.mean_value, self.rows = covariance, leak, mean, matched

    def site(self, n, rng):
        return GivenSite(self.leak, np.zeros((0, n)) if self.rows is None else self.rows)

    def closure(self):
        return GivenOrder(self.full, self.mean_value)


class GivenSite:
    def __init__(self, leak, matched):
        self.leak, self.matched = leak, matched

    def step(self, t, field, memory, state, rng):
        h = field if state is None else self.leak * state + field
        signal = h if len(h) == 1 else np.vstack([h, h[:1] ** 2])
        row = self.matched[0] if len(self.matched) else np.zeros(h.shape[1])
        gain = np.ones_like(h[:1]) if len(h) == 1 else None
        return dmft.SiteStep(signal, gain, {"mean": h.sum(0), "seen": h[-1] * row}, h)


class GivenOrder:
    def __init__(self, full, mean):
        self.full, self.mean_value = full, mean

    def mean(self, t):
        return None if self.mean_value is None else np.array([[self.mean_value]])

    def covariance(self, t):
        return self.full[:, :, t, : t + 1]

    def kernel(self, t):
        return None

    def advance(self, t, averages):
        pass

    def order_parameters(self):
        return {}


# -- a random network with partially symmetric couplings -------------------------------------------
class Network:
    """x(t+1) = (1 - dt) x + dt J phi(x) + sqrt(2 T dt) noise, <J_ij^2> = g^2 / N, correlation
    `symmetry` of J_ij and J_ji, x(0) ~ N(0, 1)."""

    def __init__(self, dt, g, symmetry, phi, temperature=0.0):
        self.dt, self.g, self.symmetry, self.phi = dt, g, symmetry, phi
        self.temperature = temperature

    def site(self, n, rng):
        return _Unit(n, self)

    def closure(self):
        return _NetworkOrder(self)


class _Unit:
    def __init__(self, n, p):
        self.matched, self.leak, self.p = np.zeros((0, n)), 1 - p.dt, p

    def step(self, t, field, memory, state, rng):
        h = field + memory + (0.0 if state is None else self.leak * state)
        if self.p.phi == "linear":
            return dmft.SiteStep(h, np.ones_like(h), {}, h)
        signal = np.tanh(h)
        return dmft.SiteStep(signal, 1 - signal**2, {}, h)


class _NetworkOrder:
    def __init__(self, p):
        self.p, self.M, self.G = p, np.zeros((1, 0)), np.zeros((0,))

    def covariance(self, t):
        if not t:
            return np.ones((1, 1, 1))
        noise = np.r_[np.zeros(t), 2 * self.p.temperature * self.p.dt]
        return ((self.p.dt * self.p.g) ** 2 * np.r_[0.0, self.M] + noise)[None, None]

    def kernel(self, t):
        # the unit's signal at s acts on the others at s + 1 and comes back from t - 1
        back = np.r_[self.G[1:], np.zeros(min(t, 1))]
        return self.p.symmetry * (self.p.dt * self.p.g) ** 2 * back[None]

    def advance(self, t, averages):
        self.M, self.G = averages.M[0, 0].copy(), averages.G[0].copy()

    def order_parameters(self):
        return {}


def solve_network(
    steps, n, dt, g, symmetry, phi, temperature=0.0, runs=1, pivot=1e-2, dtype=np.float64
):
    network = Network(dt, g, symmetry, phi, temperature)
    return dmft.solve(network.site, network.closure, steps, n, runs=runs, pivot=pivot, dtype=dtype)


def semicircle(steps, dt, g, temperature, nodes=400):
    """<x x> and the response for J symmetric and phi linear: averages over J's eigenvalues."""
    k = np.arange(1, nodes + 1)  # Gauss quadrature with the semicircle weight
    x, w = np.cos(k * np.pi / (nodes + 1)), np.sin(k * np.pi / (nodes + 1)) ** 2
    q, w = 1 - dt * (1 - 2 * g * x), w / w.sum()
    t, s = np.indices((steps, steps))
    R = np.where(t >= s, (w * q ** np.maximum(t - s, 0)[..., None]).sum(-1), 0.0)
    low = np.minimum(t, s)[..., None]
    mean = q ** (t + s)[..., None]
    noise = q ** np.abs(t - s)[..., None] * (1 - q ** (2 * low)) / (1 - q**2)
    return (w * (mean + 2 * temperature * dt * noise)).sum(-1), R


class Coupled:
    """The N coupled units themselves."""

    def __init__(self, n, symmetry, g, dt, seed):
        self.rng = np.random.default_rng(1000 + seed)
        a, b = np.triu(self.rng.standard_normal((2, n, n)))
        mixed = symmetry * a + (1 - symmetry**2) ** 0.5 * b
        self.J = (g / n**0.5 * (np.triu(a, 1) + np.triu(mixed, 1).T)).astype(np.float32)
        self.n, self.dt = n, dt

    def correlations(self, steps, at):
        x = self.rng.standard_normal(self.n).astype(np.float32)
        kept = []
        for t in range(steps):
            signal = np.tanh(x)
            if t in at:
                kept.append(signal.astype(np.float64))
            x = (1 - self.dt) * x + self.dt * (self.J @ signal)
        return np.array(kept) @ np.array(kept).T / self.n


# -- a run repeated with frozen order parameters ---------------------------------------------------
def perturbed(network, found, steps, n, s, eps):
    """<g(t)> with eps added to h at step s: fields and kernel as they were found."""

    class Frozen(_NetworkOrder):
        def covariance(self, t):
            return found.covariance.value[:, :, t, : t + 1]

    class Pushed(_Unit):
        def step(self, t, field, memory, state, rng):
            return super().step(t, field + eps * (t == s), memory, state, rng)

    class Replayed(Frozen):
        def kernel(self, t):
            self.G = found.G.value[0, t - 1, :t] if t else self.G
            return super().kernel(t)

        def advance(self, t, averages):
            self.means = [*getattr(self, "means", []), 0.0]

    class Recorded(Pushed):
        def step(self, t, field, memory, state, rng):
            out = super().step(t, field, memory, state, rng)
            return out._replace(observables={"g": out.signal[0]})

    pushed = dmft.solve(
        lambda n, rng: Recorded(n, network), lambda: Replayed(network), steps, n, runs=1,
        dtype="float64",
    )  # fmt: skip
    return pushed.observables["g"].value


# -- a gated network -------------------------------------------------------------------------------
class Gated:
    """dh = sigma(a_z z) (-h + J_h phi sigma(a_r r)), dz = -z + J_z phi, dr = -r + J_r phi, with
    phi = tanh(g h) and sigma the logistic function: three fields, a nonlinear state."""

    def __init__(self, g, a_z, a_r, dt=0.1):
        self.g, self.a_z, self.a_r, self.dt = g, a_z, a_r, dt

    def site(self, n, rng):
        return _GatedUnit(n, self)

    def closure(self):
        return _GatedOrder(self.dt)


def _logistic(x):
    return 1 / (1 + np.exp(-x))


class _GatedUnit:
    leak = 0.0

    def __init__(self, n, p):
        self.matched, self.p = np.zeros((0, n)), p

    def step(self, t, field, memory, state, rng):
        if state is None:
            h, z, r = field
        else:
            h, z, r = state
            drive, keep = field, 1 - self.p.dt
            h = h + _logistic(self.p.a_z * z) * (drive[0] - self.p.dt * h)
            z, r = keep * z + drive[1], keep * r + drive[2]
        phi = np.tanh(self.p.g * h)
        signals = np.stack([phi * _logistic(self.p.a_r * r), phi])
        return dmft.SiteStep(signals, None, {"variance": h**2}, (h, z, r))


class _GatedOrder:
    def __init__(self, dt):
        self.dt, self.law = dt, np.eye(3)[:, :, None]

    def covariance(self, t):
        return self.law

    def kernel(self, t):
        return None

    def advance(self, t, averages):
        self.law = np.zeros((3, 3, t + 2))
        for field, signal in enumerate((0, 1, 1)):
            self.law[field, field, 1:] = self.dt**2 * averages.M[signal, signal]

    def order_parameters(self):
        return {}
