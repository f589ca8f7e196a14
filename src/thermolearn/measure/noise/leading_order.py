"""The temperature of SGD to leading order in the learning rate, from the gradient noise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.noise.training_mode import EVAL, training_differs
from thermolearn.measure.window import Run, Window


def step_noise(trace: float, size: float, reduction: str) -> float:
    """tr Cov of the gradient of a batch: tr Sigma/B of a mean over it, B tr Sigma of a sum."""
    return trace * size if reduction == "sum" else trace / size


def leading_order(run: Run, window: Window, first: int, parameters: float) -> Estimate | None:
    """lr (1 - t) tr Sigma/(2 B d (1 - m)) from the gradient noise measured since step `first`.

    With momentum m (Nesterov's too) and dampening t; of a loss that sums over samples B in place
    of 1/B. Status "eval mode" where the model computes something else in training mode (dropout,
    batch normalization): tr Sigma is taken in eval mode. None without SGD at one learning rate or
    with fewer than two snapshots.

    Parameters
    ----------
    window : Window
        The last one: its optimizer settings hold since `first`.
    parameters : float
        d, the number of updated parameters.
    """
    settings = window.optimizer
    rate = leading_rate(settings) / (2 * parameters)
    if settings["name"] != "SGD" or not settings.get("one_rate", True) or not rate > 0:
        return None
    rows = [
        r["values"]
        for r in run.rows
        if r.get("kind") == "snapshot"
        and r.get("quantity") == "gradient_noise"
        and r.get("step", -1) >= first
    ]
    x, y = window.reference
    reduction = sample_losses(window.loss_fn, window.outputs, y)[-1]
    noise, bars = [], []
    for values in rows:
        trace, size = values.get("noise_trace", {}), values.get("batch_size", {}).get("value")
        if trace.get("value") is not None and size:
            noise.append(step_noise(trace["value"], size, reduction))
            bars.append(step_noise(trace.get("stderr") or 0.0, size, reduction))
    if len(noise) < 2:
        return None
    # all windows share the reference samples, whose error does not average out
    error = math.hypot(float(np.std(noise, ddof=1)) / math.sqrt(len(noise)), float(np.mean(bars)))
    found = Estimate(
        rate * float(np.mean(noise)),
        rate * error,
        note="lr (1 - t) tr Sigma/(2 B d (1 - m)): small learning rates, batches with "
        "replacement; tr Sigma on the reference samples",
    )
    reason = training_differs(window.model, x)
    return replace(found, status=EVAL, note=f"{found.note}; {reason}") if reason else found


def leading_rate(settings: dict[str, Any]) -> float:
    """lr (1 - t)/(1 - m): how far a gradient moves SGD in the long run; NaN if m = 1."""
    m = float(settings.get("momentum") or 0.0)
    if m >= 1:
        return math.nan
    t = float(settings.get("dampening") or 0.0) if m else 0.0
    return float(settings.get("lr") or 0.0) * (1 - t) / (1 - m)
