"""Spin kernels compiled by numba, each with its short numpy twin as test oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def glauber_sweeps(
    J: np.ndarray,
    spins: np.ndarray,
    external: np.ndarray,
    temperatures: np.ndarray,
    warmup: int,
    patterns: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Sequential heat bath in a random order per sweep, with incrementally updated fields.

    P(sigma_i = +1) = 1 / (1 + exp(-2 f_i / T)), f = J sigma + external; at T = 0 the sign of f_i,
    and no move where f_i = 0. A flip costs one row of J, so a sweep is O(N + N flips).

    Parameters
    ----------
    J : array (N, N), float32 or float64
        Symmetric with zero diagonal, C-contiguous.
    spins : int8 array (N,)
        +-1; changed in place.
    external : array (N,) of J's type
        External field.
    temperatures : float64 array (sweeps,)
        T >= 0 of each sweep. A sweep at T = 0 without a flip ends the run.
    warmup : int
        Sweeps left out of the mean spins.
    patterns : array (P, N) of J's type
        Overlaps with these are recorded after every sweep; P may be 0.
    rng : numpy Generator
        Where the randomness comes from.

    Returns
    -------
    done : int
        Sweeps made, the last without a flip included.
    energies : float64 array (sweeps,)
        -(1/2) sigma J sigma - external sigma after each sweep, of the whole system.
    mean : float64 array (N,)
        Time average of the spins over sweeps after the warm-up (the final spins if there is none).
    overlaps : float64 array (sweeps, P)
    """
    n = spins.shape[0]
    sweeps = temperatures.shape[0]
    energies = np.full(sweeps, np.nan)
    overlaps = np.full((sweeps, patterns.shape[0]), np.nan)
    total = np.zeros(n)
    field = np.empty(n)  # in double: incremental sums do not drift
    field[:] = external
    for i in range(n):
        _add_row(field, J[i], float(spins[i]))
    kept = 0
    done = 0
    order = np.arange(n)
    for sweep in range(sweeps):
        T = temperatures[sweep]
        flips = 0
        _shuffle(order, rng)
        for i in order:
            f = field[i]
            if T > 0.0:
                new = 1 if rng.random() * (1.0 + math.exp(-2.0 * f / T)) < 1.0 else -1
            else:
                new = 1 if f > 0 else (-1 if f < 0 else spins[i])
            if new != spins[i]:
                spins[i] = new
                flips += 1
                _add_row(field, J[i], 2.0 * new)
        energy = 0.0
        for i in range(n):
            energy -= 0.5 * spins[i] * (field[i] + external[i])
        energies[sweep] = energy
        for p in range(patterns.shape[0]):
            overlap = 0.0
            for i in range(n):
                overlap += patterns[p, i] * spins[i]
            overlaps[sweep, p] = overlap / n
        if sweep >= warmup:
            kept += 1
            for i in range(n):
                total[i] += spins[i]
        done += 1
        if T == 0.0 and flips == 0:
            break
    if kept == 0:
        for i in range(n):
            total[i] = spins[i]
        kept = 1
    return done, energies, total / kept, overlaps


@njit(cache=True, nogil=True, inline="always")
def _add_row(field: np.ndarray, row: np.ndarray, factor: Any) -> None:
    for j in range(field.shape[0]):
        field[j] += factor * row[j]


@njit(cache=True, nogil=True)
def _shuffle(order: np.ndarray, rng: np.random.Generator) -> None:
    """Fisher and Yates, in place; one double per place is faster here than rng.permutation."""
    for i in range(order.shape[0] - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        order[i], order[j] = order[j], order[i]


@njit(cache=True, nogil=True)
def largest_and_asymmetry(J: np.ndarray) -> tuple[float, float]:
    """max |J_ij| and max |J_ij - J_ji| in one pass by tiles; NaN if J holds one."""
    n, tile = J.shape[0], 64
    largest, asymmetry = 0.0, 0.0
    for top in range(0, n, tile):
        for left in range(top, n, tile):
            for i in range(top, min(top + tile, n)):
                for j in range(left, min(left + tile, n)):
                    a, b = J[i, j], J[j, i]
                    if not (math.isfinite(a) and math.isfinite(b)):
                        return math.nan, math.nan
                    largest = max(largest, abs(a), abs(b))
                    asymmetry = max(asymmetry, abs(a - b))
    return largest, asymmetry


def glauber_sweeps_numpy(
    J: np.ndarray,
    spins: np.ndarray,
    external: np.ndarray,
    temperatures: np.ndarray,
    warmup: int,
    patterns: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """What `glauber_sweeps` computes, as plainly as it can be said; same draws, same results."""
    energies, overlaps, states = [], [], []
    order = np.arange(len(spins))
    for T in temperatures:
        before = spins.copy()
        flipped = False
        _shuffle.py_func(order, rng)
        for i in order:
            f = J[i] @ spins + external[i]
            if T > 0:
                with np.errstate(over="ignore"):
                    new = 1 if rng.random() * (1 + np.exp(-2 * f / T)) < 1 else -1
            else:
                new = np.sign(f) or spins[i]
            flipped |= bool(new != spins[i])
            spins[i] = new
        energies.append(-0.5 * spins @ J @ spins - external @ spins)
        overlaps.append(patterns @ spins / len(spins))
        states.append(spins.astype(np.float64))
        if T == 0 and not flipped and (before == spins).all():
            break
    kept = states[warmup:] or states[-1:]
    return len(states), np.array(energies), np.mean(kept, axis=0), np.array(overlaps)
