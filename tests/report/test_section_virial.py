"""The section on the virial relation, rendered from a real run."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn import Estimate, Probe
from thermolearn.measure.noise import GradientNoise, Virial
from thermolearn.report import glossary
from thermolearn.report.evidence import drift_in_words
from thermolearn.report.reader import view
from thermolearn.report.section_virial import virial
from thermolearn.report.terms_virial import VIRIAL


def recorded(kind=torch.optim.SGD, steps=600, **settings):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 6, generator=generator), torch.arange(64) % 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
    optimizer = kind(model.parameters(), **settings)
    quantities = [GradientNoise(), Virial()]
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(model, loss_fn, optimizer, reference=(x, y), every=20, quantities=quantities)
    for _ in range(steps):
        k = torch.randint(64, (8,), generator=generator)
        optimizer.zero_grad()
        loss = loss_fn(model(x[k]), y[k])
        loss.backward()
        optimizer.step()
        probe.step(x[k], y[k], loss)
    probe.flush()
    rows = list(probe.rows)
    probe.close()
    return rows


@pytest.fixture(autouse=True)
def terms(monkeypatch):
    monkeypatch.setattr(glossary, "GLOSSARY", {**glossary.GLOSSARY, **VIRIAL})


@pytest.fixture(scope="module")
def run_rows():
    return recorded(lr=0.5, weight_decay=0.1)


@pytest.fixture(scope="module")
def run(run_rows):
    return view(run_rows)


def test_the_statement_stands_first(run):
    section = virial(run)
    assert not section.empty and section.key == "virial"
    assert "drift" in section.statements[0] and "would have been seen" in section.statements[0]
    assert len(section.figures) == 1
    labels = {i.label for g in section.groups for i in g.items}
    leading = VIRIAL["virial.temperature_leading_order"].label
    assert {VIRIAL["virial.temperature"].label, leading} <= labels


def test_every_value_has_a_term(run):
    named = {
        name
        for group in (run.snapshots["virial"], [run.summaries["virial"]])
        for part in group
        for name in part.values
    }
    assert {f"virial.{n}" for n in named} == set(VIRIAL)


def test_the_leading_order_is_near_the_temperature(run):
    values = run.summaries["virial"].values
    measured, leading = values["temperature_from_updates"], values["temperature_leading_order"]
    assert 0.5 < float(leading) / float(measured) < 1.5


def test_an_unresolved_gradient_is_not_taken_for_a_minimum(run_rows):
    rows = copy.deepcopy(run_rows)
    for row in rows:
        if row.get("quantity") == "gradient_noise" and row["kind"] == "snapshot":
            row["values"]["noise_scale"]["status"] = "under-sampled"
    said = virial(view(rows)).statements
    assert any("under-sampled" in s for s in said)
    assert not any("minimum" in s for s in said)


@pytest.mark.parametrize(
    ("drift", "words"),
    [
        (Estimate(0.3, 0.1, status="not stationary"), "grows over"),
        (Estimate(-0.3, 0.1, status="not stationary"), "shrinks over"),
        (Estimate(0.3, 0.1, status="under-sampled"), "It cannot be told"),
        (Estimate(0.9, 0.1, status="under-sampled"), "It cannot be told"),
        (Estimate(0.3, 0.1), "No drift"),
        (Estimate(0.3, 0.1, status="cycle"), "No drift"),
    ],
)
def test_the_drift_in_words(run, drift, words):
    summary = run.summaries["virial"]
    changed = dataclasses.replace(summary, values={**summary.values, "drift": drift})
    said = drift_in_words(dataclasses.replace(run, summaries={"virial": changed}))
    assert words in said
    assert ("grows" in said or "shrinks" in said) is (drift.status == "not stationary")


def test_adam_has_no_temperature():
    section = virial(view(recorded(torch.optim.Adam, 300, lr=0.01)))
    text = " ".join(section.statements)
    assert "each parameter has a temperature of its own" in text
    (row,) = [
        i for g in section.groups for i in g.items if i.label == VIRIAL["virial.temperature"].label
    ]
    assert row.status == "not applicable"


def test_nothing_recorded_leaves_the_section_out(run):
    assert virial(dataclasses.replace(run, snapshots={}, summaries={})).empty


def test_noise_scale_beside_the_batch(run):
    section = virial(run)
    said = [s for s in section.statements if "noise scale" in s]
    assert len(said) == 1 and ("samples" in said[0])
    assert np.all([not s.startswith("You") for s in section.statements])
