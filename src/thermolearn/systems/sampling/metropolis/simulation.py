"""Chains of a few steps whose correlations show how fast Metropolis sampling forgets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.sampling.metropolis.chain import Draw, chains
from thermolearn.systems.sampling.metropolis.params import Params
from thermolearn.systems.sampling.metropolis.relaxation import slowest_eigenvalue

# A mode this close to the largest rejection probability R, as a share of 1 - R, cannot be told
# from the continuum.
NEAR = 0.05


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Chains of a few steps from weighted starts; what they do, and how fast they forget.

    Starts are exact draws at the higher temperature (d + 2)/(d beta), weighted back: the slowest
    modes of large jumps live in the tails, where equilibrium has few walkers.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative.

    Returns
    -------
    dict of Estimate
        acceptance; mean_square_jump <|x_{n+1} - x_n|^2>; odd_eigenvalue and even_eigenvalue,
        Lambda of the slowest mode among x_i times functions of |x| and among functions of |x|
        (status ``"localised"`` where it cannot be told from the rejection probability of the
        place where most jumps are rejected: the mode is then no function of this kind, and the
        value, the largest of a few that are mostly noise, is biased upwards; so it is with few
        walkers).
    """
    rng = np.random.default_rng((2207_10488, p.dimension, whole("seed", seed, 0)))
    start, weights = _weighted_starts(p, rng)
    chain = chains(lambda r: _log_density(p, r), start, _jumps(p), rng)
    path = [next(chain) for _ in range(p.lag)]
    unit = math.sqrt(float(weights @ (start * start).sum(1)) / p.walkers)
    (odd, even), (odd_later, even_later) = (_functions(x, unit) for x in (start, path[-1].x))
    chance = np.mean([s.chance for s in path], 0)
    jump2 = np.mean([s.chance * s.jump2 for s in path], 0)
    edge = _most_rejected(p, start, path[0].chance, rng)
    slowest_odd = slowest_eigenvalue(odd, odd_later, weights, p.lag, center=False)
    slowest_even = slowest_eigenvalue(even, even_later, weights, p.lag)
    return {
        "acceptance": _weighted_mean(chance, weights),
        "mean_square_jump": _weighted_mean(jump2, weights),
        "odd_eigenvalue": _isolated(slowest_odd, edge),
        "even_eigenvalue": _isolated(slowest_even, edge),
    }


def _log_density(p: Params, x: np.ndarray) -> np.ndarray:
    """-beta U, x (W,) or (W, d)."""
    r2 = x * x if x.ndim == 1 else np.einsum("wi,wi->w", x, x)
    if p.potential == "box":
        return np.where(r2 <= 1, 0.0, -math.inf)
    if p.potential == "absolute":
        return -p.beta * np.sqrt(r2)
    return -p.beta * (0.5 * r2 if p.potential == "harmonic" else r2 * r2)


def _weighted_starts(p: Params, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Exact draws (W, d) at beta' = beta d/(d + 2), and their weights, of mean 1."""
    if p.potential == "box":
        return rng.uniform(-1, 1, (p.walkers, 1)), np.ones(p.walkers)
    power, c = {"harmonic": (2, 0.5), "quartic": (4, 1.0), "absolute": (1, 1.0)}[p.potential]
    ratio = p.dimension / (p.dimension + 2)
    # beta' c r^k has a gamma law of d/k degrees
    energy = rng.gamma(p.dimension / power, size=p.walkers) / ratio
    direction = rng.standard_normal((p.walkers, p.dimension))
    radius = (energy / (p.beta * c)) ** (1 / power)
    weights = np.exp(-(1 - ratio) * energy)
    scale = radius / np.linalg.norm(direction, axis=1)
    return direction * scale[:, None], weights / weights.mean()


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """<w f>/<w>, its error to first order in the fluctuation of the weights (of mean 1)."""
    mean = float(weights @ values) / len(values)
    return mean_estimate(mean + weights * (values - mean))


def _jumps(p: Params) -> Draw:
    laws: dict[str, Draw] = {
        "uniform": lambda rng, shape: rng.uniform(-p.length, p.length, shape),
        "gaussian": lambda rng, shape: p.length * rng.standard_normal(shape),
        "exponential": lambda rng, shape: rng.laplace(0.0, p.length, shape),
    }
    return laws[p.jump]


def _functions(x: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """x_i (1, u^2, u^4, u^6) as (W, d, 4), and (u^2, u^4, u^6) as (W, 3), with u = |x|/unit; slow
    modes grow with |x|. In more dimensions, where |x| hardly varies, one power less."""
    u2 = np.einsum("wi,wi->w", x, x) / unit**2
    powers = [u2, u2 * u2, u2 * u2 * u2][: 3 if x.shape[1] == 1 else 2]
    even = np.stack(powers, -1)
    return x[:, :, None] * np.stack([np.ones_like(u2), *powers], -1)[:, None], even


def _most_rejected(p: Params, x: np.ndarray, chance: np.ndarray, rng: np.random.Generator) -> float:
    """Largest rejection probability: of 50 groups of equal numbers along |x|, without the
    outermost, which are of no weight; in more dimensions, where no walker is there, at the
    origin."""
    if p.dimension > 1:
        value = _log_density(p, _jumps(p)(rng, (20_000, p.dimension)))
        return float(1 - np.exp(np.minimum(value, 0.0)).mean())
    order = np.argsort(np.abs(x[:, 0]))
    groups = np.array_split(1 - chance[order], 50)[:-1]
    return max(float(group.mean()) for group in groups)


def _isolated(found: Estimate, edge: float) -> Estimate:
    """The eigenvalue, flagged if it is not clearly above the continuum.

    The bar must be narrow beside the distance asked for, whatever the value: of noisy values only
    the upward fluctuations would pass.
    """
    margin = NEAR * (1 - edge)
    error = float(found.stderr)
    if found.status != "ok":
        return found
    if error < 0.6 * margin and float(found) > edge + max(margin, 3 * error):
        return found
    note = (
        f"not clearly above the rejection probability, {edge:.3f}: the mode may be localized. The "
        "largest of several noisy eigenvalues is then biased upwards, and no bound"
    )
    return replace(found, status="localised", note=note)
