"""A row of run.jsonl as named numbers, for programs that draw curves."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import zlib
from typing import Any, NamedTuple, TypeGuard

ROOT = "thermolearn"


class Scalar(NamedTuple):
    """One point of one curve."""

    name: str
    step: int
    value: float


def scalars(row: dict[str, Any], step: int = 0) -> list[Scalar]:
    """The numbers of a row.

    ``thermolearn/<quantity>/<name>`` and ``..._stderr``; a value per layer becomes
    ``<name>/<layer>``. A number whose status is not "ok" never joins the curve of those that are:
    its name ends in ``.<status>``. Missing numbers (not finite) are left out, and so are arrays
    that no list of names belongs to. Minibatch losses are ``thermolearn/loss/minibatch``, the
    values of a summary ``thermolearn/summary/<quantity>/<name>``.

    Parameters
    ----------
    step : int
        For rows of the whole run, which have no step of their own.
    """
    kind = row.get("kind")
    if kind == "losses":
        name = f"{ROOT}/loss/minibatch"
        pairs = zip(row["step"], row["value"], strict=True)
        return [Scalar(name, int(k), float(v)) for k, v in pairs if _is_number(v)]
    if kind not in ("snapshot", "summary"):
        return []
    prefix = [ROOT, "summary"] if kind == "summary" else [ROOT]
    out: list[Scalar] = []
    for name, estimate in row.get("values", {}).items():
        path = "/".join([*prefix, str(row["quantity"]), name])
        out += _points(path, estimate, row.get("names"), int(row.get("step", step)))
    return out


def _points(
    path: str, estimate: dict[str, Any], names: list[str] | None, step: int
) -> list[Scalar]:
    status = estimate.get("status") or "ok"
    end = "" if status == "ok" else "." + re.sub(r"[^\w.-]+", "-", status).strip("-")
    value, stderr = estimate.get("value"), estimate.get("stderr")
    if not isinstance(value, list):
        found = [(path, value), (f"{path}_stderr", stderr)]
    elif names is not None and len(names) == len(value):
        found = [(f"{path}/{n}", v) for n, v in zip(names, value, strict=True)]
        if isinstance(stderr, list) and len(stderr) == len(names):
            found += [(f"{path}_stderr/{n}", e) for n, e in zip(names, stderr, strict=True)]
    else:
        return []
    return [Scalar(n + end, step, float(v)) for n, v in found if _is_number(v)]


def _is_number(x: Any) -> TypeGuard[float]:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


class Names:
    """Names as a program allows them, never the same one twice.

    Parameters
    ----------
    forbidden : re.Pattern
        What becomes an underscore; where two names would then be one (``a:b`` and ``a_b``), or one
        a folder of the other (``a`` and ``a/b``), the later one gets a checksum of itself as well.
    longest : int
        Characters; longer names are cut, and get their checksum.
    """

    def __init__(self, forbidden: re.Pattern[str], longest: int = 250):
        self._forbidden = forbidden
        self._longest = longest
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()
        self._folders: set[str] = set()

    def __call__(self, name: str) -> str:
        """The same for the same name."""
        if name not in self._given:
            short = self._forbidden.sub("_", name)
            if len(short) > self._longest or self._conflicts(short):
                flat = short.removeprefix(f"{ROOT}/").replace("/", ".")[: self._longest - 21]
                short = f"{ROOT}/{flat}-{zlib.crc32(name.encode(errors='replace')):08x}"
            self._given[name] = short
            self._taken.add(short)
            self._folders.update(_folders(short))
        return self._given[name]

    def _conflicts(self, name: str) -> bool:
        return (
            name in self._taken
            or name in self._folders
            or not self._taken.isdisjoint(_folders(name))
        )


def _folders(name: str) -> list[str]:
    return [name[:k] for k, c in enumerate(name) if c == "/"]


def described(row: dict[str, Any]) -> dict[str, str]:
    """The entries of a header as short texts, for the place where a program shows settings."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in row.items()
        if key not in ("kind", "segmentation", "conventions") and value not in (None, {})
    }


def remark(row: dict[str, Any]) -> str | None:
    """What a row says in words: a flag, what does not apply, and why."""
    if row.get("kind") == "flag":
        return f"step {row.get('step')}: {row.get('text')}"
    if row.get("kind") == "not_applicable":
        return f"not applicable: {row.get('quantity')}: {row.get('reason')}"
    return None


def require(package: str, extra: str) -> None:
    """Raise ImportError, with the command that helps, unless a package is installed."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"{package} is not installed, and this sink needs it: "
            f'pip install "thermolearn[{extra}]"'
        )
