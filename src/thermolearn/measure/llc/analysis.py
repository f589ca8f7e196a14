"""From traces of the chains to the coefficient, its error bar and its verdict."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thermolearn.core.diagnostics import autocorrelation_time, split_rhat
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate, difference
from thermolearn.measure.llc.result import LearningCoefficient
from thermolearn.measure.llc.sampler import Objective, Plan, Sampled, Traces

BELOW = 1.0  # nats under w*
RARE = 0.01  # fraction of draws that may lie there
SMOOTH = 50  # draws over which minibatch energies are averaged before they are compared with it
SIGNIFICANT = 4.0  # standard errors
LARGE = 0.25  # of the value: a shift beyond is no correction any more
LEAST_ACCEPTANCE = 0.05
UNEVEN = 0.05  # of equipartition


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the verdict rests on."""

    value: float
    stderr: float
    uncorrected: float
    below: float
    localization_shift: Estimate
    step_shift: Estimate
    gradient_shift: Estimate
    equipartition: Estimate
    rhat: float
    mixed: bool
    under_sampled: bool
    acceptance: float | None


def make_result(
    sampled: Sampled, objective: Objective, plan: Plan, settings: dict[str, Any]
) -> LearningCoefficient:
    """Corrected mean, error bar and verdict of sampled chains."""
    gamma, traces = sampled.localization, sampled.traces
    raw = [_mean(t.energy) for t in traces]
    pairs = [_correct(t, gamma, r, objective.noisy) for t, r in zip(traces, raw, strict=True)]
    corrected, shifts = zip(*pairs, strict=True)
    value = _extrapolated(corrected)
    rhats = [_rhat(t.energy) for t in traces]
    found = Evidence(
        value=float(value),
        stderr=float(value.stderr),
        uncorrected=float(raw[-1]),
        below=_fraction_below(traces, objective.noisy),
        localization_shift=_extrapolated(shifts),
        step_shift=_step_shift(corrected),
        gradient_shift=_extrapolated([_mean(t.pull / 2) for t in traces]),
        equipartition=_extrapolated([_mean(_equipartition(t, gamma, objective)) for t in traces]),
        rhat=max(rhats),
        mixed=all(_mixed(h, r, t) for h, r, t in zip(rhats, raw, traces, strict=True)),
        under_sampled=any(m.status == "under-sampled" for m in (*raw, *corrected)),
        acceptance=sampled.acceptance,
    )
    status, note = verdict(found)
    # beyond its first order the correction is none: what is left is the number at this gamma
    value = _extrapolated(raw) if status == "localized" else value
    energies = np.concatenate([t.energy for t in traces])
    ess = float(sum(m.n_eff or 0.0 for m in raw))
    return LearningCoefficient(
        value=float(value),
        stderr=float(value.stderr),
        status=status,
        note=note,
        uncorrected=found.uncorrected,
        localization=gamma,
        localization_shift=found.localization_shift,
        step=traces[0].step,
        step_shift=found.step_shift,
        gradient_shift=found.gradient_shift,
        equipartition=found.equipartition,
        rhat=found.rhat,
        ess=ess,
        tau=energies.size / (2 * ess) if ess else math.nan,
        acceptance=sampled.acceptance,
        n_beta=plan.n_beta,
        dimension=objective.w0.numel(),
        initial_loss=objective.loss,
        settings={
            **settings,
            "n_beta": plan.n_beta,
            "method": plan.method,
            "localization": gamma,
        },
        energies=energies,
        distances=np.sqrt(np.concatenate([t.distance2 for t in traces])),
    )


def verdict(found: Evidence) -> tuple[str, str]:
    """Status and its reason, the gravest first; see `LearningCoefficient`."""

    def large(shift: Estimate) -> bool:
        size = abs(float(shift))
        return size > LARGE * abs(found.value) and size > SIGNIFICANT * float(shift.stderr)

    if not (math.isfinite(found.value) and math.isfinite(found.stderr)):
        return "invalid", "the energy of the chains is not finite"
    if found.value < 0 or found.uncorrected < 0:
        return "invalid", "negative: the chains found lower losses, w* is no local minimum"
    if found.stderr == 0:
        return "invalid", "no chain moved, or the loss is constant around w*"
    if float(found.gradient_shift) < 0 and large(found.gradient_shift):
        return "not a critical point", (
            f"the gradient at w* takes {-float(found.gradient_shift):.3g} from the value: w* is no "
            "minimum of this loss on these data; train further, or give the data it was trained on"
        )
    if found.below > RARE:
        return "left the basin", (
            f"{100 * found.below:.0f}% of the draws lie more than {BELOW:g} nat below w*: the "
            "chains found lower losses; train further, or raise localization="
        )
    if found.acceptance is not None and found.acceptance < LEAST_ACCEPTANCE:
        return "not converged", f"acceptance {found.acceptance:.1%}: lower step= or raise warmup="
    if large(found.step_shift):
        return "not converged", (
            f"the step of SGLD changes the value by {float(found.step_shift):+.3g}, too much to "
            "extrapolate: lower step=, or raise batch_size="
        )
    if not found.mixed:
        return "not converged", f"split R-hat is {found.rhat:.3f}: raise warmup= and draws="
    gap = abs(float(found.equipartition) - 1)
    if gap > UNEVEN and gap > SIGNIFICANT * float(found.equipartition.stderr):
        return "not converged", (
            f"<(w - w*) . grad U>/d is {float(found.equipartition):.3g} and not 1: the chains do "
            "not fill their density; raise warmup= and draws=, or localization="
        )
    if found.under_sampled:
        return "under-sampled", "fewer than 50 autocorrelation times were drawn: raise draws="
    if abs(float(found.localization_shift)) > LARGE * found.value:
        return "localized", (
            f"the localization changes the value by {float(found.localization_shift):+.3g}: it "
            "holds for this localization; lower localization= and draw longer to lift it"
        )
    return "ok", ""


def _mean(chains: np.ndarray) -> Estimate:
    """Mean of chains (C, T) and its error sd sqrt(2 tau_int/N); a constant has the error 0."""
    mean = float(chains.mean())
    if not math.isfinite(mean):
        return Estimate(math.nan, math.nan, status="not finite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)  # told by the status of the result
        tau = autocorrelation_time(chains)
    if tau.status == "constant":
        return Estimate(mean, 0.0, status="constant")
    stderr = float(chains.std()) * math.sqrt(2 * float(tau) / chains.size)
    return Estimate(mean, stderr, chains.size / (2 * float(tau)), tau.status)


def _rhat(chains: np.ndarray) -> float:
    return split_rhat(chains) if np.isfinite(chains).all() else math.nan


def _mixed(rhat: float, mean: Estimate, t: Traces) -> bool:
    """Whether R-hat is below 1.01 up to what halves of stationary chains scatter.

    R-hat^2 - 1 = 4 tau/T for T draws, with the 3 sigma of 2 C halves.
    """
    count, draws = t.energy.shape
    tau = t.energy.size / (2 * mean.n_eff) if mean.n_eff else 0.5
    scatter = 1 + 3 * math.sqrt(2 / (2 * count - 1))
    return rhat <= 1.01 * math.sqrt(1 + 4 * tau / draws * scatter)


def _equipartition(t: Traces, gamma: float, objective: Objective) -> np.ndarray:
    """(w - w*) . grad U/d, whose mean is 1 in equilibrium, whatever the loss.

    It sees what R-hat cannot: a direction that no chain has explored yet.
    """
    return (t.virial + gamma * t.distance2) / objective.w0.numel()


def _fraction_below(traces: list[Traces], noisy: bool) -> float:
    """Fraction of the draws more than a nat below w*; minibatch noise is averaged out before."""
    energies = np.concatenate([t.energy for t in traces])
    if noisy:
        used = energies.shape[1] // SMOOTH * SMOOTH
        energies = energies[:, :used].reshape(len(energies), -1, SMOOTH).mean(2)
    return float((energies < -BELOW).mean())


def _correct(t: Traces, gamma: float, raw: Estimate, noisy: bool) -> tuple[Estimate, Estimate]:
    """<V> free of the localization, and what the localization adds, at first order in gamma.

    d<V>/dgamma = -Cov(V, r^2)/2 exactly, so <V> at gamma -> 0 is <V> + gamma/2 Cov(V, r^2) up to
    second order. Partial integration gives gamma Cov(V, r^2) = <D> - Cov(V, D), D the virial
    (w - w*) . grad V, in which the flat directions that dominate r^2 in high dimension make no
    noise; the form with the smaller error bar is taken. As series over the draws both carry their
    own error bars. With minibatches V and D share their noise and the first form is left; where
    it is less certain than the number it corrects it is only reported.
    """
    if gamma == 0:
        return raw, Estimate(0.0)
    energy = t.energy - t.energy.mean()
    series = -0.5 * gamma * energy * (t.distance2 - t.distance2.mean())
    shift, bar = _mean(series), float(raw.stderr)
    if noisy and float(shift.stderr) > bar:
        return raw, shift
    if not noisy and float(shift.stderr) > 0.3 * bar:
        parts = -0.5 * (t.virial - energy * (t.virial - t.virial.mean()))
        other = _mean(parts)
        if float(other.stderr) < float(shift.stderr):
            series, shift = parts, other
    return _mean(t.energy - series), shift


def _extrapolated(means: Sequence[Estimate]) -> Estimate:
    """The mean of one set of chains, or 2 m(s/2) - m(s), free of the first order in the step s."""
    if len(means) == 1:
        return means[0]
    whole, half = means
    return Estimate(
        2 * float(half) - float(whole), math.hypot(2 * float(half.stderr), float(whole.stderr))
    )


def _step_shift(means: Sequence[Estimate]) -> Estimate:
    """What the larger step adds: 2 (m(s) - m(s/2))."""
    if len(means) == 1:
        return Estimate(0.0, note="Metropolis-adjusted: no bias at any step")
    return 2 * difference(*means)
