"""Spectral density of the Hessian by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.linalg import gauss_rule, lanczos
from thermolearn.measure.curvature.eigenvalues import check_layer
from thermolearn.measure.curvature.hessian import (
    Hessian,
    private_window,
    rademacher,
    vectors_that_fit,
    window_hessian,
)
from thermolearn.measure.window import Pair

SPARE = 5.0  # widths of the kernel by which the grid exceeds the Ritz values
SHARE = 0.01  # of the spectral range: the default width


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The quadrature of a spectrum: probes of nodes theta and weights w with sum 1.

    Attributes
    ----------
    nodes, weights : ndarray (probes, steps)
        rho(x) = mean over probes of sum_i w_i delta(x - theta_i).
    size : int
        Dimension P of the matrix.
    note : str
        On what it was taken.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    note: str

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest Ritz value with weight; they lie inside the spectrum."""
        seen = self.nodes[self.weights > 0]
        return float(seen.min()), float(seen.max())

    @property
    def default_width(self) -> float:
        """1% of the range (of the scale of a spectrum that is one point)."""
        low, high = self.range
        return SHARE * max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-300)

    def moment(self, power: int) -> Estimate:
        """Mean of lambda^power over the eigenvalues; unbiased for power < 2 steps."""
        whole("power", power, least=0)
        return mean_estimate((self.weights * self.nodes**power).sum(1), note=self.note)

    @property
    def trace(self) -> Estimate:
        """P times the first moment."""
        return self.moment(1) * self.size

    def share(self, low: float = -math.inf, high: float = math.inf) -> Estimate:
        """Share of the eigenvalues in [low, high), by the nodes."""
        inside = (self.nodes >= low) & (self.nodes < high)
        return mean_estimate((self.weights * inside).sum(1), note=self.note)

    def grid(self, points: int = 512, width: float | None = None) -> np.ndarray:
        """Evenly spaced from five widths below to five widths above the Ritz values."""
        whole("points", points, least=2)
        width = self._width(width)
        low, high = self.range
        return np.linspace(low - SPARE * width, high + SPARE * width, points)

    def density(self, x: np.ndarray, width: float | None = None) -> Estimate:
        """Density at x, each eigenvalue broadened to a Gaussian of standard deviation `width`.

        The default width is 1% of the range; structure below it is not resolved. stderr: over
        the probes; it does not hold the bias of too few steps. Integrates to one.
        """
        width, x = self._width(width), np.asarray(x, dtype=float)
        distance = (x[None, :, None] - self.nodes[:, None, :]) / width
        kernel = np.exp(-0.5 * distance**2) / (width * math.sqrt(2 * math.pi))
        note = f"Gaussians of width {width:.3g}, {self.note}"
        return mean_estimate((kernel * self.weights[:, None, :]).sum(2), note=note)

    def _width(self, width: float | None) -> float:
        if width is None:
            return self.default_width
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width must be positive, got {width!r}")
        return float(width)


def spectral_density(
    model: nn.Module,
    loss_fn: Any,
    data: Pair,
    probes: int = 4,
    steps: int = 60,
    *,
    layer: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> SpectralDensity:
    """Density of the eigenvalues of the Hessian of the mean loss.

    Parameters
    ----------
    model, loss_fn, data, seed, dtype
        As `hessian_trace`.
    probes : int
        Random starting vectors; the error bars are their spread (one alone gives none).
    steps : int
        Lanczos steps of each: at most so many points of the spectrum are told apart. probes *
        steps products are made; the basis of one probe after the other is held, and steps are
        cut where it would exceed 1 GiB (the note says so).
    layer : str, optional
        Of the diagonal block of one layer.

    Returns
    -------
    SpectralDensity
        ``d.density(d.grid())`` is what is plotted; moments and shares need no broadening.

    Raises
    ------
    ValueError, TypeError, NotApplicableError
        As `top_eigenvalues`; a model of which not even four vectors fit.

    References
    ----------
    Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38 (2017) 1075; for networks Ghorbani, Krishnan,
    Xiao, arXiv:1901.10159 and Papyan, JMLR 21 (2020) 252. Deviation: full reorthogonalization, so
    that no converged eigenvalue is counted twice.
    """
    whole("probes", probes, least=1)
    whole("steps", steps, least=2)
    whole("seed", seed, least=0)
    with private_window(model, loss_fn, data, dtype) as window:
        hessian = window_hessian(window)
        check_layer(hessian, layer)
        return estimate_density(hessian, probes, steps, layer, seed)


def estimate_density(
    hessian: Hessian, probes: int, steps: int, layer: str | None = None, seed: int = 0
) -> SpectralDensity:
    """The quadrature of the Hessian or of a diagonal block."""
    size = hessian.block_size(layer)
    wanted = min(steps, size)
    steps = min(wanted, vectors_that_fit(size))
    if steps < min(4, size):
        raise ValueError(
            f"four vectors of {size} parameters do not fit in the memory of a Lanczos basis; "
            "take a single layer by layer=..."
        )
    operator = hessian.operator(layer)
    start = rademacher(hessian, probes, seed, size)
    together = min(probes, max(1, vectors_that_fit(size) // steps))
    nodes, weights = [], []
    for part in start.split(together):
        alpha, beta = lanczos(operator, part, steps)
        rule = gauss_rule(alpha.double().cpu(), beta.double().cpu())
        nodes.append(rule[0].numpy())
        weights.append(rule[1].numpy())
    cut = f" (not {wanted}: the basis would not fit)" if steps < wanted else ""
    note = f"{probes} probes of {steps} Lanczos steps{cut}, {hessian.note}"
    return SpectralDensity(np.concatenate(nodes), np.concatenate(weights), size, note)
