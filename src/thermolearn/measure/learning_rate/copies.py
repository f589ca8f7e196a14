"""Copies of model, loss and optimizer that belong together, and a watch over the originals."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.copying import private_copy, tensor_bytes, unwrap
from thermolearn.core.errors import NotApplicableError

# what a function may keep in its closure and is copied; anything else in it is used as it is
KEPT_STATE = (nn.Module, Tensor, list, dict, set, int, float)
TOUCHED = (
    "the loss works on your model itself, not on the copy that is trained: it reaches {what}. "
    "Make the loss a torch.nn.Module that holds the model, or take a penalty "
    "on the weights as weight_decay of the optimizer"
)


class _Training(nn.Module):
    """All three in one module, so that one deep copy keeps what they share shared."""

    def __init__(self, model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer):
        super().__init__()
        self.model, self.loss = unwrap(model), loss
        self.owner = owner_of(loss)
        self.optimizer = optimizer
        self.cells = [c.cell_contents for c in _cells(loss)]


def owner_of(loss: Any) -> Any:
    """The object that keeps the state of a loss: itself, or that of a bound method."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__self__", loss)


def copy_training(
    model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, Any, torch.optim.Optimizer]:
    """Independent copies of all three that belong together; tied parameters stay tied.

    A loss that holds the model (a module, a bound method, a callable object, a function with the
    model in its closure) holds the copy of it. The optimizer keeps its state (momenta) and settings
    and loses the hooks on it; the submodules keep their modes, unless the whole model is in eval
    mode: then the copy trains in train mode.

    Raises
    ------
    NotApplicableError
        One of them cannot be copied.
    """
    bundle = _Training(model, loss, optimizer)
    try:
        twin: Any = private_copy(bundle)
    except NotApplicableError as error:
        cause = error.__cause__
        if cause is None:
            raise
        raise NotApplicableError(
            f"model, loss and optimizer cannot be copied ({type(cause).__name__}: {cause}); give "
            "them attributes and state that copy.deepcopy accepts"
        ) from error
    for ours, theirs in zip(twin.modules(), bundle.modules(), strict=True):
        ours.training = theirs.training
    if not bundle.model.training:
        for ours in twin.model.modules():
            ours.training = True
    if _cells(loss):
        twin.loss = _with_cells(loss, twin.cells)
    return twin.model, twin.loss, twin.optimizer


def _cells(loss: Any) -> tuple[CellType, ...]:
    """The closure of a plain function that can be made again with other contents."""
    cells = (loss.__closure__ or ()) if isinstance(loss, FunctionType) else ()
    try:
        return cells if any(isinstance(c.cell_contents, KEPT_STATE) for c in cells) else ()
    except ValueError:  # a cell that is not filled yet
        return ()


def _with_cells(loss: FunctionType, contents: list[Any]) -> FunctionType:
    old = loss.__closure__ or ()
    cells = tuple(
        CellType(new) if isinstance(new, KEPT_STATE) else cell
        for cell, new in zip(old, contents, strict=True)
    )
    twin = FunctionType(loss.__code__, loss.__globals__, loss.__name__, loss.__defaults__, cells)
    twin.__kwdefaults__ = copy.copy(loss.__kwdefaults__)
    return twin


def check_own(value: Tensor, model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise NotApplicableError if the gradient of a copy's loss goes to anything but the copies."""
    owner = owner_of(loss)
    own: list[Any] = [*model.parameters(), *getattr(owner, "__dict__", {}).values()]
    own += owner.parameters() if isinstance(owner, nn.Module) else []
    own += [p for group in optimizer.param_groups for p in group["params"]]
    own += [cell.cell_contents for cell in _cells(loss)]
    own += [p for held in own if isinstance(held, nn.Module) for p in held.parameters()]
    known = {id(x) for x in own}
    nodes, seen = [value.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise NotApplicableError(TOUCHED.format(what="parameters outside of the copy"))
        nodes += [following for following, _ in node.next_functions]


# -- the originals -------------------------------------------------------------------------------
class Watch:
    """Gradients and buffers of the user's objects, to see that no trial writes into them."""

    def __init__(self, model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer):
        owner = owner_of(loss)
        modules = [unwrap(model), *([owner] if isinstance(owner, nn.Module) else [])]
        parameters = [p for m in modules for p in m.parameters()]
        parameters += [p for g in optimizer.param_groups for p in g["params"]]
        trained = {id(p): p for p in parameters}.values()
        self._gradients = [(p, p.grad, _kept(p.grad)) for p in trained]
        self._buffers = [(b, _kept(b)) for m in modules for b in m.buffers()]

    def restore(self) -> str:
        """Put back what was written into; what that was, in words, or nothing."""
        reached = []
        for p, gradient, values in self._gradients:
            if p.grad is not gradient or _changed(gradient, values):
                reached.append("gradients of its parameters")
                p.grad = gradient
        kept: list[Any] = [(g, v, reached[:1]) for _, g, v in self._gradients]
        kept += [(b, v, ["its buffers"]) for b, v in self._buffers]
        with torch.no_grad():
            for tensor, values, what in kept:
                if _changed(tensor, values):
                    tensor.copy_(values)
                    reached += what
        return " and ".join(dict.fromkeys(reached))


def _kept(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _changed(tensor: Any, values: Any) -> bool:
    """By the bytes: not every kernel that writes into a buffer counts up its version."""
    if tensor is None:
        return False
    if tensor.layout != torch.strided:
        tensor, values = tensor.to_dense(), values.to_dense()
    return tensor_bytes(tensor) != tensor_bytes(values)


@contextmanager
def watched(model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer) -> Iterator[Watch]:
    """At the end, also after an exception, the user's gradients and buffers are as they were.

    Raises
    ------
    NotApplicableError
        They were not: `check_reached` says what to do.
    """
    watch = Watch(model, loss, optimizer)
    try:
        yield watch
    except BaseException:
        watch.restore()
        raise
    check_reached(watch)


def check_reached(watch: Watch) -> None:
    """Put the user's gradients and buffers back, and refuse if there was anything to put back."""
    what = watch.restore()
    if what:
        raise NotApplicableError(TOUCHED.format(what=f"{what}, put back as they were"))
