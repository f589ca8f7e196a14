"""Energy, complexity and spectrum of wide random networks, from the matrix Dyson equation.

References: V. Vanchurin, arXiv:2004.09280 (the ensemble); the equation and its papers are in
`dyson`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.checks import check_variances, check_widths
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.measure.canonical import dyson

LEADING_ORDER = "leading order in the widths; stderr is the numerical error"

ActivationLike = str | Callable[[torch.Tensor], torch.Tensor]


# -- feed-forward networks ---------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class WideLimit:
    """State functions and spectrum of a wide random feed-forward network; see `wide_limit`.

    Attributes
    ----------
    average_loss : Estimate
        U = 1/2 tr G (1 + beta G)^{-1}, extensive.
    complexity : Estimate
        C = -1/2 log det (G + T), nats, extensive.
    log_partition : Estimate
        log Z = (N/2) log 2 pi - 1/2 log det (1 + beta G), nats, extensive.
    beta : float or ndarray
        The inverse temperatures; the Estimates have its shape.
    widths, sigma_w2, sigma_b2, q0
        The parameters.
    layers : tuple of Activation
        The activation of layers 1..L.
    """

    average_loss: Estimate
    complexity: Estimate
    log_partition: Estimate
    beta: float | np.ndarray
    widths: tuple[int, ...]
    sigma_w2: float
    sigma_b2: float
    q0: float
    layers: tuple[Activation, ...] = field(repr=False)

    @property
    def n_neurons(self) -> int:
        """N, the sum of the widths."""
        return sum(self.widths)

    @property
    def mass_at_one(self) -> float:
        """Fraction of eigenvalues of G equal to 1: directions cut off by narrow or dead layers.

        A vector in layer l with J_l^T v = 0 and J_{l+1} v = 0 is left alone by M. With p_l the
        share of neurons with a non-zero slope, there are max(0, n_l - min(p_l n_l, n_{l-1}) -
        p_{l+1} n_{l+1}) of them.
        """
        s = self._spectral_slopes(fine=True)
        n = s.widths
        active = n * np.sum(np.where(s.gain > 0, s.weights, 0.0), axis=1)
        below = np.minimum(active, np.concatenate([[0.0], n[:-1]]))
        above = np.concatenate([active[1:], [0.0]])
        free = n - below - above
        return float(free[free > 1e-9 * n].sum() / n.sum())

    def density(self, eigenvalues: ArrayLike) -> Estimate:
        """Spectral density rho(lambda) of G without its point mass at 1.

        int rho = 1 - mass_at_one. With saturating output neurons rho has an integrable
        singularity at 1, which `cumulative` integrates for you.

        Parameters
        ----------
        eigenvalues : array
            Where to take the density; 0 is returned for lambda <= 0.

        Raises
        ------
        ValueError
            Non-finite eigenvalues.
        ConvergenceError
            The Dyson equation did not converge at one of them.
        """
        mass = self.mass_at_one

        def function(s: dyson.Slopes, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
            share = dyson.resolvent(s, t, x, y) / s.widths.sum() - mass / (1 + t)
            return np.maximum(np.imag(share) / math.pi, 0.0)

        return self._spectral(function, eigenvalues)

    def cumulative(self, eigenvalues: ArrayLike) -> Estimate:
        """Fraction of the eigenvalues of G that are not above lambda, point mass included.

        Taken from the phase of det(G - lambda), without integrating the density.

        Parameters, errors: see `density`.
        """
        mass = self.mass_at_one

        def function(s: dyson.Slopes, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
            below = -np.imag(dyson.potential(s, t, x, y)) / (math.pi * s.widths.sum())
            # the point mass as a step instead of the smoothed one
            return below + mass * ((np.real(t) <= -1.0) + np.angle(1 + t) / math.pi)

        return self._spectral(function, eigenvalues)

    def _spectral_slopes(self, fine: bool) -> dyson.Slopes:
        n, fineness = (8, 0.3) if fine else (6, 0.35)
        return dyson.propagate_slopes(
            self.widths, self.sigma_w2, self.sigma_b2, self.layers, self.q0, n, fineness
        )

    def _spectral(self, function: Callable[..., np.ndarray], eigenvalues: ArrayLike) -> Estimate:
        lam = np.asarray(eigenvalues, dtype=np.float64)
        if not np.isfinite(lam).all():
            raise ValueError("eigenvalues must be finite")
        flat = lam.ravel()
        value, error = np.zeros((2, len(flat)))
        s, s_coarse = self._spectral_slopes(True), self._spectral_slopes(False)
        for part in dyson.chunks(np.flatnonzero(flat > 0), s):
            t, u = dyson.near_real_axis(s, flat[part])
            value[part] = function(s, t, *dyson.split(u))
            # the error: fewer nodes, and four times as far from the real axis
            t = np.real(t) + 4j * np.imag(t)
            u = dyson.converge(s_coarse, t, u, 3, "lambda")
            error[part] = np.abs(value[part] - function(s_coarse, t, *dyson.split(u)))
        return Estimate(value.reshape(lam.shape), error.reshape(lam.shape), note=LEADING_ORDER)


def wide_limit(
    widths: Sequence[int],
    sigma_w2: float,
    sigma_b2: float,
    activation: ActivationLike,
    beta: ArrayLike,
    q0: float = 1.0,
    output_activation: ActivationLike | None = None,
) -> WideLimit:
    """Average loss, complexity and spectrum of a wide random feed-forward network.

    x_l = f(W_l x_{l-1} + b_l), W_l ~ N(0, sigma_w2 / n_{l-1}), b_l ~ N(0, sigma_b2), with the
    input neurons part of the state (N = sum of the widths) and a unit Gaussian reference around
    the forward pass: Z = (2 pi)^{N/2} det(1 + beta G)^{-1/2}.

    Parameters
    ----------
    widths : sequence of int
        Neurons per layer n_0, ..., n_L; at least two layers. The result, for one input or a
        mean over inputs of one length, is of leading order in the widths: the mean of U and C
        over real networks differs by an amount that does not grow with the width (tanh, 16
        layers, beta = 1: 0.17 of 358 and 1.0 of 620 at width 80, the same at width 20).
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, and bias variance; not negative.
    activation : str or callable
        Of layers 1..L: a name (linear, tanh, relu, erf, sigmoid, gelu, silu, leaky_relu, elu,
        hardtanh, softplus), or an element-wise torch callable, with an attribute ``kinks`` if
        it or its slope is not smooth elsewhere than at 0.
    beta : float or array
        Inverse temperature, positive.
    q0 : float
        |x_0|^2 / n_0 of the input; not negative.
    output_activation : str or callable, optional
        Activation of the last layer if it differs, e.g. ``"linear"``.

    Returns
    -------
    WideLimit
        With ``.average_loss``, ``.complexity``, ``.log_partition`` (Estimates of beta's shape,
        extensive) and ``.density(eigenvalues)``, ``.cumulative(eigenvalues)``.

    Raises
    ------
    ValueError
        A parameter out of range, an unknown activation name, or variances that diverge.
    TypeError
        An activation that is not an element-wise, differentiable torch function.
    ConvergenceError
        The Dyson equation did not reach its tolerance.
    """
    sizes = check_widths(widths)
    check_variances(sigma_w2, sigma_b2, q0)
    inverse = _check_beta(beta)
    hidden = resolve_activation(activation)
    output = hidden if output_activation is None else resolve_activation(output_activation)
    layers = (hidden,) * (len(sizes) - 2) + (output,)

    def energy_and_log_det(n_nodes: int) -> np.ndarray:
        s = dyson.propagate_slopes(sizes, sigma_w2, sigma_b2, layers, q0, n_nodes)
        parts = dyson.chunks(1 / inverse.ravel(), s)
        return np.concatenate([dyson.energy_and_log_det(s, t) for t in parts], axis=1)

    fine, coarse = energy_and_log_det(16), energy_and_log_det(12)
    scale = np.array([1.0, -0.5])

    def estimate(row: int, shift: np.ndarray | float = 0.0) -> Estimate:
        value, error = scale[row] * fine[row] + shift, np.abs(scale[row] * (fine - coarse)[row])
        return Estimate(
            value.reshape(inverse.shape), error.reshape(inverse.shape), note=LEADING_ORDER
        )

    n_half = sum(sizes) / 2
    return WideLimit(
        average_loss=estimate(0),
        complexity=estimate(1),
        log_partition=estimate(1, n_half * np.log(2 * math.pi / inverse.ravel())),
        beta=inverse if inverse.ndim else float(inverse),
        widths=sizes,
        sigma_w2=float(sigma_w2),
        sigma_b2=float(sigma_b2),
        q0=float(q0),
        layers=layers,
    )


def _check_beta(beta: ArrayLike) -> np.ndarray:
    inverse = np.asarray(beta, dtype=np.float64)
    if inverse.size == 0 or not (np.isfinite(inverse).all() and (inverse > 0).all()):
        raise ValueError(f"beta must be positive and finite, got {beta!r}")
    return inverse


# -- recurrent networks ------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class WideLimitRecurrent:
    """State functions of a large linear recurrent network; see `wide_limit_recurrent`.

    Attributes
    ----------
    average_loss_per_neuron, complexity_per_neuron : Estimate
        U/N and C/N (nats) at beta.
    log_det_per_neuron : Estimate
        (1/N) log det G, nats: 0 for g <= 1, 2 log g + 1/g^2 - 1 for g > 1.
    n, g, beta
        The parameters.
    """

    average_loss_per_neuron: Estimate
    complexity_per_neuron: Estimate
    log_det_per_neuron: Estimate
    n: int
    g: float
    beta: float | np.ndarray

    @property
    def average_loss(self) -> Estimate:
        """U, extensive."""
        return self.average_loss_per_neuron * self.n

    @property
    def complexity(self) -> Estimate:
        """C = -1/2 log det (G + T), nats, extensive."""
        return self.complexity_per_neuron * self.n


def wide_limit_recurrent(n: int, g: float, beta: ArrayLike) -> WideLimitRecurrent:
    """State functions for w = g X / sqrt(n), X with independent standard normal entries, f(z) = z.

    G = (1 - w)^T (1 - w). With R = 1 + g^2 x the Dyson equation is x = R / (1 + T R^2), that is
    (1 - 1/R)(1 + T R^2) = g^2, whose left side grows from 0 at R = 1: there is one root. Below
    g = 1 the spectrum of w stays inside the unit circle and det G = 1 to exponential accuracy;
    above, it encloses 1 and log det G = n (2 log g + 1/g^2 - 1).

    Parameters
    ----------
    n : int
        Number of neurons, at least 1; results are of leading order in n.
    g : float
        Gain, not negative.
    beta : float or array
        Inverse temperature, positive.

    Raises
    ------
    ValueError
        A parameter out of range.
    """
    if n < 1 or n != int(n):
        raise ValueError(f"n must be an integer of at least 1, got {n!r}")
    if not (math.isfinite(g) and g >= 0):
        raise ValueError(f"g must be finite and not negative, got {g!r}")
    inverse = _check_beta(beta)
    t = 1 / inverse
    excess = np.array([_recurrent_excess(g, v) for v in t.ravel()]).reshape(t.shape)
    r = 1 + excess
    x = r / (1 + t * r**2)
    log_det = np.log1p(t * r**2) - t * (g * x) ** 2
    energy = t / 2 * (1 + t * r * excess) / (1 + t * r**2)
    note = LEADING_ORDER.replace("the widths", "n")
    return WideLimitRecurrent(
        Estimate(energy, 1e-14 * np.abs(energy), note=note),
        Estimate(-log_det / 2, 1e-14 * np.abs(log_det), note=note),
        Estimate(2 * math.log(g) + g**-2 - 1 if g > 1 else 0.0, note=note),
        int(n),
        float(g),
        inverse if inverse.ndim else float(inverse),
    )


def _recurrent_excess(g: float, t: float) -> float:
    """R - 1 > 0 with (1 - 1/R)(1 + T R^2) = g^2."""
    if g < 1e-100:
        return 0.0
    low = min(1.0, g**2 / (1 + 2 * t)) / 4
    high = 2 * max(1.0, g * math.sqrt(2 / t))
    return bracketed_root(
        lambda u: u / (1 + u) * (1 + t * (1 + u) ** 2) / g**2 - 1, low, high, log=True
    )
