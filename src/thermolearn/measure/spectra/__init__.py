"""Spectra of weights against random matrices; power laws with goodness of fit."""

from thermolearn.measure.spectra.quantity import WeightSpectra
from thermolearn.measure.spectra.tail import PowerLaw, fit_power_law
from thermolearn.measure.spectra.weights import WeightSpectrum, weight_spectra, weight_spectrum

__all__ = [
    "PowerLaw",
    "WeightSpectra",
    "WeightSpectrum",
    "fit_power_law",
    "weight_spectra",
    "weight_spectrum",
]
