"""The law of |phi(X)| in the exactly Gaussian pairs, from its Mellin transform.

W symmetric Weibull, P(|W| > t) = exp(-t^theta), and Y = phi(X) independent of it with
W Y ~ N(0, 1): E|Y|^s = E|X|^s / E|W|^s fixes the law of |Y|, by arXiv:2205.12379 the only
requirement. The authors fit a density; here the transform is inverted, which is exact.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, loggamma, rgamma

from thermolearn.core.errors import ConvergenceError

# Contours Re s = c: the one nearest to the saddle point keeps the relative accuracy of the tail.
CONTOURS = tuple(0.5 * 2 ** (k / 2) for k in range(25))  # 0.5 to 2048
POINTS_PER_UNIT = 8  # of t; the trapezoid rule is then wrong by e^-44, through aliasing in log y
DECAY = 45.0  # the integrand is followed until it has fallen by e^-45
SERIES_BELOW = 0.7  # where the power series in y takes over
TERMS = 60
NEWTON_STEPS = 30
TOLERANCE = 1e-12  # of log y


class WeibullPartner:
    """P(|Y| < y), P(|Y| > y) and the density of |Y| for one theta > 2.

    Parameters
    ----------
    theta : float
        Exponent of the weights' law. The cost grows as 1 / (theta - 2).
    """

    def __init__(self, theta: float):
        self.theta = theta
        rate = math.pi / 4 - math.pi / (2 * theta)
        self.t = np.arange(0, DECAY / rate + 10, 1 / POINTS_PER_UNIT)
        self._weights: dict[float, tuple[float, np.ndarray, np.ndarray]] = {}
        k = np.arange(TERMS)
        odd = 1 + 2 * k
        log_size = math.log(2 / math.sqrt(math.pi)) - 0.5 * odd * math.log(2) - gammaln(k + 1)
        # density 2 / sqrt(pi) sum_k (-1)^k / k! 2^{-(1+2k)/2} y^{2k} / Gamma(1 - (1+2k)/theta)
        self.series = (-1.0) ** k * np.exp(log_size) * rgamma(1 - odd / theta)

    def _log_moment(self, c: float) -> float:
        """log E|Y|^c."""
        return float(np.real(self._log_moments(np.array([c + 0j]))[0]))

    def _log_moments(self, s: np.ndarray) -> np.ndarray:
        return (
            s / 2 * math.log(2)
            + loggamma((1 + s) / 2)
            - loggamma(1 + s / self.theta)
            - 0.5 * math.log(math.pi)
        )

    def _contour(self, y: float) -> tuple[float, float, np.ndarray, np.ndarray]:
        """c, log E|Y|^c and the weights of tail and density on the contour."""
        c = min(CONTOURS, key=lambda c: self._log_moment(c) - c * math.log(y))
        if c not in self._weights:
            s = c + 1j * self.t
            size = self._log_moment(c)
            density = np.exp(self._log_moments(s) - size) / (math.pi * POINTS_PER_UNIT)
            density[0] /= 2
            self._weights[c] = size, density / s, density
        return c, *self._weights[c]

    def at(self, y: float) -> tuple[float, float, float]:
        """log P(|Y| < y), log P(|Y| > y) and the density at y > 0 (-inf where it underflows)."""
        if y < SERIES_BELOW:
            powers = y ** (2 * np.arange(TERMS))
            density = float(self.series @ powers)
            below = y * float(self.series / (1 + 2 * np.arange(TERMS)) @ powers)
            return math.log(below), math.log1p(-below), density
        c, size, tail, density = self._contour(y)
        wave = np.exp(-1j * math.log(y) * self.t)
        above = float(np.real(tail @ wave))
        log_scale = size - c * math.log(y)
        log_above = math.log(above) + log_scale if above > 0 else -math.inf
        log_below = math.log(-math.expm1(log_above)) if log_above < 0 else -math.inf
        return log_below, log_above, float(np.real(density @ wave)) * math.exp(log_scale) / y

    def quantiles(self, log_p: np.ndarray, log_q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y with P(|Y| < y) = p, and the density there, for ascending p.

        Newton's method in log y on log p (p < 1/2) or log q, from one point to the next.

        Parameters
        ----------
        log_p, log_q : ndarray (m,)
            log p and log (1 - p), ascending in p.

        Raises
        ------
        ConvergenceError
            A point is not reached to 1e-12 relative.
        """
        y = np.empty(len(log_p))
        density = np.empty(len(log_p))
        u = log_p[0] - math.log(self.series[0])
        for k, (p, q) in enumerate(zip(log_p, log_q, strict=True)):
            u, density[k] = self._solve(u, float(p), float(q))
            y[k] = math.exp(u)
        return y, density

    def _solve(self, u: float, log_p: float, log_q: float) -> tuple[float, float]:
        for _ in range(NEWTON_STEPS):
            y = math.exp(u)
            below, above, density = self.at(y)
            lower = log_p < -math.log(2)
            have, want = (below, log_p) if lower else (above, log_q)
            if not math.isfinite(have):
                u -= 0.05
                continue
            step = (have - want) * math.exp(have) / (density * y) * (-1 if lower else 1)
            u += min(max(step, -0.3), 0.3)
            if abs(step) < TOLERANCE:
                return u, self.at(math.exp(u))[2]
        raise ConvergenceError(
            f"the quantile at log p = {log_p:.4g}, log q = {log_q:.4g} of the pair with theta = "
            f"{self.theta:g} was not reached within {NEWTON_STEPS} Newton steps"
        )
