"""What reaches a sink, and that a sink that fails harms nobody."""

import importlib.util
import json
import random
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from thermolearn.core.estimate import Estimate
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning
from thermolearn.measure.probe import Probe
from thermolearn.measure.run_log import RunLog
from thermolearn.measure.sinks import JSONL, MLflow, TensorBoard, WandB, parse_sink
from thermolearn.measure.sinks.scalars import Names, Scalar, scalars

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


class Memory:
    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, row):
        self.rows.append(row)

    def close(self):
        self.closed += 1


class Failing(Memory):
    """Works for the header, then the disk is full; takes numbers from every generator."""

    def write(self, row):
        super().write(row)
        random.random(), torch.rand(2)
        if len(self.rows) > 1:
            raise OSError("no space\nleft")


def train(sinks, steps=20, resume=None, quantities=None, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quantities = quantities or [Learning(), Layers()]
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(
        model, loss_fn, optimizer, (X, Y), 5, quantities=quantities, sinks=sinks, **settings
    )
    if resume is not None:
        probe.load_state_dict(resume)
    for k in range(steps):
        i = (torch.arange(10) + 10 * k) % 60
        optimizer.zero_grad()
        loss = loss_fn(model(X[i]), Y[i])
        loss.backward()
        optimizer.step()
        probe.step(X[i], Y[i], loss)
    return model, probe


def test_every_finished_row_goes_to_every_sink():
    sinks = [Memory(), Memory()]
    _, probe = train(sinks)
    probe.flush()
    for sink in sinks:
        assert sink.rows == probe.rows and sink.rows[0]["kind"] == "header"
    probe.flush()  # only the newest row of the costs counts, the sink sees each
    assert [r["kind"] for r in sinks[0].rows].count("cost") == 2
    probe.close()
    probe.close()
    assert [s.closed for s in sinks] == [1, 1]


def test_a_failing_sink_is_said_once_and_left_out():
    random.seed(5)
    bare, without = train([])
    without.flush()
    states = random.getstate(), torch.get_rng_state()
    random.seed(5)
    sinks = [Failing(), Memory()]
    with pytest.warns(RuntimeWarning, match=r"Failing failed .*OSError: no space left") as found:
        model, probe = train(sinks, budget=0.99)
        probe.flush()
        probe.flush()
    assert len([w for w in found if "Failing" in str(w.message)]) == 1
    assert len(sinks[0].rows) == 2 and sinks[0].closed == 1
    assert sinks[1].rows[0] == probe.rows[0] and len(sinks[1].rows) >= len(probe.rows)
    # and the run is as it would be
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters()))  # noqa: B905
    assert states[0] == random.getstate() and torch.equal(states[1], torch.get_rng_state())


def test_a_sink_is_an_object_with_two_methods():
    for sinks in ("tensorboard:runs", 3, [object()], [Memory], [print]):
        with pytest.raises(TypeError, match="sinks"):
            train(sinks)


def test_jsonl_holds_the_rows_also_after_a_resume(tmp_path):
    log, path = tmp_path / "log.jsonl", tmp_path / "more.jsonl"
    _, probe = train([JSONL(path)], log=log)
    probe.flush()
    probe.flush()
    assert path.read_text() == log.read_text()
    state = probe.state_dict()
    _, again = train([JSONL(path)], resume=state)
    again.flush()
    assert [json.loads(line) for line in path.open()] == again.rows
    with pytest.raises(OSError, match="cannot be written"):
        JSONL(tmp_path / "none" / "a.jsonl")


def test_the_names_and_numbers_of_a_row():
    def row(names=None, **values):
        out = {"kind": "snapshot", "step": 7, "quantity": "q"}
        out["values"] = {k: Estimate(*v).to_dict() for k, v in values.items()}
        return out | ({"names": names} if names else {})

    assert scalars(row(a=(1.5, 0.5))) == [
        Scalar("thermolearn/q/a", 7, 1.5),
        Scalar("thermolearn/q/a_stderr", 7, 0.5),
    ]
    # a number that did not meet its condition is not on the curve of those that did
    assert scalars(row(a=(1.5, 0.5, None, "under-sampled")))[0].name == (
        "thermolearn/q/a.under-sampled"
    )
    spaced = row(a=(1.5, 0.5, None, "not converged!"))
    assert scalars(spaced)[1].name == "thermolearn/q/a_stderr.not-converged"
    layers = scalars(row(["f.0", "f.2"], a=([1.0, 2.0], [0.1, 0.2]), b=(3.0, 0.0)))
    assert [s.name.removeprefix("thermolearn/q/") for s in layers] == [
        "a/f.0", "a/f.2", "a_stderr/f.0", "a_stderr/f.2", "b", "b_stderr",
    ]  # fmt: skip
    assert [s.value for s in layers] == [1.0, 2.0, 0.1, 0.2, 3.0, 0.0]
    assert scalars(row(a=([1.0, 2.0], [0.1, 0.2]))) == []  # nobody says what they belong to
    missing = {"value": None, "stderr": None, "status": "not finite"}
    assert scalars({**row(), "values": {"a": missing}}) == []
    losses = {"kind": "losses", "step": [1, 2, 3], "value": [0.5, None, 0.25], "samples": [8] * 3}
    assert scalars(losses) == [
        Scalar("thermolearn/loss/minibatch", 1, 0.5),
        Scalar("thermolearn/loss/minibatch", 3, 0.25),
    ]
    summary = {"kind": "summary", "quantity": "q", "values": {"z": Estimate(2.0).to_dict()}}
    assert scalars(summary, 30)[0] == Scalar("thermolearn/summary/q/z", 30, 2.0)
    for kind in ("header", "flag", "cost", "unchanged", "not_applicable", "of the future"):
        assert scalars({"kind": kind, "step": 3, "text": "x"}) == []


def test_every_row_of_a_run_can_be_read():
    sink = Memory()
    _, probe = train([sink])
    probe.flush()
    found = [s for row in probe.rows for s in scalars(row)]
    assert {s.step for s in found if "/learning/" in s.name} == {0, 5, 10, 15, 20}
    assert len([s for s in found if s.name == "thermolearn/loss/minibatch"]) == 20
    assert any(s.name == "thermolearn/layers/weight_norm/2" for s in found)


def test_sinks_by_name_on_the_command_line(tmp_path, monkeypatch):
    assert isinstance(parse_sink(f"jsonl:{tmp_path / 'a:b.jsonl'}"), JSONL)
    for text, match in (("jsonl", "needs a path"), ("", "one of"), ("csv:a", "one of jsonl:PATH")):
        with pytest.raises(ValueError, match=match):
            parse_sink(text)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    board = parse_sink("tensorboard:runs/x")
    assert isinstance(board, TensorBoard) and board.folder == "runs/x"
    assert isinstance(parse_sink("tensorboard"), TensorBoard)
    assert isinstance(parse_sink("wandb:project"), WandB)
    flow = parse_sink("mlflow:mine")
    assert isinstance(flow, MLflow) and flow.experiment == "mine"


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_said_with_the_command_that_helps(kind, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf'pip install "thermolearn\[{kind}\]"'):
        parse_sink(kind)


def test_nothing_heavy_is_imported_before_it_is_used():
    code = (
        "import sys; from thermolearn.measure.sinks import *; from thermolearn import Probe\n"
        "heavy = {'tensorboard', 'wandb', 'mlflow', 'lightning', 'transformers'} & set(sys.modules)"
        "\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sink_may_do_with_its_rows_as_it_likes(tmp_path):
    class Clearing(Memory):
        def write(self, row):
            row.clear()

        def restore(self, rows):
            rows[0].clear()

    log = tmp_path / "log.jsonl"
    memory = Memory()
    _, probe = train([Clearing(), memory], log=log)
    probe.flush()
    assert probe.rows[0]["kind"] == "header" and memory.rows == probe.rows
    assert [json.loads(line) for line in log.open()] == probe.rows
    _, again = train([Clearing()], resume=probe.state_dict())
    again.flush()
    assert again.rows[0]["kind"] == "header"


def test_a_jsonl_sink_used_again_writes_another_file(tmp_path):
    sink, files = JSONL(tmp_path / "a.jsonl"), [tmp_path / f"a{k}.jsonl" for k in ("", "-2", "-3")]
    runs = []
    for k in range(3):
        _, probe = train([sink], steps=5 * (k + 1))
        probe.flush()
        if k != 1:  # without it the next header begins a run, too
            probe.close()
        runs.append(probe)
    for path, probe in zip(files, runs, strict=True):
        assert [json.loads(line) for line in path.open()] == probe.rows
    # the last of these runs goes on, after its end
    _, on = train([sink], resume=runs[2].state_dict())
    on.flush()
    assert [json.loads(line) for line in files[2].open()] == on.rows
    assert on.rows[0] == runs[2].rows[0] and len(list(tmp_path.iterdir())) == 3


def test_names_are_never_the_same_twice():
    names = Names(re.compile(r"[^\w./-]"), longest=60)
    given = ["thermolearn/q/a_b", "thermolearn/q/a:b", "thermolearn/q/a b", "thermolearn/q/a_b/0",
             "thermolearn/q", "thermolearn/q/" + "x" * 80, "thermolearn/q/" + "x" * 81]  # fmt: skip
    found = [names(n) for n in given]
    assert found[0] == given[0] and found == [names(n) for n in given]
    assert len(set(found)) == len(found) and all(len(n) <= 60 for n in found)
    for a in found:  # and none is the folder of another
        assert not any(b.startswith(a + "/") for b in found)
    assert Names(re.compile("[^a]"))("\ud800") == "_"


def test_the_newest_word_on_a_quantity_counts(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path)

    def na(reason, quantity="virial"):
        log.append({"kind": "not_applicable", "quantity": quantity, "reason": reason})

    def kinds():
        assert [json.loads(line) for line in path.open()] == log.rows
        return [(r["kind"], r.get("quantity")) for r in log.rows[1:]]

    log.append({"kind": "header"})
    na("1 window"), na("2 windows"), na("integers", "laws")
    assert kinds() == [("not_applicable", "virial"), ("not_applicable", "laws")]
    assert log.rows[1]["reason"] == "2 windows"
    log.append({"kind": "summary", "quantity": "virial", "values": {}})
    assert kinds() == [("not_applicable", "laws"), ("summary", "virial")]
    na("changed settings")  # the summary of an earlier end of the run is none of this one
    assert kinds() == [("not_applicable", "laws"), ("not_applicable", "virial")]
    log.append({"kind": "snapshot", "step": 5, "quantity": "virial", "values": {}})
    assert kinds() == [("not_applicable", "laws"), ("snapshot", "virial")]
