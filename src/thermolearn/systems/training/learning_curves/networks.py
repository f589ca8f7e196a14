"""Trained networks of finite width, beside regression with their kernel on the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from thermolearn.core.checks import whole
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.predict.sphere import draw_data, target_harmonics
from thermolearn.systems.training.learning_curves.params import Params

# On the diagonal without noise, in units of k(1)
JITTER = 1e-8


@dataclass(frozen=True, eq=False)
class MeasuredNetworks:
    """Networks trained to the end, and kernel regression on their data sets.

    Attributes
    ----------
    n, width : int
    nets : int
        Networks, each with a data set and a target of its own; those that training did not finish
        are left out and counted in `flags`.
    test_error : Estimate
        Of the networks, f - f0 against the target, on fresh test inputs.
    kernel_error : Estimate
        Of regression with the infinite network's kernel on the same data.
    difference : Estimate
        Mean square of the difference of the two predictions; of order 1/width.
    flags : tuple of str
    """

    n: int
    width: int
    nets: int
    test_error: Estimate
    kernel_error: Estimate
    difference: Estimate
    flags: tuple[str, ...] = ()


def measure_networks(
    p: Params,
    sizes: Sequence[int],
    width: int = 256,
    nets: int = 10,
    n_test: int = 1000,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> tuple[MeasuredNetworks, ...]:
    """Train networks of finite width on data sets of the sphere, one data set each.

    NTK parametrization, full-batch gradient descent until the train loss is `tolerance` of the
    labels' mean square, or with noise to the minimum of squares + noise |theta - theta_0|^2.

    Parameters
    ----------
    p : Params
        Its kernel must be "ntk"; n_samples, datasets and targets are not used.
    sizes : sequence of int
        Samples, each at least 1.
    width : int
        Neurons per hidden layer.
    nets : int
        Networks per size, at least 2.
    n_test : int
        Test inputs per network, at least 2.
    tolerance : float
        In (0, 1).
    seed : int

    Returns
    -------
    tuple of MeasuredNetworks
        One per size.

    Raises
    ------
    NotApplicableError
        The kernel "nngp": that is the posterior of networks, not what gradient descent finds.
    ValueError
        Numbers out of range, or fewer than two networks whose training came to an end.
    """
    if p.kernel != "ntk":
        raise NotApplicableError('networks trained by gradient descent have the kernel "ntk"')
    whole("nets", nets, 2)
    whole("n_test", n_test, 2)
    whole("seed", seed, 0)
    numbers = [whole("sizes", n, 1) for n in sizes]
    return tuple(
        _at_size(p, n, whole("width", width, 1), nets, n_test, tolerance, seed)
        for n in track(numbers, f"networks of width {width}", len(numbers))
    )


def _at_size(
    p: Params, n: int, width: int, nets: int, n_test: int, tolerance: float, seed: int
) -> MeasuredNetworks:
    from thermolearn.predict.networks import train_networks

    power, radius = np.array(p.target_power), math.sqrt(p.dim)
    data, test = [], np.empty((nets, n_test, p.dim))
    target = np.empty((nets, n_test))
    for k in range(nets):
        rng = np.random.default_rng((1906_05301, seed, n, k))
        data.append(draw_data(rng, n, p.dim, power, p.label_noise, 1))
        x = rng.normal(size=(n_test, p.dim))
        test[k] = x / np.linalg.norm(x, axis=1, keepdims=True)
        harmonics = target_harmonics(test[k], data[k].directions, len(power))
        target[k] = np.tensordot(np.sqrt(power), harmonics, 1)[:, 0]
    trained = train_networks(
        np.stack([radius * d.inputs for d in data]),
        np.stack([d.labels for d in data]),
        radius * test,
        depth=p.depth,
        width=width,
        activation=p.activation,
        sigma_w2=p.sigma_w2,
        sigma_b2=p.sigma_b2,
        ridge=p.noise,
        seed=seed,
        tolerance=tolerance,
    )
    done = np.flatnonzero(trained.converged)
    if len(done) < 2:
        raise ValueError(
            f"of {nets} networks of width {width} on {n} samples {len(done)} trained to the end "
            f"({trained.status[0]}); raise width or tolerance"
        )
    f = trained.predictions[done, :, 0]
    kernel = np.stack([_regression(p, data[k].inputs, data[k].labels, test[k]) for k in done])
    error, reference, between = (
        mean_estimate(((a - b) ** 2).mean(1))
        for a, b in ((f, target[done]), (kernel, target[done]), (f, kernel))
    )
    left = nets - len(done)
    flags = (f"{left} of {nets} networks did not train to the end",) if left else ()
    return MeasuredNetworks(
        n, width, len(done), error, reference, between, flags + tuple(trained.flags)
    )


def _regression(p: Params, x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    machine = p.machine()
    cosine = np.clip(x @ x.T, -1, 1)
    np.fill_diagonal(cosine, 1.0)
    gram = np.array(machine(cosine), dtype=np.float64)
    gram[np.diag_indices_from(gram)] += p.noise if p.noise > 0 else JITTER * gram[0, 0]
    alpha = cho_solve(cho_factor(gram, lower=True), y[:, 0])
    return np.asarray(machine(np.clip(test @ x.T, -1, 1)), dtype=np.float64) @ alpha
