"""The sections on curvature and weight spectra, from the rows of a small run."""

import json

import pytest
import torch
from make_rows import _row, est, header
from torch import nn
from torch.nn import functional as F

from thermolearn.measure.curvature import Curvature
from thermolearn.measure.probe import Probe
from thermolearn.measure.spectra import WeightSpectra
from thermolearn.report.evidence import sharpness_ratio
from thermolearn.report.reader import view
from thermolearn.report.section_curvature import curvature
from thermolearn.report.section_spectra import spectra
from thermolearn.report.terms_curvature import CURVATURE
from thermolearn.report.terms_spectra import SPECTRA


@pytest.fixture(scope="module")
def rows():
    """Twenty steps of a 20-16-16-3 network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
        )
    x = torch.randn(40, 20, generator=torch.Generator().manual_seed(1))
    y = torch.arange(40) % 3
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    quantities = [Curvature(), WeightSpectra()]
    probe = Probe(model, F.cross_entropy, optimizer, (x, y), 5, quantities=quantities)
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    return json.loads(json.dumps(probe.rows))


def test_the_section_on_curvature(rows):
    run = view(rows)
    section = curvature(run)
    assert section.key == "curvature" and not section.empty
    captions = [f.caption for f in section.figures]
    assert captions[0] == "Sharpness and stability edge" and len(captions) == 5
    assert captions[-1].startswith("Loss on the plane")
    plane = section.figures[-1].svg
    assert plane.count("<rect") == 121 and "direction 2" in plane
    assert all("<svg" in f.svg for f in section.figures)
    titles = [t.title for t in section.tables]
    assert titles == ["Trace of the Hessian per layer", "Eigenvalues", "Layers"]
    assert [r[0] for r in section.tables[0].rows] == ["0", "2", "4"]
    assert "Gaussian of width" in section.notes[0]
    cells = {i.label: i.cells for g in section.groups for i in g.items}
    assert "?" not in cells["Rise of the loss slice"][0]
    ratio = sharpness_ratio(run)
    assert ratio is not None and ratio.value > 0


def test_the_section_on_spectra(rows):
    section = spectra(view(rows))
    assert section.key == "spectra" and "<svg" in section.figures[0].svg
    (table,) = section.tables
    assert [r[0] for r in table.rows] == ["0.weight", "2.weight", "4.weight"]
    assert table.rows[2][4] == "too small" and table.columns[3:5] == ["first", "last"]
    assert any("not about the quality" in n for n in section.notes)
    cells = {i.label: i.cells for g in section.groups for i in g.items}
    assert cells["Weights that look random"][0].endswith(" of 3")
    assert cells["Weights with a power-law tail"] == ["0 of 3"]


def test_every_recorded_name_has_a_term(rows):
    shared = {"sharpness", "stability_edge"}
    for row in rows:
        known = {"curvature": CURVATURE, "spectra": SPECTRA}.get(row.get("quantity", ""))
        for name in row.get("values", {}) if known is not None else ():
            base = name.removesuffix("_first").removesuffix("_last")
            assert base in shared or f"{row['quantity']}.{base}" in known, name


def test_runs_without_these_rows_and_broken_ones():
    assert curvature(view([header()])).empty and spectra(view([header()])).empty
    broken = [
        header(),
        _row(0, "curvature", {"layer_trace": est([1.0, None], [0.1, None])}),
        _row(0, "spectra", {"edge_ratio": est([None, None])}),
        {"kind": "summary", "quantity": "curvature", "values": {},
         "tables": {"density": {"columns": ["eigenvalue", "last"], "rows": [[1], ["x", None]]}}},
    ]  # fmt: skip
    assert len(curvature(view(broken)).tables) == 1
    for cells in ([[0.0, 1.0]], [[0.0, 1.0, None], [1.0, None, None]], [[None, 1, 2], [0, 1, 2]],
                  [[0, "x", {}], [1, 1e308, -1e308]], [[0, 5, 5], [1, 5, 5]]):  # fmt: skip
        broken[-1]["tables"] = {"loss_plane": {"columns": ["step", "0", "1"], "rows": cells}}
        for figure in curvature(view(broken)).figures:
            assert "nan" not in figure.svg and "inf" not in figure.svg
    assert spectra(view(broken)).figures == []
