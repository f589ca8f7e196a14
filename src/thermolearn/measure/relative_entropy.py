"""Relative entropy between the first and the deeper layers (arXiv:2107.06898)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from thermolearn.core.activation import Activation
from thermolearn.core.checks import check_variances, real, whole
from thermolearn.core.copying import untouched, unwrap
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.layer_moments import LayerMoments, layer_moments
from thermolearn.measure.reference import prepare_copy, to_precision
from thermolearn.measure.window import Window

KINDS = ("push", "gaussian", "two-input")
POINT = 1e-200  # variance from which on the mean-field map takes the limit 0


# -- the formulas --------------------------------------------------------------------------------
def push_forward(q0: Any, q: Any) -> Any:
    """(1/2) ln (q / q0), per neuron."""
    return 0.5 * np.log(np.divide(q, q0))


def gaussian_kl(q0: Any, q: Any, shift2: Any = 0.0) -> Any:
    """KL of N(m0, q0) from N(m, q): (1/2) [q0/q - 1 - ln(q0/q) + (m - m0)^2 / q], >= 0."""
    ratio = np.divide(q0, q)
    return 0.5 * (ratio - 1 - np.log(ratio) + np.divide(shift2, q))


def two_input_kl(q0: Any, c0: Any, q: Any, c: Any) -> Any:
    """KL of N(0, q0 [[1, c0], [c0, 1]]) from N(0, q [[1, c], [c, 1]]), per neuron, >= 0."""
    ratio, free0, free = np.divide(q0, q), 1 - np.square(c0), 1 - np.square(c)
    trace = ratio * 2 * (1 - np.multiply(c0, c)) / free
    return 0.5 * (trace - 2 - 2 * np.log(ratio) - np.log(free0 / free))


def _divergence(kind: str, q: np.ndarray, c: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """D_l per neuron against the first layer; the layers are the first axis."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if kind == "push":
            return push_forward(q[0], q)
        if kind == "gaussian":
            found = gaussian_kl(q[0], q, (mean - mean[0]) ** 2)
        else:
            found = np.where(c < 1, two_input_kl(q[0], c[0], q, np.minimum(c, 1.0)), math.inf)
    return np.where(q > 0, found, math.inf)


def _check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


# -- mean field ----------------------------------------------------------------------------------
def layer_relative_entropy(
    activation: str | Callable[[Tensor], Tensor] | Activation,
    sigma_w2: float,
    sigma_b2: float,
    q0: float,
    depth: int,
    kind: str = "push",
    c0: float = 0.5,
) -> Estimate:
    """Relative entropy per neuron between layer 0 and layers 0..depth of a wide random network.

    z_{l+1} = W phi(z_l) + b, W ~ N(0, sigma_w2 / n), b ~ N(0, sigma_b2), so that q_{l+1} =
    sigma_w2 E phi(sqrt(q_l) x)^2 + sigma_b2. The definition matters, and there are three:

    - "push": the density of layer 0 is compared with that of layer l *at the propagated values*,
      as in the paper's program: D_l = (1/2) ln(q_l / q_0), with the plateau (1/2) ln(q* / q_0).
      No Jacobian of the map enters: it is the logarithm of a ratio of scales, no divergence, and
      negative wherever q_l < q_0. Nothing is clipped.
    - "gaussian": the divergence of the two Gaussians in one space,
      D_l = (1/2) [q_0/q_l - 1 - ln(q_0/q_l)] >= 0.
    - "two-input": the same for the pre-activations of two inputs of correlation c_l. It grows
      exponentially at the rate 1 / xi_c in the ordered phase, algebraically at criticality, and
      saturates in the chaotic phase.

    Parameters
    ----------
    activation : str, module or callable
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, > 0; bias variance, >= 0.
    q0 : float
        Variance of the pre-activations in layer 0, > 1e-200.
    depth : int
        At least 0.
    kind : "push", "gaussian" or "two-input"
    c0 : float
        Correlation of the two inputs in layer 0, in (-1, 1); only for "two-input".

    Returns
    -------
    Estimate, array (depth + 1,)
        Nats per neuron; its error is that of the quadrature. Status "collapsed", with a warning,
        where a variance has shrunk to 0 (below 1e-200) or two inputs have become equal to
        rounding: the divergence is infinite there (push: minus infinity); "diverges" where q_l
        does.

    Raises
    ------
    ValueError
        An argument out of range.

    References
    ----------
    J. Erdmenger, K. T. Grosvenor, R. Jefferson, arXiv:2107.06898; the closed forms of all three
    follow from the mean-field map of Poole et al., arXiv:1606.05340.
    """
    from thermolearn.measure.propagation.mean_field import MeanFieldMap

    _check_kind(kind)
    check_variances(sigma_w2, sigma_b2, q0)
    real("q0", q0, above=POINT)
    c0 = real("c0", c0, above=-1.0, below=1.0)
    field = MeanFieldMap(activation, sigma_w2, sigma_b2)
    path = field.trajectory(q0, whole("depth", depth, 0), c0 if kind == "two-input" else None)
    (q, dq), (c, dc) = ((np.asarray(e.value), np.asarray(e.stderr)) for e in path)
    q = np.where(q <= POINT, 0.0, q)
    if kind == "two-input":  # what is left of 1 - c is rounding
        c = np.where(1 - c <= dc + 1e-14, 1.0, c)
    nothing = np.zeros_like(q)
    value = _divergence(kind, q, c, nothing)
    with np.errstate(invalid="ignore"):
        shifted = _divergence(kind, np.maximum(q - dq, 0), c, nothing) - value
        error = np.abs(shifted)
        if kind == "two-input":
            error += np.abs(_divergence(kind, q, c - dc, nothing) - value)
    error = np.where(np.isfinite(error), error, 0.0)
    status, note = path[0].status, "infinite width"
    gone = np.isinf(value) & np.isfinite(q)
    if gone.any():
        status = "collapsed"
        note = f"from layer {int(np.argmax(gone))} on the distribution is a point: infinite"
        warnings.warn(f"relative entropy: {note}", stacklevel=2)
    value = np.where(np.isfinite(q), value, math.nan)
    return Estimate(value, error, status=status, note=note)


# -- measured ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LayerRelativeEntropy:
    """Relative entropy per neuron between the first layer and each layer of a model.

    Attributes
    ----------
    kind : str
    layers : list of str
        Names of the layers in the order of their calls; the first is the reference, with D = 0.
    widths : list of int
        Pre-activations per input.
    value : Estimate (layers,)
        Nats per neuron.
    mean, variance : ndarray (layers,)
        Of the pre-activations, pooled over units and inputs.
    """

    kind: str
    layers: list[str]
    widths: list[int]
    value: Estimate
    mean: np.ndarray
    variance: np.ndarray

    def __str__(self) -> str:
        value, error = np.asarray(self.value.value), np.asarray(self.value.stderr)
        rows = zip(self.layers, self.widths, value, error, strict=True)
        return "\n".join(
            [f"relative entropy per neuron ({self.kind}), nats"]
            + [f"{name} ({width}): {v:.4g} +- {s:.2g}" for name, width, v, s in rows]
        )


def measure_layer_relative_entropy(
    model: nn.Module, x: Tensor, kind: str = "push", *, per_neuron: bool = False
) -> LayerRelativeEntropy:
    """Relative entropy along the layers of a model, from its pre-activations on inputs x.

    The outputs of Linear and Conv layers (before a normalization or activation) are pooled over
    units and inputs to one Gaussian per layer, N(mu_l, q_l), and compared with those of the first
    such layer: the definitions of `layer_relative_entropy`, and with means,
    D_l = (1/2) [q_0/q_l - 1 - ln(q_0/q_l) + (mu_l - mu_0)^2 / q_l] for "gaussian". "two-input"
    takes the average covariance of two different inputs. One network of width n differs from the
    mean field by about sqrt(1/n), which the error bar, that of the inputs, does not contain.

    Parameters
    ----------
    model : nn.Module
        Not changed: a copy in eval mode and float64 is measured.
    x : Tensor (n, ...)
        Inputs. With fewer than 8 the error bar is taken over units instead.
    kind : "push", "gaussian" or "two-input"
        "push" may be negative: it is the logarithm of a ratio of scales. Nothing is clipped.
    per_neuron : bool
        Whether layers of different widths may be compared, neuron by neuron.

    Raises
    ------
    ValueError
        Layers of unequal widths without `per_neuron`, or fewer than two inputs for "two-input".
    NotApplicableError
        The model cannot be copied or run, has fewer than two such layers, or is not finite.

    References
    ----------
    J. Erdmenger, K. T. Grosvenor, R. Jefferson, arXiv:2107.06898.
    """
    _check_kind(kind)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0:
        raise ValueError("x must be a tensor of inputs, its first axis counting them")
    if kind == "two-input" and len(x) < 2:
        raise ValueError("kind='two-input' needs at least two inputs in x")
    with untouched():
        twin, dtype = prepare_copy(unwrap(model), (x, x))
        found = layer_moments(twin, to_precision((x, x), twin, dtype)[0])
    widths = {name: m.width for name, m in found.items()}
    if len(set(widths.values())) > 1 and not per_neuron:
        raise ValueError(
            "relative entropy needs equal dimensions; pass per_neuron=True (the widths are "
            + ", ".join(f"{n}: {w}" for n, w in widths.items())
            + ")"
        )
    value = _measured(found, kind)
    if value.status == "collapsed":
        warnings.warn(f"relative entropy: {value.note}", stacklevel=2)
    mean, q, _ = (np.array(part) for part in zip(*_first(found), strict=True))
    return LayerRelativeEntropy(kind, list(found), list(widths.values()), value, mean, q)


def _first(found: dict[str, LayerMoments]) -> list[list[float]]:
    """Mean, variance and correlation of every layer."""
    return [[float(part[0]) for part in m.statistics()] for m in found.values()]


def _measured(found: dict[str, LayerMoments], kind: str) -> Estimate:
    """D_l of all layers with its jackknife error."""
    parts = [m.statistics() for m in found.values()]
    mean, q, c = (np.stack([p[k] for p in parts]) for k in range(3))
    if q[0, 0] == 0:
        raise NotApplicableError(
            f"the pre-activations of the first layer, {next(iter(found))}, are all equal"
        )
    value = _divergence(kind, q, c, mean)  # (layers, 1 + blocks)
    left_out = value[:, 1:]
    blocks = left_out.shape[1]
    with np.errstate(invalid="ignore"):
        error = np.sqrt((blocks - 1) * left_out.var(1)) if blocks > 1 else np.full(len(q), math.nan)
    first = next(iter(found.values()))
    status, note = "ok", f"error bar over {first.over}"
    gone = [name for name, v in zip(found, value[:, 0], strict=True) if np.isinf(v)]
    if gone:
        status = "collapsed"
        note = f"the pre-activations of {', '.join(gone)} are one point: infinite"
    error = np.where(np.isinf(value[:, 0]), 0.0, error)
    return Estimate(value[:, 0], error, float(first.count[0]), status, note)


class RelativeEntropy:
    """Relative entropy between the first layer and each layer, on the reference set.

    Arrays over Linear and Conv layers, in nats per neuron (`measure_layer_relative_entropy` with
    ``per_neuron=True``): ``push`` (1/2) ln(q_l / q_0), a log ratio of scales that may be negative;
    ``gaussian`` the divergence of the layers' Gaussians; ``two_input`` that of pairs of inputs;
    and ``variance`` q_l. Errors by the jackknife over inputs.
    """

    name = "relative_entropy"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if fewer than two layers can be seen."""
        found = layer_moments(window.model, window.reference[0])
        window.names[self.name] = list(found)
        values = {kind.replace("-", "_"): _measured(found, kind) for kind in KINDS}
        parts = np.stack([m.statistics()[1] for m in found.values()])
        blocks = parts.shape[1] - 1
        error = np.sqrt(max(blocks - 1, 0) * parts[:, 1:].var(1))
        return {**values, "variance": Estimate(parts[:, 0], error, note=values["push"].note)}
