"""The catalogue pages: what their cache stands on, and what they show."""

import importlib.util
from pathlib import Path

import pytest

from thermolearn.study.contract import catalogue

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def gallery():
    spec = importlib.util.spec_from_file_location("docs_gallery", DOCS / "gallery.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_the_cache_stands_on_all_that_a_system_imports(gallery):
    entries = catalogue()
    ensemble = gallery.SOURCE / "measure" / "canonical" / "ensemble.py"
    assert ensemble in gallery.behind(entries["training.canonical"].sources)
    files = gallery.behind(entries["memory.hopfield"].sources)
    assert ensemble not in files
    assert {"lattice.py", "fixed_point.py", "glauber.py", "simulation.py"} <= {
        f.name for f in files
    }


def test_a_function_that_a_file_of_its_name_hides_is_written_out(gallery):
    pytest.importorskip("griffe")
    entries = catalogue()
    (text,) = gallery._hidden(entries["memory.pavlov"])
    assert text.startswith("### `theory`") and "theory(p: Params) -> dict[str, Estimate]" in text
    assert "Large networks and populations" in text and "hebb_slope" in text
    # where theory.py defines it, its own directive shows it
    assert gallery._hidden(entries["memory.decimation"]) == []
    assert gallery._hidden(entries["training.canonical"]) == []
