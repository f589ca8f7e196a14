"""Langevin steps on batched chains: Metropolis-adjusted (MALA) and unadjusted (SGLD).

Pure functions that never own the loop of a measurement: each takes the chains, a block of steps
and a generator, and returns the chains after the block with the positions on the way. Energies
U(x) = -ln density are given with their gradients, so that a gradient in closed form, by autograd
or from a minibatch all enter in the same way. The noise of a block is drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from thermolearn.core.progress import track

# Energies U (C,), or None where only the gradient is at hand, and gradients (C, d).
Potential = Callable[[Tensor], tuple[Tensor | None, Tensor]]
STEP_CHANGE = 3.0  # of ln step per unit of acceptance, in the first block of a warm-up


class Chains(NamedTuple):
    """Positions x (C, d), energies (C,) and gradients (C, d) of the energy."""

    x: Tensor
    energy: Tensor
    gradient: Tensor


class Block(NamedTuple):
    """The chains along a block of T steps.

    positions (T, C, d), gradients there (T, C, d), energies there (T, C) (None if the potential
    gives none), and the mean acceptance probability of the proposals (T,) (None for SGLD).
    """

    positions: Tensor
    gradients: Tensor
    energies: Tensor | None
    acceptance: Tensor | None


def start(potential: Potential, x: Tensor) -> Chains:
    """The chains at x, with a potential that gives energies.

    Raises
    ------
    ValueError
        The potential gives none, or the shapes do not fit.
    """
    energy, gradient = potential(x)
    if energy is None or energy.shape != x.shape[:1] or gradient.shape != x.shape:
        raise ValueError(
            f"the potential must map {tuple(x.shape)} to energies {tuple(x.shape[:1])} and "
            f"gradients {tuple(x.shape)}"
        )
    return Chains(x, energy, gradient)


def mala_block(
    potential: Potential,
    chains: Chains,
    step: float,
    n_steps: int,
    generator: torch.Generator,
    *,
    spread: float = 1.0,
) -> tuple[Chains, Block]:
    """Metropolis-adjusted Langevin: y = x - step/2 grad U + sqrt(step) N(0, 1), exact at any step.

    Accepted with min(1, exp(-R)), R = U(y) - U(x) + (|b|^2 - |z|^2)/2, z the noise of the move and
    b = z - sqrt(step)/2 (grad U(x) + grad U(y)) that of its way back. What is not finite is
    rejected.

    With a `spread` below 1 every second step on average is drawn log-uniformly between
    spread * step and step. A single step size cannot follow an energy with valleys of very
    different widths, such as (w_1 w_2)^2: what is narrower than the step is never entered.

    References
    ----------
    Roberts, Tweedie, Bernoulli 2 (1996) 341.
    """
    x, energy, gradient = chains
    steps = _spread_steps(step, spread, n_steps, generator)
    noise = _noise(x, n_steps, generator)
    forth = 0.5 * noise.square().sum(-1)
    uniform = torch.rand(forth.shape, generator=generator, dtype=x.dtype, device=x.device)
    threshold = uniform.log_().sub_(forth)  # a move is accepted above ln u - |z|^2/2
    positions, gradients = torch.empty_like(noise), torch.empty_like(noise)
    energies, ratios = torch.empty_like(forth), torch.empty_like(forth)
    rows = zip(
        *(t.unbind(0) for t in (noise, threshold, positions, gradients, energies, ratios)),
        strict=True,
    )
    for h, (z, least, x_out, gradient_out, energy_out, ratio) in zip(steps, rows, strict=True):
        root = h**0.5
        y = torch.add(x, gradient, alpha=-0.5 * h).add_(z, alpha=root)
        energy_y, gradient_y = potential(y)
        back = torch.add(gradient, gradient_y).mul_(-0.5 * root).add_(z)
        torch.sub(energy, energy_y, out=ratio)  # type: ignore[arg-type]
        ratio.sub_(torch.linalg.vecdot(back, back), alpha=0.5)
        accepted = ratio > least
        column = accepted[:, None]
        x = torch.where(column, y, x, out=x_out)
        gradient = torch.where(column, gradient_y, gradient, out=gradient_out)
        energy = torch.where(accepted, energy_y, energy, out=energy_out)  # type: ignore[arg-type]
    acceptance = ratios.add_(forth).clamp_(max=0).exp_().nan_to_num_(0.0).mean(1)
    # the last rows are copied: a view would keep the whole block in memory
    last = Chains(x.clone(), energy.clone(), gradient.clone())  # type: ignore[union-attr]
    return last, Block(positions, gradients, energies, acceptance)


def sgld_block(
    potential: Potential,
    x: Tensor,
    step: float | Tensor,
    n_steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Block]:
    """Unadjusted (stochastic-gradient) Langevin: x <- x - step/2 grad U + sqrt(step) N(0, 1).

    The stationary density differs from exp(-U) at first order in the step; a mode of curvature h
    has the variance 1/(h (1 - step h/4)), and is unstable at step h >= 4. The positions recorded
    are those at which the gradients were taken.

    Parameters
    ----------
    step : float or Tensor (C,)
        One for all chains or one for each.

    References
    ----------
    Welling, Teh, ICML 2011; Vollmer, Zygalakis, Teh, arXiv:1501.00438 (the bias).
    """
    steps = torch.as_tensor(step, dtype=x.dtype, device=x.device)
    column = steps.expand(len(x))[:, None]
    noise = _noise(x, n_steps, generator).mul_(column.sqrt())
    drift = -0.5 * column.expand_as(x)
    path = x.new_empty((n_steps + 1, *x.shape))
    path[0] = x
    energies, gradients = [], []
    here, positions = path[0], path.unbind(0)
    for t, kick in enumerate(noise.unbind(0)):
        energy, gradient = potential(here)
        if energy is not None:
            energies.append(energy)
        gradients.append(gradient)
        there = positions[t + 1]
        torch.addcmul(kick, gradient, drift, out=there)
        here = there.add_(here)
    values = torch.stack(energies) if energies else None
    block = Block(path[:-1], torch.stack(gradients), values, None)
    return here.clone(), block


def first_step(
    potential: Potential, chains: Chains, step: float, generator: torch.Generator
) -> float:
    """A step near which one MALA move from here is accepted half of the time, within a factor 2.

    Raises
    ------
    ValueError
        No step within a factor 2^60 of the given one is: the energy does not depend on x, or is
        finite at the start only.
    """

    def accepted(step: float) -> bool:
        _, block = mala_block(potential, chains, step, 1, generator)
        return float(block.acceptance.mean()) > 0.5  # type: ignore[union-attr]

    direction = 2.0 if accepted(step) else 0.5
    for _ in range(60):
        if accepted(step * direction) != (direction > 1):
            return step if direction > 1 else step * direction
        step *= direction
    raise ValueError(
        "no step gives an acceptance near one half: the loss does not depend on the parameters, "
        "or is finite at the start only"
    )


def warm_up(
    potential: Potential,
    chains: Chains,
    step: float,
    n_steps: int,
    generator: torch.Generator,
    *,
    target: float = 0.574,
    spread: float = 1.0,
    block: int = 5,
) -> tuple[Chains, float]:
    """MALA steps that fit the step to a mean acceptance (Robbins-Monro on ln step).

    With a `spread` below 1, every second block has steps of that spread and does not count.

    The change of ln step falls as k^(-2/3) over the blocks k; the step returned is the geometric
    mean over the second half.

    References
    ----------
    Roberts, Rosenthal, J. R. Stat. Soc. B 60 (1998) 255 (acceptance 0.574).
    """
    n_blocks = max(1, n_steps // (block if spread == 1 else 2 * block))
    logs = []
    for k in track(range(1, n_blocks + 1), "warm-up"):
        chains, out = mala_block(potential, chains, step, block, generator)
        excess = float(out.acceptance.mean()) - target  # type: ignore[union-attr]
        step *= math.exp(STEP_CHANGE * excess / k ** (2 / 3))
        logs.append(step)
        if spread < 1:
            chains, _ = mala_block(potential, chains, step, block, generator, spread=spread)
    second_half = torch.tensor(logs[n_blocks // 2 :], dtype=torch.float64)
    return chains, float(second_half.log().mean().exp())


def _spread_steps(
    step: float, spread: float, n_steps: int, generator: torch.Generator
) -> list[float]:
    if spread == 1:
        return [step] * n_steps
    u = torch.rand(n_steps, generator=generator, dtype=torch.float64, device=generator.device)
    return (step * spread ** (2 * u - 1).clamp(min=0)).tolist()


def _noise(x: Tensor, n_steps: int, generator: torch.Generator) -> Tensor:
    shape = (n_steps, *x.shape)
    return torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
