"""How much of a signal's energy an activation passes on, and how that depends on the scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.gaussian import gauss_nodes

LARGE = (100.0, 1000.0)  # scales between which the slope is taken
LARGEST = (1e4, 1e5)  # for the class, where an approach as slow as 1/s is over
NEAR = 0.02  # of a slope to 0 or -2
CONVERGED = 1e-6  # relative difference of two quadrature rules


def activation_efficiency(
    phi: str | Callable[[Tensor], Tensor] | Activation, s: ArrayLike, centred: bool = False
) -> Estimate:
    """eta(s) = E phi(s g)^2 / s^2, g ~ N(0, 1): signal energy out over signal energy in.

    Linear 1, ReLU 1/2, leaky ReLU (1 + c^2)/2, erf (2/pi) asin(2 s^2/(1 + 2 s^2))/s^2. Where
    phi(0) is not 0, eta may exceed 1; `centred` takes the variance in place of E phi^2.

    Parameters
    ----------
    phi : str, module or callable
        Activation by name, module without parameters, or element-wise torch callable.
    s : float or array
        Standard deviation of the pre-activation, > 0.
    centred : bool

    Returns
    -------
    Estimate
        Of the shape of s; the error bar is the difference of two quadrature rules.

    Raises
    ------
    ValueError, TypeError
        s not positive and finite; no activation; not finite on the nodes.
    ConvergenceError
        The activation is too rough for the quadrature.

    Notes
    -----
    Zhang, arXiv:2404.13218, speaks of a work efficiency set mostly by the activation; its formula
    could not be seen, this definition is ours.
    """
    activation = resolve_activation(phi)
    scales = np.asarray(s.value if isinstance(s, Estimate) else s, dtype=np.float64)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError(f"s, the scale of the pre-activation, must be finite and > 0, got {s!r}")
    pairs = np.array([_efficiency(activation, float(v), bool(centred)) for v in scales.ravel()])
    value, error = (column.reshape(scales.shape) for column in pairs.reshape(-1, 2).T)
    what = "variance" if centred else "mean square"
    return Estimate(value, error, note=f"{what} out over mean square in, Gaussian pre-activation")


def _efficiency(activation: Activation, s: float, centred: bool) -> tuple[float, float]:
    """eta and its error; a rule of unit panels where the graded one does not converge."""
    for fineness in (np.inf, 1.0):
        fine, coarse = (_quadrature(activation, s, n, fineness, centred) for n in (16, 12))
        error = abs(fine - coarse)
        if error <= CONVERGED * abs(fine) + 1e-15:
            return fine, error
    raise ConvergenceError(
        f"E {activation.name}(s g)^2 at s = {s:g} is known to {error / abs(fine):.1g} only; give "
        "the callable an attribute `kinks` with the points where it is not smooth"
    )


def _quadrature(a: Activation, s: float, n: int, fineness: float, centred: bool) -> float:
    z, w = gauss_nodes(s, n, kinks=(0.0, *a.kinks), fineness=fineness)
    with torch.no_grad():
        out = a.function(torch.from_numpy(z))
    if not isinstance(out, Tensor) or out.shape != z.shape:
        raise TypeError(f"activation {a.name!r} must map a tensor to a tensor of the same shape")
    f = out.detach().double().cpu().numpy()
    if not np.isfinite(f).all():
        raise ValueError(f"activation {a.name!r} is not finite on inputs of scale {s:g}")
    return float(w @ (f - w @ f if centred else f) ** 2) / s**2


def efficiency_slope(
    phi: str | Callable[[Tensor], Tensor] | Activation, scales: tuple[float, float] = LARGE
) -> Estimate:
    """d ln eta / d ln s between two scales (100 and 1000), with its numerical error.

    Raises
    ------
    As `activation_efficiency`; ValueError where eta vanishes, or for two equal scales.
    """
    if len(scales) != 2 or scales[0] == scales[1]:
        raise ValueError(f"scales must be two different scales, got {scales!r}")
    eta = activation_efficiency(phi, np.array(scales, dtype=np.float64))
    value, error = np.asarray(eta.value), np.asarray(eta.stderr)
    if not (value > 0).all():
        raise ValueError("the activation is 0 on inputs of large scale: it has no engine class")
    width = float(np.log(scales[1] / scales[0]))
    return Estimate(
        float(np.log(value[1] / value[0])) / width,
        float(np.hypot(*(error / value))) / abs(width),
        note=f"of ln eta over ln s between s = {scales[0]:g} and {scales[1]:g}",
    )


def engine_class(
    phi: str | Callable[[Tensor], Tensor] | Activation,
) -> Literal["I", "II", "neither"]:
    """The class of an activation as an engine, from the slope of ln eta(s) at large s.

    "I", slope 0: the share of the signal energy that is passed on does not depend on the scale
    (linear, ReLU and leaky ReLU at every scale; GELU, SiLU, ELU, softplus at large ones). "II",
    slope -2: the output is bounded and does not die out, eta ~ 1/s^2 (tanh, sigmoid, erf,
    softsign, arctan, but also sine and cosine). "neither": any other slope. The slope is taken
    between s = 1e4 and 1e5, between 100 and 1000 where the quadrature does not reach that far
    (sine), and counts as 0 or -2 within 0.02.

    Raises
    ------
    As `efficiency_slope`.

    Notes
    -----
    Zhang, arXiv:2404.13218, names two classes; that they are these is our reading.
    """
    try:
        slope = float(efficiency_slope(phi, LARGEST))
    except ConvergenceError:
        slope = float(efficiency_slope(phi))
    if abs(slope) < NEAR:
        return "I"
    return "II" if abs(slope + 2) < NEAR else "neither"
