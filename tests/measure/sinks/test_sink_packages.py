"""The sinks with the packages that they write to, offline."""

import json
import os
import struct
import time

import pytest
import torch
from torch import nn

from thermolearn.core.estimate import Estimate
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning
from thermolearn.measure.probe import Probe
from thermolearn.measure.sinks import MLflow, TensorBoard, WandB
from thermolearn.measure.sinks.scalars import scalars

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


class Doubtful:
    name = "doubt ful"

    def measure(self, window):
        return {"x:y": Estimate(1.0, 0.5, status="not converged"), "nan": Estimate(float("nan"))}


def run(sink):
    """A probe whose rows went to the sink, and the points that should be there: name -> step ->
    value, the last one counting."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(
        model, loss_fn, optimizer, (X, Y), 5, sinks=[sink],
        quantities=[Learning(), Layers(), Doubtful()],
    )  # fmt: skip
    for k in range(20):
        i = (torch.arange(10) + 10 * k) % 60
        optimizer.zero_grad()
        loss = loss_fn(model(X[i]), Y[i])
        loss.backward()
        optimizer.step()
        probe.step(X[i], Y[i], loss)
        if k == 11:
            probe.flush()
    probe.flag("a remark")
    probe.flush()
    expected = {}
    for row in probe.rows:
        for name, step, value in scalars(row):
            expected.setdefault(name, {})[step] = value
    assert len(expected) > 10 and len(expected["thermolearn/loss/minibatch"]) == 20
    assert "thermolearn/doubt ful/x:y.not-converged" in expected
    return probe, expected


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_tensorboard(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = TensorBoard(tmp_path / "runs")
    probe, expected = run(sink)
    probe.close()
    events = reading.EventAccumulator(os.fspath(tmp_path / "runs"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    for name, points in expected.items():
        tag = name if name in tags["scalars"] else name.replace(" ", "_").replace(":", "_")
        found = {e.step: e.value for e in events.Scalars(tag)}
        assert found == pytest.approx(points, rel=1e-6)
    assert len(tags["scalars"]) == len(expected)
    texts = [tag for tag in tags["tensors"] if tag.startswith("thermolearn/")]
    assert len(texts) == 2  # the header and the remark


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", os.fspath(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", os.fspath(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", os.fspath(tmp_path))
    package = pytest.importorskip("wandb")
    yield package
    package.teardown()  # its service process, which remembers the folders


def log_records(data):
    """The file is a log of LevelDB: blocks of 32 KiB with parts of (crc, length, type)."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + length > len(data):
            return  # half-written
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of it, or the last part
            yield whole
            whole = b""


def records(folder, seconds=30):
    """Of an offline run; its file is finished in the background after the run is."""
    from wandb.proto import wandb_internal_pb2 as pb

    (path,) = folder.rglob("run-*.wandb")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = [pb.Record.FromString(data) for data in log_records(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise TimeoutError("the run was not written to its end")


def history(folder):
    """The points of each curve, the configuration and the summary of an offline run."""
    points, configured, last = {}, {}, {}
    for record in records(folder):
        items = {
            (i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item
        }
        step = items.get("thermolearn/step")
        for key, value in items.items():
            if key.startswith("thermolearn/") and key != "thermolearn/step":
                points.setdefault(key, {})[step] = value
        for entry in (*record.config.update, *record.run.config.update):
            configured[entry.key or "/".join(entry.nested_key)] = json.loads(entry.value_json)
        for entry in record.summary.update:
            last[entry.key or "/".join(entry.nested_key)] = json.loads(entry.value_json)
    return points, configured, last


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_wandb_offline(tmp_path, wandb):
    probe, expected = run(WandB("thermolearn-test", name="a", dir=tmp_path))
    probe.close()
    assert wandb.run is None
    points, configured, last = history(tmp_path)
    for name, want in expected.items():
        assert points[name] == pytest.approx(want), name
    assert "learning" not in configured and "model" in json.dumps(configured)
    assert "a remark" in json.dumps(last)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_wandb_into_an_open_run_that_stays_open(tmp_path, wandb):
    mine = wandb.init(project="mine", dir=tmp_path, mode="offline")
    mine.log({"loss": 1.0}, step=500)  # far ahead of the snapshots
    probe, expected = run(WandB(run=mine))
    probe.close()
    mine.log({"loss": 0.5})
    mine.finish()
    points, _, _ = history(tmp_path)
    name = "thermolearn/learning/reference_loss"
    assert points[name] == pytest.approx(expected[name])
    with pytest.raises(TypeError, match="not both"):
        WandB("project", run=mine)


@pytest.fixture
def client(tmp_path, monkeypatch):
    """mlflow-skinny has no other local store than a folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return tracking.MlflowClient()


def metrics(client, run_id, name):
    return {m.step: m.value for m in client.get_metric_history(run_id, name)}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_mlflow_in_a_local_store(client):
    sink = MLflow("digits", run_name="a")
    probe, expected = run(sink)
    assert client.get_run(sink.run_id).info.status == "RUNNING"
    probe.close()
    found = client.get_run(sink.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "a"
    assert client.get_experiment_by_name("digits").experiment_id == found.info.experiment_id
    for name, points in expected.items():
        assert metrics(client, sink.run_id, name.replace(":", "_")) == pytest.approx(points)
    assert "SGD" in found.data.tags["thermolearn.optimizer"]
    assert "a remark" in found.data.tags["thermolearn.remarks"]
    # a second sink finds the experiment, or an open run
    again = MLflow("digits", run_id=client.create_run(found.info.experiment_id).info.run_id)
    run(again)[0].close()
    assert client.get_run(again.run_id).info.status == "RUNNING"
    with pytest.raises(TypeError, match="give one"):
        MLflow(run_id="a", run_name="b")


def test_a_store_that_cannot_be_reached_is_a_warning(tmp_path, client):
    (tmp_path / "a file").write_text("")
    with pytest.warns(RuntimeWarning, match="the sink MLflow failed"):
        probe, _ = run(MLflow(tracking_uri=(tmp_path / "a file" / "x").as_uri()))
    assert probe.rows[-1]["kind"] == "cost"


class TwoFaced:
    """One name in both states, and two names that a program may hold for one."""

    name = "q"

    def measure(self, window):
        status = "ok" if window.step % 10 else "under-sampled"
        window.names["q"] = ["a:b", "a_b", "a//b", "../x"]
        values = [1.0, 2.0, 3.0, 4.0]
        return {"scale": Estimate(1.0, 0.1, status=status), "layer": Estimate(values, [0.1] * 4)}


def train(sink, steps=20, resume=None):
    torch.manual_seed(steps)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(model, loss_fn, optimizer, (X, Y), 5, sinks=[sink], quantities=[TwoFaced()])
    if resume is not None:
        probe.load_state_dict(resume)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(X), Y)
        loss.backward()
        optimizer.step()
        probe.step(X, Y, loss)
    probe.flush()
    probe.close()
    return probe


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_mlflow_takes_a_name_in_both_states_and_keeps_names_apart(client):
    sink = MLflow("states")
    train(sink)
    ok, other = (metrics(client, sink.run_id, f"thermolearn/q/scale{s}")
                 for s in ("", ".under-sampled"))  # fmt: skip
    assert ok == {5: 1.0, 15: 1.0} and other == {0: 1.0, 10: 1.0, 20: 1.0}
    found = client.get_run(sink.run_id).data.metrics
    layers = [v for k, v in found.items() if k.startswith("thermolearn/q/layer/")]
    layers += [v for k, v in found.items() if k.startswith("thermolearn/q.layer.")]
    assert sorted(layers) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_mlflow_used_again_begins_another_run(client):
    sink = MLflow("again")
    first, one = train(sink), sink.run_id
    second, two = train(sink, 10), sink.run_id
    assert one != two
    name = "thermolearn/loss/minibatch"
    for probe, run_id, steps in ((first, one, 20), (second, two, 10)):
        assert client.get_run(run_id).info.status == "FINISHED"
        value = [r for r in probe.rows if r["kind"] == "losses"][-1]["value"][-1]
        assert list(metrics(client, run_id, name)) == list(range(1, steps + 1))
        assert metrics(client, run_id, name)[steps] == pytest.approx(value)
    train(sink, 5, resume=second.state_dict())  # goes on
    assert sink.run_id == two and client.get_run(two).info.status == "FINISHED"
    assert list(metrics(client, two, name)) == list(range(1, 16))


def test_an_open_mlflow_run_takes_one_measurement(client):
    number = client.create_experiment("mine")
    sink = MLflow("mine", run_id=client.create_run(number).info.run_id)
    train(sink)
    with pytest.warns(RuntimeWarning, match="holds a measurement already"):
        train(sink, 30)
    assert max(metrics(client, sink.run_id, "thermolearn/loss/minibatch")) == 20
    assert client.get_run(sink.run_id).info.status == "RUNNING"


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_tensorboard_used_again_writes_another_folder(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = TensorBoard(tmp_path / "runs")
    train(sink), train(sink, 10)
    for folder, steps in (("runs", 20), ("runs-2", 10)):
        events = reading.EventAccumulator(os.fspath(tmp_path / folder))
        events.Reload()
        found = [e.step for e in events.Scalars("thermolearn/loss/minibatch")]
        assert found == list(range(1, steps + 1))
        layers = [t for t in events.Tags()["scalars"] if "layer" in t and "stderr" not in t]
        assert sorted(events.Scalars(t)[0].value for t in layers) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_wandb_used_again_begins_another_run(tmp_path, wandb):
    sink = WandB("thermolearn-test", dir=tmp_path)
    train(sink), train(sink, 10)
    assert len(list(tmp_path.rglob("run-*.wandb"))) == 2
    mine = wandb.init(project="mine", dir=tmp_path, mode="offline")
    sink = WandB(run=mine)
    train(sink)
    with pytest.warns(RuntimeWarning, match="holds a measurement already"):
        train(sink, 10)
    mine.finish()
