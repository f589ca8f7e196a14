"""Gradient descent on least squares, d to infinity, without dynamical mean-field theory.

x = y (v/sqrt(d) + sqrt(Delta) z), n = alpha d samples, label y: with B = (rows y x)/sqrt(d) the
step is linear in w with the matrix A = B^T B, a Wishart matrix plus a spike of rank one. Every
quantity is v.f(A).v, v.f(A) B^T.u or u.B f(A) B^T.u (u the constant direction of the samples), a
contour integral over the resolvent of a Marchenko-Pastur law with a rank-two perturbation.

Batches of SGD add noise of covariance eta^2 (1 - b)/b <r^2> A, r the residuals (the leverages of
the samples concentrate), which closes in a Volterra equation: Paquette, Lee, Pedregosa, Paquette,
arXiv:2102.04396.
"""

from __future__ import annotations

import numpy as np


class LeastSquares:
    """m(t), C(t, t'), R(t, s) and the training loss at times 0, ..., T."""

    def __init__(self, alpha, Delta, rate, decay, steps, start, batch=1.0, points=4000):
        R0, m0 = start
        t = np.arange(steps + 1)
        z, dz = contour(alpha, Delta, points)
        q = stieltjes(z, alpha, Delta)
        other = q / alpha - (1 - 1 / alpha) / z  # of the n x n matrix
        det = 1 - alpha * z * q * other
        weight = -dz / (2j * np.pi)
        f = (1 - rate * decay - rate * z)[None] ** t[:, None]
        s = np.array([f[:k].sum(0) if k else 0 * z for k in t]) * rate  # of the push
        vv, vu = q / det, -np.sqrt(alpha) * z * q * other / det
        uu = 1 + z * other / det

        def average(a, b, law):
            return ((a * law * weight) @ b.T).real

        one = np.ones((1, len(z)))
        bulk = average(f, one, q)[:, 0]
        self.m = m0 * average(f, one, vv)[:, 0] + np.sqrt(alpha) * average(s, one, vu)[:, 0]
        cross = m0 * np.sqrt(alpha) * average(f, s, vu)
        self.C = R0 * average(f, f, q) + m0**2 * average(f, f, vv)
        self.C += cross + cross.T + alpha * average(s, s, uu)
        # mean square of the residuals B w - u sqrt(n) over n: loss of the mean dynamics
        diagonal = [one[0] * 0 + z * f[k] ** 2 for k in t]
        full = []
        for k in t:
            square = R0 * q * diagonal[k] + m0**2 * vv * diagonal[k]
            square = square + 2 * m0 * np.sqrt(alpha) * f[k] * vu * (z * s[k] - 1)
            square = square + alpha * uu * (z * s[k] ** 2 - 2 * s[k])
            full.append((square * weight).sum().real / alpha + 1)
        residual = np.array(full)
        noise = rate**2 * (1 - batch) / batch
        kernel = noise * np.array([(z**2 * f[k] ** 2 * q * weight).sum().real for k in t]) / alpha
        for k in t[1:]:
            residual[k] += sum(kernel[k - 1 - j] * residual[j] for j in range(k))
        # spread of w by the noise: tr A f(t - s - 1) f(t' - s - 1)
        law = average(f * z, f, q)
        for i in t:
            for j in t[: i + 1]:
                extra = sum(law[i - 1 - k, j - 1 - k] * residual[k] for k in range(j))
                self.C[i, j] += noise * extra
                self.C[j, i] = self.C[i, j]
        self.loss = residual / 2
        lag = t[:, None] - t[None] - 1
        self.R = np.where(lag >= 0, bulk[np.maximum(lag, 0)], 0.0)


def stieltjes(z, alpha, Delta):
    """(1/d) tr (Delta Z^T Z/d - z)^-1, Z of n = alpha d rows."""
    low, high = (Delta * (1 + sign * np.sqrt(alpha)) ** 2 for sign in (-1, 1))
    root = np.sqrt(z - low) * np.sqrt(z - high)
    return (-(z + Delta - alpha * Delta) + root) / (2 * Delta * z)


def contour(alpha, Delta, points):
    """An ellipse around 0, the bulk and the outlier."""
    top = Delta * (1 + np.sqrt(alpha)) ** 2
    outlier = max(top, (1 + Delta) * (alpha + Delta)) + 1e-9
    low, high = -0.3, outlier * 1.08 + 0.1
    phi = 2 * np.pi * (np.arange(points) + 0.5) / points
    a, b = (high - low) / 2, 0.6
    z = (high + low) / 2 + a * np.cos(phi) + 1j * b * np.sin(phi)
    return z, (-a * np.sin(phi) + 1j * b * np.cos(phi)) * 2 * np.pi / points
