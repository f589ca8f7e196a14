"""Models that have fooled a cutter of graphs: states, blocks and products against the model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.measure.canonical import CanonicalEnsemble, NeuronSystem
from thermolearn.measure.canonical.operators import BlockOperator

pytestmark = [
    pytest.mark.filterwarnings("ignore:an activation has kinks"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]


class Net(nn.Module):
    """A forward pass given as a function of the module and its input."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def skip(m, x):
    return m.c(m.a(x) + torch.tanh(m.b(m.a(x))))


def one_affine_residual(m, x):
    h = torch.tanh(m.a(x))
    return m.c(h + torch.tanh(m.b(h)))


def gate(m, x):
    h = torch.tanh(m.a(x))
    return m.c(h * torch.sigmoid(m.b(h)))


def permuted(m, x):
    h = torch.tanh(m.a(x))
    return m.c(h[:, [5, 4, 3, 2, 1, 0]])


def transposed(m, x):
    return m.c(torch.tanh(m.a(x)).view(-1, 2, 3).transpose(1, 2).flatten(1))


def dead_branch(m, x):
    h = torch.tanh(m.a(x))
    y = m.c(h)
    m.b(h)
    return y


def batch_size_first(m, x):
    n = x.size(0)
    h = torch.tanh(m.a(x))
    h = torch.tanh(m.b(h))
    return m.c(h.view(n, -1))


def shape_first(m, x):
    n, _ = x.shape
    h = torch.tanh(m.b(torch.tanh(m.a(x))))
    return m.c(h.reshape(n, 6))


def in_place_on_input(m, x):
    x.mul_(0.5)
    return m.c(torch.tanh(m.a(x)))


def in_place_statement(m, x):
    h = m.a(x)
    h.tanh_()
    return m.c(h)


def in_place_skip(m, x):
    h = m.a(x)
    r = F.relu(h, inplace=True)
    return m.c(h + m.b(r))


def augmented(m, x):
    h = torch.tanh(m.a(x))
    h += torch.tanh(m.b(h))
    return m.c(h)


def weight_times(m, x):
    return m.c(torch.tanh(x @ m.a.weight.t() + m.a.bias))


CASES = [skip, one_affine_residual, gate, permuted, transposed, dead_branch, batch_size_first,
         shape_first, in_place_on_input, in_place_statement, in_place_skip, augmented,
         weight_times]  # fmt: skip


def make(function):
    torch.manual_seed(0)
    parts = {"a": nn.Linear(5, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 3)}
    x = torch.randn(3, 5, dtype=torch.float64)
    return Net(function, **parts).double().eval(), x


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_states_blocks_and_products(function):
    model, x = make(function)
    expected, before = model(x.clone()), x.clone()
    system = NeuronSystem(model)
    states = system.states(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(states[-1], expected)
    assert float(system.bulk_loss(states, x).max()) < 1e-25
    blocks = system.jacobian_blocks(x)
    for layer, block in enumerate(blocks, start=1):
        for j in range(0, block.shape[-1], 2):
            step = torch.zeros_like(states[layer - 1])
            step[:, j] = 1e-6
            up, down = (system.apply(layer, states[layer - 1] + s * step) for s in (1, -1))
            torch.testing.assert_close(block[:, :, j], (up - down) / 2e-6, rtol=1e-5, atol=1e-7)
    v = torch.randn(3, 2, sum(blocks.widths), dtype=torch.float64)
    operator = system.jacobian_operator(x)
    torch.testing.assert_close(operator.gram(v), BlockOperator(blocks, blocks.widths).gram(v))
    assert float(system.free_energy_laplacian(x, 2.0, 4)) != 0


@pytest.mark.parametrize(
    ("function", "widths"),
    [(batch_size_first, [5, 6, 6, 3]), (shape_first, [5, 6, 6, 3]), (dead_branch, [5, 6, 3]),
     (weight_times, [5, 6, 3]), (one_affine_residual, [5, 6, 6, 3])],
)  # fmt: skip
def test_no_neuron_vanishes(function, widths):
    model, x = make(function)
    assert NeuronSystem(model).widths(x) == widths


def test_a_residual_is_not_elementwise():
    for function in (one_affine_residual, gate):
        segments = NeuronSystem(make(function)[0]).segments
        assert [s.elementwise for s in segments] == [True, False, True]


def test_masked_weights_are_no_edges():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("mask", torch.tensor([[1.0, 0, 1, 0]] * 3))

        def forward(self, x):
            return torch.tanh(F.linear(x, self.layer.weight * self.mask, self.layer.bias))

    blocks = NeuronSystem(Masked().eval()).jacobian_blocks(torch.randn(2, 4))
    assert blocks.edges is not None and int(blocks.edges[0].sum()) == 6


def test_random_and_coupling_models_are_refused():
    def random(m, x):
        return m.c(F.dropout(m.a(x)))

    def coupled(m, x):
        h = m.a(x)
        return m.c(h - h.mean(0))

    model, x = make(random)
    with pytest.raises(TypeError, match="functional dropout"):
        NeuronSystem(model)
    model, x = make(coupled)
    with pytest.raises(TypeError, match="couples the samples"):
        NeuronSystem(model).states(x)
    system = NeuronSystem(model)
    system.widths(x[:1])  # a single sample first, as the probe asks for the widths
    with pytest.raises(TypeError, match="couples the samples"):
        system.states(x)


def test_explicit_segments_with_equal_local_names():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
    model = model.double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    auto = NeuronSystem(model).free_energy_laplacian(x, 3.0, 8)
    given = NeuronSystem(model, segments=list(model)).free_energy_laplacian(x, 3.0, 8)
    assert float(given) == pytest.approx(float(auto), rel=1e-10)  # the same probes


def test_modules_without_second_derivatives_are_named():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Linear(4, 8), layer, nn.Flatten()).eval()
    x = torch.randn(2, 8)
    system = NeuronSystem(model)
    with pytest.raises(TypeError, match="segment"):
        system.jacobian_operator(x).gram(torch.randn(2, 1, 8 + 16 + 16, dtype=torch.float64))
    with pytest.raises(TypeError, match="second derivatives"):
        system.free_energy_laplacian(x, 1.0, 2)


def test_huge_weights_are_not_called_unstable():
    # a layer that widens: J J^T is singular, and 1e12 squared drowns the 1 beside it
    generator = torch.Generator().manual_seed(0)
    blocks = [
        1e12 * torch.randn(2, b, a, generator=generator, dtype=torch.float64)
        for a, b in ((3, 6), (6, 4), (4, 2))
    ]
    with pytest.raises(RuntimeError, match="rounding"):
        _ = CanonicalEnsemble(blocks, 1.0).average_loss
