"""The ridge at which a pool resolves what fewer samples resolve."""

import numpy as np
import pytest

from thermolearn.predict.curves import learning_curve
from thermolearn.predict.kernels.fully_connected import NTK
from thermolearn.predict.pool.equivalent import (
    as_gram,
    as_pool,
    decompose,
    equivalent_ridge,
    resolution,
)

KERNEL = NTK(depth=4, activation="relu", sigma_w2=2.0, sigma_b2=0.0)


def sphere(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return x * np.sqrt(dim) / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def eigenvalues() -> np.ndarray:
    gram = KERNEL.gram(sphere(600, 8, 1)).numpy()
    return decompose(gram, 1e-3).eigenvalues


@pytest.mark.parametrize("n", [1.0, 7.3, 60.0, 599.0])
@pytest.mark.parametrize("ridge", [0.0, 0.008, 2.0])
def test_trace_identity(eigenvalues: np.ndarray, n: float, ridge: float) -> None:
    s = equivalent_ridge(eigenvalues, n, ridge)
    assert s >= ridge
    at = resolution(eigenvalues, s)
    # tr (K + sigma^2)(K + s)^{-1} = n is sigma^2 / kappa + df1(kappa) = n
    assert ((eigenvalues + ridge) / (eigenvalues + s)).sum() == pytest.approx(n, rel=1e-9)
    assert ridge / at.kappa + at.df1 == pytest.approx(n, rel=1e-9)
    # and of the pool itself
    assert s / at.kappa + at.df1 == pytest.approx(len(eigenvalues), rel=1e-9)


def test_whole_pool_keeps_its_ridge(eigenvalues: np.ndarray) -> None:
    assert equivalent_ridge(eigenvalues, 600, 0.3) == pytest.approx(0.3, rel=1e-12)
    assert equivalent_ridge(eigenvalues, 600, 0.0) == 0.0


def test_resolution_is_that_of_the_exact_spectrum(eigenvalues: np.ndarray) -> None:
    """kappa and gamma of the sphere's own spectrum, which the pool does not know."""
    spectrum = KERNEL.sphere_spectrum(8, 60)
    n = np.array([15.0, 30.0, 60.0, 150.0, 300.0])
    exact = learning_curve(spectrum, [0.0, 1.0], n, noise=0.008)
    rows = [resolution(eigenvalues, equivalent_ridge(eigenvalues, k, 0.008)) for k in n]
    np.testing.assert_allclose([r.kappa for r in rows], exact.kappa, rtol=0.02)
    values, counts = spectrum.eigenvalues, spectrum.degeneracies
    for row, kappa in zip(rows, np.asarray(exact.kappa), strict=True):
        share = values / (values + kappa)
        assert row.df2 == pytest.approx((counts * share**2).sum(), rel=0.03)


def test_df2_is_the_derivative_along_the_path(eigenvalues: np.ndarray) -> None:
    s, h = 3.0, 1e-4
    low, mid, high = (resolution(eigenvalues, v) for v in (s * (1 - h), s, s * (1 + h)))
    slope = (high.df1 - low.df1) / (high.kappa - low.kappa)
    assert mid.df2 == pytest.approx(mid.df1 + mid.kappa * slope, rel=1e-6)


def test_white_gram_has_no_modes() -> None:
    """K = c I: nothing is shared between samples, every mode is noise."""
    at = resolution(np.full(50, 2.0), 0.5)
    assert at.kappa == pytest.approx(2.5 / 50)
    assert at.df2 == pytest.approx(0.0, abs=1e-9)


def test_duplicates_and_singular_matrices_are_said() -> None:
    x = sphere(40, 6, 2)
    x[5] = x[17]
    x[30] = x[17]
    pool = decompose(KERNEL.gram(x).numpy(), 0.0)
    assert any("2 of the 40 inputs repeat" in note for note in pool.notes)
    assert any("singular" in note for note in pool.notes)
    assert pool.eigenvalues[0] > 0
    assert decompose(KERNEL.gram(sphere(40, 6, 2)).numpy(), 1e-3).notes == ()


def test_bad_gram_matrices() -> None:
    good = KERNEL.gram(sphere(25, 5, 3)).numpy()
    with pytest.raises(ValueError, match="square"):
        as_gram(good[:, :5])
    with pytest.raises(ValueError, match="symmetric"):
        as_gram(good + np.triu(np.ones((25, 25))))
    with pytest.raises(ValueError, match="not finite"):
        as_gram(np.where(np.eye(25) > 0, np.nan, good))
    with pytest.raises(ValueError, match="K is of 25 samples, y of 24"):
        as_pool(good, 24)
    with pytest.raises(ValueError, match="fewer than 20"):
        as_pool(good[:19, :19], 19)
    with pytest.raises(ValueError, match="positive semi-definite"):
        decompose(good - 2 * np.eye(25), 1.0)
    with pytest.raises(ValueError, match="size of the pool"):
        equivalent_ridge(np.ones(25), 26, 0.0)
