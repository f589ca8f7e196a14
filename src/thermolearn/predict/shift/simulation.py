"""Random-feature ridge regression on shifted inputs, drawn and solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import linalg

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.predict.shift.covariances import checked_covariance


@dataclass(frozen=True, eq=False)
class RFSimulation:
    """Measured errors of random-feature ridge regression.

    Attributes
    ----------
    test, in_distribution : Estimate
        Mean squared error against the noise-free target with and without the shift, mean over
        seeds; the bar is that between seeds.
    test_samples, in_distribution_samples : ndarray (seeds,)
    """

    test: Estimate
    in_distribution: Estimate
    test_samples: np.ndarray
    in_distribution_samples: np.ndarray


def simulate_rf(
    cov_train: ArrayLike,
    cov_test: ArrayLike,
    n: int,
    p: int,
    ridge: float,
    seeds: int | Sequence[int] = 20,
    signal_cov: ArrayLike | None = None,
    activation: str | Callable[[torch.Tensor], torch.Tensor] | Activation = "erf",
    noise: float = 0.0,
    n_test: int = 2000,
) -> RFSimulation:
    """The experiment to `RFShiftTheory`: draw data, teacher and features, solve, test.

    Parameters
    ----------
    cov_train, cov_test, signal_cov, activation, noise
        As for `RFShiftTheory`.
    n, p : int
        Training samples and features.
    ridge : float
        lambda > 0; the smaller of (F'F + lambda) and (F F' + lambda) is solved by Cholesky.
    seeds : int or sequence of int
        Seeds 0..seeds-1, or the seeds.
    n_test : int
        Test inputs with and without shift, each.

    Raises
    ------
    ValueError
        Sizes below 1, no seed, a ridge that is not positive, a bad covariance, or a ridge so small
        that the matrix is singular in double precision.
    """
    train = checked_covariance("cov_train", cov_train)
    test = checked_covariance("cov_test", cov_test, len(train))
    signal = None
    if signal_cov is not None:
        signal = checked_covariance("signal_cov", signal_cov, len(train), zero=True)
    for name, size in (("n", n), ("p", p), ("n_test", n_test)):
        whole(name, size, 1)
    real("ridge", ridge, above=0)
    real("noise", noise, least=0)
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if not numbers or min(numbers) < 0:
        raise ValueError(f"seeds must be a positive number or seeds >= 0, got {seeds!r}")
    resolved = resolve_activation(activation)
    d = len(train)
    roots = _root(train), _root(test), np.eye(d) / math.sqrt(d) if signal is None else _root(signal)
    mean = _mean(resolved, float(np.trace(train)) / d)
    found = np.array(
        [
            one_draw(roots, resolved, mean, (n, p, n_test), ridge, noise, seed)
            for seed in track(numbers, "random features")
        ]
    )
    return RFSimulation(
        mean_estimate(found[:, 1]), mean_estimate(found[:, 0]), found[:, 1], found[:, 0]
    )


def one_draw(
    roots: tuple[np.ndarray, np.ndarray, np.ndarray],
    activation: Activation,
    mean: float,
    sizes: tuple[int, int, int],
    ridge: float,
    noise: float,
    seed: int,
) -> tuple[float, float]:
    """Error without and with shift of one draw of teacher, features and data."""
    rng = np.random.default_rng((2111_08234, seed))
    n, p, n_test = sizes
    d = len(roots[0])
    teacher = roots[2] @ rng.normal(size=d)
    weights = rng.normal(size=(p, d))

    def features(x: np.ndarray) -> np.ndarray:
        u = torch.from_numpy(x @ weights.T / math.sqrt(d))
        with torch.no_grad():
            return (activation.function(u).numpy() - mean) / math.sqrt(p)

    x = rng.normal(size=(n, d)) @ roots[0]
    y = x @ teacher + math.sqrt(noise) * rng.normal(size=n)
    w = ridge_weights(features(x), y, ridge)
    errors = []
    for root in roots[:2]:
        x = rng.normal(size=(n_test, d)) @ root
        errors.append(float(((x @ teacher - features(x) @ w) ** 2).mean()))
    return errors[0], errors[1]


def ridge_weights(features: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """(F'F + ridge)^{-1} F'y by Cholesky in the smaller dimension.

    Raises
    ------
    ValueError
        The matrix is singular in double precision.
    """
    n, p = features.shape
    gram = features @ features.T if n < p else features.T @ features
    gram[np.diag_indices_from(gram)] += ridge
    try:
        factor = linalg.cho_factor(gram, lower=True, overwrite_a=True)
    except linalg.LinAlgError as error:
        raise ValueError(
            f"ridge = {ridge:.3g} is lost in rounding beside the features; raise it"
        ) from error
    if n < p:
        return features.T @ linalg.cho_solve(factor, y)
    return linalg.cho_solve(factor, features.T @ y)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _mean(activation: Activation, s: float) -> float:
    """E f(u), u ~ N(0, s), by the trapezoidal rule: far below what a simulation resolves."""
    u = np.linspace(-10.0, 10.0, 20_001)
    weight = np.exp(-0.5 * u**2)
    with torch.no_grad():
        f = activation.function(torch.from_numpy(math.sqrt(s) * u)).numpy()
    return float(weight @ f / weight.sum())
