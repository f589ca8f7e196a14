"""The traced graph of a model: where one tensor carries all the data, and pieces as modules."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from thermolearn.core.activation import Elementwise

ADVICE = "pass segments=[module, ...] whose composition is the model"
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
IN_PLACE_OPERATORS = {operator.iadd, operator.isub, operator.imul, operator.itruediv,
                      operator.setitem}  # fmt: skip
FUNCTIONAL_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout}


class _Tracer(fx.Tracer):
    """Does not look inside activations of the library's or the user's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Elementwise) or super().is_leaf_module(m, module_qualified_name)


class TracedModel:
    """A model's graph, without what its output does not depend on.

    Attributes
    ----------
    graph_module : fx.GraphModule
    nodes : list of fx.Node
        The steps through which data flows, in order of execution.
    result : fx.Node
        The node that is returned.
    """

    def __init__(self, model: nn.Module):
        refuse_unsupported(model)
        name = type(model).__name__
        try:
            tracer = _Tracer()
            graph = tracer.trace(model)
            self.graph_module = fx.GraphModule(tracer.root, graph, name)
        except Exception as error:
            raise TypeError(
                f"{name} cannot be traced into segments "
                f"({type(error).__name__}: {str(error).split(chr(10))[0]}); {ADVICE}"
            ) from error
        everything = list(self.graph_module.graph.nodes)
        inputs = [n for n in everything if n.op == "placeholder"]
        if len([n for n in inputs if not n.args]) != 1 and len(inputs) != 1:
            raise TypeError(f"{name} takes {len(inputs)} inputs, not one; {ADVICE}")
        result = next(n for n in everything if n.op == "output").args[0]
        if not isinstance(result, fx.Node):
            raise TypeError(f"the model returns several values, not one tensor; {ADVICE}")
        self.result = result
        self._constants = _constant_nodes(everything)
        needed = self._needed(everything)
        self._batch_sizes = {n for n in needed if _is_batch_size(n, needed)}
        skip = ("placeholder", "get_attr", "output")
        self.nodes = [
            n
            for n in everything
            if n in needed
            and n.op not in skip
            and n not in self._constants
            and n not in self._batch_sizes
        ]
        if not self.nodes:
            raise TypeError(f"the model computes nothing; {ADVICE}")
        for node in self.nodes:
            if node.target in FUNCTIONAL_DROPOUTS and _dropout_is_active(node):
                raise TypeError(
                    f"{name} calls functional dropout with training=True: it is random in eval "
                    "mode too; pass training=self.training"
                )

    def module(self, node: fx.Node) -> nn.Module | None:
        """The submodule that a node calls."""
        if node.op != "call_module":
            return None
        return self.graph_module.get_submodule(str(node.target))

    def is_parametric(self, node: fx.Node) -> bool:
        """Whether the node calls a module with parameters or reads a parameter."""
        module = self.module(node)
        if module is not None:
            return any(True for _ in module.parameters())
        return any(self._reads_parameter(n) for n in node.all_input_nodes)

    def _reads_parameter(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            found: Any = self.graph_module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return isinstance(found, nn.Parameter)
        return node in self._constants and any(map(self._reads_parameter, node.all_input_nodes))

    def data_inputs(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that depend on the states."""
        skip = self._constants | self._batch_sizes
        return [n for n in node.all_input_nodes if n not in skip]

    def _needed(self, everything: list[fx.Node]) -> set[fx.Node]:
        """What the result depends on, with in-place steps on any of it."""
        needed = _closure(self.result)
        for node in everything:
            if self.works_in_place(node) and needed.intersection(node.all_input_nodes):
                needed |= _closure(node)
        return needed

    def works_in_place(self, node: fx.Node) -> bool:
        """Whether the node overwrites a tensor that it is given."""
        if node.op == "call_module":
            return bool(getattr(self.module(node), "inplace", False))
        name = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_method":
            return name.endswith("_") and not name.endswith("__")
        if node.op != "call_function":
            return False
        named = name.endswith("_") and not name.endswith("__")
        return named or node.target in IN_PLACE_OPERATORS or bool(node.kwargs.get("inplace"))

    def atoms(self) -> list[list[fx.Node]]:
        """Groups of nodes between consecutive points where one tensor carries all the data."""
        position = {node: i for i, node in enumerate(self.nodes)}
        last_use = {
            node: max((position[u] for u in node.users if u in position), default=-1)
            for node in (*self.graph_module.graph.nodes,)
            if node in position or node.op == "placeholder"
        }
        last_use[self.result] = len(self.nodes)
        atoms: list[list[fx.Node]] = []
        current: list[fx.Node] = []
        for i, node in enumerate(self.nodes):
            current.append(node)
            alive = [n for n, last in last_use.items() if last > i and position.get(n, -1) <= i]
            if alive == [node]:
                atoms.append(current)
                current = []
        if current:  # in-place steps behind the returned node
            atoms.append(current)
        return atoms

    def subgraph(self, nodes: list[fx.Node]) -> fx.GraphModule:
        """The nodes as a module of one input; parameters are shared with the model.

        Its output is the result of the model if that is among the nodes, else the last of them.
        """
        inside, graph = set(nodes), fx.Graph()
        entry = graph.placeholder("x")
        copies: dict[fx.Node, fx.Node] = {}

        def source(node: fx.Node) -> fx.Node:
            if node in self._constants and node not in copies:
                copies[node] = graph.node_copy(node, source)
            if node in self._batch_sizes and node not in copies:
                copies[node] = graph.call_method("size", (entry, 0))
            return copies.get(node, entry) if node not in inside else copies[node]

        for node in nodes:
            copies[node] = graph.node_copy(node, source)
        graph.output(copies[self.result if self.result in inside else nodes[-1]])
        return fx.GraphModule(self.graph_module, graph)


def refuse_unsupported(model: nn.Module) -> None:
    """Say at once, and by name, what has no segmentation."""
    if hasattr(model, "_orig_mod"):
        raise TypeError("the model is compiled: pass the module that was given to torch.compile")
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__})" if name else type(module).__name__
        if isinstance(module, RECURRENT):
            raise TypeError(
                f"{where} is recurrent: build a Septuple from its weight matrix (dense method)"
            )
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            raise TypeError(
                f"{where} reads integer tokens, which are not neuron states; "
                "measure the part of the model behind it"
            )
        if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters(recurse=False)):
            raise TypeError(f"{where} has uninitialized parameters: run one forward pass first")


def _closure(node: fx.Node) -> set[fx.Node]:
    """A node and everything it depends on."""
    found, waiting = set(), [node]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.all_input_nodes
    return found


def _constant_nodes(everything: list[fx.Node]) -> set[fx.Node]:
    """Parameters, buffers and what is computed from them alone."""
    constants: set[fx.Node] = set()
    for node in everything:
        if node.op == "get_attr" or (
            node.op not in ("placeholder", "output")
            and all(n in constants for n in node.all_input_nodes)
        ):
            constants.add(node)
    return constants


def is_shape_tuple(node: Any) -> bool:
    """``x.shape`` or ``x.size()``."""
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_method" and node.target == "size":
        return len(node.args) == 1 and not node.kwargs
    return node.target is getattr and node.args[1:] == ("shape",)


def _is_batch_size(node: fx.Node, needed: set[fx.Node]) -> bool:
    """A node that only knows the number of samples, which is the same in every segment."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,) or (is_shape_tuple(node) and _only_first(node, needed))
    if node.target is operator.getitem and node.args[1] == 0:
        return is_shape_tuple(node.args[0])
    return is_shape_tuple(node) and _only_first(node, needed)


def _only_first(node: fx.Node, needed: set[fx.Node]) -> bool:
    """Whether only the first element of a shape is read."""
    readers = [u for u in node.users if u in needed]
    return all(u.target is operator.getitem and u.args[1] == 0 for u in readers)


def _dropout_is_active(node: fx.Node) -> bool:
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
    return training is not False
