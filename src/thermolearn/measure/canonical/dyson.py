"""The matrix Dyson equation of a wide random feed-forward network.

M = I - J, G = M^T M, where J is the block lower-triangular Jacobian of a random feed-forward
network. In the limit of large widths, at fixed ratios, the spectrum of G is that of a random
matrix with independent entries whose variances phi_i^2 sigma_w2 / n_{l-1} follow the slopes
phi = f'(z), z ~ N(0, sigma_w2 q_{l-1} + sigma_b2), q_l = E f(z)^2.

The Dyson equation couples, for every layer l, the mean x_l of the resolvent and the self-energy
y_l:  R = 1 + phi^2 sigma_w2 x_{l-1},  D = 1 + T R y_l,
      x_l = E[R / D],   y_l = 1 + (n_{l+1} / n_l) sigma_w2 y_{l+1} E[phi^2 / D]_{l+1},
with x_{-1} = 0 and y_L = 1 (phi = 0 in layer 0). Then tr (G + T)^{-1} = sum_l n_l x_l, and
log det (G + T) is the value at its stationary point of
      Phi = sum_l n_l E log(1 + T R y_l) - T sum_l n_l (y_l - 1) x_l.

References: O. Ajanki, L. Erdos, T. Krueger, "Universality for general Wigner-type matrices",
arXiv:1506.05098 (uniqueness of the solution with positive real parts); J. Alt, L. Erdos,
T. Krueger, "Local inhomogeneous circular law", arXiv:1612.07776 (variance profiles); the
ensemble is that of V. Vanchurin, arXiv:2004.09280.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from thermolearn.core.activation import Activation, value_and_slope
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.fixed_point import damped_iteration
from thermolearn.core.gaussian import REACH, gauss_nodes

# Nodes that carry less change nothing.
NEGLIGIBLE = 1e-19
# Spectral functions are taken at lambda (1 + i SMOOTHING).
SMOOTHING = 1e-9
# A Newton step below this leaves an error of its square.
TOLERANCE = 1e-7


# -- slopes ------------------------------------------------------------------------------------
class Slopes(NamedTuple):
    """Squared slopes of every layer on quadrature nodes: the data of the Dyson equation."""

    widths: np.ndarray  # (L+1,)
    gain: np.ndarray  # (L+1, K)  sigma_w2 phi^2, zero in layer 0
    weights: np.ndarray  # (L+1, K)
    q: np.ndarray  # (L+1,)


def propagate_slopes(
    widths: tuple[int, ...],
    sigma_w2: float,
    sigma_b2: float,
    layers: Sequence[Activation],
    q0: float,
    n: int,
    fineness: float = math.inf,
) -> Slopes:
    """Propagate the second moment q_l and collect the squared slopes layer by layer."""
    q = [q0]
    squares: list[np.ndarray] = [np.zeros(1)]
    weights: list[np.ndarray] = [np.ones(1)]
    for layer, activation in enumerate(layers, start=1):
        sigma = math.sqrt(sigma_w2 * q[-1] + sigma_b2)
        z, w = gauss_nodes(sigma, n, activation.kinks, fineness)
        value, slope = (t.numpy() for t in value_and_slope(activation, torch.from_numpy(z)))
        q.append(float(w @ value**2))
        growth = value**2 + slope**2
        tail = np.abs(z) > 0.9 * np.abs(z).max()
        # not >, so that a NaN is caught as well
        if not w[tail] @ growth[tail] <= 1e-8 * (w @ growth) < math.inf:
            raise ValueError(
                f"activation {activation.name!r} grows too fast in layer {layer}: E f(z)^2 is not "
                f"finite or lies beyond {0.9 * REACH:.0f} standard deviations of z; lower "
                "sigma_w2, sigma_b2 or q0"
            )
        # equal slopes (symmetric or piecewise linear f) need one node together
        square, index = np.unique(slope**2, return_inverse=True)
        weight = np.bincount(index, weights=w).astype(np.float64)
        squares.append(square[weight > NEGLIGIBLE])
        weights.append(weight[weight > NEGLIGIBLE])
    size = max(len(w) for w in weights)
    sizes = np.array(widths, dtype=np.float64)
    return Slopes(
        sizes,
        sigma_w2 * np.stack([np.pad(s, (0, size - len(s))) for s in squares]),
        np.stack([np.pad(w, (0, size - len(w))) for w in weights]),
        np.array(q),
    )


# -- the Dyson equation ------------------------------------------------------------------------
def _nodes(s: Slopes, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any, Any]:
    """R, y of all layers, and D at every node; x, y are (m, L), t is (m,)."""
    r = 1 + s.gain * np.pad(x, ((0, 0), (1, 0)))[:, :, None]
    y_all = np.pad(y, ((0, 0), (0, 1)), constant_values=1.0)
    return r, y_all, 1 + t[:, None, None] * r * y_all[:, :, None]


def _mean(s: Slopes, values: np.ndarray) -> np.ndarray:
    return np.einsum("mlk,lk->ml", values, s.weights)


def split(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y from u = (log x, log y)."""
    n_layers = u.shape[1] // 2
    return np.exp(u[:, :n_layers]), np.exp(u[:, n_layers:])


def _self_consistent(s: Slopes, r: Any, y_all: Any, d: Any) -> tuple[np.ndarray, np.ndarray]:
    """The right-hand sides of the Dyson equation."""
    size_ratio = s.widths[1:] / s.widths[:-1]
    return (
        _mean(s, r / d)[:, :-1],
        1 + size_ratio * y_all[:, 1:] * _mean(s, s.gain / d)[:, 1:],
    )


def _damped_sweep(s: Slopes, t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Half of the old and half of the new: contracts towards the physical solution."""
    x, y = split(u)
    x_new, y_new = _self_consistent(s, *_nodes(s, t, x, y))
    return np.log(np.concatenate([x + x_new, y + y_new], axis=1) / 2)


def _newton_step(s: Slopes, t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """One Newton step in u = (log x, log y), at most 1 long.

    Logarithms, because in chaotic deep networks x grows by a constant factor per layer.
    """
    x, y = split(u)
    n_layers = x.shape[1]
    size_ratio = s.widths[1:] / s.widths[:-1]
    r, y_all, d = _nodes(s, t, x, y)
    d2, t_ = d * d, t[:, None]
    mixed = _mean(s, s.gain / d2)
    i = np.arange(n_layers)
    jacobian = np.zeros((len(t), 2 * n_layers, 2 * n_layers), dtype=x.dtype)
    jacobian[:, i[1:], i[:-1]] = mixed[:, 1:-1]
    jacobian[:, i, n_layers + i] = -t_ * _mean(s, r * r / d2)[:, :-1]
    jacobian[:, n_layers + i, i] = -t_ * size_ratio * (y_all**2 * _mean(s, s.gain**2 / d2))[:, 1:]
    jacobian[:, n_layers + i[:-1], n_layers + i[1:]] = (size_ratio * mixed[:, 1:])[:, :-1]
    old = np.concatenate([x, y], axis=1)
    new = np.concatenate(_self_consistent(s, r, y_all, d), axis=1)
    matrix = -jacobian * old[:, None, :]
    matrix[:, np.arange(2 * n_layers), np.arange(2 * n_layers)] += new
    step = np.linalg.solve(matrix, (new * np.log(new / old))[..., None])[..., 0]
    return u + step / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1.0)


def converge(s: Slopes, t: np.ndarray, u: np.ndarray, sweeps: int, what: str) -> np.ndarray:
    """Damped sweeps, then Newton until its step is below `TOLERANCE`, or ConvergenceError.

    The solution with Re(sqrt(T) x) > 0 and Re(sqrt(T) y) > 0 is unique; it is checked.
    """
    with np.errstate(all="ignore"):
        for _ in range(sweeps):
            u = _damped_sweep(s, t, u)
        try:
            found = damped_iteration(
                lambda u: _newton_step(s, t, u), u, damping=0.0, tol=TOLERANCE, max_iter=100
            )
            u = _newton_step(s, t, found.x)
        except (ConvergenceError, ValueError, np.linalg.LinAlgError) as error:
            raise ConvergenceError(
                f"the Dyson equation did not converge for {what} in [{np.abs(t).min():.4g}, "
                f"{np.abs(t).max():.4g}]: take fewer layers or a smaller sigma_w2 ({error})"
            ) from error
    eta = np.sqrt(t)
    eta = np.where(np.real(eta) < 0, -eta, eta)[:, None]
    if not all((np.real(eta * v) > 0).all() for v in split(u)):
        raise ConvergenceError(
            f"the Dyson equation converged to an unphysical solution for {what} in "
            f"[{np.abs(t).min():.4g}, {np.abs(t).max():.4g}]; take fewer layers or fewer values"
        )
    return u


def potential(s: Slopes, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Phi = log det (G + T), stationary in x and y: an error of these enters squared."""
    r, _, d = _nodes(s, t, x, y)
    x_last = _mean(s, r / d)
    exchange = t * (s.widths[:-1] * (y - 1) * x_last[:, :-1]).sum(axis=1)
    return (s.widths * _mean(s, np.log(d))).sum(axis=1) - exchange


def resolvent(s: Slopes, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """tr (G + T)^{-1}."""
    r, _, d = _nodes(s, t, x, y)
    return (s.widths * _mean(s, r / d)).sum(axis=1)


def energy_and_log_det(s: Slopes, temperature: np.ndarray) -> np.ndarray:
    """Rows U and log det (G + T) over the temperatures."""
    start = np.zeros((len(temperature), 2 * len(s.widths) - 2))
    x, y = split(converge(s, temperature, start, 40, "T"))
    r, y_all, d = _nodes(s, temperature, x, y)
    # 1 - T x without cancellation at high temperature
    t = temperature[:, None, None]
    deficit = _mean(s, (1 + t * r * (y_all - 1)[:, :, None]) / d)
    energy = temperature / 2 * (s.widths * deficit).sum(axis=1)
    return np.stack([energy, potential(s, temperature, x, y)])


def _resolved(s: Slopes, t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Where the nodes of every continuous slope distribution see D turn slowly.

    A pole of 1 / D (saturated neurons whose own eigenvalue this is) may come closer to the real
    axis than the nodes are to each other; the nodes then act as separate eigenvalues.
    """
    d = _nodes(s, t, *split(u))[2]
    heavy = (s.weights[:, 1:] > 1e-8) & (s.weights[:, :-1] > 1e-8)
    continuous = ((s.weights > 0).sum(axis=1) > 8)[:, None]
    with np.errstate(all="ignore"):
        turn = np.abs(np.angle(d[:, :, 1:] / d[:, :, :-1]))
    return np.where(heavy & continuous, turn, 0.0).max(axis=(1, 2), initial=0.0) < 1.0


def near_real_axis(s: Slopes, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T = -lambda (1 + i eps) and the solution there, followed down from eps = 1.

    eps ends at `SMOOTHING`, or above it where the nodes do not resolve the slopes any closer.
    Next to a point mass log x is linear in log eps, so each stage starts from the secant through
    the last two; a stage that fails is repeated with a smaller step.
    """
    start = np.zeros((len(lam), 2 * len(s.widths) - 2), dtype=np.complex128)
    t, eps, shrink = -lam * (1 + 1j), 1.0, 8.0
    u = converge(s, t, start, 40, "lambda")
    slope = np.zeros_like(u)  # - d u / d log eps
    active = np.arange(len(lam))
    while eps > SMOOTHING and len(active):
        eps_next = max(eps / shrink, SMOOTHING)
        t_next = -lam[active] * (1 + 1j * eps_next)
        step = math.log(eps / eps_next)
        try:
            u_next = converge(s, t_next, u[active] + step * slope, 1, "lambda")
        except ConvergenceError:
            shrink **= 0.5
            if shrink < 1.05:
                raise
            continue
        going_on = _resolved(s, t_next, u_next)
        slope = ((u_next - u[active]) / step)[going_on]
        active = active[going_on]
        t[active], u[active] = t_next[going_on], u_next[going_on]
        eps, shrink = eps_next, min(shrink**1.5, 8.0)
    return t, u


def chunks(values: np.ndarray, s: Slopes) -> list[np.ndarray]:
    """Parts small enough that all nodes of all values stay in the cache."""
    chunk = max(1, 100_000 // s.gain.size)
    return np.split(values, range(chunk, len(values), chunk))
