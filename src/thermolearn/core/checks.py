"""Checks of the numbers a function is given, with errors that name the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np


def real(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """The value as a float, if it is one finite number in its range.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : int, float, or a numpy scalar of them
    least, most : float
        Bounds that are allowed themselves.
    above, below : float
        Bounds that are not.

    Raises
    ------
    ValueError
        Not a number (bool, str, array, None), NaN, infinite, or out of range.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if math.isfinite(number) and least <= number <= most and above < number < below:
        return number
    low, high = max(least, above), min(most, below)
    signs = ">" if above >= least else ">=", "<" if below <= most else "<="
    wanted = "finite"
    if math.isfinite(low) and math.isfinite(high):
        opening, closing = "(" if signs[0] == ">" else "[", ")" if signs[1] == "<" else "]"
        wanted = f"in {opening}{low:g}, {high:g}{closing}"
    elif math.isfinite(low):
        wanted += " and positive" if above == low == 0 else f" and {signs[0]} {low:g}"
    elif math.isfinite(high):
        wanted += f" and {signs[1]} {high:g}"
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


def whole(name: str, value: object, least: float = -math.inf, most: float = math.inf) -> int:
    """The value as an int, if it is an integer (not 3.0) from `least` to `most`.

    Raises
    ------
    ValueError
        Not an int or numpy integer (bool, float, str, array, None), or out of range.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most:
        return int(value)
    wanted = f" >= {least}" if least > -math.inf else ""
    if most < math.inf:
        wanted = f" in [{least}, {most}]" if wanted else f" <= {most}"
    raise ValueError(f"{name} must be an integer{wanted}, got {value!r}")


def is_signs(x: np.ndarray) -> bool:
    """Whether an array of numbers consists of -1 and +1."""
    return x.dtype.kind in "iuf" and bool((np.abs(x) == 1).all())


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """The widths as integers; ValueError unless there are two or more, each at least 1."""
    try:
        sizes = tuple(int(n) for n in widths)
    except TypeError as error:
        raise ValueError(f"widths must be a sequence of integers, got {widths!r}") from error
    if len(sizes) < 2:
        raise ValueError(f"widths needs an input layer and at least one more, got {widths!r}")
    if any(n < 1 or n != given for n, given in zip(sizes, widths, strict=True)):
        raise ValueError(f"widths must be integers of at least 1, got {widths!r}")
    return sizes


def check_variances(sigma_w2: float, sigma_b2: float, q0: float) -> None:
    """ValueError unless all three are finite and not negative."""
    for name, value in (("sigma_w2", sigma_w2), ("sigma_b2", sigma_b2), ("q0", q0)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {value!r}")
