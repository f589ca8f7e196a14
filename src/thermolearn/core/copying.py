"""A private copy of the user's model, and the promise to leave everything else alone."""

from __future__ import annotations

import copy
import hashlib
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thermolearn.core.errors import NotApplicableError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",  # torch.compile: the module inside holds the same parameters
}
CHECKED = (
    "parameters",
    "buffers",
    "gradients",
    "optimizer state",
    "module modes",
    "random generators",
)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside data-parallel and ``torch.compile`` wrappers; it shares the parameters."""
    while type(model).__name__ in WRAPPERS:
        model = getattr(model, WRAPPERS[type(model).__name__])
    return model


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also the buffers that ``state_dict`` leaves out."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check_measurable(model: nn.Module) -> None:
    """Raise NotApplicableError if the parameters cannot be read as whole, plain tensors."""
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise NotApplicableError(
                "the model is sharded (FSDP), its parameters are not whole on one process; "
                "measure an unsharded copy"
            )
    for name, tensor in named_state(model).items():
        if nn.parameter.is_lazy(tensor):
            raise NotApplicableError(
                f"parameter {name} is not initialized yet; run the lazy model once on a batch"
            )
        if type(tensor).__name__ == "DTensor":
            raise NotApplicableError(
                f"parameter {name} is distributed (DTensor); measure an unsharded copy"
            )
        if tensor.is_meta:
            raise NotApplicableError(f"parameter {name} is on the meta device, without numbers")


def private_copy(model: nn.Module) -> nn.Module:
    """Deep copy in eval mode and its own precision, without gradients and the user's hooks.

    Hooks of ``torch.nn.utils`` (weight norm, pruning) are part of the forward pass and are kept;
    activations that a module keeps as attributes are copied as constants.

    Raises
    ------
    NotApplicableError
        The model cannot be read or copied.
    """
    check_measurable(model)
    # What the memo holds is not copied again: user hooks are replaced by nothing, and tensors that
    # carry a graph, which deepcopy refuses, by their values.
    memo: dict[int, Any] = {}
    for module in model.modules():
        for attribute in HOOKS:
            hooks = module.__dict__.get(attribute)
            if hooks is not None:
                memo[id(hooks)] = OrderedDict(
                    (key, hook)
                    for key, hook in hooks.items()
                    if type(hook).__module__.startswith("torch.nn.utils")
                )
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # anything a user's class may do
        raise NotApplicableError(
            f"the model cannot be copied ({type(error).__name__}: {error}); "
            "give it attributes that copy.deepcopy accepts"
        ) from error
    return twin.eval()


def load_state(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write a snapshot into the copy, converting precision and device.

    Raises
    ------
    ValueError
        Names or shapes differ: the model's structure changed during the run.
    """
    own = named_state(model)
    if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
        raise ValueError("the model's parameters changed name or shape since this snapshot")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    return model


@contextmanager
def untouched() -> Iterator[None]:
    """Restore every global generator, mode and flag that a measurement may touch.

    Inside: gradients enabled, no inference mode, no autocast, and no fused attention. Python,
    numpy and torch generators are put back at the end, also after an exception.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    default_dtype = torch.get_default_dtype()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=list(devices)))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast("cpu", enabled=False))
            if devices:
                stack.enter_context(torch.autocast("cuda", enabled=False))
            # of the attention kernels only the plain one has second derivatives
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            torch.backends.mha.set_fastpath_enabled(False)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.set_default_dtype(default_dtype)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """sha256 of all that a measurement must leave as it was, one entry per item of `CHECKED`."""
    parameters = list(model.named_parameters())
    generators: list[Any] = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
    if torch.cuda.is_initialized():
        generators += torch.cuda.get_rng_state_all()
    parts: tuple[Any, ...] = (
        parameters,
        list(model.named_buffers()),
        [p.grad for _, p in parameters],
        [optimizer.state.get(p) for group in optimizer.param_groups for p in group["params"]],
        [module.training for module in model.modules()],
        generators,
    )
    return {name: _digest(part) for name, part in zip(CHECKED, parts, strict=True)}


def _digest(item: Any) -> str:
    sha = hashlib.sha256()
    _feed(sha, item)
    return sha.hexdigest()


def _feed(sha: Any, item: Any) -> None:
    """Hash nested containers; tensors and arrays by type, shape and bytes."""
    if isinstance(item, Tensor) and (nn.parameter.is_lazy(item) or item.is_meta):
        sha.update(type(item).__name__.encode())  # no numbers yet
    elif isinstance(item, Tensor):
        item = getattr(item, "to_local", lambda item=item: item)()  # a process's own part
        sha.update(f"{item.dtype}{tuple(item.shape)}".encode())
        sha.update(tensor_bytes(item))
    elif isinstance(item, np.ndarray):
        sha.update(item.tobytes())
    elif isinstance(item, dict):
        for key, value in item.items():
            sha.update(repr(key).encode())
            _feed(sha, value)
    elif isinstance(item, list | tuple):
        for value in item:
            _feed(sha, value)
    else:
        sha.update(repr(item).encode())


def tensor_bytes(tensor: Tensor) -> bytes:
    """The elements in order, as bytes (any dtype, any device)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
