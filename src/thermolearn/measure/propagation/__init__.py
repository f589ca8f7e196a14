"""Signal propagation: the mean-field map, initializations, and what a network really does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thermolearn.measure.propagation.critical import CriticalPoint, critical_line
    from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
    from thermolearn.measure.propagation.gaussianity import ks_gaussianity
    from thermolearn.measure.propagation.initializations import compare_initializations
    from thermolearn.measure.propagation.mean_field import MeanFieldMap
    from thermolearn.measure.propagation.measured import (
        Propagation,
        PropagationReport,
        measure_propagation,
    )
    from thermolearn.measure.propagation.plan import Recommendation
    from thermolearn.measure.propagation.recommend import apply_init_, recommend_init

_PUBLIC = {
    "CriticalPoint": "critical",
    "GaussianPreactivation": "gaussian_pair",
    "MeanFieldMap": "mean_field",
    "Propagation": "measured",
    "PropagationReport": "measured",
    "Recommendation": "plan",
    "apply_init_": "recommend",
    "critical_line": "critical",
    "compare_initializations": "initializations",
    "ks_gaussianity": "gaussianity",
    "measure_propagation": "measured",
    "recommend_init": "recommend",
}

__all__ = [
    "CriticalPoint",
    "GaussianPreactivation",
    "MeanFieldMap",
    "Propagation",
    "PropagationReport",
    "Recommendation",
    "apply_init_",
    "compare_initializations",
    "critical_line",
    "ks_gaussianity",
    "measure_propagation",
    "recommend_init",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
