"""Fixed points and roots, each with a certificate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from thermolearn.core.errors import ConvergenceError


@dataclass(frozen=True)
class FixedPoint:
    """A solution of x = step(x).

    Attributes
    ----------
    x : ndarray
        The solution.
    residual : float
        max |step(x) - x| / max(1, max |x|), evaluated at this x.
    iterations : int
        Calls of `step` made.
    """

    x: np.ndarray
    residual: float
    iterations: int


def damped_iteration(
    step: Callable[[np.ndarray], ArrayLike],
    x0: ArrayLike,
    damping: float = 0.5,
    tol: float = 1e-12,
    max_iter: int = 10_000,
) -> FixedPoint:
    """Solve x = step(x) by x <- damping x + (1 - damping) step(x).

    The residual is that of the undamped equation, so that heavy damping cannot pass for
    convergence.

    Parameters
    ----------
    step : callable
        Array to array of one shape, real or complex.
    x0 : array
        Start.
    damping : float
        0 (plain iteration) <= damping < 1. Converges locally if every eigenvalue of the
        derivative of step has modulus of ``damping + (1 - damping) eigenvalue`` below 1.
    tol : float
        Bound on the residual, > 0.
    max_iter : int
        Bound on the calls of `step`.

    Raises
    ------
    ConvergenceError
        The residual stays above tol, or the iteration leaves the finite numbers.
    ValueError
        damping, tol or max_iter out of range, a non-finite start, or a step that changes the
        shape.
    """
    if not 0 <= damping < 1:
        raise ValueError(f"damping must lie in [0, 1), got {damping}")
    if not tol > 0 or max_iter < 1:
        raise ValueError(f"tol must be > 0 and max_iter >= 1, got {tol} and {max_iter}")
    x = np.asarray(x0)
    x = x.astype(np.result_type(x, np.float64))
    if not np.isfinite(x).all():
        raise ValueError("x0 holds a non-finite number")
    residual = math.inf
    for iteration in range(1, max_iter + 1):
        new = np.asarray(step(x))
        if new.shape != x.shape:
            raise ValueError(f"step maps shape {x.shape} to {new.shape}")
        if not np.isfinite(new).all():
            raise ConvergenceError(
                f"damped_iteration left the finite numbers in iteration {iteration} (residual "
                f"before: {residual:.3g}); start closer or raise damping = {damping}"
            )
        residual = float(np.abs(new - x).max(initial=0) / max(1.0, np.abs(x).max(initial=0)))
        if residual <= tol:
            return FixedPoint(x, residual, iteration)
        x = damping * x + (1 - damping) * new
    raise ConvergenceError(
        f"damped_iteration: residual {residual:.3g} above tol = {tol:.3g} after {max_iter} "
        "iterations; if it oscillates raise damping, if it creeps raise max_iter, and near a "
        "transition start from the other branch"
    )


def bracketed_root(
    f: Callable[[float], float], lo: float, hi: float, tol: float = 1e-12, log: bool = False
) -> float:
    """The root of a continuous f between lo and hi, by Brent's method.

    Parameters
    ----------
    f : callable
        Of opposite sign at the ends.
    lo, hi : float
        lo < hi; with ``log`` both > 0.
    tol : float
        Width to which the root is bracketed: relative with ``log``, else in units of
        max(1, |root|). Not below 1e-15.
    log : bool
        Search in ln x, for roots whose magnitude is unknown.

    Raises
    ------
    ValueError
        No proper interval, tol out of range, or no change of sign.
    ConvergenceError
        f not finite at a point that was tried, or no convergence within 200 steps.
    """
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi) or (log and lo <= 0):
        wanted = "0 < lo < hi" if log else "finite lo < hi"
        raise ValueError(f"bracketed_root needs {wanted}, got lo = {lo}, hi = {hi}")
    if not tol >= 1e-15:
        raise ValueError(f"tol must be at least 1e-15, got {tol}")

    a, b = (math.log(lo), math.log(hi)) if log else (lo, hi)

    def position(u: float) -> float:
        # exp(log(x)) is not x: the ends are met exactly, lest a root at an end be lost
        return (lo if u <= a else hi if u >= b else math.exp(u)) if log else float(u)

    def value(u: float) -> float:
        x = position(u)
        y = float(f(x))
        if not math.isfinite(y):
            raise ConvergenceError(f"f is {y} at x = {x:.6g}; narrow the bracket to where f exists")
        return y

    f_lo, f_hi = value(a), value(b)
    if f_lo * f_hi > 0:
        raise ValueError(
            f"f has no change of sign: f({lo:.6g}) = {f_lo:.6g}, f({hi:.6g}) = {f_hi:.6g}; "
            "widen the bracket, or the equation has no solution"
        )
    # an absolute width in ln x is a relative one in x
    relative = np.float64(max(0.0 if log else tol, 4 * np.finfo(float).eps))
    root, info = optimize.brentq(
        value, a, b, xtol=tol, rtol=relative, maxiter=200, full_output=True, disp=False
    )
    if not info.converged:
        raise ConvergenceError(
            f"bracketed_root: f = {value(root):.3g} at {position(root):.6g} after "
            f"{info.iterations} steps; raise tol or narrow the bracket"
        )
    return position(root)
