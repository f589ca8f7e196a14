"""Whether a model computes something else in training than in the eval mode it is measured in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from thermolearn.core.copying import untouched

SAMPLES = 32  # of the forward pass that is compared
EVAL = "eval mode"  # status of a number that is not the training run's


def training_differs(model: nn.Module, x: Tensor) -> str:
    """Why numbers of the eval-mode model are not those of its training; empty if they are.

    The outputs in training mode are compared with those in eval mode, so that dropout and batch
    statistics are found in modules and in functions alike. Dropout adds noise of its own, and
    batch normalization couples the samples of a batch.

    Parameters
    ----------
    model : nn.Module
        A private copy in eval mode; it is not changed.
    """
    x = x[:SAMPLES]
    try:
        twin = copy.deepcopy(model).train()
        with untouched(), torch.no_grad():
            same = torch.allclose(twin(x), model(x), rtol=1e-5, atol=0.0, equal_nan=True)
    except Exception:  # outputs of another kind, or too few samples for batch statistics
        same = False
    if same:
        return ""
    kinds = {type(m).__name__ for m in model.modules() if "Dropout" in type(m).__name__
             or "BatchNorm" in type(m).__name__}  # fmt: skip
    who = f" ({', '.join(sorted(kinds))})" if kinds else ""
    return (
        f"the model computes something else in training mode{who}: measured in eval mode, the "
        "noise is not that of a run in training mode"
    )
