"""Models from a short text, and weights from a file without running code that is in it."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.errors import DataError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
SPECS = "mlp:64,64 or cnn:16,32 or package.module:callable"


def build(
    spec: str,
    n_inputs: int,
    n_outputs: int,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    activation: str = "tanh",
    sigma_w2: float = 1.0,
) -> nn.Module:
    """A model from its description; global random generators are left as they were.

    ``mlp:64,64`` is Linear and activation per width, then Linear. ``cnn:16,32`` is a 3x3
    convolution and activation per number of channels, of stride 2 while the image is wider than
    2 pixels, then Linear. Both are initialized with W ~ N(0, sigma_w2 / fan_in) and b = 0.
    ``package.module:callable`` is called with those of n_inputs and n_outputs that it takes and
    returns an nn.Module, whose initial weights are its own; the current directory is importable.

    Parameters
    ----------
    spec : str
    n_inputs, n_outputs : int
        Numbers per sample that go in and come out, >= 1.
    input_shape : tuple of int, optional
        Shape of one sample, (channels, height, width) for ``cnn``. Default: (n_inputs,).
    seed : int >= 0
        Of the initial weights.
    activation : str
        A key of `ACTIVATIONS`; for ``mlp`` and ``cnn``.
    sigma_w2 : float > 0
        Variance of the weights times fan_in.

    Raises
    ------
    ValueError
        The description, the activation or what the callable returns cannot be used.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not (math.isfinite(sigma_w2) and sigma_w2 > 0):
        raise ValueError(f"sigma_w2 must be positive and finite, got {sigma_w2}")
    kind, colon, rest = spec.partition(":")
    if not colon or not kind:
        raise ValueError(f"model {spec!r} is not known; give {SPECS}")
    shape = input_shape or (n_inputs,)
    # nn.Linear and a user's constructor draw from the global generator: seed and restore it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            model = _mlp(_widths(spec, rest), n_inputs, n_outputs, ACTIVATIONS[activation])
        elif kind == "cnn":
            model = _cnn(_widths(spec, rest), shape, n_outputs, ACTIVATIONS[activation])
        else:
            return _from_callable(spec, n_inputs, n_outputs)
    return initialize(model, sigma_w2, seed)


def initialize(model: nn.Module, sigma_w2: float = 1.0, seed: int = 0) -> nn.Module:
    """Draw W ~ N(0, sigma_w2 / fan_in), b = 0 for every Linear and Conv of the model, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, math.sqrt(sigma_w2 / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
    return model


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load weights into the model, in place, without unpickling anything but tensors.

    A .safetensors file, or a file of `torch.save` (opened with weights_only=True) that holds a
    state_dict, alone or under the key "state_dict" or "model".

    Raises
    ------
    DataError
        The file cannot be read, holds Python code or non-finite weights, or does not fit the
        model (missing and unexpected names and differing shapes are listed).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no weights file {path}")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    _check_fit(model, state, path)
    model.load_state_dict(state)
    return model


# -- architectures ----------------------------------------------------------------------------


def _widths(spec: str, text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text) or any(int(w) < 1 for w in text.split(",")):
        raise ValueError(f"model {spec!r}: widths are positive integers with commas, as in {SPECS}")
    return [int(w) for w in text.split(",")]


def _mlp(
    widths: list[int], n_inputs: int, n_outputs: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(n_inputs, width), activation()]
        n_inputs = width
    return _sequential({"flatten": nn.Flatten()}, [*layers, nn.Linear(n_inputs, n_outputs)])


def _cnn(
    channels: list[int], shape: tuple[int, ...], n_outputs: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    if len(shape) != 3:
        raise ValueError(
            f"cnn needs images, but a sample has shape {tuple(shape)}; use mlp, the digits, or a "
            ".npz file with x of shape (rows, channels, height, width)"
        )
    depth, height, width = shape
    layers: list[nn.Module] = []
    for count in channels:
        stride = 2 if min(height, width) > 2 else 1
        layers += [nn.Conv2d(depth, count, 3, stride=stride, padding=1), activation()]
        depth, height, width = count, -(-height // stride), -(-width // stride)
    layers += [nn.Flatten(), nn.Linear(depth * height * width, n_outputs)]
    # Flatten first, so that samples may come as images or as the rows of a table
    return _sequential({"flatten": nn.Flatten(), "image": nn.Unflatten(1, tuple(shape))}, layers)


def _sequential(first: dict[str, nn.Module], layers: list[nn.Module]) -> nn.Sequential:
    """The layers keep the names 0, 1, ... of a plain nn.Sequential, so that its weights fit."""
    numbered = {str(i): layer for i, layer in enumerate(layers)}
    return nn.Sequential(OrderedDict(first | numbered))


# -- a user's own model -----------------------------------------------------------------------


def _from_callable(spec: str, n_inputs: int, n_outputs: int) -> nn.Module:
    made = _import_object(spec)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ValueError(f"model {spec!r} is a {type(made).__name__}, not a callable")
        arguments = _accepted(made, {"n_inputs": n_inputs, "n_outputs": n_outputs})
        try:
            made = made(**arguments)
        except Exception as error:
            given = ", ".join(f"{k}={v}" for k, v in arguments.items())
            raise ValueError(
                f"model {spec!r}: calling it with ({given}) failed: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"model {spec!r} returned a {type(made).__name__}; it must return a torch.nn.Module"
        )
    return made


def _import_object(spec: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", spec):
        raise ValueError(f"model {spec!r} is not known; give {SPECS}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"model {spec!r}: importing {module_name} failed: {type(error).__name__}: {error}. "
            "Modules are looked for among the installed ones and in the current directory"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            offered = [n for n in dir(found) if not n.startswith("_")][:12]
            raise ValueError(
                f"model {spec!r}: there is no {name!r} in it; it has {', '.join(offered)}"
            )
        found = getattr(found, name)
    return found


def _accepted(function: Callable[..., Any], offered: dict[str, int]) -> dict[str, int]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {name: value for name, value in offered.items() if name in named}


# -- weights ----------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # header, json, dtype and length errors have no common class
        raise DataError(f"{path} is not a readable .safetensors file: {error}") from error


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    advice = "save the weights alone with torch.save(model.state_dict(), path)"
    try:
        with warnings.catch_warnings():  # about pickle protocols, of which an error is made below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds Python objects or code, not weights alone, or is damaged; nothing of it "
            f"was run. In a place where you trust the file, open it and {advice}, or as safetensors"
        ) from error
    except Exception as error:  # zip, end-of-file and storage errors have no common class
        raise DataError(
            f"{path} is not a readable torch file ({type(error).__name__}); {advice}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path} does not hold a state_dict of tensors; {advice}")
    return content


def _check_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    problems = {
        "missing": [k for k in own if k not in state],
        "unexpected": [str(k) for k in state if k not in own],
        "differing shapes": [
            f"{k} (file {tuple(state[k].shape)}, model {tuple(own[k].shape)})"
            for k in own
            if k in state and state[k].shape != own[k].shape
        ],
        "complex numbers": [
            k for k in own if k in state and state[k].is_complex() and not own[k].is_complex()
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise DataError(
            f"the weights in {path} do not fit the model: {listed}. Give --model the architecture "
            "that they were saved from"
        )
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.float().isfinite().all()]
    if bad:
        raise DataError(f"{path} holds weights that are not finite: {_some(bad)}")


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
