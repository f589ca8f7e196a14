"""The section on relative entropy, from the rows of a real run."""

import json

import pytest
import torch
from torch import nn

import thermolearn
from thermolearn.measure.relative_entropy import RelativeEntropy
from thermolearn.report.reader import view
from thermolearn.report.section_relative_entropy import relative_entropy
from thermolearn.report.terms_relative_entropy import RELATIVE_ENTROPY


@pytest.fixture
def run():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    probe = thermolearn.Probe(
        model, nn.MSELoss(), optimizer, reference=(x, x), every=5, quantities=[RelativeEntropy()]
    )
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x)
        loss.backward()
        optimizer.step()
        probe.step(x, x, loss)
    probe.flush()
    return view(json.loads(json.dumps(probe.rows, default=lambda e: e.to_dict())))


def test_the_section_shows_first_and_last_snapshot_with_the_definitions(run):
    section = relative_entropy(run)
    assert [t.title.rsplit(" ", 1)[1] for t in section.tables] == ["0", "10"]
    first = section.tables[0]
    assert first.columns == ["Layer", "Scales", "Gaussians", "Two inputs"]
    assert [row[0] for row in first.rows] == ["0", "2"]
    assert "(" in first.rows[1][1]  # with an error bar
    assert any("negative" in s for s in section.statements)


def test_every_value_has_a_term(run):
    values = run.snapshots["relative_entropy"][0].values
    assert {f"relative_entropy.{name}" for name in values} == set(RELATIVE_ENTROPY)


def test_without_a_row_it_is_empty(run):
    run.snapshots.pop("relative_entropy")
    assert relative_entropy(run).empty
