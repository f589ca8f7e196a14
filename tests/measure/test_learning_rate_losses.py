"""Losses that see the model, hold state, have no lower bound or fail; what the answer then says."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.core.copying import fingerprint
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.learning_rate import LearningRate, recommend_lr
from thermolearn.measure.learning_rate.copies import copy_training
from thermolearn.measure.learning_rate.trial import batches
from thermolearn.measure.probe import Probe

G = torch.Generator().manual_seed(0)
X = torch.randn(128, 5, generator=G)
Y = X @ torch.randn(5, 1, generator=G) + 0.1 * torch.randn(128, 1, generator=G)
C = 100.0


def linear(bias=True, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(5, 1, bias=bias)
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.01, **settings})


def penalized(model, out, y):
    return F.mse_loss(out, y) + C * sum(p.square().sum() for p in model.parameters())


class Penalized(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, out, y):
        self.calls += 1
        return penalized(self.model, out, y)


class Counting:
    """A callable with state."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, out, y):
        self.calls += 1
        return penalized(self.model, out, y)


def counted(model):
    calls = [0]

    def loss(out, y):
        calls[0] += 1
        return penalized(model, out, y)

    loss.calls = calls
    return loss


HOLDERS = {
    "module": Penalized,
    "bound method": lambda m: Penalized(m).forward,
    "callable": Counting,
    "partial": lambda m: functools.partial(penalized, m),
    "closure": lambda m: lambda out, y: penalized(m, out, y),
    "closure with state": counted,
}


# -- a loss that sees the model --------------------------------------------------------------------
@pytest.mark.parametrize("name", HOLDERS)
def test_a_penalty_that_holds_the_model_is_trained(name):
    # the penalty C |w|^2 adds 2 C to every curvature: exact edge 2 / (top + 2 C)
    model, optimizer = linear()
    z = torch.cat([X, torch.ones(128, 1)], 1)
    exact = 2 / (float(torch.linalg.eigvalsh(2 * z.T @ z / 128)[-1]) + 2 * C)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    loss = HOLDERS[name](model)
    before = fingerprint(model, optimizer)
    r = recommend_lr(model, loss, (X, Y), optimizer, steps=64, batch_size=128)
    assert r.edge.low / 1.15 < exact < r.edge.high
    assert fingerprint(model, optimizer) == before
    calls = getattr(getattr(loss, "__self__", loss), "calls", 0)
    assert float(calls[0] if isinstance(calls, list) else calls) == 0


def test_the_copies_model_is_that_of_the_loss():
    model, optimizer = linear()
    loss = Penalized(model).eval()
    twin, criterion, stepper = copy_training(model, loss, optimizer)
    assert criterion.model is twin is not model
    assert twin.training
    assert not criterion.training
    assert {id(p) for p in twin.parameters()} == {
        id(p) for g in stepper.param_groups for p in g["params"]
    }


MODEL, _ = linear()  # what a loss can read from outside


def test_a_loss_that_reads_the_model_from_outside_is_refused():
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=0.01)
    MODEL.weight.grad, MODEL.bias.grad = torch.ones(1, 5), None
    before, gradient = fingerprint(MODEL, optimizer), MODEL.weight.grad
    for loss in (lambda out, y: penalized(MODEL, out, y), Late(40)):
        with pytest.raises(NotApplicableError, match=r"Module that holds the model.*weight_decay"):
            recommend_lr(MODEL, loss, (X, Y), optimizer, steps=64)
        assert fingerprint(MODEL, optimizer) == before
        assert MODEL.weight.grad is gradient
        assert MODEL.bias.grad is None


class Late:
    """Reads the model only after some calls."""

    def __init__(self, after):
        self.after = after

    def __call__(self, out, y):
        self.after -= 1
        late = MODEL.weight.square().sum() if self.after < 0 else 0.0
        return F.mse_loss(out, y) + 1e-3 * late


def test_buffers_that_a_loss_moves_are_put_back():
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    globals()["NETWORK"] = network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def consistent(out, y):
        with torch.no_grad():
            NETWORK(X)  # noqa: F821
        return F.mse_loss(out, y)

    before = fingerprint(network, optimizer)
    with pytest.raises(NotApplicableError, match="buffers"):
        recommend_lr(network, consistent, (X, Y), optimizer, steps=64)
    assert fingerprint(network, optimizer) == before


def test_a_state_that_cannot_be_copied_is_refused():
    import threading

    class Locked(Counting):
        def __init__(self, model):
            super().__init__(model)
            self.lock = threading.Lock()

    model, optimizer = linear()
    with pytest.raises(NotApplicableError, match="cannot be copied"):
        recommend_lr(model, Locked(model), (X, Y), optimizer, steps=64)


def test_in_a_run_a_loss_with_a_model_is_not_applicable(tmp_path):
    model, optimizer = linear()
    loss = Penalized(model)
    probe = Probe(model, loss, optimizer, reference=(X, Y), every=2, quantities=[LearningRate()])
    for _ in range(4):
        optimizer.zero_grad()
        value = loss(model(X), Y) / C
        value.backward()
        optimizer.step()
        probe.step(X, Y, value)
    probe.report(tmp_path / "report.html")
    rows = [r for r in probe.rows if r.get("quantity") == "learning_rate"]
    assert "holds parameters, or a model" in str(rows)


# -- the interval ----------------------------------------------------------------------------------
def stretched(kappa, n=128, d=6):
    """Least squares whose inputs have variances from 1 to 1/kappa."""
    g = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -math.log10(kappa) / 2, d)
    z = torch.randn(n, d, generator=g)
    noise = 0.05 * torch.randn(n, 1, generator=g)
    return z * scales, z.sum(1, keepdim=True) + noise


def final(state, pair, rate, steps):
    """Loss after full-batch gradient descent."""
    model = nn.Linear(pair[0].shape[1], 1)
    model.load_state_dict(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(pair[0]), pair[1]).backward()
        optimizer.step()
    return float(F.mse_loss(model(pair[0]), pair[1]).detach())


@pytest.mark.parametrize("seed", [0, 1])
def test_no_rate_of_the_interval_is_much_worse(seed):
    # without noise between the seeds the margin is 1% of the loss reached, not of that at the start
    pair = stretched(100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    r = recommend_lr(model, nn.MSELoss(), pair, optimizer, steps=400, batch_size=128)
    best = final(model.state_dict(), pair, r.lr, 400)
    for rate in r.interval:
        assert final(model.state_dict(), pair, rate, 400) < 1.05 * best
    assert final(model.state_dict(), pair, r.lr / 4, 400) > 10 * best
    assert r.estimate.stderr >= 0.4 * r.lr  # the rates tried are a factor of 2.5 apart
    assert "1%" in str(r)


def test_a_choice_at_the_cap_is_said_to_be_one():
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    r = recommend_lr(model, nn.MSELoss(), stretched(100), optimizer, steps=100, batch_size=128)
    assert r.lr == r.interval[1] == pytest.approx(r.edge.low / 2)
    assert r.capped
    assert "largest rate allowed" in r.note
    assert "the largest compared" in str(r)
    free = recommend_lr(
        model, nn.MSELoss(), stretched(100), optimizer, steps=100, batch_size=128, backoff=1.01
    )
    assert not (free.capped and free.lr < 0.9 * free.interval[1])


def test_the_loss_reached_has_no_borrowed_error_bar():
    model, optimizer = linear()
    r = recommend_lr(model, nn.MSELoss(), (X, Y), optimizer, steps=64)
    assert math.isfinite(float(r.loss))
    assert math.isnan(r.loss.stderr)
    assert "first seed" in r.loss.note


# -- no rate, and why ------------------------------------------------------------------------------
def test_a_start_far_too_small_is_followed_up():
    found = [recommend_lr(*task(lr), steps=100) for lr in (1e-12, 0.01)]
    assert found[0].status == found[1].status == "ok"
    assert 0.1 < found[0].lr / found[1].lr < 10


def task(lr):
    model, optimizer = linear(lr=lr)
    return model, nn.MSELoss(), (X, Y), optimizer


def test_beyond_reach_a_larger_start_is_asked_for():
    r = recommend_lr(*task(1e-26), steps=64)
    assert math.isnan(r.lr)
    assert "start the search from a larger rate" in r.note
    assert "initialization" not in r.note


def test_one_sample_and_equal_targets_are_learned():
    for pair in ((X[:1], Y[:1]), (X, torch.ones(128, 1))):
        model, optimizer = linear()
        r = recommend_lr(model, nn.MSELoss(), pair, optimizer, steps=64)
        assert r.lr > 0
        assert float(r.loss) < 0.1 * r.start_loss
        assert math.isnan(r.constant_loss)


def test_maximizing_is_refused():
    model, optimizer = linear(maximize=True)
    with pytest.raises(NotApplicableError, match="maximize=True"):
        recommend_lr(model, nn.MSELoss(), (X, Y), optimizer, steps=64)


@pytest.mark.parametrize(
    "loss", [lambda out, y: -F.mse_loss(out, y), lambda out, y: -out.mean()], ids=["-mse", "-mean"]
)
def test_a_loss_without_a_lower_bound_is_named(loss):
    model, optimizer = linear()
    r = recommend_lr(model, loss, (X, Y), optimizer, steps=100)
    assert r.status == "unbounded"
    assert "no lower bound" in r.note
    assert math.isnan(r.lr)


def test_without_a_gradient_a_larger_start_is_not_asked_for():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1), nn.ReLU())
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    r = recommend_lr(model, nn.MSELoss(), (X, Y), optimizer, steps=64, cost=9)
    assert r.status == "plateau"
    assert "initialization first" in r.note


# -- batches and failures --------------------------------------------------------------------------
class Shifting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, x):
        x -= 0.5
        return self.linear(x)


def test_a_forward_that_works_in_place_changes_no_samples():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Shifting()
    plain = nn.Sequential(model.linear)
    x = X.clone()
    found = []
    for network, data in ((model, (x, Y)), (plain, (X - 0.5, Y))):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        found.append(recommend_lr(network, nn.MSELoss(), data, optimizer, steps=64))
    assert torch.equal(x, X)
    assert found[0].trials == found[1].trials
    assert found[0].constant_loss == found[1].constant_loss


@pytest.mark.parametrize(("n", "sizes"), [(97, [32, 32, 33]), (96, [32] * 3), (98, [32] * 3 + [2])])
def test_a_last_batch_of_one_joins_the_one_before(n, sizes):
    order = batches(n, 32, 0)
    rows = [next(order) for _ in sizes]
    assert [len(r) for r in rows] == sizes
    assert sorted(torch.cat(rows).tolist()) == list(range(n))
    assert [len(r) for r in (next(batches(1, 32, 0)), next(batches(3, 1, 0)))] == [1, 1]


def test_batch_normalization_with_one_sample_left_over():
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    r = recommend_lr(network, nn.MSELoss(), (X[:97], Y[:97]), optimizer, steps=64)
    assert r.lr > 0
    with pytest.raises(NotApplicableError, match=r"batch of 1 of the samples \(ValueError"):
        recommend_lr(network, nn.MSELoss(), (X, Y), optimizer, steps=64, batch_size=1)


def test_any_error_of_the_users_is_not_applicable():
    def picky(out, y):
        if out.abs().max() > 10:
            raise ValueError("out of my range")
        return F.mse_loss(out, y)

    model, optimizer = linear()
    with pytest.raises(NotApplicableError, match=r"ValueError: out of my range"):
        recommend_lr(model, picky, (X, Y), optimizer, steps=64)
