"""Relative entropy along depth: mean field, measured, and as a quantity of a run."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import thermolearn
from thermolearn.core.copying import fingerprint
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.mean_field import MeanFieldMap
from thermolearn.measure.relative_entropy import (
    RelativeEntropy,
    gaussian_kl,
    layer_relative_entropy,
    measure_layer_relative_entropy,
    two_input_kl,
)

TANH = ((1.3, 0.05, 0.05), (2.5, 0.05, 0.05), (2.5, 0.05, 1.0))


# -- mean field ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("net", "push", "proper"),
    [
        (TANH[0], (0.391, 0.606, 0.858, 0.917, 0.9208), (0.1197, 0.2548, 0.4476, 0.4968, 0.5001)),
        (TANH[1], (0.594, 0.995, 1.470, 1.528, 1.5289), (0.2464, 0.5633, 0.9964, 1.0515, 1.0524)),
        (TANH[2], (0.0176, 0.0252, 0.0305, 0.0310, 0.0310), None),
    ],
)
def test_the_layers_have_their_reference_values(net, push, proper):
    at = [1, 2, 5, 10, 30]
    found = np.asarray(layer_relative_entropy("tanh", *net, 30).value)
    assert found[0] == 0
    np.testing.assert_allclose(found[at], push, atol=6e-4)
    if proper is not None:
        value = np.asarray(layer_relative_entropy("tanh", *net, 30, "gaussian").value)
        np.testing.assert_allclose(value[at], proper, atol=6e-5)


def test_the_plateau_is_half_the_log_ratio_of_variances():
    q_star = float(MeanFieldMap("tanh", 2.5, 0.05).q_star())
    plateau = float(np.asarray(layer_relative_entropy("tanh", 2.5, 0.05, 0.05, 80).value)[-1])
    assert plateau == pytest.approx(0.5 * math.log(q_star / 0.05), abs=1e-9)
    assert plateau == pytest.approx(1.5289, abs=1e-3)


@pytest.mark.parametrize(
    ("sigma_w2", "expected"),
    [
        (1.3, (0.007, 0.191, 0.921, 6.163, 101.9)),
        (1.76, (0.001, 0.0226, 0.0795, 0.2585, 0.7613)),
        (2.5, (0.0, 0.0003, 0.0009, 0.0019, 0.0026)),
    ],
)
def test_two_inputs_tell_the_phases_apart(sigma_w2, expected):
    q = float(MeanFieldMap("tanh", sigma_w2, 0.05).q_star())
    e = layer_relative_entropy("tanh", sigma_w2, 0.05, q, 40, "two-input")
    found = np.asarray(e.value)
    digits = {1.3: [5e-4] * 4 + [0.06], 1.76: [5.1e-4, *[5.1e-5] * 4], 2.5: 5.1e-5}[sigma_w2]
    assert (np.abs(found[[1, 5, 10, 20, 40]] - expected) < digits).all()
    assert (np.diff(found) > 0).all()
    if sigma_w2 == 1.3:
        assert found[20] > 5
    if sigma_w2 == 2.5:
        assert found[20] < 0.01


def test_two_inputs_by_matrices():
    """The closed form equals the general divergence of Gaussians, and sampling agrees."""
    a, b = 0.7 * np.array([[1, 0.3], [0.3, 1]]), 1.9 * np.array([[1, 0.8], [0.8, 1]])
    inverse = np.linalg.inv(b)
    exact = 0.5 * (np.trace(inverse @ a) - 2 + np.log(np.linalg.det(b) / np.linalg.det(a)))
    assert two_input_kl(0.7, 0.3, 1.9, 0.8) == pytest.approx(exact, rel=1e-12)
    z = np.random.default_rng(0).multivariate_normal([0, 0], a, 100_000)
    quadratic = np.einsum("ni,ij,nj->n", z, inverse - np.linalg.inv(a), z)
    samples = 0.5 * (quadratic + np.log(np.linalg.det(b) / np.linalg.det(a)))
    assert abs(samples.mean() - exact) < 4 * samples.std() / len(samples) ** 0.5


def test_one_input_by_integration():
    x = np.linspace(-12, 12, 20001)
    p = np.exp(-((x - 0.4) ** 2) / (2 * 0.6)) / math.sqrt(2 * math.pi * 0.6)
    log_q = -((x + 0.3) ** 2) / (2 * 1.7) - 0.5 * math.log(2 * math.pi * 1.7)
    log_p = -((x - 0.4) ** 2) / (2 * 0.6) - 0.5 * math.log(2 * math.pi * 0.6)
    exact = np.trapezoid(p * (log_p - log_q), x)
    assert gaussian_kl(0.6, 1.7, 0.49) == pytest.approx(exact, abs=1e-10)


def test_the_push_forward_number_may_be_negative_and_is_not_clipped():
    found = np.asarray(layer_relative_entropy("tanh", 1.3, 0.05, 4.0, 20).value)
    assert (found[1:] < 0).all()
    assert (
        np.asarray(layer_relative_entropy("tanh", 1.3, 0.05, 4.0, 20, "gaussian").value)[1:] > 0
    ).all()


def test_a_small_variance_is_not_a_point():
    """tanh at sigma_w2 = 0.5 halves the variance in every layer: finite for 600 of them."""
    found = layer_relative_entropy("tanh", 0.5, 0.0, 1.0, 600)
    value = np.asarray(found.value)
    assert found.status == "ok" and np.isfinite(value).all()
    assert value[600] - value[100] == pytest.approx(-250 * np.log(2), rel=1e-10)
    q = np.exp(2 * value[80])
    kl = np.asarray(layer_relative_entropy("tanh", 0.5, 0.0, 1.0, 80, "gaussian").value)
    assert kl[80] == pytest.approx(0.5 * (1 / q - 1 + np.log(q)), rel=1e-10)
    with pytest.warns(UserWarning, match="layer 66"):
        layer_relative_entropy("tanh", 0.5, 0.0, 1.0, 700)


def test_a_collapsed_layer_is_infinite_with_a_warning():
    with pytest.warns(UserWarning, match="infinite"):
        e = layer_relative_entropy("relu", 1e-60, 0.0, 1.0, 12, "gaussian")
    assert e.status == "collapsed" and np.isinf(e.value).any()
    with pytest.warns(UserWarning, match="infinite"):
        e = layer_relative_entropy("tanh", 0.5, 0.05, 0.3, 300, "two-input")
    assert e.status == "collapsed" and np.isinf(np.asarray(e.value)[-1])
    e = layer_relative_entropy("linear", 1e4, 0.0, 1.0, 12)
    assert e.status == "diverges" and np.isnan(np.asarray(e.value)[-1])


def test_bad_numbers():
    good = {"activation": "tanh", "sigma_w2": 1.3, "sigma_b2": 0.05, "q0": 0.5, "depth": 3}
    for name, value in (
        ("sigma_w2", -1.0), ("sigma_w2", 0.0), ("q0", 1e-210),
        ("sigma_b2", math.nan), ("q0", 0.0), ("q0", -1.0),
        ("depth", -1), ("depth", 2.5), ("c0", 1.0), ("c0", math.nan), ("kind", "kl"),
        ("activation", "tanhh"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            layer_relative_entropy(**{**good, name: value})


# -- measured ------------------------------------------------------------------------------------
def random_net(width, depth, sigma_w2, sigma_b2, seed):
    """Layer 0 is the identity: its pre-activations are the inputs."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for k in range(depth + 1):
        layer = nn.Linear(width, width)
        with torch.no_grad():
            if k == 0:
                layer.weight.copy_(torch.eye(width))
                layer.bias.zero_()
            else:
                layer.weight.normal_(0, (sigma_w2 / width) ** 0.5, generator=generator)
                layer.bias.normal_(0, sigma_b2**0.5, generator=generator)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1]), generator


def inputs(n, width, q0, generator):
    return torch.randn(n, width, generator=generator) * q0**0.5


@pytest.mark.parametrize("kind", ["push", "gaussian"])
@pytest.mark.parametrize(("width", "seeds"), [(784, 2), (200, 6)])
def test_finite_networks_follow_the_mean_field(width, seeds, kind):
    net = TANH[1]
    theory = np.asarray(layer_relative_entropy("tanh", *net, 10, kind).value)
    found = []
    for seed in range(seeds):
        model, generator = random_net(width, 10, *net[:2], seed)
        x = inputs(40, width, net[2], generator)
        found.append(np.asarray(measure_layer_relative_entropy(model, x, kind).value.value))
    deviation = np.mean(found, 0) - theory
    assert np.abs(deviation).max() < 0.06
    assert found[0][0] == 0 and len(theory) == len(found[0])


@pytest.mark.slow
def test_networks_of_width_784_give_the_reference_simulation():
    """Three networks, layers 1, 2, 5, 10, as means and standard errors."""
    reference = {
        TANH[0]: ((0.382, 0.590, 0.836, 0.896), (0.013, 0.008, 0.012, 0.014)),
        TANH[1]: ((0.594, 0.988, 1.450, 1.508), (0.005, 0.015, 0.015, 0.015)),
        TANH[2]: ((0.034, 0.050, 0.065, 0.057), (0.008, 0.012, 0.014, 0.016)),
    }
    for net, (value, error) in reference.items():
        found = []
        for seed in range(3):
            model, generator = random_net(784, 10, *net[:2], seed)
            x = inputs(200, 784, net[2], generator)
            e = measure_layer_relative_entropy(model, x).value
            found.append(np.asarray(e.value)[[1, 2, 5, 10]])
        theory = np.asarray(layer_relative_entropy("tanh", *net, 10).value)[[1, 2, 5, 10]]
        spread = np.hypot(np.std(found, 0, ddof=1) / 3**0.5, error)
        assert np.abs(np.mean(found, 0) - theory).max() < 0.06
        assert (np.abs(np.mean(found, 0) - value) < 4 * spread).all()


def test_the_moments_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    x = torch.randn(50, 5, dtype=torch.float64)
    z0 = model[0](x).detach()
    z1 = model[2](torch.relu(z0)).detach()
    q = [float(z.var(correction=0)) for z in (z0, z1)]
    push = measure_layer_relative_entropy(model, x)
    assert push.layers == ["0", "2"] and push.widths == [4, 4]
    np.testing.assert_allclose(push.variance, q)
    assert push.value.value[1] == pytest.approx(0.5 * math.log(q[1] / q[0]))
    shift = float(z1.mean() - z0.mean()) ** 2
    value = measure_layer_relative_entropy(model, x, "gaussian").value.value[1]
    assert value == pytest.approx(0.5 * (q[0] / q[1] - 1 - math.log(q[0] / q[1]) + shift / q[1]))
    c = []
    for z in (z0, z1):
        d = (z - z.mean()).numpy()
        gram = d @ d.T
        c.append((gram.sum() - np.trace(gram)) / (49 * np.trace(gram)))
    value = measure_layer_relative_entropy(model, x, "two-input").value.value[1]
    assert value == pytest.approx(two_input_kl(q[0], c[0], q[1], c[1]), rel=1e-9)
    assert "relative entropy per neuron (push)" in str(push)


def test_the_error_bar_is_that_of_the_inputs():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8)).double()
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(64, 6, generator=generator, dtype=torch.float64) for _ in range(200)]
    for kind in ("push", "gaussian", "two-input"):
        found = [measure_layer_relative_entropy(model, x, kind).value for x in sets]
        spread = np.std([e.value[1] for e in found], ddof=1)
        claimed = np.sqrt(np.mean([e.stderr[1] ** 2 for e in found]))
        assert 0.75 < claimed / spread < 1.35, kind


def test_few_inputs_take_the_error_over_units():
    model, generator = random_net(200, 3, 1.3, 0.05, 0)
    one = inputs(1, 200, 0.05, generator)
    e = measure_layer_relative_entropy(model, one).value
    assert e.note == "error bar over units" and (e.stderr[1:] > 0).all()
    theory = np.asarray(layer_relative_entropy("tanh", 1.3, 0.05, 0.05, 3).value)
    assert (np.abs(e.value - theory)[1:] < 4 * e.stderr[1:]).all()
    two = measure_layer_relative_entropy(model, inputs(2, 200, 0.05, generator), "two-input")
    assert np.isfinite(two.value.value).all()


def test_the_model_is_untouched():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 5))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = fingerprint(model, optimizer)
    measure_layer_relative_entropy(model, torch.randn(20, 5, generator=torch.Generator()))
    assert fingerprint(model, optimizer) == before
    assert not any(m._forward_hooks for m in model.modules())


def test_convolutions_frozen_and_tied_layers():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            self.fc = nn.Linear(18, 18)

        def forward(self, x):
            z = torch.tanh(self.conv(x)).flatten(1)
            return self.fc(torch.tanh(self.fc(z)))

    torch.manual_seed(0)
    model = Tied()
    model.fc.requires_grad_(False)
    found = measure_layer_relative_entropy(model, torch.rand(12, 1, 3, 3))
    assert found.layers == ["conv", "fc", "fc (2)"] and found.widths == [18, 18, 18]


def test_bad_models_and_inputs():
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    unequal = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(
        ValueError, match="relative entropy needs equal dimensions; pass per_neuron=True"
    ):
        measure_layer_relative_entropy(unequal, x)
    assert measure_layer_relative_entropy(unequal, x, per_neuron=True).widths == [4, 2]
    for model in (nn.Linear(4, 4), nn.Tanh(), nn.Sequential()):
        with pytest.raises(NotApplicableError, match="at least two"):
            measure_layer_relative_entropy(model, x)
    with pytest.raises(NotApplicableError, match="does not run"):
        measure_layer_relative_entropy(unequal, x[:, :3])
    with pytest.raises(NotApplicableError, match="not finite"):
        measure_layer_relative_entropy(unequal, x * math.inf, per_neuron=True)
    with pytest.raises(ValueError, match="at least two inputs"):
        measure_layer_relative_entropy(unequal, x[:1], "two-input", per_neuron=True)
    with pytest.raises(ValueError, match="kind"):
        measure_layer_relative_entropy(unequal, x, "kl")
    with pytest.raises(ValueError, match="x must be"):
        measure_layer_relative_entropy(unequal, x[:0])
    with pytest.raises(TypeError, match="model"):
        measure_layer_relative_entropy(torch.tanh, x)


def test_mixed_precisions_and_a_dead_layer():
    model = nn.Sequential(nn.Linear(4, 4).double(), nn.ReLU(), nn.Linear(4, 4))
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
        model[2].bias.fill_(0.5)
    with pytest.warns(UserWarning, match="one point"):
        found = measure_layer_relative_entropy(model, x)
    assert found.value.status == "collapsed" and np.isinf(found.value.value[1])
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.raises(NotApplicableError, match="all equal"):
        measure_layer_relative_entropy(model, x)


# -- in a run ------------------------------------------------------------------------------------
def test_the_quantity_in_a_run():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(128, 6), torch.randn(128, 2)
    probe = thermolearn.Probe(
        model, nn.MSELoss(), optimizer, reference=(x, y), every=4, quantities=[RelativeEntropy()]
    )
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    rows = [r for r in probe.rows if r.get("quantity") == "relative_entropy"]
    assert len(rows) == 3 and rows[-1]["names"] == ["0", "2", "4"]
    last = rows[-1]["values"]
    now = measure_layer_relative_entropy(model, x, "two-input", per_neuron=True).value
    np.testing.assert_allclose(last["two_input"]["value"], now.value)
    np.testing.assert_allclose(last["two_input"]["stderr"], now.stderr)
    assert set(last) == {"push", "gaussian", "two_input", "variance"}


def test_a_model_without_layers_is_not_applicable_in_a_run():
    from thermolearn.measure.setting import window_of

    window = window_of(nn.Tanh(), nn.MSELoss(), (torch.randn(8, 3), torch.randn(8, 3)))
    with warnings.catch_warnings(), pytest.raises(NotApplicableError, match="at least two"):
        RelativeEntropy().measure(window)
