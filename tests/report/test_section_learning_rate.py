"""The section on the learning rate, from the rows of a real small run."""

import copy

import pytest
import torch
from torch import nn

from thermolearn.measure.learning_rate import LearningRate
from thermolearn.measure.probe import Probe
from thermolearn.report.blocks import Section
from thermolearn.report.reader import view
from thermolearn.report.section_learning_rate import learning_rate
from thermolearn.report.terms_learning_rate import LEARNING_RATE


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(48, 4, generator=g)
    y = (x[:, :1] * x[:, 1:2]).tanh()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    loss_fn = nn.MSELoss()
    probe = Probe(model, loss_fn, optimizer, reference=(x, y), every=32,
                  quantities=[LearningRate()])  # fmt: skip
    for _ in range(64):
        optimizer.zero_grad()
        loss = loss_fn(model(x[:16]), y[:16])
        loss.backward()
        optimizer.step()
        probe.step(x[:16], y[:16], loss)
    probe.report(tmp_path_factory.mktemp("lr") / "report.html")
    return probe.rows


def test_the_evidence_is_shown(rows):
    section = learning_rate(view(rows))
    assert isinstance(section, Section)
    assert not section.empty
    assert "The run began at 0.001" in section.statements[0]
    assert "below the interval" in section.statements[0]
    (figure,) = section.figures
    for said in ("edge", "the run&#39;s own", "all seeds", "learning rate"):
        assert said in figure.svg
    titles = [t.title for t in section.tables]
    assert titles == ["Learning rate", "Trials"]
    assert any("scheduler" in note for note in section.notes)


def test_a_limit_is_said_to_be_one(rows):
    for status, said in (("limit", True), ("ok", False)):
        changed = copy.deepcopy(rows)
        for row in changed:
            if row.get("kind") == "summary" and row.get("quantity") == "learning_rate":
                row["values"]["recommended_high"]["status"] = status
        statement = learning_rate(view(changed)).statements[0]
        assert ("the largest rate compared" in statement) == said


def test_every_value_has_a_term(rows):
    named = {n for r in rows if r.get("quantity") == "learning_rate" for n in r.get("values", {})}
    assert named
    assert {f"learning_rate.{n}" for n in named} <= set(LEARNING_RATE)


def test_a_run_without_it_has_no_section():
    assert learning_rate(view([])).empty
