"""Shapes of what a traced model computes, and the steps that act on the input alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from thermolearn.core.errors import NotApplicableError

PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
Arguments = dict[str, tuple[tuple[Any, ...], dict[str, Any]]]


class _ShapeRun(fx.Interpreter):
    """Runs a graph; keeps shapes, and arguments that are no tensors."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.arguments: Arguments = {}
        self.at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        if n.op in ("call_function", "call_method", "call_module"):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            plain = tuple(None if isinstance(a, Tensor) else a for a in args)
            self.arguments[n.name] = plain, dict(kwargs)
        return result


class _DataRun(fx.Interpreter):
    """Runs what does not depend on the layers; the rest gives None."""

    def __init__(self, module: fx.GraphModule, layers: frozenset[str]):
        super().__init__(module, garbage_collect_values=False)
        self.layers = layers
        self.skipped: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.layers or self.skipped.intersection(n.all_input_nodes):
            self.skipped.add(n)
            return None
        return super().run_node(n)


def shapes_of(
    model: nn.Module, traced: fx.GraphModule, x: Tensor, layers: dict[str, str]
) -> tuple[dict[str, tuple[int, ...]], Arguments]:
    """Shape of one sample at every node, and what else the nodes are given.

    Found with a number of samples that is the size of no other axis.

    Raises
    ------
    ValueError
        The model cannot take samples of this shape; the message names the layer.
    NotApplicableError
        A node puts out no axis of samples; or the traced steps do not give what the model gives.
    """
    taken = {size for p in model.parameters() for size in p.shape} | set(x.shape[1:])
    count = next((p for p in PRIMES if p not in taken), 2 * max(taken) + 1)
    x = x[torch.arange(count, device=x.device) % len(x)]
    run = _ShapeRun(traced)
    try:
        with torch.no_grad():
            found, wanted = run.run(x.clone()), model(x.clone())
    except Exception as error:
        where = layers.get(run.at, run.at)
        sample = ", ".join(map(str, x.shape[1:]))
        raise ValueError(
            f"the model cannot take X of shape (n, {sample}): {where} gives "
            f"{str(error).splitlines()[0]!r}; the first axis of X counts samples, the others are "
            "one input of the model"
        ) from error
    if wanted.shape != found.shape or not torch.allclose(wanted, found, rtol=1e-6, atol=1e-9):
        raise NotApplicableError(
            "the traced steps of the model do not reproduce its outputs: it decides by the values "
            "of its inputs, is random, or works in place on a tensor that it reads later under "
            "another name (write x = x + y instead of x += y)"
        )
    for node, name in layers.items():
        if run.shapes.get(node, ())[:1] != (count,):
            raise NotApplicableError(
                f"{name} puts out a tensor whose first axis does not count the samples of X"
            )
    return {node: run.shapes[node][1:] for node in layers}, run.arguments


def run_on_data(module: fx.GraphModule, layers: frozenset[str], x: Tensor) -> dict[str, Tensor]:
    """Outputs of the nodes that act on the input alone, in front of the layers named."""
    run = _DataRun(module, layers)
    with torch.no_grad():
        run.run(x.clone())
    return {n.name: t.detach().double() for n, t in run.env.items() if isinstance(t, Tensor)}


def linear_on(function: Any, k: Tensor, lead: int, rank: int, full: bool, axis: int) -> Tensor:
    """A linear map of positions (a pool) applied to a covariance with all pairs of positions.

    K_out(p, p') = sum A(p, q) A(p', q') K(q, q'), A as the function applies it to a tensor
    (batch, ...) with one neuron at `axis` behind the batch axis; only p = p' if not `full`.
    """
    front, positions = k.shape[:lead], k.shape[lead : lead + rank]
    shape = (*positions[:axis], 1, *positions[axis:])

    def apply(t: Tensor) -> Tensor:  # (m, *positions) -> (m, *pooled)
        return function(t.reshape(-1, *shape)).squeeze(1 + axis)

    m, n = math.prod(front), math.prod(positions)
    once = apply(k.reshape(m, n, n).transpose(1, 2).reshape(m * n, *positions))
    pooled = once.shape[1:]
    p = math.prod(pooled)
    twice = apply(once.reshape(m, n, p).transpose(1, 2).reshape(m * p, *positions))
    twice = twice.reshape(m, p, p)
    if not full:
        return twice.diagonal(dim1=1, dim2=2).reshape(*front, *pooled)
    return twice.reshape(*front, *pooled, *pooled)
