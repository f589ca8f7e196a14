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
FEWEST = 128  # elements of a tensor whose law is told from its values
DISTINCT = 16  # values of a tensor that is no draw of a continuous law
LOOKED_AT = 2**16  # elements in which equal values are looked for

ENTROPY_CONVENTION = (
    "Entropy of the initialization in scale-free coordinates (each tensor in units of its own "
    "standard deviation): 1.4189 nats per normal, 1.2425 per uniform parameter, whichever of these "
    "two laws is likelier (no other is compared); S_final = 0. The raw differential entropy "
    "depends on the unit of the weights."
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
    tensors that no continuous law has drawn (constants, identity matrices: a few distinct values,
    or one value in more than half of the elements) and single numbers have no entropy that could
    be told, and are left out. Other laws are not recognized: a truncated normal or an orthogonal
    start is counted as the likelier of the two, a deterministic one of many values as a draw.

    Parameters
    ----------
    groups : {layer: {name: parameter}}
    state : {name: tensor}
        The initial values.
    trained : names of the parameters that require a gradient.
    law : "auto", "normal" or "uniform"
        "auto": per tensor, whichever of the two laws makes its values more likely; tensors of
        fewer than 128 elements, which do not tell, follow the majority of the others (normal if
        there are none), and their law is called "assumed".
    """
    trained = set(trained)
    values = {
        n: state[n].detach().double().cpu().reshape(-1).numpy() for g in groups.values() for n in g
    }
    absent = {n: _not_drawn(v) for n, v in values.items()}
    guesses = {n: _law_of(v) for n, v in values.items() if len(v) >= FEWEST and not absent[n]}
    uniform = sum(len(values[n]) * (g == "uniform") for n, g in guesses.items())
    majority = "uniform" if 2 * uniform > sum(len(values[n]) for n in guesses) else "normal"
    rows, laws, excluded = [], [], []
    for names in groups.values():
        scale_free = total = variance = counted = 0.0
        told, assumed = set(), set()
        for n in names:
            v = values[n]
            reason = absent[n] if n in trained else "frozen"
            if reason:
                excluded.append(f"{n} ({len(v)}): {reason}")
                continue
            own = law if law != "auto" else guesses.get(n, majority)
            (told if law != "auto" or n in guesses else assumed).add(own)
            per, error = _raw_entropy(v, own)
            scale_free += len(v) * (UNIFORM_ENTROPY if own == "uniform" else NORMAL_ENTROPY)
            total, variance, counted = total + len(v) * per, variance + error**2, counted + len(v)
        rows.append((scale_free, total, math.sqrt(variance), counted))
        said = told | {f"{own} (assumed)" for own in assumed - told}
        laws.append("+".join(sorted(said)) or "none")
    table = np.array(rows).reshape(-1, 4).T
    free, raw, error, counted = table
    return InitialEntropy(list(groups), free, raw, error, counted.astype(int), laws, excluded)


def _not_drawn(v: np.ndarray) -> str:
    """Why the values are no draw of a continuous law; empty if they may be one."""
    if len(v) < 2:
        return "a single number, whose spread cannot be told"
    if np.ptp(v) == 0:
        return "starts as a constant"
    some = v[:: -(-len(v) // LOOKED_AT)]
    count = np.unique(some, return_counts=True)[1]
    if len(count) <= min(DISTINCT, len(some) / 2) or count.max() > len(some) / 2:
        return "starts at few distinct values, not as a draw of a continuous law"
    return ""


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
