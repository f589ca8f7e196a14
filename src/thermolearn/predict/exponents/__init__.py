"""Error rates of a trained detector: exponents, saddle-point tails, and guaranteed thresholds."""

from thermolearn.predict.exponents.cgf import AnalyticCGF, EmpiricalCGF
from thermolearn.predict.exponents.detector import ErrorExponents, Exponents, model_threshold
from thermolearn.predict.exponents.guaranteed import (
    OrderStatisticThreshold,
    clopper_pearson,
    guaranteed_threshold,
    negatives_needed,
)
from thermolearn.predict.exponents.monte_carlo import tilted_monte_carlo
from thermolearn.predict.exponents.rate import (
    RatePoint,
    bootstrap_std,
    rate,
    rate_curve,
    rate_point,
)
from thermolearn.predict.exponents.tails import TailProbability, tail

__all__ = [
    "AnalyticCGF",
    "EmpiricalCGF",
    "ErrorExponents",
    "Exponents",
    "OrderStatisticThreshold",
    "RatePoint",
    "TailProbability",
    "bootstrap_std",
    "clopper_pearson",
    "guaranteed_threshold",
    "model_threshold",
    "negatives_needed",
    "rate",
    "rate_curve",
    "rate_point",
    "tail",
    "tilted_monte_carlo",
]
