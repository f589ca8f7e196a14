"""Beyond the Gaussian: quadrature, importance sampling and HMC against each other."""

import math

import pytest
import torch
from networks import chain, residual_net, sinnet
from torch import nn

from thermolearn.measure.canonical import (
    CanonicalEnsemble,
    NeuronSystem,
    exact_log_partition,
    sample_states,
)

# beta, log Z exact, log Z Gaussian, U exact, U Gaussian of the tanh chain
TANH_CHAIN = [
    (0.5, 4.013376, 4.057210, 2.258738, 2.172244),
    (2.0, 1.849956, 1.951572, 0.982859, 0.971572),
    (10.0, -1.871088, -1.800262, 0.259142, 0.264033),
    (30.0, -4.859895, -4.837269, 0.094277, 0.095321),
    (100.0, -8.350653, -8.347617, 0.029493, 0.029550),
    (300.0, -11.613483, -11.613121, 0.009947, 0.009949),
]


@pytest.mark.parametrize("row", TANH_CHAIN)
def test_tanh_chain(row):
    beta, log_z, log_z_gauss, u, u_gauss = row
    model, x = chain()
    system = NeuronSystem(model, inputs="clamped")
    exact = exact_log_partition(system, x, beta)
    assert exact.status == "ok" and exact.stderr < 1e-8
    assert float(exact) == pytest.approx(log_z, abs=1e-5)
    gauss = CanonicalEnsemble(system.jacobian_blocks(x), beta)
    assert float(gauss.log_partition) == pytest.approx(log_z_gauss, abs=1e-5)
    assert float(gauss.average_loss) == pytest.approx(u_gauss, abs=1e-5)
    h = 1e-3 * beta
    slope = (
        float(exact_log_partition(system, x, beta + h))
        - float(exact_log_partition(system, x, beta - h))
    ) / (2 * h)
    # the published 0.009947 at beta = 300 is 0.0099455 to more digits
    assert -slope == pytest.approx(u, abs=2e-6)
    draws = sample_states(system, x, beta, 40_000, keep_states=False)
    assert abs(float(draws.average_loss) + slope) < 4 * draws.average_loss.stderr
    assert abs(float(draws.log_partition) - float(exact)) < 4 * draws.log_partition.stderr


@pytest.mark.parametrize("beta", [0.5, 30.0, 300.0])
@pytest.mark.parametrize("reference", ["fixed-point", "origin"])
@pytest.mark.parametrize("mass", [0.0, -0.2])
def test_linear_chain_is_gaussian_exactly(beta, reference, mass):
    model, x = chain(None)
    for inputs in ("clamped", "free"):
        system = NeuronSystem(model, inputs=inputs, reference=reference)
        blocks = system.jacobian_blocks(x)
        gauss = CanonicalEnsemble(blocks, beta, mass, reference=reference)
        exact = exact_log_partition(system, x, beta, mass=mass)
        assert float(exact) == pytest.approx(float(gauss.log_partition), abs=1e-9)


@pytest.mark.parametrize(
    ("beta", "value"), [(1, 5.513631199), (5, 0.685317462), (50, -6.222437817)]
)
def test_flat_measure_theorem(beta, value):
    model, x = chain()
    system = NeuronSystem(model, inputs="clamped", reference="flat")
    found = float(exact_log_partition(system, x, float(beta)))
    assert found == pytest.approx(3 * math.log(2 * math.pi / beta), abs=1e-9)
    assert found == pytest.approx(value, abs=1e-9)


def test_flat_importance_weights_are_one():
    model, x = residual_net()
    system = NeuronSystem(model, reference="flat")
    draws = sample_states(system, x, 5.0, 200)
    n = draws.neurons
    assert float(draws.log_weights.abs().max()) == 0
    assert float(draws.average_loss) == pytest.approx(0.5 * n / 5)
    assert draws.states.shape == (200, 3, n)
    # the drawn states have the losses that are claimed, by the definition of the bulk loss
    widths = system.widths(x)
    layers = list(draws.states[7].split(widths, 1))
    torch.testing.assert_close(system.bulk_loss(layers, x), draws.losses[7])


@pytest.mark.parametrize("mass", [0.0, 0.05])
def test_hmc_agrees_with_importance_sampling(mass):
    model, x = sinnet([5, 7, 6, 4], 1.5)
    system = NeuronSystem(model)
    x = torch.cat([x, 0.5 * x.flip(1)])
    weighted = sample_states(system, x, 8.0, 100_000, mass=mass, keep_states=False)
    chains = sample_states(
        system, x, 8.0, 200, "hmc", mass=mass, chains=32, n_warmup=80, keep_states=False, seed=1
    )
    a, b = weighted.average_loss, chains.average_loss
    assert weighted.ess.min() > 1000 and a.status == b.status == "ok"
    assert abs(float(a) - float(b)) < 4 * math.hypot(a.stderr, b.stderr)
    assert b.stderr < 0.01 * float(b)
    with pytest.raises(ValueError, match="noisy-forward"):
        _ = chains.log_partition


def test_control_variate_error_bar_covers():
    model, x = chain()
    system = NeuronSystem(model, inputs="clamped")
    z = []
    for seed in range(60):
        e = sample_states(system, x, 30.0, 2000, seed=seed, keep_states=False).average_loss
        z.append((float(e) - 0.094277) / e.stderr)
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 4 / math.sqrt(60) + 0.5e-6 / 3.5e-4
    assert 0.7 < float(z.std()) < 1.4


@pytest.mark.slow
def test_layered_tanh_net_by_hmc():
    # 8-8-8-8, inputs clamped, all layers tanh, sigma_w = 1
    generator = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(3):
        linear = nn.Linear(8, 8, bias=False).double()
        with torch.no_grad():
            linear.weight.copy_(
                torch.randn(8, 8, generator=generator, dtype=torch.float64) / 8**0.5
            )
        layers += [linear, nn.Tanh()]
    x = torch.randn(1, 8, generator=generator, dtype=torch.float64)
    system = NeuronSystem(nn.Sequential(*layers).eval(), inputs="clamped")
    for beta in (10.0, 30.0):
        weighted = sample_states(system, x, beta, 50_000, keep_states=False).average_loss
        chains = sample_states(
            system, x, beta, 120, "hmc", chains=64, n_warmup=60, keep_states=False
        )
        gap = float(weighted) - float(chains.average_loss)
        assert abs(gap) < 4 * math.hypot(weighted.stderr, chains.average_loss.stderr)


def test_hot_importance_sampling_is_flagged():
    model, x = residual_net()
    system = NeuronSystem(model)
    draws = sample_states(system, x, 0.05, 500, keep_states=False)
    assert draws.ess.min() < 100
    assert draws.average_loss.status == draws.log_partition.status == "under-sampled"


def test_same_seed_same_bits_and_no_global_draws():
    model, x = sinnet([3, 4, 2], 1.0)
    system = NeuronSystem(model)
    before = torch.get_rng_state()
    a, b, c = (sample_states(system, x, 3.0, 50, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.states, b.states) and not torch.equal(a.states, c.states)
    assert torch.equal(before, torch.get_rng_state())


def test_bad_arguments():
    model, x = sinnet([3, 4, 2], 1.0)
    system = NeuronSystem(model)
    for arguments in ({"beta": 0.0}, {"n": 1}, {"method": "guess"}):
        with pytest.raises(ValueError):
            sample_states(system, x, **{"beta": 1.0, **arguments})
    with pytest.raises(ValueError, match="chains of width 1"):
        exact_log_partition(system, x, 1.0, "quadrature")
    with pytest.raises(ValueError, match="method"):
        exact_log_partition(system, x, 1.0, "guess")
