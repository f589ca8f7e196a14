"""The one instrument: measures a training run and leaves it bitwise as it was."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.copying import fingerprint, untouched, unwrap
from thermolearn.core.progress import track
from thermolearn.measure.recorder import Recorder
from thermolearn.measure.reference import Collector, check_pair, draw
from thermolearn.measure.run_log import RunLog, check_writable, table, write_rows
from thermolearn.measure.session import Session
from thermolearn.measure.setting import (
    Subject,
    check_numbers,
    check_objects,
    checked_info,
    checked_quantities,
    default_quantities,
)
from thermolearn.measure.sinks.fanout import Sink, checked_sinks
from thermolearn.measure.window import Quantity

MEBIBYTE = 2**20


class Probe:
    """Measures a training loop that stays as it is.

    ::

        probe = Probe(model, loss_fn, optimizer, reference=(x_ref, y_ref), every=50)
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            probe.step(x, y, loss)
        probe.report("report.html")

    Inside the loop only the parameters are copied, every `every` optimizer steps and before the
    first one, and the minibatch losses are logged. The quantities are measured by `flush` or
    `report`, on an eval-mode float64 copy of the model and on one fixed reference set. Parameters,
    buffers, gradients, optimizer state, modes and all random generators stay bitwise as they
    would be without the Probe; each measurement checks this (row ``unchanged``). No exception of
    a measurement reaches the loop: what cannot be measured is listed with its reason.

    Parameters
    ----------
    model : nn.Module
        As trained; wrappers of data-parallel training and ``torch.compile`` are looked through.
    loss_fn : callable
        ``loss_fn(outputs, targets)``, as in the loop.
    optimizer : torch.optim.Optimizer
        Its own hook counts the steps: `step` may be called per micro-batch or per step.
    reference : (x, y), optional
        Training samples, first axis the samples, on which everything is measured; of more than
        `reference_size` that many are drawn. Default: the first samples of the loop.
    every : int
        Optimizer steps between snapshots.
    validation : (x, y), optional
        Samples for the validation loss and accuracy, all of which are used.
    reference_size : int
        Size of the reference set.
    segments : "auto" or list
        How the canonical ensemble cuts the model into layers of neurons: submodules, or lists of
        submodules to be joined, in order.
    beta : float, optional
        Inverse temperature; default: fitted to the loss of each snapshot.
    quantities : list, optional
        What to measure; default: learning, the canonical ensemble and its laws, layers, gradient
        noise.
    budget : float, optional
        Measure while training, within this fraction of the training time: a snapshot that would
        exceed it is postponed, which stretches the cadence. The final `flush` comes on top.
    memory_limit : int
        Bytes of snapshots held in memory; those beyond are spooled to a temporary folder.
    log : path, optional
        run.jsonl, appended to as rows are finished.
    sinks : sequence, optional
        Where finished rows go besides: objects with ``write(row)`` and ``close()``, such as those
        of `thermolearn.measure.sinks`. `close` closes them; one that fails is left out from then
        on, with a warning.
    seed : int
        Of the drawn reference set and of every stochastic estimate.
    energy : "squared" or "cross-entropy", optional
        Boundary energy; default: by a rule that the header records.
    info : dict, optional
        ``data``, ``seed`` and ``command`` of the run, for the header.

    Raises
    ------
    TypeError, ValueError
        Arguments that cannot be right; the message names the argument.
    OSError
        `log` cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        reference: tuple[Tensor, Tensor] | None = None,
        every: int = 50,
        *,
        validation: tuple[Tensor, Tensor] | None = None,
        reference_size: int = 256,
        segments: Any = "auto",
        beta: float | None = None,
        quantities: Sequence[Quantity] | None = None,
        budget: float | None = None,
        memory_limit: int = 512 * MEBIBYTE,
        log: str | os.PathLike[str] | None = None,
        sinks: Sequence[Sink] = (),
        seed: int = 0,
        energy: str | None = None,
        info: dict[str, Any] | None = None,
    ):
        check_objects(model, loss_fn, optimizer)
        check_numbers(every, reference_size, budget, memory_limit, seed, energy)
        if quantities is None:
            quantities = default_quantities(model, segments, beta)
        quantities = checked_quantities(quantities)
        info = checked_info(info)
        pair = None
        if reference is not None:
            pair = draw(check_pair("reference", reference), reference_size, seed)
        if validation is not None:
            validation = check_pair("validation", validation)
        self._budget = budget
        self._live_cost = 0.0  # seconds of the last live measurement, per snapshot
        self._deferred_s = 0.0
        self._unchanged = True
        self._recorded: list[dict[str, Any]] = []
        # one record of a distributed run is enough
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._active = not distributed or torch.distributed.get_rank() == 0
        sinks = checked_sinks(sinks)
        self._log = RunLog(log, sinks) if self._active else RunLog(None)
        self._recorder = Recorder(
            model,
            optimizer,
            every,
            memory_limit,
            Collector(reference_size) if pair is None else None,
            {a for q in quantities for a in getattr(q, "accumulators", ())},
            self._affordable,
        )
        if not self._active:
            self._recorder.close()
        self._session = Session(
            subject=Subject(model, loss_fn, optimizer, validation, energy, seed),
            recorder=self._recorder,
            log=self._log,
            quantities=quantities,
            reference=pair,
            info=info,
        )

    # -- in the loop -----------------------------------------------------------------------------
    def step(self, x: Any, y: Any, loss: Any) -> None:
        """Log one batch, after (or, per micro-batch, between) the optimizer's steps.

        Parameters
        ----------
        x, y : Tensor
            The batch; kept only until a reference set has been collected, if none was given.
        loss : Tensor or float
            The minibatch loss, not multiplied by a GradScaler.
        """
        if not self._active:
            return
        try:
            self._recorder.record(x, y, loss)
            if self._budget is not None and self._recorder.pending and self._affordable():
                self._measure_live()
        except Exception as error:  # the training loop never dies because of a measurement
            self._recorder.flags.append((self._recorder.steps, f"{type(error).__name__}: {error}"))

    def snapshot(self) -> None:
        """Copy the parameters as they are now, beside the cadence, unless this step has a copy.

        For the end of training, before weights are averaged or the best ones are loaded back.
        """
        recorder = self._recorder
        if self._active and recorder.started and recorder.last_step != recorder.steps:
            recorder.guarded(recorder.snapshot)

    def record(self, row: dict[str, Any]) -> None:
        """Add a summary that was made outside the run, to the record and the report.

        Raises
        ------
        ValueError
            Not a row of kind "summary" with a quantity.
        """
        if row.get("kind") != "summary" or not row.get("quantity"):
            raise ValueError("row must be a summary: {'kind': 'summary', 'quantity': ..., ...}")
        if self._active:
            self._recorded.append(row)

    def flag(self, text: str) -> None:
        """A remark on the run at the present step, for the record and the report."""
        if self._active:
            self._recorder.flags.append((self._recorder.steps, str(text)))

    def _affordable(self) -> bool:
        """Whether another measurement fits in the budget (always, if there is none)."""
        if self._budget is None:
            return True
        return self._deferred_s + self._live_cost <= self._budget * self._recorder.training_s

    def _measure_live(self) -> None:
        collector = self._recorder.collector
        if collector is not None and collector.missing:
            return
        n = len(self._recorder.pending)
        self._live_cost = self._measure_pending(None) / n

    # -- measuring -------------------------------------------------------------------------------
    def flush(self, summaries: bool = True) -> None:
        """Measure all snapshots that wait, and the present state if it is newer than they are.

        Rows are recorded one by one, so that an interrupted flush loses nothing that is finished;
        calling it again goes on. With `summaries` the quantities of the whole run follow.
        """
        recorder, session = self._recorder, self._session
        if not self._active:
            return
        if session.reference is None and not recorder.started and recorder.nothing_collected:
            return  # the loop has not begun
        if recorder.last_step is None or recorder.last_step < recorder.steps:
            recorder.guarded(recorder.snapshot)
        try:
            self._measure_pending("measuring")
        finally:  # an interrupted flush still says how far the training went
            session.write_losses(recorder.rest_of_log())
            for row in self._recorded:
                self._log.append(row)
        if summaries:
            with self._timed(), untouched():
                session.summarize()
        self._log.append(
            {
                "kind": "cost",
                "training_s": recorder.training_s,
                "in_loop_s": recorder.cost_s,
                "deferred_s": self._deferred_s,
                "snapshots": recorder.n_snapshots,
                "spooled": recorder.n_spooled,
            }
        )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Book the time inside as measuring, not as training."""
        start = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - start
            self._deferred_s += seconds
            self._recorder.clock.pause(seconds)

    def _measure_pending(self, description: str | None) -> float:
        """Measure what waits; returns the seconds that took, preparations apart."""
        subject, session = self._session.subject, self._session
        model = unwrap(subject.model)
        with self._timed():
            before = fingerprint(model, self._recorder.optimizer)
            with untouched():
                session.prepare()
                start = perf_counter()
                waiting = list(self._recorder.pending)
                for snapshot in track(waiting, description) if description else waiting:
                    session.measure(snapshot)
                session.write_flags()
            after = fingerprint(model, self._recorder.optimizer)
            self._unchanged = self._unchanged and before == after
            checked = list(before)
            self._log.append({"kind": "unchanged", "checked": checked, "ok": self._unchanged})
            return perf_counter() - start

    # -- results ---------------------------------------------------------------------------------
    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of run.jsonl so far (a copy of the list)."""
        return list(self._log.rows)

    @property
    def segmentation(self) -> list[dict[str, Any]] | None:
        """Layers of neurons as cut by the canonical ensemble; None before the first flush."""
        return self._log.rows[0].get("segmentation") if self._log.rows else None

    def table(self) -> str:
        """First and last value of every quantity with its error, and one line per layer.

        Measures first what waits, as `save` does.
        """
        recorder = self._recorder
        if recorder.pending or recorder.last_step != recorder.steps or not self._log.rows:
            self.flush()
        return table(self._log.rows)

    def save(self, path: str | os.PathLike[str] = "run.jsonl") -> None:
        """Flush and write run.jsonl; OSError at once if the path cannot be written."""
        if self._active:
            target = check_writable(path)
            self._flush_something()
            write_rows(target, self._log.rows)

    def report(self, path: str | os.PathLike[str] = "report.html", flush: bool = True) -> None:
        """Flush and write the report; OSError at once if the path cannot be written.

        With ``flush=False`` the report holds what has been measured so far.
        """
        if not self._active:
            return
        target = check_writable(path)
        if flush:
            self._flush_something()
        elif not self._log.rows:
            raise ValueError("nothing was measured yet: leave flush=False out")
        self._session.write_flags()
        # imports point one way, core <- measure <- report; only this call looks upwards
        importlib.import_module("thermolearn.report").write_report(self._log.rows, target)

    def _flush_something(self) -> None:
        self.flush()
        if not self._log.rows:
            raise ValueError(
                "nothing was recorded: call probe.step(x, y, loss) in the loop, or give reference="
            )

    def close(self) -> None:
        """Remove the hooks from the optimizer and the spooled snapshots, close the sinks."""
        self._recorder.close()
        self._log.sinks.close()

    # -- resume ----------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, in tensors and plain containers."""
        return {
            "version": 1,
            "deferred_s": self._deferred_s,
            "live_cost": self._live_cost,
            "unchanged": self._unchanged,
            "session": self._session.state_dict(),
            "recorder": self._recorder.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint: call it after the model and the optimizer are loaded.

        Raises
        ------
        ValueError
            Not a state of a Probe, or taken on another reference set.
        """
        if not isinstance(state, dict) or state.get("version") != 1 or "session" not in state:
            raise ValueError("state is not what Probe.state_dict() returned")
        if not self._active:
            return
        self._recorder.load_state_dict(state["recorder"])
        self._session.load_state_dict(state["session"])
        self._deferred_s, self._live_cost = state["deferred_s"], state["live_cost"]
        self._unchanged = state["unchanged"]
