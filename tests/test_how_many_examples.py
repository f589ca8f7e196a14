"""The worked page runs, and prints what it says it prints."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
# a number, perhaps with its error in units of the last digits
NUMBER = re.compile(r"(-?\d+(?:\.(\d+))?)(?:\((\d+)\))?")


def numbers(text: str) -> list[tuple[float, float]]:
    """Values and error bars."""
    return [
        (float(value), float(error or 0) * 10.0 ** -len(digits))
        for value, digits, error in NUMBER.findall(text)
    ]


@pytest.mark.slow
def test_the_page_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("page", DOCS / "how_many_examples.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "how_many_examples.md").read_text(encoding="utf-8")
    outputs = page.run_page(text)
    assert len(outputs) == text.count("```python") >= 5
    for printed, shown in outputs:
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        for (value, error), (known, _) in zip(numbers(printed), numbers(shown), strict=True):
            # rounding of a coupling elsewhere can change a chain, within the error bar
            assert abs(value - known) <= max(1e-9, 3 * error), (printed, shown)
    picture = tmp_path / "how_many_examples.png"
    assert picture.stat().st_size > 20_000
    assert (DOCS / "images" / "how_many_examples.png").stat().st_size > 20_000
