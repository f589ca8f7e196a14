"""The section of the learning coefficient, from the rows of a real run."""

import json

import pytest
import torch
from torch import nn

import thermolearn
from thermolearn.measure.llc import LocalLearningCoefficient
from thermolearn.report.reader import view
from thermolearn.report.section_llc import llc
from thermolearn.report.terms_llc import LLC


@pytest.fixture(scope="module")
def run():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    y = x.sum(1, keepdim=True) + torch.randn(40, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    probe = thermolearn.Probe(
        model, nn.MSELoss(), optimizer, reference=(x, y), quantities=[LocalLearningCoefficient()]
    )
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    return view(json.loads(json.dumps(probe.rows, default=lambda e: e.to_dict())))


def test_the_section_shows_number_and_traces(run):
    section = llc(run)
    labels = {i.label for g in section.groups for i in g.items}
    assert len(labels) >= 8
    assert len(section.figures) == 1
    assert "chain 4" in str(section.figures[0].svg)
    assert any("reference samples" in s for s in section.statements)


def test_every_value_has_a_term(run):
    assert {f"llc.{name}" for name in run.summaries["llc"].values} == set(LLC)


def test_without_a_row_it_is_empty(run):
    run.summaries.pop("llc")
    assert llc(run).empty
