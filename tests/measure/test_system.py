"""States, losses and Jacobian blocks against naive derivatives of the whole network."""

import pytest
import torch
from networks import residual_net, sinnet
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.canonical import NeuronSystem, Septuple, septuple_of
from thermolearn.measure.canonical.operators import BlockOperator


def naive_blocks(system, x):
    """Derivative of each segment, one output neuron at a time by reverse mode."""
    states = system.states(x)
    blocks = []
    for layer in range(1, len(states)):
        rows = []
        for sample in range(len(x)):
            one = states[layer - 1][sample : sample + 1].clone().requires_grad_(True)
            out = system.apply(layer, one)
            rows.append(
                torch.stack(
                    [torch.autograd.grad(o, one, retain_graph=True)[0][0] for o in out.flatten()]
                )
            )
        blocks.append(torch.stack(rows))
    return blocks


def conv_net():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 4),
        nn.GELU(), nn.Dropout(), nn.Linear(4, 2),
    )  # fmt: skip
    return model.eval(), torch.randn(2, 2, 6)


@pytest.mark.parametrize("make", [residual_net, conv_net, lambda: sinnet([5, 7, 6, 4], 1.5)])
def test_blocks_equal_naive_derivatives(make):
    model, x = make()
    system = NeuronSystem(model)
    blocks = system.jacobian_blocks(x)
    assert blocks.widths == system.widths(x)
    for found, expected in zip(blocks, naive_blocks(system, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_blocks_chain_to_the_derivative_of_the_model():
    model, x = sinnet([5, 7, 6, 4], 1.5)
    j1, j2, j3 = NeuronSystem(model).jacobian_blocks(x)
    whole = torch.autograd.functional.jacobian(lambda u: model(u)[0], x)[:, 0]
    torch.testing.assert_close((j3 @ j2 @ j1)[0], whole)


@pytest.mark.parametrize("inputs", ["free", "clamped"])
def test_matrix_free_products_equal_the_blocks(inputs):
    model, x = residual_net()
    system = NeuronSystem(model, inputs=inputs)
    blocks, operator = system.jacobian_blocks(x), system.jacobian_operator(x)
    dense = BlockOperator(blocks, blocks.widths)
    v = torch.randn(3, 2, operator.size, dtype=torch.float64)
    torch.testing.assert_close(operator.gram(v), dense.gram(v))
    torch.testing.assert_close(operator.inverse_gram(v), dense.inverse_gram(v))
    torch.testing.assert_close(operator.inverse_gram(operator.gram(v)), v)


def test_float32_model_is_measured_in_float64_and_left_alone():
    model, x = conv_net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    blocks = NeuronSystem(model).jacobian_blocks(x)
    assert all(b.dtype == torch.float64 for b in blocks)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_bulk_loss_equals_boundary_loss_at_the_data_state():
    model, x = residual_net()
    system = NeuronSystem(model)
    y = torch.randn(3, 3, dtype=torch.float64)
    data = system.data_state(x, y)
    torch.testing.assert_close(system.bulk_loss(data, x), system.boundary_loss(x, y))
    assert system.bulk_loss(system.states(x), x).abs().max() < 1e-25
    # mass: V = -(m/2)|x - x*|^2 at the data state only sees the outputs
    expected = (1 - 0.3) * system.boundary_loss(x, y)
    torch.testing.assert_close(system.bulk_loss(data, x, mass=0.3), expected)


def test_clamped_inputs_must_hold_the_data():
    model, x = sinnet([3, 4, 2], 1.0)
    system = NeuronSystem(model, inputs="clamped")
    states = system.states(x)
    assert system.widths(x) == [4, 2] and len(system.jacobian_blocks(x)) == 1
    states[0] = states[0] + 1
    with pytest.raises(ValueError, match="clamped"):
        system.bulk_loss(states, x)


def test_explicit_septuple_is_the_same_system():
    model, x = conv_net()
    with pytest.raises(NotApplicableError, match="element-wise"):
        septuple_of(NeuronSystem(model), x)  # the pool is not
    model, x = sinnet([5, 7, 6, 4], 1.5)
    system = NeuronSystem(model)
    septuple = septuple_of(system, x)
    fixed = septuple.fixed_point(x)
    torch.testing.assert_close(fixed, torch.cat(system.states(x), 1))
    y = torch.ones(1, 4, dtype=torch.float64)
    torch.testing.assert_close(septuple.boundary_loss(x, y), system.boundary_loss(x, y))
    torch.testing.assert_close(septuple.bulk_loss(septuple.data_state(x, y)),
                               septuple.boundary_loss(x, y))  # fmt: skip
    assert torch.equal(septuple.projection("in") @ septuple.projection("out"),
                       torch.zeros(22, 22, dtype=torch.float64))  # fmt: skip


def test_recurrent_septuple_losses():
    generator = torch.Generator().manual_seed(0)
    w = 0.4 * torch.randn(6, 6, generator=generator, dtype=torch.float64) / 6**0.5
    septuple = Septuple(w, torch.full((6,), 0.1, dtype=torch.float64), torch.tanh, [0, 1], [5])
    data = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64)
    x = septuple.fixed_point(data)
    torch.testing.assert_close(x[:, :2], data)
    error = x - torch.tanh(x @ w.T + 0.1)
    assert error[:, 2:].abs().max() < 1e-11
    # unsupervised: the bulk loss at the data state is the loss of the input rows
    torch.testing.assert_close(
        septuple.boundary_loss(data, kind="unsupervised"), 0.5 * (error[:, :2] ** 2).sum(1)
    )
    torch.testing.assert_close(
        septuple.bulk_loss(x), septuple.boundary_loss(data, kind="unsupervised")
    )
    jacobian = septuple.jacobian(x)
    naive = torch.autograd.functional.jacobian(
        lambda u: torch.tanh(u @ w.T + 0.1), x[0]
    )  # fmt: skip
    torch.testing.assert_close(jacobian[0], naive)
    assert septuple.jacobian(x, clamp_inputs=True).shape == (2, 4, 4)


def test_unsettled_recurrence_is_an_error():
    w = torch.tensor([[0.0, -5.0], [5.0, 0.0]], dtype=torch.float64)
    septuple = Septuple(w, torch.tensor([0.5, 0.1]), torch.tanh, [], [])
    with pytest.raises(RuntimeError, match="does not settle"):
        septuple.fixed_point(max_iter=50)


def test_segments_given_by_the_user():
    model, x = sinnet([3, 4, 2], 1.0)
    system = NeuronSystem(model, segments=[model[:2], model[2]])
    auto = NeuronSystem(model).jacobian_blocks(x)
    for a, b in zip(system.jacobian_blocks(x), auto, strict=True):
        torch.testing.assert_close(a, b)
    assert [s["neurons"] for s in system.segmentation(x)] == [4, 2]
    wrong = NeuronSystem(model, segments=[model[0], model[2]])
    with pytest.raises(ValueError, match="do not compose"):
        wrong.states(x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": "loose"}, "inputs must be one of"),
        ({"reference": "nowhere"}, "reference must be one of"),
        ({"segments": "manual"}, "segments must be"),
    ],
)
def test_bad_options(change, words):
    model, _ = sinnet([3, 4, 2], 1.0)
    with pytest.raises(ValueError, match=words):
        NeuronSystem(model, **change)


def test_bad_models_and_data():
    model, x = sinnet([3, 4, 2], 1.0)
    system = NeuronSystem(model)
    with pytest.raises(ValueError, match="non-empty batch"):
        system.states(x[:0])
    with pytest.raises(ValueError, match="NaN"):
        system.states(x * float("nan"))
    with pytest.raises(TypeError, match="integer tokens"):
        system.states(torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="does not take states"):
        system.states(torch.ones(2, 4))
    with pytest.raises(ValueError, match="target has"):
        system.boundary_loss(x, torch.ones(1, 5))
    with pytest.raises(ValueError, match="training mode"):
        NeuronSystem(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train())
    with pytest.raises(ValueError, match="training mode"):
        NeuronSystem(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train())
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"0\.weight"):
        NeuronSystem(model)
