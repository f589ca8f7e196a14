"""Associative memories and Boltzmann machines."""
