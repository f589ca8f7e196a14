"""Chains in the localized, tempered posterior exp(-n beta L(w) - gamma/2 |w - w*|^2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thermolearn.core import checks, langevin
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.progress import track
from thermolearn.measure.llc.minimum import Lower, check_gradient, lower_point
from thermolearn.measure.llc.objective import Objective, tempered

METHODS = ("mala", "sgld")
BLOCK_ELEMENTS = 2**20  # of positions held at once
STIFFNESS_RATIO = 1e-3  # automatic localization over the stiffest curvature of n beta L
RELAXATIONS = 4.0  # of the variance of a flat direction within the warm-up
SGLD_FRACTION = 6.0  # the larger SGLD step is this part of the step that MALA accepts at 0.574
SPREAD = 0.01  # the smallest MALA step over the largest, see `langevin.mala_block`
MIN_DRAWS = 50
NOISE_SHIFT = 0.1  # of the value: what gradient noise may add at the automatic step of SGLD
NOISE_ROUNDS = 8  # minibatches of each chain by which the noise is measured
DEPTH = 1.0  # nats below w*, see `lower_point`


@dataclass(frozen=True)
class Plan:
    """Checked settings of the chains (see `llc_of_function`)."""

    n_beta: float
    method: str
    chains: int
    draws: int
    warmup: int
    step: float | None
    localization: float | None
    seed: int
    least_localization: float = 0.0


class Traces(NamedTuple):
    """Chains of one step size, each observable (C, T).

    energy V = n beta (L - L*), distance2 r^2 = |w - w*|^2, pull = n beta grad L(w*) . (w - w*),
    virial D = (w - w*) . grad V (with minibatches it shares their noise with V).
    """

    step: float
    energy: np.ndarray
    distance2: np.ndarray
    pull: np.ndarray
    virial: np.ndarray


@dataclass(frozen=True, eq=False)
class Sampled:
    """What the chains gave: one set of traces for MALA, two (steps s and s/2) for SGLD."""

    traces: list[Traces]
    localization: float
    acceptance: float | None
    lower: Lower


def make_plan(
    n: int,
    beta: float | None,
    method: str,
    chains: int,
    draws: int,
    warmup: int,
    step: float | None,
    localization: float | None,
    seed: int,
) -> Plan:
    """Raises ValueError naming the argument."""
    n = checks.whole("n", n, 3)  # ln n must exceed 1: beta above 1 is no tempering
    inverse_t = 1 / math.log(n) if beta is None else checks.real("beta", beta, above=0)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return Plan(
        n_beta=n * inverse_t,
        method=method,
        chains=checks.whole("chains", chains, 2 if method == "mala" else 4),
        draws=checks.whole("draws", draws, MIN_DRAWS),
        warmup=checks.whole("warmup", warmup, 20),
        step=None if step is None else checks.real("step", step, above=0),
        localization=(
            None if localization is None else checks.real("localization", localization, least=0)
        ),
        seed=checks.whole("seed", seed, 0),
    )


def run_chains(objective: Objective, plan: Plan) -> Sampled:
    """Fit step and localization, warm up, draw.

    The step is fitted by the acceptance of MALA moves, also for SGLD, whose larger step is a
    sixth of it, or less where the noise of the minibatches would add more than a tenth to the
    value. Without a given localization gamma is the larger of a thousandth of the stiffest
    curvature of n beta L, read off the step that MALA accepts near w*, and of what lets a
    flat direction reach its spread within the warm-up.

    Raises
    ------
    ValueError
        The loss does not depend on the parameters, or a given gradient is not its gradient.
    ConvergenceError
        An SGLD chain diverged.
    """
    generator = torch.Generator(objective.w0.device).manual_seed(plan.seed)
    gamma, step, x = _warmed_up(objective, plan, generator)
    if objective.supplied:
        check_gradient(objective, x, plan.seed)
    if plan.method == "mala":
        return _mala(objective, plan, gamma, step, x, generator)
    return _sgld(objective, plan, gamma, step, x, generator)


def _warmed_up(
    objective: Objective, plan: Plan, generator: torch.Generator
) -> tuple[float, float, Tensor]:
    """Localization, MALA step and positions after the warm-up."""
    x = objective.w0.repeat(plan.chains, 1)
    gamma = plan.localization
    early, rest = plan.warmup // 4, plan.warmup - plan.warmup // 4
    potential = tempered(objective, plan.n_beta, gamma or 0.0)
    chains = langevin.start(potential, x)
    fixed = plan.step if plan.method == "mala" else None
    step = fixed or langevin.first_step(potential, chains, 1 / plan.n_beta, generator)
    if fixed is None:
        chains, step = langevin.warm_up(potential, chains, step, early, generator)
    if gamma is None:
        floor = plan.least_localization
        gamma = max(STIFFNESS_RATIO / step, RELAXATIONS / (step * rest), floor)
        potential = tempered(objective, plan.n_beta, gamma)
        chains = langevin.start(potential, chains.x)
    blocks = list(_blocks(rest, chains.x))
    if fixed is not None:
        for length in track(blocks, "llc: warm-up"):
            chains, _ = langevin.mala_block(
                potential, chains, step, length, generator, spread=SPREAD
            )
    else:
        chains, step = langevin.warm_up(potential, chains, step, rest, generator, spread=SPREAD)
    return gamma, step, chains.x


def _stochastic(
    objective: Objective, n_beta: float, gamma: float, generator: torch.Generator
) -> langevin.Potential:
    """The same on a minibatch, or without values where they are cheaper a block at a time."""
    if objective.stochastic is None:
        return tempered(objective, n_beta, gamma)
    draw = objective.stochastic

    def potential(x: Tensor) -> tuple[Tensor | None, Tensor]:
        loss, gradient = draw(x, generator)
        away = x - objective.w0
        energy = None
        if loss is not None:
            energy = (loss * n_beta).add_(torch.linalg.vecdot(away, away), alpha=0.5 * gamma)
        return energy, away.mul_(gamma).add_(gradient, alpha=n_beta)

    return potential


def _mala(
    objective: Objective,
    plan: Plan,
    gamma: float,
    step: float,
    x: Tensor,
    generator: torch.Generator,
) -> Sampled:
    potential = tempered(objective, plan.n_beta, gamma)
    chains = langevin.start(potential, x)
    rows, acceptance = [], 0.0
    for length in track(list(_blocks(plan.draws, x)), "llc: draws"):
        chains, block = langevin.mala_block(
            potential, chains, step, length, generator, spread=SPREAD
        )
        rows.append(_observe(objective, plan.n_beta, gamma, block))
        acceptance += float(block.acceptance.sum()) / plan.draws  # type: ignore[union-attr]
    lower = lower_point(objective, plan.n_beta, gamma, chains.x, step, DEPTH)
    return Sampled([_traces(step, rows, slice(None))], gamma, acceptance, lower)


def _sgld(
    objective: Objective,
    plan: Plan,
    gamma: float,
    step: float,
    x: Tensor,
    generator: torch.Generator,
) -> Sampled:
    """Half of the chains with the step, half with half of it."""
    found = step
    step = plan.step or _sgld_step(objective, plan.n_beta, step, x, generator)
    half = plan.chains // 2
    steps = torch.full((plan.chains,), step, dtype=x.dtype, device=x.device)
    steps[half:] = step / 2
    potential = _stochastic(objective, plan.n_beta, gamma, generator)
    rows = []
    lengths = [(n, False) for n in _blocks(plan.warmup, x)]
    lengths += [(n, True) for n in _blocks(plan.draws, x)]
    for length, recorded in track(lengths, "llc: draws"):
        x, block = langevin.sgld_block(potential, x, steps, length, generator)
        if not bool(torch.isfinite(x).all()):
            raise ConvergenceError(
                f"an SGLD chain diverged at step {step:.3g}: lower step=, or take method='mala'"
            )
        if recorded:
            rows.append(_observe(objective, plan.n_beta, gamma, block))
    first, second = _traces(step, rows, slice(half)), _traces(step / 2, rows, slice(half, None))
    lower = lower_point(objective, plan.n_beta, gamma, x, found, DEPTH)
    return Sampled([first, second], gamma, None, lower)


def _sgld_step(
    objective: Objective, n_beta: float, step: float, x: Tensor, generator: torch.Generator
) -> float:
    """A part of the MALA step, at which gradient noise adds little to the value.

    Noise of the covariance C of n beta grad L adds step tr C/8 to a quadratic loss, whatever its
    curvature.
    """
    step /= SGLD_FRACTION
    if not objective.noisy or objective.stochastic is None:
        return step
    draws = [objective.stochastic(x, generator)[1] for _ in range(NOISE_ROUNDS)]
    noise = n_beta**2 * float(torch.stack(draws).var(0).sum(1).mean())
    value = n_beta * float((objective.values(x) - objective.loss).mean())
    return min(step, 8 * NOISE_SHIFT * max(value, 0.5) / noise) if noise > 0 else step


def _observe(
    objective: Objective, n_beta: float, gamma: float, block: langevin.Block
) -> tuple[Tensor, ...]:
    """Energy, squared distance, pull and virial (T, C) of a block, see `Traces`."""
    away = block.positions - objective.w0
    distance2 = away.square().sum(-1)
    if block.energies is None:
        flat = block.positions.flatten(0, 1)
        energy = (objective.values(flat) - objective.loss).reshape(distance2.shape) * n_beta
    else:
        energy = block.energies - 0.5 * gamma * distance2
    pull = (away @ objective.gradient) * n_beta
    virial = (block.gradients * away).sum(-1).sub_(distance2, alpha=gamma)
    return energy, distance2, pull, virial


def _traces(step: float, rows: list[tuple[Tensor, ...]], chains: slice) -> Traces:
    parts = (
        torch.cat(part)[:, chains].T.double().cpu().numpy() for part in zip(*rows, strict=True)
    )
    return Traces(step, *parts)


def _blocks(n_steps: int, x: Tensor) -> list[int]:
    """Lengths of blocks whose positions fit into the memory set aside for them."""
    length = max(1, min(500, BLOCK_ELEMENTS // x.numel()))
    return [min(length, n_steps - done) for done in range(0, n_steps, length)]
