"""A run with the Probe is bit for bit the run without it."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from thermolearn.core.copying import fingerprint, private_copy, untouched
from thermolearn.core.estimate import Estimate
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning
from thermolearn.measure.noise.gradient_noise import GradientNoise
from thermolearn.measure.probe import Probe

N = 60
X = torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=1e-3),
}


class Rude:
    """Draws from every global generator and changes what it can."""

    name = "rude"
    accumulators = ("virial",)

    def measure(self, window):
        random.random(), np.random.rand(), torch.rand(3)
        torch.manual_seed(7)
        torch.set_default_dtype(torch.float64)
        window.model.train()
        with torch.no_grad():
            for p in window.model.parameters():
                p.zero_()
        window.reference[0][:0].zero_()
        return {"x": Estimate(1.0)}


def network():
    torch.manual_seed(11)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(8, 3),
    )


def run(optimizer, with_probe, **settings):
    """Everything a run leaves behind. Dropout draws from the global generator."""
    random.seed(1)
    np.random.seed(2)
    model = network()
    model[8].requires_grad_(True)
    torch.manual_seed(3)
    opt = OPTIMIZERS[optimizer](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 10, 0.5)
    loss_fn, shuffle = nn.CrossEntropyLoss(), torch.Generator().manual_seed(4)
    model.eval()
    model[3].train()  # modes that no blanket train() or eval() would restore
    quantities = [Learning(), Rude(), Layers(), GradientNoise()]
    probe = (
        Probe(model, loss_fn, opt, every=5, quantities=quantities, reference_size=24, **settings)
        if with_probe
        else None
    )
    model[1].train()
    model[7].train()
    losses = []
    for _ in range(4):
        for i in torch.randperm(N, generator=shuffle).split(10):
            opt.zero_grad()
            loss = loss_fn(model(X[i] + 0.01 * torch.randn(len(i), 1, 6, 6)), Y[i])
            loss.backward()
            opt.step()
            scheduler.step()
            losses.append(loss.item())
            if probe:
                probe.step(X[i], Y[i], loss)
    if probe:
        probe.flush()
        unchanged = [r for r in probe.rows if r["kind"] == "unchanged"]
        assert unchanged[0]["ok"] and not [r for r in probe.rows if r["kind"] == "flag"]
    return {
        "losses": losses,
        "state": copy.deepcopy(model.state_dict()),
        "gradients": [p.grad.clone() for p in model.parameters()],
        "optimizer": copy.deepcopy(opt.state_dict()),
        "modes": [m.training for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "versions": [p._version for p in model.parameters()],
        "generators": [random.getstate(), np.random.get_state()[1].tolist()],
        "torch": torch.get_rng_state(),
        "shuffle": shuffle.get_state(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        "flags": (torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled,
                  torch.backends.mha.get_fastpath_enabled(), torch.is_autocast_enabled("cpu")),
    }  # fmt: skip


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(u, v) for u, v in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"budget": 0.9}, {"memory_limit": 0}, {"reference": (X, Y), "validation": (X, Y)}],
    ids=["deferred", "live", "spooled", "given"],
)
def test_everything_is_bitwise_the_same(optimizer, settings):
    without, observed = run(optimizer, False), run(optimizer, True, **settings)
    assert without.keys() == observed.keys()
    for name in without:
        assert same(without[name], observed[name]), name


def test_this_comparison_can_fail():
    a, b = run("adam", False), run("adam", False)
    b["state"]["0.weight"][0, 0, 0, 0] = torch.nextafter(
        b["state"]["0.weight"][0, 0, 0, 0], torch.tensor(torch.inf)
    )
    assert not same(a["state"], b["state"]) and same(a["gradients"], b["gradients"])


def test_the_probe_itself_notices_a_change():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())

    class Vandal:
        name = "vandal"

        def measure(self, window):
            model[0].bias.data[0] += 1
            return {"x": Estimate(1.0)}

    probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (X, Y), quantities=[Vandal()])
    probe.flush()
    assert [r["ok"] for r in probe.rows if r["kind"] == "unchanged"] == [False]


@pytest.mark.parametrize(
    "change",
    [
        lambda m, o: m[1].running_mean.add_(1),
        lambda m, o: m[0].train(not m[0].training),
        lambda m, o: setattr(m[0].weight, "grad", torch.ones_like(m[0].weight)),
        lambda m, o: o.state[m[0].weight].update(step=torch.tensor(5.0)),
        lambda m, o: torch.rand(1),
        lambda m, o: np.random.rand(),
        lambda m, o: random.random(),
    ],
)
def test_fingerprint_sees_every_item(change):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    before = fingerprint(model, optimizer)
    assert before == fingerprint(model, optimizer)
    change(model, optimizer)
    after = fingerprint(model, optimizer)
    assert sum(before[k] != after[k] for k in before) == 1


def test_untouched_restores_after_an_exception():
    state = torch.get_rng_state(), random.getstate()
    with pytest.raises(KeyboardInterrupt), torch.no_grad(), untouched():
        assert torch.is_grad_enabled()
        torch.rand(1), random.random()
        torch.set_default_dtype(torch.float64)
        raise KeyboardInterrupt
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == random.getstate()
    assert torch.get_default_dtype() == torch.float32


def test_measuring_inside_no_grad_and_autocast():
    model = nn.Sequential(nn.Linear(4, 3))
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = []
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode(),
                    torch.autocast("cpu", dtype=torch.bfloat16)):  # fmt: skip
        quantities = [Learning(), Layers(), GradientNoise()]
        with context:
            probe = Probe(model, nn.CrossEntropyLoss(), optimizer, (x, y), quantities=quantities)
            probe.flush()
        rows.append([r for r in probe.rows if r["kind"] in ("snapshot", "flag")])
        probe.close()
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert len(rows[0]) == 3


def test_private_copy_leaves_user_hooks_behind_and_keeps_those_of_torch():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    calls = []
    model[0].register_forward_hook(lambda *a: calls.append(1))
    prune.l1_unstructured(model[1], "weight", 3)
    model(torch.randn(2, 4)).sum().backward()
    model.kept = model(torch.randn(2, 4))  # an activation with a graph
    calls.clear()
    twin = private_copy(model)
    x = torch.randn(5, 4)
    out = twin(x)
    assert calls == []
    assert torch.equal(out, model(x)) and len(calls) == 1
    assert int((twin[1].weight == 0).sum()) == 3
