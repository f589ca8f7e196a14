"""How far the pre-activations of random networks are from Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor, nn

from thermolearn.core.activation import resolve_activation
from thermolearn.core.checks import check_variances, real, whole
from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation

FEWEST = 100  # networks
# 95% quantiles of sqrt(S) times the distance of S Gaussian samples, for large S: scale known
# (Kolmogorov), and scale taken from the same samples with the mean known.
NULL_KNOWN, NULL_FITTED = 1.358, 1.333
CHUNK_ELEMENTS = 2**22  # weights held at once

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class Ensemble(Protocol):
    """Many networks at once: pre-activations (n, layers) of one neuron per layer at input x."""

    def preactivations(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Gaussianity:
    """Kolmogorov-Smirnov distances to the normal distribution.

    Attributes
    ----------
    layers : list of str
        Names of the layers.
    distance : Estimate (layers,)
        sup |F_S - Phi|; its error bar is that of the empirical distribution at the supremum. The
        distance of Gaussian samples is positive, too: compare it with `null`.
    null : float
        What 95 in 100 sets of that many Gaussian samples stay below.
    std : Estimate (layers,)
        Standard deviations over the networks.
    n_init : int
    standardized : bool
        Whether values were divided by their standard deviation before.
    """

    layers: list[str]
    distance: Estimate
    null: float
    std: Estimate
    n_init: int
    standardized: bool

    @property
    def gaussian(self) -> np.ndarray:
        """Per layer, whether nothing speaks against Gaussian at 95% (layer by layer)."""
        return np.asarray(self.distance.value) < self.null

    def __str__(self) -> str:
        head = f"{self.n_init} networks, 95% of Gaussian samples below {self.null:.4f}"
        value, bar = np.asarray(self.distance.value), np.asarray(self.distance.stderr)
        rows = [f"{n}: {v:.4f} +- {s:.4f}" for n, v, s in zip(self.layers, value, bar, strict=True)]
        return "\n".join([head, *rows])


def ks_gaussianity(
    model_factory: Ensemble | Callable[[torch.Generator], nn.Module],
    x: Tensor,
    n_init: int,
    *,
    seed: int = 0,
    standardize: bool = False,
    neuron: int = 0,
) -> Gaussianity:
    """Distance to Gaussian of one neuron's pre-activation over independent initializations.

    D_l = sup_z |F_l(z) - Phi(z / s_l)|, F_l the distribution of z_l over `n_init` networks at one
    fixed input; s_l = 1, or the root of the mean of z_l^2. The 95% quantile without any deviation
    is 1.358 / sqrt(n_init), and 1.333 / sqrt(n_init) with s_l from the same samples.

    Parameters
    ----------
    model_factory : callable or RandomNetworks
        ``factory(generator) -> nn.Module`` builds one network, drawing from the generator alone:
        its pre-activations are the outputs of Linear and Conv layers, in the order of their
        calls. `RandomNetworks` draws them in batches, hundreds of times faster.
    x : Tensor (n_0,) or (1, ...)
        One input.
    n_init : int
        Networks, at least 100.
    seed : int
        Of the private generator.
    standardize : bool
        For networks whose variance is not 1.
    neuron : int
        Which one, in layers that have so many, else the first; of a convolution the channel, at
        its central pixel.

    Raises
    ------
    ValueError
        Fewer than 100 networks, more than one input, or values that are not finite.
    NotApplicableError
        A network without Linear or Conv layers, or whose layers are not called alike each time.

    References
    ----------
    P. Wolinski, J. Arbel, arXiv:2205.12379.
    """
    if whole("n_init", n_init, 1) < FEWEST:
        raise ValueError(
            f"n_init must be at least {FEWEST}: a distance below "
            f"{NULL_KNOWN / math.sqrt(FEWEST):.2f} could not be told from none, got {n_init}"
        )
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    if not isinstance(x, Tensor) or not x.is_floating_point() or not torch.isfinite(x).all():
        raise ValueError("x must be a tensor of finite floating numbers")
    if isinstance(model_factory, nn.Module) or not callable(
        getattr(model_factory, "preactivations", model_factory)
    ):
        raise TypeError(
            "model_factory must be RandomNetworks or a callable that builds a network from a "
            f"generator, got {type(model_factory).__name__}"
        )
    with untouched():
        if hasattr(model_factory, "preactivations"):
            z = model_factory.preactivations(x, n_init, generator)  # type: ignore[union-attr]
            names = [f"layer {k + 1}" for k in range(z.shape[1])]
        else:
            names, z = _from_factory(model_factory, x, n_init, generator, neuron)  # type: ignore[arg-type]
    values = z.double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("the pre-activations are not finite: the networks overflow at this input")
    return _gaussianity(names, values, standardize)


def _gaussianity(names: list[str], z: np.ndarray, standardize: bool) -> Gaussianity:
    n = len(z)
    square = (z**2).mean(0)
    std = np.sqrt(square)
    std_error = (z**2).std(0, ddof=1) / np.sqrt(n) / np.maximum(2 * std, 1e-300)
    scale = np.where(std > 0, std, 1.0) if standardize else np.ones_like(std)
    pairs = [ks_distance(column) for column in (z / scale).T]
    return Gaussianity(
        names,
        Estimate(np.array([d for d, _ in pairs]), np.array([s for _, s in pairs]), float(n)),
        (NULL_FITTED if standardize else NULL_KNOWN) / math.sqrt(n),
        Estimate(std, std_error, float(n)),
        n,
        standardize,
    )


def ks_distance(z: np.ndarray) -> tuple[float, float]:
    """sup |F_S - Phi| of samples (S,), ties allowed, and sqrt(F (1 - F) / S) at the supremum."""
    n = len(z)
    phi = ndtr(np.sort(z))
    above = np.arange(1, n + 1) / n - phi
    below = phi - np.arange(n) / n
    k = int(np.argmax(np.maximum(above, below)))
    f = phi[k] + (above[k] if above[k] > below[k] else -below[k])
    return float(max(above[k], below[k])), math.sqrt(max(f * (1 - f), 0.25 / n) / n)


# -- one network at a time -----------------------------------------------------------------------
def _from_factory(
    factory: Callable[[torch.Generator], nn.Module],
    x: Tensor,
    n_init: int,
    generator: torch.Generator,
    neuron: int,
) -> tuple[list[str], Tensor]:
    names: list[str] = []
    rows = []
    for _ in track(range(n_init), "drawing networks"):
        model = factory(generator)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model_factory must return a torch.nn.Module, got {type(model).__name__}"
            )
        found = _watched(model, x, neuron)
        if not found:
            raise NotApplicableError("the network has no Linear or Conv layer")
        if names and names != [name for name, _ in found]:
            raise NotApplicableError("the networks do not call the same layers in the same order")
        names = [name for name, _ in found]
        rows.append(torch.stack([value for _, value in found]))
    return names, torch.stack(rows)


def _watched(model: nn.Module, x: Tensor, neuron: int) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Layer)]
    one = x if x.dim() > 1 else x[None]
    if len(one) != 1:
        raise ValueError(f"x must be one input, (n_0,) or (1, ...), got shape {tuple(x.shape)}")

    def keep(name: str, out: Tensor, conv: bool) -> None:
        units = out[0].flatten(1)[:, out[0].flatten(1).shape[1] // 2] if conv else out[0]
        units = units.reshape(-1, units.shape[-1])[0]
        found.append((name, units[min(neuron, len(units) - 1)].detach().double()))

    hooks = [
        m.register_forward_hook(_reader(keep, name, not isinstance(m, nn.Linear)))
        for name, m in layers
    ]
    try:
        parameter = next(iter(model.parameters()), None)
        with torch.no_grad():
            model(one if parameter is None else one.to(parameter))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _reader(keep: Callable[[str, Tensor, bool], None], name: str, conv: bool) -> Any:
    return lambda module, args, out: keep(name, out, conv)


# -- many at once --------------------------------------------------------------------------------
@dataclass(frozen=True)
class RandomNetworks:
    """Fully connected random networks of one width, drawn in batches.

    z_1 = W_1 x / sqrt(n_0), W_1 Gaussian; z_l = W_l phi(z_{l-1}) / sqrt(n) + b_l, l = 2..depth.
    At an input of unit mean square, and sigma_w2 = 1 of the first layer, z_1 ~ N(0, 1) exactly.

    Attributes
    ----------
    activation : str, nn.Module or callable
        A `GaussianPreactivation` brings the law of its weights with it.
    width, depth : int
        At least 1; `depth` counts the layers of weights.
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in and bias variance from the second layer on; for a
        `GaussianPreactivation` they must stay 1 and 0 (weights of unit scale, no bias).
    first : float
        The variance of z_1 over the mean square of x; by default 1.
    """

    activation: Any
    width: int
    depth: int
    sigma_w2: float = 1.0
    sigma_b2: float = 0.0
    first: float = 1.0

    def __post_init__(self) -> None:
        whole("width", self.width, 1)
        whole("depth", self.depth, 1)
        real("first", self.first, above=0)
        check_variances(self.sigma_w2, self.sigma_b2, 0.0)
        if isinstance(self.activation, GaussianPreactivation):
            if (self.sigma_w2, self.sigma_b2) != (1.0, 0.0):
                raise ValueError(
                    "sigma_w2 and sigma_b2 must stay 1 and 0: the law of the weights is part of "
                    "the pair"
                )
        else:
            real("sigma_w2", self.sigma_w2, above=0)
            resolve_activation(self.activation)

    def preactivations(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """z_l of the first neuron, (n, depth), float64."""
        if x.dim() > 1 and len(x) != 1:
            raise ValueError(f"x must be one input, (n_0,) or (1, ...), got shape {tuple(x.shape)}")
        flat = x.detach().double().flatten()
        chunk = max(1, CHUNK_ELEMENTS // max(self.width**2, len(flat)))
        sizes = [min(chunk, n - start) for start in range(0, n, chunk)]
        scale = math.sqrt(self.first * float(flat.square().mean()))
        parts = [self._chunk(scale, size, generator) for size in track(sizes, "drawing networks")]
        return torch.cat(parts)

    @torch.no_grad()
    def _chunk(self, scale: float, n: int, generator: torch.Generator) -> Tensor:
        function = resolve_activation(self.activation).function
        # rows of W_1 are independent: W_1 x / sqrt(n_0) is drawn as it is distributed
        z = scale * torch.randn(n, self.width, generator=generator, dtype=torch.float64)
        found = [z[:, 0]]
        for layer in range(1, self.depth):
            rows = 1 if layer == self.depth - 1 else self.width  # of the last one neuron is enough
            weight = self._weights((n, rows, self.width), generator)
            z = torch.einsum("nij,nj->ni", weight, function(z)) / math.sqrt(self.width)
            if self.sigma_b2:
                bias = torch.randn(z.shape, generator=generator, dtype=torch.float64)
                z = z + math.sqrt(self.sigma_b2) * bias
            found.append(z[:, 0])
        return torch.stack(found, 1)

    def _weights(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if isinstance(self.activation, GaussianPreactivation):
            return self.activation.sample_weights(shape, generator, torch.float64)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        return math.sqrt(self.sigma_w2) * normal
