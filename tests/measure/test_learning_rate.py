"""The recommended learning rate: exact edges, untouched objects, refusals, plateaus."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from thermolearn.core.copying import fingerprint, untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.learning_rate import recommend_lr
from thermolearn.measure.learning_rate.trial import Task, advance, seed_globals, start_trial

N = 96
G = torch.Generator().manual_seed(0)
X = torch.randn(N, 6, generator=G)
Y = (X[:, 0] + 0.5 * X[:, 1] * X[:, 2] > 0).long()
LOSS = nn.CrossEntropyLoss()
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
}


def network(seed=0, *extra):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), *extra, nn.Tanh(), nn.Linear(16, 2))


def deep(depth, sigma_w2, n_inputs=6, n_outputs=2, width=24):
    g = torch.Generator().manual_seed(1)
    sizes = [n_inputs, *[width] * depth, n_outputs]
    layers = []
    for a, b in itertools.pairwise(sizes):
        linear = nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.normal_(0, math.sqrt(sigma_w2 / a), generator=g)
            linear.bias.zero_()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.01, **settings})


# -- exact -----------------------------------------------------------------------------------------
def least_squares():
    """Full-batch least squares: the largest curvature of the mean squared error is exact."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(64, 3, generator=g, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    top = float(torch.linalg.eigvalsh(2 * x.T @ x / 64)[-1])
    return nn.Linear(3, 1, bias=False).double(), (x, y), top


@pytest.mark.parametrize(("momentum", "start"), [(0.0, 1e-4), (0.0, 30.0), (0.8, 0.02)])
def test_the_edge_of_least_squares_is_two_over_the_curvature(momentum, start):
    # heavy-ball on a quadratic diverges above 2 (1 + momentum) / lambda; a trial of finite length
    # needs a little more to show it
    model, data, top = least_squares()
    optimizer = sgd(model, lr=start, momentum=momentum)
    r = recommend_lr(model, nn.MSELoss(), data, optimizer, batch_size=64, steps=600)
    exact = 2 * (1 + momentum) / top
    assert r.edge.low / 1.15 < exact < r.edge.high
    assert r.edge.high / r.edge.low <= 2 + 1e-9
    assert r.lr <= r.edge.low / 2 * (1 + 1e-9)
    assert r.status in ("ok", "lowest tried")
    assert float(r.loss) < 1e-4 * r.start_loss


def test_a_trial_is_the_plain_loop_bit_for_bit():
    model, data = network(), (X, Y)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    task = Task(model, LOSS, optimizer, data, data, 32, (1e-3,))
    with untouched():
        trial = start_trial(task, 10.0, 5, 0.7)
        advance(task, trial, 7, 1.0)
        advance(task, trial, 11, 1.0)
    twin = copy.deepcopy(model)
    stepper = torch.optim.Adam(twin.parameters(), lr=1e-2)
    g, done = torch.Generator().manual_seed(5), 0
    while done < 11:
        for rows in torch.randperm(N, generator=g).split(32):
            stepper.zero_grad()
            LOSS(twin(X[rows]), Y[rows]).backward()
            stepper.step()
            done += 1
            if done == 11:
                break
    with torch.no_grad():
        parts = [float(LOSS(twin(x), y)) for x, y in zip(X.split(32), Y.split(32), strict=True)]
    assert trial.last == sum(parts) / 3
    assert trial.steps == 11


def test_the_optimizer_state_goes_on():
    model = network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    for _ in range(3):
        LOSS(model(X), Y).backward()
        optimizer.step()
    task = Task(model, LOSS, optimizer, (X, Y), (X, Y), 32, (0.01,))
    with untouched():
        trial = start_trial(task, 1.0, 0, 0.7)
    _, _, stepper, _ = trial._state
    for p, q in zip(model.parameters(), stepper.param_groups[0]["params"], strict=True):
        assert p is not q
        ours, theirs = stepper.state[q]["momentum_buffer"], optimizer.state[p]["momentum_buffer"]
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


# -- what comes back -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gets_a_rate_that_learns(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    r = recommend_lr(model, LOSS, (X, Y), optimizer, steps=150)
    assert r.status in ("ok", "lowest tried")
    assert r.interval[0] <= r.lr <= r.interval[1]
    assert 0 < r.lr <= r.edge.low / 2 * (1 + 1e-9) < r.edge.high
    assert float(r.loss) < 0.7 * r.start_loss
    assert r.cost == sum(t.steps for t in r.trials)
    assert r.cost <= 3.5 * 150
    assert {t.seed for t in r.trials} == {0, 1, 2}
    for rate in (r.edge.low, r.edge.high):
        found = [t for t in r.trials if t.lr == pytest.approx(rate)]
        assert any(t.diverged for t in found) == (rate == r.edge.high)
    assert len([t for t in r.trials if t.lr == pytest.approx(r.edge.low)]) == 3
    assert all(bool(t.reason) == t.diverged for t in r.trials)
    table = r.table()
    assert len(table["rows"]) == len(r.trials)
    assert table["columns"][0] == "lr"
    assert f"{r.lr:.3g}" in str(r)


def test_same_seed_same_bits_and_the_starting_rate_hardly_matters():
    model = network(0, nn.Dropout(0.2))
    results = []
    for k, start in enumerate((0.01, 0.01, 3e-4, 10.0)):
        torch.manual_seed(k)  # global generators have no say
        r = recommend_lr(model, LOSS, (X, Y), sgd(model, lr=start), steps=100)
        results.append(r)
    assert results[0] == results[1] or str(results[0]) == str(results[1])
    assert results[0].trials == results[1].trials
    for r in results[2:]:
        assert max(r.edge.low, results[0].edge.low) < 1.3 * min(r.edge.high, results[0].edge.high)
        assert 1 / 8 < r.lr / results[0].lr < 8


def test_groups_keep_their_ratios():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.01},
        {"params": model[2].parameters(), "lr": 0.04},
    ]
    optimizer = torch.optim.SGD(groups)
    r = recommend_lr(model, LOSS, (X, Y), optimizer, steps=100)
    assert r.rates[1] == pytest.approx(4 * r.rates[0])
    assert r.rates[0] == r.lr
    assert any("ratios" in note for note in r.notes)
    r.apply_(optimizer)
    assert [g["lr"] for g in optimizer.param_groups] == list(r.rates)
    with pytest.raises(ValueError, match="parameter groups"):
        r.apply_(sgd(model))


def test_tied_and_frozen_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.b.weight = self.a.weight
            self.a.bias.requires_grad_(False)

        def forward(self, x):
            return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tied()
    task = Task(model, LOSS, sgd(model), (X, Y), (X, Y), 32, (0.01,))
    with untouched():
        trial = start_trial(task, 1.0, 0, 0.7)
        advance(task, trial, 5, 1.0)
    twin = trial._state[0]
    assert twin.a.weight is twin.b.weight
    assert torch.equal(twin.a.bias, model.a.bias)
    assert not torch.equal(twin.a.weight, model.a.weight)
    assert recommend_lr(model, LOSS, (X, Y), sgd(model), steps=100).lr > 0


def test_a_scheduler_is_said_to_be_unseen():
    model = network()
    optimizer = sgd(model)
    torch.optim.lr_scheduler.StepLR(optimizer, 10)
    r = recommend_lr(model, LOSS, (X, Y), optimizer, steps=100)
    assert "scheduler" in " ".join(r.notes)
    assert any("initial_lr" in note for note in r.notes)


def test_a_negative_loss_is_no_divergence():
    def nll(out, y):
        return 0.5 * (out[:, 1] + (y - out[:, 0]) ** 2 * torch.exp(-out[:, 1])).mean() - 5

    m = network()
    r = recommend_lr(m, nll, (X, X[:, 0]), sgd(m), steps=100)
    assert r.lr > 0
    assert float(r.loss) < r.start_loss < 0


# -- nothing is changed ----------------------------------------------------------------------------
class Failing(nn.Module):
    """Raises at the k-th call."""

    def __init__(self, after, error):
        super().__init__()
        self.after, self.error = after, error
        self.calls = [0]

    def __deepcopy__(self, memo):
        return self

    def forward(self, out, y):
        self.calls[0] += 1
        if self.calls[0] > self.after:
            raise self.error
        return nn.functional.cross_entropy(out, y)


@pytest.mark.parametrize("error", [None, RuntimeError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_everything_is_as_before(name, error):
    model = network(0, nn.BatchNorm1d(16), nn.Dropout(0.3))
    model[2].eval()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(2):
        LOSS(model(X), Y).backward()
        optimizer.step()
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    model[0].register_forward_hook(lambda *_: steps.append(2))
    before = fingerprint(model, optimizer)
    groups = copy.deepcopy([{k: v for k, v in g.items() if k != "params"}
                            for g in optimizer.param_groups])  # fmt: skip
    if error is None:
        r = recommend_lr(model, LOSS, (X, Y), optimizer, steps=80)
        assert r.lr > 0
    else:
        expected = NotApplicableError if isinstance(error, RuntimeError) else KeyboardInterrupt
        for after in (0, 30, 200):
            with pytest.raises(expected):
                recommend_lr(model, Failing(after, error), (X, Y), optimizer, steps=80)
    assert fingerprint(model, optimizer) == before
    assert groups == [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    assert not steps  # the user's hooks were not called either


def test_a_model_in_eval_mode_is_trained_in_train_mode():
    seen = set()

    class Watch(nn.Module):
        def forward(self, x):
            seen.add(self.training)
            return x

    model = network(0, Watch()).eval()
    recommend_lr(model, LOSS, (X, Y), sgd(model), steps=64)
    assert seen == {True}
    assert not model.training


# -- plateaus --------------------------------------------------------------------------------------
def test_a_dead_network_is_told_to_be_initialized_first():
    model = deep(40, 0.5)
    before = fingerprint(model, optimizer := sgd(model, lr=1.0))
    r = recommend_lr(model, LOSS, (X[:32], Y[:32]), optimizer, steps=64, cost=3)
    assert r.status == "plateau"
    assert "initialization first" in r.note
    assert math.isnan(r.lr)
    assert r.output_spread < 1e-3
    assert fingerprint(model, optimizer) == before
    with pytest.raises(ValueError, match="initialization first"):
        r.apply_(optimizer)
    alive = deep(3, 1.2)
    r = recommend_lr(alive, LOSS, (X, Y), sgd(alive), steps=64)
    assert r.status != "plateau"
    assert r.output_spread > 0.1


def test_at_a_minimum_nothing_is_recommended():
    model, data, _ = least_squares()
    x, y = data
    y = y + torch.randn(64, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    r = recommend_lr(model, nn.MSELoss(), (x, y), sgd(model), batch_size=64, steps=100)
    assert r.status == "plateau"
    assert "minimum" in r.note
    assert math.isnan(r.lr)


def test_scale_invariant_weights_have_no_edge():
    class Direction(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return x @ nn.functional.normalize(self.w, dim=0)

    model = Direction()
    r = recommend_lr(model, nn.MSELoss(), (X, X[:, 0]), sgd(model), batch_size=N, steps=64, cost=9)
    assert r.edge.high == math.inf
    assert r.status == "no edge"
    assert "no rate diverged" in r.note
    assert "not fin" not in str(r)


# -- refusals --------------------------------------------------------------------------------------
class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        pass


class Closing(NoRate):
    def step(self, closure):
        pass


def frozen():
    model = network()
    for p in model[0].parameters():
        p.requires_grad_(False)
    return model, torch.optim.SGD(model[0].parameters(), lr=0.1)


def poisoned():
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    return model, sgd(model)


def on_two_devices():
    model = network()
    model.extra = nn.Linear(2, 2, device="meta")
    return model, sgd(model)


def without_parameters():
    return nn.Tanh(), sgd(network())


CASES = {
    "closure": (lambda: (m := network(), torch.optim.LBFGS(m.parameters())), "closure"),
    "own closure": (lambda: (m := network(), Closing(m.parameters())), "closure"),
    "no lr": (lambda: (m := network(), NoRate(m.parameters())), "no lr"),
    "float16": (lambda: (m := network().half(), sgd(m)), "float16"),
    "frozen": (frozen, "frozen"),
    "nan": (poisoned, "the loss is nan"),
    "devices": (on_two_devices, "meta"),
    "nothing to train": (without_parameters, "no parameter"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_searched_is_refused(name):
    make, match = CASES[name]
    model, optimizer = make()
    with pytest.raises(NotApplicableError, match=match):
        recommend_lr(model, LOSS, (X, Y), optimizer)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"seeds": 2}, "seeds"),
        ({"seed": -1}, "seed"),
        ({"steps": 10}, "steps"),
        ({"backoff": 1.0}, "backoff"),
        ({"cost": math.nan}, "cost"),
    ],
)
def test_bad_numbers_name_the_argument(changed, match):
    model = network()
    with pytest.raises(ValueError, match=match):
        recommend_lr(model, LOSS, (X, Y), sgd(model), **changed)


def test_bad_objects_name_the_argument():
    model = network()
    with pytest.raises(TypeError, match="model"):
        recommend_lr(lambda x: x, LOSS, (X, Y), sgd(model))
    with pytest.raises(TypeError, match="data"):
        recommend_lr(model, LOSS, X, sgd(model))
    with pytest.raises(TypeError, match="optimizer"):
        recommend_lr(model, LOSS, (X, Y), "sgd")
    with pytest.raises(ValueError, match="none of the model"):
        recommend_lr(model, LOSS, (X, Y), sgd(network()))
    with pytest.raises(ValueError, match="learning rates are 0"):
        recommend_lr(model, LOSS, (X, Y), sgd(model, lr=0.0))
    with pytest.raises(ValueError, match="one number"):
        recommend_lr(model, nn.CrossEntropyLoss(reduction="none"), (X, Y), sgd(model))
    with pytest.raises(NotApplicableError, match="do not run"):
        recommend_lr(model, LOSS, (X[:, :3], Y), sgd(model))
    sparse = torch.optim.SparseAdam(model.parameters())
    with pytest.raises(NotApplicableError, match="training step"):
        recommend_lr(model, LOSS, (X, Y), sparse)


def test_seeding_is_only_for_inside():
    with untouched():
        seed_globals(3, 4)
        a = torch.rand(2)
        seed_globals(3, 4)
        assert torch.equal(a, torch.rand(2))
