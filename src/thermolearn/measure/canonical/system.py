"""The septuple of a torch model: states of all neurons, local errors, Jacobian blocks.

(x, P_in, P_out, w, b, f, H) of V. Vanchurin, arXiv:2004.09280. A model is cut into segments
(`segments`); the state x of all neurons is the list of segment outputs, with the inputs as layer 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.canonical.jacobian import JacobianBlocks
from thermolearn.measure.canonical.operators import SegmentOperator
from thermolearn.measure.canonical.segments import (
    DROPOUTS,
    NORMS,
    Segment,
    explicit_segments,
    segment_model,
)

INPUTS = ("free", "clamped")
REFERENCES = ("fixed-point", "origin", "flat")


def _hash(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().cpu().numpy().tobytes()).hexdigest()


class NeuronSystem:
    """A feed-forward torch model seen as one system of N neurons.

    Bulk loss H(x) = 1/2 sum_l |x_l - f_l(x_{l-1})|^2 - (m/2) |x - x_ref|^2, with f_0 = data for
    free inputs. All work is done in float64 on copies of the parameters; the model is not changed.

    Parameters
    ----------
    model : nn.Module
        One batch tensor in, one batch tensor out; in eval mode if it has normalization or dropout.
    segments : "auto" or sequence of modules
        How the model is cut (it sets N and every extensive number). A sequence must compose to
        the model, which is checked on the first data.
    inputs : "free" or "clamped"
        Whether the input neurons fluctuate (then the first layer's weights enter) or not.
    reference : "fixed-point", "origin" or "flat"
        Where reference measure and mass are centered; "flat" has no reference.

    Raises
    ------
    TypeError
        The model cannot be cut; the message names the module.
    ValueError
        Unknown option, NaN weights, or BatchNorm/Dropout in training mode (BatchNorm couples the
        samples, dropout is random).
    """

    def __init__(
        self,
        model: nn.Module,
        segments: str | Sequence[Any] = "auto",
        inputs: str = "free",
        reference: str = "fixed-point",
    ):
        if inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {INPUTS}, got {inputs!r}")
        if reference not in REFERENCES:
            raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
        for name, module in model.named_modules():
            if module.training and isinstance(module, (*NORMS, *DROPOUTS)):
                if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
                    continue
                raise ValueError(
                    f"module {name!r} ({type(module).__name__}) is in training mode: call "
                    "model.eval() first (batch statistics couple samples, dropout is random)"
                )
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise ValueError(f"parameter {name!r} of the model has NaN or infinite values")
        self.model, self.inputs, self.reference = model, inputs, reference
        if isinstance(segments, str):
            if segments != "auto":
                raise ValueError(f"segments must be 'auto' or a list of modules, got {segments!r}")
            self.segments = segment_model(model)
        else:
            self.segments = explicit_segments(segments)
        self._composed = False
        self._shapes: list[torch.Size] = []

    # -- shapes and states -----------------------------------------------------------------------

    def _input(self, x: Any) -> Tensor:
        """The batch as a float64 tensor, validated."""
        x = torch.as_tensor(x)
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(f"x must be a non-empty batch (B, ...), got shape {tuple(x.shape)}")
        if not (x.is_floating_point() or x.dtype in (torch.uint8, torch.bool)):
            raise TypeError(
                f"x has dtype {x.dtype}: integer tokens are not neuron states; give real inputs"
            )
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x has NaN or infinite values")
        return x.double()

    def _call(self, module: nn.Module, x: Tensor) -> Tensor:
        """The module on a copy of x (it may work in place) with its tensors in float64."""
        tensors = {
            name: t.detach().double() if t.is_floating_point() else t
            for name, t in (*module.named_parameters(), *module.named_buffers())
        }
        return functional_call(module, tensors, (x.clone(),))

    def _forward(self, x: Tensor) -> list[Tensor]:
        """[x_0, ..., x_L] in their own shapes; remembers the shapes."""
        states = [x]
        for i, segment in enumerate(self.segments):
            try:
                out = self._call(segment.module, states[-1])
            except RuntimeError as error:
                raise ValueError(
                    f"segment {segment.name!r} does not take states of shape "
                    f"{tuple(states[-1].shape[1:])}: {str(error).splitlines()[0]}"
                ) from error
            if not isinstance(out, Tensor) or out.shape[0] != x.shape[0]:
                raise TypeError(f"segment {i} ({segment.name}) does not return one batch tensor")
            states.append(out)
        self._shapes = [s.shape[1:] for s in states]
        if not self._composed:
            self._check_composition(x, states[-1])
        return states

    def _check_composition(self, x: Tensor, output: Tensor) -> None:
        """The segments compose to the model, and the model treats samples one by one."""
        expected = self._call(self.model, x)
        scale = float(expected.abs().max())
        if expected.shape != output.shape or not torch.allclose(
            expected, output, rtol=0, atol=1e-9 * scale
        ):
            raise ValueError("the segments do not compose to the model on this data")
        alone = self._call(self.model, x[:1])
        if not torch.allclose(alone, expected[:1], rtol=0, atol=1e-6 * scale):
            raise TypeError(
                "the model couples the samples of a batch (or is random): an output changes when "
                "its sample is passed alone"
            )
        self._composed = len(x) > 1  # one sample alone cannot show a coupling

    @torch.no_grad()
    def states(self, x: Any) -> list[Tensor]:
        """The forward-pass state x*: [x_0 (B, n_0), ..., x_L (B, n_L)], float64."""
        return [s.flatten(1) for s in self._forward(self._input(x))]

    def widths(self, x: Any) -> list[int]:
        """Neurons per layer of the ensemble (without layer 0 if the inputs are clamped)."""
        widths = [s.shape[1] for s in self.states(x)]
        return widths if self.inputs == "free" else widths[1:]

    def apply(self, layer: int, state: Tensor) -> Tensor:
        """f_l of flat states (B, n_{l-1}) -> (B, n_l), l = 1..L."""
        shaped = state.reshape(state.shape[0], *self._shapes[layer - 1])
        return self._call(self.segments[layer - 1].module, shaped).flatten(1)

    def segmentation(self, x: Any) -> list[dict[str, Any]]:
        """What the neurons are, ready to be stored with a result."""
        self.states(x)
        return [
            {
                "name": segment.name,
                "modules": list(segment.modules),
                "in_shape": list(self._shapes[i]),
                "neurons": int(self._shapes[i + 1].numel()),
                "elementwise": segment.elementwise,
            }
            for i, segment in enumerate(self.segments)
        ]

    # -- losses ----------------------------------------------------------------------------------

    def local_errors(self, states: Sequence[Tensor], x: Any) -> list[Tensor]:
        """e_l = x_l - f_l(x_{l-1}), with e_0 = x_0 - data; shapes (B, n_l)."""
        data = self._input(x)
        if not self._shapes:
            self.states(x)
        if len(states) != len(self.segments) + 1:
            raise ValueError(f"states must have {len(self.segments) + 1} layers, got {len(states)}")
        errors = [states[0] - data.flatten(1)]
        for layer in range(1, len(states)):
            errors.append(states[layer] - self.apply(layer, states[layer - 1]))
        return errors

    def bulk_loss(self, states: Sequence[Tensor], x: Any, mass: float = 0.0) -> Tensor:
        """H = 1/2 sum_l |e_l|^2 - (m/2) |x - x_ref|^2 per sample, shape (B,).

        The sums run over the neurons of the ensemble: clamped inputs carry neither error nor mass
        (they must equal the data).
        """
        first = 0 if self.inputs == "free" else 1
        if first and not torch.equal(states[0], self._input(x).flatten(1)):
            raise ValueError("the inputs are clamped: states[0] must equal the data")
        errors = self.local_errors(states, x)
        loss = sum(0.5 * (e**2).sum(1) for e in errors[first:])
        if mass:
            center = self.states(x)
            for state, fixed in zip(states[first:], center[first:], strict=True):
                shift = state if self.reference == "origin" else state - fixed
                loss = loss - 0.5 * mass * (shift**2).sum(1)
        return torch.as_tensor(loss)

    def boundary_loss(self, x: Any, target: Any, kind: str = "supervised") -> Tensor:
        """Loss at the boundary rows of the data state, per sample, shape (B,).

        "supervised": 1/2 |y - x_out|^2 with clamped inputs. "unsupervised": only the inputs are
        boundary and a feed-forward input row has no incoming weight, so that the loss is 0
        identically; it is defined for recurrent weights (`Septuple.boundary_loss`).
        """
        if kind == "unsupervised":
            raise NotApplicableError(
                "a feed-forward net has no weights into its inputs: the unsupervised boundary loss "
                "is zero identically; use a Septuple with recurrent weights"
            )
        if kind != "supervised":
            raise ValueError(f"kind must be 'supervised' or 'unsupervised', got {kind!r}")
        output = self.states(x)[-1]
        y = torch.as_tensor(target).double().reshape(len(output), -1)
        if y.shape != output.shape:
            raise ValueError(
                f"target has {y.shape[1]} values per sample, the output {output.shape[1]}"
            )
        return 0.5 * ((y - output) ** 2).sum(1)

    def data_state(self, x: Any, target: Any) -> list[Tensor]:
        """Inputs = data, hidden = forward pass, outputs = target: bulk loss = boundary loss."""
        states = self.states(x)
        y = torch.as_tensor(target).double().reshape(states[-1].shape)
        return [*states[:-1], y]

    # -- Jacobians -------------------------------------------------------------------------------

    @torch.no_grad()
    def jacobian_blocks(self, x: Any) -> JacobianBlocks:
        """Blocks J_l (B, n_l, n_{l-1}) at the forward-pass state (float64).

        For clamped inputs the block of the first segment is left out: the ensemble then starts
        at layer 1.
        """
        data = self._input(x)
        states = self._forward(data)
        first = 0 if self.inputs == "free" else 1
        blocks: list[Tensor] = []
        slopes: list[Tensor] | None = []
        edges: list[Tensor] | None = []
        reason = ""
        for segment, state in zip(self.segments[first:], states[first:-1], strict=True):
            if segment.elementwise:
                block, slope, mask = self._elementwise_block(segment, state)
            else:
                block, slope, mask = self._general_block(segment, state), None, None
            if slope is None:
                reason = reason or f"segment {segment.name!r} is not affine + element-wise"
            blocks.append(block)
            if slopes is not None and edges is not None and slope is not None and mask is not None:
                slopes.append(slope)
                edges.append(mask)
            else:
                slopes = edges = None
        flat = [s.flatten(1) for s in states[first:]]
        return JacobianBlocks(
            blocks,
            [s.shape[1] for s in flat],
            torch.cat(flat, 1),
            slopes,
            edges,
            reason,
            _hash(data),
        )

    def _general_block(self, segment: Segment, state: Tensor) -> Tensor:
        def single(one: Tensor) -> Tensor:
            return self._call(segment.module, one[None])[0].flatten()

        try:
            block = vmap(jacrev(single), chunk_size=16)(state)
        except RuntimeError as error:
            raise TypeError(
                f"segment {segment.name!r} has no Jacobian: {str(error).splitlines()[0]}"
            ) from error
        return block.flatten(2)

    def _elementwise_block(
        self, segment: Segment, state: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """J = f'(z) w with the affine map's matrix formed once for the whole batch."""
        assert segment.affine is not None and segment.post is not None
        z = self._call(segment.affine, state)
        post = segment.post
        slope = jvp(lambda u: self._call(post, u), (z,), (torch.ones_like(z),))[1].flatten(1)
        matrix = self._affine_matrix(segment, state)
        if slope.shape[1] != matrix.shape[0]:  # an activation that broadcasts
            return self._general_block(segment, state), None, None
        return slope.unsqueeze(-1) * matrix, slope, self._edge_mask(segment, state, matrix)

    def _affine_matrix(self, segment: Segment, state: Tensor) -> Tensor:
        """dz/dx of an affine map, shape (n_l, n_{l-1}); the same for every sample."""
        weight = _plain_linear_weight(segment, state[0].numel())
        if weight is not None:
            return weight.detach().double()
        affine = segment.affine
        assert affine is not None
        zero = torch.zeros_like(state[:1])
        # one row per output neuron, pulled back in chunks to bound the memory
        return jacrev(lambda u: self._call(affine, u)[0].flatten(), chunk_size=256)(zero).reshape(
            -1, state[0].numel()
        )

    def _edge_mask(self, segment: Segment, state: Tensor, matrix: Tensor) -> Tensor:
        """Which entries of the matrix are weights, also where a weight is zero."""
        if _plain_linear_weight(segment, state[0].numel()) is not None:
            return torch.ones_like(matrix, dtype=torch.bool)
        affine = segment.affine
        assert affine is not None
        ones = {n: torch.ones_like(t, dtype=torch.float64) for n, t in affine.named_parameters()}
        # a mask stays what it is
        ones |= {n: t.double() for n, t in affine.named_buffers() if t.is_floating_point()}
        zero = torch.zeros_like(state[:1])
        structure = jacrev(
            lambda u: functional_call(affine, ones, (u,))[0].flatten(), chunk_size=256
        )(zero)
        return structure.reshape(matrix.shape) != 0

    def jacobian_operator(self, x: Any) -> SegmentOperator:
        """Matrix-free products with J at the forward-pass state, for large networks."""
        first = 0 if self.inputs == "free" else 1
        states = self._forward(self._input(x))
        return SegmentOperator(self._call, self.segments[first:], states[first:])

    def free_energy_laplacian(
        self,
        x: Any,
        beta: float,
        probes: int = 64,
        *,
        mass: float = 0.0,
        parameters: str = "weights",
        seed: int = 0,
    ) -> Estimate:
        """Trace of the Hessian of the free energy over parameters; see `laplacian.weight_trace`."""
        from thermolearn.measure.canonical.laplacian import weight_trace

        return weight_trace(self, x, beta, probes, mass=mass, parameters=parameters, seed=seed)


def _plain_linear_weight(segment: Segment, n_in: int) -> Tensor | None:
    """The weight of an affine map that is reshapes and one fully connected nn.Linear."""
    affine = segment.affine
    if affine is None or not segment.ordered:
        return None
    linears = [m for m in affine.modules() if isinstance(m, nn.Linear)]
    parametric = [m for m in affine.modules() if any(True for _ in m.parameters(recurse=False))]
    if len(linears) == 1 and parametric == linears and linears[0].in_features == n_in:
        return linears[0].weight
    return None
