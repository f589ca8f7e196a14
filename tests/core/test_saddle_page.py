"""The page on saddle points: its code runs, and prints what the page says it prints."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "saddle_point.md"


def test_the_page_prints_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python"] + ["python", "text"] * 3
    names: dict[str, object] = {}
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, PAGE.name, "exec"), names)
        else:
            assert capsys.readouterr().out == block
