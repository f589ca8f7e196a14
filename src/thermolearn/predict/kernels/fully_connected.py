"""Kernels of infinitely wide fully connected networks.

z^1 = sqrt(sigma_w2 / d) W^1 x + sqrt(sigma_b2) b^1,
z^{l+1} = sqrt(sigma_w2 / n_l) W^{l+1} phi(z^l) + sqrt(sigma_b2) b^{l+1}, all W and b from N(0, 1).
Output z^L, L the number of weight layers. For n_l to infinity the outputs of random networks are
Gaussian with covariance K^L (Neal, doi:10.1007/978-1-4612-0745-0; Lee et al., arXiv:1711.00165),
and gradient flow on all W and b is kernel regression with Theta^L (Jacot et al.,
arXiv:1806.07572):

K^1 = Theta^1 = sigma_w2 x.x'/d + sigma_b2,
K^{l+1} = sigma_w2 E phi(u) phi(v) + sigma_b2,
Theta^{l+1} = K^{l+1} + sigma_w2 Theta^l E phi'(u) phi'(v), (u, v) ~ N(0, K^l).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thermolearn.core.checks import real, whole
from thermolearn.predict.kernels import blocked
from thermolearn.predict.kernels.dual import Given, dual

PRECISIONS = (torch.float64, torch.float32)
BEYOND = 1e-9  # |t| - 1 that is taken for rounding


@dataclass(frozen=True)
class _FullyConnected:
    depth: int
    activation: Given = "relu"
    sigma_w2: float = 2.0
    sigma_b2: float = 0.0

    def __post_init__(self) -> None:
        whole("depth", self.depth, least=1)
        real("sigma_w2", self.sigma_w2, above=0)
        real("sigma_b2", self.sigma_b2, least=0)
        dual(self.activation)

    def __call__(self, t: Any) -> Any:
        """The kernel of two inputs with |x|^2 = |x'|^2 = d and x.x' = t d.

        Parameters
        ----------
        t : float, array or Tensor
            In [-1, 1], of any shape.

        Returns
        -------
        float, ndarray or Tensor
            As t, float64. Closed forms are right to rounding; those of ReLU, leaky ReLU and |z|,
            whose tangent kernel has an infinite slope at t = 1, also next to 1 and -1. Tables
            are right to 1e-8 of the diagonal, but the tangent kernel of more than two layers with a
            kink away from 0 (hardtanh) to about 1e-5 only where 1 - t is below 1e-9.

        Raises
        ------
        ValueError
            t is not finite or not in [-1, 1].
        NotApplicableError
            The averages of the activation cannot be resolved.
        """
        given = torch.as_tensor(t, dtype=torch.double).detach()
        if not bool((given.abs() <= 1 + BEYOND).all()):
            raise ValueError("t must lie in [-1, 1]: x.x'/d of two inputs with |x|^2 = d")
        recursion = self._recursion()
        pair = blocked.on_sphere(recursion, given.clamp(-1, 1), self._is_tangent)
        value = pair[1] if self._is_tangent else pair[0]
        assert value is not None
        if isinstance(t, Tensor):
            return value
        return value.numpy() if value.ndim else float(value)

    def gram(
        self,
        X: ArrayLike | Tensor,
        X2: ArrayLike | Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        block: int = blocked.BLOCK,
    ) -> Tensor:
        """The matrix of the kernel between inputs, of any norms.

        Without X2 (or if X2 is X) it is symmetric to the last bit and its diagonal comes from its
        own recursion. Memory beyond the result: a few tiles and the inputs.

        Parameters
        ----------
        X, X2 : array or Tensor (n, d), (m, d)
            Numbers of any type; computed in float64 whatever their type, on the device of X.
        dtype : torch.float64 or torch.float32
            Of the result and of the work on it. In float32 entries are right to about 1e-6 of the
            diagonal (2e-6 at depth 10), also for equal, opposite and nearly such inputs; the
            diagonal to 1e-7.
        block : int
            Rows and columns of a tile, at least 1.

        Returns
        -------
        Tensor (n, n) or (n, m)

        Raises
        ------
        ValueError
            Inputs that are not 2-d, empty, not finite, or not of one width; a bad block.
        TypeError
            Inputs that are not real numbers, or another dtype.
        NotApplicableError
            The averages of the activation cannot be resolved.
        """
        nngp, ntk = self._grams(X, X2, dtype, block, not self._is_tangent, self._is_tangent)
        result = ntk if self._is_tangent else nngp
        assert result is not None
        return result

    def gram_pair(
        self,
        X: ArrayLike | Tensor,
        X2: ArrayLike | Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        block: int = blocked.BLOCK,
    ) -> tuple[Tensor, Tensor]:
        """The NNGP and the tangent Gram matrix in one pass; arguments and errors as in `gram`."""
        nngp, ntk = self._grams(X, X2, dtype, block, True, True)
        assert nngp is not None and ntk is not None
        return nngp, ntk

    def diagonal(self, X: ArrayLike | Tensor) -> Tensor:
        """k(x, x) of every input (n,), float64, by the recursion of one variable.

        Raises
        ------
        ValueError, TypeError
            Inputs as in `gram`.
        """
        x = as_inputs("X", X)
        recursion = self._recursion()
        variances = recursion.variances(
            self.sigma_w2 * x.square().sum(1) / x.shape[1] + self.sigma_b2
        )
        return recursion.tangent(variances) if self._is_tangent else variances[-1]

    def sphere_spectrum(self, dim: int, max_degree: int = 60) -> Any:
        """Eigenvalues for inputs uniform on the sphere |x|^2 = dim: a `Spectrum`.

        See `thermolearn.predict.spectrum.sphere_spectrum` for the parameters and errors.
        """
        from thermolearn.predict.spectrum import sphere_spectrum

        return sphere_spectrum(self, dim, max_degree)

    @property
    def _is_tangent(self) -> bool:
        return isinstance(self, NTK)

    def _recursion(self) -> blocked.Recursion:
        return blocked.Recursion(
            self.depth, dual(self.activation), float(self.sigma_w2), float(self.sigma_b2)
        )

    def _grams(
        self, X: Any, X2: Any, dtype: torch.dtype, block: int, nngp: bool, ntk: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        x = as_inputs("X", X)
        x2 = None if X2 is None or X2 is X else as_inputs("X2", X2).to(x.device)
        if x2 is not None and x2.shape[1] != x.shape[1]:
            raise ValueError(
                f"X2 must have the {x.shape[1]} features of X, got {x2.shape[1]}: (m, d)"
            )
        if dtype not in PRECISIONS:
            raise TypeError(f"dtype must be torch.float64 or torch.float32, got {dtype!r}")
        size = min(whole("block", block, least=1), max(len(x), 0 if x2 is None else len(x2)))
        if x2 is not None and x2.shape == x.shape and torch.equal(x, x2):
            x2 = None
        return blocked.gram(self._recursion(), x, x2, dtype, nngp, ntk, size)


@dataclass(frozen=True)
class NNGP(_FullyConnected):
    """Covariance of the outputs of random infinitely wide fully connected networks.

    K^1 = sigma_w2 x.x'/d + sigma_b2, K^{l+1} = sigma_w2 E phi(u) phi(v) + sigma_b2 with
    (u, v) ~ N(0, K^l); K^depth is the kernel (Lee et al., arXiv:1711.00165; Matthews et al.,
    arXiv:1804.11271). With noise sigma^2 it is also the posterior of Langevin training.

    Parameters
    ----------
    depth : int
        Number of weight layers, at least 1 (1: a linear kernel).
    activation : str, module or callable
        relu, leaky_relu, erf, gelu, linear, ``torch.sin``, ``torch.abs``, ``nn.LeakyReLU(0.2)``
        have closed forms; anything else continuous and element-wise is tabulated.
    sigma_w2 : float
        Variance of a weight times its fan-in, positive.
    sigma_b2 : float
        Variance of a bias, not negative.

    Raises
    ------
    ValueError
        A parameter out of its range, or the name of no activation.
    TypeError
        Not an activation.
    NotApplicableError
        An activation that jumps, or has parameters of its own.
    """


@dataclass(frozen=True)
class NTK(_FullyConnected):
    """Neural tangent kernel of infinitely wide fully connected networks.

    Theta^1 = K^1, Theta^{l+1} = K^{l+1} + sigma_w2 Theta^l E phi'(u) phi'(v), (u, v) ~ N(0, K^l),
    K as in `NNGP`: the sum over all weights and biases of the products of derivatives, in the
    parametrization with unit variances (Jacot, Gabriel, Hongler, arXiv:1806.07572). Gradient flow
    to zero squared error from f_0 ends at f_0(x) + Theta(x, X) Theta(X, X)^{-1} (y - f_0(X)).

    Parameters and errors as in `NNGP`.
    """


def as_inputs(name: str, x: Any) -> Tensor:
    """Samples (n, d) as float64 on their device.

    Raises
    ------
    ValueError
        Not 2-d, empty, NaN or infinite.
    TypeError
        Not real numbers.
    """
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "iufb":
            raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
        x = torch.from_numpy(np.array(array, dtype=np.float64))
    if x.is_complex():
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    x = x.detach().to(torch.float64)
    if x.ndim != 2:
        raise ValueError(f"{name} must be 2-d, (samples, features), got shape {tuple(x.shape)}")
    if not x.numel():
        raise ValueError(f"{name} must have samples and features, got shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} holds NaN or infinite values; drop or impute them")
    largest = float(x.abs().max())
    if largest > math.sqrt(torch.finfo(torch.float32).max):
        raise ValueError(f"{name} holds values up to {largest:.3g}; scale the inputs to about 1")
    return x
