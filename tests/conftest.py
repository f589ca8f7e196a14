"""A small system of exactly known statistics, put into the catalogue for the tests that ask."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

COIN = '''"""Flips of a biased coin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thermolearn.core.drawing import Drawing
from thermolearn.core.estimate import Estimate

ABOUT = {
    "title": "Flips of a biased coin",
    "papers": ["arXiv:2109.00454"],
    "claims": ["The share of heads is the bias."],
    "axes": {"shares": "face"},
    "size": "n_flips",
    "sizes": (400, 800),
    "allowance": {"square": (1.0, 1.0)},
    "scale": {"mean": 1.0, "square": 1.0},
    "contrast": {"bias": 0.6},
    "seeds": 24,
    "figures": {"1": "figure"},
}


@dataclass(frozen=True)
class Params:
    """bias in (0, 1): probability of heads; n_flips > 0; faces names; fail_at: a seed."""

    bias: float = 0.7
    n_flips: int = 400
    faces: tuple[str, ...] = ("tail", "head")
    fail_at: int | None = None
    status: str = "ok"

    def __post_init__(self) -> None:
        if not 0 < self.bias < 1:
            raise ValueError(f"bias must lie in (0, 1), got {self.bias}")
        if not self.n_flips > 0:
            raise ValueError(f"n_flips must be positive, got {self.n_flips}")


def theory(p: Params) -> dict[str, Estimate]:
    m = 2 * p.bias - 1
    return {
        "mean": Estimate(m),
        "square": Estimate(m**2),
        "shares": Estimate([1 - p.bias, p.bias]),
    }


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    if seed == p.fail_at:
        raise RuntimeError("the coin rolled away")
    heads = np.random.default_rng(seed).binomial(p.n_flips, p.bias) / p.n_flips
    m = 2 * heads - 1
    return {
        "mean": Estimate(m, status=p.status),
        "square": Estimate(m**2),
        "shares": Estimate([1 - heads, heads]),
    }


def figure(quick: bool = True) -> Drawing:
    drawing = Drawing("Coins")
    axis = drawing.axes[0, 0]
    axis.set(xlabel="bias", ylabel="mean")
    x = np.linspace(0.1, 0.9, 3)
    drawing.theory(axis, x, 2 * x - 1, label="theory")
    points = [simulate(Params(bias=b), 0)["mean"] for b in x]
    drawing.simulation(axis, x, points, label="one seed", seeds=1)
    return drawing
'''


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The library never draws from global generators, but tests build networks with them: the same
    ones in any order and number of processes."""
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def coin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`toy.coin`, part of the catalogue as long as the test lasts."""
    import sys
    from importlib import import_module

    import thermolearn.systems as systems

    folder = tmp_path / "more_systems" / "toy"
    folder.mkdir(parents=True)
    (folder / "coin.py").write_text(COIN, encoding="utf-8")
    monkeypatch.setattr(systems, "__path__", [*systems.__path__, str(folder.parent)])
    for name in ("toy", "toy.coin"):
        monkeypatch.delitem(sys.modules, f"thermolearn.systems.{name}", raising=False)
    module = import_module("thermolearn.systems.toy.coin")
    yield module
    for name in ("toy.coin", "toy"):
        sys.modules.pop(f"thermolearn.systems.{name}", None)
    if hasattr(systems, "toy"):
        del systems.toy
