"""Numbers per layer against autograd and hand-made networks."""

import math

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from thermolearn.core.estimate import jackknife
from thermolearn.measure.layers import (
    Layers,
    activation_fractions,
    gradient_norms,
    parameter_groups,
    update_ratios,
)
from thermolearn.measure.window import Setting, Snapshot, Window


def window_of(model, x, y, loss_fn, previous=None):
    model = model.double().eval()
    state = {k: v.detach().clone() for k, v in model.named_parameters()}
    state |= {k: v.clone() for k, v in model.named_buffers()}
    setting = Setting(model, torch.float64, (x, y), None, loss_fn, "squared", "", "SGD", 0, {})
    return Window(Snapshot(10, 0.1, {}, state), previous, setting)


def fractions(model, x):
    groups = parameter_groups(model)
    dead, saturated = activation_fractions(model.double().eval(), x, groups)
    return dict(zip(groups, dead.value, strict=True)), dict(
        zip(groups, saturated.value, strict=True)
    )


def test_groups_follow_the_modules_in_order_and_count_tied_weights_once():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
    model[4].weight = model[0].weight
    model.register_parameter("scale", nn.Parameter(torch.ones(2)))
    groups = parameter_groups(model)
    assert list(groups) == ["(model)", "0", "2", "4"]
    assert list(groups["4"]) == ["4.bias"]


def test_parametrized_weights_belong_to_their_layer():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    groups = parameter_groups(model)
    assert list(groups) == ["0"] and len(groups["0"]) == 3


@pytest.mark.parametrize("as_module", [True, False])
def test_dead_units_are_counted_for_modules_and_functions(as_module):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(4, 2)
            self.act = nn.ReLU() if as_module else F.relu

        def forward(self, x):
            h = self.act(self.a(x))
            return self.c(torch.tanh(self.b(h)) if as_module else self.b(h).tanh())

    net = Net()
    with torch.no_grad():
        net.a.bias[:3] = -1e3  # 3 of 8 never fire
        net.b.weight.zero_()
        net.b.bias.copy_(torch.tensor([10.0, -10.0, 0.1, 0.2]))  # 2 of 4 saturated
    dead, saturated = fractions(net, numbers(150, 3))
    assert dead["a"] == 3 / 8 and dead["b"] == 0 and math.isnan(dead["c"])
    assert saturated["b"] == 0.5 and math.isnan(saturated["a"]) and math.isnan(saturated["c"])


def test_a_unit_that_fires_on_one_sample_of_the_last_chunk_is_alive():
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.zero_()
    x = -torch.ones(150, 1, dtype=torch.float64)
    assert fractions(net, x)[0]["0"] == 1
    x[-1] = 1
    assert fractions(net, x)[0]["0"] == 0


def test_sigmoid_saturation_is_counted_per_value():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sigmoid())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    x = torch.tensor([[-10.0], [-1.0], [0.0], [10.0]], dtype=torch.float64)
    groups = parameter_groups(net)
    _, saturated = activation_fractions(net.double(), x, groups)
    assert saturated.value[0] == 0.5
    assert math.isclose(saturated.stderr[0], math.sqrt(1 / 3) / 2)  # std of 1, 0, 0, 1 over 4


def test_convolutions_count_channels_and_the_activation_belongs_to_the_normalization():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU6(inplace=True)
    )
    with torch.no_grad():
        net[1].bias[0] = -1e3
        net[3].bias[:2] = -1e3
    dead, _ = fractions(net, numbers(10, 1, 8, 8))
    assert math.isnan(dead["0"]) and dead["1"] == 0.25 and dead["3"] == 0.4


def test_hooks_are_removed():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    fractions(net, numbers(4, 3))
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_gradient_norms_are_those_of_autograd(reduce):
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x, y = numbers(37, 3), numbers(37, 2, seed=1)
    loss = nn.MSELoss(reduction=reduce)
    window = window_of(net, x, y, loss)
    e = gradient_norms(window, parameter_groups(window.model))
    loss(net(x), y).backward()
    expected = [
        math.sqrt(sum(float(p.grad.square().sum()) for p in layer.parameters()))
        for layer in (net[0], net[2])
    ]
    np.testing.assert_allclose(e.value, expected, rtol=1e-12)


def test_gradient_norm_errors_are_the_block_jackknife():
    net = nn.Linear(3, 2).double()
    x, y = numbers(40, 3), numbers(40, 2, seed=1)
    window = window_of(net, x, y, nn.MSELoss())
    e = gradient_norms(window, parameter_groups(window.model))

    def norm(xs, ys):
        loss = F.mse_loss(net(torch.as_tensor(xs)), torch.as_tensor(ys))
        grads = torch.autograd.grad(loss, list(net.parameters()))
        return math.sqrt(sum(float(g.square().sum()) for g in grads))

    assert math.isclose(e.stderr[0], jackknife(norm, x, y, blocks=8).stderr, rel_tol=1e-9)


def test_frozen_layers_and_coupled_losses():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    net[0].requires_grad_(False)
    x, y = numbers(16, 3), torch.arange(16) % 3
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    window = window_of(net, x, y, nn.CrossEntropyLoss(weight=weight))
    e = gradient_norms(window, parameter_groups(window.model))
    assert math.isnan(e.value[0]) and e.value[1] > 0 and math.isnan(e.stderr[1])


def test_update_ratio_by_hand():
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 4.5]]))
    before = Snapshot(0, 0.1, {}, {"weight": torch.tensor([[3.0, 4.0]])})
    window = window_of(net, numbers(4, 2), numbers(4, 1), nn.MSELoss(), before)
    ratio = update_ratios(window, parameter_groups(window.model))
    assert math.isclose(ratio.value[0], 0.5 / 5, rel_tol=1e-12)
    assert ratio.note == "over 10 steps"


def test_measure_names_its_layers():
    net = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2))
    window = window_of(net, numbers(20, 3), numbers(20, 2), nn.MSELoss())
    values = Layers().measure(window)
    assert window.names["layers"] == ["0", "2"]
    assert all(v.value.shape == (2,) for v in values.values())
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in net[0].parameters()))
    assert math.isclose(values["weight_norm"].value[0], norm, rel_tol=1e-12)
    assert np.isnan(values["update_ratio"].value).all()
