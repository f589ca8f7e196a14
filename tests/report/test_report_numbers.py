"""Numbers as text, ticks of an axis."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thermolearn.report.axes import linear_axis, log_axis, nice_step
from thermolearn.report.numbers import count, percent, plain, seconds, with_error

NNBSP = "\u202f"


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.05213, 0.00097, "0.05213(97)"),
        (0.5, 0.0996, "0.50(10)"),
        (-12.3456, 0.12, "\u221212.35(12)"),
        (1632.0, 32.0, "1632(32)"),
        (3.52e-4, 2.6e-5, "3.52(26)\u00d710\u207b\u2074"),
        (4e7, 2e6, "4.00(20)\u00d710\u2077"),
        (0.1, 2.3, "0.1(23)"),
        (2.0, 0.0, "2"),
        (6.283032375, 1e-9, "6.28303"),
        (2.0, math.nan, "2(?)"),
        (math.nan, 1.0, "\u2013"),
    ],
)
def test_with_error(value, stderr, text):
    assert with_error(value, stderr) == text


@given(st.floats(-1e30, 1e30), st.floats(1e-200, 1e30))
def test_with_error_shows_value_and_error_to_their_digits(value, stderr):
    """The text read back is the value within the error's last digit, and the error to 10%."""
    text = with_error(value, stderr)
    power = 0
    if "\u00d7" in text:
        text, tail = text.split("\u00d710")
        digits = str.maketrans(
            "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789"
        )
        power = int(tail.translate(digits))
    text = text.replace("\u2212", "-")
    number, _, bar = text.rstrip(")").partition("(")
    if not bar:
        assert float(number) * 10.0**power == pytest.approx(value, rel=1e-5, abs=1e-300)
        return
    unit = 10.0 ** (power - (len(number.partition(".")[2])))
    assert abs(float(number) * 10.0**power - value) <= 0.51 * unit + 1e-9 * abs(value)
    assert int(bar) * unit == pytest.approx(stderr, rel=0.06)


def test_plain_percent_count_seconds():
    assert plain(1234567) == "1.235\u00d710\u2076"
    assert plain(-0.00012) == "\u22121.2\u00d710\u207b\u2074"
    assert plain(0) == "0"
    assert percent(0.956, 0.009) == f"95.60(90){NNBSP}%"
    assert percent(0.05) == f"5{NNBSP}%"
    assert count(1234) == "1234"
    assert count(1234567) == f"1{NNBSP}234{NNBSP}567"
    assert seconds(0.002) == f"2{NNBSP}ms"
    assert seconds(240) == f"4{NNBSP}min"
    assert {f(math.nan) for f in (plain, percent, count, seconds)} == {"\u2013"}


def test_nice_step():
    assert [nice_step(10, n) for n in (1, 2, 3, 5, 10, 11)] == [10, 5, 5, 2, 1, 1]


def test_linear_ticks_are_nice_and_labels_distinct():
    axis = linear_axis(0.013, 0.97, 5)
    assert axis.ticks == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert axis.labels == ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert linear_axis(-3, 12000, 3).labels[-1] == f"15{NNBSP}000"


def test_log_ticks():
    assert log_axis(1e-6, 1e3, 5).labels[:2] == ["10\u207b\u2076", "10\u207b\u2074"]
    assert log_axis(0.02, 0.5, 5).labels == ["0.02", "0.05", "0.1", "0.2", "0.5"]
    assert len(log_axis(3.1, 3.3, 5).ticks) >= 2


finite = st.floats(-1e270, 1e270)


@given(finite, finite, st.integers(2, 12))
def test_linear_axis_covers_its_data(a, b, n):
    low, high = min(a, b), max(a, b)
    axis = linear_axis(low, high, n)
    assert axis.low <= low <= high <= axis.high
    assert 1 <= len(axis.ticks) <= n + 4
    slack = 1e-8 * (axis.high - axis.low)
    assert all(axis.low - slack <= t <= axis.high + slack for t in axis.ticks)
    assert 0 <= axis.share(low) <= axis.share(high) <= 1


@given(st.floats(1e-270, 1e270), st.floats(1e-270, 1e270), st.integers(2, 12))
def test_log_axis_covers_its_data(a, b, n):
    low, high = min(a, b), max(a, b)
    axis = log_axis(low, high, n)
    assert axis.low <= low <= high <= axis.high
    assert axis.ticks == sorted(axis.ticks)
    assert len(axis.labels) == len(axis.ticks)
    assert 0 <= axis.share(low) <= axis.share(high) <= 1
