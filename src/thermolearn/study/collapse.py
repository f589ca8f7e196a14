"""Finite-size scaling in a control parameter: data collapse, and crossing Binder cumulants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.study.scaling import read_columns

# Exponents 1/nu searched, in powers of the size.
INVERSE_NU = (0.02, 4.0)
# Shift of a parameter, from the smaller to the larger sizes, in its standard errors
DRIFT = 3.0


# -- Binder cumulant -----------------------------------------------------------------------------
def binder_cumulant(samples: ArrayLike) -> Estimate:
    """U = 1 - <m^4> / (3 <m^2>^2) of independent samples of the order parameter m.

    0 where m is Gaussian around 0, 2/3 where it is +-m_0; curves of different sizes cross near the
    transition. The bias of order 1/n is removed, and the error found, by the jackknife over single
    samples; the error comes out a tenth too small at n = 200 (Gaussian m), as the tail of m^4 is
    rarely seen.

    Parameters
    ----------
    samples : (n,) array
        Independent samples; of a correlated chain one per autocorrelation time.

    Raises
    ------
    ValueError
        Fewer than three samples, numbers that are not finite, or m = 0 in all of them.

    References
    ----------
    K. Binder, Z. Phys. B 43 (1981) 119.
    """
    m = np.asarray(samples, dtype=np.float64)
    if m.ndim != 1 or len(m) < 3 or not np.isfinite(m).all():
        raise ValueError("binder_cumulant needs a list of at least three finite samples")
    if np.count_nonzero(m) < 2:
        raise ValueError("all samples but one are 0: the cumulant is not defined")
    n, m2 = len(m), (m / np.abs(m).max()) ** 2
    # both moments without each of the samples
    second, fourth = (m2.sum() - m2) / (n - 1), ((m2**2).sum() - m2**2) / (n - 1)
    left_out = 1 - fourth / (3 * second**2)
    whole = 1 - (m2**2).mean() / (3 * m2.mean() ** 2)
    error = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    return Estimate(n * whole - (n - 1) * left_out.mean(), error, n_eff=float(n))


@dataclass(frozen=True)
class Crossing:
    """Where the curves of two sizes meet; see `crossing`.

    Attributes
    ----------
    x, value : Estimate
        Position and height, with bootstrap errors.
    sizes : (float, float)
    p_value : float
        Of the polynomial through the difference of the two curves.
    status : str
        ``"ok"``, ``"poor fit"`` (p_value < 0.001) or ``"undetermined"`` (redraws of the data
        often do not cross, or cross outside of the range).
    """

    x: Estimate
    value: Estimate
    sizes: tuple[float, float]
    p_value: float
    status: str


def crossing(
    rows: Iterable[Mapping[str, Any]] | Any,
    size: str = "size",
    x: str = "x",
    value: str = "value",
    stderr: str = "stderr",
    degree: int = 2,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> Crossing:
    """The control parameter at which the curves of two sizes cross.

    A polynomial goes through the difference of the curves at their common x, by weighted least
    squares; its zero is the crossing. The x should lie close around it.

    Parameters
    ----------
    rows : DataFrame or iterable of mappings
        size, x, value, stderr (or the value an Estimate), for exactly two sizes.
    size, x, value, stderr : str
        Names of the columns.
    degree : int
        Of the polynomial, at least 1.

    Raises
    ------
    ValueError
        Not two sizes, not more than `degree` + 1 common x, or curves that do not cross.
    """
    n, t, y, s = read_columns(rows, (size, x, value, stderr))
    sizes = np.unique(n)
    if len(sizes) != 2:
        raise ValueError(f"crossing needs exactly two sizes, got {sizes.tolist()}")
    small, large = (
        {a: (b, c) for a, b, c in zip(t[n == k], y[n == k], s[n == k], strict=True)} for k in sizes
    )
    common = np.array(sorted(small.keys() & large.keys()))
    if degree < 1 or len(common) < degree + 2:
        raise ValueError(
            f"a crossing of degree {degree} >= 1 needs {degree + 2} x common to both sizes, got "
            f"{len(common)}"
        )
    a, b = (np.array([curve[v] for v in common]).T for curve in (small, large))
    center, half = (common[0] + common[-1]) / 2, (common[-1] - common[0]) / 2
    u = (common - center) / half
    noise = np.random.default_rng(seed).normal(size=(n_bootstrap, 2, len(u)))
    best, p_value = _zero(u, a, b, degree)
    if best is None:
        raise ValueError("the curves do not cross in the range of x")
    draws = [
        _zero(u, (a[0] + a[1] * e, a[1]), (b[0] + b[1] * f, b[1]), degree)[0] for e, f in noise
    ]
    found = np.array([draw for draw in draws if draw is not None])
    status = "ok" if p_value >= 1e-3 else "poor fit"
    if len(found) < 0.95 * n_bootstrap:
        status = "undetermined"
    error = found.std(0, ddof=1) if len(found) > 1 else np.full(2, np.nan)
    return Crossing(
        Estimate(center + half * best[0], half * error[0], status=status),
        Estimate(best[1], error[1], status=status),
        (float(sizes[0]), float(sizes[1])),
        p_value,
        status,
    )


def _zero(u: np.ndarray, a: Any, b: Any, degree: int) -> tuple[tuple[float, float] | None, float]:
    """(zero of the difference, height there) nearest to the middle, and the p-value of the fit."""
    from scipy import stats

    d, error = a[0] - b[0], np.hypot(a[1], b[1])
    fit = np.polynomial.Polynomial.fit(u, d, degree, w=1 / error, domain=[-1, 1])
    chi2 = float((((d - fit(u)) / error) ** 2).sum())
    p_value = float(stats.chi2.sf(chi2, len(u) - degree - 1))
    roots = fit.roots()
    real = np.real(roots[np.abs(np.imag(roots)) < 1e-12])
    inside = real[np.abs(real) <= 1]
    if not len(inside):
        return None, p_value
    root = float(inside[np.argmin(np.abs(inside))])
    heights = [
        np.polynomial.Polynomial.fit(u, y, degree, w=1 / s, domain=[-1, 1])(root) for y, s in (a, b)
    ]
    return (root, float(np.mean(heights))), p_value


# -- data collapse -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Collapse:
    """y N^kappa as one function of (x - x_c) N^(1/nu); see `data_collapse`.

    Attributes
    ----------
    x_c, inverse_nu, kappa : Estimate
        With bootstrap errors and, in quadrature, their shifts. N is the size as given: for a
        mean-field system 1 / nu stands for 1 / (nu d_c), for a lattice give the linear size.
    quality : float
        Mean squared distance from the common curve in units of the errors; 1 if the collapse is
        as good as they allow.
    held_out_quality : float
        The same for the largest size, with parameters fitted to the others; NaN with less than
        four sizes. Not calibrated, and not part of the status: above 1 by the errors of those
        parameters, which are larger where the largest size lies far from the others.
    shifts : tuple of float
        By how much x_c, 1/nu (and a fitted kappa) move from the fit without the largest size to
        that without the smallest; empty with three sizes.
    status : str
        ``"ok"``, ``"poor collapse"`` (the quality lies 4 standard deviations above 1),
        ``"undetermined"`` (a parameter at the end of its range) or ``"drifting"`` (a shift above 3
        of its standard errors: the sizes are too small for one scaling function).
    note : str
        What to do about it.
    """

    x_c: Estimate
    inverse_nu: Estimate
    kappa: Estimate
    quality: float
    held_out_quality: float
    shifts: tuple[float, ...]
    status: str
    note: str

    def scaled(self, size: ArrayLike, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """((x - x_c) N^(1/nu), y N^kappa): what to plot."""
        n = np.asarray(size, dtype=np.float64)
        scaled_x = (np.asarray(x, dtype=np.float64) - float(self.x_c)) * n ** float(self.inverse_nu)
        return scaled_x, np.asarray(y, dtype=np.float64) * n ** float(self.kappa)


def data_collapse(
    rows: Iterable[Mapping[str, Any]] | Any,
    kappa: float | None = 0.0,
    size: str = "size",
    x: str = "x",
    value: str = "value",
    stderr: str = "stderr",
    n_bootstrap: int = 100,
    seed: int = 0,
) -> Collapse:
    """Find x_c, 1/nu (and kappa) that bring the curves of all sizes onto one.

    The quality is that of Houdayer and Hartmann: every point is compared with the straight line
    through its neighbors of the other sizes, in units of both errors. So the x must lie densely
    enough that the curve is straight between neighbors.

    With four sizes or more the fit is repeated without the largest and without the smallest, and
    the shift between the two is tested and added to the errors. A slow drift, as of
    x_c(N) = x_c + c N^-0.7 over a factor of eight in N, may still leave x_c several errors off.

    Parameters
    ----------
    rows : DataFrame or iterable of mappings
        size, x, value, stderr (or the value an Estimate): at least three sizes, at least four x
        each, around the transition.
    kappa : float or None
        y is multiplied by N^kappa: 0 for Binder cumulants and probabilities, beta/nu for an order
        parameter. None: fitted.
    size, x, value, stderr : str
        Names of the columns.
    n_bootstrap : int
        Redraws of the values behind the error bars, at least 20.
    seed : int
        Of the redraws.

    Raises
    ------
    ValueError
        Too few sizes or points, or bad columns.
    ConvergenceError
        No overlap of the curves at any parameters.

    References
    ----------
    J. Houdayer, A. K. Hartmann, Phys. Rev. B 70 (2004) 014418.
    """
    n, t, y, s = read_columns(rows, (size, x, value, stderr))
    sizes, counts = np.unique(n, return_counts=True)
    if len(sizes) < 3 or counts.min() < 4:
        raise ValueError(
            f"a collapse needs at least three sizes with four points each, got "
            f"{dict(zip(sizes.tolist(), counts.tolist(), strict=True))}"
        )
    if n_bootstrap < 20:
        raise ValueError(f"n_bootstrap must be at least 20, got {n_bootstrap}")
    best = _minimize(n, t, y, s, kappa, _start(n, t, y, s, kappa))
    # all sizes; where one can be spared, those without the largest and without the smallest
    kept = [n > 0] if len(sizes) == 3 else [n > 0, n < sizes[-1], n > sizes[0]]
    found = [best, *(_minimize(n[k], t[k], y[k], s[k], kappa, best) for k in kept[1:])]
    held_out = math.nan
    if len(kept) > 1:
        held_out, _ = _quality(found[1], n, t, y, s, kappa, only=float(sizes[-1]))
    noise = np.random.default_rng(seed).normal(size=(n_bootstrap, len(y)))
    draws = np.array(
        [
            [
                _minimize(n[k], t[k], (y + s * e)[k], s[k], kappa, start)
                for k, start in zip(kept, found, strict=True)
            ]
            for e in track(noise, "data collapse: redraws")
        ]
    )
    quality, points = _quality(best, n, t, y, s, kappa)
    status, note = _judge(best, quality, points, t)
    shift = np.zeros(len(best))
    if len(kept) > 1:
        shift = found[2] - found[1]
        error = (draws[:, 2] - draws[:, 1]).std(0, ddof=1)
        status, note = _drift(shift, error, status, note)
    elif status == "ok":
        note = "three sizes: whether the parameters drift with the size is not tested"
    errors = np.hypot(draws[:, 0].std(0, ddof=1), shift)
    found = [Estimate(b, e, status=status) for b, e in zip(best, errors, strict=True)]
    given = [] if kappa is None else [Estimate(kappa, note="given")]
    x_c, inverse_nu, power = (*found, *given)
    shifts = tuple(map(float, shift)) if len(kept) > 1 else ()
    return Collapse(x_c, inverse_nu, power, quality, held_out, shifts, status, note)


def _quality(
    theta: np.ndarray,
    n: np.ndarray,
    t: np.ndarray,
    y: np.ndarray,
    s: np.ndarray,
    kappa: float | None,
    only: float | None = None,
) -> tuple[float, int]:
    """Houdayer and Hartmann's S and the number of points in it; infinite below half of them."""
    power = theta[2] if kappa is None else kappa
    scale = n**power
    u, v, dv = (t - theta[0]) * n ** theta[1], y * scale, s * scale
    groups = [np.flatnonzero(n == k) for k in np.unique(n)]
    total, points, asked = 0.0, 0, 0
    for i, mine in enumerate(groups):
        if only is not None and n[mine[0]] != only:
            continue
        sums = np.zeros((5, len(mine)))
        for j, other in enumerate(groups):
            if i == j:
                continue
            right = np.searchsorted(u[other], u[mine])
            inside = (right > 0) & (right < len(other))
            for k in (np.clip(right - 1, 0, None), np.clip(right, None, len(other) - 1)):
                at = other[k]
                w = np.where(inside, dv[at] ** -2.0, 0.0)
                sums += w * np.stack([np.ones_like(w), u[at], v[at], u[at] ** 2, u[at] * v[at]])
        k0, kx, ky, kxx, kxy = sums
        delta = k0 * kxx - kx**2
        defined = (k0 > 0) & (delta > 1e-12 * np.abs(k0 * kxx))
        d = np.where(defined, delta, 1.0)
        line = ((kxx * ky - kx * kxy) + u[mine] * (k0 * kxy - kx * ky)) / d
        variance = np.abs(kxx - 2 * u[mine] * kx + u[mine] ** 2 * k0) / d
        distance = (v[mine] - line) ** 2 / (dv[mine] ** 2 + variance)
        total += float(distance[defined].sum())
        points += int(defined.sum())
        asked += len(mine)
    return (total / points, points) if points >= max(asked / 2, 1) else (math.inf, points)


def _start(
    n: np.ndarray, t: np.ndarray, y: np.ndarray, s: np.ndarray, kappa: float | None
) -> np.ndarray:
    """The best point of a coarse grid."""
    grids = [np.linspace(t.min(), t.max(), 25)[1:-1], np.geomspace(0.08, 2.0, 14)]
    if kappa is None:
        grids.append(np.linspace(-1, 1, 17))
    points = [np.array(point) for point in itertools.product(*grids)]
    values = [_quality(p, n, t, y, s, kappa)[0] for p in track(points, "data collapse: start")]
    if not np.isfinite(values).any():
        raise ConvergenceError(
            "the curves of different sizes never overlap; take x closer to the transition"
        )
    return points[int(np.argmin(values))]


def _minimize(
    n: np.ndarray, t: np.ndarray, y: np.ndarray, s: np.ndarray, kappa: float | None, start: Any
) -> np.ndarray:
    from scipy import optimize

    low = [t.min(), INVERSE_NU[0], -3.0][: len(start)]
    high = [t.max(), INVERSE_NU[1], 3.0][: len(start)]
    steps = np.array([(t.max() - t.min()) / 50, 0.1 * start[1], 0.05][: len(start)])
    simplex = np.clip(np.vstack([start, start + np.diag(steps)]), low, high)
    found = optimize.minimize(
        lambda theta: _quality(theta, n, t, y, s, kappa)[0],
        start,
        method="Nelder-Mead",
        bounds=list(zip(low, high, strict=True)),
        options={"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-6, "maxiter": 400},
    )
    return np.asarray(found.x)


def _judge(best: np.ndarray, quality: float, points: int, t: np.ndarray) -> tuple[str, str]:
    margin = 1e-3 * (t.max() - t.min())
    ends = (best[0] - t.min() < margin, t.max() - best[0] < margin)
    if any(ends) or not 1.02 * INVERSE_NU[0] < best[1] < INVERSE_NU[1] / 1.02:
        return "undetermined", "the best parameters lie at the end of their range; widen x"
    if quality > 1 + 4 * math.sqrt(2 / points):
        return "poor collapse", (
            "the curves do not fall onto one; leave out the smallest sizes, take x closer to the "
            "transition or more densely, or check the error bars"
        )
    return "ok", ""


def _drift(shift: np.ndarray, error: np.ndarray, status: str, note: str) -> tuple[str, str]:
    """Status "drifting" if a parameter moves significantly from the smaller to larger sizes."""
    z = np.abs(shift) / error
    if status != "ok" or not (z > DRIFT).any():
        return status, note
    k = int(np.argmax(z))
    return "drifting", (
        f"{('x_c', '1/nu', 'kappa')[k]} moves by {shift[k]:+.2g}, {z[k]:.1f} standard errors, from "
        "the smaller to the larger sizes; leave out the smallest until it stays"
    )
