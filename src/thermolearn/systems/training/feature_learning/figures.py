"""The figures: what is learned against the size of the readout, and how Gaussian it is."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import erf

from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.training.feature_learning.gaussianity import unit_values, weight_kurtosis
from thermolearn.systems.training.feature_learning.networks import BayesianFCN
from thermolearn.systems.training.feature_learning.sampling import sample_posterior

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples

CHANNELS, DIM, SAMPLES, NOISE, TEST = 20, 8, 40, 0.02, 200
READOUTS = (0.01, 0.03, 0.1, 0.3, 1.0)
EDGES = np.linspace(-4, 4, 33)


def figure(quick: bool = True, seed: int = 0) -> Drawing:
    """Hidden weights along the teacher, and the test error, against the readout variance.

    Two-layer erf networks with 20 units on 40 samples of y = erf(x_1) in 8 dimensions. Lines: the
    equations of state and the Gaussian process of infinite width; points: sampled networks, bars
    between chains. To the right is standard scaling, to the left mean-field scaling.

    Parameters
    ----------
    quick : bool
        8 chains of 150 draws (seconds), else 16 of 600 at twice as many points.
    seed : int
        Of the chains; the data set is fixed.
    """
    from thermolearn.core.drawing import Drawing

    readouts = READOUTS if quick else tuple(np.geomspace(READOUTS[0], READOUTS[-1], 9))
    X, y, test, labels = _data()
    title = (
        f"Two-layer erf networks, {CHANNELS} units, n = {SAMPLES}, d = {DIM}, "
        rf"$\sigma^2$ = {NOISE}, y = erf($x_1$)"
    )
    drawing = Drawing(title, columns=2, size=(10, 4))
    drawing.parameters = _conditions() | {"seed": seed}
    left, right = drawing.axes[0]
    axis = r"readout variance $\sigma_a^2$"
    left.set(xlabel=axis, ylabel=r"$\Sigma_{11}$ (prior = 1)", xscale="log")
    right.set(xlabel=axis, ylabel="test error / variance of labels", xscale="log")
    grid = np.geomspace(readouts[0], readouts[-1], 17)
    curves = np.array([_curves(sigma_a2, X, y, test, labels) for sigma_a2 in grid])
    for color, name in enumerate(("equations of state", "Gaussian process")):
        line = "-" if color == 0 else "--"
        drawing.theory(left, grid, curves[:, color, 0], name, color, line)
        drawing.theory(right, grid, curves[:, color, 1], name, color, line)
    sampled = [_samples(a, quick, seed) for a in track(readouts, "sampling networks")]
    learned = [_first(s.relative_input_covariance) for s in sampled]
    errors = [s.test(test, labels).relative_mse for s in sampled]
    drawing.simulation(left, readouts, learned, "sampled networks", 2, sampled[0].chains)
    drawing.simulation(right, readouts, errors, "sampled networks", 2, sampled[0].chains)
    for axes in (left, right):
        axes.legend(frameon=False)
    return drawing


def gaussianity_figure(quick: bool = True, seed: int = 0) -> Drawing:
    """The law of hidden weights along the teacher, and its kurtosis against the readout variance.

    The networks of `figure`. Left: density of w_1 over its prior standard deviation; lines,
    Gaussians with the variance of the equations of state; points, sampled networks. Right:
    kurtosis, 3 for a Gaussian.

    Parameters
    ----------
    quick, seed
        As in `figure`.
    """
    from thermolearn.core.drawing import Drawing

    X, y, test, labels = _data()
    drawing = Drawing("Hidden weights along the teacher", columns=2, size=(10, 4))
    drawing.parameters = _conditions() | {"seed": seed}
    left, right = drawing.axes[0]
    left.set(xlabel=r"$w_1$ (standard deviations of the prior)", ylabel="density")
    right.set(xlabel=r"readout variance $\sigma_a^2$", ylabel="kurtosis of $w_1$", xscale="log")
    sampled = [_samples(a, quick, seed) for a in track(READOUTS, "sampling networks")]
    teacher = np.eye(DIM)[0]
    for color, number in enumerate((0, len(READOUTS) // 2, len(READOUTS) - 1)):
        sigma_a2 = READOUTS[number]
        variance = _curves(sigma_a2, X, y, test, labels)[0][0]
        z = np.linspace(EDGES[0], EDGES[-1], 161)
        density = np.exp(-(z**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        label = rf"$\sigma_a^2$ = {sigma_a2:g}"
        drawing.theory(left, z, density, label, color, sigma_a2=sigma_a2)
        centers, found = _histogram(sampled[number], teacher)
        drawing.simulation(left, centers, found, "", color, sigma_a2=sigma_a2)
    kurtosis = [weight_kurtosis(s, teacher) for s in sampled]
    drawing.theory(right, READOUTS, np.full(len(READOUTS), 3.0), "Gaussian", 5, "--")
    drawing.simulation(right, READOUTS, kurtosis, "sampled networks", 2, sampled[0].chains)
    left.legend(frameon=False, title="lines: Gaussian of the\nequations of state")
    right.legend(frameon=False)
    return drawing


def _conditions() -> dict[str, Any]:
    return {"channels": CHANNELS, "dim": DIM, "n_samples": SAMPLES, "noise": NOISE}


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X, test = rng.standard_normal((SAMPLES, DIM)), rng.standard_normal((TEST, DIM))
    return X, erf(X[:, 0]), test, erf(test[:, 0])


def _network(sigma_a2: float) -> BayesianFCN:
    return BayesianFCN([CHANNELS], DIM, sigma_a2=float(sigma_a2))


def _curves(
    sigma_a2: float, X: np.ndarray, y: np.ndarray, test: np.ndarray, labels: np.ndarray
) -> list[list[float]]:
    """Sigma_11 and relative test error of the equations of state, and of infinite width."""
    net = _network(sigma_a2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # standard scaling: that is what is shown
        solution = net.equations_of_state(X, y, NOISE).solve()
    predictions = solution.predict(test), net.gp(X, y, NOISE).predict(test)
    errors = [float(((p - labels) ** 2).mean() / labels.var()) for p in predictions]
    return [[float(solution.relative_input_covariance[0, 0]), errors[0]], [1.0, errors[1]]]


def _samples(sigma_a2: float, quick: bool, seed: int) -> PosteriorSamples:
    X, y, *_ = _data()
    chains, draws = (8, 150) if quick else (16, 600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)  # the bars are between chains
        return sample_posterior(
            _network(sigma_a2), X, y, NOISE, chains=chains, draws=draws, n_warmup=80, seed=seed
        )


def _first(sigma: Estimate) -> Estimate:
    value, stderr = np.asarray(sigma.value), np.asarray(sigma.stderr)
    return Estimate(value[0, 0], stderr[0, 0], sigma.n_eff, sigma.status)


def _histogram(samples: PosteriorSamples, direction: np.ndarray) -> tuple[np.ndarray, Estimate]:
    """Centers of the bins, and the density with errors between chains."""
    values = unit_values(samples, direction)
    density = np.stack([np.histogram(chain, EDGES)[0] / len(chain) for chain in values])
    width = EDGES[1] - EDGES[0]
    return 0.5 * (EDGES[1:] + EDGES[:-1]), mean_estimate(density / width)
