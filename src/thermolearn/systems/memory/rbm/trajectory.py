"""A run on disk: safetensors with the settings and the history in the header; never pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from thermolearn import __version__
from thermolearn.core.errors import DataError
from thermolearn.systems.memory.rbm import trainer
from thermolearn.systems.memory.rbm.monitor import Checkpoint
from thermolearn.systems.memory.rbm.trainer import Run, Settings
from thermolearn.systems.memory.rbm.units import Weights

FORMAT = "thermolearn-rbm-1"


def save(path: str | Path, run: Run, params: dict[str, Any]) -> None:
    """Write one run; the file appears whole or not at all.

    Parameters
    ----------
    path : path
        File name, by convention ending in ``.safetensors``.
    run : Run
    params : dict
        Constructor arguments of the estimator, JSON-ready.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    w = run.weights
    tensors = {"W": w.W, "a": w.a, "b": w.b, **run.sampler.state()}
    header = {
        "format": FORMAT,
        "version": __version__,
        "visible": w.visible,
        "hidden": w.hidden,
        "step": run.step,
        "interrupted": run.interrupted,
        "params": params,
        "settings": asdict(run.settings),
        "history": [c.to_dict() for c in run.history],
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file(
        {name: x.contiguous() for name, x in tensors.items()},
        partial,
        metadata={"thermolearn": json.dumps(header)},
    )
    os.replace(partial, path)


def load(path: str | Path) -> tuple[Run, dict[str, Any]]:
    """The run in a file, or the last one in a folder of checkpoints, and the constructor arguments.

    Raises
    ------
    DataError
        No such file, or not one of this format.
    """
    path = Path(path)
    if path.is_dir():
        files = checkpoints(path)
        if not files:
            raise DataError(f"{path} holds no step-*.safetensors")
        path = files[-1]
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("thermolearn", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}") from error
    if header.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {header.get('format')!r}, this version reads {FORMAT!r}; it must "
            "have been written by RBM.save"
        )
    w = Weights(tensors["W"], tensors["a"], tensors["b"], header["visible"], header["hidden"])
    run = trainer.resumed(w, tensors["visible_offset"], Settings(**header["settings"]))
    run.sampler.restore(tensors)
    run.step, run.interrupted = header["step"], header["interrupted"]
    run.history = [Checkpoint.from_dict(row) for row in header["history"]]
    return run, header["params"]


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoint files of a folder, in the order of their steps."""
    return sorted(Path(folder).glob("step-*.safetensors"))


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"step-{step:010d}.safetensors"


def weights_of(path: str | Path) -> Weights:
    """The machine alone, from one file."""
    return load(path)[0].weights
