"""Error under covariate shift: closed theory of random features, and forecasts on unlabelled
inputs.
"""

from thermolearn.predict.shift.covariances import shift_order
from thermolearn.predict.shift.forecast import ShiftForecast, expected_error
from thermolearn.predict.shift.quenched import QuenchedErrors, QuenchedRidgeTheory
from thermolearn.predict.shift.random_features import (
    IdOodLine,
    LearningCurve,
    RFShiftTheory,
    ShiftErrors,
    ShiftPrediction,
)
from thermolearn.predict.shift.simulation import RFSimulation, simulate_rf
from thermolearn.predict.shift.support import Support

__all__ = [
    "IdOodLine",
    "LearningCurve",
    "QuenchedErrors",
    "QuenchedRidgeTheory",
    "RFShiftTheory",
    "RFSimulation",
    "ShiftErrors",
    "ShiftForecast",
    "ShiftPrediction",
    "Support",
    "expected_error",
    "shift_order",
    "simulate_rf",
]
