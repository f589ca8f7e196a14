"""The recommended learning rate as a quantity of a Probe run."""

import math

import pytest
import torch
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.learning_rate import LearningRate, recommend_lr
from thermolearn.measure.learning_rate.quantity import rebuilt
from thermolearn.measure.probe import Probe

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=G)
Y = (X[:, 0] > X[:, 1] ** 2 - 1).long()


def trained(make=torch.optim.Adam, steps=64, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = make(model.parameters(), **{"lr": 1e-3, **settings})
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(model, loss_fn, optimizer, reference=(X, Y), every=32,
                  quantities=[LearningRate()])  # fmt: skip
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(X[:16]), Y[:16])
        loss.backward()
        optimizer.step()
        probe.step(X[:16], Y[:16], loss)
    return probe


def summary(probe, tmp_path):
    probe.report(tmp_path / "report.html")
    (row,) = [r for r in probe.rows if r.get("kind") == "summary"]
    return row


def test_the_summary_is_the_search_from_the_first_parameters(tmp_path):
    row = summary(trained(), tmp_path)
    values = row["values"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = (X.double(), Y)
    r = recommend_lr(model, nn.CrossEntropyLoss(), data, optimizer, batch_size=16, steps=64)
    assert values["recommended"]["value"] == r.lr
    assert values["edge_low"]["value"] == r.edge.low
    assert values["cost_steps"]["value"] == r.cost
    assert values["run_lr"]["value"] == 1e-3
    assert len(row["tables"]["trials"]["rows"]) == len(r.trials)
    assert "reference samples" in " ".join(row["notes"])


def test_settings_survive_the_rebuilding():
    model = nn.Linear(3, 2)
    for made in (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.01),
        torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9), amsgrad=True),
        torch.optim.RMSprop(model.parameters(), lr=0.1, alpha=0.5, centered=True),
    ):
        from thermolearn.measure.recorder import plain_settings

        again = rebuilt({"name": type(made).__name__, **plain_settings(made)}, model)
        assert type(again) is type(made)
        for key, value in made.param_groups[0].items():
            if key not in ("params", "foreach", "fused", "capturable", "differentiable"):
                assert again.param_groups[0][key] == value


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": "Own", "lr": 0.1}, "torch.optim"),
        ({"name": "SGD", "lr": math.nan}, "learning rate"),
        ({"name": "SGD", "lr": 0.1, "one_rate": False}, "different learning rates"),
        ({"name": "", "lr": 0.1}, "torch.optim"),
    ],
)
def test_what_cannot_be_rebuilt_is_not_applicable(settings, match):
    with pytest.raises(NotApplicableError, match=match):
        rebuilt(settings, nn.Linear(2, 2))


def test_an_optimizer_with_a_closure_is_listed_not_applicable(tmp_path):
    model = nn.Linear(4, 2)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    probe = Probe(model, loss_fn, optimizer, reference=(X, Y), every=1,
                  quantities=[LearningRate()])  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(X), Y)
        loss.backward()
        return loss

    for _ in range(3):
        probe.step(X, Y, optimizer.step(closure))
    probe.report(tmp_path / "report.html")
    assert "closure" in str([r for r in probe.rows if r.get("quantity") == "learning_rate"])
