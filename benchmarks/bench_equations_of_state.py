"""Equations of state: seconds to a residual of 1e-8, by samples and layers.

python benchmarks/bench_equations_of_state.py
"""

from __future__ import annotations

import time

import numpy as np
from scipy.special import erf

from thermolearn.systems.training.feature_learning.networks import BayesianFCN

ROWS = (
    # widths, samples, inputs, start
    ((20,), 40, 8, "both"),
    ((20,), 300, 30, "both"),
    ((20, 20), 30, 8, "prior"),
    ((20, 20), 30, 8, "both"),
    ((20, 20, 20), 30, 8, "both"),
    ((50, 50), 120, 16, "prior"),
)


def main() -> None:
    """Prints one row per problem."""
    print(f"{'widths':>14} {'n':>4} {'d':>3} {'start':>6} {'seconds':>8} {'residual':>9} {'F':>12}")
    for widths, n, d, init in ROWS:
        X = np.random.default_rng(1).normal(size=(n, d))
        net = BayesianFCN(widths, d, 2.0, 0.1)
        began = time.perf_counter()
        found = net.equations_of_state(X, erf(2 * erf(X[:, 0])), 0.02).solve(init=init)
        seconds = time.perf_counter() - began
        print(
            f"{widths!s:>14} {n:4d} {d:3d} {init:>6} {seconds:8.3f} {found.residual:9.1e} "
            f"{found.free_energy:12.5f}"
        )


if __name__ == "__main__":
    main()
