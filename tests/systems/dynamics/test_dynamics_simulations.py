"""The simulations of the family, piece by piece, against what theory does not use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
from thermolearn.systems.dynamics import gaussian_preactivations, relative_entropy
from thermolearn.systems.dynamics.gaussian_preactivations.simulation import activation
from thermolearn.systems.dynamics.relative_entropy import simulation


@pytest.mark.parametrize("theta", [2.5, 5.0, 20.0])
def test_the_activation_without_mellin_is_the_same(theta):
    x = np.linspace(-5, 5, 401)
    phi, slope = activation(theta)
    z = torch.from_numpy(x).requires_grad_()
    value = GaussianPreactivation(theta).double()(z)
    (exact,) = torch.autograd.grad(value.sum(), z)
    np.testing.assert_allclose(phi(x), value.detach(), atol=3e-4)
    np.testing.assert_allclose(slope(x), exact, atol=2e-2)


def test_the_heat_bath_samples_the_torus():
    """Energies of the 2 x 2 torus (double bonds) against its 16 states."""
    K, rng = 0.3, np.random.default_rng(0)
    spins = rng.choice(np.array([-1, 1], dtype=np.float32), (4000, 2, 2))
    odd = simulation._odd(2)
    energy = []
    for sweep in range(60):
        around = simulation.heat_bath(spins, np.float32(K), rng, odd)
        if sweep >= 10:
            energy.append((around * spins * odd).sum((1, 2)).mean())
    exact = relative_entropy.enumeration.torus(2, 2, K)
    grid = exact.spins.reshape(-1, 2, 2).astype(int)
    bonds = (grid * (np.roll(grid, 1, 1) + np.roll(grid, 1, 2))).sum((1, 2))
    u = float(exact.probability @ bonds)
    variance = float(exact.probability @ bonds**2) - u**2
    # sweeps are correlated over less than five
    assert abs(np.mean(energy) - u) < 4 * math.sqrt(variance * 5 / (4000 * 50))


def test_bad_parameters():
    for name, value in (("theta", 2.0), ("theta", 30.0), ("width", 1), ("correlation", 1.0)):
        with pytest.raises(ValueError, match=name):
            gaussian_preactivations.Params(**{name: value})
    for name, value in (
        ("coupling", 0.5), ("coupling", 0.0), ("chain_coupling", 3.0), ("q0", 0.0), ("c0", -1.0),
        ("activation", "tanhh"), ("sigma_w2", 0.0), ("networks", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            relative_entropy.Params(**{name: value})
