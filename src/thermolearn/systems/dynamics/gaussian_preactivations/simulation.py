"""Networks of finite width with the pair, built without its Mellin transform.

A Weibull variable is a mixture: with E exponential and S positive stable of index a = 2/theta,
(E / S)^{a/2} and E^{1/2} have one law (Shanbhag and Sreehari). Since sqrt(2 E) |sin(pi U)| is the
size of a standard normal (Box and Muller), |Y| = sqrt(2) |sin(pi U)| S^{-1/theta} has
E^{1/theta} |Y| = |X|, and with Kanter's representation of S
P(|Y| > y) = E_{U,V} exp{-A(V) [y / (sqrt(2) sin(pi U))]^{2/(1-a)}}, a smooth double integral.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri_exp

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.dynamics.gaussian_preactivations.params import Params

LIMITS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
NODES, POINTS = 48, 160


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Mean over `p.networks` networks of width `p.width`; the observables of `theory`.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative.

    Returns
    -------
    dict of Estimate
        stderr between the networks of this seed.
    """
    rng = np.random.default_rng([seed, 20220512])
    phi, slope = activation(p.theta)
    z = first_layer(p, rng)
    c, gains = [], []
    for _ in range(p.depth):
        weight = weights(p.theta, (p.networks, p.width, p.width), rng) / math.sqrt(p.width)
        # squared gradients of a random signal sent back through this layer, over those sent
        signal = rng.standard_normal((p.networks, p.width, 1))
        back = np.swapaxes(weight, 1, 2) @ signal * slope(z[:, :, :1])
        gains.append((back**2).sum((1, 2)) / (signal**2).sum((1, 2)))
        z = weight @ phi(z)
        c.append((z[:, :, 0] * z[:, :, 1]).mean(1))
    return {
        "variance": mean_estimate((z**2).mean((1, 2))),
        "below": mean_estimate(np.stack([(np.abs(z) < t).mean((1, 2)) for t in LIMITS], axis=1)),
        "correlation": mean_estimate(np.stack(c, axis=1)),
        "chi1": mean_estimate(np.stack(gains).mean(0)),
    }


def first_layer(p: Params, rng: np.random.Generator) -> np.ndarray:
    """Pre-activations of two inputs, standard normal of the given correlation."""
    common, own = rng.standard_normal((2, p.networks, p.width))
    return np.stack([common, p.correlation * common + math.sqrt(1 - p.correlation**2) * own], -1)


def weights(theta: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Symmetric Weibull, P(|W| > t) = exp(-t^theta)."""
    return rng.weibull(theta, shape) * np.where(rng.random(shape) < 0.5, -1.0, 1.0)


@lru_cache(maxsize=16)
def activation(theta: float) -> tuple[PchipInterpolator, PchipInterpolator]:
    """phi (odd) and its slope, by inverting log P(|Y| > y) on a grid."""
    y = reach(theta) * np.linspace(0, 1, POINTS)[1:]
    for _ in range(2):  # the second time with points that are evenly spaced in x
        log_q = log_survival(theta, y)
        x = -ndtri_exp(log_q - math.log(2))
        even = np.linspace(0, x[-1], POINTS)[1:]
        y, last = PchipInterpolator(np.append(0.0, x), np.append(0.0, y))(even), y
    y = last
    line = np.concatenate([-x[::-1], [0.0], x]), np.concatenate([-y[::-1], [0.0], y])
    phi = PchipInterpolator(*line, extrapolate=True)
    return phi, phi.derivative()


def log_survival(theta: float, y: np.ndarray) -> np.ndarray:
    """log P(|Y| > y), y > 0, by Gauss-Legendre in both variables."""
    a = 2 / theta
    x, w = np.polynomial.legendre.leggauss(NODES)
    t, v, w = 0.5 * (x + 1), 0.5 * math.pi * (x + 1), 0.5 * w
    u = 0.5 * t**3  # small y come from small u
    log_a = (
        np.log(np.sin((1 - a) * v))
        + a / (1 - a) * np.log(np.sin(a * v))
        - np.log(np.sin(v)) / (1 - a)
    )
    ratio = np.log(y)[:, None] - np.log(math.sqrt(2) * np.sin(math.pi * u))
    power = log_a + 2 / (1 - a) * ratio[:, :, None]
    inner = np.exp(-np.exp(np.minimum(power, 700.0)))
    return np.log(np.einsum("yuv,u,v->y", inner, 3 * t**2 * w, w))


def reach(theta: float) -> float:
    """y beyond which P(|Y| > y) < 1e-12, by doubling and bisection."""
    low, high = 0.5, 8.0
    for _ in range(20):
        middle = 0.5 * (low + high)
        with np.errstate(divide="ignore"):
            small = log_survival(theta, np.array([middle]))[0] < math.log(1e-12)
        low, high = (low, middle) if small else (middle, high)
    return low
