"""Measuring instruments: one quantity per file or package, `probe.py` the one instrument."""
