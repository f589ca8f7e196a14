"""Entropy of trainable variables: what noise produces and the gradient flow destroys.

V. Vanchurin, arXiv:2004.09280 and arXiv:2008.01540; the sign of F is that of a loss which the
flow descends (the second paper writes dq/dt = +gamma dF/dq).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import exprel
from torch import Tensor
from torch import distributions as dist
from torch.distributions import constraints

from thermolearn.core.estimate import Estimate, mean_estimate

# Two estimates of <Lap F> that differ by more standard errors than this: F has kinks.
KINK_SIGMAS = 5.0
EXACT = "exact: quadratic potential or Gaussian density"


@dataclass(frozen=True, eq=False)
class EntropyDestruction:
    """Terms of the entropy balance dS/dt = production - destruction, nats per unit time.

    Attributes
    ----------
    entropy_rate : Estimate
        dS/dt of the differential entropy S = -int p log p.
    production : Estimate
        D int |grad p|^2 / p >= 0: the noise.
    destruction : Estimate
        gamma <Lap F>: the flow; the learning efficiency of arXiv:2004.09280.
    """

    entropy_rate: Estimate
    production: Estimate
    destruction: Estimate


def entropy_destruction(
    potential: Callable[[Tensor], Tensor] | Tensor,
    density: dist.Distribution,
    gamma: float,
    D: float,
    n_samples: int = 4096,
    seed: int = 0,
) -> EntropyDestruction:
    """Entropy balance of a density p(q) under dq/dt = -gamma grad F(q) + sqrt(2 D) noise.

    dS/dt = D E|grad log p|^2 - gamma E Lap F. Either mean is exact if it can be (quadratic F,
    Gaussian p) and a Monte Carlo mean over samples of p otherwise; the bar of their difference
    is that of the paired samples.

    Parameters
    ----------
    potential : callable (n, d) -> (n,), or Tensor (d,) or (d, d)
        F by differentiable torch operations on float64 rows q, or the (diagonal of the) constant
        Hessian of a quadratic F. Its Laplacian takes d backward passes.
    density : torch.distributions.Distribution
        Over R^d, positive and smooth: event shape (d,), or independent coordinates given as
        batch shape (d,) or ().
    gamma : float
        Mobility (learning rate per unit time), not negative.
    D : float
        Diffusion constant, not negative.
    n_samples : int
        Monte Carlo samples, at least 2.
    seed : int
        Seed of the samples; the global generators are left as they are.

    Returns
    -------
    EntropyDestruction
        If F has kinks, where autograd sees no curvature, the Laplacian contradicts its integral
        by parts -E grad F . grad log p; the latter is then returned, with status ``"kinks"``.

    Raises
    ------
    ValueError
        A parameter out of range, shapes that do not fit, a density that is not supported on all
        of R^d, or a non-finite potential.
    TypeError
        A density or potential of the wrong type, or a potential without a torch gradient.
    """
    for name, value in (("gamma", gamma), ("D", D)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples!r}")
    dim = _dimension(density)
    fisher = _gaussian_fisher(density)
    laplacian = _quadratic_laplacian(potential, dim) if isinstance(potential, Tensor) else None
    if fisher is not None and laplacian is not None:
        production, destruction = D * fisher, gamma * laplacian
        return EntropyDestruction(
            Estimate(production - destruction, note=EXACT),
            Estimate(production, note=EXACT),
            Estimate(destruction, note=EXACT),
        )
    q = _sample(density, n_samples, seed).reshape(n_samples, dim)
    score = _gradient(lambda x: _log_prob(density, x, dim), q)
    produced = torch.full((n_samples,), fisher or 0.0, dtype=torch.float64)
    if fisher is None:
        produced = score.square().sum(1)
    curvature = torch.full((n_samples,), laplacian or 0.0, dtype=torch.float64)
    status = "ok"
    if not isinstance(potential, Tensor):
        curvature, status = _curvature(potential, q, score)
    status_note = "autograd misses the kinks of the potential; taken by parts instead"
    note = f"mean over {n_samples} samples" if status == "ok" else status_note
    return EntropyDestruction(
        mean_estimate(D * produced - gamma * curvature, status=status, note=note),
        _mean(D * produced, fisher is not None, "ok", f"mean over {n_samples} samples"),
        _mean(gamma * curvature, laplacian is not None, status, note),
    )


def _mean(samples: Tensor, exact: bool, status: str, note: str) -> Estimate:
    if exact:
        return Estimate(float(samples[0]), note=EXACT)
    return mean_estimate(samples, status=status, note=note)


def _dimension(density: dist.Distribution) -> int:
    if not isinstance(density, dist.Distribution):
        raise TypeError(
            f"density must be a torch.distributions.Distribution, got {type(density).__name__}"
        )
    if len(density.event_shape) > 1 or (density.event_shape and density.batch_shape):
        raise ValueError(
            f"density must be one distribution over R^d, got batch shape "
            f"{tuple(density.batch_shape)} and event shape {tuple(density.event_shape)}"
        )
    if len(density.batch_shape) > 1:
        raise ValueError(f"density has batch shape {tuple(density.batch_shape)}, expected (d,)")
    support = density.support
    while hasattr(support, "base_constraint"):  # of independent coordinates and mixtures
        support = getattr(support, "base_constraint")  # noqa: B009
    if support is not constraints.real:
        raise ValueError(
            "density must be positive on all of R^d: at the boundary of its support the entropy "
            "production diverges"
        )
    return math.prod(density.event_shape) * math.prod(density.batch_shape)


def _gaussian_fisher(density: dist.Distribution) -> float | None:
    """tr Sigma^{-1} of a Gaussian; None for other densities."""
    if isinstance(density, dist.Independent):
        return _gaussian_fisher(density.base_dist)
    if isinstance(density, dist.MultivariateNormal):
        return float(density.precision_matrix.double().diagonal().sum())
    if isinstance(density, dist.Normal):
        return float(density.scale.double().pow(-2).sum())
    return None


def _quadratic_laplacian(hessian: Tensor, dim: int) -> float:
    if tuple(hessian.shape) not in ((dim,), (dim, dim)):
        raise ValueError(
            f"potential as a Hessian must have shape ({dim},) or ({dim}, {dim}) like the density, "
            f"got {tuple(hessian.shape)}"
        )
    if not torch.isfinite(hessian).all():
        raise ValueError("potential holds a non-finite second derivative")
    return float((hessian if hessian.ndim == 1 else hessian.diagonal()).double().sum())


def _sample(density: dist.Distribution, n: int, seed: int) -> Tensor:
    """Samples that leave torch's CPU generator as it was (distributions take no generator)."""
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return density.sample(torch.Size((n,))).double()
    finally:
        torch.set_rng_state(state)


def _log_prob(density: dist.Distribution, q: Tensor, dim: int) -> Tensor:
    """log p of rows q (n, d), summed over coordinates that are a batch of the density."""
    shape = (len(q), *density.batch_shape, *density.event_shape)
    return density.log_prob(q.reshape(shape)).reshape(len(q), -1).sum(1)


def _gradient(f: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    q = q.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(q).sum(), q)
    return gradient


def _curvature(
    potential: Callable[[Tensor], Tensor], q: Tensor, score: Tensor
) -> tuple[Tensor, str]:
    """Lap F per sample, or its integrand by parts -grad F . grad log p where F has kinks."""
    if not callable(potential):
        raise TypeError("potential must be a callable (n, d) -> (n,) or a tensor, the Hessian")
    q = q.detach().requires_grad_()
    f = potential(q)
    if not isinstance(f, Tensor) or f.shape != q.shape[:1]:
        raise ValueError(
            f"potential must map rows (n, d) to (n,), got "
            f"{tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__}"
        )
    if not f.requires_grad:
        raise TypeError("potential cannot be differentiated by torch")
    (force,) = torch.autograd.grad(f.sum(), q, create_graph=True)
    laplacian = torch.zeros(len(q), dtype=torch.float64)
    for i in range(q.shape[1] if force.requires_grad else 0):
        (row,) = torch.autograd.grad(
            force[:, i].sum(), q, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        laplacian = laplacian + row[:, i]
    by_parts = -(force.detach() * score).sum(1)
    if not all(torch.isfinite(v).all() for v in (f, laplacian, by_parts)):
        raise ValueError("potential has a non-finite value or derivative at a sample of density")
    gap = mean_estimate(laplacian - by_parts)
    if abs(float(gap)) > KINK_SIGMAS * float(gap.stderr) + 1e-12 * float(by_parts.abs().max()):
        return by_parts, "kinks"
    return laplacian.detach(), "ok"


# -- Ornstein-Uhlenbeck ------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeck:
    """Exact entropy balance of a quadratic potential; see `ornstein_uhlenbeck`.

    Attributes
    ----------
    entropy : Estimate
        Differential entropy S, nats.
    entropy_rate, production, destruction : Estimate
        dS/dt = production - destruction, nats per unit time.
    variance : ndarray (..., d)
        Variance of every coordinate.
    """

    entropy: Estimate
    entropy_rate: Estimate
    production: Estimate
    destruction: Estimate
    variance: np.ndarray


def ornstein_uhlenbeck(
    k: ArrayLike, sigma0: float, gamma: float, D: float, t: ArrayLike
) -> OrnsteinUhlenbeck:
    """Entropy of dq_i/dt = -gamma k_i q_i + sqrt(2 D) noise, started from N(0, sigma0^2).

    s_i(t) = sigma0^2 e^{-2 gamma k_i t} + D (1 - e^{-2 gamma k_i t}) / (gamma k_i),
    S = 1/2 sum log 2 pi e s_i,  dS/dt = D sum 1/s_i - gamma sum k_i.

    Parameters
    ----------
    k : array (d,)
        Curvatures of F = sum k_i q_i^2 / 2; zero and negative ones are allowed.
    sigma0 : float
        Standard deviation at t = 0, positive.
    gamma, D : float
        Mobility and diffusion constant, not negative.
    t : float or array
        Times, not negative; the Estimates have its shape.

    Raises
    ------
    ValueError
        A parameter out of range.
    """
    stiffness = np.atleast_1d(np.asarray(k, dtype=np.float64))
    time = np.asarray(t, dtype=np.float64)
    if stiffness.ndim != 1 or not np.isfinite(stiffness).all():
        raise ValueError(f"k must be a finite vector of curvatures, got {k!r}")
    if not (math.isfinite(sigma0) and sigma0 > 0):
        raise ValueError(f"sigma0 must be positive and finite, got {sigma0!r}")
    for name, value in (("gamma", gamma), ("D", D)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    if not (np.isfinite(time).all() and (time >= 0).all()):
        raise ValueError(f"t must be finite and not negative, got {t!r}")
    rate = 2 * gamma * stiffness
    elapsed = time[..., None]
    spread = elapsed * exprel(-rate * elapsed)  # (1 - e^{-rate t}) / rate, t at rate 0
    variance = sigma0**2 * np.exp(-rate * elapsed) + 2 * D * spread
    production = D * (1 / variance).sum(-1)
    destruction = np.full(time.shape, gamma * stiffness.sum())
    entropy = 0.5 * np.log(2 * math.pi * math.e * variance).sum(-1)
    return OrnsteinUhlenbeck(
        Estimate(entropy),
        Estimate(production - destruction),
        Estimate(production),
        Estimate(destruction),
        variance,
    )
