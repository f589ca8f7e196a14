"""Theory against experiment: all observables of a system, over seeds.

How the verdict on one observable comes about is in `observable`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from thermolearn import __version__
from thermolearn.core.estimate import Estimate, format_with_error
from thermolearn.study.contract import Entry, load, make_params, short_name
from thermolearn.study.observable import AGREES, CANNOT_TELL, DISAGREES, Row, judge_observable
from thermolearn.study.seeds import Failure, run_seeds


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
        allowed = [row.observable for row in self.rows if row.by_allowance]
        if allowed:
            lines.append(
                f"{', '.join(allowed)}: within the allowance for finite size; |z| alone is too "
                "large"
            )
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
        if not self.rows:
            return "There is nothing to compare: no observable."
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
        Student's t is large: 4.9 for 24 seeds, 33 for 4. With fewer than 7 nothing agrees.
    jobs : int
        Worker processes, each with one thread; -1 for one per processor. The numbers do not
        depend on it.

    Returns
    -------
    Comparison
        Where a seed fails, or a number is not finite or carries a status other than ``"ok"``, its
        verdict is ``"cannot tell"``, never ``"agrees"``; likewise where a difference of half the
        observable would have gone unseen.

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
    _check_estimates(predicted, f"theory of {module.__name__}")
    for sample in samples:
        _check_estimates(sample, f"simulate of {module.__name__}")
        if sample.keys() != predicted.keys():
            odd = sorted(set(sample) ^ set(predicted))
            raise ValueError(
                f"theory and simulate of {module.__name__} must return the same observables; only "
                f"one of them has {', '.join(odd)}"
            )
    for key in ("allowance", "points"):
        unknown = sorted(set(about.get(key, ())) - set(predicted))
        if predicted and unknown:
            raise ValueError(f"{key} of {module.__name__} names no observable: {unknown}")
    rows = []
    for name, prediction in predicted.items():
        c, gamma = about["allowance"].get(name, (0.0, 0.0))
        row = judge_observable(
            name,
            prediction,
            [s[name] for s in samples],
            c * size**-gamma,
            about["axes"].get(name),
            about.get("scale", {}).get(name, 0.0),
            name in about.get("exact", ()),
            about.get("points", {}).get(name, ()),
        )
        if failures:  # the seeds that are left are a selection
            note = f"{len(failures)} of {len(samples) + len(failures)} seeds failed"
            row = dataclasses.replace(row, verdict=CANNOT_TELL, note=note)
        rows.append(row)
    values = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    n = len(samples) + len(failures)
    return Comparison(short_name(module), about["title"], values, n, tuple(rows), tuple(failures))


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
    numbers = [f.name for f in dataclasses.fields(Row) if f.type == "float" and f.name in row]
    plain = {name: math.nan if row[name] is None else row[name] for name in numbers}
    return Row(**{**row, **plain, "element": tuple(row["element"])})


def _check_estimates(observables: Any, who: str) -> None:
    """TypeError unless a dict of Estimates."""
    if not isinstance(observables, Mapping):
        raise TypeError(f"{who} must return a dict, not {type(observables).__name__}")
    for name, value in observables.items():
        if not isinstance(value, Estimate):
            raise TypeError(
                f"{who} must return Estimates: {name!r} is {type(value).__name__}; wrap it, "
                "Estimate(value, stderr)"
            )
