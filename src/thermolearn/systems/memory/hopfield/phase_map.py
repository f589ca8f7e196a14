"""The (load, temperature) plane of the Hopfield model, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.progress import track
from thermolearn.systems.memory.replica_symmetric import RSAssociative, RSState

PHASES = ("paramagnet", "spin glass", "metastable retrieval", "retrieval")


@dataclass(frozen=True)
class PhaseMap:
    """Replica-symmetric states on a grid; arrays (temperatures, loads).

    Attributes
    ----------
    alphas, temperatures : ndarray
    overlap : ndarray
        m of the retrieval branch, 0 where there is none, NaN where not converged.
    free_energy_gap : ndarray
        f of retrieval minus f of the spin glass (or paramagnet); NaN without retrieval.
    replicon : ndarray
        Of the retrieval branch: below 0 replica symmetry is broken there. NaN without.
    phase : ndarray of str
        One of `PHASES`, or "not converged".
    """

    alphas: np.ndarray
    temperatures: np.ndarray
    overlap: np.ndarray
    free_energy_gap: np.ndarray
    replicon: np.ndarray
    phase: np.ndarray


def hopfield_map(alphas: ArrayLike, temperatures: ArrayLike) -> PhaseMap:
    """Solve both branches on a grid, following the retrieval branch up in temperature.

    Parameters
    ----------
    alphas : sequence of float
        Loads, > 0.
    temperatures : sequence of float
        >= 0, ascending.

    Raises
    ------
    ValueError
        An empty or descending axis, or a value out of range.
    """
    loads = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
    heats = np.atleast_1d(np.asarray(temperatures, dtype=np.float64))
    if not loads.size or not heats.size or not (loads > 0).all():
        raise ValueError("alphas must be loads > 0, temperatures >= 0, and neither may be empty")
    if (heats < 0).any() or (np.diff(heats) <= 0).any():
        raise ValueError("temperatures must be >= 0 and ascend")
    shape = (len(heats), len(loads))
    overlap, gap, replicon = (np.full(shape, np.nan) for _ in range(3))
    phase = np.full(shape, "not converged", dtype=object)
    for column, alpha in enumerate(track(loads, "phase map", len(loads))):
        engine = RSAssociative([(float(alpha), 1.0)])
        state: RSState | None = None
        for line, T in enumerate(heats):
            try:
                glass = engine.solve(float(T), "spin_glass")
                # searched again where it was lost below: replica-symmetric retrieval is reentrant
                state = engine.solve(float(T), "retrieval", start=state)
            except ConvergenceError:
                continue
            overlap[line, column] = state.m
            phase[line, column] = _name(state, glass)
            if state.branch == "retrieval":
                gap[line, column] = state.f - glass.f
                replicon[line, column] = state.replicon
    return PhaseMap(loads, heats, overlap, gap, replicon, phase)


def _name(state: RSState, glass: RSState) -> str:
    if state.branch == "retrieval":
        return PHASES[3] if state.f < glass.f else PHASES[2]
    return PHASES[1] if glass.q > 0 else PHASES[0]
