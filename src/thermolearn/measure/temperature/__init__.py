"""Temperature of a learning system: energy released per nat (Zhang, arXiv:2404.13218).

A bookkeeping temperature; the noise temperature of SGD is another one (`measure.noise`).
"""

from thermolearn.measure.temperature.efficiency import (
    activation_efficiency,
    efficiency_slope,
    engine_class,
)
from thermolearn.measure.temperature.engines_figure import draw_engines
from thermolearn.measure.temperature.final_energies import FinalState, final_energy
from thermolearn.measure.temperature.heat import Heat
from thermolearn.measure.temperature.heat_flow import HeatFlow, layer_heat
from thermolearn.measure.temperature.initial_energies import initial_energy
from thermolearn.measure.temperature.initialization import Mixed, Normal, Uniform, init_entropy
from thermolearn.measure.temperature.states import (
    Transition,
    ZeroEntropyChangeError,
    type1_temperature,
    type2_temperature,
)

__all__ = [
    "FinalState",
    "Heat",
    "HeatFlow",
    "Mixed",
    "Normal",
    "Transition",
    "Uniform",
    "ZeroEntropyChangeError",
    "activation_efficiency",
    "draw_engines",
    "efficiency_slope",
    "engine_class",
    "final_energy",
    "init_entropy",
    "initial_energy",
    "layer_heat",
    "type1_temperature",
    "type2_temperature",
]
