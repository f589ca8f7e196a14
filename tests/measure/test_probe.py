"""The Probe's rows, costs, files and failures on small loops."""

import gc
import json
import math
import os
import sys
import types
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning
from thermolearn.measure.noise.gradient_noise import GradientNoise
from thermolearn.measure.noise.virial_sides import sampled_step
from thermolearn.measure.probe import Probe

X = torch.randn(96, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randn(96, 2, generator=torch.Generator().manual_seed(1))


class Constant:
    """A quantity that records what it was shown."""

    name = "constant"

    def __init__(self, value=1.0):
        self.value = value
        self.steps = []

    def measure(self, window):
        self.steps.append(window.step)
        return {"one": Estimate(self.value), "steps": Estimate(float(window.step))}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def make(model=None, quantities=None, lr=0.05, loss_fn=None, **settings):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    settings.setdefault("every", 10)
    settings.setdefault("reference", (X, Y))
    quantities = [Learning()] if quantities is None else quantities
    return Probe(model, loss_fn or nn.MSELoss(), optimizer, quantities=quantities, **settings)


def train(probe, steps=30, start=0, on_step=None):
    subject = probe._session.subject
    for k in range(start, start + steps):
        i = torch.arange(8) + 8 * (k % 12)
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(subject.model(X[i]), Y[i])
        loss.backward()
        subject.optimizer.step()
        probe.step(X[i], Y[i], loss)
        if on_step:
            on_step(k)
    return probe


def joined(lists):
    return list(chain.from_iterable(lists))


def of_kind(probe, kind, **match):
    rows = probe.rows if isinstance(probe, Probe) else probe
    return [r for r in rows if r["kind"] == kind and all(r.get(k) == v for k, v in match.items())]


# -- rows ----------------------------------------------------------------------------------------
def test_rows_of_a_run():
    probe = train(make(quantities=[Learning(), Layers(), GradientNoise()], validation=(X, Y)))
    assert probe.rows == []
    probe.flush()
    header, *rest = probe.rows
    assert header["kind"] == "header" and header["schema"] == 1 and header["every"] == 10
    assert header["model"] == {
        "name": "Sequential", "parameters": 50, "repr": repr(network())
    }  # fmt: skip
    assert header["reference"]["n"] == 96 and header["reference"]["source"] == "given"
    assert header["loss"] == {
        "name": "MSELoss", "energy": "squared", "rule": "MSELoss is the squared error"
    }  # fmt: skip
    assert header["optimizer"]["name"] == "SGD" and header["optimizer"]["lr"] == 0.05
    for name in ("learning", "layers", "gradient_noise"):
        steps = [r["step"] for r in of_kind(probe, "snapshot", quantity=name)]
        assert steps == [0, 10, 20, 30]
    assert [r["kind"] for r in rest].count("cost") == 1
    assert of_kind(probe, "unchanged")[0]["ok"]
    json.dumps(probe.rows, allow_nan=False)


def test_the_numbers_are_those_of_the_model_at_that_step():
    model, seen = network(), {}
    probe = make(model)
    with torch.no_grad():
        seen[0] = nn.MSELoss()(model.double()(X.double()), Y.double()).item()
        model.float()

    def keep(k):
        with torch.no_grad():
            twin = network().double()
            twin.load_state_dict(model.state_dict())
            seen[k + 1] = nn.MSELoss()(twin(X.double()), Y.double()).item()

    train(probe, on_step=keep).flush()
    for row in of_kind(probe, "snapshot"):
        value = row["values"]["reference_loss"]["value"]
        assert math.isclose(value, seen[row["step"]], rel_tol=1e-13)


def test_minibatch_losses_are_logged_as_they_were():
    losses = []
    probe = make()
    subject = probe._session.subject
    for k in range(25):
        i = torch.arange(8) + 8 * (k % 12)
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(subject.model(X[i]), Y[i])
        loss.backward()
        subject.optimizer.step()
        probe.step(X[i], Y[i], loss)
        losses.append(float(loss.detach()))
    probe.flush()
    rows = of_kind(probe, "losses")
    assert joined(r["step"] for r in rows) == list(range(1, 26))
    assert joined(r["value"] for r in rows) == losses
    assert set(joined(r["samples"] for r in rows)) == {8.0}
    assert [r["step"][-1] for r in rows] == [10, 20, 25]  # each before its snapshot


def test_losses_on_an_accelerator_are_read_at_the_cadence(monkeypatch):
    plain = train(make(), 25)
    plain.flush()
    # a tensor that says it is not on the CPU takes the path without a synchronization per step
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda self: False), raising=False)
    probe = train(make(), 25)
    waiting = [isinstance(entry[1], torch.Tensor) for entry in probe._recorder.log]
    assert waiting == [False] * 19 + [True] * 6  # the loss of step 20 comes after its snapshot
    probe.flush()
    assert of_kind(probe, "losses") == of_kind(plain, "losses")


def test_flush_measures_the_present_state_once():
    probe = train(make(), 25)
    probe.flush()
    n = len(probe.rows)
    probe.flush()
    steps = [r["step"] for r in of_kind(probe, "snapshot")]
    assert steps == [0, 10, 20, 25] and len(probe.rows) == n
    train(probe, 10, 25).flush()  # the cadence is not shifted by a flush
    assert [r["step"] for r in of_kind(probe, "snapshot")] == [0, 10, 20, 25, 30, 35]


def test_reference_is_drawn_privately_and_reproducibly():
    before = torch.get_rng_state()
    hashes = set()
    for seed in (0, 0, 1):
        probe = train(make(reference_size=16, seed=seed), 3)
        probe.flush()
        assert probe.rows[0]["reference"]["n"] == 16
        hashes.add(probe.rows[0]["reference"]["sha256"])
        torch.set_rng_state(before)
    assert len(hashes) == 2


def test_reference_from_the_loop_is_its_first_samples():
    probe = train(make(reference=None, reference_size=20), 5)
    probe.flush()
    assert probe.rows[0]["reference"]["n"] == 20
    assert probe.rows[0]["reference"]["source"] == "drawn from the loop"
    given = train(make(reference=(X[:20], Y[:20])), 5)
    given.flush()
    assert given.rows[0]["reference"]["sha256"] == probe.rows[0]["reference"]["sha256"]


def test_changing_the_given_tensors_later_changes_nothing():
    x, y = X.clone(), Y.clone()
    probe = train(make(reference=(x, y)), 5)
    x.zero_()
    probe.flush()
    clean = train(make(), 5)
    clean.flush()
    assert of_kind(probe, "snapshot") == of_kind(clean, "snapshot")


def test_declared_accumulators():
    seen = []

    class Virial:
        name = "virial"
        accumulators = ("virial",)

        def measure(self, window):
            seen.append((window.step, window.accumulators, window.snapshot.batch_size))
            return {}

    model, products = network(), []
    probe = make(model, [Virial()])
    subject = probe._session.subject
    for k in range(20):
        i = torch.arange(8) + 8 * (k % 12)
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(model(X[i]), Y[i])
        loss.backward()
        products.append(sum(float((p * p.grad).sum().detach()) for p in model.parameters()))
        subject.optimizer.step()
        probe.step(X[i], Y[i], loss)
    probe.flush()
    assert [s[0] for s in seen] == [0, 10, 20] and seen[0][1] == {}
    steps = [sampled_step(k, 10) for k in range(3)]
    windows = [[k for k in steps if k // 10 == w] for w in range(2)]
    assert all(windows)
    for sampled, (_, sums, batch) in zip(windows, seen[1:], strict=True):
        part = np.array([products[k] for k in sampled])
        assert math.isclose(sums["theta_dot_gradient"].item(), part.mean(), rel_tol=1e-5)
        sides = float(sums["theta_dot_gradient"]) - float(sums["half_rate_update_squared"])
        assert math.isclose(sums["virial_gap"].item(), sides, rel_tol=1e-9)
        assert batch == 8 and "minibatch_loss" in sums


def test_windows_know_the_one_before_and_keep_a_cache():
    class Watch:
        name = "watch"

        def measure(self, window):
            previous = window.cache.get("watch")
            window.cache["watch"] = window.step
            known = None if window.previous is None else window.previous.step
            assert previous == known
            assert window.model is not model and not window.model.training
            assert all(p.dtype == torch.float64 for p in window.model.parameters())
            g = window.generator("a"), window.generator("a"), window.generator("b")
            a, again, b = (torch.rand(1, generator=x).item() for x in g)
            assert a == again != b
            return {"lr": Estimate(window.optimizer["lr"])}

        def describe(self, window):
            return {"segmentation": [{"name": "all"}], "conventions": ["said by watch"]}

        def summarize(self, run):
            steps = [s.step for s in run.snapshots]
            assert run.first.step == 0 and run.last.step == 30 and run.cache["watch"] == 30
            assert steps[0] == 0 and steps[-1] == 30 and run.window(run.snapshots[0]).step == 0
            values = {"n": Estimate(len(run.rows))}
            return [{"kind": "summary", "quantity": "watch", "values": values}]

    model = network()
    probe = train(make(model, [Watch()]))
    probe.flush()
    assert not of_kind(probe, "flag") and len(of_kind(probe, "summary")) == 1
    assert probe.segmentation == [{"name": "all"}]
    assert "said by watch" in probe.rows[0]["conventions"]
    probe.flush()
    assert len(of_kind(probe, "summary")) == 1
    probe.flush(summaries=False)


def test_table():
    probe = train(make(quantities=[Learning(), Layers()]))
    probe.flush()
    text = probe.table()
    assert "reference_loss" in text and "weight_norm" in text and "cost: training" in text
    assert text.isascii() and all(len(line) < 120 for line in text.splitlines())
    assert make().table()  # before anything is measured
    early = train(make(quantities=[Learning()]))
    assert "reference_loss" in early.table()
    assert [r["step"] for r in of_kind(early, "snapshot")] == [0, 10, 20, 30]
    n = len(early.rows)
    assert early.table() and len(early.rows) == n  # nothing is measured twice
    assert make(reference=None).table()  # nothing to measure


# -- costs ---------------------------------------------------------------------------------------
def digits_run(every=50, steps=400, quantities=None, **settings):
    x = torch.rand(512, 64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(512) % 10
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loss_fn = nn.CrossEntropyLoss()
    quantities = [Learning()] if quantities is None else quantities
    probe = Probe(model, loss_fn, optimizer, (x, y), every, quantities=quantities, **settings)
    for k in range(steps):
        i = torch.arange(32) + 32 * (k % 16)
        optimizer.zero_grad()
        loss = loss_fn(model(x[i]), y[i])
        loss.backward()
        optimizer.step()
        probe.step(x[i], y[i], loss)
    probe.flush()
    return probe


def test_in_loop_cost_is_below_five_percent():
    # the share of the quietest of five runs: other processes disturb both times at random
    shares = []
    for _ in range(5):
        cost = of_kind(digits_run(), "cost")[0]
        shares.append(cost["in_loop_s"] / cost["training_s"])
        assert cost["snapshots"] == 9 and cost["spooled"] == 0 and cost["deferred_s"] > 0
    assert min(shares) < 0.05, shares


def test_training_time_excludes_measuring():
    import time

    class Slow(Constant):
        def measure(self, window):
            time.sleep(0.05)
            return {"one": Estimate(1.0)}

    probe = make(quantities=[Slow()])
    for k in range(0, 30, 10):
        train(probe, 10, k)
        probe.flush()
    cost = of_kind(probe, "cost")[0]
    assert cost["deferred_s"] > 4 * 0.05 and cost["training_s"] < 0.15


def test_budget_measures_live_and_stretches_the_cadence():
    import time

    class Slow(Constant):
        def measure(self, window):
            time.sleep(0.002)
            return super().measure(window)

    slow, quick = Slow(), Constant()
    digits_run(every=1, steps=500, quantities=[quick], budget=0.9)
    probe = digits_run(every=1, steps=500, quantities=[slow], budget=0.2)
    live = slow.steps[:-1]
    assert 2 <= len(live) < 300, "measured while training, but not at every step"
    assert live[0] == 0 and slow.steps[-1] == 500
    assert of_kind(probe, "unchanged")[0]["ok"]
    recorder = probe._recorder
    assert probe._deferred_s < 0.2 * recorder.training_s + 3 * 0.1


# -- spooling ------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [0, 3 * 200])
def test_snapshots_beyond_the_limit_are_spooled_and_cleaned_up(limit):
    plain = train(make())
    plain.flush()
    probe = train(make(memory_limit=limit))
    folder = Path(probe._recorder._folder.name)
    n = len(list(folder.iterdir()))
    assert n == (4 if limit == 0 else 1)
    probe.flush()
    assert of_kind(probe, "snapshot") == of_kind(plain, "snapshot")
    assert of_kind(probe, "cost")[0]["spooled"] == n
    probe.close()
    assert not folder.exists()


def test_spool_folder_goes_with_the_probe():
    probe = train(make(memory_limit=0), 12)
    folder = Path(probe._recorder._folder.name)
    assert folder.exists()
    subject = probe._session.subject
    subject.optimizer._optimizer_step_pre_hooks.clear()
    subject.optimizer._optimizer_step_post_hooks.clear()
    del probe, subject
    gc.collect()
    assert not folder.exists()


def test_a_full_disk_costs_the_snapshot_and_nothing_else(monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    probe = train(make(memory_limit=0), 20)
    probe.flush()
    assert any("no room for the snapshot" in r["text"] for r in of_kind(probe, "flag"))


def test_measured_snapshots_are_released_but_for_the_first_and_the_last():
    probe = train(make(quantities=[Constant()]), 100)
    probe.flush()
    assert [s.step for s in probe._recorder.kept] == [0, 90, 100]
    assert probe._recorder.held_bytes == 3 * 50 * 4


# -- failures ------------------------------------------------------------------------------------
def test_a_failing_quantity_is_flagged_and_the_run_goes_on():
    class Broken(Constant):
        name = "broken"

        def measure(self, window):
            if window.step == 10:
                raise ZeroDivisionError("by design")
            return super().measure(window)

    probe = train(make(quantities=[Broken(), Constant()]))
    probe.flush()
    assert of_kind(probe, "flag") == [
        {"kind": "flag", "step": 10, "text": "broken: ZeroDivisionError: by design"}
    ]
    steps = [r["step"] for r in of_kind(probe, "snapshot", quantity="broken")]
    assert steps == [0, 20, 30]


def test_not_applicable_is_said_once():
    class Never(Constant):
        name = "never"

        def measure(self, window):
            raise NotApplicableError("not for this model")

        def summarize(self, run):
            raise AssertionError("dropped")

    probe = train(make(quantities=[Never(), Constant()]))
    probe.flush()
    row = {"kind": "not_applicable", "quantity": "never", "reason": "not for this model"}
    assert of_kind(probe, "not_applicable") == [row]


def test_numbers_that_are_none_are_flagged():
    class Bad(Constant):
        def measure(self, window):
            return {"x": Estimate(math.inf), "y": 2.0}

    probe = train(make(quantities=[Bad()]), 5)
    probe.flush()
    values = of_kind(probe, "snapshot")[0]["values"]
    assert values["x"]["value"] is None and values["x"]["status"] == "not finite"
    assert values["y"]["value"] == 2.0
    assert of_kind(probe, "flag")[0]["text"] == "constant: not finite: x"


def test_divergence_is_recorded_and_training_goes_on():
    probe = make(quantities=[Learning(), Layers(), GradientNoise()], lr=1e12)
    train(probe, 30).flush()
    texts = [r["text"] for r in of_kind(probe, "flag")]
    assert any("the minibatch loss became not finite" in t for t in texts)
    assert any("parameters are not finite" in t for t in texts)
    losses = joined(r["value"] for r in of_kind(probe, "losses"))
    assert len(losses) == 30 and None in losses
    assert [r["step"] for r in of_kind(probe, "snapshot", quantity="learning")] == [0]


def test_recovery_after_a_bad_loss_is_said():
    probe = make()
    train(probe, 5)
    probe.step(X[:8], Y[:8], torch.tensor(math.nan))
    train(probe, 5, 5)
    probe.flush()
    texts = [r["text"] for r in of_kind(probe, "flag")]
    assert [t.split("became ")[1] for t in texts] == [
        "not finite (NaN or infinite)",
        "finite again",
    ]


def test_interrupted_flush_keeps_what_is_finished_and_goes_on(tmp_path):
    class Interrupt(Constant):
        name = "interrupt"
        armed = True

        def measure(self, window):
            if window.step == 20 and self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return super().measure(window)

    log = tmp_path / "run.jsonl"
    probe = train(make(quantities=[Constant(), Interrupt()], log=log))
    with pytest.raises(KeyboardInterrupt):
        probe.flush()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["step"] for r in of_kind(rows, "snapshot", quantity="constant")] == [0, 10, 20]
    assert [r["step"] for r in of_kind(rows, "snapshot", quantity="interrupt")] == [0, 10]
    probe.flush()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows == probe.rows
    for name in ("constant", "interrupt"):
        steps = [r["step"] for r in of_kind(rows, "snapshot", quantity=name)]
        assert steps == [0, 10, 20, 30]
    assert len(joined(r["step"] for r in of_kind(rows, "losses"))) == 30


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 2)

    def forward(self, x):
        return self.a(x), x


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        import threading

        self.a, self.lock = nn.Linear(5, 2), threading.Lock()

    def forward(self, x):
        return self.a(x)


class FullyShardedDataParallel(nn.Module):
    """Stands for torch's class, which needs several processes."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 2)

    def forward(self, x):
        return self.a(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Two(), "returns tuple"),
        (Locked(), "cannot be copied"),
        (FullyShardedDataParallel(), "FSDP"),
    ],
)
def test_models_that_cannot_be_measured(model, reason):
    def loss_fn(out, y):
        return nn.functional.mse_loss(out[0] if isinstance(out, tuple) else out, y)

    probe = train(make(model, [Learning(), GradientNoise()], loss_fn=loss_fn), 12)
    probe.flush()
    rows = of_kind(probe, "not_applicable")
    assert {r["quantity"] for r in rows} == {"learning", "gradient_noise"}
    assert all(reason in r["reason"] for r in rows)
    assert len(joined(r["value"] for r in of_kind(probe, "losses"))) == 12
    probe.table()


def test_a_model_compiled_or_data_parallel_is_measured_inside_its_wrapper():
    inner = network()
    plain = train(make(network()))
    plain.flush()
    compiled = torch.compile(inner, backend="eager")
    probe = train(make(compiled))
    probe.flush()
    assert of_kind(probe, "snapshot") == of_kind(plain, "snapshot")
    assert probe.rows[0]["model"]["name"] == "Sequential"


def test_lazy_parameters():
    model = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(2))
    probe = train(make(model), 12)  # the first forward pass initializes them
    probe.flush()
    assert [r["step"] for r in of_kind(probe, "snapshot")] == [0, 10, 12]
    idle = make(nn.Sequential(nn.LazyLinear(2)))
    idle.flush()
    assert "not initialized" in of_kind(idle, "not_applicable")[0]["reason"]


def test_no_reference():
    probe = make(reference=None)
    probe.flush()
    assert probe.rows == []
    with pytest.raises(ValueError, match="nothing was recorded"):
        probe.save(os.devnull)
    loop = make(reference=None)
    subject = loop._session.subject
    subject.model(X).sum().backward()
    subject.optimizer.step()  # probe.step is never called
    loop.flush()
    assert "no batch was seen" in of_kind(loop, "not_applicable")[0]["reason"]
    odd = make(reference=None)
    subject.optimizer.step()
    odd.step({"a": X}, Y, 1.0)
    odd._session.subject.optimizer.step()
    odd.flush()
    assert "give reference=" in of_kind(odd, "not_applicable")[0]["reason"]


def test_a_reference_that_does_not_fit_the_model():
    probe = train(make(reference=(X[:, :3], Y)), 5)
    probe.flush()
    assert "does not run on the reference inputs" in of_kind(probe, "not_applicable")[0]["reason"]


def test_a_model_that_insists_on_float32():
    class Stiff(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 2)

        def forward(self, x):
            return nn.functional.linear(x.float(), self.a.weight, self.a.bias)

    probe = train(make(Stiff(), [Learning(), Layers(), GradientNoise()]), 12)
    probe.flush()
    assert not of_kind(probe, "not_applicable") and not of_kind(probe, "flag")
    assert any("float32" in c for c in probe.rows[0]["conventions"])


def test_strange_losses_do_not_stop_the_loop():
    probe = make()
    train(probe, 3)
    probe.step(X[:8], Y[:8], "not a number")
    probe.step(X[:8], Y[:8], None)
    probe.step(X[:8], Y[:8], torch.ones(3))
    probe.step(X[:8], Y[:8], 0.5)
    probe.flush()
    assert len(of_kind(probe, "flag")) == 2


def test_only_rank_zero_records(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda *_: 1)
    probe = train(make(log=tmp_path / "run.jsonl"))
    probe.flush()
    probe.report(tmp_path / "report.html")
    probe.save(tmp_path / "copy.jsonl")
    assert probe.rows == [] and list(tmp_path.iterdir()) == []
    assert not probe._session.subject.optimizer._optimizer_step_post_hooks
    probe.load_state_dict(probe.state_dict())


# -- files ---------------------------------------------------------------------------------------
def test_log_is_the_rows(tmp_path):
    log = tmp_path / "run.jsonl"
    log.write_text("an older run\n")
    probe = train(make(log=log), 10)
    assert log.read_text() == "an older run\n"  # only a run that records replaces it
    probe.flush()
    train(probe, 10, 10).flush()
    assert [json.loads(line) for line in log.read_text().splitlines()] == probe.rows
    probe.save(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text() == log.read_text()


@pytest.mark.parametrize("name", ["missing/run.jsonl", "."])
def test_paths_that_cannot_be_written_are_told_at_once(tmp_path, name):
    with pytest.raises(OSError, match=r"log: .* cannot be written"):
        make(log=tmp_path / name)
    slow = Constant()
    probe = train(make(quantities=[slow]), 5)
    for call in (probe.save, probe.report):
        with pytest.raises(OSError, match="cannot be written"):
            call(tmp_path / name)
    assert slow.steps == []  # before anything is measured


def test_a_log_that_vanishes_warns_and_keeps_the_rows(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    probe = train(make(log=folder / "run.jsonl"), 5)
    folder.rmdir()
    with pytest.warns(RuntimeWarning, match="kept in memory"):
        probe.flush()
    assert of_kind(probe, "snapshot")


def test_report_hands_the_rows_to_the_report(tmp_path, monkeypatch):
    fake = types.ModuleType("thermolearn.report")
    fake.write_report = lambda rows, path: path.write_text(f"<html>{len(rows)}</html>")
    monkeypatch.setitem(sys.modules, "thermolearn.report", fake)
    probe = train(make(), 5)
    probe.report(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == f"<html>{len(probe.rows)}</html>"


def test_close_removes_the_hooks():
    probe = train(make(), 5)
    optimizer = probe._session.subject.optimizer
    probe.close()
    probe.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not any(m._forward_hooks for m in probe._session.subject.model.modules())
