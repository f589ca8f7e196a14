"""What the numbers of the search for a learning rate mean."""

from __future__ import annotations

from thermolearn.report.terms import LOSS, Term

HERE = "measured by short trainings of copies; see the documentation of recommend_lr"

LEARNING_RATE: dict[str, Term] = {
    "learning_rate.learning_rate": Term(
        "Learning rate of the run",
        "&eta;",
        "",
        "Learning rate of the first parameter group, as the optimizer used it.",
    ),
    "learning_rate.recommended": Term(
        "Recommended learning rate",
        "&eta;<sub>rec</sub>",
        "",
        "The rate that lowered the loss most in trainings of copies, below the measured edge; its "
        "error is half the interval, at least half a step of the rates tried.",
        "",
        HERE,
    ),
    "learning_rate.recommended_low": Term(
        "Its interval, lower end",
        "",
        "",
        "Smaller rates reached a loss higher by 1% and two standard errors, or were not tried.",
    ),
    "learning_rate.recommended_high": Term(
        "Its interval, upper end",
        "",
        "",
        "Larger rates reached a loss higher by 1% and two standard errors; with the status 'limit' "
        "they were not compared.",
    ),
    "learning_rate.edge_low": Term(
        "Edge, lower end",
        "",
        "",
        "The largest learning rate up to which no short trial diverged, on any seed.",
        "",
        HERE,
    ),
    "learning_rate.edge_high": Term(
        "Edge, upper end",
        "",
        "",
        "The smallest learning rate at which a short trial diverged.",
        "",
        HERE,
    ),
    "learning_rate.run_lr": Term(
        "Learning rate of the run at its start", "&eta;", "", "What the run began with."
    ),
    "learning_rate.start_loss": Term(
        "Loss at the start of the trials",
        "",
        LOSS,
        "Loss on the samples of the search, before any step.",
    ),
    "learning_rate.constant_loss": Term(
        "Loss of the best constant output",
        "",
        LOSS,
        "The lowest loss of an output that does not depend on the input; where no rate gets below "
        "it, the initialization has to be mended first.",
    ),
    "learning_rate.cost_steps": Term(
        "Cost of the search", "", "steps", "Optimizer steps that all trials took together."
    ),
    "learning_rate.horizon_steps": Term(
        "Length of the training searched for",
        "",
        "steps",
        "The rate is for a training of this many steps; longer ones may want another.",
    ),
}
