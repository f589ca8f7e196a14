"""The command line: parse, call, print. Heavy imports happen inside the call that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thermolearn import __version__
from thermolearn.cli_catalogue import cite, list_systems, reproduce, show
from thermolearn.cli_common import Data, Target, Task, check_outputs, one_line_errors, print_rules
from thermolearn.cli_predict import predict
from thermolearn.cli_sweep import sweep
from thermolearn.cli_threshold import threshold
from thermolearn.cli_watch import watch

if TYPE_CHECKING:
    from torch import nn

    from thermolearn.data import Dataset
    from thermolearn.measure.learning_rate import RecommendedRate
    from thermolearn.train import TrainingRun

# Plain help and errors: importing rich for them would double the start-up time.
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Measure and predict neural-network training, and hold the theory of learning against "
    "experiment.",
)

Option = typer.Option


def main() -> None:
    """Entry point of the `thermolearn` command."""
    app(prog_name="thermolearn")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thermolearn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def measure(
    data: Data,
    target: Target = None,
    task: Task = None,
    loss: Annotated[str, Option(help="squared or cross-entropy.")] = "squared",
    model: Annotated[
        str, Option(help="mlp:64,64 or cnn:16,32 or package.module:callable.")
    ] = "mlp:32,32",
    weights: Annotated[
        Path | None, Option(help="Start from these weights: .safetensors, or a torch state_dict.")
    ] = None,
    epochs: Annotated[
        int | None,
        Option(help="Default 60; 0 with --weights, which measures the network as it is."),
    ] = None,
    lr: Annotated[
        float | None, Option(help="Learning rate; default .05 for sgd, .001 for adam and adamw.")
    ] = None,
    batch_size: Annotated[int, Option(help="Samples per step.")] = 32,
    optimizer: Annotated[str, Option(help="sgd, adam or adamw.")] = "sgd",
    momentum: Annotated[float, Option(help="For sgd.")] = 0.0,
    weight_decay: Annotated[float, Option(help="Of the optimizer.")] = 0.0,
    activation: Annotated[str, Option(help="Of mlp and cnn: tanh, relu, gelu, ...")] = "tanh",
    seed: Annotated[int, Option(help="Of the split, the weights and the order of samples.")] = 0,
    test_fraction: Annotated[
        float | None, Option(help="Share of rows held out; default 1/4 (digits: 500 rows).")
    ] = None,
    standardize: Annotated[
        bool,
        Option(help="--no-standardize takes the numbers as they are, for a brought network."),
    ] = True,
    every: Annotated[
        int | None, Option(help="Steps between snapshots; default: about 60 snapshots in all.")
    ] = None,
    beta: Annotated[
        float | None, Option(help="Inverse temperature; by default fitted to the loss.")
    ] = None,
    reference_size: Annotated[
        int, Option(help="Training samples on which state functions are taken.")
    ] = 256,
    threads: Annotated[
        int, Option(min=1, help="CPU threads; more pay only for large models on an idle machine.")
    ] = 1,
    report: Annotated[Path, Option(help="The report to write.")] = Path("report.html"),
    json: Annotated[Path, Option(help="The record of the run to write.")] = Path("run.jsonl"),
    recommend_lr: Annotated[
        bool,
        Option(
            "--recommend-lr",
            help="Find the learning rate first, by short trainings; costs about 3.5 trainings.",
        ),
    ] = False,
    sink: Annotated[
        list[str] | None,
        Option(
            help="Where the numbers go besides: jsonl:PATH, tensorboard[:FOLDER], "
            "wandb[:PROJECT], mlflow[:EXPERIMENT]; may be repeated."
        ),
    ] = None,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Train a network on data, or bring one, and report its thermodynamics."""
    with one_line_errors(debug):
        check_outputs({"--report": report, "--json": json}, [Path(data), weights])
        import torch

        from thermolearn.data import load
        from thermolearn.measure.sinks.parse import parse_sink

        sinks = [parse_sink(text) for text in sink or []]
        torch.set_num_threads(threads)
        dataset = load(data, target, task, test_fraction, seed, standardize)
        _print_dataset(dataset)
        network = _make_model(model, dataset, seed, activation, weights)
        from thermolearn.train import train

        settings: dict[str, Any] = {
            "loss": loss,
            "optimizer": optimizer,
            "lr": lr,
            "epochs": (0 if weights else 60) if epochs is None else epochs,
            "batch_size": batch_size,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "seed": seed,
        }
        found = None
        if recommend_lr:
            if not settings["epochs"]:
                raise ValueError("--recommend-lr needs a training: give --epochs above 0")
            if lr is not None:
                typer.echo(f"the search of the learning rate starts at --lr {lr:g}")
            found = _recommend(network, dataset, settings)
        run = train(
            network,
            dataset,
            **settings,
            every=every,
            beta=beta,
            reference_size=reference_size,
            log=json,
            sinks=sinks,
            command=_command(),
            info={"model": model},
        )
        if found is not None:
            from thermolearn.measure.learning_rate.quantity import summary_row

            run.probe.record(summary_row(found, found.lr, len(dataset.x_train)))
        _finish(run, report, json)


@app.command(name="report")
def remake_report(
    run: Annotated[Path, typer.Argument(help="A run.jsonl.")],
    output: Annotated[Path, Option(help="The report to write.")] = Path("report.html"),
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Make the report of a recorded run again."""
    with one_line_errors(debug):
        if not run.is_file():
            raise FileNotFoundError(f"no file {run}; give the run.jsonl of a measurement")
        check_outputs({"--output": output}, [run])
        from thermolearn.report import read_rows, write_report

        write_report(read_rows(run), output)
        typer.echo(f"report: {output.resolve()}")


app.command(name="list")(list_systems)
# options with the names of a system's parameters are read by the command itself
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(show)
app.command()(sweep)
app.command()(reproduce)
app.command()(cite)
app.command()(watch)
app.command()(predict)
app.command()(threshold)


# -- the parts of `measure` -------------------------------------------------------------------


def _print_dataset(dataset: Dataset) -> None:
    typer.echo(
        f"data: {dataset.name}, {len(dataset.x_train)} training and {len(dataset.x_test)} test "
        f"rows, {dataset.n_inputs} inputs, {dataset.n_outputs} outputs"
    )
    print_rules(dataset)


def _make_model(
    spec: str, dataset: Dataset, seed: int, activation: str, weights: Path | None
) -> nn.Module:
    from thermolearn.models import build, load_weights

    network = build(
        spec, dataset.n_inputs, dataset.n_outputs, dataset.input_shape, seed, activation
    )
    parameters = sum(p.numel() for p in network.parameters())
    typer.echo(f"model: {spec}, {parameters} parameters")
    return load_weights(network, weights) if weights else network


def _recommend(network: nn.Module, dataset: Dataset, settings: dict[str, Any]) -> RecommendedRate:
    """Print the evidence, set the learning rate, and return what was found."""
    from thermolearn.train import recommend

    found = recommend(network, dataset, **settings)
    typer.echo(str(found))
    if not found.lr > 0:
        raise ValueError(f"no learning rate is recommended: {found.note}")
    settings["lr"] = found.lr
    return found


def _plain_words(rows: list[dict[str, Any]]) -> list[str]:
    """What the run says about the laws, the Gaussian approximation and noise, as sentences."""
    spoken = ("laws_run", "trust", "robustness")
    return [
        note
        for row in rows
        if row.get("kind") == "summary" and row.get("quantity") in spoken
        for note in row.get("notes", [])
    ]


def _finish(run: TrainingRun, report: Path, json: Path) -> None:
    from thermolearn.measure.run_log import table

    ended = " (ended by Ctrl-C)" if run.interrupted else ""
    typer.echo(f"trained: {run.steps} steps in {run.seconds:.1f} s{ended}")
    typer.echo("evaluating snapshots (Ctrl-C ends it, and what is finished is reported)")
    from thermolearn.report import write_report

    flags = []
    if run.interrupted:
        flags.append((run.steps, f"training was ended by Ctrl-C after step {run.steps}"))
    try:
        run.probe.flush()
    except KeyboardInterrupt:
        done = max((r["step"] for r in run.probe.rows if r["kind"] == "snapshot"), default=0)
        typer.echo("evaluation ended by Ctrl-C; the report holds what was finished")
        flags.append((done, f"evaluation ended by Ctrl-C: measured to step {done} of {run.steps}"))
    rows = [{"kind": "flag", "step": step, "text": text} for step, text in flags]
    write_report([*run.probe.rows, *rows], report)
    typer.echo(table(run.probe.rows))  # of what is finished: Probe.table would go on measuring
    for note in _plain_words(run.probe.rows):
        typer.echo(f"- {note}")
    run.probe.close()
    typer.echo(f"report: {report.resolve()}")
    typer.echo(f"record: {json.resolve()}")


def _command() -> str:
    import shlex

    return shlex.join(["thermolearn", *sys.argv[1:]])


if __name__ == "__main__":
    main()
