"""Entropy of a network's initial parameters, layer by layer, read off their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from thermolearn.measure.temperature.initialization import NORMAL_ENTROPY, UNIFORM_ENTROPY

Law = Literal["auto", "normal", "uniform"]
LAWS = ("auto", "normal", "uniform")
FEWEST = 32  # elements of a tensor whose law is told from its values

ENTROPY_CONVENTION = (
    "Entropy of the initialization in scale-free coordinates (each tensor in units of its own "
    "standard deviation): 1.4189 nats per normal, 1.2425 per uniform parameter; S_final = 0. The "
    "raw differential entropy depends on the unit of the weights."
)


@dataclass(frozen=True, eq=False)
class InitialEntropy:
    """Per layer: scale-free and raw entropy, parameters counted; and what is left out, in words."""

    layers: list[str]
    scale_free: np.ndarray
    raw: np.ndarray
    raw_stderr: np.ndarray
    counted: np.ndarray
    laws: list[str]
    excluded: list[str]


def initial_entropy(
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Tensor],
    trained: Iterable[str],
    law: Law = "auto",
) -> InitialEntropy:
    """Entropy of the initial parameters by layer, read off their values.

    A tensor counts n log(2 sqrt 3) or n/2 log(2 pi e) nats in units of its standard deviation,
    and raw n log(2 a) (a from the largest value) or n/2 log(2 pi e sigma^2). Frozen parameters,
    constant tensors (biases of 0, scales of 1) and single numbers have no entropy that could be
    told, and are left out.

    Parameters
    ----------
    groups : {layer: {name: parameter}}
    state : {name: tensor}
        The initial values.
    trained : names of the parameters that require a gradient.
    law : "auto", "normal" or "uniform"
        "auto": per tensor, whichever of the two laws makes its values more likely; small tensors
        follow the majority of the others.
    """
    trained = set(trained)
    values = {
        n: state[n].detach().double().cpu().reshape(-1).numpy() for g in groups.values() for n in g
    }
    guesses = {n: _law_of(v) for n, v in values.items() if len(v) >= FEWEST and np.ptp(v) > 0}
    uniform = sum(len(values[n]) * (g == "uniform") for n, g in guesses.items())
    majority = "uniform" if 2 * uniform > sum(len(values[n]) for n in guesses) else "normal"
    rows, laws, excluded = [], [], []
    for names in groups.values():
        scale_free = total = variance = counted = 0.0
        found = set()
        for n in names:
            v = values[n]
            reason = _left_out(v, n in trained)
            if reason:
                excluded.append(f"{n} ({len(v)}): {reason}")
                continue
            own = law if law != "auto" else guesses.get(n, majority)
            found.add(own)
            per, error = _raw_entropy(v, own)
            scale_free += len(v) * (UNIFORM_ENTROPY if own == "uniform" else NORMAL_ENTROPY)
            total, variance, counted = total + len(v) * per, variance + error**2, counted + len(v)
        rows.append((scale_free, total, math.sqrt(variance), counted))
        laws.append("+".join(sorted(found)) or "none")
    table = np.array(rows).reshape(-1, 4).T
    free, raw, error, counted = table
    return InitialEntropy(list(groups), free, raw, error, counted.astype(int), laws, excluded)


def _left_out(v: np.ndarray, trained: bool) -> str:
    if not trained:
        return "frozen"
    if len(v) < 2:
        return "a single number, whose spread cannot be told"
    return "starts as a constant" if np.ptp(v) == 0 else ""


def _law_of(v: np.ndarray) -> str:
    """The likelier of N(0, sigma^2) and U(-a, a), both at their maximum likelihood."""
    normal = NORMAL_ENTROPY + 0.5 * math.log((v**2).mean())
    return "uniform" if math.log(2 * np.abs(v).max()) < normal else "normal"


def _raw_entropy(v: np.ndarray, law: str) -> tuple[float, float]:
    """Per parameter, and the standard error of the tensor's sum."""
    n = len(v)
    if law == "uniform":  # the largest of n falls short of a by a/(n + 1) on average
        return math.log(2 * np.abs(v).max() * (n + 1) / n), 1.0
    return NORMAL_ENTROPY + 0.5 * math.log((v**2).mean()), math.sqrt(n / 2)
