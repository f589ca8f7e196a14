"""A learning rate from short trainings of copies: measured divergence edge, back-off, choice."""

from thermolearn.measure.learning_rate.quantity import LearningRate
from thermolearn.measure.learning_rate.recommend import recommend_lr
from thermolearn.measure.learning_rate.result import Candidate, Edge, RecommendedRate, TrialRow

__all__ = ["Candidate", "Edge", "LearningRate", "RecommendedRate", "TrialRow", "recommend_lr"]
