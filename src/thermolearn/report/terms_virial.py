"""How the virial relation of a run is shown."""

from __future__ import annotations

from thermolearn.report.terms import LOSS, Term

YAIDA = "Yaida, arXiv:1810.00004"
MEAN = "&lang;&theta;&middot;g&rang;"
UPDATE = "&frac12; &eta; &lang;|g|&sup2;&rang;"
WITH_MOMENTUM = (
    "; with momentum m: &frac12; &eta; (1 + m) &lang;|v|&sup2;&rang;, v = m v + g, g with weight "
    "decay"
)

VIRIAL: dict[str, Term] = {
    "virial.theta_dot_gradient": Term(
        "Parameters times gradient",
        MEAN,
        LOSS,
        "First side of the virial relation, averaged over steps; with another optimizer than SGD "
        "the update over the learning rate stands for the gradient.",
        MEAN,
        YAIDA,
    ),
    "virial.half_rate_update_squared": Term(
        "Squared update",
        UPDATE,
        LOSS,
        "Second side of the virial relation; equal to the first one when training has settled.",
        UPDATE + WITH_MOMENTUM,
        YAIDA,
    ),
    "virial.virial_gap": Term(
        "Difference of the two sides",
        "",
        LOSS,
        "How far the window is from a settled state; steps are sampled, so that it fluctuates.",
        f"{MEAN} &minus; {UPDATE}",
        YAIDA,
    ),
    "virial.parameter_norm_squared": Term(
        "Squared norm of the parameters",
        "|&theta;|&sup2;",
        "",
        "Its drift is the exact difference of the two sides.",
    ),
    "virial.parameter_drift": Term(
        "Drift of the squared norm",
        "",
        f"{LOSS} per step",
        "Change of the squared norm since the snapshot before, in the units of the two sides.",
        "(1 &minus; m) &Delta;|&theta;|&sup2;/(2 &eta; steps)",
        YAIDA,
    ),
    "virial.temperature": Term(
        "Temperature of the training noise",
        "T",
        LOSS,
        "Parameters times gradient per updated parameter, taken as the second side less the drift; "
        "a temperature only where no drift was seen and batches are drawn with replacement.",
        f"T = {MEAN}/d",
        YAIDA,
    ),
    "virial.temperature_from_updates": Term(
        "Temperature from the updates",
        "T",
        LOSS,
        "The same from the other side of the relation, which often fluctuates less.",
        f"T = {UPDATE}/d{WITH_MOMENTUM}",
        YAIDA,
    ),
    "virial.temperature_leading_order": Term(
        "Temperature, leading order",
        "",
        LOSS,
        "What the gradient noise measured on the reference samples gives for small learning rates.",
        "&eta; (1 &minus; t) tr &Sigma;/(2 B d (1 &minus; m))",
        "Yaida, arXiv:1810.00004; McCandlish et al., arXiv:1812.06162",
    ),
    "virial.drift": Term(
        "Drift over the last part of the run",
        "",
        f"{LOSS} per step",
        "Second less first side; its error is what the fluctuations alone would give.",
        "(&Phi;<sub>end</sub> &minus; &Phi;<sub>start</sub>)/steps, &Phi; = (1 &minus; m) "
        "|&theta;|&sup2;/(2 &eta;) &minus; m &theta;&middot;v",
        YAIDA,
    ),
    "virial.smallest_drift_seen": Term(
        "Smallest drift that would have been seen",
        "",
        "of the two sides",
        "With 95% probability: 5.6 standard errors of the drift beside the second side, more where "
        "there are too few independent windows.",
    ),
    "virial.first_step": Term(
        "Start of that part",
        "",
        "steps",
        "Step of its first snapshot, after the last change of the optimizer's settings.",
    ),
    "virial.steps": Term("Steps in that part", "", "steps", "From its first to its last snapshot."),
}
