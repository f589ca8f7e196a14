"""What to know before using a learning curve: status per size, sentences, numerical error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from thermolearn.predict.curves.problem import Moments, Problem, learnability
from thermolearn.predict.curves.result import OK
from thermolearn.predict.spectrum import Spectrum, zonal

# C0/sigma^2 up to which an order was within a few per cent of simulations.
LOOP_LIMIT = {"subleading": 0.5, "equivalence-kernel": 0.1}
POOL_SHARE = 0.1
# Contact (see `contact`) times the learned fraction of the target, above which the self-consistent
# curve was off by more than about 6 per cent: on the sphere in fewer than FEW dimensions (2 to 5,
# ReLU networks, N = 6 to 80), and otherwise (sphere in 6 to 20; pools of 1 to 30 Gaussian features,
# digits, breast cancer, wine, diabetes; ReLU, linear and Gaussian kernels; N = 10 to 80).
FEW, CONTACT_FEW, CONTACT = 6, 0.018, 0.028
# Pools of one or two features at a large ridge: posterior variance uneven over the inputs
# (variance over squared mean) and a spectrum that falls fast (sum L / sum L(1-L)).
UNEVEN, STEEP = 0.5, 1.8
ANGLES = 2000
# Expansions: modes of a long list are moved in this many groups.
GROUPS = 200
BEYOND_POOL, NEAR_POOL, LOOPS = "beyond the pool", "near the pool", "large loop ratio"
SHORT_LIST, FEW_DIMENSIONS, NO_EVIDENCE = "modes missing", "few dimensions", "no evidence"


def validity(
    spec: Spectrum,
    problem: Problem,
    n: np.ndarray,
    moments: Moments,
    inside: np.ndarray,
    name: str,
    ratio: np.ndarray,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Status per size, and sentences. `moments` are those of the sizes `inside` the pool.

    Warns
    -----
    UserWarning
        A size above a tenth of the pool.
    """
    status = np.full(len(n), OK, dtype=object)
    flags = list(spec.flags)

    def mark(where: np.ndarray, word: str, sentence: str) -> None:
        status[where] = word
        flags.append(sentence)

    bare = np.zeros(len(n), dtype=bool)
    bare[inside] = np.isnan(moments.log_det)
    if bare.any():
        mark(
            bare,
            NO_EVIDENCE,
            f"n >= {n[bare].min():g}: sizes at or above the {problem.rank:g} modes of the kernel "
            "meet a singular Gram matrix at noise 0: no log evidence; give noise > 0",
        )
    short = np.zeros(len(n), dtype=bool)
    if not name.startswith("renormalized"):
        short[inside] = _list_too_short(problem, moments)
    if short.any():
        mark(
            short,
            SHORT_LIST,
            f"n >= {n[short].min():g}: the unlisted modes are strong enough to be learned, the "
            "theory takes them for noise; raise max_degree",
        )
    limit = LOOP_LIMIT["subleading" if "subleading" in name else "equivalence-kernel"]
    large = (ratio > limit) & (name != "self-consistent")
    if large.any():
        mark(
            large,
            LOOPS,
            f"{name}: the loop ratio reaches {ratio[large].max():.2g}, above {limit:g} the "
            "expansion is off by more than a few per cent; use order='self-consistent'",
        )
    near = n > POOL_SHARE * spec.pool if spec.pool is not None else np.zeros(len(n), dtype=bool)
    if near.any():
        sentence = (
            f"n = {n[near].min():g} and above exceed a tenth of the pool of {spec.pool} "
            "inputs: the predicted error is too low there, by 5 to 20 per cent and more as n "
            "nears the pool; leave-one-out on the samples is the safe estimate"
        )
        mark(near, NEAR_POOL, sentence)
        warnings.warn(sentence, UserWarning, stacklevel=3)
    few = np.zeros(len(n), dtype=bool)
    if name == "self-consistent":
        few[inside] = few_dimensions(spec, problem, n[inside], moments)
    if few.any():
        mark(
            few,
            FEW_DIMENSIONS,
            f"n = {', '.join(f'{v:g}' for v in n[few])}: few neighbors decide the prediction at a "
            "point, as with few input features, and their fluctuations are left out: the "
            "predicted error is off by 5 to 50 per cent, by factors with one or two features, "
            "mostly too low; measure it (simulate_gp_regression, leave-one-out), or raise the "
            "noise",
        )
    if not inside.all():
        mark(
            ~inside,
            BEYOND_POOL,
            f"sizes from {n[~inside].min():g} on lie beyond the pool: no number",
        )
    total = problem.power.sum()
    idle = problem.power[problem.eigenvalues == 0].sum()
    if total == 0:
        flags.append("the target is zero: the error is that of the label noise alone")
    elif idle > 1e-9 * total:
        flags.append(
            f"{idle / total:.3g} of the target's power sits on modes without weight: the kernel "
            "never learns it and the error stays above it"
        )
    return tuple(status), tuple(flags)


def _list_too_short(problem: Problem, moments: Moments) -> np.ndarray:
    """Whether unlisted modes, as strong as the weakest listed, would be learned and matter (S,)."""
    listed = problem.eigenvalues[problem.eigenvalues > 0]
    last = float(listed.min()) if len(listed) else 0.0
    unlearned = problem.trace - moments.learnability @ (problem.degeneracies * problem.eigenvalues)
    return (last > 0.1 * moments.kappa) & (problem.tail > 0.01 * unlearned)


# -- few dimensions ------------------------------------------------------------------------------
def few_dimensions(spec: Spectrum, problem: Problem, n: np.ndarray, moments: Moments) -> np.ndarray:
    """Whether the fluctuations that the self-consistent curve leaves out matter (S,).

    False for spectra given by hand, about which nothing is known but the eigenvalues. Contact is
    weighed by what is learned of the target: where little is, the error hardly depends on it.
    """
    out = np.zeros(len(n), dtype=bool)
    power = problem.power.sum(1)
    for i in range(len(n)):
        kappa, learned = float(moments.kappa[i]), moments.learnability[i]
        if kappa == 0:
            continue
        fraction = float(learned @ power / power.sum()) if power.any() else 1.0
        if spec.eigenfunctions is not None:
            strength, uneven = _contact_pool(spec.eigenfunctions, problem, n[i], kappa)
            falling = learned @ (1 - learned) * STEEP < learned.sum()
            out[i] = fraction * strength > CONTACT or (uneven > UNEVEN and falling)
        elif spec.dim is not None:
            limit = CONTACT_FEW if spec.dim < FEW else CONTACT
            out[i] = fraction * contact(spec.dim, problem, n[i], kappa) > limit
    return out


def contact(dim: int, problem: Problem, n: float, kappa: float) -> float:
    """N E (G(x, x')/(N kappa))^4 over pairs of inputs on the sphere, the first diagram left out.

    G = sum_n kappa L_n f_n f_n' is the posterior covariance. With two lines between a pair of
    vertices in place of four it is gamma, which the bubble chains sum; in many dimensions all but
    near neighbors are nearly independent and four lines are negligible against two.
    """
    angle = (np.arange(ANGLES) + 0.5) * math.pi / ANGLES
    t = np.cos(angle)
    density = np.exp(0.5 * (dim - 2) * np.log1p(-t * t))
    weight = problem.degeneracies * learnability(problem, np.array([kappa]))[0] / n
    share = np.zeros_like(t)
    for w, polynomial in zip(weight, zonal(t, dim, len(weight) - 1), strict=True):
        share += w * polynomial
    return float(n * (density @ share**4) / density.sum())


def _contact_pool(
    functions: np.ndarray, problem: Problem, n: float, kappa: float
) -> tuple[float, float]:
    """The same over pairs of inputs of a pool, and the unevenness of G(x, x).

    Where G(x, x) is not constant, the larger of two ways to normalize: by its mean, as the
    theory does, and input by input.
    """
    learned = learnability(problem, np.array([kappa]))[0]
    covariance = (functions * (kappa * learned)) @ functions.T
    own = covariance.diagonal() + problem.noise + problem.tail
    pairs = np.square(covariance)
    np.fill_diagonal(pairs, 0.0)
    count = len(own) * (len(own) - 1)
    mean = np.square(pairs).sum() / (n * kappa) ** 4
    scale = np.where(own > 0, own, 1.0)
    local = np.square(pairs / np.outer(scale, scale)).sum()
    variance = covariance.diagonal()
    uneven = float(variance.var() / variance.mean() ** 2) if variance.any() else 0.0
    return float(n * max(mean, local) / count), uneven


# -- numerical error -----------------------------------------------------------------------------
def numerical_error(
    spec: Spectrum,
    problem: Problem,
    n: np.ndarray,
    solver: Callable[[Problem, np.ndarray], Moments],
    moments: Moments,
    self_consistent: bool,
) -> np.ndarray:
    """sum_k |d error/d lambda_k| err_k (S,): whatever the signs of the eigenvalues' errors.

    Of the total test error. Analytic for the self-consistent curve (for Poisson sizes at their
    mean), else mode by mode.
    """
    if spec.error is None:
        return np.zeros(len(n))
    error = np.where(problem.eigenvalues > 0, spec.error, 0.0)
    if self_consistent:
        return np.abs(error_slopes(problem, n, moments.kappa)) @ error
    total = np.zeros(len(n))
    for group in np.array_split(np.arange(len(error)), min(len(error), GROUPS)):
        moved = problem.eigenvalues.copy()
        moved[group] += error[group]
        tail = problem.tail - float(problem.degeneracies[group] @ error[group])
        other = solver(
            replace(problem, eigenvalues=moved, tail=max(tail, 0.0) if problem.tail else 0.0), n
        )
        total += np.abs((other.test_error - moments.test_error).sum(1))
    return total


def error_slopes(problem: Problem, n: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """d(total self-consistent test error)/d lambda_k, (S, modes); with a tail, at fixed trace.

    With e = (b + gamma s)/(1 - gamma): (1 - gamma) de = db + (s + e) dgamma, where
    dkappa/dlambda_k = N_k [(1 - L_k)^2 - (1 with a tail)]/(N (1 - gamma)). Zero at kappa = 0.
    """
    out = np.zeros((len(n), len(problem.eigenvalues)))
    power, count = problem.power.sum(1), problem.degeneracies
    noise = float(problem.label_noise.sum())
    fixed = 1.0 if problem.tail else 0.0
    for i in np.flatnonzero(kappa > 0):
        k, size = kappa[i], n[i]
        learned = learnability(problem, kappa[i : i + 1])[0]
        left = k / (problem.eigenvalues + k)
        gamma = count @ learned**2 / size
        rest = (count @ (learned * left) + (problem.noise + problem.tail) / k) / size
        level = noise + (power @ left**2 + gamma * noise) / rest
        by_kappa = 2 * (power @ (left**2 * learned)) / k
        by_kappa -= level * 2 * (count @ (learned**2 * left)) / (k * size)
        shift = count * (left**2 - fixed) / (size * rest)
        own = 2 * left**2 * (level * count * learned / size - power * left) / k
        out[i] = (own + by_kappa * shift) / rest
    return out
