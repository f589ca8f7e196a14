"""The checks of a system, apart from the catalogue, so that they can be tried on cheats.

Each takes a `Case` and raises AssertionError. What they cannot see is a formula that is written
down twice, once in `theory` and once, with noise on top, in `simulate`: that is for the reader.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

import thermolearn
from thermolearn.core.estimate import Estimate
from thermolearn.study.compare import Comparison, judge
from thermolearn.study.contract import load, make_params
from thermolearn.study.observable import Row, judge_observable, threshold
from thermolearn.study.seeds import run_seeds

LIBRARY = Path(thermolearn.__file__).resolve().parent
ELSEWHERE = [Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "purelib", "platlib")]
# What theory and simulation may both run anywhere: error bars, messages, progress. No kernels.
TOOLS = {"checks.py", "estimate.py", "errors.py", "diagnostics.py", "progress.py"}
# Smallest spread between seeds, and largest difference that may go unseen, both over the scale
SPREAD, UNSEEN = 1e-6, 0.1


@dataclass(frozen=True)
class Case:
    """A system and what it says, computed once. `shared`: names of functions of parameters and
    data that both sides may call, besides the methods of Params."""

    module: ModuleType
    shared: frozenset[str] = frozenset()

    @property
    def about(self) -> dict[str, Any]:
        return self.module.ABOUT

    @cached_property
    def params(self) -> list[Any]:
        about = load(self.module).ABOUT
        return [make_params(self.module, {about["size"]: n}) for n in about["sizes"]]

    @cached_property
    def predictions(self) -> list[dict[str, Estimate]]:
        return [self.module.theory(p) for p in self.params]

    @cached_property
    def samples(self) -> list[list[dict[str, Estimate]]]:
        return [self._run(p) for p in self.params]

    def _run(self, p: Any) -> list[dict[str, Estimate]]:
        done, failures = run_seeds(self.module.__name__, p, self.about["seeds"])
        assert not failures, failures[0]
        return done

    @cached_property
    def contrast(self) -> dict[str, Estimate]:
        return self.module.theory(make_params(self.module, self.about["contrast"]))

    def comparison(self, which: int = 0) -> Comparison:
        return judge(self.module, self.params[which], self.predictions[which], self.samples[which])

    def values(self, key: str) -> np.ndarray:
        """(seeds, ...) at the default size."""
        return np.stack([np.asarray(sample[key].value) for sample in self.samples[0]])

    def scale(self, key: str) -> float:
        """Largest element of theory and simulation, or what ABOUT declares if that is larger."""
        theory = np.abs(np.asarray(self.predictions[0][key].value)).max()
        declared = self.about.get("scale", {}).get(key, 0.0)
        return float(max(theory, np.abs(self.values(key).mean(0)).max(), declared))

    def spread(self, key: str) -> float:
        """Largest standard deviation between seeds of an element."""
        return float(self.values(key).std(0, ddof=1).max())

    def allowance(self, key: str) -> float:
        c, gamma = self.about["allowance"].get(key, (0.0, 0.0))
        return c * float(getattr(self.params[0], self.about["size"])) ** -gamma


# -- agreement, and that it can fail -------------------------------------------------------------
def check_names(case: Case) -> None:
    """Theory and every seed return the same names and shapes, and ABOUT speaks of these."""
    about, predicted = case.about, case.predictions[0]
    assert about["seeds"] >= 24, "Student's t at the probability of 4 sigma must stay below 5"
    for sample in case.samples[0]:
        assert sample.keys() == predicted.keys()
        for key, e in sample.items():
            assert np.shape(e.value) == np.shape(predicted[key].value)
    arrays = {key for key, e in predicted.items() if np.ndim(e.value)}
    assert set(about["axes"]) == arrays, "every array has a named axis"
    for name in ("allowance", "scale", "exact"):
        assert set(about.get(name, ())) <= set(predicted), f"{name} names unknown observables"


def check_agreement(case: Case, which: int) -> None:
    """compare says "agrees" at the first (0) or second (1) of the sizes."""
    result = case.comparison(which)
    assert result.agrees, f"\n{result}"


def check_contrast(case: Case) -> None:
    """At least half of the observables that the contrast moves by twice what can be seen reject
    it, and at least one does; one that does not vary between seeds is not measured."""
    result = judge(case.module, case.params[0], case.contrast, case.samples[0])
    moved = {}
    for row in result.rows:
        key = row.observable
        change = np.subtract(case.contrast[key].value, case.predictions[0][key].value)
        if np.abs(change).max() > 2 * row.detectable and case.spread(key) > SPREAD * case.scale(
            key
        ):
            moved[key] = row.verdict == "DISAGREES"
    assert moved, f"the contrast moves no observable that the simulation measures\n{result}"
    assert any(moved.values()) and 2 * sum(moved.values()) >= len(moved), f"\n{result}"


def check_mutation(case: Case) -> None:
    """Theory wrong by max(2%, 5 standard errors) disagrees. Of an array the largest element is, by
    max(5%, as much beyond its threshold as 5 is beyond that of a number)."""
    for key, predicted in case.predictions[0].items():
        values = case.values(key)
        mean, n = values.mean(0), len(values)
        errors = values.std(0, ddof=1) / n**0.5
        place = np.unravel_index(int(np.argmax(np.abs(predicted.value))), mean.shape)
        factor = 5 * threshold(n, mean.size) / threshold(n)
        share = 0.05 if mean.ndim else 0.02
        shift = max(share * abs(float(np.asarray(predicted.value)[place])), factor * errors[place])
        for sign in (-1, 1):  # measured from the simulation, so that chance takes no part
            wrong = np.array(mean)
            wrong[place] += sign * shift
            row = _judged(case, key, Estimate(wrong, predicted.stderr))
            assert row.verdict == "DISAGREES", (
                f"{key}: a shift by {shift:.3g} goes unnoticed below {row.detectable:.3g}"
            )


def _judged(case: Case, key: str, predicted: Estimate) -> Row:
    samples = [sample[key] for sample in case.samples[0]]
    exact = key in case.about.get("exact", ())
    return judge_observable(key, predicted, samples, case.allowance(key), exact=exact)


def check_power(case: Case) -> None:
    """What goes unseen is below a tenth of the observable, or of what the contrast moves it by."""
    for row in case.comparison().rows:
        key = row.observable
        change = np.subtract(case.contrast[key].value, case.predictions[0][key].value)
        reach = max(case.scale(key), float(np.abs(change).max()))
        assert row.detectable < UNSEEN * reach, (
            f"{key}: differences below {row.detectable:.3g} go unseen, at a scale of {reach:.3g}"
        )


def check_seeds_matter(case: Case) -> None:
    """Every observable varies between seeds, by more than rounding, unless declared exact."""
    for key in case.predictions[0]:
        if key not in case.about.get("exact", ()):
            spread, scale = case.spread(key), case.scale(key)
            assert spread > SPREAD * scale, f"{key} hardly depends on the seed: {spread:.3g}"


# -- independence --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trace:
    """Functions that a call ran, as (file, qualified name), and the numbers they returned."""

    functions: frozenset[tuple[str, str]]
    returned: tuple[tuple[str, float], ...]


def trace(call: Callable[[], Any]) -> Trace:
    """Run a call and record the Python functions and compiled kernels of the library, and of
    whatever else is neither installed nor built in, in this thread and those that it starts."""
    seen, returned, ours = set(), [], {}

    def hook(frame: FrameType, event: str, result: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code.co_filename not in ours:
            ours[code.co_filename] = _is_ours(code.co_filename)
        if not ours[code.co_filename]:
            return
        if event == "call":
            seen.add((code.co_filename, code.co_qualname))
        elif isinstance(result, (float, np.floating, Estimate)) and np.ndim(result) == 0:
            returned.append((code.co_qualname, float(result)))

    before = sys.getprofile()
    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        call()
    finally:
        sys.setprofile(before)
        threading.setprofile(before)
    return Trace(frozenset(seen), tuple(returned))


def _is_ours(file: str) -> bool:
    path = Path(file)
    if file.startswith("<") or path == Path(__file__):
        return False
    if LIBRARY in path.parents:
        return not (path.parent == LIBRARY / "core" and path.name in TOOLS)
    return not any(folder in path.parents for folder in ELSEWHERE)


def check_independence(case: Case) -> None:
    """Theory and simulation run no function in common but those of parameters and data, and
    nothing that the simulation calls returns a number of the theory."""
    forget_caches()
    p = case.params[0]
    simulated, predicted = (
        trace(lambda: case.module.simulate(p, 0)),
        trace(lambda: case.module.theory(p)),
    )
    both = {name for _, name in simulated.functions & predicted.functions}
    allowed = {name for name in both if name.startswith("Params.")} | case.shared
    odd = sorted(name for name in both if name.split(".<locals>")[0] not in allowed)
    assert not odd, f"theory and simulate both run {', '.join(odd)}"
    for key, e in case.predictions[0].items():
        for number in np.ravel(e.value):
            # 0, 1/2, 1, ... come about by themselves
            same = [
                name
                for name, x in simulated.returned
                if name not in case.shared and _same(x, float(number))
            ]
            assert 2 * number == round(2 * number) or not same, (
                f"{same[0]}, called by simulate, returns the {key} of theory"
            )


def _same(x: float, y: float) -> bool:
    return abs(x - y) <= 1e-9 * abs(y)


def forget_caches() -> None:
    """Clear what functions of the library and of loose modules remember."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not (isinstance(file, str) and _is_ours(file)):
            continue
        for thing in _members(module):
            if hasattr(thing, "cache_clear"):
                thing.cache_clear()


def _members(module: ModuleType) -> Iterable[Any]:
    for thing in list(vars(module).values()):
        yield thing
        if isinstance(thing, type) and thing.__module__ == module.__name__:
            yield from list(vars(thing).values())
