"""Modes too weak to be learned act as noise: a kernel of few degrees with a larger noise.

O. Cohen, O. Malka, Z. Ringel, arXiv:1906.05301, truncate the power series of k(t); here the
harmonics are truncated, which is better in few dimensions and the same in many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.checks import whole
from thermolearn.predict.curves.field_theory import equivalence_kernel, subleading
from thermolearn.predict.curves.problem import Moments, Problem
from thermolearn.predict.spectrum import Spectrum, sphere_spectrum, zonal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ZonalKernel:
    """k(t) = sum_l weights_l P_l(t) on the sphere |x|^2 = dim, weights_l = N(d, l) lambda_l.

    Called on an array of t in [-1, 1] it returns an array of the same shape.
    """

    dim: int
    weights: np.ndarray

    def __call__(self, t: Any) -> np.ndarray:
        array = np.asarray(t.detach().cpu() if hasattr(t, "detach") else t, dtype=np.float64)
        out = np.zeros_like(array)
        for weight, polynomial in zip(
            self.weights, zonal(array, self.dim, len(self.weights) - 1), strict=True
        ):
            out += weight * polynomial
        return out

    def gram(self, X: Any, X2: Any = None) -> Tensor:
        """Gram matrix (n, n2), float64, of inputs X (n, dim) and X2 (n2, dim), by default X.

        Raises
        ------
        ValueError
            Inputs of another shape, or not on the sphere |x|^2 = dim to 1e-6.
        """
        import torch

        x = self._on_sphere("X", X)
        x2 = x if X2 is None else self._on_sphere("X2", X2)
        t = np.clip(x @ x2.T / self.dim, -1.0, 1.0)
        if X2 is None:
            np.fill_diagonal(t, 1.0)
        return torch.from_numpy(self(t))

    def _on_sphere(self, name: str, x: Any) -> np.ndarray:
        array = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ValueError(f"{name} must have shape (n, {self.dim}), got {array.shape}")
        gap = np.abs(np.square(array).sum(1) / self.dim - 1)
        if not (gap < 1e-6).all():
            raise ValueError(
                f"{name} must lie on the sphere |x|^2 = {self.dim}, the largest relative gap is "
                f"{gap.max():.2g}: normalize the inputs, or use empirical_spectrum of the full "
                "kernel for inputs of any norm"
            )
        return array


def renormalize(
    kernel: Spectrum | Callable[[np.ndarray], Any],
    r: int,
    dim: int | None = None,
    max_degree: int = 60,
) -> tuple[Any, float]:
    """Keep the modes up to index r; the others become noise of variance trace - sum of the kept.

    sigma_r^2 = sigma^2 + sum_{l > r} N(d, l) lambda_l = sigma^2 + k(1) - sum_{l <= r} N_l lambda_l,
    from the trace and never from the explicit tail. Valid when the dropped eigenvalues are small
    against the effective ridge, data set by data set as well as in the mean.

    Parameters
    ----------
    kernel : Spectrum, or callable on t in [-1, 1]
    r : int
        Last index kept (on the sphere: the highest degree), >= 0.
    dim : int
        Number of input features of a callable kernel; its inputs lie on the sphere |x|^2 = dim.
    max_degree : int
        Not below r; for a callable kernel.

    Returns
    -------
    kept : Spectrum, or ZonalKernel
        What was given, without the modes above r. The spectrum keeps the list of modes and the
        target power, with eigenvalues 0 above r: that part of the target is not learned.
    noise : float
        The noise to *add* to sigma^2.

    Raises
    ------
    ValueError
        r is no index of a listed mode, or a callable kernel comes without `dim`.
    TypeError
        Neither a Spectrum nor callable.
    """
    if isinstance(kernel, Spectrum):
        extra = kernel.tail(r)
        eigenvalues = np.where(np.arange(len(kernel.eigenvalues)) <= r, kernel.eigenvalues, 0.0)
        trace = float(kernel.degeneracies @ eigenvalues)
        return replace(kernel, eigenvalues=eigenvalues, trace=trace), extra
    if not callable(kernel):
        raise TypeError(f"renormalize takes a Spectrum or a kernel, got {type(kernel).__name__}")
    if dim is None:
        raise ValueError("renormalize needs dim, the number of input features, for a kernel")
    spec = sphere_spectrum(kernel, dim, max(max_degree, whole("r", r, 0)))
    weights = (spec.degeneracies * spec.eigenvalues)[: r + 1]
    return ZonalKernel(spec.dim or dim, weights), spec.tail(r)


def truncated(problem: Problem, r: int) -> Problem:
    """The problem with the modes above index r turned into noise."""
    kept = np.where(np.arange(len(problem.eigenvalues)) <= r, problem.eigenvalues, 0.0)
    extra = problem.trace - float(problem.degeneracies @ kept)
    return replace(problem, eigenvalues=kept, tail=0.0, noise=problem.noise + max(extra, 0.0))


def renormalized(problem: Problem, n: np.ndarray, r: int, first_order: bool) -> Moments:
    """Leading or first order of the problem whose modes above r have become noise.

    The residual on the training set is that of the full kernel, sigma^2 (K + sigma^2)^{-1} y: the
    renormalized one times sigma^2/sigma_r^2. The dropped modes keep their prior variance.

    Raises
    ------
    ValueError
        The renormalized noise is 0: nothing was dropped and the noise is 0.
    """
    small = truncated(problem, r)
    moments = (subleading if first_order else equivalence_kernel)(small, n)
    return replace(
        moments,
        train_error=moments.train_error * (problem.noise / small.noise) ** 2,
        predictive_variance=moments.predictive_variance + small.noise - problem.noise,
    )
