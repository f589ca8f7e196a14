"""What every system of the catalogue promises: theory and simulation, apart and in agreement, in a
comparison that can fail."""

from __future__ import annotations

import dataclasses
import math
import sys
import typing
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate
from thermolearn.study.citation import bibtex
from thermolearn.study.compare import Comparison, judge, judge_observable
from thermolearn.study.contract import (
    bare_paper,
    catalogue,
    load,
    make_params,
    params_from_text,
    params_to_text,
)
from thermolearn.study.seeds import run_seeds

SYSTEMS = catalogue()
FIGURES = [(name, str(n)) for name, entry in SYSTEMS.items() for n in entry.about["figures"]]
REFERENCES = Path(__file__).resolve().parents[2] / "docs" / "references.md"

# What only one of the two sides may call: functions of files of these names.
THEORY_FILES = {"theory", "replica_symmetric", "tap", "saddle_point"}
SIMULATION_FILES = {"simulation", "glauber"}


def over_systems(test: Callable[..., None]) -> Callable[..., None]:
    # one worker per system, so that its simulations are run once
    marked = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SYSTEMS]
    return pytest.mark.parametrize("name", marked)(test)


# -- what was computed, once ---------------------------------------------------------------------
@cache
def system(name: str) -> ModuleType:
    return load(name)


@cache
def params(name: str, which: int = 0) -> Any:
    about = system(name).ABOUT
    return make_params(system(name), {about["size"]: about["sizes"][which]})


@cache
def prediction(name: str, which: int = 0) -> dict[str, Estimate]:
    return system(name).theory(params(name, which))


@cache
def samples(name: str, which: int = 0) -> list[dict[str, Estimate]]:
    module = system(name)
    done, failures = run_seeds(module.__name__, params(name, which), module.ABOUT["seeds"])
    assert not failures
    return done


def comparison(name: str, which: int = 0) -> Comparison:
    return judge(system(name), params(name, which), prediction(name, which), samples(name, which))


def bits(values: dict[str, Estimate]) -> dict[str, tuple[bytes, bytes, str]]:
    return {
        key: (np.asarray(e.value).tobytes(), np.asarray(e.stderr).tobytes(), e.status)
        for key, e in values.items()
    }


# -- agreement, and that it can fail -------------------------------------------------------------
def test_there_are_systems() -> None:
    assert SYSTEMS


@over_systems
def test_theory_and_simulation_speak_of_the_same(name: str) -> None:
    about, predicted = system(name).ABOUT, prediction(name)
    assert about["seeds"] >= 24  # Student's t at the probability of 4 sigma stays below 5
    for sample in samples(name):
        assert sample.keys() == predicted.keys()
        for key, e in sample.items():
            assert np.shape(e.value) == np.shape(predicted[key].value)
    arrays = {key for key, e in predicted.items() if np.ndim(e.value)}
    assert set(about["axes"]) == arrays, "every array has a named axis"
    assert set(about["allowance"]) <= set(predicted)


@over_systems
@pytest.mark.parametrize("which", [0, 1], ids=["small", "large"])
def test_theory_and_simulation_agree(name: str, which: int) -> None:
    result = comparison(name, which)
    assert result.agrees, f"\n{result}"


@over_systems
def test_the_theory_of_other_parameters_is_rejected(name: str) -> None:
    module = system(name)
    other = make_params(module, module.ABOUT["contrast"])
    result = judge(module, params(name), module.theory(other), samples(name))
    assert result.disagrees, f"\n{result}"


@over_systems
def test_a_small_error_of_the_theory_is_noticed(name: str) -> None:
    about, size = system(name).ABOUT, getattr(params(name), system(name).ABOUT["size"])
    for key, predicted in prediction(name).items():
        if np.ndim(predicted.value):
            continue
        values = [sample[key] for sample in samples(name)]
        row = judge_observable(key, predicted, values)
        shift = max(0.02 * abs(row.theory), 5 * row.stderr)
        c, gamma = about["allowance"].get(key, (0.0, 0.0))
        for sign in (-1, 1):  # measured from the simulation, so that chance takes no part
            wrong = Estimate(row.simulation + sign * shift, predicted.stderr)
            verdict = judge_observable(key, wrong, values, c * float(size) ** -gamma)
            assert verdict.verdict == "DISAGREES", (
                f"{key}: a shift by {shift:.3g} goes unnoticed below {verdict.detectable:.3g}"
            )


# -- independence --------------------------------------------------------------------------------
def forbid(monkeypatch: pytest.MonkeyPatch, module: ModuleType, side: str, files: set[str]) -> None:
    """Replace one side by exceptions: its entry, the functions of its files, wherever imported."""

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the {side} is called by the other side")

    loaded = {
        n: m
        for n, m in sys.modules.items()
        if n.startswith(("thermolearn.systems", "thermolearn.core"))
    }
    for other in loaded.values():
        for attribute, thing in list(vars(other).items()):
            home = getattr(thing, "__module__", None)
            if not (callable(thing) and isinstance(home, str) and home in loaded):
                continue
            if isinstance(thing, type) and issubclass(thing, Exception | module.Params):
                continue
            own = home.startswith(module.__name__) and attribute.endswith(f"_{side}")
            if home.rpartition(".")[2] in files or own:
                monkeypatch.setattr(other, attribute, forbidden)
            elif hasattr(thing, "cache_clear"):
                thing.cache_clear()
    monkeypatch.setattr(module, side, forbidden)


@over_systems
def test_the_simulation_does_not_call_the_theory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, expected = system(name), bits(samples(name)[0])
    simulate = module.simulate
    forbid(monkeypatch, module, "theory", THEORY_FILES)
    assert bits(simulate(params(name), 0)) == expected


@over_systems
def test_the_theory_does_not_call_the_simulation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, expected = system(name), bits(prediction(name))
    theory = module.theory
    forbid(monkeypatch, module, "simulate", SIMULATION_FILES)
    assert bits(theory(params(name))) == expected


@over_systems
def test_a_seed_fixes_the_bits_and_only_a_seed(name: str) -> None:
    first, second = samples(name)[:2]
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    assert bits(system(name).simulate(params(name), 0)) == bits(first)
    assert (np.random.get_state()[1] == state).all(), "the global generator was drawn from"  # type: ignore[index]
    assert any(not np.array_equal(first[key].value, second[key].value) for key in first)


# -- parameters ----------------------------------------------------------------------------------
@over_systems
def test_parameters_survive_as_text(name: str) -> None:
    module = system(name)
    for given in (params(name), params(name, 1), make_params(module, module.ABOUT["contrast"])):
        assert params_from_text(module, params_to_text(given)) == given


@over_systems
def test_bad_parameters_are_refused(name: str) -> None:
    module = system(name)
    with pytest.raises(ValueError, match="no parameter"):
        make_params(module, {"no_such_parameter": 1})
    hints = typing.get_type_hints(module.Params)
    for field in dataclasses.fields(module.Params):
        bad: dict[Any, list[Any]] = {float: [math.nan, -math.inf], int: [-1, 1.5]}
        for value in bad.get(hints[field.name], []):
            with pytest.raises(ValueError, match=field.name):
                module.Params(**{field.name: value})
        if hints[field.name] in bad:
            with pytest.raises((ValueError, TypeError)):
                module.Params(**{field.name: "x"})
    with pytest.raises(ValueError, match=module.ABOUT["size"]):
        module.Params(**{module.ABOUT["size"]: 0})


@over_systems
def test_parameters_are_explained(name: str) -> None:
    explained = system(name).Params.__doc__ or ""
    missing = [f.name for f in dataclasses.fields(system(name).Params) if f.name not in explained]
    assert not missing


# -- papers and figures --------------------------------------------------------------------------
@over_systems
def test_every_paper_is_cited(name: str) -> None:
    assert bibtex(SYSTEMS[name]).startswith("@")
    listed = REFERENCES.read_text(encoding="utf-8").lower()
    for paper in SYSTEMS[name].papers:
        assert bare_paper(paper) in listed, f"{paper} is not in docs/references.md"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), FIGURES)
def test_figures_hold_their_numbers(name: str, number: str) -> None:
    module = import_module(SYSTEMS[name].module)
    drawing = getattr(module, module.ABOUT["figures"][number])(quick=True)
    assert isinstance(drawing, Drawing)
    kinds = {row["kind"] for row in drawing.rows}
    assert kinds <= {"theory", "simulation", "map"} and kinds
    if number == next(iter(map(str, module.ABOUT["figures"]))):
        assert kinds >= {"theory", "simulation"}
    for row in drawing.rows:
        assert row["x_label"] and row["y_label"]
        assert row["kind"] != "simulation" or row["stderr"] >= 0
