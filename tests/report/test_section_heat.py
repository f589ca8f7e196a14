"""The section of the heat engines, from the rows of a real run."""

import itertools
import json
import re

import pytest
import torch
from torch import nn

import thermolearn
from thermolearn.measure.temperature import Heat
from thermolearn.report.reader import view
from thermolearn.report.section_heat import heat
from thermolearn.report.terms_heat import HEAT


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("heat") / "run.jsonl"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 4, generator=generator)
    y = torch.randn(32, 2, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = (4, 6, 6, 6, 6, 2)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.Tanh())))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = thermolearn.Probe(
        model, nn.MSELoss(), sgd, reference=(x, y), every=5, quantities=[Heat()], log=path
    )
    for _ in range(20):
        sgd.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        sgd.step()
        probe.step(x, y, loss)
    probe.report(path.with_suffix(".html"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_section(rows):
    section = heat(view(rows))
    assert not section.empty and section.key == "heat"
    assert [t.title for t in section.tables] == ["Heat", "Engines"]
    stack, engines = section.tables
    assert [r[0] for r in stack.rows] == ["0", "2", "4", "6", "8"]
    assert len(engines.rows) == 5 and all(r[1] == "tanh" and r[2] == "II" for r in engines.rows)
    assert not any("stderr" in c for c in stack.columns + engines.columns)
    (figure,) = section.figures
    assert "4 of 5" in figure.caption and figure.svg.count("<svg") == 1
    said = " ".join([*section.statements, section.lead])
    for words in ("scale-free", "S_final = 0", "straight line", "bookkeeping", "restates the loss"):
        assert words in said


def test_terms(rows):
    """Every value has a term, and conventions stand beside the numbers."""
    names = {f"heat.{name}" for r in rows if r.get("quantity") == "heat" for name in r["values"]}
    assert names <= set(HEAT)
    section = heat(view(rows))
    temperature = next(
        i
        for g in section.groups
        for i in g.items
        if "scale-free" in i.note and "&pi;" not in i.note
    )
    assert temperature.note
    assert not re.search(r"\b(should|advice|better)\b", section.lead.replace("say nothing", ""))


def test_empty_runs():
    assert heat(view([])).empty
    assert heat(view([{"kind": "snapshot", "step": 0, "quantity": "heat", "values": {}}])).empty
