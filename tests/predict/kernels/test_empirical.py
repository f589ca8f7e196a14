"""The empirical tangent kernel against explicit Jacobians of one sample after the other."""

import copy
import itertools
import math
import random
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.empirical import empirical_ntk, products, tangent_kernel
from thermolearn.predict.kernels.empirical import layers as layer_module
from thermolearn.predict.kernels.empirical.layers import layer_parameters


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def jacobian(model, x):
    """(n, outputs, parameters) by plain backward passes, one sample and one output at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for sample in x.split(1):
        out = model(sample).flatten()
        parts = [
            torch.autograd.grad(o, parameters, retain_graph=True, materialize_grads=True)
            for o in out
        ]
        rows.append(torch.stack([torch.cat([g.flatten() for g in p]) for p in parts]))
    return torch.stack(rows)


def by_torch_func(model, x):
    """The same by torch.func, all samples at once."""
    values = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}

    def outputs(values, sample):
        return torch.func.functional_call(model, values, (sample[None],)).flatten()

    found = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(values, x)
    return torch.cat([g.flatten(2) for g in found.values()], 2)


class Wired(nn.Module):
    """Modules by name and a forward pass of one's own."""

    def __init__(self, wiring, **modules):
        super().__init__()
        self.wiring = wiring
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.wiring(self, x)


def frozen(model, *names):
    for name, p in model.named_parameters():
        p.requires_grad_(name not in names)
    return model


def tied_modules():
    one, two = nn.Linear(5, 5), nn.Linear(5, 5)
    two.weight = one.weight  # one weight, two biases
    return nn.Sequential(one, nn.Tanh(), two, nn.Tanh(), nn.Linear(5, 2))


def tied_bias():
    one, two = nn.Conv1d(2, 4, 3, groups=2), nn.Conv1d(4, 4, 1)
    two.bias = one.bias
    return nn.Sequential(one, nn.Tanh(), two, nn.Flatten(), nn.Linear(12, 2))


def batch_norm():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


def pruned():
    layer = nn.Linear(5, 6)
    prune.random_unstructured(layer, "weight", 0.3)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 2))


def own_forward():
    layer = nn.Linear(5, 5)
    layer.forward = types.MethodType(
        lambda self, x: 2 * F.linear(x, self.weight.tanh(), self.bias), layer
    )
    return nn.Sequential(layer, nn.Linear(5, 2))


class Doubled(nn.Linear):
    def forward(self, input):
        return super().forward(2 * input)


class Squares(nn.Module):
    def forward(self, x):
        return x.square()


class Experts(nn.Module):
    """Samples are sent to one of two layers, by the sign of their first feature."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        left = x[:, 0] < 0
        z = self.head.weight.new_zeros(len(x), 4)
        z = z.index_put((left.nonzero()[:, 0],), self.one(x[left]))
        z = z.index_put(((~left).nonzero()[:, 0],), self.two(x[~left]))
        return self.head(torch.tanh(z))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


def tokens(n, t=4):
    return torch.randint(0, 11, (n, t), generator=torch.Generator().manual_seed(5))


def tied_embedding():
    model = Wired(
        lambda m, x: m.head(torch.tanh(m.mix(m.embed(x)))).mean(1),
        embed=nn.Embedding(11, 6), mix=nn.Linear(6, 6), head=nn.Linear(6, 11),
    )  # fmt: skip
    model.head.weight = model.embed.weight
    return model


def linear(*sizes, bias=True):
    return nn.Sequential(
        *[
            module
            for a, b in itertools.pairwise(sizes)
            for module in (nn.Linear(a, b, bias=bias), nn.Tanh())
        ][:-1]
    )


# name: (model, shape of a sample or function n -> samples, parameters that the layer-wise form
# must hold). None: all of them.
ZOO = {
    "mlp": (lambda: linear(5, 7, 6, 3), (5,), None),
    "no bias": (lambda: linear(5, 7, 3, bias=False), (5,), None),
    "one output, no axis": (lambda: nn.Sequential(linear(5, 7, 1), nn.Flatten(0)), (5,), None),
    "relu in place": (lambda: nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(True), nn.Linear(7, 7), nn.ReLU(True), nn.Linear(7, 2)
    ), (5,), None),
    "sum in place": (lambda: Wired(
        lambda m, x: m.head(torch.tanh(m.a(x).mul_(2).add_(m.b(torch.tanh(x))))),
        a=nn.Linear(5, 5), b=nn.Linear(5, 5), head=nn.Linear(5, 2),
    ), (5,), None),
    "frozen weight": (lambda: frozen(linear(5, 7, 3), "0.weight"), (5,), None),
    "frozen bias": (lambda: frozen(linear(5, 7, 3), "0.bias", "2.weight"), (5,), None),
    "residual": (lambda: Wired(
        lambda m, x: m.head(x + torch.tanh(m.a(x))), a=nn.Linear(5, 5), head=nn.Linear(5, 2)
    ), (5,), None),
    "layer used twice": (lambda: Wired(
        lambda m, x: m.head(torch.tanh(m.a(torch.tanh(m.a(x))))),
        a=nn.Linear(5, 5), head=nn.Linear(5, 2),
    ), (5,), None),
    "tied weight": (tied_modules, (5,), None),
    "tied bias, groups": (tied_bias, (2, 5), None),
    "transposed tie": (lambda: Wired(
        lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight.T), a=nn.Linear(5, 7)
    ), (5,), {"a.bias"}),
    "weight in the loss of a layer": (lambda: Wired(
        lambda m, x: m.a(x) * m.a.weight.square().sum(), a=nn.Linear(5, 3)
    ), (5,), {"a.bias"}),
    "layer not used": (lambda: Wired(
        lambda m, x: m.a(x), a=nn.Linear(5, 3), b=nn.Linear(5, 3)
    ), (5,), None),
    "layer without effect": (lambda: Wired(
        lambda m, x: m.a(x) + m.b(x).detach(), a=nn.Linear(5, 3), b=nn.Linear(5, 3)
    ), (5,), None),
    "own parameter": (lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 2)),
                      (5,), {"0.weight", "0.bias", "2.weight", "2.bias"}),
    "own forward": (own_forward, (5,), {"1.weight", "1.bias"}),
    "subclass": (lambda: nn.Sequential(Doubled(5, 4), Squares(), nn.Linear(4, 2)),
                 (5,), {"2.weight", "2.bias"}),
    "layer norm": (lambda: nn.Sequential(
        nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)
    ), (5,), {"0.weight", "0.bias", "3.weight", "3.bias"}),
    "batch norm": (batch_norm, (5,), {"0.weight", "0.bias", "3.weight", "3.bias"}),
    "spectral norm": (lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 2)
    ), (5,), {"2.weight", "2.bias"}),
    "weight norm": (lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 2)
    ), (5,), {"2.weight", "2.bias"}),
    "pruned": (pruned, (5,), {"2.weight", "2.bias"}),
    "experts": (Experts, (5,), {"head.weight", "head.bias"}),
    "layer without gradients": (lambda: Wired(
        lambda m, x: m.a(x) + torch.no_grad()(m.b)(x), a=nn.Linear(5, 3), b=nn.Linear(5, 3)
    ), (5,), {"a.weight", "a.bias"}),
    "checkpoint": (lambda: Wired(
        lambda m, x: m.head(checkpoint(m.a, x, use_reentrant=False)),
        a=linear(5, 6, 6), head=nn.Linear(6, 2),
    ), (5,), None),
    "sequence": (lambda: nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2), nn.Flatten()
    ), (4, 5), None),
    "long sequence": (lambda: Wired(
        lambda m, x: m.b(torch.tanh(m.a(x))).mean(1), a=nn.Linear(2, 3), b=nn.Linear(3, 2)
    ), (40, 2), None),
    "samples and steps in one axis": (lambda: Wired(
        lambda m, x: m.b(torch.tanh(m.a(x.flatten(0, 1))).view(len(x), -1)),
        a=nn.Linear(5, 3), b=nn.Linear(12, 2),
    ), (4, 5), None),
    "steps before samples": (lambda: Wired(
        lambda m, x: m.b(torch.tanh(m.a(x.transpose(0, 1))).mean(0)),
        a=nn.Linear(5, 3), b=nn.Linear(3, 2),
    ), (4, 5), {"b.weight", "b.bias"}),
    "as many steps as samples, first": (lambda: Wired(
        lambda m, x: m.b(torch.tanh(m.a(x.transpose(0, 1))).mean(0)),
        a=nn.Linear(5, 3), b=nn.Linear(3, 2),
    ), (6, 5), {"b.weight", "b.bias"}),
    "samples reversed inside": (lambda: Wired(
        lambda m, x: m.b(torch.tanh(m.a(x.flip(0))).flip(0)), a=nn.Linear(5, 3), b=nn.Linear(3, 2)
    ), (5,), {"b.weight", "b.bias"}),
    "conv": (lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 6, (2, 3), dilation=(2, 1),
        padding=(1, 2)), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3),
    ), (2, 7, 6), None),
    "conv groups": (lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding="same", bias=False), nn.Tanh(),
        nn.Conv2d(6, 6, 3, groups=6), nn.Tanh(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ), (4, 5, 5), None),
    "conv one and three dimensions": (lambda: Wired(
        lambda m, x: m.c(torch.tanh(m.b(torch.tanh(m.a(x)).unflatten(2, (3, 2, 2))))).flatten(1),
        a=nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"),
        b=nn.Conv3d(3, 2, 2, padding=(1, 0, 1), padding_mode="replicate"),
        c=nn.Conv3d(2, 1, (4, 1, 3), stride=(1, 1, 2)),
    ), (2, 12), None),
    "transposed conv, group norm": (lambda: nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(),
        nn.Linear(32, 2),
    ), (2, 4, 4), {"0.weight", "0.bias", "4.weight", "4.bias"}),
    "embedding": (lambda: nn.Sequential(
        nn.Embedding(11, 6), nn.Linear(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)
    ), tokens, {"1.weight", "1.bias", "4.weight", "4.bias"}),
    "tied embedding": (tied_embedding, tokens, {"mix.weight", "mix.bias", "head.bias"}),
    "attention": (Attention, tokens, {
        "head.weight", "head.bias", "block.linear1.weight", "block.linear1.bias",
        "block.linear2.weight", "block.linear2.bias",
    }),
    "recurrent": (lambda: Wired(
        lambda m, x: m.head(m.rnn(x)[0][:, -1]),
        rnn=nn.GRU(3, 4, batch_first=True), head=nn.Linear(4, 2),
    ), (4, 3), {"head.weight", "head.bias"}),
}  # fmt: skip


def case(name, n=6):
    build, samples, expected = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build().double()
        x = draws(n, *samples) if isinstance(samples, tuple) else samples(n)
        model(x)  # lazy layers
    names = {k for k, p in model.named_parameters() if p.requires_grad}
    return model.eval(), x, names if expected is None else expected


@pytest.fixture
def layerwise(monkeypatch):
    """Names of the parameters that ended layer-wise."""
    used = []
    assembled = tangent_kernel._assembled

    def spy(model, x, x2, n_out, layerwise, *rest):
        used[:] = [{k for k, p in model.named_parameters() if id(p) in layerwise}]
        return assembled(model, x, x2, n_out, layerwise, *rest)

    monkeypatch.setattr(tangent_kernel, "_assembled", spy)
    return used


@pytest.mark.parametrize("name", ZOO)
def test_all_architectures_against_jacobians(name, layerwise):
    model, x, expected = case(name)
    j = jacobian(model, x)
    exact = torch.einsum("iop,jqp->ijoq", j, j)
    scale = float(exact.abs().max())
    trace = empirical_ntk(model, x)
    assert layerwise[-1] == expected
    torch.testing.assert_close(trace, exact.diagonal(0, 2, 3).sum(-1), rtol=0, atol=1e-11 * scale)
    assert torch.equal(trace, trace.T)
    assert torch.linalg.eigvalsh(trace).min() > -1e-10 * scale
    full = empirical_ntk(model, x[:4], outputs="full")
    torch.testing.assert_close(full, exact[:4, :4], rtol=0, atol=1e-11 * scale)
    assert torch.equal(full, full.permute(1, 0, 3, 2))
    across = {k: empirical_ntk(model, x[:4], x[3:], outputs=k) for k in ("each", "full")}
    torch.testing.assert_close(across["full"], exact[:4, 3:], rtol=0, atol=1e-11 * scale)
    diagonal = exact[:4, 3:].diagonal(0, 2, 3)
    torch.testing.assert_close(across["each"], diagonal, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize(
    "name", ["conv", "conv groups", "sequence", "long sequence", "tied weight"]
)
@pytest.mark.parametrize("cheaper", [True, False])
def test_both_ways_of_multiplying_agree(name, cheaper, monkeypatch):
    model, x, _ = case(name)
    j = jacobian(model, x)
    exact = torch.einsum("iop,jqp->ijoq", j, j)
    monkeypatch.setattr(products, "_pairs_are_cheaper", lambda *_: cheaper)
    monkeypatch.setattr(products, "ELEMENTS", 500)  # many small temporaries
    for outputs in ("trace", "each", "full"):
        truth = exact if outputs == "full" else exact.diagonal(0, 2, 3)
        truth = truth.sum(-1) if outputs == "trace" else truth
        found = empirical_ntk(model, x, outputs=outputs)
        torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-11 * float(exact.abs().max()))


@pytest.mark.parametrize(
    "name", ["mlp", "conv groups", "layer norm", "tied embedding", "recurrent"]
)
def test_blocks_of_samples_and_parameters_do_not_matter(name, monkeypatch):
    model, x, _ = case(name, n=7)
    whole, across = empirical_ntk(model, x), empirical_ntk(model, x[:5], x[2:], outputs="each")
    monkeypatch.setattr(tangent_kernel, "ELEMENTS", 0)
    for memory in (1e-9, 5e-5):
        small = empirical_ntk(model, x, memory_gib=memory)
        torch.testing.assert_close(small, whole, rtol=1e-11, atol=1e-11 * float(whole.max()))
        assert torch.equal(small, small.T)
        small = empirical_ntk(model, x[:5], x[2:], outputs="each", memory_gib=memory)
        torch.testing.assert_close(small, across, rtol=1e-11, atol=1e-11 * float(whole.max()))


def test_against_torch_func_in_single_precision():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    x = draws(40, 64).float()
    j = by_torch_func(model, x).flatten(1)
    exact = j @ j.T
    found = empirical_ntk(model, x, dtype=torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5 * float(exact.max()))
    double = empirical_ntk(model, x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), exact, rtol=1e-5, atol=1e-5 * float(exact.max()))


def test_linear_model_in_closed_form():
    """f = W x + b with three outputs: Theta = 3 (x.x' + 1); the output-resolved one is diagonal."""
    x, z = draws(5, 4), draws(3, 4, seed=1)
    model = nn.Linear(4, 3)
    expected = x @ z.T + 1
    torch.testing.assert_close(empirical_ntk(model, x, z), 3 * expected)
    full = empirical_ntk(model, x, z, outputs="full")
    torch.testing.assert_close(full, expected[..., None, None] * torch.eye(3, dtype=torch.float64))


def test_the_model_is_bitwise_unchanged():
    model, x, _ = case("batch norm")
    model = model.float().train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    keys = [set(m.__dict__) for m in model.modules()]
    random.seed(1), np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with torch.no_grad():
        kernel = empirical_ntk(model, x)
    assert not kernel.requires_grad and not calls
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(m.training for m in model.modules())
    assert [set(m.__dict__) for m in model.modules()] == keys
    assert all(p.grad is None for k, p in model.named_parameters() if k != "0.weight")
    assert states[0] == random.getstate() and np.array_equal(states[1], np.random.get_state()[1])
    assert torch.equal(states[2], torch.get_rng_state())
    torch.testing.assert_close(kernel, empirical_ntk(model.eval(), x))


def test_gradients_match_when_weights_are_computed():
    """A parametrized weight: the kernel is that of the parameter behind it."""

    class Doubling(nn.Module):
        def forward(self, w):
            return 2 * w

    x = draws(5, 4)
    layer = nn.Linear(4, 3, bias=False)
    parametrize.register_parametrization(layer, "weight", Doubling())
    torch.testing.assert_close(empirical_ntk(layer, x), 3 * 4 * x @ x.T)


def test_compiled_wrapper_and_single_sample():
    model, x, _ = case("mlp")
    expected = empirical_ntk(model, x)
    torch.testing.assert_close(empirical_ntk(nn.DataParallel(model), x), expected)
    torch.testing.assert_close(empirical_ntk(model, x[:1]), expected[:1, :1])
    torch.testing.assert_close(empirical_ntk(model, x.numpy(), x[:1].numpy()), expected[:, :1])


def test_layers_that_change_their_weights_are_left_out():
    layer = nn.Linear(3, 2)
    assert layer_parameters(layer) == {id(layer.weight), id(layer.bias)}
    assert layer_parameters(Doubled(3, 2)) == set()
    assert layer_parameters(parametrizations.weight_norm(nn.Linear(3, 2))) == set()


def test_wrong_factors_are_found(monkeypatch):
    """The check of the layer-wise form against plain gradients can fail."""
    model, x, _ = case("conv")
    parameters = layer_parameters(model)
    assert tangent_kernel._wrong(model, x, parameters) == set()
    patches = layer_module.patches
    monkeypatch.setattr(layer_module, "patches", lambda conv, x: patches(conv, x).flip(-1))
    weights = {id(m.weight) for m in model if isinstance(m, nn.Conv2d)}
    assert tangent_kernel._wrong(model, x, parameters) == weights
    j = jacobian(model, x)
    exact = torch.einsum("iop,jop->ij", j, j)
    torch.testing.assert_close(empirical_ntk(model, x), exact)


# -- refusals ---------------------------------------------------------------------------------
class Coupled(nn.Module):
    def __init__(self, couple):
        super().__init__()
        self.layer, self.couple = nn.Linear(4, 2), couple

    def forward(self, x):
        return self.couple(self.layer(x))


@pytest.mark.parametrize(
    "model",
    [
        Coupled(lambda z: z - z.mean(0)),
        Coupled(lambda z: z * z[0].sum()),
        Coupled(lambda z: torch.softmax(z, 0)),
        Coupled(lambda z: z + 1e-3 * z.roll(1, 0)),
        Coupled(lambda z: F.dropout(z, 0.5)),
        Coupled(lambda z: F.batch_norm(z, None, None, training=True)),
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False)),
        Wired(lambda m, x: m.rnn(x[..., None])[0][:, -1], rnn=nn.RNN(1, 2)),
    ],
)
@pytest.mark.parametrize("n", [2, 7])
def test_samples_that_couple_are_refused(model, n):
    with pytest.raises(NotApplicableError, match="other samples"):
        empirical_ntk(model, draws(n, 4))


def test_samples_that_couple_to_one_far_away_are_refused():
    model = Coupled(lambda z: torch.cat([z[:8], z[8:] * z[0].sum()]))
    with pytest.raises(NotApplicableError, match="other samples"):
        empirical_ntk(model, draws(9, 4))


def test_a_copy_that_is_none_is_refused():
    layer = nn.Linear(4, 2).double()
    layer.forward = lambda x: F.linear(x, layer.weight)  # the copy would use this layer's weight
    with pytest.raises(NotApplicableError, match="original's parameters"):
        empirical_ntk(nn.Sequential(layer, nn.Linear(2, 2)), draws(3, 4))


def test_one_sample_that_couples_is_refused():
    model = Coupled(lambda z: z * z.sum())
    with pytest.raises(NotApplicableError, match="other samples"):
        empirical_ntk(model, draws(1, 4))
    with pytest.raises(NotApplicableError, match="other samples"):
        empirical_ntk(model, draws(1, 4), draws(1, 4, seed=1))


def test_an_input_that_is_overwritten_is_refused():
    """Its weight has no gradient in plain differentiation either."""

    def wiring(m, x):
        h = torch.sin(m.a(x))
        out = m.b(h)
        h.zero_()
        return out

    model = Wired(wiring, a=nn.Linear(4, 2), b=nn.Linear(2, 2)).double()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        model(draws(3, 4)).sum().backward()
    with pytest.raises(NotApplicableError, match="differentiated"):
        empirical_ntk(model, draws(3, 4))


def test_reentrant_checkpoints():
    """Parameters inside have no gradient by autograd.grad, without an error."""
    inner, head = nn.Linear(4, 3), nn.Linear(3, 2)
    first = nn.Linear(4, 4)
    x = draws(3, 4)
    for start in (nn.Identity(), first):
        plain = Wired(lambda m, x: m.b(m.a(m.s(x))), s=start, a=inner, b=head).double()
        model = Wired(
            lambda m, x: m.b(checkpoint(m.a, m.s(x).requires_grad_(), use_reentrant=True)),
            s=start, a=inner, b=head,
        )  # fmt: skip
        torch.testing.assert_close(empirical_ntk(model, x), empirical_ntk(plain, x))


def test_samples_that_the_model_overwrites_are_copied():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.LayerNorm(3)).double()
    x = draws(3, 4)
    before = x.clone()
    kernel = empirical_ntk(model, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(kernel, empirical_ntk(model[1:], x.relu()))


def test_bad_input():
    model, x = nn.Linear(4, 2), draws(3, 4)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        empirical_ntk(lambda x: x, x)
    with pytest.raises(ValueError, match="finite"):
        empirical_ntk(model, x * math.nan)
    with pytest.raises(ValueError, match="X2"):
        empirical_ntk(model, x, draws(3, 5))
    with pytest.raises(ValueError, match="sample"):
        empirical_ntk(model, x[:0])
    with pytest.raises(ValueError, match="sample"):
        empirical_ntk(model, torch.tensor(1.0))
    with pytest.raises(TypeError, match="X must be"):
        empirical_ntk(model, [["a"]])
    with pytest.raises(TypeError, match="real"):
        empirical_ntk(model, x + 1j)
    with pytest.raises(ValueError, match="outputs"):
        empirical_ntk(model, x, outputs="sum")
    with pytest.raises(ValueError, match="dtype"):
        empirical_ntk(model, x, dtype=torch.float16)
    with pytest.raises(ValueError, match="memory_gib"):
        empirical_ntk(model, x, memory_gib=0)
    with pytest.raises(NotApplicableError, match="requires a gradient"):
        empirical_ntk(frozen(nn.Linear(4, 2), "weight", "bias"), x)
    with pytest.raises(NotApplicableError, match="cannot be applied to X"):
        empirical_ntk(nn.Linear(5, 2), x)
    with pytest.raises(NotApplicableError, match="lazy"):
        empirical_ntk(nn.LazyLinear(2), x)
    with pytest.raises(NotApplicableError, match="one tensor"):
        empirical_ntk(Coupled(lambda z: (z, z)), x)
    with pytest.raises(NotApplicableError, match="row per sample"):
        empirical_ntk(Coupled(lambda z: z.sum()), x)
    with pytest.raises(NotApplicableError, match="not finite"):
        empirical_ntk(Coupled(lambda z: z / 0), x)
