"""Recommended initializations: what is drawn, and what it does in real networks."""

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Residual
from torch import nn

from thermolearn.core.activation import resolve_activation
from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.measure.propagation import (
    GaussianPreactivation,
    MeanFieldMap,
    apply_init_,
    critical_line,
    measure_propagation,
    recommend_init,
)
from thermolearn.measure.propagation.averages import moments


def mlp(activation, depth, width=100, inputs=64, outputs=10, bias=True):
    layers, n = [], inputs
    for _ in range(depth - 1):
        layers += [nn.Linear(n, width, bias=bias), activation()]
        n = width
    return nn.Sequential(*layers, nn.Linear(n, outputs, bias=bias))


class Block(nn.Module):
    def __init__(self, width, kind):
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(width, width), nn.Linear(width, width), kind

    def forward(self, x):
        if self.kind == "before":
            return x + self.b(torch.relu(self.a(torch.relu(x))))
        return torch.relu(x + self.b(torch.relu(self.a(x))))


def residual(blocks, kind, width=200, outputs=10):
    body = [Block(width, kind) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(64, width), *body, nn.Linear(width, outputs))


def samples(n=64, features=64, scale=1.0, seed=0):
    return scale * torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def promised_and_got(make, x, seeds, **options):
    """By layer: the promised q (NaN: none) and the measured second moments, one per seed."""
    promised, got = {}, {}
    for seed in range(seeds):
        model = make()
        r = apply_init_(model, seed=seed, input_mean_square=x, **options)
        promised = {layer.name: layer.q for layer in r.layers}
        for name in promised:
            got.setdefault(name, [])
            model.get_submodule(name).register_forward_hook(
                lambda m, a, out, kept=got[name]: kept.append(float(out.square().mean()))
            )
        with torch.no_grad():
            model(x)
        for module in model.modules():
            module._forward_hooks.clear()
    return promised, {name: np.array(v) for name, v in got.items()}


def assert_promised(make, x, seeds=6, within=0.06, **options):
    """Means over seeds within 4 standard errors, and those small enough to tell."""
    promised, got = promised_and_got(make, x, seeds, **options)
    for name, q in promised.items():
        error = got[name].std(ddof=1) / math.sqrt(seeds)
        assert error < 0.12 * q, name
        assert abs(got[name].mean() - q) < 4 * error + within * q, name


def gradients(model, x, layers, seed=0):
    """Squared gradients at the outputs of layers, of a random linear function of the outputs."""
    kept = []

    def keep(module, args, out):
        out.retain_grad()
        kept.append(out)

    hooks = [model.get_submodule(name).register_forward_hook(keep) for name in layers]
    out = model(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)))
    for hook in hooks:
        hook.remove()
    return [float(z.grad.double().square().sum()) for z in kept]


def test_a_chain_gets_the_critical_pair():
    r = recommend_init(mlp(nn.Tanh, 5), sigma_b2=0.05)
    assert [x.name for x in r.layers] == ["0", "2", "4", "6", "8"]
    assert [x.fan_in for x in r.layers] == [64, 100, 100, 100, 100]
    for layer in r.layers[1:]:
        assert layer.sigma_w2 == pytest.approx(1.76095, abs=1e-5)
        assert layer.sigma_b2 == pytest.approx(0.05, abs=1e-12)
        assert layer.chi == pytest.approx(1.0)
    assert r.layers[0].sigma_w2 == pytest.approx(float(r.q))  # inputs of mean square 1 reach q*
    assert (r.depth, r.blocks, r.deep_enough) == (5, 0, True)
    assert math.isinf(float(r.xi_c)) and float(r.chi) == pytest.approx(1.0)
    text = str(r)
    assert "V'(q*)" in text and "xi_c" in text and "inputs of mean square" in text


def test_relu_gets_the_he_pair():
    r = recommend_init(mlp(nn.ReLU, 3))
    for layer in r.layers[1:]:
        assert (layer.sigma_w2, layer.sigma_b2) == (pytest.approx(2.0, rel=1e-14), 0.0)


@pytest.mark.parametrize("activation, least", [(nn.GELU, 3.0), (nn.SiLU, 12.0)])
def test_the_stable_branch_is_chosen_and_the_unstable_one_is_named(activation, least):
    r = recommend_init(mlp(activation, 3))
    assert float(r.q) > least and float(r.variance_slope) <= 0.995
    r = recommend_init(mlp(activation, 30), 1.0)
    assert r.variance_slope.status == "unstable"
    assert any("V'(q*)" in n and "> 1" in n for n in r.notes)


def test_the_input_scale_reaches_q_star_either_way():
    scaled = recommend_init(mlp(nn.GELU, 4), 1.0, input_mean_square=3.0)
    assert scaled.layers[0].sigma_w2 * 3.0 == pytest.approx(1.0)
    same = recommend_init(mlp(nn.GELU, 4), 1.0, input_mean_square=None)
    first = same.layers[0]
    assert (first.sigma_w2, first.sigma_b2) == pytest.approx(
        (same.layers[1].sigma_w2, same.layers[1].sigma_b2)
    )
    assert first.sigma_w2 * same.input_mean_square + first.sigma_b2 == pytest.approx(1.0)
    assert any("rescale the inputs" in n for n in same.notes)
    x = samples()
    measured = recommend_init(mlp(nn.GELU, 4), 1.0, input_mean_square=x)
    assert measured.layers[0].sigma_w2 * float(x.square().mean()) == pytest.approx(1.0, rel=1e-6)


def test_a_given_pair_is_checked_against_the_depth():
    r = recommend_init(mlp(nn.Tanh, 40), sigma_w2=0.5, sigma_b2=0.013, input_mean_square=None)
    assert {(x.sigma_w2, x.sigma_b2) for x in r.layers} == {(0.5, 0.013)}
    assert not r.deep_enough and "TOO DEEP" in str(r)
    assert float(r.xi_c) == pytest.approx(1.351, abs=1e-3)
    with pytest.raises(ConvergenceError, match="no finite fixed point"):
        recommend_init(mlp(nn.ReLU, 3), sigma_w2=3.0, sigma_b2=0.1)


def test_what_is_drawn():
    model = mlp(nn.Tanh, 3, width=400)
    before = torch.get_rng_state()
    r = apply_init_(model, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    for layer in r.layers:
        module = model.get_submodule(layer.name).requires_grad_(False)
        n = module.weight.numel()
        got = float(module.weight.double().square().mean()) * layer.fan_in
        assert got == pytest.approx(layer.sigma_w2, rel=4 * math.sqrt(2 / n))
        bias = float(module.bias.double().square().mean())
        spread = math.sqrt(2 / len(module.bias))
        assert bias == pytest.approx(layer.sigma_b2, rel=4 * spread, abs=1e-12)
    twin, other = mlp(nn.Tanh, 3, width=400), mlp(nn.Tanh, 3, width=400)
    apply_init_(twin, r, seed=3)
    apply_init_(other, generator=torch.Generator().manual_seed(4))
    assert torch.equal(twin[2].weight, model[2].weight)
    assert not torch.equal(other[2].weight, model[2].weight)


def test_the_variance_stays_at_q_star_in_a_real_network():
    model = mlp(nn.Tanh, 12, width=500)
    r = apply_init_(model)
    x = samples()
    x = x / x.square().mean(1, keepdim=True).sqrt()
    report = measure_propagation(model, x)
    assert report.variance.value[:-1] == pytest.approx(float(r.q), rel=0.12)
    gain = float(report.gradient_gain.value[:-2].mean())
    assert gain == pytest.approx(1.0, abs=0.05)


# -- residual networks -------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["before", "after"])
def test_the_stream_of_a_residual_network_grows_by_less_than_e(kind):
    model = residual(16, kind)
    r = apply_init_(model)
    assert r.blocks == 16
    x = samples(32)
    growth = []
    model[1].register_forward_pre_hook(lambda _, args: growth.append(args[0].square().mean()))
    model[16].register_forward_hook(lambda _, args, out: growth.append(out.square().mean()))
    model(x)
    stream = float((growth[1] / growth[0]).detach())
    expected = (1 + 1 / 16) ** 16
    if kind == "after":  # the first sum passes a ReLU that has not been passed before: half is lost
        expected /= 2
    assert 0.8 * expected < stream < 1.2 * expected


@pytest.mark.parametrize("kind", ["before", "after"])
def test_the_promised_variances_of_a_residual_network(kind):
    """Over seeds; a ReLU on the sum takes a little of every branch where the stream is 0."""
    make = partial(residual, 8, kind, width=300, outputs=100)
    within = 0.06 if kind == "before" else 0.16
    assert_promised(make, samples(32), seeds=6, within=within)


def test_without_the_scaling_the_stream_explodes():
    model = residual(16, "before")
    apply_init_(model)
    for block in model[1:17]:
        nn.init.normal_(block.b.weight, 0.0, math.sqrt(2 / 200), generator=torch.Generator())
    growth = []
    model[1].register_forward_pre_hook(lambda _, args: growth.append(args[0].square().mean()))
    model[16].register_forward_hook(lambda _, args, out: growth.append(out.square().mean()))
    model(samples(32))
    assert float((growth[1] / growth[0]).detach()) > 50


def test_gradients_pass_through_a_residual_network():
    model = residual(24, "before")
    apply_init_(model)
    norms = []

    def remember(module, grads_in, grads_out):
        norms.append(float(grads_out[0].square().sum()))

    for k in (1, 24):
        model[k].register_full_backward_hook(remember)
    model(samples()).square().sum().backward()
    last, first = norms
    assert 0.7 < first / last < 1.2 * math.e


def test_zero_initialized_branches_are_the_identity():
    model = residual(4, "before")
    r = apply_init_(model, residual="zero")
    x = samples(8)
    h = model[0](x)
    assert torch.equal(model[4](model[3](model[2](model[1](h)))), h)
    assert [x.sigma_w2 for x in r.layers if x.name.endswith(".b")] == [0.0] * 4


def test_convolutions_normalization_and_a_branch_that_ends_in_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.body, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.norm(self.stem(x)))
            x = torch.relu(x + self.last(self.body(x)))
            return self.head(x.mean((2, 3)))

    model = Net()
    r = apply_init_(model)
    assert [x.fan_in for x in r.layers] == [18, 72, 8]
    assert r.norms == {"last": 1.0} and any("normalization layers" in n for n in r.notes)
    assert any("mean" in n for n in r.notes)
    r = apply_init_(Residual())
    assert r.blocks == 1 and [x.name for x in r.layers] == ["stem", "first", "second", "head"]
    assert any("pooling" in n for n in r.notes)


def test_layers_without_biases_keep_the_variance():
    r = recommend_init(mlp(nn.Tanh, 4, bias=False))
    assert all(x.sigma_b2 == 0 for x in r.layers)
    assert all(x.q == pytest.approx(float(r.q)) for x in r.layers)
    assert all("no bias" in x.note and x.chi > 1 for x in r.layers[1:])


def test_two_activations_each_have_their_own_pair():
    model = nn.Sequential(
        nn.Linear(8, 50), nn.Tanh(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2)
    )
    r = recommend_init(model, 0.5)
    tanh, relu = (critical_line(name, 0.5) for name in ("tanh", "relu"))
    assert r.layers[1].sigma_w2 == pytest.approx(float(tanh.sigma_w2))
    assert r.layers[2].sigma_w2 == pytest.approx(float(relu.sigma_w2))


# -- normalization -----------------------------------------------------------------------------
def normed(norm, activation, depth=12, width=200):
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), norm(width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def convolved(activation, depth=8):
    layers, n = [], 8
    for _ in range(depth):
        layers += [nn.Conv2d(n, 32, 3, padding=1), nn.GroupNorm(4, 32), activation()]
        n = 32
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 36, 10))


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh])
def test_gradients_pass_layers_in_front_of_a_normalization(activation):
    model, x = normed(nn.LayerNorm, activation), samples(64, 200)
    r = apply_init_(model, input_mean_square=x)
    assert all(layer.sigma_b2 == 0 for layer in r.layers)
    assert [layer.q for layer in r.layers] == pytest.approx([1.0] * 13)
    one = moments(resolve_activation(activation()), 1.0)
    chi = one.slope_square / one.square  # through the normalization of variance 1
    assert [layer.chi for layer in r.layers[1:]] == pytest.approx([chi] * 12)
    assert float(r.chi) == pytest.approx(chi)
    if chi > 1.001:  # the correlation map is that of the pair that keeps the variance 1
        field = MeanFieldMap(activation(), 1 / one.square)
        assert float(r.xi_c) == pytest.approx(float(field.xi_c(1.0)), rel=1e-6)
    ratios = []
    for seed in range(3):
        apply_init_(model, input_mean_square=x, seed=seed)
        first, last = gradients(model, x, ["0", "33"])
        ratios.append(math.log(first / last) / 11)
    assert np.mean(ratios) == pytest.approx(math.log(chi), abs=0.05)


def test_gradients_pass_convolutions_in_front_of_group_normalization():
    x = torch.randn(16, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    model = convolved(nn.SiLU)
    apply_init_(model, input_mean_square=x)
    first, last = gradients(model, x, ["0", "21"])
    assert 0.3 < first / last < 6


@pytest.mark.parametrize("activation", [nn.GELU, pytest.param(nn.SiLU, marks=pytest.mark.slow)])
def test_networks_with_layer_normalization_train(activation):
    model, x = normed(nn.LayerNorm, activation), samples(64, 200, seed=3)
    apply_init_(model, input_mean_square=x)
    assert loss_after(model, x, 150) < 0.3


def test_a_convolution_network_with_group_normalization_trains():
    x = torch.randn(64, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    model = convolved(nn.SiLU, depth=4)
    apply_init_(model, input_mean_square=x)
    assert loss_after(model, x, 150) < 0.3


def loss_after(model, x, steps):
    y = x.flatten(1)[:, :10].argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = torch.empty(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_normalization_counts_as_the_square_of_its_weight():
    model = nn.Sequential(
        nn.Linear(200, 200), nn.LayerNorm(200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(),
        nn.Linear(200, 5),
    )  # fmt: skip
    with torch.no_grad():
        model[1].weight.fill_(3.0)
    tanh = resolve_activation("tanh")
    r = recommend_init(model)
    wanted = float(critical_line("tanh", 0.4).q)
    assert r.layers[1].q == pytest.approx(wanted)
    assert r.layers[1].sigma_w2 == pytest.approx(wanted / moments(tanh, 9.0).square)
    slope = moments(tanh, 9.0).slope_square
    assert r.layers[1].chi == pytest.approx(r.layers[1].sigma_w2 * slope * 9 / r.layers[0].q)
    assert_promised(lambda: model, samples(64, 200))


def test_normalization_behind_the_activation():
    """ReLU, LayerNorm, Linear: chi = E f'^2 / Var f = 1.467, and too deep where it says so."""

    def make(depth, norm=nn.LayerNorm):
        body = [m for _ in range(depth) for m in (nn.Linear(200, 200), nn.ReLU(), norm(200))]
        return nn.Sequential(*body, nn.Linear(200, 10))

    x = samples(64, 200)
    r = recommend_init(make(6))
    exact = 0.5 / (0.5 - 1 / (2 * math.pi))
    assert [layer.chi for layer in r.layers[1:]] == pytest.approx([exact] * 6)
    assert r.deep_enough and not recommend_init(make(30)).deep_enough
    # without taking the mean away nothing is lost: the critical pair of ReLU
    assert float(recommend_init(make(6, nn.RMSNorm)).chi) == pytest.approx(1.0)
    model = make(10)
    growth = []
    for seed in range(3):
        apply_init_(model, input_mean_square=x, seed=seed)
        first, last = gradients(model, x, ["0", "27"])
        growth.append(math.log(first / last) / 9)
    assert np.mean(growth) == pytest.approx(math.log(exact), abs=0.05)


def test_statistics_over_the_batch_are_not_predicted():
    r = recommend_init(normed(nn.BatchNorm1d, nn.GELU))
    assert all(math.isnan(layer.chi) for layer in r.layers) and math.isnan(float(r.chi))
    assert "not known" in str(r) and any("statistics over the batch" in n for n in r.notes)


# -- depth -------------------------------------------------------------------------------------
@pytest.mark.parametrize("w2, depth, fine", [(4.0, 40, False), (4.0, 10, True), (0.5, 40, False),
                                             (2.5, 100, False), (1.0, 30, True)])  # fmt: skip
def test_the_depth_is_checked_in_both_phases(w2, depth, fine):
    r = recommend_init(mlp(nn.Tanh, depth), sigma_w2=w2, sigma_b2=0.013)
    assert r.deep_enough is fine
    assert r.reach == pytest.approx(
        6 * min(float(r.xi_c), 1 / abs(math.log(float(r.chi)))), rel=1e-12
    )


def test_the_numbers_on_top_are_those_of_the_layers():
    r = recommend_init(mlp(nn.Tanh, 60, bias=False))
    assert float(r.chi) == pytest.approx(r.layers[5].chi) and 1.06 < float(r.chi) < 1.07
    assert (float(r.sigma_w2), float(r.sigma_b2)) == (r.layers[5].sigma_w2, 0.0)
    assert math.isfinite(float(r.xi_c)) and r.reach == pytest.approx(6 / math.log(float(r.chi)))
    assert not recommend_init(mlp(nn.Tanh, 120, bias=False)).deep_enough


@pytest.mark.parametrize("activation, options", [(nn.Tanh, {}), (nn.Tanh, {"q": 1.0}),
                                                 (nn.GELU, {}), (nn.ReLU, {})])  # fmt: skip
def test_what_is_printed_can_be_given_back(activation, options):
    first = recommend_init(mlp(activation, 4), **options)
    pair = re.search(r"sigma_w2 = ([\d.e-]+), sigma_b2 = ([\d.e-]+)", str(first))
    assert pair is not None
    w2, b2 = map(float, pair.groups())
    again = recommend_init(mlp(activation, 4), sigma_w2=w2, sigma_b2=b2)
    assert float(again.chi) == pytest.approx(1.0, abs=1e-5)
    assert again.deep_enough and float(again.xi_c) > 1e4


# -- wiring ------------------------------------------------------------------------------------
class Wired(nn.Module):
    """A residual network of width 200 whose sums are formed by a function of (h, branch)."""

    def __init__(self, join, activation=torch.relu, start=None, blocks=4):
        super().__init__()
        self.join, self.activation, self.start = join, activation, start
        self.i, self.o = nn.Linear(64, 200), nn.Linear(200, 50)
        self.a = nn.ModuleList(nn.Linear(200, 200) for _ in range(blocks))
        self.b = nn.ModuleList(nn.Linear(200, 200) for _ in range(blocks))

    def forward(self, x):
        h = self.i(x)
        h = self.start(h) if self.start else h
        for a, b in zip(self.a, self.b, strict=True):
            h = self.join(h, b(self.activation(a(h))))
        return self.o(h)


@pytest.mark.parametrize(
    "join",
    [lambda h, z: torch.add(h, z, alpha=0.1), lambda h, z: h - z, lambda h, z: h + 0.1 * z,
     lambda h, z: h - z / 3, lambda h, z: torch.sub(h, z, alpha=2), lambda h, z: -z + h],
)  # fmt: skip
def test_sums_and_constant_factors_are_followed(join):
    make = partial(Wired, join)
    assert_promised(make, samples(64))
    model = make()
    stream = []
    r = apply_init_(model, input_mean_square=samples(64))
    model.i.register_forward_hook(lambda m, a, out: stream.append(out))
    model.o.register_forward_pre_hook(lambda m, a: stream.append(a[0]))
    model(samples(64))
    growth = float((stream[1].square().mean() / stream[0].square().mean()).detach())
    assert growth == pytest.approx((1 + 1 / 4) ** 4, rel=0.2)
    assert r.blocks == 4
    torch.manual_seed(0)
    report = measure_propagation(plain := make(), samples(64))
    assert report.theory is not None and plain is not None
    for name, q in zip(report.names, report.variance.value, strict=True):
        assert q == pytest.approx(report.theory.variance[name], rel=0.2)


@pytest.mark.parametrize(
    "join",
    [lambda h, z: torch.stack([h, z]).sum(0), lambda h, z: h * z, lambda h, z: h * torch.sigmoid(z),
     lambda h, z: torch.cat([h, z], 1)[:, :200], lambda h, z: h + torch.relu(z).cumsum(1)],
)  # fmt: skip
def test_behind_unknown_wiring_nothing_is_promised(join):
    model = Wired(join)
    r = apply_init_(model)
    by_name = {layer.name: layer for layer in r.layers}
    assert math.isfinite(by_name["b.0"].q)
    assert all(math.isnan(by_name[n].q) for n in ("a.1", "b.3", "o"))
    assert any("no variance (q, chi_1) is predicted behind" in n for n in r.notes)
    assert all(math.isfinite(layer.sigma_w2) and layer.sigma_w2 > 0 for layer in r.layers)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    report = measure_propagation(model, samples(32))
    assert report.theory is None or math.isnan(report.theory.variance["o"])


def test_terms_that_are_not_independent_are_not_summed():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 100), nn.Linear(100, 3)

        def forward(self, x):
            z = self.a(x)
            return self.b(z + torch.relu(z))

    assert math.isnan(recommend_init(Own()).layers[-1].q)


def test_behind_a_transposed_convolution_nothing_is_promised():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.ConvTranspose2d(8, 8, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )  # fmt: skip
    r = recommend_init(model)
    assert [x.name for x in r.layers] == ["0", "5"] and math.isnan(r.layers[-1].q)
    assert any("ConvTranspose" in n for n in r.not_covered)


def test_an_activation_that_does_not_leave_the_stream_alone():
    """h = f(h + b(f(a(h)))): ReLU leaves the stream; GELU changes it, and it is not Gaussian."""
    post = partial(Wired, lambda h, z: nn.functional.gelu(h + z), nn.functional.gelu)
    r = apply_init_(model := post(start=nn.functional.gelu))
    by_name = {layer.name: layer for layer in r.layers}
    assert math.isfinite(by_name["b.0"].q) and math.isnan(by_name["a.1"].q)
    report = measure_propagation(model, samples(32))
    assert report.theory is not None
    assert math.isfinite(report.theory.variance["b.0"])
    assert math.isnan(report.theory.variance["o"]) and report.theory.notes
    # the ReLU in front of the readout has been passed before: the readout sees all of the stream

    class Twice(Wired):
        def forward(self, x):
            h = torch.relu(self.i(x))
            for a, b in zip(self.a, self.b, strict=True):
                h = torch.relu(h + b(torch.relu(a(h))))
            return self.o(torch.relu(h))

    assert_promised(partial(Twice, None), samples(64), seeds=8, within=0.16)


# -- what cannot be initialized ----------------------------------------------------------------
def test_frozen_and_tied_layers():
    model = mlp(nn.Tanh, 4, width=64, outputs=64)
    model[2].requires_grad_(False)
    model[6].weight = model[4].weight
    kept = model[2].weight.clone()
    r = apply_init_(model)
    assert torch.equal(model[2].weight, kept)
    assert "frozen" in r.layers[1].note
    first = model[4].weight.clone()
    apply_init_(model)
    assert torch.equal(model[4].weight, first) and model[6].weight is model[4].weight


@pytest.mark.parametrize("held", ["weight", "bias"])
def test_every_frozen_parameter_is_left_alone_and_counted(held):
    model = mlp(nn.Tanh, 4, width=200)
    getattr(model[2], held).requires_grad_(False)
    kept = getattr(model[2], held).clone()
    other = getattr(model[2], "bias" if held == "weight" else "weight").clone()
    r = apply_init_(model)
    assert torch.equal(getattr(model[2], held), kept)
    assert not torch.equal(getattr(model[2], "bias" if held == "weight" else "weight"), other)
    assert f"frozen {held}" in r.layers[1].note
    assert_promised(lambda: model, samples(64))


def test_a_frozen_normalization_is_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.a, self.o = (nn.Linear(64, 64) for _ in range(3))
            self.n = nn.LayerNorm(64)

        def forward(self, x):
            h = self.i(x)
            return self.o(h + self.n(self.a(torch.relu(h))))

    model = Net()
    model.n.requires_grad_(False)
    r = apply_init_(model, residual="zero")
    assert bool((model.n.weight == 1).all()) and not r.norms
    model = Net()
    r = recommend_init(model, residual="zero")
    model.n.requires_grad_(False)  # after the recommendation
    apply_init_(model, r)
    assert bool((model.n.weight == 1).all())


def test_shared_weights_are_counted_as_they_are():
    def tied():
        model = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(200, 200), nn.ReLU())],
                              nn.Linear(200, 50))  # fmt: skip
        model[2].weight = model[0].weight  # scaled for the inputs, not for what is behind a ReLU
        return model

    r = recommend_init(tied())
    assert r.layers[1].sigma_w2 == r.layers[0].sigma_w2 and "shares its weight" in r.layers[1].note
    assert_promised(tied, samples(64, 200))


def test_a_layer_that_is_called_again():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(300, 300), nn.Linear(300, 50)

        def forward(self, x):
            for _ in range(4):
                x = torch.relu(self.a(x))
            return self.o(x)

    r = recommend_init(Again())
    assert r.layers[0].note.count("called again") == 3 and "variance 0.5 then" in r.layers[0].note
    promised, got = promised_and_got(Again, samples(64, 300), 6)
    error = got["o"].std(ddof=1) / math.sqrt(6)
    assert abs(got["o"].mean() - promised["o"]) < 4 * error < promised["o"]


def test_activations_without_a_critical_pair_are_refused():
    for activation in (nn.Hardshrink(), nn.Threshold(1.0, 2.0)):
        with pytest.raises(NotApplicableError, match="jumps at z"):
            recommend_init(nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 8)))
        with pytest.raises(NotApplicableError, match="jumps at z"):
            recommend_init(
                nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 8)), sigma_w2=1.0
            )
    for activation in (nn.Softplus(), nn.LogSigmoid()):
        with pytest.raises(ConvergenceError, match=r"sigma_w2 = 1\.08549, sigma_b2 = 0 keeps"):
            recommend_init(nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 8)))
    model = nn.Sequential(nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 8))
    r = recommend_init(model, sigma_w2=1.08549)
    assert float(r.q) == pytest.approx(1.0, abs=1e-4)


def test_mixed_precision_keeps_each_dtype():
    model = mlp(nn.Tanh, 3)
    model[0].double()
    model[2].bfloat16()
    apply_init_(model)
    assert [model[k].weight.dtype for k in (0, 2)] == [torch.float64, torch.bfloat16]


class Squash(nn.Module):
    def forward(self, x):
        return x / (1 + x.square()).sqrt()


def test_an_activation_of_ones_own_must_be_named():
    model = nn.Sequential(nn.Linear(8, 20), Squash(), nn.Linear(20, 20), Squash(), nn.Linear(20, 2))
    with pytest.raises(NotApplicableError, match="give activation="):
        recommend_init(model)
    r = recommend_init(model, activation=Squash())
    assert r.activation.name == "Squash" and float(r.sigma_w2) > 1
    assert [x.chi for x in r.layers[1:]] == pytest.approx([1.0, 1.0])


def test_what_the_theory_does_not_cover_is_named_and_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64))
            self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 2)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x * self.scale)))

    model = Net()
    r = apply_init_(model)
    assert r.not_covered == ("(model) (Net)",) and bool((model.scale == 1).all())
    assert "not covered" in str(r)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 30), nn.Linear(30, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x))) if float(x.sum()) > 0 else self.b(self.a(x))


def test_a_model_that_cannot_be_traced_needs_the_activation():
    with pytest.raises(NotApplicableError, match="wiring"):
        recommend_init(Branching())
    r = recommend_init(Branching(), activation="tanh")
    assert [x.name for x in r.layers] == ["a", "b"]


def test_bad_input():
    model = mlp(nn.Tanh, 3)
    for options, error, words in (
        ({"q": -1.0}, ValueError, "q must"),
        ({"q": 1.0, "sigma_b2": 0.1}, ValueError, "not both"),
        ({"q": 1.0, "sigma_w2": 1.0}, ValueError, "not both"),
        ({"sigma_w2": -1.0}, ValueError, "sigma_w2"),
        ({"residual": "half"}, ValueError, "residual"),
        ({"input_mean_square": 0.0}, ValueError, "input_mean_square"),
        ({"input_mean_square": torch.ones(3, dtype=torch.int64)}, TypeError, "floating"),
    ):
        with pytest.raises(error, match=words):
            recommend_init(model, **options)
    with pytest.raises(TypeError, match="Module"):
        recommend_init("model")  # type: ignore[arg-type]
    with pytest.raises(NotApplicableError, match="activation"):
        recommend_init(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    with pytest.raises(NotApplicableError, match="Linear or Conv"):
        recommend_init(nn.Sequential(nn.Tanh()))
    with pytest.raises(NotApplicableError):
        recommend_init(nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2)))
    with pytest.raises(NotApplicableError, match="meta"):
        recommend_init(nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Tanh(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="not both"):
        apply_init_(model, recommend_init(model), q=1.0)
    with pytest.raises(ValueError, match="another model"):
        apply_init_(mlp(nn.Tanh, 2), recommend_init(model))
    with pytest.raises(ValueError, match="fan-in"):
        apply_init_(mlp(nn.Tanh, 3, inputs=5), recommend_init(model))
    normed = mlp(nn.Tanh, 3)
    nn.utils.parametrizations.weight_norm(normed[0])
    with pytest.raises(NotApplicableError, match="weight norm"):
        apply_init_(normed, recommend_init(model))


def test_the_code_of_the_page_runs(capsys):
    page = Path(__file__).resolve().parents[2] / "docs" / "propagation.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    exec(compile(code, "propagation.md", "exec"), {})
    said = capsys.readouterr().out
    assert "sigma_w2" in said and "gain network" in said


def test_a_model_that_is_one_layer():
    with pytest.raises(NotApplicableError, match="no activation"):
        recommend_init(nn.Linear(8, 100))


def test_attention_is_left_as_it_is():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    before = model.self_attn.out_proj.weight.detach().clone()
    plan = apply_init_(model, activation="relu")
    assert [layer.name for layer in plan.layers] == ["linear1", "linear2"]
    assert torch.equal(model.self_attn.out_proj.weight, before)


def test_an_activation_of_the_library_is_traced():
    model = nn.Sequential(nn.Linear(8, 16), GaussianPreactivation(2.5), nn.Linear(16, 4))
    plan = recommend_init(model)
    assert [layer.name for layer in plan.layers] == ["0", "2"]
    assert plan.layers[1].chi == pytest.approx(1, abs=1e-6)
