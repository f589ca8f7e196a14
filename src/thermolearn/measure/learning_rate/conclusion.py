"""What the finished trials say: the rate, its interval, the edges, or why there is none."""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.learning_rate.copies import owner_of
from thermolearn.measure.learning_rate.result import Candidate, Edge, RecommendedRate, TrialRow
from thermolearn.measure.learning_rate.search import Search

GAIN = 0.01  # of the scale: less than this is no gain
TIED = 0.01  # of the best loss: less than this above it is no worse
UNBOUNDED = 1e4  # scales below the start: no loss with a lower bound gets there
UNSEEN = (
    "constant rate: a scheduler, gradient clipping, gradient accumulation, autocast and loss "
    "scaling in the training loop are not seen by the trials"
)


def conclude(search: Search, constant: float, spread: float, steps: int) -> RecommendedRate:
    """The recommended rate, its interval and its status from a finished search.

    `constant` is the loss of the best constant output, `spread` that of the outputs over the
    samples, `steps` the length of the training that is asked about.
    """
    task, plan = search.task, search.plan
    rate = task.rate
    found = sorted(search.candidates, reverse=True)
    candidates = tuple(_candidate(search, f) for f in found)
    best = search.finalists[0] if search.finalists else None
    reached = _reached(search, best)
    gain = _gain(search, reached, constant, spread)
    endless = _unbounded(search)
    if endless or best is None or gain:
        status, note = endless or (_none(search) if best is None else ("plateau", gain))
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
        capped=interval[1] == max(search.candidates, default=0.0),
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
    trained = own | {id(p) for g in task.optimizer.param_groups for p in g["params"]}
    owner = owner_of(task.loss)
    if isinstance(owner, nn.Module):
        own |= {id(p) for p in owner.parameters()}
    if isinstance(owner, nn.Module) and any(
        p.requires_grad and id(p) not in trained for p in owner.parameters()
    ):
        notes.append(
            "the loss holds parameters that neither the model nor the optimizer holds: not trained"
        )
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
    """Loss at the end of the last round, of one seed: without an error bar."""
    if best is None:
        return Estimate(math.nan, math.nan, status="diverged")
    return Estimate(
        search.tail(best),
        math.nan,
        1.0,
        note=f"after {search.limit} steps with the first seed alone, so without an error bar; the "
        "spread over the seeds after fewer steps stands with the candidates",
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
    if _falling(search):
        return (
            f"{span} diverged, and the loss was lowest at the largest: {value:.4g} of "
            f"{search.start:.4g} at the start; start the search from a larger rate, or allow more "
            "steps"
        )
    if not math.isfinite(constant):
        return f"{span} lowers the loss of {search.start:.4g} in {search.limit} steps" + (
            ": the gradient is 0" if search.slope == 0 else ""
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


def _falling(search: Search) -> bool:
    """Whether nothing diverged and the largest rate tried is the best: the edge is further up."""
    if math.isfinite(search.high) or search.slope == 0:
        return False
    at = search.plan.rounds[0]
    ends = {f: ts[0].losses.get(at, math.inf) for f, ts in search.trials.items()}
    return ends[max(ends)] == min(ends.values())


def _unbounded(search: Search) -> tuple[str, str] | None:
    """Status and note where a trial's loss fell without end."""
    seen = [v for ts in search.trials.values() for t in ts for v in t.losses.values()]
    lowest = min(v for v in seen if not math.isnan(v))
    if not lowest < search.start - UNBOUNDED * search.scale:
        return None
    return "unbounded", (
        f"the loss fell from {search.start:.4g} to {lowest:.4g} within "
        f"{search.limit or search.plan.rounds[0]} steps: it has no lower bound, so that no "
        "learning rate is best; look at its sign"
    )


def _interval(search: Search, best: float) -> tuple[float, float]:
    """Factors around the best at which the loss is no worse than the margin of `_excess`.

    Between two rates tried the loss is interpolated linearly in log(rate).
    """
    ordered = sorted(search.candidates)
    at = ordered.index(best)
    ends = []
    for path in (ordered[at - 1 :: -1] if at else [], ordered[at + 1 :]):
        end, before = best, 0.0
        for factor in path:
            gap, margin = _excess(search, factor, best)
            if gap > margin:
                share = max(0.0, (margin - before) / (gap - before)) if gap > before else 0.0
                end *= (factor / end) ** share
                break
            end, before = factor, gap
        ends.append(end)
    return ends[0], ends[1]


def _excess(search: Search, factor: float, best: float) -> tuple[float, float]:
    """How far a rate's loss is above the best's where both were last taken, and what is no worse.

    The margin is the larger of 1% of the best loss there and two standard errors of the difference
    over the seeds. Where only the first seed was taken, the error is the spread of the differences
    between seeds in the last round that all took, in proportion to the loss.
    """
    if search.bad(factor):
        return math.inf, 0.0
    ours, theirs = (search.trials[f] for f in (factor, best))
    common = max(set.intersection(*(set(t.losses) for t in (*ours, *theirs))))
    pairs = list(zip(ours, theirs, strict=False))
    gaps = np.array([a.losses[common] - b.losses[common] for a, b in pairs])
    level = float(np.mean([b.losses[common] for _, b in pairs]))
    spread = float(gaps.std(ddof=1)) if len(gaps) > 1 else 0.0
    last = max(set(ours[0].losses) & set(theirs[0].losses))
    if last == common:
        gap, error = float(gaps.mean()), spread / math.sqrt(len(gaps))
    else:
        tail = factor in search.finalists
        high, low = (
            search.tail(f) if tail else ts[0].losses[last]
            for f, ts in ((factor, ours), (best, theirs))
        )
        gap, error = high - low, spread * min(1.0, abs(low / level)) if level else 0.0
        level = low
    return gap, max(2 * error, TIED * abs(level))


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
    if best == max(search.candidates):
        note += (
            "; it is the largest rate allowed, the lower end of the edge over backoff, and larger "
            "ones were not compared"
        )
    return "ok", note
