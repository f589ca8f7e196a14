"""Numerics that the rest of the library stands on."""
