"""The Hessian of the loss as an operator: whole, and block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thermolearn.core import copying
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.linalg import Matvec, hvp_operator
from thermolearn.measure.layers import parameter_groups
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.objective import mean_loss, trained_parameters
from thermolearn.measure.reference import loss_copy, to_precision
from thermolearn.measure.setting import window_of
from thermolearn.measure.window import Pair, Window

BASIS_ELEMENTS = 2**27  # numbers that a basis of vectors may hold (1 GiB in float64)
KEPT_SAMPLES = 4096  # whose graph is kept between products; a sequence counts as its length
CALLS = 3e5  # multiply-adds in the time that one tensor takes, however small it is
DENSE = 128  # up to so many parameters the matrix itself is computed


@dataclass(frozen=True, eq=False)
class Hessian:
    """Second derivatives of the mean loss in the trained parameters, ordered layer by layer.

    Attributes
    ----------
    parameters : dict
        Trained parameters by name, in the order of the flat vectors. A tied parameter occurs
        once, in the layer where it comes first; a frozen one does not occur.
    layers : dict
        Slice of the flat vectors by layer (the module that owns the parameters).
    loss_of : callable
        (start, stop) -> the part of the mean loss of these samples, with its graph.
    samples : int
        Samples of the loss.
    chunk : int
        Samples whose graph is kept at once.
    arithmetic : float
        Multiply-adds of one forward pass over all samples.
    """

    parameters: dict[str, Tensor]
    layers: dict[str, slice]
    loss_of: Callable[[int, int], Tensor]
    samples: int
    chunk: int
    arithmetic: float

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def cost(self) -> float:
        """What a product costs, in multiply-adds: the arithmetic, and the calls per tensor."""
        return self.arithmetic + CALLS * len(self.parameters)

    def affordable(self, wanted: int, work: float, least: int) -> int:
        """Products within an amount of work; `least` in any case."""
        return max(min(wanted, int(work / self.cost)), least)

    @property
    def like(self) -> Tensor:
        """A tensor of the type and device of the vectors."""
        return next(iter(self.parameters.values())).detach()

    @property
    def note(self) -> str:
        """On what the derivatives are taken."""
        return f"{self.size} trained parameters, {self.samples} samples"

    def operator(self, layer: str | None = None) -> Matvec:
        """Products v -> H v, of the whole matrix or of the diagonal block of one layer.

        Few samples: the graph of the gradient is kept, a product is one pass through it. Many:
        the gradient is taken anew, chunk by chunk, in every product.
        """
        parameters = self.parameters if layer is None else self._members(layer)
        tensors = list(parameters.values())
        if self.samples <= self.chunk:
            with _twice_differentiable():
                kept = hvp_operator(lambda: self.loss_of(0, self.samples), tensors)
            return _named(kept)

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for start in range(0, self.samples, self.chunk):
                stop = min(start + self.chunk, self.samples)
                part = hvp_operator(lambda a=start, b=stop: self.loss_of(a, b), tensors)
                total += part(v)
            return total

        return _named(product)

    def dense(self, layer: str | None = None) -> Tensor:
        """The matrix itself, symmetrized; one product per column."""
        size = self.block_size(layer)
        eye = torch.eye(size, dtype=self.like.dtype, device=self.like.device)
        matrix = self.operator(layer)(eye)
        return 0.5 * (matrix + matrix.mT)

    def block_size(self, layer: str | None = None) -> int:
        return self.size if layer is None else self.layers[layer].stop - self.layers[layer].start

    def _members(self, layer: str) -> dict[str, Tensor]:
        where, start, found = self.layers[layer], 0, {}
        for name, parameter in self.parameters.items():
            if where.start <= start < where.stop:
                found[name] = parameter
            start += parameter.numel()
        return found


def _named(operator: Matvec) -> Matvec:
    """The operator, whose products raise a named error where there is no second derivative."""

    def product(v: Tensor) -> Tensor:
        with _twice_differentiable():
            return operator(v)

    return product


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """NotApplicableError in place of autograd's own words for a missing second derivative."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one of them
        said = str(error)
        if "sparse" in said:
            raise NotApplicableError(
                "a layer gives sparse gradients, which have no second derivative: build it with "
                f"sparse=False (Embedding, EmbeddingBag); {said.splitlines()[0]}"
            ) from error
        if "derivative" in said or "differentiable" in said or "not implemented" in said:
            raise NotApplicableError(
                f"the model or the loss cannot be differentiated twice ({said.splitlines()[0]})"
            ) from error
        raise


def hessian_of(
    model: nn.Module, loss_fn: Any, x: Tensor, y: Tensor, reduction: str, chunk: int | None = None
) -> Hessian:
    """The Hessian at the present parameters of a private model (see `window_hessian`).

    A loss that couples its samples (`reduction` "other") is taken as a whole.

    Raises
    ------
    NotApplicableError
        No parameter requires a gradient.
    """
    trained = {id(p): n for n, p in trained_parameters(model).items()}
    parameters, layers, start = {}, {}, 0
    for layer, group in parameter_groups(model).items():
        members = {n: p for n, p in group.items() if id(p) in trained and p.numel()}
        stop = start + sum(p.numel() for p in members.values())
        if members:
            parameters.update(members)
            layers[layer] = slice(start, stop)
        start = stop
    n = len(x)

    def loss_of(a: int, b: int) -> Tensor:
        return mean_loss(model, loss_fn, x[a:b], y[a:b], reduction) * ((b - a) / n)

    if chunk is None:
        chunk = max(1, KEPT_SAMPLES // sequence_length(y))
    size = sum(p.numel() for p in parameters.values())
    work = max(float(size) * n, _multiply_adds(model, x[:1]) * n)
    return Hessian(parameters, layers, loss_of, n, n if reduction == "other" else chunk, work)


def _multiply_adds(model: nn.Module, x: Tensor) -> float:
    """Of one forward pass; weights that are used again and again (convolutions) count each time."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x.clone())
    return counter.get_total_flops() / 2


def sequence_length(y: Tensor) -> int:
    """Predictions per sample: the length of a sequence of class labels, else 1."""
    return 1 if y.is_floating_point() else max(y[0].numel(), 1)


def window_hessian(window: Window, most: int | None = None) -> Hessian:
    """The Hessian on the reference set of a window, or on its first samples (`most` of them)."""
    x, y = window.reference
    *_, reduction = sample_losses(window.loss_fn, window.outputs, y)
    if most is not None and reduction != "other":
        x, y = x[:most], y[:most]
    hessian = hessian_of(window.model, window.loss_fn, x, y, reduction)
    check_second_derivatives(hessian, len(x) if reduction == "other" else min(2, len(x)))
    return hessian


def check_second_derivatives(hessian: Hessian, samples: int) -> None:
    """NotApplicableError if a function in the model or the loss has a gradient only.

    Autograd stops silently at such a function (``once_differentiable``), as if it were linear: its
    mark in the graph of the gradient is the only trace.
    """
    with _twice_differentiable():
        gradients = torch.autograd.grad(
            hessian.loss_of(0, samples),
            list(hessian.parameters.values()),
            create_graph=True,
            materialize_grads=True,
        )
    nodes, seen = [g.grad_fn for g in gradients], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("Error"):
            raise NotApplicableError(
                "the model or the loss cannot be differentiated twice: a function in it is marked "
                "as once differentiable"
            )
        nodes += [child for child, _ in node.next_functions]


@contextmanager
def private_window(
    model: nn.Module, loss_fn: Any, data: Pair, dtype: torch.dtype
) -> Iterator[Window]:
    """A window on a copy in the precision `dtype`; nothing of the user's is changed.

    Raises
    ------
    TypeError, ValueError, NotApplicableError
        As `setting.window_of`; a dtype that is not float32 or float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    with copying.untouched():
        window = window_of(model, loss_fn, data)
        if dtype == torch.float32 and window.setting.dtype == torch.float64:
            setting = window.setting
            setting.dtype, setting.template = dtype, setting.template.float()
            setting.loss_fn = loss_copy(setting.loss_fn, dtype)
            setting.reference = to_precision(setting.reference, setting.template, dtype)
            window = Window(window.snapshot, None, setting)
        yield window


def vectors_that_fit(size: int) -> int:
    """How many vectors of this size a basis may hold."""
    return BASIS_ELEMENTS // max(size, 1)


def rademacher(hessian: Hessian, count: int, seed: int, size: int | None = None) -> Tensor:
    """(count, size) independent signs, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (count, size or hessian.size), generator=generator)
    return bits.to(hessian.like) * 2 - 1


def finite(products: Tensor) -> Tensor:
    """The products; ValueError if one is not finite."""
    if not bool(torch.isfinite(products).all()):
        raise ValueError(
            "a product with the Hessian is not finite: check the parameters, the data and the loss"
        )
    return products
