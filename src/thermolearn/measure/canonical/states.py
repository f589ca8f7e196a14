"""The ensemble beyond the Gaussian: noisy forward passes with weights, HMC, quadrature.

For feed-forward nets e = x - f(w x + b) is a unit-Jacobian change of variables, so the noisy
forward pass x_l = f_l(x_{l-1}) + sqrt(T) xi_l samples exp(-beta H_0), H_0 = |e|^2/2, exactly, with
Z_0 = (2 pi T)^{N/2}. Reference and mass enter as importance weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.diagnostics import importance_ess
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.core.sampling import ChainResult, chain_mean, hmc
from thermolearn.measure.canonical.system import NeuronSystem

CHUNK = 4096  # rows (draws x samples) of states in memory at once
GRID_LIMIT = 8000  # points of a transfer matrix
ENOUGH_ESS = 100.0  # below it an importance-sampled number is flagged


@dataclass(frozen=True, eq=False)
class StateSample:
    """Draws of all neurons at one temperature, with what they say about the ensemble.

    Attributes
    ----------
    losses : Tensor (n, B)
        H_0 = |e|^2/2 of each draw for each data sample, without the mass term (HMC: with it).
    mass_terms : Tensor (n, B)
        -(m/2)|x - x_ref|^2.
    log_weights : Tensor (n, B)
        ln of reference and mass relative to the noisy forward pass; zero for HMC draws.
    states : Tensor (n, B, N) or None
        The draws, if kept.
    beta, neurons, method
        Inverse temperature, N, "noisy-forward" or "hmc".
    chains : ChainResult or None
        HMC diagnostics.
    """

    losses: Tensor
    mass_terms: Tensor
    log_weights: Tensor
    states: Tensor | None
    beta: float
    neurons: int
    method: str
    chains: ChainResult | None = None

    @cached_property
    def ess(self) -> np.ndarray:
        """Effective number of independent draws per data sample, shape (B,)."""
        if self.chains is not None:
            return np.array([float(e.n_eff or 0) for e in self._chain_means])
        return np.array([importance_ess(w.cpu().numpy()) for w in self.log_weights.T])

    @property
    def status(self) -> str:
        return "ok" if self.ess.min() >= ENOUGH_ESS else "under-sampled"

    @cached_property
    def _chain_means(self) -> list[Estimate]:
        """<H> of each data sample from its own chains (different samples have different means)."""
        assert self.chains is not None
        trajectories, batch = len(self.chains.observables["H"]), self.losses.shape[1]
        energies = self.chains.observables["H"].reshape(trajectories, batch, -1)
        return [chain_mean(energies[:, i].T, "H") for i in range(batch)]

    def _mean_over_samples(self, value: Tensor, stderr: Tensor, note: str) -> Estimate:
        """Batch mean; the error is Monte Carlo's alone (the data samples are held fixed)."""
        batch = len(value)
        return Estimate(
            float(value.mean()),
            float((stderr**2).sum().sqrt()) / batch,
            float(self.ess.sum()),
            self.status,
            f"{note}; Monte Carlo error at the given {batch} samples",
        )

    @property
    def log_partition(self) -> Estimate:
        """log Z = (N/2) log 2 pi T + log <w> over noisy forward passes, mean over the batch."""
        if self.method == "hmc":
            raise ValueError("HMC draws do not give log Z: use method='noisy-forward'")
        n = len(self.log_weights)
        top = self.log_weights.max(0).values
        weight = (self.log_weights - top).exp()
        mean = weight.mean(0)
        stderr = weight.std(0) / math.sqrt(n) / mean
        value = 0.5 * self.neurons * math.log(2 * math.pi / self.beta) + top + mean.log()
        return self._mean_over_samples(value, stderr, "importance sampling")

    @property
    def average_loss(self) -> Estimate:
        """U = <H> under the ensemble, mean over the batch.

        Noisy forward: with w normalized to mean 1 and <H_0> = N T/2 known exactly,
        U = N T/2 + <(w - 1)(H_0 - N T/2)> + <w V>: the spread of H_0 itself drops out.
        """
        if self.chains is not None:
            means = self._chain_means
            value, stderr = (
                torch.tensor([float(getattr(m, name)) for m in means], dtype=torch.float64)
                for name in ("value", "stderr")
            )
            estimate = self._mean_over_samples(value, stderr, "HMC")
            flagged = [m.status for m in means if m.status != "ok"]
            return replace(estimate, status=flagged[0] if flagged else estimate.status)
        n = len(self.losses)
        weight = torch.softmax(self.log_weights, 0) * n
        centered = self.losses - 0.5 * self.neurons / self.beta
        shift = (weight * centered).mean(0) - centered.mean(0)
        potential = (weight * self.mass_terms).mean(0)
        influence = (weight - 1) * (centered - shift) + weight * (self.mass_terms - potential)
        value = 0.5 * self.neurons / self.beta + shift + potential
        return self._mean_over_samples(
            value, influence.std(0) / math.sqrt(n), "importance sampling, exact part subtracted"
        )


def sample_states(
    system: NeuronSystem,
    x: Any,
    beta: float,
    n: int = 1000,
    method: str = "noisy-forward",
    *,
    mass: float = 0.0,
    seed: int = 0,
    keep_states: bool = True,
    chains: int = 16,
    n_warmup: int = 200,
    n_leapfrog: int = 10,
) -> StateSample:
    """Draw states of all neurons from the ensemble of each data sample.

    Parameters
    ----------
    system : NeuronSystem
        Its `inputs` and `reference` define the ensemble.
    x : Tensor (B, ...)
    beta : float
        Inverse temperature > 0.
    n : int
        Draws per sample (HMC: trajectories per chain).
    method : "noisy-forward" or "hmc"
        Independent draws with importance weights: use them where `ess` stays large (cold
        ensembles). HMC: correlated draws of the weighted ensemble itself, for hot ones; it needs a
        reference measure or it wanders.
    mass : float
    chains, n_warmup, n_leapfrog : int
        HMC chains per sample, discarded trajectories, mean leapfrog steps.

    Raises
    ------
    ValueError
        beta <= 0, n < 2, unknown method.
    """
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta!r}")
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if method == "noisy-forward":
        return _noisy_forward(system, x, beta, n, mass, seed, keep_states)
    if method == "hmc":
        return _hmc(system, x, beta, n, mass, seed, keep_states, (chains, n_warmup, n_leapfrog))
    raise ValueError(f"method must be 'noisy-forward' or 'hmc', got {method!r}")


def noisy_forward(
    system: NeuronSystem, data: Tensor, beta: float, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """One noisy forward pass of flat inputs (R, n_0): states of all layers and H_0 per row."""
    scale = beta**-0.5  # 0 for beta = inf: the clean pass
    states, squares = [data], data.new_zeros(len(data))
    for layer in range(len(system.segments) + 1):
        clean = data if layer == 0 else system.apply(layer, states[-1])
        if layer == 0 and system.inputs == "clamped":
            continue
        noise = scale * torch.randn(
            clean.shape, generator=generator, dtype=torch.float64, device=generator.device
        ).to(clean.device)
        squares = squares + (noise**2).sum(1)
        if layer == 0:
            states = [clean + noise]
        else:
            states.append(clean + noise)
    return states, 0.5 * squares


@torch.no_grad()
def _noisy_forward(
    system: NeuronSystem, x: Any, beta: float, n: int, mass: float, seed: int, keep: bool
) -> StateSample:
    first = 0 if system.inputs == "free" else 1
    fixed = system.states(x)
    batch = len(fixed[0])
    center = torch.cat(fixed[first:], 1)
    generator = torch.Generator().manual_seed(seed)
    per_chunk = max(1, CHUNK // batch)
    losses, terms, weights, kept = [], [], [], []
    for start in track(range(0, n, per_chunk), "noisy forward passes"):
        rows = min(per_chunk, n - start)
        data = fixed[0].repeat(rows, 1)
        states, loss = noisy_forward(system, data, beta, generator)
        flat = torch.cat(states[first:], 1).reshape(rows, batch, -1)
        losses.append(loss.reshape(rows, batch))
        square = _reference_square(system, flat, center)
        terms.append(-0.5 * mass * square)
        reference = torch.zeros_like(square) if system.reference == "flat" else -0.5 * square
        weights.append(reference + 0.5 * beta * mass * square)
        if keep:
            kept.append(flat)
    return StateSample(
        torch.cat(losses),
        torch.cat(terms),
        torch.cat(weights),
        torch.cat(kept) if keep else None,
        beta,
        center.shape[1],
        "noisy-forward",
    )


def _reference_square(system: NeuronSystem, states: Tensor, center: Tensor) -> Tensor:
    """|x - x_ref|^2 over the last axis."""
    shift = states if system.reference == "origin" else states - center
    return (shift**2).sum(-1)


def _hmc(
    system: NeuronSystem,
    x: Any,
    beta: float,
    n: int,
    mass: float,
    seed: int,
    keep: bool,
    settings: tuple[int, int, int],
) -> StateSample:
    """Batched HMC on all data samples and chains at once, started from noisy forward passes."""
    chains, n_warmup, n_leapfrog = settings
    first = 0 if system.inputs == "free" else 1
    fixed = system.states(x)
    batch, widths = len(fixed[0]), [s.shape[1] for s in fixed[first:]]
    data = fixed[0].repeat_interleave(chains, 0)
    center = torch.cat(fixed[first:], 1).repeat_interleave(chains, 0)

    def layered(flat: Tensor) -> list[Tensor]:
        parts = list(flat.split(widths, 1))
        return parts if first == 0 else [data, *parts]

    def loss(flat: Tensor) -> Tensor:
        parts = layered(flat)
        total = 0.5 * ((parts[0] - data) ** 2).sum(1)
        for layer in range(1, len(parts)):
            total = total + 0.5 * ((parts[layer] - system.apply(layer, parts[layer - 1])) ** 2).sum(
                1
            )
        return total - 0.5 * mass * _reference_square(system, flat, center)

    def log_density(flat: Tensor) -> Tensor:
        prior = 0.0 if system.reference == "flat" else 0.5 * _reference_square(system, flat, center)
        return -beta * loss(flat) - prior

    generator = torch.Generator(device=data.device).manual_seed(seed)
    start, _ = noisy_forward(system, data, beta, generator)
    result = hmc(
        log_density,
        torch.cat(start[first:], 1),
        0.9 / math.sqrt(1 + 4 * beta),
        n_leapfrog,
        n,
        n_warmup,
        generator,
        {"H": lambda flat: loss(flat).detach()},
        adapt=True,
        keep_x=keep,
    )
    energies = torch.as_tensor(result.observables["H"]).reshape(n, batch, chains)
    draws = energies.permute(0, 2, 1).reshape(n * chains, batch)
    states = None
    if keep and result.x is not None:
        states = result.x.reshape(n, batch, chains, -1).transpose(1, 2).flatten(0, 1)
    zero = torch.zeros_like(draws)
    return StateSample(draws, zero, zero, states, beta, sum(widths), "hmc", result)


def exact_log_partition(
    system: NeuronSystem,
    x: Any,
    beta: float,
    method: str = "auto",
    *,
    mass: float = 0.0,
    n: int = 20_000,
    seed: int = 0,
) -> Estimate:
    """log Z without the Gaussian approximation, mean over the batch, nats.

    Parameters
    ----------
    method : "auto", "quadrature" or "importance"
        Transfer-matrix quadrature (chains: every layer of width 1; error by halving the grid), or
        importance-weighted noisy forward passes (n draws; status "under-sampled" if the effective
        sample size falls below 100). "auto": quadrature for chains.

    Notes
    -----
    Without reference and mass Z = (2 pi T)^{N/2} exactly for every feed-forward net: e is a
    unit-Jacobian change of variables.
    """
    widths = [s.shape[1] for s in system.states(x)]
    chain = max(widths[0 if system.inputs == "free" else 1 :]) == 1
    if method == "auto":
        method = "quadrature" if chain else "importance"
    if method == "importance":
        draws = sample_states(system, x, beta, n, mass=mass, seed=seed, keep_states=False)
        return draws.log_partition
    if method != "quadrature":
        raise ValueError(f"method must be 'auto', 'quadrature' or 'importance', got {method!r}")
    if not chain:
        raise ValueError(f"quadrature is for chains of width 1, the layers have widths {widths}")
    return _quadrature(system, x, beta, mass)


def _quadrature(system: NeuronSystem, x: Any, beta: float, mass: float) -> Estimate:
    """Trapezoid transfer matrices; spectrally accurate for integrands of Gaussian decay."""
    fixed = system.states(x)
    samples = [[s[i : i + 1] for s in fixed] for i in range(len(fixed[0]))]
    settings = ((8.0, 1.0), (4.0, 1.0), (4.0, 2.0))  # grid points per thermal width, reach
    with torch.no_grad():
        best, coarse, wide = (
            torch.stack([_chain_log_partition(system, s, beta, mass, *setting) for s in samples])
            for setting in settings
        )
    error = float(torch.maximum((best - coarse).abs(), (best - wide).abs()).max())
    return Estimate(
        float(best.mean()),
        error,
        status="ok" if error < 1e-6 else "not converged",
        note="transfer-matrix quadrature; error by halving the grid and doubling its reach",
    )


def _chain_log_partition(
    system: NeuronSystem, fixed: list[Tensor], beta: float, mass: float, points: float, reach: float
) -> Tensor:
    """log Z of one sample of a chain; `points` grid points per thermal width."""
    free = system.inputs == "free"
    curvature = -beta * mass + (0.0 if system.reference == "flat" else 1.0)
    narrow = (beta + max(curvature, 0.0)) ** -0.5
    if beta + curvature <= 0:
        raise ValueError("the mass makes log Z infinite: lower it")
    # Half-widths that hold the tails: noise pushed forward, cut by the reference where there is one
    generator = torch.Generator().manual_seed(0)
    rows, _ = noisy_forward(system, fixed[0].repeat(4000, 1), beta, generator)
    grid = fixed[0][0] if not free else None
    message = fixed[0].new_zeros(1)  # log of the integral over earlier layers
    for layer in range(0 if free else 1, len(fixed)):
        spread = float((rows[layer] - fixed[layer]).abs().max())
        half = 2 * spread + 8 * beta**-0.5
        if system.reference == "fixed-point":
            half = min(half, 12 / math.sqrt(max(curvature, 1e-3)))
        if system.reference == "origin":  # which pulls the states away from the forward pass
            half += float(fixed[layer].abs())
        half *= reach
        count = int(2 * half / narrow * points) + 1
        if count > GRID_LIMIT:
            raise ValueError(
                f"quadrature needs {count} points in layer {layer}: the states spread too far; "
                "use method='importance'"
            )
        center = float(fixed[layer])
        new = torch.linspace(center - half, center + half, count, dtype=torch.float64).to(fixed[0])
        clean = fixed[0][0] if layer == 0 else system.apply(layer, _column(grid)).squeeze(1)
        shift = new if system.reference == "origin" else new - center
        exponent = (
            -0.5 * beta * (new[:, None] - clean[None, :]) ** 2
            - 0.5 * curvature * (shift**2)[:, None]
            + message[None, :]
        )
        message = torch.logsumexp(exponent, 1) + math.log(2 * half / (count - 1))
        grid = new
    return torch.logsumexp(message, 0)


def _column(grid: Tensor | None) -> Tensor:
    assert grid is not None
    return grid.unsqueeze(1)
