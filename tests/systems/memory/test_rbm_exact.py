"""Exact sums, gradients and conditionals of the machine against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from thermolearn.core.errors import NotApplicableError
from thermolearn.systems.memory.rbm import RBM, Weights, enumeration, units
from thermolearn.systems.memory.rbm.gradient import GradientSampler
from thermolearn.systems.memory.rbm.noise import Noise

DISCRETE = [("bernoulli", "bernoulli"), ("ising", "bernoulli"), ("ising", "ising")]
ALL = [*DISCRETE, ("ising", "gaussian"), ("bernoulli", "gaussian"), ("gaussian", "ising")]


def machine(
    visible: str, hidden: str, n_v: int, n_h: int, sd: float = 1.0, seed: int = 0
) -> Weights:
    rng = np.random.default_rng(seed)
    W, a, b = rng.normal(0, sd, (n_v, n_h)), rng.normal(0, sd, n_v), rng.normal(0, sd, n_h)
    return Weights(*map(torch.from_numpy, (W, a, b)), visible, hidden)


def naive_log_partition(w: Weights) -> float:
    """ln of the literal double sum over both layers; Gaussian units by Gauss-Hermite."""
    W, a, b = (x.numpy() for x in (w.W, w.a, w.b))

    def axis(kind: str) -> tuple[np.ndarray, np.ndarray]:
        if kind == "gaussian":
            nodes, weight = np.polynomial.hermite_e.hermegauss(60)
            return nodes, weight / weight.sum()
        return np.array([-1.0 if kind == "ising" else 0.0, 1.0]), np.ones(2)

    total = 0.0
    (xv, pv), (xh, ph) = axis(w.visible), axis(w.hidden)
    for iv in itertools.product(range(len(xv)), repeat=w.n_visible):
        v, wv = xv[list(iv)], pv[list(iv)].prod()
        for ih in itertools.product(range(len(xh)), repeat=w.n_hidden):
            h, wh = xh[list(ih)], ph[list(ih)].prod()
            total += wv * wh * math.exp(a @ v + b @ h + v @ W @ h)
    return math.log(total)


@pytest.mark.parametrize(("visible", "hidden"), ALL)
def test_log_partition_is_the_literal_sum(visible: str, hidden: str) -> None:
    n_v, n_h = (2, 3) if visible == "gaussian" else (4, 2) if hidden == "gaussian" else (4, 3)
    w = machine(visible, hidden, n_v, n_h, sd=0.5)
    assert enumeration.log_partition(w) == pytest.approx(naive_log_partition(w), abs=1e-10)


@pytest.mark.parametrize(("visible", "hidden"), DISCRETE)
def test_either_layer_gives_the_same(visible: str, hidden: str) -> None:
    w = machine(visible, hidden, 10, 8)
    by_hidden, by_visible = enumeration.moments(w, "hidden"), enumeration.moments(w, "visible")
    assert abs(by_hidden.log_partition - by_visible.log_partition) < 1e-9
    for name in ("visible", "hidden", "product"):
        torch.testing.assert_close(
            getattr(by_hidden, name), getattr(by_visible, name), rtol=0, atol=1e-12
        )
    assert by_hidden.log_partition == pytest.approx(enumeration.log_partition(w), abs=1e-12)


def test_the_sum_in_blocks_is_the_whole_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    w = machine("ising", "bernoulli", 11, 9)
    whole, product = enumeration.log_partition(w), enumeration.moments(w).product
    monkeypatch.setattr(enumeration, "BLOCK", 64)
    assert enumeration.log_partition(w) == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(enumeration.moments(w).product, product)


def test_without_weights_every_state_counts_once() -> None:
    rbm = RBM.from_weights(np.zeros((9, 7)))
    assert float(rbm.log_partition("exact")) == pytest.approx(16 * math.log(2), rel=1e-15)
    annealed = rbm.log_partition("ais", n_betas=10, n_chains=10)
    assert float(annealed) == pytest.approx(16 * math.log(2), rel=1e-14)
    assert annealed.stderr == 0


@pytest.mark.parametrize(("visible", "hidden"), ALL)
def test_exact_gradient_is_the_derivative_of_the_likelihood(visible: str, hidden: str) -> None:
    w = machine(visible, hidden, 5, 4, sd=0.4)
    X = enumeration.exact_samples(w, 12, Noise(1))
    w = machine(visible, hidden, 5, 4, sd=0.4, seed=1)
    for x in (w.W, w.a, w.b):
        x.requires_grad_()
    discrete = enumeration.enumerated_layer(w)
    other = w if discrete == "visible" else w.transposed()
    s = units.states(other.visible, other.n_visible)
    log_z = torch.logsumexp(-other.free_energy(s), 0)
    (-w.free_energy(X).mean() - log_z).backward()
    plain = Weights(*(x.detach() for x in (w.W, w.a, w.b)), visible, hidden)
    sampler = GradientSampler(plain, 12, 0, "exact", 1, 2, False, X.mean(0), Noise(0))
    g = sampler(X)
    for mine, autograd in ((g.W, w.W.grad), (g.a, w.a.grad), (g.b, w.b.grad)):
        torch.testing.assert_close(mine, autograd, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["pcd", "cd", "pt", "exact"])
def test_centering_is_the_gradient_in_centered_units(method: str) -> None:
    """Literal transcription of the centered statistics against the carried-back gradient."""
    w = machine("bernoulli", "ising", 6, 4, sd=0.5)
    X = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (20, 6)).astype(float))
    mu = X.mean(0)
    raw = GradientSampler(w, 20, 30, method, 2, 3, False, mu, Noise(5))(X)
    sampler = GradientSampler(w, 20, 30, method, 2, 3, True, mu, Noise(5))
    g = sampler(X)
    lam = sampler.hidden_offset
    dW = raw.W - torch.outer(mu, raw.b) - torch.outer(raw.a, lam)
    torch.testing.assert_close(g.W, dW)
    torch.testing.assert_close(g.a, raw.a - dW @ lam)
    torch.testing.assert_close(g.b, raw.b - dW.T @ mu)


@pytest.mark.parametrize(("visible", "hidden"), ALL)
@pytest.mark.parametrize("method", ["pcd", "pt"])
def test_many_chains_find_the_exact_gradient(visible: str, hidden: str, method: str) -> None:
    w = machine(visible, hidden, 5, 4, sd=0.3)
    X = enumeration.exact_samples(machine(visible, hidden, 5, 4, sd=0.3, seed=1), 50, Noise(1))
    exact = GradientSampler(w, 50, 0, "exact", 1, 2, False, X.mean(0), Noise(0))(X)
    chains = GradientSampler(w, 50, 4000, method, 20, 3, False, X.mean(0), Noise(0))
    g = chains(X)
    error = 4.5 / math.sqrt(4000)  # 34 numbers of standard deviation about 1
    for mine, true in ((g.W, exact.W), (g.a, exact.a), (g.b, exact.b)):
        assert float((mine - true).abs().max()) < error * 1.6


@pytest.mark.parametrize(("visible", "hidden"), ALL)
def test_exact_samples_have_the_exact_means(visible: str, hidden: str) -> None:
    w = machine(visible, hidden, 6, 5, sd=0.4)
    v = enumeration.exact_samples(w, 20_000, Noise(3))
    stderr = v.std(0) / math.sqrt(len(v))
    assert float(((v.mean(0) - enumeration.moments(w).visible) / stderr).abs().max()) < 4.5


# -- the Hopfield network inside ----------------------------------------------------------------
def test_hebbian_machine_is_the_hopfield_network() -> None:
    n, k, m, r, beta = 10, 2, 3, 0.6, 1.3
    rng = np.random.default_rng(2)
    eta = rng.choice([-1.0, 1.0], (k, m, n))
    rbm = RBM.from_hebb(eta, beta=beta, quality=r)
    power = r**2 + (1 - r**2) / m
    x = eta.reshape(-1, n)
    J = x.T @ x / (n * m * power)
    states = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    weight = np.exp(beta * 0.5 * np.einsum("si,ij,sj->s", states, J, states))
    z = math.exp(float(rbm.log_partition("exact")))
    assert z == pytest.approx(weight.sum(), rel=1e-10)
    form = rbm.to_hopfield(beta)
    np.testing.assert_allclose(form.J, J, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(np.exp(-rbm.free_energy(states)), weight, rtol=1e-10)
    assert not form.field.any()


def test_hopfield_form_holds_with_fields() -> None:
    w = machine("ising", "gaussian", 6, 3, sd=0.4)
    rbm = RBM.from_weights(w.W, w.a, w.b, "ising", "gaussian")
    form = rbm.to_hopfield(beta=2.0)
    states = np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
    pair = 0.5 * np.einsum("si,ij,sj->s", states, form.J, states)
    expected = 2.0 * (pair + states @ form.field) + form.constant
    np.testing.assert_allclose(-rbm.free_energy(states), expected, atol=1e-12)


def test_only_gaussian_hidden_units_make_a_hopfield_network() -> None:
    with pytest.raises(NotApplicableError, match="gaussian"):
        RBM.from_weights(np.ones((3, 2))).to_hopfield()
    with pytest.raises(ValueError, match="-1 and 1"):
        RBM.from_hebb([[0.5, 1.0]])
    with pytest.raises(ValueError, match="quality"):
        RBM.from_hebb([[-1.0, 1.0]], quality=0.0)


# -- numerics and errors ------------------------------------------------------------------------
def test_large_fields_do_not_overflow() -> None:
    w = Weights(torch.full((2, 2), 1e4), torch.zeros(2), torch.zeros(2), "bernoulli", "bernoulli")
    f = w.double().free_energy(torch.ones(1, 2, dtype=torch.float64))
    assert float(f) == pytest.approx(-4e4)
    for kind in ("ising", "bernoulli"):
        x = torch.tensor([-800.0, 0.0, 800.0], dtype=torch.float64)
        low = {"ising": 800.0, "bernoulli": 0.0}[kind]
        expected = torch.tensor([low, math.log(2), 800.0], dtype=torch.float64)
        torch.testing.assert_close(units.log_normalizer(kind, x), expected)


def test_too_many_units_are_refused_with_the_way_out() -> None:
    rbm = RBM.from_weights(np.zeros((30, 26)))
    with pytest.raises(ValueError, match=r"2\^26 states.*ais"):
        rbm.log_partition("exact")
    gaussian = RBM.from_weights(np.zeros((30, 2)), visible="ising", hidden="gaussian")
    with pytest.raises(ValueError, match="ais"):
        gaussian.log_partition("exact")
    with pytest.raises(ValueError, match="gaussian and cannot be enumerated"):
        RBM.from_weights(np.zeros((3, 2)), visible="gaussian").log_partition(
            "exact", layer="visible"
        )


def test_bad_weights_raise() -> None:
    with pytest.raises(ValueError, match="both be gaussian"):
        RBM.from_weights(np.zeros((3, 2)), visible="gaussian", hidden="gaussian")
    with pytest.raises(ValueError, match="not finite"):
        RBM.from_weights([[math.nan]])
    with pytest.raises(ValueError, match="shape"):
        RBM.from_weights(np.zeros((3, 2)), a=np.zeros(2))
    with pytest.raises(ValueError, match="visible must be one of"):
        RBM.from_weights(np.zeros((3, 2)), visible="potts")
