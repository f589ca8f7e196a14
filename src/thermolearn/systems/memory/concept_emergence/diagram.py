"""Maps of retrieval over two of load, quality, examples and temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.progress import track
from thermolearn.systems.memory.example_noise import SCANNED, Kind, engine, load_capacity
from thermolearn.systems.memory.replica_symmetric import RSState

AXES = ("alpha", "r", "M", "T")
# The direction in which retrieval gets lost along an axis, so that a line starts inside it.
WORSE = {"alpha": 1, "r": -1, "M": -1, "T": 1}


@dataclass(frozen=True)
class ExampleMap:
    """Replica-symmetric states on a grid; arrays (len(y), len(x)).

    Attributes
    ----------
    kind : str
        "unsupervised" or "supervised".
    x_name, y_name : str
        Two of "alpha", "r", "M", "T", in this order.
    x, y : ndarray
    overlap : ndarray
        m of the retrieval state, 0 where there is none, NaN where not converged.
    example_overlap : ndarray
        n, with the mean example.
    free_energy_gap : ndarray
        f of retrieval minus f of the state n = 0: below 0 the archetype is the ground state of the
        two. NaN without retrieval.
    replicon : ndarray
        Of the retrieval state, below 0 where replica symmetry is broken. NaN without.
    status : ndarray of str
        "retrieval", "no retrieval" or "not converged".
    """

    kind: str
    x_name: str
    y_name: str
    x: np.ndarray
    y: np.ndarray
    overlap: np.ndarray
    example_overlap: np.ndarray
    free_energy_gap: np.ndarray
    replicon: np.ndarray
    status: np.ndarray


def phase_diagram(
    alpha: ArrayLike,
    r: ArrayLike,
    M: ArrayLike,
    T: ArrayLike,
    kind: Kind = "unsupervised",
) -> ExampleMap:
    """Solve the theory on a grid of exactly two of its parameters, the others being numbers.

    Every line along y starts deep in the retrieval phase and follows the state out of it. Where
    few examples let other states appear (M <= 24) each cell is searched from the top as well.

    Parameters
    ----------
    alpha, r, M, T : number or sequence
        Two of them sequences, in any order: the (quality, examples) plane is
        ``phase_diagram(0.02, qualities, examples, 0.1)``, the (load, temperature) plane
        ``phase_diagram(loads, 0.5, 50, temperatures)``.
    kind : "unsupervised" or "supervised"

    Raises
    ------
    ValueError
        Not exactly two sequences, an empty one, or a value out of range.
    """
    given: dict[str, Any] = dict(zip(AXES, (alpha, r, M, T), strict=True))
    lines = [name for name in AXES if np.ndim(given[name]) == 1]
    if len(lines) != 2 or any(np.ndim(value) > 1 for value in given.values()):
        raise ValueError(
            f"exactly two of alpha, r, M, T must be sequences (the axes of the map), got {lines}"
        )
    x_name, y_name = lines
    x, y = np.asarray(given[x_name]), np.asarray(given[y_name])
    if not x.size or not y.size:
        raise ValueError(f"{x_name} and {y_name} must not be empty")
    _check(given, kind)
    shape = (len(y), len(x))
    overlap, example, gap, replicon = (np.full(shape, np.nan) for _ in range(4))
    status = np.full(shape, "not converged", dtype=object)
    order = np.argsort(WORSE[y_name] * y, kind="stable")
    limit = _limits(kind, given, x_name, y_name)
    for column in track(range(len(x)), f"map of {x_name} and {y_name}", len(x)):
        state: RSState | None = None
        for line in order:
            point = {**given, x_name: x[column], y_name: y[line]}
            try:
                state, glass = _cell(kind, point, state, float(limit[line]))
            except ConvergenceError:
                continue
            retrieval = state.branch == "retrieval"
            cell = line, column
            overlap[cell], example[cell] = state.m, state.n
            status[cell] = "retrieval" if retrieval else "no retrieval"
            if retrieval:
                gap[cell], replicon[cell] = state.f - glass.f, state.replicon
    return ExampleMap(kind, x_name, y_name, x, y, overlap, example, gap, replicon, status)


def _check(given: dict[str, Any], kind: Kind) -> None:
    """Every value of every axis in range, before anything is solved."""
    for value in np.atleast_1d(given["alpha"]):
        engine(kind, float(value), 1.0, 1)
    for value in np.atleast_1d(given["r"]):
        engine(kind, 1.0, float(value), 1)
    for value in np.atleast_1d(given["M"]):
        whole("M", value, 1)
    T = np.atleast_1d(np.asarray(given["T"], dtype=np.float64))
    if not (np.isfinite(T) & (T >= 0)).all():
        raise ValueError("T must be finite and >= 0")


def _limits(kind: Kind, given: dict[str, Any], x_name: str, y_name: str) -> np.ndarray:
    """For every y the load above which no retrieval state needs to be searched for."""
    if x_name != "alpha":
        return np.full(len(given[y_name]), np.inf)
    points = [{**given, y_name: value} for value in given[y_name]]
    capacity = (load_capacity(kind, float(p["r"]), int(p["M"]), float(p["T"])) for p in points)
    return np.array(list(track(capacity, "load capacity", len(points)))) * (1 + 1e-5)


def _cell(
    kind: Kind, point: dict[str, Any], neighbor: RSState | None, limit: float
) -> tuple[RSState, RSState]:
    """The retrieval state and the state n = 0."""
    M, T = int(point["M"]), float(point["T"])
    system = engine(kind, float(point["alpha"]), float(point["r"]), M)
    if point["alpha"] > limit:
        return (glass := system.solve(T, "spin_glass")), glass
    start = neighbor if neighbor is not None and neighbor.branch == "retrieval" else None
    state = system.solve(T, start=start)
    if start is not None and M <= SCANNED:
        state = max(state, system.solve(T), key=lambda s: s.n)
    return state, state if state.n == 0 else system.solve(T, "spin_glass")
