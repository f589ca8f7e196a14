"""The kernel of a torch model in the limit of wide layers, read off its layers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from thermolearn.core.checks import real
from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.predict.kernels.of_module.layer_table import describe, notes_on
from thermolearn.predict.kernels.of_module.operations import LayerRow, Op
from thermolearn.predict.kernels.of_module.plan import Plan, make_plan
from thermolearn.predict.kernels.of_module.reading import Reader
from thermolearn.predict.kernels.of_module.recursion import Recursion
from thermolearn.predict.kernels.of_module.sample_blocks import (
    as_samples,
    pairs_at_once,
    refuse_slow,
    tiles,
)
from thermolearn.predict.kernels.of_module.shapes import run_on_data
from thermolearn.predict.kernels.of_module.signals import Profile, Signal

MEMORY = 2.0**30  # bytes that a block may take
HOURS = 1.0
BEYOND = 1e-9  # |t| - 1 that is taken for rounding

Variances = float | Mapping[str, float] | None


@dataclass(frozen=True, eq=False)
class ModuleKernel:
    """Kernel of the wide limit of a torch model; made by `kernel_of`.

    Attributes
    ----------
    kind : str
        "ntk" (tangent kernel) or "nngp" (covariance of the outputs).
    parametrization : str
        "standard" or "ntk"; of no importance for "nngp".
    layers : tuple of LayerRow
        What was read of the affine layers: name, kind, fan_in, width, sigma_w2, sigma_b2, where
        they come from, the activation in front, and what is trained.
    notes : tuple of str
        Conditions under which the numbers hold, and where the weights do not meet them.
    """

    kind: str
    parametrization: str
    layers: tuple[LayerRow, ...]
    notes: tuple[str, ...]
    _ops: list[Op] = field(repr=False)
    _result: int = field(repr=False)
    _model: nn.Module = field(repr=False)
    _traced: fx.GraphModule = field(repr=False)
    _plans: dict[tuple[int, ...], Plan] = field(default_factory=dict, repr=False)

    def __call__(self, t: Any) -> Any:
        """The kernel of two inputs with |x|^2 = |x'|^2 = d and x.x' = t d.

        Of a model of d >= 2 features whose first layers are Linear and read the input itself: its
        kernel depends on no more. Parameter t: float, array or Tensor in [-1, 1], of any shape;
        the result is of the same kind.

        Raises
        ------
        NotApplicableError
            The kernel depends on more than t (a convolution, or a step in front of the first
            layer).
        ValueError
            t is not finite or not in [-1, 1].
        """
        given = torch.as_tensor(t, dtype=torch.float64).detach()
        if not bool((given.abs() <= 1 + BEYOND).all()):
            raise ValueError("t must lie in [-1, 1]: x.x'/d of two inputs with |x|^2 = d")
        d, flat = self._dim(), given.clamp(-1, 1).flatten()
        x = torch.zeros(1 + len(flat), d, dtype=torch.float64, device=given.device)
        x[0, 0] = 1.0
        x[1:, 0], x[1:, 1] = flat, ((1 - flat) * (1 + flat)).sqrt()
        x *= math.sqrt(d)
        value = self.gram(x[:1], x[1:])[0].reshape(given.shape)
        if isinstance(t, Tensor):
            return value
        return value.numpy() if value.ndim else float(value)

    def sphere_spectrum(self, dim: int, max_degree: int = 60) -> Any:
        """Eigenvalues for inputs uniform on the sphere |x|^2 = dim: a `Spectrum`.

        dim is the number of features of the model. See
        `thermolearn.predict.spectrum.sphere_spectrum`, and `__call__` for the models that have one.
        """
        from thermolearn.predict.spectrum import sphere_spectrum

        if dim != self._dim():
            raise ValueError(f"dim must be the {self._dim()} features of the model, got {dim!r}")
        return sphere_spectrum(self, dim, max_degree)

    def gram(
        self,
        X: Any,
        X2: Any = None,
        *,
        dtype: torch.dtype = torch.float64,
        memory: float = MEMORY,
        hours: float = HOURS,
    ) -> Tensor:
        """k(x, x') of one output neuron, for all x in X and x' in X2 (default: X).

        Computed in float64 in blocks of samples, of the upper triangle only if X2 is not given;
        pairs of equal inputs by the recursion of one variance, without its rounding.

        Parameters
        ----------
        X, X2 : tensor or array, shape (n, ...) and (m, ...)
            Inputs of the model.
        dtype : torch.dtype
            Of the result.
        memory : float
            Bytes that one block may take beside the result. One pair of samples costs as many
            numbers as a layer has positions, or its square if an average over positions follows.
        hours : float
            Refuses to go on if the first block says that it would take longer.

        Returns
        -------
        Tensor, shape (n, m)
            On the device of X.

        Raises
        ------
        ValueError, TypeError
            Samples that the model cannot take, not finite, not real, or none; a single pair of
            them exceeds `memory`; the whole would exceed `hours`.
        NotApplicableError
            A layer acts on an axis of positions as if it held neurons; the output has positions.
        """
        if dtype not in (torch.float64, torch.float32):
            raise TypeError(f"dtype must be torch.float64 or torch.float32, got {dtype!r}")
        symmetric = X2 is None or X2 is X
        x = as_samples("X", X)
        both = x if symmetric else torch.cat([x, as_samples("X2", X2, x)])
        plan = self._plan(both)
        pairs = pairs_at_once(plan, real("memory", memory, above=0.0))
        hours = real("hours", hours, above=0.0)
        distinct, index = torch.unique(both, dim=0, return_inverse=True)
        data = self._data(plan, distinct)
        own, profile = self._own(plan, distinct, data, memory)
        rows = index[: len(x)]
        columns = rows if symmetric else index[len(x) :]
        out = torch.empty(len(rows), len(columns), dtype=dtype, device=x.device)
        recursion = self._recursion(plan)
        recursion.prepare(profile)
        blocks = tiles(len(rows), len(columns), pairs, symmetric)
        start = time.monotonic()
        for at, (i, j) in enumerate(track(blocks, f"{self.kind} kernel", total=len(blocks))):
            a, b = rows[i], columns[j]
            same = a[:, None] == b[None]
            k = self._of(
                recursion.cross(
                    {n: t[a] for n, t in data.items()},
                    {n: t[b] for n, t in data.items()},
                    profile.select(a),
                    profile.select(b),
                    same,
                )
            )
            k = torch.where(same, own[a][:, None], k)
            if symmetric and i == j:
                k = (k + k.T) / 2
            out[i, j] = k.to(dtype)
            if symmetric and i != j:
                out[j, i] = k.T.to(dtype)
            if at == 0:
                refuse_slow(time.monotonic() - start, len(blocks), hours)
        return out

    def diagonal(
        self, X: Any, *, dtype: torch.dtype = torch.float64, memory: float = MEMORY
    ) -> Tensor:
        """k(x, x) for all x in X, shape (n,); parameters and errors as in `gram`."""
        x = as_samples("X", X)
        plan = self._plan(x)
        memory = real("memory", memory, above=0.0)
        return self._own(plan, x, self._data(plan, x), memory)[0].to(dtype)

    def __str__(self) -> str:
        return describe(self.kind, self.parametrization, self.layers, self.notes)

    # -- inside --------------------------------------------------------------------------------
    def _dim(self) -> int:
        """Number of features of a kernel that depends on x.x, x'.x' and x.x' alone."""
        for k in self._ops[0].readers:
            op = self._ops[k]
            if op.layer is None or op.window is not None or op.layer.fan_in < 2:
                raise NotApplicableError(
                    f"the kernel depends on more than t = x.x'/d: {op.name} reads the input; use "
                    "gram(X), and the empirical spectrum of the Gram matrix"
                )
        layer = self._ops[self._ops[0].readers[0]].layer
        assert layer is not None
        return layer.fan_in

    def _of(self, signal: Signal) -> Tensor:
        if self.kind == "nngp":
            return signal.k
        return torch.zeros_like(signal.k) if signal.theta is None else signal.theta

    def _recursion(self, plan: Plan) -> Recursion:
        return Recursion(plan, self.kind == "ntk", self.parametrization == "standard")

    def _plan(self, x: Tensor) -> Plan:
        sample = tuple(x.shape[1:])
        if sample not in self._plans:
            model, traced = self._model.to(x.device), self._traced.to(x.device)
            with untouched():
                plan = make_plan(self._ops, self._result, model, traced, x)
            self._plans[sample] = plan
        return self._plans[sample]

    def _data(self, plan: Plan, x: Tensor) -> dict[int, Tensor]:
        """The input, and what the model makes of it before the first layer."""
        named = {op.node: k for k, op in enumerate(plan.ops) if op.kind == "data"}
        data = {0: x}
        if named:
            layers = {op.node for op in plan.ops if op.layer is not None}
            found = run_on_data(self._traced.to(x.device), frozenset(layers), x)
            data |= {k: found[name] for name, k in named.items()}
        if not all(bool(torch.isfinite(t).all()) for t in data.values()):
            raise ValueError("what acts on the input in front of the first layer gives NaN or inf")
        return data

    def _own(
        self, plan: Plan, x: Tensor, data: dict[int, Tensor], memory: float
    ) -> tuple[Tensor, Profile]:
        step = pairs_at_once(plan, memory)
        recursion = self._recursion(plan)
        parts = [
            recursion.own({n: t[at : at + step] for n, t in data.items()})
            for at in track(range(0, len(x), step), f"{self.kind} of single inputs")
        ]
        values = torch.cat([self._of(signal) for signal, _ in parts])
        return values, Profile.joined([profile for _, profile in parts])


def kernel_of(
    module: nn.Module,
    kind: str = "ntk",
    *,
    sigma_w2: Variances = None,
    sigma_b2: Variances = None,
    parametrization: str = "standard",
) -> ModuleKernel:
    """Kernel of a torch model in the limit of wide layers, read off its layers.

    With h the signal that an affine layer reads, <.> the mean over its neurons, and over its
    positions as the layer sums them (a convolution: over the window; Flatten and Linear: over all),

        K'(x, x') = sigma_w2 <h h'> + sigma_b2,
        T'(x, x') = sigma_w2 <T> + g_w <h h'> + g_b,

    K the covariance of a neuron's values, T the sum over parameters of the products of its
    gradients. An activation gives <h h'> = E phi(u) phi(v) and T = T E phi'(u) phi'(v) with (u, v)
    Gaussian of covariance K. Independent signals add: K and T of a residual sum are the sums.
    LayerNorm behind many neurons divides by the constants sqrt(K(x, x) - m^2 + eps), and takes
    m m' off, m = <h>, which is not zero behind an activation. All other layers: see Raises.

    Weights are taken for Gaussian. Of other laws only the variance matters behind many inputs; a
    first layer of few (Linear of 2 features, Conv of a small window) keeps theirs at any width:
    with excess kurtosis g (torch's uniform weights: -1.2) the kernel is off by about
    0.2 |g| / fan_in of its diagonal, 12% at 2 features, and up to 0.2 |g| or so for inputs of one
    large entry, however many there are. `notes` says so where the weights themselves show it.

    Parameters
    ----------
    module : nn.Module
        Of Linear, Conv1d, Conv2d, Conv3d (stride, zero padding, dilation), element-wise
        activations, Flatten and reshapes, average pools and means over positions, sums and
        differences, constant factors, LayerNorm, RMSNorm, Dropout (as in evaluation). It is read
        once and left as it is; training mode plays no part.
    kind : str
        "ntk" for gradient descent on all parameters, "nngp" for the prior over functions.
    sigma_w2, sigma_b2 : float or dict of layer name to float, optional
        Variance of the weights times fan-in, and of the biases. What is not given is read off the
        actual parameters: fan_in times their mean square, and the mean square of the biases
        (torch's default initialization gives 1/3 and 1 / (3 fan_in)). For a trained model that
        is the kernel of a random network with weights of the same size.
    parametrization : str
        "standard": gradients with respect to the weights as torch holds them: g_w = fan_in and
        g_b = 1, so that the kernel has the scale of the empirical one of the module at its widths
        (they matter in no other way). "ntk": with respect to variables of unit variance, factors
        sqrt(sigma_w2 / fan_in) and sqrt(sigma_b2) in front: g_w = sigma_w2 and g_b = sigma_b2;
        gradient descent in them gives each layer its own learning rate. The gains and biases of
        LayerNorm count as they are in both. Parameters that require no gradient add nothing.

    Returns
    -------
    ModuleKernel

    Raises
    ------
    NotApplicableError
        A layer without a kernel, by its name and with what to do: BatchNorm, GroupNorm, MaxPool,
        attention, softmax, groups, shared weights, an activation on a signal that is not Gaussian
        (relu(x + branch) with x behind an activation), sums of correlated signals; a model that
        cannot be traced.
    ValueError
        kind or parametrization unknown, a variance out of range or for no layer, weights that are
        not finite.

    Notes
    -----
    Kernel of one output neuron; different ones are uncorrelated, so that a model of several
    outputs has this kernel for each. Neal (doi:10.1007/978-1-4612-0745-0), Lee et al.
    arXiv:1711.00165, Jacot et al. arXiv:1806.07572; convolutions: Novak et al. arXiv:1810.05148,
    Arora et al. arXiv:1904.11955; standard parametrization: Sohl-Dickstein et al.
    arXiv:2001.07301. Deviations: gains and biases of LayerNorm are counted in the tangent kernel.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    for name, value, known in (
        ("kind", kind, ("ntk", "nngp")),
        ("parametrization", parametrization, ("standard", "ntk")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    with untouched():  # a forward pass may draw random numbers
        reader = Reader(module, sigma_w2, sigma_b2, kind == "ntk")
    layers = tuple(op.layer for op in reader.ops if op.layer is not None)
    return ModuleKernel(
        kind, parametrization, layers, tuple(notes_on(layers) + reader.notes), reader.ops,
        reader.result, reader.model, reader.traced.graph_module,
    )  # fmt: skip
