"""A jump length for a Metropolis chain: from the master operator, or from pilot runs.

Reference: A. D. Chepelianskii, S. N. Majumdar, H. Schawe, E. Trizac, arXiv:2207.10488. Pilot runs
go by the slowest of the measured autocorrelations, not by an acceptance: the acceptance of the best
jump depends on dimension and shape (0.234 of G. O. Roberts, A. Gelman, W. R. Gilks,
doi:10.1214/aoap/1034625254, is that of one coordinate's diffusion in many dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.sampling.metropolis.chain import (
    Function,
    MetropolisRun,
    finished,
    simulate_metropolis,
    starts,
)
from thermolearn.systems.sampling.metropolis.jumps import ExponentialJump, GaussianJump, UniformJump
from thermolearn.systems.sampling.metropolis.pilot import (
    STICKY,
    checked_time,
    confirmed_run,
    longest_time,
    watched_run,
    watched_times,
)

FAMILIES: dict[str, Callable[[float], Any]] = {
    "uniform": UniformJump,
    "gaussian": GaussianJump,
    "exponential": ExponentialJump,
}
# Best length in one dimension over the standard deviation of the target, harmonic potential.
FIRST = {"uniform": 3.33, "gaussian": 2.23, "exponential": 1.9}
# Best s sqrt(d) over the standard deviation, isotropic Gaussian target and jumps.
BEST = ((1, 2.2), (2, 2.1), (3, 2.1), (5, 2.0), (10, 1.9))
# Lengths tried, over the first guess.
TRIED = (0.5, 0.65, 0.85, 1.1, 1.4, 1.8, 2.4)
# Runs that measure the covariance, at most; each jumps in the shape found before.
STAGES = 12


@dataclass(frozen=True)
class Trial:
    """One jump length that was tried: its acceptance, the integrated autocorrelation times (steps)
    of all observables, the longest run of rejections."""

    length: float
    acceptance: Estimate
    times: dict[str, Estimate]
    longest_rejection: int

    @property
    def slowest(self) -> str:
        """The observable of the longest time."""
        return max(self.times, key=lambda name: float(self.times[name]))


@dataclass(frozen=True, eq=False)
class TunedStep:
    """What `tune_step` recommends.

    Attributes
    ----------
    jump : UniformJump, GaussianJump or ExponentialJump
        Law of the jumps; where `scale` is given, in units of it.
    scale : ndarray (d, d) or None
        Square root L of the measured covariance, C = L L^T: propose x + L y with y of `jump`.
    acceptance : Estimate
        To expect.
    relaxation_time : Estimate
        Steps. Of a potential: -1/ln Lambda of the slowest mode. Of pilot runs: integrated
        autocorrelation time of the slowest observable, a lower bound of it; status
        "under-sampled" where the runs are too short for it, a walker stood still or went far out
        alone (heavy tails, densities that diverge), "not mixed" where chains disagree.
    limit : str
        What limits the chain: ``"diffusion"`` (an odd mode, a coordinate), ``"energy"`` (an even
        mode: \\|x\\|^2, ln p), ``"rejection"`` (a localized mode: mass that stays where it is), or,
        of a potential, the two that are equally slow, as ``"diffusion and rejection"``.
    advice : str
        In words.
    trials : tuple of Trial
        The pilot runs; empty for a potential.
    """

    jump: Any
    scale: np.ndarray | None
    acceptance: Estimate
    relaxation_time: Estimate
    limit: str
    advice: str
    trials: tuple[Trial, ...] = field(default=(), repr=False)


def tune_step(
    potential: Any = None,
    *,
    family: str = "gaussian",
    dimension: int = 1,
    beta: float = 1.0,
    log_prob: Function | None = None,
    x0: ArrayLike | None = None,
    steps: int = 1000,
    walkers: int = 64,
    seed: int = 0,
) -> TunedStep:
    """The jump that relaxes fastest.

    Give a potential U, of one coordinate or radial: the slowest eigenvalue of the Metropolis
    operator is minimized over the length, in both parity sectors (in d dimensions over the
    isotropic and the vector sector). Or give ln p of anything and a start: a first run measures
    the covariance, then seven lengths around the theory's recommendation for a Gaussian of that
    covariance are tried, and the one is taken that minimizes the longest integrated
    autocorrelation time among coordinates, \\|x\\|^2 and ln p.

    Parameters
    ----------
    potential : Potential or callable, optional
        U(x), of arrays; in `dimension` > 1 U(r).
    family : str
        "gaussian", or in one dimension "uniform" or "exponential".
    dimension : int
        Of a radial potential.
    beta : float
        Inverse temperature that multiplies the potential, > 0.
    log_prob : callable, optional
        ln p up to a constant, instead of a potential; see `simulate_metropolis`.
    x0 : float or array
        Where pilot chains start. In one dimension, given as a number or of shape (1,), log_prob
        gets plain arrays (walkers,).
    steps : int
        Recorded steps of each pilot run, at least 200.
    walkers : int
        Pilot chains, at least 16.
    seed : int
        Of the pilot runs.

    Returns
    -------
    TunedStep

    Raises
    ------
    ValueError
        Neither or both of potential and log_prob; arguments out of range.
    ConvergenceError
        No length was found at which a pilot chain moves.
    KeyboardInterrupt
        Ctrl-C: a part of the pilot runs chooses no length.

    Warns
    -----
    SamplerWarning
        Pilot chains that are too short, stick or have not mixed: the times are then too small, and
        the status of `relaxation_time` is not ``"ok"``.

    Notes
    -----
    The run of the jump that is chosen is 2 to 16 times `steps` long: it is doubled until its
    longest autocorrelation time is well below its length and groups of walkers agree on it.

    A chain does not know of what it has never seen: no pilot run notices a second mode that none
    of its walkers has reached.
    """
    if (potential is None) == (log_prob is None):
        raise ValueError("give either a potential or log_prob (with x0)")
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {tuple(FAMILIES)}, got {family!r}")
    if potential is not None:
        return _by_operator(potential, family, whole("dimension", dimension, 1), beta)
    if beta != 1.0 or dimension != 1:
        raise ValueError("beta and dimension belong to a potential; log_prob holds both")
    if x0 is None:
        raise ValueError("x0: log_prob needs a start for its pilot chains")
    assert log_prob is not None
    whole("steps", steps, 200)
    start = starts(x0, whole("walkers", walkers, 16))
    if start.shape[1] > 1 and family != "gaussian":
        raise ValueError(f"family must be 'gaussian' in more than one dimension, got {family!r}")
    return _by_pilot(log_prob, start, family, steps, whole("seed", seed, 0))


def recommended_length(dimension: int) -> float:
    """s sqrt(d) of the fastest isotropic Gaussian jumps in a Gaussian of unit covariance.

    2.2 in one dimension, 1.9 from ten on (to 0.05; the optimum is flat).
    """
    d, best = np.array(BEST).T
    return float(np.interp(math.log(whole("dimension", dimension, 1)), np.log(d), best))


# -- potentials ----------------------------------------------------------------------------------
WORDS = {
    "diffusion": "displacement along a coordinate",
    "energy": "relaxation of the energy",
    "rejection": "mass that stays where most jumps are rejected",
}


def _by_operator(potential: Any, family: str, dimension: int, beta: float) -> TunedStep:
    from thermolearn.systems.sampling.metropolis.optimum import optimal_jump

    real("beta", beta, above=0)
    if dimension > 1 and family != "gaussian":
        raise ValueError(f"family must be 'gaussian' in more than one dimension, got {family!r}")
    best = optimal_jump(potential, FAMILIES[family], dimension=dimension, beta=beta)
    limits = [_limit_of(name) for name in best.active]
    limit = " and ".join(dict.fromkeys(limits))
    both = " and ".join(dict.fromkeys(WORDS[name] for name in limits))
    advice = (
        f"{best.jump}: {100 * float(best.acceptance):.0f}% of the jumps accepted, relaxation in "
        f"{float(best.relaxation_time):.2g} steps. The optimum balances {both}; shorter jumps "
        "diffuse slowly, longer ones are rejected, most where the density is highest: there a "
        "chain keeps its memory though it seems to mix. Watch its longest run of rejections."
    )
    return TunedStep(best.jump, None, best.acceptance, best.relaxation_time, limit, advice)


def _limit_of(sector: str) -> str:
    """What a sector that is active at the optimum means."""
    if sector == "rejection":
        return "rejection"
    return "energy" if sector in ("even", "l = 0") else "diffusion"


# -- pilot runs ----------------------------------------------------------------------------------
def _by_pilot(log_prob: Function, x: np.ndarray, family: str, steps: int, seed: int) -> TunedStep:
    d = x.shape[1]
    seeds = np.random.default_rng(seed).integers(2**62, size=100).tolist()
    root, x = _covariance_root(log_prob, x, family, steps, seeds)
    first = FIRST[family] if d == 1 else recommended_length(d) / math.sqrt(d)
    trials = []
    for factor in track(TRIED, "pilot runs"):
        jump = FAMILIES[family](factor * first)
        run = watched_run(log_prob, x, jump, root, steps, seeds.pop())
        trials.append(_trial(factor * first, run))
        x = run.last
    length = _best_length(trials)
    jump = FAMILIES[family](length)
    center = x.mean(0)
    final = confirmed_run(
        watched_run(log_prob, x, jump, root, 2 * steps, seeds.pop()),
        lambda x, n: watched_run(log_prob, x, jump, root, n, seeds.pop(), center),
    )
    chosen = _trial(length, final)
    expected = math.log(final.steps * len(x)) / -math.log1p(-min(float(chosen.acceptance), 0.999))
    expected = min(expected, final.steps)
    time, mixed = checked_time(*longest_time(final), final, expected, 2 * steps)
    limit = "diffusion" if chosen.slowest.startswith("x") else "energy"
    sticky = chosen.longest_rejection > STICKY * expected
    limit = "rejection" if sticky and limit != "diffusion" else limit
    advice = _advice(chosen, time, expected, sticky, mixed)
    return TunedStep(jump, root, chosen.acceptance, time, limit, advice, (*trials, chosen))


def _trial(length: float, run: MetropolisRun) -> Trial:
    longest = int(run.longest_rejection.max())
    return Trial(length, run.acceptance, watched_times(run), longest)


def _best_length(trials: list[Trial]) -> float:
    """Minimum of a parabola through the logarithms near the shortest of the longest times."""
    x = np.log([t.length for t in trials])
    y = np.log([float(t.times[t.slowest]) for t in trials])
    k = int(np.clip(np.argmin(y), 2, len(y) - 3))
    near = slice(k - 2, k + 3)
    a, b, _ = np.polyfit(x[near], y[near], 2)
    low, high = x[near][[0, -1]]
    return float(np.exp(np.clip(-b / (2 * a), low, high) if a > 0 else x[np.argmin(y)]))


def _covariance_root(
    log_prob: Function, x: np.ndarray, family: str, steps: int, seeds: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Square root of the covariance, and walkers spread over the density."""
    walkers, d = x.shape
    root = np.eye(d)
    for stage in range(STAGES):
        length, x = _moving_length(log_prob, x, family, root, seeds.pop())
        jump = FAMILIES[family](length)
        run = finished(
            simulate_metropolis(
                log_prob, x, jump, steps, walkers, seeds.pop(), scale=root, every=10, keep=True
            )
        )
        x = run.last
        assert run.x is not None
        seen = run.x[len(run.x) // 2 :].reshape(-1, d)
        # in units of the shape found before: narrow directions are then resolved stage by stage
        seen = np.linalg.solve(root, (seen - seen.mean(0)).T).T
        covariance = seen.T @ seen / len(seen)
        if len(seen) < 10 * d:  # too few for a matrix
            covariance = np.diag(np.diag(covariance))
        diagonal = np.diag(covariance)
        if not (diagonal > 0).all():
            raise ConvergenceError("pilot chains do not move along every coordinate; scale them")
        factor = np.linalg.cholesky(covariance + 1e-10 * np.diag(diagonal))
        root, change = root @ factor, np.linalg.svd(factor, compute_uv=False)
        if stage >= 2 and change.min() > 0.8 and change.max() < 1.25:
            break
    return root, x


def _moving_length(
    log_prob: Function, x: np.ndarray, family: str, root: np.ndarray, seed: int
) -> tuple[float, np.ndarray]:
    """A length whose acceptance lies between 0.2 and 0.5, by doubling and halving."""
    length, factor, last = 2.0 / math.sqrt(x.shape[1]), 4.0, 0
    for k in range(80):
        jump = FAMILIES[family](length)
        own = (seed + k) % 2**62
        run = finished(simulate_metropolis(log_prob, x, jump, 20, len(x), own, scale=root))
        x, a = run.last, float(run.acceptance)
        if 0.2 <= a <= 0.5:
            return length, x
        way = 1 if a > 0.5 else -1
        factor = factor**0.5 if way == -last else factor
        length, last = length * factor**way, way
    raise ConvergenceError(
        "no jump length has an acceptance between 0.2 and 0.5: check log_prob and x0"
    )


def _advice(chosen: Trial, time: Estimate, expected: float, sticky: bool, mixed: bool) -> str:
    acceptance = 100 * float(chosen.acceptance)
    text = (
        f"Jumps of length {chosen.length:.3g} in units of the standard deviation: "
        f"{acceptance:.2g}% accepted; the slowest thing watched is {chosen.slowest}, {time} steps. "
    )
    run = f"The longest run of rejections was {chosen.longest_rejection}"
    if sticky:
        text += (
            f"{run}, where {expected:.0f} come about by chance at this acceptance: jumps are too "
            "long for some places. If those matter, take shorter jumps or another proposal. "
        )
    else:
        text += f"{run}; about {expected:.0f} come about by chance at this acceptance. "
    if not mixed:
        text += "The chains have not mixed: do not use this jump. "
    if time.status == "under-sampled":
        text += "The time is a lower bound: repeat with more steps. "
    return text.strip()
