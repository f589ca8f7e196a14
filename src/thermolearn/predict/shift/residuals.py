"""What a kernel machine shows on labelled points it has not seen, and its geometry at new ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import linalg

from thermolearn.core.progress import track

BLOCK = 512  # new inputs at a time
MOST_CORRELATED = 1000  # new inputs whose mutual correlations are looked at


class Kernel(Protocol):
    """Anything with a Gram matrix: (n, m) between the rows of X and X2, or (n, n) of X."""

    def gram(self, X: Any, X2: Any = None) -> Any: ...


class FeatureKernel:
    """k(x, x') = f(x) . f(x') of a feature map."""

    def __init__(self, features: Any):
        self.features = features

    def gram(self, X: Any, X2: Any = None) -> np.ndarray:
        """F F2'."""
        one = np.asarray(self.features(X), dtype=np.float64)
        two = one if X2 is None else np.asarray(self.features(X2), dtype=np.float64)
        return one @ two.T

    def diagonal(self, X: Any) -> np.ndarray:
        """|f|^2 of every row."""
        return (np.asarray(self.features(X), dtype=np.float64) ** 2).sum(1)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A machine at points it was not trained on, an average over its training subsets.

    With the coefficients alpha = (K + ridge)^{-1} k(x) of the prediction alpha . y, a target drawn
    from a Gaussian process of covariance A k and labels of noise variance s^2 have the squared
    error E r^2 = A spread + s^2 gain, exactly.

    Attributes
    ----------
    prediction : ndarray (points, outputs)
    spread : ndarray (points,)
        k(x, x) - 2 alpha . k(x) + alpha' K alpha.
    gain : ndarray (points,)
        1 + |alpha|^2.
    margin : ndarray (points,)
        How far the output is from another class: |f| of one output, else half of largest minus
        second.
    square : ndarray (points,)
        Squared error summed over outputs, of labelled points (else 0).
    wrong : ndarray (points,)
        How often the class was wrong, of labelled points (else 0).
    """

    prediction: np.ndarray
    spread: np.ndarray
    gain: np.ndarray
    margin: np.ndarray
    square: np.ndarray
    wrong: np.ndarray


def geometry(
    kernel: Kernel,
    X: np.ndarray,
    y: np.ndarray,
    X_new: np.ndarray,
    ridge: float,
    n: int,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[Geometry, Geometry, Covariances]:
    """Labelled points, each left out or outside the training subset, and new points.

    y is (N, outputs), coded targets. For n = N one machine; otherwise the average over `repeats`
    random training subsets of size n. The covariances are those of the first machine.

    Raises
    ------
    ValueError
        The Gram matrix plus ridge is not positive definite, or holds a non-finite number.
    """
    N = len(X)
    K = gram_array(kernel, X)
    cross = gram_array(kernel, X_new, X)
    own = diagonal(kernel, X_new)
    subsets = [np.arange(N)]
    if n < N:
        subsets = [np.sort(rng.permutation(N)[:n]) for _ in range(repeats)]
    pool, new = _Sums(N, y.shape[1]), _Sums(len(X_new), y.shape[1])
    for inside in track(subsets, "training subsets"):
        inverse = _inverse(K[np.ix_(inside, inside)], ridge)
        alpha = inverse @ y[inside]
        scale = np.diag(inverse)
        gain = (inverse**2).sum(1) / scale**2
        left_out = y[inside] - alpha / scale[:, None]
        pool.add(inside, left_out, 1 / scale - ridge * gain, gain, y)
        outside = np.setdiff1d(np.arange(N), inside)
        if len(outside):
            held = _at(K[np.ix_(outside, inside)], np.diag(K)[outside], inverse, alpha, ridge)
            pool.add(outside, *held, y)
        at_new = _at(cross[:, inside], own, inverse, alpha, ridge)
        new.add(np.arange(len(X_new)), *at_new, None)
    first = subsets[0]
    few = np.arange(len(X_new))
    if len(few) > MOST_CORRELATED:
        few = np.sort(rng.permutation(len(few))[:MOST_CORRELATED])
    between = Covariances(
        K[np.ix_(first, first)], cross[np.ix_(few, first)], gram_array(kernel, X_new[few]), ridge
    )
    return pool.result(), new.result(), between


@dataclass(frozen=True, eq=False)
class Covariances:
    """Gram matrices of one machine: training points, new with training, new points."""

    train: np.ndarray
    cross: np.ndarray
    new: np.ndarray
    ridge: float

    def design_effects(self, amplitude: float, noise: float) -> tuple[float, float]:
        """How many times fewer independent squared errors there are than points: left out, new.

        Errors of the Gaussian process of covariance A k with label noise s^2 have the covariance
        C; of squares the variance of the mean is sum_ij C_ij^2 / sum_i C_ii^2 times that of
        independent ones.
        """
        n = len(self.train)
        inverse = _inverse(self.train, self.ridge)
        scaled = inverse / np.diag(inverse)[:, None]
        left_out = scaled @ (amplitude * self.train + noise * np.eye(n)) @ scaled.T
        weights = self.cross @ inverse
        back = weights @ self.cross.T
        new = amplitude * (self.new - back - back.T + weights @ self.train @ weights.T)
        new += noise * (np.eye(len(new)) + weights @ weights.T)
        return _design_effect(left_out), _design_effect(new)


def _design_effect(C: np.ndarray) -> float:
    alone = float((np.diag(C) ** 2).sum())
    return float((C**2).sum()) / alone if alone > 0 else 1.0


class _Sums:
    """Averages over training subsets."""

    def __init__(self, points: int, outputs: int):
        self.count = np.zeros(points)
        self.prediction = np.zeros((points, outputs))
        self.spread, self.gain = np.zeros(points), np.zeros(points)
        self.margin = np.zeros(points)
        self.square, self.wrong = np.zeros(points), np.zeros(points)

    def add(
        self,
        rows: np.ndarray,
        prediction: np.ndarray,
        spread: np.ndarray,
        gain: np.ndarray,
        y: np.ndarray | None,
    ) -> None:
        self.count[rows] += 1
        self.prediction[rows] += prediction
        self.spread[rows] += np.maximum(spread, 0.0)
        self.gain[rows] += gain
        self.margin[rows] += margin(prediction)
        if y is not None:
            self.square[rows] += ((prediction - y[rows]) ** 2).sum(1)
            self.wrong[rows] += winner(prediction) != winner(y[rows])

    def result(self) -> Geometry:
        count = self.count
        return Geometry(
            self.prediction / count[:, None],
            self.spread / count,
            self.gain / count,
            self.margin / count,
            self.square / count,
            self.wrong / count,
        )


def winner(output: np.ndarray) -> np.ndarray:
    """The class: of one output its sign, otherwise the largest."""
    return output[:, 0] > 0 if output.shape[1] == 1 else output.argmax(1)


def margin(output: np.ndarray) -> np.ndarray:
    """Distance of the decision: |f| of one output, otherwise half of largest minus second."""
    if output.shape[1] == 1:
        return np.abs(output[:, 0])
    top = np.sort(output, axis=1)
    return 0.5 * (top[:, -1] - top[:, -2])


def gram_array(kernel: Kernel, X: np.ndarray, X2: np.ndarray | None = None) -> np.ndarray:
    """The Gram matrix as float64, checked."""
    K = kernel.gram(X) if X2 is None else kernel.gram(X, X2)
    if hasattr(K, "detach"):
        K = K.detach().cpu().numpy()
    K = np.asarray(K, dtype=np.float64)
    if K.shape != (len(X), len(X if X2 is None else X2)):
        raise ValueError(f"kernel.gram returned the shape {K.shape} for {len(X)} inputs")
    if not np.isfinite(K).all():
        raise ValueError("kernel.gram returned a non-finite number; scale the inputs")
    return K


def diagonal(kernel: Any, X: np.ndarray) -> np.ndarray:
    """k(x, x), by the kernel's own `diagonal` if it has one."""
    if hasattr(kernel, "diagonal"):
        own = kernel.diagonal(X)
        return np.asarray(own.detach().cpu() if hasattr(own, "detach") else own, dtype=np.float64)
    blocks = np.array_split(X, max(1, math.ceil(len(X) / BLOCK)))
    return np.concatenate([np.diag(gram_array(kernel, part)) for part in blocks])


def _inverse(K: np.ndarray, ridge: float) -> np.ndarray:
    shifted = K + ridge * np.eye(len(K))
    try:
        factor = linalg.cho_factor(shifted, lower=True)
    except linalg.LinAlgError as error:
        raise ValueError(
            f"the Gram matrix plus ridge = {ridge:.3g} is not positive definite: the ridge is lost "
            "in rounding, or the kernel is not one; raise ridge"
        ) from error
    return linalg.cho_solve(factor, np.eye(len(K)))


def _at(
    cross: np.ndarray, own: np.ndarray, inverse: np.ndarray, alpha: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, spread and gain at points of covariances `cross` with the training points."""
    weights = cross @ inverse
    squares = (weights**2).sum(1)
    # k - 2 w.k + w'Kw with w'(K + ridge) = k
    spread = own - (weights * cross).sum(1) - ridge * squares
    return cross @ alpha, spread, 1 + squares
