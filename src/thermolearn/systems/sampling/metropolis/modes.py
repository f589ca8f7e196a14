"""Eigenfunctions, as functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import interpolate


@dataclass(frozen=True)
class Mode:
    """An eigenfunction of the backward operator: E[phi(x_n) | x_0] = eigenvalue^n phi(x_0).

    Attributes
    ----------
    eigenvalue : float
        Of the grid.
    x, phi : ndarray (n,)
        Points and values, <phi^2> = 1 in the stationary law, phi > 0 at the right end of the
        bulk. Calling the mode interpolates (cubic; the end values outside).
    """

    eigenvalue: float
    x: np.ndarray
    phi: np.ndarray

    def __call__(self, x: ArrayLike) -> np.ndarray:
        inside = np.clip(np.asarray(x, dtype=np.float64), self.x[0], self.x[-1])
        return interpolate.CubicSpline(self.x, self.phi)(inside)
