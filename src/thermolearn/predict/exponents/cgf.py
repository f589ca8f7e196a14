"""Cumulant generating functions: of a sample of scores, or known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real
from thermolearn.predict.exponents.scores import (
    as_scores,
    lattice,
    outer_excess,
    tail_shape,
    weight_shape,
)

# Elements of the matrix (tilts, scores) held at once
BLOCK = 2**21
# Fewer effective scores than this behind a tilted average, and its error bar is not one
LEAST_ESS = 100.0
# Squares of scores of another magnitude leave the range of floats
SMALLEST, LARGEST = 1e-140, 1e140
# Weights with a tail of this shape have no variance
UNEVEN = 0.5


@dataclass(frozen=True, eq=False)
class Moments:
    """At tilts t, all of one shape: phi(t), phi'(t), phi''(t) and the effective sample size."""

    cgf: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    ess: np.ndarray


class CGF(Protocol):
    """What rates and tails need: phi and two derivatives, where it lives, and its lattice."""

    @property
    def support(self) -> tuple[float, float]:
        """Range of the scores."""
        ...

    @property
    def domain(self) -> tuple[float, float]:
        """Open interval of t in which phi is finite."""
        ...

    @property
    def span(self) -> float | None:
        """Spacing of the scores if they lie on a lattice."""
        ...

    @property
    def origin(self) -> float:
        """A point of the lattice."""
        ...

    @property
    def rounding(self) -> float:
        """Rounding error of the scores: a threshold so near to a value of a lattice is on it."""
        ...

    @property
    def size(self) -> int | None:
        """Scores behind the estimate; None if phi is exact."""
        ...

    @property
    def law(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Values and their probabilities, if the scores have but finitely many."""
        ...

    def moments(self, t: ArrayLike) -> Moments:
        """phi, phi', phi'' and the effective sample size."""
        ...


class EmpiricalCGF:
    """phi(t) = log (1/M) sum_i exp(t f_i) of M scores f_i, and its tilted averages.

    With weights w_i ~ exp(t f_i): phi' is the weighted mean, phi'' the weighted variance, and the
    effective sample size is 1 / sum_i w_i^2. Everything by log-sum-exp about the mean score.

    Parameters
    ----------
    scores : array (M,)
        Independent scores of one class, M >= 50, *not* those the detector was trained on: scores
        of training data make the exponents too large.

    Attributes
    ----------
    size : int
        M.
    support : (float, float)
        Smallest and largest score; beyond them the sample says nothing.
    span : float or None
        Spacing, if the scores lie on a lattice (integers, counts of votes, rounded numbers), in
        float32 too.

    Raises
    ------
    ValueError
        Fewer than 50 scores, scores that are not finite or all equal, an array of two or more
        dimensions, or scores so large or with so small a range that their squares are no floats.

    References
    ----------
    P. Braca, L. M. Millefiori, A. Aubry, S. Marano, A. De Maio, P. Willett, arXiv:2207.10939.
    """

    def __init__(self, scores: ArrayLike):
        sample = as_scores("scores", scores)
        _check_magnitude(sample)
        self.scores = sample
        self.size = len(sample)
        self._center = float(sample.mean())
        values, counts = np.unique(sample, return_counts=True)
        self.support = float(values[0]), float(values[-1])
        self.domain = -math.inf, math.inf
        self.span, self.rounding = lattice(values)
        self.origin = float(values[0])
        self._values, self._counts = values - self._center, counts.astype(np.float64)

    def moments(self, t: ArrayLike) -> Moments:
        """phi, phi', phi'' and the effective sample size at tilts t of any shape."""
        tilts = np.asarray(t, dtype=np.float64)
        out = np.empty((4, tilts.size))
        rows = max(1, BLOCK // len(self._values))
        for start in range(0, tilts.size, rows):
            part = slice(start, start + rows)
            out[:, part] = self._block(tilts.ravel()[part])
        phi, mean, var, ess = out.reshape(4, *tilts.shape)
        return Moments(phi, mean + self._center, var, ess)

    def _block(self, t: np.ndarray) -> tuple[np.ndarray, ...]:
        x, c = self._values, self._counts
        top = np.maximum(t * x[0], t * x[-1])
        weight = np.exp(t[:, None] * x - top[:, None])
        total = weight @ c
        phi = top + np.log(total / self.size) + t * self._center
        mean = weight @ (c * x) / total
        # about the tilted mean: far out, the mean of squares would lose the variance to rounding
        var = (weight * (x - mean[:, None]) ** 2) @ c / total
        return phi, mean, var, total**2 / (weight**2 @ c)

    def cgf(self, t: ArrayLike) -> np.ndarray:
        """phi(t)."""
        return self.moments(t).cgf

    def mean(self, t: ArrayLike = 0.0) -> np.ndarray:
        """phi'(t), the mean of the tilted scores."""
        return self.moments(t).mean

    def var(self, t: ArrayLike = 0.0) -> np.ndarray:
        """phi''(t), the variance of the tilted scores."""
        return self.moments(t).var

    def ess(self, t: ArrayLike) -> np.ndarray:
        """(sum w)^2 / sum w^2 of the weights exp(t f); M at t = 0."""
        return self.moments(t).ess

    @property
    def law(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct scores and their shares."""
        return self._values + self._center, self._counts / self.size

    @cached_property
    def _outer(self) -> dict[bool, np.ndarray]:
        return {True: outer_excess(self.scores), False: outer_excess(-self.scores)}

    def uneven(self, t: ArrayLike) -> np.ndarray:
        """Whether the largest weights exp(t f) fall off too slowly for a variance, phi(2t).

        A generalized Pareto law of the largest of them has a shape above 1/2. The effective sample
        size does not show it: the weights that would lower it are not in the sample.
        """
        tilts = np.asarray(t, dtype=np.float64)
        flat = tilts.ravel()
        found = np.zeros(flat.size, dtype=bool)
        for upper in (True, False):
            side = flat > 0 if upper else flat < 0
            if side.any() and len(self._outer[upper]):
                found[side] = weight_shape(self._outer[upper], np.abs(flat[side])) > UNEVEN
        return found.reshape(tilts.shape)

    @cached_property
    def _tail_shapes(self) -> dict[bool, tuple[float, float]]:
        return {True: tail_shape(self.scores), False: tail_shape(-self.scores)}

    def heavy_tail(self, upper: bool) -> str:
        """A sentence if the upper (lower) tail looks like a power law, else an empty string.

        The shape of a generalized Pareto law of the 10% outermost scores must exceed 0 by three
        standard errors. A power law has no exponent: phi is infinite however finite the sample.
        Scores within [0, 1] are taken for probabilities, and have one.
        """
        shape, error = self._tail_shapes[upper]
        if not shape > 3 * error:
            return ""
        what = f"heavy {'upper' if upper else 'lower'} tail (shape {shape:.2f} +- {error:.2f}): "
        if self.support[0] >= 0 and self.support[1] <= 1:
            return what + "few rare scores within [0, 1] decide (better: logits)"
        return what + "its cumulant generating function may be infinite, and no exponent exist"


def _check_magnitude(sample: np.ndarray) -> None:
    size = max(float(sample.max()), -float(sample.min()))
    if size > LARGEST or sample.max() - sample.min() < SMALLEST:
        raise ValueError(
            f"scores of magnitude {size:.3g}: their squares leave the range of floats. Multiply "
            "them by a constant; their unit does not matter"
        )


@dataclass(frozen=True, eq=False)
class AnalyticCGF:
    """A cumulant generating function given by formulas, in place of a sample.

    Parameters
    ----------
    function, derivative, second : callable
        phi(t), phi'(t), phi''(t) of a float64 array of tilts.
    support : (float, float)
        Range of the scores; infinite by default.
    domain : (float, float)
        Open interval of t around 0 in which phi is finite.
    span, origin : float, optional
        Spacing and a point of the lattice, if the scores lie on one.
    rounding : float
        Rounding error of the scores.
    law : (array, array), optional
        Values and their probabilities, if there are finitely many: tails are checked by draws.

    Raises
    ------
    ValueError
        0 is not inside the domain, or phi(0) is not 0.
    """

    function: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    second: Callable[[np.ndarray], np.ndarray]
    support: tuple[float, float] = (-math.inf, math.inf)
    domain: tuple[float, float] = (-math.inf, math.inf)
    span: float | None = None
    origin: float = 0.0
    rounding: float = 0.0
    size: None = None
    law: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not self.domain[0] < 0 < self.domain[1]:
            raise ValueError(f"domain must have 0 inside, got {self.domain}")
        start = float(np.asarray(self.function(np.zeros(1)))[0])
        if not abs(start) < 1e-9:
            raise ValueError(f"function must vanish at t = 0, got {start:g}")

    def moments(self, t: ArrayLike) -> Moments:
        """phi, phi', phi''; the effective sample size is infinite."""
        tilts = np.asarray(t, dtype=np.float64)
        flat = np.atleast_1d(tilts)
        parts = (self.function(flat), self.derivative(flat), self.second(flat))
        phi, mean, var = (
            np.broadcast_to(np.asarray(part, dtype=np.float64), flat.shape).reshape(tilts.shape)
            for part in parts
        )
        return Moments(phi, mean, var, np.full(tilts.shape, math.inf))

    def cgf(self, t: ArrayLike) -> np.ndarray:
        """phi(t)."""
        return self.moments(t).cgf

    def mean(self, t: ArrayLike = 0.0) -> np.ndarray:
        """phi'(t)."""
        return self.moments(t).mean

    def var(self, t: ArrayLike = 0.0) -> np.ndarray:
        """phi''(t)."""
        return self.moments(t).var

    @classmethod
    def gaussian(cls, mean: float = 0.0, std: float = 1.0) -> AnalyticCGF:
        """phi(t) = mean t + std^2 t^2 / 2; ValueError unless std > 0."""
        m, v = real("mean", mean), real("std", std, above=0) ** 2
        return cls(lambda t: m * t + v * t**2 / 2, lambda t: m + v * t, lambda t: v + 0 * t)

    @classmethod
    def exponential(cls, scale: float = 1.0) -> AnalyticCGF:
        """phi(t) = -log(1 - scale t) of Exp scores with mean `scale`; ValueError unless > 0."""
        s = real("scale", scale, above=0)
        return cls(
            lambda t: -np.log1p(-s * t),
            lambda t: s / (1 - s * t),
            lambda t: (s / (1 - s * t)) ** 2,
            support=(0.0, math.inf),
            domain=(-math.inf, 1 / s),
        )

    @classmethod
    def weighted(
        cls, values: ArrayLike, probabilities: ArrayLike, discrete: bool = True
    ) -> AnalyticCGF:
        """phi(t) = log sum_k p_k exp(t f_k) of known probabilities.

        Parameters
        ----------
        values, probabilities : arrays (K,)
            Distinct finite values, and p_k >= 0 of sum 1.
        discrete : bool
            False if the values are nodes of a quadrature over continuous scores, which lie on no
            lattice.

        Raises
        ------
        ValueError
            Shapes differ, fewer than two values, or the p_k are no probabilities.
        """
        f = np.asarray(values, dtype=np.float64)
        p = np.asarray(probabilities, dtype=np.float64)
        if f.ndim != 1 or f.shape != p.shape or len(f) < 2 or not np.isfinite(f).all():
            raise ValueError("values and probabilities must be finite arrays of one length >= 2")
        if not ((p >= 0).all() and abs(p.sum() - 1) < 1e-9):
            raise ValueError("probabilities must not be negative and must sum to 1")
        keep = p > 0
        order = np.argsort(f[keep])
        f, log_p = f[keep][order], np.log(p[keep] / p[keep].sum())[order]
        center = float(np.exp(log_p) @ f)
        span, error = lattice(f)
        x = f - center

        def tilted(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            exponent = t[:, None] * x + log_p
            top = exponent.max(1)
            weight = np.exp(exponent - top[:, None])
            total = weight.sum(1)
            return weight / total[:, None], top + np.log(total)

        def second(t: np.ndarray) -> np.ndarray:
            weight = tilted(t)[0]
            return (weight * (x - (weight @ x)[:, None]) ** 2).sum(1)

        return cls(
            lambda t: tilted(t)[1] + center * t,
            lambda t: tilted(t)[0] @ x + center,
            second,
            support=(float(f[0]), float(f[-1])),
            span=span if discrete else None,
            origin=float(f[0]),
            rounding=error,
            law=(f, np.exp(log_p)),
        )
