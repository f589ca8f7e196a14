"""Checks of arguments: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from thermolearn.core.checks import is_signs, real, whole


@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), np.float32(2), np.int8(2)])
def test_numbers_become_floats(value: Any) -> None:
    assert real("T", value) == 2.0 and type(real("T", value)) is float


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_become_ints(value: Any) -> None:
    assert whole("M", value, 3, 3) == 3 and type(whole("M", value)) is int


NOT_NUMBERS = [True, np.True_, "1", None, np.ones(1), np.array(1), [1], 1j, math.nan, math.inf]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, -math.inf, np.float64("nan")])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^T must be finite, got "):
        real("T", value)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 1.0, np.float64(1), 1.5])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^M must be an integer, got "):
        whole("M", value)


@pytest.mark.parametrize(
    ("bounds", "value", "wanted"),
    [
        ({"above": 0}, 0, "finite and positive"),
        ({"above": 1}, 1, "finite and > 1"),
        ({"least": 0}, -1e-300, "finite and >= 0"),
        ({"most": 2.5}, 2.6, "finite and <= 2.5"),
        ({"below": 0}, 0, "finite and < 0"),
        ({"above": 0, "most": 1}, 0, "in (0, 1]"),
        ({"above": 0, "most": 1}, 1.1, "in (0, 1]"),
        ({"least": 0, "below": 1}, 1, "in [0, 1)"),
    ],
)
def test_a_number_out_of_range_is_told_the_range(bounds: dict, value: float, wanted: str) -> None:
    with pytest.raises(ValueError) as error:
        real("load", value, **bounds)
    assert str(error.value) == f"load must be {wanted}, got {value!r}"


def test_bounds_that_belong_to_the_range() -> None:
    assert real("r", 0, least=0, most=1) == 0 and real("r", 1, above=0, most=1) == 1
    assert whole("k", 0, 0) == 0 and whole("k", 5, most=5) == 5


@pytest.mark.parametrize(
    ("bounds", "value", "wanted"),
    [((1,), 0, " >= 1"), ((20, 60), 61, " in [20, 60]"), ((-math.inf, 4), 5, " <= 4")],
)
def test_an_integer_out_of_range_is_told_the_range(bounds: tuple, value: int, wanted: str) -> None:
    with pytest.raises(ValueError) as error:
        whole("sweeps", value, *bounds)
    assert str(error.value) == f"sweeps must be an integer{wanted}, got {value}"


def test_signs() -> None:
    assert is_signs(np.array([[1, -1], [-1, -1]])) and is_signs(np.array([1.0, -1.0]))
    for wrong in ([0, 1], [1.0, np.nan], [True, True], ["1"], [1, 2]):
        assert not is_signs(np.array(wrong))
