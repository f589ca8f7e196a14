"""The command `predict`: the learning curve of a network's kernel on one's own data."""

from __future__ import annotations

import json as json_module
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thermolearn.cli_common import Data, Target, Task, check_outputs, one_line_errors, print_rules

if TYPE_CHECKING:
    from thermolearn.core.estimate import Estimate
    from thermolearn.data import Dataset
    from thermolearn.forecast import Forecast
    from thermolearn.predict.pool import PoolCurve

Option = typer.Option


def predict(
    data: Data,
    target: Target = None,
    task: Task = None,
    model: Annotated[
        str, Option(help="mlp:64,64 or cnn:16,32 or package.module:callable.")
    ] = "mlp:256,256",
    n: Annotated[
        str | None,
        Option("--n", help="Training sizes, as 100,1000,10000; default: up to the whole data."),
    ] = None,
    target_error: Annotated[
        float | None,
        Option(
            help="How many rows does this error need? In classification the error rate, else "
            "the squared error over the variance of the target."
        ),
    ] = None,
    kernel: Annotated[
        str, Option(help="ntk (gradient descent) or nngp (Bayesian inference).")
    ] = "ntk",
    ridge: Annotated[
        float, Option(help="In units of the mean k(x, x); 0 trains to the end.")
    ] = 1e-3,
    activation: Annotated[str, Option(help="Of mlp and cnn: tanh, relu, gelu, ...")] = "relu",
    sigma_w2: Annotated[
        float,
        Option(
            help="Variance of the initial weights times fan_in, of mlp and cnn; 1/3 is torch's."
        ),
    ] = 1 / 3,
    standardize: Annotated[
        bool, Option(help="--no-standardize takes the numbers as they are.")
    ] = True,
    validate: Annotated[
        bool,
        Option("--validate", help="Measure the kernel machine and the trained network beside it."),
    ] = False,
    draws: Annotated[int, Option(help="Trainings of the network per size, for --validate.")] = 5,
    unlabelled: Annotated[
        Path | None, Option(help="A file of new inputs: the error to expect on them.")
    ] = None,
    confidence: Annotated[float, Option(help="Of the band of the curve.")] = 0.9,
    seed: Annotated[int, Option(help="Of the subsets and the networks of --validate.")] = 0,
    threads: Annotated[int, Option(min=1, help="CPU threads.")] = 1,
    plot: Annotated[Path, Option(help="The figure to write: .svg, .pdf or .png.")] = Path(
        "learning_curve.svg"
    ),
    json: Annotated[Path | None, Option(help="Write the numbers.")] = None,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """How the error will fall with the number of rows, before training; from a network's kernel."""
    with one_line_errors(debug):
        outputs = {"--plot": plot} | ({"--json": json} if json is not None else {})
        check_outputs(outputs, [Path(data), unlabelled])
        if plot.suffix.lower() not in (".pdf", ".svg", ".png"):
            raise ValueError(f"--plot {plot} must end in .pdf, .svg or .png")
        sizes = None if n is None else _sizes(n)
        if target_error is not None and not 0 < target_error < math.inf:
            raise ValueError(f"--target-error must be positive, got {target_error:g}")
        import torch

        from thermolearn.data import load_pool, load_unlabelled
        from thermolearn.forecast import forecast

        torch.set_num_threads(threads)
        dataset = load_pool(data, target, task, standardize)
        _print_dataset(dataset)
        new = None if unlabelled is None else load_unlabelled(unlabelled, dataset)
        found = forecast(
            dataset,
            model,
            sizes or default_sizes(len(dataset.x_train)),
            kind=kernel,
            ridge=ridge,
            activation=activation,
            sigma_w2=sigma_w2,
            confidence=confidence,
            validate=validate,
            draws=draws,
            unlabelled=new,
            seed=seed,
        )
        _print_forecast(found, dataset, target_error)
        _write(found, plot, json, target_error)


def default_sizes(rows: int) -> list[int]:
    """Powers of two times ten below the number of rows, and all of them."""
    below = [10 * 2**k for k in range(30) if 10 * 2**k < rows]
    return [*below[-6:], rows]


def _sizes(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 0 < int(word) < 10**12 for word in words):
        raise ValueError(f"--n {text}: give positive whole numbers with commas, as 100,1000,10000")
    return sorted({int(word) for word in words})


# -- words ------------------------------------------------------------------------------------


def _print_dataset(dataset: Dataset) -> None:
    typer.echo(
        f"data: {dataset.name}, {len(dataset.x_train)} rows (the pool), {dataset.n_inputs} inputs"
    )
    print_rules(dataset)


def _print_forecast(found: Forecast, dataset: Dataset, target_error: float | None) -> None:
    curve = found.curve
    typer.echo(f"model: {found.model}")
    typer.echo(str(found.kernel))
    typer.echo(f"ridge: {found.ridge:.4g}\n")
    for line in curve_table(found):
        typer.echo(line)
    if found.average is not found.curve:
        typer.echo(
            "predicted is one network, with its random initial output; average: that over many "
            "networks, or f - f0, which is the kernel machine"
        )
    typer.echo("")
    rate = found.at_pool.error_rate
    typer.echo(
        f"kernel machine, leave-one-out at the whole pool of {curve.pool} rows, no theory: error "
        f"{found.at_pool.test_error}" + ("" if rate is None else f", error rate {rate}")
    )
    if dataset.task == "regression" and dataset.standardization.target_scale.size == 1:
        scale = float(dataset.standardization.target_scale.ravel()[0])
        root = math.sqrt(float(found.at_pool.test_error.value) * curve.variance) * scale
        typer.echo(f"in units of the target: root mean squared error {root:.4g}")
    if target_error is not None:
        for line in _needed(found, target_error):
            typer.echo(line)
    if found.shift is not None:
        unit = "" if dataset.task == "classification" else ", in units of the target's variance"
        typer.echo(f"unlabelled inputs, after training on the pool{unit}: {found.shift}")
        for note in found.shift.notes:
            typer.echo(f"- {note}")
    for note in (*curve.flags, *curve.notes, *found.notes):
        typer.echo(f"- {note}")


def curve_table(found: Forecast) -> list[str]:
    """Lines: sizes, predicted error (and error rate) with the band, what was measured, status."""
    curve, classes = found.curve, found.curve.error_rate is not None
    band = f"[{curve.confidence:.0%} band]"
    head = ["rows", "error / variance", band]
    if classes:
        head += ["error rate", band]
    if found.average is not curve:
        head += ["average: error"] + (["error rate"] if classes else [])
    for points in found.measured:
        head += [f"{points.name}: error"] + (["error rate"] if classes else [])
    rows = [[*head, "status"]]
    sizes = {int(size) for size in curve.n} | {int(s) for m in found.measured for s in m.n}
    rows += [_row(found, size) for size in sorted(sizes)]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def _row(found: Forecast, size: int) -> list[str]:
    curve = found.curve
    at = [i for i, s in enumerate(curve.n) if int(s) == size]
    k = at[0] if at else None
    cells = [str(size), *_predicted(curve, k)]
    if found.average is not curve:
        cells += _predicted(found.average, k)[::2]
    status = [] if k is None else [found.status[k]]
    for points in found.measured:
        there = [i for i, s in enumerate(points.n) if int(s) == size]
        columns = [points.test_error]
        if curve.error_rate is not None:
            columns.append(points.error_rate or points.test_error)
        cells += [str(_item(c, there[0])) if there else "-" for c in columns]
        if there and points.status[there[0]] != "ok":
            status.append(f"{points.name}: {points.status[there[0]]}")
    return [*cells, "; ".join(status)]


def _predicted(curve: PoolCurve, k: int | None) -> list[str]:
    """Error with its band, and of a classifier the error rate with its own."""
    columns: list[tuple[Any, Any, Any]] = [(curve.test_error, curve.lower, curve.upper)]
    if curve.error_rate is not None:
        columns.append((curve.error_rate, curve.error_rate_lower, curve.error_rate_upper))
    cells = []
    for value, low, high in columns:
        shown = k is not None and math.isfinite(value[k])
        cells += [f"{value[k]:.4g}", f"[{low[k]:.4g}, {high[k]:.4g}]"] if shown else ["-", "-"]
    return cells


def _numbers(estimates: Estimate) -> tuple[list[float], list[float]]:
    """Values and standard errors of an array of estimates."""
    import numpy as np

    return np.asarray(estimates.value).tolist(), np.asarray(estimates.stderr).tolist()


def _item(estimates: Estimate, k: int) -> Estimate:
    from thermolearn.core.estimate import Estimate

    values, errors = _numbers(estimates)
    return Estimate(values[k], errors[k])


def _needed(found: Forecast, target: float) -> list[str]:
    """How many rows the target takes: one network, and the average over networks."""
    quantity = "error" if found.curve.error_rate is None else "error_rate"
    name = "error / variance" if quantity == "error" else "error rate"
    curves = {"": found.curve}
    if found.average is not found.curve:
        curves = {", one network": found.curve, ", average over networks": found.average}
    lines = []
    for whose, curve in curves.items():
        needed = curve.samples_needed(target, quantity)
        answer = needed.status
        if math.isfinite(needed.n):
            low, high = (f"{e:.0f}" if math.isfinite(e) else "unknown" for e in needed.interval)
            answer = f"{needed.n:.0f} [{low}, {high}] ({needed.status})"
        lines.append(f"rows for {name} {target:g}{whose}: {answer}")
    return lines


def _write(found: Forecast, plot: Path, json: Path | None, target_error: float | None) -> None:
    from thermolearn.study.export import save_picture

    typer.echo(f"figure: {save_picture(found.figure(), plot).resolve()}")
    if json is None:
        return
    row = found.to_dict()
    if target_error is not None:
        row["rows_needed"] = {"target": target_error, "answer": _needed(found, target_error)}
    json.write_text(json_module.dumps(row, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    typer.echo(f"numbers: {json.resolve()}")
