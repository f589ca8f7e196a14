"""What a quantity sees: one snapshot, the one before it, and the reference set."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thermolearn.core.copying import load_state
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.packing import Packed

Pair = tuple[Tensor, Tensor]
CHUNK = 512  # samples per forward pass


@dataclass(eq=False)
class Snapshot:
    """Parameters and buffers at one optimizer step, in memory or in a file.

    Attributes
    ----------
    step : int
        Optimizer steps done; 0 is the state before the first one.
    learning_rate : float
        Of the first parameter group, as the optimizer used it in this step.
    optimizer : dict
        Plain settings of the first parameter group.
    batch_size : float, optional
        Samples per optimizer step since the previous snapshot (micro-batches add up); known once
        the loop has reported the step's batch.
    accumulators : dict
        Means since the previous snapshot: ``minibatch_loss`` and what the quantities declared.
    """

    step: int
    learning_rate: float
    optimizer: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] | Packed | None = field(default=None, repr=False)
    path: Path | None = None
    batch_size: float | None = None
    accumulators: dict[str, Estimate | float] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether the parameters can still be loaded."""
        return self.state is not None or self.path is not None

    def load(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, in the model's precision.

        Raises
        ------
        ValueError
            The snapshot was released after it had been measured.
        """
        if isinstance(self.state, Packed):
            self.state = self.state.unpack()
        if self.state is not None:
            return self.state
        if self.path is None:
            raise ValueError(f"the parameters of step {self.step} are no longer held")
        return torch.load(self.path, map_location="cpu", weights_only=True)

    def release(self) -> None:
        """Drop the parameters; the step and the accumulators stay."""
        self.state = None
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None


@dataclass(eq=False)
class Setting:
    """What stays the same over all windows of a run."""

    template: nn.Module
    dtype: torch.dtype
    reference: Pair
    validation: Pair | None
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    energy: str | None
    energy_rule: str
    optimizer_name: str
    seed: int
    cache: dict[str, Any]


class Window:
    """One snapshot to be measured.

    Attributes
    ----------
    snapshot, previous : Snapshot
        The present one and the one measured before it (None at the first).
    reference, validation : (x, y)
        Floating tensors in the precision of the copy (float64); x and y share their first axis.
    loss_fn : callable
        The user's loss, ``loss_fn(outputs, targets)``; a module is a copy in float64.
    energy : "squared", "cross-entropy" or None
        The boundary loss that belongs to it, and ``energy_rule``, how that was decided.
    optimizer : dict
        name, lr, momentum, ... as they were at the snapshot.
    cache : dict
        Lives over the whole run. A quantity keeps here, under its own name, what the next window
        needs: tensors, arrays, Estimates and plain containers (these survive a resume).
    scratch : dict
        Lives as long as this window: results that several quantities share.
    names : dict
        ``names[quantity] = [...]`` names the elements of that quantity's arrays.
    """

    def __init__(self, snapshot: Snapshot, previous: Snapshot | None, setting: Setting):
        self.snapshot = snapshot
        self.previous = previous
        self.setting = setting
        self.reference = setting.reference
        self.validation = setting.validation
        self.loss_fn = setting.loss_fn
        self.energy = setting.energy
        self.energy_rule = setting.energy_rule
        self.seed = setting.seed
        self.cache = setting.cache
        self.scratch: dict[str, Any] = {}
        self.names: dict[str, list[str]] = {}
        self._model: nn.Module | None = None
        self._outputs: Tensor | None = None

    @property
    def step(self) -> int:
        return self.snapshot.step

    @property
    def accumulators(self) -> dict[str, Estimate | float]:
        return self.snapshot.accumulators

    @property
    def optimizer(self) -> dict[str, Any]:
        return {"name": self.setting.optimizer_name, **self.snapshot.optimizer}

    @property
    def model(self) -> nn.Module:
        """Eval-mode float64 copy with the snapshot's parameters and buffers; never the user's."""
        if self._model is None:
            self._model = load_state(copy.deepcopy(self.setting.template), self.snapshot.load())
        return self._model

    @property
    def outputs(self) -> Tensor:
        """The model's outputs on the reference set, without a graph (see `evaluate`)."""
        if self._outputs is None:
            self._outputs = evaluate(self.model, self.reference[0])
        return self._outputs

    @property
    def finite(self) -> bool:
        """Whether all parameters and floating buffers of the snapshot are finite."""
        tensors = self.snapshot.load().values()
        return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())

    def generator(self, name: str) -> torch.Generator:
        """A private CPU generator, seeded from (seed, step, name)."""
        digest = hashlib.sha256(f"{self.seed}/{self.step}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Run:
    """The whole run, for the summaries at its end.

    Attributes
    ----------
    rows : list of dict
        All rows so far, as in run.jsonl.
    snapshots : list of Snapshot
        Those whose parameters are still held: always the first and the last one.
    first, last : Window
    cache : dict
        The cache of the windows.
    """

    def __init__(self, rows: list[dict[str, Any]], snapshots: list[Snapshot], setting: Setting):
        self.rows = rows
        self.snapshots = snapshots
        self.setting = setting
        self.cache = setting.cache
        self.first = Window(snapshots[0], None, setting)
        before = snapshots[-2] if len(snapshots) > 1 else None
        self.last = Window(snapshots[-1], before, setting) if before else self.first

    def window(self, snapshot: Snapshot) -> Window:
        """The window of a snapshot that is still held (without its predecessor)."""
        return Window(snapshot, None, self.setting)


class Quantity(Protocol):
    """What `Probe` measures. Optional beside these: ``accumulators`` (names to be collected in the
    loop, see `recorder.ACCUMULATORS`), ``describe(window) -> dict`` (``segmentation`` and
    ``conventions`` for the header) and ``summarize(run) -> list of rows`` (at the end).
    """

    name: str

    def measure(self, window: Window) -> dict[str, Estimate]: ...


def evaluate(model: nn.Module, x: Tensor, chunk: int = CHUNK) -> Tensor:
    """Outputs (n, ...) of an eval-mode model on n samples, without a graph.

    Raises
    ------
    NotApplicableError
        The model fails on these inputs, or does not return one tensor with a row per sample.
    """
    parts = []
    with torch.no_grad():
        for piece in x.split(chunk):
            try:
                out = model(piece.clone())  # a forward pass may work in place
            except Exception as error:  # a user's forward may raise anything
                raise NotApplicableError(
                    "the eval-mode copy of the model does not run on the reference inputs "
                    f"({type(error).__name__}: {error})"
                ) from error
            if not isinstance(out, Tensor):
                raise NotApplicableError(
                    f"the model returns {type(out).__name__}, not one tensor; wrap it so that it "
                    "returns the tensor that the loss takes"
                )
            if out.dim() == 0 or out.shape[0] != len(piece):
                raise NotApplicableError(
                    f"the model maps {len(piece)} samples to an output of shape "
                    f"{tuple(out.shape)}; the first axis must count the samples"
                )
            parts.append(out)
    return torch.cat(parts)
