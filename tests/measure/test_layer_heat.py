"""Heat per layer along a path: closed forms, closure, and what must not be touched."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from networks import numbers, residual_net
from torch import nn
from torch.nn import functional as F

import thermolearn
from thermolearn.core.copying import fingerprint
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.temperature import Heat, draw_engines, layer_heat
from thermolearn.measure.temperature.network_entropy import ENTROPY_CONVENTION, initial_entropy
from thermolearn.measure.temperature.signals import signals


def mlp(act=nn.Tanh, seed=0, widths=(64, 32, 10), bias=False):
    """Normal fan-in initialization, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(widths):
        linear = nn.Linear(a, b, bias=bias).double()
        with torch.no_grad():
            draw = torch.randn(b, a, generator=generator, dtype=torch.float64)
            linear.weight.copy_(draw / a**0.5)
            if bias:
                linear.bias.zero_()
        layers += [linear, act()]
    return nn.Sequential(*layers[:-1])


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x) / 16, torch.from_numpy(y)


def small(n=40, d=5, k=3, seed=0):
    return numbers(n, d, seed=seed), numbers(n, k, seed=seed + 1)


# -- heat --------------------------------------------------------------------------------------
def test_heat_of_a_quadratic_is_exact():
    """Trapezoids are exact where the gradient is linear; every column's heat by hand."""
    x, y = small()
    model = nn.Sequential(nn.Linear(5, 3, bias=False)).double()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    end = {k: v + numbers(*v.shape, seed=9) for k, v in start.items()}
    flow = layer_heat(model, nn.MSELoss(), (x, y), path=[start, end])
    w0, w1 = start["0.weight"], end["0.weight"]
    expected = ((y - x @ w0.T) ** 2).mean() - ((y - x @ w1.T) ** 2).mean()
    assert flow.heat.value[0] == pytest.approx(float(expected), rel=1e-12)
    assert abs(flow.closure) < 1e-12


def test_heat_of_two_scalar_layers():
    """E = (1 - a b)^2/2 from (a, b) = (0, 1) along a = t, then b = 1 + t: Q by integration."""

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(1, 1, False), nn.Linear(1, 1, False)

        def forward(self, x):
            return self.second(self.first(x))

    model, one = Product().double(), torch.ones(1, 1, dtype=torch.float64)
    t = torch.linspace(0, 0.5, 201, dtype=torch.float64)
    states = [(a, one[0, 0]) for a in t] + [(t[-1], 1 + b) for b in t[1:]]
    path = [{"first.weight": a.reshape(1, 1), "second.weight": b.reshape(1, 1)} for a, b in states]
    flow = layer_heat(model, lambda o, y: ((o - y) ** 2).mean() / 2, (one, one), path=path)
    # moving a alone: 1/2 - 1/8; moving b alone: 1/8 - (1 - 3/4)^2/2
    np.testing.assert_allclose(flow.heat.value, [3 / 8, 3 / 32], atol=1e-12)
    assert math.isnan(float(flow.global_temperature))  # single numbers: no entropy
    assert flow.global_temperature.status == "no entropy"


def test_heat_closes_on_a_tanh_network():
    model = mlp()
    flow = layer_heat(
        model, nn.CrossEntropyLoss(), digits(), torch.optim.SGD(model.parameters(), lr=0.2), 100
    )
    released = float(flow.energy_released)
    assert abs(flow.closure) < 1e-3 * released
    assert flow.cumulative[-1].sum() == pytest.approx(released + flow.closure, rel=1e-12)
    assert np.all(np.abs(flow.closure) < 3 * flow.heat.stderr.sum())
    np.testing.assert_allclose(flow.entropy.value, [2048 * 1.4189385, 320 * 1.4189385], rtol=1e-6)
    # raw entropies: those of the law, -1352.7 and -100.5, within 4 standard errors of a draw
    for found, error, law in zip(
        flow.raw_entropy.value, flow.raw_entropy.stderr, (-1352.7, -100.5), strict=True
    ):
        assert abs(found - law) < 4 * error
    assert float(flow.global_temperature) == pytest.approx(
        np.average(flow.temperature.value, weights=flow.entropy.value), rel=1e-12
    )
    assert "closure" in str(flow) and flow.index("2") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "heat", "spread", "temperature"),
    [  # means over three seeds; the spread is that between eight seeds of ours
        (nn.Tanh, (1.357, 0.991), (0.074, 0.060), 6.99e-4),
        (nn.ReLU, (1.414, 0.908), (0.051, 0.045), 6.91e-4),
        (nn.Sigmoid, (1.097, 1.209), (0.034, 0.042), 6.86e-4),
    ],
)
def test_heat_of_digits(act, heat, spread, temperature):
    model = mlp(act)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    flow = layer_heat(model, nn.CrossEntropyLoss(), digits(), sgd, 1500)
    error = (1 + 1 / 3) ** 0.5 * np.array(spread)
    assert np.all(np.abs(flow.heat.value - heat) < 4 * error)
    assert abs(flow.closure) < 6e-4
    T = float(flow.global_temperature)
    assert abs(T - temperature) < 4 * np.linalg.norm(error) / 3360


def test_error_of_the_quadrature_falls_with_the_step():
    x, y = small(seed=3)
    flows = []
    for lr, steps in ((0.2, 20), (0.1, 40), (0.05, 80)):
        model = mlp(nn.Tanh, 1, (5, 8, 3))
        sgd = torch.optim.SGD(model.parameters(), lr=lr)
        flows.append(layer_heat(model, nn.MSELoss(), (x, y), sgd, steps))
    closures = [abs(f.closure) for f in flows]
    assert closures[0] > 3 * closures[1] > 9 * closures[2]
    errors = [f.heat.stderr.max() for f in flows]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_momentum_weight_decay_and_state_of_the_optimizer():
    """The heat is that of the path which the user's optimizer would take, its buffers included."""
    x, y = small()
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=0.01),
    ):
        model = mlp(nn.Tanh, 2, (5, 6, 3), bias=True)
        optimizer = make(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        before = fingerprint(model, optimizer)
        flow = layer_heat(model, nn.MSELoss(), (x, y), optimizer, 10)
        assert fingerprint(model, optimizer) == before
        path = [copy.deepcopy(model.state_dict())]
        for _ in range(10):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            path.append(copy.deepcopy(model.state_dict()))
        given = layer_heat(model, nn.MSELoss(), (x, y), path=path)
        np.testing.assert_allclose(given.heat.value, flow.heat.value, rtol=1e-9)
        assert float(given.energy_released) == pytest.approx(float(flow.energy_released), rel=1e-9)


# -- entropy -----------------------------------------------------------------------------------
def test_law_is_told_from_the_values():
    generator = torch.Generator().manual_seed(0)
    normal = nn.Linear(30, 20)
    with torch.no_grad():
        normal.weight.copy_(torch.randn(20, 30, generator=generator))
        normal.bias.copy_(torch.randn(20, generator=generator))
    uniform = nn.Linear(30, 20)
    with torch.no_grad():
        for p in uniform.parameters():
            p.copy_(torch.rand(p.shape, generator=generator) * 0.4 - 0.2)
    for module, law, per in ((normal, "normal", 1.4189385), (uniform, "uniform", 1.2424533)):
        groups = {"layer": dict(module.named_parameters())}
        e = initial_entropy(groups, dict(module.named_parameters()), groups["layer"])
        assert e.laws == [law]  # the bias of 20 follows the weight
        assert e.scale_free[0] == pytest.approx(620 * per, rel=1e-6)
        raw = 620 * (math.log(0.4) if law == "uniform" else 1.4189385)
        assert abs(e.raw[0] - raw) < 4 * e.raw_stderr[0]


def entropy_of(**tensors):
    groups = {"layer": tensors}
    return initial_entropy(groups, tensors, tensors)


def test_small_tensors_do_not_tell_their_law():
    """At 32 elements every fifth normal tensor looks uniform: the law is assumed, and said."""
    generator = torch.Generator().manual_seed(0)
    for n, said in ((32, "normal (assumed)"), (127, "normal (assumed)"), (128, "normal")):
        found = [entropy_of(w=torch.randn(n, generator=generator)).laws[0] for _ in range(100)]
        assert found.count(said) >= 99, n
    wide = torch.rand(400, generator=generator) - 0.5
    small = torch.randn(20, generator=generator)
    assert entropy_of(w=wide, b=small).laws == ["uniform"]  # follows the weight
    groups = {"a": {"w": wide}, "b": {"v": small}}
    found = initial_entropy(groups, {"w": wide, "v": small}, ["w", "v"])
    assert found.laws == ["uniform", "uniform (assumed)"]
    assert "no other is compared" in ENTROPY_CONVENTION


def test_a_deterministic_start_is_no_draw():
    eye, gates = torch.eye(12), torch.cat([torch.ones(8), torch.zeros(24)])
    sparse = torch.zeros(400)
    sparse[::5] = torch.randn(80, generator=torch.Generator().manual_seed(1))
    for tensor in (eye, torch.eye(300), gates, sparse, nn.init.dirac_(torch.empty(4, 4, 3))):
        found = entropy_of(w=tensor)
        assert found.counted[0] == 0 and found.scale_free[0] == 0 and found.laws == ["none"]
        assert "few distinct values" in found.excluded[0]
    rough = torch.randn(500, generator=torch.Generator().manual_seed(2)).bfloat16() * 0.02
    assert entropy_of(w=rough).counted[0] == 500
    assert entropy_of(w=torch.tensor([0.3, -0.1, 0.7])).counted[0] == 3


def test_what_has_no_entropy_is_left_out_and_said():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    ).double()
    nn.init.zeros_(model[0].bias)
    for p in model[3].parameters():
        p.requires_grad_(False)
    x, y = small(d=6)
    sgd = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    flow = layer_heat(model, nn.MSELoss(), (x, y), sgd, 20)
    assert flow.layers == ["0", "1", "3", "5"]
    np.testing.assert_array_equal(flow.counted, [48, 0, 0, 27])
    said = "; ".join(flow.excluded)
    assert "0.bias (8): starts as a constant" in said and "3.weight (64): frozen" in said
    assert flow.heat.value[2] == 0 and flow.heat.value[1] != 0  # frozen; constants release heat
    assert np.isnan(flow.temperature.value[[1, 2]]).all()
    assert abs(flow.closure) < 1e-3 * float(flow.energy_released)


def test_tied_parameters_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    model = Tied().double()
    x, y = small(k=5)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = layer_heat(model, nn.MSELoss(), (x, y), sgd, 30)
    assert flow.layers == ["a"] and flow.counted.sum() == 25
    assert abs(flow.closure) < 1e-3 * float(flow.energy_released)


# -- the quantity ------------------------------------------------------------------------------
def heat_rows(rows):
    mine = [r for r in rows if r.get("quantity") == "heat"]
    summaries = [r for r in mine if r["kind"] == "summary"]
    return [r for r in mine if r["kind"] == "snapshot"], summaries[-1] if summaries else None


def value(row, name):
    e = row["values"][name]
    return np.asarray(e["value"] if isinstance(e, dict) else e.value, dtype=float)


def run_rows(model, loss_fn, data, tmp_path, **settings):
    path = tmp_path / "run.jsonl"
    x, y = data
    steps, every = settings.get("steps", 60), settings.get("every", 1)
    sgd = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=settings.get("lr", 0.2)
    )
    probe = thermolearn.Probe(
        model, loss_fn, sgd, reference=data, every=every, quantities=[Heat()], log=path
    )
    for _ in range(steps):
        sgd.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        sgd.step()
        probe.step(x, y, loss)
    probe.report(tmp_path / "report.html")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_snapshots_at_every_step_are_the_path(tmp_path):
    x, y = small()
    loss = nn.MSELoss()
    flow_model = mlp(nn.Tanh, 3, (5, 8, 3))
    sgd = torch.optim.SGD(flow_model.parameters(), lr=0.2)
    flow = layer_heat(flow_model, loss, (x, y), sgd, 60)
    snapshots, summary = heat_rows(run_rows(mlp(nn.Tanh, 3, (5, 8, 3)), loss, (x, y), tmp_path))
    assert summary is not None
    assert snapshots[0]["names"] == ["0", "2"]
    last = value(snapshots[-1], "cumulative_heat")
    # Simpson's rule and trapezoids agree within the trapezoids' error bar
    assert np.all(np.abs(last - flow.heat.value) < flow.heat.stderr + 1e-9)
    released = float(value(summary, "energy_released"))
    assert released == pytest.approx(float(flow.energy_released), rel=1e-9)
    assert abs(float(value(summary, "run_closure"))) < 1e-4 * released
    table = summary["tables"]["heat"]
    heads = table["columns"]
    assert [r[heads.index("parameters")] for r in table["rows"]] == [40, 24]
    T = [r[heads.index("temperature Q/S")] for r in table["rows"]]
    np.testing.assert_allclose(T, last / flow.entropy.value, rtol=1e-9)
    (engine,) = summary["tables"]["engines"]["rows"]
    assert engine[:3] == ["0", "tanh", "II"]


def test_heat_goes_on_after_a_resume(tmp_path):
    x, y = small()
    model = mlp(nn.Tanh, 3, (5, 8, 3))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    start = nn.functional.mse_loss(model(x), y).item()
    state, path = None, tmp_path / "run.jsonl"
    for _ in range(2):
        probe = thermolearn.Probe(
            model, nn.MSELoss(), sgd, reference=(x, y), every=5, quantities=[Heat()], log=path
        )
        if state is not None:
            probe.load_state_dict(state)
        for _ in range(10):
            sgd.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            sgd.step()
            probe.step(x, y, loss)
        probe.flush()
        state = probe.state_dict()
    probe.report(tmp_path / "report.html")
    _, summary = heat_rows([json.loads(line) for line in path.read_text().splitlines()])
    assert summary is not None
    end = nn.functional.mse_loss(model(x), y).item()
    assert float(value(summary, "energy_released")) == pytest.approx(start - end, rel=1e-12)


def test_coarse_snapshots_still_close(tmp_path):
    x, y = small()
    snapshots, summary = heat_rows(
        run_rows(mlp(nn.Tanh, 3, (5, 8, 3)), nn.MSELoss(), (x, y), tmp_path, every=20)
    )
    assert len(snapshots) == 4 and summary is not None
    released = float(value(summary, "energy_released"))
    total = value(snapshots[-1], "cumulative_heat").sum()
    closure = float(value(summary, "run_closure"))
    assert total - released == pytest.approx(closure, abs=1e-12)
    assert abs(closure) < 0.02 * released
    # the error of the sum is known: what the layers' quadratures do not close
    assert abs(closure) == float(summary["values"]["heat_total"]["stderr"])


def test_running_statistics_are_kept_apart(tmp_path):
    model, _ = residual_net()
    x, y = numbers(24, 2, 4, 4, seed=4), numbers(24, 3, seed=5)
    model.train()
    snapshots, summary = heat_rows(
        run_rows(model, nn.MSELoss(), (x, y), tmp_path, steps=12, every=2, lr=0.05)
    )
    assert summary is not None
    moved = float(value(summary, "heat_buffers"))
    released, closure = (float(value(summary, n)) for n in ("energy_released", "run_closure"))
    assert moved != 0
    total = value(snapshots[-1], "cumulative_heat").sum()
    assert total + moved - released == pytest.approx(closure, abs=1e-10)
    assert abs(closure) < 0.1 * abs(total)


def test_a_run_with_one_snapshot_has_no_summary(tmp_path):
    x, y = small()
    rows = run_rows(mlp(nn.Tanh, 0, (5, 8, 3)), nn.MSELoss(), (x, y), tmp_path, steps=0)
    assert heat_rows(rows)[1] is None


# -- signals and drawing -----------------------------------------------------------------------
def test_signals_of_modules_and_functions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6).double() for _ in range(3))
            self.p = nn.PReLU(6).double()

        def forward(self, x):
            x = F.relu(self.a(x), inplace=True)
            x = torch.tanh(torch.nn.functional.leaky_relu(self.b(x), 0.2))
            return self.p(self.c(x))

    model, x = Net().eval(), numbers(100, 6, seed=7)
    found = signals(model, x)
    assert [(s.place, s.function, s.engine) for s in found] == [
        ("a", "relu", "I"), ("b", "leaky_relu", "I"), ("b (2)", "tanh", "II"),
        ("c", "prelu", "unknown"),
    ]  # fmt: skip
    z = model.a(x).detach()
    assert found[0].scale == pytest.approx(float(z.square().mean().sqrt()), rel=1e-12)
    share = float(z.relu().square().mean() / z.square().mean())
    assert float(found[0].efficiency) == pytest.approx(share, rel=1e-9)
    assert float(found[0].gaussian) == pytest.approx(0.5)
    assert float(found[1].gaussian) == pytest.approx((1 + 0.2**2) / 2)
    assert signals(nn.Linear(6, 2).double(), x) == []


def test_gaussian_signals_have_the_gaussian_efficiency():
    model = nn.Sequential(nn.Linear(50, 400, bias=False), nn.GELU()).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(numbers(400, 50, seed=1) / 50**0.5 * 1.5)
    (s,) = signals(model, numbers(400, 50, seed=2))
    assert abs(float(s.efficiency) - float(s.gaussian)) < 4 * float(s.efficiency.stderr) + 0.01


def test_drawing_of_the_stack():
    x, y = small()
    model = mlp(nn.Tanh, 0, (5, 8, 3))
    flow = layer_heat(model, nn.MSELoss(), (x, y), torch.optim.SGD(model.parameters(), lr=0.1), 10)
    figure = draw_engines(flow, between=["tanh"])
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert sum("$Q$" in t for t in texts) == 2 and any("closure" in t for t in texts)
    assert any("scale-free" in t for t in texts) and "tanh" in texts


# -- bad input ---------------------------------------------------------------------------------
def test_bad_input():
    x, y = small()
    model = mlp(nn.Tanh, 0, (5, 8, 3))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    mse, state = nn.MSELoss(), model.state_dict()
    for error, words, call in (
        (TypeError, "not both", lambda: layer_heat(model, mse, (x, y))),
        (TypeError, "not both", lambda: layer_heat(model, mse, (x, y), sgd, path=[state])),
        (ValueError, "steps", lambda: layer_heat(model, mse, (x, y), sgd, 0)),
        (ValueError, "init", lambda: layer_heat(model, mse, (x, y), sgd, init="he")),
        (ValueError, "init", lambda: Heat(init="he")),
        (TypeError, "model must", lambda: layer_heat("m", mse, (x, y), sgd)),
        (TypeError, "data", lambda: layer_heat(model, mse, x, sgd)),
        (ValueError, "at least two", lambda: layer_heat(model, mse, (x, y), path=[state])),
        (ValueError, "does not have", lambda: layer_heat(model, mse, (x, y), path=[{"w": x}, {}])),
        (ValueError, "of shape",
         lambda: layer_heat(model, mse, (x, y), path=[{"0.weight": x}, {}])),
        (TypeError, "dict", lambda: layer_heat(model, mse, (x, y), path=[x, x])),
        (TypeError, "Optimizer", lambda: layer_heat(model, mse, (x, y), "sgd")),
        (NotApplicableError, "closure",
         lambda: layer_heat(model, mse, (x, y), torch.optim.LBFGS(model.parameters()))),
        (NotApplicableError, "no parameter",
         lambda: layer_heat(nn.Flatten(), mse, (x, x), path=[{}, {}])),
        (ValueError, "not the model's",
         lambda: layer_heat(mlp(nn.Tanh, 1, (5, 8, 3)), mse, (x, y), sgd)),
        (ValueError, "diverges",
         lambda: layer_heat(model, mse, (x, y), torch.optim.SGD(model.parameters(), lr=1e6), 60)),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            call()
    flow = layer_heat(model, mse, (x, y), sgd, 2)
    with pytest.raises(ValueError, match="no layer '7'; there are 0, 2"):
        flow.index("7")


def test_parameters_on_two_devices():
    model = mlp(nn.Tanh, 0, (5, 8, 3))
    model[2].weight = nn.Parameter(torch.empty(3, 8, device="meta"))
    x, y = small()
    with pytest.raises(NotApplicableError):
        layer_heat(model, nn.MSELoss(), (x, y), path=[{}, {}])


def test_mixed_precision_models_are_measured_in_one():
    x, y = small()
    model = mlp(nn.Tanh, 0, (5, 8, 3))
    half = copy.deepcopy(model)
    half[2].to(torch.float32)
    flows = [layer_heat(m, nn.MSELoss(), (x, y), path=[
        {}, {"0.weight": model[0].weight + 0.1}]) for m in (model, half)]  # fmt: skip
    np.testing.assert_allclose(flows[0].heat.value, flows[1].heat.value, rtol=1e-5)
