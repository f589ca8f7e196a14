"""Dynamical mean-field theory: CPU time and peak memory against the number of steps.

The perceptron on two clusters with quadratic hinge loss under SGD, one run of 2500 samples, for
several T, each in a process of its own; the exponents are slopes in the logarithms. Time: T^3 for
the response, which dominates from about 100 steps on. Memory: above that of the imports.

Then the two sizes that one works with: T = 150 with 2500 samples, four runs and all of them kept
for `resume`, and T = 40 with 10 000 samples, four runs, GD and SGD.

    OMP_NUM_THREADS=1 python benchmarks/bench_dmft.py [--require-gib 1 --require-seconds 10]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
from common import peak_memory_gib, save

STEPS = (60, 90, 130, 190)


def measure(name: str, steps: int, n_mc: int, runs: int, keep: bool) -> dict[str, Any]:
    """In a process of its own, as its peak of memory is."""
    arguments = ["--child", json.dumps([name, steps, n_mc, runs, keep])]
    found = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout)


def child(name: str, steps: int, n_mc: int, runs: int, keep: bool) -> dict[str, Any]:
    """CPU seconds and peak memory of one solution."""
    from thermolearn.systems.training.sgd_noise import GD, SGD, GaussianMixturePerceptron

    model = GaussianMixturePerceptron(alpha=3.0, Delta=1.0, loss="hinge2")
    schedule = {"GD": GD(0.1), "SGD": SGD(0.1, 0.5)}[name]

    def solve(steps: int, n_mc: int, runs: int, keep: bool = False) -> Any:
        return model.dmft(schedule, 0.5, steps, n_mc, start=(1.0, 0.5), runs=runs, keep=keep)

    solve(2, 100, 1)  # imports
    before, start, wall = peak_memory_gib(), time.process_time(), time.perf_counter()
    found = solve(steps, n_mc, runs, keep)
    C = found.estimate("C")
    return {
        "schedule": name,
        "steps": steps,
        "n_mc": n_mc,
        "runs": runs,
        "cpu_seconds": time.process_time() - start,
        "wall_seconds": time.perf_counter() - wall,
        "peak_gib": peak_memory_gib(),
        "own_gib": peak_memory_gib() - before,
        "C": float(np.asarray(C.value)[-1, -1]),
        "C_stderr": float(np.asarray(C.stderr)[-1, -1]) if runs > 1 else None,
    }


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Slope of log(key) against log(steps)."""
    steps, values = (np.log([row[name] for row in rows]) for name in ("steps", key))
    return float(np.polyfit(steps, values, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=json.loads)
    parser.add_argument("--require-gib", type=float, help="peak at T = 150, 2500 samples")
    parser.add_argument("--require-seconds", type=float, help="CPU at T = 40, 10 000 samples")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    rows = [measure("SGD", steps, 2500, 1, False) for steps in STEPS]
    long = measure("SGD", 150, 2500, 4, True)
    short = [measure(name, 40, 10_000, 4, False) for name in ("GD", "SGD")]
    powers = {key: exponent(rows, key) for key in ("cpu_seconds", "own_gib")}
    save("dmft", {"growth": rows, "exponents": powers, "T150": long, "T40": short})
    for row in (*rows, long, *short):
        print(
            f"{row['schedule']:4s} T = {row['steps']:3d}  N = {row['n_mc']:5d}  runs {row['runs']} "
            f"{row['cpu_seconds']:6.2f} s  {row['peak_gib']:.3f} GiB (own {row['own_gib']:.3f})"
        )
    print(f"time ~ T^{powers['cpu_seconds']:.2f}, memory ~ T^{powers['own_gib']:.2f}")
    slowest = max(row["cpu_seconds"] for row in short)
    failed = [
        text
        for text, found, limit in (
            ("GiB at T = 150", long["peak_gib"], options.require_gib),
            ("seconds at T = 40", slowest, options.require_seconds),
            ("exponent of the time", powers["cpu_seconds"], 3.2),
            ("exponent of the memory", powers["own_gib"], 2.2),
        )
        if limit is not None and found > limit
    ]
    if failed:
        raise SystemExit("above the limit: " + ", ".join(failed))


if __name__ == "__main__":
    main()
