"""A sink named on the command line."""

from __future__ import annotations

from thermolearn.measure.sinks.fanout import Sink

FORMS = "jsonl:PATH, tensorboard[:FOLDER], wandb[:PROJECT], mlflow[:EXPERIMENT]"


def parse_sink(text: str) -> Sink:
    """``kind:argument`` as a sink: jsonl:PATH, tensorboard:FOLDER, wandb:PROJECT,
    mlflow:EXPERIMENT. What follows the colon may be left out, except for jsonl.

    Raises
    ------
    ValueError
        Another kind, or no path.
    ImportError
        The package behind it is not installed.
    OSError
        The path cannot be written.
    """
    kind, _, argument = text.partition(":")
    given = [argument] if argument else []
    if kind == "jsonl":
        if not given:
            raise ValueError("a jsonl sink needs a path: jsonl:PATH")
        from thermolearn.measure.sinks.jsonl import JSONL

        return JSONL(argument)
    if kind == "tensorboard":
        from thermolearn.measure.sinks.tensorboard import TensorBoard

        return TensorBoard(*given)
    if kind == "wandb":
        from thermolearn.measure.sinks.wandb import WandB

        return WandB(*given)
    if kind == "mlflow":
        from thermolearn.measure.sinks.mlflow import MLflow

        return MLflow(*given)
    raise ValueError(f"a sink is one of {FORMS}; got {text!r}")
