"""One effective temperature: SGD of a logistic model on digits against mean-field theory.

Fixed before any comparison was made: scikit-learn's digits, all n = 1797, even against odd, the
d = 61 pixels that vary, centered, in one unit such that the mean |x|^2 is d; h = x.w/sqrt(d), no
bias; logistic loss summed over the samples, weight decay 4; the twelve points below; theory: two
clusters with the labels' means and pooled covariance (`MatchedMixture`, finite="means"), nothing
fitted. A point is hit if the virial temperature AND the global ratio of fluctuation and response
of the theory are within 10% of those measured on digits.

Beside the announced prediction: its limit d -> infinity (finite="none"), the terms of relative
order 1/d that it lacks (finite="moments", written after the announced one was found some 10%
above Gaussian data), and the simulation of Gaussian data sets of the same n, d, means and
covariance, which tells an error of the theory from one of the model of the data: digits are no
Gaussian mixture.

    OMP_NUM_THREADS=1 python benchmarks/digits_temperature.py [--quick]

Takes some fifteen minutes on one core; --quick measures with larger errors in two or three and
writes nothing. Every finished point is written at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from typing import Any

import numpy as np
from common import RESULTS, save
from sklearn.datasets import load_digits

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.measure.noise import Dynamics, EffectiveTemperature, effective_temperature
from thermolearn.systems.training.sgd_noise.matched import MatchedMixture
from thermolearn.systems.training.sgd_noise.matched_simulation import (
    gaussian_data,
    training_dynamics,
)
from thermolearn.systems.training.sgd_noise.schedules import SGD, PersistentSGD, Schedule

DECAY = 4.0
LAGS = {0.0125: 100, 0.02: 60, 0.03: 40}  # 5/(eta lambda)
POINTS = [(rate, b, kept) for rate in LAGS for b in (0.1, 0.5) for kept in (0, 4)]
NAMES = ("virial", "t_glob", "t_slope")
Row = dict[str, Any]


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples (1797, 61), labels +1 (even) and -1 (odd), and the digits."""
    pixels, target = map(np.asarray, load_digits(return_X_y=True))
    x = pixels[:, pixels.std(0) > 0]
    x = x - x.mean(0)
    x = x * np.sqrt(x.shape[1] / (x**2).sum(1).mean())
    return x, np.where(target % 2 == 0, 1.0, -1.0), target


def schedule_of(rate: float, b: float, kept: int) -> Schedule:
    """Fresh batches, or batches that keep a sample's place for `kept` steps on average."""
    return PersistentSGD(rate, b, kept * rate / b) if kept else SGD(rate, b)


def virial_sides(dynamics: Dynamics, burn_in: int, steps: int, seed: int) -> dict[str, Estimate]:
    """<w.g>/d and eta <|g|^2>/(2d) over the steps, errors between replicas."""
    import torch

    generator, state = torch.Generator().manual_seed(seed), dynamics.start
    sides = torch.zeros(2, len(state), dtype=torch.float64)
    for t in track(range(burn_in + steps), "virial"):
        here = dynamics.position(state)
        state = dynamics.step(state, dynamics.draw(generator), 0.0)
        g = (here - dynamics.position(state)) / dynamics.rate
        if t >= burn_in:
            sides += torch.stack([(here * g).mean(1), dynamics.rate / 2 * (g * g).mean(1)]) / steps
    return {"theta_dot_gradient": mean_estimate(sides[0].numpy()),
            "virial": mean_estimate(sides[1].numpy())}  # fmt: skip


def measured(dynamics: Dynamics, lag: int, origins: int, seed: int) -> dict[str, Estimate]:
    """The temperatures of a run by the library's own instruments."""
    found = effective_temperature(dynamics, lag=lag, origins=origins, burn_in=lag + 20, seed=seed)
    steps = origins * lag * (2 if lag == 100 else 1)
    return read(found) | virial_sides(dynamics, lag + 20, steps, seed + 1)


def read(found: EffectiveTemperature) -> dict[str, Estimate]:
    return {k: getattr(found, k) for k in ("t_fast", "t_slope", "t_glob", "plateau")}


def predicted(
    mixture: MatchedMixture, schedule: Schedule, lag: int, finite: str, quick: bool
) -> dict[str, Estimate]:
    """The same numbers from the mean-field theory; t_fast is the virial temperature."""
    steps = 2 * lag + 50
    n_mc, runs = (600, 3) if quick else (1500, 4) if lag < 100 else (1200, 6)
    result = mixture.dmft(schedule, DECAY, steps, n_mc, runs=runs, finite=finite)
    found = result.effective_temperature((lag + 20, steps), lag=lag)
    assert isinstance(found, EffectiveTemperature)
    return read(found) | {"virial": found.t_fast}


def point(at: tuple[float, float, int], sets: tuple[np.ndarray, np.ndarray], quick: bool) -> Row:
    """All columns of one point."""
    x, y, _ = digits()
    schedule, lag = schedule_of(*at), LAGS[at[0]]
    mixture = MatchedMixture.fit(x, y)
    out: dict[str, dict[str, Estimate]] = {
        name: predicted(mixture, schedule, lag, finite, quick)
        for name, finite in (("announced", "means"), ("limit", "none"), ("moments", "moments"))
    }
    keys: Any = {"loss": "logistic", "schedule": schedule, "weight_decay": DECAY, "seed": 1}
    gaussian = training_dynamics(*sets, **keys)
    out["gaussian"] = measured(gaussian, lag, 4 if quick else 12 if lag == 100 else 8, 2)
    real = training_dynamics(x, y, replicas=16, **keys)
    out["digits"] = measured(real, lag, 8 if quick else 40 if lag == 100 else 24, 3)
    row: Row = {"rate": at[0], "batch_fraction": at[1], "kept": at[2]}
    for column, values in out.items():
        row[column] = {k: [e.item(), float(e.stderr)] for k, e in values.items()}
    return row


def hits(rows: list[Row], column: str, against: str, names: tuple[str, ...]) -> int:
    """Points at which all `names` of the column are within 10% of those it is held against."""

    def near(row: Row, name: str) -> bool:
        return abs(row[column][name][0] / row[against][name][0] - 1) < 0.1

    return sum(all(near(row, name) for name in names) for row in rows)


def table(rows: list[Row], name: str) -> str:
    """Markdown, one line per point: the columns for one temperature."""
    columns = ("announced", "limit", "moments", "gaussian", "digits")
    lines = [
        "| lr | b | kept | " + " | ".join(columns) + " | announced/digits | moments/gaussian |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for row in rows:
        cells = [str(Estimate(*row[c][name])) for c in columns]
        value = {c: row[c][name][0] for c in columns}
        ratios = (
            f"{value[a] / value[b]:.2f}"
            for a, b in (("announced", "digits"), ("moments", "gaussian"))
        )
        head = f"| {row['rate']:g} | {row['batch_fraction']:g} | {row['kept']} | "
        lines.append(head + " | ".join([*cells, *ratios]) + " |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> Row:
    """Counts within 10%: of digits, and of the Gaussian data."""
    out: Row = {"points": len(rows)}
    for column in ("announced", "limit", "moments", "gaussian"):
        for against in ("digits", "gaussian"):
            if column != against:
                found = {"both": hits(rows, column, against, NAMES[:2])}
                found |= {name: hits(rows, column, against, (name,)) for name in NAMES}
                out[f"{column} against {against}"] = found
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--resume", action="store_true", help="keep the points already written")
    arguments = parser.parse_args()
    quick = arguments.quick
    x, y, _ = digits()
    sets = gaussian_data(MatchedMixture.fit(x, y), 8 if quick else 24, seed=5)
    rows: list[Row] = []
    if arguments.resume:
        rows = json.loads((RESULTS / "digits_temperature.json").read_text())["rows"]
    for at in track(POINTS[len(rows) :], "digits"):
        rows.append(point(at, sets, quick))
        print(*(table(rows[-1:], name) for name in NAMES), sep="\n", flush=True)
        if not quick:
            with contextlib.redirect_stdout(io.StringIO()):  # the table is printed below
                save("digits_temperature", {"summary": summary(rows), "rows": rows})
    for name in NAMES:
        print(f"\n{name}\n{table(rows, name)}")
    print(summary(rows))


if __name__ == "__main__":
    main()
