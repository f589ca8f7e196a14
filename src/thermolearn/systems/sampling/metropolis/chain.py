"""Random-walk Metropolis chains, many at once, in any dimension.

The chains are stepped together with numpy: with thousands of walkers a step costs 15 ns per walker
in one dimension, less than the same loop compiled with its random numbers drawn inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import whole
from thermolearn.core.diagnostics import autocorrelation_time
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.sampling.metropolis.jumps import GaussianJump, check_symmetric

Function = Callable[[np.ndarray], np.ndarray]
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

# Error bars between walkers from this many walkers on, along the chain below.
ENOUGH_WALKERS = 16
# Draws that a jump law of the user's own is examined with.
EXAMINED = 20_000


class Step(NamedTuple):
    """One step of all walkers: x (W, d) and ln p (W,) after it, squared length of the proposed
    jumps, probability that they are accepted, and whether they were (W,)."""

    x: np.ndarray
    log_prob: np.ndarray
    jump2: np.ndarray
    chance: np.ndarray
    accepted: np.ndarray


@dataclass(frozen=True, eq=False)
class MetropolisRun:
    """What `simulate_metropolis` returns.

    Attributes
    ----------
    acceptance : Estimate
        Mean of min(1, p(x + y)/p(x)) over steps and walkers: the fraction of accepted jumps, with
        a smaller error.
    esjd : Estimate
        Mean square jump <|x_{n+1} - x_n|^2>, weighted in the same way; units of x^2.
    longest_rejection : ndarray (walkers,) of int
        Longest run of steps at which a walker stood still.
    last : ndarray (walkers, d)
        Final positions, a start for more.
    observables : dict of ndarray (n, walkers)
        The recorded scalars, one row per `every` steps.
    x : ndarray (n, walkers, d) or None
        The recorded positions, if kept.
    log_prob : ndarray (n, walkers) or None
        ln p there.
    steps : int
        Steps after the burn-in; fewer than asked for after Ctrl-C, when acceptance and esjd have
        the status "interrupted".
    """

    acceptance: Estimate
    esjd: Estimate
    longest_rejection: np.ndarray
    last: np.ndarray
    observables: dict[str, np.ndarray]
    x: np.ndarray | None = field(repr=False)
    log_prob: np.ndarray | None = field(repr=False)
    steps: int

    def tau(self, name: str) -> Estimate:
        """Integrated autocorrelation time of an observable, in records (1/2: independent)."""
        if name not in self.observables:
            raise KeyError(f"no observable {name!r}; recorded: {sorted(self.observables)}")
        return autocorrelation_time(self.observables[name].T)


def simulate_metropolis(
    log_prob: Function,
    x0: ArrayLike,
    jump: Any,
    steps: int,
    walkers: int = 1,
    seed: int = 0,
    *,
    scale: ArrayLike | None = None,
    burn: int = 0,
    every: int = 1,
    observables: Mapping[str, Function] | None = None,
    keep: bool = False,
) -> MetropolisRun:
    """Random-walk Metropolis: propose x + y with y of a symmetric law, accept with probability
    min(1, p(x + y)/p(x)), else stay.

    Parameters
    ----------
    log_prob : callable
        ln p up to a constant (-beta U), of arrays (walkers, d); in one dimension of plain arrays
        (walkers,). Returns (walkers,); -inf where p = 0.
    x0 : float, array (d,) or array (walkers, d)
        Where the walkers start: a number for a target in one dimension, one point for all of
        them, or one point each.
    jump : UniformJump, GaussianJump, ... or callable
        In d > 1 dimensions GaussianJump (isotropic, standard deviation s per coordinate), or
        ``jump(rng, (walkers, d))`` that draws from a symmetric law, w(-y) = w(y).
    steps : int
        Steps that are recorded, at least 1.
    walkers : int
        Independent chains, at least 1.
    seed : int
        Of the run's own generator.
    scale : array (d,) or (d, d), optional
        Jumps are multiplied by it (matrix: a square root of the covariance wanted).
    burn : int
        Steps before, not recorded.
    every : int
        Positions and observables are recorded after every so many steps.
    observables : mapping of str to callable, optional
        Scalars f(x), x as for `log_prob`.
    keep : bool
        Also keep the positions and ln p: 8 walkers (d + 1) steps / every bytes.

    Returns
    -------
    MetropolisRun
        Error bars between walkers (from 16 on), else from the autocorrelation along the chain
        (NaN for fewer than 50 steps).

    Raises
    ------
    ValueError
        ln p is NaN or +inf anywhere, -inf at a start, or of a wrong shape; a jump law that is
        not symmetric, or has no meaning in d dimensions; numbers out of range.

    References
    ----------
    Metropolis et al., doi:10.1063/1.1699114.
    """
    steps, walkers = whole("steps", steps, 1), whole("walkers", walkers, 1)
    burn, every = whole("burn", burn, 0), whole("every", every, 1)
    rng = np.random.default_rng(whole("seed", seed, 0))
    x = starts(x0, walkers)
    draw = _scaled(drawer(jump, x.shape[1]), scale, x.shape[1])
    chain = chains(log_prob, x, draw, rng)
    for _ in track(range(burn), "burn-in"):
        x = next(chain).x
    wanted = dict(observables or {})
    found: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    kept, height = [], []
    chance = np.empty((2, steps))
    # sums of each walker, its rejections in a row now and at most, steps done: replaced together,
    # so that an interrupt leaves them those of whole steps
    tally = (np.zeros((2, walkers)), np.zeros(walkers, np.int64), np.zeros(walkers, np.int64), 0)
    try:
        for n in track(range(steps), "Metropolis steps"):
            step = next(chain)
            weighted = step.chance * step.jump2
            chance[:, n] = step.chance.mean(), weighted.mean()
            if (n + 1) % every == 0:
                for name, f in wanted.items():
                    found[name].append(_checked(f(_seen(step.x)), walkers, name))
                if keep:
                    kept.append(step.x)
                    height.append(step.log_prob)
            standing = np.where(step.accepted, 0, tally[1] + 1)
            longest = np.maximum(tally[2], standing)
            x, tally = step.x, (tally[0] + [step.chance, weighted], standing, longest, n + 1)
    except KeyboardInterrupt:
        if not tally[-1]:
            raise
    jumped, _, longest, done = tally
    rows = done // every
    averages = [_average(a[:done], b / done) for a, b in zip(chance, jumped, strict=True)]
    if done < steps:
        note = f"interrupted after {done} of {steps} steps"
        averages = [replace(a, status="interrupted", note=note) for a in averages]
    return MetropolisRun(
        *averages,
        longest_rejection=longest,
        last=x,
        observables={n: np.array(r[:rows]).reshape(-1, walkers) for n, r in found.items()},
        x=np.array(kept[:rows]).reshape(-1, *x.shape) if keep else None,
        log_prob=np.array(height[:rows]).reshape(-1, walkers) if keep else None,
        steps=done,
    )


def finished(run: MetropolisRun) -> MetropolisRun:
    """The run; Ctrl-C goes on where a part of it is of no use.

    Raises
    ------
    KeyboardInterrupt
        It was interrupted.
    """
    if run.acceptance.status == "interrupted":
        raise KeyboardInterrupt
    return run


def chains(
    log_prob: Function, x: np.ndarray, draw: Draw, rng: np.random.Generator
) -> Iterator[Step]:
    """Endless steps of walkers that start at x (W, d)."""
    value = _density(log_prob, x)
    if np.isneginf(value).any():
        raise ValueError("x0: the density is 0 at a start; start the walkers inside its support")
    while True:
        jump = draw(rng, x.shape)
        proposed = x + jump
        new = _density(log_prob, proposed)
        chance = np.exp(np.minimum(new - value, 0.0))
        accepted = rng.random(len(x)) < chance
        x = np.where(accepted[:, None], proposed, x)
        value = np.where(accepted, new, value)
        yield Step(x, value, np.einsum("wi,wi->w", jump, jump), chance, accepted)


def starts(x0: ArrayLike, walkers: int) -> np.ndarray:
    """The starting points as a float64 array (walkers, d)."""
    x = np.array(x0, dtype=np.float64)
    if x.ndim > 2 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError("x0 must be a finite number, point (d,) or array (walkers, d)")
    if x.ndim == 2 and len(x) != walkers:
        raise ValueError(f"x0 has {len(x)} rows for {walkers} walkers; give one row per walker")
    return x.copy() if x.ndim == 2 else np.tile(np.atleast_1d(x), (walkers, 1))


def drawer(jump: Any, dimension: int) -> Draw:
    """How jumps of a law are drawn.

    Raises
    ------
    ValueError
        The law is not symmetric or not one of d dimensions.
    TypeError
        Not a jump law.
    """
    if hasattr(jump, "draw") and hasattr(jump, "density"):
        check_symmetric(jump)
        if dimension > 1 and not isinstance(jump, GaussianJump):
            raise ValueError(
                f"jump: {jump!r} is a law on the line; in {dimension} dimensions take GaussianJump "
                "or a function that draws from a symmetric law"
            )
        return jump.draw
    if not callable(jump):
        raise TypeError(f"jump must be a jump law or a function that draws jumps, got {jump!r}")
    draw: Any = jump
    _require_symmetry(draw, dimension)
    return draw


def _require_symmetry(jump: Draw, dimension: int) -> None:
    """ValueError if signs or means of coordinates are off 0 by 6 standard errors, or the laws of y
    and -y differ as far (Kolmogorov, Smirnov), along the coordinates and one more direction."""
    y = np.asarray(jump(np.random.default_rng(0), (EXAMINED, dimension)), dtype=np.float64)
    if y.shape != (EXAMINED, dimension) or not np.isfinite(y).all():
        raise ValueError(f"jump must return finite jumps of the shape asked for, got {y.shape}")
    way = np.random.default_rng(1).normal(size=(dimension, 1)) / (y.std(0)[:, None] + 1e-300)
    y = np.concatenate([y, y @ way], 1)
    skew = [_two_sided(column) > 3.2 for column in y.T]
    for part in (y, np.sign(y)):
        error = part.std(0) / math.sqrt(EXAMINED)
        if (np.abs(part.mean(0)) > 6 * error + 1e-12).any() or any(skew):
            raise ValueError(
                "jump: the law is not symmetric, w(-y) != w(y); without Hastings' correction the "
                "chain would sample something else"
            )


def _two_sided(y: np.ndarray) -> float:
    """Kolmogorov's statistic of the lengths of jumps to the right and to the left; 3.2 has a
    probability of 3e-9."""
    right, left = np.sort(y[y > 0]), np.sort(-y[y < 0])
    if not (len(right) and len(left)):
        return 0.0  # the signs tell
    at = np.concatenate([right, left])
    below = [np.searchsorted(part, at, side="right") / len(part) for part in (right, left)]
    size = len(right) * len(left) / len(y)
    return math.sqrt(size) * float(np.max(np.abs(below[0] - below[1])))


def _scaled(draw: Draw, scale: ArrayLike | None, dimension: int) -> Draw:
    if scale is None:
        return draw
    factor = np.array(scale, dtype=np.float64)
    if factor.shape not in ((dimension,), (dimension, dimension)) or not np.isfinite(factor).all():
        raise ValueError(
            f"scale must be finite, of shape ({dimension},) or ({dimension}, {dimension}), "
            f"got {factor.shape}"
        )
    matrix = np.diag(factor) if factor.ndim == 1 else factor
    longest = np.linalg.norm(matrix, axis=1, keepdims=True)
    if (longest == 0).any() or np.linalg.matrix_rank(matrix / longest) < dimension:
        raise ValueError("scale is singular: there is a direction in which no jump goes")
    if factor.ndim == 1:
        return lambda rng, shape: draw(rng, shape) * factor
    return lambda rng, shape: draw(rng, shape) @ factor.T


def _seen(x: np.ndarray) -> np.ndarray:
    """Positions as a function of the user sees them: (W,) in one dimension."""
    return x[:, 0] if x.shape[1] == 1 else x


def _density(log_prob: Function, x: np.ndarray) -> np.ndarray:
    try:
        found = log_prob(_seen(x))
    except IndexError as error:
        if x.shape[1] > 1:
            raise
        raise ValueError(
            f"log_prob: in one dimension it is called with plain arrays ({len(x)},) of positions, "
            f"not ({len(x)}, 1), whether x0 is a number or an array (1,): {error}"
        ) from error
    value = _checked(found, len(x), "log_prob")
    # one pass where all is well: NaN and +inf are what a maximum keeps
    if not value.max() < math.inf:
        place = int(np.flatnonzero(~(value < math.inf))[0])
        raise ValueError(
            f"log_prob is {value[place]} at x = {_seen(x)[place]}; return -inf where the density "
            "is 0, and a finite number elsewhere"
        )
    return value


def _checked(value: Any, walkers: int, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != (walkers,):
        raise ValueError(
            f"{name} must return one number per walker ({walkers},), got {array.shape}"
        )
    return array


def _average(along: np.ndarray, each: np.ndarray) -> Estimate:
    """Mean of what walkers averaged over steps, with an error between them or along the chain."""
    if len(each) >= ENOUGH_WALKERS:
        return mean_estimate(each)
    value = float(along.mean())
    if len(along) < 50:
        return Estimate(value, math.nan, note="too short for an error bar")
    tau = autocorrelation_time(along)
    if tau.status == "constant":
        return Estimate(value, 0.0)
    stderr = float(along.std()) * math.sqrt(2 * float(tau) / len(along))
    return Estimate(value, stderr, n_eff=tau.n_eff, status=tau.status, note=tau.note)
