"""The Probe as a callback of the Trainer of Hugging Face transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.copying import untouched
from thermolearn.measure.hosts.ending import abandon, check_settings, finish, record_in
from thermolearn.measure.probe import Probe

if TYPE_CHECKING:
    from transformers import TrainerCallback
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(
            "this callback needs transformers and accelerate: "
            'pip install "thermolearn[transformers]"'
        ) from error

STATE = "thermolearn.pt"  # beside the Trainer's own files in a checkpoint
DIFFERENT = 0.02  # share by which the Trainer's loss and loss_fn may differ; bfloat16 has .004


class Logits(nn.Module):
    """A model of transformers as a function of one tensor: inputs to logits.

    Parameters
    ----------
    model : nn.Module
        Shared, not copied.
    inputs : str
        Which of its arguments the tensor is.
    pad : int, optional
        Token of padding: the attention mask is 1 where the input is another one. Without it no
        mask is given, which for most models means that every token counts.
    fixed : dict, optional
        Further arguments, the same for every batch.

    Raises
    ------
    TypeError
        When called: the model returns neither ``logits`` nor a tensor first.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: str = "input_ids",
        pad: int | None = None,
        fixed: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.pad = pad
        self.fixed = dict(fixed or {})

    def forward(self, x: Tensor) -> Tensor:
        given = {self.inputs: x, **self.fixed}
        if self.pad is not None:
            given["attention_mask"] = (x != self.pad).long()
        out = self.model(**given)
        logits = out.get("logits") if isinstance(out, Mapping) else out
        if isinstance(logits, tuple | list):
            logits = logits[0]
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"{type(self.model).__name__} returns no logits; give the callback model=, which "
                "returns a module of one input and one output"
            )
        return logits


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token given those before it, as causal language models compute it.

    Parameters
    ----------
    logits : Tensor (n, tokens, vocabulary)
    labels : Tensor (n, tokens)
        Not shifted; -100 is left out.
    """
    shifted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(*shifted, ignore_index=-100)


class _Ragged:
    """Micro-batches of different shapes: they can be counted, not joined."""

    def __init__(self, n: int):
        self.shape = (n,)


class _Batch(NamedTuple):
    """A micro-batch; `shared` losses are divided by the items of the whole step, and add up."""

    x: Any
    y: Any
    loss: Tensor | None
    shared: bool
    own: float | None


class ProbeCallback(TrainerCallback):
    """Measures a ``Trainer.train`` that stays bitwise as it is.

    ::

        callback = ProbeCallback(nn.CrossEntropyLoss(), reference=(input_ids, labels))
        Trainer(model, args, train_dataset=data, callbacks=[callback]).train()

    At the end ``run.jsonl`` and ``report.html`` lie in the folder; of a callback that is used
    again, ``run-2.jsonl`` and ``report-2.html``, unless a checkpoint goes on. The Trainer tells
    its callbacks neither about batches nor about errors, hence three conventions:

    - *Measured* is the model in eval mode as a function of one tensor (`Logits`), with `loss_fn`
      on the reference set, without the arguments that vary from batch to batch.
    - *Logged* is, per optimizer step, the loss that the model returned in training mode, read by a
      forward hook, and that of the first step is compared with `loss_fn`: a difference is
      flagged. Where the model returns none (label smoothing, ``compute_loss_func``), the loss of
      the Trainer's own log is taken, a mean over ``logging_steps``; this needs ``reference``.
    - *After Ctrl-C or an error* the Trainer calls nobody: write ``try: trainer.train() finally:
      callback.finish()`` to have the two files then, too.

    Each checkpoint carries the state of the probe in a file of its own, ``thermolearn.pt``; a
    run resumed from the checkpoint goes on from it. In distributed runs rank 0 measures.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(logits, labels)``: for classification ``nn.CrossEntropyLoss()``, for a causal
        language model `next_token_loss`.
    reference : (x, y), optional
        As in `Probe`; by default the first batches, of the first one's shape.
    every : int
        Optimizer steps between snapshots.
    inputs, targets : str
        Arguments of the model that are x and y: "input_ids", "pixel_values", ...; "labels".
    pad, fixed
        See `Logits`.
    model : callable, optional
        ``model(trainer_model)`` returns the module to be measured, in place of `Logits`.
    folder : path, optional
        Of the two files; default: the Trainer's ``output_dir``.
    resume_from : path, optional
        The checkpoint's folder, if it does not lie in ``output_dir``.
    settings
        Further keywords of `Probe`: ``validation``, ``quantities``, ``budget``, ``sinks``, ...

    Attributes
    ----------
    probe : Probe or None
        Of the present or last training.

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
        inputs: str = "input_ids",
        targets: str = "labels",
        pad: int | None = None,
        fixed: Mapping[str, Any] | None = None,
        model: Callable[[Any], nn.Module] | None = None,
        folder: str | Path | None = None,
        resume_from: str | Path | None = None,
        **settings: Any,
    ):
        self.probe: Probe | None = None
        self._loss_fn = loss_fn
        self._reference = reference
        self._every = every
        self._names = (inputs, targets)
        self._measured = model or (lambda whole: Logits(whole, inputs, pad, fixed))
        self._folder = None if folder is None else Path(folder)
        self._target: Path | None = None
        self._used: dict[Path, int] = {}  # folder -> number of its last run
        self._resume_from = None if resume_from is None else Path(resume_from)
        self._settings = check_settings(settings)
        self._hook: Any = None
        self._group: list[_Batch] = []  # micro-batches of the step at hand
        self._checked = False  # whether the Trainer's loss has been compared with loss_fn
        self._samples = 0  # of steps without a loss, since the last that the Trainer logged
        self._finished = True

    # -- the training ------------------------------------------------------------------------
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The checkpoint is loaded, the optimizer prepared."""
        self._remove_hook()
        if self.probe is not None and not self._finished:
            abandon(self.probe)
        folder = (self._folder or Path(args.output_dir)) if _rank_0(state) else None
        saved = self._saved(args, state) if state.global_step else None
        self._target = record_in(folder, self._used, saved is not None)
        optimizer = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):  # accelerate's wrapper
            optimizer = optimizer.optimizer
        model = kwargs["model"]
        settings = dict(self._settings)
        settings["info"] = {"model": type(model).__name__, **(settings.get("info") or {})}
        self.probe = Probe(
            self._measured(model),
            self._loss_fn,
            optimizer,
            self._reference,
            self._every,
            log=self._target,
            **settings,
        )
        self._finished = False
        self._group, self._samples, self._checked = [], 0, False
        if saved is not None:
            self.probe.load_state_dict(saved)
        elif state.global_step:
            self.probe.flag(
                f"training went on from step {state.global_step} of a checkpoint without {STATE} "
                "(resume_from= says where it is): the probe's steps are counted from there"
            )
        self._hook = model.register_forward_hook(self._seen, with_kwargs=True)

    def _seen(self, module: Any, args: Any, given: Mapping[str, Any], output: Any) -> None:
        """A forward pass; those of evaluation do not count."""
        if not module.training or not torch.is_grad_enabled() or self.probe is None:
            return
        try:
            x, y = (given.get(name) for name in self._names)
            if isinstance(output, Mapping):
                loss = output.get("loss")
            else:  # a tuple, whose first is the loss if there were labels
                loss = output[0] if y is not None and isinstance(output, tuple) else None
            shared = given.get("num_items_in_batch") is not None
            own = None if self._checked or loss is None else self._own_loss(output, y)
            self._group.append(
                _Batch(x, y, None if loss is None else loss.detach().float(), shared, own)
            )
        except Exception as error:
            self.probe.flag(f"the batch is not logged ({type(error).__name__}: {error})")

    def _own_loss(self, output: Any, y: Any) -> float:
        """loss_fn on the same outputs, for the comparison; NaN where it cannot be computed."""
        try:
            logits = output["logits"] if isinstance(output, Mapping) else output[1]
            with untouched(), torch.no_grad():
                return float(self._loss_fn(logits.detach(), y))
        except Exception:  # the measurement will say so, too
            return math.nan

    def _compare(self, group: list[_Batch], loss: float) -> None:
        """Once: is the Trainer's loss the one that is measured?"""
        self._checked = True
        own = sum(math.nan if b.own is None else b.own for b in group) / len(group)
        if self.probe is None or not math.isfinite(own) or not math.isfinite(loss):
            return
        if abs(loss - own) > DIFFERENT * max(abs(own), abs(loss)):
            summed = len(group) > 1 and abs(loss / len(group) - own) <= DIFFERENT * abs(own)
            why = (
                f"the model does not divide by num_items_in_batch, so that the Trainer sums its "
                f"{len(group)} micro-batches (and their gradients) instead of averaging them"
                if summed
                else "loss_fn is another one than the model's, or the Trainer divides by another "
                "number of items (of a language model it counts the labels before the shift)"
            )
            self.probe.flag(
                f"the Trainer's loss of the first step is {loss:.4g}, loss_fn on the same outputs "
                f"is {own:.4g}: {why}"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One optimizer step: its micro-batches as one."""
        group, self._group = self._group, []
        if self.probe is None:
            return
        try:
            x, y = _joined([b.x for b in group]), _joined([b.y for b in group])
            losses = [b.loss for b in group if b.loss is not None]
            if group and len(losses) == len(group):
                # divided by the items of the whole step, parts add up; else each is a mean
                total = torch.stack(losses).sum()
                loss = total if group[0].shared else total / len(losses)
                self.probe.step(x, y, loss)
                if not self._checked:
                    self._compare(group, float(loss))
            else:
                self._samples += x.shape[0]
        except Exception as error:
            self.probe.flag(f"the batch is not logged ({type(error).__name__}: {error})")
        if state.global_step >= state.max_steps:
            self.probe.snapshot()  # before the best weights are loaded back

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The Trainer's own loss, where the model returns none."""
        if self.probe is None or not self._samples or "loss" not in (logs or {}):
            return
        batch, self._samples = _Ragged(self._samples), 0
        self.probe.flag(
            "the model returned no loss: the minibatch losses are those that the Trainer logged, "
            "means over its logging_steps"
        )
        self.probe.step(batch, None, logs["loss"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training may end here, and other weights be loaded."""
        if self.probe is not None and args.load_best_model_at_end:
            self.probe.snapshot()

    on_evaluate = on_epoch_end

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure what waits, and report."""
        self.finish()

    def finish(self) -> None:
        """Measure what waits and write the report; once per training, and after Ctrl-C, too."""
        self._remove_hook()
        if self.probe is not None and not self._finished:
            self._finished = True
            finish(self.probe, self._target)

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    # -- checkpoints -------------------------------------------------------------------------
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Beside the Trainer's checkpoint; snapshots that wait to be measured are part of it."""
        if self.probe is None or not _rank_0(state):
            return
        try:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
            torch.save(self.probe.state_dict(), path)
        except Exception as error:
            self.probe.flag(f"the checkpoint has no state of the probe ({error})")

    def _saved(self, args: Any, state: Any) -> dict[str, Any] | None:
        """The probe's state in the checkpoint, if it has one."""
        places = [self._resume_from, Path(args.output_dir) / f"checkpoint-{state.global_step}"]
        if isinstance(args.resume_from_checkpoint, str):
            places.append(Path(args.resume_from_checkpoint))
        for place in places:
            if place is not None and (place / STATE).is_file():
                return torch.load(place / STATE, weights_only=True)
        return None


def _rank_0(state: Any) -> bool:
    return bool(state.is_world_process_zero)


def _joined(parts: list[Any]) -> Any:
    """The micro-batches of a step as one tensor, if they are tensors of one shape."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(p, Tensor) and p.dim() for p in parts):
        if len({p.shape[1:] for p in parts}) == 1:
            return torch.cat(parts)
        return _Ragged(sum(len(p) for p in parts))
    raise ValueError("say with inputs= and targets= which arguments of the model are x and y")
