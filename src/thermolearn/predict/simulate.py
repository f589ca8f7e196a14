"""Gaussian-process regression on data drawn from the sphere: the experiment beside the theory.

Data sets are drawn, the linear system is solved, and the test error is an exact integral over the
sphere, not a test set. Nothing here knows a learning curve: of the theory's ingredients only the
kernel's harmonic eigenvalues are used, computed anew, to do that integral.

References: O. Cohen, O. Malka, Z. Ringel, arXiv:1906.05301, for the experiment; the exact error is
the Funk-Hecke theorem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, eigh

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.predict.sphere import (
    MAX_DEGREE,
    Kernel,
    SphereData,
    SphereTable,
    Truncated,
    check_target_power,
    draw_data,
)

# Added to the diagonal, in units of k(1), where the noise is zero: coinciding inputs, or a kernel
# that falls off fast, leave nothing to invert.
JITTER = 1e-8
# Eigenvalues of a Gram matrix that are zero but for rounding, in units of the largest; and the
# largest error by rounding that is passed on, in squared units of the target
NULL, LOST = 1e-13, 1e-5
# Harmonics beyond degree 200: their largest share of an error or a posterior variance
CUT = 0.01


@dataclass(frozen=True, eq=False)
class GPSimulation:
    """Averages over drawn data sets; every error bar is between data sets.

    Targets that share a data set are averaged first, as they are not independent.

    Attributes
    ----------
    test_error : Estimate
        E_x (f*(x) - g(x))^2 against the target without noise, an exact integral.
    train_error : Estimate
        Mean squared error on the labels of the training set, their noise included.
    learnability : Estimate
        Coefficient of f* on the target's own harmonic over that of the target, per degree
        (len(target_power),); NaN where the target has no power.
    predictive_variance : Estimate
        k(1) - E_x k(x, X) (K + ridge)^{-1} k(X, x), without the noise of a label.
    log_det : Estimate
        log det (K + ridge I).
    quadratic_form : Estimate
        y^T (K + ridge I)^{-1} y.
    log_evidence : Estimate
        -(log_det + quadratic_form + N log 2 pi) / 2, nats.
    errors : ndarray (n_datasets,)
        Test error of each data set: two simulations of one seed see the same inputs and targets,
        and their differences are paired.
    n, n_datasets, n_targets, seed : int
    noise, label_noise : float
    poisson : bool
        Whether the sizes were Poisson(n).
    """

    test_error: Estimate
    train_error: Estimate
    learnability: Estimate
    predictive_variance: Estimate
    log_det: Estimate
    quadratic_form: Estimate
    log_evidence: Estimate
    errors: np.ndarray
    n: int
    noise: float
    label_noise: float
    n_datasets: int
    n_targets: int
    poisson: bool
    seed: int


@dataclass(frozen=True, eq=False)
class Truncation:
    """Regression with the kernel cut at one degree, against the full kernel on the same data.

    Attributes
    ----------
    degree : int
        Harmonics up to this degree are kept.
    noise : float
        sigma^2 + k(1) - sum_{l <= r} N_l lambda_l.
    test_error, difference : Estimate
        With this noise: error against the target, and E_x (f_r - f)^2.
    bare_test_error, bare_difference : Estimate
        With the noise left as it was.
    """

    degree: int
    noise: float
    test_error: Estimate
    difference: Estimate
    bare_test_error: Estimate
    bare_difference: Estimate


def simulate_gp_regression(
    kernel: Kernel,
    dim: int,
    target_power: ArrayLike,
    n: int,
    noise: float,
    label_noise: float = 0.0,
    n_datasets: int = 30,
    n_targets: int = 16,
    poisson: bool = False,
    seed: int = 0,
) -> GPSimulation:
    """Gaussian-process regression on drawn data sets.

    f* = k(x, X) (K + noise I)^{-1} y with X uniform on the sphere of radius sqrt(dim),
    y = g(X) + sqrt(label_noise) xi and g = sum_l g_l N_l^{1/2} P_l(w . x/|x|), w a random
    direction, N_l the number of harmonics of degree l and P_l(1) = 1. With
    alpha = (K + noise I)^{-1} y the error is exact: sum g_l^2 - 2 sum g_l a_l + alpha^T K_2 alpha,
    a_l = lambda_l N_l^{1/2} P_l(X w)^T alpha, K_2 = sum lambda_l^2 N_l P_l the iterated kernel.

    Parameters
    ----------
    kernel : callable
        k(t) of an array of cosines t in [-1, 1], a smooth function of the angle arccos t; an
        `NNGP` or `NTK`.
    dim : int
        Input dimension, at least 2.
    target_power : array (degrees,)
        g_l^2, the target's power in degree l = 0, 1, ...; not negative, not all zero.
    n : int
        Samples, or their mean if `poisson`; at least 1.
    noise : float
        Ridge sigma^2 >= 0, not divided by n. At 0 a jitter of 1e-8 k(1) takes its place.
    label_noise : float
        Variance of the noise of the labels.
    n_datasets : int
        At least 2.
    n_targets : int
        Directions w per data set, which share the factorization.
    poisson : bool
        Sizes are drawn from Poisson(n).
    seed : int
        Data set k depends on (seed, k) alone.

    Returns
    -------
    GPSimulation

    Raises
    ------
    ValueError
        An argument out of range, or a kernel that is not positive semi-definite on the sphere,
        not smooth in the angle, or too narrow for 200 harmonics; so small a noise that float64
        cannot resolve the regression, or that harmonics beyond the 200th would add more than 1% to
        the test error or take it from the posterior variance (not in two dimensions, where they are
        all there).

    Notes
    -----
    O(n^3) per data set: 0.01 s at n = 200, 1 s at n = 1600.
    """
    power = check_target_power(target_power)
    whole("n", n, 1)
    whole("n_datasets", n_datasets, 2)
    whole("n_targets", n_targets, 1)
    whole("seed", seed, 0)
    real("noise", noise, least=0)
    real("label_noise", label_noise, least=0)
    table = SphereTable(kernel, dim)
    if len(power) > MAX_DEGREE:
        raise ValueError(f"target_power reaches beyond degree {MAX_DEGREE}")
    ridge = noise if noise > 0 else JITTER * table.diagonal
    rows = []
    for k in track(range(n_datasets), f"regression on {n} samples", n_datasets):
        rng = np.random.default_rng((1906_05301, seed, k))
        size = int(rng.poisson(n)) if poisson else n
        data = draw_data(rng, size, dim, power, label_noise, n_targets)
        rows.append(_regress(table, data, power, ridge))
    note = "" if noise > 0 else f"jitter {ridge:.3g} on the diagonal in place of zero noise"
    mean = {key: _mean([row[key] for row in rows], note) for key in rows[0]}
    return GPSimulation(
        **mean,
        errors=np.array([row["test_error"] for row in rows]),
        n=n,
        noise=float(noise),
        label_noise=float(label_noise),
        n_datasets=n_datasets,
        n_targets=n_targets,
        poisson=bool(poisson),
        seed=seed,
    )


def simulate_truncation(
    kernel: Kernel,
    dim: int,
    target_power: ArrayLike,
    n: int,
    noise: float,
    degrees: Sequence[int] = (1, 2, 3, 4),
    n_datasets: int = 30,
    n_targets: int = 16,
    seed: int = 0,
) -> tuple[Truncation, ...]:
    """Regression with the harmonics up to a degree only, data set by data set beside the full one.

    Harmonics beyond degree r that the data cannot resolve act as noise of variance
    k(1) - sum_{l <= r} N_l lambda_l on the training points. With it the truncated kernel predicts
    what the full one does; without it the truncated kernel is another machine, which at small
    noise interpolates a target of low degree.

    Parameters
    ----------
    degrees : sequence of int
        r, each from 0 to 200.
    kernel, dim, target_power, n, noise, n_datasets, n_targets, seed
        As for `simulate_gp_regression`, with the same data sets; labels have no noise.

    Returns
    -------
    tuple of Truncation
        One per degree.

    Raises
    ------
    ValueError
        As `simulate_gp_regression`.
    """
    power = check_target_power(target_power)
    whole("n", n, 1)
    whole("n_datasets", n_datasets, 2)
    whole("n_targets", n_targets, 1)
    whole("seed", seed, 0)
    real("noise", noise, least=0)
    table = SphereTable(kernel, dim)
    ridge = noise if noise > 0 else JITTER * table.diagonal
    cuts = [table.truncated(whole("degrees", r, 0, MAX_DEGREE)) for r in degrees]
    found = np.empty((n_datasets, len(cuts), 4))
    for k in track(range(n_datasets), f"truncated kernels on {n} samples", n_datasets):
        rng = np.random.default_rng((1906_05301, seed, k))
        data = draw_data(rng, n, dim, power, 0.0, n_targets)
        found[k] = [_truncate(table, cut, data, power, ridge) for cut in cuts]
    return tuple(
        Truncation(
            cut.degree,
            ridge + cut.missing,
            *(mean_estimate(found[:, i, j]) for j in range(4)),
        )
        for i, cut in enumerate(cuts)
    )


# -- one data set ----------------------------------------------------------------------------------
def _regress(
    table: SphereTable, data: SphereData, power: np.ndarray, ridge: float
) -> dict[str, Any]:
    """All observables of one data set, averaged over its targets."""
    y, size = data.labels, len(data.labels)
    factor, alpha, used = _solve(table, table.first(data.angles), data, ridge)
    second = table.second(data.angles)
    explained = np.einsum("nt,nt->t", used, second @ used)
    learned = _coefficients(table, data, used)
    g = np.sqrt(power)[:, None]
    error = power.sum() - 2 * (g * learned).sum(0) + explained
    variance = table.diagonal - np.trace(cho_solve(factor, second))
    _check_cut(table, _square(used), float(error.mean()), ridge)
    if (
        table.beyond * size > CUT * variance * ridge
    ):  # else tr (K + ridge)^{-1} < size/ridge will do
        _check_cut(table, float(np.trace(cho_solve(factor, np.eye(size)))), variance, ridge)
    log_det = 2 * np.log(np.diag(factor[0])).sum()
    form = float(np.einsum("nt,nt->t", y, alpha).mean())
    with np.errstate(invalid="ignore", divide="ignore"):
        learnability = np.where(power > 0, (learned / g).mean(1), np.nan)
    return {
        "test_error": error.mean(),
        # an empty data set, which Poisson sizes allow, has no training error
        "train_error": ridge**2 * (alpha**2).mean() if size else math.nan,
        "learnability": learnability,
        "predictive_variance": variance,
        "log_det": log_det,
        "quadratic_form": form,
        "log_evidence": -0.5 * (log_det + form + size * math.log(2 * math.pi)),
    }


def _truncate(
    table: SphereTable, cut: Truncated, data: SphereData, power: np.ndarray, ridge: float
) -> list[float]:
    """Test error and difference from the full kernel: renormalized noise, then bare noise."""
    full = _solve(table, table.first(data.angles), data, ridge)[2]
    gram, second = cut.first(data.angles), cut.second(data.angles)
    norm = np.einsum("nt,nt->t", full, table.second(data.angles) @ full)
    _check_cut(table, _square(full), float(norm.mean()), ridge)
    inside = (np.arange(len(power)) <= cut.degree)[:, None]
    found = []
    for noise in (ridge + cut.missing, ridge):
        alpha = _solve(table, gram, data, noise)[2]
        own, cross = (np.einsum("nt,nt->t", a, second @ alpha) for a in (alpha, full))
        learned = inside * _coefficients(table, data, alpha)
        error = power.sum() - 2 * (np.sqrt(power)[:, None] * learned).sum(0) + own
        found += [float(error.mean()), float((norm - 2 * cross + own).mean())]
    return found


def _coefficients(table: SphereTable, data: SphereData, alpha: np.ndarray) -> np.ndarray:
    """lambda_l N_l^{1/2} P_l(X w)^T alpha, (degrees, targets)."""
    overlap = np.einsum("lnt,nt->lt", data.harmonics, alpha)
    return table.eigenvalues[: len(overlap), None] * overlap


def _solve(
    table: SphereTable, gram: np.ndarray, data: SphereData, ridge: float
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Cholesky factor of K + ridge, alpha, and alpha without what K maps to zero.

    Where K has a null space, as a kernel of few harmonics has, its share of alpha is of order
    1/ridge and predicts nothing, but would amplify the rounding of the exact error's integrals.
    """
    matrix = gram.copy()
    matrix[np.diag_indices_from(matrix)] += ridge
    try:
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise ValueError(_too_smooth(ridge)) from error
    alpha = cho_solve(factor, data.labels)
    used = alpha
    if _rounding(table, used) > LOST:
        values, vectors = eigh(gram)
        kept = vectors[:, values > NULL * values[-1]]
        used = kept @ (kept.T @ alpha)
        if _rounding(table, used) > LOST:
            raise ValueError(_too_smooth(ridge))
    return factor, alpha, used


def _check_cut(table: SphereTable, strength: float, whole: float, ridge: float) -> None:
    """ValueError if the degrees beyond the table's matter to `whole`.

    They add sum_{l > 200} lambda_l^2 N_l = `beyond` times |alpha|^2 to an error, as distinct inputs
    are uncorrelated in so high degrees, and take as much times tr (K + ridge)^{-1} from the
    posterior variance; `strength` is what it is multiplied with.
    """
    share = table.beyond * strength / whole if whole > 0 else 0.0
    if share > CUT:
        raise ValueError(
            f"noise: with K + {ridge:.3g} I harmonics beyond degree {MAX_DEGREE}, which the exact "
            f"integral leaves out, make {share:.1%} of the test error or the posterior variance; "
            "raise noise, or lower n"
        )


def _square(alpha: np.ndarray) -> float:
    """|alpha|^2, averaged over the targets; 0 without samples."""
    return float((alpha**2).sum(0).mean())


def _rounding(table: SphereTable, alpha: np.ndarray) -> float:
    """What rounding of the iterated kernel's entries adds to the error, at most."""
    return 1e-14 * float(table.second(0.0)) * float((alpha**2).sum(0).max())


def _too_smooth(ridge: float) -> str:
    return (
        f"noise: regression with K + {ridge:.3g} I is too ill-conditioned for float64, as the "
        "kernel falls off fast and inputs are many; raise noise"
    )


def _mean(values: list[Any], note: str) -> Estimate:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 1:  # data sets without samples have no training error
        x = x[np.isfinite(x)] if np.isfinite(x).any() else x
    return mean_estimate(x, note=note)
