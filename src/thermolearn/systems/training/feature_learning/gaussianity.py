"""How Gaussian are the pre-activations of sampled networks?

The equations of state replace the law of a layer's pre-activations by a Gaussian with the adapted
covariance. Its kurtosis m4 / m2^2 is 3. Along the direction that was learned strong feature
learning splits the units into two groups, +-w*, and the kurtosis falls to 2 and below, while the
kernels, which are second moments, stay right within a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate
from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples

# Deviation of a kurtosis from 3 that is called Gaussian: that of a t law with 64 degrees of
# freedom, which moves E phi^2 of an erf unit by less than 1%.
TOLERANCE = 0.1
SIGMAS = 4.0


@dataclass(frozen=True, eq=False)
class LayerGaussianity:
    """Kurtosis of one hidden layer's pre-activations, 3 if Gaussian.

    Attributes
    ----------
    layer : int
        From 1.
    learned : Estimate
        Along the learned direction: of w . v in the first layer, v the top eigenvector of Sigma;
        of sum_mu y_mu h(x_mu) in the layers behind.
    inputs : Estimate
        Of h(x_mu), averaged over the training inputs (and patches).
    gaussian : bool or None
        Both within 0.1 of 3; None where the error bars are too wide to tell.
    """

    layer: int
    learned: Estimate
    inputs: Estimate
    gaussian: bool | None

    @property
    def statement(self) -> str:
        """The verdict in one sentence, with its numbers."""
        numbers = f"kurtosis {self.learned} along the learned direction, {self.inputs} at inputs"
        if self.gaussian is None:
            return f"layer {self.layer}: it cannot be told whether h is Gaussian ({numbers})"
        if self.gaussian:
            return f"layer {self.layer}: pre-activations are Gaussian within 0.1 ({numbers})"
        return f"layer {self.layer}: pre-activations are NOT Gaussian ({numbers}; Gaussian: 3)"


def gaussianity(samples: PosteriorSamples) -> list[LayerGaussianity]:
    """Kurtosis of every hidden layer's pre-activations.

    Parameters
    ----------
    samples : PosteriorSamples

    Returns
    -------
    list of LayerGaussianity
        From the first hidden layer; error bars between chains (NaN for one chain, and then no
        verdict), status as that of the samples.
    """
    density, y = samples.density, samples.density.y
    direction = _learned_direction(samples)
    learned: list[list[Tensor]] = [[] for _ in density.shapes]
    inputs: list[list[Tensor]] = [[] for _ in density.shapes]
    for x in samples.batches(density.n * density.patches):
        flat = x.flatten(0, 1)
        first = density.weights(flat)[0]
        for number, h in enumerate(density.preactivations(flat)):
            along = (h @ y)[..., None] if number else (first @ direction)[..., None]
            learned[number].append(_powers(along, x.shape[:2]))
            inputs[number].append(_powers(h, x.shape[:2]))
    rows = []
    for number, (a, b) in enumerate(zip(learned, inputs, strict=True)):
        pair = _kurtosis(samples, a), _kurtosis(samples, b)
        rows.append(LayerGaussianity(number + 1, *pair, _verdict(*pair)))
    return rows


def weight_kurtosis(samples: PosteriorSamples, direction: Any = None) -> Estimate:
    """Kurtosis of w . v over the first-layer weights of all units and draws.

    Parameters
    ----------
    samples : PosteriorSamples
    direction : array (S,), optional
        v; the top eigenvector of Sigma by default (whose sign does not matter).

    Raises
    ------
    ValueError
        A direction of another shape, zero or not finite.
    """
    v = _direction(samples, direction)
    parts = [
        _powers((samples.density.weights(x.flatten(0, 1))[0] @ v)[..., None], x.shape[:2])
        for x in samples.batches(1)
    ]
    return _kurtosis(samples, parts)


def unit_values(samples: PosteriorSamples, direction: Any = None) -> np.ndarray:
    """w . v / |v| of every unit and draw, in standard deviations of the prior, by chain.

    Parameters as in `weight_kurtosis`.

    Returns
    -------
    ndarray (chains, draws * units)
    """
    v = _direction(samples, direction)
    first = samples.density.shapes[0]
    w = samples.x[:, :, : first[0] * first[1]].unflatten(-1, first)  # whitened
    return (w @ (v / v.norm())).movedim(0, 1).flatten(1).numpy()


def _direction(samples: PosteriorSamples, direction: Any) -> Tensor:
    if direction is None:
        return _learned_direction(samples)
    size, given = samples.density.size, np.asarray(direction, dtype=np.float64)
    if given.shape != (size,) or not np.isfinite(given).all() or not given.any():
        raise ValueError(
            f"direction must be a finite vector of length {size}, not zero, got {direction!r}"
        )
    return torch.as_tensor(given)


def _learned_direction(samples: PosteriorSamples) -> Tensor:
    sigma = np.asarray(samples.input_covariance.value)
    return torch.as_tensor(np.linalg.eigh(sigma)[1][:, -1].copy())


def _powers(h: Tensor, lead: torch.Size) -> Tensor:
    """Sums over units and draws of h^2 and h^4, (2, chains, inputs), from (B, units, inputs)."""
    square = h.unflatten(0, lead).square()
    return torch.stack([square.mean(2).sum(0), square.square().mean(2).sum(0)])


def _kurtosis(samples: PosteriorSamples, parts: list[Tensor]) -> Estimate:
    second, fourth = (torch.stack(parts).sum(0) / samples.draws).numpy()
    return samples.over_chains(lambda m2, m4: (m4.mean(0) / m2.mean(0) ** 2).mean(), second, fourth)


def _verdict(*kurtosis: Estimate) -> bool | None:
    """Whether all are within the tolerance of 3, if the error bars can tell."""
    off = np.array([abs(float(k) - 3) for k in kurtosis])
    error = np.array([float(k.stderr) for k in kurtosis])
    if (off - SIGMAS * error > TOLERANCE).any():
        return False
    if (off + SIGMAS * error < TOLERANCE).all():
        return True
    return None
