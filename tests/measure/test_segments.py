"""How models are cut: the rule, and what is refused by name."""

import pytest
import torch
from networks import residual_net
from torch import nn
from torch.nn import functional as F

from thermolearn.measure.canonical.segments import explicit_segments, segment_model


def cuts(model):
    return [segment.modules for segment in segment_model(model)]


def test_affine_norm_activation_is_one_segment():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    assert cuts(model) == [("0: Linear", "1: BatchNorm1d", "2: ReLU"), ("3: Linear",)]


def test_flatten_pool_dropout_join_the_next_and_trailing_ones_the_previous():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(8, 3), nn.Softmax(1), nn.Flatten(),
    )  # fmt: skip
    found = cuts(model)
    assert found[0] == ("0: Conv2d", "1: ReLU")
    assert found[1][:4] == ("2: MaxPool2d", "3: Flatten", "4: Dropout", "5: Linear")
    assert found[1][-1] == "7: Flatten" and len(found) == 2


def test_activation_behind_a_pool_belongs_to_the_affine_map():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
                          nn.Linear(8, 3))  # fmt: skip
    assert cuts(model)[0] == ("0: Conv2d", "1: MaxPool2d", "2: ReLU")


def test_residual_block_is_one_segment_and_composition_is_the_model():
    model, x = residual_net()
    segments = segment_model(model)
    assert [s.name for s in segments] == ["stem", "first", "head"]
    assert "second: Conv2d" in segments[1].modules and segments[1].modules[-1] == "tanh"
    y = x
    for segment in segments:
        y = segment.module(y)
    torch.testing.assert_close(y, model(x), rtol=0, atol=0)
    assert [s.elementwise for s in segments] == [True, False, False]
    assert segments[0].kinked and not segments[2].kinked


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        z = F.linear(x, self.weight)
        z = z * torch.sigmoid(z)
        return self.layer(z)


def test_functional_layers_and_composite_activations():
    segments = segment_model(Functional())
    assert len(segments) == 2 and all(s.elementwise for s in segments)
    assert [n for n, _ in segments[0].module.named_parameters()] == ["weight"]


def test_reordering_is_not_elementwise():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(2, 2, 1)

        def forward(self, x):
            return self.layer(x).transpose(1, 2)

    assert not segment_model(Swapped())[0].elementwise


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.LSTM(2, 2), "recurrent"),
        (nn.Sequential(nn.Linear(2, 2), nn.GRUCell(2, 2)), "module '1'"),
        (nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2)), "integer tokens"),
        (nn.Sequential(nn.Tanh()), "no layer with weights"),
        (nn.Bilinear(2, 2, 2), "inputs"),
        (nn.Sequential(nn.LazyLinear(3)), "uninitialized"),
    ],
)
def test_unsupported_models_are_named(model, words):
    with pytest.raises(TypeError, match=words):
        segment_model(model)


def test_control_flow_asks_for_segments():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(TypeError, match=r"segments=\["):
        segment_model(Branching())


def test_compiled_model_is_refused():
    with pytest.raises(TypeError, match="compile"):
        segment_model(torch.compile(nn.Linear(2, 2)))


def test_explicit_segments_are_split_where_possible():
    segments = explicit_segments([nn.Sequential(nn.Linear(2, 3), nn.Tanh()), lambda x: x**2])
    assert segments[0].elementwise and not segments[1].elementwise
    with pytest.raises(ValueError, match="empty"):
        explicit_segments([])
    with pytest.raises(TypeError, match="callable"):
        explicit_segments([3])
