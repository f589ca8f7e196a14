"""The five answers of the first screen, each decided by one pure function on the run.

Every statement is made at 99% confidence, one-sided: z > 2.326 for a number with a standard error,
Bonferroni-corrected when the worst of several is taken. A card is red ("bad") only above it; what
the error bars do not decide is grey ("unknown").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from thermolearn.report.evidence import (
    ALL_LAYERS,
    T99,
    Z99,
    drift_in_words,
    lost_gradient,
    noise_ratio,
    sharpness_ratio,
    stuck_layer,
    text_at,
    trend,
    worst_layer,
    z99,
    z_score,
)
from thermolearn.report.numbers import count, percent, plain
from thermolearn.report.reader import Run, Series, number

Status = Literal["good", "warn", "bad", "unknown"]

SMALL_CHANGE = 0.05  # changes of the loss below this share count as none
TREND_CHANGE = 0.02  # a trend of the loss in the last quarter below this share counts as none
NOISY = 10.0  # noise scale over batch size above which noise limits the step
OVER_EDGE = 2.0  # sharpness over stability edge above which a step amplifies an error threefold
DEAD = (0.1, 0.5)  # share of dead units: worth a look, broken
SATURATED = (0.5, 0.9)
GAP_SHARE = 0.5  # share of the validation loss that the training loss does not have
FEWEST_STEPS = 50  # of a run that may be said not to learn
NONE = "\u2013"


@dataclass(frozen=True)
class Card:
    """One answer: status, a few words, a number with its error, why, what to do, the rule."""

    key: str
    question: str
    status: Status
    answer: str
    number: str
    why: str
    advice: str = ""
    rule: str = ""


class _Answer(Protocol):
    def __call__(
        self, status: Status, answer: str, number: str, why: str, advice: str = ""
    ) -> Card: ...


def _answers(key: str, question: str, rule: str) -> _Answer:
    """Cards that answer one question by one rule."""

    def card(status: Status, answer: str, number: str, why: str, advice: str = "") -> Card:
        return Card(key, question, status, answer, number, why, advice, rule)

    return card


def all_cards(run: Run) -> list[Card]:
    """The cards in the order of the first screen."""
    cards = [learning(run), moving(run), noise_or_curvature(run), layers(run), data_or_model(run)]
    every = number(run.header.get("every"))
    if not run.last_step - run.measured_step > (every if every > 0 else 0):
        return cards
    # what was measured long before the end says nothing about the end
    at = f"the last snapshot that was measured is step {count(run.measured_step)}"
    why = f"The run went on to step {count(run.last_step)}, {at}."
    return [
        c  # the minibatch losses, from which "moving" is judged, go to the end
        if c.status == "bad" or c.key == "moving"
        else replace(c, status="unknown", answer="Cannot tell", why=why)
        for c in cards
    ]


def learning(run: Run) -> Card:
    """Change of the training loss on the reference samples between first and last snapshot.

    z = (first - last)/hypot(errors). First and last share their samples, so the true error of the
    difference is smaller and the rule errs on the side of "cannot tell".

    bad: the latest losses are not finite, or the loss rose (z < -2.326). unknown: no significant
    change in fewer than 50 steps. warn: it fell by less
    than 5% even at the 99% limit, or it fell and then rose again from its lowest snapshot
    (Bonferroni over the snapshots); where the gradient is lost between the last layer and the
    first, the advice is the initialization. good: it fell, z > 2.326. Otherwise unknown.
    """
    rule = (
        "The loss on the same reference samples, first against last snapshot, in standard errors; "
        "a fall or rise counts above 2.33 of them (99%, one-sided)."
    )
    card = _answers("learning", "Is it learning?", rule)

    broken = np.isnan(run.losses.value)
    if len(broken) and broken[-1]:
        since = f"since step {count(run.losses.step[_last_stretch(broken)])}"
        why = "The minibatch loss became infinite or NaN and did not come back."
        advice = "lower the learning rate or clip the gradient, the loss overflows"
        return card("bad", "No, the loss is not a number", since, why, advice)
    series = _reference(run)
    if len(series) < 2 or not np.isfinite(series.stderr[[0, -1]]).all():
        why = "It takes two snapshots of the reference loss with error bars."
        return card("unknown", "Cannot tell", NONE, why)
    first, last = float(series.value[0]), float(series.value[-1])
    error = math.hypot(series.stderr[0], series.stderr[-1])
    z, scale = z_score(first - last, error), abs(first) or 1.0
    low = int(np.argmin(series.value))
    rise = z_score(last - series.value[low], math.hypot(series.stderr[low], series.stderr[-1]))
    number = f"{text_at(series, 0)} \u2192 {text_at(series, -1)}"
    why = _change_in_words((first - last) / scale, z)
    if z < -Z99:
        return card("bad", "No, the loss rose", number, why, "lower the learning rate")
    if run.last_step < FEWEST_STEPS and abs(z) < Z99:
        return card("unknown", "Cannot tell", number, why + f" The run has {_steps(run)} only.")
    if first - last + Z99 * error < SMALL_CHANGE * scale:
        lost = lost_gradient(run)
        advice = "raise the learning rate, or check that loss and targets fit together"
        if lost is not None:
            why += (
                f" At the first snapshot the squared gradient {'grew' if lost > 0 else 'shrank'} "
                f"10^{abs(lost) / math.log(10):.0f} times from the last layer to the first."
            )
            advice = "initialize the weights for this depth (recommend_init), before anything else"
        return card("warn", "Hardly", number, why, advice)
    if rise > z99(len(series)):
        why += f" But it was lowest at step {count(series.step[low])} and has risen since."
        return card("warn", "It did, then the loss rose", number, why, "lower the learning rate")
    if z > Z99:
        n = int(broken.sum())
        lost = f" {n} of {len(broken)} minibatch losses were not finite." if n else ""
        return card("good", "Yes", number, why + lost)
    return card("unknown", "Cannot tell", number, why + " That is within the error bars.")


def _reference(run: Run) -> Series:
    """Reference loss, else boundary loss, finite values only."""
    series = run.series("learning", "reference_loss").finite()
    return series if len(series) else run.series("learning", "boundary_loss").finite()


def _last_stretch(mask: np.ndarray) -> int:
    """Index at which the final stretch of True begins."""
    return 0 if mask.all() else int(len(mask) - np.argmin(mask[::-1]))


def _steps(run: Run) -> str:
    n = int(run.last_step)
    return "1 step" if n == 1 else f"{count(n)} steps"


def _change_in_words(fall: float, z: float) -> str:
    change = f"The reference loss {'fell' if fall >= 0 else 'rose'} by {percent(abs(fall))}"
    return f"{change}, {plain(abs(z), 2)} standard errors." if math.isfinite(z) else f"{change}."


def moving(run: Run) -> Card:
    """Trend of the minibatch losses over the last quarter of the run, by `evidence.trend`.

    bad: rising (t > 2.896) by more than 2%. warn: falling (t < -2.896) by more than 2%. good: the
    99% limits of the change lie within 5%. Otherwise unknown. The drift of the parameters' norm
    (virial relation) is said beside it and decides nothing.
    """
    rule = (
        "A straight line through ten block means of the minibatch losses of the last quarter; "
        "99% limits from Student's t with 8 degrees of freedom."
    )
    card = _answers("moving", "Is it still moving?", rule)

    losses = run.losses.finite()
    quarter = slice(len(losses) - len(losses) // 4, None)
    found = trend(losses.step[quarter], losses.value[quarter])
    if found is None:
        why = f"A trend needs 80 positive minibatch losses; {len(losses)} were recorded."
        return card("unknown", "Cannot tell", NONE, why)
    change, error = found
    number = percent(change, error)
    since = f"over the last quarter of the run, since step {count(losses.step[quarter][0])}"
    if change > max(T99 * error, TREND_CHANGE):
        why = f"The minibatch loss rises {since}."
        return card("bad", "Yes, upwards", number, why, "lower the learning rate or stop earlier")
    if change < -max(T99 * error, TREND_CHANGE):
        why = f"The minibatch loss still falls {since}. {drift_in_words(run)}".strip()
        return card("warn", "Yes, still falling", number, why, "train longer")
    if abs(change) + T99 * error < SMALL_CHANGE:
        why = f"The minibatch loss changes by less than {percent(SMALL_CHANGE)} {since}."
        why = f"{why} {drift_in_words(run)}".strip()
        return card("good", "No, it has settled", number, why)
    why = f"Minibatch noise hides any trend below {percent(T99 * error)} {since}."
    return card("unknown", "Cannot tell", number, why)


def noise_or_curvature(run: Run) -> Card:
    """Noise scale over batch size, and sharpness over the stability edge 2/lr, last snapshot.

    Curvature goes first. bad: sharpness above twice the edge (99%). warn: above the edge (99%), or
    the noise scale above ten batches (99%; where the gradient is not resolved, by its limit). good:
    both are measured and stay below their limits (99%). Otherwise unknown.
    """
    rule = (
        "Noise-limited: noise scale above ten batch sizes. Curvature-limited: sharpness above the "
        "stability edge 2/learning rate of plain gradient descent. Both at 99% confidence."
    )
    card = _answers("noise", "Noise or curvature?", rule)

    curvature, noise = sharpness_ratio(run), noise_ratio(run)
    if curvature and curvature.lower > 1:
        status: Status = "bad" if curvature.lower > OVER_EDGE else "warn"
        why = "The sharpest direction of the loss is steeper than this learning rate can follow."
        advice = "lower the learning rate, the steps overshoot"
        return card(status, "Curvature-limited", f"{curvature} \u00d7 edge", why, advice)
    if noise and noise.lower > NOISY:
        why = "A step is mostly minibatch noise: the noise scale is far above the batch size."
        advice = "let the learning rate decay towards the end, or use larger batches"
        return card("warn", "Noise-limited", f"{noise} \u00d7 batch", why, advice)
    if curvature is None and noise is None:
        why = "Neither gradient noise nor sharpness has a number with an error bar."
        return card("unknown", "Cannot tell", NONE, why)
    found = [f"noise scale {noise} batch sizes"] if noise else []
    found += [f"sharpness {curvature} of the stability edge"] if curvature else []
    why = f"At the last snapshot: {' and '.join(found)}."
    number = f"{noise} \u00d7 batch" if noise else f"{curvature} \u00d7 edge"
    if noise is None or curvature is None:
        missing = "The gradient noise" if noise is None else "A stability edge for this optimizer"
        return card("unknown", "Cannot tell", number, f"{why} {missing} has no number here.")
    if noise.upper < NOISY and curvature.upper < 1:
        return card("good", "Neither limits it", number, why)
    return card("unknown", "Cannot tell", number, why + " A limit lies within the error bar.")


def layers(run: Run) -> Card:
    """Dead and saturated units and layers that do not move, last snapshot, worst layer.

    Limits hold over all layers at once (Bonferroni). bad: more than half dead, or more than 90%
    saturated. warn: more than 10% dead, more than 50% saturated, or a layer whose update ratio is 0
    while others move. good: all 99% upper limits below these. Otherwise unknown.
    """
    rule = (
        "Worst layer, at 99% confidence over all layers: dead units above 10% (red: 50%), "
        "saturated units above 50% (red: 90%), or parameters that did not change at all."
    )
    card = _answers("layers", "Dead or stuck layers?", rule)

    kinds = (
        ("dead_fraction", DEAD, "dead", "lower the learning rate or change the activation"),
        ("saturated_fraction", SATURATED, "saturated", "scale the weights down"),
    )
    found = [(w, *k[1:]) for k in kinds if (w := worst_layer(run, k[0])) is not None]
    levels: tuple[tuple[Status, int], ...] = (("bad", 1), ("warn", 0))
    for status, level in levels:
        for w, limits, word, advice in found:
            if w.lower > limits[level]:
                why = f"In layer {w.layer} more than {percent(limits[level])} are {word}."
                number = f"{percent(w.value, w.error)} {word}"
                return card(
                    status, f"Yes, {word} units", number, why, f"{advice} (layer {w.layer})"
                )
    stuck = stuck_layer(run)
    if stuck is not None:
        if stuck == ALL_LAYERS:
            why = "No parameter changed since the snapshot before."
            advice = "check the learning rate and what the optimizer was given"
            return card("bad", "Yes, nothing moves", "0 update", why, advice)
        why = f"The parameters of layer {stuck} did not change since the snapshot before."
        advice = f"check whether layer {stuck} is meant to be frozen"
        return card("warn", "Yes, a layer stands still", "0 update", why, advice)
    if not found:
        why = "No layer has an activation whose dead or saturated units can be counted."
        return card("unknown", "Cannot tell", NONE, why)
    number = f"{percent(found[0][0].value, found[0][0].error)} {found[0][2]}"
    texts = [f"{percent(w.value, w.error)} {word} in layer {w.layer}" for w, _, word, _ in found]
    why = f"Worst layers: {', '.join(texts)}."
    if all(w.upper < limits[0] for w, limits, _, _ in found):
        return card("good", "None", number, why)
    return card("unknown", "Cannot tell", number, why + " A limit lies within the error bar.")


def data_or_model(run: Run) -> Card:
    """Where the validation loss comes from: the gap to the training loss, or the training loss.

    share = (validation - reference)/validation at the last snapshot, error by propagation (the two
    sample sets are independent). bad: the validation loss rose from its lowest snapshot (99%,
    Bonferroni) by more than 5% while the training loss fell. warn: share above 1/2 (99%): more
    data. good: share below 1/2 (99%) of a run that learns. Otherwise unknown.
    """
    rule = (
        "Share of the validation loss that the training loss does not have; above one half more "
        "data helps more, below it little (99% confidence)."
    )
    card = _answers("data", "More data or a bigger model?", rule)

    validation = run.series("learning", "validation_loss").finite()
    reference = run.series("learning", "reference_loss").finite()
    if not len(validation) or not len(reference):
        why = "No validation loss was recorded: give the probe validation=(x, y)."
        return card("unknown", "Cannot tell", NONE, why)
    v, v_error = float(validation.value[-1]), float(validation.stderr[-1])
    r, r_error = float(reference.value[-1]), float(reference.stderr[-1])
    if not v > 0 or not (math.isfinite(v_error) and math.isfinite(r_error)):
        return card("unknown", "Cannot tell", NONE, "The losses have no usable error bars.")
    low = int(np.argmin(validation.value))
    best, step = float(validation.value[low]), count(validation.step[low])
    rise = z_score(v - best, math.hypot(v_error, validation.stderr[low]))
    if rise > z99(len(validation)) and v > (1 + SMALL_CHANGE) * best and r < reference.value[0]:
        number = f"{text_at(validation, low)} \u2192 {text_at(validation, -1)}"
        why = f"The validation loss has risen since step {step} while the training loss fell."
        return card("bad", "Overfitting", number, why, f"stop at step {step}, or get more data")
    share, error = (v - r) / v, math.hypot(r / v * v_error, r_error) / v
    number = f"{percent(share, error)} gap"
    both = f"Validation loss {text_at(validation, -1)}, training loss {text_at(reference, -1)}"
    if share - Z99 * error > GAP_SHARE:
        why = f"{both}: most of the loss is the gap between them."
        return card("warn", "More data", number, why, "get more data or regularize more")
    if share + Z99 * error < GAP_SHARE:
        if learning(run).status != "good":
            return card("unknown", "Cannot tell", number, f"{both}, but the run has not learned.")
        why = (
            f"{both}: most of the loss is there on the training samples already. A larger model or "
            "longer training can lower it, unless it is noise in the targets."
        )
        return card("good", "More data would help little", number, why)
    return card("unknown", "Cannot tell", number, f"{both}: the error bars do not decide.")
