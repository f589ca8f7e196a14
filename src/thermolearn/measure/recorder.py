"""The part of the Probe that runs inside the training loop; it does as little as it can."""

from __future__ import annotations

import bisect
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import mean_estimate
from thermolearn.measure.checkpoint import decode_snapshot, encode_snapshot
from thermolearn.measure.clock import Clock
from thermolearn.measure.noise.virial_sides import VirialSides, sampled_step
from thermolearn.measure.packing import Packed, Packer
from thermolearn.measure.reference import Collector
from thermolearn.measure.window import Snapshot

Entry = tuple[int, Any, float]  # step, loss, samples
# What a quantity may declare in ``accumulators``; the minibatch loss is always there.
ACCUMULATORS = ("virial",)
VIRIAL_SPACING = 8  # steps in the blocks, in one of which each the virial relation is read
PLAIN_SETTINGS = (bool, int, float, str, type(None))
PLAIN_STATE = (
    "steps", "seen", "next_due", "written", "was_finite", "reason", "started", "n_snapshots",
    "n_spooled",
)  # fmt: skip


class Recorder:
    """Counts optimizer steps, copies the parameters at the cadence, logs the minibatch losses.

    Steps are counted by the optimizer's own hook, so that accumulated gradients and steps skipped
    by a GradScaler count as they should. The snapshot of step k is taken inside the k-th
    ``optimizer.step()``, the one of step 0 before the first.

    Parameters
    ----------
    may_snapshot : callable
        Asked when a snapshot is due; False postpones it to a later step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every: int,
        memory_limit: int,
        collector: Collector | None,
        accumulators: set[str],
        may_snapshot: Callable[[], bool],
    ):
        self.optimizer = optimizer
        self._packer = Packer(model)
        self.every = every
        self.memory_limit = memory_limit
        self.collector = collector
        self.may_snapshot = may_snapshot
        self.virial = VirialSides(optimizer) if "virial" in accumulators else None
        self.virial_spacing = max(VIRIAL_SPACING, every)
        self._virial_at = sampled_step(0, self.virial_spacing)
        self._virial_sides = self.virial  # also when nothing more is read
        self._virial_held: dict[int, tuple[Any, ...]] = {}  # by the step of their snapshot
        self.steps = 0
        self.seen = 0  # steps done when the last batch was recorded
        self.next_due = every
        self.pending: list[Snapshot] = []
        self.kept: list[Snapshot] = []  # measured, still held: the first and the last
        self._log: list[Entry] = []
        self._fresh: list[Any] = []  # step, loss, samples, step, ...: not yet in _log
        self.written = 0  # how many of them are in run.jsonl already
        self.was_finite = True  # the last minibatch loss in run.jsonl
        self.unread = 0  # index of the first loss still on an accelerator
        self.flags: list[tuple[int, str]] = []
        self.reason: str | None = None  # why no snapshot can be taken
        self.started = False
        self.clock = Clock()
        self.held_bytes = 0
        self.n_snapshots = 0
        self.n_spooled = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._before: Any = optimizer.register_step_pre_hook(self._before_step)
        self._after: Any = optimizer.register_step_post_hook(self._after_step)

    # -- in the loop -----------------------------------------------------------------------------
    def record(self, x: Any, y: Any, loss: Any) -> None:
        """Log one (micro-)batch."""
        clock = self.clock
        timed = clock.rest <= 0
        start = perf_counter() if timed else 0.0
        try:
            # reading a number from an accelerator would wait for it: left to the cadence
            value = loss.item() if loss.is_cpu else _mean(loss)
            samples = x.shape[0]
        except Exception:  # not tensors, or of other shapes
            value, samples = _loss_value(loss), _n_samples(x, y)
        # a batch that did not end a step belongs to the step in progress
        step = self.steps if self.steps > self.seen else self.steps + 1
        self.seen = self.steps
        # a tuple that is kept would cost more than all else here
        self._fresh += (step, value, samples)
        if self.collector is not None and self.collector.missing:
            self.collector.add(x, y)
        if timed:
            clock.book_step(start)
        else:
            clock.rest -= 1

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        due = self._virial_due
        if self.started and not due:
            return
        start = perf_counter()
        if not self.started:
            self.started = True
            self.guarded(self.snapshot)
        if due:
            self._read_virial(VirialSides.before)
        self.clock.book(start)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._virial_due:
            start = perf_counter()
            self._read_virial(VirialSides.after)
            block = self.steps // self.virial_spacing + 1
            self._virial_at = sampled_step(block, self.virial_spacing)
            self.clock.book(start)
        start = perf_counter() if self.clock.rest <= 0 else 0.0
        self.steps += 1
        if self.steps >= self.next_due and self.may_snapshot():
            self._take_due()
        elif start:
            self.clock.hook_s = perf_counter() - start

    def _take_due(self) -> None:
        start = perf_counter()
        self.next_due = self.steps + self.every
        self.guarded(self.snapshot)
        needed = self.virial is not None and not self.virial.covered
        if self._before is not None and self.started and not needed:
            self._before.remove()  # it has done its work
            self._before = None
        self.clock.book(start)

    @property
    def log(self) -> list[Entry]:
        """The minibatch losses since the last snapshot that was measured."""
        if self._fresh:
            columns = (self._fresh[k::3] for k in range(3))
            self._log += [(step, v, float(n)) for step, v, n in zip(*columns, strict=True)]
            self._fresh.clear()
        return self._log

    @log.setter
    def log(self, entries: list[Entry]) -> None:
        self._log = entries
        self._fresh.clear()

    @property
    def training_s(self) -> float:
        """Seconds of the loop so far, without the measurements outside of it."""
        return self.clock.training_s

    @property
    def cost_s(self) -> float:
        """Seconds of them that the Probe took."""
        return self.clock.cost_s

    def guarded(self, action: Callable[[], None]) -> None:
        """The training loop never dies because of a measurement."""
        try:
            action()
        except Exception as error:
            self.flags.append((self.steps, f"{type(error).__name__}: {error}"))

    @property
    def _virial_due(self) -> bool:
        return self.virial is not None and self.steps == self._virial_at

    def _read_virial(self, side: Callable[[VirialSides], Any]) -> None:
        """Before or after a step; what cannot be read is said once and not tried again."""
        try:
            if self.virial is not None:
                side(self.virial)
        except Exception as error:
            self.flags.append((self.steps, f"virial relation: {error}"))
            self.virial = None

    def snapshot(self) -> None:
        """Copy parameters and buffers as they are now."""
        if self.reason is not None:
            return
        try:
            state = self._packer.copy()
        except NotApplicableError as error:
            self.reason = str(error)
            return
        settings = plain_settings(self.optimizer)
        snapshot = Snapshot(self.steps, float(settings.get("lr") or math.nan), settings, state)
        if self.virial is not None:
            self._virial_held[self.steps] = self.virial.hold()
        if self._fresh and isinstance(self._fresh[-2], Tensor):
            self._read_losses()
        self.n_snapshots += 1
        self._spool(snapshot)
        self.pending.append(snapshot)

    def _read_losses(self) -> None:
        """Bring losses that wait on an accelerator over, all at once."""
        waiting = [
            k for k in range(self.unread, len(self.log)) if isinstance(self.log[k][1], Tensor)
        ]
        if waiting:
            values = torch.stack([self.log[k][1].reshape(()).double() for k in waiting]).tolist()
            for k, value in zip(waiting, values, strict=True):
                self.log[k] = (self.log[k][0], value, self.log[k][2])
        self.unread = len(self.log)

    def _spool(self, snapshot: Snapshot) -> None:
        """Move a snapshot to a file if the memory limit is reached."""
        assert snapshot.state is not None
        size = _n_bytes(snapshot.state)
        if self.held_bytes + size <= self.memory_limit:
            self.held_bytes += size
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="thermolearn-")
        free = shutil.disk_usage(self._folder.name).free
        if free < 2 * size:
            raise OSError(
                f"no room for the snapshot: {size >> 20} MiB needed, {free >> 20} MiB free in "
                f"{self._folder.name}; raise every= or memory_limit=, or set budget="
            )
        path = Path(self._folder.name) / f"{self.n_spooled:06d}.pt"
        torch.save(snapshot.load(), path)
        snapshot.path, snapshot.state = path, None
        self.n_spooled += 1

    # -- outside the loop ------------------------------------------------------------------------
    @property
    def nothing_collected(self) -> bool:
        """Whether there is no sample yet that could be a reference."""
        return self.collector is not None and not self.collector.x

    @property
    def last_step(self) -> int | None:
        """Step of the newest snapshot."""
        newest = (self.pending or self.kept)[-1:]
        return newest[0].step if newest else None

    def _give_virial(self, snapshot: Snapshot) -> None:
        """What was read in the window of a snapshot, as Estimates: not in the loop."""
        held = self._virial_held.pop(snapshot.step, ())
        if self._virial_sides is not None:
            snapshot.accumulators.update(self._virial_sides.estimates(held))

    def close_window(self, snapshot: Snapshot) -> list[Entry]:
        """Set batch size and mean loss of the window that a snapshot ends.

        Returns the window's losses that were not yet returned.
        """
        self._read_losses()
        self._give_virial(snapshot)
        end = bisect.bisect_right(self.log, snapshot.step, key=lambda entry: entry[0])
        taken, self.log = self.log[:end], self.log[end:]
        new = taken[self.written :]
        self.written = max(0, self.written - end)
        self.unread = len(self.log)
        steps = snapshot.step - (self.kept[-1].step if self.kept else 0)
        samples = sum(entry[2] for entry in taken)
        if taken and steps > 0:
            snapshot.batch_size = samples / steps if math.isfinite(samples) else None
            values = [entry[1] for entry in taken]
            if all(math.isfinite(v) for v in values):
                snapshot.accumulators["minibatch_loss"] = mean_estimate(
                    values, note="mean over the window; successive batches are not independent"
                )
        return new

    def rest_of_log(self) -> list[Entry]:
        """Losses after the last snapshot that were not yet returned."""
        self._read_losses()
        new = self.log[self.written :]
        self.written = len(self.log)
        return new

    def finished(self, snapshot: Snapshot) -> None:
        """A snapshot has been measured: hold the first and the last one, release the others."""
        self.pending.remove(snapshot)
        self.kept.append(snapshot)
        while len(self.kept) > 3:
            self.kept.pop(1).release()
        self.count_bytes()

    def count_bytes(self) -> None:
        """Memory that the snapshots hold."""
        self.held_bytes = sum(_n_bytes(s.state) for s in (*self.kept, *self.pending))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        self._read_losses()
        for snapshot in self.pending:
            self._give_virial(snapshot)
        collector = self.collector
        return {
            **{name: getattr(self, name) for name in PLAIN_STATE},
            "in_loop_s": self.clock.cost_s,
            "training_s": self.clock.training_s,
            "log": [list(entry) for entry in self.log],
            "virial": None if self.virial is None else self.virial.state_dict(),
            "flags": [list(flag) for flag in self.flags],
            "pending": [encode_snapshot(s) for s in self.pending],
            "kept": [encode_snapshot(s) for s in self.kept],
            "collected": None if collector is None else [list(collector.x), list(collector.y)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; snapshots beyond the memory limit are spooled again."""
        for name in PLAIN_STATE:
            setattr(self, name, state[name])
        self.clock.in_loop_s, self.clock.training_s = state["in_loop_s"], state["training_s"]
        self.log = [(e[0], e[1], e[2]) for e in state["log"]]
        self.unread = len(self.log)
        if not self.started and self._before is None and self._after is not None:
            self._before = self.optimizer.register_step_pre_hook(self._before_step)
        if self.virial is not None and state.get("virial") is not None:
            self.virial.load_state_dict(state["virial"])
        block, spacing = self.steps // self.virial_spacing, self.virial_spacing
        at = sampled_step(block, spacing)
        self._virial_at = at if at >= self.steps else sampled_step(block + 1, spacing)
        self.flags = [(f[0], f[1]) for f in state["flags"]]
        self.kept = [decode_snapshot(row) for row in state["kept"]]
        self.count_bytes()
        self.pending = []
        for row in state["pending"]:
            snapshot = decode_snapshot(row)
            self._spool(snapshot)
            self.pending.append(snapshot)
        if self.collector is not None and state["collected"] is not None:
            for x, y in zip(*state["collected"], strict=True):
                self.collector.add(x, y)

    def close(self) -> None:
        """Remove the hooks and the temporary folder."""
        for hook in (self._before, self._after):
            if hook is not None:
                hook.remove()
        self._before = self._after = None
        if self._folder is not None:
            for snapshot in (*self.kept, *self.pending):
                snapshot.path = None
            self._folder.cleanup()
            self._folder = None


def _mean(loss: Tensor) -> Tensor:
    return loss.detach() if loss.dim() == 0 else loss.detach().mean()


def _loss_value(loss: Any) -> Any:
    """A number, or a tensor on an accelerator; TypeError or ValueError if it is neither."""
    if isinstance(loss, Tensor):
        return _mean(loss).item() if loss.is_cpu else _mean(loss)
    return float(loss)


def _n_samples(x: Any, y: Any) -> float:
    """Length of the batch, NaN if it does not say."""
    shape = getattr(x if hasattr(x, "shape") else y, "shape", None)
    return float(shape[0]) if shape else math.nan


def plain_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Numbers, texts and flags of the first parameter group, and how many groups there are."""
    groups = optimizer.param_groups
    settings: dict[str, Any] = {"groups": len(groups)}
    for key, value in groups[0].items():
        if type(value) in PLAIN_SETTINGS:
            settings[key] = value
        elif key == "params":
            continue
        elif isinstance(value, Tensor) and value.numel() == 1:
            settings[key] = float(value)
        elif isinstance(value, bool | int | float | str):  # of a class derived from these
            settings[key] = value
        elif isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value):
            settings[key] = list(value)
    rates = {float(g.get("lr") or 0.0) for g in groups} if len(groups) > 1 else ()
    settings["one_rate"] = len(rates) <= 1
    return settings


def _n_bytes(state: dict[str, Tensor] | Packed | None) -> int:
    if isinstance(state, Packed):
        return state.n_bytes
    return sum(t.numel() * t.element_size() for t in (state or {}).values())
