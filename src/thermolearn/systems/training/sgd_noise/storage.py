"""What a saved result belongs to, and whether the machine holds one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.systems.training.sgd_noise.schedules import Schedule

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron

FIELDS = np.r_[-9.7:10:0.6, -0.9:1.1:0.11]  # where functions of h are compared
EQUAL = 1e-9  # relative


def fingerprint(
    model: GaussianMixturePerceptron, schedule: Schedule, weight_decay: float
) -> dict[str, np.ndarray]:
    """Parameters by name; of loss and decision the values at some fields."""
    y, loss = np.array(model.clusters.labels)[:, None], model.losses
    h = np.tile(FIELDS, (len(y), 1))
    facts = {
        "alpha": model.alpha,
        "Delta": model.Delta,
        "prior": model.clusters.rows(),
        "loss": [f(h, y) for f in (loss.value, loss.first, loss.second)],
        "decision": model.decision(FIELDS),
        "rate": schedule.rate,
        "batch_fraction": schedule.batch_fraction,
        "persistence": (schedule.switch_on, schedule.switch_off),
        "normalize": schedule.weight,
        "weight_decay": weight_decay,
    }
    return {name: np.asarray(value, dtype=np.float64) for name, value in facts.items()}


def different(stored: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> list[str]:
    """Names of what is not the same in both."""
    return [
        name
        for name, value in given.items()
        if name not in stored
        or stored[name].shape != value.shape
        or not np.allclose(stored[name], value, rtol=EQUAL, atol=1e-12)
    ]


def check_memory(needed: float, advice: str) -> None:
    """Refuse what the machine cannot hold before hours are spent on it.

    Raises
    ------
    ValueError
        So many bytes are more than the memory of the machine.
    """
    if not hasattr(os, "sysconf"):  # pragma: no cover - not on POSIX: the allocator decides
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"this takes {needed / 2**30:.3g} GiB of memory, and the machine has "
            f"{there / 2**30:.3g}: {advice}"
        )
