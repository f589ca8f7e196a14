"""Has training settled, and how hot is its noise: the virial relation."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.report.blocks import (
    Section,
    first_and_last,
    history,
    notes_of,
    present,
    summary_groups,
)
from thermolearn.report.numbers import plain, with_error
from thermolearn.report.reader import Run

Q = "virial"
SIDES = ("theta_dot_gradient", "half_rate_update_squared", "virial_gap", "parameter_norm_squared")


def virial(run: Run) -> Section:
    """The statement on the drift, both sides along the run, temperature, noise scale and batch."""
    groups = [*summary_groups(run, Q), *present(first_and_last(run, Q, SIDES))]
    measured = bool(groups)
    return Section(
        "virial",
        "Has training settled? The noise and its temperature",
        "In a settled run of SGD two averages over the steps agree, parameters times gradient and "
        "half the learning rate times the squared update. Their difference is the drift of the "
        "parameters' norm; only where none is seen is the first one, per parameter, a temperature. "
        "Batches must be drawn with replacement for that; with shuffled epochs the test of the "
        "drift still holds.",
        [*notes_of(run, Q), *_noise_statement(run)] if measured else [],
        groups=groups,
        figures=present(
            history(
                run,
                "virial-sides",
                "The two sides of the virial relation",
                [
                    (Q, "theta_dot_gradient", "parameters times gradient"),
                    (Q, "half_rate_update_squared", "squared update"),
                ],
                y_label="loss",
            ),
        )
        if measured
        else [],
    )


def _noise_statement(run: Run) -> list[str]:
    """Batch size beside the noise scale, without advice."""
    scale = run.scalar("gradient_noise", "noise_scale")
    size = run.scalar("gradient_noise", "batch_size")
    if scale is None or size is None or not float(size) > 0:
        return []
    if scale.status != "ok" or not np.isfinite(float(scale.stderr)):
        return [
            "The gradient noise scale is under-sampled on the reference samples: the gradient is "
            "not significantly different from zero there."
        ]
    return [
        f"The last gradient noise scale is {_shown(scale)} samples, the batch size "
        f"{plain(float(size))}: in a batch the noise is {plain(float(scale) / float(size), 2)} "
        "times as large as the squared gradient."
    ]


def _shown(e: Estimate) -> str:
    return with_error(float(e), float(e.stderr))
