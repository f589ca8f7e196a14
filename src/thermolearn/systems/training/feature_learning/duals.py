"""E phi(u) phi(v) over two Gaussians with its derivatives by their variances and covariance.

For (u, v) ~ N(0, [[q1, k], [k, q2]]) and V(q1, q2, k) = E phi(u) phi(v),
dV/dk = E phi'(u) phi'(v) and dV/dq1 = (1/2) E phi''(u) phi(v): what the gradient of a free energy
over covariances needs. Closed forms for linear, erf (Williams, doi:10.1162/089976698300017412),
ReLU, leaky ReLU and |z| (Cho, Saul, NIPS 2009), sin and cos; any other activation without kinks by
its Hermite series (Mehler), V = sum_j a_j(q1) a_j(q2) (k / sqrt(q1 q2))^j, to a certified accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from thermolearn.core.activation import Activation, resolve_activation, value_and_slope
from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.dual import CLOSED_FORMS, Given, dual

ACCURACY = 1e-7  # of a series: what it misses of E phi^2 and E phi'^2, relative
TERMS = (32, 64, 128, 256, 512, 1024)  # that are tried
# Trapezoidal nodes: h_j(u) exp(-u^2 / 4) stays below 1.1 and has frequencies up to sqrt(1024)
NODES = np.linspace(-13.0, 13.0, 521)
SUPPORTED = (
    "linear, erf, relu, leaky_relu, the callables torch.abs, torch.sin, torch.cos, or a smooth "
    "activation such as tanh"
)


class Slopes(NamedTuple):
    """V and its derivatives, each of the broadcast shape."""

    value: np.ndarray
    by_covariance: np.ndarray
    """dV/dk; infinite nowhere: E phi'(u) phi'(v)."""
    by_first: np.ndarray
    """dV/dq1; dV/dq2 follows by exchanging the arguments."""


Averages = Callable[[np.ndarray, np.ndarray, np.ndarray], Slopes]


class PairAverages(NamedTuple):
    """V of one activation, element by element: ``pair(q1, q2, k)`` gives `Slopes`."""

    name: str
    pair: Averages
    linear: bool
    diagonal: Callable[[np.ndarray], np.ndarray]
    """E phi(u)^2 at every variance."""
    activation: Given
    """As it was given: what a pickle keeps, the functions are made again from it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pair_averages, (self.activation,)

    def matrix(self, G: np.ndarray) -> np.ndarray:
        """V of every pair of Gaussians with covariance G (n, n)."""
        return self.slopes(G).value

    def slopes(self, G: np.ndarray) -> Slopes:
        """V of every pair with its derivatives, for `pullback`."""
        q = G.diagonal()
        return self.pair(q[:, None], q[None, :], G)

    @staticmethod
    def pullback(slopes: Slopes, A: np.ndarray) -> np.ndarray:
        """The derivative of sum_{mu nu} A_{mu nu} V(G)_{mu nu} by G at fixed A.

        A symmetric; all n^2 entries of G count as independent, the result is symmetric. V_mumu
        depends on G_mumu through both variances and the covariance: with the two derivatives
        finite at u = v, as they are for ReLU too, nothing is singular on the diagonal.
        """
        by_entry = A * slopes.by_covariance
        by_entry[np.diag_indices(len(A))] += 2 * (A * slopes.by_first).sum(1)
        return by_entry


def pair_averages(activation: Given) -> PairAverages:
    """The averages of an activation, by name, module or callable.

    Raises
    ------
    ValueError
        Unknown name.
    NotApplicableError
        The activation jumps, has parameters of its own, or has a kink without a closed form; for
        a smooth one the first use raises it if 1024 terms are too few.
    """
    try:
        return _pair_averages(activation)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _pair_averages.__wrapped__(activation)


@lru_cache(maxsize=32)
def _pair_averages(activation: Given) -> PairAverages:
    known = dual(activation)  # refuses jumps and parameters
    resolved = resolve_activation(activation)

    def diagonal(q: np.ndarray) -> np.ndarray:
        return known.diagonal(torch.from_numpy(np.array(q, dtype=np.float64)))[0].numpy()

    if known.slope is not None:
        return PairAverages(
            resolved.name, _piecewise_linear(known.slope), known.slope == 1, diagonal, activation
        )
    if known.closed_form:
        for (functions, _), form in zip(CLOSED_FORMS, FORMS, strict=True):
            if form and (resolved.function in functions or type(resolved.function) is nn.Identity):
                return PairAverages(resolved.name, form, form is _linear, diagonal, activation)
    if resolved.kinks:
        raise NotApplicableError(
            f"activation {resolved.name!r} has a kink and no closed form: its Hermite series is "
            f"too slow for derivatives; use {SUPPORTED}"
        )
    return PairAverages(resolved.name, Series(resolved), False, diagonal, activation)


# -- closed forms ------------------------------------------------------------------------------
def _linear(q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
    return Slopes(k + 0.0, np.ones_like(k), np.zeros_like(k))


def _erf(q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
    a, b = 1 + 2 * q1, 1 + 2 * q2
    root = np.sqrt(np.maximum(a * b - 4 * k**2, 1.0))  # >= 1 + 2 (q1 + q2)
    slope = 4 / (math.pi * root)
    return Slopes(2 / math.pi * np.arctan2(2 * k, root), slope, -slope * k / a)


def _sin(q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
    near, far = np.exp(k - (q1 + q2) / 2) / 2, np.exp(-k - (q1 + q2) / 2) / 2
    return Slopes(near - far, near + far, (far - near) / 2)


def _cos(q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
    near, far = np.exp(k - (q1 + q2) / 2) / 2, np.exp(-k - (q1 + q2) / 2) / 2
    return Slopes(near + far, near - far, -(near + far) / 2)


# in the order of CLOSED_FORMS; GELU is smooth: its series serves
FORMS: tuple[Averages | None, ...] = (_linear, _erf, None, _sin, _cos)


def _piecewise_linear(slope: float) -> Averages:
    """max(z, 0) + slope min(z, 0); V is homogeneous of degree 1/2 in (q1, k / sqrt q2)."""
    share, square = (1 - slope) ** 2, (1 + slope**2) / 2

    def pair(q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
        s = np.sqrt(q1) * np.sqrt(q2)
        # where u = v to rounding the angle is 0: arccos(1 - 1e-16) would be 1e-8
        gap = np.where(s - k <= 4e-16 * s, 0.0, s - k)
        rest = np.maximum(2 * s - gap, 0.0)
        theta = np.where(s > 0, 2 * np.arctan2(np.sqrt(gap), np.sqrt(rest)), math.pi / 2)
        k = s - gap
        by_covariance = square - share / (2 * math.pi) * theta
        sine = share / (2 * math.pi) * np.sqrt(gap * rest)
        # Euler: q1 dV/dq1 + (k / 2) dV/dk = V / 2
        first = np.divide(sine, 2 * q1, out=np.zeros_like(k), where=q1 > 0)
        return Slopes(k * by_covariance + sine, by_covariance, first)

    return pair


# -- Hermite series ----------------------------------------------------------------------------
class Series:
    """Averages of a smooth activation by its Hermite coefficients at every variance."""

    def __init__(self, activation: Activation):
        self.activation = activation

    def __call__(self, q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
        """V and its derivatives; q1 (n, 1), q2 (1, m), k (n, m), or all (n,)."""
        if k.ndim == 1:
            return self._elementwise(q1, q2, k)
        rows = q1.shape[0]
        left, right = q1[:, 0], q2[0]
        shared = rows == len(right) and np.array_equal(left, right)
        tables = self._coefficients(left if shared else np.concatenate([left, right]))
        other = tables if shared else [c[rows:] for c in tables]
        mine = tables if shared else [c[:rows] for c in tables]
        scale = np.sqrt(q1) * np.sqrt(q2)
        rho = np.divide(k, scale, out=np.zeros_like(k), where=scale > 0).clip(-1, 1)
        value, slope, first = (np.empty_like(rho) for _ in range(3))
        _compiled()(*mine, other[0], other[1], rho, value, slope, first)
        # at fixed k the correlation falls with q1
        first -= np.divide(k * slope, 2 * q1, out=np.zeros_like(k), where=q1 > 0)
        return Slopes(value, slope, first)

    def _elementwise(self, q1: np.ndarray, q2: np.ndarray, k: np.ndarray) -> Slopes:
        rows = [
            self(np.array([[a]]), np.array([[b]]), np.array([[c]]))
            for a, b, c in zip(*np.broadcast_arrays(q1, q2, k), strict=True)
        ]
        return Slopes(*(np.array([row[i][0, 0] for row in rows]) for i in range(3)))

    def _coefficients(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a_j = E phi(sqrt(q) z) h_j(z), b_j = E phi'(sqrt(q) z) h_j(z), da_j/dq, each (n, J).

        h_j the orthonormal Hermite polynomials.
        """
        sigma = np.sqrt(np.maximum(q, 0.0))
        z = sigma[:, None] * NODES
        f, slope = (v.numpy() for v in value_and_slope(self.activation, torch.from_numpy(z)))
        weight = np.exp(-(NODES**2) / 4) * (NODES[1] - NODES[0]) / math.sqrt(2 * math.pi)
        square = [(g**2 * weight * np.exp(-(NODES**2) / 4)).sum(1) for g in (f, slope)]
        missing = math.inf
        for terms in TERMS:
            h = _hermite_functions(terms)
            values, slopes = (f * weight) @ h.T, (slope * weight) @ h.T
            missing = max(
                float((np.abs(total - (c**2).sum(1)) / np.maximum(total, 1e-300)).max())
                for total, c in zip(square, (values, slopes), strict=True)
            )
            if missing <= ACCURACY:
                inverse = np.divide(0.5, sigma, out=np.zeros_like(sigma), where=sigma > 0)
                return values, slopes, (slope * NODES * weight) @ h.T * inverse[:, None]
        raise NotApplicableError(
            f"activation {self.activation.name!r}: {TERMS[-1]} terms of its Hermite series miss "
            f"{missing:.1e} of E phi^2 or E phi'^2 (allowed {ACCURACY:g}); scale the inputs down, "
            f"or use {SUPPORTED}"
        )


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    """The sums over Hermite terms, compiled at first use."""
    from numba import njit

    @njit(cache=True)
    def sums(a, b, da, a2, b2, rho, value, slope, first):  # pragma: no cover  # type: ignore
        for i in range(rho.shape[0]):
            for m in range(rho.shape[1]):
                power, x, v, s, f = 1.0, rho[i, m], 0.0, 0.0, 0.0
                for j in range(a.shape[1]):
                    v += a[i, j] * a2[m, j] * power
                    s += b[i, j] * b2[m, j] * power
                    f += da[i, j] * a2[m, j] * power
                    power *= x
                    if abs(power) < 1e-17:  # long series are needed near the diagonal only
                        break
                value[i, m], slope[i, m], first[i, m] = v, s, f

    return sums


@lru_cache(maxsize=len(TERMS))
def _hermite_functions(terms: int) -> np.ndarray:
    """h_j(z) exp(-z^2 / 4) at the nodes, (terms, nodes)."""
    h = np.empty((terms, len(NODES)))
    h[0] = np.exp(-(NODES**2) / 4)
    h[1] = NODES * h[0]
    for j in range(1, terms - 1):
        h[j + 1] = (NODES * h[j] - math.sqrt(j) * h[j - 1]) / math.sqrt(j + 1)
    return h
