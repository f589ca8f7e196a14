"""From snapshots to rows: the part of the Probe that runs outside the loop."""

from __future__ import annotations

import json
import math
from typing import Any

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.checkpoint import decode, encode
from thermolearn.measure.recorder import Entry, Recorder
from thermolearn.measure.reference import sha256_of
from thermolearn.measure.run_log import RunLog
from thermolearn.measure.setting import Subject, flagged, make_header, make_setting
from thermolearn.measure.window import Pair, Quantity, Run, Setting, Snapshot, Window


class Session:
    """Measures snapshots one by one and writes every row as soon as it is finished."""

    def __init__(
        self,
        subject: Subject,
        recorder: Recorder,
        log: RunLog,
        quantities: list[Quantity],
        reference: Pair | None,
        info: dict[str, Any],
    ):
        self.subject = subject
        self.recorder = recorder
        self.log = log
        self.quantities = quantities
        self.reference = reference
        self.source = "drawn from the loop" if reference is None else "given"
        self.info = info
        self.cache: dict[str, Any] = {}
        self.dropped: list[str] = []  # names of quantities that do not apply
        self.setting: Setting | None = None

    def prepare(self) -> None:
        """Reference, copy of the model, energy and header, once.

        Where nothing can be measured, every quantity is recorded as not applicable, and no further
        snapshots are taken.
        """
        recorder = self.recorder
        if self.setting is not None:
            return
        reason = recorder.reason
        if self.reference is None and recorder.collector is not None:
            self.reference = recorder.collector.pair()
            if self.reference is None:
                reason = reason or recorder.collector.reason
            recorder.collector = None
        if reason is None and self.reference is not None:
            try:
                self.setting = make_setting(self.subject, self.reference, self.cache)
            except NotApplicableError as error:
                reason = str(error)
        if not self.log.rows:
            self.log.append(self._header())
        if reason is not None:
            recorder.reason = reason
            for quantity in list(self.quantities):
                self._drop(quantity, reason)

    def _header(self) -> dict[str, Any]:
        window = None
        if self.setting is not None and self.recorder.pending:
            window = Window(self.recorder.pending[0], None, self.setting)
        reference = None if self.reference is None else (self.reference, self.source)
        return make_header(
            self.subject, reference, self.recorder.every, self.info, window, self.quantities
        )

    def measure(self, snapshot: Snapshot) -> None:
        """All rows of one snapshot; those that an interrupted call has written are not repeated."""
        recorder = self.recorder
        self.write_losses(recorder.close_window(snapshot))
        self.write_flags()
        if self.setting is not None:
            previous = recorder.kept[-1] if recorder.kept else None
            window = Window(snapshot, previous, self.setting)
            if window.finite:
                done = self._done(snapshot.step)
                for quantity in [q for q in self.quantities if q.name not in done]:
                    self._measure_one(quantity, window)
            else:
                self.flag(snapshot.step, "the parameters are not finite: nothing is measured here")
        recorder.finished(snapshot)

    def _measure_one(self, quantity: Quantity, window: Window) -> None:
        name = quantity.name
        try:
            values = {k: flagged(v) for k, v in quantity.measure(window).items()}
        except NotApplicableError as error:
            self._drop(quantity, str(error))
            return
        except Exception as error:  # a quantity that fails here may work at the next snapshot
            self._flag_once(window.step, f"{name}: {type(error).__name__}: {error}")
            return
        if not values:
            return
        row: dict[str, Any] = {"kind": "snapshot", "step": window.step, "quantity": name}
        row["values"] = values
        if name in window.names:
            row["names"] = list(window.names[name])
        self.log.append(row)
        bad = [k for k, v in values.items() if v.status == "not finite"]
        if bad:
            self.flag(window.step, f"{name}: not finite: {', '.join(bad)}")

    def _done(self, step: int) -> set[str]:
        """Quantities whose row for this step is there already."""
        done = set()
        for row in reversed(self.log.rows):
            if row["kind"] == "snapshot":
                if row["step"] != step:
                    break
                done.add(row["quantity"])
        return done

    def summarize(self) -> None:
        """The summaries of the whole run."""
        if self.setting is None or not self.recorder.kept:
            return
        run = Run(self.log.rows, list(self.recorder.kept), self.setting)
        for quantity in list(self.quantities):
            summarize = getattr(quantity, "summarize", None)
            if summarize is None:
                continue
            run.rows = self.log.rows  # with the summaries before this one
            try:
                for row in summarize(run):
                    self.log.append(row)
            except NotApplicableError as error:
                self._not_applicable(quantity.name, str(error))
            except Exception as error:
                text = f"{quantity.name}, summary: {type(error).__name__}: {error}"
                self._flag_once(self.recorder.steps, text)

    # -- rows ------------------------------------------------------------------------------------
    def write_losses(self, entries: list[Entry]) -> None:
        """One row of minibatch losses, and a flag where they stop or begin to be finite."""
        if not entries:
            return
        steps, values, samples = (list(column) for column in zip(*entries, strict=True))
        self.log.append({"kind": "losses", "step": steps, "value": values, "samples": samples})
        for step, value in zip(steps, values, strict=True):
            now = math.isfinite(value)
            if now != self.recorder.was_finite:
                self.recorder.was_finite = now
                became = "finite again" if now else "not finite (NaN or infinite)"
                self.flag(step, f"the minibatch loss became {became}")

    def write_flags(self) -> None:
        """What went wrong in the loop."""
        if not self.log.rows:
            return
        for step, text in self.recorder.flags:
            self._flag_once(step, text)
        self.recorder.flags.clear()

    def _flag_once(self, step: int, text: str) -> None:
        """A failure that recurs at every step or snapshot is said the first time."""
        if not any(r["kind"] == "flag" and r["text"] == text for r in self.log.rows):
            self.flag(step, text)

    def flag(self, step: int, text: str) -> None:
        self.log.append({"kind": "flag", "step": step, "text": text})

    def _not_applicable(self, name: str, reason: str) -> None:
        self.log.append({"kind": "not_applicable", "quantity": name, "reason": reason})

    def _drop(self, quantity: Quantity, reason: str) -> None:
        """Not to be measured any more."""
        self._not_applicable(quantity.name, reason)
        self.quantities.remove(quantity)
        self.dropped.append(quantity.name)

    # -- resume ----------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        cache, lost = {}, []
        for name, item in self.cache.items():
            try:
                cache[name] = encode(item)
            except TypeError:
                lost.append(name)
        return {
            "rows": json.dumps(self.log.rows),
            "reference": None if self.reference is None else list(self.reference),
            "source": self.source,
            "dropped": list(self.dropped),
            "cache": cache,
            "cache_lost": lost,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; ValueError if another reference set was given."""
        if state["reference"] is not None:
            saved = (state["reference"][0], state["reference"][1])
            given = self.reference if self.source == "given" else None
            if given is not None and sha256_of(given) != sha256_of(saved):
                raise ValueError(
                    "reference differs from the one of the checkpoint; give the same samples, "
                    "reference_size and seed, or none"
                )
            self.reference = saved
            self.recorder.collector = None
        self.source = state["source"]
        self.dropped = list(state["dropped"])
        self.quantities = [q for q in self.quantities if q.name not in self.dropped]
        self.cache.clear()
        self.cache.update({name: decode(item) for name, item in state["cache"].items()})
        self.log.restore(json.loads(state["rows"]))
        for name in state["cache_lost"]:
            text = f"{name}: starts anew after the resume (its cache holds other than plain data)"
            self.recorder.flags.append((self.recorder.steps, text))
