"""The learning coefficient at the end of a run, within seconds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from thermolearn.core.copying import untouched
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.llc.analysis import make_result
from thermolearn.measure.llc.model import model_objective, settings_of, weight_scale
from thermolearn.measure.llc.result import LearningCoefficient
from thermolearn.measure.llc.sampler import make_plan, run_chains
from thermolearn.measure.window import Run, Window

CHAINS = 4
STEPS, LEAST_STEPS = 500, 160  # warm-up and draws of each chain
REFERENCE_WORK = 3466 * 256  # parameters times samples for which STEPS are drawn
PATIENCE = 15.0  # seconds foreseen beyond which nothing is drawn
ROWS = 40  # of the trace


class LocalLearningCoefficient:
    """Local learning coefficient of the last snapshot, on the reference set.

    Nothing per snapshot. At the end ``learning_coefficient`` (see `LearningCoefficient`) by four
    MALA chains of at most 500 steps, fewer the larger the model is, with what its verdict rests
    on: ``uncorrected``, ``localization``, ``localization_shift``, ``held_directions``,
    ``gradient_shift``, ``equipartition``, ``rhat``, ``ess``; and ``regular_value`` P/2, that of a
    regular model of P parameters. The table holds the mean energy of each chain along the draws.
    `localization` fixes gamma, so that runs can be compared.
    """

    name = "llc"

    def __init__(self, localization: float | None = None):
        self.localization = localization

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Nothing per snapshot."""
        return {}

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Raises NotApplicableError if the last snapshot is not finite or the model too large."""
        window = run.last
        if not window.finite:
            raise NotApplicableError("the parameters of the last snapshot are not finite")
        with untouched():
            result = short_run(window, self.localization)
        return [
            {
                "kind": "summary",
                "quantity": self.name,
                "values": {k: e.to_dict() for k, e in result_values(result).items()},
                "tables": {self.name: trace_table(result)},
                "notes": result_notes(result, len(window.reference[0])),
            }
        ]


def short_run(window: Window, localization: float | None) -> LearningCoefficient:
    """Chains whose length falls with the size of the model.

    Raises
    ------
    NotApplicableError
        Even the shortest chains would take too long, or there are fewer than 3 samples.
    """
    n = len(window.reference[0])
    if n < 3:
        raise NotApplicableError(f"a learning coefficient needs 3 reference samples, got {n}")
    objective = model_objective(window)
    size = objective.w0.numel()
    steps = max(LEAST_STEPS, min(STEPS, STEPS * REFERENCE_WORK // (size * n)))
    start = time.perf_counter()
    objective.value_and_gradient(objective.w0.repeat(CHAINS, 1))
    seconds = steps * (time.perf_counter() - start)
    if seconds > PATIENCE:
        raise NotApplicableError(
            f"{steps} steps of {CHAINS} chains would take about {seconds:.0f} s; call "
            "thermolearn.measure.llc.local_learning_coefficient with a batch_size"
        )
    warmup = steps * 2 // 5
    plan = make_plan(
        n, None, "mala", CHAINS, steps - warmup, warmup, None, localization, window.seed
    )
    plan = replace(plan, least_localization=weight_scale(objective.w0))
    return make_result(run_chains(objective, plan), objective, plan, settings_of(window, None))


def result_values(result: LearningCoefficient) -> dict[str, Estimate]:
    """The numbers of a summary row."""
    return {
        "learning_coefficient": result.to_estimate(),
        "uncorrected": Estimate(result.uncorrected),
        "regular_value": Estimate(result.dimension / 2),
        "localization": Estimate(result.localization),
        "localization_shift": result.localization_shift,
        "held_directions": result.held_directions,
        "gradient_shift": result.gradient_shift,
        "equipartition": result.equipartition,
        "rhat": Estimate(result.rhat),
        "ess": Estimate(result.ess),
    }


def trace_table(result: LearningCoefficient) -> dict[str, Any]:
    """Mean energy of each chain over consecutive draws."""
    n_chains, draws = result.energies.shape
    block = max(1, draws // ROWS)
    rows = draws // block
    means = result.energies[:, : rows * block].reshape(n_chains, rows, block).mean(2)
    return {
        "columns": ["draw", *(f"chain {c + 1}" for c in range(n_chains))],
        "rows": [[(r + 1) * block, *(float(v) for v in means[:, r])] for r in range(rows)],
    }


def result_notes(result: LearningCoefficient, n: int) -> list[str]:
    """The conditions of the number in words."""
    chains, draws = result.energies.shape
    notes = [
        f"On the {n} reference samples, n beta = n/ln n = {result.n_beta:.3g}, {chains} chains of "
        f"{draws} draws: a short run on few samples, of the loss on those samples. For a number to "
        "be quoted call local_learning_coefficient with all training data and longer chains.",
        "Comparable only within one architecture at equal n, loss and localization (here "
        f"{result.localization:.3g}).",
        f"R-hat is {result.rhat:.3f}; chains of this length may show {result.rhat_threshold:.3f}.",
    ]
    if result.note:
        notes.insert(0, f"Verdict: {result.status}; {result.note}.")
    return notes
