"""Per-sample gradients of any parameters, by automatic differentiation of the whole model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thermolearn.predict.kernels.empirical.layers import Factor, forward, gradients


class Jacobian:
    """Gradients of every output in some parameters, sample by sample.

    All samples at once by ``torch.func`` where that gives the gradients of plain automatic
    differentiation (tested on every block: some modules do not see replaced parameters), else one
    sample after the other.
    """

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.model, self.names = model, names
        own = dict(model.named_parameters())
        self.parameters = {name: own[name] for name in names}
        self.batched = True

    def __call__(self, x: Tensor) -> list[Factor]:
        if self.batched:
            try:
                found = self._all_at_once(x)
                self.batched = self._agrees(found, x)
                if self.batched:
                    return [_as_factor(found)]
            except Exception:  # what cannot be vectorized raises all sorts of errors
                self.batched = False
        return [_as_factor(self._one_by_one(x))]

    def _all_at_once(self, x: Tensor) -> Tensor:
        """(n, outputs, parameters)."""

        def outputs(values: dict[str, Tensor], sample: Tensor) -> Tensor:
            out = torch.func.functional_call(self.model, values, (sample[None],))
            return out.flatten()

        values = {name: p.detach() for name, p in self.parameters.items()}
        found = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))(values, x.clone())
        return torch.cat([found[name].flatten(2) for name in self.names], 2)

    def _agrees(self, found: Tensor, x: Tensor) -> bool:
        """Whether a random combination of samples and outputs has the gradient it should have."""
        n, n_out, _ = found.shape
        draw = torch.Generator().manual_seed(0)
        c, r = (1 + torch.rand(k, generator=draw, dtype=torch.float64) for k in (n, n_out))
        c, r = c.to(found), r.to(found)
        out = forward(self.model, x)
        combined = (out * c[:, None] * r).sum()
        parts = gradients(combined, self.model, list(self.parameters.values()))
        exact = torch.cat([p.flatten() for p in parts])
        given = torch.einsum("n,o,nop->p", c, r, found)
        tolerance = torch.finfo(out.dtype).eps ** 0.6 * exact.abs().max()
        return bool((given - exact).abs().max() <= tolerance)

    def _one_by_one(self, x: Tensor) -> Tensor:
        rows = []
        for sample in x.split(1):
            out = forward(self.model, sample)[0]
            size = sum(p.numel() for p in self.parameters.values())
            row = out.new_zeros(len(out), size)
            for o in range(len(out)) if out.requires_grad else ():
                own = list(self.parameters.values())
                parts = gradients(out[o], self.model, own, keep=o < len(out) - 1)
                row[o] = torch.cat([p.flatten() for p in parts])
            rows.append(row)
        return torch.stack(rows)


def _as_factor(gradients: Tensor) -> Factor:
    return Factor(None, gradients[:, :, None, None])


def split_by_size(model: nn.Module, ids: set[int], limit: int) -> list[list[str]]:
    """Names of the parameters in `ids`, in groups of at most `limit` numbers where possible."""
    groups: list[list[str]] = []
    room = 0
    for name, p in model.named_parameters():
        if id(p) not in ids:
            continue
        if not groups or p.numel() > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= p.numel()
    return groups
