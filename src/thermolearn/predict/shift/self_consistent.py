"""The two implicit ridges of a random-feature model, for many sizes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.errors import ConvergenceError
from thermolearn.predict.shift.constants import LinearPart

# Relative residual of both equations above which a solution is not given.
TOLERANCE = 1e-9
MAX_NEWTON = 400
MAX_BISECTIONS = 120


@dataclass(frozen=True, eq=False)
class Sizes:
    """Samples n, features p and ridge lambda, flat float64 arrays of one length."""

    n: np.ndarray
    p: np.ndarray
    ridge: np.ndarray
    shape: tuple[int, ...]

    @property
    def scalar(self) -> bool:
        """Whether all three were plain numbers."""
        return self.shape == ()

    @classmethod
    def checked(cls, n: ArrayLike, p: ArrayLike, ridge: ArrayLike) -> Sizes:
        """Broadcast; ValueError unless n, p >= 1 and ridge > 0, all finite, and not empty."""
        given = {"n": n, "p": p, "ridge": ridge}
        arrays = {}
        for name, x in given.items():
            array = np.asarray(x)
            if array.dtype.kind not in "iuf" or array.size == 0:
                raise ValueError(f"{name} must be a number or an array of numbers, got {x!r}")
            low = 1.0 if name != "ridge" else 0.0
            good = np.isfinite(array) & (array >= low) & (array > 0)
            if not good.all():
                raise ValueError(
                    f"{name} must be finite and {'positive' if name == 'ridge' else '>= 1'}, got "
                    f"{array[~good].ravel()[0]!r}"
                    + ("; for none use ridgeless=True" if name == "ridge" else "")
                )
            arrays[name] = array.astype(np.float64)
        try:
            full = np.broadcast_arrays(*arrays.values())
        except ValueError as error:
            raise ValueError("n, p and ridge do not broadcast to one shape") from error
        return cls(*(x.ravel() for x in full), shape=full[0].shape)


@dataclass(frozen=True, eq=False)
class State:
    """Solution of the equations; arrays (configurations,).

    Attributes
    ----------
    kappa, kappa_prime : ndarray
    stiffness : ndarray
        d kappa' / d lambda' = 1 / (p - sum_i (l_i / (l_i + kappa'))^2).
    residual : float
        Largest relative residual.
    """

    kappa: np.ndarray
    kappa_prime: np.ndarray
    stiffness: np.ndarray
    residual: float


def solve(eigenvalues: np.ndarray, constants: LinearPart, sizes: Sizes) -> State:
    """kappa by bisection in its logarithm, kappa'(kappa) within by Newton's method.

    With kappa' eliminated, n = sum_i l_i/(l_i + kappa') + b d/(a kappa') + Lambda/kappa falls
    with kappa from above n, at kappa = Lambda/n, to below, at ((a s + b) p + Lambda)/n.

    Raises
    ------
    ConvergenceError
        A residual above 1e-9, or a denominator that is not positive.
    """
    d, a, b = len(eigenvalues), constants.slope**2, constants.residue
    n, p, explicit = sizes.n, sizes.p, sizes.ridge * sizes.p
    low = np.log(explicit / n) - 1e-9
    high = np.log((a * eigenvalues.sum() / d + b + sizes.ridge) * p / n) + 1e-9

    def excess(log_kappa: np.ndarray) -> np.ndarray:
        kappa = np.exp(log_kappa)
        u = implicit_ridge(eigenvalues, (b + kappa) * d / a, p)
        # both of p - kappa d/(a kappa') and its other form hold; this one does not cancel
        return _degrees(eigenvalues, u) + b * d / (a * u) + explicit / kappa - n

    for _ in range(MAX_BISECTIONS):
        middle = 0.5 * (low + high)
        above = excess(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
        if (high - low <= 2e-15 * np.maximum(1.0, np.abs(middle))).all():
            break
    kappa = np.exp(0.5 * (low + high))
    u = implicit_ridge(eigenvalues, (b + kappa) * d / a, p)
    stiff = _stiffness_inverse(eigenvalues, u, p)
    residual = np.maximum(
        np.abs(excess(np.log(kappa))) / n,
        np.abs(_degrees(eigenvalues, u) + (b + kappa) * d / (a * u) - p) / p,
    )
    bad = ~((residual <= TOLERANCE) & (stiff > 0))
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise ConvergenceError(
            f"the self-consistent equations of random features are not solved at n = {n[k]:g}, "
            f"p = {p[k]:g}, ridge = {sizes.ridge[k]:.3g}: relative residual {residual[k]:.3g}, "
            f"p - df2' = {stiff[k]:.3g}; raise the ridge"
        )
    return State(kappa, u, 1 / stiff, float(residual.max()))


def implicit_ridge(eigenvalues: np.ndarray, ridge: np.ndarray, p: np.ndarray) -> np.ndarray:
    """kappa' > 0 with p = sum_i l_i/(l_i + kappa') + ridge/kappa', for arrays of ridge and p.

    p u - sum_i l_i u/(l_i + u) - ridge is convex in u and not negative at (ridge + sum l_i)/p:
    Newton's method started there falls to the root without overshooting.

    Raises
    ------
    ConvergenceError
        It still moves after 400 steps.
    """
    surplus = (p - len(eigenvalues))[:, None]
    u = (ridge + eigenvalues.sum()) / p
    for _ in range(MAX_NEWTON):
        share = u[:, None] / (eigenvalues + u[:, None])
        # p - sum l/(l + u), written so that it does not cancel
        value = u * (surplus[:, 0] + share.sum(1)) - ridge
        slope = surplus[:, 0] + (share * (2 - share)).sum(1)
        new = np.where(slope > 0, u - value / np.where(slope > 0, slope, 1.0), 0.5 * u)
        new = np.maximum(new, 0.25 * u)
        if (np.abs(new - u) <= 4e-16 * u).all():
            return new
        settled = (new >= u) & (np.abs(new - u) <= 1e-13 * u)
        u = np.where(settled, u, new)
        if settled.all():
            return u
    raise ConvergenceError(
        f"the implicit ridge of the inputs still moves after {MAX_NEWTON} steps; raise the ridge"
    )


def _degrees(eigenvalues: np.ndarray, u: np.ndarray) -> np.ndarray:
    return (eigenvalues / (eigenvalues + u[:, None])).sum(1)


def _stiffness_inverse(eigenvalues: np.ndarray, u: np.ndarray, p: np.ndarray) -> np.ndarray:
    share = u[:, None] / (eigenvalues + u[:, None])
    return (p - len(eigenvalues)) + (share * (2 - share)).sum(1)
