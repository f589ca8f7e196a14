"""The replica-symmetric equations of a +-1 network with random modes, and their derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

# The trapezoidal rule on |z| <= REACH errs by exp(-pi^2 / (beta sqrt(R) h)) for tanh(beta h).
REACH = 8.5
COARSEST, STEEPEST = 0.025, 1500.0


@dataclass(frozen=True, eq=False)
class Equations:
    """g_n = E chi tanh(beta h) - n and g_C = beta E sech^2(beta h) - C at a temperature.

    h = s n chi + sqrt(R) z, R = q (Delta + sum w lambda^2 / (1 - lambda C)^2), q = 1 - T C; at
    T = 0 the limits g_n = E chi erf(x) - n, g_C = sqrt(2 / (pi R)) E exp(-x^2) - C with
    x = s n chi / sqrt(2 R).

    Parameters
    ----------
    w, lam : array (k,)
        Modes per spin and their strengths.
    chi, weights : array (c,)
        Distribution of the condensed field's blur.
    scale, delta, T : float
    """

    w: np.ndarray
    lam: np.ndarray
    chi: np.ndarray
    weights: np.ndarray
    scale: float
    delta: float
    T: float

    @property
    def top(self) -> float:
        """The open upper end of C: q > 0 and lambda C < 1."""
        strongest = float(self.lam.max(initial=0.0))
        return min(1 / self.T if self.T else math.inf, 1 / strongest if strongest > 0 else math.inf)

    def slope(self, C: float) -> float:
        """R / q = Delta + sum w lambda^2 / (1 - lambda C)^2."""
        return float(self.delta + (self.w * self.lam**2 / (1 - self.lam * C) ** 2).sum())

    def steepness(self, C: float) -> float:
        """beta sqrt(R), the number of features of tanh(beta h) per unit of z; inf at T = 0."""
        R = max(1 - self.T * C, 0.0) * self.slope(C)
        return math.sqrt(R) / self.T if self.T else math.inf

    def residuals(self, n: float, C: float) -> tuple[float, float]:
        """(g_n, g_C)."""
        R = max(1 - self.T * C, 0.0) * self.slope(C)
        chi_weight = self.chi * self.weights
        if self.T == 0 and R == 0:  # no noise: the spins follow the sign of their fields
            return float(chi_weight @ np.sign(n * self.chi)) - n, -C
        if self.steepness(C) > STEEPEST:
            # the second case is next to lambda C = 1, where only the sign of g_C is asked for
            x = self.scale * n * self.chi / math.sqrt(2 * R)
            height = math.sqrt(2 / (math.pi * R))
            g_C = height * float(self.weights @ np.exp(-x * x)) - C
            return float(chi_weight @ special.erf(x)) - n, g_C
        t, weight = self._tanh(n, R)
        g_C = float(self.weights @ ((1 - t * t) @ weight)) / self.T - C
        return float(chi_weight @ (t @ weight)) - n, g_C

    def jacobian(self, n: float, C: float) -> np.ndarray:
        """Derivatives of (g_n, g_C) with respect to (n, C), shape (2, 2)."""
        q, slope = 1 - self.T * C, self.slope(C)
        R = q * slope
        d_R = -self.T * slope
        d_R += q * float((2 * self.w * self.lam**3 / (1 - self.lam * C) ** 3).sum())
        chi_weight = self.chi * self.weights
        if self.T == 0:
            if R == 0:
                return -np.eye(2)
            x = self.scale * n * self.chi / math.sqrt(2 * R)
            x_n, x_C = self.scale * self.chi / math.sqrt(2 * R), -x * d_R / (2 * R)
            gauss, height = np.exp(-x * x), math.sqrt(2 / (math.pi * R))
            erf_slope = 2 / math.sqrt(math.pi) * gauss
            C_C = float(self.weights @ (gauss * (-d_R / (2 * R) - 2 * x * x_C)))
            return np.array(
                [
                    [chi_weight @ (erf_slope * x_n) - 1, chi_weight @ (erf_slope * x_C)],
                    [height * (self.weights @ (-2 * x * gauss * x_n)), height * C_C - 1],
                ]
            )
        beta = 1 / self.T
        t, weight = self._tanh(n, R)
        sech2 = 1 - t * t
        # by parts: d/dR E phi(beta h) = (beta^2 / 2) E phi''(beta h)
        mixed = -(beta**2) * float(chi_weight @ ((t * sech2) @ weight))  # tanh'' = -2 t sech^2
        curve = float(self.weights @ ((sech2 * (4 - 6 * sech2)) @ weight))  # (sech^2)''
        own = beta * self.scale * float((chi_weight * self.chi) @ (sech2 @ weight))
        return np.array(
            [
                [own - 1, d_R * mixed],
                [2 * self.scale * mixed, beta**3 / 2 * d_R * curve - 1],
            ]
        )

    def observables(self, n: float, C: float) -> tuple[float, float, float, float, float]:
        """m, free energy, internal energy, entropy and replicon of a solution."""
        q = 1 - self.T * C
        R, inverse = q * self.slope(C), 1 / (1 - self.lam * C)
        u = -self.scale * n * n / 2 - self.delta * C * (1 + q) / 2
        u -= float((self.w * self.lam * (inverse + self.lam * q * C * inverse**2)).sum()) / 2
        signal = self.scale * n * self.chi
        if self.T == 0:
            m = self._overlap_at_zero(signal, R)
            logs = np.log1p(-self.lam * C) + self.lam * C * inverse
            entropy = -float((self.w * logs).sum()) / 2 - self.delta * C * C / 4
            return m, u, u, entropy, -math.inf if R > 0 else 1.0
        beta = 1 / self.T
        t, weight = self._tanh(n, R)
        z, _ = normal_grid(beta * math.sqrt(R))
        a = np.abs(beta * (signal[:, None] + math.sqrt(R) * z))
        log_cosh = a + np.log1p(np.exp(-2 * a))  # ln 2 cosh
        f = self.scale * n * n / 2 + R * C / 2 - self.delta * C * (1 + q) / 4
        f -= self.T * float(self.weights @ (log_cosh @ weight))
        logs = np.log1p(-self.lam * C) - self.lam * beta * q * inverse
        f += self.T / 2 * float((self.w * logs).sum())
        sech4 = float(self.weights @ ((1 - t * t) ** 2 @ weight))
        m, replicon = float(self.weights @ (t @ weight)), 1 - beta**2 * self.slope(C) * sech4
        return m, f, u, beta * (u - f), replicon

    def _overlap_at_zero(self, signal: np.ndarray, R: float) -> float:
        if R == 0:
            return float(self.weights @ np.sign(signal))
        return float(self.weights @ special.erf(signal / math.sqrt(2 * R)))

    def _tanh(self, n: float, R: float) -> tuple[np.ndarray, np.ndarray]:
        """tanh(beta h) on (chi, z), and the weights of z."""
        z, weight = normal_grid(math.sqrt(R) / self.T)
        h = self.scale * n * self.chi[:, None] + math.sqrt(R) * z
        return np.tanh(h / self.T), weight


def normal_grid(steepness: float) -> tuple[np.ndarray, np.ndarray]:
    """Trapezoidal nodes and weights for E g(z), z ~ N(0, 1), g varying over 1 / steepness."""
    if steepness > STEEPEST:
        raise ValueError(
            f"the temperature is too low for quadrature (beta sqrt(R) = {steepness:.3g} > "
            f"{STEEPEST:g}); use T = 0, which differs by order T^2"
        )
    spacing = min(COARSEST, 0.3 / steepness if steepness > 0 else COARSEST)
    half = math.ceil(REACH / spacing)
    # few distinct grids, so that they can be kept
    return _grid(half if half <= REACH / COARSEST else 2 ** math.ceil(math.log2(half)))


@lru_cache(maxsize=32)
def _grid(half: int) -> tuple[np.ndarray, np.ndarray]:
    z = np.linspace(-REACH, REACH, 2 * half + 1)
    weight = np.exp(-z * z / 2)
    return z, weight / weight.sum()
