"""What the finished trials say: the rate, its interval, the edges, or why there is none."""

from __future__ import annotations

import math

from torch import nn

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.learning_rate.result import Candidate, Edge, RecommendedRate, TrialRow
from thermolearn.measure.learning_rate.search import Search

GAIN = 0.01  # of the scale: less than this is no gain
UNSEEN = (
    "constant rate: a scheduler, gradient clipping, gradient accumulation, autocast and loss "
    "scaling in the training loop are not seen by the trials"
)


def conclude(search: Search, constant: float, spread: float, steps: int) -> RecommendedRate:
    task, plan = search.task, search.plan
    rate = task.rate
    found = sorted(search.candidates, reverse=True)
    candidates = tuple(_candidate(search, f) for f in found)
    best = search.finalists[0] if search.finalists else None
    reached = _reached(search, best)
    gain = _gain(search, reached, constant, spread)
    if best is None or gain:
        status, note = _none(search) if best is None else ("plateau", gain)
        factor, interval = math.nan, (math.nan, math.nan)
    else:
        factor, interval = best, _interval(search, best)
        status, note = _status(search, best)
    return RecommendedRate(
        lr=rate * factor,
        interval=(rate * interval[0], rate * interval[1]),
        status=status,
        note=note,
        rates=tuple(r * factor for r in task.rates),
        loss=reached,
        start_loss=search.start,
        constant_loss=constant,
        output_spread=spread,
        edge=Edge(rate * search.low, rate * search.high, plan.rounds[0]),
        later_edges=tuple(_edge(search, k) for k in _lengths(search)),
        candidates=candidates,
        trials=tuple(
            TrialRow(t.lr, t.seed, t.steps, t.first, t.last, t.diverged, t.reason)
            for trials in search.trials.values()
            for t in trials
        ),
        cost=search.spent,
        steps=steps,
        seeds=len(plan.seeds),
        notes=_notes(search),
    )


def _lengths(search: Search) -> list[int]:
    """Lengths of the rounds after the first that were run."""
    planned = search.plan.rounds[1:3]
    return [k for k in planned if k < search.limit] + [search.limit] * bool(search.finalists)


def _edge(search: Search, steps: int) -> Edge:
    """The bracket among the rates that were run so far, or diverged before."""
    tried = search.trials.items()
    bad = [f for f, ts in tried if any(t.diverged and t.steps <= steps for t in ts)]
    high = min(bad, default=math.inf)
    good = [f for f, ts in tried if f < high and any(t.steps >= steps for t in ts)]
    rate = search.task.rate
    return Edge(rate * max(good, default=0.0), rate * high, steps)


def _notes(search: Search) -> tuple[str, ...]:
    """What the trials did not see, and what they took beyond the steps allowed."""
    task, plan = search.task, search.plan
    notes = [UNSEEN]
    if any("initial_lr" in g for g in task.optimizer.param_groups):
        notes.append("a scheduler is attached: it overwrites lr from initial_lr; set that, too")
    if len(set(task.rates)) > 1:
        notes.append("the groups' rates keep their ratios; lr is that of the first that trains")
    own = {id(p) for p in task.model.parameters()}
    if isinstance(task.loss, nn.Module):
        own |= {id(p) for p in task.loss.parameters()}
    held = [p for g in task.optimizer.param_groups for p in g["params"]]
    if any(id(p) not in own for p in held):
        notes.append("the optimizer also holds parameters of neither model nor loss: not trained")
    if len({p.dtype for p in task.model.parameters()}) > 1:
        notes.append("the model's parameters have several precisions; each was trained in its own")
    if search.spent > plan.allowed:
        notes.append(
            f"the edge and the first round took {search.spent} steps, more than the "
            f"{plan.allowed} allowed; start from a rate nearer to the edge"
        )
    return tuple(notes)


def _candidate(search: Search, factor: float) -> Candidate:
    """Loss over the seeds in the longest round that all took, and at the end of the first seed."""
    trials = search.trials[factor]
    common = max(set.intersection(*(set(t.losses) for t in trials)))
    n_bad = sum(t.diverged for t in trials)
    loss = (
        Estimate(math.nan, math.nan, status="diverged", note=f"{n_bad} of {len(trials)} seeds")
        if n_bad
        else mean_estimate(search.losses(factor, common), note=f"after {common} steps")
    )
    rate = search.task.rate * factor
    return Candidate(rate, common, loss, trials[0].steps, trials[0].last, n_bad)


def _reached(search: Search, best: float | None) -> Estimate:
    """Loss at the end of the last round; its error is the spread of seeds in the round before."""
    if best is None:
        return Estimate(math.nan, math.nan, status="diverged")
    before = _candidate(search, best).loss
    return Estimate(
        search.tail(best),
        math.sqrt(len(search.plan.seeds)) * float(before.stderr),
        1.0,
        note=f"after {search.limit} steps with the first seed; error: spread of one seed in the "
        "round before",
    )


def _gain(search: Search, reached: Estimate, constant: float, spread: float) -> str:
    """Why this is a plateau; empty if the loss went down."""
    target = min(search.start, constant) if math.isfinite(constant) else search.start
    value = float(reached) if math.isfinite(float(reached)) else math.inf
    margin = GAIN * search.scale
    if value < target - margin:
        return ""
    tried = [t.lr for trials in search.trials.values() for t in trials]
    span = f"no learning rate from {min(tried):.2g} to {max(tried):.2g}"
    if math.isfinite(constant) and search.start < constant - margin:
        return (
            f"{span} lowers the loss of {search.start:.4g} any further: the parameters are at a "
            "minimum for these settings, or stuck"
        )
    floor = f" of the best constant output, {constant:.4g}," if math.isfinite(constant) else ""
    return (
        f"initialization first: {span} brings the loss below that{floor or ' of the start,'} in "
        f"{search.limit} steps. The outputs vary by {spread:.2g} between samples at the start: a "
        "signal that does not reach the output, or no relation between inputs and targets, is not "
        "mended by a learning rate"
    )


def _none(search: Search) -> tuple[str, str]:
    """Status and note where no rate came through."""
    tried = sorted(search.trials)
    rate = search.task.rate
    if not search.low:
        return "diverged", (
            f"every learning rate from {rate * tried[0]:.2g} to {rate * tried[-1]:.2g} diverged; "
            "look at the data, the loss and the optimizer's other settings"
        )
    return "under-sampled", (
        "the rates below the edge of short trials diverged in longer ones; allow more steps with "
        "cost=, or a larger backoff="
    )


def _interval(search: Search, best: float) -> tuple[float, float]:
    """Factors around the best that are not worse by more than two standard errors.

    In the last round, of one seed, the error is that of one seed in the round before.
    """
    ordered = sorted(search.candidates)
    at = ordered.index(best)
    ends = []
    for path in (ordered[at - 1 :: -1] if at else [], ordered[at + 1 :]):
        end = best
        for factor in path:
            if _worse(search, factor, best):
                end = math.sqrt(end * factor)
                break
            end = factor
        ends.append(end)
    return ends[0], ends[1]


def _worse(search: Search, factor: float, best: float) -> bool:
    """Whether a rate's loss is above the best's where both were last taken."""
    if search.bad(factor):
        return True
    shared = set.intersection(*(set(t.losses) for f in (factor, best) for t in search.trials[f]))
    steps = max(shared)
    if factor not in search.finalists:
        return search.worse(factor, best, steps)
    gaps = search.losses(factor, steps) - search.losses(best, steps)
    margin = max(2 * float(gaps.std(ddof=1)), GAIN * search.scale)
    return search.tail(factor) - search.tail(best) > margin


def _status(search: Search, best: float) -> tuple[str, str]:
    seeds = len(search.plan.seeds)
    note = (
        f"the lowest loss after {search.limit} steps among the rates up to "
        f"1/{search.plan.backoff:g} of the edge, {seeds} seeds"
    )
    if search.limit < search.plan.rounds[1]:
        return "under-sampled", note + "; the steps allowed ended after the first round"
    if not math.isfinite(search.high):
        return "no edge", note + "; no rate diverged within the range searched"
    if best == min(search.candidates):
        return "lowest tried", note + "; it is the smallest rate tried, a smaller may be better"
    return "ok", note
