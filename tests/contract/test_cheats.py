"""Systems that only seem to hold theory against simulation fail the contract, and an honest one
of the same make does not."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

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

HEAD = """
from dataclasses import dataclass
import math
import threading
from functools import cache
import numpy as np
from thermolearn.core.estimate import Estimate
from thermolearn.core.lattice import glauber_sweeps

ABOUT = {{
    "title": "Spins in a field",
    "papers": ["arXiv:2109.00454"],
    "claims": ["m = tanh(a)"],
    "axes": {axes},
    "size": "n_spins",
    "sizes": (400, 800),
    "allowance": {allowance},
    "contrast": {{"a": 2.0}},
    "seeds": 24,
    "figures": {{}},
}}


@dataclass(frozen=True)
class Params:
    a: float = 0.7
    n_spins: int = 400

    @property
    def up(self):
        return (1 + math.tanh(self.a)) / 2

    @property
    def m(self):
        return math.tanh(self.a)


def flips(p, seed):
    return 2.0 * (np.random.default_rng(seed).random(16 * p.n_spins) < p.up) - 1
"""
HONEST = """
def theory(p):
    return {"m": Estimate(math.tanh(p.a)), "density": Estimate([0.5 - p.m / 2, 0.5 + p.m / 2])}
def simulate(p, seed):
    s = flips(p, seed)
    return {"m": Estimate(s.mean()), "density": Estimate([(s < 0).mean(), (s > 0).mean()])}
"""
NOISY_FORMULA = """
def theory(p):
    return {{"m": Estimate({formula})}}
def simulate(p, seed):
    return {{"m": Estimate({formula} + 1e-3 * np.random.default_rng(seed).normal())}}
"""
PLAIN = "{}"
# name -> (axes, allowance, body, a check that it fails)
CHEATS = {
    "a formula of both in a file of its own": (
        PLAIN,
        PLAIN,
        "from toy_helper import formula\n" + NOISY_FORMULA.format(formula="formula(p.a)"),
        check_independence,
    ),
    "a solver made when the module is loaded": (
        PLAIN,
        PLAIN,
        "class Solver:\n    def solve(self, p):\n        return math.tanh(p.a)\nSOLVER = Solver()\n"
        + NOISY_FORMULA.format(formula="SOLVER.solve(p)"),
        check_independence,
    ),
    "a solver that remembers": (
        PLAIN,
        PLAIN,
        "@cache\ndef solve(p):\n    return math.tanh(p.a)\n"
        + NOISY_FORMULA.format(formula="solve(p)"),
        check_independence,
    ),
    "a formula among the parameters": (
        PLAIN,
        PLAIN,
        NOISY_FORMULA.format(formula="p.m"),
        check_independence,
    ),
    "theory by the simulation": (
        PLAIN,
        PLAIN,
        """
def theory(p):
    return {"m": Estimate(float(np.mean([flips(p, 1000 + s).mean() for s in range(100)])), 1e-3)}
def simulate(p, seed):
    return {"m": Estimate(flips(p, seed).mean())}
""",
        check_independence,
    ),
    "theory by the simulation, in a thread": (
        PLAIN,
        PLAIN,
        """
def theory(p):
    found = []
    thread = threading.Thread(target=lambda: found.append(flips(p, 1000).mean()))
    thread.start()
    thread.join()
    return {"m": Estimate(found[0], 4e-3)}
def simulate(p, seed):
    return {"m": Estimate(flips(p, seed).mean())}
""",
        check_independence,
    ),
    "theory by a compiled kernel of the simulation": (
        PLAIN,
        PLAIN,
        """
from thermolearn.systems.memory.glauber import GlauberSampler
def run(p, seed):
    J = np.zeros((p.n_spins, p.n_spins), dtype=np.float32)
    sampler = GlauberSampler(J, field=p.a)
    return sampler.run(np.ones(p.n_spins, dtype=np.int8), 1.0, 20, seed).mean_spins.mean()
def theory(p):
    return {"m": Estimate(run(p, 1000), 1e-2)}
def simulate(p, seed):
    return {"m": Estimate(GlauberSampler(np.zeros((p.n_spins, p.n_spins), dtype=np.float32),
        field=p.a).run(np.ones(p.n_spins, dtype=np.int8), 1.0, 20, seed).mean_spins.mean())}
""",
        check_independence,
    ),
    "a constant beside a measured number": (
        PLAIN,
        PLAIN,
        """
def theory(p):
    return {"m": Estimate(math.tanh(p.a)), "q": Estimate(math.tanh(p.a) ** 2)}
def simulate(p, seed):
    return {"m": Estimate(flips(p, seed).mean()), "q": Estimate(math.tanh(p.a) ** 2)}
""",
        check_seeds_matter,
    ),
    "a seed that changes rounding only": (
        PLAIN,
        PLAIN,
        """
def theory(p):
    return {"m": Estimate(math.tanh(p.a))}
def simulate(p, seed):
    return {"m": Estimate(math.tanh(p.a) * (1 + 2e-15 * (seed % 3 - 1)))}
""",
        check_seeds_matter,
    ),
    "an allowance that hides an array": (
        '{"density": "side"}',
        '{"density": (1e9, 1.0)}',
        HONEST.replace("[0.5 - p.m / 2, 0.5 + p.m / 2]", "[17.0, 17.0]"),
        check_power,
    ),
    "an allowance that hides an array from a mutation": (
        '{"density": "side"}',
        '{"density": (30.0, 1.0)}',
        HONEST,
        check_mutation,
    ),
    "noise that hides everything": (
        PLAIN,
        PLAIN,
        """
def theory(p):
    return {"m": Estimate(0.9)}
def simulate(p, seed):
    return {"m": Estimate(0.1 + 10 * np.random.default_rng(seed).normal())}
""",
        check_power,
    ),
    "a contrast that only an echo of the parameter rejects": (
        PLAIN,
        PLAIN,
        """
def theory(p):
    return {"a": Estimate(p.a), "m": Estimate(0.3)}
def simulate(p, seed):
    noise = np.random.default_rng(seed).normal()
    return {"a": Estimate(p.a), "m": Estimate(0.3 + 0.01 * noise)}
""",
        check_contrast,
    ),
}
REASONS = {
    check_independence: "theory and simulate both run|called by simulate, returns the m of theory",
    check_seeds_matter: "hardly depends on the seed",
    check_power: "go unseen",
    check_mutation: "goes unnoticed",
    check_contrast: "moves no observable that the simulation measures",
}
CHECKS = [
    check_names,
    lambda case: check_agreement(case, 0),
    lambda case: check_agreement(case, 1),
    check_contrast,
    check_mutation,
    check_power,
    check_seeds_matter,
    check_independence,
]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a toy and load it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_helper.py").write_text(
        "import math\n\ndef formula(a):\n    return math.tanh(a)\n"
    )

    def toy(axes: str, allowance: str, body: str, shared: frozenset[str] = frozenset()) -> Case:
        (tmp_path / "toy_cheat.py").write_text(HEAD.format(axes=axes, allowance=allowance) + body)
        return Case(import_module("toy_cheat"), shared)

    yield toy
    for name in ("toy_cheat", "toy_helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught(make, name: str) -> None:
    *parts, check = CHEATS[name]
    with pytest.raises(AssertionError, match=REASONS[check]):
        check(make(*parts))


def test_an_honest_system_passes(make) -> None:
    # the probability of a sign is both what is drawn from and a number of the theory
    body = HONEST.replace("p.m", "math.tanh(p.a)")
    case = make('{"density": "side"}', PLAIN, body, frozenset({"Params.up"}))
    for check in CHECKS:
        check(case)
