"""The command `thermolearn sweep`: parse, call, print."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermolearn.cli_common import check_jobs, check_outputs, one_line_errors

if TYPE_CHECKING:
    from thermolearn.study.sweep import SweepResult

Option = typer.Option


def sweep(
    file: Annotated[Path, typer.Argument(help="The definition, a .toml file.")],
    store: Annotated[
        Path | None,
        Option(help="Directory of the results; by default FILE with .store for .toml."),
    ] = None,
    jobs: Annotated[
        int, Option(help="Worker processes, or jobs of a cluster; -1 for one per processor.")
    ] = 2,
    backend: Annotated[str, Option(help="joblib, dask, submitit or serial.")] = "joblib",
    scheduler: Annotated[
        str | None, Option(help="Address of a dask scheduler, with --backend dask.")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything, say what is to be done, and end.")
    ] = False,
    compact: Annotated[
        bool, Option("--compact", help="At the end put the finished tasks into one file.")
    ] = False,
    merge: Annotated[
        list[Path] | None,
        Option(help="First take over what this store of another machine holds; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, Option(help="Write the rows to this .parquet or .csv file.")
    ] = None,
    heartbeat: Annotated[
        float, Option(help="Seconds between lines of progress where there is no terminal.")
    ] = 30.0,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Run theory and simulation of a system over a grid; run it again to go on.

    What its parameters are: `thermolearn list SYSTEM`.
    """
    with one_line_errors(debug), _one_line_warnings():
        check_jobs(jobs)
        if not (math.isfinite(heartbeat) and heartbeat > 0):
            raise ValueError(f"--heartbeat {heartbeat:g} must be a positive number of seconds")
        if output is not None:
            if output.suffix not in (".parquet", ".csv"):
                raise ValueError(f"--output {output}: rows are saved as .parquet or .csv")
            check_outputs({"--output": output}, [file])
        from thermolearn.study import backends
        from thermolearn.study.merge import merge as merge_stores
        from thermolearn.study.sweep import make_plan

        plan = make_plan(file, store)
        backends.check(backend, jobs, scheduler, plan.submitit)
        typer.echo(
            f"{plan.grid.name}: {len(plan.grid.cells)} cells, {len(plan.grid.seed_range)} seeds, "
            f"{plan.total} tasks: {plan.total - len(plan.todo)} done, {len(plan.todo)} to do"
        )
        if dry_run:
            return
        if merge:
            from thermolearn.study.store import open_store

            open_store(plan.path, plan.header)
            typer.echo(f"merged: {merge_stores(plan.path, *merge)} finished tasks came in")
        result = _run(file, plan.path, jobs, backend, scheduler, heartbeat, compact)
        typer.echo(result.summary)
        typer.echo(f"store: {plan.path.resolve()}")
        if output is not None:
            typer.echo(f"rows: {result.save(output).resolve()}")


def _run(
    file: Path,
    store: Path,
    jobs: int,
    backend: str,
    scheduler: str | None,
    heartbeat: float,
    compact: bool,
) -> SweepResult:
    from thermolearn.study.sweep import sweep as run

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\d+ tasks of ")  # the summary is printed anyway
            return run(
                file, store, jobs, backend, scheduler=scheduler, heartbeat=heartbeat,
                compact=compact,
            )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        typer.echo(" ".join(str(interrupt).split()) or "interrupted", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings as one line on stderr, without the place in the source."""

    def show(message: Warning | str, *_: object) -> None:
        typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
