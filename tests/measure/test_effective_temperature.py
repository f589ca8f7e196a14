"""Fluctuation over response: exact cases, the identity of the first step, replicas of a model."""

import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn

from thermolearn.core import copying
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.noise import (
    Dynamics,
    Langevin,
    OnlineLeastSquares,
    effective_temperature,
    sgd_replicas,
)
from thermolearn.measure.noise.response import _steady, temperature_from_curves


def near(estimate, value, errors=4.0):
    return abs(estimate.item() - value) < errors * float(estimate.stderr)


# -- Langevin --------------------------------------------------------------------------------------
def test_langevin_has_one_temperature_at_every_lag():
    langevin = Langevin(1.5, 0.1, 0.3)
    assert math.isclose(langevin.ratio, 0.3 / 0.925)
    assert abs(langevin.ratio - 0.324324) < 1e-6
    found = effective_temperature(langevin.dynamics(64, 200, seed=1), lag=40, origins=20, seed=2)
    for lag in (1, 3, 10, 30):
        ratio = found.half_msd.value[lag - 1] / found.response.value[lag - 1]
        error = found.half_msd.stderr[lag - 1] / found.response.value[lag - 1]
        assert abs(ratio - langevin.ratio) < 3 * error + 1e-12, lag
        assert error < 0.005
    for t in (found.t_fast, found.t_slope, found.t_glob):
        assert t.status == "ok" and near(t, langevin.ratio)
    decay = (1 - 0.15) ** found.lags
    np.testing.assert_allclose(found.response.value, (1 - decay) / 1.5, rtol=1e-6)
    assert found.stationary and "no drift seen over 760 steps" in found.statement


def test_a_hot_start_is_not_stationary():
    langevin = Langevin(0.02, 0.1, 0.3)
    dynamics = langevin.dynamics(32, 50)
    hot = Dynamics(0 * dynamics.start, dynamics.draw, dynamics.step, dynamics.rate)
    found = effective_temperature(hot, lag=40, origins=12)
    assert found.stationary is False
    assert {e.status for e in (found.t_fast, found.t_slope, found.t_glob)} == {"not stationary"}


def test_short_lags_and_few_origins_are_said():
    dynamics = Langevin(0.1, 0.1, 0.3).dynamics(32, 50)
    found = effective_temperature(dynamics, lag=40, origins=4)
    assert found.t_glob.status == found.t_slope.status == "not plateaued"
    assert found.t_fast.status == "ok"
    assert found.stationary is None and "raise lag" in found.statement


# -- online least squares --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dimension", "batch", "rate", "noise", "exact"),
    [(20, 4, 0.05, 1.0, 0.007407), (50, 10, 0.1, 0.25, 0.001799)],
)
def test_online_least_squares_is_exact(dimension, batch, rate, noise, exact):
    system = OnlineLeastSquares(dimension, batch, rate, noise)
    by_hand = rate * noise / (batch * (2 - rate * (1 + (dimension + 1) / batch)))
    assert math.isclose(system.temperature, by_hand, rel_tol=1e-12)
    assert abs(system.temperature - exact) < 1e-6
    found = system.simulate(chains=100, steps=400 if dimension == 20 else 150, discard=20)
    for name in ("mean_square", "theta_dot_gradient", "half_rate_update_squared"):
        assert near(found[name], system.temperature), name
        assert found[name].stderr < 0.01 * system.temperature
    # the small-step formula lr s2/(2 B) would be caught
    small = rate * noise / (2 * batch)
    assert not near(found["half_rate_update_squared"], small)


def test_every_mode_has_its_own_temperature():
    a = (0.2, 0.5, 1.0, 1.8, 3.0)
    system = OnlineLeastSquares(5, 3, 0.2, 0.7, a)
    found = system.simulate(chains=300, steps=600, discard=0)["modes"]
    z = (found.value - system.mode_temperatures()) / found.stderr
    assert np.abs(z).max() < 4
    assert np.all(np.diff(system.mode_temperatures()) > 0)  # fast modes are hotter
    additive = (found.value - system.additive_mode_temperatures()) / found.stderr
    assert np.abs(additive).max() > 20  # the noise that the errors make is not small here
    large = OnlineLeastSquares(5, 100000, 0.2, 0.7, a)
    np.testing.assert_allclose(
        large.mode_temperatures(), large.additive_mode_temperatures(), rtol=2e-4
    )


def test_additive_noise_of_the_hessians_covariance():
    """T_a = lr sigma^2 a/(2 - lr a) for e <- e - lr (a e + sigma sqrt(a) N(0, 1))."""
    a, rate, sigma = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64), 0.2, 0.5
    generator = torch.Generator().manual_seed(0)
    e = torch.zeros(4000, 3, dtype=torch.float64)
    total, steps = torch.zeros(4000, 3, dtype=torch.float64), 600
    for t in range(200 + steps):
        xi = torch.randn(e.shape, generator=generator, dtype=torch.float64)
        g = a * e + sigma * a.sqrt() * xi
        total += e * g * (t >= 200)
        e = e - rate * g
    mean = (total / steps).mean(0)
    error = (total / steps).std(0) / math.sqrt(4000)
    exact = rate * sigma**2 * a / (2 - rate * a)
    assert ((mean - exact).abs() < 4 * error).all()
    assert (error < 0.02 * exact).all()


def test_all_temperatures_of_online_least_squares_agree():
    system = OnlineLeastSquares(20, 4, 0.05)
    found = effective_temperature(system.dynamics(100), lag=140, origins=4, seed=3)
    assert near(found.t_fast, system.temperature) and near(found.t_glob, system.temperature)
    assert found.t_glob.status == "ok" and near(found.plateau, 1.0)


def test_unstable_dynamics_are_refused():
    with pytest.raises(ValueError, match="unstable"):
        OnlineLeastSquares(20, 4, 0.32)  # lr (1 + 21/4) = 2
    OnlineLeastSquares(20, 4, 0.3199)
    assert math.isclose(OnlineLeastSquares(20, 4, 0.1).largest_learning_rate(), 0.32)
    with pytest.raises(ValueError, match="unstable"):
        OnlineLeastSquares(2, 10**6, 0.6, eigenvalues=(1.0, 4.0))
    with pytest.raises(ValueError, match="unstable"):
        Langevin(2.0, 1.0, 0.1)
    for bad in ({"dimension": 0}, {"batch_size": 1.5}, {"learning_rate": -1.0},
                {"noise_variance": math.nan}, {"eigenvalues": (1.0,)}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            OnlineLeastSquares(**{"dimension": 2, "batch_size": 4, "learning_rate": 0.1, **bad})
    with pytest.raises(ValueError, match="temperature"):
        Langevin(1.0, 0.1, 0.0)


# -- replicas of a model ---------------------------------------------------------------------------
def small_task(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    return model, nn.MSELoss(), (numbers(40, 4), numbers(40, 2, seed=1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.05},
        {"momentum": 0.9, "dampening": 0.4},
        {"momentum": 0.9, "nesterov": True},
    ],
)
def test_replicas_take_the_optimizers_steps(settings):
    model, loss, (x, y) = small_task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
    dynamics = sgd_replicas(model, loss, (x, y), optimizer, batch_size=8, replicas=3)
    generator, state = torch.Generator().manual_seed(0), dynamics.start
    twins = [copy.deepcopy(model) for _ in range(3)]
    steps = [torch.optim.SGD(t.parameters(), lr=0.1, **settings) for t in twins]
    for k in range(6):
        index = dynamics.draw(generator)
        state = dynamics.step(state, index, 0.0)
        for twin, optimizer, own in zip(twins, steps, index, strict=True):
            optimizer.zero_grad()
            loss(twin(x[own]), y[own]).backward()
            optimizer.step()
            if k == 0 and "dampening" in settings:  # torch leaves it out in the first step
                for p in twin.parameters():
                    start = optimizer.state[p]["momentum_buffer"]
                    p.data += 0.1 * 0.4 * start
                    start *= 0.6
    for twin, theta in zip(twins, dynamics.position(state), strict=True):
        expected = torch.cat([p.detach().reshape(-1) for p in twin.parameters()])
        torch.testing.assert_close(theta, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "gain"),
    [
        ({}, 1.0),
        ({"momentum": 0.9}, 1.0),
        ({"weight_decay": 0.5}, 1.0),
        ({"momentum": 0.9, "weight_decay": 0.5}, 1.0),
        ({"momentum": 0.9, "dampening": 0.4}, 0.6),
        ({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 1.9),
    ],
)
def test_the_first_step_is_an_identity_on_any_trajectory(settings, gain):
    """H(1)/chi(1) = lr <|update|^2>/(2 d gain), chi(1) = lr gain, far from any stationary state."""
    model, loss, (x, y) = small_task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
    dynamics = sgd_replicas(model, loss, (x, y), optimizer, batch_size=4, replicas=2)
    seen = []

    def spy(state, noise, force):
        after = dynamics.step(state, noise, force)
        if not isinstance(force, torch.Tensor):
            seen.append((dynamics.position(after) - dynamics.position(state)) / 0.1)
        return after

    watched = Dynamics(dynamics.start, dynamics.draw, spy, 0.1, dynamics.position)
    found = effective_temperature(watched, lag=5, origins=6, burn_in=3)
    first = torch.stack(seen[3::5])  # the first step after each origin
    d = first.shape[-1]
    exact = 0.1 * float(first.square().sum(-1).mean()) / (2 * d * gain)
    assert abs(found.t_fast.item() / exact - 1) < 1e-8
    np.testing.assert_allclose(found.response.value[0], 0.1 * gain, rtol=1e-8)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"momentum": 0.8}, 1.8),
        ({"momentum": 0.8, "dampening": 0.5}, 1.8),
        ({"momentum": 0.8, "nesterov": True}, math.nan),
    ],
)
def test_first_step_times_its_factor_is_the_virial_temperature(settings, factor):
    """T = <theta . g>/d = (1 + m) H(1)/chi(1) of a settled run, dampened or not; not Nesterov's."""
    x, y = numbers(60, 5), torch.arange(60) % 3
    model, m, t = nn.Linear(5, 3).double(), settings["momentum"], settings.get("dampening", 0)
    for p in model.parameters():
        nn.init.zeros_(p)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, **settings)
    data = (x, y)
    made = sgd_replicas(model, nn.CrossEntropyLoss(), data, optimizer, batch_size=4, replicas=40)
    generator, state, products = torch.Generator().manual_seed(5), made.start, []
    for k in range(300):
        after = made.step(state, made.draw(generator), 0.0)
        if k >= 100:
            (theta, v), now = state.unbind(1), after[:, 1]
            products.append((theta * (now - m * v) / (1 - t)).mean(1))  # v <- m v + (1 - t) g
        state = after
    virial = torch.stack(products).mean(0)
    value, error = float(virial.mean()), float(virial.std()) / math.sqrt(40)
    found = effective_temperature(replace(made, start=state), lag=8, origins=10)
    np.testing.assert_equal(found.virial_factor, factor)
    if math.isnan(factor):
        factor = 1.8  # plain momentum's factor would be seen to be wrong
        assert abs(found.t_fast.item() * factor - value) > 8 * error
        return
    both = math.hypot(found.t_fast.stderr * factor, error)
    assert abs(found.t_fast.item() * factor - value) < 4 * both and both < 0.06 * value


def test_a_dynamics_that_is_its_own_position_has_no_momentum():
    plain = Langevin(1.5, 0.1, 0.3).dynamics(8, 3)
    assert effective_temperature(plain, lag=5, origins=2).virial_factor == 1.0
    hidden = replace(plain, position=lambda state: state.clone())
    assert math.isnan(effective_temperature(hidden, lag=5, origins=2).virial_factor)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(6)])
def test_a_model_that_trains_in_another_mode_is_flagged(layer):
    """Its replicas run in eval mode, without the noise of dropout."""
    x, y = numbers(40, 6), torch.arange(40) % 3
    model = nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = (x, y)
    made = sgd_replicas(model, nn.CrossEntropyLoss(), data, optimizer, batch_size=4, replicas=4)
    found = effective_temperature(made, lag=5, origins=2)
    for t in (found.t_fast, found.t_slope, found.t_glob):
        assert t.status == "eval mode" and type(layer).__name__ in t.note
    assert "training mode" in found.statement


def test_the_drift_that_would_have_been_seen_is_seen():
    """A drift of the size that the sentence names is found in 19 of 20 runs."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        still = rng.normal(size=200)
        said = _steady(still, 200, 1.0)[1]
        visible = float(re.search(r"above ([0-9.e+]+)% of", said)[1]) / 100
        moving = rng.normal(size=200) + np.linspace(0, visible, 200)
        found.append(_steady(moving, 200, 1.0)[0] is False)
    assert np.mean(found) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)


def test_first_step_and_virial_relation_agree_on_a_model():
    """Softmax regression: H(1)/chi(1), lr <|g|^2>/2d and <theta . g>/d in one stationary state."""
    x, y = numbers(60, 5), torch.arange(60) % 3
    model = nn.Linear(5, 3).double()
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    dynamics = sgd_replicas(model, loss, (x, y), optimizer, batch_size=4, replicas=40)
    generator, state, products = torch.Generator().manual_seed(5), dynamics.start, []
    for k in range(500):
        after = dynamics.step(state, dynamics.draw(generator), 0.0)
        if k >= 100:
            theta, g = state[:, 0], (state[:, 0] - after[:, 0]) / 0.5
            products.append((theta * g).mean(1))
        state = after
    virial = torch.stack(products).mean(0)
    t_virial, error = float(virial.mean()), float(virial.std()) / math.sqrt(40)
    settled = Dynamics(state, dynamics.draw, dynamics.step, 0.5, dynamics.position)
    found = effective_temperature(settled, lag=40, origins=10)
    assert abs(found.t_fast.item() - t_virial) < 4 * math.hypot(found.t_fast.stderr, error)
    assert error < 0.02 * t_virial


def test_nothing_of_the_user_is_changed():
    model, loss, data = small_task()
    model.append(nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = copying.fingerprint(model, optimizer)
    dynamics = sgd_replicas(model, loss, data, optimizer, batch_size=4, replicas=2)
    first = effective_temperature(dynamics, lag=6, origins=3)
    second = effective_temperature(dynamics, lag=6, origins=3)
    assert copying.fingerprint(model, optimizer) == before
    np.testing.assert_array_equal(first.half_msd.value, second.half_msd.value)


def test_frozen_parameters_stay_fixed():
    model, loss, data = small_task()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dynamics = sgd_replicas(model, loss, data, optimizer, batch_size=4, replicas=2)
    assert dynamics.position(dynamics.start).shape == (2, 5 + 10 + 2)


def test_bad_input():
    model, loss, data = small_task()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)

    def call(optimizer=sgd, model=model, **more):
        return sgd_replicas(model, loss, data, optimizer, **{"batch_size": 4, **more})

    with pytest.raises(TypeError, match="optimizer must be"):
        call(None)
    with pytest.raises(NotApplicableError, match="Adam has no single"):
        call(torch.optim.Adam(model.parameters()))
    with pytest.raises(NotApplicableError, match="differ in their settings"):
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
        call(torch.optim.SGD(groups, lr=0.2))
    with pytest.raises(NotApplicableError, match="no trained parameter"):
        call(torch.optim.SGD(small_task(3)[0].parameters(), lr=0.1))
    with pytest.raises(ValueError, match="batch_size"):
        call(batch_size=0)
    with pytest.raises(ValueError, match="learning rate"):
        call(torch.optim.SGD(model.parameters(), lr=0.0))

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2).double()

        def forward(self, x):
            out = self.linear(x)
            return out if float(out.detach().sum()) > -1e9 else -out

    branch = Branch()
    with pytest.raises(NotApplicableError, match="several parameter vectors"):
        call(torch.optim.SGD(branch.parameters(), lr=0.1), branch)
    dynamics = Langevin(1.0, 0.1, 0.1).dynamics(2, 3)
    for bad in ({"lag": 4}, {"origins": 1}, {"burn_in": -1}, {"force": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            effective_temperature(dynamics, **{"lag": 10, **bad})
    single = Dynamics(dynamics.start.float(), dynamics.draw, dynamics.step, 0.1)
    with pytest.raises(ValueError, match="float64"):
        effective_temperature(single, lag=10)
    deaf = Dynamics(dynamics.start, dynamics.draw, lambda w, n, f: 0.9 * w + n, 0.1)
    with pytest.raises(ValueError, match="no effect"):
        effective_temperature(deaf, lag=10)
    wild = Dynamics(dynamics.start, dynamics.draw, lambda w, n, f: 1e200 * (w + f), 0.1)
    with pytest.raises(ValueError, match="diverged"):
        effective_temperature(wild, lag=10)


# -- a published case ------------------------------------------------------------------------------
def perceptron(d, replicas, b=0.5, rate=0.1, alpha=3.0, decay=0.5, seed=0):
    """Quadratic hinge on two Gaussian clusters (Delta = 1), Bernoulli batches, one data set per
    replica."""
    generator = torch.Generator().manual_seed(seed)
    n = int(alpha * d)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    v = normal(replicas, 1, d)
    v = v * (math.sqrt(d) / v.norm(dim=2, keepdim=True))
    c = 2.0 * torch.randint(2, (replicas, n, 1), generator=generator) - 1
    x = (c * v / math.sqrt(d) + normal(replicas, n, d)) / math.sqrt(d)
    label = c[:, :, 0]

    def draw(g):
        return (torch.rand(replicas, n, generator=g, dtype=torch.float64) < b).double() / b

    def step(w, chosen, force):
        h = torch.einsum("rnd,rd->rn", x, w)
        slope = -label * (1 - label * h).clamp(min=0) * chosen
        return w - rate * (decay * w + torch.einsum("rn,rnd->rd", slope, x) - force)

    return Dynamics(0.5 * v[:, 0] + normal(replicas, d), draw, step, rate)


@pytest.mark.slow
def test_temperatures_of_the_perceptron():
    """Simulation of arXiv:2112.10852's kind: T_fast > T_glob > T_slope for SGD."""
    found = effective_temperature(perceptron(500, 4), lag=40, origins=10, burn_in=70)
    assert abs(found.t_fast.item() - 0.0518) < 4 * math.hypot(0.0005, found.t_fast.stderr)
    assert abs(found.t_slope.item() - 0.0207) < 4 * math.hypot(0.0005, found.t_slope.stderr)
    assert abs(found.t_glob.item() - 0.0328) < 4 * math.hypot(0.0006, found.t_glob.stderr)
    assert abs(found.plateau.item() - 0.525) < 4 * math.hypot(0.007, found.plateau.stderr)
    assert found.t_fast > found.t_glob > found.t_slope


def test_the_representation_is_a_line():
    rng = np.random.default_rng(0)
    response = np.minimum(np.arange(1, 41), 20) * (1 + 0.01 * rng.standard_normal((8, 1)))
    found = temperature_from_curves(0.5 * response, response)
    assert "t_fast=0.5" in repr(found) and "40 lags" in repr(found) and len(repr(found)) < 300
