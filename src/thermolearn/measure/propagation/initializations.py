"""The ways to choose weight and bias variances, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gamma
from torch import Tensor

from thermolearn.core.activation import Activation, resolve_activation, value_and_slope
from thermolearn.core.checks import real
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.propagation.critical import critical_line
from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
from thermolearn.measure.propagation.mean_field import MeanFieldMap

ActivationLike = str | Callable[[Tensor], Tensor] | Activation
NORMAL = "N(0, sigma_w2 / fan_in)"
COLUMNS = ("sigma_w2", "sigma_b2", "variance gain", "chi_1", "V'(q)")


@dataclass(frozen=True)
class Initialization:
    """One way to initialize a network with a given activation.

    Attributes
    ----------
    name : str
        "Glorot", "He", "edge of chaos" or "exactly Gaussian".
    condition : str
        What fixes sigma_w2.
    weights : str
        The law of the weights.
    q : float
        Pre-activation variance at which the numbers are taken.
    sigma_w2, sigma_b2 : Estimate
        Weight variance times fan-in; bias variance. NaN with a status if there is none.
    variance_gain : Estimate
        V(q) / q, the growth of the variance in one layer: 1 if q is a fixed point.
    chi1 : Estimate
        sigma_w2 E f'(sqrt(q) x)^2, the growth of squared gradients in one layer.
    variance_slope : Estimate
        V'(q); above 1 a variance beside q runs away from it.
    """

    name: str
    condition: str
    weights: str
    q: float
    sigma_w2: Estimate
    sigma_b2: Estimate
    variance_gain: Estimate
    chi1: Estimate
    variance_slope: Estimate

    @property
    def row(self) -> list[float]:
        """The numbers in the order of `COLUMNS`."""
        found = (self.sigma_w2, self.sigma_b2, self.variance_gain, self.chi1, self.variance_slope)
        return [float(e) for e in found]

    def __str__(self) -> str:
        numbers = "  ".join(f"{n} = {v:.5g}" for n, v in zip(COLUMNS, self.row, strict=True))
        return f"{self.name}: {numbers}"


def compare_initializations(activation: ActivationLike, q: float = 1.0) -> list[Initialization]:
    """Glorot, He, edge of chaos and, where there is one, exactly Gaussian.

    Each fixes sigma_w2 by a condition of its own, with f the activation and x ~ N(0, 1):

    - Glorot: f'(0)^2 sigma_w2 = 1, the linearized network keeps the variance;
    - He: sigma_w2 E f(x)^2 = 1, the variance 1 is kept;
    - edge of chaos: sigma_w2 E f'(sqrt(q) x)^2 = 1 and q = V(q), gradients and variance are kept;
    - exactly Gaussian: the law of W as well, so that W f(x) ~ N(0, 1); only for a
      `GaussianPreactivation`.

    All rows are evaluated at the same q, so that they can be compared; the variance stays there
    only if ``variance_gain`` is 1 and ``variance_slope`` at most 1.

    Parameters
    ----------
    activation : str, module or callable
    q : float
        Pre-activation variance, > 0 (inputs of unit mean square: 1).

    Raises
    ------
    ValueError, TypeError
        q out of range, or an activation that cannot be used.

    References
    ----------
    Schoenholz et al., arXiv:1611.01232 (edge of chaos); Wolinski and Arbel, arXiv:2205.12379
    (exactly Gaussian). Glorot and He in the form that keeps the forward variance.
    """
    q = real("q", q, above=0.0)
    f = resolve_activation(activation)
    unit = MeanFieldMap(f, 1.0)
    second = unit.variance(1.0)
    he = Estimate(1 / float(second), float(second.stderr) / float(second) ** 2)
    found = [
        _row("Glorot", "f'(0)^2 sigma_w2 = 1", f, q, _glorot(f), Estimate(0.0)),
        _row("He", "sigma_w2 E f(x)^2 = 1", f, q, he, Estimate(0.0)),
        _edge(f, q),
    ]
    if isinstance(activation, GaussianPreactivation):
        found.append(_exact(activation, f, q))
    return found


def initialization_table(rows: list[Initialization]) -> str:
    """The rows as text, one line each."""
    head = f"{'':18}" + "".join(f"{c:>15}" for c in COLUMNS)
    lines = [f"{r.name:18}" + "".join(f"{v:15.5g}" for v in r.row) for r in rows]
    return "\n".join([head, *lines])


def _glorot(f: Activation) -> Estimate:
    if 0.0 in f.kinks:
        return Estimate(
            math.nan, math.nan, status="not applicable", note=f"{f.name} has a kink at 0"
        )
    slope = float(value_and_slope(f, torch.zeros(1, dtype=torch.float64))[1])
    if slope == 0:
        return Estimate(math.nan, math.nan, status="not applicable", note="f'(0) = 0")
    return Estimate(slope**-2)


def _row(
    name: str,
    condition: str,
    f: Activation,
    q: float,
    sigma_w2: Estimate,
    sigma_b2: Estimate,
    weights: str = NORMAL,
) -> Initialization:
    if not np.isfinite(sigma_w2.value):
        nothing = Estimate(math.nan, math.nan, status=sigma_w2.status, note=sigma_w2.note)
        return Initialization(
            name, condition, weights, q, sigma_w2, sigma_b2, nothing, nothing, nothing
        )
    field = MeanFieldMap(f, float(sigma_w2), float(sigma_b2))
    return Initialization(
        name,
        condition,
        weights,
        q,
        sigma_w2,
        sigma_b2,
        field.variance(q) / q,
        field.chi(q),
        field.variance_slope(q),
    )


def _edge(f: Activation, q: float) -> Initialization:
    condition = "sigma_w2 E f'(sqrt(q) x)^2 = 1, q = V(q)"
    try:
        point = critical_line(f, q)
        pair = point.sigma_w2, point.sigma_b2
    except (ValueError, NotApplicableError) as error:  # sigma_b2 < 0, or kinks not known
        nothing = Estimate(math.nan, math.nan, status="not applicable", note=str(error))
        pair = nothing, nothing
    return _row("edge of chaos", condition, f, q, *pair)


def _exact(pair: GaussianPreactivation, f: Activation, q: float) -> Initialization:
    # W has unit scale, not unit variance: E W^2 = Gamma(1 + 2/theta) = 1 / E f(x)^2
    variance = Estimate(float(gamma(1 + 2 / pair.effective)))
    law = f"sign E^(1/{pair.effective:g}) / sqrt(fan_in)"
    return _row("exactly Gaussian", "W f(x) ~ N(0, 1)", f, q, variance, Estimate(0.0), law)
