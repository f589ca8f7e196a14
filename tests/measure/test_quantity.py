"""The canonical ensemble on real training runs, through the Probe."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import thermolearn
from thermolearn.measure.canonical import NeuronSystem, run_weights, sample_states
from thermolearn.measure.canonical.quantity import build_point, default_quantities


def digits(n_train=1297):
    data = load_digits()
    x, y = torch.tensor(data.data / 16), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:n_train], order[1297:]
    x = x - x[train].mean(0)
    x = (x / x[train].std()).float()
    return x[train], y[train], x[test], y[test]


def mlp(widths=(64, 32, 32, 10), activation=nn.Tanh, seed=0):
    torch.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, 0, a**-0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def squared(output, target):
    return 0.5 * ((output - target) ** 2).sum(1).mean()


def train(model, loss_fn, x, target, steps, every, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    probe = thermolearn.Probe(
        model, loss_fn, optimizer, reference=(x, target), every=every, **options
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(0, len(x), (32,), generator=generator)
        optimizer.zero_grad()
        loss = loss_fn(model(x[batch]), target[batch])
        loss.backward()
        optimizer.step()
        probe.step(x[batch], target[batch], loss)
    probe.flush()
    return probe


def values(probe, quantity, name):
    rows = [r for r in probe.rows if r["kind"] == "snapshot" and r["quantity"] == quantity]
    return np.array([r["values"][name]["value"] for r in rows if name in r["values"]])


def summary(probe, quantity):
    return next(r for r in probe.rows if r["kind"] == "summary" and r["quantity"] == quantity)


@pytest.fixture(scope="module")
def short_run():
    x, y, _, _ = digits(600)
    target = nn.functional.one_hot(y, 10).float()
    return train(mlp(), squared, x, target, 80, 10, reference_size=48)


def test_first_law_closes_within_one_per_cent(short_run):
    change, heat, work, residual = (
        values(short_run, "laws", n) for n in ("energy_change", "heat", "work", "closure_residual")
    )
    np.testing.assert_allclose(change, heat + work + residual, atol=1e-12)
    assert abs(residual.sum()) < 0.01 * abs(change.sum())
    assert change.sum() < -0.5
    total = summary(short_run, "laws_run")["values"]
    assert total["first_law_closure"]["value"] == pytest.approx(
        abs(residual.sum()) / abs(change.sum())
    )


def test_energy_is_the_loss_and_beta_its_temperature(short_run):
    loss = values(short_run, "learning", "boundary_loss")
    u = values(short_run, "canonical", "average_loss")
    np.testing.assert_allclose(u, loss, rtol=1e-7)
    beta = values(short_run, "canonical", "beta")
    ratio = values(short_run, "canonical", "equipartition_ratio")
    neurons = 64 + 32 + 32 + 10
    np.testing.assert_allclose(ratio, 2 * beta * u / neurons, rtol=1e-7)
    assert (np.diff(beta) > 0).mean() > 0.7 and 0.9 < ratio[0] < ratio[-1] < 1


def test_identities_between_the_recorded_numbers(short_run):
    get = {n: values(short_run, "canonical", n) for n in (
        "beta", "temperature", "average_loss", "free_energy", "log_partition", "entropy_relative",
        "entropy_differential", "thermodynamic_entropy", "complexity", "heat_capacity",
        "energy_variance",
    )}  # fmt: skip
    np.testing.assert_allclose(get["temperature"], 1 / get["beta"])
    np.testing.assert_allclose(get["free_energy"], -get["log_partition"] / get["beta"])
    np.testing.assert_allclose(
        get["entropy_differential"], get["thermodynamic_entropy"] + get["complexity"]
    )
    np.testing.assert_allclose(
        get["entropy_relative"],
        get["beta"] * get["average_loss"] + get["log_partition"] - 69 * math.log(2 * math.pi),
        rtol=1e-10,
    )
    np.testing.assert_allclose(get["heat_capacity"], get["energy_variance"] * get["beta"] ** 2)


def test_what_the_laws_say_is_said_in_words(short_run):
    notes = " ".join(summary(short_run, "laws_run")["notes"])
    assert "identity" in notes and "equipartition" in notes and "cooling" in notes
    assert "fixed beta = 1:" in notes and "fixed beta = 100:" in notes
    restated = {r[0]: r[3] for r in summary(short_run, "restates")["tables"]["restates"]["rows"]}
    assert restated["temperature"] and restated["entropy_differential"]


def test_error_bar_of_beta_is_the_spread_over_reference_sets(short_run):
    # delta method against refitting on many disjoint reference sets of the same size
    x, y, _, _ = digits()
    target = nn.functional.one_hot(y, 10).float()
    model = mlp(seed=3).eval()
    betas, entropies, bars, entropy_bars = [], [], [], []
    for part in torch.arange(1280).reshape(40, 32):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = thermolearn.Probe(
            model, squared, optimizer, reference=(x[part], target[part]),
            quantities=[default_quantities()[0]],
        )  # fmt: skip
        probe.flush(summaries=False)
        row = next(r["values"] for r in probe.rows if r["kind"] == "snapshot")
        betas.append(row["beta"]["value"])
        bars.append(row["beta"]["stderr"])
        entropies.append(row["entropy_differential"]["value"])
        entropy_bars.append(row["entropy_differential"]["stderr"])
        probe.close()
    # the standard deviation of 40 values is known to 11%, the mean bar better
    assert np.std(betas, ddof=1) == pytest.approx(np.mean(bars), rel=0.3)
    assert np.std(entropies, ddof=1) == pytest.approx(np.mean(entropy_bars), rel=0.3)


def test_gaussian_is_checked_by_sampling(short_run):
    rows = summary(short_run, "trust")["tables"]["trust"]["rows"]
    assert [r[1] for r in rows[2:]] == [1.0, 100.0]
    assert rows[2][2] == "HMC"  # too hot for importance weights
    for _, _, method, gauss, exact, stderr, deviation, _, verdict in [*rows[:2], rows[3]]:
        assert method == "importance" and verdict == "trust"
        assert stderr < 3e-4 * exact
        assert abs(gauss - exact) <= max(4 * stderr, 1e-3 * exact)
        assert deviation == pytest.approx((gauss - exact) / exact)


def test_wide_limit_describes_the_initial_network(short_run):
    row = summary(short_run, "wide_limit")
    assert row["values"]["sigma_w2"]["value"] == pytest.approx(1, abs=0.1)
    for _, u, u_net, _, c, c_net, _ in row["tables"]["wide_limit"]["rows"]:
        assert u_net == pytest.approx(u, rel=0.03) and c_net == pytest.approx(c, rel=0.05)


def test_cross_entropy_energy_is_the_brier_loss_of_the_softmax():
    x, y, _, _ = digits(400)
    probe = train(mlp(), nn.CrossEntropyLoss(), x, y, 30, 10, reference_size=40)
    u = values(probe, "canonical", "average_loss")
    boundary = values(probe, "learning", "boundary_loss")
    printed = values(probe, "learning", "reference_loss")
    np.testing.assert_allclose(u, boundary, rtol=1e-7)
    assert (printed > 2 * boundary).all()
    header = probe.rows[0]
    assert header["loss"]["energy"] == "cross-entropy"
    assert [s["name"] for s in header["segmentation"]] == ["0", "2", "4"]
    assert not header["segmentation"][-1]["elementwise"]
    # bulk = boundary at the data state of the softmax network, on fresh numbers
    model = nn.Sequential(mlp(seed=5), nn.Softmax(1)).eval()
    system = NeuronSystem(model)
    one_hot = nn.functional.one_hot(y[:7], 10).double()
    expected = 0.5 * ((one_hot - model(x[:7]).double()) ** 2).sum(1)
    state = system.data_state(x[:7], one_hot)
    torch.testing.assert_close(system.bulk_loss(state, x[:7]), expected, rtol=1e-5, atol=1e-7)


def test_the_softmax_ensemble_is_gaussian_enough_at_its_own_temperature():
    x, y, _, _ = digits(200)
    model = nn.Sequential(mlp(), nn.Softmax(1)).eval()
    system = NeuronSystem(model)
    one_hot = nn.functional.one_hot(y[:8], 10)
    loss = float(system.boundary_loss(x[:8], one_hot).mean())
    blocks = system.jacobian_blocks(x[:8])
    from thermolearn.measure.canonical import CanonicalEnsemble

    e = CanonicalEnsemble.fit(blocks, average_loss=loss)
    exact = sample_states(system, x[:8], e.beta, 4000, keep_states=False).average_loss
    assert abs(float(exact) - loss) < max(4 * exact.stderr, 1e-3 * loss)


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4, 10)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x.view(-1, 1, 8, 8))))
        x = torch.tanh(x + self.block(x))
        return self.head(self.drop(nn.functional.avg_pool2d(x, 2).flatten(1)))


@pytest.mark.parametrize("double_backward", [True, False])
def test_convolutional_residual_network_with_normalization(monkeypatch, double_backward):
    if not double_backward:  # as for larger networks, where it would take too long
        monkeypatch.setattr(run_weights, "WEIGHT_NEURONS", 100)
    torch.manual_seed(0)
    x, y, _, _ = digits(200)
    target = nn.functional.one_hot(y, 10).float()
    probe = train(ConvNet(), squared, x, target, 12, 6, reference_size=6)
    assert len(values(probe, "canonical", "beta")) == 3
    assert abs(values(probe, "laws", "closure_residual").sum()) < 0.1
    reasons = {r["quantity"]: r["reason"] for r in probe.rows if r["kind"] == "not_applicable"}
    assert "wide_limit" in reasons
    if double_backward:
        efficiency = summary(probe, "efficiency")
        assert any("not affine" in n for n in efficiency["notes"])
        assert not any(n.startswith("edges") for n in efficiency["values"])
    else:
        assert "not affine" in reasons["efficiency"]


def test_given_beta_and_clamped_inputs():
    x, y, _, _ = digits(100)
    target = nn.functional.one_hot(y, 10).float()
    probe = train(mlp(), squared, x, target, 6, 3, reference_size=20, beta=50.0)
    assert set(values(probe, "canonical", "beta")) == {50.0}
    assert not np.allclose(
        values(probe, "canonical", "average_loss"), values(probe, "learning", "boundary_loss")
    )
    clamped = train(
        mlp(), squared, x, target, 3, 3, reference_size=20,
        quantities=default_quantities(inputs="clamped"),
    )  # fmt: skip
    assert values(clamped, "canonical", "equipartition_ratio")[-1] < 1.0
    assert any("without the clamped inputs" in c for c in clamped.rows[0]["conventions"])


def test_segments_by_name_and_by_module():
    x, y, _, _ = digits(100)
    target = nn.functional.one_hot(y, 10).float()
    auto = train(mlp(), squared, x, target, 2, 2, reference_size=10)
    model = mlp()
    named = train(
        model, squared, x, target, 2, 2, reference_size=10,
        segments=[["0", "1"], [model[2], model[3]], "4"],
    )  # fmt: skip
    for name in ("beta", "complexity"):
        np.testing.assert_allclose(
            values(auto, "canonical", name), values(named, "canonical", name), rtol=1e-9
        )


@pytest.mark.parametrize(
    ("model", "loss", "words"),
    [
        (nn.Sequential(nn.Linear(64, 10)), nn.BCEWithLogitsLoss(), "energy"),
        (nn.Sequential(nn.Unflatten(1, (8, 8)), nn.LSTM(8, 10, batch_first=True)), None, "LSTM"),
    ],
)
def test_what_does_not_apply_is_listed(model, loss, words):
    x, y, _, _ = digits(64)
    target = nn.functional.one_hot(y, 10).float()
    if loss is None:

        class Last(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return self.inner(x)[0][:, -1]

        model, loss = Last(model), squared
    probe = train(model, loss, x, target, 2, 2, reference_size=8)
    reasons = {r["quantity"]: r["reason"] for r in probe.rows if r["kind"] == "not_applicable"}
    assert words in reasons["canonical"]
    assert len(values(probe, "learning", "reference_loss")) == 2


def test_zero_loss_has_no_temperature():
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    target = model(x).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probe = thermolearn.Probe(model, nn.MSELoss(), optimizer, reference=(x, target))
    probe.flush()
    text = " ".join(str(r) for r in probe.rows if r["kind"] in ("flag", "not_applicable"))
    assert "no positive temperature" in text


def test_big_networks_are_measured_matrix_free():
    from thermolearn.measure.canonical import quantity

    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 2)
    ).eval()
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    n, matrix_free = quantity.affordable_samples(NeuronSystem(model), x)
    assert matrix_free and n == 4
    small = NeuronSystem(mlp().eval())
    assert quantity.affordable_samples(small, torch.randn(300, 64)) == (300, False)
    assert build_point is quantity.build_point


@pytest.mark.slow
def test_error_bar_of_the_energy_change_is_that_of_other_reference_sets():
    # one run measured by probes with disjoint reference sets: their dU scatter as the bar says
    x, y, _, _ = digits()
    target = nn.functional.one_hot(y, 10).float()
    changes, bars = [], []
    for part in torch.arange(1280).reshape(20, 64):
        model = mlp(widths=(64, 16, 10), seed=4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = thermolearn.Probe(
            model, squared, optimizer, reference=(x[part], target[part]), every=10,
            quantities=default_quantities(),
        )  # fmt: skip
        for batch in torch.arange(640).reshape(20, 32):
            optimizer.zero_grad()
            squared(model(x[batch]), target[batch]).backward()
            optimizer.step()
        probe.flush()
        total = summary(probe, "laws_run")["values"]["energy_change"]
        changes.append(total["value"])
        bars.append(total["stderr"])
        probe.close()
    assert np.std(changes, ddof=1) == pytest.approx(np.mean(bars), rel=0.5)


def test_work_below_the_closure_is_flagged(short_run):
    values_ = summary(short_run, "laws_run")["values"]
    work, residual = values_["work"], values_["closure_residual"]
    assert work["stderr"] >= abs(residual["value"])
    coarse = abs(residual["value"]) > abs(work["value"])
    assert (work.get("status") == "coarse snapshots") == coarse


def test_one_output_has_no_softmax():
    x, y, _, _ = digits(64)
    target = (y > 4).float()[:, None]
    model = nn.Sequential(nn.Linear(64, 1))
    probe = train(
        model, nn.BCEWithLogitsLoss(), x, target, 2, 2, reference_size=8, energy="cross-entropy"
    )
    reasons = {r["quantity"]: r["reason"] for r in probe.rows if r["kind"] == "not_applicable"}
    assert "two outputs" in reasons["canonical"]


@pytest.mark.parametrize("segments", ["foo", 3, []])
def test_bad_segments_are_refused_at_once(segments):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="segments"):
        thermolearn.Probe(model, squared, optimizer, segments=segments)
