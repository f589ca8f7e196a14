"""Fluctuation over response: the effective temperature by common random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core import checks
from thermolearn.core.estimate import Estimate, jackknife, mean_estimate
from thermolearn.core.progress import track
from thermolearn.measure.noise.steadiness import (
    FEWEST,
    SEEN,
    SLOW,
    VISIBLE,
    block_means,
    drift_of_path,
)
from thermolearn.measure.noise.training_mode import EVAL

PLATEAU = 0.2  # share of the lags that counts as the end
FLAT = 0.02  # by how much the end may still rise
LOW, HIGH = 0.50, 0.95  # of the plateau: where the slope is taken
SAMPLES = 20  # of the jackknife, if there are origins enough
SEEABLE = 0.5  # share of the plateau: a test that would miss a larger drift tells nothing


@dataclass(frozen=True)
class Dynamics:
    """A stochastic dynamics of R independent replicas.

    Attributes
    ----------
    start : Tensor (R, ...)
        The state of all replicas.
    draw : callable
        generator -> the random numbers of one step, for all replicas (the batches, say).
    step : callable
        (state, noise, force) -> next state; `force` (R, d), or 0, is subtracted from the gradient:
        theta <- theta - lr (g - force). It must not change its arguments.
    rate : float
        lr, the time that a step takes.
    position : callable
        state -> theta (R, d); the state itself by default.
    virial_factor : float, optional
        Virial temperature over t_fast in a stationary state: 1 without momentum, 1 + m with it,
        NaN if there is no such factor. By default 1 if the state is its own position, else NaN.
    caveat : str
        Why this is not the dynamics of the training run, if it is not: the temperatures then have
        the status "eval mode".
    """

    start: Tensor
    draw: Callable[[torch.Generator], Any]
    step: Callable[[Tensor, Any, Tensor | float], Tensor]
    rate: float
    position: Callable[[Tensor], Tensor] = lambda state: state
    virial_factor: float | None = None
    caveat: str = ""


@dataclass(frozen=True)
class EffectiveTemperature:
    """Temperatures from fluctuation and response, in units of the loss.

    Attributes
    ----------
    lags : array (K,)
        1 ... K steps.
    half_msd : Estimate (K,)
        H(k) = <|theta(t+k) - theta(t)|^2>/(2d).
    response : Estimate (K,)
        chi(k), displacement per unit of constant force.
    t_fast, t_slope, t_glob : Estimate
        H(1)/chi(1); dH/dchi where chi is between 50 and 95% of its plateau; H/chi on the plateau.
        In equilibrium the three agree. Status "not stationary", "not plateaued", "under-sampled"
        or "eval mode" where they must not be used.
    plateau : Estimate
        chi over the last fifth of the lags.
    stationary : bool or None
        Whether <|theta|^2> kept still over the origins; None where they do not tell (fewer than
        20 independent ones).
    statement : str
        That in a sentence.
    virial_factor : float
        What t_fast is multiplied by before it is compared with the virial temperature: with
        H(1) = lr^2 <u^2>/(2d), u the update, and chi(1) = lr (1 - t), plain momentum m with
        dampening t has t_fast = lr <u^2>/(2 d (1 - t)) = T/(1 + m). NaN with Nesterov's momentum,
        where chi(1) = lr (1 + m) and the virial relation holds another average than <u^2>.
    """

    lags: np.ndarray
    half_msd: Estimate
    response: Estimate
    t_fast: Estimate
    t_slope: Estimate
    t_glob: Estimate
    plateau: Estimate
    stationary: bool | None
    statement: str
    virial_factor: float = math.nan

    def __repr__(self) -> str:
        return (
            f"EffectiveTemperature(t_fast={self.t_fast}, t_slope={self.t_slope}, "
            f"t_glob={self.t_glob}, {len(self.lags)} lags, stationary={self.stationary}, "
            f"statement={self.statement!r})"
        )


def effective_temperature(
    dynamics: Dynamics,
    *,
    lag: int,
    origins: int = 20,
    burn_in: int = 0,
    force: float = 1e-3,
    seed: int = 0,
) -> EffectiveTemperature:
    """Fluctuation-dissipation ratio of a training dynamics by twin trajectories.

    From each origin t two copies run with the same random numbers, one of them under a constant
    force of random signs, F = force x eps: chi(k) = <(theta_F - theta) . eps>/(d force). Averaged
    over `origins` successive origins, `lag` steps apart, and over the replicas.

    Parameters
    ----------
    dynamics : Dynamics
        For instance `sgd_replicas(...)`; in float64 (the two copies are subtracted).
    lag : int >= 5
        Largest lag K: some relaxation times of the slowest motion of interest.
    origins : int >= 2
        With 8 or more a drift is looked for, with 20 it is said which would have been seen.
    burn_in : int >= 0
        Steps before the first origin.
    force : float > 0
        Small enough for a linear response; the result must not depend on it.

    Raises
    ------
    ValueError
        A bad argument, fewer than two replicas x origins, or a run that diverged.

    References
    ----------
    Mignacco, Urbani, arXiv:2112.10852 (temperature of SGD); Cugliandolo, Kurchan, Peliti,
    arXiv:cond-mat/9611044 (effective temperature). The fitting window is a choice made here.
    """
    lag = checks.whole("lag", lag, least=5)
    origins = checks.whole("origins", origins, least=2)
    burn_in = checks.whole("burn_in", burn_in, least=0)
    force = checks.real("force", force, above=0)
    position = dynamics.position(dynamics.start)
    if position.dim() != 2 or not position.numel():
        raise ValueError(
            f"dynamics.position must return (replicas, d), got {tuple(position.shape)}"
        )
    if position.dtype != torch.float64:
        raise ValueError(f"dynamics must run in float64, got {position.dtype}")
    generator = torch.Generator().manual_seed(seed)
    state = dynamics.start
    for _ in track(range(burn_in), "burn-in"):
        state = dynamics.step(state, dynamics.draw(generator), 0.0)
    msd, response, squares = [], [], []
    for _ in track(range(origins), "response"):
        squares.append(dynamics.position(state).square().mean(1))
        state, h, chi = _one_origin(dynamics, state, lag, force, generator)
        msd.append(h)
        response.append(chi)
    curves = [torch.stack(c).cpu().numpy() for c in (msd, response)]  # (origins, K, R)
    if not all(np.isfinite(c).all() for c in curves):
        raise ValueError("the trajectories became NaN or infinite: the dynamics diverged")
    path = torch.stack(squares).mean(1).cpu().numpy()
    samples = _samples(curves[0]), _samples(curves[1])
    found = temperature_from_curves(*samples, path, (origins - 1) * lag)
    factor = dynamics.virial_factor
    if factor is None:
        factor = 1.0 if position is dynamics.start else math.nan
    found = replace(found, virial_factor=float(factor))
    return _flagged(found, dynamics.caveat) if dynamics.caveat else found


def _flagged(found: EffectiveTemperature, caveat: str) -> EffectiveTemperature:
    flags = {
        k: replace(getattr(found, k), status=EVAL, note=caveat)
        for k in ("t_fast", "t_slope", "t_glob")
    }
    return replace(found, statement=f"{found.statement}; {caveat}", **flags)


def _one_origin(
    dynamics: Dynamics, state: Tensor, lag: int, force: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """State after `lag` steps, half-MSD (K, R) and response (K, R)."""
    start = dynamics.position(state)
    shape, device = start.shape, start.device
    signs = 2.0 * torch.randint(2, shape, generator=generator, device="cpu") - 1
    signs = signs.to(device=device, dtype=torch.float64)
    forced, push = state, force * signs
    msd, response = [], []
    for _ in range(lag):
        noise = dynamics.draw(generator)
        state, forced = dynamics.step(state, noise, 0.0), dynamics.step(forced, noise, push)
        here = dynamics.position(state)
        msd.append((here - start).square().mean(1) / 2)
        response.append(((dynamics.position(forced) - here) * signs).mean(1) / force)
    return state, torch.stack(msd), torch.stack(response)


def _samples(curves: np.ndarray) -> np.ndarray:
    """Nearly independent curves (S, K) from (origins, K, R): replicas, or blocks of origins."""
    origins, lags, replicas = curves.shape
    blocks = min(origins, max(1, -(-SAMPLES // replicas)))
    return block_means(curves, blocks).transpose(0, 2, 1).reshape(blocks * replicas, lags)


def temperature_from_curves(
    half_msd: np.ndarray,
    response: np.ndarray,
    path: np.ndarray | None = None,
    steps: int = 0,
    *,
    stationary: tuple[bool | None, str] | None = None,
) -> EffectiveTemperature:
    """Temperatures from curves of fluctuation and response, however they were found.

    Parameters
    ----------
    half_msd, response : ndarray (S, K)
        H(k) and chi(k) at lags k = 1 ... K of S >= 2 nearly independent samples (replicas, seeds,
        blocks of origins); the errors are those between the samples.
    path : ndarray (P,), optional
        <theta^2> over the times from which the curves were taken, mean over the samples: looked
        through for a drift. Without it the stationarity is not tested.
    steps : int
        That the path covers; for the statement.
    stationary : (bool or None, str), optional
        Verdict and statement, where the caller knows better than a path tells.

    Raises
    ------
    ValueError
        Curves of different or unfit shapes or not finite, or a response that is not positive at
        the first lag.
    """
    msd, response = (np.asarray(c, dtype=np.float64) for c in (half_msd, response))
    if msd.ndim != 2 or msd.shape != response.shape or msd.shape[0] < 2 or msd.shape[1] < 5:
        raise ValueError(
            "half_msd and response must have one shape (samples >= 2, lags >= 5), got "
            f"{msd.shape} and {response.shape}"
        )
    if not (np.isfinite(msd).all() and np.isfinite(response).all()):
        raise ValueError("half_msd or response is NaN or infinite: the dynamics diverged")
    n, lags = msd.shape
    end = max(2, round(PLATEAU * lags))
    mean = response.mean(0)
    if mean[0] <= 0:
        raise ValueError(
            "the force has no effect in the first step: dynamics.step must subtract it from the "
            "gradient"
        )
    plateau = mean_estimate(response[:, -end:].mean(1))
    flat = _flat(response, end) and _flat(msd, end)
    over = np.flatnonzero(mean > HIGH * float(plateau))
    last = int(over[0]) if len(over) else lags
    window = np.arange(last)[mean[:last] >= LOW * float(plateau)]

    def ratio(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        value = statistic(msd.mean(0), mean)
        error = jackknife(
            lambda h, c: statistic(h.mean(0), c.mean(0)), msd, response, blocks=min(n, 200)
        )
        return Estimate(value, error.stderr, float(n))

    fast = ratio(lambda h, c: h[0] / c[0])
    overall = ratio(lambda h, c: h[-end:].mean() / c[-end:].mean())
    if len(window) >= 3:
        slope = ratio(lambda h, c: float(np.polyfit(c[window], h[window], 1)[0]))
    else:
        slope = Estimate(math.nan, math.nan, status="too few lags")
    late = "ok" if flat else "not plateaued"
    if SEEN * float(plateau.stderr) > 0.2 * float(plateau):
        late = "under-sampled"
    if stationary is None:
        seen = np.zeros(0) if path is None else np.asarray(path, dtype=np.float64)
        stationary = _steady(seen, steps, float(msd[:, -end:].mean()))
    still, statement = stationary
    if still is False:
        late = "not stationary"
        fast = replace(fast, status=late)
    slope, overall = (replace(e, status=late) if e.status == "ok" else e for e in (slope, overall))
    return EffectiveTemperature(
        np.arange(1, lags + 1),
        mean_estimate(msd),
        mean_estimate(response),
        fast,
        slope,
        overall,
        plateau,
        still,
        statement if flat else f"{statement}; the curves still rise at the largest lag: raise lag",
    )


def _flat(curves: np.ndarray, end: int) -> bool:
    """Whether the last lags are level with those before, within 2% or 4 standard errors."""
    end = min(end, curves.shape[1] // 2)
    last, before = curves[:, -end:].mean(1), curves[:, -2 * end : -end].mean(1)
    rise = mean_estimate(last - before)
    return abs(float(rise)) <= max(FLAT * abs(float(last.mean())), SEEN * float(rise.stderr))


def _steady(path: np.ndarray, steps: int, scale: float) -> tuple[bool | None, str]:
    """Whether <theta^2> keeps still, measured by the plateau of the half-MSD."""
    if len(path) < FEWEST:
        return None, f"stationarity not tested: fewer than {FEWEST} origins"
    drift = drift_of_path(path, 1.0)
    share, error = float(drift) / scale, float(drift.stderr) / scale
    sure = drift.status == "ok"
    if abs(share) > SEEN * error * (1.0 if sure else SLOW):
        return False, (
            f"the mean square of the parameters changes by {100 * share:.3g}% of the plateau of "
            f"H over {steps} steps: raise burn_in"
        )
    if not sure:
        return None, (
            f"no drift seen over {steps} steps, but {len(path)} origins are too few, or too "
            "correlated, to tell what would have been seen: raise origins"
        )
    if VISIBLE * error > SEEABLE:
        return None, (
            f"no drift seen over {steps} steps, but only a change of the mean square above "
            f"{100 * VISIBLE * error:.2g}% of the plateau of H would have been: raise origins or "
            "replicas"
        )
    return True, (
        f"no drift seen over {steps} steps; a change of the mean square above "
        f"{100 * VISIBLE * error:.2g}% of the plateau of H would have been seen (in 19 of 20 runs)"
    )
