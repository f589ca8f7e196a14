"""Is it learning: the loss, the boundary loss and the accuracy on fixed samples."""

from __future__ import annotations

import functools
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
IGNORED = -100  # torch's ignore_index, also that of language models


class Learning:
    """Loss, boundary loss and accuracy at the snapshot's parameters, in eval mode.

    Values: ``reference_loss`` (the user's loss), ``boundary_loss`` (where an energy belongs to the
    loss), ``accuracy`` (where the outputs are classes), and the first and the last of these on
    the validation set as ``validation_loss`` and ``validation_accuracy``. The error bars are those
    of a mean over independent samples. Targets that the loss ignores (-100, or its
    ``ignore_index``) do not count, and where the loss is that of the next token, the output at t
    is held against the target at t + 1 (`counted_targets`).
    """

    name = "learning"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if the model or the loss does not run on the samples."""
        outputs, y = window.outputs, window.reference[1]
        values = {"reference_loss": loss_estimate(window.loss_fn, outputs, y)}
        targets, counted = counted_targets(window.loss_fn, outputs, y)
        if window.energy is not None:
            per_sample = boundary_losses(outputs, targets, window.energy, counted)
            values["boundary_loss"] = mean_estimate(per_sample)
        accuracy = _accuracy(window.loss_fn, outputs, targets, counted)
        if accuracy is not None:
            values["accuracy"] = accuracy
        if window.validation is not None:
            x, y = window.validation
            outputs = evaluate(window.model, x)
            values["validation_loss"] = loss_estimate(window.loss_fn, outputs, y)
            targets, counted = counted_targets(window.loss_fn, outputs, y)
            accuracy = _accuracy(window.loss_fn, outputs, targets, counted)
            if accuracy is not None:
                values["validation_accuracy"] = accuracy
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
    tolerance = _tolerance(losses)
    scale = float(losses.abs().mean())
    if abs(float(losses.mean() - total)) <= tolerance * scale:
        return "mean"
    if abs(float(losses.sum() - total)) <= tolerance * scale * len(losses):
        return "sum"
    return "other"


def _tolerance(losses: Tensor) -> float:
    return 1e-9 if losses.dtype == torch.float64 else 1e-4


def loss_estimate(loss_fn: LossFunction, outputs: Tensor, targets: Tensor) -> Estimate:
    """The loss of all samples with its standard error over the samples.

    A loss that ignores some targets is a mean over the counted positions: the ratio of two sums
    over samples, whose error is that of the ratio, to first order.
    """
    losses, total, reduction = sample_losses(loss_fn, outputs, targets)
    if not bool(torch.isfinite(total)):
        return Estimate(float(total), math.nan, status="not finite")
    n = len(losses)
    if reduction == "other" and n > 1:
        return _loss_of_the_counted(loss_fn, outputs, targets, losses, total)
    if n < 2:
        return Estimate(float(total), math.nan)
    stderr = float(losses.std()) / math.sqrt(n)
    if reduction == "sum":
        return Estimate(float(total), n * stderr, float(n), note="sum over the reference samples")
    return Estimate(float(total), stderr, float(n))


def _loss_of_the_counted(
    loss_fn: LossFunction, outputs: Tensor, targets: Tensor, losses: Tensor, total: Tensor
) -> Estimate:
    """A mean over positions of which the samples count unequally many, if the loss is one."""
    _, counted = counted_targets(loss_fn, outputs, targets)
    if counted is not None:
        weights = _by_sample(counted).sum(1).to(losses)
        losses, weights = losses[weights > 0], weights[weights > 0]
        mean = (weights * losses).sum() / weights.sum()
        if abs(float(mean - total)) <= _tolerance(losses) * float(losses.abs().mean()):
            note = "mean over the positions that the loss counts"
            stderr = _ratio_error(losses, weights)
            return Estimate(float(total), stderr, float(len(losses)), note=note)
    note = "the loss is not a mean over samples: no error bar"
    return Estimate(float(total), math.nan, note=note)


def _ratio_error(values: Tensor, weights: Tensor) -> float:
    """Standard error of sum(w v)/sum(w) over independent samples, by the delta method.

    sqrt(n/(n - 1) sum w^2 (v - mean)^2) / sum w; for equal weights that of the mean.
    """
    n = len(values)
    if n < 2:
        return math.nan
    mean = (weights * values).sum() / weights.sum()
    spread = float((weights * (values - mean)).square().sum())
    return math.sqrt(n / (n - 1) * spread) / float(weights.sum())


def counted_targets(
    loss_fn: LossFunction, outputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Integer targets position by position beside the outputs, and which of them count.

    Left out is what the loss ignores: targets of its ``ignore_index`` (-100 unless it says
    otherwise), and the last output of a sequence under a loss of the next token, whose targets are
    those one position later. Both are tried out: the loss must stay the same when these outputs
    change. Other targets are returned as they are, with None for all of them count.
    """
    everything = (targets, None)
    if targets.is_floating_point() or targets.dtype == torch.bool:
        return everything
    try:
        axis = class_axis(outputs, targets)
    except NotApplicableError:
        return everything
    index = _ignore_index(loss_fn)
    if targets.dim() > 1 and axis == outputs.dim() - 1 and targets.shape[1] > 1:
        last = torch.full_like(targets[:, :1], index)
        later = torch.cat([targets[:, 1:], last], dim=1)
        if _ignores(loss_fn, outputs, targets, later == index, axis):
            return later, later != index
    left_out = targets == index
    if bool(left_out.any()) and _ignores(loss_fn, outputs, targets, left_out, axis):
        return targets, ~left_out
    return everything


def _ignore_index(loss_fn: LossFunction) -> int:
    while isinstance(loss_fn, functools.partial):
        if "ignore_index" in loss_fn.keywords:
            return int(loss_fn.keywords["ignore_index"])
        loss_fn = loss_fn.func
    index = getattr(loss_fn, "ignore_index", IGNORED)
    return index if isinstance(index, int) else IGNORED


def _ignores(
    loss_fn: LossFunction, outputs: Tensor, targets: Tensor, where: Tensor, axis: int
) -> bool:
    """Whether the loss stays the same when the outputs of these positions change."""
    shape = [1] * outputs.dim()
    shape[axis] = outputs.shape[axis]
    tilt = torch.linspace(-1, 1, outputs.shape[axis]).to(outputs).reshape(shape)
    with torch.no_grad():
        try:
            before = loss_fn(outputs, targets).mean()
            after = loss_fn(outputs + tilt * where.unsqueeze(axis), targets).mean()
        except Exception:  # `sample_losses` says so
            return False
    return bool(torch.isclose(before, after, rtol=1e-12, atol=0.0, equal_nan=True))


def boundary_losses(
    outputs: Tensor, targets: Tensor, energy: str, counted: Tensor | None = None
) -> Tensor:
    """1/2 |y - x_out|^2 per sample (n,), summed over all outputs of the sample.

    For ``energy="cross-entropy"`` x_out is the softmax of the outputs and y one-hot (or, for
    floating targets, the given class probabilities); where `counted` (the targets' shape) is
    False a position adds nothing, and samples of which nothing counts are left out.

    Raises
    ------
    NotApplicableError
        The targets do not fit the outputs, or none counts.
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
            onehot = _one_hot(outputs, targets, axis, counted)
        difference = onehot.to(outputs) - torch.softmax(outputs, axis)
        if counted is not None:
            difference = difference * counted.unsqueeze(axis)
    losses = 0.5 * _by_sample(difference).square().sum(1)
    return losses if counted is None else losses[_by_sample(counted).any(1)]


def _one_hot(outputs: Tensor, targets: Tensor, axis: int, counted: Tensor | None) -> Tensor:
    classes = outputs.shape[axis]
    valid = targets if counted is None else targets[counted]
    if not len(valid.reshape(-1)):
        raise NotApplicableError("the loss ignores every target of the reference set")
    low, high = int(valid.min()), int(valid.max())
    if low < 0 or high >= classes:
        raise NotApplicableError(
            f"the targets run from {low} to {high}, the model has {classes} outputs"
        )
    if counted is not None:
        targets = torch.where(counted, targets, 0)
    return torch.nn.functional.one_hot(targets.long(), classes).movedim(-1, axis)


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


def _accuracy(
    loss_fn: LossFunction, outputs: Tensor, targets: Tensor, counted: Tensor | None
) -> Estimate | None:
    """Over the counted positions; None where there are no classes, or nothing counts."""
    correct = correct_fractions(loss_fn, outputs, targets, counted)
    if correct is None or not len(correct):
        return None
    if counted is None:
        return accuracy_estimate(correct)
    weights = _by_sample(counted).sum(1).to(correct)
    return accuracy_estimate(correct, weights[weights > 0])


def correct_fractions(
    loss_fn: LossFunction, outputs: Tensor, targets: Tensor, counted: Tensor | None = None
) -> Tensor | None:
    """Per sample the fraction of right predictions (n,); None where there are no classes.

    Classes are integer targets with one output each, one-hot targets of the output's shape, or
    0/1 targets of a binary cross-entropy (outputs thresholded at 0, probabilities at 1/2). With
    `counted` (the targets' shape) the fraction is that of these positions, and samples of which
    nothing counts are left out.
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
    right, weights = _by_sample(right.double()), torch.ones_like(_by_sample(right.double()))
    if counted is not None:
        weights = _by_sample(counted.double())
    fractions = torch.where(finite, (weights * right).sum(1) / weights.sum(1), torch.nan)
    return fractions[weights.any(1)]


def _by_sample(t: Tensor) -> Tensor:
    return t.reshape(len(t), -1)


def accuracy_estimate(correct: Tensor, weights: Tensor | None = None) -> Estimate:
    """Mean of the fractions with a standard error that does not vanish at 0 or 1.

    Samples with more predictions than others weigh more (`weights`, their numbers). The binomial
    error at one standard deviation after Wilson, J. Am. Stat. Assoc. 22 (1927) 209:
    sqrt(p (1 - p)/n + 1/(4 n^2)) / (1 + 1/n). For several predictions per sample the larger of
    Wilson's error at p = 1 and the spread between samples, which are the independent units.
    """
    if weights is None:
        weights = torch.ones_like(correct)
    n, p = len(correct), float((weights * correct).sum() / weights.sum())
    if not math.isfinite(p):
        return Estimate(math.nan, math.nan, status="not finite")
    alike = bool((weights == weights[0]).all())
    single = alike and bool(((correct == 0) | (correct == 1)).all())
    wilson = math.sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
    if single:
        return Estimate(p, wilson, float(n))
    between = _ratio_error(correct, weights)
    floor = 0.5 / (n + 1)  # Wilson's error at p = 1
    return Estimate(p, max(between, floor) if n > 1 else floor, float(n))
