"""What is refused by name, what is said beside the numbers, and that the module stays as it is."""

import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.of_module import kernel_of


class Wired(nn.Module):
    """A layer `one` and a layer `two`, wired by a function."""

    def __init__(self, wiring, *parts):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        for k, part in enumerate(parts):
            self.add_module(f"part{k}", part)
        self.wiring = wiring

    def forward(self, x):
        return self.wiring(self, x)


def shared(m, x):
    return m.three(torch.relu(m.two(torch.relu(m.two(torch.relu(m.one(x)))))))


def stream(m, x):
    x = torch.relu(m.one(x))
    return m.three(torch.relu(x + m.two(x)))


def overwritten(m, x):
    z = m.one(x)
    return m.three(z + m.two(m.part0(z)))


def overwritten_sum(m, x):
    z = m.one(x)
    w = z.view(-1, 8)
    z += m.two(torch.relu(z))
    return m.three(torch.relu(w))


def correlated(m, x):
    z = m.one(x)
    return m.three(torch.relu(z) + torch.tanh(z))


def gate(m, x):
    z = m.one(x)
    return m.three(z * torch.sigmoid(m.two(z)))


def attention(m, x):
    z = m.one(x)
    return m.three(m.part0(z, z, z)[0])


def attention_residual(m, x):
    z = m.one(x)
    return m.three(z + m.part0(z, z, z, need_weights=False)[0])


def first_output(m, x):
    return m.three(m.part0(m.one(x))[0])


def step(m, x):
    return m.three(m.part0(m.one(x)))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, z):
        return z * torch.sigmoid(self.gate(z))


class Branching(nn.Module):
    def forward(self, z):
        return z if z.sum() > 0 else -z


class Part(nn.Module):
    def forward(self, z):
        return z[:, :8]


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, z):
        return self.gain * z


def concatenation(m, x):
    z = m.one(x)
    return m.three(torch.cat([z, m.two(z)]))


def data_dependent(m, x):
    return m.three(m.one(x)) if x.sum() > 0 else m.three(m.two(m.one(x)))


REFUSED = {
    "BatchNorm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)),
                  r"layer '1' \(BatchNorm1d\) normalizes over the batch.*use LayerNorm"),
    "BatchNorm of the input": (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)),
                               r"'0' \(BatchNorm1d\)"),
    "GroupNorm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)),
                  r"'1' \(GroupNorm\) normalizes over a few channels"),
    "MaxPool": (lambda: nn.Sequential(nn.Conv1d(2, 8, 1), nn.MaxPool1d(2), nn.Flatten(),
                                      nn.Linear(8, 1)),
                r"'1' \(MaxPool1d\) takes the largest"),
    "max_pool": (lambda: Wired(lambda m, x: m.three(F.max_pool1d(m.one(x), 1))),
                 r"max_pool.*takes the largest"),
    "attention": (lambda: Wired(attention, nn.MultiheadAttention(8, 1)),
                  r"'part0' \(MultiheadAttention\) multiplies random signals"),
    "attention, residual": (lambda: Wired(attention_residual, nn.MultiheadAttention(8, 1)),
                            r"'part0' \(MultiheadAttention\) multiplies random.*empirical_ntk"),
    "attention alone": (lambda: nn.MultiheadAttention(8, 2),
                        r"the model itself \(MultiheadAttention\) multiplies.*empirical_ntk"),
    "transformer block": (lambda: Wired(step, nn.TransformerEncoderLayer(8, 2)),
                          r"'part0' \(TransformerEncoderLayer\) multiplies.*empirical_ntk"),
    "transformer block alone": (lambda: nn.TransformerEncoderLayer(8, 2),
                                r"itself \(TransformerEncoderLayer\) multiplies.*empirical_ntk"),
    "transformer": (lambda: Wired(step, nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2), 1, enable_nested_tensor=False)),
                    r"'part0' \(TransformerEncoder\) multiplies.*empirical_ntk"),
    "LSTM inside": (lambda: Wired(first_output, nn.LSTM(8, 8)),
                    r"'part0' \(LSTM\) applies the same weights at every step.*empirical_ntk"),
    "GRU inside": (lambda: nn.Sequential(nn.Linear(5, 8), Wired(first_output, nn.GRU(8, 8))),
                   r"'1.part0' \(GRU\) applies the same weights.*empirical_ntk"),
    "GRU cell": (lambda: Wired(step, nn.GRUCell(8, 8)), r"'part0' \(GRUCell\) applies the same"),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(32, 1)),
                  r"'0' \(Embedding\) reads integers.*pass the model behind it"),
    "custom product": (lambda: Wired(step, Gate()),
                       r"'mul' in layer 'part0' \(Gate\) multiplies random.*empirical_ntk"),
    "custom gain": (lambda: Wired(step, Gain()),
                    r"'mul' in layer 'part0' \(Gain\) multiplies.*empirical_ntk"),
    "custom part": (lambda: Wired(step, Part()),
                    r"'getitem' in layer 'part0' \(Part\) takes a part.*empirical_ntk"),
    "custom branching": (lambda: nn.Sequential(nn.Linear(5, 8), Wired(step, Branching())),
                         r"layer '1.part0' \(Branching\) cannot be traced.*empirical_ntk"),
    "bilinear": (lambda: nn.Bilinear(3, 3, 1), r"itself \(Bilinear\).*use Linear or Conv"),
    "softmax at the end": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)),
                           r"'1' \(Softmax\) couples the output neurons"),
    "activation at the end": (lambda: nn.Sequential(nn.Linear(5, 1), nn.Sigmoid()),
                              r"ends with layer '1' \(Sigmoid\).*not Gaussian"),
    "groups": (lambda: nn.Sequential(nn.Conv1d(4, 8, 1, groups=2), nn.Flatten(), nn.Linear(8, 1)),
               r"'0' \(Conv1d\) has groups = 2"),
    "padding": (lambda: nn.Sequential(nn.Conv1d(2, 8, 3, padding=1, padding_mode="circular"),
                                      nn.Flatten(), nn.Linear(8, 1)),
                r"'0' \(Conv1d\) pads with 'circular'"),
    "transposed": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ConvTranspose1d(2, 8, 1)),
                   r"'1' \(ConvTranspose1d\)"),
    "recurrent": (lambda: nn.Sequential(nn.LSTM(5, 8)), r"LSTM"),
    "shared": (lambda: Wired(shared), r"'two' \(Linear\) shares its weights with layer 'two'"),
    "activation on the stream": (lambda: Wired(stream), r"'relu' reads a signal that is not Gauss"),
    "twice activated": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Tanh(),
                                              nn.Linear(8, 1)),
                        r"'2' \(Tanh\) reads a signal that is not Gaussian"),
    "overwritten": (lambda: Wired(overwritten, nn.ReLU(inplace=True)),
                    r"'part0' \(ReLU\) works in place on a tensor that 'add' reads later"),
    "correlated": (lambda: Wired(correlated), r"adds function 'relu' and function 'tanh', which"),
    "product": (lambda: Wired(gate), r"multiplies random signals"),
    "concatenation": (lambda: Wired(concatenation), r"'cat' joins signals"),
    "untraceable": (lambda: Wired(data_dependent), r"cannot be traced"),
    "no layer": (lambda: nn.Sequential(nn.ReLU()), r"no Linear or Conv layer"),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 1))),
                    r"parametrized"),
    "trained slope": (lambda: nn.Sequential(nn.Linear(5, 8), nn.PReLU(), nn.Linear(8, 1)),
                      r"'1' \(PReLU\) trains its slope"),
    "trained norm of the input": (lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 1)),
                                  r"'0' \(LayerNorm\) acts on the input itself and is trained"),
    "jump": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Threshold(0.5, 0.0), nn.Linear(8, 1)),
             r"jumps"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    build, message = REFUSED[name]
    with pytest.raises(NotApplicableError, match=message) as refused:
        kernel_of(build())
    assert "Septuple" not in str(refused.value) and "segments" not in str(refused.value)


def at_gram(model, shape):
    return kernel_of(model).gram(torch.ones(2, *shape, dtype=torch.float64))


def test_refused_where_the_shape_of_the_inputs_tells():
    head = [nn.Flatten(), nn.Linear(8, 1)]
    with pytest.raises(NotApplicableError, match="output has 4 positions per neuron"):
        at_gram(nn.Conv2d(2, 8, 2), (2, 3, 3))
    with pytest.raises(NotApplicableError, match=r"'1' \(Linear\) mixes positions \(axis 2"):
        at_gram(nn.Sequential(nn.Conv1d(2, 4, 1), nn.Linear(5, 2), *head), (2, 5))
    with pytest.raises(NotApplicableError, match=r"'1' \(LayerNorm\) normalizes over positions"):
        at_gram(nn.Sequential(nn.Conv1d(2, 4, 1), nn.LayerNorm(2), *head), (2, 2))
    with pytest.raises(NotApplicableError, match=r"'1' \(Unflatten\) regroups"):
        model = nn.Sequential(nn.Linear(5, 8), nn.Unflatten(1, (2, 4)), nn.ReLU(), *head)
        at_gram(model, (5,))
    with pytest.raises(NotApplicableError, match=r"'mean' averages over neurons"):
        model = Wired(lambda m, x: m.three(m.two(m.one(x)).mean(1, keepdim=True) * torch.ones(8)))
        model.wiring = lambda m, x: m.three(m.two(m.one(x)).mean(2))
        at_gram(model, (8, 5))
    with pytest.raises(NotApplicableError, match="broadcasting"):
        model = Wired(lambda m, x: m.three(m.one(x) + m.two(torch.relu(m.part0(x))).mean(1, True)),
                      nn.Linear(5, 8))  # fmt: skip
        at_gram(model, (3, 5))


def test_what_a_trace_does_not_show():
    with pytest.raises(NotApplicableError, match=r"do not reproduce its outputs.*in place"):
        at_gram(Wired(overwritten_sum), (5,))


def test_the_scale_of_a_norm_that_reaches_an_activation_by_a_sum():
    def wiring(m, x):
        z = m.part0(m.one(x))
        return m.three(torch.relu(z + m.two(torch.relu(z))))

    x = torch.ones(2, 5)
    model = Wired(wiring, nn.LayerNorm(8))
    with pytest.raises(NotApplicableError, match=r"'part0' \(LayerNorm\) through a sum"):
        kernel_of(model).gram(x)
    model.get_submodule("part0").requires_grad_(False)
    assert kernel_of(model).gram(x).shape == (2, 2)
    with pytest.raises(NotApplicableError, match="output neurons read layer '1'"):
        kernel_of(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8))).gram(x)


def test_norms_away_from_their_initial_values():
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    with torch.no_grad():
        model[1].bias[0] = 0.1
    with pytest.raises(NotApplicableError, match="not at its initial values"):
        kernel_of(model)


def test_bad_input():
    model = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 1))
    kernel = kernel_of(model)
    with pytest.raises(ValueError, match=r"shape \(n, 4\): layer '0' \(Linear\) gives"):
        kernel.gram(torch.ones(3, 4))
    for bad, message in (
        (torch.full((2, 5), torch.nan), "not finite"),
        (torch.ones(0, 5), "at least one sample"),
        (torch.ones(5), r"shape \(n, ...\)"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel.gram(bad)
    with pytest.raises(TypeError, match="real numbers"):
        kernel.gram([["a"] * 5])
    with pytest.raises(TypeError, match="real numbers"):
        kernel.gram(torch.ones(2, 5, dtype=torch.complex64))
    with pytest.raises(ValueError, match="X2 must have samples"):
        kernel.gram(torch.ones(2, 5), torch.ones(2, 4))
    with pytest.raises(TypeError, match="dtype"):
        kernel.gram(torch.ones(2, 5), dtype=torch.int32)
    with pytest.raises(ValueError, match="t must lie"):
        kernel(1.1)
    with pytest.raises(ValueError, match="5 features"):
        kernel.sphere_spectrum(6)
    with pytest.raises(ValueError, match="kind must be"):
        kernel_of(model, "gp")
    with pytest.raises(ValueError, match="parametrization must be"):
        kernel_of(model, parametrization="mup")
    with pytest.raises(TypeError, match=r"nn\.Module"):
        kernel_of("relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma_w2 must be"):
        kernel_of(model, sigma_w2=-1.0)
    with pytest.raises(ValueError, match=r"names 'head', which is no layer.*0, 2"):
        kernel_of(model, sigma_w2={"head": 1.0})
    with pytest.raises(ValueError, match=r"sigma_b2\['2'\]"):
        kernel_of(model, sigma_b2={"2": float("nan")})
    with pytest.raises(ValueError, match="has no bias"):
        kernel_of(nn.Linear(3, 1, bias=False), sigma_b2={"(model)": 1.0})
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'2' \(Linear\) has weights that are not finite"):
        kernel_of(model)
    frozen = nn.Linear(3, 1).requires_grad_(False)
    with pytest.raises(NotApplicableError, match="no parameter of the model requires a gradient"):
        kernel_of(frozen)
    assert kernel_of(frozen, "nngp").gram(torch.ones(2, 3)).shape == (2, 2)


def test_too_large():
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                          nn.Flatten(), nn.Linear(8, 1))  # fmt: skip
    kernel = kernel_of(model)
    with pytest.raises(ValueError, match=r"one pair of samples takes 122 GiB.*Flatten and Linear"):
        kernel.gram(torch.ones(2, 1, 179, 179))
    with pytest.raises(ValueError, match="more than hours"):
        kernel.gram(torch.rand(20, 1, 6, 6), memory=2e5, hours=1e-9)
    with pytest.raises(NotApplicableError, match=r"layer '0' \(Conv2d\) reads the input"):
        kernel(0.5)


# -- what is read ------------------------------------------------------------------------------
def test_default_initialization_of_torch():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 200))
    first, last = kernel_of(model).layers
    # uniform in +-1/sqrt(fan_in): variance 1 / (3 fan_in); 120000 and 60000 weights
    assert first.sigma_w2 == pytest.approx(1 / 3, rel=4 * (0.8 / 120000) ** 0.5)
    assert last.sigma_w2 == pytest.approx(1 / 3, rel=4 * (0.8 / 60000) ** 0.5)
    assert first.sigma_b2 == pytest.approx(1 / 1200, rel=4 * (0.8 / 300) ** 0.5)
    assert (first.fan_in, first.width, first.activation, last.activation) == (400, 300, "", "relu")
    assert first.source == "weights" and first.trained == (True, True)


def test_given_variances_and_what_is_said():
    model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 7, bias=False), nn.Tanh(),
                          nn.Linear(7, 2))  # fmt: skip
    model[0].weight.requires_grad_(False)
    kernel = kernel_of(model, sigma_w2={"2": 1.5}, sigma_b2=0.25)
    assert [r.source for r in kernel.layers] == ["given, weights", "given", "given, weights"]
    assert [r.sigma_b2 for r in kernel.layers] == [0.25, 0.0, 0.25]
    assert kernel.layers[1].sigma_w2 == 1.5
    text = str(kernel)
    for part in ("tangent kernel", "standard parametrization", "weight not trained", "'2' with 7",
                 "2 output neurons", "mean square of 14 weights only"):  # fmt: skip
        assert part in text, part
    assert "covariance of the outputs" in str(kernel_of(model, "nngp"))
    with pytest.raises(AttributeError):
        kernel.kind = "nngp"  # type: ignore[misc]


def notes_of(model, **variances):
    return " ".join(kernel_of(model, **variances).notes)


def uniform(*layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return nn.Sequential(*layers)


def test_weights_that_are_not_gaussian_in_a_first_layer_of_few_inputs():
    def model(d):
        return uniform(nn.Linear(d, 256), nn.Tanh(), nn.Linear(256, 1))

    text = notes_of(model(2))
    assert "'0' are not Gaussian (excess kurtosis -1." in text
    assert re.search(r"about 0\.1[1-3] of its", text)
    assert re.search(r", 0\.2[3-6] for inputs of one large entry", text)  # 1.2 / sqrt(24) = 0.245
    assert re.search(r"about 0\.03\d* of its", notes_of(model(7)))
    conv = uniform(nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 64, 4), nn.ReLU(), nn.Flatten(),
                   nn.Linear(384, 1))  # fmt: skip
    assert "'1' are not Gaussian" in notes_of(conv)
    # where it does not matter, and where the law is given
    assert "not Gaussian" not in notes_of(model(40))
    assert "not Gaussian" not in notes_of(uniform(nn.Linear(2, 256), nn.Linear(256, 1)))
    assert "not Gaussian" not in notes_of(model(2), sigma_w2=1.0)
    assert "not Gaussian" in notes_of(model(2), sigma_b2=1.0)
    normal = model(2)
    with torch.no_grad():
        normal[0].weight.normal_(generator=torch.Generator().manual_seed(0))
    assert "not Gaussian" not in notes_of(normal)
    with torch.no_grad():  # heavy tails
        normal[0].weight.pow_(3)
    assert "not Gaussian" in notes_of(normal)


def test_the_effect_of_uniform_weights_has_the_size_that_is_named():
    """E phi'(u)^2 |x|^2 of 400000 neurons with two inputs: the first layer's tangent kernel."""
    x = torch.tensor([[1.0, 1.0], [1.5, -1.5], [2.0, 0.5]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    uniform = 2 * torch.rand(2, 400_000, generator=generator, dtype=torch.float64) - 1
    normal = torch.randn(2, 400_000, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(2, 8, bias=False), nn.Tanh(), nn.Linear(8, 1, bias=False))
    model[2].requires_grad_(False)
    kernel = kernel_of(model, sigma_w2={"0": 2.0, "2": 1.0}).diagonal(x)
    for w, low, high in ((math.sqrt(3) * uniform, 0.02, 1.2 / math.sqrt(24)), (normal, 0, 0.004)):
        slopes = 1 - torch.tanh(x @ w) ** 2
        off = (slopes.square().mean(1) * x.square().sum(1) / kernel - 1).abs()
        assert (off >= low).all() and (off < high).all()
    assert off.max() < 4 * (slopes.square().std(1) / slopes.square().mean(1)).max() / 400_000**0.5


def test_weights_and_biases_that_have_a_mean():
    def model():
        return uniform(nn.Linear(40, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(),
                       nn.Linear(64, 1))  # fmt: skip

    assert "mean 0" not in notes_of(model())
    biased, positive = model(), model()
    nn.init.constant_(biased[0].bias, 0.3)
    nn.init.uniform_(positive[2].weight, 0.0, 0.1, torch.Generator().manual_seed(0))
    assert "'0' has biases (mean 0.3, root mean square 0.3) that are not of" in notes_of(biased)
    assert "'2' has weights (mean 0.05" in notes_of(positive)
    assert "mean 0" not in notes_of(biased, sigma_b2=0.1)
    assert "mean 0" not in notes_of(positive, sigma_w2=1.0)
    nn.init.zeros_(biased[0].bias)
    nn.init.constant_(biased[4].bias, 0.3)  # of the output
    assert "mean 0" not in notes_of(biased)


def test_inputs_of_zeros_without_a_bias():
    x = torch.cat([torch.zeros(1, 12), torch.ones(1, 12)]).double()
    model = nn.Sequential(nn.Linear(12, 64, bias=False), nn.Tanh(), nn.Linear(64, 1))
    kernel = kernel_of(model, sigma_w2=1.5)
    assert kernel.diagonal(x).isfinite().all()
    with pytest.raises(NotApplicableError, match=r"layer '1' .* reads exactly 0 .*sigma_b2"):
        kernel.gram(x)
    padded = nn.Sequential(nn.Conv1d(2, 8, 1, padding=1, bias=False), nn.Tanh(),
                           nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 1))  # fmt: skip
    with pytest.raises(NotApplicableError, match=r"layer '1' \(Tanh\) reads exactly 0 .*pad less"):
        kernel_of(padded).gram(torch.ones(2, 2, 3))


def test_a_single_layer():
    layer = nn.Linear(3, 1)
    x = torch.rand(4, 3, dtype=torch.float64)
    torch.testing.assert_close(kernel_of(layer).gram(x), x @ x.T + 1)
    w2, b2 = 3 * float(layer.weight.detach().double().square().mean()), layer.bias.item() ** 2
    torch.testing.assert_close(kernel_of(layer, "nngp").gram(x), w2 * x @ x.T / 3 + b2)


def test_the_module_stays_as_it_is():
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    model.train()
    model[3].eval()
    model[0].weight.grad = torch.ones(8, 5)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    kernel = kernel_of(model)
    first = kernel.gram(x)
    assert torch.equal(kernel_of(model.eval()).gram(x), first)
    model[3].eval()
    for m, mode in zip(model.modules(), modes, strict=True):
        m.training = mode
    assert torch.equal(torch.get_rng_state(), state) and not calls
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert model[0].weight.dtype == torch.float32 and torch.equal(
        model[0].weight.grad, torch.ones(8, 5)
    )
    with torch.no_grad():  # and the kernel does not follow the module
        model[0].weight.mul_(2)
    assert torch.equal(kernel.gram(x), first)


def test_training_mode_is_left_alone():
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[2].eval()
    kernel_of(model).gram(torch.ones(2, 5))
    assert [m.training for m in model.modules()] == [True, True, True, False]
