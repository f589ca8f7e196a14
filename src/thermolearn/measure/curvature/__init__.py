"""Curvature of the loss: sharpness, trace, eigenvalues, spectral density, slices."""

from thermolearn.measure.curvature.density import SpectralDensity, spectral_density
from thermolearn.measure.curvature.edge import (
    AdamStability,
    preconditioned_sharpness,
    sharpness,
    stability_edge,
)
from thermolearn.measure.curvature.eigenvalues import Eigenvalues, top_eigenvalues
from thermolearn.measure.curvature.quantity import Curvature
from thermolearn.measure.curvature.slices import LossSlice, loss_slice
from thermolearn.measure.curvature.trace import hessian_trace, layer_traces

__all__ = [
    "AdamStability",
    "Curvature",
    "Eigenvalues",
    "LossSlice",
    "SpectralDensity",
    "hessian_trace",
    "layer_traces",
    "loss_slice",
    "preconditioned_sharpness",
    "sharpness",
    "spectral_density",
    "stability_edge",
    "top_eigenvalues",
]
