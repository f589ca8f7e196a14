"""The two sides of the virial relation of one optimizer step, read from the optimizer itself."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, mean_estimate

NOTE = "mean over the sampled steps of the window; successive steps are not independent"
FOREACH: Any = torch  # whose foreach functions have no stubs
SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
SMALL_TOTAL = 2**16  # elements that are copied end to end
SMALL = (torch.float16, torch.bfloat16)  # sums over these would lose what is summed


class VirialSides:
    """theta . g and the squared update of an optimizer's steps, in units of the loss.

    With g the gradient that the step used (clipped, unscaled, with the weight-decay term) and
    theta the parameters before it, a stationary run of SGD has

    - without momentum: <theta . g> = lr/2 <|g|^2>,
    - with momentum m and dampening t (v <- m v + (1 - t) g, theta <- theta - lr v):
      <theta . g> = lr (1 + m)/(2 (1 - t)) <|v|^2>,
    - with Nesterov's momentum (u = g + m v, theta <- theta - lr u):
      <theta . g> = lr [(1 - m)/2 <|u|^2> + m^2 <u . v>].

    The difference of the two sides is, step by step, minus the change of
    Phi = [(1 - m) |theta|^2/(2 lr) - c theta . v]/(1 - t), c = m, or m^2 with Nesterov: their means
    agree if and only if Phi does not drift. For any other optimizer the actual updates are taken:
    -<theta . dtheta>/lr and <|dtheta|^2>/(2 lr), which agree if |theta|^2 does not drift; no
    temperature belongs to them.

    Call `before` before a step and `after` after it, on all steps or on a sample of them. Both
    sides are read after the step, so that closures (which compute the gradient inside the step)
    count as they should.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer

    Attributes
    ----------
    covered : bool
        Whether the relations of SGD hold; otherwise `reason` says why not.
    columns : int
        2 x parameter groups: the left sides of the groups, then the right ones.
    parameters : int
        Numbers that the last step updated; `group_parameters` by group.
    settings : tuple
        Learning rate, momentum, ... of all groups in the last step.
    changes : int
        How often they have changed from one sampled step to the next.

    Raises
    ------
    TypeError
        Not a torch optimizer.

    References
    ----------
    Yaida, arXiv:1810.00004. Dampening and Nesterov's form are derived here.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
                "pass the torch optimizer inside a wrapper"
            )
        self.optimizer = optimizer
        self.covered = type(optimizer) is torch.optim.SGD
        self.reason = (
            ""
            if self.covered
            else f"{type(optimizer).__name__} rescales each parameter's update by its own history: "
            "each parameter has a temperature of its own, and only the drift of |theta|^2 is tested"
        )
        self.rows: list[Any] = []
        self.columns = 0
        self.parameters = 0
        self.group_parameters: list[int] = []
        self.settings: tuple[Any, ...] = ()
        self.changes = 0
        self._taken = 0  # changes at the last `take`
        self._held: list[list[Tensor]] | None = None

    # -- around one step ---------------------------------------------------------------------------
    def before(self) -> None:
        """Copy what the step is about to change, where the update cannot be read afterwards."""
        if not self.covered:
            groups = self.optimizer.param_groups
            self._held = [[p.detach().clone() for p in g["params"]] for g in groups]

    @torch.no_grad()
    def after(self) -> bool:
        """Read both sides of the step just done; False if it updated nothing.

        Raises
        ------
        NotApplicableError
            Sparse gradients, complex parameters, or a fused optimizer that unscales by itself.
        """
        optimizer = self.optimizer
        if self.covered and getattr(optimizer, "grad_scale", None) is not None:
            raise NotApplicableError(
                "a fused optimizer unscales the gradients inside its step: call "
                "scaler.unscale_(optimizer) before scaler.step, or build it with fused=False"
            )
        settings = tuple(_settings(group) for group in optimizer.param_groups)
        if settings != self.settings:
            self.changes += bool(self.settings)
            self.settings = settings
        pairs, sizes = [], []
        for k, group in enumerate(optimizer.param_groups):
            used = [p for p in group["params"] if p.grad is not None]
            _check(used, self.covered)
            if self.covered:
                pair = _sgd_sides(used, group, optimizer.state)
            else:
                pair = self._update_sides(k, group)
            pairs.append(pair)
            sizes.append(sum(p.numel() for p in used) if pair is not None else 0)
        self._held = None
        if not any(sizes):
            return False
        self.parameters, self.group_parameters = sum(sizes), sizes
        if self.columns != 2 * len(pairs):
            self.columns, self.rows = 2 * len(pairs), []
        self.rows.append(_row(pairs))
        return True

    def _update_sides(self, k: int, group: dict[str, Any]) -> tuple[Any, Any] | None:
        rate = float(group.get("lr") or 0.0)
        if self._held is None or k >= len(self._held) or rate == 0:
            return None
        kept = list(zip(group["params"], self._held[k], strict=False))
        old = [_flat(o) for p, o in kept if p.grad is not None]
        if not old:
            return None
        new = [_flat(p) for p, _ in kept if p.grad is not None]
        step = FOREACH._foreach_sub(new, old)
        return -_dot(old, step) / rate, _dot(step, step) / (2 * rate)

    # -- what was read -----------------------------------------------------------------------------
    def drain(self) -> np.ndarray:
        """The rows since the last call, (steps, columns) in float64; they are forgotten here."""
        rows, self.rows = self.rows, []
        waiting = [row for row in rows if isinstance(row, Tensor)]
        if waiting:  # on an accelerator: brought over all at once
            found = iter(torch.stack(waiting).cpu().tolist())
            rows = [next(found) if isinstance(row, Tensor) else row for row in rows]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.columns)

    def take(self) -> dict[str, Estimate]:
        """Means over the steps since the last call; empty if there was none.

        Returns
        -------
        dict
            ``theta_dot_gradient``, ``half_rate_update_squared`` and their difference
            ``virial_gap`` in units of the loss, summed over the groups, and
            ``updated_parameters``. Status ``"settings changed"`` if the learning rate or another
            setting changed between the steps.
        """
        rows = self.drain()
        if not len(rows):
            return {}
        half = self.columns // 2
        left, right = rows[:, :half].sum(1), rows[:, half:].sum(1)
        changed, self._taken = self.changes > self._taken, self.changes
        status = "settings changed" if changed else "ok"
        note = NOTE if self.covered else f"{NOTE}; from the updates, not the gradients"
        return {
            "theta_dot_gradient": mean_estimate(left, status=status, note=note),
            "half_rate_update_squared": mean_estimate(right, status=status, note=note),
            "virial_gap": mean_estimate(left - right, status=status, note=note),
            "updated_parameters": Estimate(float(self.parameters)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and one tensor."""
        rows = self.drain()
        self.rows = [list(row) for row in rows]
        return {
            "rows": torch.from_numpy(rows.copy()),
            "columns": self.columns,
            "group_parameters": list(self.group_parameters),
            "settings": [[float(v) for v in s] for s in self.settings],
            "changes": self.changes,
            "taken": self._taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.columns = int(state["columns"])
        self.rows = state["rows"].double().tolist()
        self.group_parameters = [int(n) for n in state["group_parameters"]]
        self.parameters = sum(self.group_parameters)
        self.settings = tuple(tuple(s) for s in state["settings"])
        self.changes, self._taken = int(state["changes"]), int(state["taken"])


def _settings(group: dict[str, Any]) -> tuple[Any, ...]:
    """All that the relation depends on, and how many tensors there are."""
    found = [group.get(key) or 0.0 for key in SETTINGS]
    return (*[float(v) if isinstance(v, Tensor) else v for v in found], len(group["params"]))


def _check(parameters: list[Tensor], reads_gradients: bool) -> None:
    for p in parameters:
        if p.is_complex():
            raise NotApplicableError("the virial relation is not written for complex parameters")
        if reads_gradients and p.grad is not None and p.grad.is_sparse:
            raise NotApplicableError(
                "the gradients are sparse; build the embedding with sparse=False"
            )


def _sgd_sides(
    parameters: list[Tensor], group: dict[str, Any], state: Any
) -> tuple[Any, Any] | None:
    """theta . g and its counterpart of one group, from what the step has left behind; None where
    nothing was updated."""
    m = float(group["momentum"])
    if m != 0:
        parameters = [p for p in parameters if state[p].get("momentum_buffer") is not None]
    if not parameters:
        return None
    numbers = [float(group[k]) for k in ("lr", "weight_decay", "dampening")]
    terms = _terms(m, *numbers, bool(group["nesterov"]), bool(group.get("maximize")))
    vectors = [
        [_flat(p) for p in parameters],
        [_flat(p.grad) for p in parameters if p.grad is not None],
        [_flat(state[p]["momentum_buffer"]) for p in parameters] if m != 0 else [],
    ]
    left = right = 0.0
    gram = _gram(vectors)
    for i, j, to_left, to_right in terms:
        product = _dot(vectors[i], vectors[j]) if gram is None else gram[i][j]
        left, right = left + to_left * product, right + to_right * product
    return left, right


def _gram(vectors: list[list[Tensor]]) -> list[list[float]] | None:
    """All scalar products at once, which for small vectors costs less than one by one; None where
    copying the vectors end to end would cost more, or is not possible."""
    filled = [v for v in vectors if v]
    tensors = [t for v in filled for t in v]
    dtype = tensors[0].dtype
    if sum([t.numel() for t in filled[0]]) > SMALL_TOTAL:
        return None
    if not all([t.is_cpu and t.dtype == dtype for t in tensors]):
        return None
    flat = torch.cat(tensors).view(len(filled), -1)
    return (flat @ flat.T).tolist()


@lru_cache(maxsize=64)
def _terms(
    m: float, rate: float, decay: float, dampening: float, nesterov: bool, maximize: bool
) -> list[tuple[int, int, float, float]]:
    """The two sides as sums over scalar products (i, j, weight in the left, in the right side).

    Everything is a combination of the parameters after the step (0), the gradient (1) and the
    momentum v (2): theta before the step is theta + lr u. Products without weight are left out, so
    that nothing has to be copied and few products are taken.
    """
    if m != 0 and dampening == 1:
        raise NotApplicableError(
            "dampening=1 keeps all gradients out of the momentum; choose less than 1"
        )
    now, gradient, velocity = np.eye(3)
    sign = -1.0 if maximize else 1.0
    if m != 0 and not nesterov:
        update = velocity
        before = now + rate * update
        g = sign * gradient + decay * before
        right = rate * (1 + m) / (2 * (1 - dampening)) * np.outer(update, update)
    else:  # the update itself holds the decay of the parameters
        if rate * decay == 1:
            raise NotApplicableError("lr x weight_decay = 1 forgets the parameters at every step")
        before = (now + rate * (sign * gradient + m * velocity)) / (1 - rate * decay)
        g = sign * gradient + decay * before
        update = g + m * velocity
        right = rate * (1 - m) / 2 * np.outer(update, update)
        right += rate * m**2 * np.outer(update, velocity)
    both = [form + form.T - np.diag(np.diag(form)) for form in (np.outer(before, g), right)]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    found = [(i, j, float(both[0][i, j]), float(both[1][i, j])) for i, j in pairs]
    return [term for term in found if term[2] or term[3]]


def _flat(t: Tensor) -> Tensor:
    flat = t if t.dim() == 1 else t.reshape(-1)
    return flat.float() if t.dtype in SMALL else flat


def _dot(a: Any, b: Any) -> Any:
    """Sum of the scalar products: a number, or where an accelerator has to be waited for a tensor
    in float64 (float32 on mps)."""
    parts = [torch.dot(x, y) for x, y in zip(a, b, strict=True)]
    if all([p.is_cpu for p in parts]):
        return sum([p.item() for p in parts])
    device = next(p.device for p in parts if not p.is_cpu)
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([p.to(device=device, dtype=dtype) for p in parts]).sum()


def _row(pairs: list[tuple[Any, Any] | None]) -> Any:
    """Left sides, then right sides; a list of numbers, or a tensor on an accelerator."""
    sides = [0.0 if p is None else p[k] for k in (0, 1) for p in pairs]
    device = next((s.device for s in sides if isinstance(s, Tensor)), None)
    if device is None:
        return sides
    return torch.stack([torch.as_tensor(s, device=device) for s in sides])


def mixing_factor(settings: dict[str, Any]) -> float:
    """(1 - m)/(2 lr (1 - t)): what turns a change of |theta|^2 into a gap of the two sides.

    `settings` are those of one parameter group; NaN without a positive learning rate.
    """
    rate = float(settings.get("lr") or 0.0)
    m, t = float(settings.get("momentum") or 0.0), float(settings.get("dampening") or 0.0)
    if not rate > 0 or (m != 0 and t == 1):
        return math.nan
    return (1 - m) / (2 * rate * (1 - (t if m != 0 else 0.0)))
