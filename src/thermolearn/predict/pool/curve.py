"""The learning curve of kernel regression, predicted from a labelled pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.stats import norm

from thermolearn.core.checks import real, whole
from thermolearn.core.progress import track
from thermolearn.predict.pool.equivalent import (
    PoolSpectrum,
    Resolution,
    as_pool,
    decompose,
    equivalent_ridge,
    resolution,
)
from thermolearn.predict.pool.error_rate import error_probabilities, score_covariance
from thermolearn.predict.pool.held_out import binomial_error, delete_one_error
from thermolearn.predict.pool.result import Curve, PoolCurve
from thermolearn.predict.pool.tail import REACH, Tail, fit_tail
from thermolearn.predict.pool.targets import Target, prepare_target

# Relative errors (one standard deviation) of the theory, measured on six data sets; see the
# tables of real data in the documentation.
MODEL_ERROR = 0.04
RATE_MODEL_ERROR = 0.15
FEW = 10  # samples below which corrections of order 1/n are not controlled
ANCHORS = 10  # sizes at which error bars and error rates are computed; between them, interpolated
GRID = 33  # sizes of the fine curve up to the pool


@dataclass(frozen=True, eq=False)
class _Pool:
    spectrum: PoolSpectrum
    target: Target
    projected: np.ndarray  # vectors^T values
    ridge: float


def pool_curve(
    K: Any,
    y: Any,
    n: int | Sequence[int],
    ridge: float,
    task: str = "regression",
    *,
    confidence: float = 0.9,
    seed: int = 0,
) -> PoolCurve:
    """Predict the test error of f(x) = k(x, X)(K + ridge)^{-1} y for n training samples.

    The pool of M samples at the ridge s with tr (K + ridge)(K + s)^{-1} = n resolves the same modes
    as n samples at `ridge`. Its leave-one-out error E_M(s) is a test error on new samples; it and
    the error of n samples differ in the variance only:

        E_n = E_M(s) (1 - df2/M) / (1 - df2/n).

    At n = M this is leave-one-out itself; label noise is part of the error, as it is of any test
    on new samples. One eigendecomposition serves all n. Beyond the pool a power law with a floor is
    extrapolated, between "no further gain" and the steepest law seen, up to 10 M; where the curve
    does not fall or follows no law it is refused (NaN).

    The band holds the curve averaged over training sets, at `confidence`, if the samples of the
    pool are independent and new samples come from the same distribution: jackknife over the pool
    and the measured error of the theory (4% of the error, 15% of the error rate; one standard
    deviation). A single training set scatters around the average. What finite networks do is a
    different question: see `measure_networks`.

    Parameters
    ----------
    K : array or tensor (M, M)
        Gram matrix of the kernel on the pool, 20 <= M; time and memory grow as M^3 and M^2 (M =
        2000: seconds; beyond 10000 take a random part).
    y : array or tensor (M,) or (M, outputs)
        Targets or class labels; see `prepare_target`.
    n : int or sequence of int
        Sizes of the training set, 1 or more.
    ridge : float >= 0
        Added to the diagonal of the n samples' Gram matrix, not divided by n.
    task : "regression" or "classification"
        Classification adds the error rate: sign or largest output, the scores of a held-out sample
        taken as Gaussian between training sets.
    confidence : float in (0, 1)
    seed : int
        Of the Gaussian draws behind the error rate of three and more classes.

    Raises
    ------
    ValueError
        Fewer than 20 samples, K not a Gram matrix of them, constant or unusable targets, n or
        ridge out of range.
    """
    sizes = _sizes(n)
    ridge = real("ridge", ridge, least=0.0)
    confidence = real("confidence", confidence, above=0.0, below=1.0)
    whole("seed", seed, 0)
    target = prepare_target(y, task)
    spectrum = decompose(as_pool(K, len(target.values)), ridge)
    pool = _Pool(spectrum, target, spectrum.vectors.T @ target.values, ridge)
    m = spectrum.size
    least = max(1.0, min(2.0, float(sizes.min())))
    grid = np.geomspace(least, m, GRID)
    grid[-1] = m
    error = np.array([_error(pool, size)[0] for size in grid])
    tail = fit_tail(grid, error)
    anchors = np.geomspace(least, m, ANCHORS)
    anchors[-1] = m
    bars, rates = _at_anchors(pool, anchors, seed)
    z = float(norm.ppf(0.5 + confidence / 2))
    band = _error_band(grid, error, anchors, bars, tail, z)
    rate_band = None if rates is None else _rate_band(grid, anchors, rates, m, z)
    return _collect(pool, sizes, band, rate_band, (anchors, bars), tail, confidence, z)


def raw_error(K: Any, targets: Any, n: int | Sequence[int], ridge: float) -> np.ndarray:
    """Predicted mean squared error of targets as they are: neither centered nor scaled.

    For what kernel regression does to a given function, such as the initial output of a network,
    whose mean is part of what has to be learned. Theory and `ridge` as in `pool_curve`.

    Parameters
    ----------
    K : array or tensor (M, M)
    targets : array (M, outputs)
        The squared error is averaged over the columns.
    n : int or sequence of int

    Returns
    -------
    ndarray (sizes,)
        NaN beyond the pool.

    Raises
    ------
    ValueError
        K is not a Gram matrix of the targets' samples, or n or ridge is out of range.
    """
    sizes, ridge = _sizes(n), real("ridge", ridge, least=0.0)
    values = np.asarray(targets, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"targets must be finite numbers (M, outputs), got {values.shape}")
    values = values / np.sqrt(values.shape[1])
    target = Target(values, np.zeros(values.shape[1]), 1.0, "regression")
    spectrum = decompose(as_pool(K, len(values)), ridge)
    pool = _Pool(spectrum, target, spectrum.vectors.T @ values, ridge)
    return np.array([_error(pool, size)[0] if size <= len(values) else np.nan for size in sizes])


def _sizes(n: int | Sequence[int]) -> np.ndarray:
    listed = [n] if isinstance(n, int | np.integer) else list(n)
    if not listed:
        raise ValueError("n must name at least one size")
    return np.array([whole("n", size, 1) for size in listed], dtype=np.float64)


def _error(pool: _Pool, n: float) -> tuple[float, Resolution, float]:
    """(E_n, resolution, E_n / E_M(s)) for n <= M."""
    spectrum = pool.spectrum
    at = resolution(spectrum.eigenvalues, equivalent_ridge(spectrum.eigenvalues, n, pool.ridge))
    inverse = 1.0 / (spectrum.eigenvalues + at.ridge)
    dual = (spectrum.vectors * inverse) @ pool.projected
    squares = ((dual / (spectrum.squares @ inverse)[:, None]) ** 2).sum(1)
    factor = _variance_factor(at, n, spectrum.size)
    return float(squares.mean()) * factor, at, factor


def _variance_factor(at: Resolution, n: float, m: int) -> float:
    """(1 - df2/M) / (1 - df2/n); df2 < n by the Cauchy-Schwarz inequality."""
    return (1.0 - at.df2 / m) / max(1.0 - at.df2 / n, 1e-6)


def _at_anchors(
    pool: _Pool, anchors: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Relative jackknife errors and, in classification, error rates at a few sizes."""
    bars, rates = [], []
    spectrum, target = pool.spectrum, pool.target
    for n in track(anchors, "error bars", len(anchors)):
        error, at, factor = _error(pool, n)
        inverse = (spectrum.vectors / (spectrum.eigenvalues + at.ridge)) @ spectrum.vectors.T
        dual = inverse @ target.values
        stderr = delete_one_error(inverse, dual) * factor
        bars.append(stderr / error if error > 0 else 0.0)
        if target.labels is not None:
            residuals = dual / inverse.diagonal()[:, None]
            covariance = score_covariance(inverse, residuals, error)
            rates.append(error_probabilities(target, residuals, covariance, seed).mean())
    return np.array(bars), np.array(rates) if rates else None


def _between(anchors: np.ndarray, values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Monotone cubic interpolation in log n."""
    at = np.clip(np.log(n), np.log(anchors[0]), np.log(anchors[-1]))
    return PchipInterpolator(np.log(anchors), values)(at)


def _error_band(
    grid: np.ndarray, error: np.ndarray, anchors: np.ndarray, bars: np.ndarray, tail: Tail, z: float
) -> Curve:
    """The curve on the fine grid and beyond the pool, with its band."""
    wide = np.exp(z * np.hypot(_between(anchors, bars, grid), MODEL_ERROR))
    return _extended(grid, error, error / wide, error * wide, tail)


def _rate_band(grid: np.ndarray, anchors: np.ndarray, rates: np.ndarray, m: int, z: float) -> Curve:
    """Error rates on the fine grid and beyond the pool, with sampling and model error."""
    value = _between(anchors, rates, grid)
    low, high = _share_band(value, m, z)
    return _extended(grid, value, low, high, fit_tail(grid, value))


def _share_band(value: np.ndarray, m: int, z: float) -> tuple[np.ndarray, np.ndarray]:
    sampling = np.array([binomial_error(float(v), m) for v in value])
    half = z * np.hypot(sampling, RATE_MODEL_ERROR * value)
    return np.maximum(value - half, 0.0), np.minimum(value + half, 1.0)


def _extended(
    grid: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, tail: Tail
) -> Curve:
    if tail.refusal:
        return Curve(grid, value, low, high)
    beyond = np.geomspace(tail.pool, REACH * tail.pool, 13)[1:]
    down, up = low[-1] / value[-1], high[-1] / value[-1]
    return Curve(
        np.r_[grid, beyond],
        np.r_[value, tail.value(beyond)],
        np.r_[low, tail.lower(beyond) * down],
        np.r_[high, tail.upper(beyond) * up],
    )


def _read(curve: Curve, n: float) -> tuple[float, float, float]:
    """Value and band at n, interpolated in log n; NaN beyond the curve's end."""
    if n > curve.n[-1] * (1 + 1e-9):
        return (np.nan, np.nan, np.nan)
    x = np.log(curve.n)
    at = min(max(np.log(n), x[0]), x[-1])
    return tuple(
        float(PchipInterpolator(x, v)(at)) for v in (curve.value, curve.lower, curve.upper)
    )  # type: ignore[return-value]


def _collect(
    pool: _Pool,
    sizes: np.ndarray,
    band: Curve,
    rate_band: Curve | None,
    bars: tuple[np.ndarray, np.ndarray],
    tail: Tail,
    confidence: float,
    z: float,
) -> PoolCurve:
    m = pool.spectrum.size
    nan = np.full(len(sizes), np.nan)
    value, lower, upper, stderr, kappa, df1, gamma = (nan.copy() for _ in range(7))
    status = []
    for k, n in enumerate(sizes):
        status.append(_status(n, m, tail))
        if n > m:
            value[k], lower[k], upper[k] = _read(band, n)
            continue
        value[k], at, _ = _error(pool, n)
        relative = float(_between(*bars, np.array([n]))[0])
        wide = np.exp(z * np.hypot(relative, MODEL_ERROR))
        lower[k], upper[k], stderr[k] = value[k] / wide, value[k] * wide, value[k] * relative
        kappa[k], df1[k], gamma[k] = at.kappa, at.df1, at.df2 / n
    rates = None if rate_band is None else np.array([_read(rate_band, n) for n in sizes]).T
    return PoolCurve(
        n=sizes,
        test_error=value,
        lower=lower,
        upper=upper,
        stderr=stderr,
        error_rate=None if rates is None else rates[0],
        error_rate_lower=None if rates is None else rates[1],
        error_rate_upper=None if rates is None else rates[2],
        kappa=kappa,
        df1=df1,
        gamma=gamma,
        status=tuple(status),
        pool=m,
        ridge=pool.ridge,
        variance=pool.target.variance,
        confidence=confidence,
        task=pool.target.task,
        error_curve=band,
        rate_curve=rate_band,
        flags=_flags(pool, sizes, tail, float(bars[1][-1]), rates),
        notes=(*pool.target.notes, *pool.spectrum.notes),
    )


def _status(n: float, m: int, tail: Tail) -> str:
    if n > m:
        refusal = tail.why_not(n)
        if refusal:
            return f"refused: {refusal}"
        return f"extrapolated: {n / m:.3g} times the pool of {m}"
    if n < FEW:
        return f"few samples: below {FEW} the theory has errors of order 1/n"
    return "ok"


def _flags(
    pool: _Pool, sizes: np.ndarray, tail: Tail, relative: float, rates: np.ndarray | None
) -> tuple[str, ...]:
    m = pool.spectrum.size
    flags = [
        "predicts kernel regression; a finite network far from the kernel regime can be better or "
        "worse"
    ]
    if (sizes > m).any():
        beyond = tail.refusal or (
            f"error = {tail.floor:.3g} + {tail.amplitude:.3g} (n/{m})^-{tail.exponent:.3g}, fitted "
            f"from {m / 8:.0f} to {m} samples, misfit {tail.misfit:.1%}"
        )
        flags.append(f"beyond the pool: {beyond}")
    if rates is not None and not tail.refusal and np.isnan(rates[0][sizes <= REACH * m]).any():
        flags.append("beyond the pool: the error rate follows no law that could be extended (NaN)")
    if relative > 0.25:
        flags.append(
            f"the pool is small for this target: its leave-one-out error is known to {relative:.0%}"
        )
    return tuple(flags)
