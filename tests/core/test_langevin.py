"""Langevin blocks against the exact stationary distributions."""

import math

import pytest
import torch

from thermolearn.core.langevin import Chains, first_step, mala_block, sgld_block, start, warm_up

H = torch.tensor([1.0, 4.0, 25.0], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(x):
    return 0.5 * (H * x.square()).sum(-1), H * x


def quartic(x):
    return x.pow(4).sum(-1), 4 * x.pow(3)


def zeros(chains=64, d=3):
    return torch.zeros(chains, d, dtype=torch.float64)


def between(samples):
    """Mean and standard error from independent chains: samples (T, C)."""
    means = samples.mean(0)
    return float(means.mean()), float(means.std() / math.sqrt(len(means)))


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_mala_has_the_exact_moments_at_a_large_step(spread):
    gen = generator()
    chains, _ = mala_block(gaussian, start(gaussian, zeros()), 0.06, 500, gen, spread=spread)
    _, block = mala_block(gaussian, chains, 0.06, 3000, gen, spread=spread)
    for k in range(3):
        mean, error = between(H[k] * block.positions[..., k].square())
        assert abs(mean - 1) < 4 * error
    energy, error = between(block.energies)
    assert abs(energy - 1.5) < 4 * error
    assert error < 0.02


def test_unadjusted_steps_have_the_known_excess():
    """Variance 1/(h (1 - s h/4)); a different step for each chain."""
    steps = torch.full((64,), 0.04, dtype=torch.float64)
    steps[32:] = 0.02
    x, _ = sgld_block(gaussian, zeros(), steps, 1000, generator())
    _, block = sgld_block(gaussian, x, steps, 8000, generator(1))
    stiff = H[2] * block.positions[..., 2].square()
    for part, step in ((stiff[:, :32], 0.04), (stiff[:, 32:], 0.02)):
        mean, error = between(part)
        assert abs(mean - 1 / (1 - step * 25 / 4)) < 4 * error
        assert abs(mean - 1) > 8 * error  # and it is seen


def test_mala_is_exact_for_a_quartic():
    gen = generator(2)
    chains, step = warm_up(quartic, start(quartic, zeros()), 0.1, 400, gen)
    _, block = mala_block(quartic, chains, step, 3000, gen)
    mean, error = between(block.energies)
    assert abs(mean - 3 / 4) < 4 * error
    assert abs(float(block.acceptance.mean()) - 0.574) < 0.05


def test_the_first_step_is_near_half_acceptance_from_either_side():
    state = start(gaussian, zeros())
    for guess in (1e-6, 1e3):
        step = first_step(gaussian, state, guess, generator())
        _, block = mala_block(gaussian, state, step, 1, generator(1))
        assert 0.2 < float(block.acceptance.mean()) < 0.9


def test_energies_that_do_not_vary_have_no_step():
    def flat(x):
        return torch.zeros(len(x), dtype=x.dtype), torch.zeros_like(x)

    with pytest.raises(ValueError, match="does not depend"):
        first_step(flat, start(flat, zeros()), 1.0, generator())


def test_what_is_not_finite_is_never_entered():
    def box(x):
        outside = (x.abs() > 1).any(-1)
        return torch.where(outside, math.nan, 0.5 * x.square().sum(-1)), x

    chains = start(box, zeros())
    chains, block = mala_block(box, chains, 0.5, 500, generator())
    assert bool((block.positions.abs() <= 1).all())
    assert bool(torch.isfinite(block.energies).all())
    assert bool(torch.isfinite(block.acceptance).all())


def test_same_seed_same_bits_and_blocks_continue():
    whole = mala_block(gaussian, start(gaussian, zeros(4)), 0.05, 20, generator(3))
    again = mala_block(gaussian, start(gaussian, zeros(4)), 0.05, 20, generator(3))
    assert torch.equal(whole[1].positions, again[1].positions)
    chains = whole[0]
    assert isinstance(chains, Chains)
    assert torch.equal(chains.x, whole[1].positions[-1])
    assert torch.allclose(chains.gradient, gaussian(chains.x)[1])
    assert torch.allclose(chains.energy, gaussian(chains.x)[0])


def test_a_potential_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="potential must map"):
        start(lambda x: (x, x), zeros())
    with pytest.raises(ValueError, match="potential must map"):
        start(lambda x: (None, x), zeros())
