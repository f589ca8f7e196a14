"""The verdict on one observable: a prediction against the seeds of a simulation.

With n seeds, d = mean over seeds - theory has the error
s = sqrt(variance between seeds / n + (stderr of theory)^2). Theory and simulation disagree if
|d| > t s + c N^-gamma, with t the quantile of Student's t with n - 1 degrees of freedom at the
two-sided probability of 4 standard deviations, and c N^-gamma the finite-size allowance that the
system declares. An array of k elements is judged by its worst one, at Sidak's probability
1 - (1 - p)^(1/k).

They agree only if a disagreement could have been seen: t s + c N^-gamma must not exceed half of
the observable's scale, and there must be at least seven seeds (with six t is 12, with three 126).
Else it cannot be told.

The probability is that of Gaussian seeds. With 24 of them a lognormal law (of sigma = 1) is
rejected in one of a hundred cases rather than in one of sixteen thousand; strong skewness is noted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from thermolearn.core.estimate import Estimate

SIGMAS = 4.0
# Relative size below which a difference, or a spread between seeds, is rounding
ROUNDING = 64 * float(np.finfo(float).eps)
# With fewer, t exceeds 10 and the error bar itself is hardly known.
LEAST_SEEDS = 7
# Share of an observable's scale above which differences that go unseen leave the verdict open
POWER = 0.5
# Skewness between seeds above which the probability of the threshold is no longer that stated
SKEWED = 2.0
AGREES, DISAGREES, CANNOT_TELL = "agrees", "DISAGREES", "cannot tell"


@dataclass(frozen=True)
class Row:
    """One observable of a comparison; of an array the element that fits worst.

    Attributes
    ----------
    observable, axis : str
        Its name, and the name of its array axis (empty for a scalar).
    element : tuple of int
        The element of the array, () for a scalar.
    elements : int
        How many there are.
    theory, theory_stderr : float
        The prediction and its numerical error.
    simulation, stderr : float
        Mean over seeds, and its standard error from the spread between them.
    z : float
        (simulation - theory) in units of both errors.
    allowance : float
        c N^-gamma.
    threshold : float
        Quantile t that |z| may reach without allowance.
    detectable : float
        t s + allowance: the smallest difference that would have been called a disagreement, in
        whichever element of an array (the largest of them). If the theory were wrong by just this,
        half of all repetitions would show it.
    verdict : str
        ``"agrees"``, ``"DISAGREES"`` or ``"cannot tell"``.
    note : str
        Why it cannot be told, or what the verdict stands on.
    point : float
        Where on its axis the element is, as ABOUT["points"] says; NaN where it does not.
    """

    observable: str
    axis: str
    element: tuple[int, ...]
    elements: int
    theory: float
    theory_stderr: float
    simulation: float
    stderr: float
    z: float
    allowance: float
    threshold: float
    detectable: float
    verdict: str
    note: str = ""
    point: float = math.nan

    @property
    def by_allowance(self) -> bool:
        """Whether it agrees only thanks to the finite-size allowance."""
        return self.verdict == AGREES and abs(self.z) > self.threshold

    @property
    def label(self) -> str:
        """overlap, or density[eigenvalue 3]; the number is the index unless there is a `point`."""
        if not self.element:
            return self.observable
        known = not math.isnan(self.point)
        place = f"{self.point:g}" if known else ",".join(map(str, self.element))
        return f"{self.observable}[{self.axis + ' ' if self.axis else ''}{place}]"


@cache
def threshold(n: int, elements: int = 1) -> float:
    """The |z| that n seeds exceed by chance in one of so many elements as rarely as a Gaussian
    exceeds 4 standard deviations (6.3e-5); infinite for one seed."""
    from scipy import stats

    if n < 2:
        return math.inf
    p = 2 * stats.norm.sf(SIGMAS)
    p_each = -math.expm1(math.log1p(-p) / max(elements, 1))
    return float(stats.t.isf(p_each / 2, n - 1))


@np.errstate(divide="ignore", invalid="ignore")
def judge_observable(
    name: str,
    predicted: Estimate,
    samples: Sequence[Estimate],
    allowance: float = 0.0,
    axis: str | None = None,
    scale: float = 0.0,
    exact: bool = False,
    points: Sequence[float] = (),
) -> Row:
    """Hold samples of the shape of a prediction, one per seed, against it.

    Parameters
    ----------
    name : str
    predicted : Estimate
    samples : sequence of Estimate
        At least one; with fewer than seven a verdict can only be a disagreement.
    allowance : float
        Difference that is no disagreement, finite and >= 0.
    axis : str, optional
        Name of the array axis.
    scale : float
        What a difference is to be measured by where theory and simulation are both near 0; by
        default the larger of them, over all elements.
    exact : bool
        The simulation has no noise. A number that is the same in all seeds, and differs from
        theory, is then a disagreement; otherwise its error is not known.
    points : sequence of float
        Where on the axis the elements of an array of one axis are.

    Raises
    ------
    ValueError
        No samples, an array without elements, shapes that differ, a bad allowance, or another
        number of points than elements.
    """
    values = _values(name, predicted, samples)
    if not (math.isfinite(allowance) and allowance >= 0):
        raise ValueError(f"the allowance of {name} must be finite and >= 0, got {allowance!r}")
    n, size = len(values), values[0].size
    if len(points) and values[0].shape != (len(points),):
        raise ValueError(f"{name} of shape {values[0].shape} has {len(points)} points in ABOUT")
    t = threshold(n, size)
    x = _differences(values, predicted, samples, allowance, exact)
    both = np.hypot(x.stderr, x.theory_stderr)
    detectable = float(np.max(t * both)) + allowance if n > 1 else math.inf
    wrong, silent = (x.excess > t) & ~x.unknown, x.unknown & (x.excess > 0)
    if silent.any():
        detectable = math.inf
    element = _worst(x, wrong, silent)
    note = _reservation(predicted, samples, bool(x.finite.all()))
    if note:
        verdict = CANNOT_TELL
    elif wrong.any():
        verdict = DISAGREES
    else:
        reach = max(float(np.abs(x.theory).max()), float(np.abs(x.mean).max()), scale)
        parts = float(np.max(t * x.stderr)), float(np.max(t * x.theory_stderr)), allowance
        note = "" if exact and x.fixed.all() else _few_seeds(n)
        note = note or _no_spread(silent) or _no_power(n, detectable, reach, parts)
        verdict = CANNOT_TELL if note else AGREES
    if verdict != CANNOT_TELL:
        note = _warning(values[(slice(None), *element)], bool(x.fixed[element]))
    return Row(
        name,
        axis or "",
        element,
        size,
        *(float(y[element]) for y in (x.theory, x.theory_stderr, x.mean, x.stderr, x.z)),
        allowance=float(allowance),
        threshold=t,
        detectable=detectable,
        verdict=verdict,
        note=note,
        point=float(points[element[0]]) if len(points) else math.nan,
    )


# -- numbers -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Differences:
    """Arrays of the shape of the observable.

    fixed: the same number in all seeds. unknown: that, without an error bar of its own, so that
    it may be a rare event as well as a constant. excess: |d| beyond the allowance, in errors.
    """

    theory: np.ndarray
    theory_stderr: np.ndarray
    mean: np.ndarray
    stderr: np.ndarray
    z: np.ndarray
    excess: np.ndarray
    fixed: np.ndarray
    unknown: np.ndarray
    finite: np.ndarray


def _values(name: str, predicted: Estimate, samples: Sequence[Estimate]) -> np.ndarray:
    """Values of the seeds (n, *shape), checked."""
    shape = np.shape(predicted.value)
    if not samples:
        raise ValueError(f"{name} has no samples")
    if any(np.shape(sample.value) != shape for sample in samples):
        shapes = sorted({str(np.shape(sample.value)) for sample in samples})
        raise ValueError(f"{name} has shape {shape} in theory and {', '.join(shapes)} in simulate")
    if 0 in shape:
        raise ValueError(f"{name} is an array without elements (shape {shape})")
    return np.stack([np.asarray(sample.value) for sample in samples])


def _differences(
    values: np.ndarray,
    predicted: Estimate,
    samples: Sequence[Estimate],
    allowance: float,
    exact: bool,
) -> _Differences:
    theory, n = np.asarray(predicted.value), len(values)
    theory_stderr = np.broadcast_to(np.asarray(predicted.stderr), theory.shape)
    mean = values.mean(0)
    rounding = ROUNDING * np.maximum(np.abs(mean), np.abs(theory))
    spread = values.std(0, ddof=1) if n > 1 else np.zeros(theory.shape)
    fixed = np.asarray(spread <= rounding)
    stderr = np.where(fixed, _own_error(samples, theory.shape), spread / math.sqrt(n))
    both, d = np.hypot(stderr, theory_stderr), mean - theory
    excess = np.maximum(np.abs(d) - allowance - rounding, 0.0)
    far = np.where(np.abs(d) <= rounding, 0.0, np.copysign(np.inf, d))
    return _Differences(
        theory,
        theory_stderr,
        mean,
        stderr,
        z=np.where(both > 0, d / both, np.where(np.isnan(both), np.nan, far)),
        excess=np.where(both > 0, excess / both, np.where(excess > 0, np.inf, 0.0)),
        fixed=fixed,
        unknown=fixed & ~(stderr > 0) & (not exact),
        finite=np.isfinite(values).all(0) & np.isfinite(theory) & np.isfinite(theory_stderr),
    )


def _worst(x: _Differences, wrong: np.ndarray, silent: np.ndarray) -> tuple[int, ...]:
    """The element that decides: one that is not finite, else the one that fits worst."""
    asked = [mask for mask in (~x.finite, wrong, silent) if mask.any()]
    rank = np.where(np.isnan(x.excess), np.inf, x.excess)
    rank = np.where(asked[0], rank, -1.0) if asked else rank
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(rank)), rank.shape))


def _own_error(samples: Sequence[Estimate], shape: tuple[int, ...]) -> np.ndarray:
    """Standard error of the mean from the error bars of the seeds; 0 where they have none."""
    own = np.stack([np.broadcast_to(np.asarray(s.stderr), shape) for s in samples])
    return np.sqrt(np.mean(np.where(np.isfinite(own), own, 0.0) ** 2, 0) / len(samples))


# -- what cannot be told, and why ----------------------------------------------------------------
def _reservation(predicted: Estimate, samples: Sequence[Estimate], finite: bool) -> str:
    """Why not even a disagreement can be told; empty if it can."""
    if predicted.status != "ok":
        return f"theory: {predicted.status}" + (f" ({predicted.note})" if predicted.note else "")
    bad = [(seed, s) for seed, s in enumerate(samples) if s.status != "ok"]
    if bad:
        seed, first = bad[0]
        return f"simulation: {first.status} in {len(bad)} seeds, first in seed {seed}"
    if not finite:
        return "a number is not finite"
    return "one seed has no error bar; run at least seven" if len(samples) < 2 else ""


def _few_seeds(n: int) -> str:
    if n >= LEAST_SEEDS:
        return ""
    return f"{n} seeds need {threshold(n):.3g} standard errors; run at least {LEAST_SEEDS}"


def _no_spread(silent: np.ndarray) -> str:
    if not silent.any():
        return ""
    return (
        "no spread between seeds, so the error of the difference is not known; run more seeds or "
        'larger systems, or name it in ABOUT["exact"] if the simulation has no noise'
    )


def _no_power(n: int, detectable: float, scale: float, parts: tuple[float, float, float]) -> str:
    """Differences of half the scale would go unseen; parts: of seeds, of theory, allowance."""
    if not detectable > POWER * scale:
        return ""
    reason = f"differences below {detectable:.2g} go unseen, at a scale of {scale:.2g}"
    worst = max(parts)
    if worst == parts[2]:
        return f"{reason}: the allowance is too large; take larger systems"
    if worst == parts[1]:
        return f"{reason}: the error of the theory is too large"
    if not scale > 0:
        return f'{reason}; give one in ABOUT["scale"]'
    needed = n * (detectable / (POWER * scale)) ** 2
    return f"{reason}; about {max(needed, n + 1):.2g} seeds are needed, or a scale in ABOUT"


def _warning(values: np.ndarray, fixed: bool) -> str:
    """What a verdict stands on: one number in all seeds, or a law far from a Gaussian."""
    if fixed:
        return "no spread between seeds"
    d = values - values.mean()
    skewness = float((d**3).mean() / (d**2).mean() ** 1.5)
    if abs(skewness) <= SKEWED:
        return ""
    return (
        f"skewed between seeds (skewness {skewness:+.1f}): chance passes the threshold more often "
        "than it does with Gaussian seeds; run more"
    )
