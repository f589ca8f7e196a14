"""The public call."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from thermolearn.core.checks import real, whole
from thermolearn.core.dmft.march import MakeClosure, MakeSite
from thermolearn.core.dmft.runs import Problem
from thermolearn.core.dmft.solution import Solution, solution_of


def solve(
    single_site: MakeSite,
    closure: MakeClosure,
    steps: int,
    n_mc: int,
    *,
    fields: int = 1,
    runs: int = 4,
    seed: int = 0,
    pivot: float = 1e-2,
    dtype: DTypeLike = np.float32,
    keep: bool = True,
) -> Solution:
    r"""Dynamical mean-field theory in discrete time, by a causal march of Monte Carlo samples.

    A large system of randomly coupled units is equivalent to one unit in a Gaussian field whose
    law is fixed by the averages of that unit itself,

        h(t) = leak h(t-1) + field(t) + sum_{s<t} kernel(t, s) g(s) + ...,  g(t) = function of h(t),
        M(t, s) = <g(t) g(s)>,  G(t, s) = <d g(t) / d P(s)>  (P added to h),

    and both <field field> and the kernel at t follow from M and G of earlier steps: the closure.
    Marching forward needs no iteration. N samples of the unit stand for the average; their fields
    have exactly the asked sample covariance.

    Per run T^3 N / 6 multiplications and 2 T^2 N bytes (float32) with a response and a kernel;
    without, of order (F T)^2 N and 8 (F + K) T N bytes.

    Parameters
    ----------
    single_site : callable
        (n_mc, rng) -> `SingleSite`.
    closure : callable
        () -> `Closure`.
    steps : int >= 1
        T.
    n_mc : int
        N, more than fields x steps plus the matched rows; some times more.
    fields : int >= 1
        F, Gaussian fields per step (replicas, gates).
    runs : int >= 1
        Independent runs: the error bars are the standard errors between them (NaN for one).
    seed : int >= 0, below 2^32
        Same seed, same bits; no two seeds share a run.
    pivot : float in (0, 1)
        Pivots of the fields' covariance below this many standard deviations are dropped.
    dtype : float32 or float64
        Of the response tensor; everything else is float64.
    keep : bool
        Keep the samples of finished runs for `Solution.resume` (all tensors stay in memory).

    Returns
    -------
    Solution
        After Ctrl-C: the finished runs, or the finished steps of the first one, with a flag.

    Raises
    ------
    ValueError
        A bad argument, too few samples, or arrays of wrong shape.
    DivergedError
        Something is no longer finite; ``error.step`` says when.

    References
    ----------
    Sompolinsky, Crisanti, Sommers, doi:10.1103/PhysRevLett.61.259 and Agoritsas, Biroli, Urbani,
    Zamponi, arXiv:1710.04894 (the theory); Mignacco, Krzakala, Urbani, Zdeborova, arXiv:2006.06098
    (by Monte Carlo samples). The matching of moments, the threshold of the pivots and the march
    instead of an iteration are choices made here.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    problem = Problem(
        single_site,
        closure,
        n_mc=whole("n_mc", n_mc, 2),
        fields=whole("fields", fields, 1),
        runs=whole("runs", runs, 1),
        seed=whole("seed", seed, 0, 2**32 - 1),
        pivot=real("pivot", pivot, above=0, below=1),
        dtype=dtype,
        keep=bool(keep),
    )
    return solution_of(problem, (), whole("steps", steps, 1))
