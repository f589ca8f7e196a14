"""Dual activations: averages of an activation and its slope over two correlated Gaussians.

E phi(u) phi(v) and E phi'(u) phi'(v) for u, v ~ N(0, [[q1, k], [k, q2]]), element by element over
tensors. Closed forms: ReLU and leaky ReLU of any slope, |z| (Cho, Saul, NIPS 2009), erf (Williams,
doi:10.1162/089976698300017412), GELU (Tsuchida et al., arXiv:2002.08517), sin, cos, linear. Any
other activation is tabulated to a stated accuracy (see
`thermolearn.predict.kernels.tabulated`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.averages import find_jump

Given = str | Callable[[Tensor], Tensor] | Activation
# Beyond the exact bounds q >= 0 and k^2 <= q1 q2 by rounding only.
ROUNDING = 1e-9


class Pair(NamedTuple):
    """What a dual activation sees of two Gaussians."""

    q1: Tensor
    """Variance of u."""
    q2: Tensor
    """Variance of v."""
    k: Tensor
    """Covariance, at most s in size."""
    s: Tensor
    """sqrt(q1 q2)"""
    gap: Tensor
    """s - k >= 0, without the cancellation where the caller knows better."""


PairAverage = Callable[[Pair, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Dual:
    """Gaussian averages of one activation; made by `dual`.

    Attributes
    ----------
    name : str
        Of the activation.
    closed_form : bool
        Whether the averages are exact; otherwise they are right to 1e-8 (`plane.ACCURACY`),
        relative to the geometric mean of the two diagonal values.
    slope : float or None
        For phi(z) = max(z, 0) + slope min(z, 0), else None.
    """

    name: str
    closed_form: bool
    slope: float | None
    _average: PairAverage
    _diagonal: Callable[[Tensor], tuple[Tensor, Tensor]]
    _mean: Callable[[Tensor], Tensor]

    def diagonal(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """E phi(u)^2 and E phi'(u)^2, u ~ N(0, q); at q = 0 the limit q -> 0.

        Raises
        ------
        ValueError
            A variance that is negative or not finite.
        """
        return self._diagonal(_variance("q", q))

    def mean(self, q: Tensor) -> Tensor:
        """E phi(u), u ~ N(0, q).

        Raises
        ------
        ValueError
            A variance that is negative or not finite.
        """
        return self._mean(_variance("q", q))

    def pair(
        self, q1: Tensor, q2: Tensor, k: Tensor, slope: bool = True, gap: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """E phi(u) phi(v) and E phi'(u) phi'(v) for variances q1, q2 and covariance k.

        Parameters
        ----------
        q1, q2, k : Tensor
            Broadcastable, float64; k^2 <= q1 q2 up to rounding, which is clipped.
        slope : bool
            False leaves the second average out (None).
        gap : Tensor, optional
            sqrt(q1 q2) - k >= 0 where it is known better than by subtraction: the slopes of a
            kinked activation depend on its square root, so that rounding of k by 1e-16 is an
            error of 1e-8 where u and v nearly coincide.

        Returns
        -------
        tuple of Tensor
            Of the broadcast shape; where u = v exactly, the same as `diagonal`.

        Raises
        ------
        ValueError
            A variance that is negative, an entry that is not finite, or k^2 > q1 q2.
        NotApplicableError
            The averages of the activation cannot be resolved (not for closed forms).
        """
        q1, q2, k = _variance("q1", q1), _variance("q2", q2), torch.as_tensor(k, dtype=torch.double)
        s = torch.where(q1 == q2, q1, q1.sqrt() * q2.sqrt())  # exactly q where u = v
        if not bool((k.abs() <= s * (1 + ROUNDING) + 1e-300).all()):
            raise ValueError("k must be finite and k^2 at most q1 q2: not a covariance")
        k = torch.minimum(torch.maximum(k, -s), s)
        return self._average(Pair(q1, q2, k, s, s - k if gap is None else gap.clamp(min=0)), slope)


def dual(activation: Given) -> Dual:
    """The dual activation of a name, a module, an element-wise torch callable.

    Raises
    ------
    ValueError
        Unknown name.
    TypeError
        Not an element-wise, differentiable activation.
    NotApplicableError
        The activation has parameters of its own, or jumps: E phi' phi' diverges then.
    """
    try:
        return _dual(activation)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _dual.__wrapped__(activation)


@lru_cache(maxsize=64)
def _dual(activation: Given) -> Dual:
    resolved = resolve_activation(activation)
    function = resolved.function
    if isinstance(function, nn.Module) and next(function.parameters(), None) is not None:
        raise NotApplicableError(
            f"activation {resolved.name} has parameters of its own, which a kernel would have to "
            "train as well; use an activation without, e.g. nn.LeakyReLU(slope)"
        )
    slope = _negative_slope(function)
    if slope is not None:
        return _piecewise_linear(resolved.name, slope)
    for functions, closed in CLOSED_FORMS:
        if function in functions or _is_module_of(function, functions):
            return Dual(resolved.name, True, None, *closed)
    _refuse_jump(resolved)
    from thermolearn.predict.kernels.tabulated import tabulated_averages

    return Dual(resolved.name, False, None, *tabulated_averages(resolved))


def _is_module_of(function: object, functions: tuple[Any, ...]) -> bool:
    """Whether a module computes one of the functions."""
    if isinstance(function, nn.GELU):
        return function.approximate == "none" and F.gelu in functions
    return type(function) is nn.Identity and resolve_activation("linear").function in functions


def _negative_slope(function: object) -> float | None:
    """a for max(z, 0) + a min(z, 0), None for any other function."""
    if type(function) is nn.LeakyReLU:
        return float(function.negative_slope)
    if type(function) is nn.ReLU or any(function is f for f in (torch.relu, F.relu)):
        return 0.0
    if function is F.leaky_relu:
        return 0.01
    return -1.0 if any(function is f for f in (torch.abs, torch.absolute)) else None


def _refuse_jump(activation: Activation) -> None:
    at = find_jump(activation)
    if at is not None:
        raise NotApplicableError(
            f"activation {activation.name!r} jumps at z = {at:g}: E phi'(u) phi'(v) diverges where "
            "u and v coincide and the network has no kernel; use a continuous activation"
        )


def _variance(name: str, q: Tensor) -> Tensor:
    q = torch.as_tensor(q, dtype=torch.double)
    if not bool(((q >= 0) & (q < math.inf)).all()):
        raise ValueError(f"{name} must be finite and not negative: a variance")
    return q


# -- closed forms ------------------------------------------------------------------------------
def angle(s: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """theta and s sin(theta) of two vectors with product of norms s and s (1 - cos theta) = gap.

    By tan^2(theta / 2) = gap / (2 s - gap), right to rounding at any angle. A vector of length 0
    is at pi/2 to any other, at 0 to another of length 0 (gap = s = 0 for both: pi/2 is chosen by
    the caller).
    """
    rest = (2 * s - gap).clamp(min=0)
    return 2 * torch.atan2(gap.sqrt(), rest.sqrt()), (gap * rest).sqrt()


def _piecewise_linear(name: str, slope: float) -> Dual:
    """max(z, 0) + slope min(z, 0) = slope z + (1 - slope) max(z, 0)."""
    share, square = (1 - slope) ** 2, (1 + slope**2) / 2

    def average(pair: Pair, slopes: bool) -> tuple[Tensor, Tensor | None]:
        q1, q2, _, s, gap = pair
        theta, sine = angle(s, gap)
        theta = torch.where((s == 0) & (q1 != q2), math.pi / 2, theta)
        k = s - gap
        value = square * k + share / (2 * math.pi) * (sine - theta * k)
        return value, square - share / (2 * math.pi) * theta if slopes else None

    def diagonal(q: Tensor) -> tuple[Tensor, Tensor]:
        return square * q, torch.full_like(q, square)

    def mean(q: Tensor) -> Tensor:
        return (1 - slope) * (q / (2 * math.pi)).sqrt()

    return Dual(name, True, slope, average, diagonal, mean)


def _linear_average(pair: Pair, slope: bool) -> tuple[Tensor, Tensor | None]:
    value = torch.broadcast_tensors(pair.k, pair.s)[0].clone()
    return value, torch.ones_like(value) if slope else None


def _erf_average(pair: Pair, slope: bool) -> tuple[Tensor, Tensor | None]:
    q1, q2, k, s, gap = pair
    # (1 + 2 q1)(1 + 2 q2) - 4 k^2
    root = (1 + 2 * (q1 + q2) + 4 * gap * (s + k)).sqrt()
    return 2 / math.pi * torch.atan2(2 * k, root), 4 / (math.pi * root) if slope else None


def _gelu_average(pair: Pair, slope: bool) -> tuple[Tensor, Tensor | None]:
    q1, q2, k, s, gap = pair
    d = 1 + q1 + q2 + gap * (s + k)  # (1 + q1)(1 + q2) - k^2
    root = d.sqrt()
    both = 0.25 + torch.atan2(k, root) / (2 * math.pi)  # E Phi(u) Phi(v)
    density = 1 / (2 * math.pi * root)
    value = k * both + density * (gap * (s + k) + k**2 * (1 / (1 + q1) + 1 / (1 + q2)))
    if not slope:
        return value, None
    return value, both + k * density * (1 / (1 + q1) + 1 / (1 + q2) + 1 / d)


def _sines(pair: Pair) -> tuple[Tensor, Tensor]:
    """E sin u sin v and E cos u cos v."""
    q1, q2, k, s, gap = pair
    half = (q1.sqrt() - q2.sqrt()) ** 2 / 2  # (q1 + q2) / 2 - s
    near, far = torch.exp(-half - gap) / 2, torch.exp(-half - s - k) / 2
    small = torch.sinh(k) * torch.exp(-(q1 + q2) / 2)  # no cancellation where k is small
    return torch.where(k.abs() < 1, small, near - far), near + far


def _sin_average(pair: Pair, slope: bool) -> tuple[Tensor, Tensor | None]:
    sine, cosine = _sines(pair)
    return sine, cosine if slope else None


def _cos_average(pair: Pair, slope: bool) -> tuple[Tensor, Tensor | None]:
    sine, cosine = _sines(pair)
    return cosine, sine if slope else None


def _on_diagonal(average: PairAverage) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def diagonal(q: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = average(Pair(q, q, q, q, torch.zeros_like(q)), True)
        assert slope is not None
        return value, slope

    return diagonal


def _closed(average: PairAverage, mean: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return average, _on_diagonal(average), mean


CLOSED_FORMS: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...] = (
    ((resolve_activation("linear").function,), _closed(_linear_average, torch.zeros_like)),
    ((torch.erf, torch.special.erf), _closed(_erf_average, torch.zeros_like)),
    ((F.gelu,), _closed(_gelu_average, lambda q: q / (2 * math.pi * (1 + q)).sqrt())),
    ((torch.sin,), _closed(_sin_average, torch.zeros_like)),
    ((torch.cos,), _closed(_cos_average, lambda q: torch.exp(-q / 2))),
)
