"""Heat-bath dynamics of a Hopfield network: compiled kernel against its numpy twin, side by side.

N = 2000 spins, 200 sweeps from a pattern at T = 0.4, 100 patterns. Both sides build couplings and
run the sweeps; both draw the same random numbers and end in the same state. The twin is timed on a
tenth of the sweeps, and the time of its sweeps multiplied by ten.

    OMP_NUM_THREADS=1 python benchmarks/bench_glauber.py [--require 50]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from common import ratio, save, seconds, side_by_side

from thermolearn.core.lattice import glauber_sweeps, glauber_sweeps_numpy
from thermolearn.systems.memory.hopfield import hebb

N, K, SWEEPS, T = 2000, 100, 200, 0.4
SHARE = 10


def sweeps(kernel: Callable, J: np.ndarray, xi: np.ndarray, n: int, kind: type) -> np.ndarray:
    """Final state after n sweeps from the first pattern."""
    spins = xi[0].astype(kind)
    none, field = np.empty((0, N), np.float32), np.zeros(N, np.float32)
    kernel(J, spins, field, np.full(n, T), n // 4, none, np.random.default_rng(1))
    return spins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--require", type=float, default=0.0, help="least median ratio")
    arguments = parser.parse_args()
    xi = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), size=(K, N))
    J = hebb(xi)
    short = SWEEPS // SHARE
    same = sweeps(glauber_sweeps, J, xi, short, np.int8)
    if not (same == sweeps(glauber_sweeps_numpy, J, xi, short, np.float32)).all():
        sys.exit("kernel and twin disagree")
    times = side_by_side(
        {
            "couplings and kernel": lambda: sweeps(glauber_sweeps, hebb(xi), xi, SWEEPS, np.int8),
            "tenth of the twin": lambda: sweeps(glauber_sweeps_numpy, J, xi, short, np.float32),
            "couplings": lambda: hebb(xi),
        },
        arguments.rounds,
    )
    twin = [
        SHARE * part + build
        for part, build in zip(times["tenth of the twin"], times["couplings"], strict=True)
    ]
    found = ratio(twin, times["couplings and kernel"])
    save(
        "glauber",
        {
            "what": f"N = {N}, {K} patterns, {SWEEPS} sweeps at T = {T}, couplings included",
            "seconds": {"kernel": min(times["couplings and kernel"]), "twin": min(twin)},
            "twin_over_kernel": found,
            "spin_updates_per_second": N
            * SWEEPS
            / min(
                seconds(lambda: sweeps(glauber_sweeps, J, xi, SWEEPS, np.int8)) for _ in range(3)
            ),
        },
    )
    if found["median"] < arguments.require:
        sys.exit(f"the kernel is {found['median']:.1f} times faster, {arguments.require:g} asked")


if __name__ == "__main__":
    main()
