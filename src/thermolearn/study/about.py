"""What the description ABOUT of a system must hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

# key of ABOUT -> its type in Python and in words
KEYS: dict[str, tuple[Any, str]] = {
    "title": (str, "a sentence"),
    "papers": (list, "a list like ['arXiv:2109.00454', 'doi:10.1103/...']"),
    "claims": (list, "a list of sentences"),
    "axes": (dict, "a dict: observable -> name of its array axis"),
    "size": (str, "the field of Params that is the size of the system"),
    "sizes": (tuple, "two sizes, the first the default of Params"),
    "allowance": (dict, "a dict: observable -> (c, gamma) of the finite-size law c N**-gamma"),
    "contrast": (dict, "a dict of Params whose theory the default simulation rejects"),
    "seeds": (int, "the number of seeds of a comparison"),
    "figures": (dict, "a dict: figure number -> name of a function"),
}
# keys that may be left out
OPTIONAL: dict[str, tuple[Any, str]] = {
    "scale": (dict, "a dict: observable near 0 -> what its differences are measured by"),
    "exact": (list, "a list of the observables whose simulation has no noise"),
    "points": (dict, "a dict: observable -> where on its axis the elements of the array are"),
}
# The two sizes must be apart for the finite-size law to show; fewer seeds cannot tell anything.
GROWTH, LEAST_SEEDS = 1.5, 7
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})|doi:10\.\d{4,}/\S+")


def about_violations(about: dict[str, Any]) -> Iterable[str]:
    """What is wrong with an ABOUT, one phrase each."""
    for key, (kind, words) in (KEYS | OPTIONAL).items():
        if key not in about:
            if key in KEYS:
                yield f"ABOUT has no {key!r} ({words})"
        elif not isinstance(about[key], (list, tuple) if kind in (list, tuple) else kind):
            yield f"ABOUT[{key!r}] must be {words}"
    yield from (f"ABOUT has an unknown key {key!r}" for key in about if key not in KEYS | OPTIONAL)
    for paper in about.get("papers") or ():
        if not (isinstance(paper, str) and PAPER.fullmatch(paper)):
            yield f"paper {paper!r} is not like arXiv:2109.00454 or doi:10.1103/..."
    sizes = about.get("sizes")
    if isinstance(sizes, (list, tuple)) and (
        len(sizes) != 2
        or not all(isinstance(n, int) for n in sizes)
        or not 0 < GROWTH * sizes[0] <= sizes[1]
    ):
        yield f"ABOUT['sizes'] must be two growing positive integers, {GROWTH} times or more apart"
    for name, law in _items(about.get("allowance")):
        if not (
            isinstance(law, (list, tuple))
            and len(law) == 2
            and all(map(_is_number, law))
            and law[0] >= 0
            and law[1] > 0
        ):
            yield f"the allowance of {name!r} must be (c, gamma), finite, c >= 0 and gamma > 0"
    for name, scale in _items(about.get("scale")):
        if not (_is_number(scale) and scale > 0):
            yield f"the scale of {name!r} must be positive and finite"
    for name, points in _items(about.get("points")):
        if not (isinstance(points, (list, tuple)) and all(map(_is_number, points))):
            yield f"the points of {name!r} must be a tuple of finite numbers"
    if isinstance(about.get("seeds"), int) and about["seeds"] < LEAST_SEEDS:
        yield f"ABOUT['seeds'] must be at least {LEAST_SEEDS}"


def _items(x: Any) -> Iterable[tuple[Any, Any]]:
    return x.items() if isinstance(x, dict) else ()


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
