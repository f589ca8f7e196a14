"""The course of decimation, and its error beside that of the eigenvalues alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.estimate import mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.decimation.problem import SymmetricFactorisation
from thermolearn.systems.memory.decimation.rotation_invariant import rie_denoise, rie_mse
from thermolearn.systems.memory.decimation.simulation import planted_decimation
from thermolearn.systems.memory.decimation.theory import decimation_theory

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

T = 0.2
LOADS = (0.02, 0.03)
# of the larger networks, at which the eigenvalues alone show their excess
LARGE_NOISE, LARGE_SEEDS = (0.05, 0.15), 3
# points along t, each the mean over a share of the columns
BINS = 6


def figure(quick: bool = True) -> Drawing:
    """Left: overlap of the column found at t. Right: error against the noise, alpha = 0.03.

    Lines are theory, points planted Monte Carlo and the estimator of `rie_denoise` applied to the
    same matrices, mean over seeds with standard errors. The error of the eigenvalues exceeds theory
    by about 0.19 / N at Delta = 0.05, many standard errors: hence two sizes of it.

    Parameters
    ----------
    quick : bool
        N = 400 with 6 seeds, otherwise N = 1000 with 10; the eigenvalues also at 4 N with 3.
    """
    from thermolearn.core.drawing import Drawing

    n, seeds = (400, 6) if quick else (1000, 10)
    drawing = Drawing("Matrix factorization by decimation", columns=2)
    course, error = drawing.axes[0]
    course.set(xlabel="columns taken off, t", ylabel="overlap p(t) with the column")
    error.set(xlabel=r"variance of the noise, $\Delta$", ylabel="error per entry", yscale="log")
    for color, load in enumerate(LOADS):
        _draw_course(drawing, load, 0.15, n, 2 * seeds, color)
    _draw_errors(drawing, 0.03, n, seeds)
    course.legend(frameon=False)
    error.legend(frameon=False)
    return drawing


def _draw_course(
    drawing: Drawing, load: float, delta: float, n: int, seeds: int, color: int
) -> None:
    """p(t): the theory, and the mean over the columns of a bin and over seeds."""
    axis = drawing.axes[0, 0]
    conditions: dict[str, Any] = {"alpha": load, "delta": delta, "T": T}
    predicted = decimation_theory(load, delta, T, steps=20)
    label = rf"$\alpha$ = {load:g}"
    drawing.theory(axis, predicted.t, predicted.p, label=label, color=color, **conditions)
    problem = SymmetricFactorisation(n, load, delta)
    runs = [
        planted_decimation(*problem.sample(seed), T=T, seed=seed).p
        for seed in track(range(seeds), f"decimation at load {load:g}", seeds)
    ]
    bins = np.array_split(np.arange(problem.rank), min(BINS, problem.rank))
    t = [(float(columns.mean()) + 0.5) / problem.rank for columns in bins]
    points = [mean_estimate(np.stack(runs)[:, columns].mean(1)) for columns in bins]
    drawing.simulation(
        axis,
        t,
        points,
        label=rf"$\alpha$ = {load:g}, N = {n}",
        color=color,
        seeds=seeds,
        N=n,
        **conditions,
    )


def _draw_errors(drawing: Drawing, load: float, n: int, seeds: int) -> None:
    """The error of decimation and of the rotationally invariant estimator against Delta."""
    axis = drawing.axes[0, 1]
    conditions: dict[str, Any] = {"alpha": load, "T": T}
    noise = np.linspace(0.02, 0.24, 23)
    predicted = [decimation_theory(load, delta, T, steps=12).mse for delta in noise]
    drawing.theory(axis, noise, predicted, label="decimation, theory", color=0, **conditions)
    base_line = [rie_mse(load, delta) for delta in noise]
    drawing.theory(axis, noise, base_line, label="eigenvalues, theory", color=1, alpha=load)
    measured = np.array([0.05, 0.1, 0.15, 0.2])
    decimated, denoised = [], []
    for delta in track(measured, "decimation and denoising", len(measured)):
        errors = [_errors(n, load, float(delta), seed) for seed in range(seeds)]
        decimated.append(mean_estimate([e[0] for e in errors]))
        denoised.append(mean_estimate([e[1] for e in errors]))
    options: dict[str, Any] = {"seeds": seeds, "N": n}
    drawing.simulation(
        axis, measured, decimated, f"decimation, N = {n}", color=0, **options, **conditions
    )
    drawing.simulation(
        axis, measured, denoised, f"eigenvalues, N = {n}", color=1, **options, alpha=load
    )
    large, options = 4 * n, {"seeds": LARGE_SEEDS, "N": 4 * n}
    denoised = [
        mean_estimate([_denoising_error(large, load, delta, seed) for seed in range(LARGE_SEEDS)])
        for delta in track(LARGE_NOISE, f"denoising at N = {large}", len(LARGE_NOISE))
    ]
    drawing.simulation(
        axis, LARGE_NOISE, denoised, f"eigenvalues, N = {large}", color=4, **options, alpha=load
    )
    axis.set_title("eigenvalues: the excess over theory falls as 1/N", fontsize="medium")


def _errors(n: int, load: float, delta: float, seed: int) -> tuple[float, float]:
    """The errors of decimation and of the eigenvalues for one matrix."""
    X, Y = SymmetricFactorisation(n, load, delta).sample(seed)
    decimated = planted_decimation(X, Y, T, seed=seed).mse
    return decimated, _denoising_error(n, load, delta, seed)


def _denoising_error(n: int, load: float, delta: float, seed: int) -> float:
    X, Y = SymmetricFactorisation(n, load, delta).sample(seed)
    return float(((rie_denoise(Y, delta) - X @ X.T / math.sqrt(n)) ** 2).mean())
