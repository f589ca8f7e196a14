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
from thermolearn.predict.pool.equivalent import as_pool, decompose, rounding
from thermolearn.predict.pool.error_rate import error_probabilities, score_covariance
from thermolearn.predict.pool.held_out import binomial_error, delete_one_error
from thermolearn.predict.pool.remarks import limits, status_beyond, status_within
from thermolearn.predict.pool.result import Curve, PoolCurve
from thermolearn.predict.pool.self_check import (
    MODEL_ERROR,
    RATE_MODEL_ERROR,
    Check,
    make_check,
    measured_on_pool,
)
from thermolearn.predict.pool.tail import Tail, fit_tail
from thermolearn.predict.pool.targets import Target, initial_columns, prepare_target
from thermolearn.predict.pool.theory import Pool, carried, theory_error, variance_share

ANCHORS = 10  # sizes at which error bars and error rates are computed; between them, interpolated
GRID = 33  # sizes of the fine curve up to the pool


@dataclass(frozen=True, eq=False)
class _Bars:
    """Relative jackknife errors of the theory and its error rates at a few sizes."""

    n: np.ndarray
    relative: np.ndarray
    rates: np.ndarray | None


def pool_curve(
    K: Any,
    y: Any,
    n: int | Sequence[int],
    ridge: float,
    task: str = "regression",
    *,
    confidence: float = 0.9,
    seed: int = 0,
    check: bool = True,
    initial: Any = None,
) -> PoolCurve:
    """Predict the test error of kernel regression with n training samples.

    f(x) = c + k(x, X)(K + ridge)^{-1} (y - c), c the mean of the target over the whole pool, which
    n samples would have to estimate: of order 1/n, and said if the kernel cannot make up for it.

    The pool of M samples at the ridge s with tr (K + ridge)(K + s)^{-1} = n resolves the same modes
    as n samples at `ridge`. Its leave-one-out error E_M(s) is a test error on new samples; it and
    the error of n samples differ in the variance only:

        E_n = E_M(s) (1 - df2/M) / (1 - df2/n).

    At n = M this is leave-one-out itself; label noise is part of the error, as it is of any test
    on new samples. One eigendecomposition serves all n. Beyond the pool a power law with a floor is
    extrapolated, between "no further gain" and the steepest law seen, up to 10 M; where the curve
    does not fall or follows no law, or a peak of interpolation is near, it is refused (NaN).

    The theory supposes that many modes share the noise; in one to three dimensions, where kernel
    regression interpolates locally, it fails. It is therefore checked against kernel machines on
    random parts of the pool, at M/2, M/4, ... (`.check`, `.rate_check`). It stands unless one of
    them contradicts it by more than 2.5 standard deviations; then the curve is the theory times the
    measured ratio, interpolated in log n from M/2 down and to leave-one-out at M, and says so.

    The band holds the curve averaged over training sets, at `confidence`, if the samples of the
    pool are independent and new samples come from the same distribution: jackknife over the pool
    and the error of the theory (4% of the error, 15% of the error rate, or the deviation found on
    this pool if that is larger; one standard deviation). A single training set scatters around the
    average. What finite networks do is a different question: see `measure_networks`.

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
        Of the Gaussian draws behind the error rate of three and more classes, and of the parts of
        the pool that the theory is checked on.
    check : bool
        False: the theory alone, whose failure nothing would tell.
    initial : array or tensor (M, draws), optional
        Values of independent random initial functions f0 of one output at the pool's inputs, in
        units of the normalized target (variance 1): for a network in its kernel regime, 64 draws of
        N(0, NNGP). The curve is then that of a single network trained from such an f0 in every
        output, f = f0 + k (K + ridge)^{-1} (y - f0), error and error rate; without it that of the
        average over networks.

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
    gram = as_pool(K, len(target.values))
    spectrum = decompose(gram, ridge, rounding(K))
    columns = np.hstack([target.values, initial_columns(initial, target)])
    pool = Pool(spectrum, target, columns, spectrum.vectors.T @ columns, ridge)
    m = spectrum.size
    least = max(1.0, min(2.0, float(sizes.min())))
    grid = np.geomspace(least, m, GRID)
    grid[-1] = m
    theory = np.array([theory_error(pool, size)[0] for size in grid])
    anchors = np.geomspace(least, m, ANCHORS)
    anchors[-1] = m
    bars = _at_anchors(pool, anchors, seed)
    checks = _checks(pool, gram, bars, seed) if check else (None, None)
    error = theory * _factor(checks[0], grid)
    variance = variance_share(pool)
    tail = fit_tail(grid, error, *variance)
    z = float(norm.ppf(0.5 + confidence / 2))
    wide = _wide(checks[0], bars, grid, z)
    band = _extended(grid, error, error / wide, error * wide, tail)
    rate_band = None if bars.rates is None else _rate_band(grid, bars, checks[1], variance, z)
    return _collect(pool, sizes, band, rate_band, bars, checks, tail, confidence, z)


def _sizes(n: int | Sequence[int]) -> np.ndarray:
    listed = [n] if isinstance(n, int | np.integer) else list(n)
    if not listed:
        raise ValueError("n must name at least one size")
    return np.array([whole("n", size, 1) for size in listed], dtype=np.float64)


def _at_anchors(pool: Pool, anchors: np.ndarray, seed: int) -> _Bars:
    """Relative jackknife errors and, in classification, error rates at a few sizes."""
    bars, rates = [], []
    spectrum, target = pool.spectrum, pool.target
    for n in track(anchors, "error bars", len(anchors)):
        error, at, factor = theory_error(pool, n)
        inverse = (spectrum.vectors / (spectrum.eigenvalues + at.ridge)) @ spectrum.vectors.T
        dual = inverse @ pool.columns
        stderr = delete_one_error(inverse, dual) * factor
        bars.append(stderr / error if error > 0 else 0.0)
        if target.labels is not None:
            residuals = dual / inverse.diagonal()[:, None]
            rates.append(_rate(target, inverse, residuals, factor, seed))
    return _Bars(anchors, np.array(bars), np.array(rates) if rates else None)


def _rate(
    target: Target, inverse: np.ndarray, residuals: np.ndarray, factor: float, seed: int
) -> float:
    """Error rate; residuals (M, columns) of the values and of the initial functions."""
    outputs = target.values.shape[1]
    own, functions = residuals[:, :outputs], residuals[:, outputs:]
    error = float((own**2).sum(1).mean()) * factor
    covariance = score_covariance(inverse, own, error)
    initial = (functions**2).sum(1) / outputs * factor
    covariance = covariance + initial[:, None, None] * np.eye(outputs)
    return float(error_probabilities(target, own, covariance, seed).mean())


def _checks(pool: Pool, gram: np.ndarray, bars: _Bars, seed: int) -> tuple[Check, Check | None]:
    """The theory's error and error rate beside those of kernel machines on parts of the pool."""
    found = measured_on_pool(gram, pool.target, pool.columns, pool.ridge, seed)
    error = _error_check(pool, found, bars)
    if bars.rates is None:
        return error, None
    rates = _between(bars.n, bars.rates, error.n)
    measured = found["rate"], found["rate_noise"], found["rate_stderr"]
    m = error.pool
    share = np.array([binomial_error(float(v), m) / max(float(v), 0.5 / m) for v in rates])
    return error, make_check(error.n, rates, *measured, m, RATE_MODEL_ERROR, share)


def _error_check(pool: Pool, found: dict[str, np.ndarray], bars: _Bars | None = None) -> Check:
    n = found["n"]
    theory = np.array([theory_error(pool, size)[0] for size in n])
    measured = found["error"], found["noise"], found["stderr"]
    sampling = 0.0 if bars is None else _between(bars.n, bars.relative, n)
    return make_check(n, theory, *measured, pool.spectrum.size, MODEL_ERROR, sampling)


def _factor(check: Check | None, n: np.ndarray) -> np.ndarray:
    return np.ones(len(n)) if check is None else check.factor(n)


def _relative(check: Check | None, bars: _Bars, n: np.ndarray) -> np.ndarray:
    """Relative sampling error of the curve: of the theory, or of what it was corrected by."""
    if check is not None and check.corrected:
        return check.sampling_error(n, float(bars.relative[-1]))
    return _between(bars.n, bars.relative, n)


def _wide(check: Check | None, bars: _Bars, n: np.ndarray, z: float) -> np.ndarray:
    """The upper end of the band over the curve, and the curve over the lower end."""
    model = MODEL_ERROR if check is None else check.model_error(n)
    return np.exp(z * np.hypot(_relative(check, bars, n), model))


def _between(anchors: np.ndarray, values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Monotone cubic interpolation in log n."""
    at = np.clip(np.log(n), np.log(anchors[0]), np.log(anchors[-1]))
    return PchipInterpolator(np.log(anchors), values)(at)


def _rate_band(
    grid: np.ndarray, bars: _Bars, check: Check | None, variance: tuple[float, float], z: float
) -> Curve:
    """Error rates on the fine grid and beyond the pool, with sampling and model error."""
    assert bars.rates is not None
    m = int(grid[-1])
    value = np.minimum(_between(bars.n, bars.rates, grid) * _factor(check, grid), 1.0)
    model = RATE_MODEL_ERROR if check is None else check.model_error(grid)
    sampling = np.array([binomial_error(float(v), m) for v in value])
    half = z * np.hypot(sampling, model * value)
    low, high = np.maximum(value - half, 0.0), np.minimum(value + half, 1.0)
    return _extended(grid, value, low, high, fit_tail(grid, value, *variance))


def _extended(
    grid: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, tail: Tail
) -> Curve:
    if tail.refusal or tail.reach <= tail.pool:
        return Curve(grid, value, low, high)
    beyond = np.geomspace(tail.pool, tail.reach, 13)[1:]
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
    pool: Pool,
    sizes: np.ndarray,
    band: Curve,
    rate_band: Curve | None,
    bars: _Bars,
    checks: tuple[Check | None, Check | None],
    tail: Tail,
    confidence: float,
    z: float,
) -> PoolCurve:
    m = pool.spectrum.size
    nan = np.full(len(sizes), np.nan)
    value, lower, upper, stderr, kappa, df1, gamma = (nan.copy() for _ in range(7))
    status = []
    for k, n in enumerate(sizes):
        if n > m:
            status.append(status_beyond(n, m, tail, checks[0]))
            value[k], lower[k], upper[k] = _read(band, n)
            continue
        theory, at, _ = theory_error(pool, n)
        here = np.array([n])
        value[k] = theory * _factor(checks[0], here)[0]
        relative = float(_relative(checks[0], bars, here)[0])
        stderr[k] = value[k] * relative
        status.append(status_within(n, checks[0], relative))
        wide = _wide(checks[0], bars, here, z)[0]
        lower[k], upper[k] = value[k] / wide, value[k] * wide
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
        flags=(*limits(m, sizes, tail, float(bars.relative[-1]), rates, checks), *carried(pool)),
        notes=(*pool.target.notes, *pool.spectrum.notes),
        check=checks[0],
        rate_check=checks[1],
    )
