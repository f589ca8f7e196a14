"""Packed copies are the model's tensors, whatever happens to the model between two copies."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from thermolearn.core.copying import named_state
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure import packing
from thermolearn.measure.packing import Packer


class Mixed(nn.Module):
    """Several types and shapes, a buffer outside state_dict, tied weights, a scalar."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight
        self.norm, self.conv = nn.BatchNorm1d(3), nn.Conv2d(2, 3, 2).double()
        self.low = nn.Parameter(torch.randn(4).bfloat16())
        self.scalar = nn.Parameter(torch.tensor(2.0))
        self.empty = nn.Parameter(torch.zeros(0, 2))
        self.register_buffer("hidden", torch.randn(2, 5).t(), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("wave", torch.randn(2, dtype=torch.complex64).conj())


def check(packer, model):
    expected = {k: t.detach().clone() for k, t in named_state(model).items()}
    copy = packer.copy()
    with torch.no_grad():  # what the model does later must not reach the copy
        for t in named_state(model).values():
            t.copy_(torch.zeros_like(t))
    out = copy.unpack()
    assert list(out) == list(expected)
    for name, tensor in expected.items():
        assert out[name].dtype == tensor.dtype and out[name].shape == tensor.shape
        assert torch.equal(out[name], tensor) and not out[name].requires_grad
    assert copy.n_bytes == sum(t.numel() * t.element_size() for t in expected.values())
    with torch.no_grad():
        for name, t in named_state(model).items():
            t.copy_(expected[name])


def replace(m):
    m.a.weight = nn.Parameter(torch.randn(3, 3))


def swap_data(m):
    m.a.bias.data = torch.randn(3)


def transpose(m):
    m.a.weight.data = m.a.weight.data.t()


def reshape(m):
    m.a.bias.data = m.a.bias.data.view(3, 1)


def one_double(m):
    m.norm.weight.data = m.norm.weight.data.double()


def one_half(m):
    m.norm.weight.data = m.norm.weight.data.double()
    m.a.bias.data = m.a.bias.data.double()


def assign(m):
    m.load_state_dict({k: t.clone() + 1 for k, t in m.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change",
    [
        replace,
        swap_data,
        transpose,
        reshape,
        one_double,
        one_half,
        assign,
        lambda m: m.double(),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.register_buffer("late", torch.ones(2)),
        lambda m: setattr(m, "low", None),
        lambda m: m.add_module("more", nn.Linear(2, 2)),
        lambda m: setattr(m, "a", nn.Linear(2, 2)),
        lambda m: prune.l1_unstructured(m.a, "weight", 3),
        lambda m: parametrizations.weight_norm(m.a),
        lambda m: setattr(m.norm, "running_mean", torch.ones(3)),
    ],
)
def test_copies_follow_the_model(change):
    torch.manual_seed(0)
    model = Mixed()
    packer = Packer(model)
    check(packer, model)
    check(packer, model)
    change(model)
    check(packer, model)
    check(packer, model)


def test_large_tensors_are_copied_one_by_one(monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 8)
    model = Mixed()
    packer = Packer(model)
    assert {"a.weight", "hidden", "conv.weight"} <= set(packer.copy().single)
    check(packer, model)


def test_a_single_parameter_is_copied_not_viewed():
    model = nn.Linear(2, 1, bias=False)
    check(Packer(model), model)


def test_an_unchanged_model_is_walked_once(monkeypatch):
    walks = []
    model = Mixed()
    packer = Packer(model)
    walk = packer._walk
    monkeypatch.setattr(packer, "_walk", lambda: walks.append(walk()))
    for _ in range(5):
        packer.copy()
    assert len(walks) == 1


def test_lazy_parameters_are_refused_until_they_exist():
    model = nn.Sequential(nn.LazyLinear(2))
    packer = Packer(model)
    with pytest.raises(NotApplicableError, match="not initialized"):
        packer.copy()
    model(torch.randn(1, 3))
    check(packer, model)
