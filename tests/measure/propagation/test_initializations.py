"""The table of initializations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gamma
from torch import nn

from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
from thermolearn.measure.propagation.initializations import (
    compare_initializations,
    initialization_table,
)


def by_name(activation, q=1.0):
    return {row.name: row for row in compare_initializations(activation, q)}


def test_relu_in_closed_form():
    rows = by_name("relu", 0.7)
    for name in ("He", "edge of chaos"):
        np.testing.assert_allclose(rows[name].row, [2, 0, 1, 1, 1], atol=1e-10)
    assert rows["Glorot"].sigma_w2.status == "not applicable"
    leaky = by_name(nn.LeakyReLU(0.1))["edge of chaos"]
    assert float(leaky.sigma_w2) == pytest.approx(2 / 1.01, rel=1e-10)


@pytest.mark.parametrize(
    ("activation", "q", "sigma_w2", "sigma_b2"),
    [
        ("tanh", 0.5, 1.68798, 0.03804),
        ("erf", 1.0, 1.7562, 0.18414),
        ("gelu", 1.0, 2.1937, 0.06719),
        ("silu", 0.1, 3.66626, 0.00199),
    ],
)
def test_the_edge_of_chaos(activation, q, sigma_w2, sigma_b2):
    row = by_name(activation, q)["edge of chaos"]
    np.testing.assert_allclose(row.row[:4], [sigma_w2, sigma_b2, 1, 1], atol=1.5e-5)


def test_the_conditions_hold():
    rows = by_name("tanh")
    assert float(rows["Glorot"].sigma_w2) == 1 and float(rows["Glorot"].variance_gain) < 1
    assert float(rows["He"].variance_gain) == pytest.approx(1, abs=1e-12)
    assert float(rows["He"].chi1) > 1
    # the trap of GELU: gradients and variance are kept, but variances beside q run away
    assert float(by_name("gelu")["edge of chaos"].variance_slope) == pytest.approx(1.067, abs=1e-3)


@pytest.mark.parametrize("kind", ["odd", "positive"])
def test_the_exact_pair(kind):
    pair = GaussianPreactivation(2.5, kind).double()
    row = by_name(pair)["exactly Gaussian"]
    assert float(row.sigma_w2) == pytest.approx(gamma(1.8))
    assert float(row.variance_gain) == pytest.approx(1, abs=1e-7)
    assert float(row.chi1) == pytest.approx(pair.chi1(), abs=1e-7)
    text = initialization_table(compare_initializations(pair))
    assert "exactly Gaussian" in text and "chi_1" in text


def test_bad_values():
    for q in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="q must"):
            compare_initializations("tanh", q)
    with pytest.raises(ValueError, match="not known"):
        compare_initializations("tanhh")
