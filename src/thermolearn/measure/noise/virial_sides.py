"""The two sides of the virial relation of one optimizer step, read from the optimizer itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.noise.sgd_terms import SMALL, adds_in_place, mixing_factor, terms_of

NOTE = "mean over the sampled steps of the window; successive steps are not independent"
FOREACH: Any = torch  # whose foreach functions have no stubs
SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
SMALL_TOTAL = 2**16  # elements that are copied end to end


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
    temperature belongs to them. So it is done with SGD on parameters in half precision too, where
    rounding swallows small updates.

    Groups with a learning rate of zero are left out. Call `before` before a step and `after` after
    it, on all steps or on a sample of them. Both sides are read after the step, so that closures
    (which compute the gradient inside the step) count as they should.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer

    Attributes
    ----------
    covered : bool
        Whether the relations of SGD hold; otherwise `reason` says why not.
    columns : int
        2 x parameter groups: the left sides of the groups, then the right ones.
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
        self.reason = _reason(optimizer)
        self.covered = not self.reason
        self.rows: list[Any] = []
        self.counts: list[list[int]] = []  # parameters that each of these steps updated, by group
        self.columns = 0
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
        if self.columns != 2 * len(pairs):
            self.columns, self.rows, self.counts = 2 * len(pairs), [], []
        self.rows.append(_row(pairs))
        self.counts.append(sizes)
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
        return self.drain_with_counts()[:, : self.columns]

    def drain_with_counts(self) -> np.ndarray:
        """The same, followed by the parameters that each group updated in that step."""
        rows, self.rows = self.rows, []
        counts, self.counts = self.counts, []
        return self._table(rows, counts, self.columns)

    @staticmethod
    def _table(rows: list[Any], counts: list[Any], columns: int) -> np.ndarray:
        waiting = [row for row in rows if isinstance(row, Tensor)]
        if waiting:  # on an accelerator: brought over all at once
            found = iter(torch.stack(waiting).cpu().tolist())
            rows = [next(found) if isinstance(row, Tensor) else row for row in rows]
        sides = np.array(rows, dtype=np.float64).reshape(len(rows), columns)
        sizes = np.array(counts, dtype=np.float64).reshape(len(rows), columns // 2)
        return np.concatenate([sides, sizes], 1)

    @torch.no_grad()
    def phi(self) -> float:
        """Phi as it is now, summed over the groups: the sides differ by minus its change per step.

        For an optimizer that is not covered, |theta|^2/(2 lr).
        """
        total = 0.0
        for group in self.optimizer.param_groups:
            factor = mixing_factor(group if self.covered else {"lr": group.get("lr")})
            if not math.isfinite(factor):  # nothing is updated without a learning rate
                continue
            total += factor * _exact_square(group["params"])
            m = float(group["momentum"]) if self.covered else 0.0
            if m == 0:
                continue
            weight = m**2 if group["nesterov"] else m / (1 - float(group["dampening"]))
            for p in group["params"]:
                v = self.optimizer.state.get(p, {}).get("momentum_buffer")
                total -= 0.0 if v is None else weight * _exact_dot(p, v)
        return total

    def hold(self) -> tuple[Any, ...]:
        """What `estimates` needs of the steps since the last call, quickly: for the middle of a
        training loop. Empty if there was none."""
        rows, self.rows = self.rows, []
        counts, self.counts = self.counts, []
        if not rows:
            return ()
        changed, self._taken = self.changes > self._taken, self.changes
        return rows, counts, self.columns, changed, self.phi()

    def estimates(self, held: tuple[Any, ...]) -> dict[str, Estimate]:
        """Means over the steps that `hold` has kept; empty if there was none.

        Returns
        -------
        dict
            ``theta_dot_gradient``, ``half_rate_update_squared`` and their difference
            ``virial_gap`` in units of the loss, summed over the groups, ``updated_parameters`` per
            step and ``virial_phi``, Phi as it was then. Status ``"settings changed"`` if the
            learning rate or another setting changed between the steps.
        """
        if not held:
            return {}
        read, counts, columns, changed, phi = held
        rows, half = self._table(read, counts, columns), columns // 2
        left, right = rows[:, :half].sum(1), rows[:, half : 2 * half].sum(1)
        status = "settings changed" if changed else "ok"
        note = NOTE if self.covered else f"{NOTE}; from the updates, not the gradients"
        return {
            "theta_dot_gradient": mean_estimate(left, status=status, note=note),
            "half_rate_update_squared": mean_estimate(right, status=status, note=note),
            "virial_gap": mean_estimate(left - right, status=status, note=note),
            "updated_parameters": Estimate(float(rows[:, 2 * half :].sum(1).mean())),
            "virial_phi": Estimate(phi),
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and one tensor."""
        rows = self.drain_with_counts()
        self._put_back(rows)
        return {
            "rows": torch.from_numpy(rows.copy()),
            "columns": self.columns,
            "settings": [[float(v) for v in s] for s in self.settings],
            "changes": self.changes,
            "taken": self._taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.columns = int(state["columns"])
        self._put_back(state["rows"].double().numpy())
        self.settings = tuple(tuple(s) for s in state["settings"])
        self.changes, self._taken = int(state["changes"]), int(state["taken"])

    def _put_back(self, rows: np.ndarray) -> None:
        self.rows = rows[:, : self.columns].tolist()
        self.counts = rows[:, self.columns :].tolist()


def _reason(optimizer: torch.optim.Optimizer) -> str:
    """Why the relations of SGD do not hold; empty where they do."""
    if type(optimizer) is not torch.optim.SGD:
        return (
            f"{type(optimizer).__name__} rescales each parameter's update by its own history: each "
            "parameter has a temperature of its own, and only the drift of |theta|^2 is tested"
        )
    if any(p.dtype in SMALL for g in optimizer.param_groups for p in g["params"]):
        return (
            "rounding to half precision swallows small updates, so that the parameters do not "
            "move as SGD says, and only the drift of |theta|^2 is tested; for a temperature keep "
            "the parameters in float32 and use autocast"
        )
    return ""


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
        if reads_gradients and p.dtype in SMALL:  # not so when the optimizer was first seen
            raise NotApplicableError(
                "the parameters were cast to half precision during the run, where rounding "
                "swallows small updates; cast them before the measurement starts"
            )


def _sgd_sides(
    parameters: list[Tensor], group: dict[str, Any], state: Any
) -> tuple[Any, Any] | None:
    """theta . g and its counterpart of one group, from what the step has left behind; None where
    nothing was updated."""
    m, rate = float(group["momentum"]), float(group["lr"])
    if rate == 0:
        return None
    in_place = bool(group["nesterov"]) and adds_in_place(parameters, group)
    if m != 0:
        parameters = [p for p in parameters if state[p].get("momentum_buffer") is not None]
    if not parameters:
        return None
    numbers = (rate, float(group["weight_decay"]), float(group["dampening"]))
    flags = (bool(group["nesterov"]), bool(group.get("maximize")), in_place)
    terms = terms_of(m, *numbers, *flags)
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


def _exact_square(parameters: list[Tensor]) -> float:
    """|theta|^2 in float64 (float32 on mps)."""
    if not parameters:
        return 0.0
    first = parameters[0]
    alike = all([p.device == first.device and p.dtype == first.dtype for p in parameters])
    if not alike or sum([p.numel() for p in parameters]) > SMALL_TOTAL:
        return sum([_exact_dot(p, p) for p in parameters])
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    return _exact_dot(flat, flat)


def _exact_dot(a: Tensor, b: Tensor) -> float:
    """Scalar product in float64 (float32 on mps): a drift is a small difference of these."""
    dtype = torch.float32 if a.device.type == "mps" else torch.float64
    return float(torch.dot(a.detach().reshape(-1).to(dtype), b.detach().reshape(-1).to(dtype)))


def _row(pairs: list[tuple[Any, Any] | None]) -> Any:
    """Left sides, then right sides; a list of numbers, or a tensor on an accelerator."""
    sides = [0.0 if p is None else p[k] for k in (0, 1) for p in pairs]
    device = next((s.device for s in sides if isinstance(s, Tensor)), None)
    if device is None:
        return sides
    return torch.stack([torch.as_tensor(s, device=device) for s in sides])


def sampled_step(block: int, spacing: int) -> int:
    """The step of a block of `spacing` steps on which the virial relation is read.

    Scrambled (the finalizer of splitmix64), since at equal distances the phase of an epoch would
    be sampled; a pure function of the block, so that a resumed run reads the same steps.
    """
    mask = 2**64 - 1
    z = (block + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return block * spacing + (z ^ (z >> 31)) % spacing
