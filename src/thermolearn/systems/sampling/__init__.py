"""Sampling: how fast a Monte Carlo chain forgets where it started."""
