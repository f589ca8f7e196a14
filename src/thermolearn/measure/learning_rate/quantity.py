"""The recommended learning rate of a run's initial parameters, as a quantity of the Probe."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.canonical.rows import values_row
from thermolearn.measure.learning_rate.copies import owner_of
from thermolearn.measure.learning_rate.recommend import recommend_lr
from thermolearn.measure.learning_rate.result import RecommendedRate
from thermolearn.measure.window import Run, Window

BATCH = 32  # where the run does not tell its own


class LearningRate:
    """Whether the run's learning rate was near the one that short trainings recommend.

    ``learning_rate``: of the first parameter group, at each snapshot. At the end of the run
    `recommend_lr` searches from the parameters of the first snapshot on the *reference set*, with
    an optimizer of the run's class and settings and an empty state, for a training of the run's
    length, at most `most_steps`. Not among the default quantities: it costs about 3.5 trainings of
    that length.

    Parameters
    ----------
    most_steps : int
        Longer runs are searched for as if they had this many steps.
    batch_size : int, optional
        Default: that of the run, at most half the reference set.
    """

    name = "learning_rate"

    def __init__(self, most_steps: int = 1000, batch_size: int | None = None):
        self.most_steps = most_steps
        self.batch_size = batch_size

    def measure(self, window: Window) -> dict[str, Estimate]:
        rate = window.snapshot.learning_rate
        status = "ok" if math.isfinite(rate) else "not applicable"
        return {"learning_rate": Estimate(rate, 0.0, status=status)}

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Raises NotApplicableError where no search can be made from the first snapshot."""
        window = run.first
        n = len(window.reference[0])
        known = run.snapshots[-1].batch_size
        size = self.batch_size or (BATCH if known is None else max(1, round(known)))
        steps = max(64, min(self.most_steps, run.last.step))
        model, owner = window.model, owner_of(window.loss_fn)
        own = {id(p) for p in model.parameters()}
        if isinstance(owner, torch.nn.Module) and any(id(p) not in own for p in owner.parameters()):
            raise NotApplicableError(
                "the loss holds parameters, or a model, and the optimizer's part of them is not "
                "recorded; call thermolearn.measure.learning_rate.recommend_lr with your own "
                "model, loss and optimizer"
            )
        result = recommend_lr(
            model,
            window.loss_fn,
            window.reference,
            rebuilt(window.optimizer, model),
            batch_size=min(size, max(1, n // 2)),
            steps=steps,
            seed=run.setting.seed,
        )
        return [summary_row(result, window.snapshot.learning_rate, n)]


def rebuilt(settings: dict[str, Any], model: torch.nn.Module) -> torch.optim.Optimizer:
    """An optimizer of torch's by its recorded name and settings, over the trained parameters.

    Raises
    ------
    NotApplicableError
        Not one of ``torch.optim``, no finite rate > 0, or groups of different rates.
    """
    name = str(settings.get("name", ""))
    kind: Any = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise NotApplicableError(
            f"the optimizer {name!r} is not one of torch.optim, so it cannot be rebuilt; call "
            "thermolearn.measure.learning_rate.recommend_lr with the optimizer itself"
        )
    rate = settings.get("lr")
    if not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise NotApplicableError(f"the first learning rate of the run is {rate}, no start")
    if not settings.get("one_rate", True):
        raise NotApplicableError(
            "the run's parameter groups have different learning rates, and only the first group's "
            "settings are recorded; call recommend_lr with the optimizer itself"
        )
    taken = inspect.signature(kind.__init__).parameters
    left_out = ("name", "params", "capturable", "fused", "foreach", "differentiable")
    given = {k: v for k, v in settings.items() if k in taken and k not in left_out}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    make: Any = kind
    return make([p for p in model.parameters() if p.requires_grad], **given)


def summary_row(result: RecommendedRate, own: float, n: int) -> dict[str, Any]:
    """The row of the record: the rate, the edge, and the loss against the rate. `own` is the rate
    of the run, n the samples that the trials were trained on."""
    low, high = result.interval
    edge = result.edge
    values = values_row(
        recommended=result.estimate,
        recommended_low=Estimate(low, status=result.status),
        recommended_high=Estimate(
            high,
            status="limit" if result.capped else result.status,
            note="the largest rate compared" if result.capped else "",
        ),
        edge_low=Estimate(edge.low, note=f"no trial of {edge.steps} steps diverged up to here"),
        edge_high=Estimate(
            edge.high,
            status="ok" if math.isfinite(edge.high) else "no edge",
            note=f"a trial of {edge.steps} steps diverged here",
        ),
        run_lr=Estimate(own, note="of the run at its start"),
        start_loss=result.start_loss,
        constant_loss=Estimate(
            result.constant_loss,
            status="ok" if math.isfinite(result.constant_loss) else "not applicable",
        ),
        cost_steps=float(result.cost),
        horizon_steps=float(result.steps),
    )
    rows = [
        [c.lr, c.steps, float(c.loss), float(c.loss.stderr), c.last_steps, c.last_loss, c.diverged]
        for c in sorted(result.candidates, key=lambda c: c.lr)
    ]
    return {
        "kind": "summary",
        "quantity": "learning_rate",
        "values": values,
        "tables": {
            "learning_rate": {
                "columns": [
                    "learning rate",
                    "steps",
                    "loss",
                    "loss stderr",
                    "last step",
                    "last loss",
                    "seeds diverged",
                ],
                "rows": [[_plain(c) for c in row] for row in rows],
            },
            "trials": {
                **result.table(),
                "rows": [[_plain(c) for c in row] for row in result.table()["rows"]],
            },
        },
        "notes": [
            result.note,
            f"searched on the {n} reference samples for a training of {result.steps} steps, from "
            "the parameters of the first snapshot and an empty optimizer state",
            *result.notes,
        ],
    }


def _plain(cell: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
