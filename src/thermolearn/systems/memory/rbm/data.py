"""Bars and stripes: the smallest data set on which the samplers of a machine differ."""

from __future__ import annotations

import itertools

import numpy as np


def bars_and_stripes(side: int = 4, copies: int = 1) -> np.ndarray:
    """All images of full columns or of full rows, (copies (2^{side + 1} - 2), side^2), 0 and 1.

    Each distinct image appears `copies` times; no machine reaches a mean log-likelihood above
    -ln(2^{side + 1} - 2).
    """
    if side < 1 or copies < 1:
        raise ValueError(f"side and copies must be at least 1, got {side} and {copies}")
    lines = np.array(list(itertools.product((0.0, 1.0), repeat=side)))
    bars = np.repeat(lines[:, None, :], side, axis=1)
    images = np.concatenate([bars, bars.transpose(0, 2, 1)]).reshape(-1, side * side)
    return np.repeat(np.unique(images, axis=0), copies, axis=0)
