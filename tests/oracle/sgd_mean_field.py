"""The mean-field equations of SGD on a Gaussian mixture, transcribed sum by sum.

With the random numbers that thermolearn.core.dmft draws: normal rows from the first stream of the
run, masks from the second.
"""

from __future__ import annotations

import numpy as np


def march(c, y, alpha, Delta, eta, decay, first, second, mask, start, steps, seed, replicas=1):
    """m, C, R, C12, mean loss gradients mu and G up to `steps`, by loops.

    first, second : l'(h, y) and l''(h, y); mask(t, previous, rng) -> (replicas, N) with weights.
    """
    N, F = len(c), replicas
    streams = np.random.SeedSequence(seed).spawn(2)
    normal, site = (np.random.default_rng(s) for s in streams)
    z = rows(c, y, normal, F * steps)
    m, R = np.zeros(steps + 1), np.zeros((steps + 1, steps + 1))
    C = np.zeros((F, F, steps + 1, steps + 1))  # C[a, b, t, s] = w_a(t).w_b(s)/d
    m[0], C[:, :, 0, 0] = start[1], start[0] + start[1] ** 2
    g, D = np.zeros((steps, F, N)), np.zeros((steps, steps, N))  # D of replica 0
    mu, G, s = np.zeros(steps), np.zeros((steps, steps)), None
    for t in range(steps):
        # all fields up to t at once: index u F + a
        n = F * (t + 1)
        K = Delta * C[:, :, : t + 1, : t + 1].transpose(2, 0, 3, 1).reshape(n, n)
        # at the start the replicas agree: the second one has no row of its own there
        kept = [i for i in range(n) if F == 1 or i != 1]
        L = np.linalg.cholesky(K[np.ix_(kept, kept)])
        xi = (np.linalg.solve(L, K[kept]).T @ z[: len(kept)])[t * F :]
        s = mask(t, s, site)
        for a in range(F):
            h = c * m[t] + xi[a]
            for u in range(t):
                h = h - Delta * eta * R[t, u] * g[u, a]
            g[t, a] = s[a] * first(h, y)
            if a == 0:
                gain = s[a] * second(h, y)
        for u in range(t + 1):
            inner = np.ones(N) if u == t else np.zeros(N)
            for v in range(u, t):
                inner = inner - Delta * eta * R[t, v] * D[v, u]
            D[t, u] = gain * inner
            G[t, u] = D[t, u].mean()
        mu[t] = np.mean([(c * g[t, a]).mean() for a in range(F)])
        m[t + 1] = (1 - eta * decay) * m[t] - eta * alpha * mu[t]
        for u in range(t + 1):
            m[t + 1] -= eta * alpha * Delta * G[t, u] * m[u]
            R[t + 1, u] = (1 - eta * decay) * R[t, u] + (u == t)
            for v in range(u + 1, t + 1):
                R[t + 1, u] -= eta * alpha * Delta * G[t, v] * R[v, u]
        for a in range(F):
            for b in range(F):
                # both orders, for replicas are alike
                M = [np.mean(g[t, a] * g[u, b] + g[t, b] * g[u, a]) / 2 for u in range(t + 1)]
                if a == b:
                    M = [np.mean(g[t] * g[u]) for u in range(t + 1)]
                for v in range(t + 2):
                    new = (1 - eta * decay) * C[a, b, t, v] - eta * alpha * mu[t] * m[v]
                    for u in range(t + 1):
                        new -= eta * alpha * Delta * G[t, u] * C[a, b, u, v]
                        if u < v:
                            new += eta**2 * alpha * Delta * R[v, u] * M[u]
                    C[a, b, t + 1, v] = C[a, b, v, t + 1] = new
    return {"m": m, "R": R, "C": C[0, 0], "between": C[0, -1], "mu": mu, "G": G}


def rows(c, y, rng, n):
    """Normal rows made orthogonal to 1, c, the clusters and each other, of mean square 1."""
    clusters = sorted(set(zip(c, y, strict=True)))
    fixed = np.stack([np.ones(len(c))] + [(c == k) & (y == label) for k, label in clusters[1:]])
    draws = rng.standard_normal((n, len(c)))
    q, r = np.linalg.qr(np.concatenate([fixed, draws]).T)
    q = q * np.sign(np.diag(r))
    return np.sqrt(len(c)) * q.T[len(fixed) :]
