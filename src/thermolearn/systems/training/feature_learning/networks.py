"""Finite Bayesian networks: sizes, priors, outputs of many weight samples at once.

Fully connected, W^l_{ij} ~ N(0, sigma_w2 / fan_in), a_i ~ N(0, sigma_a2 / N_L):
h^1 = W^1 x, h^{l+1} = W^{l+1} phi(h^l), f(x) = sum_i a_i phi(h^L_i).
Convolutional with one hidden layer and patches x_i in R^S that do not overlap (I. Seroussi,
G. Naveh, Z. Ringel, arXiv:2112.15383): f(x) = sum_{i <= P} sum_{c <= C} a_{ci} phi(w_c . x_i),
w_c ~ N(0, sigma_w2 / S), a_{ci} ~ N(0, sigma_a2 / (C P)).

Posterior weights have density proportional to prior times exp(-sum_mu (f(x_mu) - y_mu)^2 /
(2 noise)): the equilibrium of Langevin training on half the sum of squares at temperature T =
noise with weight decay noise / prior variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.checks import real, whole
from thermolearn.predict.kernels.dual import Given

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.equations import EquationsOfState
    from thermolearn.systems.training.feature_learning.gaussian_process import GaussianProcess


class _Network:
    """What the two architectures share; not for use of its own."""

    sigma_w2: float
    sigma_a2: float
    activation: Given

    @property
    def layers(self) -> tuple[int, ...]:
        """Units (channels) of every hidden layer, from the input."""
        raise NotImplementedError

    @property
    def input_shape(self) -> tuple[int, int]:
        """Patches P and inputs of a patch S; (1, d) if fully connected."""
        raise NotImplementedError

    @property
    def resolved_activation(self) -> Activation:
        """Name, torch function and kinks of the activation."""
        return resolve_activation(self.activation)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights: hidden layers (N_l, N_{l-1}), then the readout (N_L P,)."""
        patches, inputs = self.input_shape
        sizes = (inputs, *self.layers)
        hidden = tuple((wide, fan) for fan, wide in pairwise(sizes))
        return (*hidden, (sizes[-1] * patches,))

    @property
    def prior_variances(self) -> tuple[float, ...]:
        """Variance of one weight, in the order of `shapes`."""
        *hidden, readout = self.shapes
        return (*(self.sigma_w2 / fan for _, fan in hidden), self.sigma_a2 / readout[0])

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def preactivations(self, weights: Sequence[Tensor], X: Tensor) -> list[Tensor]:
        """h^l of every hidden layer.

        Parameters
        ----------
        weights : hidden weights, each (..., N_l, N_{l-1}); a readout after them is ignored
            Leading axes are samples or chains.
        X : Tensor (n, P, S)
            As `inputs` gives it.

        Returns
        -------
        list of Tensor (..., n, P, N_l)
        """
        phi = self.resolved_activation.function
        z, out = X, []
        for number, w in enumerate(weights[: len(self.layers)]):
            # (..., n P, N_l): one matrix product for all patches and samples
            flat = (phi(z) if number else z).flatten(-3, -2) @ w.transpose(-1, -2)
            z = flat.unflatten(-2, X.shape[-3:-1])
            out.append(z)
        return out

    def features(self, weights: Sequence[Tensor], X: Tensor) -> Tensor:
        """phi(h^L), one row per input: what the readout multiplies.

        Parameters as in `preactivations`.

        Returns
        -------
        Tensor (..., n, P N_L)
            In the order of the readout. The kernel of one sample of hidden weights is
            `prior_variances[-1]` times features @ features^T.
        """
        phi = self.resolved_activation.function
        return phi(self.preactivations(weights, X)[-1]).flatten(-2)

    def forward(self, weights: Sequence[Tensor], X: Tensor) -> Tensor:
        """Outputs f(x), (..., n); weights as in `shapes` with any leading axes, readout last."""
        return (self.features(weights, X) @ weights[-1].unsqueeze(-1)).squeeze(-1)

    def sample_prior(self, generator: torch.Generator, samples: int = 1) -> list[Tensor]:
        """Weights from the prior, float64, each (samples, *shape)."""
        samples = whole("samples", samples, least=1)
        return [
            variance**0.5 * torch.randn(samples, *shape, generator=generator, dtype=torch.double)
            for shape, variance in zip(self.shapes, self.prior_variances, strict=True)
        ]

    def inputs(self, X: Any, name: str = "X") -> np.ndarray:
        """Inputs as float64 (n, P, S); a fully connected network takes (n, d).

        Raises
        ------
        ValueError
            Another shape, no input, NaN or infinite, or not real numbers.
        """
        patches, size = self.input_shape
        array = _numbers(name, X)
        wanted = f"(n, {patches}, {size})" if isinstance(self, BayesianCNN) else f"(n, {size})"
        if not isinstance(self, BayesianCNN) and array.ndim == 2:
            array = array[:, None]
        if array.ndim != 3 or array.shape[1:] != (patches, size) or not len(array):
            raise ValueError(f"{name} must have shape {wanted}, got {np.shape(X)}")
        return array

    def data(self, X: Any, y: Any, noise: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Checked inputs (n, P, S), targets (n,) and noise.

        Raises
        ------
        ValueError
            Inputs as in `inputs`; targets of another length, NaN or infinite; noise not positive:
            the posterior needs a temperature.
        """
        x = self.inputs(X)
        targets = _numbers("y", y)
        if targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        if targets.shape != (len(x),):
            raise ValueError(
                f"y must have one target per input, shape ({len(x)},), got {np.shape(y)}"
            )
        return x, targets, real("noise", noise, above=0)

    def equations_of_state(
        self, X: Any, y: Any, noise: float, jitter: float = 0.0
    ) -> EquationsOfState:
        """The equations for the adapted kernels on a data set; see `EquationsOfState`.

        Parameters
        ----------
        X : array (n, d) or (n, P, S)
        y : array (n,)
        noise : float
            sigma^2 > 0, the variance of the likelihood and the temperature of Langevin training.
        jitter : float
            For duplicate inputs and more than one hidden layer: added to the diagonal of the
            kernels between hidden layers, in units of sigma_w2.

        Raises
        ------
        ValueError
            As in `data`.
        NotApplicableError
            An activation without a closed form whose Hermite series is too slow.
        """
        from thermolearn.systems.training.feature_learning.equations import EquationsOfState

        return EquationsOfState(self, *self.data(X, y, noise), jitter)

    def gp(self, X: Any, y: Any, noise: float) -> GaussianProcess:
        """The limit of infinite width at the same prior variances; see `GaussianProcess`."""
        from thermolearn.systems.training.feature_learning.gaussian_process import GaussianProcess

        return GaussianProcess(self, *self.data(X, y, noise))

    def _check_prior(self) -> None:
        real("sigma_w2", self.sigma_w2, above=0)
        real("sigma_a2", self.sigma_a2, above=0)
        resolve_activation(self.activation)


@dataclass(frozen=True)
class BayesianFCN(_Network):
    """A fully connected network with Gaussian prior, no biases, one output.

    Parameters
    ----------
    widths : sequence of int
        Units of every hidden layer from the input, each at least 1: [C] has two layers of weights,
        [N1, N2] three.
    d : int
        Inputs, at least 1.
    sigma_w2 : float
        Variance of a hidden weight times its fan-in, positive.
    sigma_a2 : float
        Variance of a readout weight times its fan-in, positive: O(1) is standard scaling,
        O(1 / width) mean-field scaling, with strong feature learning.
    activation : str or element-wise torch callable
        erf, linear, relu ... (`thermolearn.core.activation.ACTIVATIONS`).

    Raises
    ------
    ValueError
        A parameter out of its range, or the name of no activation.
    TypeError
        Not an activation.
    """

    widths: Sequence[int]
    d: int
    sigma_w2: float = 1.0
    sigma_a2: float = 1.0
    activation: Given = "erf"

    def __post_init__(self) -> None:
        given = self.widths
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
            raise ValueError(f"widths must be a sequence of integers, e.g. [20], got {given!r}")
        if not len(given):
            raise ValueError("widths must name at least one hidden layer, e.g. [20]")
        sizes = tuple(whole(f"widths[{i}]", n, least=1) for i, n in enumerate(given))
        object.__setattr__(self, "widths", sizes)
        whole("d", self.d, least=1)
        self._check_prior()

    @property
    def layers(self) -> tuple[int, ...]:
        """Units of every hidden layer, from the input."""
        return tuple(self.widths)

    @property
    def input_shape(self) -> tuple[int, int]:
        """(1, d)"""
        return 1, self.d


@dataclass(frozen=True)
class BayesianCNN(_Network):
    """One convolutional layer over patches that do not overlap, and a readout of its own for each.

    Parameters
    ----------
    channels : int
        C, at least 1.
    patches : int
        P, at least 1; with 1 this is a fully connected network.
    patch_dim : int
        S, inputs of a patch, at least 1.
    sigma_w2 : float
        Variance of a filter weight times S, positive.
    sigma_a2 : float
        Variance of a readout weight times C P, positive.
    activation : str or element-wise torch callable

    Raises
    ------
    ValueError
        A parameter out of its range, or the name of no activation.
    TypeError
        Not an activation.
    """

    channels: int
    patches: int
    patch_dim: int
    sigma_w2: float = 1.0
    sigma_a2: float = 1.0
    activation: Given = "erf"

    def __post_init__(self) -> None:
        for name in ("channels", "patches", "patch_dim"):
            whole(name, getattr(self, name), least=1)
        self._check_prior()

    @property
    def layers(self) -> tuple[int, ...]:
        """(channels,)"""
        return (self.channels,)

    @property
    def input_shape(self) -> tuple[int, int]:
        """(patches, patch_dim)"""
        return self.patches, self.patch_dim


def _numbers(name: str, values: Any) -> np.ndarray:
    """An array of finite real numbers, float64, detached from torch."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values; drop or impute them")
    return array
