"""Regression on drawn data: the exact error against a brute-force test set, and measured values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import eval_gegenbauer

from thermolearn.predict import simulate, sphere
from thermolearn.predict.simulate import simulate_gp_regression, simulate_truncation
from thermolearn.predict.sphere import SphereTable, draw_data

POWER = (0.0, 0.5, 0.3, 0.2)
OBSERVABLES = (
    "test_error",
    "train_error",
    "learnability",
    "predictive_variance",
    "log_det",
    "quadratic_form",
    "log_evidence",
)


def relu(depth=4, sigma_w2=2.0, sigma_b2=0.0, tangent=True):
    """The recursion of a ReLU network on the sphere, written out once more."""

    def kernel(t):
        K = sigma_w2 * np.asarray(t, dtype=np.float64) + sigma_b2
        q, T = sigma_w2 + sigma_b2, K
        for _ in range(depth - 1):
            angle = np.arccos(np.clip(K / q, -1, 1))
            slope = sigma_w2 * (math.pi - angle) / (2 * math.pi)
            K = sigma_w2 * q * np.sin(angle) / (2 * math.pi) + slope * K + sigma_b2
            q = sigma_w2 * q / 2 + sigma_b2
            T = K + slope * T
        return T if tangent else K

    return kernel


def erf_nngp(depth, sigma_w2, sigma_b2):
    def kernel(t):
        K, q = sigma_w2 * np.asarray(t, dtype=np.float64) + sigma_b2, sigma_w2 + sigma_b2
        for _ in range(depth - 1):
            K = sigma_w2 * 2 / math.pi * np.arcsin(2 * K / (1 + 2 * q)) + sigma_b2
            q = sigma_w2 * 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)) + sigma_b2
        return K

    return kernel


# -- exact ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dim", "depth", "expected", "diagonal"),
    [
        (3, 2, (1.0, 0.66666667, 0.15625, 0.0, 0.0104166667), 4),
        (8, 2, (0.762266146, 0.25, 0.0261408143, 0.0, 4.23437984e-4), 4),
        (8, 4, (2.30523402, 0.255508134, 0.0398491836, 0.00532722314, 0.00124720846), 8),
        (20, 4, (2.19015651, 0.0957243610, 0.00654671176, 4.01123214e-4, 4.42304529e-5), 8),
    ],
)
def test_harmonics_of_the_relu_kernel(dim, depth, expected, diagonal):
    table = SphereTable(relu(depth), dim)
    assert table.eigenvalues[:5] == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert table.diagonal == pytest.approx(diagonal, abs=1e-12)
    assert (table.degeneracies * table.eigenvalues).sum() <= diagonal * (1 + 1e-12)


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_legendre_against_gegenbauer_and_counting(dim):
    t = np.linspace(-1, 1, 11)
    for degree, found in enumerate(sphere.legendre(dim, t, 6)):
        if dim == 2:
            expected = np.cos(degree * np.arccos(t))
        else:
            alpha = dim / 2 - 1
            expected = eval_gegenbauer(degree, alpha, t) / eval_gegenbauer(degree, alpha, 1.0)
        assert found == pytest.approx(expected, abs=1e-12)
    # harmonics of degree l: polynomials of degree l less those of degree l - 2
    count = [math.comb(dim + k - 1, k) - (math.comb(dim + k - 3, k - 2) if k > 1 else 0) for k in
             range(8)]  # fmt: skip
    assert sphere.degeneracy(dim, np.arange(8)).tolist() == count


def test_the_exact_error_is_that_of_a_large_test_set():
    """One data set, written out: Gram matrices by the kernel itself, 80000 test inputs."""
    dim, n, noise, kernel = 5, 30, 0.4, relu(3, sigma_b2=0.2)
    found = simulate_gp_regression(kernel, dim, POWER, n, noise, 0.1, n_datasets=2, n_targets=1)
    errors, variances = [], []
    for k in range(2):
        rng = np.random.default_rng((1906_05301, 0, k))
        x = rng.normal(size=(n, dim))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        w = rng.normal(size=dim)
        w /= np.linalg.norm(w)

        def target(x, w=w):
            P = sphere.legendre(dim, x @ w, 3)
            count = sphere.degeneracy(dim, np.arange(4))
            terms = zip(POWER, count, P, strict=True)
            return sum(math.sqrt(g * N) * p for g, N, p in terms)

        y = target(x) + math.sqrt(0.1) * rng.normal(size=(n, 1))[:, 0]
        test = rng.normal(size=(80_000, dim))
        test /= np.linalg.norm(test, axis=1, keepdims=True)
        inverse = np.linalg.inv(kernel(np.clip(x @ x.T, -1, 1)) + noise * np.eye(n))
        cross = kernel(test @ x.T)
        errors.append((cross @ inverse @ y - target(test)) ** 2)
        variances.append(kernel(1.0) - np.einsum("in,nm,im->i", cross, inverse, cross))
    for value, samples in ((found.test_error, errors), (found.predictive_variance, variances)):
        stderr = np.std(samples, ddof=1) / math.sqrt(np.size(samples))
        assert abs(float(value) - np.mean(samples)) < 4 * stderr
        assert stderr < 0.01 * float(value)


def test_the_other_observables_are_those_of_plain_algebra():
    n, noise, kernel = 20, 0.3, relu()
    found = simulate_gp_regression(kernel, 6, POWER, n, noise, n_datasets=2, n_targets=3)
    rows = []
    for k in range(2):
        rng = np.random.default_rng((1906_05301, 0, k))
        data = draw_data(rng, n, 6, np.array(POWER), 0.0, 3)
        K = kernel(np.cos(data.angles))
        A, y = K + noise * np.eye(n), data.labels
        fit = K @ np.linalg.solve(A, y)
        log_det, form = np.linalg.slogdet(A)[1], np.mean(np.diag(y.T @ np.linalg.solve(A, y)))
        evidence = -0.5 * (log_det + form + n * math.log(2 * math.pi))
        rows.append((np.mean((fit - y) ** 2), log_det, form, evidence))
    expected = np.mean(rows, 0)
    got = [found.train_error, found.log_det, found.quadratic_form, found.log_evidence]
    assert [float(e) for e in got] == pytest.approx(expected, rel=1e-9)


def test_a_kernel_of_one_degree_learns_that_degree_only():
    """k = t: linear regression. With many samples the linear part is learned, nothing else."""
    found = simulate_gp_regression(lambda t: t, 4, (0.0, 0.6, 0.4), 500, 1.0, n_datasets=2)
    assert np.asarray(found.learnability.value)[1:] == pytest.approx([1, 0], abs=0.02)
    assert math.isnan(np.asarray(found.learnability.value)[0])
    assert float(found.test_error) == pytest.approx(0.4, abs=0.02)


def test_same_seed_same_bits_and_data_sets_do_not_depend_on_their_number():
    def run(count, seed):
        return simulate_gp_regression(
            relu(), 8, POWER, 20, 0.5, 0.1, n_datasets=count, n_targets=2, seed=seed
        )

    first, again, other = run(3, 1), run(3, 1), run(3, 2)
    for name in OBSERVABLES:
        a, b, c = (getattr(r, name) for r in (first, again, other))
        assert np.array_equal(a.value, b.value, equal_nan=True)
        assert np.array_equal(a.stderr, b.stderr, equal_nan=True)
        assert not np.array_equal(a.value, c.value, equal_nan=True)
    # means of 2, 3 and 4 share their data sets: 3 m_3 - 2 m_2 is the third one
    m2, m4 = float(run(2, 1).log_det), float(run(4, 1).log_det)
    rng = [np.random.default_rng((1906_05301, 1, k)) for k in (2, 3)]
    table = SphereTable(relu(), 8)
    rest = [
        np.linalg.slogdet(
            table.first(draw_data(r, 20, 8, np.array(POWER), 0.1, 2).angles) + 0.5 * np.eye(20)
        )[1]
        for r in rng
    ]
    assert 4 * m4 - 2 * m2 == pytest.approx(sum(rest), rel=1e-9)


# -- measured values -----------------------------------------------------------------------------
def close(found, expected, stderr):
    """Within four standard errors of both."""
    return abs(float(found) - expected) < 4 * math.hypot(float(found.stderr), stderr)


@pytest.mark.parametrize(
    ("noise", "n", "expected", "stderr"),
    [
        (0.0, 25, 0.5904, 0.0037),
        (0.0, 100, 0.2663, 0.0015),
        (2.0, 25, 0.6364, 0.0037),
        (2.0, 100, 0.3272, 0.0020),
        (20.0, 50, 0.6961, 0.0021),
    ],
)
def test_published_setting(noise, n, expected, stderr):
    found = simulate_gp_regression(relu(), 8, POWER, n, noise, n_datasets=60)
    assert close(found.test_error, expected, stderr)
    assert float(found.test_error.stderr) < 0.02 * expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "n", "expected", "stderr"),
    [
        (0.0, 200, 0.1509, 0.0010),
        (0.0, 400, 0.0679, 0.0004),
        (2.0, 200, 0.2110, 0.0012),
        (2.0, 400, 0.1211, 0.0006),
        (20.0, 200, 0.4187, 0.0016),
    ],
)
def test_published_setting_of_many_samples(noise, n, expected, stderr):
    found = simulate_gp_regression(relu(), 8, POWER, n, noise, n_datasets=40)
    assert close(found.test_error, expected, stderr)
    if (noise, n) == (0.0, 200):
        learned = ((0.9514, 0.0017), (0.7568, 0.0028), (0.2969, 0.0016))
        values, bars = np.asarray(found.learnability.value), np.asarray(found.learnability.stderr)
        for value, bar, (mean, error) in zip(values[1:], bars[1:], learned, strict=True):
            assert abs(value - mean) < 4 * math.hypot(bar, error)
    if (noise, n) == (2.0, 200):
        assert float(found.train_error) == pytest.approx(0.03476, rel=0.03)


@pytest.mark.parametrize(("n", "expected", "stderr"), [(50, 0.7008, 0.0041), (200, 0.4191, 0.0021)])
def test_poisson_sizes(n, expected, stderr):
    found = simulate_gp_regression(relu(), 8, POWER, n, 20.0, n_datasets=40, poisson=True)
    assert close(found.test_error, expected, stderr)


def test_poisson_sizes_may_be_zero():
    found = simulate_gp_regression(relu(), 8, POWER, 1, 1.0, n_datasets=20, poisson=True)
    assert found.train_error.n_eff < 20
    assert 0.9 < float(found.test_error) < 1.1


@pytest.mark.parametrize(("n", "expected", "stderr"), [(50, 0.4975, 0.0021), (200, 0.2191, 0.0010)])
def test_erf_network_with_noisy_labels(n, expected, stderr):
    kernel = erf_nngp(3, 1.5, 0.2)
    found = simulate_gp_regression(kernel, 8, POWER, n, 0.1, 0.1, n_datasets=40)
    assert close(found.test_error, expected, stderr)


@pytest.mark.parametrize(("n", "expected", "stderr"), [(50, 0.3951, 0.0031), (200, 0.1774, 0.0010)])
def test_twenty_dimensions(n, expected, stderr):
    kernel, power = relu(sigma_b2=0.1), (0.25, 0.5, 0.25)
    found = simulate_gp_regression(kernel, 20, power, n, 0.0, n_datasets=40)
    assert close(found.test_error, expected, stderr)


def test_free_energy():
    kernel = relu(tangent=False)
    found = simulate_gp_regression(kernel, 8, POWER, 200, 0.1, 0.1, n_datasets=60)
    assert close(found.log_det, -207.50, 0.12)
    assert close(found.quadratic_form, 238.86, 1.27)
    assert close(found.log_evidence, -199.47, 0.64)


def laplace(t):
    return np.exp(-3 * np.arccos(np.clip(t, -1, 1)))


@pytest.mark.parametrize(("kernel", "noise"), [(laplace, 0.0), (relu(), 1e-3)])
def test_two_dimensions_and_many_samples_against_a_test_set(kernel, noise):
    """Degrees beyond 200 matter: without them the error is 28 and 17% too low here."""
    n, power = 600, np.array(POWER)
    found = simulate_gp_regression(kernel, 2, POWER, n, noise, 0.3, n_datasets=2, n_targets=2)
    ridge = noise or 1e-8
    angle = 2 * np.pi * np.arange(8000) / 8000
    z = np.stack([np.cos(angle), np.sin(angle)], 1)
    error, variance = [], []
    for k in range(2):
        data = draw_data(np.random.default_rng((1906_05301, 0, k)), n, 2, power, 0.3, 2)
        gram = kernel(np.cos(data.angles)) + ridge * np.eye(n)
        across = kernel(np.clip(z @ data.inputs.T, -1, 1))
        target = np.tensordot(
            np.sqrt(power), sphere.target_harmonics(z, data.directions, len(power)), 1
        )
        inverse = np.linalg.inv(gram)
        error.append(np.square(across @ (inverse @ data.labels) - target).mean())
        variance.append(kernel(np.ones(1))[0] - ((across @ inverse) * across).sum(1).mean())
    assert found.errors == pytest.approx(error, rel=2e-3)
    assert float(found.predictive_variance) == pytest.approx(np.mean(variance), rel=2e-3)


def test_degrees_beyond_the_table_are_refused_where_they_matter(monkeypatch):
    """A table of 30 degrees: the integral is 5% too low, estimated as 13%."""

    def slow(t):
        return np.exp(-np.arccos(np.clip(t, -1, 1)))

    arguments = (slow, 3, POWER, 600, 0.0, 0.5)
    full = simulate_gp_regression(*arguments, n_datasets=2, n_targets=4)
    monkeypatch.setattr(sphere, "MAX_DEGREE", 30)
    with pytest.raises(ValueError, match="harmonics beyond degree"):
        simulate_gp_regression(*arguments, n_datasets=2, n_targets=4)
    monkeypatch.setattr(simulate, "CUT", 1.0)
    cut = simulate_gp_regression(*arguments, n_datasets=2, n_targets=4)
    assert (cut.errors < 0.96 * full.errors).all()


# -- truncated kernels ---------------------------------------------------------------------------
def test_a_truncated_kernel_with_renormalized_noise_predicts_the_same():
    """And without renormalizing the noise it is another machine: it interpolates the target."""
    two, three, four = simulate_truncation(relu(), 8, POWER, 200, 0.0, (2, 3, 4), n_datasets=10)
    assert float(four.difference) < 0.002
    assert close(four.difference, 0.0005, 0.0001)
    assert close(three.difference, 0.0027, 0.0001)
    assert close(two.difference, 0.0317, 0.0015)
    assert two.noise == pytest.approx(2.25598, abs=1e-4)
    assert float(three.bare_test_error) < 1e-6
    assert close(three.test_error, 0.1492, 0.0015)
    assert float(three.bare_difference) > 50 * float(three.difference)


def test_keeping_everything_changes_nothing():
    def cubic(t):
        return 1 + 2 * t + t**2 + 0.5 * t**3

    (whole,) = simulate_truncation(cubic, 8, POWER, 40, 0.5, (3,), n_datasets=2)
    full = simulate_gp_regression(cubic, 8, POWER, 40, 0.5, n_datasets=2)
    assert whole.noise == pytest.approx(0.5, abs=1e-10)
    assert float(whole.difference) < 1e-12 and float(whole.bare_difference) < 1e-12
    assert float(whole.test_error) == pytest.approx(float(full.test_error), rel=1e-9)


def test_truncation_is_regression_with_the_renormalized_kernel():
    """Its harmonics and noise from the theory's side of the library, on the same data sets."""
    from thermolearn.predict.curves import renormalize
    from thermolearn.predict.kernels.fully_connected import NTK

    kernel, dropped = renormalize(NTK(4, "relu", 2.0, 0.0), 3, dim=6)
    noise = 0.4 + dropped
    full = simulate_gp_regression(kernel, 6, POWER, 50, noise, n_datasets=3)
    (cut,) = simulate_truncation(relu(), 6, POWER, 50, 0.4, (3,), n_datasets=3)
    assert cut.noise == pytest.approx(noise, rel=1e-9)
    assert float(cut.test_error) == pytest.approx(float(full.test_error), rel=1e-7)


def test_a_target_beyond_the_cut_is_not_learned():
    (cut,) = simulate_truncation(relu(), 8, (0, 0, 0, 1.0), 60, 1.0, (2,), n_datasets=4)
    assert float(cut.test_error) >= 1


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n must"),
        ({"n": 2.5}, "n must"),
        ({"n": math.nan}, "n must"),
        ({"noise": -1.0}, "noise"),
        ({"noise": math.inf}, "noise"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"dim": 1}, "dim"),
        ({"target_power": ()}, "target_power"),
        ({"target_power": (0.5, -0.1)}, "target_power"),
        ({"target_power": (0.5, math.nan)}, "target_power"),
        ({"target_power": (0.0, 0.0)}, "nothing to learn"),
        ({"target_power": np.ones(300)}, "degree"),
        ({"n_datasets": 1}, "n_datasets"),
        ({"n_targets": 0}, "n_targets"),
        ({"seed": -1}, "seed"),
        ({"kernel": lambda t: -t}, "k.1."),
        ({"kernel": lambda t: 1.5 - t}, "positive semi-definite"),
        ({"kernel": lambda t: np.where(t > 0.3, 1.0, 0.0)}, "smooth"),
        ({"kernel": lambda t: np.exp(-20 * np.arccos(t)), "dim": 2}, "narrow"),
        ({"kernel": lambda t: t / 0}, "finite"),
        ({"kernel": lambda t: 1.0}, "one finite number"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input(changes, message):
    arguments = {"kernel": relu(), "dim": 4, "target_power": POWER, "n": 10, "noise": 1.0}
    with pytest.raises(ValueError, match=message):
        simulate_gp_regression(**(arguments | changes))


def test_zero_noise_says_that_there_is_a_jitter():
    """A kernel of few harmonics has a singular Gram matrix beyond their number."""
    found = simulate_gp_regression(lambda t: t, 3, (0, 1.0), 10, 0.0, n_datasets=2)
    assert "jitter" in found.test_error.note and float(found.test_error) < 1e-9
    with pytest.raises(ValueError, match="degrees"):
        simulate_truncation(relu(), 4, POWER, 10, 0.0, (-1,))


def test_a_kernel_of_few_harmonics_without_noise_is_least_squares():
    """Its Gram matrix has a null space, and the labels a part in it."""
    dim, n = 5, 60
    found = simulate_gp_regression(lambda t: t, dim, (0, 0.5, 0.5), n, 0.0, n_datasets=2)
    expected = []
    for k in range(2):
        rng = np.random.default_rng((1906_05301, 0, k))
        data = draw_data(rng, n, dim, np.array([0, 0.5, 0.5]), 0.0, 16)
        slope = np.linalg.lstsq(data.inputs, data.labels, rcond=None)[0]
        linear = math.sqrt(0.5 * dim) * data.directions
        expected.append(((slope - linear) ** 2).sum(0).mean() / dim + 0.5)
    assert float(found.test_error) == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_smooth_kernel_without_noise_is_refused_where_float64_ends():
    with pytest.raises(ValueError, match="raise noise"):
        simulate_gp_regression(np.exp, 3, (0,) * 9 + (1.0,), 300, 0.0, n_datasets=2)
