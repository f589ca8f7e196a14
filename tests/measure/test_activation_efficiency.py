"""Efficiency of activations against closed forms and draws, and the two classes of engine."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.core.activation import ACTIVATIONS
from thermolearn.core.errors import ConvergenceError
from thermolearn.measure.temperature import activation_efficiency, efficiency_slope, engine_class


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("relu", 0.5, 1e-5),
        ("erf", 0.464559, 1e-5),
        ("gelu", 1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), 1e-9),
        ("gelu", 0.425221, 1e-5),
        ("elu", 0.64495, 1e-5),
        ("silu", 0.35578, 1e-5),
        ("tanh", 0.39429, 1e-5),
        ("sigmoid", 0.29338, 1e-5),
        ("softplus", 0.92125, 1e-5),
        ("linear", 1.0, 1e-12),
    ],
)
def test_at_unit_scale(name, expected, tolerance):
    eta = activation_efficiency(name, 1.0)
    assert float(eta) == pytest.approx(expected, abs=tolerance)
    assert eta.stderr < 1e-7


@pytest.mark.parametrize("s", [0.01, 0.3, 2.0, 50.0])
def test_closed_forms_at_every_scale(s):
    erf = 2 / math.pi * math.asin(2 * s**2 / (1 + 2 * s**2)) / s**2
    assert float(activation_efficiency("erf", s)) == pytest.approx(erf, rel=1e-9)
    assert float(activation_efficiency("relu", s)) == pytest.approx(0.5, rel=1e-12)
    leaky = activation_efficiency(nn.LeakyReLU(0.3), s)
    assert float(leaky) == pytest.approx((1 + 0.3**2) / 2, rel=1e-12)
    # E max(0, z)^2 - (E max(0, z))^2
    centred = activation_efficiency("relu", s, centred=True)
    assert float(centred) == pytest.approx(0.5 - 1 / (2 * math.pi), rel=1e-12)


def test_more_out_than_in():
    values = activation_efficiency("sigmoid", 0.5), activation_efficiency("softplus", 0.5)
    assert [float(v) for v in values] == pytest.approx([1.0558, 2.3507], abs=5e-5)
    assert float(activation_efficiency("sigmoid", 0.5, centred=True)) < 1


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_against_draws(name):
    g = np.random.default_rng(0).normal(size=200_000)
    out = ACTIVATIONS[name][0](torch.from_numpy(1.7 * g)).numpy()
    sample = out**2 / 1.7**2
    eta = float(activation_efficiency(name, 1.7))
    assert abs(sample.mean() - eta) < 4 * sample.std() / len(g) ** 0.5
    centred = float(activation_efficiency(name, 1.7, centred=True))
    assert out.var() / 1.7**2 == pytest.approx(centred, rel=0.02)


def test_arrays_of_scales():
    s = np.array([[0.5, 1.0], [2.0, 4.0]])
    eta = activation_efficiency("tanh", s)
    assert eta.value.shape == eta.stderr.shape == (2, 2)
    assert eta.value[1, 0] == float(activation_efficiency("tanh", 2.0))


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        *((name, "I") for name in ("linear", "relu", "leaky_relu", "elu", "gelu")),
        *((name, "I") for name in ("silu", "softplus")),
        *((name, "II") for name in ("tanh", "sigmoid", "erf", "hardtanh", nn.Tanh())),
        *((f, "II") for f in (F.softsign, torch.atan, torch.sin, torch.cos, F.hardsigmoid)),
        (lambda z: z.clamp(-50, 50), "II"),  # bounded, but far
        *((f, "I") for f in (F.hardswish, nn.Hardswish(), nn.Threshold(0.1, 20.0))),
        (torch.asinh, "neither"),
        (torch.square, "neither"),
        (lambda z: torch.sign(z) * torch.log1p(z.abs()), "neither"),
    ],
)  # fmt: skip
def test_classes(phi, expected):
    assert engine_class(phi) == expected


@pytest.mark.parametrize(
    "phi",
    [
        F.hardtanh, F.relu6, F.hardswish, F.hardsigmoid, F.softshrink, F.hardshrink,
        nn.Hardtanh(-0.7, 2.0), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.Softshrink(0.8),
        nn.Hardshrink(0.8), nn.Threshold(0.5, -2.0),
    ],
)  # fmt: skip
def test_torchs_piecewise_functions_bring_their_kinks(phi):
    g = np.random.default_rng(1).normal(size=200_000)
    for s in (0.5, 2.0, 10.0):
        eta = activation_efficiency(phi, s)
        sample = phi(torch.from_numpy(s * g)).numpy() ** 2 / s**2
        assert abs(sample.mean() - float(eta)) < 4 * sample.std() / len(g) ** 0.5
        assert eta.stderr <= 1e-6 * float(eta)


def test_slope_between_scales_of_ones_own():
    """softsign: E f^2 = 1 - O(ln s/s), so that the slope still falls at s = 1000."""
    near, far = (float(efficiency_slope(F.softsign, s)) for s in ((100, 1000), (1e4, 1e5)))
    assert near > -1.98 and far == pytest.approx(-2, abs=1e-3)
    with pytest.raises(ValueError, match="two different"):
        efficiency_slope("tanh", (10.0, 10.0))


def test_slope_of_saturation():
    """tanh: E tanh^2 = 1 - sqrt(2/pi)/s + ..., so the slope is -2 + O(1/s)."""
    slope = efficiency_slope("tanh")
    a, b = 100.0, 1000.0
    c = math.sqrt(2 / math.pi)  # of int (1 - tanh^2) = 2 and the density 1/(s sqrt(2 pi)) at 0
    expected = -2 + math.log((1 - c / b) / (1 - c / a)) / math.log(b / a)
    assert float(slope) == pytest.approx(expected, abs=1e-5)


def test_bad_input():
    for s in (0.0, -1.0, math.inf, math.nan, [1.0, 0.0]):
        with pytest.raises(ValueError, match="s, the scale"):
            activation_efficiency("tanh", s)
    with pytest.raises(ValueError, match="not known"):
        activation_efficiency("thanh", 1.0)
    with pytest.raises(TypeError, match="instance"):
        activation_efficiency(nn.Tanh, 1.0)
    with pytest.raises(TypeError, match="same shape"):
        activation_efficiency(torch.sum, 1.0)
    with pytest.raises(ValueError, match="not finite"):
        activation_efficiency(torch.log, 1.0)
    with pytest.raises(ValueError, match="0 on inputs"):
        engine_class(torch.zeros_like)

    def rough(z):
        return (torch.sin(40 * z) > 0.3).to(z)

    with pytest.raises(ConvergenceError, match="kinks"):
        activation_efficiency(rough, 3.0)
