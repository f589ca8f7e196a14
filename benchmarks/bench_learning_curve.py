"""A learning curve of 20 sizes from a pool of 2000: seconds per step, beside a plain transcription.

There is no package to compare with. The transcription solves the self-consistent ridge by
scipy.optimize.fsolve, one size after the other, and sums over modes in numpy; it gets the same
spectrum. What dominates is the eigendecomposition, which is LAPACK's.

    OMP_NUM_THREADS=1 python benchmarks/bench_learning_curve.py [--require-seconds 60]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import numpy as np
from common import ratio, save, seconds, side_by_side
from scipy import optimize

from thermolearn.predict.curves import learning_curve
from thermolearn.predict.kernels.fully_connected import NTK
from thermolearn.predict.spectrum import Spectrum, empirical_spectrum, sphere_spectrum

NOISE = 1e-2


def transcription(spec: Spectrum, sizes: np.ndarray) -> np.ndarray:
    """Test error by a root finder per size, from an eigenvalue-based guess."""
    eigenvalues, power = spec.eigenvalues, spec.target_power
    errors = []
    for n in sizes:

        def law(log_kappa: np.ndarray, n: float = n) -> float:
            kappa = np.exp(log_kappa[0])
            return np.sum(eigenvalues / (eigenvalues + kappa)) + NOISE / kappa - n

        guess = NOISE / n + eigenvalues[int(n) :].sum() / n
        kappa = np.exp(optimize.fsolve(law, np.log(guess), xtol=1e-12)[0])
        learned = eigenvalues / (eigenvalues + kappa)
        errors.append(np.sum(power * (1 - learned) ** 2) / (1 - np.sum(learned**2) / n))
    return np.array(errors)


def run(pool: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((pool, 30)) * np.linspace(2, 0.1, 30)
    y = np.sign(x[:, 0] + x[:, 1] * x[:, 2])
    kernel = NTK(3, "relu", 2.0, 0.1)
    sizes = np.geomspace(5, pool / 10, 20)
    gram = kernel.gram(x)
    spec = empirical_spectrum(gram, y)
    whole = {
        "Gram matrix": lambda: kernel.gram(x),
        "spectrum of the pool": lambda: empirical_spectrum(gram, y),
        "spectrum on the sphere, 61 degrees": lambda: sphere_spectrum(kernel, 30),
    }
    curves = {
        "20 sizes": lambda: learning_curve(spec, None, sizes, NOISE),
        "20 sizes, Poisson": lambda: learning_curve(spec, None, sizes, NOISE, size="poisson"),
        "20 sizes, transcription": lambda: transcription(spec, sizes),
    }
    ours = curves["20 sizes"]().test_error
    gap = float(np.abs(curves["20 sizes, transcription"]() / ours - 1).max())
    times = {name: [seconds(call) for _ in range(2)] for name, call in whole.items()}
    times |= side_by_side(curves, rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "pool": pool,
        "sizes": [round(float(n), 1) for n in sizes],
        "relative_difference": gap,
        "seconds": median,
        "seconds_in_all": median["Gram matrix"]
        + median["spectrum of the pool"]
        + median["20 sizes"],
        "times_faster": {
            "than the transcription": ratio(times["20 sizes, transcription"], times["20 sizes"])
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--require-seconds", type=float, help="fail if it all takes longer")
    options = parser.parse_args()
    result = run(options.pool, options.rounds)
    save("learning_curve", result)
    if result["relative_difference"] > 1e-8:
        sys.exit(f"the two differ by {result['relative_difference']:.1e} relative")
    if options.require_seconds and result["seconds_in_all"] > options.require_seconds:
        sys.exit(f"{result['seconds_in_all']:.1f} s, {options.require_seconds:g} required")


if __name__ == "__main__":
    main()
