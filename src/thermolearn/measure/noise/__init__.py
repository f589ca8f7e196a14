"""Gradient noise and the effective temperature of training."""
