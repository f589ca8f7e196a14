"""Dual activations: closed forms and tables against quadrature in two dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from thermolearn.core.activation import resolve_activation, value_and_slope
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.averages import moments, pair_moments
from thermolearn.predict.kernels.dual import dual

CLOSED = {
    "relu": "relu", "leaky_relu": "leaky_relu", "slope .3": nn.LeakyReLU(0.3), "abs": torch.abs,
    "linear": "linear", "erf": "erf", "gelu": "gelu", "sin": torch.sin, "cos": torch.cos,
}  # fmt: skip
SMOOTH_OR_BENT_AT_0 = {"tanh": "tanh", "elu": "elu", "silu": nn.SiLU()}
KINKED = {"hardtanh": "hardtanh", "relu6": nn.ReLU6()}


def scalar(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.double)


@pytest.mark.parametrize("activation", CLOSED.values(), ids=CLOSED.keys())
@pytest.mark.parametrize("q", [0.1, 1.0, 7.0])
def test_closed_forms_are_the_averages(activation: object, q: float) -> None:
    found = dual(activation)
    assert found.closed_form
    kinks = (0.0,) if activation is torch.abs else None
    resolved = resolve_activation(activation)
    resolved = resolved._replace(kinks=kinks or resolved.kinks)
    one = moments(resolved, q)
    square, slope_square = found.diagonal(scalar(q))
    assert float(square) == pytest.approx(one.square, rel=1e-12, abs=1e-13)
    assert float(slope_square) == pytest.approx(one.slope_square, rel=1e-12, abs=1e-13)
    assert float(found.mean(scalar(q))) == pytest.approx(one.mean, abs=1e-13 * math.sqrt(q) + 1e-14)
    for c in (-1.0, -0.7, 0.0, 0.3, 0.999):
        value, slope = found.pair(scalar(q), scalar(q), scalar(q * c))
        expected = pair_moments(resolved, q, c)
        assert float(value) == pytest.approx(expected[0], abs=3e-13 * max(1, one.square))
        assert float(slope) == pytest.approx(expected[1], abs=3e-13)


@pytest.mark.parametrize("activation", ["erf", "gelu", torch.sin, torch.cos, "tanh"])
def test_unlike_variances_by_a_product_rule(activation: object) -> None:
    q1, q2, k = 0.7, 2.0, -0.9
    x, w = np.polynomial.hermite_e.hermegauss(150)
    w = w / w.sum()
    u = math.sqrt(q1) * x[:, None] + 0 * x
    v = k / math.sqrt(q1) * x[:, None] + math.sqrt(q2 - k**2 / q1) * x
    (f, df), (g, dg) = (
        value_and_slope(resolve_activation(activation), torch.from_numpy(z)) for z in (u, v)
    )
    weights = torch.from_numpy(np.outer(w, w))
    value, slope = dual(activation).pair(scalar(q1), scalar(q2), scalar(k))
    assert float(value) == pytest.approx(float((weights * f * g).sum()), abs=3e-8)
    assert float(slope) == pytest.approx(float((weights * df * dg).sum()), abs=3e-8)


def test_relu_family_at_unlike_variances_is_homogeneous() -> None:
    for activation in ("relu", nn.LeakyReLU(0.3), torch.abs):
        found = dual(activation)
        value, slope = found.pair(scalar(4.0), scalar(9.0), scalar(2.4))
        unit, unit_slope = found.pair(scalar(1.0), scalar(1.0), scalar(0.4))
        assert float(value) == pytest.approx(6 * float(unit), rel=1e-14)
        assert float(slope) == pytest.approx(float(unit_slope), rel=1e-14)


@pytest.mark.parametrize("activation", SMOOTH_OR_BENT_AT_0.values(), ids=SMOOTH_OR_BENT_AT_0.keys())
def test_tables_over_variances_and_angles(activation: object) -> None:
    found, resolved = dual(activation), resolve_activation(activation)
    assert not found.closed_form
    q = torch.tensor([0.9, 1.0, 1.6], dtype=torch.double)
    c = torch.tensor([-1.0, -0.7, 0.0, 0.3, 0.999, 1 - 1e-9], dtype=torch.double)
    value, slope = found.pair(q[:, None], q[:, None], q[:, None] * c)
    assert slope is not None
    for i in range(len(q)):
        for j in range(len(c)):
            expected = pair_moments(resolved, float(q[i]), float(c[j]))
            assert float(value[i, j]) == pytest.approx(expected[0], abs=1e-8)
            assert float(slope[i, j]) == pytest.approx(expected[1], abs=1e-8)
    assert found.pair(q, q.flip(0), 0.5 * q[1], slope=False)[1] is None


@pytest.mark.parametrize("activation", KINKED.values(), ids=KINKED.keys())
def test_kinks_away_from_0(activation: object) -> None:
    found, resolved = dual(activation), resolve_activation(activation)
    q = scalar(1.3)
    for c in (-0.9, 0.2, 0.99, 0.99999):
        value, slope = found.pair(q, q, q * c)
        expected = pair_moments(resolved, 1.3, c)
        assert float(value) == pytest.approx(expected[0], abs=1e-8)
        assert float(slope) == pytest.approx(expected[1], abs=1e-8)


def test_kinks_away_from_0_at_unlike_variances() -> None:
    """Few pairs go to quadrature, many are refused."""
    found = dual("hardtanh")
    a, b, k = 0.8, 1.9, 1.1
    value, _ = found.pair(scalar(a), scalar(b), scalar(k))
    x, w = np.polynomial.legendre.leggauss(40)
    edges = np.unique([-10, -5, -2, 0, 2, 5, 10, 1 / math.sqrt(a), -1 / math.sqrt(a)])
    half = np.diff(edges) / 2
    z = ((edges[1:] + edges[:-1])[:, None] / 2 + half[:, None] * x).ravel()
    w_z = (half[:, None] * w).ravel() * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    u = np.clip(math.sqrt(a) * z, -1, 1)
    mean, sd = k / math.sqrt(a) * z, math.sqrt(b - k**2 / a)
    from scipy.stats import norm

    low, high = (-1 - mean) / sd, (1 - mean) / sd
    v = mean * (norm.cdf(high) - norm.cdf(low)) - sd * (norm.pdf(high) - norm.pdf(low))
    v += norm.sf(high) - norm.cdf(low)
    assert float(value) == pytest.approx(float(w_z @ (u * v)), abs=1e-8)
    q = torch.linspace(0.5, 1.5, 80, dtype=torch.double)
    with pytest.raises(NotApplicableError, match="one norm"):
        found.pair(q[:, None], q, 0 * q)


@pytest.mark.parametrize(
    "activation", ["relu", "erf", "gelu", torch.sin, "leaky_relu", "tanh", "hardtanh"]
)
def test_equal_variables_are_the_diagonal_to_the_last_bits(activation: object) -> None:
    found = dual(activation)
    for q in (0.3, 1.7):
        value, slope = found.pair(scalar(q), scalar(q), scalar(q))
        for a, b in zip((value, slope), found.diagonal(scalar(q)), strict=True):
            assert float(a) == pytest.approx(float(b), rel=4e-16)


def test_a_gap_that_is_known_counts() -> None:
    """theta = 1e-9 is lost in k, not in the gap."""
    one = scalar(1.0)
    gap = scalar(0.5e-18)
    _, slope = dual("relu").pair(one, one, one, gap=gap)
    assert 0.5 - float(slope) == pytest.approx(1e-9 / (2 * math.pi), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    q1=st.floats(1e-3, 1e3), q2=st.floats(1e-3, 1e3), c=st.floats(-1, 1),
    name=st.sampled_from(list(CLOSED)),
)  # fmt: skip
def test_schwarz_and_symmetry(q1: float, q2: float, c: float, name: str) -> None:
    found = dual(CLOSED[name])
    a, b, k = scalar(q1), scalar(q2), scalar(c * math.sqrt(q1) * math.sqrt(q2))
    forward, backward = found.pair(a, b, k), found.pair(b, a, k)
    for which in range(2):
        one, two = found.diagonal(a)[which], found.diagonal(b)[which]
        value = float(forward[which])  # type: ignore[arg-type]
        assert abs(value) <= math.sqrt(float(one * two)) * (1 + 1e-12) + 1e-15
        assert value == pytest.approx(float(backward[which]), rel=1e-12, abs=1e-15)  # type: ignore[arg-type]


def test_limits() -> None:
    zero, tiny = scalar(0.0), scalar(1e-12)
    assert float(dual("tanh").diagonal(zero)[1]) == pytest.approx(1.0, abs=1e-12)
    assert float(dual("erf").diagonal(tiny)[0]) == pytest.approx(4e-12 / math.pi, rel=1e-6)
    assert float(dual("relu").diagonal(zero)[1]) == 0.5
    assert float(dual("erf").diagonal(scalar(1e12))[0]) == pytest.approx(1.0, abs=1e-5)
    huge = scalar(1e30)
    assert float(dual("relu").pair(huge, huge, -huge)[0]) == 0.0
    value, slope = dual("relu").pair(zero, scalar(1.0), zero)
    assert (float(value), float(slope)) == (0.0, 0.25)  # independent of a constant


@pytest.mark.parametrize(
    ("activation", "error", "match"),
    [
        ("rellu", ValueError, "not known"),
        (nn.ReLU, TypeError, "instance"),
        (3, TypeError, "activation"),
        (nn.PReLU(), NotApplicableError, "parameters"),
        (F.hardshrink, NotApplicableError, "jumps"),
    ],
)
def test_what_has_no_dual(activation: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        dual(activation)  # type: ignore[arg-type]


def test_a_kink_nobody_told_of_is_refused_or_right() -> None:
    def bent(z: torch.Tensor) -> torch.Tensor:
        return torch.where(z > 0.7, 2 * z - 0.7, z)

    q = scalar(1.0)
    with pytest.raises(NotApplicableError, match="kinks"):
        dual(bent).pair(q, q, scalar(0.3))
    bent.kinks = (0.7,)  # type: ignore[attr-defined]
    value, _ = dual(resolve_activation(bent)).pair(q, q, scalar(0.3))
    assert float(value) == pytest.approx(pair_moments(resolve_activation(bent), 1.0, 0.3)[0])


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_variance_is_finite_and_not_negative(bad: float) -> None:
    for call in (
        lambda: dual("relu").diagonal(scalar(bad)),
        lambda: dual("relu").mean(scalar(bad)),
        lambda: dual("relu").pair(scalar(bad), scalar(1.0), scalar(0.0)),
    ):
        with pytest.raises(ValueError, match="variance"):
            call()
    with pytest.raises(ValueError, match="covariance"):
        dual("erf").pair(scalar(1.0), scalar(1.0), scalar(1.1))


def test_what_grows_too_fast_is_refused() -> None:
    with pytest.raises(ValueError, match="grows too fast"):
        dual(lambda z: torch.exp(z**2)).diagonal(scalar(1.0))
