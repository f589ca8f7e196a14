"""Training of the perceptron at finite dimension: seeds with data of their own, replicas, response.

Independent of the mean-field theory: only the law of the data, the loss, the schedule and what
reads temperatures off the curves (`temperature`) are common. The masks are drawn here, too.

Reference: F. Mignacco, P. Urbani, arXiv:2112.10852.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import DivergedError
from thermolearn.core.progress import track
from thermolearn.systems.training.sgd_noise.schedules import (
    GD,
    PersistentSGD,
    Schedule,
    check_schedule,
)
from thermolearn.systems.training.sgd_noise.simulation_result import SimulationResult, pack

if TYPE_CHECKING:
    from thermolearn.measure.noise.response import Dynamics
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron

BLOCK = 2**16  # numbers in a block of rows, 256 or 512 kB
HUGE = 1e8  # |w|^2/d over that of the start (or 1): beyond, the run has diverged
STREAM = 211210852  # keeps these random numbers apart from those of other systems


@dataclass(frozen=True)
class Plan:
    """What every seed does; see `simulate`."""

    d: int
    schedule: Schedule
    weight_decay: float
    steps: int
    replicas: int
    start: tuple[float, float]
    waiting_times: tuple[int, ...]
    lag: int
    force: float
    dtype: Any


def simulate(
    model: GaussianMixturePerceptron,
    d: int,
    schedule: Schedule,
    weight_decay: float,
    steps: int,
    *,
    seeds: int | Sequence[int] = 8,
    replicas: int = 1,
    start: tuple[float, float] = (1.0, 0.0),
    waiting_times: Sequence[int] = (),
    lag: int = 0,
    force: float = 1e-3,
    precision: str = "float32",
) -> SimulationResult:
    """Train w in d dimensions on n = round(alpha d) samples, once per seed, and record the path.

    w(t+1) = (1 - eta lambda) w(t) - eta sum_mu s_mu(t) l'(h_mu, y_mu) x_mu/sqrt(d), from
    w(0) = m0 v + sqrt(R0) xi with |xi|^2 = d and xi . v = 0 exactly: m(0) = m0 and
    C(0, 0) = R0 + m0^2 in every seed, without the fluctuations of order d^-1/2 of a free start.

    Parameters
    ----------
    model : GaussianMixturePerceptron
    d : int >= 2
        Dimension; memory is 4 alpha d^2 bytes (twice that in float64), one data set at a time.
    schedule : GD, SGD or PersistentSGD
    weight_decay : float >= 0
        lambda.
    steps : int >= 1
    seeds : int, or sequence of int
        How many (0, 1, ...), or which: each has its own samples, labels, start and masks.
    replicas : int >= 1
        Runs on one data set from one start with independent masks; 2 or more give `distance`.
    start : (R0, m0)
        R0 in [0, 1e8], m0 in [-1e4, 1e4].
    waiting_times : sequence of int
        Steps tw from which a twin of replica 0 runs with the same masks under the constant force
        of random signs, to measure the response chi(tw + k, tw) for k = 1 ... lag.
    lag : int
        Largest k; tw + lag must not exceed `steps`.
    force : float > 0
        Of each component; the response must not depend on it.
    precision : "float32" or "float64"
        Of the samples; the weights are float64 in both. float32 halves the time; paths differ by
        some 1e-6 after 40 steps, responses by 1e-3 at most.

    Returns
    -------
    SimulationResult
        Ctrl-C ends the simulation and keeps the seeds that are finished; `flags` says so.

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        `schedule` is none.
    DivergedError
        The weights left all bounds: the learning rate is beyond stability.
    """
    numbers = _seeds(seeds)
    plan = Plan(
        d=whole("d", d, least=2),
        schedule=check_schedule(schedule),
        weight_decay=real("weight_decay", weight_decay, least=0),
        steps=whole("steps", steps, least=1),
        replicas=whole("replicas", replicas, least=1),
        start=_start(start),
        waiting_times=tuple(sorted({whole("waiting_times", t, least=0) for t in waiting_times})),
        lag=whole("lag", lag, least=0),
        force=real("force", force, above=0),
        dtype=_precision(precision),
    )
    if round(model.alpha * plan.d) < 1:
        raise ValueError(f"d = {d} at alpha = {model.alpha:g} leaves no sample: raise d")
    if bool(plan.waiting_times) != bool(plan.lag):
        raise ValueError("waiting_times and lag belong together: give both, or neither")
    if plan.waiting_times and plan.waiting_times[-1] + plan.lag > plan.steps:
        raise ValueError(
            f"waiting_times: {plan.waiting_times[-1]} + lag {plan.lag} exceeds steps = "
            f"{plan.steps}; raise steps"
        )
    samples = model.alpha * plan.d**2 * plan.dtype.itemsize
    paths = 8 * (plan.steps + 1) * plan.replicas * plan.d
    there = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    )
    if 0 < there < samples + paths:
        raise ValueError(
            f"d = {plan.d} needs {(samples + paths) / 2**30:.3g} GiB of memory, this machine has "
            f"{there / 2**30:.3g}: lower d, steps or replicas"
        )
    runs: list[Run] = []
    try:
        for seed in track(numbers, "training"):
            runs.append(run(model, plan, seed))
    except KeyboardInterrupt:
        if not runs:
            raise
    return pack(model, plan, numbers, runs)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, (int, np.integer)):
        return tuple(range(whole("seeds", seeds, least=1)))
    numbers = tuple(whole("seeds", seed, least=0) for seed in seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must be different numbers, at least one, got {seeds!r}")
    return numbers


def _start(start: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(start, Sequence) or len(start) != 2:
        raise ValueError(f"start must be (R0, m0), got {start!r}")
    most = math.sqrt(HUGE)
    m0 = real("m0 in start", start[1], least=-most, most=most)
    return real("R0 in start", start[0], least=0, most=HUGE), m0


def _precision(name: str) -> Any:
    if name not in ("float32", "float64"):
        raise ValueError(f"precision must be 'float32' or 'float64', got {name!r}")
    return np.dtype(name)


@dataclass
class Run:
    """What one seed leaves behind, replicas apart.

    Attributes
    ----------
    path : array (steps + 1, replicas, d)
    loss, error : array (steps + 1, replicas)
        Means over the training samples.
    response : array (waiting times, lag)
        chi(tw + k, tw), k = 1 ... lag.
    """

    path: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    response: np.ndarray


@dataclass
class Twin:
    """A copy of replica 0 under a force, since step `since`."""

    row: int
    since: int
    signs: np.ndarray
    w: np.ndarray = field(repr=False)


def data_set(
    model: GaussianMixturePerceptron, d: int, rng: np.random.Generator, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """x_mu/sqrt(d) (n, d) with v = (1, ..., 1), and the labels (n,)."""
    n = round(model.alpha * d)
    prior = model.clusters
    cluster = rng.choice(len(prior.labels), n, p=np.array(prior.probabilities))
    rows = rng.standard_normal((n, d), dtype=dtype)
    rows *= dtype.type(math.sqrt(model.Delta / d))
    rows += (np.array(prior.positions)[cluster] / d).astype(dtype)[:, None]
    return rows, np.array(prior.labels)[cluster]


def first_weights(d: int, start: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """w(0) (d,) with the order parameters m0 and R0 + m0^2, exactly."""
    xi = rng.standard_normal(d)
    xi -= xi.mean()
    return start[1] + math.sqrt(start[0] * d) * xi / np.linalg.norm(xi)


def first_mask(schedule: Schedule, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """Who is in the batch of step 0, bool."""
    if isinstance(schedule, GD):
        return np.ones(shape, dtype=bool)
    return rng.random(shape) < schedule.batch_fraction


def next_mask(schedule: Schedule, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The batch of the next step: fresh, or with a few samples exchanged."""
    if isinstance(schedule, PersistentSGD):
        b, share = schedule.batch_fraction, schedule.rate / schedule.persistence
        flips = rng.random(mask.shape) < np.where(mask, share * (1 - b) / b, share)
        return mask ^ flips
    return first_mask(schedule, mask.shape, rng)


def sweep(
    rows: np.ndarray, labels: np.ndarray, mask: np.ndarray, w: np.ndarray, first: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Fields (n, K) and gradient (K, d) of K weight vectors.

    With K > 1 the products go block by block: the library's would copy the samples first.
    """
    n, d = rows.shape
    block = n if len(w) == 1 else max(16, BLOCK // d)
    parts = [slice(begin, begin + block) for begin in range(0, n, block)]
    columns = np.ascontiguousarray(w.T, dtype=rows.dtype)
    fields = np.empty((n, len(w)))
    for some in parts:
        fields[some] = rows[some] @ columns
    slope = (mask * first(fields, labels[:, None])).astype(rows.dtype)
    gradient = np.zeros((d, len(w)))
    for some in parts:
        gradient += rows[some].T @ slope[some]
    return fields, gradient.T


def _generators(seed: int) -> list[np.random.Generator]:
    """Of the data, the start, the masks and the force."""
    sequence = np.random.SeedSequence([STREAM, seed])
    return [np.random.default_rng(child) for child in sequence.spawn(4)]


def run(model: GaussianMixturePerceptron, plan: Plan, seed: int) -> Run:
    """One data set: all replicas and twins step together."""
    by_data, by_start, by_mask, by_force = _generators(seed)
    rows, labels = data_set(model, plan.d, by_data, plan.dtype)
    copies, schedule, loss = plan.replicas, plan.schedule, model.losses
    w = np.tile(first_weights(plan.d, plan.start, by_start), (copies, 1))
    shape = (plan.steps + 1, copies)
    found = Run(
        np.empty((*shape, plan.d)),
        np.empty(shape),
        np.empty(shape),
        np.full((len(plan.waiting_times), plan.lag), np.nan),
    )
    bound = HUGE * max(1.0, plan.start[0] + plan.start[1] ** 2)
    mask = first_mask(schedule, (len(rows), copies), by_mask)
    twins: list[Twin] = []
    for t in range(plan.steps + 1):
        found.path[t] = w
        if t in plan.waiting_times:
            signs = by_force.choice([-1.0, 1.0], plan.d)
            twins.append(Twin(plan.waiting_times.index(t), t, signs, w[0]))
        every = np.stack([*w, *(twin.w for twin in twins)])
        used = schedule.weight * np.hstack([mask] + [mask[:, :1]] * len(twins))
        fields, gradient = sweep(rows, labels, used, every, loss.first)
        h, y = fields[:, :copies], labels[:, None]
        found.loss[t] = loss.value(h, y).mean(0)
        found.error[t] = (np.sign(model.decision(h)) != np.sign(y)).mean(0)
        if t == plan.steps:
            break
        move = schedule.rate * (gradient + plan.weight_decay * every)
        w = w - move[:copies]
        if not (w * w).mean(1).max() < bound:
            raise DivergedError(
                t + 1,
                f"the weights diverged at step {t + 1} (seed {seed}): rate = {schedule.rate:g} is "
                "beyond stability; lower it",
            )
        for twin, moved in zip(twins, move[copies:], strict=True):
            twin.w = twin.w - moved + schedule.rate * plan.force * twin.signs
            apart = (twin.w - w[0]) @ twin.signs
            found.response[twin.row, t - twin.since] = apart / (plan.d * plan.force)
        twins = [twin for twin in twins if t + 1 < twin.since + plan.lag]
        mask = next_mask(schedule, mask, by_mask)
    return found


def dynamics(
    model: GaussianMixturePerceptron,
    d: int,
    schedule: Schedule,
    weight_decay: float,
    replicas: int = 8,
    seed: int = 0,
    start: tuple[float, float] = (1.0, 0.0),
) -> Dynamics:
    """The training as a `Dynamics`, to be measured by `measure.noise.effective_temperature`.

    Every replica has a data set of its own, so that the error between replicas is that of the
    comparison with the theory. The state holds the weights and, behind them, the batch; its
    virial temperature is t_fast. Give `burn_in`: the start is not stationary.

    Parameters
    ----------
    model, d, schedule, weight_decay, start
        As in `simulate`.
    replicas : int >= 1
        Memory is 8 alpha d^2 bytes for each.
    seed : int >= 0
        Replica r is seed `seed` + r of `simulate`: the same samples and start.

    Raises
    ------
    ValueError, TypeError
        As in `simulate`.
    """
    import torch

    from thermolearn.systems.training.sgd_noise.matched_simulation import training_dynamics

    d, start = whole("d", d, least=2), _start(start)
    first = whole("seed", seed, least=0)
    samples, labels, weights = [], [], []
    for r in range(whole("replicas", replicas, least=1)):
        by_data, by_start, _, _ = _generators(first + r)
        rows, y = data_set(model, d, by_data, np.dtype("float64"))
        samples.append(rows * math.sqrt(d))
        labels.append(y)
        weights.append(first_weights(d, start, by_start))
    found = training_dynamics(
        np.stack(samples),
        np.stack(labels),
        loss=model.losses,
        schedule=schedule,
        weight_decay=weight_decay,
        seed=first,
    )
    state = found.start.clone()
    state[:, :d] = torch.from_numpy(np.stack(weights))
    return replace(found, start=state)
