"""Energy of the hidden weights with the readout integrated out, and its gradient in closed form.

With features F (p, n) of the training inputs, f = sqrt(g) F^T u, u ~ N(0, I_p), g = sigma_a2 / p,
the readout u is Gaussian given the hidden weights and integrates to

    U(W) = |W|^2 / 2 (whitened) + log det(Q + noise) / 2 + y^T (Q + noise)^{-1} y / 2,
    Q = g F^T F,   dU/dF = g F [(Q + noise)^{-1} - t t^T],   t = (Q + noise)^{-1} y.

Everything is batched over chains and costs O(n p min(n, p)) per chain; the stiffness of a small
noise stays in the readout, which is no longer sampled. `Posterior` also has the energy of all
weights, for Langevin sampling as in the paper.

References
----------
I. Seroussi, G. Naveh, Z. Ringel, arXiv:2112.15383 (the posterior; they sample all weights).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.activation import Activation, resolve_activation, value_and_slope

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN

ValueAndSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


class Readout(NamedTuple):
    """Posterior of the whitened readout given the features: N(mean, root^{-T} root^{-1}).

    mean (B, p), root (B, p, p) lower triangular.
    """

    mean: Tensor
    root: Tensor


class Posterior:
    """Density of the whitened weights of a network given data, on batched chains.

    Parameters
    ----------
    inputs : ndarray or Tensor (n, P, S)
    y : ndarray or Tensor (n,)
    noise : float
        Variance of the labels about the network, the temperature of training; positive.
    widths : sequence of int
        Units of the hidden layers; with more than one, P must be 1.
    sigma_w2, sigma_a2 : float
        Prior variances times fan-in.
    activation : str or callable
    collapsed : bool
        Integrate the readout out, else sample it too.

    Attributes
    ----------
    n_weights : int
        Length of one whitened sample: hidden layers row by row, then, if not collapsed, the
        readout in the order (unit, patch).
    """

    def __init__(
        self,
        inputs: Any,
        y: Any,
        noise: float,
        widths: Sequence[int],
        sigma_w2: float,
        sigma_a2: float,
        activation: Any = "erf",
        collapsed: bool = True,
    ):
        self.x = as_columns(inputs)
        self.y = torch.as_tensor(np.asarray(y), dtype=torch.float64)
        self.noise, self.collapsed = float(noise), collapsed
        self.n, self.patches, self.size = np.shape(inputs)
        sizes = (self.size, *widths)
        self.shapes = [(wide, fan) for fan, wide in pairwise(sizes)]
        self.scales = [math.sqrt(sigma_w2 / fan) for _, fan in self.shapes]
        self.p = sizes[-1] * self.patches
        self.g = sigma_a2 / self.p
        self.phi = value_slope(activation)
        self.n_hidden = sum(wide * fan for wide, fan in self.shapes)
        self.n_weights = self.n_hidden + (0 if collapsed else self.p)

    # -- energy and gradient ---------------------------------------------------------------------
    def potential(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U (B,), up to a constant, and its gradient (B, n_weights) at whitened weights x."""
        signals, slopes, features = self._forward(x, self.x)
        if self.collapsed:
            energy, back = self._collapsed(features)
            gradient = [x]
        else:
            u = x[:, self.n_hidden :]
            error = math.sqrt(self.g) * torch.einsum("bp,bpn->bn", u, features) - self.y
            energy = error.square().sum(-1) / (2 * self.noise)
            pull = error * (math.sqrt(self.g) / self.noise)
            back = u[:, :, None] * pull[:, None, :]
            gradient = [x[:, : self.n_hidden], u + torch.einsum("bpn,bn->bp", features, pull)]
        rows = self._backward(x, signals, slopes, back)
        gradient[0] = gradient[0] + rows
        total = gradient[0] if len(gradient) == 1 else torch.cat(gradient, 1)
        return energy + 0.5 * x.square().sum(-1), total

    def log_density(self, x: Tensor) -> Tensor:
        """-U (B,) that torch differentiates by the closed form."""
        return _ClosedForm.apply(x, self.potential)  # type: ignore[no-any-return]

    def _collapsed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Minus log evidence given the features (B, p, n), and its derivative by them."""
        if self.p <= self.n:
            root = self._small_root(features)
            moment = features @ self.y
            u = torch.cholesky_solve(moment[..., None], root)[..., 0]
            scale = self.g / self.noise
            quadratic = (self.y @ self.y - scale * (moment * u).sum(-1)) / self.noise
            t = (self.y - scale * torch.einsum("bpn,bp->bn", features, u)) / self.noise
            back = torch.cholesky_solve(features, root).div_(self.noise)
            ft = u / self.noise
            constant = self.n * math.log(self.noise)
        else:
            root = self._large_root(features)
            y = self.y.expand(len(features), self.n)[..., None]
            t = torch.cholesky_solve(y, root)[..., 0]
            quadratic = t @ self.y
            back = torch.cholesky_solve(features.mT, root).mT
            ft = torch.einsum("bpn,bn->bp", features, t)
            constant = 0.0
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + constant
        back = back.sub(ft[:, :, None] * t[:, None, :]).mul_(self.g)
        return 0.5 * (log_det + quadratic), back

    def _small_root(self, features: Tensor) -> Tensor:
        """Cholesky factor of I + g F F^T / noise (B, p, p); NaN where it has none."""
        gram = (features @ features.mT).mul_(self.g / self.noise)
        gram.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return _root(gram)

    def _large_root(self, features: Tensor) -> Tensor:
        """Cholesky factor of Q + noise (B, n, n); NaN where it has none."""
        gram = (features.mT @ features).mul_(self.g)
        gram.diagonal(dim1=-2, dim2=-1).add_(self.noise)
        return _root(gram)

    def _forward(self, x: Tensor, columns: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """What enters each layer, the slopes of its units, and the features (B, p, n)."""
        signals, slopes = [columns], []
        for scale, w in zip(self.scales, self.hidden(x), strict=True):
            value, slope = self.phi((w @ signals[-1]).mul_(scale))
            signals.append(value)
            slopes.append(slope)
        return signals, slopes, signals[-1].reshape(len(x), self.p, -1)

    def _backward(
        self, x: Tensor, signals: list[Tensor], slopes: list[Tensor], back: Tensor
    ) -> Tensor:
        """Derivative by the hidden weights (B, n_hidden) from that by the features."""
        rows: list[Tensor] = []
        layers = self.hidden(x)
        for number in reversed(range(len(layers))):
            back = back.reshape(slopes[number].shape) * slopes[number]
            rows.append((back @ signals[number].mT).mul_(self.scales[number]).flatten(1))
            if number:
                back = (layers[number].mT @ back).mul_(self.scales[number])
        return rows[0] if len(rows) == 1 else torch.cat(rows[::-1], 1)

    # -- what the weights mean -------------------------------------------------------------------
    def hidden(self, x: Tensor) -> list[Tensor]:
        """Whitened weights of every hidden layer, each (B, N_l, N_{l-1})."""
        parts = x[:, : self.n_hidden].split([wide * fan for wide, fan in self.shapes], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def weights(self, x: Tensor) -> list[Tensor]:
        """Weights in the units and order of the network's `shapes`, readout last if sampled."""
        out = [scale * w for scale, w in zip(self.scales, self.hidden(x), strict=True)]
        if not self.collapsed:
            u = x[:, self.n_hidden :].reshape(len(x), -1, self.patches)
            out.append(math.sqrt(self.g) * u.mT.flatten(1))
        return out

    def preactivations(self, x: Tensor, columns: Tensor | None = None) -> list[Tensor]:
        """h^l (B, N_l, P n) of every hidden layer, at the training inputs by default."""
        signal, out = self.x if columns is None else columns, []
        for scale, w in zip(self.scales, self.hidden(x), strict=True):
            out.append(scale * (w @ signal))
            signal = self.phi(out[-1])[0]
        return out

    def readout(self, features: Tensor) -> Readout:
        """Posterior of the whitened readout given features (B, p, n) of the training inputs."""
        root = self._small_root(features)
        moment = (features @ self.y).mul_(math.sqrt(self.g) / self.noise)
        return Readout(torch.cholesky_solve(moment[..., None], root)[..., 0], root)

    def predict(self, x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, m) of f at test inputs, given the hidden weights alone.

        `columns` are test inputs as `as_columns` lays them out, (S, P m).
        """
        mean, root = self.readout(self._forward(x, self.x)[2])
        test = self._forward(x, columns)[2]
        variance = torch.linalg.solve_triangular(root, test, upper=False).square().sum(1)
        return math.sqrt(self.g) * torch.einsum("bp,bpm->bm", mean, test), self.g * variance

    def outputs(self, x: Tensor, columns: Tensor) -> Tensor:
        """f (B, m) of sampled readouts; only if not collapsed."""
        test = self._forward(x, columns)[2]
        return math.sqrt(self.g) * torch.einsum("bp,bpm->bm", x[:, self.n_hidden :], test)


def posterior(
    net: BayesianFCN | BayesianCNN, X: Any, y: Any, noise: float, collapsed: bool = True
) -> Posterior:
    """`Posterior` of a network on data in its own shape; errors as in ``net.data``."""
    inputs, targets, noise = net.data(X, y, noise)
    return Posterior(
        inputs, targets, noise, net.layers, net.sigma_w2, net.sigma_a2, net.activation, collapsed
    )


def value_slope(activation: Any) -> ValueAndSlope:
    """z -> (phi(z), phi'(z)); in closed form if known, else by autograd."""
    known = SLOPES.get(activation) if isinstance(activation, str) else None
    if known is not None:
        return known
    resolved: Activation = resolve_activation(activation)
    return partial(value_and_slope, resolved)


def _erf(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.erf(z), torch.square(z).neg_().exp_().mul_(2 / math.sqrt(math.pi))


def _linear(z: Tensor) -> tuple[Tensor, Tensor]:
    return z, torch.ones(()).to(z).expand_as(z)


def _tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(z)
    return value, 1 - value.square()


def _relu(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(z), (z > 0).to(z)


SLOPES: dict[str, ValueAndSlope] = {"erf": _erf, "linear": _linear, "tanh": _tanh, "relu": _relu}


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, potential: Any) -> Tensor:
        energy, gradient = potential(x.detach())
        ctx.save_for_backward(gradient)
        return -energy

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return -outputs[0][:, None] * gradient, None


def as_columns(inputs: Any) -> Tensor:
    """Inputs (n, P, S) as columns (S, P n), patch by patch."""
    x = torch.as_tensor(np.asarray(inputs), dtype=torch.float64)
    return x.permute(2, 1, 0).reshape(x.shape[2], -1).contiguous()


def _root(gram: Tensor) -> Tensor:
    # a matrix without a factor (overflow) makes the energy NaN, and the proposal is rejected
    root, failed = torch.linalg.cholesky_ex(gram)
    return root if not failed.any() else root.masked_fill((failed != 0)[:, None, None], math.nan)
