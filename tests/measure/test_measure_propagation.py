"""Measured signal propagation: against direct formulas, against theory, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from networks import Residual, numbers
from torch import nn

from thermolearn import Probe
from thermolearn.core import copying
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation import (
    MeanFieldMap,
    Propagation,
    apply_init_,
    measure_propagation,
)
from thermolearn.measure.propagation.network_theory import not_random, weight_law


def mlp(widths, activation=nn.Tanh):
    layers = []
    for k in range(len(widths) - 1):
        layers += [nn.Linear(widths[k], widths[k + 1]), activation()]
    return nn.Sequential(*layers[:-1])


def made(widths, activation=nn.Tanh, seed=0, **options):
    model = mlp(widths, activation)
    apply_init_(model, seed=seed, **options)
    return model


# -- exact -------------------------------------------------------------------------------------
def test_against_direct_formulas():
    model = made([6, 40, 30, 3]).double()
    x, y = numbers(20, 6), torch.arange(20) % 3
    report = measure_propagation(model, (x, y), nn.CrossEntropyLoss())
    z, leaves = x, []
    for k, layer in enumerate(model):
        z = layer(z)
        if k % 2 == 0:
            z.retain_grad()
            leaves.append(z)
    nn.functional.cross_entropy(z, y).backward()
    squares = [float(v.grad.square().sum()) for v in leaves]
    assert report.names == ("0", "2", "4")
    for k, v in enumerate(leaves):
        v = v.detach()
        assert report.variance.value[k] == pytest.approx(float(v.square().mean()), rel=1e-12)
        unit = v / v.norm(dim=1, keepdim=True)
        cosines = (unit @ unit.T)[~torch.eye(20, dtype=torch.bool)]
        assert report.correlation.value[k] == pytest.approx(float(cosines.mean()), rel=1e-10)
    assert report.gradient_gain.value[:2] == pytest.approx(
        [squares[0] / squares[1], squares[1] / squares[2]], rel=1e-10
    )
    assert math.isnan(report.gradient_gain.value[2])


def test_the_error_of_the_correlation_is_the_jackknife():
    model = made([6, 40, 3]).double()
    x = numbers(8, 6)
    whole = measure_propagation(model, x)
    parts = []
    for i in range(8):
        keep = torch.arange(8) != i
        parts.append(measure_propagation(model, x[keep]).correlation.value)
    spread = np.sqrt(7 / 8 * ((np.array(parts) - np.mean(parts, 0)) ** 2).sum(0))
    assert whole.correlation.stderr == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gains_do_not_depend_on_chunks_or_reduction(reduction, monkeypatch):
    from thermolearn.measure.propagation import watch

    model = made([6, 40, 30, 3])
    x, y = numbers(23, 6).float(), torch.arange(23) % 3
    loss = nn.CrossEntropyLoss(reduction=reduction)
    whole = measure_propagation(model, (x, y), loss)
    monkeypatch.setattr(watch, "CHUNK_ELEMENTS", 400)
    pieces = measure_propagation(model, (x, y), loss)
    for name in ("variance", "correlation", "gradient_gain"):
        a, b = getattr(whole, name), getattr(pieces, name)
        assert a.value == pytest.approx(b.value, rel=1e-9, nan_ok=True)
        assert a.stderr == pytest.approx(b.stderr, rel=1e-6, nan_ok=True)


def test_the_model_is_left_as_it_was():
    model = Residual().train()
    x, y = numbers(6, 2, 4, 4).float(), torch.arange(6) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copying.fingerprint(model, optimizer)
    measure_propagation(model, (x, y), nn.CrossEntropyLoss())
    measure_propagation(model, x)
    assert copying.fingerprint(model, optimizer) == before
    assert not any(m._forward_hooks for m in model.modules())


# -- beside theory -----------------------------------------------------------------------------
@pytest.mark.parametrize("name, w2, b2", [("tanh", 1.3, 0.05), ("tanh", 2.5, 0.05)])
def test_wide_networks_follow_the_theory_of_their_own_weights(name, w2, b2):
    model = made([64, *[500] * 5, 10], sigma_w2=w2, sigma_b2=b2)
    x = numbers(32, 64, seed=1)
    report = measure_propagation(model, x)
    theory = report.theory
    assert theory is not None
    for k, layer in enumerate(report.names[:-1]):
        assert report.variance.value[k] == pytest.approx(theory.variance[layer], rel=0.06)
        assert abs(report.correlation.value[k] - theory.correlation[layer]) < 0.06
    for k, layer in enumerate(report.names[:-2]):
        error = 4 * report.gradient_gain.stderr[k]
        assert error < 0.2
        assert report.gradient_gain.value[k] == pytest.approx(theory.gain[layer], abs=error)
    # layer by layer the same as the map with the pair that was drawn
    q, _ = MeanFieldMap(name, w2, b2).trajectory(float(report.variance.value[0]), 4)
    assert [theory.variance[n] for n in report.names[:-1]] == pytest.approx(q.value, rel=0.05)
    assert "theory" in str(report)


def test_samples_of_different_size_have_their_own_gains():
    """Small samples see the steep part of tanh, large ones the flat one."""
    model = made([200, 400, 400, 10], sigma_w2=1.5, sigma_b2=0.05)
    x = numbers(64, 200, seed=1) * torch.logspace(-2, 2, 64)[:, None]
    report = measure_propagation(model, x)
    assert report.theory is not None
    for k, layer in enumerate(report.names[:-1]):
        assert report.gradient_gain.value[k] == pytest.approx(report.theory.gain[layer], rel=0.12)
    assert any("differ in size" in note for note in report.notes)
    alike = measure_propagation(model, numbers(64, 200, seed=1))
    assert not any("differ in size" in note for note in alike.notes)


def test_layer_normalization_takes_the_mean_away():
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(400, 400), nn.ReLU(),
                                                          nn.LayerNorm(400))])  # fmt: skip
    apply_init_(model)
    report = measure_propagation(model, numbers(32, 400, seed=1))
    assert report.theory is not None
    for k, layer in enumerate(report.names):
        assert report.correlation.value[k] == pytest.approx(
            report.theory.correlation[layer], abs=0.03
        )


def test_the_comparison_can_fail():
    model = made([64, *[500] * 5, 10], sigma_w2=1.3, sigma_b2=0.05)
    wrong = MeanFieldMap("tanh", 1.6, 0.05)
    report = measure_propagation(model, numbers(32, 64, seed=1))
    q, _ = wrong.trajectory(float(report.variance.value[0]), 4)
    assert abs(report.variance.value[4] / q.value[4] - 1) > 0.2


def test_weights_say_whether_they_are_independent():
    w = numbers(80, 60)
    assert not_random(w) == not_random(nn.init.orthogonal_(w.clone())) == ""
    assert not_random(2 * torch.rand(80, 60, generator=torch.Generator().manual_seed(1)) - 1) == ""
    assert "mean" in not_random(w + 0.2)
    assert "rows" in not_random(w * torch.linspace(0.2, 2, 80)[:, None])
    assert "columns" in not_random(w * torch.linspace(0.2, 2, 60))
    assert "singular value" in not_random(w + 0.6 * numbers(80, 1, seed=1).sign()
                                          @ numbers(1, 60, seed=2).sign())  # fmt: skip
    assert "tails" in not_random(w**5)
    assert "too few" in not_random(w[:3, :3])
    layer = nn.Linear(200, 300)
    law = weight_law(layer)  # torch's default: uniform, variance 1 / (3 fan_in)
    assert law.sigma_w2 == pytest.approx(1 / 3, abs=4 * law.sigma_w2_error)
    assert law.sigma_b2 == pytest.approx(1 / 600, rel=0.3)


def test_a_trained_network_has_no_theory_beside_it():
    model = made([64, 100, 100, 10])
    with torch.no_grad():
        model[2].weight[:10] *= 8
    report = measure_propagation(model, numbers(16, 64).float())
    assert report.theory is None
    assert any("2: the weights have heavy tails" in note for note in report.notes)
    assert np.isfinite(report.variance.value).all()


def test_convolutions_and_pooling():
    report = measure_propagation(Residual(), numbers(8, 2, 4, 4).float())
    assert report.names == ("stem", "first", "second", "head")
    assert np.isfinite(report.variance.value).all()


def test_a_dead_relu_network():
    model = made([8, 30, 30, 2], nn.ReLU)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
        model[2].bias.fill_(0.5)
    report = measure_propagation(model, numbers(10, 8).float())
    assert report.dead_fraction.value[0] == 1.0
    assert report.gradient_gain.value[0] == 0.0


def test_the_same_layer_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 5)

        def forward(self, x):
            return self.a(torch.tanh(self.a(x)))

    report = measure_propagation(Twice(), numbers(6, 5).float())
    assert report.names == ("a", "a (call 2)")


# -- in a run ----------------------------------------------------------------------------------
def run_rows(model, steps=6, quantity=None, **options):
    x, y = numbers(64, 64).float(), torch.arange(64) % 10
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(
        model, loss_fn, optimizer, reference=(x, y), every=3,
        quantities=[quantity or Propagation()], **options,
    )  # fmt: skip
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    return probe.rows


def of_kind(rows, kind):
    return [r for r in rows if r["kind"] == kind and r.get("quantity") == "propagation"]


def test_the_quantity_in_a_run():
    rows = run_rows(made([64, 100, 100, 10]))
    snapshots = of_kind(rows, "snapshot")
    assert [r["step"] for r in snapshots] == [0, 3, 6]
    assert snapshots[0]["names"] == ["0", "2", "4"]
    assert set(snapshots[0]["values"]) == {
        "variance", "correlation", "gradient_gain", "mean_log_gain", "dead_fraction",
        "saturated_fraction",
    }  # fmt: skip
    (summary,) = of_kind(rows, "summary")
    tables = summary["tables"]
    assert "q theory" in tables["propagation"]["columns"]
    assert "q theory" not in tables["network_at_step_6"]["columns"]
    assert all(len(r) == 10 for r in tables["propagation"]["rows"])


def test_no_theory_where_the_first_snapshot_is_no_initialization():
    model = made([64, 100, 100, 10])
    with torch.no_grad():
        model[2].weight[:10] *= 8
    (summary,) = of_kind(run_rows(model), "summary")
    assert "q theory" not in summary["tables"]["propagation"]["columns"]
    assert "no theory" in summary["notes"][0]


def test_a_model_without_affine_layers_is_not_applicable():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.s = nn.Parameter(torch.ones(10))

        def forward(self, x):
            return x[:, :10] * self.s

    rows = run_rows(Scale())
    assert not of_kind(rows, "snapshot")
    assert any("Linear or Conv" in str(r) for r in rows)


# -- bad input ---------------------------------------------------------------------------------
def test_frozen_and_mixed_precision_models_are_measured():
    model = made([64, 30, 30, 10]).requires_grad_(False)
    report = measure_propagation(model, numbers(8, 64).float())
    assert np.isfinite(report.gradient_gain.value[:-1]).all()

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 30), nn.Linear(30, 3).bfloat16()

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)).to(self.b.weight.dtype))

    report = measure_propagation(Mixed(), numbers(8, 64).float())
    assert np.isfinite(report.variance.value).all()


def test_bad_input():
    model, x, y = made([6, 20, 3]), numbers(8, 6).float(), torch.arange(8) % 3
    with pytest.raises(NotApplicableError, match="Linear or Conv"):
        measure_propagation(nn.Sequential(nn.Tanh()), x)
    with pytest.raises(NotApplicableError, match="at least 2"):
        measure_propagation(model, x[:1])
    with pytest.raises(NotApplicableError, match="does not run"):
        measure_propagation(model, x[:, :3])
    with pytest.raises(NotApplicableError, match="loss does not take"):
        measure_propagation(model, (x, y.float()), nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="pair"):
        measure_propagation(model, x, nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="Module"):
        measure_propagation(None, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tensor"):
        measure_propagation(model, "x")  # type: ignore[arg-type]
    with pytest.raises(NotApplicableError, match="meta"):
        measure_propagation(nn.Linear(6, 3, device="meta"), x)
