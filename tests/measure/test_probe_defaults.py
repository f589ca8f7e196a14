"""The default quantities on a network they fit and on one they do not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn import Probe


def run(model, loss_fn, x, y, steps=12, **settings):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    probe = Probe(model, loss_fn, optimizer, (x, y), 4, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    return probe


def test_feed_forward_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    x, y = torch.randn(20, 5), torch.randn(20, 2)
    probe = run(model, nn.MSELoss(), x, y)
    measured = {r["quantity"] for r in probe.rows if r["kind"] == "snapshot"}
    assert measured >= {"learning", "canonical", "laws", "layers", "gradient_noise"}
    assert sum(s["neurons"] for s in probe.segmentation) == 8
    named = run(model, nn.MSELoss(), x, y, segments=[[model[0], model[1]], model[2]])
    assert [s["neurons"] for s in named.segmentation] == [6, 2]
    with pytest.raises(ValueError, match="submodule"):
        run(model, nn.MSELoss(), x, y, segments=[nn.Linear(5, 2)])


def test_integer_inputs_are_measured_as_far_as_they_go():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    text = torch.randint(0, 7, (20, 6))

    def loss_fn(out, target):
        return F.cross_entropy(out.flatten(0, 1), target.flatten())

    probe = run(model, loss_fn, text[:, :-1], text[:, 1:])
    measured = {r["quantity"] for r in probe.rows if r["kind"] == "snapshot"}
    assert measured == {
        "learning", "layers", "gradient_noise", "curvature", "heat", "virial", "propagation",
        "spectra",
    }  # fmt: skip
    missing = {r["quantity"]: r["reason"] for r in probe.rows if r["kind"] == "not_applicable"}
    # the run is too short for the virial relation
    assert set(missing) == {"canonical", "laws", "relative_entropy", "virial"}
    assert all(missing.values())
    assert probe.segmentation is None
