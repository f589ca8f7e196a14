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
from thermolearn.measure.llc.minimum import Lower
from thermolearn.measure.llc.objective import Objective
from thermolearn.measure.llc.result import LearningCoefficient
from thermolearn.measure.llc.sampler import DEPTH, Plan, Sampled, Traces

BELOW = 1.0  # nats under w*
RARE = 0.01  # fraction of draws that may lie there
SMOOTH = 50  # draws over which minibatch energies are averaged before they are compared with it
SIGNIFICANT = 4.0  # standard errors
LARGE = 0.25  # of the value: a shift beyond is no correction any more
LEAST_ACCEPTANCE = 0.05
UNEVEN = 0.05  # of equipartition
LARGEST_RHAT = 1.05  # beyond which nothing is ok, however short the chains are
ROUNDING = 0.05  # nats
SEEN = 2.0  # standard errors of the value, from which a bias is named


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
    held: Estimate
    dimension: int
    lower: Lower
    localization: float
    rounding: float
    rhat: float
    expected_rhat: float
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
    rhats, expected = [_rhat(t.energy) for t in traces], [_expected_rhat(t) for t in traces]
    worst = int(np.argmax([r / e for r, e in zip(rhats, expected, strict=True)]))
    found = Evidence(
        value=float(value),
        stderr=float(value.stderr),
        uncorrected=float(raw[-1]),
        below=_fraction_below(traces, objective.noisy),
        localization_shift=_extrapolated(shifts),
        step_shift=_step_shift(corrected),
        gradient_shift=_extrapolated([_mean(t.pull / 2) for t in traces]),
        equipartition=_extrapolated([_mean(_equipartition(t, gamma, objective)) for t in traces]),
        held=_extrapolated([_mean(gamma * t.distance2) for t in traces]),
        dimension=objective.w0.numel(),
        lower=sampled.lower,
        localization=gamma,
        rounding=plan.n_beta * abs(objective.loss) * objective.eps,
        rhat=rhats[worst],
        expected_rhat=expected[worst],
        under_sampled=any(m.status == "under-sampled" for m in (*raw, *corrected)),
        acceptance=sampled.acceptance,
    )
    status, note = verdict(found)
    # beyond its first order the correction is none: what is left is the number at this gamma
    value = _extrapolated(raw) if shift_is_large(found) else value
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
        held_directions=found.held,
        depth=found.lower.depth,
        rhat=found.rhat,
        rhat_threshold=min(found.expected_rhat, LARGEST_RHAT),
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


def shift_is_large(found: Evidence) -> bool:
    """Whether the first order of the localization is no correction any more."""
    return abs(float(found.localization_shift)) > LARGE * found.value


def holds_many(found: Evidence) -> bool:
    """Whether the directions that the localization holds could change the value.

    What it adds at first order vanishes again where it holds a direction altogether: with gamma
    far above the curvature h, (1/2) h/(h + gamma) is 0 and stays 0. Each of these counts with
    gamma <(w - w*)_i^2> = 1, and may hide up to 1/2.
    """
    return float(found.held) / 2 > LARGE * found.value


def verdict(found: Evidence) -> tuple[str, str]:
    """Status and its reason, the gravest first; see `LearningCoefficient`."""
    return (
        _not_defined(found)
        or _no_minimum(found)
        or _not_sampled(found)
        or _localized(found)
        or ("ok", _biases(found))
    )


def _large(found: Evidence, shift: Estimate) -> bool:
    size = abs(float(shift))
    return size > LARGE * abs(found.value) and size > SIGNIFICANT * float(shift.stderr)


def _not_defined(found: Evidence) -> tuple[str, str] | None:
    """What makes the number none at all, or an artifact."""
    if not (math.isfinite(found.value) and math.isfinite(found.stderr)):
        return "invalid", "the energy of the chains is not finite"
    if found.rounding > ROUNDING:
        return "invalid", (
            f"n beta L(w*) is rounded to {found.rounding:.2g} nats: compute the loss in float64, "
            "or subtract a constant from it"
        )
    if _large(found, found.step_shift):  # before the sign, which it may have turned
        return "not converged", (
            f"the step of SGLD changes the value by {float(found.step_shift):+.3g}, too much to "
            "extrapolate: lower step=, or raise batch_size="
        )
    return None


def _no_minimum(found: Evidence) -> tuple[str, str] | None:
    gradient, lower = found.gradient_shift, found.lower
    saddle = lower.depth > DEPTH and lower.curvature < -found.localization
    if saddle:
        return "invalid", (
            f"w* is a saddle: descent from the draws ends {lower.depth:.3g} nats lower, and the "
            f"curvature of n beta L at w* is {lower.curvature:.3g} along one direction"
        )
    if found.value < 0 or found.uncorrected < 0:
        return "invalid", "negative: the chains found lower losses, w* is no local minimum"
    if found.stderr == 0:
        return "invalid", "no chain moved, or the loss is constant around w*"
    if float(gradient) < 0 and _large(found, gradient):
        return "not a critical point", (
            f"the gradient at w* takes {-float(gradient):.3g} from the value: w* is no "
            "minimum of this loss on these data; train further, or give the data it was trained on"
        )
    if found.below > RARE:
        return "left the basin", (
            f"{100 * found.below:.0f}% of the draws lie more than {BELOW:g} nat below w*: the "
            "chains found lower losses; train further, or raise localization="
        )
    if lower.depth > max(DEPTH, UNEVEN * found.value):
        return "left the basin", (
            f"descent from the draws ends {lower.depth:.3g} nats below w*: the chains found lower "
            "losses; train further, or raise localization="
        )
    return None


def _not_sampled(found: Evidence) -> tuple[str, str] | None:
    if found.acceptance is not None and found.acceptance < LEAST_ACCEPTANCE:
        return "not converged", f"acceptance {found.acceptance:.1%}: lower step= or raise warmup="
    if not found.rhat <= found.expected_rhat:
        return "not converged", (
            f"split R-hat is {found.rhat:.3f}, and {found.expected_rhat:.3f} at most where chains "
            "of this length agree: raise warmup= and draws="
        )
    gap, bar = abs(float(found.equipartition) - 1), float(found.equipartition.stderr)
    if gap > UNEVEN and gap > SIGNIFICANT * bar:
        return "not converged", (
            f"<(w - w*) . grad U>/d is {float(found.equipartition):.3g} and not 1: the chains do "
            "not fill their density; raise warmup= and draws=, or localization="
        )
    few = None
    if found.under_sampled:
        few = "fewer than 50 autocorrelation times were drawn: raise draws="
    elif found.rhat > LARGEST_RHAT:
        few = f"split R-hat is {found.rhat:.3f}, above {LARGEST_RHAT}: raise draws="
    elif bar > UNEVEN:
        few = (
            f"<(w - w*) . grad U>/d is known to {bar:.2g} only, which shows no equilibrium: raise "
            "draws="
        )
    if few is None:
        return None
    localized = _localized(found)
    return "under-sampled", few if localized is None else f"{few}; {localized[1]}"


def _localized(found: Evidence) -> tuple[str, str] | None:
    reasons = []
    if shift_is_large(found):
        shift = float(found.localization_shift)
        reasons.append(f"the localization changes the value by {shift:+.3g}")
    if holds_many(found):
        held = float(found.held)
        reasons.append(
            f"the localization holds {held:.3g} of {found.dimension} directions, which may add up "
            f"to {held / 2:.3g} as it goes to 0"
        )
    if not reasons:
        return None
    return "localized", (
        f"{'; '.join(reasons)}: a number at this localization; lower localization= and draw longer "
        "to lift it"
    )


def _biases(found: Evidence) -> str:
    """What stays in a value that is ok, where it is more than the error bar shows."""
    shift = float(found.gradient_shift)
    if abs(shift) <= SEEN * found.stderr or shift > 0:
        return ""
    return f"the gradient at w*, no exact minimum, takes {-shift:.3g} from the value"


def _mean(chains: np.ndarray) -> Estimate:
    """Mean of chains (C, T); a constant has the error 0.

    The error is sd sqrt(2 tau_int/N), or what the means of the chains show if that is more.
    """
    mean = float(chains.mean())
    if not math.isfinite(mean):
        return Estimate(math.nan, math.nan, status="not finite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)  # told by the status of the result
        tau = autocorrelation_time(chains)
    if tau.status == "constant":
        return Estimate(mean, 0.0, status="constant")
    stderr = float(chains.std()) * math.sqrt(2 * float(tau) / chains.size)
    if len(chains) > 1:
        stderr = max(stderr, float(chains.mean(1).std(ddof=1)) / math.sqrt(len(chains)))
    return Estimate(mean, stderr, chains.size / (2 * float(tau)), tau.status)


def _rhat(chains: np.ndarray) -> float:
    return split_rhat(chains) if np.isfinite(chains).all() else math.nan


def _expected_rhat(t: Traces) -> float:
    """1.01, with what the halves of stationary chains scatter.

    R-hat^2 - 1 = 4 tau/T for T draws, with the 3 sigma of 2 C halves; tau is that within the
    chains, which chains that disagree do not raise.
    """
    count, draws = t.energy.shape
    within = t.energy - t.energy.mean(1, keepdims=True)
    if not np.isfinite(within).all():
        return 1.01
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        tau = autocorrelation_time(within)
    steps = 0.5 if tau.status == "constant" else float(tau)
    scatter = 1 + 3 * math.sqrt(2 / (2 * count - 1))
    return 1.01 * math.sqrt(1 + 4 * steps / draws * scatter)


def _equipartition(t: Traces, gamma: float, objective: Objective) -> np.ndarray:
    """(w - w*) . grad U/d, whose mean is 1 in equilibrium, whatever the loss.

    It sees what R-hat cannot: a direction that no chain has explored yet.
    """
    return (t.virial + gamma * t.distance2) / objective.w0.numel()


def _fraction_below(traces: list[Traces], noisy: bool) -> float:
    """Fraction of the draws more than a nat below w*.

    Minibatch noise is averaged out over blocks before, and what it leaves is allowed for.
    """
    energies = np.concatenate([t.energy for t in traces])
    if not noisy:
        return float((energies < -BELOW).mean())
    used = energies.shape[1] // SMOOTH * SMOOTH
    blocks = energies[:, :used].reshape(len(energies), -1, SMOOTH)
    left = SIGNIFICANT * blocks.std(2, ddof=1) / math.sqrt(SMOOTH)
    return float((blocks.mean(2) + left < -BELOW).mean())


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
