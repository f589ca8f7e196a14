"""The simulation against measured tables, and against the theory of the library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thermolearn.core.estimate import Estimate
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD, Schedule

pytestmark = pytest.mark.slow

HINGE = GaussianMixturePerceptron(2.0, 0.5, loss="hinge2")
EVEN = GaussianMixturePerceptron(
    2.0,
    0.3,
    [(0.25, 1, 1), (0.25, -1, 1), (0.5, 0, -1)],
    lambda h, y: torch.clamp(0.5 - y * (h * h - 1), min=0) ** 2 / 2,
    lambda h: h * h - 1,
)
UNEVEN = GaussianMixturePerceptron(1.5, 1.0, [(0.7, 1, 1), (0.3, -1, -1)], "logistic")
# model, schedule, weight decay, start, {t: m, C, loss, error}: theory, simulation, its error
ROWS: dict[str, tuple[Any, Schedule, float, tuple[float, float], dict[int, Any]]] = {
    "squared error": (
        GaussianMixturePerceptron(2.0, 0.5, loss="quadratic"),
        GD(0.2),
        0.1,
        (1.0, 0.1),
        {
            20: (
                (0.6237, 0.6269, 0.0027),
                (0.7000, 0.7074, 0.0037),
                (0.0913, 0.0921, 0.0005),
                (0.0164, 0.0164, 0.0005),
            ),
            80: (
                (0.6300, 0.6324, 0.0030),
                (0.7752, 0.7826, 0.0048),
                (0.0868, 0.0875, 0.0005),
                (0.0132, 0.0139, 0.0007),
            ),
        },
    ),
    "squared hinge, SGD": (
        HINGE,
        SGD(0.2, 0.3),
        0.1,
        (1.0, 0.1),
        {
            10: (
                (0.8636, 0.8709, 0.0024),
                (1.2526, 1.2693, 0.0028),
                (0.0703, 0.0709, 0.0007),
                (0.0308, 0.0307, 0.0008),
            ),
            40: (
                (0.9612, 0.9646, 0.0030),
                (1.5629, 1.5733, 0.0039),
                (0.0375, 0.0377, 0.0005),
                (0.0090, 0.0083, 0.0004),
            ),
        },
    ),
    "squared hinge, persistent SGD": (
        HINGE,
        PersistentSGD(0.2, 0.3, 1.0),
        0.1,
        (1.0, 0.1),
        {
            10: (
                (0.8511, 0.8553, 0.0031),
                (1.2628, 1.2717, 0.0040),
                (0.0813, 0.0826, 0.0010),
                (0.0400, 0.0417, 0.0014),
            ),
            40: (
                (0.9420, 0.9482, 0.0034),
                (1.5021, 1.5186, 0.0050),
                (0.0437, 0.0433, 0.0006),
                (0.0148, 0.0136, 0.0006),
            ),
        },
    ),
    "logistic, SGD": (
        UNEVEN,
        SGD(0.2, 0.5),
        0.2,
        (0.5, 0.2),
        {
            20: (
                (0.8487, 0.8442, 0.0038),
                (1.3082, 1.2998, 0.0051),
                (0.2844, 0.2860, 0.0013),
                (0.0502, 0.0520, 0.0020),
            ),
            40: (
                (0.8998, 0.9002, 0.0040),
                (1.5311, 1.5323, 0.0056),
                (0.2634, 0.2639, 0.0013),
                (0.0408, 0.0399, 0.0013),
            ),
        },
    ),
    "three clusters": (
        EVEN,
        SGD(0.05, 0.5),
        0.1,
        (0.5, 0.3),
        {
            5: ((0.4606, 0.4632, 0.0052), (0.7757, 0.7865, 0.0050), (0.3178, 0.3154, 0.0031)),
            15: ((0.6873, 0.6866, 0.0049), (1.0981, 1.1022, 0.0036), (0.1938, 0.1948, 0.0025)),
            30: ((0.8129, 0.8142, 0.0038), (1.3470, 1.3552, 0.0065), (0.1231, 0.1255, 0.0016)),
        },
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_dynamics(name: str) -> None:
    """Within 4 joint standard errors of the simulation, 4 of ours + 1% of the theory."""
    model, schedule, decay, start, table = ROWS[name]
    found = model.simulate(700, schedule, decay, max(table), seeds=16, start=start)
    for t, rows in table.items():
        for quantity, (theory, reference, error) in zip(
            ("m", "C", "loss", "error"), rows, strict=False
        ):
            e = found.estimate(quantity)
            at = (t, t) if quantity == "C" else (t,)
            value, own = np.asarray(e.value)[at], np.asarray(e.stderr)[at]
            assert abs(value - reference) < 4 * math.hypot(own, error), (t, quantity)
            # the table's theory has an error of 0.5 to 1% of its own
            assert abs(value - theory) < 4 * own + 0.01 * theory, (t, quantity)


@pytest.mark.parametrize(
    ("schedule", "early", "late"),
    [
        (SGD(0.2, 0.6), (0.0178, 0.0007), (0.0032, 0.0002)),
        (SGD(0.2, 0.3), (0.0666, 0.0034), (0.0122, 0.0005)),
        (SGD(0.2, 0.15), (0.2018, 0.0059), (0.0435, 0.0017)),
        (PersistentSGD(0.2, 0.3, 1.0), (0.1258, 0.0045), (0.0246, 0.0011)),
        (PersistentSGD(0.2, 0.3, 3.0), (0.2835, 0.0082), (0.1394, 0.0078)),
    ],
)
def test_replicas(
    schedule: Schedule, early: tuple[float, float], late: tuple[float, float]
) -> None:
    model = GaussianMixturePerceptron(0.5, 0.5, loss="hinge2")
    found = model.simulate(1000, schedule, 0.0, 40, replicas=2, start=(1.0, 0.1)).distance
    for t, (reference, error) in ((10, early), (40, late)):
        value, own = np.asarray(found.value)[t], np.asarray(found.stderr)[t]
        assert abs(value - reference) < 4 * math.hypot(own, error)


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (
            SGD(0.1, 0.5),
            {
                "t_fast": (0.0518, 0.0005),
                "t_slope": (0.0207, 0.0005),
                "t_glob": (0.0328, 0.0006),
                "plateau": (0.525, 0.007),
            },
        ),
        (
            PersistentSGD(0.1, 0.5, 1.0),
            {
                "t_fast": (0.0259, 0.0002),
                "t_slope": (0.214, 0.007),
                "t_glob": (0.1376, 0.0019),
                "plateau": (0.590, 0.005),
            },
        ),
    ],
)
def test_temperatures(schedule: Schedule, reference: dict[str, tuple[float, float]]) -> None:
    model = GaussianMixturePerceptron(3.0, 1.0, loss="hinge2")
    run = model.simulate(
        400, schedule, 0.5, 150, seeds=12, start=(1.0, 0.5), waiting_times=range(70, 111, 5), lag=40
    )
    found = run.effective_temperature((70, 150))
    for name, (value, error) in reference.items():
        e: Estimate = getattr(found, name)
        assert abs(float(e) - value) < 4 * math.hypot(float(e.stderr), error), name
    order = (found.t_fast, found.t_glob, found.t_slope)
    ordered = order if isinstance(schedule, SGD) else order[::-1]
    assert float(ordered[0]) > float(ordered[1]) > float(ordered[2])
    virial = run.effective_temperature((70, 150), "virial")
    assert isinstance(virial, Estimate)
    assert abs(float(virial) - float(found.t_fast)) < 4 * math.hypot(
        virial.stderr, found.t_fast.stderr
    )


@pytest.mark.parametrize("schedule", [GD(0.2), SGD(0.2, 0.3), PersistentSGD(0.2, 0.3, 1.0)])
def test_the_theory_of_the_library(schedule: Schedule) -> None:
    """Whole curves, within 4 joint standard errors and half a percent."""
    theory = HINGE.dmft(schedule, 0.1, 20, 20_000, start=(1.0, 0.1))
    found = HINGE.simulate(500, schedule, 0.1, 20, seeds=48, start=(1.0, 0.1))
    for name in ("m", "C", "loss", "error", "test_error"):
        a, b = theory.estimate(name), found.estimate(name)
        off = np.abs(np.asarray(a.value) - np.asarray(b.value))
        assert (off <= 4 * np.hypot(a.stderr, b.stderr) + 0.005 * np.abs(a.value)).all(), name
