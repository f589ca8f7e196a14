"""Curvature against the full Hessian, closed forms and simulated optimizers."""

import copy
import math
import time

import numpy as np
import pytest
import torch
from networks import Residual, numbers
from scipy import stats
from torch import nn
from torch.nn import functional as F

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.curvature import (
    Curvature,
    hessian,
    hessian_trace,
    layer_traces,
    loss_slice,
    preconditioned_sharpness,
    sharpness,
    spectral_density,
    stability_edge,
    top_eigenvalues,
    trace,
)
from thermolearn.measure.curvature.hessian import private_window, window_hessian
from thermolearn.measure.probe import Probe
from thermolearn.measure.setting import window_of


def seeded(make, seed=0):
    """A float64 network of a given seed; the global generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


def full_hessian(model, loss, x, y):
    """Row by row by torch.func, an independent way; eval mode, trained parameters only."""
    model = copy.deepcopy(model).eval()
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trained.values()]

    def loss_of(flat):
        chunks = flat.split(sizes)
        parts = {n: c.view_as(p) for (n, p), c in zip(trained.items(), chunks, strict=True)}
        return loss(torch.func.functional_call(model, parts, x), y)

    return torch.func.hessian(loss_of)(torch.cat([p.reshape(-1) for p in trained.values()]))


def regression(n=60, d=4, seed=0):
    """Linear regression 1/2 (w x - y)^2, Hessian X^T X / n."""
    x, y = numbers(n, d, seed=seed), numbers(n, 1, seed=seed + 1)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(numbers(1, d, seed=99))
    return model, lambda o, t: 0.5 * ((o - t) ** 2).sum(1).mean(), x, y


class Tied(nn.Module):
    """One matrix used twice; it belongs to the layer where it comes first."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


def mlp(activation=nn.Tanh):
    return nn.Sequential(
        nn.Linear(8, 12), activation(), nn.Linear(12, 12), activation(), nn.Linear(12, 4)
    )


def frozen():
    model = mlp()
    model[2].requires_grad_(False)
    model[4].bias.requires_grad_(False)
    return model


def conv():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    )


CASES = {
    "tanh": (mlp, (40, 8), 4),
    "relu": (lambda: mlp(nn.ReLU), (40, 8), 4),
    "gelu": (lambda: mlp(nn.GELU), (40, 8), 4),
    "tied": (Tied, (30, 6), 3),
    "frozen": (frozen, (40, 8), 4),
    "conv and batch norm": (conv, (12, 2, 4, 4), 3),
    "residual": (Residual, (6, 2, 4, 4), 3),
}


@pytest.fixture(params=list(CASES))
def case(request):
    """Model, data and the full Hessian."""
    make, shape, classes = CASES[request.param]
    model, x = seeded(make), numbers(*shape, seed=5)
    if request.param == "conv and batch norm":
        model[1].running_mean.fill_(0.3)
        model[1].running_var.fill_(2.0)
    y = torch.arange(shape[0]) % classes
    return model, (x, y), full_hessian(model, F.cross_entropy, x, y)


def layer_slices(model, exact):
    """Trace of each layer's block of the full Hessian, by the module that owns the parameters."""
    found, start = {}, 0
    for name, p in model.named_parameters():
        if p.requires_grad:
            layer = name.rpartition(".")[0]
            part = float(exact.diagonal()[start : start + p.numel()].sum())
            found[layer] = found.get(layer, 0.0) + part
            start += p.numel()
    return found


def test_sharpness_of_linear_regression():
    model, loss, x, y = regression()
    e = sharpness(model, loss, x, y, "mean", torch.Generator().manual_seed(0))
    top = float(torch.linalg.eigvalsh(x.T @ x / len(x))[-1])
    assert math.isclose(e.item(), top, rel_tol=1e-10)
    total = sharpness(
        model,
        lambda o, t: 0.5 * ((o - t) ** 2).sum(),
        x,
        y,
        "sum",
        torch.Generator().manual_seed(0),
    )
    assert math.isclose(total.item(), top, rel_tol=1e-10)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
def test_sharpness_is_the_top_of_the_full_hessian(activation):
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 9), activation(), nn.Linear(9, 4)), 3)
    x, y = numbers(30, 5), torch.arange(30) % 4
    spectrum = torch.linalg.eigvalsh(full_hessian(model, F.cross_entropy, x, y))
    e = sharpness(model, F.cross_entropy, x, y, "mean", torch.Generator().manual_seed(0))
    assert e.status == "ok"
    assert abs(e.item() - float(spectrum[-1])) <= e.stderr + 1e-12
    assert e.item() > float(spectrum[-2])


def test_sharpness_of_too_large_a_model_is_not_a_number(monkeypatch):
    monkeypatch.setattr(hessian, "BASIS_ELEMENTS", 3)
    model, loss, x, y = regression(d=9)
    e = sharpness(model, loss, x, y, "mean", torch.Generator().manual_seed(0))
    assert e.status == "too large" and math.isnan(e.item())


SGD = {"name": "SGD", "lr": 0.1, "momentum": 0.0, "dampening": 0.0, "nesterov": False,
       "weight_decay": 0.0, "maximize": False, "one_rate": True}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.5},
        {"weight_decay": 0.5},
        {"momentum": 0.5, "weight_decay": 0.5},
    ],
)
def test_stability_edge_is_where_torch_sgd_diverges(settings):
    edge = stability_edge({**SGD, **settings}).item()
    for factor, diverges in ((0.99, False), (1.01, True)):
        w = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([w], lr=0.1, **settings)
        for _ in range(3000):
            optimizer.zero_grad()
            (0.5 * factor * edge * w**2).sum().backward()
            optimizer.step()
            if abs(w.item()) > 1e6:
                break
        assert (abs(w.item()) > 1) == diverges, (settings, factor)


def test_stability_edge_only_for_sgd():
    assert stability_edge(SGD).item() == 20
    for other in ({"name": "Adam"}, {"lr": 0.0}, {"maximize": True}, {"one_rate": False}):
        e = stability_edge({**SGD, **other})
        assert math.isnan(e.item()) and e.status == "not applicable"


# -- trace ---------------------------------------------------------------------------------------
def test_trace_within_three_errors_of_the_full_hessian(case):
    model, data, exact = case
    e = hessian_trace(model, F.cross_entropy, data, 40)
    # three errors, and what rounding leaves where the trace is exact
    assert abs(e.item() - float(exact.trace())) < 3 * e.stderr + 1e-10
    layers, truth = layer_traces(model, F.cross_entropy, data, 40), layer_slices(model, exact)
    assert list(layers) == list(truth)
    for name, value in truth.items():
        assert abs(layers[name].item() - value) < 4 * layers[name].stderr + 1e-10, name


def test_small_models_are_exact():
    model, loss, x, y = regression()
    e = hessian_trace(model, loss, (x, y), 2)
    assert e.stderr == 0 and "exact" in e.note
    assert math.isclose(e.item(), float((x.T @ x).trace()) / len(x), rel_tol=1e-12)


def student(probes):
    """Factor by which the error from so few probes is widened: two of it hold 95%."""
    return stats.t.ppf(stats.norm.cdf(2), probes - 1) / 2


def test_trace_is_unbiased_and_its_error_is_right():
    """Forty seeds of 20 products; the spread of held-out estimates alone would be caught."""
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    exact = full_hessian(model, F.cross_entropy, x, y)
    with private_window(model, F.cross_entropy, (x, y), torch.float64) as window:
        task = window_hessian(window)
        found = [trace.estimate_traces(task, 20, seed) for seed in range(40)]
    truth = [float(exact.trace()), *layer_slices(model, exact).values()]
    for k, value in enumerate(truth):
        rows = [total if k == 0 else list(layers.values())[k - 1] for total, layers in found]
        values = np.array([e.value for e in rows])
        jackknife = [e.stderr / student(10) for e in rows]
        said = math.sqrt(np.mean(np.square(jackknife)))
        assert abs(values.mean() - value) < 4 * values.std() / math.sqrt(40)
        assert 0.75 < said / values.std() < 1.6
    assert np.std([t.value for t, _ in found]) > 0  # not the exact branch


@pytest.mark.parametrize("products", [4, 8, 12, 20])
def test_two_errors_hold_95_percent_also_with_few_products(products):
    """The jackknife alone: 86% at 8 products, 90% at 12."""
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    exact, seeds = full_hessian(model, F.cross_entropy, x, y), 100
    truth = np.array([float(exact.trace()), *layer_slices(model, exact).values()])
    with private_window(model, F.cross_entropy, (x, y), torch.float64) as window:
        task = window_hessian(window)
        found = [trace.estimate_traces(task, products, seed) for seed in range(seeds)]
    inside = [
        [abs(e.value - t) < 2 * e.stderr for e, t in zip([a, *b.values()], truth, strict=True)]
        for a, b in found
    ]
    assert (np.mean(inside, 0) > 0.9545 - 2 * math.sqrt(0.9545 * 0.0455 / seeds)).all()


def naive_xtrace(matrix, probes):
    """Held-out estimates by a new basis for every probe, and the jackknife over probes."""

    def mean(kept):
        found = []
        for i in kept:
            q = torch.linalg.qr(matrix @ probes[[j for j in kept if j != i]].T)[0]
            rest = probes[i] - q @ (q.T @ probes[i])
            found.append(float((q.T @ matrix @ q).trace() + rest @ matrix @ rest))
        return np.mean(found)

    n = len(probes)
    fixed = [mean([i for i in range(n) if i != j]) for j in range(n)]
    return mean(range(n)), math.sqrt((n - 1) * np.var(fixed))


def test_the_left_out_directions_are_those_of_a_new_basis():
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    exact = full_hessian(model, F.cross_entropy, x, y)
    with private_window(model, F.cross_entropy, (x, y), torch.float64) as window:
        task = window_hessian(window)
        found = trace.estimate_traces(task, 16, 0)[0]
        value, error = naive_xtrace(0.5 * (exact + exact.T), hessian.rademacher(task, 8, 0))
    assert math.isclose(found.value, value, rel_tol=1e-10)
    assert math.isclose(found.stderr, student(8) * error, rel_tol=1e-8)


def test_many_products_are_taken_in_blocks():
    """No tensor of (probes, probes, probes, probes) numbers: 300 products in a second or so."""
    model, x, y = seeded(lambda: nn.Linear(400, 1)), numbers(500, 400), numbers(500, 1)
    exact = 2 * (1 + float((x * x).sum() / len(x)))
    with private_window(model, nn.MSELoss(), (x, y), torch.float64) as window:
        task, found = window_hessian(window), []
        begin = time.process_time()
        for seed in range(8):
            found.append(trace.estimate_traces(task, 300, seed)[0])
        assert time.process_time() - begin < 8 * 5
    z = np.array([(e.value - exact) / e.stderr for e in found])
    assert abs(z).max() < 4 and z.std() > 0.3


def test_xtrace_beats_hutchinson_at_equal_products():
    """A Hessian with a few large eigenvalues: what a trained network has."""
    model, x, y = seeded(lambda: nn.Linear(200, 1, bias=False)), numbers(300, 200), numbers(300, 1)
    x = x * torch.arange(1, 201, dtype=torch.float64) ** -1.0

    def loss(o, t):
        return 0.5 * ((o - t) ** 2).sum(1).mean()

    with private_window(model, loss, (x, y), torch.float64) as window:
        task = window_hessian(window)
        ours = [trace.estimate_traces(task, 40, seed)[0].value for seed in range(20)]
        plain = [float(trace._hutchinson(task, 40, seed)[0].mean()) for seed in range(20)]
    exact = float((x.T @ x).trace()) / len(x)
    assert np.sqrt(np.mean((np.array(ours) - exact) ** 2)) < 0.5 * np.sqrt(
        np.mean((np.array(plain) - exact) ** 2)
    )


def test_hutchinson_where_a_basis_does_not_fit(monkeypatch):
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    monkeypatch.setattr(hessian, "BASIS_ELEMENTS", 3000)
    e = hessian_trace(model, F.cross_entropy, (x, y), 60)
    exact = float(full_hessian(model, F.cross_entropy, x, y).trace())
    assert "Hutchinson" in e.note and abs(e.item() - exact) < 4 * e.stderr


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU])
def test_a_hessian_of_low_rank(activation):
    """Ten samples of a linear map: the range is smaller than the number of probes."""
    model = seeded(lambda: nn.Sequential(nn.Linear(150, 1, bias=False), activation()))
    x, y = numbers(4, 150), numbers(4, 1)
    e = hessian_trace(model, nn.MSELoss(), (x, y), 20)
    exact = float(full_hessian(model, nn.MSELoss(), x, y).trace())
    assert abs(e.item() - exact) < 4 * e.stderr + 1e-9 * abs(exact)


def test_a_constant_loss_has_no_curvature():
    model = seeded(lambda: nn.Linear(200, 1))
    e = hessian_trace(model, lambda o, t: o.sum(1).mean(), (numbers(5, 200), numbers(5, 1)))
    assert e.item() == 0


def test_many_samples_in_chunks(monkeypatch):
    model, x, y = seeded(mlp), numbers(61, 8), torch.arange(61) % 4
    whole = hessian_trace(model, F.cross_entropy, (x, y))
    monkeypatch.setattr(hessian, "KEPT_SAMPLES", 20)
    parts = hessian_trace(model, F.cross_entropy, (x, y))
    assert math.isclose(whole.item(), parts.item(), rel_tol=1e-9)
    total = nn.CrossEntropyLoss(reduction="sum")
    assert math.isclose(hessian_trace(model, total, (x, y)).item(), whole.item(), rel_tol=1e-9)


def test_a_loss_that_couples_samples_is_taken_as_a_whole(monkeypatch):
    monkeypatch.setattr(hessian, "KEPT_SAMPLES", 10)
    model, x, y = seeded(mlp), numbers(40, 8), torch.arange(40) % 4
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 0.5]))
    e = top_eigenvalues(model, loss, (x, y), 1)
    double = nn.CrossEntropyLoss(weight=loss.weight.double())
    exact = torch.linalg.eigvalsh(full_hessian(model, double, x, y))
    assert math.isclose(e.largest.value[0], float(exact[-1]), rel_tol=1e-6)


# -- eigenvalues ---------------------------------------------------------------------------------
def test_both_ends_of_the_spectrum(case):
    model, data, exact = case
    spectrum = torch.linalg.eigvalsh(exact).numpy()
    e = top_eigenvalues(model, F.cross_entropy, data, 3, tolerance=1e-8)
    for found, truth in ((e.largest, spectrum[::-1][:3]), (e.smallest, spectrum[:3])):
        assert found.status == "ok"
        assert (np.abs(found.value - truth) <= found.stderr + 1e-12).all()


def test_a_block_is_the_block_of_the_full_hessian():
    model, x, y = seeded(mlp), numbers(40, 8), torch.arange(40) % 4
    exact = full_hessian(model, F.cross_entropy, x, y)[108:264, 108:264]  # the second layer
    spectrum = torch.linalg.eigvalsh(exact).numpy()
    e = top_eigenvalues(model, F.cross_entropy, (x, y), 2, layer="2", tolerance=1e-8)
    assert "block of 2" in e.largest.note
    np.testing.assert_allclose(e.largest.value, spectrum[::-1][:2], rtol=1e-9)
    d = spectral_density(model, F.cross_entropy, (x, y), 30, 60, layer="2")
    assert d.size == 156 and abs(d.trace.item() - exact.trace()) < 4 * d.trace.stderr


def test_residuals_bound_the_error_of_a_short_recursion():
    model, x, y = seeded(mlp), numbers(40, 8), torch.arange(40) % 4
    spectrum = torch.linalg.eigvalsh(full_hessian(model, F.cross_entropy, x, y)).numpy()
    e = top_eigenvalues(model, F.cross_entropy, (x, y), 5, tolerance=0.5)
    for value, error in zip(e.largest.value, e.largest.stderr, strict=True):
        assert np.abs(spectrum - value).min() <= error + 1e-12
    assert e.largest.stderr.max() > 1e-9


def test_float32_agrees_within_its_precision():
    model, x, y = seeded(mlp).float(), numbers(40, 8).float(), torch.arange(40) % 4
    a = top_eigenvalues(model, F.cross_entropy, (x, y), 2)
    b = top_eigenvalues(model, F.cross_entropy, (x, y), 2, dtype=torch.float32)
    np.testing.assert_allclose(a.largest.value, b.largest.value, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_a_hessian_of_low_rank_has_its_zeros(samples, k):
    """More parameters than 128 and an invariant subspace of samples + 1 dimensions."""
    model = seeded(lambda: nn.Linear(200, 1))
    x, y = numbers(samples, 200), numbers(samples, 1)
    spectrum = torch.linalg.eigvalsh(full_hessian(model, nn.MSELoss(), x, y)).numpy()
    e = top_eigenvalues(model, nn.MSELoss(), (x, y), k, tolerance=1e-8)
    assert e.steps <= samples + 20 and e.largest.status == "ok"
    for found, truth in ((e.largest, spectrum[::-1][:k]), (e.smallest, spectrum[:k])):
        assert (np.abs(found.value - truth) <= found.stderr + 1e-12).all()


def test_eigenvalues_of_a_multiple_low_rank():
    """Four outputs share five samples: 20 eigenvalues of five sizes, and zeros."""
    model = seeded(lambda: nn.Linear(60, 4))
    x, y = numbers(5, 60), numbers(5, 4)
    spectrum = torch.linalg.eigvalsh(full_hessian(model, nn.MSELoss(), x, y)).numpy()
    e = top_eigenvalues(model, nn.MSELoss(), (x, y), 22)
    np.testing.assert_allclose(e.largest.value, spectrum[::-1][:22], atol=1e-10)
    np.testing.assert_allclose(e.smallest.value, spectrum[:22], atol=1e-10)


def test_a_constant_loss_has_zero_eigenvalues():
    data = numbers(9, 200), numbers(9, 1)
    e = top_eigenvalues(seeded(lambda: nn.Linear(200, 1)), lambda o, t: o.mean(), data, 5)
    assert (e.largest.value == 0).all() and (e.smallest.value == 0).all() and e.steps <= 3


# -- density -------------------------------------------------------------------------------------
def test_moments_and_shares_of_the_density(case):
    model, data, exact = case
    spectrum = torch.linalg.eigvalsh(exact).numpy()
    d = spectral_density(model, F.cross_entropy, data, 20, 30)
    for power in (1, 2, 3):
        e = d.moment(power)
        assert abs(e.item() - (spectrum**power).mean()) < 4 * e.stderr + 1e-12, power
    assert math.isclose(d.share().item(), 1, rel_tol=1e-9)
    top = 0.5 * spectrum[-1]
    assert abs(d.share(top).item() - (spectrum > top).mean()) < 4 * d.share(top).stderr + 1e-9


def test_the_density_is_that_of_the_broadened_spectrum():
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    spectrum = torch.linalg.eigvalsh(full_hessian(model, F.cross_entropy, x, y)).numpy()
    d = spectral_density(model, F.cross_entropy, (x, y), 30, 60)
    width = 0.03 * (spectrum[-1] - spectrum[0])
    grid = d.grid(400, width)
    e = d.density(grid, width)
    kernel = np.exp(-0.5 * ((grid[:, None] - spectrum) / width) ** 2)
    truth = (kernel / (width * math.sqrt(2 * math.pi))).mean(1)
    assert math.isclose(np.trapezoid(e.value, grid), 1, rel_tol=1e-4)
    assert (np.abs(e.value - truth) < 5 * e.stderr + 1e-3 * truth.max()).all()
    assert math.isclose(d.range[1], spectrum[-1], rel_tol=1e-6)
    assert f"{d.default_width:.3g}" in d.density(grid).note


def test_one_probe_has_no_error_bar():
    model, x, y = seeded(mlp), numbers(20, 8), torch.arange(20) % 4
    assert math.isnan(spectral_density(model, F.cross_entropy, (x, y), 1, 8).trace.stderr)


def test_too_large_for_a_basis(monkeypatch):
    model, x, y = seeded(mlp), numbers(20, 8), torch.arange(20) % 4
    monkeypatch.setattr(hessian, "BASIS_ELEMENTS", 3000)
    assert "not 60" in spectral_density(model, F.cross_entropy, (x, y)).note
    monkeypatch.setattr(hessian, "BASIS_ELEMENTS", 1000)
    with pytest.raises(ValueError, match="layer="):
        spectral_density(model, F.cross_entropy, (x, y))
    assert top_eigenvalues(model, F.cross_entropy, (x, y)).largest.status == "too large"


# -- Adam ----------------------------------------------------------------------------------------
def trained(kind, steps=30, **settings):
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    optimizer = kind(model.parameters(), **{"lr": 0.01, **settings})
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, (x, y), optimizer


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"betas": (0.5, 0.99), "weight_decay": 0.1, "amsgrad": True}),
        (torch.optim.AdamW, {"weight_decay": 0.2}),
    ],
)
def test_preconditioned_sharpness_from_the_state(kind, settings):
    model, (x, y), optimizer = trained(kind, **settings)
    found = preconditioned_sharpness(model, F.cross_entropy, (x, y), optimizer)
    exact = full_hessian(model, F.cross_entropy, x, y)
    group, moments = optimizer.param_groups[0], []
    for p in model.parameters():
        state = optimizer.state[p]
        v = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        moments.append((((v / (1 - beta2**30)).sqrt() + 1e-8) * (1 - beta1**30)).reshape(-1))
    p = torch.cat(moments)
    if kind is torch.optim.Adam:
        exact = exact + group["weight_decay"] * torch.eye(len(p), dtype=torch.float64)
    values = torch.linalg.eigvals(exact / p[:, None]).real
    assert math.isclose(found.sharpness.item(), float(values.max()), rel_tol=1e-6)
    assert math.isclose(found.ratio.item() * found.edge.item(), found.sharpness.item())


@pytest.mark.parametrize(("beta1", "decay"), [(0.9, 0.0), (0.5, 0.0), (0.9, 5.0)])
def test_the_edge_of_adam_is_where_its_recursion_diverges(beta1, decay):
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    model, data, optimizer = trained(kind, 2, betas=(beta1, 0.999), weight_decay=decay)
    edge = preconditioned_sharpness(model, F.cross_entropy, data, optimizer).edge.item()
    if (beta1, decay) == (0.9, 0.0):
        assert math.isclose(edge, 38 / 0.01)
    assert not adam_matrix_diverges(0.99 * edge, 0.01, beta1, decay)
    assert adam_matrix_diverges(1.01 * edge, 0.01, beta1, decay)


def adam_matrix_diverges(s, lr, beta1, decay):
    """Spectral radius of one step of (w, m) under AdamW with P = 1 on s w^2/2."""
    step = np.array(
        [[1 - lr * decay - lr * (1 - beta1) * s, -lr * beta1], [(1 - beta1) * s, beta1]]
    )
    return np.abs(np.linalg.eigvals(step)).max() > 1


@pytest.mark.slow
def test_full_batch_adam_settles_at_the_edge():
    """The adaptive edge of stability (arXiv:2207.14484): the ratio rises to about 1."""
    model, x = seeded(lambda: mlp(), 1), numbers(60, 8)
    y = torch.arange(60) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
    ratios = []
    for step in range(1500):
        optimizer.zero_grad()
        F.mse_loss(model(x), F.one_hot(y, 4).double()).backward()
        optimizer.step()
        if step >= 900 and step % 50 == 0:
            target = F.one_hot(y, 4).double()
            ratios.append(
                preconditioned_sharpness(model, F.mse_loss, (x, target), optimizer).ratio.item()
            )
    assert 0.8 < np.median(ratios) < 1.2


def test_optimizers_without_an_edge_for_adam():
    model, data, adam = trained(torch.optim.Adam, 1)
    call = preconditioned_sharpness
    for optimizer, words in (
        (torch.optim.SGD(model.parameters(), 0.1), "Adam or AdamW, got SGD"),
        (torch.optim.Adam(model.parameters()), "no second moments"),
        (torch.optim.Adam(model.parameters(), maximize=True), "maximizes"),
        (
            torch.optim.Adam([{"params": model[0].parameters(), "lr": 1e-3},
                              {"params": model[2].parameters()}], lr=1e-2),
            "groups differ",
        ),
        (torch.optim.Adam([nn.Parameter(torch.ones(2))]), "none of the model"),
    ):  # fmt: skip
        with pytest.raises(NotApplicableError, match=words):
            call(model, F.cross_entropy, data, optimizer)
    assert call(model, F.cross_entropy, data, adam).sharpness.status == "ok"


# -- slices --------------------------------------------------------------------------------------
def test_a_slice_is_the_loss_at_the_moved_parameters():
    model, x, y = seeded(conv), numbers(10, 2, 4, 4), torch.arange(10) % 3
    rng = torch.Generator().manual_seed(0)
    direction = {"0.weight": torch.randn(3, 2, 3, 3, generator=rng)}
    found = loss_slice(model, F.cross_entropy, (x, y), [direction], span=0.5, points=5)
    moved = copy.deepcopy(model).eval()
    with torch.no_grad():
        moved[0].weight += 0.25 * direction["0.weight"]
        assert math.isclose(found.loss.value[3], F.cross_entropy(moved(x), y), rel_tol=1e-12)
        center = F.cross_entropy(model.eval()(x), y).item()
    assert math.isclose(found.center, center, rel_tol=1e-12)


def test_directions_have_the_norm_of_each_filter():
    from thermolearn.measure.curvature.slices import filter_normalized

    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3),
                                         nn.ConvTranspose2d(3, 4, 2), nn.Linear(5, 6)))  # fmt: skip
    model[3].bias.requires_grad_(False)
    d = filter_normalized(model, 0)
    assert list(d) == ["0.weight", "2.weight", "3.weight"]
    for name, axes in (("0.weight", (1, 2, 3)), ("2.weight", (0, 2, 3)), ("3.weight", (1,))):
        p = dict(model.named_parameters())[name]
        a, b = (torch.linalg.vector_norm(t.detach(), dim=axes) for t in (d[name], p))
        torch.testing.assert_close(a, b)


def test_a_plane_meets_its_lines():
    model, x, y = seeded(mlp), numbers(10, 8), torch.arange(10) % 4
    plane = loss_slice(model, F.cross_entropy, (x, y), 2, points=5)
    line = loss_slice(model, F.cross_entropy, (x, y), 1, points=5)
    np.testing.assert_allclose(plane.loss.value[:, 2], line.loss.value, rtol=1e-12)
    assert plane.loss.value.shape == plane.loss.stderr.shape == (5, 5)


# -- the user's objects, bad input ---------------------------------------------------------------
CALLS = {
    "trace": lambda *a: hessian_trace(*a),
    "eigenvalues": lambda *a: top_eigenvalues(*a),
    "density": lambda *a: spectral_density(*a, 2, 6),
    "float32": lambda *a: spectral_density(*a, 2, 6, dtype=torch.float32),
    "slice": lambda *a: loss_slice(*a, points=3),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_nothing_of_the_users_is_changed(call):
    model, x, y = seeded(conv).float().train(), numbers(8, 2, 4, 4).float(), torch.arange(8) % 3
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    loss(model(x), y).backward()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    grads, state = [p.grad.clone() for p in model.parameters()], torch.get_rng_state()
    a, b = call(model, loss, (x, y)), call(model, loss, (x, y))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert loss.weight.dtype == torch.float32 and type(a) is type(b)


def test_same_seed_same_bits():
    model, x, y = seeded(mlp), numbers(20, 8), torch.arange(20) % 4
    a, b = (hessian_trace(model, F.cross_entropy, (x, y), seed=3) for _ in range(2))
    assert (a.value, a.stderr) == (b.value, b.stderr)
    assert a.value != hessian_trace(model, F.cross_entropy, (x, y), seed=4).value


def test_bad_input():
    model, data = seeded(mlp), (numbers(20, 8), torch.arange(20) % 4)
    loss = F.cross_entropy
    for call, words in (
        (lambda: hessian_trace(model, loss, data, 1), "probes"),
        (lambda: hessian_trace(model, loss, data, 2.5), "probes"),
        (lambda: hessian_trace(model, loss, data, dtype=torch.float16), "dtype"),
        (lambda: top_eigenvalues(model, loss, data, 0), "k must"),
        (lambda: top_eigenvalues(model, loss, data, layer="x"), "there are"),
        (lambda: top_eigenvalues(model, loss, data, tolerance=0), "tolerance"),
        (lambda: spectral_density(model, loss, data, steps=1), "steps"),
        (lambda: spectral_density(model, loss, data, 2, 6).density(np.zeros(1), -1.0), "width"),
        (lambda: loss_slice(model, loss, data, 3), "directions"),
        (lambda: loss_slice(model, loss, data, True), "directions"),
        (lambda: loss_slice(model, loss, data, [{"no": torch.ones(1)}]), "unknown"),
        (lambda: loss_slice(model, loss, data, points=4), "odd"),
        (lambda: loss_slice(model, loss, data, span=0.0), "span"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="model"):
        hessian_trace("model", loss, data)
    bad = seeded(mlp)
    with torch.no_grad():
        bad[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        hessian_trace(bad, loss, data)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_models_without_trained_parameters_do_not_apply(call):
    data = numbers(6, 3), numbers(6, 3)
    for model in (nn.Tanh(), nn.Linear(3, 3).requires_grad_(False)):
        with pytest.raises(NotApplicableError, match="no parameter"):
            call(model, nn.MSELoss(), data)


class Once(torch.autograd.Function):
    """A square whose gradient has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Square(nn.Module):
    def forward(self, x):
        return Once.apply(x)


def test_a_model_without_second_derivatives_does_not_apply():
    model = seeded(lambda: nn.Sequential(nn.Linear(20, 10), Square()))
    with pytest.raises(NotApplicableError, match="differentiated twice"):
        hessian_trace(model, nn.MSELoss(), (numbers(6, 20), numbers(6, 10)))


def test_sparse_gradients_are_named():
    model = nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Linear(8, 20))
    with pytest.raises(NotApplicableError, match="sparse=False"):
        hessian_trace(model, F.cross_entropy, (torch.arange(9), torch.arange(9)))


def test_mixed_precisions_are_measured_in_float64():
    model, data = seeded(mlp), (numbers(20, 8), torch.arange(20) % 4)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = top_eigenvalues(model, F.cross_entropy, data, 1).largest.value[0]
    model[0].bfloat16()
    model[2].float()
    found = top_eigenvalues(model, F.cross_entropy, data, 1).largest.value[0]
    assert math.isclose(found, exact, rel_tol=1e-9)


# -- the quantity --------------------------------------------------------------------------------
def test_measure_agrees_with_the_full_hessian():
    model, x, y = seeded(mlp), numbers(60, 8), torch.arange(60) % 4
    window = window_of(model, F.cross_entropy, (x, y), torch.optim.SGD(model.parameters(), 0.1))
    values = Curvature().measure(window)
    exact = full_hessian(model, F.cross_entropy, x, y)
    spectrum = torch.linalg.eigvalsh(exact)
    assert values["stability_edge"].item() == 20
    assert abs(values["sharpness"].item() - spectrum[-1]) <= values["sharpness"].stderr
    assert abs(values["lambda_min"].item() - spectrum[0]) <= values["lambda_min"].stderr
    error = values["hessian_trace"].stderr
    assert abs(values["hessian_trace"].item() - exact.trace()) < 4 * error
    assert window.names["curvature"] == ["0", "2", "4"]
    assert math.isclose(
        values["layer_trace"].value.sum(), values["hessian_trace"].item(), abs_tol=6 * error
    )


def test_a_run_with_a_summary():
    model, x, y = seeded(mlp).float(), numbers(40, 8).float(), torch.arange(40) % 4
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probe = Probe(model, F.cross_entropy, optimizer, (x, y), 5, quantities=[Curvature()])
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    (row,) = [r for r in probe.rows if r["kind"] == "summary"]
    assert set(row["tables"]) == {"density", "eigenvalues", "layers", "loss_slice", "loss_plane"}
    assert not [r for r in probe.rows if r["kind"] in ("error", "not_applicable")]
    total = np.array(row["tables"]["density"]["rows"])
    mass = np.trapezoid(total[:, 3], total[:, 0])
    assert math.isclose(mass, 1, abs_tol=0.02)
    assert row["values"]["slice_rise"]["stderr"] > 0


# -- a network on digits ---------------------------------------------------------------------------
def digits_network():
    """64-64-64-10, tanh, 60 full-batch steps of Adam at 0.01, in float32 on all digits over 16."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
        )
    ).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, (x, y)


def test_a_network_on_digits():
    """Full Hessian of 8970 parameters: trace 8.9906, ends 1.377274, 1.084355 and -0.005279."""
    model, data = digits_network()
    e = hessian_trace(model, F.cross_entropy, data, 20)
    assert abs(e.item() - 8.9906) < 3 * e.stderr and e.stderr < 0.5
    ends = top_eigenvalues(model, F.cross_entropy, data, 2, tolerance=1e-3)
    np.testing.assert_allclose(ends.largest.value, [1.377274, 1.084355], atol=2e-6)
    assert abs(ends.smallest.value[0] + 0.005279) <= ends.smallest.stderr[0] + 1e-6


@pytest.mark.slow
def test_smallest_eigenvalue_and_density_of_a_network_on_digits():
    model, data = digits_network()
    ends = top_eigenvalues(model, F.cross_entropy, data, 1, tolerance=1e-6)
    assert abs(ends.smallest.value[0] + 0.005279) < 1e-5
    d = spectral_density(model, F.cross_entropy, data, 8, 60, dtype=torch.float32)
    assert abs(d.trace.item() - 8.9906) < 4 * d.trace.stderr
    assert abs(d.range[1] - 1.377274) < 1e-4
