"""Dynamical mean-field theory: one site in a self-consistent Gaussian field, marched in time."""

from __future__ import annotations

from thermolearn.core.dmft.extrapolation import extrapolate
from thermolearn.core.dmft.interface import Averages, Closure, SingleSite, SiteStep, enlarged
from thermolearn.core.dmft.solution import Solution, load
from thermolearn.core.dmft.solve import solve

__all__ = [
    "Averages",
    "Closure",
    "SingleSite",
    "SiteStep",
    "Solution",
    "enlarged",
    "extrapolate",
    "load",
    "solve",
]
