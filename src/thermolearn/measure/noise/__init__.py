"""Gradient noise and the effective temperature of training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thermolearn.measure.noise.gradient_noise import GradientNoise
    from thermolearn.measure.noise.noise_scale import (
        NoiseScale,
        gradient_noise_scale,
        noise_scale_from_norms,
    )
    from thermolearn.measure.noise.replicas import sgd_replicas
    from thermolearn.measure.noise.response import (
        Dynamics,
        EffectiveTemperature,
        effective_temperature,
        temperature_from_curves,
    )
    from thermolearn.measure.noise.scaling import ScalingExponent, scaling_exponent
    from thermolearn.measure.noise.solvable import Langevin, OnlineLeastSquares
    from thermolearn.measure.noise.thermometer import VirialResult, VirialThermometer
    from thermolearn.measure.noise.virial import Virial
    from thermolearn.measure.noise.virial_sides import VirialSides

# Imported when first used: the Probe needs one of these files, and they need the Probe's.
_PUBLIC = {
    "Dynamics": "response",
    "EffectiveTemperature": "response",
    "GradientNoise": "gradient_noise",
    "Langevin": "solvable",
    "NoiseScale": "noise_scale",
    "OnlineLeastSquares": "solvable",
    "ScalingExponent": "scaling",
    "Virial": "virial",
    "VirialResult": "thermometer",
    "VirialSides": "virial_sides",
    "VirialThermometer": "thermometer",
    "effective_temperature": "response",
    "gradient_noise_scale": "noise_scale",
    "noise_scale_from_norms": "noise_scale",
    "scaling_exponent": "scaling",
    "sgd_replicas": "replicas",
    "temperature_from_curves": "response",
}

__all__ = [
    "Dynamics",
    "EffectiveTemperature",
    "GradientNoise",
    "Langevin",
    "NoiseScale",
    "OnlineLeastSquares",
    "ScalingExponent",
    "Virial",
    "VirialResult",
    "VirialSides",
    "VirialThermometer",
    "effective_temperature",
    "gradient_noise_scale",
    "noise_scale_from_norms",
    "scaling_exponent",
    "sgd_replicas",
    "temperature_from_curves",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"thermolearn.measure.noise.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'thermolearn.measure.noise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
