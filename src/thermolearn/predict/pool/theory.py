"""Predicted error of n samples from a pool, and what carries it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thermolearn.predict.pool.equivalent import (
    PoolSpectrum,
    Resolution,
    equivalent_ridge,
    resolution,
)
from thermolearn.predict.pool.targets import Target

CARRIED = 0.2  # share of the leave-one-out error in one sample that is worth a word
CENTER = 0.1  # of the error: squared error of the target's center, regressed by the kernel


@dataclass(frozen=True, eq=False)
class Pool:
    """What a curve is predicted from; `columns` sum up to the squared error."""

    spectrum: PoolSpectrum
    target: Target
    columns: np.ndarray  # values, then the initial functions, weighted: squares are summed
    projected: np.ndarray  # vectors^T columns
    ridge: float


def theory_error(pool: Pool, n: float) -> tuple[float, Resolution, float]:
    """(E_n, resolution, E_n / E_M(s)) for n <= M."""
    spectrum = pool.spectrum
    at = resolution(spectrum.eigenvalues, equivalent_ridge(spectrum.eigenvalues, n, pool.ridge))
    inverse = 1.0 / (spectrum.eigenvalues + at.ridge)
    dual = (spectrum.vectors * inverse) @ pool.projected
    squares = ((dual / (spectrum.squares @ inverse)[:, None]) ** 2).sum(1)
    factor = variance_factor(at, n, spectrum.size)
    return float(squares.mean()) * factor, at, factor


def variance_factor(at: Resolution, n: float, m: int) -> float:
    """(1 - df2/M) / (1 - df2/n); df2 < n by the Cauchy-Schwarz inequality."""
    return (1.0 - at.df2 / m) / max(1.0 - at.df2 / n, 1e-6)


def variance_share(pool: Pool) -> tuple[float, float]:
    """(df2/n, its exponent in n) at n = M."""
    m = float(pool.spectrum.size)
    half, full = (theory_error(pool, n)[1].df2 / n for n in (m / 2, m))
    return full, float(np.log2(full / half)) if half > 0 and full > 0 else 0.0


def carried(pool: Pool) -> list[str]:
    """Sentences if few samples carry the leave-one-out error, or the center of the target does."""
    spectrum, target = pool.spectrum, pool.target
    inverse = 1.0 / (spectrum.eigenvalues + pool.ridge)
    diagonal = spectrum.squares @ inverse
    squares = (((spectrum.vectors * inverse) @ pool.projected / diagonal[:, None]) ** 2).sum(1)
    ones = (spectrum.vectors * inverse) @ spectrum.vectors.sum(0) / diagonal
    offset = float((target.center**2).sum() / target.variance * (ones**2).mean())
    flags = []
    if squares.max() > CARRIED * squares.sum():
        flags.append(
            f"sample {int(squares.argmax())} alone carries {squares.max() / squares.sum():.0%} of "
            "the leave-one-out error: bands are too narrow for such a target or such inputs; look "
            "for outliers, or transform heavy-tailed features"
        )
    if offset > CENTER * squares.mean():
        flags.append(
            "the kernel does not represent a constant well, so that the center of the target "
            "matters: it is that of the whole pool here, which fewer samples do not know. Center "
            "the target yourself, or give the kernel a bias"
        )
    return flags
