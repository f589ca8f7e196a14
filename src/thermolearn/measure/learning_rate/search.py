"""The search: bracket the edge, then let the rates below it run on while they are among the best.

The rounds are successive halving (Jamieson and Talwalkar, arXiv:1502.07943) over learning rates:
survivors are continued, not restarted, so that a longer round costs only the steps added. The
order of the batches is common to all rates, so that rates are compared seed by seed. A short
training favors small rates (Wu et al., arXiv:1803.02021): what a round cannot tell apart is
decided for the larger rate, and the last round spends its steps on length, not on seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from thermolearn.measure.learning_rate.result import SPACING
from thermolearn.measure.learning_rate.trial import Task, Trial, advance, start_trial

FIRST, SECOND, THIRD = 32, 10, 4  # the rounds before the last are these parts of the training
LEAST_ROUND = 8  # steps
DECADE = 10.0
REACH = 1e8  # the edge is looked for within this factor of the optimizer's own rate
RESOLVED = 2.0  # the bracket of the edge ends at this ratio
FEWEST, MOST = 3, 8  # candidates
KEPT = 4  # of the first round and of the second
FINALISTS = 2
TIE = 0.01  # in scales of the loss
TAIL = (0.85, 0.9, 0.95, 1.0)  # of the last round: its loss is the mean of these


@dataclass(frozen=True)
class Plan:
    """Lengths of the rounds in steps, the seeds and what may be spent."""

    rounds: tuple[int, int, int, int]
    seeds: tuple[int, ...]
    backoff: float
    allowed: int


def make_plan(steps: int, seeds: int, seed: int, backoff: float, cost: float) -> Plan:
    """Rounds of 1/32, 1/10, 1/4 and at most the whole of the training that the rate is for."""
    first = max(LEAST_ROUND, steps // FIRST)
    second = max(2 * first, steps // SECOND)
    numbers = tuple(seed + k for k in range(seeds))
    third = max(second + first, steps // THIRD)
    rounds = (first, second, third, max(steps, third))
    return Plan(rounds, numbers, backoff, int(cost * steps))


@dataclass(eq=False)
class Search:
    """The trials so far, by factor on the optimizer's rates.

    `start` is the loss of step 0, `scale` the unit in which losses are compared and `slope` the
    norm of the first gradient. After the
    search, `low` and `high` bracket the edge, `finalists` are the factors of the last round, the
    best first, and `limit` is its length.
    """

    task: Task
    plan: Plan
    start: float
    scale: float
    slope: float = math.nan
    trials: dict[float, list[Trial]] = field(default_factory=dict)
    spent: int = 0
    low: float = 0.0
    high: float = math.inf
    candidates: list[float] = field(default_factory=list)
    finalists: list[float] = field(default_factory=list)
    limit: int = 0

    # -- one rate --------------------------------------------------------------------------------
    def run(self, factor: float, to: int, seeds: int | None = None) -> Iterator[None]:
        """Take the first `seeds` trials of a factor (default: all) to `to` steps."""
        found = self.trials.setdefault(factor, [])
        for k, seed in enumerate(self.plan.seeds[:seeds]):
            if k == len(found):
                found.append(start_trial(self.task, factor, seed, self.start))
            if found[k].steps < to and not found[k].diverged:
                self.spent += advance(self.task, found[k], to, self.scale)
            yield

    def bad(self, factor: float) -> bool:
        """Whether a trial at this factor diverged."""
        return any(t.diverged for t in self.trials[factor])

    def losses(self, factor: float, steps: int) -> np.ndarray:
        """Losses of a factor after `steps`, by seed; NaN where a trial was not taken there."""
        return np.array([t.losses.get(steps, math.nan) for t in self.trials[factor]])

    def mean(self, factor: float, steps: int) -> float:
        """Over the seeds that were taken to `steps`; infinite if one diverged, or none was."""
        losses = self.losses(factor, steps)
        losses = losses[np.isfinite(losses)]
        return math.inf if self.bad(factor) or not len(losses) else float(losses.mean())

    def worse(self, factor: float, best: float, steps: int) -> bool:
        """Whether a rate's loss is above another's by two standard errors, seed by seed."""
        if self.bad(factor):
            return True
        gap = self.losses(factor, steps) - self.losses(best, steps)
        if not np.isfinite(gap).all():
            return True
        margin = 2 * float(gap.std(ddof=1)) / math.sqrt(len(gap))
        return not float(gap.mean()) <= max(margin, TIE * self.scale)

    def tail(self, factor: float) -> float:
        """Loss at the end of the last round: the mean over its tail, first seed."""
        trial = self.trials[factor][0]
        late = [v for k, v in trial.losses.items() if k >= int(TAIL[0] * self.limit)]
        return math.inf if trial.diverged or not late else float(np.mean(late))

    @property
    def left(self) -> int:
        return max(0, self.plan.allowed - self.spent)

    # -- the edge --------------------------------------------------------------------------------
    def bracket(self) -> Iterator[None]:
        """Decades up or down with one seed, then geometric bisection with all of them."""
        to = self.plan.rounds[0]
        low, high = 0.0, math.inf
        factor = 1.0
        while self._in_reach(factor) and not (low and math.isfinite(high)):
            yield from self.run(factor, to, seeds=1)
            if self.bad(factor):
                high, factor = factor, factor / DECADE
            else:
                low, factor = factor, factor * DECADE
        while low:
            yield from self.run(low, to)
            if not self.bad(low):
                break
            high, low = low, (low / DECADE if low / DECADE >= 1 / REACH else 0.0)
        while low and math.isfinite(high) and high / low > RESOLVED:
            middle = math.sqrt(low * high)
            yield from self.run(middle, to)
            low, high = (low, middle) if self.bad(middle) else (middle, high)
        self.low, self.high = low, high

    def _in_reach(self, factor: float) -> bool:
        """Within `REACH`; beyond it upward, as far as its square, while the loss goes on falling.

        So a start that is far too small is followed up, and a loss without an edge is not.
        """
        if 1 / REACH <= factor <= REACH:
            return True
        if not REACH < factor <= REACH**2:
            return False
        last, before = (self.trials[factor / DECADE**k][0].last for k in (1, 2))
        return last < before

    # -- the choice ------------------------------------------------------------------------------
    def choose(self) -> Iterator[None]:
        """Rates below the edge in four rounds: two over all seeds, two with the first one."""
        first, second, third, longest = self.plan.rounds
        yield from self._descend(self.low / self.plan.backoff, first)
        self.limit = first
        keep = self._promising(self.candidates)
        if keep and self.left >= len(keep) * len(self.plan.seeds) * (second - first):
            yield from self._round(keep, second)
            keep = self._promising([f for f in keep if not self.bad(f)])
        if keep and self.left >= 2 * len(keep) * (third - self.limit):
            yield from self._round(keep, third, seeds=1)
        yield from self._last_round(keep, longest)

    def _round(self, keep: list[float], to: int, seeds: int | None = None) -> Iterator[None]:
        """Run `keep` to `to` steps; add smaller rates while the smallest is the best of them."""
        for factor in keep:
            yield from self.run(factor, to, seeds)
        self.limit = to
        while self._best(keep) in (min(keep), None) and len(self.candidates) < MOST:
            if self.left < 3 * to * len(self.plan.seeds[:seeds]):
                return
            factor = min(keep) / SPACING
            yield from self.run(factor, to, seeds)
            if factor not in self.candidates:
                self.candidates.append(factor)
            keep.append(factor)

    def _descend(self, top: float, to: int) -> Iterator[None]:
        """Candidates downward from the top until two in a row are worse than the best."""
        factor, worse, best = top, 0, math.inf
        while len(self.candidates) < MOST and not (worse >= 2 and len(self.candidates) >= FEWEST):
            yield from self.run(factor, to)
            self.candidates.append(factor)
            mean = self.mean(factor, to)
            worse = 0 if mean < best or math.isinf(mean) else worse + 1
            best = min(best, mean)
            factor /= SPACING

    def _best(self, factors: list[float]) -> float | None:
        good = [f for f in factors if not self.bad(f)]
        return min(good, key=lambda f: self.mean(f, self.limit)) if good else None

    def _promising(self, factors: list[float]) -> list[float]:
        """The best rate, the largest that is no worse, and what lies beside the best."""
        best = self._best(factors)
        if best is None:
            return []
        good = [f for f in self.candidates if f in factors and not self.bad(f)]
        leading = max(f for f in good if f == best or not self.worse(f, best, self.limit))
        at = self.candidates.index(best)
        beside = self.candidates[at + 1 : at + 2] + self.candidates[max(0, at - 1) : at]
        rest = sorted(good, key=lambda f: self.mean(f, self.limit))
        wanted = dict.fromkeys([best, leading, *beside, *rest])
        return [f for f in wanted if not self.bad(f)][:KEPT]

    def _last_round(self, keep: list[float], longest: int) -> Iterator[None]:
        """The two best as far as the steps left allow, with the first seed."""
        reached = [f for f in keep if not self.bad(f) and self._at(f) < math.inf]
        finalists = sorted(reached, key=self._at)[:FINALISTS]
        if not finalists:
            return
        to = min(longest, self.limit + self.left // len(finalists))
        for share in TAIL:
            for factor in finalists:
                yield from self.run(factor, max(self.limit, int(share * to)), seeds=1)
        if all(self.bad(f) for f in finalists):  # later: the next lower rate, as far as it was run
            below = [f for f in self.candidates if f < min(finalists) and not self.bad(f)]
            finalists = sorted(below, reverse=True)[:1]
        else:
            self.limit = to
        self.finalists = sorted((f for f in finalists if not self.bad(f)), key=self.tail)

    def _at(self, factor: float) -> float:
        """Loss of the first seed in the round before the last."""
        return self.trials[factor][0].losses.get(self.limit, math.inf)
