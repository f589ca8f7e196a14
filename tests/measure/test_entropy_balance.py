"""Entropy production and destruction: closed forms, quadrature, simulation, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import distributions as dist

from thermolearn.measure.canonical.entropy_balance import (
    entropy_destruction,
    ornstein_uhlenbeck,
)

K = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)


def quadratic(q):
    return 0.5 * (K * q**2).sum(1)


def normal(scale):
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return dist.Normal(torch.zeros_like(scale), scale)


def within(estimate, truth, sigmas=4.0):
    return abs(estimate.value - truth) <= sigmas * estimate.stderr


# -- Ornstein-Uhlenbeck --------------------------------------------------------------------------
def test_reference_numbers():
    ou = ornstein_uhlenbeck([0.5, 2, 3], sigma0=1.5, gamma=1.0, D=0.3, t=0.5)
    assert float(ou.entropy) == pytest.approx(3.28752, abs=1e-5)
    assert float(ou.entropy_rate) == pytest.approx(-3.172692, abs=1e-5)
    assert float(ou.production) == pytest.approx(2.327308, abs=1e-5)
    assert float(ou.destruction) == pytest.approx(5.5, abs=1e-12)


def test_walkers():
    rng = np.random.default_rng(0)
    k, dt, walkers = K.numpy(), 0.01, 200_000
    q = 1.5 * rng.standard_normal((walkers, 3))
    entropy = {}
    for step in range(1, 56):  # Heun: weak order 2, 1e-4 in S at this dt
        noise = math.sqrt(2 * 0.3 * dt) * rng.standard_normal(q.shape)
        predicted = q - k * q * dt + noise
        q = q - k * (q + predicted) * dt / 2 + noise
        if step in (45, 50, 55):
            entropy[step] = 0.5 * np.log(2 * math.pi * math.e * q.var(0)).sum()
    ou = ornstein_uhlenbeck(k, 1.5, 1.0, 0.3, [0.45, 0.5, 0.55])
    assert abs(entropy[50] - ou.entropy.value[1]) < 0.01
    rate = (entropy[55] - entropy[45]) / 0.1
    expected = (ou.entropy.value[2] - ou.entropy.value[0]) / 0.1
    assert abs(rate - expected) < 4 * math.sqrt(3 / walkers) / 0.1


@settings(max_examples=50, deadline=None)
@given(
    k=st.lists(st.floats(-2, 5), min_size=1, max_size=4),
    sigma0=st.floats(0.1, 3),
    gamma=st.floats(0, 2),
    D=st.floats(0, 2),
    t=st.floats(0.01, 2),
)
def test_rate_is_the_derivative_of_the_entropy(k, sigma0, gamma, D, t):
    h = 1e-5
    ou = ornstein_uhlenbeck(k, sigma0, gamma, D, [t - h, t, t + h])
    slope = (ou.entropy.value[2] - ou.entropy.value[0]) / (2 * h)
    scale = float(ou.production.value[1] + np.abs(k).sum() * gamma)
    assert slope == pytest.approx(ou.entropy_rate.value[1], abs=1e-5 * (1 + scale**3))


def test_limits():
    start = ornstein_uhlenbeck([0.0, 1.0], 0.7, 1.0, 0.3, 0.0)
    np.testing.assert_allclose(start.variance, 0.49)
    free = ornstein_uhlenbeck([0.0], 0.7, 1.0, 0.3, [0.0, 2.0])
    np.testing.assert_allclose(free.variance[:, 0], [0.49, 0.49 + 1.2])
    nearly = ornstein_uhlenbeck([1e-12], 0.7, 1.0, 0.3, 2.0)
    assert nearly.variance[0] == pytest.approx(1.69)
    late = ornstein_uhlenbeck([0.5, 2.0], 0.7, 1.5, 0.3, 100.0)
    np.testing.assert_allclose(late.variance, 0.3 / (1.5 * np.array([0.5, 2.0])))
    assert abs(late.entropy_rate) < 1e-12


# -- any potential and density -------------------------------------------------------------------
def test_quadratic_and_gaussian_is_exact():
    ou = ornstein_uhlenbeck(K.numpy(), 1.5, 1.0, 0.3, 0.5)
    scale = np.sqrt(ou.variance)
    diagonal = torch.diag(torch.as_tensor(ou.variance))
    for potential in (K, torch.diag(K) + 0.1 - 0.1 * torch.eye(3, dtype=torch.float64)):
        for density in (
            normal(scale),
            dist.Independent(normal(scale), 1),
            dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), diagonal),
        ):
            balance = entropy_destruction(potential, density, 1.0, 0.3)
            for name in ("entropy_rate", "production", "destruction"):
                estimate = getattr(balance, name)
                assert float(estimate) == pytest.approx(float(getattr(ou, name)), rel=1e-12)
                assert estimate.stderr == 0
    by_autograd = entropy_destruction(quadratic, normal(scale), 1.0, 0.3)
    assert float(by_autograd.destruction) == pytest.approx(5.5, rel=1e-12)


def test_correlated_gaussian():
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    density = dist.MultivariateNormal(torch.ones(2, dtype=torch.float64), covariance)
    balance = entropy_destruction(lambda q: q[:, 0] * q[:, 1] + q[:, 0] ** 4, density, 0.5, 0.2)
    assert float(balance.production) == pytest.approx(0.2 * 3.0 / 1.64, rel=1e-12)
    assert within(balance.destruction, 0.5 * 12 * 2.0)  # 12 <q_0^2>, mean 1 and variance 1
    assert balance.destruction.stderr > 0


def test_double_well_and_mixture_against_quadrature():
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)),
        dist.Normal(
            torch.tensor([-1.0, 1.5], dtype=torch.float64),
            torch.tensor([0.5, 0.8], dtype=torch.float64),
        ),
    )

    def p(x):
        return sum(
            c * math.exp(-((x - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))
            for c, m, s in ((0.3, -1.0, 0.5), (0.7, 1.5, 0.8))
        )

    def fisher(x, h=1e-5):
        return ((p(x + h) - p(x - h)) / (2 * h)) ** 2 / p(x)

    production = 0.4 * integrate.quad(fisher, -5, 7)[0]
    destruction = 1.3 * integrate.quad(lambda x: (3 * x * x - 1) * p(x), -6, 8)[0]
    balance = entropy_destruction(
        lambda q: (q**4 / 4 - q**2 / 2).sum(1), mixture, 1.3, 0.4, n_samples=20_000
    )
    assert within(balance.production, production)
    assert within(balance.destruction, destruction)
    assert within(balance.entropy_rate, production - destruction)
    assert balance.production.stderr < 0.02 * production
    assert not within(balance.entropy_rate, production + destruction)


def test_stationary_density_keeps_its_entropy():
    density = dist.StudentT(torch.full((2,), 6.0, dtype=torch.float64))
    gamma, D = 0.5, 0.2
    balance = entropy_destruction(
        lambda q: -(D / gamma) * density.log_prob(q).sum(1), density, gamma, D, n_samples=20_000
    )
    assert within(balance.entropy_rate, 0.0)
    assert balance.production > 20 * balance.production.stderr


def test_kinks_are_seen():
    balance = entropy_destruction(lambda q: q.abs().sum(1), normal([1.0, 2.0]), 1.0, 0.0)
    assert balance.destruction.status == balance.entropy_rate.status == "kinks"
    assert within(balance.destruction, 2 / math.sqrt(2 * math.pi) * 1.5)
    linear = entropy_destruction(lambda q: 3 * q.sum(1), normal([1.0, 2.0]), 1.0, 0.1)
    assert float(linear.destruction) == 0 and linear.destruction.status == "ok"


def test_private_generator_and_repeatability():
    def run(seed):
        return entropy_destruction(lambda q: (q**4).sum(1), normal([1.0]), 1.0, 0.1, seed=seed)

    before = torch.get_rng_state()
    first, second, other = run(0), run(0), run(1)
    assert torch.equal(before, torch.get_rng_state())
    assert float(first.destruction) == float(second.destruction) != float(other.destruction)


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"gamma": -1.0}, ValueError, "gamma"),
        ({"gamma": math.nan}, ValueError, "gamma"),
        ({"D": -0.1}, ValueError, "D must"),
        ({"n_samples": 1}, ValueError, "n_samples"),
        ({"potential": torch.ones(2)}, ValueError, "shape"),
        ({"potential": torch.tensor([1.0, math.inf, 1.0])}, ValueError, "non-finite"),
        ({"potential": "loss"}, TypeError, "potential"),
        ({"potential": lambda q: q}, ValueError, r"\(n,\)"),
        ({"potential": lambda q: torch.zeros(len(q))}, TypeError, "differentiated"),
        ({"potential": lambda q: q.log().sum(1)}, ValueError, "non-finite"),
        ({"density": torch.randn}, TypeError, "density"),
        ({"density": dist.Uniform(torch.zeros(3), torch.ones(3))}, ValueError, "positive on all"),
        ({"density": dist.Gamma(torch.ones(3), torch.ones(3))}, ValueError, "positive on all"),
        ({"density": dist.Normal(torch.zeros(2, 3), torch.ones(2, 3))}, ValueError, "batch"),
    ],
)
def test_bad_input(change, error, match):
    arguments = {"potential": quadratic, "density": normal([1.0, 1.0, 1.0]), "gamma": 1.0, "D": 0.1}
    with pytest.raises(error, match=match):
        entropy_destruction(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"k": [math.nan]}, "k must"),
        ({"k": [[1.0]]}, "k must"),
        ({"sigma0": 0.0}, "sigma0"),
        ({"gamma": -1.0}, "gamma"),
        ({"D": math.inf}, "D must"),
        ({"t": -1.0}, "t must"),
    ],
)
def test_bad_input_ornstein_uhlenbeck(change, match):
    arguments = {"k": [1.0], "sigma0": 1.0, "gamma": 1.0, "D": 0.1, "t": 1.0}
    with pytest.raises(ValueError, match=match):
        ornstein_uhlenbeck(**{**arguments, **change})
