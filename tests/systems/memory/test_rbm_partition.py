"""Annealing, bounds and chains against enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thermolearn.core.errors import SamplerWarning
from thermolearn.systems.memory.rbm import RBM, Weights, enumeration, sampling
from thermolearn.systems.memory.rbm.noise import Noise

KINDS = [
    ("bernoulli", "bernoulli"),
    ("ising", "ising"),
    ("ising", "gaussian"),
    ("gaussian", "ising"),
]


def random_rbm(n_v: int, n_h: int, sd: float, seed: int = 0, **kinds: str) -> RBM:
    rng = np.random.default_rng(seed)
    return RBM.from_weights(
        rng.normal(0, sd, (n_v, n_h)), rng.normal(0, 0.3, n_v), rng.normal(0, 0.3, n_h), **kinds
    )


@pytest.mark.parametrize("sd", [0.15, 0.5, 1.0])
def test_annealing_finds_ln_z(sd: float) -> None:
    rbm = random_rbm(20, 12, sd)
    exact, annealed = rbm.log_partition("exact"), rbm.log_partition("ais")
    assert abs(float(annealed) - float(exact)) < max(4 * float(annealed.stderr), 0.02)
    assert annealed.status == "ok"
    assert 0 < annealed.stderr < 0.02


@pytest.mark.parametrize(("visible", "hidden"), KINDS)
def test_bounds_hold_for_every_kind_of_unit(visible: str, hidden: str) -> None:
    rbm = random_rbm(10, 8, 0.3, visible=visible, hidden=hidden)
    exact = float(rbm.log_partition("exact"))
    bounds = rbm.log_partition_bounds(n_betas=300, n_chains=300)
    assert bounds.lower.value < exact + 4 * bounds.lower.stderr
    assert bounds.upper.value > exact - 4 * bounds.upper.stderr
    assert abs(bounds.lower.value - exact) < 4.5 * bounds.lower.stderr
    assert abs(bounds.upper.value - exact) < 4.5 * bounds.upper.stderr
    assert bounds.upper.status == "ok"


def test_bounds_enclose_where_annealing_is_too_fast() -> None:
    """Few intervals: Jensen's gap shows, and the truth lies between."""
    rbm = random_rbm(20, 12, 1.0, visible="ising", hidden="ising")
    exact = float(rbm.log_partition("exact"))
    with pytest.warns(SamplerWarning, match="effective samples"):
        runs = [rbm.log_partition_bounds(n_betas=10, n_chains=100, seed=s) for s in range(12)]
    assert np.mean([r.lower.value for r in runs]) < exact < np.mean([r.upper.value for r in runs])
    assert any(r.lower.status == "low-ess" for r in runs)
    assert all(r.forward.dissipated_work.value > 1 for r in runs)
    assert all(r.reverse.dissipated_work.value > 1 for r in runs)


def test_dissipated_work_falls_with_the_speed() -> None:
    rbm = random_rbm(12, 8, 0.5)
    work = [rbm.log_partition_bounds(n, 500).forward.dissipated_work for n in (10, 100, 1000)]
    assert all(w.value > 0 for w in work)
    assert work[0].value > 3 * work[1].value > 9 * work[2].value
    # slow driving: dissipation is half the variance of the work
    slow = rbm.log_partition_bounds(1000, 500).forward
    assert slow.dissipated_work.value == pytest.approx(slow.log_weights.var() / 2, rel=0.05)


def test_error_bar_of_annealing_is_the_spread_over_seeds() -> None:
    rbm = random_rbm(12, 10, 0.7)
    exact = float(rbm.log_partition("exact"))
    runs = [rbm.log_partition("ais", n_betas=100, n_chains=100, seed=s) for s in range(30)]
    z = np.array([(float(r) - exact) / float(r.stderr) for r in runs])
    assert abs(z.mean()) < 4 / math.sqrt(30) + 0.2  # plus Jensen's bias
    assert 0.6 < z.std() < 1.5


def test_bounds_of_a_large_machine_say_their_condition() -> None:
    rbm = random_rbm(30, 24, 0.1)
    bounds = rbm.log_partition_bounds(n_betas=100, n_chains=50, sweeps=50)
    assert bounds.upper.status == "approximate start"
    assert bounds.upper.value == pytest.approx(bounds.lower.value, abs=0.05)


# -- chains --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("visible", "hidden"), KINDS)
@pytest.mark.parametrize("method", ["gibbs", "pt", "exact"])
def test_samples_have_the_exact_free_energy(visible: str, hidden: str, method: str) -> None:
    rbm = random_rbm(8, 6, 0.4, visible=visible, hidden=hidden)
    truth = rbm.free_energy(rbm.sample(4000, "exact", seed=9))
    f = rbm.free_energy(rbm.sample(4000, method, sweeps=60, seed=1))
    assert abs(f.mean() - truth.mean()) < 4 * math.sqrt((f.var() + truth.var()) / 4000)


def test_gibbs_leaves_the_machine_alone() -> None:
    rbm = random_rbm(8, 6, 0.8)
    v = rbm.sample(4000, "exact", seed=2)
    before = v.copy()
    moved = rbm.gibbs(v, k=3, seed=1)
    assert np.array_equal(v, before)
    exact = enumeration.moments(rbm.weights_).visible.numpy()
    assert np.abs((moved.mean(0) - exact) / moved.std(0)).max() < 4.5 / math.sqrt(4000)
    assert np.array_equal(moved, rbm.gibbs(v, k=3, seed=1))


def test_tempering_crosses_where_gibbs_is_stuck() -> None:
    """Two patterns and a barrier: all Gibbs chains stay, tempered ones find both."""
    pattern = np.where(np.arange(16) % 2, 1.0, -1.0)
    W = torch.from_numpy(pattern[:, None] * np.ones((1, 4)))
    w = Weights(W, torch.zeros(16).double(), torch.zeros(4).double(), "ising", "ising")
    noise = Noise(0)
    start = torch.from_numpy(np.tile(pattern, (200, 1)))
    stuck = start
    for _ in range(100):
        stuck, _ = sampling.gibbs(w, stuck, 1, noise)
    chains = sampling.Tempering.start(w, 10, 200, noise)
    chains.v[:] = start
    for _ in range(100):
        chains.sweep(w, noise)
    side = torch.sign(chains.v[-1] @ torch.from_numpy(pattern))
    assert bool((torch.sign(stuck @ torch.from_numpy(pattern)) > 0).all())
    assert abs(float(side.mean())) < 0.35
    assert 0.2 < chains.swap_rate < 1


def test_noise_is_uniform_normal_and_private() -> None:
    u = Noise(1).uniform_(torch.empty(100_003, dtype=torch.float64))
    assert 0 < float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    counts = np.histogram(u.numpy(), 64, (0, 1))[0]
    assert ((counts - len(u) / 64) ** 2 / (len(u) / 64)).sum() < 63 + 4 * math.sqrt(2 * 63)
    lag = np.corrcoef(u[:-32], u[32:])[0, 1], np.corrcoef(u[:-1], u[1:])[0, 1]
    assert np.abs(lag).max() < 4 / math.sqrt(len(u))
    z = Noise(2).normal_(torch.empty(100_001, dtype=torch.float64))
    assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / len(z))
    assert abs(float(z.pow(4).mean()) - 3) < 4 * math.sqrt(96 / len(z))
    p = torch.full((3, 1001), 0.3)
    draw = Noise(3).from_probability_("ising", p, torch.empty_like(p))
    assert set(draw.unique().tolist()) == {-1.0, 1.0}
    state = torch.random.get_rng_state()
    Noise(3).uniform_(torch.empty(5))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [0, 2**32 - 1])
def test_the_interval_of_the_uniforms_is_open(bits: int, dtype: torch.dtype) -> None:
    """The generator's output is the sum of two words of its state: set to its extremes."""
    noise = Noise(0)
    noise.state[0], noise.state[3] = bits, 0
    u = noise.uniform_(torch.empty(32, dtype=dtype))
    assert bool(((u > 0) & (u < 1)).all())
    assert abs(float(u[0]) - round(float(u[0]))) == 2.0**-24


def test_bad_arguments_raise() -> None:
    rbm = random_rbm(4, 3, 0.1)
    with pytest.raises(ValueError, match="method"):
        rbm.log_partition("annealed")
    with pytest.raises(ValueError, match="n_chains >= 2"):
        rbm.log_partition("ais", n_chains=1)
    with pytest.raises(ValueError, match="layer must be"):
        rbm.log_partition("exact", layer="top")
    with pytest.raises(ValueError, match="k must be"):
        rbm.gibbs(np.zeros((1, 4)), k=0)
    with pytest.raises(ValueError, match="method"):
        rbm.sample(3, "metropolis")
    with pytest.raises(ValueError, match="bernoulli visible units"):
        rbm.free_energy(np.full((1, 4), 0.5))
