"""Whether w* is a local minimum: descent from draws, curvature, and a check of a given gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thermolearn.core.langevin import Potential
from thermolearn.measure.llc.objective import Objective, tempered

STARTS = 2  # draws from which the descent begins
DESCENT = 30  # iterations of L-BFGS
RESOLVED = 1e-3  # nats and steps, at which the descent ends
KRYLOV = 16  # Lanczos steps for the lowest curvature
POINTS = 16  # positions at which a given gradient is compared with differences
WRONG = 0.02  # relative deviation of a gradient that is another function's


class Lower(NamedTuple):
    """A point below w*.

    depth : nats by which U there lies under w*, beyond what the gradient at w* explains; 0 or less
    at a local minimum. curvature : the lowest curvature of n beta L found at w* (NaN if the depth
    asks for none).
    """

    depth: float
    curvature: float


def lower_point(
    objective: Objective, n_beta: float, gamma: float, draws: Tensor, step: float, least: float
) -> Lower:
    """Descent of U = n beta (L - L*) + gamma/2 |w - w*|^2 from some of the draws (C, d).

    On a slope with positive curvature the bottom lies half of the gradient's pull below w*:
    U = n beta grad L(w*) . (w - w*)/2; that part is left to the gradient. What is deeper is a
    saddle or another basin. Below `least` nats the curvature at w* follows by Lanczos iteration
    from the direction of that point.
    """
    potential = tempered(objective, n_beta, gamma)
    draws = draws[torch.isfinite(draws).all(1)][:STARTS]
    if len(draws) == 0:
        return Lower(float("nan"), float("nan"))
    depth, w = _descend(potential, objective, n_beta, draws, step)
    if not depth > least:
        return Lower(depth, float("nan"))
    return Lower(depth, _lowest_curvature(objective, n_beta, w - objective.w0))


def _descend(
    potential: Potential, objective: Objective, n_beta: float, draws: Tensor, step: float
) -> tuple[float, Tensor]:
    """The largest depth met by L-BFGS on the sum of the rows, and where."""
    scale = step**0.5  # in units of the step the stiffest curvature is of order 1
    u = ((draws - objective.w0) / scale).requires_grad_(True)
    best, where = -float("inf"), draws[0]

    def closure() -> Tensor:
        nonlocal best, where
        w = objective.w0 + scale * u.detach()
        energy, gradient = potential(w)
        assert energy is not None
        depth = 0.5 * n_beta * ((w - objective.w0) @ objective.gradient) - energy
        depth = depth.nan_to_num(-float("inf"))
        row = int(depth.argmax())
        if float(depth[row]) > best:
            best, where = float(depth[row]), w[row]
        u.grad = (scale * gradient).nan_to_num(0.0, 0.0, 0.0)
        return energy.nan_to_num(1e30, 1e30, -1e30).sum()

    torch.optim.LBFGS(
        [u], max_iter=DESCENT, max_eval=2 * DESCENT, line_search_fn="strong_wolfe",
        tolerance_change=RESOLVED, tolerance_grad=RESOLVED,
    ).step(closure)  # fmt: skip
    return best, where


def _lowest_curvature(objective: Objective, n_beta: float, direction: Tensor) -> float:
    """The lowest Ritz value of the Hessian of n beta L at w*, products by central differences."""
    size = float(direction.norm())
    if not 0 < size < float("inf"):
        return float("nan")
    eps = torch.finfo(direction.dtype).eps ** (1 / 3) * size
    v, basis, alphas, betas = direction / size, [], [], []
    for _ in range(min(KRYLOV, len(direction))):
        basis.append(v)
        _, pair = objective.value_and_gradient(
            torch.stack([objective.w0 + eps * v, objective.w0 - eps * v])
        )
        product = (pair[0] - pair[1]) * (n_beta / (2 * eps))
        alphas.append(product @ v)
        rows = torch.stack(basis)
        for _ in range(2):  # twice is enough to stay orthogonal
            product = product - rows.T @ (rows @ product)
        betas.append(product.norm())
        if not float(betas[-1]) > 1e-10 * max(abs(float(a)) for a in alphas):
            break
        v = product / betas[-1]
    inner = torch.diag(torch.stack(alphas))
    if len(alphas) > 1:
        off = torch.stack(betas[: len(alphas) - 1])
        inner = inner + torch.diag(off, 1) + torch.diag(off, -1)
    return float(torch.linalg.eigvalsh(inner)[0]) if bool(torch.isfinite(inner).all()) else -1e30


def check_gradient(objective: Objective, x: Tensor, seed: int) -> None:
    """Compare the gradient with differences of the function, along random directions at x (C, d).

    Raises
    ------
    ValueError
        The median deviation exceeds 2% of the slopes and what rounding leaves.
    """
    away = (x - objective.w0).norm(dim=1)
    x, away = x[away > 0][:POINTS], away[away > 0][:POINTS]
    if len(x) == 0:  # no chain moved; the verdict says so
        return
    generator = torch.Generator(x.device).manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    part = objective.eps ** (1 / 3)
    shift = noise * (part * away / noise.norm(dim=1))[:, None]
    above, below = objective.values(x + shift), objective.values(x - shift)
    slope = 2 * (objective.value_and_gradient(x)[1] * shift).sum(1)
    rounding = 8 * objective.eps * (above.abs() + below.abs())
    gap = ((above - below - slope).abs() - rounding).median()
    size = (above - below).abs().median() + slope.abs().median()
    if float(gap) > WRONG * float(size):
        raise ValueError(
            "gradient is not the gradient of function: near w0 its slopes differ from differences "
            f"of the function by {float(gap / size):.0%} of their size"
        )
