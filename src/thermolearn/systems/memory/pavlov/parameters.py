"""Checks of durations and rates, with messages that name the parameter."""

from __future__ import annotations

import warnings


def check_step(dt: float, tau: float, tau_syn: float) -> None:
    """Raise ValueError if the Euler step is unstable: dt > tau / 2, or dt > tau_syn / 2."""
    shortest = min(tau, tau_syn)
    if dt > shortest / 2:
        raise ValueError(
            f"dt = {dt} is above half of the shortest relaxation time {shortest}: the integration "
            "is unstable, use at most a fifth of it"
        )


def steps_in(duration: float, dt: float, name: str) -> int:
    """Whole number of steps of dt in a duration; ValueError if dt does not divide it."""
    steps = round(duration / dt)
    if steps < 1 or abs(steps * dt - duration) > 1e-6 * duration:
        raise ValueError(f"{name} = {duration} must be a multiple of dt = {dt}")
    return steps


def warn(message: str) -> None:
    """A UserWarning at the line that made the object."""
    warnings.warn(message, UserWarning, stacklevel=4)
