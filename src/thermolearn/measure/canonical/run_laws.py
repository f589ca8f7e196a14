"""The laws over a whole run, and which numbers only restate its loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, jackknife, mean_estimate
from thermolearn.measure.canonical.ensemble import CanonicalEnsemble, per_sample
from thermolearn.measure.canonical.laws import FirstLaw, factorization_defect, with_quadrature
from thermolearn.measure.canonical.rows import FIXED_BETAS, Row, history, values_row

RESTATES = 0.99
SIGNIFICANT = 2.58  # standard errors, 99%


def laws_run(run: Any, first: Any, last: Any) -> Row:
    """First law summed over all windows, second law at fitted and fixed temperature."""
    residuals = history(run, "laws", "closure_residual")
    if "totals" not in run.cache.get("laws", {}):
        raise NotApplicableError("the laws need at least two snapshots")
    totals = run.cache["laws"]["totals"].cpu().numpy()
    law = with_quadrature(FirstLaw(*(mean_estimate(t) for t in totals)))
    change, heat, work, residual = law.energy_change, law.heat, law.work, law.residual
    closure = _ratio(totals[3], totals[0], np.abs)
    share = _ratio(totals[2], totals[0])
    share = replace(
        share, stderr=math.hypot(float(share.stderr), float(closure)), status=work.status
    )
    worst = float(np.nanmax(np.abs(residuals))) / max(abs(float(change)), 1e-300)
    falls = {
        "second_law_fitted": _falling(history(run, "canonical", "entropy_differential")),
        **{
            f"second_law_beta_{b:.0f}": _falling(
                history(run, "canonical", f"entropy_differential_beta_{b:.0f}")
            )
            for b in FIXED_BETAS
        },
    }
    defect = factorization_defect(first.ensemble, last.ensemble, 10.0, 100.0)
    values = values_row(
        energy_change=change,
        heat=heat,
        work=work,
        closure_residual=residual,
        first_law_closure=closure,
        largest_window_residual=worst,
        complexity_share=share,
        factorization_defect=defect,
        **falls,
    )
    changes = {b: _entropy_change(first.ensemble, last.ensemble, b) for b in FIXED_BETAS}
    notes = _law_notes(float(closure), share, falls, changes)
    return {"values": values, "notes": notes}


def _entropy_change(first: CanonicalEnsemble, last: CanonicalEnsemble, beta: float) -> Estimate:
    """Change of the differential entropy at one temperature: S_0 drops out, C remains."""
    before, after = (-0.5 * per_sample(e.at(beta)._log_det(0)[0]) for e in (first, last))
    return mean_estimate(after - before)


def _ratio(a: np.ndarray, b: np.ndarray, shape: Any = np.asarray) -> Estimate:
    """Ratio of means with its jackknife bar; no bias correction, which could change its sign."""
    if not b.mean():
        return Estimate(math.nan, math.nan, status="nothing changed")
    value = float(shape(a.mean()) / shape(b.mean()))
    if len(a) < 2:
        return Estimate(value, math.nan)
    return Estimate(value, jackknife(lambda p, q: shape(p.mean()) / shape(q.mean()), a, b).stderr)


def _falling(series: np.ndarray) -> Estimate:
    """Fraction of windows in which a series falls, and its change over the run in the note."""
    series = series[np.isfinite(series)]
    if len(series) < 2:
        return Estimate(math.nan, math.nan, status="too few snapshots")
    steps = np.diff(series)
    fraction = float((steps < 0).mean())
    return Estimate(
        fraction,
        math.sqrt(fraction * (1 - fraction) / len(steps)),
        len(steps),
        note=f"total change {series[-1] - series[0]:+.4g} nats",
    )


def _law_notes(
    closure: float, share: Estimate, falls: dict[str, Estimate], changes: dict[float, Estimate]
) -> list[str]:
    notes = [
        f"First law: an identity; over the run it closes to {100 * closure:.2g}% of |dU| at this "
        "snapshot spacing. What is left is the quadrature between snapshots.",
        f"Work (complexity) carries {100 * float(share):.2g}% of dU, known to "
        f"{100 * float(share.stderr):.1g}% (the closure of these snapshots included): "
        + (
            "at the fitted temperature U is close to N T / 2, so that the first law is "
            "equipartition and complexity hardly takes part."
            if abs(float(share)) + 2 * float(share.stderr) < 0.05
            else "a share that equipartition alone does not give."
        ),
    ]
    fitted = falls["second_law_fitted"]
    if math.isfinite(float(fitted)):
        notes.append(
            f"Second law at fitted temperature: the entropy falls in {100 * float(fitted):.0f}% of "
            f"the windows of this spacing ({fitted.note}); this is cooling (T follows the loss), "
            "not ordering at a given temperature."
        )
    for beta, change in changes.items():
        falling = 100 * float(falls[f"second_law_beta_{beta:.0f}"])
        size = abs(float(change)) / change.stderr if change.stderr else math.inf
        verdict = (
            "cannot tell whether it rises or falls"
            if not size > SIGNIFICANT
            else "it rises: in its fixed-temperature form the second law fails on this run, "
            "and training descends the free energy"
            if change > 0
            else "it falls on this run"
        )
        notes.append(
            f"Second law at fixed beta = {beta:.0f}: entropy falls in {falling:.0f}% of the "
            f"windows of this spacing; over the run it changes by {change} nats (Gaussian; see "
            f"whether it may be trusted there): {verdict}."
        )
    return notes


def restates(run: Any) -> Row:
    """Which quantities restate the loss along the run: r^2 against it above 99%."""
    loss = history(run, "canonical", "boundary_loss_fitted")
    rows = []
    names = ["beta", "temperature", "average_loss", "free_energy", "log_partition", "complexity",
             "entropy_relative", "entropy_differential", "total_entropy", "thermodynamic_entropy",
             "heat_capacity", "energy_variance"]  # fmt: skip
    for name in names:
        series = history(run, "canonical", name)
        good = np.isfinite(series) & np.isfinite(loss) & (loss > 0)
        if good.sum() < 4 or np.ptp(series[good]) == 0 or np.ptp(loss[good]) == 0:
            continue
        known = {"the loss": loss, "log of the loss": np.log(loss), "1 / loss": 1 / loss,
                 "the loss squared": loss**2}  # fmt: skip
        shares = {k: np.corrcoef(series[good], v[good])[0, 1] ** 2 for k, v in known.items()}
        form = max(shares, key=lambda k: shares[k])
        r2 = float(shares[form])
        rows.append([name, r2, form, r2 > RESTATES])
    if not rows:
        raise NotApplicableError(
            "fewer than four snapshots, or nothing varies: cannot tell what restates the loss"
        )
    named = [str(r[0]) for r in rows if r[3]]
    note = (
        f"{', '.join(named)}: more than 99% of the variance along the run is explained by the loss "
        "(or a power or the logarithm of it). At the fitted temperature U is N T / 2 nearly "
        "exactly, so these numbers add little to the loss curve."
        if named
        else "no state function restates the loss to 99% on this run."
    )
    columns = ["name", "r2", "against", "restates the loss"]
    return {"values": {}, "tables": {"restates": {"columns": columns, "rows": rows}},
            "notes": [note]}  # fmt: skip
