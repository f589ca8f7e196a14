"""Accuracy under thermal noise against a case with a closed form."""

import math

import pytest
import torch
from torch import nn

from thermolearn.measure.canonical import NeuronSystem, thermal_robustness


def margin_net():
    """Two outputs x and -x: the label is the sign of x."""
    linear = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    return nn.Sequential(linear).eval()


def test_closed_form_of_one_noisy_layer():
    # outputs x' + e1, -x' + e2 with x' = x + e0: correct if 2x + 2 e0 + e1 - e2 > 0, var 6 T
    x = torch.full((2000, 1), 0.5, dtype=torch.float64)
    labels = torch.zeros(2000, dtype=torch.long)
    system = NeuronSystem(margin_net())
    for beta, found in zip(
        (1.0, 10.0), thermal_robustness(system, x, labels, (1.0, 10.0)), strict=True
    ):
        expected = 0.5 * math.erfc(-1.0 / math.sqrt(2 * 6 / beta))
        assert abs(float(found) - expected) < 4 * found.stderr
    clean = thermal_robustness(system, x, labels, [math.inf])[0]
    assert float(clean) == 1.0


def test_bad_arguments():
    system = NeuronSystem(margin_net())
    x = torch.ones(3, 1)
    with pytest.raises(ValueError, match="labels"):
        thermal_robustness(system, x, torch.zeros(2), [1.0])
    with pytest.raises(ValueError, match="positive"):
        thermal_robustness(system, x, torch.zeros(3), [0.0])
