"""What a search for a learning rate returns: the rate, its interval, and every trial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from thermolearn.core.estimate import Estimate

SPACING = 2.5  # between the learning rates compared
COLUMNS = ("lr", "seed", "steps", "first loss", "last loss", "diverged", "reason")


@dataclass(frozen=True)
class TrialRow:
    """The evidence of one training: loss on the held samples at its first and last step."""

    lr: float
    seed: int
    steps: int
    first_loss: float
    last_loss: float
    diverged: bool
    reason: str


@dataclass(frozen=True)
class Edge:
    """The bracket of the divergence edge.

    Attributes
    ----------
    low, high : float
        Largest learning rate below which no trial diverged on any seed, and the smallest at which
        one did; 0 and infinity where none was found.
    steps : int
        Length of the trials of the bracket. Longer trials can diverge below it.
    """

    low: float
    high: float
    steps: int


@dataclass(frozen=True)
class Candidate:
    """One learning rate of the choice.

    Attributes
    ----------
    loss : Estimate
        After `steps`, the longest round that all seeds took; standard error over the seeds.
    last_loss : float
        After `last_steps`, where the first seed ended.
    diverged : int
        Number of seeds that diverged.
    """

    lr: float
    steps: int
    loss: Estimate
    last_steps: int
    last_loss: float
    diverged: int


@dataclass(frozen=True)
class RecommendedRate:
    """A learning rate with its evidence.

    Attributes
    ----------
    lr : float
        Of the first parameter group that trains; NaN where none can be recommended.
    interval : (float, float)
        Learning rates around it at which the loss is at most the best's plus the larger of 1% of it
        and two standard errors, where both were last taken; between rates tried (a factor of 2.5
        apart) the loss is interpolated linearly in log(lr). An end at the smallest or largest rate
        tried is a limit of the search.
    status : str
        ``"ok"``; ``"plateau"`` (no learning rate lowers the loss: lr is NaN); ``"no edge"`` (no
        learning rate diverged, lr is chosen by the loss alone); ``"lowest tried"`` (nothing
        smaller was tried); ``"under-sampled"`` (the steps allowed ended before the choice);
        ``"unbounded"`` (the loss falls without end: lr is NaN); ``"diverged"`` (every rate
        diverged: lr is NaN).
    note : str
        The condition in words.
    rates : tuple of float
        One per parameter group, in their given ratios.
    loss : Estimate
        Loss reached in the last round at `lr`, of one seed: standard error NaN.
    start_loss, constant_loss : float
        Loss at the present parameters, and that of the best constant output, on the same samples;
        the latter is NaN where it cannot be found or inputs or targets do not vary.
    output_spread : float
        Standard deviation of the model's outputs between samples at the start.
    edge : Edge
        In the shortest trials, resolved to a factor of 2.
    later_edges : tuple of Edge
        In the longer rounds, as far as the rates that were run there tell.
    candidates : tuple of Candidate
        The learning rates at or below the edge, each at the longest round that it reached.
    trials : tuple of TrialRow
        Every training.
    cost : int
        Optimizer steps spent; `steps` is the length of the training that the rate is for.
    notes : tuple of str
        What was not seen or not done.
    capped : bool
        The upper end of the interval is the largest rate compared (the lower end of the edge over
        ``backoff``, or the end of the range searched): a limit, not a rate that is worse.
    """

    lr: float
    interval: tuple[float, float]
    status: str
    note: str
    rates: tuple[float, ...]
    loss: Estimate
    start_loss: float
    constant_loss: float
    output_spread: float
    edge: Edge
    later_edges: tuple[Edge, ...]
    candidates: tuple[Candidate, ...]
    trials: tuple[TrialRow, ...]
    cost: int
    steps: int
    seeds: int
    notes: tuple[str, ...] = ()
    capped: bool = False

    @property
    def estimate(self) -> Estimate:
        """The rate; its error bar is half the interval, at least half a step of the rates tried."""
        low, high = self.interval
        step = self.lr * (math.sqrt(SPACING) - 1 / math.sqrt(SPACING))
        half = 0.5 * max(high - low, step) if math.isfinite(self.lr) else math.nan
        return Estimate(self.lr, half, float(self.seeds), self.status, self.note)

    def apply_(self, optimizer: Any) -> None:
        """Set the rates in the optimizer's groups, in place.

        Raises
        ------
        ValueError
            There is nothing to recommend, or the groups are not those of the search.
        """
        if not math.isfinite(self.lr):
            raise ValueError(f"no learning rate can be recommended: {self.note}")
        if len(optimizer.param_groups) != len(self.rates):
            raise ValueError(
                f"optimizer has {len(optimizer.param_groups)} parameter groups, the search had "
                f"{len(self.rates)}"
            )
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            if hasattr(group["lr"], "fill_"):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def table(self) -> dict[str, list[Any]]:
        """Every trial as ``{"columns": [...], "rows": [[...]]}``, by learning rate and seed."""
        rows = [
            [t.lr, t.seed, t.steps, t.first_loss, t.last_loss, t.diverged, t.reason]
            for t in sorted(self.trials, key=lambda t: (t.lr, t.seed))
        ]
        return {"columns": list(COLUMNS), "rows": rows}

    def __str__(self) -> str:
        low, high = self.interval
        limit = ", the largest compared" if self.capped else ""
        lines = [
            f"learning rate {self.lr:.3g} (interval {low:.3g} to {high:.3g}{limit}) "
            f"[{self.status}]",
            self.note,
            "interval: loss within 1% or two standard errors of the best",
            f"edge between {self.edge.low:.3g} and {self.edge.high:.3g} in trials of "
            f"{self.edge.steps} steps"
            + "".join(f"; {e.low:.3g} and {e.high:.3g} in {e.steps}" for e in self.later_edges),
            f"loss at the start {self.start_loss:.4g}, best constant output "
            f"{self.constant_loss:.4g}; {self.cost} steps spent for a training of {self.steps}",
            "      lr   steps  loss over seeds        steps  loss of the first",
        ]
        lines += [
            f"{c.lr:8.3g}  {c.steps:6d}  {c.loss!s:<20}  {c.last_steps:6d}  {c.last_loss:.4g}"
            for c in self.candidates
        ]
        return "\n".join([*lines, *self.notes])
