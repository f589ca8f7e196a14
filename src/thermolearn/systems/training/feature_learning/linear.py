"""Bayesian linear networks of any width and depth, exactly, by one-dimensional quadrature.

With phi(z) = z the output is beta . x, and at given readout the prior of y is N(0, s K0 + noise),
K0 = sigma_a2 sigma_w2^L X X^T / d the kernel of infinite width and s a product of independent
Gamma(N_l / 2, 2 / N_l), one for every hidden layer l = 1 .. L (J. Zavatone-Veth, C. Pehlevan,
arXiv:2104.11734; Q. Li, H. Sompolinsky, doi:10.1103/PhysRevX.11.031059, in the limit of large
widths). So p(s | y) is known up to a constant, and every average over the posterior is one over s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import digamma, gammaln, loggamma, logsumexp, polygamma

from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.systems.training.feature_learning.networks import BayesianFCN

NODES = 201  # in log s; doubled until two rules agree
MOST_NODES = 6401
BELOW = 46.0  # the posterior is cut where its density is e^-46 of its maximum
REACH = 220.0  # |log s| at most


@dataclass(frozen=True, eq=False)
class ScalePosterior:
    """p(s | y) on nodes of log s with equal steps.

    Attributes
    ----------
    s : ndarray (m,)
        The nodes.
    weights : ndarray (m,)
        Their probabilities; sum 1.
    """

    s: np.ndarray
    weights: np.ndarray

    def average(self, values: np.ndarray) -> np.ndarray:
        """E over s of values (m, ...)."""
        return np.tensordot(self.weights, values, axes=1)

    @property
    def mean(self) -> float:
        """E[s | y]: 1 in the limit of infinite width."""
        return float(self.weights @ self.s)


@dataclass(frozen=True, eq=False)
class ExactLinearNetwork:
    """The posterior of a linear network; made by `linear_network_exact`.

    Attributes
    ----------
    X : ndarray (n, d)
    y : ndarray (n,)
    net : BayesianFCN
    noise : float
    scale_posterior : ScalePosterior
        Of s, the factor by which the readout's size rescales the kernel.
    log_evidence : Estimate
        log p(y | X), stderr the error of the quadrature (nodes doubled).
    """

    X: np.ndarray
    y: np.ndarray
    net: BayesianFCN
    noise: float
    scale_posterior: ScalePosterior
    log_evidence: Estimate
    _coarse: ScalePosterior = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"ExactLinearNetwork(log_evidence={self.log_evidence}, "
            f"E[s]={self.scale_posterior.mean:.6g}, {self.net}, n={len(self.y)}, "
            f"noise={self.noise:g})"
        )

    @cached_property
    def _rotated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues of X^T X v (v the prior variance of beta), right vectors, X^T y in them."""
        _, singular, rows = np.linalg.svd(self.X, full_matrices=False)
        return self._beta_variance * singular**2, rows.T, rows @ (self.X.T @ self.y)

    @property
    def _beta_variance(self) -> float:
        return self.net.sigma_a2 * self.net.sigma_w2 ** len(self.net.layers) / self.net.d

    def weight_vector(self) -> np.ndarray:
        """E[beta | y] (d,): the network is the linear map beta . x."""
        eigenvalues, rows, projected = self._rotated
        v, s = self._beta_variance, self.scale_posterior.s[:, None]
        # beta_s = (1 / (s v) + X^T X / noise)^{-1} X^T y / noise
        gain = self.scale_posterior.average(s * v / (s * eigenvalues + self.noise))
        return rows @ (gain * projected)

    def predict(self, Xs: Any) -> np.ndarray:
        """E[f(x) | y] at test inputs (m, d).

        Raises
        ------
        ValueError
            Inputs of another shape, NaN or infinite.
        """
        return self.net.inputs(Xs, "Xs")[:, 0] @ self.weight_vector()

    def predict_scalar(self, Xs: Any) -> np.ndarray:
        """f(x) by the kernel times one number, `scalar_renormalization`, at test inputs (m, d)."""
        z = self.net.inputs(Xs, "Xs")[:, 0]
        eigenvalues, rows, projected = self._rotated
        s = self.scalar_renormalization()
        gain = s * self._beta_variance / (s * eigenvalues + self.noise)
        return z @ (rows @ (gain * projected))

    def predictive_variance(self, Xs: Any) -> np.ndarray:
        """Var[f(x) | y] at test inputs (m, d), exactly, noise not added."""
        z = self.net.inputs(Xs, "Xs")[:, 0]
        eigenvalues, rows, projected = self._rotated
        v, posterior = self._beta_variance, self.scale_posterior
        s = posterior.s[:, None]
        inside = z @ rows
        means = (s * v / (s * eigenvalues + self.noise) * projected) @ inside.T  # (m nodes, m)
        shrunk = posterior.average(s * v * self.noise / (s * eigenvalues + self.noise))
        rest = np.maximum((z**2).sum(1) - (inside**2).sum(1), 0.0)
        within = (inside**2) @ shrunk + v * posterior.mean * rest
        center = posterior.average(means)
        return within + posterior.average((means - center) ** 2)

    @property
    def input_covariance(self) -> np.ndarray:
        """E[(1 / N_1) sum_c w_c w_c^T | y] (d, d): what feature learning does to the first layer.

        Given u = the readout seen from the first layer, |u|^2 = s sigma_a2 sigma_w2^{L-1}, only
        the component of W along u meets the data: W^T u = beta.
        """
        return self._input_covariance(self.scale_posterior)

    def _input_covariance(self, posterior: ScalePosterior) -> np.ndarray:
        eigenvalues, rows, projected = self._rotated
        net, d = self.net, self.net.d
        prior = net.sigma_w2 / d
        readout = net.sigma_a2 * net.sigma_w2 ** (len(net.layers) - 1)
        v, s = self._beta_variance, posterior.s[:, None]
        gain = s * v / (s * eigenvalues + self.noise) * projected  # beta_s, rotated (m, r)
        moment = (gain * (posterior.weights[:, None] / (s * readout))).T @ gain
        # Lambda_s / (s readout) = prior noise / (s eigenvalue + noise), prior outside the span
        moment += np.diag(
            posterior.average(prior * (self.noise / (s * eigenvalues + self.noise) - 1))
        )
        width = net.layers[0]
        return prior * np.eye(d) + rows @ moment @ rows.T / width

    @property
    def quadrature_error(self) -> dict[str, float]:
        """Change between the last two rules: of E[s], log evidence, first layer (relative)."""
        fine, coarse = self.scale_posterior, self._coarse
        change = self._input_covariance(fine) - self._input_covariance(coarse)
        return {
            "mean_scale": abs(fine.mean - coarse.mean),
            "log_evidence": float(self.log_evidence.stderr),
            "input_covariance": float(np.abs(change).max() * self.net.d / self.net.sigma_w2),
        }

    def scalar_renormalization(self) -> float:
        """s of the saddle point: scalar kernel renormalization, see `scalar_saddle`."""
        return scalar_saddle(*_spectrum(self.net, self.X, self.y)[:2], self.noise, self.net.layers)


def linear_network_exact(
    X: Any, y: Any, widths: Sequence[int], noise: float, sigma_w2: float = 1.0,
    sigma_a2: float = 1.0, tol: float = 1e-8,
) -> ExactLinearNetwork:  # fmt: skip
    """The exact posterior of a fully connected linear network of finite width.

    p(s | y) ~ p(s) N(y; 0, s K0 + noise), p(s) the density of a product of Gamma variables;
    trapezoidal rule in log s, which converges geometrically, the nodes doubled until log evidence
    and E[s] change by less than tol.

    Parameters
    ----------
    X : array (n, d)
    y : array (n,)
    widths : sequence of int
        Units of every hidden layer: [C] is the two-layer network.
    noise : float
        Variance sigma^2 of the likelihood, the temperature of Langevin training; positive.
    sigma_w2, sigma_a2 : float
        Variances of weights times fan-in: of every hidden layer, of the readout.
    tol : float
        Allowed error of log evidence and E[s].

    Returns
    -------
    ExactLinearNetwork
        With ``predict``, ``log_evidence``, ``scale_posterior``, ``input_covariance``.

    Raises
    ------
    ValueError
        Bad shapes, NaN, widths below 1, a variance, noise or tol that is not positive.
    ConvergenceError
        The quadrature does not reach tol.
    """
    shape = np.shape(X)
    if len(shape) != 2:
        raise ValueError(f"X must have shape (n, d), got {shape}")
    net = BayesianFCN(widths, max(shape[1], 1), sigma_w2, sigma_a2, "linear")
    inputs, targets, noise = net.data(X, y, noise)
    tol = real("tol", tol, above=0)
    x = inputs[:, 0]
    spectrum = _spectrum(net, x, targets)
    coarse, last = None, np.nan
    nodes = NODES
    while nodes <= MOST_NODES:
        posterior, evidence = _scale_posterior(*spectrum, noise, net.layers, nodes)
        if coarse is not None:
            change = max(abs(evidence - last), abs(posterior.mean - coarse.mean))
            if change <= tol:
                error = Estimate(evidence, abs(evidence - last) + 1e-15 * abs(evidence))
                return ExactLinearNetwork(x, targets, net, noise, posterior, error, coarse)
        coarse, last, nodes = posterior, evidence, 2 * nodes - 1
    raise ConvergenceError(
        f"the quadrature over the scale s changes by {change:.1e} when its nodes are doubled to "
        f"{MOST_NODES}; allow tol={10 * change:.0e}, or use fewer inputs or smaller widths"
    )


def scalar_saddle(
    eigenvalues: np.ndarray, projected: np.ndarray, noise: float, widths: Sequence[int]
) -> float:
    """s at the saddle point of sum_l (N_l / 2)(s_l - log s_l) - log N(y; 0, s K0 + noise).

    s = prod_l s_l; Li, Sompolinsky, doi:10.1103/PhysRevX.11.031059: exact when widths, inputs and
    samples grow in proportion. At the saddle N_l (s_l - 1) is the same for every layer.

    Parameters
    ----------
    eigenvalues, projected : ndarray (r,)
        Of K0 where it is not 0, and y in its eigenvectors.
    noise : float
    widths : sequence of int
    """
    sizes = np.asarray(widths, dtype=np.float64)

    def slope(ratio: float) -> float:
        """d/d(log s) of the cost where s_l of the narrowest layer is `ratio`."""
        shift = sizes.min() * (ratio - 1)
        share = float(np.prod(1 + shift / sizes)) * eigenvalues
        total = share + noise
        return shift / 2 + float((share / total - share * projected**2 / total**2).sum()) / 2

    high = 2.0
    while slope(high) < 0:
        high *= 2
    shift = sizes.min() * (bracketed_root(slope, 1e-30, high, log=True) - 1)
    return float(np.prod(1 + shift / sizes))


def _spectrum(
    net: BayesianFCN, X: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[int, float]]:
    """Eigenvalues of K0 that are not 0, y in their eigenvectors, and what is outside."""
    left, singular, _ = np.linalg.svd(X, full_matrices=False)
    variance = net.sigma_a2 * net.sigma_w2 ** len(net.layers) / net.d
    projected = left.T @ y
    rest = max(float(y @ y - projected @ projected), 0.0)
    return variance * singular**2, projected, (len(y) - len(singular), rest)


def _scale_posterior(
    eigenvalues: np.ndarray, projected: np.ndarray, outside: tuple[int, float], noise: float,
    widths: Sequence[int], nodes: int,
) -> tuple[ScalePosterior, float]:  # fmt: skip
    """p(s | y) on nodes of log s, and log p(y)."""

    def log_likelihood(u: np.ndarray) -> np.ndarray:
        total = np.exp(u)[:, None] * eigenvalues + noise
        missing, rest = outside
        return -0.5 * (
            (np.log(2 * np.pi * total) + projected**2 / total).sum(1)
            + missing * np.log(2 * np.pi * noise) + rest / noise
        )  # fmt: skip

    low, high = -REACH, 20.0
    for _ in range(3):  # a narrow posterior between two nodes is found by the next, finer ones
        rough = np.linspace(low, high, NODES)
        joint = log_scale_density(rough, widths) + log_likelihood(rough)
        kept = np.flatnonzero(joint > joint.max() - BELOW)
        low, high = rough[max(kept[0] - 1, 0)], rough[min(kept[-1] + 1, len(rough) - 1)]
    u = np.linspace(low, high, nodes)
    joint = log_scale_density(u, widths) + log_likelihood(u) + np.log(u[1] - u[0])
    evidence = float(np.asarray(logsumexp(joint)))
    return ScalePosterior(np.exp(u), np.exp(joint - evidence)), evidence


def log_scale_density(u: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """log p(u) of u = log s, s a product of independent Gamma(N_l / 2, 2 / N_l).

    One layer: in closed form. More: the moments E s^c = prod_l (2 / N_l)^c Gamma(N_l / 2 + c) /
    Gamma(N_l / 2) inverted (Mellin) along a line through the saddle point c of every u, where the
    integrand is positive and short: relative accuracy also far in a tail, where data may pull s.

    Parameters
    ----------
    u : ndarray (m,)
    widths : sequence of int
        N_l.
    """
    half = np.asarray(widths, dtype=np.float64)[:, None] / 2
    if len(half) == 1:
        return half[0] * (np.log(half[0]) + u - np.exp(u)) - gammaln(half[0])
    c = _saddle(u, half)
    z = half + c
    real = -c * u + (gammaln(z) - gammaln(half) - c * np.log(half)).sum(0)
    spread = np.sqrt(polygamma(1, z).sum(0))  # of u under the tilted density
    # aliases of the trapezoidal rule lie 2 pi / step away, under tails exp(-z |u|) and a Gaussian
    step = 2 * np.pi / np.maximum(45 / z.min(0), 12 * spread)
    count = int(np.ceil(((12 / spread + 30) / step).max()))
    total = np.full_like(u, 0.5)
    for block in np.array_split(np.arange(1, count + 1), max(1, count // 64)):
        k = step[:, None] * block
        phase = -1j * k * u[:, None]
        for a, b in zip(half[:, 0], z, strict=True):
            phase += loggamma(b[:, None] + 1j * k) - gammaln(b)[:, None] - 1j * k * np.log(a)
        total += np.exp(phase).real.sum(1)
    return real + np.log(np.maximum(total * step / np.pi, 1e-300))


def _saddle(u: np.ndarray, half: np.ndarray) -> np.ndarray:
    """c with sum_l psi(N_l / 2 + c) - log(N_l / 2) = u, kept 1/2 above the pole.

    Nearer to the pole the integrand has a long tail; the cancellation that this costs is far
    below what the posterior weighs there.
    """
    low = np.full_like(u, 0.5 - half.min())
    high = half.max() * np.exp(np.maximum(u, 0.0)) + 2.0
    for _ in range(80):
        middle = (low + high) / 2
        above = (digamma(half + middle) - np.log(half)).sum(0) > u
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
