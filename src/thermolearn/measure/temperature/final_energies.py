"""Smallest mean loss of a linear model on its data, and the curvature there."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.temperature.initial_energies import Loss, checked_data

NEWTON_STEPS = 60
SETTLED = 1e-8  # largest change of a score in the last Newton step
FLAT = 1e-6  # ratio of curvatures below which a direction to infinity is looked for


@dataclass(frozen=True, eq=False)
class FinalState:
    """The trained linear model.

    Attributes
    ----------
    energy : Estimate
        E_F = min_w E(w); status "separable" where the minimum is not attained.
    weights : ndarray (D,), or (D, K) for K classes with rows of sum 0
        A minimizer, where there are several of least norm in units in which the columns of X have
        norm 1; NaN where none exists.
    """

    energy: Estimate
    weights: np.ndarray

    @property
    def separable(self) -> bool:
        """Whether the infimum of the cross-entropy is only approached at infinite weights: samples,
        or one class for some samples, are told apart with certainty."""
        return self.energy.status == "separable"


def final_energy(
    X: ArrayLike, y: ArrayLike, loss: Loss = "mse", classes: int | None = None
) -> FinalState:
    """E_F = min_w E(w) of the linear scores z = X w; arguments as in `initial_energy`.

    mse: least squares. mae: the linear programme min sum_i t_i, t_i >= |y_i - z_i| (HiGHS).
    Cross-entropies: Newton's method. Where a linear score tells a class from samples with
    certainty (separable classes, a class without samples and a column of ones) there is no
    minimizer: a linear programme finds the pairs of a sample and a wrong class whose probability
    can be driven to 0 while that of no other pair grows; the infimum is the minimum over the
    other pairs (0 if there are none), returned with status "separable" and a warning. The columns
    of X may have any scale: they are brought to norm 1.

    Raises
    ------
    ValueError, TypeError
        As `initial_energy`.
    ConvergenceError
        Newton's method or the linear programme did not end at a minimum.
    """
    X, target, K = checked_data(X, y, loss, classes)
    X, norms = _unit_columns(X)
    found = _at_unit_columns(X, target, K, loss)
    scale = norms[:, None] if found.weights.ndim == 2 else norms
    return FinalState(found.energy, found.weights / scale)


def _unit_columns(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X with columns of norm 1, and their norms (1 for columns of zeros)."""
    largest = np.abs(X).max(0)
    largest[largest == 0] = 1.0
    norms = np.linalg.norm(X / largest, axis=0)
    norms[norms == 0] = 1.0
    return X / largest / norms, largest * norms


def _at_unit_columns(X: np.ndarray, target: np.ndarray, K: int, loss: str) -> FinalState:
    if loss == "mse":
        w = np.linalg.lstsq(X, target, rcond=None)[0]
        return FinalState(Estimate(((target - X @ w) ** 2).mean(), note="least squares"), w)
    if loss == "mae":
        return _absolute(X, target)
    # class numbers for both: -1 and +1 are the classes 1 and 0 of a score difference
    labels = target if loss == "cross_entropy" else ((1 - target) / 2).astype(np.int64)
    classes = K if loss == "cross_entropy" else 2
    energy, scores = _cross_entropy(X, labels, classes)
    if scores is None:
        empty = np.full((X.shape[1], K) if loss == "cross_entropy" else X.shape[1], np.nan)
        return FinalState(energy, empty)
    free = np.concatenate([scores, np.zeros((len(scores), 1))], 1)  # the last class is the gauge
    if loss == "cross_entropy":
        return FinalState(energy, free - free.mean(1, keepdims=True))
    return FinalState(energy, scores[:, 0])


def _absolute(X: np.ndarray, y: np.ndarray) -> FinalState:
    from scipy.optimize import linprog
    from scipy.sparse import coo_array, eye_array, hstack, vstack

    n, d = X.shape
    dense, ones = coo_array(X), eye_array(n)
    result = linprog(
        np.concatenate([np.zeros(d), np.full(n, 1 / n)]),
        vstack([hstack([dense, -ones]), hstack([-dense, -ones])]).tocsr(),
        np.concatenate([y, -y]),
        bounds=[(None, None)] * d + [(0, None)] * n,
        method="highs",
    )
    if not result.success:
        raise ConvergenceError(f"the linear programme of the MAE failed: {result.message}")
    w = result.x[:d]
    energy = float(np.abs(y - X @ w).mean())
    # the programme's value bounds the minimum from below up to its tolerance
    return FinalState(Estimate(energy, abs(energy - result.fun), note="linear programme"), w)


# -- cross-entropy -----------------------------------------------------------------------------
def _cross_entropy(X: np.ndarray, labels: np.ndarray, K: int) -> tuple[Estimate, np.ndarray | None]:
    """Minimum over weights (D, K - 1) of the first K - 1 scores, the last score being 0."""
    basis = _columns(X)
    Z = X @ basis
    found = _newton(Z, labels, K)
    if found is None or found.flatness < FLAT:
        kept = _kept(Z, labels, K)
        if not kept.all():
            return _infimum(Z, labels, kept), None
    if found is None:
        raise ConvergenceError(
            f"Newton's method did not settle in {NEWTON_STEPS} steps on classes that overlap; "
            "rescale the columns of X"
        )
    return Estimate(found.energy, found.error, note="Newton's method"), basis @ found.weights


def _infimum(Z: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> Estimate:
    """What is left when the probability of all pairs that are not kept has been driven to 0."""
    free = kept.sum(1) == 1  # only the right class is left
    warnings.warn(
        f"{free.sum()} of {len(free)} samples are separable by a linear score, and "
        f"{(~kept[~free]).any(1).sum()} others from some classes: the infimum of the "
        "cross-entropy is only approached as the weights grow without bound",
        stacklevel=5,
    )
    inner = _newton(Z, labels, kept.shape[1], kept)
    if inner is None:
        raise ConvergenceError(
            "Newton's method did not settle on the samples that overlap; rescale X"
        )
    note = "infimum, not attained: it is approached at infinite weights"
    return Estimate(inner.energy, inner.error, status="separable", note=note)


def _columns(X: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the row space, scaled to unit scores (D, rank)."""
    _, s, vt = np.linalg.svd(X, full_matrices=False)
    kept = s > s[0] * max(X.shape) * np.finfo(float).eps if s[0] > 0 else s > 0
    return vt[kept].T / s[kept] * np.sqrt(len(X))


def _probabilities(
    Z: np.ndarray, w: np.ndarray, kept: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, K) and class probabilities (N, K); -inf and 0 for pairs that are not kept."""
    scores = np.concatenate([Z @ w, np.zeros((len(Z), 1))], 1)
    if kept is not None:
        scores[~kept] = -np.inf
    p = np.exp(scores - scores.max(1, keepdims=True))
    return scores, p / p.sum(1, keepdims=True)


def _energy(scores: np.ndarray, labels: np.ndarray) -> float:
    from scipy.special import logsumexp

    return float((logsumexp(scores, axis=1) - scores[np.arange(len(scores)), labels]).mean())


class _Minimum(NamedTuple):
    """`error`: half the last Newton decrement; `flatness`: smallest over largest curvature."""

    energy: float
    error: float
    weights: np.ndarray
    flatness: float


def _newton(
    Z: np.ndarray, labels: np.ndarray, K: int, kept: np.ndarray | None = None
) -> _Minimum | None:
    """Minimum of the mean cross-entropy; None if the scores keep moving."""
    n, r = Z.shape
    onehot = np.eye(K)[labels][:, :-1]
    w = np.zeros((r, K - 1))
    scores, p = _probabilities(Z, w, kept)
    value = _energy(scores, labels)
    for _ in range(NEWTON_STEPS):
        gradient = Z.T @ (p[:, :-1] - onehot) / n
        H = _hessian(Z, p)
        step = -np.linalg.lstsq(H, gradient.T.ravel(), rcond=1e-13)[0].reshape(K - 1, r).T
        decrement = -float((gradient * step).sum())
        if np.abs(Z @ step).max(initial=0.0) < SETTLED:
            curvature = np.linalg.eigvalsh(H) if len(H) else np.ones(1)
            flatness = float(curvature[0] / curvature[-1]) if curvature[-1] > 0 else 0.0
            return _Minimum(value, max(decrement / 2, 1e-15 * value), w, flatness)
        length = 1.0
        while length > 1e-10:
            scores, p = _probabilities(Z, w + length * step, kept)
            new = _energy(scores, labels)
            if new <= value - 1e-4 * length * decrement + 1e-15:
                break
            length /= 2
        w, value = w + length * step, new
    return None


def _hessian(Z: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of the mean cross-entropy in the K - 1 free score columns, class blocks of Z's features."""
    K, (n, r) = p.shape[1], Z.shape
    H = np.empty(((K - 1) * r, (K - 1) * r))
    for a in range(K - 1):
        for b in range(a + 1):
            weight = p[:, a] * ((a == b) - p[:, b]) / n
            block = (Z * weight[:, None]).T @ Z
            H[a * r : (a + 1) * r, b * r : (b + 1) * r] = block
            H[b * r : (b + 1) * r, a * r : (a + 1) * r] = block.T
    return H


def _kept(Z: np.ndarray, labels: np.ndarray, K: int) -> np.ndarray:
    """Pairs of sample and class that cannot be told apart with certainty, as a mask (N, K).

    The right class is always kept. Maximizes sum m_ik over m_ik <= z_{i,y_i} - z_ik,
    0 <= m_ik <= 1: the solution has the largest support, so a pair with m = 0 is held by others.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array, eye_array, hstack

    n, r = Z.shape
    rows, free = [], K - 1
    for k in range(K):
        other = np.flatnonzero(labels != k)
        block = np.zeros((len(other), free, r))
        if k < free:
            block[:, k] = Z[other]
        own = labels[other] < free
        block[np.flatnonzero(own), labels[other][own]] -= Z[other][own]
        rows.append((other, np.full(len(other), k), block.reshape(len(other), free * r)))
    sample, wrong, A = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    m = len(A)
    result = linprog(
        np.concatenate([np.zeros(free * r), -np.ones(m)]),
        hstack([coo_array(A), eye_array(m)]).tocsr(),
        np.zeros(m),
        bounds=[(None, None)] * (free * r) + [(0, 1)] * m,
        method="highs",
    )
    if not result.success:
        raise ConvergenceError(f"the linear programme of separability failed: {result.message}")
    kept = np.ones((n, K), bool)
    kept[sample, wrong] = result.x[free * r :] < 0.5
    return kept


# -- curvature ---------------------------------------------------------------------------------
def energy_at(X: np.ndarray, y: np.ndarray, loss: str, w: np.ndarray) -> float:
    """E(w) of checked data."""
    z = X @ w
    if loss == "mse":
        return float(((y - z) ** 2).mean())
    if loss == "mae":
        return float(np.abs(y - z).mean())
    if loss == "binary_cross_entropy":
        return float(np.logaddexp(0.0, -y * z).mean())
    return _energy(z, y)


def curvature_at(X: np.ndarray, loss: str, w: np.ndarray) -> np.ndarray | None:
    """Hessian of E at w: (D, D), of K classes (D (K - 1),)^2 in the gauge z_K = 0; None for mae."""
    n = len(X)
    if loss == "mse":
        return 2 * X.T @ X / n
    if loss == "binary_cross_entropy":
        z = np.minimum(np.abs(X @ w), 700.0)
        return (X * (0.25 / np.cosh(z / 2) ** 2)[:, None]).T @ X / n
    if loss == "cross_entropy":
        return _hessian(X, _probabilities(X, w[:, :-1] - w[:, -1:])[1])
    return None
