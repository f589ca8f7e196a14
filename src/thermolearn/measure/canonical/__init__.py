"""Canonical ensemble of a network and the laws of learning (V. Vanchurin, arXiv:2004.09280)."""

from thermolearn.core.errors import UnstableEnsembleError
from thermolearn.measure.canonical.ensemble import CanonicalEnsemble
from thermolearn.measure.canonical.entropy_balance import (
    entropy_destruction,
    ornstein_uhlenbeck,
)
from thermolearn.measure.canonical.jacobian import JacobianBlocks
from thermolearn.measure.canonical.laws import (
    effective_degrees,
    factorization_defect,
    first_law,
    second_law,
)
from thermolearn.measure.canonical.robustness import thermal_robustness
from thermolearn.measure.canonical.septuple import Septuple, septuple_of
from thermolearn.measure.canonical.states import exact_log_partition, sample_states
from thermolearn.measure.canonical.system import NeuronSystem
from thermolearn.measure.canonical.wide_networks import wide_limit, wide_limit_recurrent

__all__ = [
    "CanonicalEnsemble",
    "JacobianBlocks",
    "NeuronSystem",
    "Septuple",
    "UnstableEnsembleError",
    "effective_degrees",
    "entropy_destruction",
    "exact_log_partition",
    "factorization_defect",
    "first_law",
    "ornstein_uhlenbeck",
    "sample_states",
    "second_law",
    "septuple_of",
    "thermal_robustness",
    "wide_limit",
    "wide_limit_recurrent",
]
