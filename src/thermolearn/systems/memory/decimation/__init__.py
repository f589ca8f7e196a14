"""Symmetric matrix factorization of extensive rank by decimation, one column after the other."""

from __future__ import annotations

from thermolearn.systems.memory.decimation.counting import estimate_rank
from thermolearn.systems.memory.decimation.decimator import Decimator
from thermolearn.systems.memory.decimation.figure import figure
from thermolearn.systems.memory.decimation.problem import (
    MatchedColumns,
    Params,
    SymmetricFactorisation,
    factorization_error,
    match_columns,
)
from thermolearn.systems.memory.decimation.rotation_invariant import (
    eigenvalue_density,
    rie_denoise,
    rie_mse,
)
from thermolearn.systems.memory.decimation.simulation import (
    PlantedDecimation,
    planted_decimation,
    simulate,
)
from thermolearn.systems.memory.decimation.theory import (
    DecimationTheory,
    acceptance_energy,
    critical_noise,
    decimation_theory,
    theory,
)

ABOUT = {
    "title": "Symmetric matrix factorization of extensive rank by decimation",
    "papers": ["arXiv:2212.02105", "arXiv:2307.16564", "arXiv:1502.06736"],
    "claims": [
        "Taking the columns of a noisy matrix off one by one is a sequence of associative "
        "memories, whose overlaps a replica-symmetric theory gives step by step.",
        "Later columns are easier: the overlap grows along the decimation.",
        "Knowing that the columns are signs makes the error ten times smaller than the best that "
        "can be done from the eigenvalues alone.",
    ],
    "axes": {},
    "size": "n_spins",
    "sizes": (400, 800),
    "allowance": {
        "p_first": (0.3, 1.0),
        "p_last": (0.1, 1.0),
        "q": (0.2, 1.0),
        "recovered": (0.2, 1.0),
    },
    "contrast": {"delta": 0.13},
    "seeds": 24,
    "figures": {"1": "figure"},
}

__all__ = [
    "ABOUT",
    "DecimationTheory",
    "Decimator",
    "MatchedColumns",
    "Params",
    "PlantedDecimation",
    "SymmetricFactorisation",
    "acceptance_energy",
    "critical_noise",
    "decimation_theory",
    "eigenvalue_density",
    "estimate_rank",
    "factorization_error",
    "figure",
    "match_columns",
    "planted_decimation",
    "rie_denoise",
    "rie_mse",
    "simulate",
    "theory",
]
