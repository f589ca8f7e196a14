"""thermolearn: measure, predict and explain neural-network training, with error bars."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.5.0"

if TYPE_CHECKING:
    from thermolearn.core.estimate import Estimate
    from thermolearn.core.saddle_point import SaddlePoint
    from thermolearn.measure.probe import Probe
    from thermolearn.study.compare import compare
    from thermolearn.study.scaling import finite_size_scaling
    from thermolearn.study.sweep import sweep

# Names are imported when first used, so that `import thermolearn` stays fast.
_PUBLIC = {
    "Estimate": "thermolearn.core.estimate",
    "Probe": "thermolearn.measure.probe",
    "SaddlePoint": "thermolearn.core.saddle_point",
    "compare": "thermolearn.study.compare",
    "finite_size_scaling": "thermolearn.study.scaling",
    "sweep": "thermolearn.study.sweep",
}

__all__ = [
    "Estimate",
    "Probe",
    "SaddlePoint",
    "__version__",
    "compare",
    "finite_size_scaling",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'thermolearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
