"""Exactly Gaussian pairs: against an independent double integral, closed forms and samples."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import gamma, log_ndtr
from torch import nn

from thermolearn.core.gaussian import gauss_nodes
from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation, bounded_limit
from thermolearn.measure.propagation.gaussianity import ks_distance
from thermolearn.measure.propagation.mellin import WeibullPartner


def pair(theta, kind="odd"):
    return GaussianPreactivation(theta, kind).double()


def at(model, *x):
    return model(torch.tensor(x, dtype=torch.float64))


def mixture_survival(theta, y):
    """P(|Y| > y) from Weibull as a mixture over stable variables: a smooth double integral."""
    a = 2 / theta
    x, w = np.polynomial.legendre.leggauss(120)
    u, v, w = (x + 1) / 4, (x + 1) / 2 * math.pi, w / 2
    power = a / (1 - a)
    zolotarev = np.sin((1 - a) * v) * np.sin(a * v) ** power / np.sin(v) ** (1 + power)
    ratio = (y / (math.sqrt(2) * np.sin(math.pi * u[:, None]))) ** (2 / (1 - a))
    return float(w @ np.exp(-zolotarev[None, :] * ratio) @ w)


@pytest.mark.parametrize("theta", [2.5, 4.0, 10.0])
def test_the_inversion_equals_an_independent_integral(theta):
    partner = WeibullPartner(theta)
    for x in (1.0, 2.0, 4.0, 6.0):
        log_q = math.log(2) + log_ndtr(-x)
        y, _ = partner.quantiles(np.array([math.log(-math.expm1(log_q))]), np.array([log_q]))
        assert mixture_survival(theta, y[0]) == pytest.approx(math.exp(log_q), rel=1e-8)


def test_series_and_contour_meet():
    partner = WeibullPartner(3.0)
    below = partner.at(0.7 - 1e-12)
    above = partner.at(0.7 + 1e-12)
    np.testing.assert_allclose(below, above, rtol=1e-9)


@pytest.mark.parametrize(
    ("theta", "values", "slope", "chi1"),
    [
        (2.05, (0.78542, 1.2362, 1.46483, 1.50705, 1.52587), 1.7311, 1.24226),
        (2.5, (0.7002, 1.20792, 1.73317, 1.99112, 2.15767), 1.4892, 1.0970),
        (3.0, (0.65092, 1.18205, 1.87597, 2.30396, 2.61318), 1.3541, 1.04643),
        (4.0, (0.60079, 1.14251, 1.99933, 2.63955, 3.15523), 1.2254, 1.01558),
        (7.0, (0.54991, 1.08358, 2.0694, 2.94644, 3.73881), 1.1058, 1.002),
        (10.0, (0.533, 1.05861, 2.06859, 3.01517, 3.90504), 1.0686, 1.00054),
    ],
)
def test_odd_activations_have_their_reference_values(theta, values, slope, chi1):
    phi = pair(theta)
    np.testing.assert_allclose(at(phi, 0.5, 1, 2, 3, 4), values, atol=1.5e-5)
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (measured,) = torch.autograd.grad(phi(x).sum(), x)
    assert float(measured) == pytest.approx(gamma(1 - 1 / theta), abs=1e-9)
    assert float(measured) == pytest.approx(slope, abs=1e-3)
    assert phi.chi1() == pytest.approx(chi1, abs=6e-5)


def test_the_positive_kind_has_its_reference_values():
    expected = (0.04246, 0.29502, 0.90276, 1.47938, 1.81971, 2.03031)
    np.testing.assert_allclose(at(pair(2.5, "positive"), -2, -1, 0, 1, 2, 3), expected, atol=1e-5)


def test_the_bounded_limit():
    x = torch.tensor([0.5, 1, 2, 3, 4], dtype=torch.float64)
    expected = (0.80027, 1.24215, 1.4106, 1.4142, 1.41421)
    np.testing.assert_allclose(bounded_limit(x), expected, atol=1e-5)
    inside = x[:3]
    assert float((pair(2.05)(inside) - bounded_limit(inside)).abs().max()) < 0.06
    with pytest.warns(UserWarning, match="theta = 2"):
        near = pair(2.005)
    assert near.effective == 2
    np.testing.assert_allclose(near(x), bounded_limit(x), atol=1e-8)
    assert near.chi1() == pytest.approx(1.27798, abs=1e-5)


@pytest.mark.parametrize("kind", ["odd", "positive"])
@pytest.mark.parametrize("theta", [2.3, 3.0, 50.0])
def test_second_moments_of_weight_and_activation_are_inverse(theta, kind):
    phi = pair(theta, kind)
    z, w = gauss_nodes(1.0, 16, fineness=0.1)
    moments = [w @ np.abs(phi(torch.from_numpy(z)).numpy()) ** k for k in (2, 4)]
    assert gamma(1 + 2 / theta) * moments[0] == pytest.approx(1, abs=1e-7)
    assert gamma(1 + 4 / theta) * moments[1] == pytest.approx(3, abs=1e-6)


def test_the_table_is_exact_between_its_knots():
    x = np.arange(0.013, 7.9, 0.37)
    log_q = math.log(2) + log_ndtr(-x)
    y, density = WeibullPartner(2.5).quantiles(np.log(-np.expm1(log_q)), log_q)
    z = torch.from_numpy(x).requires_grad_()
    value = pair(2.5)(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    np.testing.assert_allclose(value.detach(), y, atol=1e-8)
    exact = 2 * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) / density
    np.testing.assert_allclose(slope, exact, atol=2e-6)


@pytest.mark.parametrize("kind", ["odd", "positive"])
@pytest.mark.parametrize("theta", [2.5, 4.0, 10.0])
def test_weight_times_activation_is_gaussian(theta, kind):
    """A million samples; for Gaussian ones 95 in 100 distances stay below 1.36e-3."""
    generator = torch.Generator().manual_seed(1)
    phi = pair(theta, kind)
    w = phi.sample_weights((10**6,), generator, torch.float64)
    x = torch.randn(10**6, generator=generator, dtype=torch.float64)
    assert ks_distance((w * phi(x)).numpy())[0] < 1.6e-3


def test_gaussian_weights_are_not_gaussian_with_tanh():
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(2, 10**5, generator=generator, dtype=torch.float64)
    product = w * torch.tanh(x)
    assert ks_distance((product / product.std()).numpy())[0] > 0.06


def test_odd_pairs_are_chaotic_and_positive_ones_ordered():
    odd = [pair(theta).chi1() for theta in (2.3, 3.0, 6.0, 1e4)]
    assert all(a > b > 1 - 1e-9 for a, b in itertools.pairwise(odd))
    assert odd[-1] == pytest.approx(1, abs=1e-6)
    assert all(0 < pair(theta, "positive").chi1() < 1 for theta in (2.3, 3.0, 6.0))


def test_the_weights_have_their_law():
    generator = torch.Generator().manual_seed(3)
    w = pair(3.0).sample_weights((200_000,), generator, torch.float64)
    n = len(w)
    expected = gamma(1 + 2 / 3)
    assert abs(float(w.square().mean()) - expected) < 4 * float(w.square().std()) / n**0.5
    assert abs(float(w.mean())) < 4 * float(w.std()) / n**0.5
    tail = math.exp(-(1.2**3))
    assert abs(float((w.abs() > 1.2).double().mean()) - tail) < 4 * (tail * (1 - tail) / n) ** 0.5


def test_layers_are_initialized_by_their_fan_in():
    generator = torch.Generator().manual_seed(0)
    phi = pair(2.5)
    linear = phi.init_(nn.Linear(400, 300), generator)
    conv = phi.init_(nn.Conv2d(32, 64, 3, groups=4, bias=False), generator)
    for layer, fan_in in ((linear, 400), (conv, 72)):
        variance = float(layer.weight.detach().double().square().mean()) * fan_in
        assert variance == pytest.approx(gamma(1.8), rel=0.03)
    assert float(linear.bias.detach().abs().max()) == 0
    state = torch.get_rng_state()
    phi.init_(nn.Linear(4, 3), generator)
    # nn.Linear itself draws; the initialization does not
    layer = nn.Linear(4, 3)
    state = torch.get_rng_state()
    phi.init_(layer, generator)
    assert torch.equal(state, torch.get_rng_state())


# -- as a module ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["odd", "positive"])
def test_derivatives_pass_gradcheck(kind):
    x = torch.linspace(-9.3, 9.3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pair(3.0, kind), (x,), eps=1e-7, atol=1e-5)


def test_precisions_agree():
    x = torch.linspace(-9, 9, 401)
    phi = GaussianPreactivation(2.5)
    exact = pair(2.5)(x.double())
    assert phi(x).dtype == torch.float32
    np.testing.assert_allclose(phi(x), exact, atol=1e-6)
    half = copy.deepcopy(phi).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert float((half.double() - exact).abs().max()) < 0.05


def test_vmap_and_functional_transforms():
    phi = pair(2.5)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    assert torch.equal(torch.func.vmap(phi)(x), phi(x))
    slopes = torch.func.vmap(torch.func.vmap(torch.func.grad(phi)))(x)
    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(phi(y).sum(), y)
    assert torch.equal(slopes, expected)


def test_nan_and_infinity_pass_through():
    out = at(pair(2.5), math.nan, math.inf, -math.inf)
    assert math.isnan(out[0]) and out[1] == math.inf and out[2] == -math.inf
    assert float(at(pair(2.5, "positive"), -40.0)) >= 0


def test_state_dicts_carry_the_table_and_refuse_another():
    first, same, other = pair(3.0), pair(3.0), pair(4.0)
    same.load_state_dict(first.state_dict())
    same.load_state_dict(first.float().state_dict())
    before = other.coefficients.clone()
    with pytest.raises(RuntimeError, match="another theta or kind"):
        other.load_state_dict(first.state_dict())
    assert torch.equal(other.coefficients, before)
    assert "theta=3" in repr(first)


@pytest.mark.parametrize("theta", [2, 2.0, 1.5, -3, math.nan, math.inf, "3", None, True])
def test_bad_thetas(theta):
    with pytest.raises(ValueError, match="theta"):
        GaussianPreactivation(theta)


def test_other_bad_input():
    phi, generator = pair(3.0), torch.Generator()
    with pytest.raises(ValueError, match="theta must exceed 2; theta=2 is the bounded limit"):
        GaussianPreactivation(2)
    with pytest.raises(ValueError, match="kind"):
        GaussianPreactivation(3.0, "even")
    with pytest.raises(TypeError, match="floating"):
        phi(torch.arange(3))
    with pytest.raises(TypeError, match="generator"):
        phi.sample_weights((3,), None)
    with pytest.raises(TypeError, match="layer"):
        phi.init_(nn.BatchNorm1d(3), generator)
