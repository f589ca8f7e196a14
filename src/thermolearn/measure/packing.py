"""Copies of a model's parameters and buffers, cheap enough for the middle of a training loop."""

from __future__ import annotations

from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from thermolearn.core.copying import check_measurable, named_state, unwrap

SMALL = 2**16  # elements; below, the call costs more than the copy, and tensors share one copy
PLAIN = (Tensor, nn.Parameter)


@dataclass(eq=False)
class Group:
    """Small tensors of one type on one device: they are copied end to end into one flat tensor."""

    names: list[str]
    tensors: list[Tensor]
    shapes: list[torch.Size]
    dtype: torch.dtype


@dataclass(eq=False)
class Packed:
    """One copy of all parameters and buffers."""

    groups: list[Group]
    flats: list[Tensor]
    single: dict[str, Tensor]
    order: list[str]
    n_bytes: int

    def unpack(self) -> dict[str, Tensor]:
        """Tensors by name, in the model's order; those of a group are views of its flat copy."""
        out = dict(self.single)
        for group, flat in zip(self.groups, self.flats, strict=True):
            pieces = flat.split([shape.numel() for shape in group.shapes])
            for name, shape, piece in zip(group.names, group.shapes, pieces, strict=True):
                out[name] = piece.view(shape)
        return {name: out[name] for name in self.order}


class Packer:
    """Copies a model again and again; what does not change is looked up once.

    Before every copy it is checked that all modules still hold the same tensors of the same shapes
    (a parameter may be replaced, materialized, pruned, parametrized or moved); if not, the model is
    walked again. The tensors themselves are read, never a remembered view of their storage.
    """

    def __init__(self, model: nn.Module):
        self._wrapped = model
        self._model: nn.Module | None = None
        self._dicts: list[dict[str, Any]] = []
        self._held: list[Any] = []
        self._groups: list[Group] = []
        self._single: dict[str, Tensor] = {}
        self._order: list[str] = []
        self._n_bytes = 0

    def copy(self) -> Packed:
        """Parameters and buffers as they are now.

        Raises
        ------
        NotApplicableError
            They cannot be read as whole, plain tensors.
        """
        if not self._up_to_date():
            self._walk()
        with torch.no_grad():
            flats = self._flats()
            if flats is None:  # types or devices changed
                self._walk()
                flats = self._flats() or []
            single = {name: t.detach().clone() for name, t in self._single.items()}
        return Packed(self._groups, flats, single, self._order, self._n_bytes)

    def _flats(self) -> list[Tensor] | None:
        """A flat copy of each group; None if its tensors are no longer of one type and device."""
        flats = []
        try:
            for group in self._groups:
                flat = torch.cat([t.flatten() for t in group.tensors])
                if flat.dtype != group.dtype:
                    return None
                flats.append(flat)
        except RuntimeError:
            return None
        return flats

    def _up_to_date(self) -> bool:
        held = [item for d in self._dicts for item in d.values()]
        return (
            self._model is unwrap(self._wrapped)
            and len(held) == len(self._held)
            and all(map(is_, held, self._held))
            and all([t.shape for t in g.tensors] == g.shapes for g in self._groups)
        )

    def _walk(self) -> None:
        self._model = None  # until this walk has succeeded
        model = unwrap(self._wrapped)
        check_measurable(model)
        state = named_state(model)
        groups: dict[Any, Group] = {}
        self._single = {}
        for name, tensor in state.items():
            plain = type(tensor) in PLAIN and tensor.layout == torch.strided
            if plain and not tensor.is_quantized and tensor.numel() <= SMALL:
                key = (tensor.dtype, tensor.device)
                group = groups.setdefault(key, Group([], [], [], tensor.dtype))
                group.names.append(name)
                group.tensors.append(tensor)
                group.shapes.append(tensor.shape)
            else:
                self._single[name] = tensor
        self._groups, self._order = list(groups.values()), list(state)
        self._n_bytes = sum(t.numel() * t.element_size() for t in state.values())
        self._dicts = [d for m in model.modules() for d in (m._parameters, m._buffers, m._modules)]
        self._held = [item for d in self._dicts for item in d.values()]
        self._model = model
