"""All temperatures of the run beside each other."""

from __future__ import annotations

from thermolearn.report.blocks import Section, notes_of, summary_tables
from thermolearn.report.reader import Run

Q = "temperatures"


def temperatures(run: Run) -> Section:
    """One table; what each means and which should agree stands below it."""
    return Section(
        "temperatures",
        "All temperatures of this run",
        "Several numbers are called the temperature of a network. Those of one kind may be "
        "compared with each other, those of different kinds need not agree: they answer different "
        "questions. All are in units of the loss.",
        tables=summary_tables(run, Q),
        notes=notes_of(run, Q),
    )
