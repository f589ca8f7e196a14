"""Numbers as text: value(error) with typographic minus signs and powers of ten."""

from __future__ import annotations

import math

MINUS = "\u2212"
TIMES = "\u00d7"
_SUPERSCRIPT = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def power_of_ten(exponent: int) -> str:
    """``10`` with a superscript exponent, as Unicode text."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def typographic(text: str) -> str:
    """Replace the hyphen of a formatted number by a minus sign."""
    return text.replace("-", MINUS)


def plain(value: float, digits: int = 4) -> str:
    """A number without an error bar to `digits` significant digits; an en dash if not finite."""
    if not math.isfinite(value):
        return "\u2013"
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e6):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return typographic(f"{mantissa}{TIMES}") + power_of_ten(int(exponent))
    return typographic(f"{value:.{digits}g}" if size < 10**digits else f"{value:.0f}")


def with_error(value: float, stderr: float) -> str:
    """``0.0521(10)``: two digits of error in units of the last digits of the value.

    Small and large numbers get a power of ten behind them. An unknown error bar (not finite) is
    shown as ``(?)``; none is shown if it is zero or does not reach the sixth digit.
    """
    if not math.isfinite(value):
        return "\u2013"
    if not math.isfinite(stderr):
        return plain(value) + "(?)"
    if stderr < 1e-6 * abs(value) or stderr == 0:
        return plain(value, 6)
    top = max(abs(value), stderr)
    if top < 1e-290:  # powers of ten run out
        return plain(value, 6)
    exponent = math.floor(math.log10(top))
    scale = exponent if exponent < -3 or exponent > 5 else 0
    value, stderr = value / 10.0**scale, stderr / 10.0**scale
    digits = 1 - math.floor(math.log10(stderr))
    if round(stderr * 10.0**digits) >= 100:  # 0.0996 rounds up to 0.10
        digits -= 1
    if digits > 0:
        body = f"{value:.{digits}f}({round(stderr * 10.0**digits)})"
    else:
        body = f"{value:.0f}({stderr:.0f})"
    tail = TIMES + power_of_ten(scale) if scale else ""
    return typographic(body) + tail


def percent(fraction: float, stderr: float = 0.0) -> str:
    """A fraction in percent, with its error bar."""
    if not math.isfinite(fraction):
        return "\u2013"
    text = plain(100 * fraction, 3) if stderr == 0 else with_error(100 * fraction, 100 * stderr)
    return text + "\u202f%"


def count(n: float) -> str:
    """A whole number, from 10000 on with thin spaces between thousands."""
    if not math.isfinite(n):
        return "\u2013"
    return f"{n:,.0f}".replace(",", "\u202f" if abs(n) >= 1e4 else "")


def seconds(value: float) -> str:
    """A duration: milliseconds, seconds or minutes."""
    if not math.isfinite(value):
        return "\u2013"
    if value >= 120:
        return f"{value / 60:.3g}\u202fmin"
    if value >= 0.1 or value == 0:
        return f"{value:.3g}\u202fs"
    return f"{1000 * value:.2g}\u202fms"
