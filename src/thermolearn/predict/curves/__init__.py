"""Learning curves of kernel regression from a spectrum and a target, before any training."""

from thermolearn.predict.curves.curve import learning_curve
from thermolearn.predict.curves.renormalization import ZonalKernel, renormalize
from thermolearn.predict.curves.result import LearningCurve

__all__ = ["LearningCurve", "ZonalKernel", "learning_curve", "renormalize"]
