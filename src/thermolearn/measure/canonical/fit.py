"""The inverse temperature at which the ensemble has a given average loss."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from thermolearn.core.errors import UnstableEnsembleError
from thermolearn.core.fixed_point import bracketed_root

LOWEST, HIGHEST = math.log(1e-12), math.log(1e12)


def fit_beta(
    cls: Any, J: Any, average_loss: float, options: dict[str, Any], start: float | None = None
) -> Any:
    """Solve mean_s U(beta; G_s) = U_target for beta; U decreases strictly in beta.

    Newton's method in log beta from `start` or N/(2 U), which is exact for an ensemble without
    reference; where it leaves [1e-12, 1e12] or the stable range, bracketing and Brent's method.
    """
    target = float(average_loss)
    if not math.isfinite(target):
        raise ValueError(f"average_loss must be finite, got {average_loss!r}")
    if target <= 0 and options.get("mass", 0.0) == 0:
        raise _no_temperature(cls, J, target, options)
    hot = cls(J, 1e-12, **options)
    guess = 0.5 * hot.neurons / target if target > 0 else 1.0
    if hot.reference == "flat" and target > 0:
        return hot.at(guess)

    begin = math.log(start if start is not None and start > 0 else guess)
    fitted = _newton(hot, target, begin) if target > 0 else None
    if fitted is None:
        fitted = _bracketed(hot, target, begin)
    if fitted is None:
        raise _no_temperature(cls, J, target, options)
    return hot.at(math.exp(fitted))


def _newton(hot: Any, target: float, start: float) -> float | None:
    """log beta by Newton's method on log U, nearly linear in log beta; None if it leaves the road.

    d log U / d log beta = -C_V / (beta U).
    """
    log_beta = start
    for _ in range(12):
        if not LOWEST < log_beta < HIGHEST:
            return None
        ensemble = hot.at(math.exp(log_beta))
        try:
            capacity = float(ensemble._heat_capacity().mean())
            loss = float(ensemble._average_loss().mean())
        except UnstableEnsembleError:
            return None
        if loss <= 0 or capacity <= 0:
            return None
        step = math.log(loss / target) * ensemble.beta * loss / capacity
        if abs(step) > 3:
            return None
        if abs(step) < 1e-10:  # keep the temperature whose log det is remembered
            return log_beta
        log_beta += step
        if abs(step) < 1e-6:  # the next step would be its square
            return log_beta
    return None


def _bracketed(hot: Any, target: float, start: float) -> float | None:
    """log beta by bracketing outward from `start` and Brent's method; None if U never crosses."""

    def excess(log_beta: float) -> float:
        try:
            loss: Tensor = hot.at(math.exp(log_beta))._average_loss()
        except UnstableEnsembleError:
            return -1e3 * max(abs(target), 1.0)
        return max(float(loss.mean()) - target, -1e3 * max(abs(target), 1.0))

    low = high = min(max(start, LOWEST), HIGHEST)
    step = 0.1
    while excess(high) > 0:
        if high >= HIGHEST:
            return None
        low, high, step = high, min(high + step, HIGHEST), 2 * step
    step = 0.1
    while excess(low) <= 0:
        if low <= LOWEST:
            return None
        low, high, step = max(low - step, LOWEST), low, 2 * step
    return bracketed_root(excess, low, high, tol=1e-13)


def _no_temperature(cls: Any, J: Any, target: float, options: dict[str, Any]) -> ValueError:
    hot, cold = "(tr G - m N)/2 =", "0"
    try:
        high = float(cls(J, 1e-12, **options)._average_loss().mean())
        hot = f"{hot if options.get('reference') != 'origin' else 'about'} {high:.6g}"
        if options.get("reference") == "origin" or options.get("mass", 0.0):
            cold = f"{float(cls(J, 1e12, **options)._average_loss().mean()):.6g}"
    except UnstableEnsembleError:
        cold = "minus infinity"
    return ValueError(
        f"no positive temperature gives this loss: average_loss = {target:.6g} must lie "
        f"between {cold} (beta -> infinity) and {hot} (beta -> 0)"
    )
