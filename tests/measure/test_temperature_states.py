"""Energies, entropies and temperatures of linear models against draws, limits and other routes."""

import math
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import erf, expit, logsumexp

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.temperature import (
    Mixed,
    Normal,
    Uniform,
    ZeroEntropyChangeError,
    final_energy,
    init_entropy,
    initial_energy,
    type1_temperature,
    type2_temperature,
)
from thermolearn.measure.temperature.gaussian_losses import (
    logsumexp_mean,
    logsumexp_means,
    softplus_fourth,
    softplus_mean,
)

N, D = 400, 20
LAWS = {"normal": Normal(1.0), "uniform": Uniform(1.5), "mixed": Mixed(8, 1.5, 1.0)}


def data(seed=0, n=N, d=D):
    """X, targets with noise 0.5 and labels of a logistic teacher, in the order of the table."""
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(n, d)), rng.normal(size=d) / d**0.5
    noise, u = rng.normal(size=n), rng.random(n)
    return X, X @ w + 0.5 * noise, np.where(u < expit(X @ w), 1, -1)


X, Y, SIGNS = data()
CLASSES = np.random.default_rng(5).integers(4, size=N)
TARGET = {"mse": Y, "mae": Y, "binary_cross_entropy": SIGNS, "cross_entropy": CLASSES}


def drawn(init, rng, d, m):
    """m columns of weights."""
    if isinstance(init, Normal):
        return init.sigma * rng.normal(size=(d, m))
    if isinstance(init, Uniform):
        return init.a * rng.uniform(-1, 1, (d, m))
    u = init.n_uniform
    normal = init.sigma * rng.normal(size=(d - u, m))
    return np.concatenate([init.a * rng.uniform(-1, 1, (u, m)), normal])


def losses(loss, init, draws, seed=1):
    """Mean loss of every draw."""
    rng, y, out = np.random.default_rng(seed), TARGET[loss], []
    for _ in range(draws // 500):
        if loss == "cross_entropy":
            z = np.stack([X @ drawn(init, rng, D, 500) for _ in range(4)])
            out.append((logsumexp(z, axis=0) - z[y, np.arange(N)]).mean(0))
            continue
        z = X @ drawn(init, rng, D, 500)
        gap = y[:, None] - z
        out.append({
            "mse": lambda g=gap: g**2, "mae": lambda g=gap: np.abs(g),
            "binary_cross_entropy": lambda z=z: np.logaddexp(0, -y[:, None] * z),
        }[loss]().mean(0))  # fmt: skip
    return np.concatenate(out)


# -- initial energy ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("loss", "law", "expected", "temperature"),
    [
        ("mse", "normal", 21.24390, 0.73998),
        ("mse", "uniform", 16.21616, 0.72691),
        ("mse", "mixed", 19.29931, 0.73810),
        ("mae", "normal", 3.63576, 0.11427),
        ("mae", "uniform", 3.17666, 0.12670),
        ("binary_cross_entropy", "normal", 1.91180, 0.04714),
        ("binary_cross_entropy", "uniform", 1.69426, 0.05098),
        ("binary_cross_entropy", "mixed", 1.83027, 0.04866),
    ],
)
def test_table_of_energies_and_temperatures(loss, law, expected, temperature):
    init = LAWS[law]
    assert float(initial_energy(X, TARGET[loss], loss, init, "gaussian")) == pytest.approx(
        expected, abs=1e-5
    )
    t = type1_temperature(X, TARGET[loss], loss, init, order="gaussian")
    assert float(t.temperature) == pytest.approx(temperature, abs=1e-5)
    minimum = {"mse": 0.24430, "mae": 0.39287, "binary_cross_entropy": 0.57412}[loss]
    assert float(t.final_energy) == pytest.approx(minimum, abs=1e-5)
    entropy = {"normal": 28.37877, "uniform": 21.97225, "mixed": 25.81616}[law]
    assert float(t.entropy_change) == pytest.approx(entropy, abs=1e-5)


# 1.70203: adaptive quadrature sample by sample; a Gauss-Hermite rule of 100 nodes is 1e-4 off here
@pytest.mark.parametrize(
    ("loss", "expected"), [("mae", 3.19506), ("binary_cross_entropy", 1.70203)]
)
def test_edgeworth_corrected_values(loss, expected):
    e = initial_energy(X, TARGET[loss], loss, Uniform(1.5))
    assert float(e) == pytest.approx(expected, abs=1e-5)
    plain = initial_energy(X, TARGET[loss], loss, Uniform(1.5), "gaussian")
    assert plain.stderr == pytest.approx(abs(float(e) - float(plain)), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "mae", "binary_cross_entropy", "cross_entropy"])
def test_normal_weights_against_20000_draws(loss):
    sample = losses(loss, Normal(1.0), 20000)
    e = initial_energy(X, TARGET[loss], loss, Normal(1.0))
    assert abs(float(e) - sample.mean()) < 4 * sample.std() / len(sample) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mae", "binary_cross_entropy", "cross_entropy"])
def test_edgeworth_removes_most_of_the_error(loss):
    sample = losses(loss, Uniform(1.5), 60000)
    stderr = sample.std() / len(sample) ** 0.5
    y = TARGET[loss]
    plain, corrected = (
        abs(float(initial_energy(X, y, loss, Uniform(1.5), order)) - sample.mean())
        for order in ("gaussian", "edgeworth")
    )
    assert plain > 5 * stderr  # there is an error to remove
    assert corrected < plain / 3
    e = initial_energy(X, y, loss, Uniform(1.5))
    assert corrected < 2 * e.stderr + 4 * stderr


def exact_absolute(x, y, a):
    """E|y - x.w|, w uniform: (2/pi) int (1 - cos(t y) prod sinc(a x_j t))/t^2 dt."""
    t = np.linspace(1e-6, 200, 400_001)
    phi = np.prod(np.sinc(a * np.outer(t, x) / np.pi), 1)
    inner = np.trapezoid((1 - np.cos(t * y) * phi) / t**2, t)
    return 2 / np.pi * (inner + 1 / t[-1])


def test_absolute_error_of_uniform_weights_against_the_characteristic_function():
    x, y, a = np.array([1.0, -0.7, 0.5, 1.3, 0.9, -1.1]), 0.8, 1.2
    exact = exact_absolute(x, y, a)
    args = (x[None], [y], "mae", Uniform(a))
    plain, corrected = (float(initial_energy(*args, o)) for o in ("gaussian", "edgeworth"))
    assert abs(corrected - exact) < abs(plain - exact) / 3
    assert abs(corrected - exact) < initial_energy(*args).stderr


def test_softplus_average():
    values = softplus_mean(np.array([1.0, 4.0, 20.0]))
    for value, expected, error in zip(
        values, (0.8060592, 1.7498067, 8.01156), (1e-6, 1e-6, 5e-6), strict=True
    ):
        assert value == pytest.approx(expected, abs=error)
    s = 1e-3
    assert softplus_mean(np.array([s]))[0] == pytest.approx(math.log(2) + s**2 / 8, abs=1e-13)
    large = 500.0
    tail = (large + math.pi**2 / (6 * large)) / math.sqrt(2 * math.pi)
    assert softplus_mean(np.array([large]))[0] == pytest.approx(tail, rel=1e-9)
    # the heat equation: d^2 A / d(s^2)^2 = E f'''' / 4
    v, h = 1.7, 1e-3
    a = softplus_mean(np.sqrt([v - h, v, v + h]))
    fourth = softplus_fourth(np.sqrt([v]))[0]
    assert (a[0] - 2 * a[1] + a[2]) / h**2 == pytest.approx(fourth / 4, abs=1e-8)


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0, 6.0, 30.0])
def test_two_classes_are_one_binary_score(s):
    """Two independent scores of scale s are one difference of scale s sqrt 2."""
    mean, fourth = logsumexp_mean(s, 2)
    difference = np.array([s * 2**0.5])
    assert mean == pytest.approx(softplus_mean(difference)[0], abs=1e-11)
    assert fourth == pytest.approx(softplus_fourth(difference)[0], abs=1e-10)


@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_classes_at_small_scales(k):
    s = 0.01
    expansion = math.log(k) + s**2 * (1 - 1 / k) / 2
    assert logsumexp_mean(s, k)[0] == pytest.approx(expansion, abs=3e-9)  # next: s^4
    assert logsumexp_mean(0.0, k)[0] == pytest.approx(math.log(k), abs=1e-11)
    q = 1 / k
    assert logsumexp_mean(0.0, k)[1] == pytest.approx(
        q * (1 - q) * (1 - 6 * q + 6 * q * q), abs=1e-11
    )


def test_classes_against_a_product_rule():
    """Three classes by a three-dimensional Gauss-Hermite rule, at a scale where that is enough."""
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / w.sum()
    z = 0.8 * np.stack(np.meshgrid(x, x, x, indexing="ij"), -1)
    weight = w[:, None, None] * w[:, None] * w
    q = np.exp(z[..., 0] - logsumexp(z, axis=-1))
    mean, fourth = logsumexp_mean(0.8, 3)
    assert mean == pytest.approx((weight * logsumexp(z, axis=-1)).sum(), abs=1e-10)
    assert fourth == pytest.approx((weight * q * (1 - q) * (1 - 6 * q + 6 * q * q)).sum(), abs=1e-9)


def test_interpolation_over_samples():
    s = np.linspace(0.1, 8, 60)
    mean, fourth, error = logsumexp_means(s, 5)
    direct = np.array([logsumexp_mean(v, 5) for v in s[::7]])
    np.testing.assert_allclose(mean[::7], direct[:, 0], atol=max(10 * error, 1e-9))
    np.testing.assert_allclose(fourth[::7], direct[:, 1], atol=1e-7)


def test_samples_without_features():
    zero = np.zeros((2, 3))
    assert float(initial_energy(zero, [1.0, -2.0], "mae")) == 1.5
    assert float(initial_energy(zero, [1, -1], "binary_cross_entropy")) == pytest.approx(
        math.log(2)
    )
    assert float(initial_energy(zero, [0, 2], "cross_entropy", Uniform())) == pytest.approx(
        math.log(3)
    )
    assert erf(0) == 0


# -- entropy -----------------------------------------------------------------------------------
def test_entropies():
    assert float(init_entropy(Normal(1.0), 1)) == pytest.approx(1.418939, abs=1e-6)
    assert float(init_entropy(Normal(1 / math.sqrt(2 * math.pi * math.e)), 7)) == pytest.approx(0)
    assert float(init_entropy(Uniform(0.5), 7)) == 0
    assert float(init_entropy(Mixed(0, 1.0, 2.0), 5)) == float(init_entropy(Normal(2.0), 5))
    assert float(init_entropy(Mixed(5, 3.0, 2.0), 5)) == float(init_entropy(Uniform(3.0), 5))
    assert float(init_entropy(Normal(), 4, classes=3)) == pytest.approx(
        float(init_entropy(Normal(), 12))
    )


@pytest.mark.parametrize("init", [Normal(0.8), Uniform(1.5)])
def test_quantised_entropy_is_that_of_bins(init):
    """Shannon entropy of a weight rounded to eps."""
    eps, edges = 0.01, np.arange(-1000, 1001) * 0.01
    if isinstance(init, Normal):
        cdf = 0.5 * (1 + erf(edges / (init.sigma * 2**0.5)))
    else:
        cdf = np.clip((edges + init.a) / (2 * init.a), 0, 1)
    p = np.diff(cdf)
    p = p[p > 0]
    S = init_entropy(init, 1, "quantised", eps)
    assert float(S) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)


# -- final energy ------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["mae", "binary_cross_entropy", "cross_entropy"])
def test_minima_against_a_general_minimizer(loss):
    X, y = (
        data(3, 60, 4)[0],
        {
            "mae": data(3, 60, 4)[1],
            "binary_cross_entropy": data(3, 60, 4)[2],
            "cross_entropy": np.random.default_rng(1).integers(3, size=60),
        }[loss],
    )
    state = final_energy(X, y, loss)

    def energy(w):
        if loss == "mae":
            return np.abs(y - X @ w).mean()
        if loss == "binary_cross_entropy":
            return np.logaddexp(0, -y * (X @ w)).mean()
        z = X @ w.reshape(4, 3)
        return (logsumexp(z, axis=1) - z[np.arange(60), y]).mean()

    assert energy(state.weights.ravel()) == pytest.approx(float(state.energy), abs=1e-12)
    rng = np.random.default_rng(0)
    for start in (state.weights.ravel(), rng.normal(size=state.weights.size)):
        method = "Nelder-Mead" if loss == "mae" else "BFGS"
        options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-9, "fatol": 1e-12}
        found = minimize(energy, start, method=method, options=options if loss == "mae" else {})
        assert found.fun > float(state.energy) - 1e-10
        assert found.fun == pytest.approx(float(state.energy), abs=1e-3 if loss == "mae" else 1e-8)


def test_two_classes_have_the_minimum_of_one_score():
    binary = final_energy(X, SIGNS, "binary_cross_entropy")
    classes = final_energy(X, (SIGNS + 1) // 2, "cross_entropy")
    assert float(binary.energy) == pytest.approx(float(classes.energy), rel=1e-12)
    difference = classes.weights[:, 1] - classes.weights[:, 0]
    np.testing.assert_allclose(difference, binary.weights, rtol=1e-7)


def test_separable_classes_are_flagged():
    with pytest.warns(UserWarning, match="separable"):
        state = final_energy([[-2.0], [-1], [1], [2]], [-1, -1, 1, 1], "binary_cross_entropy")
    assert state.separable and float(state.energy) == 0
    # two samples separable, two at one place with both labels: ln 2 for those
    with pytest.warns(UserWarning, match="2 of 4"):
        state = final_energy(
            [[-1.0, 1], [0, 1], [0, 1], [1, 1]], [-1, -1, 1, 1], "binary_cross_entropy"
        )
    assert state.separable and float(state.energy) == pytest.approx(math.log(2) / 2, rel=1e-9)
    with pytest.warns(UserWarning, match="separable"):
        t = type1_temperature([[-1.0], [1]], [-1, 1], "binary_cross_entropy")
    assert t.temperature.status == "separable"
    with pytest.warns(UserWarning), pytest.raises(NotApplicableError, match="separable"):
        type1_temperature(
            [[-1.0], [1]], [-1, 1], "binary_cross_entropy", entropy="laplace", bath_temperature=1.0
        )


@pytest.mark.parametrize("scale", [1e-14, 1e10, 1e14, 1e18, 1e200])
@pytest.mark.parametrize("loss", sorted(TARGET))
def test_the_unit_of_a_column_does_not_matter_to_the_minimum(loss, scale):
    unit = np.ones(X.shape[1])
    unit[2] = scale
    one, other = final_energy(X, TARGET[loss], loss), final_energy(X * unit, TARGET[loss], loss)
    assert float(other.energy) == pytest.approx(float(one.energy), rel=1e-9)
    assert other.energy.status == "ok"
    back = (other.weights.T * unit).T
    tolerance = 1e-5 * np.abs(one.weights).max()  # mae: the programme's own tolerance
    np.testing.assert_allclose(back, one.weights, atol=tolerance)


def test_the_unit_of_a_column_is_no_linear_dependence():
    unit = np.ones(X.shape[1])
    unit[2] = 1e9
    found = [
        type2_temperature((X * u, TARGET["mse"]), (X * u, TARGET["mse"][::-1]), "mse")
        for u in (1.0, unit)
    ]
    assert float(found[1].temperature) == pytest.approx(float(found[0].temperature), rel=1e-6)


@pytest.mark.parametrize(
    ("X", "loss", "y", "classes"),
    [
        (np.c_[X, np.ones(len(X))], "binary_cross_entropy", np.ones(len(X)), None),
        (np.c_[X, np.ones(len(X))], "binary_cross_entropy", -np.ones(len(X)), None),
        (np.c_[X, np.ones(len(X))], "cross_entropy", np.zeros(len(X), int), 2),
        (np.c_[X, np.ones(len(X))], "cross_entropy", np.ones(len(X), int), 3),
        (X[:1], "binary_cross_entropy", [1], None),
        (X[:1], "cross_entropy", [2], 4),
        (np.ones((5, 1)), "cross_entropy", [1] * 5, None),
    ],
)
def test_labels_of_one_class_are_separable(X, loss, y, classes):
    with pytest.warns(UserWarning, match=f"{len(X)} of {len(X)} samples"):
        state = final_energy(X, y, loss, classes)
    assert state.separable and float(state.energy) == 0
    assert np.isnan(state.weights).all() and len(state.weights) == X.shape[1]


def test_a_class_without_samples_has_no_minimizer_beside_a_bias():
    """Its score goes to minus infinity; without a column of ones there is a minimum."""
    with_bias = np.c_[X, np.ones(len(X))]
    labels = np.arange(len(X)) % 3
    present = final_energy(with_bias, labels, "cross_entropy")
    assert present.energy.status == "ok"
    with pytest.warns(UserWarning, match=f"0 of {len(X)} .* {len(X)} others from some classes"):
        more = final_energy(with_bias, labels, "cross_entropy", classes=5)
    assert more.separable and np.isnan(more.weights).all()
    assert float(more.energy) == pytest.approx(float(present.energy), rel=1e-9)
    assert final_energy(X, labels, "cross_entropy", classes=5).energy.status == "ok"
    with pytest.warns(UserWarning), pytest.raises(NotApplicableError, match="class has no samples"):
        type2_temperature(
            (with_bias, labels), (with_bias, labels[::-1]), "cross_entropy", classes=5
        )


def test_one_class_apart_from_two_that_overlap():
    """Pairs, not samples, are told apart: the far class costs nothing, the others what they do."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 2))
    labels = np.arange(60) // 20
    Z[40:] += 20
    Z = np.c_[Z, np.ones(60)]
    with pytest.warns(UserWarning, match="20 of 60 .* 40 others"):
        state = final_energy(Z, labels, "cross_entropy")
    two = final_energy(Z[:40], 2 * labels[:40] - 1, "binary_cross_entropy")
    assert float(state.energy) == pytest.approx(float(two.energy) * 2 / 3, rel=1e-9)


def test_dependent_columns_do_not_matter_to_the_minimum():
    twice = np.concatenate([X, X[:, :3]], 1)
    for loss, y in TARGET.items():
        one, two = final_energy(X, y, loss), final_energy(twice, y, loss)
        assert float(two.energy) == pytest.approx(float(one.energy), rel=1e-9)


# -- temperatures ------------------------------------------------------------------------------
@pytest.mark.parametrize("D", [10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_temperature_of_many_features(D):
    X, y, _ = data(0, 4 * D, D)
    T = float(type1_temperature(X, y).temperature)
    limit = 2 / math.log(2 * math.pi * math.e)
    assert limit == pytest.approx(0.704752, abs=1e-6)
    # by the projector: |P_X y|^2/N + sum of squares, over S
    projected = X @ np.linalg.lstsq(X, y, rcond=None)[0]
    S = 0.5 * D * math.log(2 * math.pi * math.e)
    expected = ((projected**2).mean() + (X**2).sum() / len(X)) / S
    assert pytest.approx(expected, rel=1e-12) == T
    assert abs(T - limit) < (0.003 if D == 1000 else 1.5 / D)


def test_conventions_of_type_one():
    args = (X, Y, "mse", Normal(1.0))
    base = type1_temperature(*args)
    fine = type1_temperature(*args, "quantised", eps=0.1)
    S = float(base.entropy_change) + D * math.log(10)
    assert float(fine.temperature) == pytest.approx(float(base.energy_change) / S, rel=1e-12)
    laplace, gibbs, relative = (
        type1_temperature(*args, e, bath_temperature=0.1) for e in ("laplace", "gibbs", "relative")
    )
    assert float(laplace.temperature) == float(gibbs.temperature)
    # relative: KL(N(0, 1) || N(w*, Sigma)) of two Gaussians, written out
    A = X.T @ X / N
    w = np.linalg.solve(A, X.T @ Y / N)
    P = 2 * A / 0.1
    kl = 0.5 * (np.trace(P) + w @ P @ w - D - np.linalg.slogdet(P)[1])
    assert float(relative.entropy_change) == pytest.approx(kl, rel=1e-10)
    trained = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.linalg.inv(P))[1]
    assert float(laplace.entropy_change) == pytest.approx(
        float(base.entropy_change) - trained, rel=1e-10
    )
    assert "T0 = 0.1" in relative.convention and "S_final = 0" in base.convention


def test_no_change_and_negative_change_of_entropy():
    with pytest.raises(ZeroEntropyChangeError, match="another unit"):
        type1_temperature(X, Y, init=Uniform(0.5))
    t = type1_temperature(X, Y, init=Normal(0.1))
    assert float(t.temperature) < 0 and t.temperature.status == "negative entropy change"


def test_a_model_that_was_not_trained():
    with pytest.warns(UserWarning, match="above the initial"):
        t = type1_temperature(X, Y, trained_energy=100.0)
    assert float(t.energy_change) < 0 and t.temperature.status == "E_final above E_initial"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type1_temperature(X, Y, trained_energy=0.3)


def test_new_labels_have_the_temperature_of_the_bath():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 10))
    y1, y2 = (X @ rng.normal(size=10) + 0.5 * rng.normal(size=500) for _ in range(2))
    for T0 in (0.03, 2.0):
        t = type2_temperature((X, y1), (X, y2), bath_temperature=T0)
        assert abs(float(t.temperature) / T0 - 1) < 1e-9
    A = X.T @ X / 500
    delta = np.linalg.solve(A, X.T @ (y1 - y2) / 500)
    assert float(t.energy_change) == pytest.approx(delta @ A @ delta, rel=1e-10)
    with pytest.raises(ZeroEntropyChangeError, match="undefined"):
        type2_temperature((X, y1), (X, y2), entropy="laplace")


def test_new_features():
    rng = np.random.default_rng(1)
    X1, X2 = rng.normal(size=(500, 10)), 1.5 * rng.normal(size=(400, 10))
    y1, y2 = X1[:, 0] + rng.normal(size=500), X2[:, 1] + rng.normal(size=400)
    values = {T0: type2_temperature((X1, y1), (X2, y2), entropy="laplace", bath_temperature=T0)
              for T0 in (0.1, 3.0)}  # fmt: skip
    A1, A2 = X1.T @ X1 / 500, X2.T @ X2 / 400
    change = 0.5 * (np.linalg.slogdet(A2)[1] - np.linalg.slogdet(A1)[1])
    for t in values.values():
        assert float(t.entropy_change) == pytest.approx(change, rel=1e-10)
    relative = type2_temperature((X1, y1), (X2, y2), bath_temperature=0.1)
    w1, w2 = (np.linalg.solve(A, X.T @ y / len(y)) for A, X, y in ((A1, X1, y1), (A2, X2, y2)))
    P1, P2 = 20 * A1, 20 * A2
    kl = 0.5 * (np.trace(np.linalg.solve(P1, P2)) - 10 - 2 * change + (w1 - w2) @ P2 @ (w1 - w2))
    assert float(relative.entropy_change) == pytest.approx(kl, rel=1e-10)
    backwards = type2_temperature((X2, y2), (X1, y1), entropy="laplace")
    assert backwards.temperature.status == "negative entropy change"


def test_refresh_of_classes():
    """The Laplace temperature of classes: close to the bath where the labels change little."""
    a = type2_temperature((X, SIGNS), (X, -SIGNS), "binary_cross_entropy", bath_temperature=0.01)
    assert float(a.temperature) > 0 and a.temperature.status == "ok"
    b = type2_temperature(
        (X, (SIGNS + 1) // 2), (X, (1 - SIGNS) // 2), "cross_entropy", bath_temperature=0.01
    )
    assert float(b.energy_change) == pytest.approx(float(a.energy_change), rel=1e-9)
    assert float(b.entropy_change) == pytest.approx(float(a.entropy_change), rel=1e-7)


# -- bad input ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Normal(0.0), ValueError, "sigma"),
        (lambda: Uniform(-1.0), ValueError, "a must"),
        (lambda: Mixed(-1), ValueError, "n_uniform"),
        (lambda: initial_energy(X, Y, init=Mixed(D + 1)), ValueError, "uniform features"),
        (lambda: initial_energy(X, Y, init="normal"), TypeError, "init"),
        (lambda: initial_energy(X, Y, "huber"), ValueError, "loss"),
        (lambda: initial_energy(X, Y, order="clt"), ValueError, "order"),
        (lambda: initial_energy(np.empty((0, 3)), []), ValueError, "X must"),
        (lambda: initial_energy(X, Y[:-1]), ValueError, "one number per row"),
        (lambda: initial_energy(X * np.nan, Y), ValueError, "X holds NaN"),
        (lambda: initial_energy(X, Y.astype(str)), TypeError, "y must"),
        (lambda: initial_energy(X, (SIGNS + 1) / 2, "binary_cross_entropy"), ValueError, "-1 and"),
        (lambda: initial_energy(X, SIGNS, "cross_entropy"), ValueError, "0..K-1"),
        (lambda: initial_energy(X, CLASSES, "cross_entropy", classes=3), ValueError, "label 3"),
        (lambda: initial_energy(X, Y, classes=3), ValueError, "classes belongs"),
        (lambda: initial_energy(1e4 * X, CLASSES, "cross_entropy"), ValueError, "rescale"),
        (lambda: init_entropy(Normal(), 0), ValueError, "D must"),
        (lambda: init_entropy(Normal(), 3, "quantised"), ValueError, "eps"),
        (lambda: init_entropy(Normal(), 3, "relative"), ValueError, "quantised"),
        (lambda: type1_temperature(X, Y, entropy="boltzmann"), ValueError, "entropy"),
        (lambda: type1_temperature(X, Y, entropy="laplace"), ValueError, "bath_temperature"),
        (lambda: type1_temperature(X, Y, bath_temperature=1.0), ValueError, "no part"),
        (lambda: type1_temperature(X, Y, "mae", entropy="laplace", bath_temperature=1.0),
         NotApplicableError, "Hessian"),
        (lambda: type1_temperature(X, SIGNS, "binary_cross_entropy", entropy="gibbs",
                                   bath_temperature=1.0), NotApplicableError, "mse only"),
        (lambda: type1_temperature(X, CLASSES, "cross_entropy", entropy="laplace",
                                   bath_temperature=1.0), NotApplicableError, "all classes"),
        (lambda: type1_temperature(X[:5], Y[:5], entropy="laplace", bath_temperature=1.0),
         NotApplicableError, "dependent"),
        (lambda: type2_temperature((X, Y), (X[:, :3], Y)), ValueError, "features"),
        (lambda: type2_temperature((X, Y), X), TypeError, "pair"),
        (lambda: type2_temperature((X, Y), (X, Y)), ZeroEntropyChangeError, "undefined"),
        (lambda: type2_temperature((X, Y), (X, Y), bath_temperature=0), ValueError, "bath"),
    ],
)  # fmt: skip
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
