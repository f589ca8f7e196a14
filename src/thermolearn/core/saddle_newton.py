"""Damped Newton iteration for grad f = 0 on an open box, with an error bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.saddle_functional import Functional, Jet

EPS = float(np.finfo(np.float64).eps)
# A variable this close to an end of its domain, in units of the width, is said to lie on it.
BORDER = 1e-8
# Fraction of the way to the border that a step may take, and longest step in units of the scale.
FRACTION, LONGEST = 0.99, 0.5


@dataclass(frozen=True)
class Stationary:
    """A solution of grad f = 0.

    Attributes
    ----------
    x : ndarray (n,)
    error : ndarray (n,)
        Bound on |x - x*| by Newton and Kantorovich; see `error_bound`.
    jet : Jet
        f and its derivatives at x.
    status : str
        "ok"; "degenerate" where the Hessian is singular to within the error (critical point, fold);
        "border" where a variable lies on an end of its open domain.
    iterations : int
    """

    x: np.ndarray
    error: np.ndarray
    jet: Jet
    status: str
    iterations: int


def find_stationary(
    jet: Callable[[np.ndarray], Jet],
    start: np.ndarray,
    functional: Functional,
    tol: float,
    max_iter: int,
) -> Stationary:
    """Newton's method on |grad f|^2, damped as by Levenberg and Marquardt.

    Each step solves (H^2 + mu) p = -H grad f in units of the scales of the variables, with mu = 0
    tried first, and is cut short of the border; mu grows until |grad f| falls.

    Raises
    ------
    ConvergenceError
        max |grad f| stays above tol, or f is so flat that a small gradient proves nothing.
    """
    x = start
    here = jet(x)
    for iteration in range(1, max_iter + 1):
        if _converged(x, here, functional, tol):
            x, here = _polish(jet, x, here, functional)
            error, status = error_bound(jet, x, here, functional)
            return Stationary(x, error, here, status, iteration)
        moved = _step(jet, x, here, functional)
        if moved is None:
            break
        x, here = moved
    residual = float(np.abs(here.gradient).max())
    place = ", ".join(f"{k} = {v:.6g}" for k, v in zip(functional.names, x, strict=True))
    raise ConvergenceError(
        f"no saddle point found from this start: max |grad f| = {residual:.3g} at {place} after "
        f"{iteration} steps (tol = {tol:.3g}); the branch may not exist here, else start closer"
    )


def newton_correction(jet: Jet, scale: np.ndarray, mu: float = 0.0) -> np.ndarray:
    """p with (H^2 + mu) p = -H grad f in scaled variables; mu = 0 is Newton's step."""
    values, vectors = np.linalg.eigh(scale[:, None] * jet.hessian * scale)
    size = max(float(np.abs(values).max()), 1e-100)
    weight = values / np.maximum(values**2 + mu * size**2, (1e-14 * size) ** 2)
    return -scale * (vectors @ (weight * (vectors.T @ (scale * jet.gradient))))


def _step(
    jet: Callable[[np.ndarray], Jet],
    x: np.ndarray,
    here: Jet,
    functional: Functional,
) -> tuple[np.ndarray, Jet] | None:
    """The first step along growing mu that lowers |grad f|; None if there is none."""
    scale = functional.scale(x)
    norm = float(np.linalg.norm(scale * here.gradient))
    for mu in (0.0, *(10.0**k for k in range(-6, 13))):
        p = newton_correction(here, scale, mu)
        longest = float(np.abs(p / scale).max())
        if longest == 0:
            return None
        share = min(1.0, LONGEST / longest, FRACTION * _to_border(x, p, functional))
        new = x + share * p
        if not functional.inside(new):
            continue
        there = jet(new)
        if there.finite and np.linalg.norm(scale * there.gradient) < (1 - 1e-4 * share) * norm:
            return new, there
    return None


def _to_border(x: np.ndarray, p: np.ndarray, functional: Functional) -> float:
    """Multiple of p that reaches the border of the domain from x."""
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(p > 0, functional.upper - x, x - functional.lower) / np.abs(p)
    return float(np.min(np.where(p == 0, np.inf, room)))


def on_border(x: np.ndarray, functional: Functional) -> np.ndarray:
    """Which variables lie on an end of their domain."""
    room = np.minimum(x - functional.lower, functional.upper - x)
    return room <= BORDER * functional.scale(x)


def _converged(x: np.ndarray, here: Jet, functional: Functional, tol: float) -> bool:
    """A small gradient, and a small Newton correction: the first alone also holds at infinity."""
    residual = float(np.abs(here.gradient).max())
    if residual > tol:
        return False
    scale = functional.scale(x)
    correction = np.abs(newton_correction(here, scale)) / np.maximum(1.0, np.abs(x))
    worst = float(correction[~on_border(x, functional)].max(initial=0.0))
    rounding = float(_gradient_rounding(here, x, scale).max())
    return worst <= 1e-7 or (residual <= 4 * rounding and worst <= 1e-4)


def _polish(
    jet: Callable[[np.ndarray], Jet], x: np.ndarray, here: Jet, functional: Functional
) -> tuple[np.ndarray, Jet]:
    """Full Newton steps while they at least halve the gradient."""
    for _ in range(4):
        new = x + newton_correction(here, functional.scale(x))
        if on_border(x, functional).any() or not functional.inside(new):
            break
        there = jet(new)
        if not there.finite or np.abs(there.gradient).max() > 0.5 * np.abs(here.gradient).max():
            break
        x, here = new, there
    return x, here


def _gradient_rounding(here: Jet, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rounding error of the gradient: its terms are of the size of |H| |x|, or of f / scale."""
    return 2 * EPS * (np.abs(here.hessian) @ np.abs(x) + max(1.0, abs(here.value)) / scale)


def error_bound(
    jet: Callable[[np.ndarray], Jet], x: np.ndarray, here: Jet, functional: Functional
) -> tuple[np.ndarray, str]:
    """Distance to the solution after Newton and Kantorovich, per variable, and the status.

    With the correction d = |H^-1| (|grad f| + rounding) and the Lipschitz constant L of H^-1 H',
    measured along the softest direction, a solution lies within 2 d / (1 + sqrt(1 - 2 h)) if
    h = L |d| < 1/2. Otherwise H is singular to within the error ("degenerate"), and the bound is
    that of a double root, sqrt(2 d / L), or of a triple one, 4 d.
    """
    scale = functional.scale(x)
    border = on_border(x, functional)
    free = np.where(border, 0.0, scale)  # on the border the Hessian may be singular
    values, vectors = np.linalg.eigh(free[:, None] * here.hessian * free + np.diag(1.0 * border))
    size = max(float(np.abs(values).max()), 1e-100)
    inverse = (vectors / np.where(np.abs(values) > EPS * size, values, EPS * size)) @ vectors.T
    rounding = _gradient_rounding(here, x, scale)
    correction = np.abs(inverse) @ (free * (np.abs(here.gradient) + rounding))
    soft = vectors[:, np.argmin(np.abs(values))]
    lipschitz = 0.0
    for sign in (1.0, -1.0):
        delta = sign * 1e-4
        probe = x + delta * free * soft
        if functional.inside(probe) and (there := jet(probe)).finite:
            change = free[:, None] * (there.hessian - here.hessian) * free
            lipschitz = float(np.linalg.norm(inverse @ change, 2)) / abs(delta)
            break
    h = lipschitz * float(np.linalg.norm(correction))
    flat = float(np.abs(values).min()) <= EPS * max(size, abs(here.value))
    room = np.minimum(x - functional.lower, functional.upper - x)
    if border.any():
        return np.where(border, 2 * room, scale * correction * 2), "border"
    if h < 0.5 and not flat:
        return scale * correction * 2 / (1 + math.sqrt(1 - 2 * h)), "ok"
    double = np.sqrt(2 * correction / max(lipschitz, EPS))
    # where f does not depend on a variable at all, nothing is known of it
    return scale * np.minimum(np.maximum(4 * correction, double), 1.0), "degenerate"


def stable_signature(
    hessian: np.ndarray, maximized: Sequence[int], conjugate: Sequence[int]
) -> bool:
    """Whether f has the declared signature; `conjugate` lists the variables c of all pairs.

    H_cc has one negative eigenvalue per pair; with c eliminated, H' = H - H_.c H_cc^-1 H_c., f is
    a maximum over the maximized b at fixed a, H'_bb < 0, and its value there a minimum over the
    rest a, H'_aa - H'_ab H'_bb^-1 H'_ba > 0.
    """
    c = list(conjugate)
    others = [i for i in range(len(hessian)) if i not in c]
    if c and int((np.linalg.eigvalsh(hessian[np.ix_(c, c)]) < 0).sum()) != len(c) // 2:
        return False
    try:
        reduced = _schur(hessian, others, c)
        b = [others.index(i) for i in maximized]
        a = [k for k in range(len(others)) if k not in b]
        upper = np.linalg.eigvalsh(reduced[np.ix_(b, b)]) if b else np.zeros(0)
        lower = np.linalg.eigvalsh(_schur(reduced, a, b)) if a else np.zeros(0)
    except np.linalg.LinAlgError:
        return False
    return bool(np.all(upper < 0) and np.all(lower > 0))


def _schur(matrix: np.ndarray, keep: list[int], drop: list[int]) -> np.ndarray:
    if not drop:
        return matrix[np.ix_(keep, keep)]
    cross = matrix[np.ix_(drop, keep)]
    return matrix[np.ix_(keep, keep)] - cross.T @ np.linalg.solve(matrix[np.ix_(drop, drop)], cross)
