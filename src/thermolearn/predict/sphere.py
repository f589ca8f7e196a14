"""Kernels and data on the sphere, for regression on data that are drawn from it.

Harmonics and their eigenvalues are computed here on their own, so that an experiment shares no
calculation with the theory that it is held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.special import gammaln

from thermolearn.core.checks import real, whole

Kernel = Callable[[Any], Any]

MAX_DEGREE = 200
ANGLES, KNOTS = 1200, 4097
# In two dimensions: points of the half circle between two knots, for the Fourier series
FINER = 32
# What rounding leaves of an eigenvalue that is zero by parity, in units of k(1)
ROUNDING = 1e-14


# -- kernels ---------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Truncated:
    """Splines in the angle of sum_{l<=r} N_l lambda_l^p P_l for p = 1, 2, and what is cut off."""

    degree: int
    first: CubicSpline
    second: CubicSpline
    missing: float


class SphereTable:
    """A kernel of the angle as a table, with its harmonics and its iterated kernel.

    Parameters
    ----------
    kernel : callable
        k(t).
    dim : int
        At least 2.

    Attributes
    ----------
    diagonal : float
        k(1).
    eigenvalues, degeneracies : ndarray (201,)
        lambda_l by the Funk-Hecke integral, and N_l.
    first, second : CubicSpline
        k and K_2 = sum_l lambda_l^2 N_l P_l of the angle: to degree 200, in two dimensions to
        131072.
    beyond : float
        sum over the degrees left out of K_2 of lambda_l^2 N_l.

    Raises
    ------
    ValueError
        dim < 2, a kernel that is not finite, not positive semi-definite, not smooth or too narrow.
    """

    def __init__(self, kernel: Kernel, dim: int):
        self.dim = whole("dim", dim, 2)
        angle = np.linspace(0.0, np.pi, KNOTS)
        value = _evaluate(kernel, np.cos(angle))
        self.diagonal = real("k(1) of the kernel", float(value[0]), above=0)
        self.first = CubicSpline(angle, value)
        between = np.random.default_rng(0).uniform(0, np.pi, 256)
        error = np.abs(self.first(between) - _evaluate(kernel, np.cos(between))).max()
        if not error < 1e-9 * self.diagonal:
            raise ValueError(
                "the kernel is not a smooth function of the angle: a table of it is off by "
                f"{error:.2g}, with k(1) = {self.diagonal:.4g}"
            )
        self.eigenvalues, self.degeneracies, missing = self._harmonics(kernel)
        if self.dim == 2:
            self.second, self.beyond = CubicSpline(angle, _on_the_circle(kernel)), 0.0
        else:
            self.second, self.beyond = self._series(angle, MAX_DEGREE, 2), missing

    def _harmonics(self, kernel: Kernel) -> tuple[np.ndarray, np.ndarray, float]:
        node, weight = _gauss_legendre(ANGLES)
        angle = np.pi * (node + 1) / 2
        weight = weight * np.sin(angle) ** (self.dim - 2)
        weight /= weight.sum()
        value = _evaluate(kernel, np.cos(angle))
        terms = legendre(self.dim, np.cos(angle), MAX_DEGREE)
        moments = np.array([(weight * value) @ P for P in terms])
        count = degeneracy(self.dim, np.arange(MAX_DEGREE + 1))
        if moments.min() < -1e-8 * self.diagonal:
            raise ValueError(
                f"the kernel is not positive semi-definite: degree {int(moments.argmin())} has "
                f"eigenvalue {moments.min():.3g}"
            )
        moments[np.abs(moments) < ROUNDING * self.diagonal] = 0.0
        moments = np.maximum(moments, 0.0)
        missing = weight @ value**2 - (count * moments**2).sum()
        if missing > 1e-6 * self.diagonal**2:
            raise ValueError(
                f"the kernel is too narrow for the exact integral: harmonics beyond degree "
                f"{MAX_DEGREE} carry {missing / self.diagonal**2:.2g} of k(1)^2"
            )
        return moments, count, max(0.0, float(missing))

    def _series(self, angle: np.ndarray, degree: int, order: int) -> CubicSpline:
        weight = (self.degeneracies * self.eigenvalues**order)[: degree + 1]
        terms = legendre(self.dim, np.cos(angle), degree)
        return CubicSpline(angle, sum(w * P for w, P in zip(weight, terms, strict=True)))

    def truncated(self, degree: int) -> Truncated:
        """The kernel without the harmonics beyond a degree."""
        angle = np.linspace(0.0, np.pi, KNOTS)
        kept = float((self.degeneracies * self.eigenvalues)[: degree + 1].sum())
        parts = (self._series(angle, degree, order) for order in (1, 2))
        return Truncated(degree, *parts, missing=max(0.0, self.diagonal - kept))


@cache
def _gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(nodes)


def legendre(dim: int, t: np.ndarray, max_degree: int) -> Iterator[np.ndarray]:
    """P_0, ..., P_max of the sphere in `dim` dimensions at cosines t, with P_l(1) = 1.

    (l + d - 2) P_{l+1} = (2l + d - 2) t P_l - l P_{l-1}; in two dimensions P_l = cos l theta.
    """
    before, now = np.zeros_like(t), np.ones_like(t)
    for degree in range(max_degree + 1):
        yield now
        top = (2 * degree + dim - 2) * t * now - degree * before
        # the first step has l = 0: P_1 = t in every dimension
        before, now = now, (t.copy() if degree == 0 else top / (degree + dim - 2))


def degeneracy(dim: int, degree: np.ndarray) -> np.ndarray:
    """N(d, l) = (2l + d - 2)/(l + d - 2) C(l + d - 2, l), the number of harmonics of degree l."""
    l = np.asarray(degree, dtype=np.float64)  # noqa: E741
    if dim == 2:
        return np.where(l == 0, 1.0, 2.0)
    count = np.exp(gammaln(l + dim - 2) - gammaln(l + 1) - gammaln(dim - 1)) * (2 * l + dim - 2)
    return np.where(count < 2**53, np.round(count), count)


def check_target_power(target_power: ArrayLike) -> np.ndarray:
    """The powers g_l^2 as an array, if they are finite, not negative and not all zero."""
    power = np.asarray(target_power, dtype=np.float64)
    if power.ndim != 1 or not power.size or not np.isfinite(power).all() or (power < 0).any():
        raise ValueError(
            "target_power must be finite, not negative, one number per degree from 0 on; got "
            f"{target_power!r}"
        )
    if not power.any():
        raise ValueError("target_power is zero: there is nothing to learn")
    return power


def _on_the_circle(kernel: Kernel) -> np.ndarray:
    """K_2(a) = (1/2 pi) int k(a - b) k(b) db at the knots, by its Fourier series.

    Eigenvalues of networks fall like a power of the degree, in two dimensions so slowly that
    degrees beyond 200 matter to a few hundred samples.
    """
    half = FINER * (KNOTS - 1)
    value = _evaluate(kernel, np.cos(np.linspace(0.0, np.pi, half + 1)))
    around = np.concatenate([value, value[-2:0:-1]])
    spectrum = np.fft.rfft(around).real / len(around)
    return np.fft.irfft(np.square(spectrum) * len(around), len(around))[: half + 1 : FINER]


def _evaluate(kernel: Kernel, t: np.ndarray) -> np.ndarray:
    value = np.asarray(kernel(t), dtype=np.float64)
    if value.shape != t.shape or not np.isfinite(value).all():
        raise ValueError("kernel(t) must return one finite number per cosine t")
    return value


# -- data ------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class SphereData:
    """Inputs on the sphere and labels of several targets.

    Attributes
    ----------
    inputs : ndarray (n, dim)
        Of norm 1.
    directions : ndarray (dim, targets)
        Of norm 1.
    angles : ndarray (n, n)
        Between inputs, radians.
    harmonics : ndarray (degrees, n, targets)
        N_l^{1/2} P_l(x . w).
    labels : ndarray (n, targets)
    """

    inputs: np.ndarray
    directions: np.ndarray
    angles: np.ndarray
    harmonics: np.ndarray
    labels: np.ndarray


def draw_data(
    rng: np.random.Generator,
    size: int,
    dim: int,
    power: np.ndarray,
    label_noise: float,
    n_targets: int,
) -> SphereData:
    """Inputs uniform on the sphere, and labels of single-direction targets of given powers."""
    x = rng.normal(size=(size, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    w = rng.normal(size=(dim, n_targets))
    w /= np.linalg.norm(w, axis=0)
    cosine = np.clip(x @ x.T, -1.0, 1.0)
    np.fill_diagonal(cosine, 1.0)
    harmonics = target_harmonics(x, w, len(power))
    labels = np.tensordot(np.sqrt(power), harmonics, 1)
    labels = labels + math.sqrt(label_noise) * rng.normal(size=labels.shape)
    return SphereData(x, w, np.arccos(cosine), harmonics, labels)


def target_harmonics(x: np.ndarray, w: np.ndarray, degrees: int) -> np.ndarray:
    """N_l^{1/2} P_l(x . w) for l < degrees, (degrees, n, targets); x (n, dim), w (dim, targets)."""
    dim = x.shape[1]
    values = np.stack(list(legendre(dim, np.clip(x @ w, -1.0, 1.0), degrees - 1)))
    return values * np.sqrt(degeneracy(dim, np.arange(degrees)))[:, None, None]
