"""Thermal robustness: how a network does its task under its own ensemble's noise.

The flat ensemble at temperature T is the forward pass with noise sqrt(T) on every neuron: accuracy
against temperature is the cost of analog noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from thermolearn.core.estimate import Estimate
from thermolearn.measure.canonical.states import noisy_forward
from thermolearn.measure.canonical.system import NeuronSystem


@torch.no_grad()
def thermal_robustness(
    system: NeuronSystem,
    x: Any,
    labels: Any,
    betas: Sequence[float],
    *,
    repeats: int = 8,
    seed: int = 0,
) -> list[Estimate]:
    """Accuracy (fraction of samples whose largest output is the label) at each beta.

    Parameters
    ----------
    x : Tensor (B, ...)
    labels : Tensor (B,) of int
    betas : sequence of positive floats
        beta = inf is the clean pass.
    repeats : int
        Noise draws per sample. The error bar is the spread over samples (draws averaged first):
        it is that of the accuracy on new data.
    """
    data = system.states(x)[0]
    labels = torch.as_tensor(labels).reshape(-1).to(data.device)
    if len(labels) != len(data):
        raise ValueError(f"{len(labels)} labels for {len(data)} samples")
    if repeats < 1 or any(not beta > 0 for beta in betas):
        raise ValueError("betas must be positive and repeats at least 1")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for beta in betas:
        draws = 1 if beta == float("inf") else repeats
        hits = torch.zeros(len(data), dtype=torch.float64, device=data.device)
        for _ in range(draws):
            states, _ = noisy_forward(system, data, beta, generator)
            hits += (states[-1].argmax(1) == labels).double() / draws
        n = len(hits)
        # half a count keeps the bar from vanishing where every sample is right
        spread = float(hits.std()) if n > 1 else 0.0
        stderr = math.hypot(spread / n**0.5, 0.5 / n)
        found.append(Estimate(float(hits.mean()), stderr, n))
    return found
