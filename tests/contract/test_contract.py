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
from contract_checks import (
    Case,
    check_agreement,
    check_contrast,
    check_independence,
    check_mutation,
    check_names,
    check_power,
    check_seeds_matter,
)

from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate
from thermolearn.study.citation import bibtex
from thermolearn.study.contract import (
    bare_paper,
    catalogue,
    load,
    make_params,
    params_from_text,
    params_to_text,
)

SYSTEMS = catalogue()
FIGURES = [(name, str(n)) for name, entry in SYSTEMS.items() for n in entry.about["figures"]]
REFERENCES = Path(__file__).resolve().parents[2] / "docs" / "references.md"

# Functions of data and of parameters that both sides may call, each read: checks that raise, the
# variance of the examples, the activation function.
SHARED: dict[str, tuple[str, ...]] = {
    "memory.concept_emergence": ("second_moment",),
    "memory.supervised_hebbian": ("second_moment",),
    "memory.pavlov": (
        "PavlovHebb.__post_init__",
        "PavlovHebb.steps",
        "ConditioningExperiment.__post_init__",
        "ConditioningExperiment._schedule",
        "ConditioningExperiment._settled",
        "check_step",
        "steps_in",
    ),
    "training.canonical": (
        "check_variances",
        "check_widths",
        "resolve_activation",
        "value_and_slope",
    ),
    # the definition of the kernel
    "training.learning_curves": (
        "Dual.diagonal",
        "Recursion.layers",
        "Recursion.variances",
        "_FullyConnected.__call__",
        "_FullyConnected.__post_init__",
        "_FullyConnected._is_tangent",
        "_FullyConnected._recursion",
        "_piecewise_linear",
        "_variance",
        "by_torch",
        "constants",
        "cosine",
        "dual",
        "on_sphere",
        "signed",
    ),
    # the definition of the model
    "training.sgd_noise": (
        "GaussianMixturePerceptron.__post_init__",
        "SGD.__post_init__",
        "SGD.weight",
        "_check_decision",
        "_check_labels",
        "_flag",
        "_logistic",
        "_logistic_first",
        "as_loss",
        "as_prior",
        "check_schedule",
        "logistic",
    ),
}

# What only one of the two sides may call: functions of files of these names.
THEORY_FILES = {
    "binding",
    "equations",
    "free_energy",
    "mean_field",
    "operator",
    "radial",
    "replica_symmetric",
    "saddle_point",
    "tap",
    "theory",
}
SIMULATION_FILES = {"chain", "collapsed", "glauber", "sampling", "simulation"}


def over_systems(test: Callable[..., None]) -> Callable[..., None]:
    # one worker per system, so that its simulations are run once
    marked = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SYSTEMS]
    return pytest.mark.parametrize("name", marked)(test)


# -- what was computed, once ---------------------------------------------------------------------
@cache
def case(name: str) -> Case:
    return Case(load(name), frozenset(SHARED.get(name, ())))


def system(name: str) -> ModuleType:
    return case(name).module


def params(name: str, which: int = 0) -> Any:
    return case(name).params[which]


def prediction(name: str) -> dict[str, Estimate]:
    return case(name).predictions[0]


def samples(name: str) -> list[dict[str, Estimate]]:
    return case(name).samples[0]


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
    check_names(case(name))


@over_systems
@pytest.mark.parametrize("which", [0, 1], ids=["small", "large"])
def test_theory_and_simulation_agree(name: str, which: int) -> None:
    check_agreement(case(name), which)


@over_systems
def test_the_theory_of_other_parameters_is_rejected(name: str) -> None:
    check_contrast(case(name))


@over_systems
def test_a_small_error_of_the_theory_is_noticed(name: str) -> None:
    check_mutation(case(name))
    check_power(case(name))


# -- independence --------------------------------------------------------------------------------
@over_systems
def test_theory_and_simulation_run_nothing_in_common(name: str) -> None:
    check_independence(case(name))


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
    first = samples(name)[0]
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    assert bits(system(name).simulate(params(name), 0)) == bits(first)
    assert (np.random.get_state()[1] == state).all(), "the global generator was drawn from"  # type: ignore[index]
    check_seeds_matter(case(name))


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
