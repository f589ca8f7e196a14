"""The virial relation as a quantity of the Probe: hand-made windows, then real runs."""

import math

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn

import thermolearn
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.noise import Virial, VirialThermometer
from thermolearn.measure.noise.virial_sides import sampled_step
from thermolearn.measure.window import Run, Setting, Snapshot, Window


def make_setting(model, name="SGD"):
    pair = numbers(8, 4), numbers(8, 3)
    return Setting(model, torch.float64, pair, None, nn.MSELoss(), None, "", name, 0, {})


def make_snapshots(norms, lr=0.1, sides=(0.02, 0.02), every=50, **settings):
    """One parameter of 4 elements with |theta|^2 as asked for."""
    rates = lr if isinstance(lr, list) else [lr] * len(norms)
    out = []
    for k, (norm, rate) in enumerate(zip(norms, rates, strict=True)):
        snapshot = Snapshot(
            k * every,
            rate,
            {"lr": rate, "one_rate": True, **settings},
            {"weight": torch.full((1, 4), math.sqrt(norm / 4), dtype=torch.float64)},
        )
        if k:
            left, right = (s + 1e-4 * math.sin(7 * k + j) for j, s in enumerate(sides))
            snapshot.accumulators = {
                "theta_dot_gradient": Estimate(left, 1e-3),
                "half_rate_update_squared": Estimate(right, 1e-3),
                "virial_gap": Estimate(left - right, 1e-3),
                "updated_parameters": Estimate(4.0),
            }
        out.append(snapshot)
    return out


def measured(snapshots, name="SGD"):
    model = nn.Linear(4, 1, bias=False).double()
    setting, quantity, rows = make_setting(model, name), Virial(), []
    for k, snapshot in enumerate(snapshots):
        window = Window(snapshot, snapshots[k - 1] if k else None, setting)
        values = quantity.measure(window)
        rows.append({"kind": "snapshot", "step": snapshot.step, "quantity": "virial",
                     "values": {n: e.to_dict() for n, e in values.items()}})  # fmt: skip
    return quantity, Run(rows, snapshots, setting)


def summary(snapshots, name="SGD"):
    quantity, run = measured(snapshots, name)
    (row,) = quantity.summarize(run)
    assert row["kind"] == "summary" and row["quantity"] == "virial"
    return {k: Estimate.from_dict(v) for k, v in row["values"].items()}, row["notes"][0]


def wiggle(n, mean=2.0, size=1e-3):
    return mean + size * np.random.default_rng(0).normal(size=n)


def test_a_settled_run():
    values, note = summary(make_snapshots(wiggle(31)))
    assert note.startswith("No drift seen over 950 steps; a drift above")
    assert values["temperature"].status == "ok"
    assert abs(values["temperature"].item() - 0.02 / 4) < 4 * values["temperature"].stderr
    assert values["smallest_drift_seen"].item() < 0.05
    assert values["first_step"].item() == 550
    assert "temperature_leading_order" not in values


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_drift_is_in_the_units_of_the_gap(momentum):
    norms = wiggle(31) + np.linspace(0, 0.3, 31)
    snapshots = make_snapshots(norms, momentum=momentum)
    values, note = summary(snapshots)
    span, change = 950, norms[-1] - norms[11]
    exact = (1 - momentum) * change / (2 * 0.1 * span)
    assert math.isclose(values["drift"].item(), exact, rel_tol=1e-9)
    if momentum == 0:
        assert "drifts" in note and values["temperature"].status == "not stationary"
    _, run = measured(snapshots)
    last = run.rows[-1]["values"]["parameter_drift"]["value"]
    assert math.isclose(last, (1 - momentum) * (norms[-1] - norms[-2]) / (2 * 0.1 * 50))


def test_windows_before_a_change_of_the_rate_are_left_out():
    values, _ = summary(make_snapshots(wiggle(31), lr=[0.1] * 20 + [0.01] * 11))
    assert values["steps"].item() == 450  # steps 1050 to 1500, of 10 windows at the new rate
    with pytest.raises(NotApplicableError, match="unchanged optimizer settings"):
        summary(make_snapshots(wiggle(31), lr=list(np.linspace(0.1, 0.01, 31))))
    snapshots = make_snapshots(wiggle(31))
    for name in ("theta_dot_gradient", "half_rate_update_squared", "virial_gap"):
        changed = Estimate(0.02, 1e-3, status="settings changed")
        snapshots[20].accumulators[name] = changed
    assert summary(snapshots)[0]["steps"].item() == 450


def test_too_few_windows_give_no_verdict():
    values, _ = summary(make_snapshots(wiggle(22)))  # 14 or 15 of them are kept
    assert values["temperature"].status == values["drift"].status == "under-sampled"


def test_a_drift_that_could_not_be_seen_is_not_called_one():
    for seed in range(20):
        norms = 2 + 0.3 * np.random.default_rng(seed).normal(size=61)
        values, note = summary(make_snapshots(norms))
        assert note.startswith("It cannot be told if the run drifts")
        assert values["temperature"].status == "under-sampled"


def test_windows_that_repeat_themselves_have_no_temperature():
    values, note = summary(make_snapshots(2 + 1e-3 * np.cos(np.pi / 2 * np.arange(61))))
    assert values["temperature"].status == "cycle" and "without noise" in note


def test_the_number_of_updated_parameters_is_an_average():
    snapshots = make_snapshots(wiggle(31))
    for k, snapshot in enumerate(snapshots[1:]):
        snapshot.accumulators["updated_parameters"] = Estimate(4.0 if k % 2 else 2.0)
    values, _ = summary(snapshots)
    ratio = values["theta_dot_gradient"].item() / values["temperature"].item()
    assert ratio == pytest.approx(3.0)


def test_half_precision_has_no_temperature():
    snapshots = make_snapshots(wiggle(31))
    for snapshot in snapshots:
        snapshot.state = {k: v.bfloat16() for k, v in snapshot.state.items()}
    values, note = summary(snapshots)
    assert values["temperature"].status == "not applicable" and "rounding" in note


def test_the_sides_differ_by_exactly_the_drift():
    values, _ = summary(make_snapshots(wiggle(31)))
    left, right, drift = (
        values[k] for k in ("theta_dot_gradient", "half_rate_update_squared", "drift")
    )
    assert left.item() == pytest.approx(right.item() - drift.item(), rel=1e-12)
    assert left.stderr == pytest.approx(math.hypot(right.stderr, drift.stderr))


def test_other_optimizers_have_the_test_but_no_temperature():
    values, note = summary(make_snapshots(wiggle(31)), "AdamW")
    assert math.isnan(values["temperature"].item())
    assert values["temperature"].status == "not applicable"
    assert "No drift seen" in note and "not SGD" in note
    assert math.isfinite(values["drift"].item())


def test_several_learning_rates_fall_back_on_the_sampled_steps():
    snapshots = make_snapshots(wiggle(31), one_rate=False)
    values, note = summary(snapshots)
    gap = np.mean([float(s.accumulators["virial_gap"]) for s in snapshots[11:]])
    assert math.isclose(values["drift"].item(), -gap, rel_tol=1e-6)
    assert "no drift seen" in note.lower()


def test_phi_at_the_snapshots_tells_with_several_learning_rates():
    snapshots = make_snapshots(wiggle(31), one_rate=False)
    for k, snapshot in enumerate(snapshots):
        snapshot.accumulators["virial_phi"] = Estimate(3.0 + 0.2 * k)
        snapshot.accumulators["virial_phi"] += 1e-3 * np.random.default_rng(k).normal()
    values, note = summary(snapshots)
    assert "drifts" in note and "grows" in note
    assert values["drift"].item() == pytest.approx(0.2 / 50, rel=0.01)


def test_bad_runs():
    with pytest.raises(NotApplicableError, match="8 are needed"):
        summary(make_snapshots(wiggle(8)))
    bare = make_snapshots(wiggle(31))
    for snapshot in bare:
        snapshot.accumulators = {}
    with pytest.raises(NotApplicableError, match="no step was read"):
        summary(bare)
    frozen = nn.Linear(4, 1, bias=False).requires_grad_(False)
    with pytest.raises(NotApplicableError, match="requires a gradient"):
        Virial().measure(Window(bare[0], None, make_setting(frozen)))


# -- in the loop -----------------------------------------------------------------------------------
def run_probe(optimizer_of, steps=1200, every=30):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
    x, y = numbers(60, 6).float(), torch.arange(60) % 3
    optimizer = optimizer_of(model.parameters())
    probe = thermolearn.Probe(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        reference=(x, y),
        every=every,
        quantities=[Virial()],
    )
    thermometer = VirialThermometer(model, optimizer)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        k = torch.randint(60, (8,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[k]), y[k])
        loss.backward()
        optimizer.step()
        probe.step(x[k], y[k], loss)
    probe.flush()
    return probe, thermometer


def summaries(rows):
    return {
        k: Estimate.from_dict(v)
        for r in rows
        if r["kind"] == "summary"
        for k, v in r["values"].items()
    }


def test_the_probe_gives_what_the_thermometer_gives():
    probe, thermometer = run_probe(
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.5, weight_decay=0.1)
    )
    rows = finished(probe)
    values, every_step = summaries(rows), thermometer.result(discard=1 / 3)
    t = values["temperature_from_updates"]
    error = math.hypot(float(t.stderr), float(every_step.temperature_from_updates.stderr))
    assert abs(t.item() - every_step.temperature_from_updates.item()) < 4 * error
    assert error < 0.2 * t.item()
    assert not [r for r in rows if r["kind"] in ("flag", "not_applicable")]
    probe.close()


def groups_of(parameters):
    weight, bias = parameters
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.2, "momentum": 0.5}]
    return torch.optim.SGD(groups, lr=0.5, momentum=0.3, weight_decay=0.1)


def test_two_learning_rates_have_the_exact_drift():
    probe, thermometer = run_probe(groups_of)
    values = summaries(finished(probe))
    first = int(values["first_step"].item())
    every_step = thermometer.result(discard=first)
    assert values["steps"].item() == every_step.steps == 1200 - first
    assert values["drift"].item() == pytest.approx(every_step.drift.item(), abs=1e-6)
    assert "several" not in values["drift"].status
    t = values["temperature"]
    error = math.hypot(t.stderr, every_step.temperature.stderr)
    assert abs(t.item() - every_step.temperature.item()) < 4 * error < 0.8 * t.item()
    probe.close()


def test_the_sampled_steps_do_not_follow_the_epoch():
    spacing = 12
    steps = [sampled_step(k, spacing) for k in range(4000)]
    assert all(k * spacing <= s < (k + 1) * spacing for k, s in enumerate(steps))
    for period in (2, 3, 4, 6, 8, 12):
        counts = np.bincount(np.array(steps) % period, minlength=period)
        assert ((counts - 4000 / period) ** 2 / (4000 / period)).sum() < 40
    assert abs(np.corrcoef(np.diff(steps)[1:], np.diff(steps)[:-1])[0, 1] + 0.5) < 0.06


def test_a_resumed_recorder_reads_the_same_steps():
    def recorded(stop):
        model = nn.Linear(4, 3)
        nn.init.constant_(model.weight, 0.1)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = numbers(16, 4).float(), numbers(16, 3).float()
        args = (model, nn.MSELoss(), optimizer, (x, y), 20)
        probe, seen = thermolearn.Probe(*args, quantities=[Virial()]), []
        for k in range(150):
            if k == stop:
                state = probe.state_dict()
                probe.close()
                probe = thermolearn.Probe(*args, quantities=[Virial()])
                probe.load_state_dict(state)
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            before = len(probe._recorder.virial.counts)
            optimizer.step()
            if len(probe._recorder.virial.counts) != before:
                seen.append(k)
            probe.step(x, y, loss)
        probe.close()
        return seen

    whole = recorded(-1)
    assert len(whole) > 12
    for stop in range(60, 76):
        assert recorded(stop) == whole


def test_adam_in_the_loop():
    probe, _ = run_probe(lambda p: torch.optim.Adam(p, lr=0.01))
    values = summaries(finished(probe))
    assert values["temperature"].status == "not applicable"
    assert math.isfinite(values["drift"].item())
    probe.close()


def finished(probe):
    """Rows with the summaries."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        probe.report(Path(folder) / "report.html")
    return list(probe.rows)
