"""A run on disk: safetensors with the settings and the history in the header; never pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from thermolearn import __version__
from thermolearn.core.errors import DataError
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.rbm import trainer, units
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
        "best": None if run.best is None else run.best.to_dict(),
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
        No such file, not one of this format, or one whose parts do not fit together.
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
            header = header if isinstance(header, dict) else {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}") from error
    if header.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {header.get('format')!r}, this version reads {FORMAT!r}; it must "
            "have been written by RBM.save"
        )
    try:
        return _run(header, tensors), dict(header["params"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise DataError(f"{path} is damaged: {type(e).__name__}: {e}") from e


def _run(header: dict[str, Any], tensors: dict[str, Tensor]) -> Run:
    """The run of a file's parts; any error says that they do not fit together."""
    w = Weights(tensors["W"], tensors["a"], tensors["b"], header["visible"], header["hidden"])
    settings = Settings(**header["settings"])
    for name, x in tensors.items():
        if name not in ("noise", "swaps"):
            _check(x.dtype == trainer.DTYPES[settings.dtype], f"{name} is of type {x.dtype}")
            _check(bool(torch.isfinite(x).all()), f"{name} holds a number that is not finite")
    if settings.method in ("pcd", "pt"):  # before room is made for as many as the header says
        n = len(tensors["chain_v"])
        _check(n == settings.n_chains, f"{n} chains, {settings.n_chains} in the settings")
    units.check_domain(w.visible, tensors["chain_v"].numpy(), "chain_v")
    run = trainer.resumed(w, tensors["visible_offset"], settings)
    state = run.sampler.state()
    _check(state.keys() == tensors.keys() - {"W", "a", "b"}, f"it holds {sorted(tensors)}")
    for name, x in state.items():
        free = 1 if name in ("chain_v", "chain_h") else 0  # a batch may have had other rows
        fits = x.dtype == tensors[name].dtype and x.shape[free:] == tensors[name].shape[free:]
        _check(fits, f"{name} has shape {tuple(tensors[name].shape)}")
    _check(len(tensors["chain_v"]) == len(tensors["chain_h"]), "chain_v and chain_h differ")
    run.sampler.restore(tensors)
    run.step, run.interrupted = int(header["step"]), bool(header["interrupted"])
    _check(run.step >= 0, f"step is {run.step}")
    run.history = [Checkpoint.from_dict(row) for row in header["history"]]
    run.best = None if header["best"] is None else Estimate.from_dict(header["best"])
    return run


def _check(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoint files of a folder, in the order of their steps."""
    return sorted(Path(folder).glob("step-*.safetensors"))


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"step-{step:010d}.safetensors"


def weights_of(path: str | Path) -> Weights:
    """The machine alone, from one file."""
    return load(path)[0].weights
