"""Power law in the tail of positive numbers: fit, goodness of fit, alternatives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate

CANDIDATES = 128  # values tried as the start of the tail
LEAST = 10  # points of a tail
PLAUSIBLE = 0.1  # p below which the power law is ruled out (Clauset et al.)


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """p(x) = (alpha - 1)/xmin (x/xmin)^-alpha for x >= xmin.

    Attributes
    ----------
    alpha : Estimate
        Exponent. stderr: bootstrap over the numbers, the start of the tail searched anew in each
        resample; without resamples (alpha - 1)/sqrt(n), which leaves that search out.
    xmin : float
    n_tail : int
        Numbers >= xmin.
    distance : float
        Kolmogorov-Smirnov distance within the tail.
    p_value : Estimate
        Share of synthetic samples with a larger distance; NaN without resamples. Below 0.1 the
        power law is ruled out; a large p does not prove it.
    versus : dict
        Log-likelihood ratio of the power law over "lognormal" and "exponential" on the tail and
        the two-sided p of its sign (Vuong): (ratio, p). Positive favors the power law.
    """

    alpha: Estimate
    xmin: float
    n_tail: int
    distance: float
    p_value: Estimate
    versus: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def plausible(self) -> bool:
        """p of at least 0.1, and neither alternative significantly better."""
        beaten = any(r < 0 and p < PLAUSIBLE for r, p in self.versus.values())
        return float(self.p_value.value) >= PLAUSIBLE and not beaten

    @property
    def heavy(self) -> bool:
        """Plausible, and significantly better than the exponential."""
        ratio, p = self.versus["exponential"]
        return self.plausible and ratio > 0 and p < PLAUSIBLE


def fit_power_law(values: np.ndarray, resamples: int = 0, seed: int = 0) -> PowerLaw:
    """Power law in the upper tail of independent positive numbers.

    Parameters
    ----------
    values : array
        At least 20 distinct positive finite numbers; zeros are left out.
    resamples : int
        For the p-value (semi-parametric bootstrap) and for the error of alpha; 0: neither.
        The standard error of p is at most 0.5/sqrt(resamples).
    seed : int
        Of the resamples.

    Raises
    ------
    ValueError
        Numbers that are negative or not finite, or too few of them.

    Notes
    -----
    alpha = 1 + n / sum ln(x/xmin) by maximum likelihood; xmin minimizes the distance among at
    most 128 of the numbers, evenly spaced in rank, each with at least 10 numbers above. The
    method takes the numbers as independent; eigenvalues repel each other and lie closer to any
    smooth law, so that for them p is too large: what is ruled out is ruled out.

    References
    ----------
    Clauset, Shalizi, Newman, SIAM Rev. 51 (2009) 661, arXiv:0706.1062.
    """
    whole("resamples", resamples, least=0)
    whole("seed", seed, least=0)
    x = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(x).all() or (x < 0).any():
        raise ValueError("values must be finite and not negative")
    x = np.sort(x[x > 0])
    if len(np.unique(x)) < 2 * LEAST:
        raise ValueError(f"values must hold at least {2 * LEAST} distinct positive numbers")
    start, alpha, distance = _best(x)
    tail = x[start:]
    n = len(tail)
    rng = np.random.default_rng(seed)
    stderr, p = (alpha - 1) / math.sqrt(n), Estimate(math.nan, math.nan, status="not computed")
    if resamples > 0:
        far = 0
        for _ in range(resamples):
            far += _best(_synthetic(x, start, alpha, rng))[2] >= distance
        share = far / resamples
        spread = math.sqrt(max(share * (1 - share), 0.25 / resamples) / resamples)
        p = Estimate(share, spread, n_eff=float(resamples))
        drawn = [_best(np.sort(rng.choice(x, len(x))))[1] for _ in range(resamples)]
        stderr = float(np.std(drawn, ddof=1)) if resamples > 1 else math.nan
    note = f"{n} of {len(x)} numbers, {resamples} resamples"
    return PowerLaw(
        Estimate(alpha, stderr, note=note),
        float(tail[0]),
        n,
        distance,
        p,
        {
            "lognormal": _against_lognormal(tail, alpha),
            "exponential": _against_exponential(tail, alpha),
        },
    )


def _best(x: np.ndarray) -> tuple[int, float, float]:
    """Start of the tail, exponent and distance; x ascending and positive."""
    log = np.log(x)
    count = len(x)
    starts = np.unique(np.linspace(0, count - LEAST, CANDIDATES).astype(int))
    starts = starts[log[-1] > log[starts]]  # a tail of equal numbers has no exponent
    if not len(starts):
        return 0, math.inf, 1.0
    n = count - starts
    sums = np.cumsum(log[::-1])[::-1][starts]
    rate = n / (sums - n * log[starts])  # alpha - 1
    index = np.arange(count)
    model = -np.expm1(-rate[:, None] * (log[None] - log[starts, None]))
    below = (index[None] - starts[:, None]) / n[:, None]
    above = below + 1 / n[:, None]
    gap = np.maximum(model - below, above - model)
    gap[index[None] < starts[:, None]] = 0.0
    distances = gap.max(1)
    k = int(distances.argmin())
    return int(starts[k]), 1 + float(rate[k]), float(distances[k])


def _synthetic(x: np.ndarray, start: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """As many numbers: those below the tail resampled, those in it from the power law."""
    count = len(x)
    n_tail = rng.binomial(count, (count - start) / count) if start else count
    tail = x[start] * rng.random(n_tail) ** (-1 / (alpha - 1))
    body = rng.choice(x[:start], count - n_tail) if start else np.empty(0)
    return np.sort(np.concatenate([body, tail]))


def _vuong(difference: np.ndarray) -> tuple[float, float]:
    """Sum of the differences of log-likelihoods and the p of its sign."""
    total, spread = float(difference.sum()), float(difference.std())
    if not math.isfinite(total) or spread == 0:
        return total, 1.0
    return total, math.erfc(abs(total) / (spread * math.sqrt(2 * len(difference))))


def _log_power(tail: np.ndarray, alpha: float) -> np.ndarray:
    return math.log((alpha - 1) / tail[0]) - alpha * np.log(tail / tail[0])


def _against_exponential(tail: np.ndarray, alpha: float) -> tuple[float, float]:
    rate = 1 / (tail.mean() - tail[0])
    return _vuong(_log_power(tail, alpha) - (math.log(rate) - rate * (tail - tail[0])))


def _against_lognormal(tail: np.ndarray, alpha: float) -> tuple[float, float]:
    """A log-normal cut at the start of the tail, by maximum likelihood."""
    from scipy.optimize import minimize
    from scipy.stats import norm

    log = np.log(tail)

    def logs(theta: np.ndarray) -> np.ndarray:
        mu, sigma = theta[0], math.exp(min(max(theta[1], -20.0), 20.0))
        return norm.logpdf(log, mu, sigma) - log - norm.logsf(log[0], mu, sigma)

    def cost(theta: np.ndarray) -> float:
        total = -float(logs(theta).sum())
        return total if math.isfinite(total) else 1e12

    first = np.array([log.mean(), math.log(log.std() + 1e-12)])
    found = minimize(cost, first, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
    return _vuong(_log_power(tail, alpha) - logs(found.x))
