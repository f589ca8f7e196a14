"""Few samples with a small ridge are a large pool with a larger ridge.

Kernel regression on N samples with ridge sigma^2 filters the modes of the kernel operator
(eigenvalues lambda) by lambda / (lambda + kappa), where N = sigma^2 / kappa + df1(kappa) and
df1 = sum lambda / (lambda + kappa) (Sollich; Bordelon, Canatar, Pehlevan, arXiv:2002.02561; Simon
et al., arXiv:2110.03922). The pool's Gram matrix K (M, M) obeys the same law at any ridge s, with
df1 = tr K (K + s)^{-1}, which a matrix of the data tells and the unknown spectrum is not needed
for: kappa = 1 / tr (K + s)^{-1}. One kappa, two readings:

    N = tr (K + sigma^2) (K + s)^{-1}

gives the ridge s >= sigma^2 at which the pool sees what N <= M samples see at sigma^2. The
equivalence of subsampling and ridge is proven for linear features by Patil and Du
(arXiv:2305.18496); how well it holds on real data is measured in the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import brentq

JITTER = 1e-8  # of the mean diagonal, for a Gram matrix that is singular without a ridge
NEGATIVE = 1e-8  # of the largest eigenvalue: what rounding may leave below zero
REPEATED = 1e-7  # squared distance of two inputs over k(x, x): rounding of a repeated one
FEWEST = 20  # samples in a pool


@dataclass(frozen=True, eq=False)
class PoolSpectrum:
    """Eigendecomposition of a pool's Gram matrix.

    Attributes
    ----------
    eigenvalues : ndarray (M,)
        Of K, ascending, >= 0; with the jitter where one was added.
    vectors, squares : ndarray (M, M)
        Eigenvectors in columns, and their squares.
    notes : tuple of str
    """

    eigenvalues: np.ndarray
    vectors: np.ndarray
    squares: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """M."""
        return len(self.eigenvalues)


@dataclass(frozen=True)
class Resolution:
    """What a pool of M samples with ridge s resolves.

    Attributes
    ----------
    ridge : float
        s.
    kappa : float
        1 / tr (K + s)^{-1}, in units of the kernel operator's eigenvalues.
    df1, df2 : float
        sum lambda / (lambda + kappa) and sum lambda^2 / (lambda + kappa)^2 of the operator.
    """

    ridge: float
    kappa: float
    df1: float
    df2: float


def as_gram(K: Any) -> np.ndarray:
    """K as a float64 array, checked to be a finite symmetric matrix with a positive diagonal.

    Raises
    ------
    ValueError
    """
    gram = np.asarray(K.detach().cpu() if hasattr(K, "detach") else K, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"K must be a square Gram matrix, got the shape {gram.shape}")
    if not np.isfinite(gram).all():
        raise ValueError("K holds entries that are not finite; look for missing values in X")
    scale = float(np.abs(gram).max(initial=0.0))
    if len(gram) == 0 or scale == 0 or not np.abs(gram - gram.T).max() <= 1e-6 * scale:
        raise ValueError("K must be symmetric and not zero: the Gram matrix of one set of inputs")
    return gram


def as_pool(K: Any, samples: int) -> np.ndarray:
    """`as_gram` for `samples` targets, of which there must be at least 20.

    Raises
    ------
    ValueError
    """
    gram = as_gram(K)
    if len(gram) != samples:
        raise ValueError(f"K is of {len(gram)} samples, y of {samples}")
    if samples < FEWEST:
        raise ValueError(
            f"the pool has {samples} samples; with fewer than {FEWEST} neither its spectrum nor "
            "its leave-one-out error tells a learning curve"
        )
    return gram


def rounding(K: Any) -> float:
    """What rounding may leave below zero, of the largest eigenvalue: more in single precision."""
    dtype = str(getattr(K, "dtype", "float64")).rpartition(".")[2]
    eps = {"float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.8e-3}.get(dtype, 0.0)
    return max(NEGATIVE, 10.0 * eps)


def decompose(gram: np.ndarray, ridge: float, rounding: float = NEGATIVE) -> PoolSpectrum:
    """Eigenvalues and vectors; a jitter of 1e-8 of the mean diagonal if K + ridge is singular.

    Eigenvalues down to -`rounding` times the largest count as zero.

    Raises
    ------
    ValueError
        K has a negative eigenvalue beyond rounding.
    """
    values, vectors = eigh(gram, driver="evd", check_finite=False)
    if values[0] < -rounding * values[-1]:
        raise ValueError(
            f"K has the eigenvalue {values[0]:.3g} beside the largest {values[-1]:.3g}: it is not "
            "a Gram matrix (not positive semi-definite)"
        )
    values = np.maximum(values, 0.0)
    notes = list(_duplicates(gram))
    jitter = JITTER * float(gram.diagonal().mean())
    if values[0] + ridge < jitter:
        values = values + jitter
        notes.append(f"K is singular (duplicated inputs, or few features): {jitter:.2g} was added "
                     "to its diagonal")  # fmt: skip
    return PoolSpectrum(values, vectors, vectors**2, tuple(notes))


def _duplicates(gram: np.ndarray) -> list[str]:
    """A sentence if inputs repeat: |phi(x) - phi(x')|^2 = K_xx + K_x'x' - 2 K_xx' = 0."""
    diagonal = gram.diagonal()
    copies = 0
    for i in range(1, len(gram)):
        distance = diagonal[:i] + diagonal[i] - 2.0 * gram[i, :i]
        copies += bool((distance <= REPEATED * diagonal[i]).any())
    if not copies:
        return []
    return [f"{copies} of the {len(gram)} inputs repeat an earlier one: leave-one-out then sees "
            "the answer, and the error is too low for new inputs"]  # fmt: skip


def resolution(eigenvalues: np.ndarray, s: float) -> Resolution:
    """kappa, df1 and df2 of the kernel operator at the pool's ridge s.

    df2 = df1 + kappa d df1 / d kappa, along the path of s.
    """
    inverse = 1.0 / (eigenvalues + s)
    total = inverse.sum()
    df1 = float((eigenvalues * inverse).sum())
    slope = (eigenvalues * inverse**2).sum() * total / (inverse**2).sum()
    return Resolution(float(s), float(1.0 / total), df1, max(0.0, float(df1 - slope)))


def equivalent_ridge(eigenvalues: np.ndarray, n: float, ridge: float) -> float:
    """The s >= ridge with tr (K + ridge)(K + s)^{-1} = n, for 0 < n <= M.

    Raises
    ------
    ValueError
        n outside (0, M].
    """
    m = len(eigenvalues)
    if not 0 < n <= m:
        raise ValueError(f"n must lie in (0, {m}], the size of the pool, got {n}")
    top = eigenvalues + ridge

    def excess(log_s: float) -> float:
        return float((top / (eigenvalues + np.exp(log_s))).sum()) - n

    low = np.log(max(ridge, 1e-14 * float(top.mean())))
    if n == m or excess(low) <= 0:
        return float(np.exp(low)) if ridge > 0 or n < m else 0.0
    # tr (K + ridge)(K + s)^{-1} < tr (K + ridge) / s
    high = np.log(top.sum() / n) + 1e-9
    return float(np.exp(brentq(excess, low, high, xtol=1e-13, rtol=1e-13)))  # type: ignore[arg-type]
