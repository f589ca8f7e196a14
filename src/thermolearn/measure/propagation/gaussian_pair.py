"""Activations and weight laws whose pre-activations are exactly Gaussian (arXiv:2205.12379)."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import gamma, log_ndtr
from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.activation import Elementwise
from thermolearn.core.checks import real
from thermolearn.measure.propagation.mellin import WeibullPartner

KINDS = ("odd", "positive")
REACH = 8.0  # the table ends here: a standard normal goes beyond with probability 1e-15
CELLS_PER_UNIT = 50
NEAREST = 2.02  # below, the inversion costs more than 10^5 points per value

FLOAT = torch.float32  # lookups are made at least in this precision

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class GaussianPreactivation(Elementwise):
    """The activation phi_theta with W phi_theta(X) ~ N(0, 1) for X ~ N(0, 1), and the law of W.

    W is symmetric Weibull, P(|W| > t) = exp(-t^theta). With n inputs that are independent of each
    other, n^{-1/2} sum_j W_j phi(X_j) is then exactly N(0, 1) at any n. In a network the units of
    one layer share the layer below and are uncorrelated but not independent, so that from the
    second such layer on, at width 2 and above, a small deviation is left (Kolmogorov-Smirnov
    distance about 0.017 at width 3 and 0.005 at width 10; none at width 1).

    phi_odd(x) = sign(x) Q^{-1}(2 Phi(-|x|)), phi_positive(x) = Q^{-1}(Phi(-x)), Q(y) = P(|Y| > y),
    E|Y|^s = 2^{s/2} Gamma((1+s)/2) / (sqrt(pi) Gamma(1 + s/theta)). The transform is inverted
    exactly, where the authors fit; the table is a cubic Hermite spline with exact values and
    slopes (50 cells per unit up to |x| = 8, then a straight line; the left tail of the positive
    kind in closed form), right to 1e-8.

    Parameters
    ----------
    theta : float
        Exponent of the weights' law, > 2; large theta approaches W = +-1 and phi(x) = x. From
        2 to 2.02 the exact pair of theta = 2 takes its place, with a warning; see ``effective``.
    kind : "odd" or "positive"
        An odd activation (tanh-like), or an increasing one that starts from 0 (softplus-like).

    Attributes
    ----------
    effective : float
        The theta of the pair in use: `theta`, or 2.
    coefficients : Tensor (cells, 4)
        Cubic polynomials of the table, a buffer: it follows ``.to(...)`` and ``state_dict``.

    Raises
    ------
    ValueError
        theta not above 2, or an unknown kind.

    References
    ----------
    P. Wolinski, J. Arbel, arXiv:2205.12379 (the pairs; they assume independent pre-activations).
    """

    coefficients: Tensor

    def __init__(self, theta: float, kind: str = "odd"):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be 'odd' or 'positive', got {kind!r}")
        self.theta = _checked_theta(theta)
        self.kind = kind
        self.effective = self.theta if self.theta >= NEAREST else 2.0
        if self.effective != self.theta:
            warnings.warn(
                f"theta = {self.theta:g} is closer to 2 than {NEAREST}: weights and activation "
                "are those of the exact pair of theta = 2",
                stacklevel=2,
            )
        values, slopes = pair_table(self.effective, kind)
        self.register_buffer("coefficients", torch.from_numpy(_cubics(values, slopes)))
        self.coefficients = self.coefficients.to(torch.get_default_dtype())

    def forward(self, x: Tensor) -> Tensor:
        """phi(x), element by element, in the precision of x.

        Raises
        ------
        TypeError
            x is not a floating tensor.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"the activation needs a tensor of floating numbers, got {given}")
        dtype = torch.promote_types(torch.promote_types(x.dtype, self.coefficients.dtype), FLOAT)
        z = x.to(dtype)
        sign = torch.where(z < 0, -1.0, 1.0).to(dtype)  # not sign(): the slope at 0 is not 0
        size = z * sign if self.kind == "odd" else z
        start = 0.0 if self.kind == "odd" else -REACH
        inside = size.clamp(start, REACH)
        place = (inside.detach() - start) * CELLS_PER_UNIT
        cell = place.floor().long().clamp(0, len(self.coefficients) - 1)
        # not coefficients[cell]: torch.func.vmap refuses it for a single number
        a, b, c, d = F.embedding(cell, self.coefficients).to(dtype).unbind(-1)
        t = (inside - start) * CELLS_PER_UNIT - cell
        table = a + t * (b + t * (c + t * d))
        beyond = (size - inside).clamp(min=0.0)
        last = self.coefficients[-1].to(dtype)
        table = table + beyond * (last[1] + 2 * last[2] + 3 * last[3]) * CELLS_PER_UNIT
        if self.kind == "odd":
            return (sign * table).to(x.dtype)
        tail = torch.special.ndtr(z) / density_at_zero(self.effective)
        return torch.where(z < -REACH, tail, table).to(x.dtype)

    def chi1(self) -> float:
        """chi_1 = E W^2 E phi'(X)^2, the growth of gradients per layer at any width.

        Of an odd pair at least 1, by the Poincare inequality of the Gaussian: weakly chaotic, and
        critical in the limit of large theta. A positive pair has a mean and is ordered (0.23 to
        0.40). Numerical error below 1e-9 (exact slopes, not those of the table).
        """
        _, slopes = pair_table(self.effective, self.kind)
        x = table_positions(self.kind)
        weight = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) / CELLS_PER_UNIT
        if self.kind == "odd":
            weight[1:] *= 2
        return float(gamma(1 + 2 / self.effective) * (weight * slopes**2).sum())

    def sample_weights(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw W of unit scale: sign times E^{1/theta}, E exponential; E W^2 = Gamma(1 + 2/theta).

        Parameters
        ----------
        shape : tuple of int
        generator : torch.Generator
            The draw is made on its device.
        dtype : torch.dtype, optional
            Default: torch's default.
        """
        if not isinstance(generator, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator, got {type(generator).__name__}; global "
                "generators are not drawn from"
            )
        place: dict[str, Any] = {"dtype": torch.float64, "device": generator.device}
        size = torch.empty(shape, **place).exponential_(generator=generator)
        sign = torch.randint(2, shape, generator=generator, **place).mul_(2).sub_(1)
        return (sign * size ** (1 / self.effective)).to(dtype or torch.get_default_dtype())

    @torch.no_grad()
    def init_(self, layer: nn.Module, generator: torch.Generator) -> nn.Module:
        """Set weights to W / sqrt(fan_in) and biases to 0, in place; returns the layer.

        For a layer behind this activation. The first layer of a network sees data, not phi(X):
        there Gaussian weights of variance 1 / fan_in and inputs of unit mean square give N(0, 1).

        Parameters
        ----------
        layer : nn.Linear or nn.Conv1d, 2d, 3d
            fan_in of a convolution: input channels per group times the size of the kernel.
        generator : torch.Generator
            One for all layers of a network; two layers must not see the same draws.

        Raises
        ------
        TypeError
            Another kind of layer, or no generator.
        """
        if not isinstance(layer, nn.Linear | _Convolution):
            raise TypeError(
                f"layer must be nn.Linear or nn.Conv1d, 2d or 3d, got {type(layer).__name__}"
            )
        fan_in = layer.weight[0].numel()
        drawn = self.sample_weights(tuple(layer.weight.shape), generator, torch.float64)
        layer.weight.copy_(drawn / math.sqrt(fan_in))
        if layer.bias is not None:
            layer.bias.zero_()
        return layer

    def extra_repr(self) -> str:
        return f"theta={self.theta:g}, kind={self.kind!r}"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """A change of precision starts from the exact table, not from a rounded one."""
        super()._apply(fn, recurse)
        if not self.coefficients.is_meta:
            exact = torch.from_numpy(_cubics(*pair_table(self.effective, self.kind)))
            self.coefficients = exact.to(self.coefficients)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """A table of another theta or kind is refused: the weights' law would not fit it."""
        given = state_dict.get(prefix + "coefficients")
        if isinstance(given, Tensor) and given.shape == self.coefficients.shape:
            own = _cubics(*pair_table(self.effective, self.kind))
            half = given.dtype in (torch.float16, torch.bfloat16)
            loaded = given.detach().cpu().double().numpy()
            if not np.allclose(loaded, own, rtol=0, atol=2e-2 if half else 1e-5):
                args[-1].append(
                    f'"{prefix}coefficients" belongs to another theta or kind than '
                    f"GaussianPreactivation({self.extra_repr()})"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, *args)


def _checked_theta(theta: float) -> float:
    value = real("theta", theta)
    if value <= 2:
        raise ValueError(
            f"theta must exceed 2; theta=2 is the bounded limit phi_2 (see bounded_limit), got "
            f"{theta!r}"
        )
    return value


def bounded_limit(x: Tensor) -> Tensor:
    """phi_2(x) = sqrt(2) sin(pi (Phi(x) - 1/2)), the odd activation at theta -> 2 (Box-Muller)."""
    return math.sqrt(2) * torch.sin(math.pi * (torch.special.ndtr(x) - 0.5))


def density_at_zero(theta: float) -> float:
    """The density of |Y| at 0, sqrt(2 / pi) / Gamma(1 - 1/theta)."""
    return math.sqrt(2 / math.pi) / float(gamma(1 - 1 / theta))


def table_positions(kind: str) -> np.ndarray:
    """The knots x_k, 0 to 8 (odd) or -8 to 8 (positive)."""
    first = 0 if kind == "odd" else -round(REACH * CELLS_PER_UNIT)
    return np.arange(first, round(REACH * CELLS_PER_UNIT) + 1) / CELLS_PER_UNIT


@lru_cache(maxsize=64)
def pair_table(theta: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """phi and phi' at the knots; phi' = 2 n(x) / f(phi) (odd), n(x) / f(phi) (positive)."""
    x = table_positions(kind)
    normal = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    if theta == 2:
        return _bounded_table(x, kind)
    partner = WeibullPartner(theta)
    if kind == "positive":
        y, density = partner.quantiles(log_ndtr(x), log_ndtr(-x))
        return y, normal / density
    log_q = math.log(2) + log_ndtr(-x[1:])
    y, density = partner.quantiles(np.log(-np.expm1(log_q)), log_q)
    slopes = np.concatenate([[gamma(1 - 1 / theta)], 2 * normal[1:] / density])
    return np.concatenate([[0.0], y]), slopes


def _bounded_table(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """theta = 2: |Y| = sqrt(2) |sin|, by Box and Muller."""
    normal = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    above = np.exp(log_ndtr(-np.abs(x)))
    if kind == "odd":
        angle, rate = math.pi * above, math.pi
        return math.sqrt(2) * np.cos(angle), math.sqrt(2) * rate * np.sin(angle) * normal
    angle = np.where(x < 0, above, 1 - above) * math.pi / 2
    complement = np.where(x < 0, 1 - above, above) * math.pi / 2
    slope = math.sqrt(2) * math.pi / 2 * np.sin(complement) * normal
    return math.sqrt(2) * np.sin(angle), slope


def _cubics(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Hermite polynomials a + b t + c t^2 + d t^3, t in [0, 1], of every cell."""
    rise = np.diff(values)
    b, end = slopes[:-1] / CELLS_PER_UNIT, slopes[1:] / CELLS_PER_UNIT
    return np.stack([values[:-1], b, 3 * rise - 2 * b - end, b + end - 2 * rise], axis=1)
