"""Finite networks that are really trained: what the kernel's prediction is held against.

Whole-batch gradient descent with momentum on a squared loss, to the end, with the step taken from
the tangent kernel: wide networks then do kernel regression with it (Jacot, Gabriel, Hongler,
arXiv:1806.07572; Lee et al., arXiv:1902.06720), and the ridge becomes the distance to the initial
parameters. float32 by default: against float64 the predictions move by 1e-4 of their size, far
below the scatter between two initializations (a test holds this).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.activation import resolve_activation
from thermolearn.core.checks import real, whole
from thermolearn.core.copying import untouched
from thermolearn.core.progress import track
from thermolearn.predict.kernels.empirical.inputs import as_samples

PARAMETERS_AT_ONCE = 2**20  # of all networks trained in one batch: what stays in the caches
NUMBERS_AT_ONCE = 2**25  # with activations and tangent kernels
SLOWEST = 1e-4  # smallest curvature over the largest that the momentum is tuned to
CONVERGED, RUNNING, DIVERGED, STALLED = range(4)  # states of a network
RETRIES = 6  # halvings of the step of a network that diverged
PATIENCE, LITTLE = 1000, 0.01  # steps in which a loss that falls by less has stopped falling
OVERSHOOT = 4.0  # loss over the initial one that counts as diverged


@dataclass(frozen=True, eq=False)
class TrainedNetworks:
    """Networks after training; see `train_networks`.

    Attributes
    ----------
    predictions : ndarray (nets, n_test, outputs)
        f - f0 on the test inputs, f0 the network before training.
    train_loss : ndarray (nets,)
        Mean over samples and outputs of (f - f0 - y)^2, without the ridge.
    converged : ndarray of bool (nets,)
    status : tuple of str
        One sentence per network, starting with "converged", "not converged" or "diverged".
    steps : ndarray of int (nets,)
    learning_rate : ndarray (nets,)
        Of the objective 1/2 sum (f - f0 - y)^2 + ridge/2 |theta - theta_0|^2.
    flags : tuple of str
        What else to know about the result.
    """

    predictions: np.ndarray
    train_loss: np.ndarray
    converged: np.ndarray
    status: tuple[str, ...]
    steps: np.ndarray
    learning_rate: np.ndarray
    flags: tuple[str, ...] = ()


def train_networks(
    X: Any,
    y: Any,
    X_test: Any,
    *,
    depth: int,
    width: int,
    activation: str | Callable[[Tensor], Tensor] = "relu",
    sigma_w2: float = 2.0,
    sigma_b2: float = 0.0,
    nets: int | None = None,
    ridge: float = 0.0,
    seed: int = 0,
    tolerance: float = 1e-5,
    max_steps: int = 20_000,
    dtype: torch.dtype = torch.float32,
) -> TrainedNetworks:
    """Train an ensemble of fully connected networks to the end; their test predictions f - f0.

    NTK parametrization, every parameter ~ N(0, 1):
    z^1 = sqrt(sigma_w2/d) W x + sqrt(sigma_b2) b,
    z^{l+1} = sqrt(sigma_w2/width) W phi(z^l) + sqrt(sigma_b2) b, output z^depth. Minimized is
    1/2 sum_i |f(x_i) - f0(x_i) - y_i|^2 + ridge/2 |theta - theta_0|^2 by gradient descent with
    heavy-ball momentum. For width -> infinity f - f0 is Theta(x, X) (Theta(X, X) + ridge)^{-1} y
    with the NTK Theta. At finite width the mean-square difference is of order 1/width.

    The step is half of what is stable at first, (1 + beta)/lambda_max, and the momentum beta is
    critical for lambda_min, with the extreme eigenvalues of each network's own tangent kernel on
    its data; a network that diverges starts again with half the step.

    Parameters
    ----------
    X : array (n, d), or (nets, n, d) for one data set per network
    y : array (n,), (n, outputs), or (nets, n, outputs)
    X_test : array (m, d), or (nets, m, d)
    depth, width : int
        Weight layers (>= 1) and neurons per hidden layer (>= 1).
    activation : str or callable
        See `thermolearn.core.activation.resolve_activation`.
    sigma_w2, sigma_b2 : float
        Variances, > 0 and >= 0. Without bias variance there are no biases.
    nets : int, optional
        Number of networks; default: the leading axis of X or y, else 1.
    ridge : float >= 0
        Not divided by n, as the noise variance of kernel regression.
    seed : int
        Network k draws from (seed, k): the same whatever `nets` is.
    tolerance : float
        Without ridge: trained until the mean of (f - f0 - y)^2 is below tolerance * mean y^2.
        With ridge: until what the objective can still fall, |gradient|^2 / 2 (lambda_min + ridge),
        or what it fell while its slowest mode shrank tenfold, is below tolerance times its initial
        value.
    max_steps : int
        Networks that need more are returned as they are and marked.
    dtype : torch.float32 or torch.float64

    Raises
    ------
    ValueError
        Shapes that do not fit, numbers that are not finite or out of range.
    """
    x, targets, x_test = _data_sets(X, y, X_test, nets, dtype)
    n_nets, n, dim = x.shape
    depth, width = whole("depth", depth, 1), whole("width", width, 1)
    net = _Net(
        (dim, *[width] * (depth - 1), targets.shape[2]),
        resolve_activation(activation).function,
        real("sigma_w2", sigma_w2, above=0.0),
        real("sigma_b2", sigma_b2, least=0.0),
    )
    goal = _Goal(
        real("ridge", ridge, least=0.0),
        real("tolerance", tolerance, above=0.0, below=1.0),
        whole("max_steps", max_steps, 1),
    )
    whole("seed", seed, 0)
    numbers = 4 * net.size + 4 * (n + x_test.shape[1]) * sum(net.widths) + 4 * n * n
    at_once = max(1, min(PARAMETERS_AT_ONCE // net.size, NUMBERS_AT_ONCE // numbers))
    parts = []
    with untouched():
        groups = [range(k, min(k + at_once, n_nets)) for k in range(0, n_nets, at_once)]
        for group in track(groups, "training networks"):
            chosen = slice(group.start, group.stop)
            data = x[chosen], targets[chosen], x_test[chosen]
            parts.append(_train_group(net, data, goal, seed, list(group)))
    predictions, loss, steps, rate, state = (np.concatenate(p) for p in zip(*parts, strict=True))
    flags = []
    if n > 1 and bool((targets == targets[:, :1]).all(2).all(1).any()):
        flags.append("constant targets: the test error says nothing about learning")
    status = tuple(_sentence(*row) for row in zip(state, loss, steps, strict=True))
    return TrainedNetworks(predictions, loss, state == CONVERGED, status, steps, rate, tuple(flags))


def _data_sets(
    X: Any, y: Any, X_test: Any, nets: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (nets, n, d), targets (nets, n, outputs), test inputs (nets, m, d)."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    cpu = torch.device("cpu")
    x, targets, x_test = (
        as_samples(name, value, dtype, cpu).to(dtype)
        for name, value in (("X", X), ("y", y), ("X_test", X_test))
    )
    if targets.ndim == 1:
        targets = targets[:, None]
    sets = {name: t for name, t in (("X", x), ("y", targets), ("X_test", x_test))}
    for name, tensor in sets.items():
        if tensor.ndim not in (2, 3):
            raise ValueError(f"{name} must have 2 or 3 axes, got shape {tuple(tensor.shape)}")
    leading = {len(t) for t in sets.values() if t.ndim == 3}
    count = whole("nets", nets, 1) if nets is not None else max(leading, default=1)
    if leading - {count}:
        raise ValueError(
            f"the leading axes of three-dimensional X, y, X_test must be the {count} networks, "
            f"got {sorted(leading)}"
        )
    x, targets, x_test = (
        t if t.ndim == 3 else t.expand(count, *t.shape) for t in (x, targets, x_test)
    )
    if x.shape[1] != targets.shape[1]:
        raise ValueError(f"X has {x.shape[1]} samples and y has {targets.shape[1]}")
    if x.shape[2] != x_test.shape[2]:
        raise ValueError(f"X has {x.shape[2]} features and X_test has {x_test.shape[2]}")
    return x, targets, x_test


@dataclass(frozen=True)
class _Goal:
    ridge: float
    tolerance: float
    max_steps: int


def _sentence(state: int, loss: float, steps: int) -> str:
    if state == CONVERGED:
        return "converged"
    if state == DIVERGED:
        return "diverged: at every step size tried; the numbers are NaN"
    where = f"not converged: mean squared error {loss:.3g} after {steps} steps"
    if state == STALLED:
        return f"{where}, and no longer falling: the targets are out of the network's reach"
    return f"{where}; raise max_steps or tolerance"


@dataclass(frozen=True)
class _Net:
    """Fully connected networks in a batch; parameters (nets, in, out), then (nets, 1, out)."""

    widths: tuple[int, ...]
    phi: Callable[[Tensor], Tensor]
    sigma_w2: float
    sigma_b2: float

    @property
    def size(self) -> int:
        return sum(a * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    def draw(self, seed: int, indices: list[int], dtype: torch.dtype) -> list[Tensor]:
        """Standard normal parameters; drawn in float64, so that they agree in both precisions."""
        rows = []
        for k in indices:
            state = int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator().manual_seed(state)
            shapes = list(zip(self.widths, self.widths[1:], strict=False))
            if self.sigma_b2 > 0:
                shapes += [(1, n) for n in self.widths[1:]]
            rows.append(
                [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
            )
        return [torch.stack(p) for p in zip(*rows, strict=True)]

    def layers(self, theta: list[Tensor], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs h and pre-activations z of every layer; the last z is the output."""
        depth = len(self.widths) - 1
        none = x.new_zeros(1, 1, 1)
        inputs, outputs = [], []
        for k in range(depth):
            h = x if k == 0 else self.phi(outputs[-1])
            scale = math.sqrt(self.sigma_w2 / self.widths[k])
            bias = theta[depth + k] if self.sigma_b2 > 0 else none
            beta = math.sqrt(self.sigma_b2)
            inputs.append(h)
            outputs.append(torch.baddbmm(bias, h, theta[k], beta=beta, alpha=scale))
        return inputs, outputs

    def __call__(self, theta: list[Tensor], x: Tensor) -> Tensor:
        return self.layers(theta, x)[1][-1]

    def curvatures(self, theta: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest eigenvalue of the tangent kernel, averaged over outputs, per net."""
        with torch.enable_grad():
            h, z = self.layers([p.detach().requires_grad_() for p in theta], x)
            kernel = x.new_zeros(len(x), x.shape[1], x.shape[1])
            for out in range(self.widths[-1]):
                slopes = torch.autograd.grad(z[-1][..., out].sum(), z, retain_graph=True)
                for k, g in enumerate(slopes):
                    with torch.no_grad():
                        gram = torch.bmm(h[k], h[k].mT) * (self.sigma_w2 / self.widths[k])
                        kernel += (gram + self.sigma_b2) * torch.bmm(g, g.mT)
        spectrum = torch.linalg.eigvalsh(kernel.double() / self.widths[-1])
        return spectrum[:, 0].clamp(min=0.0), spectrum[:, -1]


def _train_group(
    net: _Net, data: tuple[Tensor, Tensor, Tensor], goal: _Goal, seed: int, indices: list[int]
) -> tuple[np.ndarray, ...]:
    """Predictions, losses, steps, learning rates and states (`CONVERGED` ...)."""
    n_nets, n_test, n_out = len(indices), data[2].shape[1], net.widths[-1]
    predictions = np.full((n_nets, n_test, n_out), np.nan)
    loss, rate = np.full((2, n_nets), np.nan)
    steps, state = np.zeros(n_nets, dtype=int), np.full(n_nets, DIVERGED)
    pending, slower = np.arange(n_nets), 1.0
    for _ in range(RETRIES):
        parts = _descend(
            net, [t[pending] for t in data], goal, seed, [indices[k] for k in pending], slower
        )
        for whole_array, part in zip((predictions, loss, steps, rate, state), parts, strict=True):
            whole_array[pending] = part
        pending, slower = pending[parts[4] == DIVERGED], slower / 2
        if not len(pending):
            break
    predictions[state == DIVERGED] = np.nan
    return predictions, loss, steps, rate, state


def _descend(
    net: _Net, data: list[Tensor], goal: _Goal, seed: int, indices: list[int], slower: float
) -> tuple[np.ndarray, ...]:
    x, y, x_test = data
    start = net.draw(seed, indices, x.dtype)
    least, largest = net.curvatures(start, x)
    mu, lr, beta = _tuned(least + goal.ridge, largest + goal.ridge, slower)
    lr_, beta_ = (t.to(x.dtype)[:, None, None] for t in (lr, beta))
    with torch.no_grad():
        f0, f0_test = net(start, x), net(start, x_test)
    theta = [p.clone().requires_grad_() for p in start]
    velocity = [torch.zeros_like(p) for p in theta]
    scale = y.double().square().mean((1, 2)).numpy()
    ending = _RidgeEnding(goal, mu, lr, 0.5 * scale * y[0].numel())
    loss, steps, state = scale.copy(), np.zeros(len(x), dtype=int), np.full(len(x), RUNNING)
    mark = loss.copy()
    for step in range(goal.max_steps + 1):
        residual = net(theta, x) - f0 - y
        error = residual.detach().double().square().mean((1, 2)).numpy()
        active = state == RUNNING
        loss[active], steps[active] = error[active], step
        # not (<= ...) catches NaN too; a stable heavy ball does not overshoot the initial loss
        state[active & ~(error <= OVERSHOOT * scale)] = DIVERGED
        if goal.ridge == 0:
            state[active & (error <= goal.tolerance * scale)] = CONVERGED
        if step and step % PATIENCE == 0 and goal.ridge == 0:
            state[(state == RUNNING) & (loss > (1.0 - LITTLE) * mark)] = STALLED
            mark = loss.copy()
        if not (state == RUNNING).any() or step == goal.max_steps:
            break
        gradient = list(torch.autograd.grad(0.5 * residual.square().sum(), theta))
        with torch.no_grad():
            if goal.ridge > 0:
                moved = [p - p0 for p, p0 in zip(theta, start, strict=True)]
                for g, d in zip(gradient, moved, strict=True):
                    g.add_(d, alpha=goal.ridge)
                value = 0.5 * (error * y[0].numel() + goal.ridge * _squares(moved))
                done = ending.reached(step, value, _squares(gradient))
                state[(state == RUNNING) & done] = CONVERGED
            moving = torch.from_numpy(state == RUNNING)[:, None, None]
            for p, v, g in zip(theta, velocity, gradient, strict=True):
                p.add_(v.mul_(beta_).sub_(g.mul_(lr_)).mul_(moving))
    with torch.no_grad():
        predictions = (net(theta, x_test) - f0_test).double().numpy()
    return predictions, loss, steps, lr.double().numpy(), state


def _tuned(least: Tensor, largest: Tensor, slower: float) -> tuple[Tensor, Tensor, Tensor]:
    """Least curvature, step and momentum of a heavy ball whose stability edge is 2 (1 + beta)/L.

    The step is half of that, the momentum critical for the least curvature.
    """
    largest = largest.clamp(min=1e-30)
    mu = torch.maximum(least, SLOWEST * largest)
    beta = (1.0 - (2.0 * slower * mu / largest).sqrt().clamp(max=1.0)).square()
    return mu, slower * (1.0 + beta) / largest, beta


def _squares(tensors: list[Tensor]) -> np.ndarray:
    """|.|^2 per network."""
    return np.sum([t.double().square().sum((1, 2)).numpy() for t in tensors], axis=0)


class _RidgeEnding:
    """When an objective with ridge is at its minimum, per network.

    Either |gradient|^2 / 2 mu, the most that a curvature mu leaves to gain, is small, or so is
    what was gained while the slowest mode shrank tenfold: with kinks in the activation the minimum
    may lie on one, where the gradient does not vanish.
    """

    def __init__(self, goal: _Goal, mu: Tensor, lr: Tensor, first: np.ndarray) -> None:
        self.mu, self.enough = mu.double().numpy(), goal.tolerance * first
        self.window = np.ceil(1.2 / np.sqrt(self.mu * lr.double().numpy())).astype(int) + 5
        self.best, self.mark = first.copy(), np.full(len(first), np.inf)
        self.since = np.zeros(len(first), dtype=int)

    def reached(self, step: int, value: np.ndarray, gradient2: np.ndarray) -> np.ndarray:
        self.best = np.fmin(self.best, value)
        due = step - self.since >= self.window
        flat = due & (self.mark - self.best <= self.enough)
        self.mark[due], self.since[due] = self.best[due], step
        return flat | (gradient2 / (2.0 * self.mu) <= self.enough)
