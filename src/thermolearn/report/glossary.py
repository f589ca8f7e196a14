"""What every number means: label, symbol, unit, one sentence, formula and source, by its name."""

from __future__ import annotations

from dataclasses import replace

from thermolearn.report.terms import DERIVED, LAYERS, LEARNING, LOSS, NOISE, Term
from thermolearn.report.terms_curvature import CURVATURE
from thermolearn.report.terms_heat import HEAT
from thermolearn.report.terms_learning_rate import LEARNING_RATE
from thermolearn.report.terms_llc import LLC
from thermolearn.report.terms_physics import ENERGY, ENTROPY, LAWS, REST, TRUST
from thermolearn.report.terms_propagation import PROPAGATION
from thermolearn.report.terms_relative_entropy import RELATIVE_ENTROPY
from thermolearn.report.terms_spectra import SPECTRA
from thermolearn.report.terms_virial import VIRIAL


def unknown(name: str) -> Term:
    """The term of a name that is not in the glossary: the name itself."""
    return Term(name.replace("_", " "), "", "", "No description is recorded for this value.")


def lookup(name: str, quantity: str = "") -> Term:
    """The term of a value: ``quantity.name`` before ``name``; suffixes such as ``_beta_1`` or
    ``_last`` go into the label."""
    for key in (f"{quantity}.{name}", name):
        if key in GLOSSARY:
            return GLOSSARY[key]
    for suffix, words in SUFFIXES.items():
        base = name.removesuffix(suffix)
        if base and base != name:
            term = lookup(base, quantity)
            return replace(term, label=f"{term.label}, {words}")
    return unknown(name)


SUFFIXES = {
    "_first": "first snapshot",
    "_last": "last snapshot",
    "_beta_1": "\u03b2\u00a0=\u00a01",
    "_beta_100": "\u03b2\u00a0=\u00a0100",
    "_beta_fitted": "fitted\u00a0\u03b2",
}

GLOSSARY: dict[str, Term] = {
    **LEARNING, **ENERGY, **ENTROPY, **LAWS, **TRUST, **NOISE, **LAYERS, **REST,
    **HEAT, **VIRIAL, **CURVATURE, **PROPAGATION, **RELATIVE_ENTROPY, **SPECTRA, **LLC,
    **LEARNING_RATE,
    "robustness.accuracy": Term(
        "Accuracy under noise", "", "",
        "Accuracy when noise of temperature T is added at every neuron.",
    ),
    "laws_run.heat": Term(
        "Heat, sum over the run", "&Sigma;Q", LOSS, "Heat of all windows.",
        LAWS["heat"].formula, DERIVED,
    ),
    "laws_run.work": Term(
        "Work, sum over the run", "&Sigma;W", LOSS, "Work of all windows.",
        LAWS["work"].formula, DERIVED,
    ),
    "laws_run.energy_change": Term(
        "Change of the average loss, whole run", "&Sigma;dU", LOSS,
        "Average loss at the last snapshot less that at the first.",
    ),
}  # fmt: skip
