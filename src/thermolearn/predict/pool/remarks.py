"""Status and flags of a predicted curve, in words."""

from __future__ import annotations

import numpy as np

from thermolearn.predict.pool.self_check import FEW, MODEL_ERROR, Check
from thermolearn.predict.pool.tail import Tail

UNCERTAIN = 0.35  # relative sampling error above which a few samples carry the error


def status_beyond(n: float, m: int, tail: Tail, check: Check | None) -> str:
    """What there is to say of a size beyond the pool of m."""
    refusal = tail.why_not(n)
    if refusal:
        return f"refused: {refusal}"
    source = ", from a corrected curve" if check is not None and check.corrected else ""
    return f"extrapolated: {n / m:.3g} times the pool of {m}{source}"


def status_within(n: float, check: Check | None, relative: float) -> str:
    """What there is to say of a size within the pool."""
    off = 0.0
    if check is not None and check.corrected:
        off = float(np.exp(-check.deviation(n))) - 1.0
    uncertain = f"sampling error {relative:.0%}: a few samples carry the error"
    if abs(off) >= MODEL_ERROR:
        found = f"corrected: the theory is off by {off:+.0%} here, measured on parts of the pool"
        return f"{found}; {uncertain}" if relative > UNCERTAIN else found
    if relative > UNCERTAIN:
        return f"uncertain: {uncertain}"
    if n < FEW:
        return f"few samples: below {FEW} the theory has errors of order 1/n"
    return "ok"


def limits(
    m: int,
    sizes: np.ndarray,
    tail: Tail,
    relative: float,
    rates: np.ndarray | None,
    checks: tuple[Check | None, Check | None],
) -> tuple[str, ...]:
    """What limits a prediction as a whole: the `flags` of a curve.

    Parameters
    ----------
    m : int
        Samples in the pool.
    relative : float
        Sampling error of leave-one-out at the pool's size.
    rates : ndarray (3, sizes) or None
        Error rate and band.
    """
    flags = [
        "predicts kernel regression; a finite network far from the kernel regime can be better or "
        "worse",
        *_check_flags(checks),
    ]
    if (sizes > m).any():
        beyond = tail.refusal or (
            f"error = {tail.floor:.3g} + {tail.amplitude:.3g} (n/{m})^-{tail.exponent:.3g}, fitted "
            f"from {m / 8:.0f} to {m} samples, misfit {tail.misfit:.1%}"
        )
        flags.append(f"beyond the pool: {beyond}")
        if rates is not None and not tail.refusal:
            flags.append("beyond the pool: the error rate follows a law of its own, fitted alike")
    if rates is not None and not tail.refusal and np.isnan(rates[0][sizes <= tail.reach]).any():
        flags.append("beyond the pool: the error rate follows no law that could be extended (NaN)")
    if relative > 0.25:
        flags.append(
            f"the pool is small for this target: its leave-one-out error is known to {relative:.0%}"
            + (
                "; a few samples carry it, and pools that lack such samples have a band below the "
                "truth"
                if relative > UNCERTAIN
                else ""
            )
        )
    return tuple(flags)


def _check_flags(checks: tuple[Check | None, Check | None]) -> list[str]:
    flags = []
    for name, check in zip(("error", "error rate"), checks, strict=True):
        if check is None:
            continue
        n, gap = check.worst()
        found = (
            f"the theory of the {name} is off by {gap:+.0%} at n = {n:.0f}, the most at the "
            f"{len(check.n)} sizes up to {check.n[-1]:.0f} checked on this pool"
        )
        if check.corrected:
            found += (
                "; few dimensions and local interpolation are the usual reason. The curve is "
                "corrected by the measured ratios; check sizes that matter with "
                "measure_kernel_machine"
            )
        flags.append(found)
    return flags
