"""What is read of the layers of a model: one operation on kernels each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from thermolearn.core.activation import Activation
from thermolearn.predict.kernels.dual import Dual
from thermolearn.predict.kernels.of_module.convolutional import Window


@dataclass(frozen=True)
class LayerRow:
    """What was read of one affine layer.

    Attributes
    ----------
    name : str
        Of the module.
    kind : str
        Its class.
    fan_in, width : int
        Inputs of one output neuron, and number of output neurons (channels).
    sigma_w2, sigma_b2 : float
        Variance of the weights times fan_in; variance of the biases.
    source : str
        "weights" (mean squares of the actual weights) or "given".
    activation : str
        What acts on the input of the layer; "" if nothing does.
    trained : tuple of bool
        Whether weight and bias require a gradient: what they add to the tangent kernel.
    """

    name: str
    kind: str
    fan_in: int
    width: int
    sigma_w2: float
    sigma_b2: float
    source: str
    activation: str
    trained: tuple[bool, bool]


@dataclass(frozen=True)
class Norm:
    """A normalization over the last `axes` axes: (h - mean) / sqrt(var + eps) * weight."""

    shape: tuple[int, ...]
    eps: float
    centered: bool
    weight: float
    trained: tuple[bool, bool]


@dataclass(frozen=True)
class Act:
    """An activation, and its average with slope: E phi'(u) phi'(v) u v."""

    dual: Dual
    activation: Activation


@dataclass
class Op:
    """One operation on kernels, in order of execution; operation 0 is the input.

    `kind`: "input", "data" (acts on the input alone), "affine", "activation", "norm", "sum",
    "scale", "shape", "permute" or "pool".
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    node: str = ""
    target: Any = None
    layer: LayerRow | None = None
    window: Window | None = None
    norm: Norm | None = None
    act: Act | None = None
    factors: tuple[float, ...] = ()
    readers: list[int] = field(default_factory=list)
    # of what it puts out
    roots: frozenset[int] | None = None
    """Affine operations whose outputs it is a linear function of (centered Gaussians in the wide
    limit); None if it is no such function."""
    seen: frozenset[int] = frozenset()
    """Affine operations that it depends on."""
