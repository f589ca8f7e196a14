"""Weights that are not Gaussian of mean 0: where the kernel of wide layers feels it."""

from __future__ import annotations

import math

from torch import Tensor

SMALL = 0.02  # relative effect on the kernel below which nothing is said
CHANCE = 1e-3  # with which Gaussian weights have so small a largest one
ERRORS = 4.0  # standard errors of the kurtosis, or of the mean


def excess_kurtosis(weights: Tensor) -> float | None:
    """Of weights of mean zero; None if they may well be Gaussian.

    They evidently are not if the kurtosis says so, or if the largest of n weights is too small for
    n Gaussians: P(max |w| <= c sd) = erf(c / sqrt(2))^n.
    """
    w = weights.flatten()
    n, variance = len(w), float(w.square().mean())
    if n == 0 or variance == 0:
        return None
    kurtosis = float(w.pow(4).mean()) / variance**2 - 3
    bounded = math.erf(float(w.abs().max()) / math.sqrt(2 * variance)) ** n < CHANCE
    if bounded or abs(kurtosis) > ERRORS * math.sqrt(24 / n):
        return kurtosis
    return None


def note_on_kurtosis(layer: str, weights: Tensor) -> str | None:
    """What to say of a layer (width, ...) that reads the input itself and feeds an activation.

    A neuron u = sum w_i x_i has the excess kurtosis g of the weights times
    sum x_i^4 / (sum x_i^2)^2 >= 1 / fan_in, whatever the width. To first order (Edgeworth) an
    average E f(u) moves by that times E f He_4 / 24, at most sd(f) / sqrt(24).
    """
    kurtosis, fan_in = excess_kurtosis(weights), weights[0].numel()
    if kurtosis is None:
        return None
    effect = abs(kurtosis) / (math.sqrt(24) * fan_in)
    if effect < SMALL:
        return None
    return (
        f"the weights of {layer!r} are not Gaussian (excess kurtosis {kurtosis:.2g}), and it sums "
        f"over {fan_in} inputs only: at any width the kernel is off by about {effect:.2g} of its "
        f"diagonal, {effect * fan_in:.2g} for inputs of one large entry; it is that of Gaussian "
        "weights: initialize this layer with normal_"
    )


def note_on_mean(layer: str, weight: Tensor | None, bias: Tensor | None) -> str | None:
    """What to say of weights or biases that evidently have a mean, in front of an activation.

    They count by their mean square, as if of random signs. A mean m adds (m sum h)^2, up to fan_in
    m^2 / <w^2> of the variance; equal biases move all neurons the same way.
    """
    found = []
    width = 0 if weight is None else len(weight)
    for what, values, share in (("weights", weight, 1 / max(width, 1)), ("biases", bias, 1.0)):
        if values is None or values.numel() < 2 or not bool(values.any()):
            continue
        n, mean, square = values.numel(), float(values.mean()), float(values.square().mean())
        coherent = mean**2 / square * n * share
        if mean**2 * n > ERRORS**2 * square and coherent > SMALL:
            found.append(f"{what} (mean {mean:.2g}, root mean square {math.sqrt(square):.2g})")
        elif bool((values == values.flatten()[0]).all()):
            found.append(f"{what} (all {mean:.2g})")
    if not found:
        return None
    return (
        f"{layer!r} has {' and '.join(found)} that are not of mean 0, as the kernel takes them: it "
        "is not that of this initialization; draw them with mean 0, or give sigma_w2= and sigma_b2="
    )
