"""The virial thermometer: exact identities of the optimizer, then runs, then every bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.noise import VirialSides, VirialThermometer, thermometer, virial_sides
from thermolearn.measure.noise.steadiness import (
    DRIFTS,
    LIMIT,
    STEADY,
    UNTOLD,
    BinnedSeries,
    drift_of_path,
    judge,
    repeats,
)

SGD = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.7, "dampening": 0.3, "weight_decay": 0.05},
    "nesterov": {"momentum": 0.8, "nesterov": True},
    "nesterov, decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    "maximize": {"momentum": 0.5, "weight_decay": 0.1, "maximize": True},
    "nesterov, maximize": {"momentum": 0.8, "nesterov": True, "maximize": True},
}
# foreach leaves g + m v in the gradients of Nesterov's momentum; nothing else may
KINDS = {
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
    "fused": {"fused": True},
    "differentiable": {"differentiable": True},
}


def network(dtype=torch.float64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def loss_of(model, k, sign=1.0):
    x, y = numbers(16, 4, seed=k), numbers(16, 3, seed=1000 + k)
    return sign * nn.functional.mse_loss(model(x), y)


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


class Naive:
    """theta and g copied before the step, the velocity rebuilt: the definitions, word by word."""

    def __init__(self, parameters, lr, momentum=0.0, dampening=0.0, weight_decay=0.0,
                 nesterov=False, maximize=False):  # fmt: skip
        self.parameters, self.lr, self.m = list(parameters), lr, momentum
        self.t, self.decay, self.nesterov, self.maximize = (
            dampening, weight_decay, nesterov, maximize)  # fmt: skip
        self.v = None

    def step(self):
        theta = flat(self.parameters)
        g = flat([p.grad for p in self.parameters]) * (-1 if self.maximize else 1)
        g = g + self.decay * theta
        self.v = g if self.v is None else self.m * self.v + (1 - self.t) * g
        m, lr = self.m, self.lr
        if m == 0:
            right = lr / 2 * g @ g
        elif self.nesterov:
            u = g + m * self.v
            right = lr * ((1 - m) / 2 * u @ u + m**2 * u @ self.v)
        else:
            right = lr * (1 + m) / (2 * (1 - self.t)) * self.v @ self.v
        return float(theta @ g), float(right)

    def phi(self):
        theta, m = flat(self.parameters), self.m
        c = m**2 if self.nesterov else m
        return float((1 - m) * theta @ theta / (2 * self.lr) - c * theta @ self.v) / (1 - self.t)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SGD)
def test_both_sides_and_their_difference_are_exact(name, kind):
    model = network()
    settings = SGD[name]
    if kind == "differentiable":  # torch does not step leaves that require a gradient
        tensors = [p.detach().clone() for p in model.parameters()]
        check_steps(lambda k: None, tensors, settings, KINDS[kind])
        return
    sign = -1.0 if settings.get("maximize") else 1.0

    def backward(k):
        model.zero_grad()
        loss_of(model, k, sign).backward()

    check_steps(backward, list(model.parameters()), settings, KINDS[kind])


def check_steps(backward, parameters, settings, kind):
    optimizer = torch.optim.SGD(parameters, lr=0.05, **settings, **kind)
    naive = Naive(parameters, 0.05, **settings)
    sides = VirialSides(optimizer)
    expected, gap = [], 0.0
    for k in range(30):
        backward(k)
        if not parameters[0].requires_grad:
            for j, p in enumerate(parameters):
                p.grad = numbers(*p.shape, seed=10 * k + j) + p
        expected.append(naive.step())
        sides.before()
        optimizer.step()
        assert sides.after()
        if k == 0:
            start = naive.phi()  # the first step has no v before it
        else:
            gap += expected[-1][0] - expected[-1][1]
    np.testing.assert_allclose(sides.drain(), expected, rtol=1e-9, atol=1e-12)
    assert math.isclose(gap, start - naive.phi(), rel_tol=1e-9, abs_tol=1e-11)
    assert math.isclose(sides.phi(), naive.phi(), rel_tol=1e-9)
    assert abs(gap) > 1e-4  # nothing cancels by accident


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_any_optimizer_keeps_the_norm_in_a_stationary_state(kind):
    model = network()
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1)
    start = flat(model.parameters())
    with VirialThermometer(model, optimizer) as thermometer:
        for k in range(200):
            optimizer.zero_grad()
            loss_of(model, k).backward()
            optimizer.step()
    result, end = thermometer.result(discard=0), flat(model.parameters())
    exact = float(end @ end - start @ start) / (2 * 0.01 * 200)
    assert math.isclose(result.drift.item(), exact, rel_tol=1e-9)
    assert result.status == result.temperature.status == "not applicable"
    assert math.isnan(result.temperature.item()) and math.isnan(result.groups[0].temperature.item())
    assert "temperature of its own" in result.statement


def train(model, optimizer, steps, first=0):
    for k in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, k).backward()
        optimizer.step()


def test_without_momentum_the_drift_is_that_of_the_norm():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
    thermometer = VirialThermometer(model, optimizer)
    train(model, optimizer, 100)
    start = flat(model.parameters())
    train(model, optimizer, 300, 100)
    end = flat(model.parameters())
    result = thermometer.result(discard=100)
    assert result.steps == 300 and result.discarded == 100
    exact = float(end @ end - start @ start) / (2 * 0.05 * 300)
    assert math.isclose(result.drift.item(), exact, rel_tol=1e-9)
    assert math.isclose(
        result.theta_dot_gradient.item() - result.half_rate_update_squared.item(),
        -exact,
        rel_tol=1e-9,
    )
    assert result.parameters == 51


def test_the_run_is_bitwise_the_same():
    def run(watched):
        model = network(torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        thermometer = VirialThermometer(model, optimizer) if watched else None
        for k in range(20):
            optimizer.zero_grad()
            x = numbers(8, 4, seed=k).float()
            model(x).square().mean().backward()
            optimizer.step()
        if thermometer:
            thermometer.close()
        buffers = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
        return [*model.parameters(), *(p.grad for p in model.parameters()), *buffers]

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_groups_add_up_and_each_keeps_its_own_relation():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.05},
        {"params": model[2].parameters(), "lr": 0.01, "momentum": 0.5},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    first = Naive(model[0].parameters(), 0.05)
    second = Naive(model[2].parameters(), 0.01, momentum=0.5)
    thermometer = VirialThermometer(model, optimizer)
    rows = []
    for k in range(160):
        optimizer.zero_grad()
        loss_of(model, k).backward()
        rows.append([first.step(), second.step()])
        optimizer.step()
    result, mean = thermometer.result(discard=0), np.mean(rows, 0)
    for group, sides, count in zip(result.groups, mean, (30, 21), strict=True):
        assert group.parameters == count
        assert math.isclose(group.theta_dot_gradient.item(), sides[0], rel_tol=1e-9)
        assert math.isclose(group.half_rate_update_squared.item(), sides[1], rel_tol=1e-9)
        assert math.isclose(group.temperature.item(), sides[0] / count, rel_tol=1e-9)
    assert math.isclose(result.theta_dot_gradient.item(), mean[:, 0].sum(), rel_tol=1e-9)


def test_frozen_and_tied_parameters():
    model = network()
    model[0].weight.requires_grad_(False)
    model[2].weight = nn.Parameter(numbers(3, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    thermometer = VirialThermometer(model, optimizer)
    train(model, optimizer, 160)
    assert thermometer.result(discard=0).parameters == 51 - 24
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    tied[2].weight = tied[0].weight
    optimizer = torch.optim.SGD(tied.parameters(), lr=0.05)
    thermometer = VirialThermometer(tied, optimizer)
    train(tied, optimizer, 160)
    assert thermometer.result(discard=0).parameters == 16 + 4 + 4 + 12 + 3


def test_parameters_without_a_gradient_in_some_steps():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    thermometer = VirialThermometer(model, optimizer)
    for k in range(320):
        optimizer.zero_grad()
        loss_of(model, k).backward()
        if k % 2 or k == 319:
            model[0].weight.grad = None
        optimizer.step()
    result = thermometer.result(discard=0)
    assert result.parameters == 51 - 24 / 2
    assert result.temperature.item() == pytest.approx(result.theta_dot_gradient.item() / 39)


def test_a_group_without_a_learning_rate_is_left_out():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    moved = VirialThermometer(model, torch.optim.SGD(groups, lr=0.05))
    train(model, moved._sides.optimizer, 200)
    other = network()
    optimizer = torch.optim.SGD(other[2].parameters(), lr=0.05)
    alone = VirialThermometer(other, optimizer)
    train(other, optimizer, 200)
    a, b = moved.result(discard=0), alone.result(discard=0)
    assert a.parameters == b.parameters == 21 and a.groups[0].parameters == 0
    assert a.temperature.item() == pytest.approx(b.temperature.item(), rel=1e-12)
    assert a.groups[0].temperature.status == "not applicable"


def test_a_group_added_during_the_run_starts_the_series_anew():
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)
    thermometer = VirialThermometer(model, optimizer)
    train(model, optimizer, 300)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
    train(model, optimizer, 300, 300)
    assert thermometer.steps == 300 and thermometer.changed_at == 0
    result = thermometer.result()
    assert result.steps + result.discarded == 300 and result.status != "settings changed"
    assert len(result.groups) == 2


def test_a_cycle_without_noise_has_no_temperature():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.3)
    thermometer = VirialThermometer(model, optimizer)
    for k in range(900):
        optimizer.zero_grad()
        loss_of(model, k % 7).backward()  # seven batches in a fixed order
        optimizer.step()
    result = thermometer.result(discard=500)
    assert result.status == result.temperature.status == "cycle"
    assert "without noise" in result.statement
    noise = np.random.default_rng(0).normal(size=(200, 40))
    assert not any(repeats(path) for path in (*noise, *np.cumsum(noise, 1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_the_drift_that_it_has_and_no_temperature(dtype):
    model = network(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5)
    thermometer = VirialThermometer(model, optimizer)
    start = flat(model.parameters()).double()
    for k in range(200):
        optimizer.zero_grad()
        model(numbers(8, 4, seed=k).to(dtype)).float().square().mean().backward()
        optimizer.step()
    result, end = thermometer.result(discard=0), flat(model.parameters()).double()
    exact = float(end @ end - start @ start) / (2 * 1e-3 * 200)
    assert math.isclose(result.drift.item(), exact, rel_tol=1e-4, abs_tol=1e-9)
    assert result.temperature.status == "not applicable" and "rounding" in result.statement
    cast = network(torch.float32)
    optimizer = torch.optim.SGD(cast.parameters(), lr=1e-3)
    thermometer = VirialThermometer(cast, optimizer)
    cast.to(dtype)
    cast(numbers(8, 4).to(dtype)).float().sum().backward()
    optimizer.step()
    with pytest.raises(NotApplicableError, match="cast to half"):
        thermometer.result()


def sides_of(loop, **settings):
    """Rows seen in `loop(model, optimizer, k)`, and those of the definitions."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, **settings)
    naive, sides, expected = Naive(model.parameters(), 0.05, **settings), VirialSides(optimizer), []
    for hook in (lambda *_: sides.before(), lambda *_: expected.append(naive.step())):
        optimizer.register_step_pre_hook(hook)
    optimizer.register_step_post_hook(lambda *_: sides.after() and None)
    for k in range(5):
        loop(model, optimizer, k)
    return sides.drain(), expected


def test_accumulated_and_clipped_gradients():
    def loop(model, optimizer, k):
        optimizer.zero_grad()
        for j in range(3):
            loss_of(model, 10 * k + j).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert norm > 0.1
        optimizer.step()

    seen, expected = sides_of(loop)
    assert len(seen) == 5
    np.testing.assert_allclose(seen, expected, rtol=1e-9)
    assert np.all(seen[:, 1] < 0.05 / 2 * 0.1**2 * 1.001)  # of the clipped gradient


def test_a_closure_counts_with_the_gradient_it_computes():
    model = network()
    twin = copy.deepcopy(model)
    a = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    b = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    with_closure, plain = VirialThermometer(model, a), VirialThermometer(twin, b)
    for k in range(160):

        def closure(k=k):
            a.zero_grad()
            loss = loss_of(model, k)
            loss.backward()
            return loss

        a.step(closure)
    train(twin, b, 160)
    found, expected = with_closure.result(discard=0), plain.result(discard=0)
    assert found.theta_dot_gradient.item() == expected.theta_dot_gradient.item()


def test_steps_that_a_grad_scaler_skips_do_not_count():
    model = network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    thermometer = VirialThermometer(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1000)
    naive, expected = Naive(model.parameters(), 0.05), []
    for k in range(6):
        optimizer.zero_grad()
        loss = model(numbers(8, 4, seed=k).float()).square().mean()
        scaler.scale(loss * (math.inf if k == 2 else 1.0)).backward()
        scaler.unscale_(optimizer)
        if k != 2:
            expected.append(naive.step())
        scaler.step(optimizer)
        scaler.update()
    assert thermometer.steps == 5
    np.testing.assert_allclose(thermometer._sides.drain(), expected, rtol=1e-5)


def test_a_fused_optimizer_that_unscales_inside_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sides = VirialSides(optimizer)
    train(model, optimizer, 1)
    optimizer.grad_scale = torch.tensor(2.0)  # as a GradScaler leaves it there for such a step
    with pytest.raises(NotApplicableError, match="unscale_"):
        sides.after()


def test_a_changing_learning_rate_is_flagged_and_can_be_left_out():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    thermometer = VirialThermometer(model, optimizer)
    train(model, optimizer, 100)
    optimizer.param_groups[0]["lr"] = 0.02
    train(model, optimizer, 300, 100)
    result = thermometer.result(discard=50)
    assert result.status == result.temperature.status == "settings changed"
    assert not result.stationary and "changed at step 100" in result.statement
    assert thermometer.result(discard=100).status != "settings changed"


def test_resume_continues_the_series():
    def part(model, optimizer, thermometer, first, steps):
        train(model, optimizer, steps, first)
        return thermometer

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    whole = part(model, optimizer, VirialThermometer(model, optimizer), 0, 400).result()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    first = part(model, optimizer, VirialThermometer(model, optimizer), 0, 150)
    state = first.state_dict()
    assert first.state_dict()["steps"] == 150  # asking does not change anything
    first.close()
    second = VirialThermometer(model, optimizer)
    second.load_state_dict(state)
    resumed = part(model, optimizer, second, 150, 250).result()
    assert resumed.steps == whole.steps
    assert math.isclose(resumed.ratio.item(), whole.ratio.item(), rel_tol=1e-12)
    assert resumed.statement == whole.statement
    with pytest.raises(ValueError, match="state is not"):
        second.load_state_dict({})
    two = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="parameter groups"):
        VirialThermometer(model, two).load_state_dict(state)


def test_take_gives_the_window_and_forgets_it():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sides = VirialSides(optimizer)
    assert sides.estimates(sides.hold()) == {}
    for k in range(10):
        optimizer.zero_grad()
        loss_of(model, k).backward()
        sides.before()
        optimizer.step()
        sides.after()
        if k == 4:
            found = sides.estimates(sides.hold())
            optimizer.param_groups[0]["lr"] = 0.01
    assert found["updated_parameters"].item() == 51 and found["virial_gap"].status == "ok"
    assert found["virial_gap"].item() == pytest.approx(
        found["theta_dot_gradient"].item() - found["half_rate_update_squared"].item()
    )
    other = VirialSides(optimizer)
    other.load_state_dict(sides.state_dict())
    for late in (sides.estimates(sides.hold()), other.estimates(other.hold())):
        assert late["virial_gap"].status == "settings changed"
        assert late["virial_gap"].n_eff == 5
    assert other.estimates(other.hold()) == {}


def test_numbers_that_wait_on_an_accelerator(monkeypatch):
    def run(waiting):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
        sides = VirialSides(optimizer)
        for k in range(6):
            if k == 3:  # from here on as on an accelerator: after a resume both kinds are there
                with monkeypatch.context() as patch:
                    if waiting:
                        dot = virial_sides._dot
                        patch.setattr(
                            virial_sides, "_dot", lambda a, b, dot=dot: torch.tensor(dot(a, b))
                        )
                    step(model, optimizer, sides, k)
            else:
                step(model, optimizer, sides, k)
        return sides.drain()

    def step(model, optimizer, sides, k):
        optimizer.zero_grad()
        loss_of(model, k).backward()
        sides.before()
        optimizer.step()
        sides.after()

    np.testing.assert_allclose(run(True), run(False), rtol=1e-6)


def test_a_lazy_model_is_refused():
    model = nn.LazyLinear(3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(NotApplicableError, match="not initialized"):
        VirialThermometer(model, optimizer)


def test_bad_input():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="model must be"):
        VirialThermometer("model", optimizer)
    with pytest.raises(TypeError, match="optimizer must be"):
        VirialThermometer(model, "sgd")
    with pytest.raises(ValueError, match="optimizer holds no"):
        VirialThermometer(network(), optimizer)
    with pytest.raises(NotApplicableError, match="requires a gradient"):
        VirialThermometer(nn.Tanh(), optimizer)
    thermometer = VirialThermometer(model, optimizer)
    with pytest.raises(ValueError, match="train longer"):
        thermometer.result()
    train(model, optimizer, 200)
    for bad in ({"blocks": 3}, {"blocks": 2.5}, {"discard": -1}, {"discard": "half"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            thermometer.result(**bad)
    with pytest.raises(ValueError, match="train longer"):
        thermometer.result(discard=190)


def test_what_the_relation_does_not_cover_is_named():
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    thermometer = VirialThermometer(table, optimizer)
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()  # the loop goes on
    with pytest.raises(NotApplicableError, match="sparse"):
        thermometer.result()
    weight = nn.Linear(2, 2, dtype=torch.complex64)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    thermometer = VirialThermometer(weight, optimizer)
    weight(torch.ones(1, 2, dtype=torch.complex64)).abs().sum().backward()
    optimizer.step()
    with pytest.raises(NotApplicableError, match="complex"):
        thermometer.result()


def test_a_diverging_run_is_not_a_number():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    thermometer = VirialThermometer(model, optimizer)
    train(model, optimizer, 300)
    with pytest.raises(ValueError, match="diverged"):
        thermometer.result()


def test_mixed_precision():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3).double()

        def forward(self, x):
            return self.b(self.a(x).double())

    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
    naive = [Naive(m.parameters(), 0.01, weight_decay=0.1) for m in (model.a, model.b)]
    sides = VirialSides(optimizer)
    model(numbers(8, 4).float()).float().square().mean().backward()
    expected = np.sum([n.step() for n in naive], 0)
    sides.before()
    optimizer.step()
    sides.after()
    np.testing.assert_allclose(sides.drain()[0], expected, rtol=1e-5)


# -- the test of the drift -------------------------------------------------------------------------
def test_long_series_keep_their_mean_and_order():
    rows = np.arange(5 * LIMIT, dtype=float)[:, None]
    series = BinnedSeries(1)
    for part in np.array_split(rows, 37):
        series.extend(part)
    assert series.width == 4 and len(series.values) <= 2 * LIMIT
    used = len(series.values) * series.width
    np.testing.assert_allclose(series.values[:, 0], rows[:used, 0].reshape(-1, 4).mean(1))


def paths(tau, count=300, n=1000, seed=0):
    """Stationary paths with exp(-t/tau) correlations."""
    rng = np.random.default_rng(seed)
    r = math.exp(-1 / tau) if tau else 0.0
    x = np.empty((count, n))
    x[:, 0] = rng.normal(size=count)
    for t in range(1, n):
        x[:, t] = r * x[:, t - 1] + rng.normal(size=count) * math.sqrt(1 - r**2)
    return x


@pytest.mark.parametrize("tau", [0, 10])
def test_the_drift_has_an_honest_error(tau):
    drifts = [drift_of_path(x, 1000) for x in paths(tau)]
    values = np.array([d.item() for d in drifts])
    z = values / np.array([d.stderr for d in drifts])
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(300)
    assert abs(np.std(z) - 1) < 4 / math.sqrt(2 * 300)
    assert np.mean([d.status == "ok" for d in drifts]) > 0.98


def test_slow_motion_is_under_sampled():
    for tau in (300, 1000):
        slow = [drift_of_path(x, 1000) for x in paths(tau)]
        assert np.mean([d.status == "under-sampled" for d in slow]) > 0.7
        outcomes = [judge(d, 1.0, 1000)[0] for d in slow]
        assert np.mean([o == DRIFTS for o in outcomes]) < 0.05
    assert drift_of_path(np.random.default_rng(0).normal(size=12), 1).status == "under-sampled"


def test_drifts_are_seen():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=1000)
    for trend in (np.linspace(0, 12, 1000), 12 * (1 - np.exp(-np.linspace(0, 3, 1000)))):
        outcome, smallest, statement = judge(drift_of_path(trend + noise, 1000), 1.0, 1000)
        assert outcome == DRIFTS and "drifts" in statement and "grows" in statement
        assert smallest < 0.012
    outcome, smallest, statement = judge(drift_of_path(noise, 1000), 1.0, 1000)
    assert outcome == STEADY and statement.startswith(
        "no drift seen over 1000 steps; a drift above"
    )
    assert 0.003 < smallest < 0.012
    with pytest.raises(ValueError, match="at least 8"):
        drift_of_path(noise[:5], 5)


def test_what_could_not_be_seen_is_not_called_a_drift():
    noise = paths(0, 200, 40, seed=2)
    scale = 0.05  # the drift's error is 0.7 of it
    found = [judge(drift_of_path(x, 40), scale, 40) for x in noise]
    assert {outcome for outcome, *_ in found} == {UNTOLD}
    for _, _, statement in found:
        assert "cannot be told" in statement and "would not have been seen" in statement
        assert "grows" not in statement and "shrinks" not in statement
    assert "times the two sides" in found[0][2]
    far = judge(drift_of_path(noise[0] + np.linspace(0, 300, 40), 40), 1.0, 40)[2]
    assert "differ by 7." in far and "times their size" in far


def test_the_drift_that_would_have_been_seen_is_seen_in_95_of_100():
    noise, seen = paths(0, 400, seed=3), []
    for x in noise:
        smallest = judge(drift_of_path(x, 1000), 1.0, 1000)[1]
        trend = np.linspace(0, smallest * 1000, 1000)
        seen.append(judge(drift_of_path(x + trend, 1000), 1.0, 1000)[0] == DRIFTS)
    assert abs(np.mean(seen) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_the_error_of_the_left_side_is_that_of_its_mean():
    """Exact stationary SGD in parabolas: the scatter of <theta . g> over runs is its error."""
    rng, n, rate = np.random.default_rng(4), 2000, 0.1
    a = np.geomspace(0.05, 1, 6)
    e = rng.normal(size=(120, 6)) * np.sqrt(rate / (2 - rate * a))
    sides = np.empty((n, 120, 2))
    for t in range(n):
        g = a * e + np.sqrt(a) * rng.normal(size=e.shape)
        sides[t] = np.stack([((e + 1) * g).sum(1), rate / 2 * (g * g).sum(1)], 1)
        e = e - rate * g
    exact = float((rate * a / (2 - rate * a)).sum())
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(6))], lr=rate)
    z, stderr = [], []
    for k in range(120):
        rows = np.concatenate([sides[:, k], np.full((n, 1), 6.0)], 1)
        result = thermometer._analyze(rows, 1, 20, VirialSides(optimizer))
        assert result.theta_dot_gradient.item() == pytest.approx(sides[:, k, 0].mean())
        stderr.append(result.theta_dot_gradient.stderr)
        z.append((result.theta_dot_gradient.item() - exact) / stderr[-1])
    assert abs(np.mean(np.square(z)) - 1) < 4 * math.sqrt(2 / 120)
    assert np.mean(stderr) < 1.3 * sides[..., 0].mean(0).std()
