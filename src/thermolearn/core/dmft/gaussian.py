"""Gaussian processes drawn step by step: orthonormal rows and a pivot-safe Cholesky factor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.linalg import get_blas_funcs

from thermolearn.core.dmft.interface import enlarged

_solve: Any = get_blas_funcs("trsv", dtype=np.float64)
BLOCK = 16  # rows drawn at once
DEPENDENT = 1e-6  # share of its length that a row may lose to the others and still be kept


class GaussianFields:
    """F jointly Gaussian processes with N samples, causally and with matched moments.

    field_a(t) = sum_j L[(t, a), j] z_j with rows z_j of N normal numbers, made orthogonal to the
    constant, to the matched rows and to each other, and of mean square 1: the sample means and
    covariances of the fields are those asked for, to rounding. Rows are drawn when they are needed,
    in blocks of 16, so that a run that is continued has the bits of a longer one.

    A row of L whose pivot is below `pivot` times the standard deviation of the field gets no z of
    its own: the field then follows from the earlier ones, and its variance falls short by at most
    pivot^2 of itself. Near-singular covariances stay harmless this way.

    Parameters
    ----------
    samples : int
        N.
    fields : int
        F.
    pivot : float
        Threshold in (0, 1).
    matched : ndarray (r, N)
    rng : numpy Generator

    Attributes
    ----------
    fixed : int
        Rows of the constant and the matched ones, as far as they are independent.
    dropped : int
        Pivots below the threshold.
    deficit : float
        The most negative squared pivot over its variance, 0 if none: how far the covariance was
        from positive.
    """

    def __init__(
        self, samples: int, fields: int, pivot: float, matched: np.ndarray, rng: np.random.Generator
    ):
        self.samples, self.fields, self.pivot, self._rng = samples, fields, pivot, rng
        self.dropped, self.deficit = 0, 0.0
        self._rows = np.zeros((8, samples))  # constant, matched, z_1, z_2, ...
        self._filled = 0
        for row in [np.ones(samples), *np.asarray(matched, dtype=np.float64)]:
            self._append(row.copy(), 0)
        self.fixed = self._filled
        self._factor = np.zeros((8, 8))  # transposed: the columns of L that have a z
        self._kept: list[int] = []  # index t F + a of each z

    def draw(self, t: int, covariance: np.ndarray) -> np.ndarray:
        """The fields (F, N) of step t, from <field_a(t) field_b(s)>, s <= t, (F, F, t + 1)."""
        coefficients = np.zeros((self.fields, len(self._kept) + self.fields))
        for a in range(self.fields):
            # index s F + b of the flattened row; entries of this step beyond a are not used
            row = covariance[a].T.ravel()
            self._extend(t * self.fields + a, row, coefficients[a])
        used = len(self._kept)
        rows = self._rows[self.fixed : self.fixed + used]
        return coefficients[:, :used] @ rows

    def _extend(self, index: int, row: np.ndarray, out: np.ndarray) -> None:
        """One more row of L, into `out`; draws its z unless the pivot is dropped."""
        n = len(self._kept)
        variance = float(row[index])
        known = row[self._kept]
        if n:
            # BLAS reads the transpose of a C-ordered factor as L
            known = _solve(self._factor[:n, :n].T, known, lower=1)
        out[:n] = known
        left = variance - float(known @ known)
        if variance < 0 or left < 0:
            self.deficit = min(self.deficit, left / max(abs(variance), 1e-300))
        if not left > self.pivot**2 * variance:
            self.dropped += variance > 0
            if variance <= 0:
                out[:n] = 0.0
            return
        while self.fixed + n == self._filled:
            self._more_rows()
        self._factor = enlarged(self._factor, n + 1)
        self._factor[:n, n] = known
        self._factor[n, n] = out[n] = math.sqrt(left)
        self._kept.append(index)

    def _more_rows(self) -> None:
        """A block of z: the earlier rows are read once for all of them."""
        wanted = min(BLOCK, self.samples - self._filled)
        block = self._rng.standard_normal((wanted, self.samples))
        others = self._rows[: self._filled]
        for _ in range(2):  # once more for the bits lost the first time
            block -= (block @ others.T / self.samples) @ others
        since = self._filled
        for row in block:
            self._append(row, since)

    def _append(self, row: np.ndarray, since: int) -> None:
        """Orthonormalize a row against those from `since` on; not kept if nothing is left."""
        before = math.sqrt(row @ row)
        others = self._rows[since : self._filled]
        for _ in range(2):
            row -= (others @ row / self.samples) @ others
        length = math.sqrt(row @ row)
        if length > DEPENDENT * before:
            self._rows = enlarged(self._rows, self._filled + 1, (0,))
            self._rows[self._filled] = row * (math.sqrt(self.samples) / length)
            self._filled += 1
