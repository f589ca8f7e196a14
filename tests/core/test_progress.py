import io
import subprocess
import sys

import pytest

from thermolearn.core import progress
from thermolearn.core.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal; called in the test, because pytest swaps stderr between phases."""
    return lambda: open_terminal(monkeypatch)


def open_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    return stream


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", -1.0)


def test_items_pass_through_unchanged_without_a_terminal(capsys, impatient):
    assert list(track(range(5), "loop")) == [0, 1, 2, 3, 4]
    assert list(track((i for i in "ab"), "loop", total=2)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_a_quick_loop_is_silent_on_a_terminal(terminal):
    stream = terminal()
    assert list(track([3, 1], "loop")) == [3, 1]
    assert list(track([], "loop")) == []
    assert stream.getvalue() == ""


def test_a_slow_loop_draws_a_bar_with_its_count(terminal, impatient):
    stream = terminal()
    assert list(track(range(7), "training [x]")) == list(range(7))
    assert "training [x]" in stream.getvalue() and "7/7" in stream.getvalue()


def test_an_inner_loop_leaves_the_bar_to_the_outer_one(terminal, impatient):
    stream = terminal()
    pairs = [(a, b) for a in track(range(3), "outer") for b in track(range(2), "inner")]
    assert len(pairs) == 6
    assert "outer" in stream.getvalue()
    assert list(track(range(2), "after")) == [0, 1]
    assert "after" in stream.getvalue()


def test_an_exception_ends_the_bar(terminal, impatient):
    stream = terminal()
    with pytest.raises(RuntimeError, match="inside"):
        for i in track(range(5), "loop"):
            if i == 3:
                raise RuntimeError("inside")
    assert list(track(range(2), "next")) == [0, 1]
    assert "next" in stream.getvalue()


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from thermolearn.core.progress import track; list(track([1], 'x'));"
        "sys.exit(any(m in sys.modules for m in ('rich', 'torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
