"""The Probe as a callback of Lightning 2 (``lightning.pytorch`` or ``pytorch_lightning``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from thermolearn.measure.hosts.ending import abandon, check_settings, finish, record_in
from thermolearn.measure.probe import Probe

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback
        except ImportError as error:
            raise ImportError(
                'this callback needs Lightning 2: pip install "thermolearn[lightning]"'
            ) from error


class ProbeCallback(Callback):
    """Measures a ``Trainer.fit`` that stays bitwise as it is.

    ::

        callback = ProbeCallback(nn.CrossEntropyLoss(), reference=(x_ref, y_ref))
        Trainer(callbacks=[callback]).fit(module, loader)

    At the end, and also after an exception or Ctrl-C, ``run.jsonl`` and ``report.html`` lie in
    the folder; of a callback that is used again, ``run-2.jsonl`` and ``report-2.html``, unless the
    same trainer goes on. What is measured is the module's ``forward`` with `loss_fn` on the
    reference set; what is logged is the loss that ``training_step`` returned. Each checkpoint
    carries the state of the probe, and ``fit(ckpt_path=...)`` goes on from it. The validation
    loop, its sanity check, tests and predictions do not count as steps. Under ``fast_dev_run``
    everything is measured and nothing is written. In distributed runs rank 0 measures.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(outputs, targets)``, as in ``training_step``.
    reference : (x, y), optional
        As in `Probe`; by default the first batches.
    every : int
        Optimizer steps between snapshots.
    model : str or callable, optional
        What is measured, if not the module itself: the name of a submodule ("net"), or
        ``model(module)`` that returns it.
    optimizer : int, optional
        Which one of several; its steps are counted, and what it does not hold is measured as it
        is. For each further one another callback.
    batch : callable, optional
        ``batch(batch)`` returns (x, y); by default a batch is a pair of tensors.
    folder : path, optional
        Of the two files; default: the logger's folder, or ``default_root_dir``.
    settings
        Further keywords of `Probe`: ``validation``, ``quantities``, ``budget``, ``sinks``, ...

    Attributes
    ----------
    probe : Probe or None
        Of the present or last fit.

    Raises
    ------
    TypeError, ValueError
        At once, or when training starts; the message names the argument. Nothing is raised after
        that.
    """

    def __init__(
        self,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        reference: tuple[Tensor, Tensor] | None = None,
        every: int = 50,
        *,
        model: str | Callable[[Any], nn.Module] | None = None,
        optimizer: int | None = None,
        batch: Callable[[Any], tuple[Any, Any]] | None = None,
        folder: str | Path | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.probe: Probe | None = None
        self._loss_fn = loss_fn
        self._reference = reference
        self._every = every
        self._model = model
        self._optimizer = optimizer
        self._batch = batch
        self._folder = None if folder is None else Path(folder)
        self._target: Path | None = None
        self._used: dict[Path, int] = {}  # folder -> number of its last run
        self._settings = check_settings(settings)
        self._state: dict[str, Any] | None = None
        self._finished = True

    # -- the fit -----------------------------------------------------------------------------
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """After the checkpoint is loaded and the sanity check is over."""
        settings = dict(self._settings)
        folder = self._folder or Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.fast_dev_run:
            settings["sinks"] = ()
        write = trainer.is_global_zero and not trainer.fast_dev_run
        self._check_folder(trainer, folder)
        state = self._state
        if state is None and self.probe is not None and trainer.global_step:
            state = self.probe.state_dict()  # fit was called again
        if self.probe is not None and not self._finished:
            abandon(self.probe)
        self._target = record_in(folder if write else None, self._used, state is not None)
        self.probe = Probe(
            self._find_model(pl_module),
            self._loss_fn,
            self._find_optimizer(trainer),
            self._reference,
            self._every,
            log=self._target,
            **settings,
        )
        self._finished, self._state = False, None
        if state is not None:
            self.probe.load_state_dict(state)
        elif trainer.global_step:
            self.probe.flag(
                f"training went on from step {trainer.global_step} of a checkpoint without the "
                "state of the probe: its steps are counted from there"
            )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the batch, once per micro-batch."""
        probe = self.probe
        if probe is None:
            return
        try:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            if loss is None:
                if not pl_module.automatic_optimization:  # else the module skipped this batch
                    probe.flag("training_step returned no loss: return it, so that it is logged")
                return
            if pl_module.automatic_optimization and trainer.accumulate_grad_batches != 1:
                loss = loss * trainer.accumulate_grad_batches  # Lightning has divided by it
            x, y = batch if self._batch is None else self._batch(batch)
            probe.step(x, y, loss)
        except Exception as error:
            probe.flag(
                f"the batch is not logged ({type(error).__name__}: {error}); say with batch= how "
                "to get (x, y) from it"
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Before other callbacks put other weights into the model."""
        if self.probe is not None:
            self.probe.snapshot()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """After the last checkpoint is written."""
        self._finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Training was ended by an error or Ctrl-C; a second Ctrl-C ends the measuring."""
        if self.probe is None or self._finished:
            return
        name = "Ctrl-C" if isinstance(exception, KeyboardInterrupt) else type(exception).__name__
        self.probe.flag(f"training was ended by {name}")
        with suppress(KeyboardInterrupt):  # the host is on its way out already
            self._finish()

    def _finish(self) -> None:
        if self.probe is not None and not self._finished:
            self._finished = True
            finish(self.probe, self._target)

    # -- what the host has -------------------------------------------------------------------
    def _check_folder(self, trainer: Any, folder: Path) -> None:
        for other in trainer.callbacks:
            if not isinstance(other, ProbeCallback) or other is self or other._finished:
                continue
            if other._target is not None and other._target.parent == folder:
                raise ValueError(
                    f"folder: another ProbeCallback writes into {folder} already; give each "
                    "its own folder="
                )

    def _find_model(self, module: Any) -> nn.Module:
        if self._model is None:
            return module
        if not isinstance(self._model, str):
            return self._model(module)
        try:
            return module.get_submodule(self._model)
        except AttributeError:
            names = ", ".join(name for name, _ in module.named_children())
            raise ValueError(
                f"model: the module has no submodule {self._model!r}; there are {names}"
            ) from None

    def _find_optimizer(self, trainer: Any) -> Any:
        found = list(trainer.optimizers)
        if not found:
            raise ValueError("the module has no optimizer: the probe counts an optimizer's steps")
        if self._optimizer is None and len(found) > 1:
            raise ValueError(
                f"the module has {len(found)} optimizers: say with optimizer=0 which one is "
                "measured, and with model= what it trains"
            )
        index = self._optimizer or 0
        if not 0 <= index < len(found):
            raise ValueError(f"optimizer={index}: the module has {len(found)}, counted from 0")
        return found[index]

    # -- checkpoints -------------------------------------------------------------------------
    @property
    def state_key(self) -> str:
        """Several callbacks, one per optimizer, keep their states apart."""
        model = self._model if isinstance(self._model, str) else ""
        return self._generate_state_key(optimizer=self._optimizer, model=model)

    def state_dict(self) -> dict[str, Any]:
        """The probe's state; snapshots that wait to be measured are part of it."""
        return {} if self.probe is None else self.probe.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts."""
        self._state = state_dict or None
