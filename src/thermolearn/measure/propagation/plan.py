"""What is recommended for the layers of a model, and the critical point that is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thermolearn.core.activation import Activation
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.propagation.averages import refuse_jump
from thermolearn.measure.propagation.critical import (
    GRID,
    CriticalPoint,
    critical_line,
    pair,
    variance_preserving,
)

SATURATING_Q = 0.4  # where tanh-like activations are bent, but not saturated
SETTLED = 0.995  # V'(q*) that counts as stable when a q is chosen
DEPTHS = 6.0  # in depth scales: how far inputs and gradients reach (Schoenholz et al.)


@dataclass(frozen=True)
class LayerInit:
    """One layer: weights ~ N(0, sigma_w2 / fan_in), biases ~ N(0, sigma_b2).

    Attributes
    ----------
    q : float
        Predicted second moment of its outputs (with the layer's own scale, before any addition);
        NaN behind what is not predicted.
    chi : float
        chi_1, growth of the squared gradient backwards from its outputs to those of the layer
        before: sigma_w2 E f'^2 of the activation between, times g^2/v of a normalization of
        weight g that reads a variance v. NaN if there is no activation, or it is not predicted.
    note : str
        What is special about it.
    """

    name: str
    fan_in: int
    sigma_w2: float
    sigma_b2: float
    q: float
    chi: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Recommendation:
    """What `recommend_init` found; printable, and what `apply_init_` applies.

    Attributes
    ----------
    layers : tuple of LayerInit
        In order of execution.
    norms : dict of str to float
        Normalization layers that end a residual branch, and the value of their weight.
    activation : Activation
        The most frequent one; the numbers below belong to it.
    sigma_w2, sigma_b2, q, variance_slope, chi, xi_c, xi_q : Estimate
        Its pair, q*, V'(q*), chi_1 and depth scales (inf on the critical line); where the layers
        get another pair (no bias, normalization), those of the layer of the median chi_1.
    depth : int
        Affine layers on the longest path through the model.
    blocks : int
        Residual blocks; their branches are scaled by 1/sqrt(blocks) (or start at zero).
    input_mean_square : float
        Mean square of an input that makes the first pre-activations have variance q* exactly.
    not_covered : tuple of str
        Modules with parameters that the theory says nothing about; they are left as they are.
    notes : tuple of str
    """

    layers: tuple[LayerInit, ...]
    norms: dict[str, float]
    activation: Activation
    sigma_w2: Estimate
    sigma_b2: Estimate
    q: Estimate
    variance_slope: Estimate
    chi: Estimate
    xi_c: Estimate
    xi_q: Estimate
    depth: int
    blocks: int
    input_mean_square: float
    not_covered: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def reach(self) -> float:
        """Layers over which inputs can be told apart and gradients keep their size within e^6:
        the smaller of 6 xi_c and 6 / |ln chi_1|; NaN where neither is predicted."""
        chi = float(self.chi)
        rate = abs(math.log(chi)) if chi > 0 else math.nan
        scales = [float(self.xi_c), math.inf if rate < 1e-9 else 1 / rate]
        return DEPTHS * min((s for s in scales if not math.isnan(s)), default=math.nan)

    @property
    def deep_enough(self) -> bool:
        """Whether the depth is within `reach` (or the model is residual, or it is not known)."""
        return self.blocks > 0 or not self.depth > self.reach

    def __str__(self) -> str:
        head = (
            f"{self.activation.name}: sigma_w2 = {self.sigma_w2}, sigma_b2 = {self.sigma_b2}, "
            f"q* = {self.q}\n"
            f"V'(q*) = {self.variance_slope}, chi_1 = {self.chi}, "
            f"xi_c = {_layers(self.xi_c)}, xi_q = {_layers(self.xi_q)}\n"
            f"depth {self.depth} against {DEPTHS:g} min(xi_c, 1/|ln chi_1|) = {self.reach:.4g}: "
            f"{self._verdict()}\n"
            f"inputs of mean square {self.input_mean_square:.5g} start at q* exactly\n"
        )
        width = max([len(x.name) for x in self.layers] + [5])
        rows = [f"{'layer':{width}}  fan_in   sigma_w2   sigma_b2          q     chi_1"]
        rows += [
            f"{x.name:{width}}  {x.fan_in:6d}  {x.sigma_w2:9.5g}  {x.sigma_b2:9.5g}  "
            f"{x.q:9.5g}  {x.chi:8.4g}" + (f"  {x.note}" if x.note else "")
            for x in self.layers
        ]
        rows += [
            f"{name:{width}}  normalization weight = {v:.5g}" for name, v in self.norms.items()
        ]
        rest = [f"not covered, left as it is: {n}" for n in self.not_covered]
        return head + "\n".join([*rows, *rest, *self.notes])

    def _verdict(self) -> str:
        if not self.deep_enough:
            return "TOO DEEP for this pair"
        if self.blocks:
            return "fine, the residual sums carry signal and gradient"
        return "not known" if math.isnan(self.reach) else "fine"


def _layers(e: Estimate) -> str:
    return "inf" if math.isinf(float(e)) else str(e)


def default_critical_point(f: Activation) -> CriticalPoint:
    """The critical point that is used if none is asked for; see `recommend_init`.

    Raises
    ------
    ConvergenceError
        The critical line has no stable point of variance 0.4 to 1e4.
    """
    refuse_jump(f)
    for q in [1.0, SATURATING_Q, *GRID[GRID > SATURATING_Q]]:
        if not pair(f, float(q))[1] >= -1e-11 * q:  # not on the line, and no long message about it
            continue
        try:
            point = critical_line(f, float(q))
        except (ValueError, ConvergenceError):
            continue
        scale_free = float(point.sigma_b2) == 0.0 and abs(float(point.variance_slope) - 1) < 1e-9
        if scale_free or (q != 1.0 and float(point.variance_slope) <= SETTLED):
            return point
    raise ConvergenceError(
        f"the critical line of {f.name} has no stable point with q* from {SATURATING_Q} to "
        f"{GRID[-1]:g}; give q, and rescale the inputs to it. {variance_preserving(f, 1.0)}: "
        "give that pair if there is no q"
    )
