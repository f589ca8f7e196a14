"""What a sweep runs over: parameters crossed or in step, constants, seeds; checked beforehand."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from thermolearn.core.errors import SweepError
from thermolearn.study.contract import did_you_mean, load, short_name

SECTIONS = ("sweep", "product", "zip", "fixed", "submitit")
RANGE_KEYS = ("start", "stop", "num", "scale")
# Columns and dimensions of the result: no parameter may be called so.
RESERVED = (
    "task", "system", "what", "seed", "observable", "index", "shape", "value", "stderr", "n_eff",
    "status", "note", "seconds", "zip",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells and seeds of a sweep; every cell's Params is built, so a Grid that exists is valid.

    Parameters
    ----------
    system : str or module
        A name of the catalogue, the dotted name of a module of your own that keeps its contract, or
        such a module.
    product : mapping of name -> values
        Parameters crossed with each other. Values are a sequence, or a range
        ``{"start": 0.01, "stop": 0.1, "num": 10}``, both ends included, with ``"scale": "log"``
        for equal ratios (rounded to 12 digits, so that every machine finds the same numbers).
    zip : mapping of name -> values
        Parameters that vary together: the first of each, the second of each, ...
    fixed : mapping of name -> value
        Constants; all other parameters keep their defaults.
    seeds : int, range or mapping
        A number n for the seeds 0..n-1 (0: theory only), or the range ``{"start": 8, "stop": 16}``,
        such as the share of one machine.

    Attributes
    ----------
    module : module
        The system.
    cells : tuple of Params
        In C order of `shape`.
    dims : dict of name -> dict of parameter -> values
        The dimensions: one per parameter of `product`, then ``"zip"`` (if two or more parameters
        vary together; one alone has its own name).
    seed_range : range

    Raises
    ------
    SweepError
        Unknown names, wrong types, no values, repeated cells, values that the system refuses.
    """

    system: str | ModuleType
    product: Mapping[str, Any] = field(default_factory=dict)
    zip: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeds: Any = 8
    module: ModuleType = field(init=False, repr=False)
    cells: tuple[Any, ...] = field(init=False, repr=False)
    dims: dict[str, dict[str, tuple[Any, ...]]] = field(init=False, repr=False)
    seed_range: range = field(init=False, repr=False)

    def __post_init__(self) -> None:
        module = _module(self.system)
        sections = {"product": self.product, "zip": self.zip, "fixed": self.fixed}
        hints = _check_names(module, sections)
        product = {name: _values(name, v, hints[name]) for name, v in self.product.items()}
        together = {name: _values(name, v, hints[name]) for name, v in self.zip.items()}
        lengths = {name: len(values) for name, values in together.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            raise SweepError(f"the lists of zip differ in length: {told}; give as many of each")
        dims: dict[str, dict[str, tuple[Any, ...]]] = {n: {n: v} for n, v in product.items()}
        if together:
            dims[next(iter(together)) if len(together) == 1 else "zip"] = together
        fixed = {name: _typed(name, v, hints[name]) for name, v in self.fixed.items()}
        set_field = object.__setattr__
        set_field(self, "module", module)
        set_field(self, "dims", dims)
        set_field(self, "seed_range", _seeds(self.seeds))
        set_field(self, "cells", _cells(module, dims, fixed))

    @property
    def name(self) -> str:
        """The name of the system."""
        return short_name(self.module)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values along each of `dims`."""
        return tuple(_length(dim) for dim in self.dims.values())

    @property
    def definition(self) -> dict[str, Any]:
        """The sweep in plain values, as it is written beside its results."""
        swept = {name: dict(dim) for name, dim in self.dims.items()}
        together = swept.pop("zip", {})
        return {
            "system": self.name,
            "product": {name: list(v) for dim in swept.values() for name, v in dim.items()},
            "zip": {name: list(values) for name, values in together.items()},
            "fixed": dict(self.fixed),
            "seeds": {"start": self.seed_range.start, "stop": self.seed_range.stop},
        }


def read_definition(path: str | Path) -> tuple[Grid, dict[str, Any]]:
    """The grid of a TOML file, and its options for submitit.

    The file has the sections ``[sweep]`` (``system``, ``seeds``), ``[product]``, ``[zip]`` and
    ``[fixed]`` as in `Grid`, and ``[submitit]`` with parameters of the cluster.

    Raises
    ------
    SweepError
        The file cannot be read, is not TOML, has unknown sections, or `Grid` refuses it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise SweepError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise SweepError(f"{path} is not a TOML file: {error}") from error
    try:
        return _from_sections(content)
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from error


def _from_sections(content: dict[str, Any]) -> tuple[Grid, dict[str, Any]]:
    for name, section in content.items():
        if name not in SECTIONS:
            if not isinstance(section, dict):
                raise SweepError(f"{name!r} stands above the sections; put it under [sweep], say")
            raise SweepError(f"unknown section {name!r}{_close(name, SECTIONS)}")
        if not isinstance(section, dict):
            raise SweepError(f"{name} must be a section: write [{name}] on a line of its own")
        if not section:
            raise SweepError(f"section [{name}] is empty; fill it or leave it out")
    head = content.get("sweep", {})
    for name in head:
        if name not in ("system", "seeds"):
            raise SweepError(f"unknown key {name!r} in [sweep]{_close(name, ('system', 'seeds'))}")
    if not isinstance(head.get("system"), str):
        raise SweepError('name the system: [sweep] with system = "memory.hopfield", say')
    parts = {name: content.get(name, {}) for name in ("product", "zip", "fixed")}
    return Grid(**head, **parts), content.get("submitit", {})


def params_dict(params: Any) -> dict[str, Any]:
    """The fields from which Params can be built again."""
    return {f.name: getattr(params, f.name) for f in dataclasses.fields(params) if f.init}


# -- the system --------------------------------------------------------------------------------
def _module(system: str | ModuleType) -> ModuleType:
    if not isinstance(system, (str, ModuleType)):
        raise SweepError(f"system must be a name or a module, not {type(system).__name__}")
    try:
        return load(system)
    except (ValueError, TypeError) as error:
        raise SweepError(str(error)) from error


def _check_names(module: ModuleType, sections: dict[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every name is a parameter and stands in one section; the parameters' types."""
    known = [f.name for f in dataclasses.fields(module.Params) if f.init]
    taken = [name for name in known if name in RESERVED]
    if taken:
        raise SweepError(
            f"{short_name(module)} cannot be swept: its parameter {taken[0]!r} has the name of a "
            "column of the results; rename it"
        )
    places: dict[str, str] = {}
    for section, content in sections.items():
        if not isinstance(content, Mapping):
            raise SweepError(f"{section} must map names to values, got {content!r}")
        for name in content:
            if name not in known:
                raise SweepError(
                    f"{short_name(module)} has no parameter {name!r} (in {section})"
                    f"{_close(str(name), known)}"
                )
            if name in places:
                raise SweepError(f"{name!r} stands in {places[name]} and in {section}; keep one")
            places[name] = section
    return typing.get_type_hints(module.Params)


def _close(name: str, known: Iterable[str]) -> str:
    return did_you_mean(difflib.get_close_matches(name, known), known)


# -- values ------------------------------------------------------------------------------------
def _values(name: str, given: Any, hint: Any) -> tuple[Any, ...]:
    """The values of a swept parameter, in its type."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, Mapping):
        given = _range(name, given, hint)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise SweepError(
            f"{name} = {given!r}: a swept parameter needs a list of values or a range "
            "{start, stop, num}; a constant belongs in fixed"
        )
    if not given:
        raise SweepError(f"{name} has no values; give at least one")
    return tuple(_typed(name, value, hint) for value in given)


def _range(name: str, given: Mapping[str, Any], hint: Any) -> list[Any]:
    for key in given:
        if key not in RANGE_KEYS:
            raise SweepError(f"unknown key {key!r} in the range of {name}{_close(key, RANGE_KEYS)}")
    missing = [key for key in RANGE_KEYS[:3] if key not in given]
    if missing:
        raise SweepError(f"the range of {name} lacks {missing[0]!r}; give start, stop and num")
    start, stop = (_typed(f"{key} of {name}", given[key], float) for key in ("start", "stop"))
    num = _typed(f"num of {name}", given["num"], int)
    scale = given.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise SweepError(f'the scale of {name} must be "linear" or "log", got {scale!r}')
    if num < 1:
        raise SweepError(f"the range of {name} has num = {num}; it must be at least 1")
    if num == 1 and start != stop:
        raise SweepError(
            f"the range of {name} has num = 1, but both of its ends are included; give num = 2 or "
            "more, or one value in a list"
        )
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise SweepError(f"the range of {name} must have finite ends")
    if scale == "log" and not (start > 0 and stop > 0):
        raise SweepError(f"the range of {name} must be positive to have the scale log")
    steps = [i / (num - 1) for i in range(num)] if num > 1 else [0.0]
    if scale == "log":
        values = [start * (stop / start) ** s for s in steps]
    else:
        values = [start + (stop - start) * s for s in steps]
    values = [float(f"{value:.12g}") for value in values]
    if hint is not int:
        return values
    broken = [value for value in values if not value.is_integer()]
    if broken:
        raise SweepError(f"{name} is a whole number, but its range gives {broken[0]:g}; list them")
    return [int(value) for value in values]


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value in the type of its parameter; nothing but int to float is converted."""
    from pydantic import TypeAdapter, ValidationError

    value = value.item() if hasattr(value, "item") else _tuples(value)
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise SweepError(
            f"{name} must be {kind}, got {value!r} ({error.errors()[0]['msg']})"
        ) from None


def _tuples(value: Any) -> Any:
    """TOML knows lists, parameters are tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _seeds(given: Any) -> range:
    if isinstance(given, Mapping) and set(given) == {"start", "stop"}:
        ends = [_typed(f"{key} of seeds", given[key], int) for key in ("start", "stop")]
        given = range(*ends)
    if isinstance(given, range):
        if given.step != 1 or given.start < 0 or not given:
            raise SweepError(f"seeds = {given!r}: a range needs 0 <= start < stop, in steps of 1")
        return given
    count = _typed("seeds, a number or a range {start, stop},", given, int)
    if count < 0:
        raise SweepError(f"seeds = {count} is negative; 0 gives the theory only")
    return range(count)


# -- cells -------------------------------------------------------------------------------------
def _length(dim: dict[str, tuple[Any, ...]]) -> int:
    return len(next(iter(dim.values())))


def _cells(
    module: ModuleType, dims: dict[str, dict[str, tuple[Any, ...]]], fixed: dict[str, Any]
) -> tuple[Any, ...]:
    seen: dict[Any, str] = {}
    cells = []
    axes = [
        [dict(zip(dim, row, strict=True)) for row in zip(*dim.values(), strict=True)]
        for dim in dims.values()
    ]
    for parts in itertools.product(*axes):
        swept = {name: value for part in parts for name, value in part.items()}
        told = ", ".join(f"{name} = {value}" for name, value in swept.items()) or "of the defaults"
        try:
            params = module.Params(**fixed, **swept)
        except (ValueError, TypeError) as error:
            raise SweepError(f"cell {told}: {error}") from error
        key = repr(params_dict(params))
        if key in seen:
            raise SweepError(f"the cell {told} is there twice; keep one of the equal values")
        seen[key] = told
        cells.append(params)
    return tuple(cells)
