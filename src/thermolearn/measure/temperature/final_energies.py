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
        A minimizer, of least norm where there are several; NaN where none exists.
    """

    energy: Estimate
    weights: np.ndarray

    @property
    def separable(self) -> bool:
        """Whether the infimum of the cross-entropy is only approached at infinite weights."""
        return self.energy.status == "separable"


def final_energy(
    X: ArrayLike, y: ArrayLike, loss: Loss = "mse", classes: int | None = None
) -> FinalState:
    """E_F = min_w E(w) of the linear scores z = X w; arguments as in `initial_energy`.

    mse: least squares. mae: the linear programme min sum_i t_i, t_i >= |y_i - z_i| (HiGHS).
    Cross-entropies: Newton's method. Classes that a linear score separates have no minimizer: a
    linear programme finds the samples whose loss can be driven to 0 while no other grows; the
    infimum is the minimum over the others (0 if there are none), returned with status "separable"
    and a warning.

    Raises
    ------
    ValueError, TypeError
        As `initial_energy`.
    ConvergenceError
        Newton's method or the linear programme did not end at a minimum.
    """
    X, target, K = checked_data(X, y, loss, classes)
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
        held = _held(Z, labels, K)
        if not held.all():
            return _infimum(X, labels, K, held), None
    if found is None:
        raise ConvergenceError(
            f"Newton's method did not settle in {NEWTON_STEPS} steps on classes that overlap; "
            "rescale the columns of X"
        )
    return Estimate(found.energy, found.error, note="Newton's method"), basis @ found.weights


def _infimum(X: np.ndarray, labels: np.ndarray, K: int, held: np.ndarray) -> Estimate:
    """What is left when the loss of all samples that are not held has been driven to 0."""
    warnings.warn(
        f"{len(held) - held.sum()} of {len(held)} samples are separable by a linear score: the "
        "infimum of the cross-entropy is only approached as the weights grow without bound",
        stacklevel=4,
    )
    value = error = 0.0
    if held.any():
        part = X[held]
        inner = _newton(part @ _columns(part), labels[held], K)
        if inner is None:
            raise ConvergenceError(
                "Newton's method did not settle on the samples that overlap; rescale X"
            )
        value, error = inner.energy * held.mean(), inner.error * held.mean()
    note = "infimum, not attained: it is approached at infinite weights"
    return Estimate(value, error, status="separable", note=note)


def _columns(X: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the row space, scaled to unit scores (D, rank)."""
    _, s, vt = np.linalg.svd(X, full_matrices=False)
    kept = s > s[0] * max(X.shape) * np.finfo(float).eps if s[0] > 0 else s > 0
    return vt[kept].T / s[kept] * np.sqrt(len(X))


def _probabilities(Z: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, K) and class probabilities (N, K)."""
    scores = np.concatenate([Z @ w, np.zeros((len(Z), 1))], 1)
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


def _newton(Z: np.ndarray, labels: np.ndarray, K: int) -> _Minimum | None:
    """Minimum of the mean cross-entropy; None if the scores keep moving."""
    n, r = Z.shape
    onehot = np.eye(K)[labels][:, :-1]
    w = np.zeros((r, K - 1))
    scores, p = _probabilities(Z, w)
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
            scores, p = _probabilities(Z, w + length * step)
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


def _held(Z: np.ndarray, labels: np.ndarray, K: int) -> np.ndarray:
    """Samples whose loss cannot be driven to 0 without another's growing, as a mask (N,).

    Maximizes sum m_ik over 0 <= m_ik <= z_{i,y_i} - z_ik, m_ik <= 1: the solution has the largest
    support, so a pair with m = 0 is held by the others.
    """
    from scipy.optimize import linprog

    n, r = Z.shape
    rows, free = [], K - 1
    for k in range(K):
        other = np.flatnonzero(labels != k)
        block = np.zeros((len(other), free, r))
        if k < free:
            block[:, k] = Z[other]
        own = labels[other] < free
        block[np.flatnonzero(own), labels[other][own]] -= Z[other][own]
        rows.append((other, block.reshape(len(other), -1)))
    owner = np.concatenate([i for i, _ in rows])
    A = np.concatenate([b for _, b in rows])
    m = len(A)
    result = linprog(
        np.concatenate([np.zeros(free * r), -np.ones(m)]),
        np.concatenate([A, np.eye(m)], 1),
        np.zeros(m),
        bounds=[(None, None)] * (free * r) + [(0, 1)] * m,
        method="highs",
    )
    if not result.success:
        raise ConvergenceError(f"the linear programme of separability failed: {result.message}")
    stuck = result.x[free * r :] < 0.5
    held = np.zeros(n, bool)
    held[owner[stuck]] = True
    return held


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
