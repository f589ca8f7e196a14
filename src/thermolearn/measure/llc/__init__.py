"""Local learning coefficient: how singular the minimum is in which a model sits.

`local_learning_coefficient` for a model with its loss and data, `llc_of_function` for a bare
loss, `compare` for two of them, and the values that are known exactly.
"""

from thermolearn.measure.llc.exact import monomial_lambda, reduced_rank_lambda
from thermolearn.measure.llc.function import llc_of_function
from thermolearn.measure.llc.model import local_learning_coefficient
from thermolearn.measure.llc.quantity import LocalLearningCoefficient
from thermolearn.measure.llc.result import LearningCoefficient, compare

__all__ = [
    "LearningCoefficient",
    "LocalLearningCoefficient",
    "compare",
    "llc_of_function",
    "local_learning_coefficient",
    "monomial_lambda",
    "reduced_rank_lambda",
]
