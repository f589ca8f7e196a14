"""Networks drawn from the posterior of the catalogue's data set, by Langevin steps with acceptance.

Knows nothing of kernels in the mean: features of sampled units, and linear algebra.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.langevin import Block, mala_block, start, warm_up
from thermolearn.systems.training.feature_learning.collapsed import Posterior
from thermolearn.systems.training.feature_learning.params import Params

APART = 10  # steps between draws
# short steps between the others in the warm-up: a chain that starts where the step is too long for
# it would never move (4 of 24 seeds at 10 channels)
SPREAD = 0.1
STUCK = 0.05  # share of accepted steps below which a chain counts as stuck; 0.57 is aimed at
FIRST_STEP = 1.0  # times (number of weights)^{-1/2}, before it is fitted


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Chains from the prior, the readout integrated out; the observables of `theory`.

    Parameters
    ----------
    p : Params
    seed : int
        Of the chains, not negative.

    Returns
    -------
    dict of Estimate
        stderr between the chains of this seed. The status is "not mixed" if a chain hardly moved.
    """
    X, y, test, test_y = p.data()
    density = Posterior(X[:, None], y, p.noise, (p.channels,), p.sigma_w2, p.sigma_a2, p.activation)
    points = torch.as_tensor(np.concatenate([X, test]).T.copy())
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(p.chains, density.n_weights, generator=generator, dtype=torch.float64)
    first = FIRST_STEP / math.sqrt(density.n_weights)
    chains, step = warm_up(
        density.potential, start(density.potential, x), first, p.warm_up, generator, spread=SPREAD
    )
    mean = np.zeros((p.chains, len(y) + len(test_y)))
    squares, moves = np.zeros((p.chains, p.dim)), np.zeros(p.chains)
    for _ in range(p.draws):
        before = chains.energy
        chains, block = mala_block(density.potential, chains, step, APART, generator)
        moves += _moves(before, block)
        mean += density.predict(chains.x, points)[0].numpy()
        squares += density.hidden(chains.x)[0].square().mean(1).numpy()
    f, variance = mean / p.draws, squares / p.draws
    values = {
        "learned_variance": variance[:, 0],
        "input_variance": variance.mean(1),
        "train_alpha": f[:, : len(y)] @ y / (y @ y),
        "test_alpha": f[:, len(y) :] @ test_y / (test_y @ test_y),
    }
    status, note = _judged(moves / (p.draws * APART))
    return {name: mean_estimate(v, status=status, note=note) for name, v in values.items()}


def _moves(before: Tensor, block: Block) -> np.ndarray:
    """Accepted steps of every chain in a block."""
    assert block.energies is not None
    energies = torch.cat([before[None], block.energies])
    return (energies.diff(dim=0) != 0).sum(0).numpy()


def _judged(accepted: np.ndarray) -> tuple[str, str]:
    """Status and note, from the share of steps that every chain accepted."""
    frozen = int((accepted < STUCK).sum())
    if not frozen:
        return "ok", ""
    return "not mixed", (
        f"{frozen} of {len(accepted)} chains accepted less than {STUCK:.0%} of their steps: the "
        "step is too long where they are; take a longer warm_up or another seed"
    )
