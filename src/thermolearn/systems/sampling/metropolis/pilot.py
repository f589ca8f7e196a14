"""Pilot runs: what is watched along them, and how long they must be for a time to be trusted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from thermolearn.core.diagnostics import autocorrelation_time, split_rhat
from thermolearn.core.errors import ConvergenceError, SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.systems.sampling.metropolis.chain import (
    Function,
    MetropolisRun,
    finished,
    simulate_metropolis,
)

# A run is long enough at so many autocorrelation times, and is too short below so many.
WANTED, LONG = 200.0, 100.0
# Doublings of the last run, at most, and numbers that may be held (an eighth of a GiB).
DOUBLINGS, HELD = 3, 1.6e7
# Groups of walkers that the error bar comes from.
GROUPS = 8
# Relative error bar above which a time says nothing.
VAGUE = 0.25
# A run of rejections is no chance if it is so many times the longest expected.
STICKY = 4.0


def watched_run(
    log_prob: Function,
    x: np.ndarray,
    jump: Any,
    root: np.ndarray,
    steps: int,
    seed: int,
    center: np.ndarray | None = None,
) -> MetropolisRun:
    """A run whose observables are the coordinates, \\|x\\|^2 in units of the covariance about a
    center (that of the start), and ln p; `root` multiplies the jumps. A fifth more steps come
    first, unless the center of a run that is continued is given."""
    burn = steps // 5 if center is None else 0
    run = finished(
        simulate_metropolis(
            log_prob, x, jump, steps, len(x), seed, scale=root, keep=True, burn=burn
        )
    )
    assert run.x is not None and run.log_prob is not None
    z = (run.x - (x.mean(0) if center is None else center)) @ np.linalg.inv(root).T
    watched = {f"x[{i}]": run.x[:, :, i] for i in range(x.shape[1])}
    watched |= {"|x|^2": np.einsum("nwi,nwi->nw", z, z), "ln p": run.log_prob}
    return replace(run, observables=watched, x=None, log_prob=None)


def watched_times(run: MetropolisRun) -> dict[str, Estimate]:
    """Integrated autocorrelation times of the observables that vary, in steps.

    Raises
    ------
    ConvergenceError
        None of them does.
    """
    with warnings.catch_warnings():  # said once, of the length that is chosen
        warnings.simplefilter("ignore", SamplerWarning)
        times = {name: autocorrelation_time(rows.T) for name, rows in run.observables.items()}
    moving = {name: time for name, time in times.items() if time.status != "constant"}
    if not moving:
        raise ConvergenceError("no observable changes along the pilot chains: ln p is flat")
    return moving


def confirmed_run(
    run: MetropolisRun, longer: Callable[[np.ndarray, int], MetropolisRun]
) -> MetropolisRun:
    """The run, continued by `longer(x, steps)` and doubled until it is `WANTED` of its own
    autocorrelation times long and groups of walkers agree on them to a tenth: the time that a
    short run shows is too small."""
    for _ in range(DOUBLINGS):
        time = longest_time(run)[1]
        size = 2 * run.steps * run.longest_rejection.size * len(run.observables)
        settled = run.steps >= WANTED * float(time) and float(time.stderr) < 0.1 * float(time)
        if settled or size > HELD:
            break
        more = longer(run.last, run.steps)
        rows = {k: np.concatenate([v, more.observables[k]]) for k, v in run.observables.items()}
        run = replace(
            more,
            observables=rows,
            steps=2 * run.steps,
            longest_rejection=np.maximum(run.longest_rejection, more.longest_rejection),
        )
    return run


def longest_time(run: MetropolisRun) -> tuple[str, Estimate]:
    """The slowest observable and its time; stderr the largest of that of the formula, that
    between groups of walkers (jackknife) and the change from half of the run."""
    times = watched_times(run)
    name = max(times, key=lambda key: float(times[key]))
    time, rows = times[name], run.observables[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        without = np.array(
            [
                float(autocorrelation_time(np.delete(rows, np.s_[g::GROUPS], 1).T))
                for g in range(GROUPS)
            ]
        )
        halves = [float(autocorrelation_time(h.T)) for h in np.array_split(rows, 2)]
    between = math.sqrt((GROUPS - 1) * np.mean((without - without.mean()) ** 2))
    drift = abs(float(np.mean(halves)) - float(time))
    error = np.nanmax([float(time.stderr), between, drift])
    return name, replace(time, stderr=float(error))


def checked_time(
    name: str, time: Estimate, run: MetropolisRun, expected: float, first: int
) -> tuple[Estimate, bool]:
    """The longest time, flagged and warned of where it cannot be trusted; whether runs mixed.

    expected: the longest run of rejections that comes about by chance; first: steps of the run
    before it was continued, whose chains already disagree if they are in several modes.
    """
    short = run.steps < LONG * float(time)
    rhat, excess = _disagreement(run, run.steps)
    if short and not excess > 0.05:
        rhat, excess = _disagreement(run, first)
    share, of = max((_largest_share(rows), key) for key, rows in run.observables.items())
    stood, walkers = int(run.longest_rejection.max()), run.longest_rejection.size
    mixed = excess < 0.05
    lower = "the true time is longer, or infinite"
    if not mixed:
        status = "not mixed"
        what = (
            f"pilot chains disagree (split R-hat {rhat:.2f}): several modes, or runs that are too "
            "short; do not use this jump, start from one mode or give more steps"
        )
    elif short:
        status = "under-sampled"
        what = (
            f"pilot chains of {run.steps} steps are shorter than {LONG:.0f} autocorrelation times "
            f"({float(time):.0f}); give more steps"
        )
    elif stood > STICKY * expected:
        status = "under-sampled"
        what = (
            f"a walker stood still for {stood} steps, where {expected:.0f} come about by chance: "
            f"{lower}; take another proposal, or coordinates in which no density diverges"
        )
    elif share > max(0.15, 4 / walkers):
        status = "under-sampled"
        what = (
            f"one of {walkers} walkers makes {100 * share:.0f}% of the variance of {of}: rare "
            f"excursions or heavy tails; {lower}; give more steps, or coordinates that bound it"
        )
    elif not float(time.stderr) < VAGUE * float(time):
        status = "under-sampled"
        what = f"walkers do not agree on the time ({float(time.stderr):.2g} of {float(time):.2g})"
        what += "; give more steps"
    else:
        status, what = time.status, time.note
    note = f"integrated autocorrelation time of {name}"
    if status != "ok":
        warnings.warn(what, SamplerWarning, stacklevel=4)
        note = f"{note}; {what}"
    return Estimate(time.value, time.stderr, time.n_eff, status, note), mixed


def _disagreement(run: MetropolisRun, steps: int) -> tuple[float, float]:
    """Largest split R-hat of the first steps, and how far it is above that of mixed chains."""
    moving = {key: v[:steps].T for key, v in run.observables.items() if np.ptp(v[:steps]) > 0}
    rhat = max(split_rhat(rows) for rows in moving.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        time = max(float(autocorrelation_time(rows)) for rows in moving.values())
    return rhat, rhat - math.sqrt(1 + 4 * time / steps)


def _largest_share(rows: np.ndarray) -> float:
    """Of the variance of an observable (n, walkers), that of one walker."""
    square = ((rows - rows.mean()) ** 2).sum(0)
    return float(square.max() / max(square.sum(), 1e-300))
