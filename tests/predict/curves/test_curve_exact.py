"""Truths that know nothing of the theory: enumeration, random matrices, data sets drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from reference_kernels import relu
from scipy import optimize, stats

from thermolearn.predict.curves import learning_curve
from thermolearn.predict.curves.curve import poisson_rule
from thermolearn.predict.spectrum import Spectrum, empirical_spectrum, sphere_spectrum

# -- a ring of points, enumerated ------------------------------------------------------------------
LABEL_NOISE = 0.3


def ring(m: int) -> tuple[np.ndarray, np.ndarray, Spectrum]:
    """A kernel on m points of a ring, a target, and its spectrum without a limit of the pool."""
    i = np.arange(m)
    distance = np.minimum(np.abs(i[:, None] - i), m - np.abs(i[:, None] - i))
    gram = np.exp(-1.0 * distance) + 0.3
    y = np.cos(2 * np.pi * i / m) + 0.4
    spec = empirical_spectrum(gram, y)
    return gram, y, Spectrum(spec.eigenvalues, target_power=spec.target_power)


def exact_error(gram: np.ndarray, y: np.ndarray, counts: np.ndarray, noise: float) -> float:
    """Test error of regression on counts_i copies of point i, averaged over the label noise."""
    seen = counts > 0
    posterior = np.linalg.inv(gram[np.ix_(seen, seen)] + np.diag(noise / counts[seen]))
    weight = gram[:, seen] @ posterior
    mean = np.mean((weight @ y[seen] - y) ** 2)
    return float(mean + LABEL_NOISE * np.mean((weight**2 / counts[seen]).sum(1)))


def poisson_error(m: int, mean: float, noise: float) -> float:
    """Exact average over Poisson data sets: the counts of the points are independent."""
    gram, y, _ = ring(m)
    top = int(stats.poisson.ppf(1 - 1e-13, mean / m)) + 1
    first = int(stats.poisson.ppf(1e-13, mean / m))
    share = stats.poisson.pmf(np.arange(first, top), mean / m)
    return sum(
        math.prod(share[i - first] for i in counts) * exact_error(gram, y, np.array(counts), noise)
        for counts in itertools.product(range(first, top), repeat=m)
    )


def fixed_error(m: int, n: int, noise: float) -> float:
    """Exact average over all data sets of n draws from three points with replacement."""
    gram, y, _ = ring(m)
    counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    share = stats.multinomial.pmf(counts, n, np.full(3, 1 / 3))
    return sum(p * exact_error(gram, y, c, noise) for p, c in zip(share, counts, strict=True))


def predicted(m: int, n: float, noise: float, order: str) -> float:
    *_, spec = ring(m)
    return learning_curve(spec, None, n, noise, LABEL_NOISE, order).test_error[0]


def test_subleading_order_is_exact_on_a_ring() -> None:
    """All Poisson data sets of two points: the gap to the exact error is of second order.

    Draws with replacement from the points of an empirical spectrum; on a ring C(x, x) is constant.
    """
    gaps = []
    for noise in (10.0, 40.0):
        exact = poisson_error(2, 2 * noise, noise)
        leading = predicted(2, 2 * noise, noise, "equivalence-kernel")
        first = predicted(2, 2 * noise, noise, "subleading")
        assert noise * (exact - first) == pytest.approx(0, abs=0.1 * noise * (exact - leading))
        gaps.append(noise**2 * abs(exact - first))
    assert gaps[1] < 2 * gaps[0]
    assert gaps[0] < 0.3


def test_a_fixed_size_differs_from_poisson_by_half_n_times_the_curvature() -> None:
    for noise in (10.0, 30.0):
        n, h = round(4 * noise), 0.04 * noise
        exact = fixed_error(3, n, noise)
        left, middle, right = (
            predicted(3, n + i * h, noise, "equivalence-kernel") for i in (-1, 0, 1)
        )
        curvature = (left - 2 * middle + right) / h**2
        first = predicted(3, n, noise, "subleading")
        gap = noise * abs(exact - (first - 0.5 * n * curvature))
        assert gap < 0.05 * noise * abs(first - middle) * 30 / noise
        assert gap < 0.3 * noise * abs(exact - first)


def test_a_constant_target_on_a_constant_kernel() -> None:
    """One mode and n draws: f = y n/(n + noise), whatever is drawn."""
    spec = empirical_spectrum(np.ones((5, 5)), np.full(5, 2.0))
    n, noise = np.arange(1, 5), 0.7
    curve = learning_curve(Spectrum(spec.eigenvalues, target_power=spec.target_power), None, n, 0.7)
    exact = 4.0 * (noise / (n + noise)) ** 2
    # exact without the fluctuation of the mode's length, which a constant does not have
    leading = learning_curve(
        Spectrum(spec.eigenvalues, target_power=spec.target_power),
        None,
        n,
        noise,
        order="equivalence-kernel",
    )
    np.testing.assert_allclose(leading.test_error, exact, rtol=1e-12)
    assert (curve.test_error > exact).all()


# -- many features -------------------------------------------------------------------------------
def ridge_risk(ratio: float, ridge: float, label_noise: float) -> float:
    """Risk of ridge regression on isotropic features, features/samples = ratio, unit signal.

    From the Stieltjes transform m of the Marchenko-Pastur law at -ridge.
    """

    def m(z: float) -> float:
        a = 1 - ratio + z
        return (math.sqrt(a * a + 4 * ratio * z) - a) / (2 * ratio * z)

    h = 1e-5 * ridge
    slope = -(m(ridge + h) - m(ridge - h)) / (2 * h)
    return ridge**2 * slope + label_noise * ratio * (m(ridge) - ridge * slope)


@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("ridge", [0.01, 0.5, 3.0])
def test_one_degenerate_mode_is_ridge_regression_of_many_features(
    ratio: float, ridge: float
) -> None:
    features = 1000
    n = features / ratio
    spec = Spectrum(np.array([1 / features]), np.array([features]), 1.0)
    curve = learning_curve(spec, [1.0], n, ridge / ratio, label_noise=0.4)
    assert curve.test_error[0] == pytest.approx(ridge_risk(ratio, ridge, 0.4), rel=1e-6)


def test_ridge_regression_drawn() -> None:
    """Linear kernel on the sphere in 400 dimensions: every quantity of the curve against data."""
    dim, n, noise, label_noise, sets = 400, 300, 0.5, 0.2, 20
    rng = np.random.default_rng(0)
    spec = sphere_spectrum(lambda t: t, dim, 2)
    curve = learning_curve(spec, {1: 1.0}, n, noise, label_noise)
    rows = []
    for _ in range(sets):
        x = rng.standard_normal((n, dim))
        x *= math.sqrt(dim) / np.linalg.norm(x, axis=1, keepdims=True)
        w = rng.standard_normal(dim)
        w /= np.linalg.norm(w)
        y = x @ w + math.sqrt(label_noise) * rng.standard_normal(n)
        resolvent = np.linalg.inv(x @ x.T / dim + noise * np.eye(n))
        fit = x.T @ resolvent @ y / dim
        rows.append(
            [
                np.sum((fit - w) ** 2),
                np.mean((x @ fit - y) ** 2),
                w @ fit,
                1 - np.trace(x.T @ resolvent @ x) / dim**2,
                -np.linalg.slogdet(resolvent)[1],
                y @ resolvent @ y,
            ]
        )
    mean, error = np.mean(rows, 0), np.std(rows, 0, ddof=1) / math.sqrt(sets)
    theory = [
        curve.test_error[0],
        curve.train_error[0],
        curve.learned_fraction[0],
        curve.predictive_variance[0],
        curve.log_det[0],
        curve.quadratic[0],
    ]
    # a finite dimension shifts means by O(1/dim)
    allowed = 4 * error + np.array([0.005, 0.005, 0.005, 0.005, 0.6, 0.5])
    assert (np.abs(mean - theory) < allowed).all(), (mean - theory, error)


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_one_mode_in_closed_form(noise: float) -> None:
    """N kappa = s + kappa R lam/(lam + kappa) is a quadratic equation."""
    rank, lam, n = 7.0, 0.6, np.array([2.0, 7.0, 30.0])
    spec = Spectrum(np.array([lam]), np.array([rank]))
    curve = learning_curve(spec, [1.0], n, noise)
    b = n * lam - noise - rank * lam
    kappa = (-b + np.sqrt(b * b + 4 * n * noise * lam)) / (2 * n)
    np.testing.assert_allclose(curve.kappa, kappa, rtol=1e-12)


def test_kernel_regression_drawn_on_the_sphere() -> None:
    """ReLU NNGP of depth 4, N = 200: log det within 1.5 and errors within a few per cent."""
    dim, n, noise, sets = 8, 200, 0.1, 24
    kernel = relu(4, ntk=False)
    spec = sphere_spectrum(kernel, dim)
    rng = np.random.default_rng(1)

    def points(count: int) -> np.ndarray:
        x = rng.standard_normal((count, dim))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    test = points(400)
    rows = []
    for _ in range(sets):
        x, w = points(n), points(1)[0]
        gram = kernel(np.clip(x @ x.T, -1, 1))
        resolvent = np.linalg.inv(gram + noise * np.eye(n))
        y = math.sqrt(dim) * (x @ w) + math.sqrt(0.1) * rng.standard_normal(n)
        cross = kernel(np.clip(test @ x.T, -1, 1))
        rows.append(
            [
                -np.linalg.slogdet(resolvent)[1],
                np.mean((cross @ resolvent @ y - math.sqrt(dim) * test @ w) ** 2),
                np.mean((noise * resolvent @ y) ** 2),
                spec.trace - np.mean(np.einsum("ij,jk,ik->i", cross, resolvent, cross)),
                y @ resolvent @ y,
            ]
        )
    mean, error = np.mean(rows, 0), np.std(rows, 0, ddof=1) / math.sqrt(sets)
    curve = learning_curve(spec, {1: 1.0}, n, noise, label_noise=0.1)
    assert abs(mean[0] - curve.log_det[0]) < 1.5
    theory = [
        curve.test_error[0],
        curve.train_error[0],
        curve.predictive_variance[0],
        curve.quadratic[0],
    ]
    assert (np.abs(mean[1:] - theory) < 4 * error[1:] + 0.03 * np.array(theory)).all()


# -- the average over sizes ----------------------------------------------------------------------
@pytest.mark.parametrize("mean", [1.0, 3.0, 50.0, 700.0])
def test_poisson_rule_against_the_sum(mean: float) -> None:
    node, weight = poisson_rule(mean)
    count = np.arange(int(mean + 20 * math.sqrt(mean) + 30))
    share = stats.poisson.pmf(count, mean)
    assert weight.sum() == pytest.approx(1, rel=1e-12)
    for power in (1, 2, 3):
        assert weight @ node**power == pytest.approx(share @ count ** float(power), rel=1e-10)
    assert weight @ np.exp(-0.3 * node) == pytest.approx(math.exp(mean * math.expm1(-0.3)), 1e-8)


@pytest.mark.parametrize("mean", [2.0, 25.0, 200.0])
def test_poisson_curve_is_the_average_over_integer_sizes(mean: float) -> None:
    spec = sphere_spectrum(relu(4), 8)
    target = {1: 0.5, 2: 0.3, 3: 0.2}
    curve = learning_curve(spec, target, mean, 0.5, 0.1, size="poisson")
    count = np.arange(1, int(mean + 12 * math.sqrt(mean) + 20))
    share = stats.poisson.pmf(count, mean)
    each = learning_curve(spec, target, count, 0.5, 0.1)
    empty = stats.poisson.pmf(0, mean)
    assert curve.test_error[0] == pytest.approx(share @ each.test_error + empty, rel=2e-5)
    assert curve.learned_fraction[0] == pytest.approx(share @ each.learned_fraction, rel=2e-5)
    assert curve.log_evidence[0] == pytest.approx(share @ each.log_evidence, rel=1e-4)
    assert curve.kappa[0] == learning_curve(spec, target, mean, 0.5).kappa[0]
    assert curve.variance_over_data_sets[0] > 0


# -- a transcription -----------------------------------------------------------------------------
@pytest.mark.parametrize("noise", [0.01, 3.0])
def test_against_a_plain_transcription(noise: float) -> None:
    rng = np.random.default_rng(3)
    eigenvalues, power = rng.exponential(1, 50) ** 3, rng.exponential(1, 50)
    n, label_noise = 20.0, 0.5
    curve = learning_curve(Spectrum(eigenvalues), power, n, noise, label_noise)

    def law(kappa: float) -> float:
        return sum(lam / (lam + kappa) for lam in eigenvalues) + noise / kappa - n

    kappa = optimize.root_scalar(law, bracket=(1e-9, 1e6), xtol=1e-15, rtol=1e-14).root
    learned = [lam / (lam + kappa) for lam in eigenvalues]
    gamma = sum(x * x for x in learned) / n
    bias = sum(g * (1 - x) ** 2 for g, x in zip(power, learned, strict=True))
    assert curve.test_error[0] == pytest.approx(
        (bias + gamma * label_noise) / (1 - gamma), rel=1e-9
    )
    assert curve.test_error_noisy[0] == pytest.approx((bias + label_noise) / (1 - gamma), rel=1e-9)
    train = (noise / (n * kappa)) ** 2 * (bias + label_noise) / (1 - gamma)
    assert curve.train_error[0] == pytest.approx(train, rel=1e-9)
    assert curve.bias[0] == pytest.approx(bias, rel=1e-9)
