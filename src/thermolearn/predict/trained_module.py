"""Any network trained to (near) convergence on a few samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.checks import real, whole
from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.predict.kernels.empirical.inputs import (
    as_samples,
    check_copied,
    private_model,
)
from thermolearn.predict.kernels.empirical.layers import gradients

REMEASURE = 100  # steps between measurements of the sharpness
PATIENCE, LITTLE = 500, 0.01  # a gain below this share in this many steps is none
SMALLEST = 2.0**-20  # share of the stable step below which nothing moves


@dataclass(frozen=True, eq=False)
class TrainedModule:
    """A network after training; see `train_module`.

    Attributes
    ----------
    predictions : ndarray (n_test, outputs)
    train_loss : float
        Mean over samples and outputs of (f - y)^2, without the ridge.
    converged : bool
        Whether the reason is one of the first three below.
    reason : str
        Why training ended: "interpolates" (train loss below tolerance * mean y^2), "minimum" (the
        gradient bounds what is left to gain), "stationary" (under 1% gained in 500 steps),
        "out of steps" or "diverged".
    steps : int
        Gradient steps taken.
    learning_rate : float
        The last one, of the objective 1/2 sum (f - y)^2 + ridge/2 |theta - theta_0|^2.
    model : nn.Module
        The trained private copy, eval mode.
    """

    predictions: np.ndarray
    train_loss: float
    converged: bool
    reason: str
    steps: int
    learning_rate: float
    model: nn.Module


def train_module(
    model: nn.Module,
    X: Any,
    y: Any,
    X_test: Any,
    *,
    ridge: float = 0.0,
    from_initial: bool = False,
    tolerance: float = 1e-4,
    max_steps: int = 20_000,
    dtype: torch.dtype = torch.float32,
) -> TrainedModule:
    """Train a private copy of any network to (near) convergence; its test predictions.

    Minimized is 1/2 sum_i |f(x_i) - y_i|^2 + ridge/2 |theta - theta_0|^2 over the parameters that
    require gradients, in the model's own parametrization and from its present parameters theta_0,
    on the whole batch and in eval mode (dropout off, running statistics fixed). Nesterov's method
    with restarts where the objective rises (O'Donoghue, Candes, arXiv:1204.3982); the step is
    1/lambda_max of the Hessian, by power iteration on differences of gradients, measured again
    every 100 steps and halved where training diverges all the same. The model is not changed.

    Parameters
    ----------
    model : nn.Module
        Maps X to (n, outputs) or (n,). One output per column of y.
    X, X_test : array (n, ...), (m, ...)
    y : array (n,) or (n, outputs)
    ridge : float >= 0
        Not divided by n. In the standard parametrization the distance of a weight counts
        fan_in / sigma_w2 times less than in the NTK's, so this is not the ridge of the NTK.
    from_initial : bool
        Train and predict f - f0 instead of f, f0 the network as given.
    tolerance : float
        Of the train loss relative to mean y^2, and of the objective relative to its initial value.
    max_steps : int
    dtype : torch.float32 or torch.float64

    Raises
    ------
    TypeError, NotApplicableError
        Not a module; no trained parameters; a model that cannot be copied or differentiated.
    ValueError
        Shapes that do not fit, numbers that are not finite or out of range.
    """
    real("ridge", ridge, least=0.0)
    real("tolerance", tolerance, above=0.0, below=1.0)
    whole("max_steps", max_steps, 1)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    with untouched():
        twin = private_model(model, dtype)
        theta: list[Tensor] = [p for p in twin.parameters() if p.requires_grad]
        if not theta:
            raise NotApplicableError("the model has no parameter that requires a gradient")
        device = theta[0].device
        x, x_test = (as_samples(k, v, dtype, device) for k, v in (("X", X), ("X_test", X_test)))
        targets = as_samples("y", y, dtype, device).to(dtype)
        targets = targets[:, None] if targets.ndim == 1 else targets
        f0 = _outputs(twin, x)
        check_copied(model, f0)
        f0, f0_test = f0.detach(), _outputs(twin, x_test).detach()
        if f0.shape != targets.shape:
            raise ValueError(
                f"the model's outputs have shape {tuple(f0.shape)} and y has "
                f"{tuple(targets.shape)}; give one column of y per output and one row per sample"
            )
        objective = _Objective(twin, theta, x, targets + f0 if from_initial else targets, ridge)
        scale = float(targets.double().square().mean())
        steps, rate, reason = _accelerate(objective, tolerance, max_steps, scale)
        with torch.no_grad():
            predictions = _outputs(twin, x_test) - (f0_test if from_initial else 0.0)
            loss = float((_outputs(twin, x) - objective.y).double().square().mean())
    if not (torch.isfinite(predictions).all() and math.isfinite(loss)):
        reason = "diverged"
    converged = reason in ("interpolates", "minimum", "stationary")
    values = predictions.double().cpu().numpy()
    return TrainedModule(values, loss, converged, reason, steps, rate, twin)


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x.clone())  # it may work in place
    if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != len(x):
        raise NotApplicableError("the model must return one tensor with one row per sample")
    return out.flatten(1) if out.ndim > 1 else out[:, None]


class _Objective:
    """1/2 sum (f - y)^2 + ridge/2 |theta - theta_0|^2 of a model, in place."""

    def __init__(
        self, model: nn.Module, theta: list[Tensor], x: Tensor, y: Tensor, ridge: float
    ) -> None:
        self.model, self.theta, self.x, self.y, self.ridge = model, theta, x, y, ridge
        self.start = self.position()

    def position(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.theta]

    def move(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for p, v in zip(self.theta, values, strict=True):
                p.copy_(v)

    def __call__(self) -> tuple[float, float, list[Tensor]]:
        """Mean squared residual, objective and gradient at the present parameters."""
        residual = _outputs(self.model, self.x) - self.y
        if not residual.requires_grad:
            raise NotApplicableError("the model's outputs do not depend on its parameters")
        total = 0.5 * residual.square().sum()
        value, gradient = float(total.detach()), gradients(total, self.model, self.theta)
        mean = 2.0 * value / residual.numel()
        if self.ridge > 0:
            moved = [(p - q).detach() for p, q in zip(self.theta, self.start, strict=True)]
            gradient = [g.add(d, alpha=self.ridge) for g, d in zip(gradient, moved, strict=True)]
            value += 0.5 * self.ridge * _dot(moved, moved)
        return mean, value, gradient

    def sharpness(self, vector: list[Tensor], iterations: int) -> tuple[float, list[Tensor]]:
        """Largest curvature by power iteration from `vector`, which is returned improved."""
        here, base = self.position(), self()[2]
        length = math.sqrt(max(_dot(here, here), 1e-12))
        step = length * float(torch.finfo(here[0].dtype).eps) ** 0.4
        found = 0.0
        for _ in range(iterations):
            norm = math.sqrt(_dot(vector, vector))
            if not (math.isfinite(norm) and norm > 0):
                break
            vector = [v / norm for v in vector]
            self.move([p + step * v for p, v in zip(here, vector, strict=True)])
            vector = [(a - b) / step for a, b in zip(self()[2], base, strict=True)]
            found = math.sqrt(_dot(vector, vector))
        self.move(here)
        return found, vector


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def _accelerate(
    objective: _Objective, tolerance: float, max_steps: int, scale: float
) -> tuple[int, float, str]:
    """Minimize in place; steps, learning rate and why it ended. The best point is what remains."""
    mean, value, gradient = objective()
    if not math.isfinite(value):
        return 0, 0.0, "diverged"
    first = best = mark = value
    kept = last = objective.position()
    curvature, direction = objective.sharpness(gradient, 20)
    shrink, momentum, marked, step, reason = 1.0, 0, 0, 0, "out of steps"
    for step in track(range(max_steps), "training a network"):
        reason = _ending(objective.ridge, tolerance, (mean, scale), first, gradient)
        if not reason and step - marked >= PATIENCE:
            reason = "stationary" if best > (1.0 - LITTLE) * mark else ""
            marked, mark = step, best
        if not reason and (curvature == 0 or shrink < SMALLEST):
            reason = "stationary" if curvature == 0 else "diverged"
        if reason:
            break
        reason = "out of steps"
        if step and step % REMEASURE == 0:
            curvature, direction = objective.sharpness(direction, 5)
        # a gradient step from the extrapolated point, then the next extrapolation
        rate = shrink / max(curvature, 1e-30)
        new = [p.detach() - rate * g for p, g in zip(objective.theta, gradient, strict=True)]
        weight, momentum = momentum / (momentum + 3.0), momentum + 1
        objective.move([b + weight * (b - a) for a, b in zip(last, new, strict=True)])
        last, previous = new, value
        mean, value, gradient = objective()
        if not value <= 2.0 * best:
            shrink, momentum, last = shrink / 2, 0, kept
            objective.move(kept)
            mean, value, gradient = objective()
        elif value > previous:
            momentum = 0
        if value < best:
            best, kept = value, objective.position()
    else:
        step = max_steps
        reason = _ending(objective.ridge, tolerance, (mean, scale), first, gradient) or reason
    if reason not in ("interpolates", "minimum"):
        objective.move(kept)
    return step, shrink / max(curvature, 1e-30), reason


def _ending(
    ridge: float,
    tolerance: float,
    losses: tuple[float, float],
    first: float,
    gradient: list[Tensor],
) -> str:
    """ "interpolates", "minimum" or "" (not yet), at the present point."""
    if ridge == 0:
        return "interpolates" if losses[0] <= tolerance * losses[1] else ""
    # the ridge is the least curvature: a gradient g leaves at most |g|^2 / 2 ridge to gain
    return "minimum" if _dot(gradient, gradient) <= 2.0 * ridge * tolerance * first else ""
