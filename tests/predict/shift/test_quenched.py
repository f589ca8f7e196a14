"""Ridge regression on given features under a shift."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.special import erf
from sklearn.datasets import load_digits

from thermolearn.predict.shift import QuenchedRidgeTheory
from thermolearn.predict.shift.simulation import ridge_weights


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, label = load_digits(return_X_y=True)
    x = x - x.mean(0)
    x /= np.sqrt((x**2).mean())
    noisy = x + 0.5 * np.random.default_rng(0).normal(size=x.shape)
    return x, noisy, 1.0 - 2 * (label % 2)


@pytest.mark.parametrize(("n", "p"), [(200, 100), (200, 800), (500, 400)])
def test_digits_within_fifteen_percent(n: int, p: int) -> None:
    """Parity of digits, erf features, ridge 1, without and with pixel noise 0.5."""
    x, noisy, y = digits()
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(p, 64)) / 8
    home, away = erf(x @ weights.T), erf(noisy @ weights.T)
    # samples are drawn from these rows, and tested on them: they are the population
    predicted = QuenchedRidgeTheory.from_features(home, y, away, y, whole=True).predict(n, 1.0)
    measured = np.zeros(2)
    for _ in range(20):
        rows = rng.integers(len(x), size=n)
        w = ridge_weights(home[rows], y[rows], 1.0)
        measured += [((f @ w - y) ** 2).mean() / 20 for f in (home, away)]
    assert predicted.in_distribution == pytest.approx(measured[0], rel=0.15)
    assert predicted.test == pytest.approx(measured[1], rel=0.15)
    assert predicted.test == pytest.approx(predicted.bias + predicted.variance, rel=1e-12)


@pytest.mark.parametrize(("n", "p"), [(600, 400), (150, 100)])
def test_gaussian_features(n: int, p: int) -> None:
    """On Gaussian features of other train and test covariance it is exact as p grows."""
    rng = np.random.default_rng(2)
    ell = np.arange(1, p + 1) ** -0.5
    root = np.sqrt(ell)
    teacher = rng.normal(size=p) / np.sqrt(p)
    # populations given by their moments: orthogonal rows scaled to the covariance
    frame = np.sqrt(p) * np.eye(p)
    pop, pop_test = frame * root, frame * ell
    theory = QuenchedRidgeTheory.from_features(
        pop, pop @ teacher, pop_test, pop_test @ teacher, whole=True
    )
    expected = theory.predict(n, 5.0)
    errors = []
    for _ in range(8):
        f = rng.normal(size=(n, p)) * root
        gap = ridge_weights(f, f @ teacher, 5.0) - teacher
        errors.append([(gap**2 * ell).sum(), (gap**2 * ell**2).sum()])
    mean, stderr = np.mean(errors, 0), np.std(errors, 0, ddof=1) / np.sqrt(8)
    found = np.array([expected.in_distribution, expected.test])
    assert (np.abs(mean - found) < 4 * stderr + 0.03 * found).all()


def test_several_outputs_add_up() -> None:
    x, noisy, y = digits()
    two = np.stack([y, np.roll(y, 1)], axis=1)
    parts = [
        QuenchedRidgeTheory.from_features(x, two[:, k], noisy, two[:, k]).predict(100, 1.0).test
        for k in (0, 1)
    ]
    both = QuenchedRidgeTheory.from_features(x, two, noisy, two).predict(100, 1.0).test
    assert both == pytest.approx(sum(parts), rel=1e-10)


def test_limits() -> None:
    x, noisy, y = digits()
    x, noisy = (part[:, x.std(0) > 0.1] for part in (x, noisy))  # pixels that are not empty
    theory = QuenchedRidgeTheory.from_features(x, y, noisy, y, whole=True)
    assert theory.predict(50, 1e12).test == pytest.approx(1.0, abs=1e-6)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    many = theory.predict(10**13, 1e-3)
    assert many.in_distribution == pytest.approx(((x @ best - y) ** 2).mean(), rel=1e-6)
    assert many.test == pytest.approx(((noisy @ best - y) ** 2).mean(), rel=1e-5)


def test_rows_that_are_only_a_sample() -> None:
    """The error without a shift of the rows one has is that of learning them by heart."""
    x, _, y = digits()
    features = erf(x @ np.random.default_rng(0).normal(size=(200, 64)).T / 8)
    rows = np.random.default_rng(1).permutation(len(x))
    here, rest = rows[:300], rows[300:]
    given = features[here], y[here], features[rest], y[rest]
    found = QuenchedRidgeTheory.from_features(*given).predict(300, 1.0)
    w = ridge_weights(features[here], y[here], 1.0)
    fresh = ((features[rest] @ w - y[rest]) ** 2).mean()
    assert np.isnan(found.in_distribution) and "300 rows" in found.status
    assert found.test == pytest.approx(fresh, rel=0.2)
    again = QuenchedRidgeTheory.from_features(*given, whole=True).predict(300, 1.0)
    assert again.status == "ok" and again.in_distribution < 0.4 * fresh
    few = QuenchedRidgeTheory.from_features(*given).predict(15, 1.0)
    assert few.status == "ok"
    errors = []
    for seed in range(40):
        r = np.random.default_rng(seed).permutation(rest)
        w = ridge_weights(features[r[:15]], y[r[:15]], 1.0)
        errors.append(((features[r[15:]] @ w - y[r[15:]]) ** 2).mean())
    assert few.in_distribution == pytest.approx(np.mean(errors), rel=0.15)


def test_bad_input() -> None:
    f, y = np.ones((5, 2)), np.ones(5)
    make = QuenchedRidgeTheory.from_features
    with pytest.raises(ValueError, match="F_train_pop is zero"):
        make(0 * f, y, f, y)
    with pytest.raises(ValueError, match="same features"):
        make(f, y, np.ones((5, 3)), y)
    with pytest.raises(ValueError, match="y_test has missing"):
        make(f, y, f, np.full(5, np.nan))
    with pytest.raises(ValueError, match="as long"):
        make(f, y[:3], f, y)
    theory = make(f, y, f, y)
    for n, ridge in ((0, 1.0), (10, 0.0), (10, -1.0)):
        with pytest.raises(ValueError):
            theory.predict(n, ridge)
