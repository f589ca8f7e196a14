"""What the canonical ensemble says once per run.

Every claim that the source makes and measurement does not bear out is computed on the user's own
run and said in plain words.
"""

from __future__ import annotations

from typing import Any

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.measure.canonical.rows import Row
from thermolearn.measure.canonical.run_laws import laws_run, restates
from thermolearn.measure.canonical.run_states import robustness, spectrum, trust
from thermolearn.measure.canonical.run_weights import efficiency, wide_limit_row


def all_rows(run: Any, first: Any, last: Any) -> list[Row]:
    """All summary rows; one that fails is left out and its reason kept."""
    makers = {
        "laws_run": lambda: laws_run(run, first, last),
        "restates": lambda: restates(run),
        "trust": lambda: trust(run, first, last),
        "spectrum": lambda: spectrum(first, last),
        "efficiency": lambda: efficiency(run, first, last),
        "robustness": lambda: robustness(last),
        "wide_limit": lambda: wide_limit_row(first),
    }
    rows: list[Row] = []
    for name, make in track(makers.items(), "summaries", len(makers)):
        try:
            row = make()
        except NotApplicableError as error:
            rows.append({"kind": "not_applicable", "quantity": name, "reason": str(error)})
            continue
        except Exception as error:  # one summary must not take the others with it
            reason = f"failed: {type(error).__name__}: {error}"
            rows.append({"kind": "not_applicable", "quantity": name, "reason": reason})
            continue
        rows.append({"kind": "summary", "quantity": name, **row})
    return rows
