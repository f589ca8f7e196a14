"""What correlated draws and weights are worth: tau_int, ESS, split R-hat, bootstrap.

Chains are arrays (C, T), C chains of T draws each; one chain may be given as (T,).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate

# Shorter chains cannot show their own correlations.
MIN_DRAWS = 50
# Windows and warnings in units of tau_int.
WINDOW = 5.0
ENOUGH = 50.0


def autocorrelation_time(chains: ArrayLike) -> Estimate:
    """Integrated autocorrelation time tau_int = 1/2 + sum_{t=1}^{W} rho(t), in draws.

    Independent draws have 1/2; the error of a mean of N draws is sd sqrt(2 tau_int / N). The
    autocovariance is averaged over chains about their common mean, so that chains that disagree
    count as correlated. The window is the smallest W >= 5 (1/2 + sum_{t<=W} |rho(t)|), which is
    the usual rule where rho > 0 and does not stop early at negative rho.

    Parameters
    ----------
    chains : array (C, T) or (T,)
        Draws of a scalar, at least 50 per chain.

    Returns
    -------
    Estimate
        With stderr tau sqrt(2 (2 W + 1) / N), N = C T. status ``"under-sampled"`` if the window
        does not close or N < 50 tau (the value is then an underestimate), ``"constant"`` (NaN) if
        the draws are all equal.

    Warns
    -----
    SamplerWarning
        If the draws are under-sampled.

    Raises
    ------
    ValueError
        Fewer than 50 draws per chain, or a non-finite draw.

    References
    ----------
    Madras, Sokal, J. Stat. Phys. 50 (1988) 109.
    """
    x = _checked(chains)
    n_draws = x.shape[1]
    centered = x - x.mean()
    variance = float((centered**2).mean())
    if variance <= (1e-14 * np.abs(x).max()) ** 2:
        return Estimate(math.nan, math.nan, status="constant", note="all draws are equal")
    spectrum = np.abs(np.fft.rfft(centered, 2 * n_draws)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :n_draws].mean(0)
    rho = covariance / np.arange(n_draws, 0, -1) / variance
    lags = np.arange(n_draws)
    closed = np.flatnonzero(lags >= WINDOW * (np.cumsum(np.abs(rho)) - 0.5))
    window = int(closed[0]) if len(closed) else n_draws - 1
    # antithetic draws: the bound on ESS / N of Vehtari et al., so that tau stays positive
    tau = max(float(rho[1 : window + 1].sum()) + 0.5, 0.5 / math.log10(x.size))
    stderr = tau * math.sqrt(2 * (2 * window + 1) / x.size)
    if len(closed) and x.size >= ENOUGH * tau:
        return Estimate(tau, stderr, n_eff=x.size / (2 * tau))
    text = (
        f"{x.shape[0]} chain(s) of {n_draws} draws with tau_int of about {tau:.3g} or more: "
        "error bars are too small; draw at least 50 tau_int, or let the chains move faster"
    )
    warnings.warn(text, SamplerWarning, stacklevel=2)
    return Estimate(tau, stderr, n_eff=x.size / (2 * tau), status="under-sampled", note=text)


def effective_sample_size(chains: ArrayLike) -> float:
    """ESS = N / (2 tau_int): how many independent draws have the same error of the mean.

    Parameters, warnings and errors as for `autocorrelation_time`; NaN if all draws are equal.
    """
    tau = autocorrelation_time(chains)
    return float(np.size(np.asarray(chains)) / (2 * float(tau)))


def split_rhat(chains: ArrayLike) -> float:
    """Split R-hat, rank-normalised, the larger of bulk and folded; below 1.01 for mixed chains.

    R-hat^2 = (T-1)/T + B/W between and within the halves of all chains, on normal scores of the
    ranks; folded around the median it sees chains that differ in scale. With many short chains
    the halves alone give about sqrt(1 + 4 tau_int / T).

    Parameters
    ----------
    chains : array (C, T) or (T,)
        Draws of a scalar, at least 50 per chain.

    Returns
    -------
    float
        >= about 1; NaN if all draws are equal, inf if every half is constant but they differ.

    Raises
    ------
    ValueError
        Fewer than 50 draws per chain, or a non-finite draw.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter, Buerkner, arXiv:1903.08008.
    """
    x = _checked(chains)
    half = x.shape[1] // 2
    halves = np.concatenate([x[:, :half], x[:, -half:]])
    if np.ptp(halves) == 0:
        return math.nan
    folded = np.abs(halves - np.median(halves))
    return max(_rhat(_normal_scores(y)) for y in (halves, folded) if np.ptp(y) > 0)


def bootstrap(
    statistic: Callable[..., ArrayLike], *samples: ArrayLike, n: int = 400, seed: int = 0
) -> Estimate:
    """A statistic of independent samples with its bootstrap standard error.

    Samples that share an index are resampled together. The value is the plain statistic, without
    bias correction (`jackknife` corrects, and is the cheaper choice for smooth statistics).

    Parameters
    ----------
    statistic : callable
        Takes the arrays (sample axis first), returns a float or an array.
    samples : arrays of one common length
    n : int
        Resamples, at least 2; the error bar itself is good to 1 / sqrt(2 n).
    seed : int
        Of the private generator.

    Raises
    ------
    ValueError
        Fewer than two samples or resamples, or lengths that differ.

    References
    ----------
    Efron, Ann. Statist. 7 (1979) 1.
    """
    arrays = [np.asarray(s, dtype=np.float64) for s in samples]
    size = len(arrays[0]) if arrays and arrays[0].ndim else 0
    if size < 2 or any(a.ndim == 0 or len(a) != size for a in arrays):
        raise ValueError("bootstrap needs at least two samples, and arrays of one common length")
    if n < 2:
        raise ValueError(f"n must be at least 2 resamples, got {n}")
    rng = np.random.default_rng(seed)
    replicates = np.stack(
        [
            np.asarray(statistic(*(a[index] for a in arrays)), dtype=np.float64)
            for index in (rng.integers(size, size=size) for _ in range(n))
        ]
    )
    return Estimate(np.asarray(statistic(*arrays)), replicates.std(0, ddof=1), n_eff=float(size))


def importance_ess(log_weights: ArrayLike) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2 of importance weights, from 1 to N.

    Parameters
    ----------
    log_weights : array (N,)
        ln w up to a constant; -inf is a weight of zero.

    Raises
    ------
    ValueError
        No weight, a NaN or +inf, or all weights zero.
    """
    log_w = np.asarray(log_weights, dtype=np.float64).reshape(-1)
    if log_w.size == 0 or np.isnan(log_w).any() or log_w.max() in (np.inf, -np.inf):
        raise ValueError("log_weights must hold at least one finite number, and no NaN or +inf")
    return float(np.exp(2 * special.logsumexp(log_w) - special.logsumexp(2 * log_w)))


def _checked(chains: ArrayLike) -> np.ndarray:
    """The chains as a finite float64 array (C, T)."""
    x = np.asarray(chains, dtype=np.float64)
    if x.ndim == 1:
        x = x[None]
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < MIN_DRAWS:
        raise ValueError(
            f"chains must have shape (C, T) with T >= {MIN_DRAWS} draws, got {x.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError("chains hold a non-finite draw")
    return x


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """Normal quantiles of the pooled ranks, ties averaged (Blom's offsets 3/8)."""
    rank = stats.rankdata(x, method="average").reshape(x.shape)
    return special.ndtri((rank - 0.375) / (x.size + 0.25))


def _rhat(x: np.ndarray) -> float:
    """Classic R-hat of chains (C, T)."""
    n = x.shape[1]
    if not np.ptp(x, axis=1).any():
        return math.inf
    within = x.var(axis=1, ddof=1).mean()
    between = x.mean(axis=1).var(ddof=1)
    return math.sqrt((n - 1) / n + between / within)
