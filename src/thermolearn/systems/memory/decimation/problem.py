"""Symmetric matrix factorization of extensive rank: parameters, data, error of an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real, whole

# Y must be symmetric to this share of its largest entry (or of 1).
SYMMETRY = 1e-8


@dataclass(frozen=True)
class Params:
    """A factorization problem and the temperature at which its columns are estimated.

    Attributes
    ----------
    n_spins : int
        N >= 16, the order of the matrix.
    load : float
        alpha = P / N in (0, 1), the rank per row; P = round(alpha N), at least 4, and the theory is
        that of the realized P / N.
    delta : float
        Delta >= 0, variance of the noise on an entry.
    temperature : float
        T = 1 / beta > 0 of the Gibbs measure of a column.
    sweeps : int
        Heat-bath sweeps per column, at least 20; a quarter of them is not averaged.
    """

    n_spins: int = 400
    load: float = 0.03
    delta: float = 0.1
    temperature: float = 0.2
    sweeps: int = 300

    def __post_init__(self) -> None:
        whole("n_spins", self.n_spins, 16)
        real("load", self.load, above=0, below=1)
        if self.rank < 4:
            raise ValueError(f"load * n_spins must be at least 4 columns, got {self.rank}")
        real("delta", self.delta, least=0)
        real("temperature", self.temperature, above=0)
        whole("sweeps", self.sweeps, 20)

    @property
    def rank(self) -> int:
        """P = round(alpha N)."""
        return round(self.load * self.n_spins)


@dataclass(frozen=True)
class SymmetricFactorisation:
    """The problem Y = X X^T / sqrt(N) + sqrt(Delta) Z, X a random N by P matrix of signs.

    Z is symmetric Gaussian, of variance 1 off the diagonal and 2 on it.

    Parameters
    ----------
    N : int
        At least 2.
    alpha : float
        P / N > 0; P = round(alpha N) must be at least 1.
    delta : float
        Delta >= 0.

    Raises
    ------
    ValueError
        A parameter out of range.

    References
    ----------
    Camilli, Mezard, arXiv:2212.02105.
    """

    N: int
    alpha: float
    delta: float

    def __post_init__(self) -> None:
        whole("N", self.N, 2)
        real("alpha", self.alpha, above=0)
        if self.rank < 1:
            raise ValueError(
                f"alpha N must round to at least one column, got alpha = {self.alpha!r}"
            )
        real("delta", self.delta, least=0)

    @property
    def rank(self) -> int:
        """P = round(alpha N)."""
        return round(self.alpha * self.N)

    def sample(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """X (N, P) of signs and Y (N, N); the same for the same seed."""
        rng = np.random.default_rng(seed)
        X = rng.choice(np.array([-1.0, 1.0]), (self.N, self.rank))
        noise = rng.standard_normal((self.N, self.N))
        Y = X @ X.T / math.sqrt(self.N)
        Y += math.sqrt(self.delta / 2) * (noise + noise.T)
        return X, Y


@dataclass(frozen=True, eq=False)
class MatchedColumns:
    """Pairs of true and estimated columns; see `match_columns`.

    Attributes
    ----------
    true, found : int arrays (k,)
        Indices of the paired columns of X and of its estimate, k the smaller number of columns.
    signs : float array (k,)
        +-1, by which the estimated column is to be multiplied.
    overlaps : float array (k,)
        |x . x_hat| / N of each pair.
    aligned : float array (N, k)
        The estimated columns in the order and with the signs of the true ones.
    """

    true: np.ndarray
    found: np.ndarray
    signs: np.ndarray
    overlaps: np.ndarray
    aligned: np.ndarray


def match_columns(X: ArrayLike, Xhat: ArrayLike) -> MatchedColumns:
    """Pair the columns of X with those of an estimate, up to order and sign.

    The pairing maximizes sum |x . x_hat| / N (assignment problem), because X X^T fixes neither the
    order nor the signs of the columns: never compare them by index.

    Parameters
    ----------
    X, Xhat : arrays (N, P) and (N, P')
        P and P' may differ; the surplus stays unpaired.

    Raises
    ------
    ValueError
        Not two matrices of equally many rows, or a number that is not finite.
    """
    from scipy.optimize import linear_sum_assignment

    truth, estimate = _matrices(X, Xhat)
    overlap = truth.T @ estimate / len(truth)
    true, found = linear_sum_assignment(np.abs(overlap), maximize=True)
    best = overlap[true, found]
    signs = np.where(best < 0, -1.0, 1.0)
    return MatchedColumns(true, found, signs, np.abs(best), estimate[:, found] * signs)


def factorization_error(X: ArrayLike, Xhat: ArrayLike) -> float:
    """(1/N^2) |X X^T / sqrt(N) - Xhat Xhat^T / sqrt(N)|_F^2; alpha for Xhat = 0.

    Taken from the Gram matrices of the columns, so that no N by N matrix is made. Needs no
    matching: it is blind to order and signs.

    Raises
    ------
    ValueError
        As `match_columns`.
    """
    truth, estimate = _matrices(X, Xhat)
    squares = ((truth.T @ truth) ** 2).sum() - 2 * ((truth.T @ estimate) ** 2).sum()
    squares += ((estimate.T @ estimate) ** 2).sum()
    return max(0.0, float(squares) / len(truth) ** 3)


def couplings(Y: ArrayLike) -> np.ndarray:
    """J = Y / sqrt(N) in double precision, diagonal included; checks Y.

    Raises
    ------
    ValueError
        Y not square, not finite, or not symmetric to 1e-8.
    """
    if np.iscomplexobj(Y):
        raise ValueError("Y is complex; decimation is for real symmetric matrices")
    matrix = np.asarray(Y, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"Y must be a square matrix, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("Y holds a NaN or an infinity")
    asymmetry = float(np.abs(matrix - matrix.T).max())
    if asymmetry > SYMMETRY * max(1.0, float(np.abs(matrix).max())):
        raise ValueError(
            f"Y is not symmetric (largest |Y - Y^T| is {asymmetry:.3g}); pass (Y + Y.T) / 2"
        )
    return matrix / math.sqrt(len(matrix))


def _matrices(X: ArrayLike, Xhat: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, estimate = np.asarray(X, dtype=np.float64), np.asarray(Xhat, dtype=np.float64)
    if truth.ndim != 2 or estimate.ndim != 2 or len(truth) != len(estimate) or not len(truth):
        raise ValueError(
            f"X and Xhat must be matrices of equally many rows, got {truth.shape}, {estimate.shape}"
        )
    if not (np.isfinite(truth).all() and np.isfinite(estimate).all()):
        raise ValueError("X or Xhat holds a number that is not finite")
    return truth, estimate
