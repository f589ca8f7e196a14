"""The section on signal propagation, rendered from a real run."""

import pytest
import torch
from torch import nn

from thermolearn import Probe
from thermolearn.measure.propagation import Propagation, apply_init_
from thermolearn.report.reader import view
from thermolearn.report.section_propagation import propagation
from thermolearn.report.terms_propagation import PROPAGATION


def recorded(steps=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 64, generator=generator)
    y = torch.arange(64) % 10
    model = nn.Sequential(
        nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10)
    )
    apply_init_(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(model, loss_fn, optimizer, reference=(x, y), every=2, quantities=[Propagation()])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    return probe.rows


@pytest.fixture(scope="module")
def run():
    return view(recorded())


def test_theory_and_network_side_by_side(run):
    section = propagation(run)
    assert [t.title for t in section.tables] == ["Propagation", "Network at step 4"]
    first, last = section.tables
    assert [r[0] for r in first.rows] == ["0", "2", "4"]
    assert "q theory" in first.columns and "gain theory" in first.columns
    assert "q theory" not in last.columns
    captions = [f.caption for f in section.figures]
    assert any("variance" in c for c in captions) and any("gain" in c for c in captions)
    (group,) = section.groups
    assert group.columns == ["step 0", "step 4"]
    assert any("mean field" in note for note in section.statements)


def test_an_empty_run_gives_an_empty_section():
    section = propagation(view([]))
    assert section.empty and not section.statements


def test_every_value_has_a_term(run):
    names = {n for s in run.snapshots["propagation"] for n in s.values}
    assert {f"propagation.{n}" for n in names} == set(PROPAGATION)
