"""The training loop against one written out here, and its promises at the edges."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn import train as training
from thermolearn.data import load
from thermolearn.models import build
from thermolearn.train import SquaredLoss, targets, train


class Recorder:
    """Stands where the Probe stands, to look at what the loop hands it."""

    def __init__(self):
        self.calls = []

    def step(self, x, y, loss):
        self.calls.append((x, y, float(loss.detach())))


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    made.given = {}

    def make(*args, **options):
        made.given = {**options, "every": args[4], "reference": args[3]}
        return made

    monkeypatch.setattr(training, "Probe", make)
    return made


@pytest.fixture(scope="module")
def iris():
    return load("iris")


def net(data, seed=0):
    return build("mlp:5", data.n_inputs, data.n_outputs, seed=seed)


def test_squared_loss_is_half_the_squared_distance():
    output = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    assert float(SquaredLoss()(output, output + 1)) == pytest.approx(1.0)
    classes = targets(torch.tensor([1, 0]), 2, "squared")
    assert float(SquaredLoss()(output, classes)) == pytest.approx((2 + 2) / 4)
    assert targets(classes, 2, "squared") is classes
    index = torch.tensor([1, 0])
    assert targets(index, 2, "cross-entropy") is index
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 1\)"):
        SquaredLoss()(output, torch.zeros(2, 1))


def test_loop_equals_one_written_out(recorder, iris):
    model, twin = net(iris), net(iris)
    train(model, iris, epochs=2, batch_size=50, lr=0.1, momentum=0.5, weight_decay=0.01, seed=3)
    order = np.random.default_rng(3)
    w = [p.detach().clone() for p in twin.parameters()]
    v = [torch.zeros_like(p) for p in w]
    for _ in range(2):
        permutation = order.permutation(112)
        for rows in (permutation[:50], permutation[50:100], permutation[100:]):
            w = [p.requires_grad_() for p in w]
            x, y = iris.x_train[rows], iris.y_train[rows]
            out = torch.tanh(x @ w[0].T + w[1]) @ w[2].T + w[3]
            loss = ((out - torch.eye(3)[y]) ** 2).sum() / (2 * len(rows))
            gradient = torch.autograd.grad(loss, w)
            with torch.no_grad():
                v = [0.5 * a + g + 0.01 * p for a, g, p in zip(v, gradient, w, strict=True)]
                w = [p - 0.1 * a for p, a in zip(w, v, strict=True)]
    for mine, theirs in zip(model.parameters(), w, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert len(recorder.calls) == 6


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_lowers_the_loss(recorder, iris, optimizer):
    run = train(net(iris), iris, optimizer=optimizer, epochs=20, loss="cross-entropy")
    losses = [loss for _, _, loss in recorder.calls]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert (run.steps, run.epochs, run.interrupted) == (80, 20, False)


def test_same_seed_same_bits_and_generators_restored(recorder, iris):
    def once(seed):
        model = nn.Sequential(net(iris), nn.Dropout(0.3))
        train(model, iris, epochs=2, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    np.random.seed(1)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = once(0)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])
    torch.manual_seed(2)
    assert torch.equal(first, once(0)) and not torch.equal(first, once(1))


def test_every_sample_comes_once_per_epoch(recorder, iris):
    train(net(iris), iris, epochs=1, batch_size=37)  # 112 = 3 * 37 + 1
    assert [len(x) for x, _, _ in recorder.calls] == [37, 37, 38]
    seen = torch.cat([x for x, _, _ in recorder.calls])
    assert torch.equal(seen.sort(0).values, iris.x_train.sort(0).values)


def test_what_the_probe_is_told(recorder, iris):
    train(net(iris), iris, epochs=1, every=7, beta=3.0, seed=5, log="run.jsonl", command="cmd")
    given = recorder.given
    assert (given["every"], given["beta"], given["seed"]) == (7, 3.0, 5)
    assert (given["energy"], given["log"], given["info"]["command"]) == (
        "squared", "run.jsonl", "cmd",
    )  # fmt: skip
    assert given["info"]["data"]["rule"] == iris.rule


def test_default_cadence_gives_a_fixed_number_of_snapshots(recorder, iris):
    for epochs, every in ((1, 1), (90, 6)):  # 4 steps per epoch
        train(net(iris), iris, epochs=epochs)
        assert recorder.given["every"] == every


class _Interrupting(nn.Module):
    """Sends Ctrl-C in the middle of its fifth forward pass in training mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.count = inner, 0

    def forward(self, x):
        self.count += self.training
        if self.training and self.count == 5:
            signal.raise_signal(signal.SIGINT)
        return self.inner(x)


def test_ctrl_c_ends_training_after_the_step_at_hand(recorder, iris):
    handler = signal.getsignal(signal.SIGINT)
    run = train(_Interrupting(net(iris)), iris, epochs=50)
    assert run.interrupted and run.steps == len(recorder.calls) == 5 and run.epochs == 2
    assert signal.getsignal(signal.SIGINT) is handler


def test_diverging_run_goes_on(recorder, iris):
    run = train(net(iris), iris, epochs=30, lr=1e3)
    assert run.steps == 120
    assert not math.isfinite(recorder.calls[-1][2])


def test_zero_epochs_leave_the_model_as_it_is(recorder, iris):
    model = net(iris)
    before = [p.clone() for p in model.parameters()]
    assert train(model, iris, epochs=0).steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of squared, cross-entropy"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of sgd"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum belongs to sgd"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options(recorder, iris, option, message):
    with pytest.raises(ValueError, match=message):
        train(net(iris), iris, **option)


def test_model_that_does_not_fit(recorder, iris):
    with pytest.raises(ValueError, match=r"not fit the target.*\(2, 2\).*one output per class"):
        train(build("mlp:5", 4, 2), iris)
    with pytest.raises(ValueError, match=r"does not take samples of shape \(4,\)"):
        train(build("mlp:5", 7, 3), iris)
    with pytest.raises(ValueError, match="one output per target"):
        train(build("mlp:5", 10, 2), load("diabetes"))
    with pytest.raises(ValueError, match="no parameters"):
        train(nn.Linear(4, 3).requires_grad_(False), iris)
    with pytest.raises(ValueError, match="cross-entropy needs classes"):
        train(build("mlp:5", 10, 1), load("diabetes"), loss="cross-entropy")


def test_check_leaves_modes_and_buffers(iris):
    model = nn.Sequential(nn.BatchNorm1d(4), net(iris))
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training.check_model(model, iris)
    assert model.training and model[0].training and not model[1].training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_reference_is_drawn_from_the_training_rows(iris):
    run = train(net(iris), iris, epochs=0, reference_size=20)
    with pytest.raises(ValueError, match="reference_size"):
        train(net(iris), iris, epochs=0, reference_size=0)
    run.probe.flush()
    header = run.probe.rows[0]
    assert header["reference"]["n"] == 20 and header["data"]["name"] == "iris"
