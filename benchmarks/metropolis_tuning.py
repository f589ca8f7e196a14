"""How fast chains tuned by `tune_step` relax, beside chains tuned to an acceptance.

For every target the covariance is measured once and all choices use it; they differ in the length
of the Gaussian jumps alone. Printed: the longest integrated autocorrelation time (steps) among the
coordinates, |x|^2 and ln p of each choice, and which of them it is. Some minutes on one core.

    python benchmarks/metropolis_tuning.py
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np

from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.systems.sampling.metropolis import GaussianJump, TunedStep, tune_step
from thermolearn.systems.sampling.metropolis.chain import MetropolisRun, starts
from thermolearn.systems.sampling.metropolis.tuning import watched_run, watched_times

Target = tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]


def gaussian(d: int) -> Target:
    if d == 1:
        return lambda x: -0.5 * x * x, np.zeros(1)
    return lambda x: -0.5 * np.einsum("wi,wi->w", x, x), np.zeros(d)


def correlated(d: int = 5, condition: float = 1000.0) -> Target:
    """Random axes, variances from 1 to 1 / condition."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    root = axes * np.sqrt(np.geomspace(1, condition, d))
    return lambda x: -0.5 * ((x @ root) ** 2).sum(1), np.zeros(d)


def banana() -> Target:
    """Curved: y within 1/2 of x^2/2, x of standard deviation 2."""
    return lambda x: -0.5 * (x[:, 0] / 2) ** 2 - 2 * (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2, np.zeros(
        2
    )


def digits(components: int = 20) -> Target:
    """Logistic regression, threes against eights, on principal components; prior N(0, 1)."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    images, labels = load_digits(return_X_y=True)
    chosen = (labels == 3) | (labels == 8)
    x = PCA(components, whiten=True, random_state=0).fit_transform(images[chosen])
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    signed = x * np.where(labels[chosen] == 3, 1.0, -1.0)[:, None]

    def log_prob(w: np.ndarray) -> np.ndarray:
        return -np.logaddexp(0.0, -signed @ w.T).sum(0) - 0.5 * np.einsum("wi,wi->w", w, w)

    return log_prob, np.zeros(components + 1)


TARGETS: dict[str, tuple[Target, int]] = {  # and the steps of a long run
    "Gaussian, d = 1": (gaussian(1), 2000),
    "Gaussian, d = 2": (gaussian(2), 2000),
    "Gaussian, d = 10": (gaussian(10), 4000),
    "quartic, d = 1": ((lambda x: -(x**4), np.zeros(1)), 2000),
    "\\|x\\|, d = 1": ((lambda x: -np.abs(x), np.zeros(1)), 2000),
    "correlated Gaussian, d = 5, condition 1000": (correlated(), 3000),
    "banana, d = 2": (banana(), 8000),
    "digits 3/8, logistic, d = 21": (digits(), 3000),
}


def length_for(target: Target, tuned: TunedStep, acceptance: float) -> float:
    """Length of Gaussian jumps with this acceptance, by bisection in its logarithm."""
    assert tuned.scale is not None
    low, high = 0.05, 30.0
    x = starts(target[1], 256)
    for k in range(14):
        middle = math.sqrt(low * high)
        run = watched_run(target[0], x, GaussianJump(middle), tuned.scale, 300, k)
        x = run.last
        low, high = (middle, high) if float(run.acceptance) > acceptance else (low, middle)
    return math.sqrt(low * high)


def slowest(run: MetropolisRun) -> tuple[Estimate, str]:
    times = watched_times(run)
    name = max(times, key=lambda key: float(times[key]))
    return times[name], "a coordinate" if name.startswith("x[") else name.replace("|", "\\|")


def main() -> None:
    warnings.simplefilter("ignore", SamplerWarning)
    print("| target | tuned: accepted | time | accepting 0.44 | accepting 0.234 | slowest |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, (target, steps) in TARGETS.items():
        tuned = tune_step(log_prob=target[0], x0=target[1])
        assert tuned.scale is not None
        lengths = [tuned.jump.s, *(length_for(target, tuned, a) for a in (0.44, 0.234))]
        x = starts(target[1], 256)
        runs = [watched_run(target[0], x, GaussianJump(s), tuned.scale, steps, 1) for s in lengths]
        times = [slowest(run) for run in runs]
        which = ", ".join(name for _, name in times)
        row = [name, f"{float(runs[0].acceptance):.2f}", *(str(t) for t, _ in times), which]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
