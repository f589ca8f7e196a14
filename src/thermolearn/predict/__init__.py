"""Prediction before training: kernels, learning curves, shift, error exponents and thresholds.

`thermolearn.predict.shift` and `thermolearn.predict.exponents` have their calls in themselves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thermolearn.predict.curves import LearningCurve, ZonalKernel, learning_curve, renormalize
    from thermolearn.predict.kernels.empirical import empirical_ntk
    from thermolearn.predict.kernels.fully_connected import NNGP, NTK
    from thermolearn.predict.kernels.of_module import ModuleKernel, kernel_of
    from thermolearn.predict.networks import TrainedNetworks, train_networks
    from thermolearn.predict.pool import (
        PoolCurve,
        leave_one_out,
        measure_kernel_machine,
        measure_networks,
        pool_curve,
    )
    from thermolearn.predict.select import (
        Configuration,
        PoolTask,
        SphereTask,
        select_hyperparameters,
    )
    from thermolearn.predict.simulate import simulate_gp_regression, simulate_truncation
    from thermolearn.predict.spectrum import Spectrum, empirical_spectrum, sphere_spectrum
    from thermolearn.predict.trained_module import TrainedModule, train_module

_HOME = {
    "Configuration": "select",
    "LearningCurve": "curves",
    "ModuleKernel": "kernels.of_module",
    "NNGP": "kernels.fully_connected",
    "NTK": "kernels.fully_connected",
    "PoolCurve": "pool",
    "PoolTask": "select",
    "Spectrum": "spectrum",
    "SphereTask": "select",
    "TrainedModule": "trained_module",
    "TrainedNetworks": "networks",
    "ZonalKernel": "curves",
    "empirical_ntk": "kernels.empirical",
    "empirical_spectrum": "spectrum",
    "kernel_of": "kernels.of_module",
    "learning_curve": "curves",
    "leave_one_out": "pool",
    "measure_kernel_machine": "pool",
    "measure_networks": "pool",
    "pool_curve": "pool",
    "renormalize": "curves",
    "select_hyperparameters": "select",
    "simulate_gp_regression": "simulate",
    "simulate_truncation": "simulate",
    "sphere_spectrum": "spectrum",
    "train_module": "trained_module",
    "train_networks": "networks",
}

__all__ = [
    "NNGP",
    "NTK",
    "Configuration",
    "LearningCurve",
    "ModuleKernel",
    "PoolCurve",
    "PoolTask",
    "Spectrum",
    "SphereTask",
    "TrainedModule",
    "TrainedNetworks",
    "ZonalKernel",
    "empirical_ntk",
    "empirical_spectrum",
    "kernel_of",
    "learning_curve",
    "leave_one_out",
    "measure_kernel_machine",
    "measure_networks",
    "pool_curve",
    "renormalize",
    "select_hyperparameters",
    "simulate_gp_regression",
    "simulate_truncation",
    "sphere_spectrum",
    "train_module",
    "train_networks",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
