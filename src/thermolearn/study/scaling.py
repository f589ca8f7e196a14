"""Finite-size scaling: the limit of infinite size, the exponent of the approach, a held-out size.

Scaling in a control parameter (data collapse, Binder cumulants) is in `collapse`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate

# Exponents searched. Below, N^-gamma cannot be told from a constant and the limit runs away.
EXPONENTS = (0.05, 6.0)
# A law whose chi^2 is exceeded by chance this rarely does not describe the data.
POOR = 1e-3


@dataclass(frozen=True)
class HeldOut:
    """The largest size, predicted from the others.

    Attributes
    ----------
    size : float
    predicted, measured : Estimate
    z : float
        (predicted - measured) in units of both errors.
    """

    size: float
    predicted: Estimate
    measured: Estimate
    z: float


@dataclass(frozen=True)
class ScalingFit:
    """y(N) = limit + amplitude N^-exponent; see `finite_size_scaling`. ``str()`` is a short table.

    Attributes
    ----------
    limit, amplitude, exponent : Estimate
        Error bars from a parametric bootstrap (half the central 68% interval). That of the limit
        holds `systematic` besides, in quadrature.
    systematic : float
        |limit - limit without the smallest size|: what corrections to the law, too small for
        chi^2 to notice, may do to the limit. NaN, and not in the error, with three sizes.
    chi2, dof, p_value : float, int, float
        Goodness of the fit; p_value is NaN without degrees of freedom.
    held_out : HeldOut or None
        The largest size predicted from the others; None with three sizes.
    status : str
        ``"ok"``; ``"undetermined"`` (the sizes do not fix the exponent), ``"poor fit"``
        (p_value < 0.001) or ``"prediction failed"`` (|z| of the held-out size above 4).
        The three Estimates carry it too.
    note : str
        What to do about it.
    sizes, values, stderrs : tuple of float
        The data.
    """

    limit: Estimate
    amplitude: Estimate
    exponent: Estimate
    systematic: float
    chi2: float
    dof: int
    p_value: float
    held_out: HeldOut | None
    status: str
    note: str
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    _draws: np.ndarray
    _without: np.ndarray | None

    def predict(self, size: float) -> Estimate:
        """y at another size, with the error of the fit and its shift without the smallest size."""
        y = _law(np.array([float(self.limit), float(self.amplitude), float(self.exponent)]), size)
        shift = 0.0 if self._without is None else float(y - _law(self._without, size))
        error = math.hypot(_half_width(_law(self._draws.T, size)), shift)
        return Estimate(float(y), error, status=self.status)

    def __str__(self) -> str:
        lines = [
            f"y(N) = {self.limit} + {self.amplitude} N^-{self.exponent}",
            f"chi^2 = {self.chi2:.2f} for {self.dof} degrees of freedom, p = {self.p_value:.3f}",
        ]
        if self.held_out is not None:
            lines.append(f"without the smallest size the limit moves by {self.systematic:.2g}")
            held = self.held_out
            lines.append(
                f"held out N = {held.size:g}: predicted {held.predicted}, measured "
                f"{held.measured}, z = {held.z:+.2f}"
            )
        return "\n".join([*lines, *([f"{self.status}: {self.note}"] if self.note else [])])


def finite_size_scaling(
    rows: Iterable[Mapping[str, Any]] | Any,
    exponent: float | None = None,
    size: str = "size",
    value: str = "value",
    stderr: str = "stderr",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> ScalingFit:
    """Fit y(N) = y_inf + c N^-gamma by weighted least squares, and predict a held-out size.

    For every gamma the best y_inf and c follow linearly, so that one variable is searched. With
    four sizes or more the largest is first predicted from the others; the fit returned has all.
    A law such as 1 / ln N looks like a power over a few sizes: the fit is repeated without the
    smallest size (at four sizes with the exponent that all of them give), and the shift of the
    limit is added to its error in quadrature. For true powers the bar then holds the limit in
    80% instead of 68% of cases; for 1 / ln N it is still much too short.

    Parameters
    ----------
    rows : DataFrame or iterable of mappings
        One per size: size N > 0, value, standard error > 0 (or the value an Estimate). At least
        three sizes.
    exponent : float, optional
        gamma > 0 where theory gives it; then it is not fitted.
    size, value, stderr : str
        Names of the columns.
    n_bootstrap : int
        Redraws of the data from the fitted law, at least 100.
    seed : int
        Of the redraws.

    Raises
    ------
    ValueError
        Fewer than three sizes, missing columns, error bars that are not positive, numbers that
        are not finite or not "ok".
    ConvergenceError
        No finite fit.
    """
    if exponent is not None and not (math.isfinite(exponent) and exponent > 0):
        raise ValueError(f"exponent must be positive and finite, got {exponent!r}")
    if n_bootstrap < 100:
        raise ValueError(f"n_bootstrap must be at least 100, got {n_bootstrap}")
    n, y, s = read_columns(rows, (size, value, stderr))
    if len(np.unique(n)) < 3:
        raise ValueError(f"finite-size scaling needs at least three sizes, got {np.unique(n)}")
    held_out = None
    if len(np.unique(n)) > 3:
        kept = n < n.max()
        fit = _fit_with_errors(n[kept], y[kept], s[kept], exponent, n_bootstrap, seed)
        held_out = _hold_out(fit, n[~kept], y[~kept], s[~kept])
    best, draws, chi2 = _fit_with_errors(n, y, s, exponent, n_bootstrap, seed)
    dof = len(n) - (3 if exponent is None else 2)
    p_value = _chi2_tail(chi2, dof)
    status, note = _judge(n, y, s, exponent, chi2, p_value, draws, held_out)
    limit, amplitude, gamma = (
        Estimate(b, _half_width(d), status=status) for b, d in zip(best, draws.T, strict=True)
    )
    without = _without_smallest(n, y, s, exponent, best)
    systematic = math.nan if without is None else abs(float(without[0] - best[0]))
    if without is not None:
        both = math.hypot(float(limit.stderr), systematic)
        words = "the error holds the shift of the limit without the smallest size"
        limit = Estimate(float(limit), both, status=status, note=words)
    if exponent is not None:
        gamma = Estimate(exponent, note="given")
    sizes, values, stderrs = (tuple(map(float, column)) for column in (n, y, s))
    return ScalingFit(
        limit,
        amplitude,
        gamma,
        systematic,
        chi2,
        dof,
        p_value,
        held_out,
        status,
        note,
        sizes,
        values,
        stderrs,
        draws,
        without,
    )


# -- data ----------------------------------------------------------------------------------------
def read_columns(rows: Any, names: tuple[str, ...]) -> list[np.ndarray]:
    """Columns of a DataFrame or of mappings as float arrays, sorted by the first one.

    The first is a size and the last the standard error; the value before it may be an Estimate
    with an error bar of its own.

    Raises
    ------
    ValueError
        No rows, a missing column, a number that is not finite, a size or an error bar that is not
        positive, a status other than "ok".
    """
    records = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    if not records:
        raise ValueError("there are no rows")
    value, stderr = names[-2:]
    table = []
    for place, record in enumerate(records):
        cells = dict(record)
        number = cells.get(value)
        if isinstance(number, Estimate):
            cells = {**cells, stderr: number.stderr, "status": number.status}
        missing = [name for name in names if name not in cells]
        if missing:
            raise ValueError(f"row {place} has no column {missing[0]!r}; it has {list(record)}")
        if cells.get("status", "ok") != "ok":
            raise ValueError(f"row {place} has the status {cells['status']!r}; leave it out")
        table.append([float(cells[name]) for name in names])
    columns = list(np.array(sorted(table)).T)
    for name, column in zip(names, columns, strict=True):
        if not np.isfinite(column).all():
            raise ValueError(f"column {name!r} holds a number that is not finite")
        if name in (names[0], stderr) and not (column > 0).all():
            raise ValueError(
                f"column {name!r} must be positive"
                + ("; for exact numbers give their numerical error" if name == stderr else "")
            )
    return columns


# -- the fit -------------------------------------------------------------------------------------
def _law(theta: np.ndarray, n: Any) -> np.ndarray:
    return theta[0] + theta[1] * np.asarray(n, dtype=np.float64) ** -theta[2]


def _linear(
    n: np.ndarray, y: np.ndarray, s: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, ...]:
    """chi^2, y_inf and c for draws y (draws, sizes) and exponents gamma (exponents,), or one each.

    Returns arrays of shape (exponents, draws).
    """
    # in units of the smallest size, so that N^-gamma does not underflow
    b = (n / n[0]) ** -gamma[:, None]
    w = s**-2.0
    mean_b = (b * w).sum(1, keepdims=True) / w.sum()
    mean_y = (y * w).sum(1) / w.sum()
    centered = b - mean_b
    slope = (w * centered) @ y.T / (w * centered**2).sum(1, keepdims=True)
    limit = mean_y - slope * mean_b
    residual = y[None] - limit[..., None] - slope[..., None] * b[:, None, :]
    return (w * residual**2).sum(-1), limit, slope * n[0] ** gamma[:, None]


def _fit(n: np.ndarray, y: np.ndarray, s: np.ndarray, exponent: float | None) -> np.ndarray:
    """Best (y_inf, c, gamma, chi^2) for every draw: (draws, 4)."""
    if exponent is not None:
        gamma = np.full(len(y), exponent)
    else:
        grid = np.geomspace(*EXPONENTS, 120)
        chi2 = _linear(n, y, s, grid)[0]
        place = np.clip(np.argmin(chi2, 0), 1, len(grid) - 2)
        low, high = grid[place - 1], grid[place + 1]
        for _ in range(40):  # golden section, all draws at once
            left, right = high - (high - low) / 1.618034, low + (high - low) / 1.618034
            f_left, f_right = (_chi2_each(n, y, s, g) for g in (left, right))
            low, high = (
                np.where(f_left < f_right, low, left),
                np.where(f_left < f_right, right, high),
            )
        gamma = (low + high) / 2
    # weighted regression of draw k on N^-gamma_k, in units of the smallest size
    b, w = (n / n[0]) ** -gamma[:, None], s**-2.0
    mean_b, mean_y = (b * w).sum(1) / w.sum(), (y * w).sum(1) / w.sum()
    centered = b - mean_b[:, None]
    slope = (w * centered * y).sum(1) / (w * centered**2).sum(1)
    limit = mean_y - slope * mean_b
    residual = y - limit[:, None] - slope[:, None] * b
    return np.stack([limit, slope * n[0] ** gamma, gamma, (w * residual**2).sum(1)], 1)


def _chi2_each(n: np.ndarray, y: np.ndarray, s: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """chi^2 of draw k at its own exponent gamma[k]."""
    b = (n / n[0]) ** -gamma[:, None]
    w = s**-2.0
    b = b - (b * w).sum(1, keepdims=True) / w.sum()
    d = y - (y * w).sum(1, keepdims=True) / w.sum()
    return (w * d**2).sum(1) - (w * b * d).sum(1) ** 2 / (w * b**2).sum(1)


def _fit_with_errors(
    n: np.ndarray,
    y: np.ndarray,
    s: np.ndarray,
    exponent: float | None,
    n_bootstrap: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Best parameters, those of the redraws (n_bootstrap, 3), and chi^2."""
    best = _fit(n, y[None], s, exponent)[0]
    if not np.isfinite(best).all():
        raise ConvergenceError("the fit of y_inf + c N^-gamma is not finite; check the data")
    noise = np.random.default_rng(seed).normal(size=(n_bootstrap, len(n)))
    draws = _fit(n, _law(best, n) + s * noise, s, exponent)
    return best[:3], draws[:, :3], float(best[3])


def _without_smallest(
    n: np.ndarray, y: np.ndarray, s: np.ndarray, exponent: float | None, best: np.ndarray
) -> np.ndarray | None:
    """Best parameters without the smallest size; None with three sizes."""
    kept = n > n.min()
    left = len(np.unique(n[kept]))
    if left < 3:
        return None
    given = exponent if left > 3 or exponent is not None else float(best[2])
    return _fit(n[kept], y[None, kept], s[kept], given)[0, :3]


def _hold_out(
    fit: tuple[np.ndarray, np.ndarray, float], n: np.ndarray, y: np.ndarray, s: np.ndarray
) -> HeldOut:
    best, draws, _ = fit
    weight = s**-2.0
    measured = Estimate(float((weight * y).sum() / weight.sum()), float(weight.sum() ** -0.5))
    predicted = Estimate(float(_law(best, n[0])), _half_width(_law(draws.T, n[0])))
    error = math.hypot(float(predicted.stderr), float(measured.stderr))
    return HeldOut(float(n[0]), predicted, measured, (float(predicted) - float(measured)) / error)


def _half_width(draws: np.ndarray) -> float:
    """Half the central 68% interval: the standard error where the draws are Gaussian."""
    low, high = np.quantile(draws, [0.15866, 0.84134])
    return float(high - low) / 2


def _chi2_tail(chi2: float, dof: int) -> float:
    from scipy import stats

    return float(stats.chi2.sf(chi2, dof)) if dof > 0 else math.nan


def _judge(
    n: np.ndarray,
    y: np.ndarray,
    s: np.ndarray,
    exponent: float | None,
    chi2: float,
    p_value: float,
    draws: np.ndarray,
    held_out: HeldOut | None,
) -> tuple[str, str]:
    """Status and note of a fit."""
    if p_value < POOR:
        return "poor fit", (
            f"one power of N does not describe the data (p = {p_value:.1g}); leave out the "
            "smallest sizes, or check the error bars"
        )
    if exponent is None:
        mean = (y / s**2).sum() / (s**-2.0).sum()
        gain = float((((y - mean) / s) ** 2).sum()) - chi2
        low, high = EXPONENTS
        at_end = np.mean((draws[:, 2] < 1.02 * low) | (draws[:, 2] > high / 1.02))
        if gain < 9 or at_end > 0.16:
            return "undetermined", (
                "the sizes do not fix the exponent; add smaller or larger ones, lower the errors, "
                "or give the exponent"
            )
    if held_out is not None and abs(held_out.z) > 4:
        return "prediction failed", (
            f"the largest size lies {abs(held_out.z):.1f} standard errors from its prediction; "
            "leave out the smallest sizes"
        )
    if held_out is None:
        return "ok", "three sizes: no size is held out, and the law is not tested"
    return "ok", (
        "one power of N is assumed; sizes that follow 1 / ln N, or two powers, can pass for one "
        "and have another limit"
    )
