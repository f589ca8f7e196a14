"""The septuple (x, P_in, P_out, w, b, f, H) with an explicit weight matrix, recurrent or not.

V. Vanchurin, arXiv:2004.09280. Activation pass x(t+1) = f(w x(t) + b) with the boundary rows
overwritten by data; bulk loss H = 1/2 |x - f(w x + b)|^2 + V(x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.measure.canonical.laplacian import dense_edge_laplacian
from thermolearn.measure.canonical.system import NeuronSystem


@dataclass(frozen=True, eq=False)
class Septuple:
    """N neurons with a general weight matrix.

    Parameters
    ----------
    weights : Tensor (N, N)
        w_ij from neuron j to neuron i.
    bias : Tensor (N,) or (B, N)
        One row per sample if it carries the data of the inputs.
    activation : callable
        f on (B, N), element-wise (it may differ per neuron).
    inputs, outputs : sequences of int
        Boundary rows: the diagonals of P_in and P_out; disjoint.

    Raises
    ------
    ValueError
        Shapes, indices out of range or shared, NaN.
    """

    weights: Tensor
    bias: Tensor
    activation: Callable[[Tensor], Tensor]
    inputs: Sequence[int]
    outputs: Sequence[int]

    def __post_init__(self) -> None:
        w = torch.as_tensor(self.weights).detach().double()
        b = torch.as_tensor(self.bias).detach().double()
        if w.ndim != 2 or w.shape[0] != w.shape[1]:
            raise ValueError(f"weights must be square (N, N), got {tuple(w.shape)}")
        if b.shape[-1] != w.shape[0] or b.ndim > 2:
            raise ValueError(f"bias must end in N = {w.shape[0]}, got {tuple(b.shape)}")
        if not bool(torch.isfinite(w).all() and torch.isfinite(b).all()):
            raise ValueError("weights or bias have NaN or infinite values")
        inside, outside = set(self.inputs), set(self.outputs)
        if inside & outside:
            raise ValueError(f"neurons {sorted(inside & outside)} are both input and output")
        if any(not 0 <= i < w.shape[0] for i in inside | outside):
            raise ValueError(f"boundary neurons must lie in 0..{w.shape[0] - 1}")
        object.__setattr__(self, "weights", w)
        object.__setattr__(self, "bias", b)

    @property
    def neurons(self) -> int:
        """N."""
        return self.weights.shape[0]

    def projection(self, kind: str) -> Tensor:
        """P_in or P_out as a diagonal 0/1 matrix (N, N); kind "in" or "out"."""
        if kind not in ("in", "out"):
            raise ValueError(f"kind must be 'in' or 'out', got {kind!r}")
        diagonal = self.weights.new_zeros(self.neurons)
        diagonal[list(self.inputs if kind == "in" else self.outputs)] = 1
        return torch.diag(diagonal)

    def update(self, x: Tensor) -> Tensor:
        """f(w x + b) of states (B, N)."""
        return self.activation(x @ self.weights.T + self.bias)

    def _clamped(self, x: Tensor, data: Tensor | None) -> Tensor:
        if data is None:
            return x
        x = x.clone()
        x[:, list(self.inputs)] = data
        return x

    @torch.no_grad()
    def fixed_point(
        self,
        data: Any = None,
        batch: int = 1,
        *,
        damping: float = 0.0,
        tolerance: float = 1e-12,
        max_iter: int = 10_000,
    ) -> Tensor:
        """x* of the activation pass with inputs clamped to data (B, n_in), or free; (B, N).

        A feed-forward net converges in as many passes as it has layers, a recurrent one if the
        pass contracts; `damping` in [0, 1) helps where it oscillates.

        Raises
        ------
        ConvergenceError
            With the residual, if it does not settle.
        """
        clamp = None if data is None else torch.as_tensor(data).double()
        if clamp is not None and (clamp.ndim != 2 or clamp.shape[1] != len(self.inputs)):
            raise ValueError(f"data must have shape (B, {len(self.inputs)})")
        rows = batch if clamp is None else len(clamp)
        rows = max(rows, self.bias.shape[0]) if self.bias.ndim == 2 else rows
        x = self._clamped(self.weights.new_zeros(rows, self.neurons), clamp)
        residual = float("inf")
        for _ in range(max_iter):
            new = self._clamped(self.update(x), clamp)
            residual = float((new - x).abs().max())
            x = damping * x + (1 - damping) * new
            if residual <= tolerance * max(1.0, float(x.abs().max())):
                return x
        raise ConvergenceError(
            f"the activation pass does not settle: residual {residual:.3g} after {max_iter} "
            "passes; raise damping, or the weights have no stable fixed point"
        )

    def jacobian(self, x: Tensor, clamp_inputs: bool = False) -> Tensor:
        """J = f'(w x + b) w at states x, (B, N, N); clamped inputs are dropped from it."""
        full = self.slopes(x).unsqueeze(-1) * self.weights
        if not clamp_inputs:
            return full
        rest = [i for i in range(self.neurons) if i not in set(self.inputs)]
        return full[:, rest][:, :, rest]

    def slopes(self, x: Tensor) -> Tensor:
        """f'(w x + b) at states x, (B, N)."""
        z = torch.as_tensor(x).double() @ self.weights.T + self.bias
        return jvp(self.activation, (z,), (torch.ones_like(z),))[1]

    def edge_laplacian(self, x: Tensor, beta: float, mass: float = 0.0) -> Tensor:
        """Laplacian of F over the non-zero weights at fixed slopes, per sample (B,)."""
        edges = self.weights != 0
        return dense_edge_laplacian(self.jacobian(x), self.slopes(x), edges, beta, mass)

    def bulk_loss(self, x: Tensor, mass: float = 0.0, center: Tensor | None = None) -> Tensor:
        """H = 1/2 |x - f(w x + b)|^2 - (m/2)|x - center|^2 per sample (B,)."""
        loss = 0.5 * ((x - self.update(x)) ** 2).sum(-1)
        if mass:
            shift = x if center is None else x - center
            loss = loss - 0.5 * mass * (shift**2).sum(-1)
        return loss

    def data_state(self, data: Any, target: Any = None, **options: Any) -> Tensor:
        """Inputs = data, outputs = target if given (supervised), the rest from the activation pass.

        There the local errors vanish except on the boundary rows that hold data, so that the bulk
        loss (m = 0) equals the boundary loss, exactly if no output or input row drives the bulk.
        """
        x = self.fixed_point(data, **options)
        if target is not None:
            x = x.clone()
            x[:, list(self.outputs)] = torch.as_tensor(target).double()
        return x

    def boundary_loss(
        self, data: Any, target: Any = None, kind: str = "supervised", **options: Any
    ) -> Tensor:
        """Loss at the boundary, per sample (B,).

        "supervised": inputs clamped to data, 1/2 (y - x)^T P_out (y - x) at the activation pass.
        "unsupervised": only the inputs are boundary, 1/2 (x_data - x)^T P_in (x_data - x) with
        x = f(w x + b) evaluated at the state whose inputs are the data.
        """
        x = self.fixed_point(data, **options)
        if kind == "supervised":
            if target is None:
                raise ValueError("the supervised boundary loss needs a target")
            y = torch.as_tensor(target).double()
            return 0.5 * ((y - x[:, list(self.outputs)]) ** 2).sum(-1)
        if kind == "unsupervised":
            rows = list(self.inputs)
            return 0.5 * ((x[:, rows] - self.update(x)[:, rows]) ** 2).sum(-1)
        raise ValueError(f"kind must be 'supervised' or 'unsupervised', got {kind!r}")


@torch.no_grad()
def septuple_of(system: NeuronSystem, x: Any) -> Septuple:
    """The explicit septuple of an element-wise feed-forward network, data in the input biases.

    The weight matrix of each affine map is written out (weight sharing unrolled), so this is for
    small networks and for checking; N^2 numbers are stored.

    Raises
    ------
    NotApplicableError
        A segment is not affine + element-wise, or the inputs are clamped.
    """
    if system.inputs != "free":
        raise NotApplicableError("the septuple holds all neurons: use inputs='free'")
    states = system._forward(system._input(x))
    widths = [s[0].numel() for s in states]
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    weights = states[0].new_zeros(starts[-1], starts[-1])
    bias = states[0].new_zeros(len(states[0]), starts[-1])
    bias[:, : widths[0]] = states[0].flatten(1)
    shapes = []
    for i, segment in enumerate(system.segments):
        if segment.affine is None:
            raise NotApplicableError(f"segment {segment.name!r} is not affine + element-wise")
        rows = slice(starts[i + 1], starts[i + 2])
        weights[rows, starts[i] : starts[i + 1]] = system._affine_matrix(segment, states[i])
        offset = system._call(segment.affine, torch.zeros_like(states[i][:1]))
        bias[:, rows] = offset.flatten(1)
        shapes.append(offset.shape[1:])

    def activation(z: Tensor) -> Tensor:
        parts = [z[:, : widths[0]]]  # inputs: identity
        for i, segment in enumerate(system.segments):
            post = segment.post
            assert post is not None
            own = z[:, starts[i + 1] : starts[i + 2]].reshape(-1, *shapes[i])
            parts.append(system._call(post, own).flatten(1))
        return torch.cat(parts, 1)

    return Septuple(weights, bias, activation, range(widths[0]), range(starts[-2], starts[-1]))
