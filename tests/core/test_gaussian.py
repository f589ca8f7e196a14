import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special

from thermolearn.core.gaussian import gauss_nodes


def relu(z):
    return np.maximum(z, 0.0)


def dtanh(z):
    return 1 / np.cosh(np.clip(z, -300, 300)) ** 2


def average(f, sigma, **options):
    z, w = gauss_nodes(sigma, **options)
    return float(w @ f(z))


def by_quad(f, sigma):
    """E f(z) by adaptive quadrature on short intervals."""
    points = [p for p in (-30, -10, -3, -1, -0.1, 0, 0.1, 1, 3, 10, 30) if abs(p) < 12 * sigma]
    edges = [-12 * sigma, *points, 12 * sigma]

    def integrand(z):
        return f(z) * math.exp(-(z**2) / (2 * sigma**2)) / math.sqrt(2 * math.pi) / sigma

    return sum(
        integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13)[0] for a, b in pairwise(edges)
    )


@pytest.mark.parametrize(("n", "tolerance"), [(16, 1e-13), (12, 1e-10), (8, 2e-6)])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_moments(sigma, n, tolerance):
    z, w = gauss_nodes(sigma, n)
    assert z.shape == w.shape and (np.diff(z) > 0).all() and (w > 0).all()
    for power in range(0, 17, 2):
        exact = special.factorial2(power - 1) if power else 1.0
        assert w @ (z / sigma) ** power == pytest.approx(exact, rel=tolerance)
        assert w @ (z / sigma) ** (power + 1) == pytest.approx(0, abs=1e-12 * exact)


@pytest.mark.parametrize(("n", "tolerance"), [(16, 1e-13), (12, 1e-10), (8, 2e-6)])
@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4])
def test_features_of_unit_width_at_the_origin(sigma, n, tolerance):
    """E exp(-2 z^2) = 1 / sqrt(1 + 4 s2)."""
    got = average(lambda z: np.exp(-2 * z**2), sigma, n=n)
    assert got == pytest.approx(1 / math.sqrt(1 + 4 * sigma**2), rel=tolerance)


@given(sigma=st.floats(1e-6, 1e6))
def test_relu_halves_the_variance(sigma):
    assert average(lambda z: relu(z) ** 2, sigma) == pytest.approx(sigma**2 / 2, rel=1e-13)
    assert average(relu, sigma) == pytest.approx(sigma / math.sqrt(2 * math.pi), rel=1e-13)
    assert average(lambda z: (z > 0) * 1.0, sigma) == pytest.approx(0.5, rel=1e-13)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_moments_of_the_slope_of_tanh(sigma, power):
    def f(z):
        return dtanh(z) ** power

    assert average(f, sigma) == pytest.approx(by_quad(f, sigma), rel=1e-10)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 3.0, 10.0, 100.0])
def test_erf_has_the_arcsine_law(sigma):
    """E erf(z)^2 = (2/pi) arcsin(2 s2 / (1 + 2 s2))."""
    s2 = sigma**2
    exact = 2 / math.pi * math.asin(2 * s2 / (1 + 2 * s2))
    assert average(lambda z: special.erf(z) ** 2, sigma) == pytest.approx(exact, rel=1e-13)


def test_cosine_is_the_characteristic_function():
    for k in (0.5, 2.0, 5.0):
        got = average(lambda z, k=k: np.cos(k * z), 1.0)
        assert got == pytest.approx(math.exp(-(k**2) / 2), abs=1e-13)


def test_hermite_rule_is_what_would_fail():
    """The reason for the panels: 161 Hermite nodes are 3% off where this rule is exact."""
    z, w = special.roots_hermitenorm(161)
    exact = by_quad(lambda z: dtanh(z) ** 4, 3.0)
    hermite = (w / w.sum() * dtanh(3 * z) ** 4).sum()
    assert abs(hermite / exact - 1) > 0.02


@given(kink=st.floats(-3, 3), sigma2=st.floats(0.05, 20))
def test_kinks_away_from_the_origin(kink, sigma2):
    """E max(z - c, 0) = sigma phi(c/sigma) - c Phi(-c/sigma)."""
    sigma = math.sqrt(sigma2)
    c = kink / sigma
    exact = sigma * math.exp(-c * c / 2) / math.sqrt(2 * math.pi) - kink * special.ndtr(-c)
    got = average(lambda z: relu(z - kink), sigma, kinks=(kink,))
    assert got == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_hard_tanh_with_two_kinks_and_what_they_are_worth():
    """E clip(z, -1, 1)^2 = Phi(-c) * 2 + s2 [1 - 2 Phi(-c) - 2 c phi(c)], c = 1/sigma."""
    s2 = 1.7
    c = 1 / math.sqrt(s2)
    tail, density = special.ndtr(-c), math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
    exact = 2 * tail + s2 * (1 - 2 * tail - 2 * c * density)

    def f(z):
        return np.clip(z, -1, 1) ** 2

    assert average(f, math.sqrt(s2), kinks=(-1, 1)) == pytest.approx(exact, rel=1e-13)
    assert abs(average(f, math.sqrt(s2)) / exact - 1) > 1e-7


def test_fineness_resolves_what_is_far_from_the_origin():
    """E exp(-2 (z - c)^2) = exp(-2 c^2 / (1 + 4 s2)) / sqrt(1 + 4 s2)."""
    c, sigma = 20.0, 10.0

    def f(z):
        return np.exp(-2 * (z - c) ** 2)

    exact = math.exp(-2 * c**2 / (1 + 4 * sigma**2)) / math.sqrt(1 + 4 * sigma**2)
    assert average(f, sigma, n=8, fineness=0.5) == pytest.approx(exact, rel=1e-13)
    assert abs(average(f, sigma, n=8) / exact - 1) > 0.1


def test_panels_are_no_longer_than_the_fineness_until_there_are_too_many():
    z, _ = gauss_nodes(3.0, 1, (0.7,), 0.25)  # one node, in the middle of each panel
    ends = [0.0]
    for middle in z[z > 0]:
        ends.append(2 * middle - ends[-1])
    assert ends[-1] == pytest.approx(30.0)  # 10 standard deviations
    assert np.diff(ends).min() > 0 and np.diff(ends).max() <= 0.25 + 1e-12
    assert np.isclose(ends, 0.7, atol=1e-12).any()
    assert len(gauss_nodes(1e3, 1, (), 1e-3)[0]) <= 2 * 400 * 15


def test_no_variance_and_independence_of_calls():
    z, w = gauss_nodes(0.0, kinks=(-0.5, 0.5), fineness=0.1)
    assert not z.any() and w.sum() == pytest.approx(1, rel=1e-14)
    z[:] = 7
    assert not gauss_nodes(0.0, kinks=(-0.5, 0.5))[0].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "sigma"),
        ((math.nan,), "sigma"),
        ((math.inf,), "sigma"),
        ((1.0, 0), "n must"),
        ((1.0, 8, (0.5, math.nan)), "kinks"),
        ((1.0, 8, (), 0.0), "fineness"),
        ((1.0, 8, (), math.nan), "fineness"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        gauss_nodes(*arguments)
