"""Training loops as they are written in practice."""

import io
import json
import math
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.core.estimate import Estimate
from thermolearn.measure.curvature import Curvature
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning
from thermolearn.measure.noise.gradient_noise import GradientNoise
from thermolearn.measure.probe import Probe

X = torch.randn(96, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(96) % 3


class Settings:
    """Records what each window says about the optimizer and the batch."""

    name = "settings"

    def __init__(self):
        self.seen = []

    def measure(self, window):
        loss = window.accumulators.get("minibatch_loss")
        self.seen.append(
            (window.step, window.snapshot.learning_rate, window.snapshot.batch_size, loss)
        )
        return {"x": Estimate(0.0)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(stop, size=8, start=0):
    for k in range(start, stop):
        i = (torch.arange(size) + size * k) % 96
        yield X[i], Y[i]


def plain_loop(model, loss_fn, optimizer, probe, pairs):
    for x, y in pairs:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)


def everything():
    return [Learning(), Layers(), GradientNoise(), Curvature()]


def steps(probe, name="learning"):
    rows = [r for r in probe.rows if r["kind"] == "snapshot" and r["quantity"] == name]
    return [r["step"] for r in rows]


def clean(probe):
    return not [r for r in probe.rows if r["kind"] in ("flag", "not_applicable")]


def joined(lists):
    return list(chain.from_iterable(lists))


def logged(probe):
    rows = [r for r in probe.rows if r["kind"] == "losses"]
    return joined(r["step"] for r in rows), joined(r["value"] for r in rows)


@pytest.mark.parametrize("per_micro_batch", [True, False])
def test_gradient_accumulation(per_micro_batch):
    model, watch = network(), Settings()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = Probe(
        model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=[Learning(), watch]
    )
    for k, (x, y) in enumerate(batches(40)):
        loss = F.cross_entropy(model(x), y)
        (loss / 4).backward()
        if (k + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        if per_micro_batch or (k + 1) % 4 == 0:
            probe.step(x, y, loss)
    probe.flush()
    assert steps(probe) == [0, 5, 10] and clean(probe)
    assert [s[2] for s in watch.seen] == [None] + 2 * [32.0 if per_micro_batch else 8.0]
    expected = [k // 4 + 1 for k in range(40)] if per_micro_batch else list(range(1, 11))
    assert logged(probe)[0] == expected


def test_autocast_with_a_grad_scaler_counts_only_real_steps():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=everything())
    done = 0
    for k, (x, y) in enumerate(batches(25)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if k in (3, 11):  # an overflow: the scaler skips this step
            model[0].weight.grad[0, 0] = math.inf
        else:
            done += 1
        scaler.step(optimizer)
        scaler.update()
        probe.step(x, y, loss)
    probe.flush()
    assert done == 23 and steps(probe) == [0, 5, 10, 15, 20, 23] and clean(probe)
    assert logged(probe)[0] == [k + 1 - (k > 3) - (k > 11) for k in range(25)]


def test_a_run_of_which_every_step_is_skipped_still_reports_its_losses():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=[Learning()])
    for x, y in batches(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) * math.nan
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        probe.step(x, y, loss)
    probe.flush()
    assert steps(probe) == [0] and logged(probe) == ([1] * 6, [None] * 6)
    assert "not finite" in next(r["text"] for r in probe.rows if r["kind"] == "flag")


def test_clipping_scheduler_and_adamw():
    model, watch = network(), Settings()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    probe = Probe(
        model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=[*everything(), watch]
    )
    for x, y in batches(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        scheduler.step()
        probe.step(x, y, loss)
    probe.flush()
    assert clean(probe) and probe.rows[0]["optimizer"]["weight_decay"] == 0.1
    # the rate that the optimizer used in the step of the snapshot
    assert [s[1] for s in watch.seen] == [0.01, 0.01, 0.005, 0.0025]
    curvature = [
        r for r in probe.rows if r.get("quantity") == "curvature" and r["kind"] == "snapshot"
    ][-1]["values"]
    assert curvature["stability_edge"]["value"] is None
    assert curvature["stability_edge"]["status"] == "not applicable"


def test_lbfgs_with_a_closure():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 2, quantities=everything())

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    for _ in range(5):
        probe.step(X, Y, optimizer.step(closure))
    probe.flush()
    assert steps(probe) == [0, 2, 4, 5] and clean(probe)
    values = [
        r["values"]["reference_loss"]["value"]
        for r in probe.rows
        if r.get("quantity") == "learning"
    ]
    assert values == sorted(values, reverse=True)


def test_two_parameter_groups():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": model[2].parameters(), "lr": 0.2},
    ]
    optimizer = torch.optim.SGD(groups)
    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=everything())
    plain_loop(model, F.cross_entropy, optimizer, probe, batches(5))
    probe.flush()
    assert clean(probe) and probe.rows[0]["optimizer"]["groups"] == 2
    curvature = [
        r for r in probe.rows if r.get("quantity") == "curvature" and r["kind"] == "snapshot"
    ][-1]["values"]
    assert curvature["stability_edge"]["value"] is None


def test_distributed_data_parallel_with_one_process(tmp_path):
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=everything())
        plain_loop(model, F.cross_entropy, optimizer, probe, batches(6))
        probe.flush()
    finally:
        dist.destroy_process_group()
    assert steps(probe) == [0, 5, 6] and clean(probe)
    layers = [r for r in probe.rows if r.get("quantity") == "layers"]
    assert layers[0]["names"] == ["0", "2"]  # as in the module inside the wrapper


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.drop = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout2d(0.3)
        self.out = nn.Linear(4 * 9, 3)

    def forward(self, x):
        h = F.relu(self.norm(self.conv1(x)))
        h = F.max_pool2d(self.drop(F.relu(self.conv2(h) + h)), 2)
        return self.out(h.flatten(1))


def test_convolutional_network_with_batch_norm_and_dropout():
    torch.manual_seed(0)
    model = ConvNet()
    x = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, every=4, quantities=everything())
    pairs = list(zip(x.split(16), y.split(16), strict=True)) * 2
    plain_loop(model, F.cross_entropy, optimizer, probe, pairs)
    probe.flush()
    assert clean(probe) and steps(probe) == [0, 4, 8]
    last = [r for r in probe.rows if r.get("quantity") == "learning"][-1]["values"]
    model.eval().double()
    with torch.no_grad():
        expected = F.cross_entropy(model(x.double()), y).item()
    assert math.isclose(last["reference_loss"]["value"], expected, rel_tol=1e-10)
    layers = [r for r in probe.rows if r.get("quantity") == "layers"][-1]
    assert layers["names"] == ["conv1", "norm", "conv2", "out"]
    dead = layers["values"]["dead_fraction"]["value"]
    assert dead[0] is None and dead[1] is not None and dead[2] is not None and dead[3] is None


class Characters(nn.Module):
    """Two-layer transformer, (n, length) characters to (n, length, 12) logits."""

    def __init__(self, built_in):
        super().__init__()
        self.token, self.place = nn.Embedding(12, 16), nn.Parameter(torch.zeros(10, 16))
        if built_in:
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        else:
            self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 12, bias=False)
        self.head.weight = self.token.weight  # tied

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.token(x) + self.place[: x.shape[1]])))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.qkv, self.mix = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        q, k, v = (
            t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


@pytest.mark.parametrize("built_in", [False, True])
def test_character_transformer(built_in):
    torch.manual_seed(0)
    model = Characters(built_in)
    text = torch.randint(0, 12, (40, 11), generator=torch.Generator().manual_seed(0))
    x, y = text[:, :-1], text[:, 1:]

    def loss_fn(out, target):
        return F.cross_entropy(out.flatten(0, 1), target.flatten())

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    probe = Probe(model, loss_fn, optimizer, (x, y), 4, quantities=everything())
    pairs = list(zip(x.split(10), y.split(10), strict=True)) * 2
    plain_loop(model, loss_fn, optimizer, probe, pairs)
    probe.flush()
    assert clean(probe) and steps(probe) == steps(probe, "gradient_noise") == [0, 4, 8]
    assert probe.rows[0]["loss"]["energy"] == "cross-entropy"
    assert probe.rows[0]["loss"]["rule"] == "the targets are integers (classes)"
    learning = [r for r in probe.rows if r.get("quantity") == "learning"][-1]["values"]
    model.eval().double()
    with torch.no_grad():
        out = model(x)
    assert math.isclose(learning["reference_loss"]["value"], loss_fn(out, y).item(), rel_tol=1e-9)
    accuracy = (out.argmax(-1) == y).double().mean().item()
    assert math.isclose(learning["accuracy"]["value"], accuracy, rel_tol=1e-9)
    # |gbar|^2 = |G|^2 + tr Sigma / n is the squared norm of the gradient of the whole set
    noise = [r for r in probe.rows if r.get("quantity") == "gradient_noise"][-1]["values"]
    grads = torch.autograd.grad(loss_fn(model(x), y), list(model.parameters()))
    square = noise["gradient_norm_squared"]["value"] + noise["noise_trace"]["value"] / 40
    assert math.isclose(square, sum(float(g.square().sum()) for g in grads), rel_tol=1e-8)
    curvature = [
        r for r in probe.rows if r.get("quantity") == "curvature" and r["kind"] == "snapshot"
    ][-1]["values"]
    assert curvature["sharpness"]["value"] > 0
    layers = [r for r in probe.rows if r.get("quantity") == "layers"][-1]
    assert "head" not in layers["names"] and "token" in layers["names"]


# -- resume --------------------------------------------------------------------------------------
class Cached:
    """Keeps the previous window's numbers, as the laws do."""

    name = "cached"

    def measure(self, window):
        before = window.cache.get("cached", {"sum": 0.0, "past": []})
        weight = torch.cat([p.detach().flatten() for p in window.model.parameters()])
        change = weight - before["weight"] if "weight" in before else 0 * weight
        window.cache["cached"] = {
            "sum": before["sum"] + float(change.abs().sum()),
            "past": [*before["past"], (window.step, Estimate(float(weight[0])))],
            "weight": weight,
            "array": weight.numpy(),
        }
        assert all(isinstance(e, Estimate) for _, e in window.cache["cached"]["past"])
        return {"sum": Estimate(window.cache["cached"]["sum"]), "change": Estimate(change[0])}


def session(log, reference, budget=None, memory_limit=2**20):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    probe = Probe(
        model, nn.CrossEntropyLoss(), optimizer, reference, 5, reference_size=50, log=log,
        quantities=[Learning(), Layers(), Cached()], budget=budget, memory_limit=memory_limit,
    )  # fmt: skip
    return model, optimizer, probe


def go_on(model, optimizer, probe, start, stop):
    plain_loop(model, F.cross_entropy, optimizer, probe, batches(stop, start=start))


def comparable(rows):
    """Without what depends on the clock."""
    out = []
    for row in rows:
        if row["kind"] not in ("cost", "unchanged"):
            out.append({k: v for k, v in row.items() if k != "created"})
    return out


def saved_and_loaded(model, optimizer, probe):
    file = io.BytesIO()
    state = {"m": model.state_dict(), "o": optimizer.state_dict(), "p": probe.state_dict()}
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("reference", [(X, Y), None], ids=["given", "loop"])
@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("cut", [3, 12, 20])
@pytest.mark.parametrize("memory_limit", [2**20, 0])
def test_resume_gives_the_rows_of_the_uninterrupted_run(
    tmp_path, reference, flushed, cut, memory_limit
):
    whole = session(tmp_path / "whole.jsonl", reference)
    log = tmp_path / "run.jsonl"
    first = session(log, reference, memory_limit=memory_limit)
    go_on(*whole, 0, cut)
    go_on(*first, 0, cut)
    if flushed:
        whole[2].flush()
        first[2].flush()
    state = saved_and_loaded(*first)
    go_on(*first, cut, cut + 4)  # beyond the checkpoint, then killed
    first[2].flush()
    go_on(*whole, cut, 32)
    whole[2].flush()

    model, optimizer, probe = session(log, reference, memory_limit=memory_limit)
    model.load_state_dict(state["m"])
    optimizer.load_state_dict(state["o"])
    probe.load_state_dict(state["p"])
    go_on(model, optimizer, probe, cut, 32)
    probe.flush()
    assert comparable(probe.rows) == comparable(whole[2].rows)
    assert probe.rows[0]["created"] and len(steps(probe, "cached")) >= 8
    assert [json.loads(line) for line in log.read_text().splitlines()] == probe.rows
    costs = [next(r for r in p.rows if r["kind"] == "cost") for p in (probe, whole[2])]
    assert costs[0]["snapshots"] == costs[1]["snapshots"]


def test_resume_refuses_another_reference_or_another_state():
    model, optimizer, probe = session(None, (X, Y))
    go_on(model, optimizer, probe, 0, 3)
    state = probe.state_dict()
    other = session(None, (X + 1, Y))[2]
    with pytest.raises(ValueError, match="reference differs"):
        other.load_state_dict(state)
    for wrong in ({}, {"version": 2}, model.state_dict(), None):
        with pytest.raises(ValueError, match=r"Probe\.state_dict"):
            other.load_state_dict(wrong)


def test_a_cache_that_cannot_be_saved_is_said():
    class Odd(Cached):
        name = "odd"

        def measure(self, window):
            window.cache["odd"] = object()
            return {"x": Estimate(1.0)}

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=[Odd()])
    probe.flush()
    again = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), 5, quantities=[Odd()])
    again.load_state_dict(probe.state_dict())
    again.flush()
    assert "odd: starts anew" in next(r["text"] for r in again.rows if r["kind"] == "flag")


def test_live_resume_continues():
    first = session(None, (X, Y), budget=0.9)
    go_on(*first, 0, 40)
    state = saved_and_loaded(*first)
    model, optimizer, probe = session(None, (X, Y), budget=0.9)
    model.load_state_dict(state["m"])
    optimizer.load_state_dict(state["o"])
    probe.load_state_dict(state["p"])
    go_on(model, optimizer, probe, 40, 80)
    probe.flush()
    measured = steps(probe)
    assert measured[0] == 0 and measured[-1] == 80 and measured == sorted(set(measured))
