"""Sampled networks against integrals over their weights, exact networks and published runs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import erf

from thermolearn.core.errors import DivergedError, SamplerWarning
from thermolearn.systems.training.feature_learning import (
    BayesianCNN,
    BayesianFCN,
    compare,
    linear_network_exact,
    sample_posterior,
)
from thermolearn.systems.training.feature_learning import sampling as sampling_module
from thermolearn.systems.training.feature_learning.collapsed import as_columns, posterior

SIGMAS = 4.0
rng = np.random.default_rng(7)
CASES = {
    "two layers": (BayesianFCN([20], 5, 1.3, 0.07), rng.normal(size=(9, 5))),
    "narrow": (BayesianFCN([3], 5, 1.3, 0.07), rng.normal(size=(9, 5))),
    "three layers": (BayesianFCN([6, 4], 5, 2.0, 0.1, "tanh"), rng.normal(size=(9, 5))),
    "four layers": (BayesianFCN([4, 5, 3], 5, 2.0, 0.1), rng.normal(size=(9, 5))),
    "patches": (BayesianCNN(4, 3, 5, 1.0, 0.1), rng.normal(size=(9, 3, 5))),
    "linear": (BayesianFCN([6], 5, 1.0, 0.1, "linear"), rng.normal(size=(9, 5))),
    "relu": (BayesianFCN([6], 5, 1.0, 0.1, "relu"), rng.normal(size=(9, 5))),
    "gelu": (BayesianFCN([6], 5, 1.0, 0.1, "gelu"), rng.normal(size=(9, 5))),
}


@pytest.fixture(params=CASES)
def case(request):
    net, X = CASES[request.param]
    return net, X, np.random.default_rng(8).normal(size=len(X)), 0.03


def draws(density, n: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, density.n_weights, generator=generator, dtype=torch.float64)


def kernel(net, weights, X) -> torch.Tensor:
    features = net.features(weights, X)
    return net.prior_variances[-1] * features @ features.mT


# -- the energy and its gradient, against autograd through the network ---------------------------
def test_collapsed_energy_and_gradient(case):
    net, X, y, noise = case
    density = posterior(net, X, y, noise)
    x = draws(density).requires_grad_()
    labels = torch.as_tensor(y)
    Q = (
        kernel(net, density.weights(x), torch.as_tensor(net.inputs(X)))
        + noise * torch.eye(len(y)).double()
    )
    quadratic = (labels * torch.linalg.solve(Q, labels.expand(4, -1))).sum(-1)
    energy = 0.5 * (x.square().sum(-1) + torch.logdet(Q) + quadratic)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    found = density.potential(x.detach())
    torch.testing.assert_close(found[0], energy.detach(), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(found[1], gradient, rtol=1e-9, atol=1e-9)
    (closed,) = torch.autograd.grad(density.log_density(x).sum(), x)
    assert (closed == -found[1]).all()


def test_energy_and_gradient_of_all_weights(case):
    net, X, y, noise = case
    density = posterior(net, X, y, noise, collapsed=False)
    x = draws(density).requires_grad_()
    f = net.forward(density.weights(x), torch.as_tensor(net.inputs(X)))
    energy = 0.5 * x.square().sum(-1) + (f - torch.as_tensor(y)).square().sum(-1) / (2 * noise)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    found = density.potential(x.detach())
    torch.testing.assert_close(found[0], energy.detach(), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(found[1], gradient, rtol=1e-9, atol=1e-9)


def test_integrating_the_readout_gives_the_collapsed_energy():
    """One unit: log of the integral over its readout, by Gauss-Hermite."""
    net, X, y, noise = BayesianFCN([1], 2, 1.0, 0.8), rng.normal(size=(3, 2)), np.ones(3), 0.3
    whole, collapsed = posterior(net, X, y, noise, False), posterior(net, X, y, noise)
    x = draws(collapsed, 5)
    u, w = np.polynomial.hermite_e.hermegauss(120)
    energies = [
        whole.potential(torch.cat([x, torch.full((5, 1), v, dtype=x.dtype)], 1))[0] for v in u
    ]
    likelihood = torch.exp(-torch.stack(energies) + 0.5 * torch.as_tensor(u)[:, None] ** 2)
    integral = -torch.log(torch.as_tensor(w) @ likelihood)
    difference = (integral - collapsed.potential(x)[0]).numpy()
    assert np.ptp(difference) < 1e-10


def test_predictions_given_the_hidden_weights(case):
    """Q(x, X)(Q + noise)^{-1} y, and its variance."""
    net, X, y, noise = case
    density = posterior(net, X, y, noise)
    x = draws(density)
    inputs = net.inputs(np.random.default_rng(9).normal(size=(6, *X.shape[1:])))
    both = torch.as_tensor(np.concatenate([net.inputs(X), inputs]))
    Q = kernel(net, density.weights(x), both)
    n = len(y)
    inverse = torch.linalg.inv(Q[:, :n, :n] + noise * torch.eye(n).double())
    mean, variance = density.predict(x, as_columns(inputs))
    torch.testing.assert_close(mean, Q[:, n:, :n] @ inverse @ torch.as_tensor(y))
    rest = Q[:, n:, n:] - Q[:, n:, :n] @ inverse @ Q[:, :n, n:]
    torch.testing.assert_close(variance, rest.diagonal(dim1=1, dim2=2))


# -- sampling, against integrals over all weights ------------------------------------------------
def close(found, expected: float | np.ndarray) -> bool:
    z = np.abs(np.asarray(found.value) - expected) / np.asarray(found.stderr)
    return bool((z < SIGMAS).all())


@pytest.mark.parametrize(
    ("method", "collapsed"),
    [
        ("hmc", True),
        ("mala", True),
        pytest.param("mala", False, marks=pytest.mark.slow),
        pytest.param("hmc", False, marks=pytest.mark.slow),
    ],
)
def test_one_unit_and_two_samples_against_quadrature(method: str, collapsed: bool):
    """Sigma, f and Var f of one erf unit on a line: a plane integral over (w, a), no algebra."""
    X, y, noise, x_test = np.array([[1.0], [-0.4]]), np.array([0.9, -0.2]), 0.3, 0.7
    w, a = np.meshgrid(np.linspace(-8, 8, 301), np.linspace(-9, 9, 301), indexing="ij")
    error = (a * erf(w) - y[0]) ** 2 + (a * erf(-0.4 * w) - y[1]) ** 2
    density = np.exp(-error / (2 * noise) - w**2 / (2 * 1.5) - a**2 / (2 * 0.9))
    f = a * erf(x_test * w)
    expected = [float((g * density).sum() / density.sum()) for g in (w**2, f, f**2)]
    s = sample_posterior(
        BayesianFCN([1], 1, 1.5, 0.9), X, y, noise, method, collapsed,
        chains=48, draws=90,
        steps=4 if collapsed else 16, seed=1,
    )  # fmt: skip
    assert close(s.input_covariance, expected[0])
    assert close(s.predict([[x_test]]), expected[1])
    total, conditional, kernel_part = s.predictive_variance([[x_test]])
    assert close(total, expected[2] - expected[1] ** 2)
    assert float(total.value[0]) == pytest.approx(conditional.value[0] + kernel_part.value[0])
    if not collapsed:
        assert close(s.direct([[x_test]]), expected[1])


def test_two_units_on_one_sample_against_quadrature():
    """<y^T Q y> and Sigma for C = 2, n = 1: a plane integral over (w_1, w_2)."""
    noise, sigma_a2, y = 0.05, 0.5, 1.1
    u, v = np.meshgrid(np.linspace(-8, 8, 401), np.linspace(-8, 8, 401), indexing="ij")
    Q = sigma_a2 / 2 * (erf(u) ** 2 + erf(v) ** 2)
    density = np.exp(-(u**2 + v**2) / 2 - y**2 / (2 * (Q + noise))) / np.sqrt(Q + noise)
    expected = [float((g * density).sum() / density.sum()) for g in ((u**2 + v**2) / 2, Q)]
    s = sample_posterior(
        BayesianFCN([2], 1, 1.0, sigma_a2), [[1.0]], [y], noise, chains=48, draws=100, steps=4
    )
    assert close(s.input_covariance, expected[0])
    assert close(s.output_kernel, expected[1])


@pytest.mark.parametrize(
    "name",
    ["patches", *(pytest.param(n, marks=pytest.mark.slow) for n in ("two layers", "three layers"))],
)
def test_without_information_the_prior_is_sampled(name: str):
    net, X = CASES[name]
    s = sample_posterior(net, X, np.ones(len(X)), 1e9, chains=16, draws=80, n_warmup=40, steps=5)
    assert close(s.relative_input_covariance, np.eye(5))
    assert np.abs(s.predict(X).value).max() < 1e-6
    for found in s.kernels:
        h = net.preactivations(net.sample_prior(torch.Generator().manual_seed(3), 4000),
                               torch.as_tensor(net.inputs(X)))[1][:, :, 0]  # fmt: skip
        by_net = (h @ h.mT / h.shape[-1]).numpy()
        error = np.hypot(by_net.std(0) / 4000**0.5, np.asarray(found.stderr))
        assert (np.abs(np.asarray(found.value) - by_net.mean(0)) < 5 * error).all()


@pytest.mark.slow
def test_linear_network_against_the_exact_one():
    """30 samples in 8 dimensions, 20 units: predictor to 0.005, Sigma_11 S / sigma_w2 = 3.3464."""
    data = np.random.default_rng(1)
    X, test = data.normal(size=(30, 8)), data.normal(size=(500, 8))
    exact = linear_network_exact(X, X[:, 0], [20], 0.02, 1.0, 0.05)
    net = BayesianFCN([20], 8, 1.0, 0.05, "linear")
    s = sample_posterior(net, X, X[:, 0], 0.02, chains=16, draws=100, n_warmup=60, seed=2)
    f, truth = np.asarray(s.predict(test).value), np.asarray(exact.predict(test))
    assert np.linalg.norm(f - truth) < 0.005 * np.linalg.norm(truth)
    covariance = s.relative_input_covariance
    expected = np.asarray(exact.input_covariance) * 8
    assert (np.abs(covariance.value - expected) < 5 * np.asarray(covariance.stderr)).all()
    assert abs(float(covariance.value[0, 0]) - 3.3464) < SIGMAS * float(covariance.stderr[0, 0])
    variance = s.predictive_variance(test).total
    z = (np.asarray(variance.value) - exact.predictive_variance(test)) / np.asarray(variance.stderr)
    assert abs(np.mean(z)) < 4  # they share their draws: one z on average


@pytest.mark.slow
def test_all_roads_to_one_posterior():
    """Readout integrated out or sampled, trajectories or Langevin steps: one Sigma, one f."""
    X, y, test, _ = erf_data()
    net, found = BayesianFCN([10], 4, 1.0, 0.1), []
    for method, collapsed in (("hmc", True), ("mala", True), ("mala", False)):
        found.append(
            sample_posterior(
                net,
                X[:12, :4],
                y[:12],
                0.05,
                method,
                collapsed,
                chains=12,
                draws=100,
                n_warmup=60,
                steps=8,
                seed=5,
            )
        )
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for quantity in ("input_covariance", "output_kernel"):
            p, q = getattr(found[a], quantity), getattr(found[b], quantity)
            z = (np.asarray(p.value) - np.asarray(q.value)) / np.hypot(p.stderr, q.stderr)
            assert np.abs(z).max() < 5
        p, q = found[a].predict(test[:20, :4]), found[b].predict(test[:20, :4])
        z = (np.asarray(p.value) - np.asarray(q.value)) / np.hypot(p.stderr, q.stderr)
        assert np.abs(z).max() < 5
    assert found[0].status == "ok" and found[0].note == ""
    assert max(found[0].rhat.values()) < 1.1 and min(found[0].ess.values()) > 50


# -- published runs ------------------------------------------------------------------------------
def erf_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    data = np.random.default_rng(1)
    X, test = data.normal(size=(40, 8)), data.normal(size=(200, 8))
    return X, erf(X[:, 0]), test, erf(test[:, 0])


@pytest.mark.slow
def test_mean_field_network_of_twenty_units():
    """Sigma_11 = 3.16 within 0.06, and the equations of state are four times nearer than the GP."""
    X, y, test, labels = erf_data()
    net = BayesianFCN([20], 8, 1.0, 0.05)
    s = sample_posterior(net, X, y, 0.02, seed=3)
    assert s.status == "ok"
    sigma = s.relative_input_covariance
    assert abs(float(sigma.value[0, 0]) - 3.16) < 0.06
    assert float(np.diag(sigma.value)[1:].mean()) == pytest.approx(0.824, abs=0.015)
    errors = s.test(test, labels)
    assert float(errors.alpha) == pytest.approx(0.840, abs=0.004)
    assert float(errors.relative_mse) == pytest.approx(0.0563, abs=0.0015)
    total, conditional, kernel_part = (float(np.mean(v.value)) for v in s.predictive_variance(test))
    assert total == pytest.approx(0.0110, abs=5e-4)
    assert conditional == pytest.approx(0.0050, abs=2e-4)
    assert kernel_part == pytest.approx(0.0060, abs=5e-4)
    found = compare(net.equations_of_state(X, y, 0.02).solve(), s, test, labels)
    assert float(found.gp_distance) > 4 * float(found.eos_distance)


@pytest.mark.slow
def test_three_layers():
    """y^T K y / |y|^2 = 21.16, within 12% of the equations of state."""
    data = np.random.default_rng(1)
    X, test = data.normal(size=(30, 8)), data.normal(size=(200, 8))
    y, labels = erf(2 * erf(X[:, 0])), erf(2 * erf(test[:, 0]))
    net = BayesianFCN([20, 20], 8, 2.0, 0.1)
    s = sample_posterior(net, X, y, 0.02, seed=1)
    assert s.status == "ok"
    assert float(s.alignment()) == pytest.approx(21.16, abs=0.7)
    assert float(s.relative_input_covariance.value[0, 0]) == pytest.approx(2.401, abs=0.05)
    assert float(s.test(test, labels).relative_mse) == pytest.approx(0.0687, abs=0.004)
    found = compare(net.equations_of_state(X, y, 0.02).solve(), s, test, labels)
    row = found["alignment"]
    assert abs(row.eos / float(row.sampler) - 1) < 0.12
    assert abs(1 - float(found.kernel_shift_captured)) < 0.12
    assert float(found.direction_overlap) > 0.99


@pytest.mark.slow
def test_patches():
    data = np.random.default_rng(1)
    X, test = data.normal(size=(40, 4, 6)), data.normal(size=(200, 4, 6))
    b = data.normal(size=4) / 2
    y, labels = erf(X[:, :, 0]) @ b, erf(test[:, :, 0]) @ b
    net = BayesianCNN(20, 4, 6, 1.0, 0.1)
    s = sample_posterior(net, X, y, 0.02, draws=150)
    assert float(s.relative_input_covariance.value[0, 0]) == pytest.approx(2.584, abs=0.06)
    assert float(s.test(test, labels).alpha) == pytest.approx(0.791, abs=0.005)
    found = compare(net.equations_of_state(X, y, 0.02).solve(), s, test, labels)
    assert float(found.gp_distance) == pytest.approx(0.244, abs=0.01)
    assert float(found.eos_distance) == pytest.approx(0.025, abs=0.006)


@pytest.mark.slow
def test_plain_langevin_steps_on_all_weights():
    """The published protocol: Sigma_11 = 3.184(7), half a per cent to one of bias."""
    X, y, test, labels = erf_data()
    s = sample_posterior(
        BayesianFCN([20], 8, 1.0, 0.05), X, y, 0.02, "ula", False,
        chains=16, draws=250, n_warmup=50, steps=20, step=0.02, seed=1,
    )  # fmt: skip
    sigma = s.relative_input_covariance
    assert abs(float(sigma.value[0, 0]) - 3.184) < SIGMAS * math.hypot(0.007, sigma.stderr[0, 0])
    assert float(s.test(test, labels).alpha) == pytest.approx(0.839, abs=0.004)
    direct, averaged = s.direct(test), s.predict(test)
    assert np.sqrt(np.mean((np.asarray(direct.value) - np.asarray(averaged.value)) ** 2)) < 0.01


# -- bits, interruptions, bad input --------------------------------------------------------------
SMALL = BayesianFCN([3], 2), np.ones((4, 2)) * np.arange(4)[:, None], np.arange(4.0)
QUICK = {"chains": 2, "draws": 4, "n_warmup": 3, "steps": 2}


@pytest.mark.filterwarnings("ignore::thermolearn.core.errors.SamplerWarning")
@pytest.mark.parametrize("method", ["hmc", "mala", "ula"])
def test_a_seed_fixes_the_bits(method: str):
    state = torch.get_rng_state()
    runs = [sample_posterior(*SMALL, 0.1, method, seed=s, **QUICK).x for s in (0, 0, 1)]
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()
    assert (torch.get_rng_state() == state).all()


def test_few_draws_are_flagged():
    with pytest.warns(SamplerWarning, match="4 draws per chain"):
        s = sample_posterior(*SMALL, 0.1, **QUICK)
    assert s.status == "under-sampled"
    assert s.predict([[0.0, 1.0]]).status == "under-sampled"
    assert s.predictive_variance([[0.0, 1.0]]).kernel.status == "under-sampled"
    assert all(math.isnan(r) for r in s.rhat.values())


def test_chains_that_disagree_are_flagged():
    """Without a warm-up long enough the chains are still where they started."""
    X, y, *_ = erf_data()
    with pytest.warns(SamplerWarning):
        s = sample_posterior(
            BayesianFCN([20], 8, 1.0, 0.05), X, y, 0.02, "mala",
            chains=4, draws=60, n_warmup=1, steps=1, step=1e-4,
        )  # fmt: skip
    assert s.status in ("not mixed", "under-sampled") and s.note


@pytest.mark.filterwarnings("ignore::thermolearn.core.errors.SamplerWarning")
def test_one_chain_has_no_error_bar():
    s = sample_posterior(*SMALL, 0.1, **{**QUICK, "chains": 1})
    assert np.isnan(s.input_covariance.stderr).all()
    assert np.isnan(s.predictive_variance([[0.0, 1.0]]).total.stderr).all()


def test_interrupt_keeps_what_was_drawn(monkeypatch):
    def interrupted(items, *args, **kwargs):
        for number in items:
            if number == 3:
                raise KeyboardInterrupt
            yield number

    monkeypatch.setattr(sampling_module, "track", interrupted)
    with pytest.warns(SamplerWarning, match="interrupted"):
        s = sample_posterior(*SMALL, 0.1, **{**QUICK, "draws": 10})
    assert s.draws == 3 and s.interrupted
    monkeypatch.setattr(sampling_module, "track", lambda items, *a: iter_interrupt())
    with pytest.raises(KeyboardInterrupt):
        sample_posterior(*SMALL, 0.1, **QUICK)


def iter_interrupt():
    raise KeyboardInterrupt
    yield


def test_too_long_a_step_is_told():
    with pytest.raises(DivergedError, match="lower it"), warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        sample_posterior(*SMALL, 1e-3, "ula", False, step=5.0, **{**QUICK, "steps": 400})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": 0.0}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"method": "nuts"}, "method"),
        ({"chains": 0}, "chains"),
        ({"draws": 2.5}, "draws"),
        ({"steps": 0}, "steps"),
        ({"n_warmup": 0}, "n_warmup"),
        ({"step": -1.0}, "step"),
        ({"seed": -1}, "seed"),
        ({"X": np.ones((4, 3))}, "X must have shape"),
        ({"y": np.ones(3)}, "one target per input"),
        ({"y": [0.0, 1.0, math.nan, 0.0]}, "NaN"),
        ({"chains": 10**6, "draws": 10**6}, "2 GiB"),
    ],
)
def test_bad_input(change: dict, message: str):
    given = {"net": SMALL[0], "X": SMALL[1], "y": SMALL[2], "noise": 0.1, **QUICK, **change}
    with pytest.raises(ValueError, match=message):
        sample_posterior(**given)


@pytest.mark.filterwarnings("ignore::thermolearn.core.errors.SamplerWarning")
def test_bad_questions():
    s = sample_posterior(*SMALL, 0.1, **QUICK)
    with pytest.raises(ValueError, match="layer"):
        s.alignment()
    with pytest.raises(ValueError, match="was not sampled"):
        s.direct([[0.0, 1.0]])
    with pytest.raises(ValueError, match="all equal"):
        s.test(SMALL[1], np.ones(4))
    with pytest.raises(ValueError, match="X must have shape"):
        s.predict([[1.0, 2.0, 3.0]])
