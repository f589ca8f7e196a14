"""Recommended initializations: what is drawn, and what it does in real networks."""

import math
import re
from pathlib import Path

import pytest
import torch
from networks import Residual
from torch import nn

from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.measure.propagation import (
    apply_init_,
    critical_line,
    measure_propagation,
    recommend_init,
)


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


def residual(blocks, kind, width=200):
    body = [Block(width, kind) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(64, width), *body, nn.Linear(width, 10))


def samples(n=64, features=64, scale=1.0, seed=0):
    return scale * torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


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
    report = measure_propagation(model, x)
    plan = {layer.name: layer.q for layer in r.layers}
    got = dict(zip(report.names, report.variance.value, strict=True))
    for k in range(1, 17):
        assert got[f"{k}.b"] == pytest.approx(plan[f"{k}.b"], rel=0.5)


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
