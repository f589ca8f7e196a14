"""Rows to Weights & Biases."""

from __future__ import annotations

from typing import Any

from thermolearn.measure.sinks.runs import Runs
from thermolearn.measure.sinks.scalars import ROOT, described, remark, require, scalars

STEP = f"{ROOT}/step"


class WandB:
    """Logs into a run of Weights & Biases, one of its own or the one the training writes to.

    Most rows are finished after their step has passed, and a run takes only growing steps; the
    curves therefore have an axis of their own, ``thermolearn/step``. Used again, the sink begins
    another run; with `run` it raises instead.

    Parameters
    ----------
    project : str, optional
        Of the run that is begun with the first row and ended by `close`.
    run : wandb.Run, optional
        A run that is open already; it is left open. For instance ``wandb.run``, or
        ``logger.experiment`` of Lightning's WandbLogger.
    settings
        Handed to ``wandb.init``: ``name``, ``entity``, ``group``, ``mode="offline"``, ...

    Raises
    ------
    ImportError
        wandb is not installed.
    TypeError
        Both a run and settings for another one.
    """

    def __init__(self, project: str | None = None, *, run: Any = None, **settings: Any):
        require("wandb", "wandb")
        if run is not None and (project is not None or settings):
            raise TypeError("run: give an open run, or project and settings of a new one, not both")
        self._own = run is None
        self._settings = {"project": project, **settings}
        self._run = run
        self._ready = False
        self._step = 0
        self._remarks: list[str] = []
        self._runs = Runs()

    def write(self, row: dict[str, Any]) -> None:
        """Every number of a row at its step; the header goes to the run's configuration.

        Raises
        ------
        RuntimeError
            A second run for the one `run`.
        """
        if self._runs.begins(row):
            self._anew()
        run = self._open()
        kind = row["kind"]
        if kind == "header":
            run.config.update({ROOT: described(row)}, allow_val_change=True)
        elif kind == "summary":
            run.summary.update({s.name: s.value for s in scalars(row, self._step)})
        elif said := remark(row):
            self._remarks.append(said)
            run.summary[f"{ROOT}/remarks"] = list(self._remarks)
        else:
            by_step: dict[int, dict[str, float]] = {}
            for name, step, value in scalars(row):
                by_step.setdefault(step, {})[name] = value
            for step, values in by_step.items():
                run.log({STEP: step, **values})
                self._step = max(self._step, step)

    def _anew(self) -> None:
        """Nothing of the run before is left."""
        if not self._own:
            raise RuntimeError(
                "the run of Weights & Biases holds a measurement already; give each its own "
                "WandB(run=)"
            )
        self._end()
        self._step, self._remarks = 0, []

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """A run that goes on after its end is another one here, under the same header."""
        if self._runs.goes_on(rows) and self._own and self._run is None:
            self.write(rows[0])

    def _open(self) -> Any:
        if self._run is None:
            import wandb

            self._run = wandb.init(**self._settings)
        if not self._ready:
            self._ready = True
            self._run.define_metric(STEP, hidden=True)
            self._run.define_metric(f"{ROOT}/*", step_metric=STEP)
        return self._run

    def close(self) -> None:
        """End the run if it was begun here."""
        self._end()
        self._runs.end()

    def _end(self) -> None:
        if self._own and self._run is not None:
            self._run.finish()
            self._run, self._ready = None, False
