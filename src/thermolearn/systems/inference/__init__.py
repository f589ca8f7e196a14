"""Inference: shift of the inputs, and the error rates of a trained detector."""
