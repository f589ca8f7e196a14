"""Why a rate or a tail must not be used as it stands."""

from __future__ import annotations

import numpy as np

from thermolearn.predict.exponents.cgf import CGF, LEAST_ESS, EmpiricalCGF

FEW = "ESS < 100: too few scores near the threshold"
ROSY = "uneven weights (shape above 1/2): error bar too small, error rate likely too rosy"


def add(reasons: np.ndarray, where: np.ndarray, text: str) -> None:
    """Append a reason, in place, to an array of objects that holds "" or reasons."""
    reasons[where] = [f"{old}; {text}" if old else text for old in reasons[where]]


def sample_flags(cgf: CGF, tilt: np.ndarray, ess: np.ndarray) -> np.ndarray:
    """What the sample cannot tell at these tilts: "" or reasons, joined by semicolons.

    Too few effective scores, weights without a variance, and tails that look like power laws on
    the side of the tilt.
    """
    tilt = np.asarray(tilt)
    reasons = np.full(tilt.shape, "", dtype=object)
    add(reasons, np.asarray(ess < LEAST_ESS), FEW)
    if isinstance(cgf, EmpiricalCGF):
        add(reasons, cgf.uneven(tilt), ROSY)
        for upper in (True, False):
            where = np.asarray(tilt > 0 if upper else tilt < 0)
            text = cgf.heavy_tail(upper) if where.any() else ""
            if text:
                add(reasons, where, text)
    return reasons


def flag(cgf: CGF, tilt: np.ndarray, ess: np.ndarray) -> str:
    """The reasons at one tilt, or "ok"."""
    return str(sample_flags(cgf, tilt, ess)) or "ok"


def merged(*flags: str) -> str:
    """Reasons of several statuses, each once; "ok" if there are none."""
    found = [reason for text in flags for reason in text.split("; ") if reason not in ("", "ok")]
    return "; ".join(dict.fromkeys(found)) or "ok"
