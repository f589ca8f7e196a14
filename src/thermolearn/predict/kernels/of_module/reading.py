"""The layers of a traced model as operations on a kernel, or the name of the one that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from thermolearn.core.activation import MODULES, Activation, resolve_activation
from thermolearn.core.checks import real
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.canonical.tracing import TracedModel
from thermolearn.measure.propagation.graph import (
    ADDS,
    OVER,
    SUBS,
    TIMES,
    Step,
    trace_steps,
)
from thermolearn.predict.kernels.dual import dual
from thermolearn.predict.kernels.empirical.inputs import private_model
from thermolearn.predict.kernels.of_module.convolutional import CONVOLUTIONS, window_of
from thermolearn.predict.kernels.of_module.operations import Act, LayerRow, Norm, Op
from thermolearn.predict.kernels.of_module.refusals import (
    BATCH_NORMS,
    READOUT,
    not_traced,
    title_of,
    why_not,
)
from thermolearn.predict.kernels.of_module.weight_law import note_on_kurtosis, note_on_mean

FEW = 30  # weights or biases below which their mean square says little of a variance
AVERAGES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
AVERAGE_FUNCTIONS = {
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d, torch.mean, "mean",
}  # fmt: skip
PERMUTES = {"permute", "transpose", torch.permute, torch.transpose}

MOST_SEEN = 64
_seen: dict[str, Activation] = {}


class Reader:
    """One walk along the wiring, which collects the operations and refuses by name."""

    def __init__(
        self,
        model: nn.Module,
        sigma_w2: float | Mapping[str, float] | None,
        sigma_b2: float | Mapping[str, float] | None,
        tangent: bool,
    ):
        model = self.model = private_model(model, torch.float64)
        try:
            self.steps = trace_steps(model)
        except NotApplicableError as error:
            raise NotApplicableError(not_traced(model, error)) from error
        self.root = len(self.steps) == 2 and not any(True for _ in model.children())
        self.traced = TracedModel(_Alone(model) if self.root else model)
        self.nodes: list[fx.Node] = self.traced.nodes
        self.given = {"sigma_w2": sigma_w2, "sigma_b2": sigma_b2}
        self.tangent = tangent
        self.notes: list[str] = []
        self.used: dict[int, str] = {}
        self._check_given()
        self._refuse_overwritten()
        self.ops = [Op("input", "the input", ())]
        for step, node in zip(self.steps[1:], self.nodes, strict=True):
            self.ops.append(self._read(step, node))
        for k, op in enumerate(self.ops):
            for source in dict.fromkeys(op.inputs):
                self.ops[source].readers.append(k)
        self.result = 1 + self.nodes.index(self.traced.result)
        self._check_output()
        self._note_laws()

    # -- one step ------------------------------------------------------------------------------
    def _read(self, step: Step, node: fx.Node) -> Op:
        k, inputs = len(self.ops), tuple(step.inputs)
        name = title_of(step, node)
        op = Op("data", name, inputs, node.name, node.target)
        before = [self.ops[i] for i in inputs]
        op.seen = frozenset().union(*(b.seen for b in before))
        if step.kind != "affine" and all(b.kind in ("input", "data") for b in before):
            self._check_data(step, node, op)
            return op
        if step.kind == "affine":
            op.kind, op.roots, op.seen = "affine", frozenset({k}), op.seen | {k}
            op.layer = self._layer(name, step, before[0])
            if isinstance(step.module, CONVOLUTIONS):
                op.window = window_of(name, step.module)
        elif step.kind == "activation":
            self._activation(op, step, before[0])
        elif step.kind == "norm":
            op.kind, op.roots = "norm", before[0].roots
            op.norm = self._norm(op, step)
        elif step.kind == "add":
            self._sum(op, step, before)
        elif step.kind == "scale":
            op.kind, op.roots, op.factors = "scale", before[0].roots, step.factors
        elif _is_average(step, node):
            op.kind, op.roots = "pool", before[0].roots
        elif step.kind == "shape":
            op.kind = "permute" if node.target in PERMUTES else "shape"
            op.roots = before[0].roots
        else:
            raise NotApplicableError(f"{name} {why_not(step)}")
        return op

    def _layer(self, name: str, step: Step, before: Op) -> LayerRow:
        module: Any = step.module
        plain = isinstance(module._parameters.get("weight"), nn.Parameter)
        if not plain or parametrize.is_parametrized(module):
            raise NotApplicableError(
                f"{name} computes its weight from other parameters (parametrized, pruned or "
                "lazy): its law at initialization is not known; remove the parametrization"
            )
        for key in (module.weight, module.bias):
            if key is not None and id(key) in self.used:
                raise NotApplicableError(
                    f"{name} shares its weights with {self.used[id(key)]}: layers are no longer "
                    "independent and the recursion does not hold; give each layer weights of its "
                    "own"
                )
        for key in (module.weight, module.bias):
            self.used |= {} if key is None else {id(key): name}
        title = step.name
        if not all(bool(torch.isfinite(p).all()) for p in module.parameters(recurse=False)):
            raise ValueError(f"{name} has weights that are not finite (NaN or inf)")
        weight = module.weight.detach().double()
        w2, w_given = self._variance("sigma_w2", title, weight.square().mean() * weight[0].numel())
        b2, b_given = 0.0, w_given
        if module.bias is not None:
            b2, b_given = self._variance("sigma_b2", title, module.bias.detach().double().square())
        elif self._named("sigma_b2", title):
            raise ValueError(f"sigma_b2 names layer {title!r}, which has no bias")
        self._note_few(title, module, w_given, b_given)
        source = {(0, 0): "weights", (1, 1): "given"}.get((w_given, b_given), "given, weights")
        trained = (
            bool(module.weight.requires_grad),
            module.bias is not None and bool(module.bias.requires_grad),
        )
        behind = self._acting_before(before)
        return LayerRow(
            title, type(module).__name__, weight[0].numel(), weight.shape[0], w2, b2, source,
            behind, trained,
        )  # fmt: skip

    def _variance(self, which: str, layer: str, squares: Tensor) -> tuple[float, int]:
        given = self.given[which]
        if isinstance(given, Mapping):
            given = given.get(layer)
            which = f"{which}[{layer!r}]"
        if given is None:
            return float(squares.mean()), 0
        return real(which, given, least=0.0), 1

    def _is_read(self, which: str, layer: str) -> bool:
        given = self.given[which]
        return given is None or (isinstance(given, Mapping) and given.get(layer) is None)

    def _named(self, which: str, layer: str) -> bool:
        given = self.given[which]
        return isinstance(given, Mapping) and bool(given.get(layer))

    def _note_few(self, title: str, module: Any, w_given: int, b_given: int) -> None:
        if not w_given and module.weight.numel() < FEW:
            self.notes.append(
                f"sigma_w2 of {title!r} is the mean square of {module.weight.numel()} weights "
                "only: give sigma_w2= for the law they were drawn from"
            )
        bias = module.bias
        if bias is None or b_given:
            return
        if bias.numel() < FEW and bool(bias.detach().any()):
            self.notes.append(
                f"sigma_b2 of {title!r} is the mean square of {bias.numel()} bias(es) only: give "
                "sigma_b2= for the law they were drawn from"
            )

    def _note_laws(self) -> None:
        """In front of activations: weights and biases of another mean than 0, and weights that are
        not Gaussian, of layers that read the input (behind many neurons the sums become so)."""
        found: set[int] = set()
        for op in self.ops:
            if op.act is not None:
                found |= self.ops[op.inputs[0]].roots or set()
        module: Any
        for k in sorted(found):
            title, module = self.steps[k].name, self.steps[k].module
            weight, bias = (
                None if p is None or not self._is_read(which, title) else p.detach().double()
                for which, p in (("sigma_w2", module.weight), ("sigma_b2", module.bias))
            )
            notes = [note_on_mean(title, weight, bias)]
            if weight is not None and self.ops[self.ops[k].inputs[0]].kind in ("input", "data"):
                notes.append(note_on_kurtosis(title, weight))
            self.notes += [note for note in notes if note is not None]

    def _acting_before(self, op: Op) -> str:
        while len(op.inputs) == 1 and op.kind in ("shape", "permute", "pool", "scale", "norm"):
            op = self.ops[op.inputs[0]]
        return op.act.dual.name if op.act is not None else ""

    def _activation(self, op: Op, step: Step, before: Op) -> None:
        assert step.activation is not None
        if before.roots is None:
            raise NotApplicableError(
                f"{op.name} reads a signal that is not Gaussian in the wide limit "
                f"({before.name}): there is no kernel recursion; put a Linear or Conv layer "
                "between them (in a residual network: activate inside the branch, not the stream)"
            )
        module = step.module
        if self.tangent and isinstance(module, nn.PReLU) and module.weight.requires_grad:
            raise NotApplicableError(
                f"{op.name} trains its slope, which all neurons share: its part of the tangent "
                "kernel stays random in the wide limit; freeze it (requires_grad_(False)) or use "
                "LeakyReLU"
            )
        activation = _one_of_its_kind(step.activation, module)
        op.kind, op.act = "activation", Act(dual(activation), activation)

    def _norm(self, op: Op, step: Step) -> Norm:
        module: Any = step.module
        if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
            raise NotApplicableError(f"{op.name} {why_not(step)}")
        weight, bias = module.weight, getattr(module, "bias", None)
        for p in (weight, bias):
            if p is not None and not bool(torch.isfinite(p).all()):
                raise ValueError(f"{op.name} has weights that are not finite (NaN or inf)")
        same = weight is None or bool((weight == weight.flatten()[0]).all())
        if not same or (bias is not None and bool(bias.detach().any())):
            raise NotApplicableError(
                f"{op.name} is not at its initial values (one weight for all neurons, no bias): "
                "its neurons are no longer equal in law; call its reset_parameters() on a copy"
            )
        if any(id(p) in self.used for p in (weight, bias) if p is not None):
            raise NotApplicableError(f"{op.name} is used twice; give each place a layer of its own")
        self.used |= {id(p): op.name for p in (weight, bias) if p is not None}
        gain = 1.0 if weight is None else float(weight.detach().double().flatten()[0])
        trained = tuple(p is not None and bool(p.requires_grad) for p in (weight, bias))
        if self.tangent and trained[0] and gain == 0:
            raise NotApplicableError(
                f"{op.name} starts with weight 0: freeze it, or start it away from zero"
            )
        eps = torch.finfo(torch.float64).eps if module.eps is None else float(module.eps)
        return Norm(
            tuple(module.normalized_shape), eps, isinstance(module, nn.LayerNorm), gain,
            (trained[0], trained[1]),
        )  # fmt: skip

    def _sum(self, op: Op, step: Step, before: list[Op]) -> None:
        one, other = before
        if not (_fresh(one, other) or _fresh(other, one)):
            raise NotApplicableError(
                f"{op.name} adds {one.name} and {other.name}, which are correlated (neither ends "
                "in weights that the other has not seen): there is no kernel recursion; end the "
                "branch with a Linear or Conv layer"
            )
        op.kind, op.factors = "sum", step.factors
        if one.roots is not None and other.roots is not None:
            op.roots = one.roots | other.roots

    def _check_data(self, step: Step, node: fx.Node, op: Op) -> None:
        """Refuses what may mix samples, or trains, in front of the first layer."""
        refused = isinstance(step.module, BATCH_NORMS)
        arithmetic = node.target in ADDS | SUBS | TIMES | OVER and len(step.inputs) <= 2
        known = step.kind in ("activation", "norm", "shape", "scale", "add", "pool")
        mean = node.target in AVERAGE_FUNCTIONS
        if refused or not (known or mean or arithmetic):
            raise NotApplicableError(f"{op.name} {why_not(step)}")
        if self.tangent and self.traced.is_parametric(node):
            module = step.module
            if module is None or any(p.requires_grad for p in module.parameters()):
                raise NotApplicableError(
                    f"{op.name} acts on the input itself and is trained: freeze it "
                    "(requires_grad_(False)) or apply it to the data beforehand"
                )

    # -- the whole -----------------------------------------------------------------------------
    def _check_given(self) -> None:
        names = {s.name for s in self.steps if s.kind == "affine"}
        for which, given in self.given.items():
            if isinstance(given, Mapping):
                unknown = [str(n) for n in given if n not in names]
                if unknown:
                    raise ValueError(
                        f"{which} names {unknown[0]!r}, which is no layer of the model; its "
                        f"layers are {', '.join(sorted(names))}"
                    )
            elif given is not None:
                real(which, given, least=0.0)

    def _refuse_overwritten(self) -> None:
        """In-place steps on what another step reads later."""
        alias = list(range(len(self.steps)))
        for k, (step, node) in enumerate(zip(self.steps[1:], self.nodes, strict=True), 1):
            in_place = self.traced.works_in_place(node)
            if step.inputs and (in_place or step.kind == "shape"):
                alias[k] = alias[step.inputs[0]]
            if not in_place or not step.inputs:
                continue
            late = [
                later
                for later in range(k + 1, len(self.steps))
                if any(i < k and alias[i] == alias[k] for i in self.steps[later].inputs)
            ]
            if late:
                raise NotApplicableError(
                    f"{title_of(step, node)} works in place on a tensor that "
                    f"{self.steps[late[0]].name!r} reads later, which then sees the new values; "
                    "use inplace=False"
                )

    def _check_output(self) -> None:
        last = self.ops[self.result]
        if last.roots is None:
            raise NotApplicableError(
                f"the model ends with {last.name}, whose output is not Gaussian in the wide "
                f"limit; {READOUT}"
            )
        trained = [o for o in self.ops if o.layer is not None and any(o.layer.trained)]
        norms = [o for o in self.ops if o.norm is not None and any(o.norm.trained)]
        if self.tangent and not trained and not norms:
            raise NotApplicableError(
                "no parameter of the model requires a gradient: its tangent kernel is zero; "
                "use kind='nngp'"
            )


class _Alone(nn.Module):
    """A model that is a layer itself, as a submodule: a trace would look inside it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _one_of_its_kind(activation: Activation, module: nn.Module | None) -> Activation:
    """The same object for equal modules of torch, whose tabulated averages are then shared."""
    if module is None or not type(module).__module__.startswith("torch.nn"):
        return activation
    if next(module.parameters(), None) is not None:
        return activation
    text = repr(module).replace("inplace=True", "")
    known = MODULES.get(type(module))
    if known and text == repr(type(module)()):
        return resolve_activation(known)
    if len(_seen) >= MOST_SEEN:
        _seen.clear()
    return _seen.setdefault(text, activation)


def _fresh(one: Op, other: Op) -> bool:
    """Whether one is linear in weights of mean zero that the other has not seen."""
    return one.roots is not None and not one.roots & other.seen


def _is_average(step: Step, node: fx.Node) -> bool:
    return isinstance(step.module, AVERAGES) or (
        node.op != "call_module" and node.target in AVERAGE_FUNCTIONS
    )
