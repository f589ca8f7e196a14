"""The state at which full-batch gradient descent on a convex loss ends, for d to infinity.

With V = Delta chi, h* = prox(omega) = argmin_h l(h, y) + (h - omega)^2/(2 V), omega ~ N(c m,
Delta C), g = (omega - h*)/V = l'(h*) and a = lambda + alpha Delta <dg/d omega>,

    m = -alpha <c g>/a,   C = m^2 + alpha Delta <g^2>/a^2,   chi = 1/a.

References: F. Mignacco, F. Krzakala, Y. M. Lu, L. Zdeborova, arXiv:2002.11544 (the same problem,
proved); F. Mignacco, P. Urbani, arXiv:2112.10852.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize

from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.core.gaussian import gauss_nodes
from thermolearn.systems.training.sgd_noise.fresh import (
    decision_roots,
    separability,
    share_wrong,
    test_error,
    test_loss,
)
from thermolearn.systems.training.sgd_noise.losses import Loss

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron

NODES = 16  # per panel of the quadrature
BENDS = np.array([-30.0, -16, -8, -4, -2, 0, 2, 4, 8, 16, 30])
ROUGH = 1e-4  # relative numerical error beyond which there is no answer
TOLERANCE = 1e-9  # of the equations, relative
WARM_UP = 20  # damped iterations before Powell's method
WEAK = 1e-6  # the last weight decay on the way to 0
NEWTON, BISECT = 1e-14, 200


@dataclass(frozen=True)
class StaticState:
    """The minimum of the training loss.

    Attributes
    ----------
    m, C, chi : Estimate
        w.v/d, |w|^2/d and the integrated response (1/d) sum_i dw_i/dF_i to a force F in the
        gradient; stderr is the numerical error.
    loss, error : Estimate
        Mean loss per sample and share of wrong labels on the training set.
    test_loss, test_error : Estimate
        On fresh samples.
    """

    m: Estimate
    C: Estimate
    chi: Estimate
    loss: Estimate
    error: Estimate
    test_loss: Estimate
    test_error: Estimate


def prox(loss: Loss, omega: np.ndarray, y: float | np.ndarray, V: float) -> np.ndarray:
    """argmin_h l(h, y) + (h - omega)^2/(2 V) of a convex loss, elementwise.

    Newton's method for h + V l'(h, y) = omega inside a bracket, with bisection where it leaves it
    or does not halve the miss.

    Raises
    ------
    ConvergenceError
        It does not end, as when the loss is not convex.
    """
    omega = np.asarray(omega, dtype=np.float64)
    h = omega.copy()
    # the left side grows at least like h: the root lies within |V l'(omega)| of omega
    reach = V * loss.first(omega, y)
    low, high = omega - np.maximum(reach, 0.0), omega - np.minimum(reach, 0.0)
    scale = NEWTON * (np.abs(omega) + np.abs(reach) + 1e-300)
    last = np.full(omega.shape, np.inf)
    for _ in range(BISECT):
        miss = h + V * loss.first(h, y) - omega
        low, high = np.where(miss < 0, h, low), np.where(miss > 0, h, high)
        new = h - miss / (1 + V * loss.second(h, y))
        quick = (new >= low) & (new <= high) & (np.abs(miss) < 0.5 * last)
        new, last = np.where(quick, new, 0.5 * (low + high)), np.abs(miss)
        done = (np.abs(miss) <= scale) | (np.abs(new - h) <= 4e-16 * np.abs(h)) | (low == high)
        h = np.where(np.abs(miss) <= scale, h, new)
        if done.all():
            return h
    raise ConvergenceError(
        f"the proximal point of loss {loss.name} was not found at V = {V:.3g}: is it convex?"
    )


def static(model: GaussianMixturePerceptron, weight_decay: float) -> StaticState:
    """Solve for the minimum; see `GaussianMixturePerceptron.static`."""
    decay = real("weight_decay", weight_decay, least=0)
    loss = model.losses
    if not loss.convex:
        raise NotApplicableError(
            f"loss {loss.name} is not convex in h: gradient descent has no unique end; follow it "
            "with .dmft(...)"
        )
    if decay == 0:
        _check_unregularized(model)
    x, residual = _follow(model, decay)
    if not residual < TOLERANCE:
        raise ConvergenceError(
            f"the stationary equations of loss {loss.name} did not converge (residual "
            f"{residual:.2g}): with weight_decay = {decay:g} there may be no stationary state; "
            "raise it"
        )
    error = _uncertainty(model, decay, x, residual)
    if not error.max() < ROUGH:
        raise ConvergenceError(
            f"the stationary state of loss {loss.name} is uncertain by {error.max():.1g} of itself:"
            f" averages over fields of Delta = {model.Delta:g} and weight_decay = {decay:g} were "
            "not exact enough; raise weight_decay, or lower Delta"
        )
    return _state(model, x, error)


def _follow(model: GaussianMixturePerceptron, decay: float) -> tuple[np.ndarray, float]:
    """Solution at `decay` and its residual, from a strong weight decay down in factors of 4."""
    strong = max(1.0, 4 * decay)
    steps = max(2, math.ceil(math.log(strong / max(decay, WEAK)) / math.log(4)) + 1)
    path = np.geomspace(strong, max(decay, WEAK), steps)
    x, residual = np.zeros(3), math.inf
    for _ in range(WARM_UP):
        x = 0.5 * (x + _equations(model, path[0], x))
    before = x
    for lam in [*path[:-1], decay]:
        guess, before = 2 * x - before, x
        for start in (guess, x):
            found = optimize.root(
                lambda z, lam=lam: _equations(model, lam, z) - z, start, tol=1e-13
            )
            residual = float(np.abs(_equations(model, lam, found.x) - found.x).max())
            if residual < TOLERANCE:
                break
        else:
            return x, residual
        x = found.x
    return x, residual


def _check_unregularized(model: GaussianMixturePerceptron) -> None:
    """Without weight decay the minimum must be unique and at a finite place."""
    y = np.array(model.clusters.labels)
    flat = np.abs(model.losses.first(1e3 * np.sign(y), y)) < 1e-9
    limit = max(1.0, separability(model)) if flat.all() else 1.0
    grows = ", and the weights grow without bound" if model.losses.minimum is not None else ""
    if model.alpha <= limit:
        raise NotApplicableError(
            f"with weight_decay = 0 and alpha = {model.alpha:g} <= {limit:.6g} the training set "
            "is fitted (or separated) exactly: there is no stationary state that the start does "
            f"not choose{grows}. Give a weight_decay > 0, or follow the training with .dmft(...)"
        )


def _order(x: np.ndarray) -> tuple[float, float, float]:
    """m, C and chi from m/sqrt(C), log C and log chi."""
    C, chi = np.exp(np.clip(x[1:], -100, 100))
    return float(x[0] * math.sqrt(C)), float(C), float(chi)


def _equations(
    model: GaussianMixturePerceptron, decay: float, x: np.ndarray, nodes: int = NODES
) -> np.ndarray:
    """Right sides for (m/sqrt(C), log C, log chi); far away where there are none."""
    if not np.isfinite(x).all():
        return x + 1e3
    m, C, chi = _order(x)
    mu = square = gamma = 0.0
    V = model.Delta * chi
    for p, c, y in model.clusters.rows():
        omega, weight = _nodes(model, m, C, V, c, y, nodes)
        h = prox(model.losses, omega, y, V)
        # l'(h), but without the error that a steep loss makes of the rounding of h
        g, second = (omega - h) / V, model.losses.second(h, y)
        mu += p * c * (weight @ g)
        square += p * (weight @ g**2)
        gamma += p * (weight @ (second / (1 + V * second)))
    a = decay + model.alpha * model.Delta * gamma
    new = -model.alpha * mu / a if a > 0 else math.nan
    C = new**2 + model.alpha * model.Delta * square / a**2 if a > 0 else math.nan
    if not (0 < C < math.inf):
        return x + 1e3
    return np.array([new / math.sqrt(C), math.log(C), -math.log(a)])


def _nodes(
    model: GaussianMixturePerceptron,
    m: float,
    C: float,
    V: float,
    c: float,
    y: float,
    n: int = NODES,
) -> tuple[np.ndarray, np.ndarray]:
    """Fields omega and weights of one cluster; panels end where l'' jumps at the prox, and between
    fields h at which a loss of scale 1 bends: at large V these lie far apart in omega."""
    h = np.array([*model.losses.kinks(y), *BENDS])
    kinks = h + V * model.losses.first(h, np.full(h.shape, y)) - c * m
    z, weight = gauss_nodes(math.sqrt(model.Delta * C), n, kinks.tolist())
    return c * m + z, weight


def _uncertainty(
    model: GaussianMixturePerceptron, decay: float, x: np.ndarray, residual: float
) -> np.ndarray:
    """|(1 - J)^-1| times the residual, J the derivative of the equations.

    The residual is the larger of that found and that with more nodes, which shows the error of
    the quadrature.
    """
    finer = np.abs(_equations(model, decay, x, NODES + 9) - x).max()
    residual = max(residual, float(finer), 1e-14)
    step = 1e-6
    columns = [
        (_equations(model, decay, x + step * e) - _equations(model, decay, x - step * e))
        / (2 * step)
        for e in np.eye(3)
    ]
    inverse = np.linalg.inv(np.eye(3) - np.stack(columns, 1))
    return np.abs(inverse).sum(1) * residual


def _state(model: GaussianMixturePerceptron, x: np.ndarray, error: np.ndarray) -> StaticState:
    m, C, chi = _order(x)
    V, loss, wrong = model.Delta * chi, 0.0, 0.0
    roots, signs = decision_roots(model)
    for p, c, y in model.clusters.rows():
        omega, weight = _nodes(model, m, C, V, c, y)
        loss += p * (weight @ model.losses.value(prox(model.losses, omega, y, V), y))
        # h* grows with omega: the decision changes where the prox passes its roots
        at = roots + V * model.losses.first(roots, np.full(roots.shape, y))
        wrong += p * share_wrong(at, signs, c * m, math.sqrt(model.Delta * C), y)
    e = error * np.array([math.sqrt(C), C, chi])
    rough = float(error.max())
    return StaticState(
        Estimate(m, e[0]),
        Estimate(C, e[1]),
        Estimate(chi, e[2]),
        Estimate(loss, rough),
        Estimate(wrong, rough),
        Estimate(test_loss(model, m, C), rough),
        Estimate(test_error(model, m, C), rough),
    )
