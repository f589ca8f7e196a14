"""Ising, Bernoulli and Gaussian units, and the energy of a machine made of two layers of them.

Every unit carries exp(field * value) over its own measure: counting measure on {-1, 1} ("ising")
or {0, 1} ("bernoulli"), and the standard normal distribution ("gaussian").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KINDS = ("ising", "bernoulli", "gaussian")
LOG_2PI = math.log(2 * math.pi)


def log_normalizer(kind: str, field: Tensor) -> Tensor:
    """ln of the sum over one unit of exp(field * value), element by element, without overflow."""
    if kind == "ising":
        size = field.abs()
        return size + torch.log1p(torch.exp(-2 * size))
    if kind == "bernoulli":
        return field.clamp(min=0) + torch.log1p(torch.exp(-field.abs()))
    return field.square() / 2


def mean(kind: str, field: Tensor, out: Tensor | None = None) -> Tensor:
    """Mean of a unit in its field; `out` may be the field itself."""
    if kind == "ising":
        return torch.tanh(field, out=out)
    if kind == "bernoulli":
        return torch.sigmoid(field, out=out)
    return field if out is None else out.copy_(field)


def field_of_mean(kind: str, average: Tensor, clip: float = 0.01) -> Tensor:
    """The field in which a unit has this mean, kept `clip` away from the ends of its range."""
    if kind == "ising":
        return torch.atanh(average.clamp(-1 + 2 * clip, 1 - 2 * clip))
    if kind == "bernoulli":
        return torch.logit(average.clamp(clip, 1 - clip))
    return average.clone()


def log_measure(kind: str, values: Tensor) -> Tensor:
    """ln of the layer's own measure at values (..., n), summed over units: (...,)."""
    if kind == "gaussian":
        return -0.5 * (values.square() + LOG_2PI).sum(-1)
    return values.new_zeros(values.shape[:-1])


def low_value(kind: str) -> float:
    """The smaller of the two values of a discrete unit."""
    return -1.0 if kind == "ising" else 0.0


def states(kind: str, n: int, first: int = 0, count: int | None = None) -> Tensor:
    """`count` of the 2^n states of a discrete layer from number `first` on: (count, n), float64."""
    last = 2**n if count is None else first + count
    number = torch.arange(first, last, dtype=torch.int64)
    bits = ((number[:, None] >> torch.arange(n)) & 1).double()
    return 2 * bits - 1 if kind == "ising" else bits


def check_domain(kind: str, X: np.ndarray, name: str = "X") -> None:
    """Raise ValueError unless every entry is a value that the units can take."""
    if not np.isfinite(X).all():
        raise ValueError(f"{name} contains NaN or infinity")
    if kind == "gaussian":
        return
    low = low_value(kind)
    outside = ~((low == X) | (X == 1))
    if outside.any():
        hint = "(X > threshold) * 1.0" if kind == "bernoulli" else "where(X > threshold, 1.0, -1.0)"
        # scikit-learn's words, by which its tools know the cause
        negative = "Negative values in data: " if kind == "bernoulli" and X.min() < 0 else ""
        raise ValueError(
            f"{negative}{name} holds {X[outside].flat[0]:.6g}, but {kind} visible units take the "
            f"values {low:g} and 1 only; binarize it, e.g. {hint}, or use visible='gaussian'"
        )


@dataclass(frozen=True, eq=False)
class Weights:
    """Parameters of the machine with weight exp(a . v + b . h + v W h) over its units' measures.

    Attributes
    ----------
    W : Tensor (n_visible, n_hidden)
    a : Tensor (n_visible,)
        Visible field.
    b : Tensor (n_hidden,)
        Hidden field.
    visible, hidden : {"ising", "bernoulli", "gaussian"}
        Kinds of the units; not both Gaussian, whose weight could not be normalized for every W.
    """

    W: Tensor
    a: Tensor
    b: Tensor
    visible: str
    hidden: str

    def __post_init__(self) -> None:
        check_kinds(self.visible, self.hidden)
        if self.W.ndim != 2 or self.W.shape != (len(self.a), len(self.b)):
            raise ValueError(
                f"W has shape {tuple(self.W.shape)}, a {tuple(self.a.shape)} and b "
                f"{tuple(self.b.shape)}; W must be (n_visible, n_hidden)"
            )
        for name in ("W", "a", "b"):
            if not torch.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} holds a number that is not finite")

    @property
    def n_visible(self) -> int:
        return self.W.shape[0]

    @property
    def n_hidden(self) -> int:
        return self.W.shape[1]

    def double(self) -> Weights:
        """The same in float64, as a copy."""
        W, a, b = (x.detach().double().clone() for x in (self.W, self.a, self.b))
        return Weights(W, a, b, self.visible, self.hidden)

    def transposed(self) -> Weights:
        """The layers exchanged."""
        return Weights(self.W.T, self.b, self.a, self.hidden, self.visible)

    def hidden_field(self, v: Tensor) -> Tensor:
        """b + v W, shape (n, n_hidden)."""
        return torch.addmm(self.b, v, self.W)

    def visible_field(self, h: Tensor) -> Tensor:
        """a + h W^T, shape (n, n_visible)."""
        return torch.addmm(self.a, h, self.W.T)

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -ln of the weight of v with h summed out, shape (n,); p(v) = exp(-F(v)) / Z."""
        summed = log_normalizer(self.hidden, self.hidden_field(v)).sum(-1)
        return -(v @ self.a) - log_measure(self.visible, v) - summed


def check_kinds(visible: str, hidden: str) -> None:
    """Raise ValueError for an unknown kind of unit, or for two Gaussian layers."""
    for name, kind in (("visible", visible), ("hidden", hidden)):
        if kind not in KINDS:
            raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {kind!r}")
    if visible == hidden == "gaussian":
        raise ValueError(
            "visible and hidden cannot both be gaussian: the weight has no finite integral for "
            "large W, and the machine is a plain Gaussian; choose hidden='ising' or 'bernoulli'"
        )
