"""For inputs of one shape: the layout of every signal, and where all pairs of positions count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.of_module.layout import NEURONS, Layout
from thermolearn.predict.kernels.of_module.operations import Op
from thermolearn.predict.kernels.of_module.shapes import shapes_of

MEANS = {torch.mean, "mean"}
PRIMES = (2, 3, 5, 7, 11, 13, 17)
Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a recursion over `ops` needs to know beside the numbers.

    Attributes
    ----------
    ops : list of Op
    result : int
        The operation whose output is the model's.
    layouts : list of Layout or None
        Of the output of every operation; None for data.
    shapes : list of tuple of int
        Of the output for one sample.
    full : list of bool
        Whether covariances between different positions are needed of it.
    pools : dict
        Operation: the average over positions, as a function of (m, *sizes).
    """

    ops: list[Op]
    result: int
    layouts: list[Layout | None]
    shapes: list[tuple[int, ...]]
    full: list[bool]
    pools: dict[int, Pool]

    def pair_elements(self) -> int:
        """Entries of the largest covariance of two samples."""
        return max(
            math.prod(self.shapes[k] if layout is None else layout.positions)
            for k, layout in enumerate(self._read_layouts())
        )

    def _read_layouts(self) -> list[Layout | None]:
        squared = []
        for k, layout in enumerate(self.layouts):
            if layout is None:
                readers = [r for r in self.ops[k].readers if self.layouts[r] is not None]
                sizes = [self.data_layout(k, r) for r in readers]
                layout = sizes[0] if sizes else Layout(1, (), ())
                full = any(self.full[r] for r in readers)
            else:
                full = self.full[k]
            squared.append(replace(layout, positions=layout.positions * 2) if full else layout)
        return squared

    def data_layout(self, k: int, reader: int) -> Layout:
        """Of data that an operation reads."""
        op, shape = self.ops[reader], self.shapes[k]
        if op.layer is not None:
            axis = 0 if op.window is not None else len(shape) - 1
        else:  # a sum with a signal
            other = next(self.layouts[i] for i in op.inputs if i != k)
            assert other is not None
            axis = other.neuron_axis
        return data_layout(shape, axis)


def data_layout(shape: tuple[int, ...], axis: int) -> Layout:
    """Every axis but one counts positions."""
    positions = tuple(s for i, s in enumerate(shape) if i != axis)
    ranks = iter(range(len(positions)))
    axes = tuple((NEURONS,) if i == axis else (next(ranks),) for i in range(len(shape)))
    return Layout(shape[axis], positions, axes)


def make_plan(
    ops: list[Op], result: int, model: nn.Module, traced: fx.GraphModule, x: Tensor
) -> Plan:
    """The plan for samples of the shape of x.

    Raises
    ------
    ValueError
        The model cannot take samples of this shape.
    NotApplicableError
        A layer acts on an axis of positions as if it held neurons, or mixes samples; the output
        has positions; the trace does not reproduce the model.
    """
    names = {op.node: op.name for op in ops[1:]}
    shapes, arguments = shapes_of(model, traced, x, names)
    found = [tuple(x.shape[1:]), *(shapes[op.node] for op in ops[1:])]
    plan = Plan(ops, result, [None], found, [False] * len(ops), {})
    for k, op in enumerate(ops[1:], 1):
        plan.layouts.append(None if op.kind == "data" else _layout(plan, k, op, arguments, traced))
    for k in reversed(range(len(ops))):
        plan.full[k] = any(ops[r].kind == "pool" or plan.full[r] for r in ops[k].readers)
    last = plan.layouts[result]
    assert last is not None
    if last.count != 1 or len(last.axes[last.neuron_axis]) != 1:
        raise NotApplicableError(
            f"the output has {last.count} positions per neuron (shape {found[result]} for one "
            "sample): a kernel is of one number per neuron; end the model with a global average "
            "(AdaptiveAvgPool2d(1), Flatten) or with Flatten and Linear"
        )
    return plan


def _layout(
    plan: Plan, k: int, op: Op, arguments: dict[str, Any], traced: fx.GraphModule
) -> Layout:
    shape = plan.shapes[k]
    before = plan.layouts[op.inputs[0]]
    if op.layer is not None:
        layout = before or plan.data_layout(op.inputs[0], k)
        return _affine_layout(op, layout, shape)
    if op.kind == "sum":
        return _sum_layout(plan, op)
    assert before is not None
    if op.kind == "shape":
        return before.reshaped(shape, op.name)
    if op.kind == "permute":
        return before.permuted(_order(op, arguments[op.node], len(shape)))
    if op.kind == "pool":
        pool, keep = _pool(op, before, arguments[op.node], traced)
        sizes = before.sizes()
        one = pool(torch.zeros(1, *(1 if i == before.neuron_axis else s
                                    for i, s in enumerate(sizes))))  # fmt: skip
        plan.pools[k] = pool
        layout = data_layout(
            tuple(before.width if i == before.neuron_axis else int(s)
                  for i, s in enumerate(one.shape[1:])), before.neuron_axis
        )  # fmt: skip
        return layout if keep else layout.reshaped(shape, op.name)
    if op.norm is not None:
        axes = before.axes[len(before.axes) - len(op.norm.shape) :]
        if not any(NEURONS in axis for axis in axes):
            raise NotApplicableError(
                f"{op.name} normalizes over positions, not over neurons: its average does not "
                "become sharp in the wide limit; normalize over the axis of channels"
            )
    return before


def _affine_layout(op: Op, layout: Layout, shape: tuple[int, ...]) -> Layout:
    axis = 0 if op.window is not None else len(layout.axes) - 1
    if layout.neuron_axis != axis:
        raise NotApplicableError(
            f"{op.name} mixes positions (axis {axis + 1} of its input), not neurons (axis "
            f"{layout.neuron_axis + 1}): its outputs stay correlated from neuron to neuron and "
            "there is no kernel recursion; permute the axes so that it acts on channels"
        )
    if op.window is not None:
        return data_layout(shape, 0)
    rest = layout.without(axis)
    return Layout(shape[-1], rest.positions, (*rest.axes, (NEURONS,)))


def _sum_layout(plan: Plan, op: Op) -> Layout:
    shapes = {plan.shapes[i] for i in op.inputs}
    if len(shapes) != 1:
        raise NotApplicableError(
            f"{op.name} adds tensors of different shapes ({' and '.join(map(str, shapes))} for "
            "one sample); broadcasting sums have no kernel here"
        )
    layouts = [plan.layouts[i] for i in op.inputs]
    known = [layout for layout in layouts if layout is not None]
    if len(known) == 2 and known[0] == known[1]:
        return known[0]
    first = known[0]
    tidy = all(len(x.axes[x.neuron_axis]) == 1 and x.neuron_axis == first.neuron_axis
               for x in known)  # fmt: skip
    if not tidy:
        raise NotApplicableError(
            f"{op.name} adds signals whose neurons lie on different axes, or flattened with "
            "positions; add them before they are flattened"
        )
    return data_layout(next(iter(shapes)), first.neuron_axis)


def _order(op: Op, arguments: Any, rank: int) -> tuple[int, ...]:
    args, kwargs = arguments
    probe = torch.empty(PRIMES[: rank + 1])
    out = call(op.target, probe, args, kwargs)
    order = tuple(PRIMES.index(s) - 1 for s in out.shape)
    if order[0] != -1:
        raise NotApplicableError(f"{op.name} moves the axis that counts the samples")
    return order[1:]


def call(target: Any, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A function or a method by name, on another tensor than it was called with."""
    rest = {name: value for name, value in kwargs.items() if name != "input"}
    if isinstance(target, str):
        return getattr(x, target)(*args[1:], **rest)
    return target(x, *args[1:], **rest)


def _pool(op: Op, layout: Layout, arguments: Any, traced: fx.GraphModule) -> tuple[Pool, bool]:
    """The average as a function, and whether its output has the axes of the model's tensor."""
    args, kwargs = arguments
    axis = layout.neuron_axis
    if any(len(a) != 1 for a in layout.axes) or layout != data_layout(layout.sizes(), axis):
        raise NotApplicableError(
            f"{op.name} averages over an axis that several others were merged into; average "
            "before the reshape"
        )
    if op.target in MEANS:
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        rank = len(layout.axes) + 1
        chosen = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
        axes = tuple(sorted(d % rank for d in chosen))
        if 0 in axes or axis + 1 in axes:
            raise NotApplicableError(
                f"{op.name} averages over {'samples' if 0 in axes else 'neurons'}: only averages "
                "over positions have a kernel"
            )
        return (lambda t: t.mean(axes, keepdim=True)), False
    module = traced.get_submodule(op.target) if _is_module(op, traced) else None
    name = type(module).__name__ if module is not None else getattr(op.target, "__name__", "")
    if axis != 0 or f"{len(layout.axes) - 1}d" not in name:
        raise NotApplicableError(f"{op.name} averages over neurons, not over positions alone")
    if module is not None:
        return (lambda t: type(module).forward(module, t)), True
    return (lambda t: call(op.target, t, args, kwargs)), True


def _is_module(op: Op, traced: fx.GraphModule) -> bool:
    return any(n.name == op.node and n.op == "call_module" for n in traced.graph.nodes)
