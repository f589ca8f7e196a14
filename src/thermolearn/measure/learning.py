"""Is it learning: the loss, the boundary loss and the accuracy on fixed samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.reference import known_loss
from thermolearn.measure.window import Window, evaluate

LossFunction = Callable[[Tensor, Tensor], Tensor]
BINARY = {"BCEWithLogitsLoss": 0.0, "binary_cross_entropy_with_logits": 0.0,
          "BCELoss": 0.5, "binary_cross_entropy": 0.5}  # fmt: skip


class Learning:
    """Loss, boundary loss and accuracy at the snapshot's parameters, in eval mode.

    Values: ``reference_loss`` (the user's loss), ``boundary_loss`` (where an energy belongs to the
    loss), ``accuracy`` (where the outputs are classes), and the first and the last of these on
    the validation set as ``validation_loss`` and ``validation_accuracy``. The error bars are those
    of a mean over independent samples.
    """

    name = "learning"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if the model or the loss does not run on the samples."""
        outputs, targets = window.outputs, window.reference[1]
        values = {"reference_loss": loss_estimate(window.loss_fn, outputs, targets)}
        if window.energy is not None:
            per_sample = boundary_losses(outputs, targets, window.energy)
            values["boundary_loss"] = mean_estimate(per_sample)
        correct = correct_fractions(window.loss_fn, outputs, targets)
        if correct is not None:
            values["accuracy"] = accuracy_estimate(correct)
        if window.validation is not None:
            x, y = window.validation
            outputs = evaluate(window.model, x)
            values["validation_loss"] = loss_estimate(window.loss_fn, outputs, y)
            correct = correct_fractions(window.loss_fn, outputs, y)
            if correct is not None:
                values["validation_accuracy"] = accuracy_estimate(correct)
        return values


def sample_losses(
    loss_fn: LossFunction, outputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, str]:
    """The loss of each sample alone, the loss of all of them, and how the two are related.

    Returns
    -------
    losses : Tensor (n,)
    total : Tensor ()
    reduction : "mean", "sum" or "other"
        "other": the loss couples its samples (contrastive, class weights, ignored targets).

    Raises
    ------
    NotApplicableError
        The loss does not take these outputs and targets.
    """

    def scalar(out: Tensor, target: Tensor) -> Tensor:
        return loss_fn(out, target).mean()

    with torch.no_grad():
        try:
            total = scalar(outputs, targets)
        except Exception as error:  # a user's loss may raise anything
            raise NotApplicableError(
                f"the loss does not take the outputs {tuple(outputs.shape)} {outputs.dtype} and "
                f"targets {tuple(targets.shape)} {targets.dtype} of the reference set "
                f"({type(error).__name__}: {error})"
            ) from error
        try:
            losses = torch.func.vmap(lambda o, t: scalar(o[None], t[None]))(outputs, targets)
        except Exception:
            pairs = zip(outputs.split(1), targets.split(1), strict=True)
            losses = torch.stack([scalar(o, t) for o, t in pairs])
    return losses, total, _reduction(losses, total)


def _reduction(losses: Tensor, total: Tensor) -> str:
    tolerance = 1e-9 if losses.dtype == torch.float64 else 1e-4
    scale = float(losses.abs().mean())
    if abs(float(losses.mean() - total)) <= tolerance * scale:
        return "mean"
    if abs(float(losses.sum() - total)) <= tolerance * scale * len(losses):
        return "sum"
    return "other"


def loss_estimate(loss_fn: LossFunction, outputs: Tensor, targets: Tensor) -> Estimate:
    """The loss of all samples with its standard error over the samples."""
    losses, total, reduction = sample_losses(loss_fn, outputs, targets)
    if not bool(torch.isfinite(total)):
        return Estimate(float(total), math.nan, status="not finite")
    n = len(losses)
    if reduction == "other" or n < 2:
        note = "" if n < 2 else "the loss is not a mean over samples: no error bar"
        return Estimate(float(total), math.nan, note=note)
    stderr = float(losses.std()) / math.sqrt(n)
    if reduction == "sum":
        return Estimate(float(total), n * stderr, float(n), note="sum over the reference samples")
    return Estimate(float(total), stderr, float(n))


def boundary_losses(outputs: Tensor, targets: Tensor, energy: str) -> Tensor:
    """1/2 |y - x_out|^2 per sample (n,), summed over all outputs of the sample.

    For ``energy="cross-entropy"`` x_out is the softmax of the outputs and y one-hot (or, for
    floating targets, the given class probabilities).

    Raises
    ------
    NotApplicableError
        The targets do not fit the outputs.
    """
    if energy == "squared":
        if outputs.shape != targets.shape:
            raise NotApplicableError(
                f"the squared boundary loss needs targets of the output's shape "
                f"{tuple(outputs.shape)}, got {tuple(targets.shape)}"
            )
        difference = targets - outputs
    else:
        axis = class_axis(outputs, targets)
        if targets.is_floating_point():
            onehot = targets
        else:
            classes = outputs.shape[axis]
            if int(targets.min()) < 0 or int(targets.max()) >= classes:
                raise NotApplicableError(
                    f"the targets run from {int(targets.min())} to {int(targets.max())}, the "
                    f"model has {classes} outputs"
                )
            onehot = torch.nn.functional.one_hot(targets.long(), classes).movedim(-1, axis)
        difference = onehot.to(outputs) - torch.softmax(outputs, axis)
    return 0.5 * _by_sample(difference).square().sum(1)


def class_axis(outputs: Tensor, targets: Tensor) -> int:
    """The axis of the classes: 1 as in torch's losses, or the last one of (n, ..., classes).

    Raises
    ------
    NotApplicableError
        The targets are neither class numbers nor probabilities for these outputs.
    """
    if targets.is_floating_point() and targets.shape == outputs.shape:
        return 1
    if outputs.dim() == targets.dim() + 1:
        # a sequence model's (n, length, classes), unless only torch's own order fits
        if outputs.shape[:-1] == targets.shape:
            return outputs.dim() - 1
        if outputs.shape[2:] == targets.shape[1:]:
            return 1
    raise NotApplicableError(
        f"targets of shape {tuple(targets.shape)} are no classes for outputs of shape "
        f"{tuple(outputs.shape)}"
    )


def correct_fractions(loss_fn: LossFunction, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Per sample the fraction of right predictions (n,); None where there are no classes.

    Classes are integer targets with one output each, one-hot targets of the output's shape, or
    0/1 targets of a binary cross-entropy (outputs thresholded at 0, probabilities at 1/2).
    """
    threshold = BINARY.get(known_loss(loss_fn))
    if threshold is not None and outputs.shape == targets.shape:
        right = (outputs > threshold) == (targets > 0.5)
    elif not targets.is_floating_point():
        try:
            right = outputs.argmax(class_axis(outputs, targets)) == targets
        except NotApplicableError:
            return None
    elif targets.shape == outputs.shape and targets.dim() == 2 and targets.shape[1] > 1:
        if not bool(((targets == 0) | (targets == 1)).all() & (targets.sum(1) == 1).all()):
            return None
        right = outputs.argmax(1) == targets.argmax(1)
    else:
        return None
    # an argmax over NaN is a number too, and would pass for a prediction
    finite = _by_sample(torch.isfinite(outputs)).all(1)
    return torch.where(finite, _by_sample(right.double()).mean(1), torch.nan)


def _by_sample(t: Tensor) -> Tensor:
    return t.reshape(len(t), -1)


def accuracy_estimate(correct: Tensor) -> Estimate:
    """Mean of the fractions with a standard error that does not vanish at 0 or 1.

    The binomial error at one standard deviation after Wilson, J. Am. Stat. Assoc. 22 (1927) 209:
    sqrt(p (1 - p)/n + 1/(4 n^2)) / (1 + 1/n). For several predictions per sample the larger of it
    and the spread between samples, which are the independent units.
    """
    n, p = len(correct), float(correct.mean())
    if not math.isfinite(p):
        return Estimate(math.nan, math.nan, status="not finite")
    single = bool(((correct == 0) | (correct == 1)).all())
    wilson = math.sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
    if single:
        return Estimate(p, wilson, float(n))
    between = float(correct.std()) / math.sqrt(n) if n > 1 else math.nan
    floor = 0.5 / (n + 1)  # Wilson's error at p = 1
    return Estimate(p, max(between, floor) if n > 1 else floor, float(n))
