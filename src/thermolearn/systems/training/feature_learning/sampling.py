"""Samples from the posterior of a finite Bayesian network: the experiment of feature learning.

`sample_posterior` draws hidden weights by Hamiltonian Monte Carlo or Langevin steps, by default
with the readout integrated out (`collapsed`), and returns `PosteriorSamples`, from which kernels,
predictions and their error bars between chains are computed when asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import DivergedError, SamplerWarning
from thermolearn.core.langevin import Chains, first_step, mala_block, sgld_block, start, warm_up
from thermolearn.core.progress import track
from thermolearn.core.sampling import hmc, hmc_step
from thermolearn.systems.training.feature_learning.collapsed import Posterior, posterior
from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN

METHODS = ("hmc", "mala", "ula")
HMC_ACCEPTANCE = 0.8
ULA_SHARE = 0.25  # of the step fitted for MALA: a bias below 1% in the runs of the documentation
SPREAD = 0.1  # of the Langevin steps in a warm-up: shorter ones free chains that are stuck
MOST_NUMBERS = 2**28  # kept weights, 2 GiB


@dataclass(frozen=True)
class Draw:
    """One draw of all chains: whitened weights (B, d), energies (B,), acceptance, step."""

    x: Tensor
    energy: Tensor
    acceptance: float
    step: float


def sample_posterior(
    net: BayesianFCN | BayesianCNN,
    X: Any,
    y: Any,
    noise: float,
    method: str = "hmc",
    collapsed: bool = True,
    *,
    chains: int = 8,
    draws: int = 300,
    n_warmup: int | None = None,
    steps: int = 10,
    step: float | None = None,
    seed: int = 0,
) -> PosteriorSamples:
    """Draw networks from exp(-sum (f(x) - y)^2 / (2 noise)) times the prior.

    Chains start at independent draws from the prior, in whitened weights (unit prior variance).

    Parameters
    ----------
    net : BayesianFCN or BayesianCNN
    X : array (n, d), of a CNN (n, patches, patch_dim)
    y : array (n,)
    noise : float
        sigma^2 > 0, temperature of the equivalent Langevin training.
    method : str
        ``"hmc"``: trajectories of about `steps` leapfrogs, exact, the reference. ``"mala"``:
        Langevin steps with acceptance, exact, slower. ``"ula"``: plain Langevin steps as in the
        paper, with a bias of the order of the step that is not in the error bars: not for exact
        numbers, least of all for a few units with the readout integrated out.
    collapsed : bool
        Sample the hidden weights with the readout integrated out; False samples all weights.
    chains, draws : int
        Kept draws per chain; at least 1. Error bars are between chains: take 4 or more.
    n_warmup : int, optional
        Draws before, not kept; ``max(100, draws // 2)`` by default.
    steps : int
        Gradients per draw: length of a trajectory (jittered by a half), or Langevin steps.
    step : float, optional
        Of the leapfrog, or of the Langevin step x <- x - step/2 grad U + sqrt(step) N(0, 1). By
        default fitted in the warm-up to an acceptance of 0.8 (HMC) or 0.574 (MALA; ULA takes a
        quarter of the step fitted so for MALA).
    seed : int
        Of the private generator.

    Returns
    -------
    PosteriorSamples
        After Ctrl-C what was drawn until then. In the warm-up, or before the second draw, there is
        nothing to keep and the interrupt goes on.

    Warns
    -----
    SamplerWarning
        The chains are stuck, not mixed or under-sampled; the results carry that status. Plain
        Langevin steps carry a note of their bias whatever the status.

    Raises
    ------
    ValueError
        Data, noise, or an argument out of range; more than 2 GiB of weights to keep.
    DivergedError
        Plain Langevin steps diverged: the step is too long.

    References
    ----------
    I. Seroussi, G. Naveh, Z. Ringel, arXiv:2112.15383. The readout is integrated out here, not
    there.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    for name, number in (("chains", chains), ("draws", draws), ("steps", steps)):
        whole(name, number, least=1)
    n_warmup = max(100, draws // 2) if n_warmup is None else whole("n_warmup", n_warmup, least=1)
    if step is not None:
        step = real("step", step, above=0)
    density = posterior(net, X, y, noise, collapsed)
    if draws * chains * density.n_weights > MOST_NUMBERS:
        raise ValueError(
            f"draws = {draws} of chains = {chains} with {density.n_weights} weights each are more "
            "than 2 GiB; take fewer draws with more steps between them"
        )
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    kept: list[Draw] = []
    sampler = _hmc if method == "hmc" else _langevin
    source = sampler(density, method, chains, n_warmup, steps, step, generator)
    interrupted = False
    try:
        for _ in track(range(draws), "sampling the posterior"):
            kept.append(next(source))
    except KeyboardInterrupt:
        if len(kept) < 2:
            raise
        interrupted = True
    samples = PosteriorSamples(
        net=net,
        density=density,
        x=torch.stack([d.x for d in kept]),
        energies=torch.stack([d.energy for d in kept]).numpy(),
        acceptance=sum(d.acceptance for d in kept) / len(kept),
        step=kept[-1].step,
        method=method,
        interrupted=interrupted,
    )
    if samples.status != "ok":
        warnings.warn(samples.note, SamplerWarning, stacklevel=2)
    return samples


def _hmc(
    density: Posterior,
    method: str,
    chains: int,
    n_warmup: int,
    steps: int,
    step: float | None,
    generator: torch.Generator,
) -> Iterator[Draw]:
    x0 = _prior(density, chains, generator)
    warm = hmc(
        density.log_density, x0, step or 0.1, steps, 1, n_warmup, generator,
        adapt=step is None, target=HMC_ACCEPTANCE, keep_x=False,
    )  # fmt: skip
    state = start_state(density, warm.last)
    while True:
        length = int(torch.randint(-(steps // 2), steps // 2 + 1, (), generator=generator)) + steps
        state, _, accepted = hmc_step(density.log_density, state, warm.step, length, generator)
        rate = float(accepted.double().mean())
        yield Draw(state.x, -state.log_density, rate, warm.step)


def start_state(density: Posterior, x: Tensor) -> Any:
    """The `core.sampling.State` at x."""
    from thermolearn.core.sampling import State

    energy, gradient = density.potential(x)
    return State(x, -energy, -gradient)


def _langevin(
    density: Posterior,
    method: str,
    chains: int,
    n_warmup: int,
    steps: int,
    step: float | None,
    generator: torch.Generator,
) -> Iterator[Draw]:
    at = start(density.potential, _prior(density, chains, generator))
    if step is None:
        step = first_step(density.potential, at, 0.1, generator)
        at, step = warm_up(density.potential, at, step, n_warmup * steps, generator, spread=SPREAD)
        n_warmup = 0
        step *= 1.0 if method == "mala" else ULA_SHARE
    done = -n_warmup
    while True:
        if method == "mala":
            at, block = mala_block(density.potential, at, step, steps, generator)
            rate = float(block.acceptance.mean())  # type: ignore[union-attr]
        else:
            x, _ = sgld_block(density.potential, at.x, step, steps, generator)
            at, rate = Chains(x, *density.potential(x)), 1.0
            if not bool(torch.isfinite(at.energy).all()):  # type: ignore[arg-type]
                raise DivergedError(
                    (done + n_warmup + 1) * steps,
                    f"plain Langevin steps diverged at step = {step:.3g}; lower it (stable below 4 "
                    "over the largest curvature), or use method='mala' or 'hmc'",
                )
        done += 1
        if done > 0:
            yield Draw(at.x, at.energy, rate, step)


def _prior(density: Posterior, chains: int, generator: torch.Generator) -> Tensor:
    return torch.randn(chains, density.n_weights, generator=generator, dtype=torch.float64)
