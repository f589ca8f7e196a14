"""A figure as files holds every number that it shows, and where they come from."""

import numpy as np
import pytest

import thermolearn
from thermolearn.core.drawing import Drawing
from thermolearn.study.export import export, read_export, save_picture


@pytest.fixture(autouse=True)
def bib(tmp_path, monkeypatch):
    file = tmp_path / "x.bib"
    file.write_text("@misc{a,\n  eprint = {2109.00454},\n}\n", encoding="utf-8")
    monkeypatch.setattr("thermolearn.study.citation.references_file", lambda: file)


def test_the_four_files(coin, tmp_path):
    drawing = coin.figure()
    files = export(drawing, tmp_path / "new" / "coin.v1", "coin", coin.Params(bias=0.6), "1", True)
    assert [f.name for f in files] == [f"coin.v1.{e}" for e in ("pdf", "svg", "parquet", "bib")]
    pdf, svg, parquet, bibtex = files
    assert pdf.read_bytes().startswith(b"%PDF")
    assert "<svg" in svg.read_text() and ">mean<" in svg.read_text()
    assert bibtex.read_text().startswith("@misc{a,")
    rows, about = read_export(parquet)
    assert len(rows) == len(drawing.rows) == 6
    for place, row in enumerate(drawing.rows):
        for name, number in row.items():
            assert rows[name][place] == number or np.isnan(number)
    assert about["system"] == "toy.coin" and about["papers"] == ["arXiv:2109.00454"]
    assert about["params"] == {**vars(coin.Params(bias=0.6)), "faces": ["tail", "head"]}
    assert about["seeds_per_point"] == [1] and (about["figure"], about["quick"]) == ("1", True)
    assert about["versions"]["thermolearn"] == thermolearn.__version__
    assert {"torch", "numpy", "numba"} <= about["versions"].keys()
    assert about["date"].endswith("+00:00") and len(about["source"]) == 16


def test_the_same_figure_makes_the_same_files(coin, tmp_path):
    for end in ("pdf", "svg", "png"):
        a, b = (save_picture(coin.figure(), tmp_path / f"{k}.{end}").read_bytes() for k in "ab")
        assert a == b
    with pytest.raises(ValueError, match=r"\.pdf, \.svg or \.png"):
        save_picture(coin.figure(), tmp_path / "a.jpg")


def test_conditions_of_all_kinds_become_columns(coin, tmp_path):
    drawing = Drawing(columns=2)
    axis, other = drawing.axes[0]
    drawing.theory(axis, [0.0, 1.0], [1.0, np.nan], load=0.1, n=400, kind_of="a", stable=True)
    drawing.simulation(axis, [0.0], ([1.0], [0.1]), seeds=8, load=1, sizes=(1, 2), n=np.int64(3))
    drawing.map(other, [0.0, 1.0], [0.0], [[1.0, np.nan]], "z", load=np.float64(0.5))
    path = export(drawing, tmp_path / "x", "coin")[2]
    rows, about = read_export(path)
    assert len(rows) == 5 and about["seeds_per_point"] == [8] and about["params"] == {}
    assert rows["load"].tolist() == [0.1, 0.1, 1.0, 0.5, 0.5]
    assert rows["n"].tolist()[:3] == [400, 400, 3] and rows["sizes"][2] == "(1, 2)"
    assert rows["stable"].tolist()[:2] == [True, True]
    assert rows["z"].tolist()[3] == 1.0


def test_numbers_of_numpy_are_recorded(coin, tmp_path):
    drawing = Drawing()
    drawing.simulation(drawing.axes[0, 0], [0.0], ([1.0], [0.1]), seeds=np.int64(8))
    given = {"n_flips": np.int64(3), "faces": (np.float64(0.5), "a"), "loads": np.arange(2)}
    about = read_export(export(drawing, tmp_path / "x", "coin", given)[2])[1]
    assert about["params"] == {"n_flips": 3, "faces": [0.5, "a"], "loads": [0, 1]}
    assert about["seeds_per_point"] == [8]


def test_other_files_are_refused(tmp_path):
    import pandas as pd

    path = tmp_path / "x.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="not written by export"):
        read_export(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a parquet file"):
        read_export(path)
