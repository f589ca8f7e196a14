"""Where finished rows go besides run.jsonl. Nothing is imported until a sink is used."""

from thermolearn.measure.sinks.fanout import Sink
from thermolearn.measure.sinks.jsonl import JSONL
from thermolearn.measure.sinks.mlflow import MLflow
from thermolearn.measure.sinks.parse import parse_sink
from thermolearn.measure.sinks.tensorboard import TensorBoard
from thermolearn.measure.sinks.wandb import WandB

__all__ = ["JSONL", "MLflow", "Sink", "TensorBoard", "WandB", "parse_sink"]
