"""Theory against experiment: the differences in standard errors between seeds.

For an observable with n seeds, d = mean over seeds - theory has the error
s = sqrt(variance between seeds / n + (stderr of theory)^2). Theory and simulation disagree if
|d| > t s + c N^-gamma, with t the quantile of Student's t with n - 1 degrees of freedom at the
two-sided probability of 4 standard deviations, and c N^-gamma the finite-size allowance that the
system declares. An array of k elements is judged by its worst one, at Sidak's probability
1 - (1 - p)^(1/k).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from thermolearn import __version__
from thermolearn.core.estimate import Estimate, format_with_error
from thermolearn.study.contract import Entry, load, make_params, short_name
from thermolearn.study.seeds import Failure, run_seeds

SIGMAS = 4.0
# Relative size below which a difference is rounding
ROUNDING = 64 * float(np.finfo(float).eps)
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
        t s + allowance: the smallest difference that would have been called a disagreement. If the
        theory were wrong by just this, half of all repetitions would show it.
    verdict : str
        ``"agrees"``, ``"DISAGREES"`` or ``"cannot tell"``.
    note : str
        Why it cannot be told, or what the verdict stands on.
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

    @property
    def label(self) -> str:
        """overlap, or density[eigenvalue 3]."""
        if not self.element:
            return self.observable
        place = ",".join(map(str, self.element))
        return f"{self.observable}[{self.axis + ' ' if self.axis else ''}{place}]"


@dataclass(frozen=True)
class Comparison:
    """Theory and simulation of one system at one set of parameters; see `compare`.

    ``str()`` of it is the table.

    Attributes
    ----------
    system, title : str
    params : dict
        Name -> value.
    seeds : int
        Seeds 0..seeds-1 were run.
    rows : tuple of Row
    failures : tuple of Failure
        The seeds in which the simulation raised an error, with its text.
    version : str
        Of the library.
    """

    system: str
    title: str
    params: dict[str, Any]
    seeds: int
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    version: str = __version__

    @property
    def agrees(self) -> bool:
        """True if every observable agrees; what cannot be told does not."""
        return bool(self.rows) and all(row.verdict == AGREES for row in self.rows)

    @property
    def disagrees(self) -> bool:
        """True if any observable disagrees."""
        return any(row.verdict == DISAGREES for row in self.rows)

    def __getitem__(self, observable: str) -> Row:
        for row in self.rows:
            if row.observable == observable:
                return row
        raise KeyError(
            f"no observable {observable!r}; there are {[r.observable for r in self.rows]}"
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """One plain dict per observable, ready for a table."""
        return [dataclasses.asdict(row) for row in self.rows]

    def save(self, path: str | Path) -> Path:
        """Write as JSON; non-finite numbers are null. Returns the path."""
        path = Path(path)
        content = _without_nan(dataclasses.asdict(self))
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Inverse of `save`.

        Raises
        ------
        ValueError
            The file does not hold a comparison.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = tuple(_row_from_json(row) for row in content.pop("rows"))
            failures = tuple(Failure(**failure) for failure in content.pop("failures"))
            return cls(rows=rows, failures=failures, **content)
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not hold a comparison: {error}") from error

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.params.items())
        lines = [f"{self.system}: {self.title}", f"{self.seeds} seeds; {settings}", ""]
        lines += _table(self.rows)
        lines.append("")
        for row in self.rows:
            if row.note:
                lines.append(f"{row.observable}: {row.note}")
        for failure in self.failures[:5]:
            lines.append(f"seed {failure.seed} failed: {failure.error}")
        if len(self.failures) > 5:
            lines.append(f"... and {len(self.failures) - 5} seeds more")
        lines.append(self.verdict)
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """The comparison in one sentence."""
        names = [row.observable for row in self.rows if row.verdict == DISAGREES]
        unknown = [row.observable for row in self.rows if row.verdict == CANNOT_TELL]
        if names:
            return f"Theory and simulation disagree in {', '.join(names)}."
        if unknown:
            return f"It cannot be told whether theory and simulation agree in {', '.join(unknown)}."
        return "Theory and simulation agree."


def compare(
    system: str | Entry | ModuleType,
    params: Any = None,
    seeds: int | None = None,
    jobs: int = 1,
) -> Comparison:
    """Hold the theory of a system against its simulation.

    Parameters
    ----------
    system : str, Entry or module
        ``"memory.hopfield"``, ``"hopfield"``, or a module of your own that keeps the contract.
    params : Params or mapping, optional
        Parameters, or those that differ from the defaults.
    seeds : int, optional
        Seeds 0..seeds-1, at least 2; the default of the system. With few, the quantile of
        Student's t is large: 4.9 for 24 seeds, 33 for 4.
    jobs : int
        Worker processes, each with one thread; -1 for one per processor. The numbers do not
        depend on it.

    Returns
    -------
    Comparison
        Where a seed fails, or a number is not finite or carries a status other than ``"ok"``, its
        verdict is ``"cannot tell"``, never ``"agrees"``.

    Raises
    ------
    ValueError
        Unknown system or parameter, a value out of range, fewer than 2 seeds, theory and
        simulation with different observables.
    TypeError
        The system breaks the contract.
    RuntimeError
        The simulation failed in every seed.
    ConvergenceError
        The theory has no solution at these parameters.
    """
    module = load(system)
    given = params if isinstance(params, module.Params) else make_params(module, params)
    n = module.ABOUT["seeds"] if seeds is None else seeds
    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise ValueError(f"seeds must be an integer of at least 2 to have an error bar, got {n!r}")
    predicted = module.theory(given)
    samples, failures = run_seeds(module.__name__, given, n, jobs)
    return judge(module, given, predicted, samples, failures)


def judge(
    module: ModuleType,
    params: Any,
    predicted: Mapping[str, Estimate],
    samples: Sequence[Mapping[str, Estimate]],
    failures: Sequence[Failure] = (),
) -> Comparison:
    """The comparison of a prediction with simulations that were made before.

    Parameters
    ----------
    module : module
        The system, for its names and allowance.
    params : Params
        Of the simulations: the size in it sets the allowance.
    predicted : dict of Estimate
        What theory says.
    samples : sequence of dict of Estimate
        One per seed.
    failures : sequence of Failure
        Seeds without a sample.
    """
    about = module.ABOUT
    size = float(getattr(params, about["size"]))
    for sample in samples:
        if sample.keys() != predicted.keys():
            odd = sorted(set(sample) ^ set(predicted))
            raise ValueError(
                f"theory and simulate of {module.__name__} must return the same observables; only "
                f"one of them has {', '.join(odd)}"
            )
    rows = []
    for name, prediction in predicted.items():
        c, gamma = about["allowance"].get(name, (0.0, 0.0))
        row = judge_observable(
            name, prediction, [s[name] for s in samples], c * size**-gamma, about["axes"].get(name)
        )
        if failures:  # the seeds that are left are a selection
            note = f"{len(failures)} of {len(samples) + len(failures)} seeds failed"
            row = dataclasses.replace(row, verdict=CANNOT_TELL, note=note)
        rows.append(row)
    values = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    n = len(samples) + len(failures)
    return Comparison(short_name(module), about["title"], values, n, tuple(rows), tuple(failures))


@np.errstate(divide="ignore", invalid="ignore")
def judge_observable(
    name: str,
    predicted: Estimate,
    samples: Sequence[Estimate],
    allowance: float = 0.0,
    axis: str | None = None,
) -> Row:
    """One observable of `judge`: at least two samples of the shape of the prediction."""
    theory = np.asarray(predicted.value)
    theory_stderr = np.broadcast_to(np.asarray(predicted.stderr), theory.shape)
    if any(np.shape(sample.value) != theory.shape for sample in samples):
        shapes = sorted({str(np.shape(sample.value)) for sample in samples})
        raise ValueError(
            f"{name} has shape {theory.shape} in theory and {', '.join(shapes)} in simulate"
        )
    values = np.stack([np.asarray(sample.value) for sample in samples])
    n = len(values)
    mean, spread = values.mean(0), values.std(0, ddof=1) / math.sqrt(n)
    stderr = np.where(spread > 0, spread, _own_error(samples, theory.shape))
    both = np.hypot(stderr, theory_stderr)
    d = mean - theory
    rounding = ROUNDING * np.maximum(np.abs(mean), np.abs(theory))
    excess = np.maximum(np.abs(d) - allowance - rounding, 0.0)
    exact = np.where(np.abs(d) <= rounding, 0.0, np.copysign(np.inf, d))
    z = np.where(both > 0, d / both, exact)
    worst = np.where(both > 0, excess / both, np.where(excess > 0, np.inf, 0.0))
    t = threshold(n, theory.size)
    finite = np.isfinite(values).all(0) & np.isfinite(theory) & np.isfinite(theory_stderr)
    place = np.unravel_index(int(np.argmax(np.where(finite, worst, np.inf))), theory.shape)
    element = tuple(int(i) for i in place)
    note = _reservation(predicted, samples, bool(finite.all()))
    if note:
        verdict = CANNOT_TELL
    else:
        verdict = AGREES if worst[element] <= t else DISAGREES
        if n > 1 and not spread[element] > 0:
            note = "no spread between seeds"
    return Row(
        name,
        axis or "",
        element,
        theory.size,
        *(float(x[element]) for x in (theory, theory_stderr, mean, stderr, z)),
        allowance=float(allowance),
        threshold=t,
        detectable=float(t * both[element] + allowance),
        verdict=verdict,
        note=note,
    )


@cache
def threshold(n: int, elements: int = 1) -> float:
    """The |z| that n seeds exceed by chance in one of so many elements as rarely as a Gaussian
    exceeds 4 standard deviations (6.3e-5)."""
    from scipy import stats

    p = 2 * stats.norm.sf(SIGMAS)
    p_each = -math.expm1(math.log1p(-p) / max(elements, 1))
    return float(stats.t.isf(p_each / 2, n - 1))


def _own_error(samples: Sequence[Estimate], shape: tuple[int, ...]) -> np.ndarray:
    """Standard error of the mean from the error bars of the seeds; 0 where they have none."""
    own = np.stack([np.broadcast_to(np.asarray(s.stderr), shape) for s in samples])
    return np.sqrt(np.mean(np.where(np.isfinite(own), own, 0.0) ** 2, 0) / len(samples))


def _reservation(predicted: Estimate, samples: Sequence[Estimate], finite: bool) -> str:
    """Why nothing can be told; empty if it can."""
    if predicted.status != "ok":
        return f"theory: {predicted.status}" + (f" ({predicted.note})" if predicted.note else "")
    bad = [(seed, s) for seed, s in enumerate(samples) if s.status != "ok"]
    if bad:
        seed, first = bad[0]
        return f"simulation: {first.status} in {len(bad)} seeds, first in seed {seed}"
    return "" if finite else "a number is not finite"


# -- text and storage ----------------------------------------------------------------------------
def _table(rows: Sequence[Row]) -> list[str]:
    head = ("observable", "theory", "simulation", "z", "allowance", "detectable", "verdict")
    cells: list[tuple[str, ...]] = [head]
    for row in rows:
        cells.append(
            (
                row.label,
                format_with_error(row.theory, row.theory_stderr),
                format_with_error(row.simulation, row.stderr),
                f"{row.z:+.2f} ({row.threshold:.1f})",
                f"{row.allowance:.2g}",
                f"{row.detectable:.2g}",
                row.verdict,
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return [line.rstrip() for line in (lines[0], "-" * len(lines[0].rstrip()), *lines[1:])]


def _without_nan(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_without_nan(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _row_from_json(row: dict[str, Any]) -> Row:
    numbers = [f.name for f in dataclasses.fields(Row) if f.type == "float"]
    plain = {name: math.nan if row[name] is None else row[name] for name in numbers}
    return Row(**{**row, **plain, "element": tuple(row["element"])})
