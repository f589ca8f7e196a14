"""Expected error on unlabelled inputs: exact parts, coverage, refusals, bad input."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from planted_shifts import planted, real_set
from sklearn import datasets

from thermolearn.predict.shift import ShiftForecast, expected_error
from thermolearn.predict.shift.error_model import fit_logistic, fit_variance
from thermolearn.predict.shift.residuals import FeatureKernel, geometry
from thermolearn.predict.shift.weights import effective_size, importance_weights, neighbor_weights


class Gaussian:
    """exp(-|x - x'|^2 / (2 d))."""

    def gram(self, X: np.ndarray, X2: np.ndarray | None = None) -> np.ndarray:
        other = X if X2 is None else X2
        square = (X**2).sum(1)[:, None] + (other**2).sum(1) - 2 * X @ other.T
        return np.exp(-0.5 * square / X.shape[1])


@cache
def ntk() -> Any:
    from thermolearn.predict.kernels.fully_connected import NTK

    return NTK(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.1)


def ridge_of(kernel: Any, x: np.ndarray) -> float:
    return 1e-3 * float(np.diag(np.asarray(kernel.gram(x))).mean())


def truth(
    kernel: Any, x: np.ndarray, y: np.ndarray, new: np.ndarray, label: np.ndarray, ridge: float
) -> np.ndarray:
    """Prediction at new inputs of the machine trained on everything, minus the labels."""
    K = np.asarray(kernel.gram(x)) + ridge * np.eye(len(x))
    return np.asarray(kernel.gram(new, x)) @ np.linalg.solve(K, y) - label


def data(n: int = 60, m: int = 40, d: int = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x, new = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    return x, np.sin(x[:, 0]) + 0.1 * rng.normal(size=n), new, np.sin(new[:, 0])


@cache
def unchanged() -> ShiftForecast:
    return forecast(seed=0)


def forecast(**change: Any) -> ShiftForecast:
    if not change:
        return unchanged()
    x, y, new, _ = data()
    given: dict[str, Any] = {"X": x, "y": y, "X_new": new, "kernel": Gaussian(), "ridge": 0.01}
    return expected_error(**(given | change))


# -- exact parts ---------------------------------------------------------------------------------
def test_left_out_points_are_left_out() -> None:
    x, y, new, _ = data(25, 12)
    kernel, ridge = Gaussian(), 0.01
    pool, fresh, _ = geometry(kernel, x, y[:, None], new, ridge, 25, 1, np.random.default_rng(0))
    for i in (0, 7):
        rest = np.delete(np.arange(25), i)
        K = kernel.gram(x[rest])
        k = kernel.gram(x[i : i + 1], x[rest])[0]
        a = np.linalg.solve(K + ridge * np.eye(24), k)
        assert pool.prediction[i, 0] == pytest.approx(a @ y[rest], rel=1e-8)
        assert pool.square[i] == pytest.approx((a @ y[rest] - y[i]) ** 2, rel=1e-7)
        assert pool.spread[i] == pytest.approx(1 - 2 * a @ k + a @ K @ a, rel=1e-6)
        assert pool.gain[i] == pytest.approx(1 + a @ a, rel=1e-8)
    a = np.linalg.solve(kernel.gram(x) + ridge * np.eye(25), kernel.gram(x, new))
    np.testing.assert_allclose(fresh.prediction[:, 0], a.T @ y, rtol=1e-8)
    np.testing.assert_allclose(fresh.gain, 1 + (a**2).sum(0), rtol=1e-8)


def test_a_gaussian_process_has_the_predicted_error() -> None:
    """E r^2 = A spread + s^2 gain over targets and noise, and its correlations, by enumeration."""
    x, y, new, _ = data(30, 15)
    kernel, ridge, A, s2 = Gaussian(), 0.05, 1.7, 0.3
    _, fresh, between = geometry(kernel, x, y[:, None], new, ridge, 30, 1, np.random.default_rng(0))
    K = kernel.gram(np.concatenate([x, new]))
    weights = K[30:, :30] @ np.linalg.inv(K[:30, :30] + ridge * np.eye(30))
    readout = np.concatenate([weights, -np.eye(15)], axis=1)  # prediction minus target
    C = A * readout @ K @ readout.T + s2 * (weights @ weights.T + np.eye(15))
    np.testing.assert_allclose(A * fresh.spread + s2 * fresh.gain, np.diag(C), rtol=1e-9)
    design = (C**2).sum() / (np.diag(C) ** 2).sum()
    assert between.design_effects(A, s2)[1] == pytest.approx(design, rel=1e-9)
    assert between.design_effects(A, s2)[0] >= 1


def test_training_subsets() -> None:
    x, y, new, _ = data(60, 20)
    pool, fresh, _ = geometry(
        Gaussian(), x, y[:, None], new, 0.01, 30, 10, np.random.default_rng(0)
    )
    whole, at_whole, _ = geometry(
        Gaussian(), x, y[:, None], new, 0.01, 60, 10, np.random.default_rng(0)
    )
    assert pool.square.mean() > whole.square.mean()
    assert (fresh.spread > at_whole.spread).mean() > 0.9


def test_amplitudes_are_found() -> None:
    rng = np.random.default_rng(3)
    basis = np.stack([rng.gamma(2, size=40000), 1 + 0.1 * rng.random(40000)], axis=1)
    variance = basis @ [2.0, 0.5]
    found = fit_variance(basis, variance * rng.normal(size=40000) ** 2)
    np.testing.assert_allclose(found, [2.0, 0.5], rtol=0.1)
    np.testing.assert_allclose(fit_variance(basis, variance), [2.0, 0.5], rtol=1e-6)
    assert (fit_variance(basis, np.zeros(40000)) == 0).all()


def test_a_logistic_curve_is_found() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(size=20000)
    wrong = rng.random(20000) < 1 / (1 + np.exp(1 + 2 * z))
    np.testing.assert_allclose(fit_logistic(z, wrong.astype(float)), [-1, -2], rtol=0.08)
    never = fit_logistic(z, np.zeros(20000))
    assert np.isfinite(never).all() and never[0] < -5


def test_weights_see_a_shift_and_no_shift() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 3))
    moved = rng.normal([1.0, 0.0, 0.0], size=(400, 3))
    true = np.exp(x[:, 0] - 0.5)
    for way in (importance_weights, neighbor_weights):
        weights, again = way(x, moved, 3, np.random.default_rng(0))
        assert weights.mean() == pytest.approx(1)
        assert again.shape == (3, 400)
        assert np.corrcoef(weights, true)[0, 1] > 0.6
    same, _ = importance_weights(x, rng.normal(size=(400, 3)), 1, np.random.default_rng(0))
    assert effective_size(same) > 350


# -- forecasts -----------------------------------------------------------------------------------
def test_a_forecast_without_a_shift_is_leave_one_out() -> None:
    found = forecast()
    assert found.status == "ok" and not found.refused
    low, high = found.interval
    assert low < float(found.value) < high
    assert float(found.value) == pytest.approx(float(found.in_distribution), rel=0.5)
    assert "same labels" in " ".join(found.notes)
    assert "[" in str(found)


def test_same_seed_same_bits_and_no_global_draws() -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    first, second = forecast(seed=3), forecast(seed=3)
    assert first.interval == second.interval and float(first.value) == float(second.value)
    assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_wider_intervals_at_higher_levels() -> None:
    narrow, wide = forecast(level=0.5).interval, forecast(level=0.95).interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_scaled_labels_scale_the_error() -> None:
    one, ten = forecast(), forecast(y=10 * data()[1])
    assert float(ten.value) == pytest.approx(100 * float(one.value), rel=1e-6)
    assert ten.interval == pytest.approx(np.multiply(one.interval, 100).tolist(), rel=1e-6)


def test_several_outputs_add_up() -> None:
    y = data()[1]
    two = forecast(y=np.stack([y, y], axis=1))
    assert float(two.value) == pytest.approx(2 * float(forecast().value), rel=1e-6)


def test_features_are_a_kernel() -> None:
    def features(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.sin(2 * x)], axis=1)

    one = forecast(kernel=None, features=features, ridge=0.1)
    two = forecast(kernel=FeatureKernel(features), ridge=0.1)
    assert float(one.value) == float(two.value)


def test_smaller_training_sets_err_more() -> None:
    assert float(forecast(n=25).value) > float(forecast().value)


def test_tensors_and_images() -> None:
    x, y, new, _ = data(60, 20, 4)
    images, new_images = torch.tensor(x).reshape(60, 2, 2), torch.tensor(new).reshape(20, 2, 2)

    class Flat(Gaussian):
        def gram(self, X: np.ndarray, X2: np.ndarray | None = None) -> Any:
            flat = None if X2 is None else X2.reshape(len(X2), -1)
            return torch.from_numpy(super().gram(X.reshape(len(X), -1), flat))

    one = expected_error(images, torch.tensor(y), new_images, kernel=Flat(), ridge=0.01)
    two = expected_error(x, y, new, kernel=Gaussian(), ridge=0.01)
    assert float(one.value) == pytest.approx(float(two.value), rel=1e-9)


def test_labelled_points_are_no_new_inputs() -> None:
    """The machine has learned their labels by heart, which left-out points do not show."""
    x, _, new, _ = data()
    alone = forecast()
    both = forecast(X_new=np.concatenate([x[:30], new, x[30:] * (1 + 1e-12)]))
    assert both.interval == alone.interval and float(both.value) == float(alone.value)
    assert len(both.support.outside) == 60 + len(new)
    assert (both.support.outside[30:-30] == alone.support.outside).all()
    assert "60 new inputs are labelled points and left out" in " ".join(both.notes)
    for some in (x[:40], np.concatenate([x[:40], new[:9]])):
        with pytest.raises(ValueError, match="are labelled points of X"):
            forecast(X_new=some)


def test_the_upper_end_grows_outward(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the share of new inputs beyond most labelled ones, and the note says what is missed."""
    x, y, _, _ = data(120)
    far = np.random.default_rng(1).normal(size=(80, 3))
    home, away = (forecast(X=x, y=y, X_new=scale * far) for scale in (0.7, 1.2))
    assert 0 <= home.support.share_beyond <= 0.1 < 0.12 < away.support.share_beyond
    assert "grow steeply beyond" in " ".join(home.notes)
    assert "growing beyond the labelled inputs not seen" in str(home)
    monkeypatch.setattr("thermolearn.predict.shift.forecast.OUTWARD", 0.0)
    plain = [forecast(X=x, y=y, X_new=scale * far) for scale in (0.7, 1.2)]
    wider = [a.interval[1] / b.interval[1] for a, b in zip((home, away), plain, strict=True)]
    assert 1 <= wider[0] < wider[1] and wider[1] > 1.1
    assert away.interval[0] == pytest.approx(plain[1].interval[0], rel=0.02)


def test_copies_are_named() -> None:
    x, y, new, _ = data()
    found = forecast(X=np.concatenate([x, x[:5]]), y=np.concatenate([y, y[:5]]))
    assert "5 labelled inputs are copies" in " ".join(found.notes)
    assert "3 new inputs are labelled points" in " ".join(
        forecast(X_new=np.concatenate([new, x[:3]])).notes
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_rates_of_wrong_classes(classes: int) -> None:
    x, _, new, _ = data(200, 150)
    rng = np.random.default_rng(6)

    def label(z: np.ndarray) -> np.ndarray:
        return np.digitize(z[:, 0] + 0.3 * rng.normal(size=len(z)), [0.0, 1.0][: classes - 1])

    names = np.array(["a", "b", "c"])
    found = expected_error(
        x, names[label(x)], new, kernel=Gaussian(), ridge=0.01, task="classification"
    )
    low, high = found.interval
    assert 0 <= low <= float(found.value) <= high <= 1
    assert 0.02 < float(found.value) < 0.35
    assert "error rate" in str(found)


def _coverage(splits: range) -> tuple[list[bool], int]:
    hits, refused = [], 0
    for k in range(12):
        for split in splits:
            x, y, new, label = planted(k, split)
            ridge = ridge_of(ntk(), x)
            found = expected_error(x, y, new, kernel=ntk(), ridge=ridge)
            if found.refused:
                refused += 1
                continue
            error = float((truth(ntk(), x, y, new, label, ridge) ** 2).mean())
            hits.append(found.interval[0] <= error <= found.interval[1])
    return hits, refused


@pytest.mark.slow
def test_intervals_cover_twelve_planted_shifts() -> None:
    """80 percent intervals, on splits that are not those of the table in docs/shift.md."""
    hits, refused = _coverage(range(700, 704))
    assert len(hits) >= 36 and refused <= 12
    assert np.mean(hits) >= 0.75


# -- refusals ------------------------------------------------------------------------------------
def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, digit = real_set("digits")
    rows = np.random.default_rng(7).permutation(len(x))
    return x[rows[:200]], 1.0 - 2 * (digit[rows[:200]] % 2), x[rows[200:300]]


def _other_set() -> np.ndarray:
    faces = datasets.make_swiss_roll(100, random_state=0)[0]
    return np.tile((faces - faces.mean(0)) / faces.std(), (1, 22))[:, :64]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ten times as large", lambda new: 10 * new),
        ("noise only", lambda new: np.random.default_rng(8).normal(size=new.shape)),
        ("another data set", lambda new: _other_set()),
        ("one input", lambda new: np.repeat(new[:1], 100, axis=0)),
        ("constant", lambda new: np.zeros_like(new)),
        ("far away", lambda new: new + 20),
        ("a few far ones", lambda new: np.concatenate([new[:97], 30 * new[97:]])),
        ("permuted pixels", lambda new: new[:, np.random.default_rng(9).permutation(64)]),
    ],
)
@pytest.mark.parametrize("kernel", [pytest.param("gaussian", marks=pytest.mark.slow), "ntk"])
def test_far_inputs_are_refused(name: str, change: Any, kernel: str) -> None:
    if kernel == "gaussian" and name == "a few far ones":
        pytest.skip("a Gaussian kernel predicts the mean there: the error is bounded")
    x, y, new = _digits()
    machine = Gaussian() if kernel == "gaussian" else ntk()
    found = expected_error(x, y, change(new), kernel=machine, ridge=ridge_of(machine, x))
    assert found.refused and found.status == "outside the support"
    assert math.isnan(float(found.value)) and found.support.reasons
    assert "refused" in str(found)
    assert math.isfinite(float(found.in_distribution))


@pytest.mark.slow
def test_halves_without_a_shift_are_accepted() -> None:
    refused = 0
    for seed in range(6):
        for name in ("digits", "breast_cancer", "diabetes", "wine"):
            x, y = real_set(name)
            rows = np.random.default_rng(seed).permutation(len(x))[:300]
            half = len(rows) // 2
            target = y if name == "diabetes" else np.where(y == y[0], 1.0, -1.0)
            found = expected_error(
                x[rows[:half]], target[rows[:half]], x[rows[half:]],
                kernel=Gaussian(), ridge=1e-2, seed=seed,
            )  # fmt: skip
            refused += found.refused
    assert refused <= 1


# -- bad input -----------------------------------------------------------------------------------
NAN = np.full((60, 3), np.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": NAN}, "X has missing"),
        ({"X_new": NAN}, "X_new has missing"),
        ({"X_new": np.ones((20, 4))}, "shape"),
        ({"X_new": np.ones((3, 3))}, "at least 10"),
        ({"X": np.ones((60, 3))}, "are the same"),
        ({"X": np.ones((10, 3)), "y": np.ones(10)}, "at least 20"),
        ({"X": [["a"]]}, "array of numbers"),
        ({"X": np.ones(60)}, "features"),
        ({"y": np.ones(60)}, "constant"),
        ({"y": np.ones(59)}, "one row"),
        ({"y": np.full(60, np.nan)}, "y has missing"),
        ({"y": 1e100 * np.arange(60.0)}, "double precision"),
        ({"y": 1e-100 * np.arange(60.0)}, "double precision"),
        ({"y": np.array(["a", "b"] * 30)}, "classification"),
        ({"y": np.array(["a"] * 60), "task": "classification"}, "constant"),
        ({"task": "classification"}, "is it a regression"),
        ({"task": "ranking"}, "task must"),
        ({"ridge": 0.0}, "ridge"),
        ({"ridge": math.nan}, "ridge"),
        ({"n": 61}, "n must"),
        ({"n": 2}, "n must"),
        ({"level": 1.0}, "level"),
        ({"seed": -1}, "seed"),
        ({"kernel": None}, "not both"),
        ({"features": np.sin}, "not both"),
        ({"kernel": 3}, "gram"),
        ({"kernel": None, "features": 3}, "callable"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecast(**change)


def test_a_kernel_that_is_none() -> None:
    class Broken(Gaussian):
        def gram(self, X: np.ndarray, X2: np.ndarray | None = None) -> np.ndarray:
            return np.nan * super().gram(X, X2)

    class Negative(Gaussian):
        def gram(self, X: np.ndarray, X2: np.ndarray | None = None) -> np.ndarray:
            return -super().gram(X, X2)

    with pytest.raises(ValueError, match="non-finite"):
        forecast(kernel=Broken())
    with pytest.raises(ValueError, match="positive definite"):
        forecast(kernel=Negative())
