"""Effective temperatures of a trajectory from its correlation and response."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.noise.response import EffectiveTemperature, temperature_from_curves
from thermolearn.systems.training.sgd_noise.schedules import Schedule

SIGMAS, DRIFT = 4.0, 0.05  # a window moves beyond so many errors, or beyond this share
LAGS = 5  # the fewest of which a slope is taken
NOISE = 0.01  # probability at which a share beyond DRIFT still counts as noise


class Steadiness(NamedTuple):
    """Whether a window keeps still.

    Attributes
    ----------
    still : bool or None
        None where it cannot be told.
    statement : str
        That in a sentence, with what to do.
    status : str
        Of a temperature from the window: "ok", "not stationary", "under-sampled" (drift and noise
        of the samples cannot be told apart), "not tested" (a single run) or "no noise".
    """

    still: bool | None
    statement: str
    status: str


def check_window(window: tuple[int, int] | None, steps: int) -> tuple[int, int]:
    """First and last time of a window; the second half of the run by default."""
    if window is None:
        return steps // 2, steps
    if len(window) != 2:
        raise ValueError(f"window must be (first, last), got {window!r}")
    first, last = (whole("window", t, least=0) for t in window)
    if not first < last <= steps:
        raise ValueError(
            f"window must be (first, last) with first < last <= {steps}, the last step of this "
            f"run, got ({first}, {last})"
        )
    return first, last


def check_method(method: str) -> None:
    """Whether temperatures are measured in that way."""
    if method not in ("fdt", "virial"):
        raise ValueError(f"method must be 'fdt' or 'virial', got {method!r}")


def theory_temperature(
    C: np.ndarray,
    R: np.ndarray,
    schedule: Schedule,
    window: tuple[int, int] | None,
    method: str,
    lag: int | None,
) -> EffectiveTemperature | Estimate:
    """`fdt_temperature` or `virial_temperature` of the runs of a mean-field theory."""
    check_method(method)
    rate, noisy = schedule.rate, schedule.batch_fraction < 1
    window = check_window(window, C.shape[1] - 1)
    if method == "virial":
        return virial_temperature(C, rate, window, noisy)
    if len(C) < 2:
        raise ValueError("method 'fdt' needs runs >= 2 for its errors: call .dmft(..., runs=4)")
    return fdt_temperature(C, R, rate, window, lag, noisy)


def fdt_temperature(
    C: np.ndarray,
    R: np.ndarray,
    rate: float,
    window: tuple[int, int],
    lag: int | None = None,
    noisy: bool = True,
) -> EffectiveTemperature:
    """Half mean square displacement over integrated response, averaged over waiting times.

    H(k) = <|w(tw + k) - w(tw)|^2>/(2d), chi(k) = eta sum_{s=tw}^{tw+k-1} R(tw + k, s), mean over
    all tw with tw and tw + lag in the window.

    Parameters
    ----------
    C, R : ndarray (runs >= 2, T + 1, T + 1)
        Correlation w(t).w(t')/d and response to an impulse.
    rate : float
        eta.
    window : (first, last)
    lag : int >= 5, optional
        Largest k; half of the window by default, but not less than 5.
    noisy : bool
        Whether there are batches at all.
    """
    first, last = window
    if last - first < LAGS:
        raise ValueError(
            f"window must have at least {LAGS} steps for method 'fdt', got {last - first}: "
            f"({first}, {last})"
        )
    if lag is None:
        lag = max(LAGS, (last - first) // 2)
    lag = whole("lag", lag, least=LAGS, most=last - first)
    tw = np.arange(first, last - lag + 1)
    msd = np.stack([half_msd(C, tw, k) for k in range(1, lag + 1)], 1)
    chi = integrated_response(R, rate)
    response = np.stack([chi[:, tw + k, tw].mean(1) for k in range(1, lag + 1)], 1)
    return judged(msd, response, stationarity(C, rate, window, noisy))


def judged(msd: np.ndarray, response: np.ndarray, steady: Steadiness) -> EffectiveTemperature:
    """Temperatures of curves (runs, lags), with the status of the window they are from."""
    found = temperature_from_curves(msd, response, stationary=(steady.still, steady.statement))
    if steady.still is not None:
        return found
    names = [n for n in ("t_fast", "t_slope", "t_glob") if getattr(found, n).status == "ok"]
    return replace(found, **{n: replace(getattr(found, n), status=steady.status) for n in names})


def half_msd(C: np.ndarray, tw: np.ndarray, k: int) -> np.ndarray:
    """H(k), mean over the times tw, of every run (runs,)."""
    q = np.diagonal(C, axis1=1, axis2=2)
    return (q[:, tw + k] + q[:, tw] - 2 * C[:, tw + k, tw]).mean(1) / 2


def integrated_response(R: np.ndarray, rate: float) -> np.ndarray:
    """chi(t, tw) = eta sum_{s=tw}^{t-1} R(t, s), the shape of R."""
    return rate * np.cumsum(R[..., ::-1], axis=-1)[..., ::-1]


def virial_temperature(
    C: np.ndarray, rate: float, window: tuple[int, int], noisy: bool = True
) -> Estimate:
    """<w.g>/d, g the whole gradient of the step (weight decay included), over the window.

    In a stationary state it is eta <g^2>/(2d), the ratio of fluctuation and response in the first
    step. Status: that of `stationarity`.

    References
    ----------
    S. Yaida, arXiv:1810.00004.
    """
    left, _ = virial_sides(C, rate, window)
    steady = stationarity(C, rate, window, noisy)
    return mean_estimate(left, status=steady.status, note=steady.statement)


def virial_sides(
    C: np.ndarray, rate: float, window: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """<w.g>/d and eta <g^2>/(2d) of every run (runs,), means over the steps of the window."""
    t = np.arange(*window)
    now, product, then = C[:, t, t], C[:, t + 1, t], C[:, t + 1, t + 1]
    left = (now - product) / rate
    right = (then + now - 2 * product) / (2 * rate)
    return left.mean(1), right.mean(1)


def changes(C: np.ndarray, rate: float, window: tuple[int, int]) -> dict[str, np.ndarray]:
    """What must vanish in a stationary window, as shares of every run (runs,).

    The difference of the two sides of the virial relation, which is the drift of |w|^2/(2d) per
    eta; and what H(1) and H(k), k a quarter of the window, change from its first half to the
    second: |w|^2 alone also agrees where a path only begins and ends at one distance from 0.
    """
    left, right = virial_sides(C, rate, window)
    out = {
        "the drift of the mean square of the weights, over the temperature,": (right - left, right)
    }
    first, last = window
    middle, quarter = (first + last) // 2, (last - first) // 4
    for k in sorted({1, quarter}):
        if 1 <= k <= middle - first:
            early, late = (
                half_msd(C, np.arange(begin, end - k + 1), k)
                for begin, end in ((first, middle), (middle, last))
            )
            out[f"the change of H({k}) between the halves"] = (late - early, (early + late) / 2)
    return {
        name: change / scale.mean() if scale.mean() > 0 else np.full(len(C), np.inf)
        for name, (change, scale) in out.items()
    }


def stationarity(
    C: np.ndarray, rate: float, window: tuple[int, int], noisy: bool = True
) -> Steadiness:
    """Whether the `changes` over the window vanish.

    Not stationary if one of them is beyond 4 standard errors (Student's t at equal probability),
    or beyond 5% and no noise (1%, two-sided); under-sampled if one of them or its error is beyond
    5% otherwise. A single run has no errors: not stationary beyond 5%, else not tested.
    """
    if not noisy:
        return Steadiness(
            None,
            "no noise: the batch is the whole training set, and the stationary temperature is 0; "
            "what is seen is the way to the minimum",
            "no noise",
        )
    n, over = len(C), f"over steps {window[0]} to {window[1]} "
    clear = stats.t.isf(stats.norm.sf(SIGMAS), n - 1) if n > 1 else np.inf
    likely = stats.t.isf(NOISE / 2, n - 1) if n > 1 else 0.0
    moving: dict[str, float] = {}
    unclear: dict[str, float] = {}
    said: dict[str, str] = {}
    for name, shares in changes(C, rate, window).items():
        mean = mean_estimate(shares)
        share, error = abs(float(mean)), float(mean.stderr)
        sigmas = share / error if error > 0 else np.inf if share > DRIFT else 0.0
        said[name] = f"{name} is {100 * share:.3g}%" + (
            f" ({sigmas:.2g} standard errors)" if error > 0 else ""
        )
        if sigmas > clear or (share > DRIFT and sigmas > likely):
            moving[name] = share
        elif share > DRIFT or error > DRIFT:
            unclear[name] = max(share, error)
    if moving:
        worst = said[max(moving, key=moving.__getitem__)]
        other = "" if n > 1 else ", or runs >= 2 to see what is noise"
        return Steadiness(
            False, f"not stationary: {over}{worst}; take a later window{other}", "not stationary"
        )
    if n == 1:
        told = "; ".join(said.values())
        return Steadiness(
            None, f"stationarity not tested with a single run: {over}{told}", "not tested"
        )
    if unclear:
        worst = said[max(unclear, key=unclear.__getitem__)]
        return Steadiness(
            None,
            f"stationarity cannot be told: {over}{worst}, no more than noise; take more samples, "
            "more runs or a longer window",
            "under-sampled",
        )
    return Steadiness(True, f"stationary: {over}{'; '.join(said.values())}", "ok")
