"""Rows to MLflow."""

from __future__ import annotations

import re
import time
from typing import Any

from thermolearn.measure.sinks.runs import Runs
from thermolearn.measure.sinks.scalars import ROOT, Names, described, remark, require, scalars

BATCH = 1000  # metrics in one request, the most that MLflow takes
TAG = 4900  # characters; MLflow takes 5000
FORBIDDEN = re.compile(r"[^\w./ -]|(?<=/)/+|\.\.+")  # in the name of a metric


class MLflow:
    """Logs into a run of MLflow through its client; ``mlflow`` or ``mlflow-skinny`` will do.

    Numbers are metrics at their step, the header and remarks are tags. Characters that MLflow
    does not allow in a name become underscores. Used again, the sink begins another run; with
    `run_id` it raises instead.

    Parameters
    ----------
    experiment : str
        Made if there is none of this name.
    tracking_uri : str, optional
        Where the runs are kept; by default what MLflow itself uses (``MLFLOW_TRACKING_URI``, or
        its local store; mlflow-skinny has only a folder, ``file:...``, for which MLflow asks to
        set ``MLFLOW_ALLOW_FILE_STORE=true``).
    run_id : str, optional
        A run that is open already; it is left open.
    run_name : str, optional
        Of the new run.

    Raises
    ------
    ImportError
        Neither package is installed.
    TypeError
        Both run_id and run_name.
    """

    def __init__(
        self,
        experiment: str = ROOT,
        *,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
    ):
        require("mlflow", "mlflow")
        if run_id is not None and run_name is not None:
            raise TypeError("run_name is for a new run, run_id for one that is open: give one")
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self.run_name = run_name
        self._own = run_id is None
        self._client: Any = None
        self._step = 0
        self._remarks: list[str] = []
        self._runs = Runs()
        self._names = Names(FORBIDDEN)

    def write(self, row: dict[str, Any]) -> None:
        """Every number of a row at its step; the header goes to the run's tags.

        Raises
        ------
        RuntimeError
            A second run for the one `run_id`.
        """
        if self._runs.begins(row):
            self._anew()
        client = self._open()
        if row["kind"] == "header":
            for key, text in described(row).items():
                client.set_tag(self.run_id, f"{ROOT}.{key}", text[:TAG])
            return
        if said := remark(row):
            self._remarks.append(said)
            client.set_tag(self.run_id, f"{ROOT}.remarks", "\n".join(self._remarks)[:TAG])
            return
        self._log(client, row)

    def _log(self, client: Any, row: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = []
        for name, step, value in scalars(row, self._step):
            metrics.append(Metric(self._names(name), value, now, step))
            self._step = max(self._step, step)
        for k in range(0, len(metrics), BATCH):
            client.log_batch(self.run_id, metrics=metrics[k : k + BATCH])

    def _anew(self) -> None:
        """Nothing of the run before is left."""
        if not self._own:
            raise RuntimeError(
                f"run {self.run_id} holds a measurement already; give each its own MLflow(run_id=)"
            )
        self._end()
        self.run_id = None
        self._step, self._remarks, self._names = 0, [], Names(FORBIDDEN)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """A run that goes on is opened again."""
        if self._runs.goes_on(rows) and self._own:
            self._open().update_run(self.run_id, status="RUNNING")

    def _open(self) -> Any:
        if self._client is None:
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=self.tracking_uri)
            if self.run_id is None:
                known = client.get_experiment_by_name(self.experiment)
                number = (
                    client.create_experiment(self.experiment)
                    if known is None
                    else known.experiment_id
                )
                self.run_id = client.create_run(number, run_name=self.run_name).info.run_id
            self._client = client
        return self._client

    def close(self) -> None:
        """End the run if it was begun here."""
        self._end()
        self._runs.end()

    def _end(self) -> None:
        if self._own and self._client is not None:
            self._client.set_terminated(self.run_id)
            self._client = None
