"""Leave-one-out in closed form against refitting, its jackknife against deleting, and targets."""

import numpy as np
import pytest
import torch

from thermolearn.predict.kernels.fully_connected import NTK
from thermolearn.predict.pool import leave_one_out, prepare_target
from thermolearn.predict.pool.held_out import delete_one_error, inverse_gram

KERNEL = NTK(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.1)


@pytest.fixture(scope="module")
def gram() -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((30, 4))
    return KERNEL.gram(x).numpy()


def refitted(gram: np.ndarray, values: np.ndarray, ridge: float) -> np.ndarray:
    """Predictions of every sample by a machine trained on all others."""
    out = np.empty_like(values)
    for i in range(len(gram)):
        rest = np.delete(np.arange(len(gram)), i)
        block = gram[np.ix_(rest, rest)] + ridge * np.eye(len(rest))
        out[i] = gram[i, rest] @ np.linalg.solve(block, values[rest])
    return out


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_regression_is_refitting(gram: np.ndarray, ridge: float) -> None:
    y = np.random.default_rng(1).standard_normal((30, 2)) * 3 + 5
    result = leave_one_out(torch.from_numpy(gram), y, ridge)
    center = y.mean(0)
    predictions = refitted(gram, y - center, ridge) + center
    np.testing.assert_allclose(result.predictions, predictions, rtol=1e-8, atol=1e-10)
    error = ((predictions - y) ** 2).sum(1).mean()
    assert result.mean_squared_error.value == pytest.approx(error, rel=1e-8)
    assert result.test_error.value == pytest.approx(error / y.var(0).sum(), rel=1e-8)
    assert result.error_rate is None


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_is_refitting(gram: np.ndarray, classes: int) -> None:
    labels = np.arange(30) % classes
    result = leave_one_out(gram, np.array(["a", "b", "c"])[labels], 1e-2, "classification")
    code = np.eye(classes)[labels] if classes > 2 else 2.0 * labels[:, None] - 1
    predictions = refitted(gram, code - code.mean(0), 1e-2) + code.mean(0)
    np.testing.assert_allclose(result.predictions, predictions, rtol=1e-8, atol=1e-10)
    decided = predictions.argmax(1) if classes > 2 else (predictions[:, 0] > 0).astype(int)
    assert result.error_rate is not None
    assert result.error_rate.value == pytest.approx((decided != labels).mean())
    assert 0 < float(result.error_rate.stderr) < 0.2


def test_jackknife_is_deleting_each_sample(gram: np.ndarray) -> None:
    values = np.random.default_rng(2).standard_normal((30, 2))
    inverse, _ = inverse_gram(gram, 0.1)
    without = []
    for j in range(30):
        rest = np.delete(np.arange(30), j)
        smaller = np.linalg.inv(gram[np.ix_(rest, rest)] + 0.1 * np.eye(29))
        residuals = smaller @ values[rest] / smaller.diagonal()[:, None]
        without.append((residuals**2).sum(1).mean())
    expected = np.sqrt(29 / 30 * ((without - np.mean(without)) ** 2).sum())
    assert delete_one_error(inverse, inverse @ values) == pytest.approx(expected, rel=1e-8)


def test_jackknife_is_the_scatter_between_pools() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng([seed, 7])
        x = rng.standard_normal((60, 5))
        y = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + 0.3 * rng.standard_normal(60)
        result = leave_one_out(KERNEL.gram(x), y, 0.01)
        found.append((float(result.test_error.value), float(result.test_error.stderr)))
    values, bars = np.array(found).T
    # 60 pools know their scatter to 9%; a jackknife errs on the long side
    assert 0.75 < np.sqrt((bars**2).mean()) / values.std(ddof=1) < 1.6


def test_singular_gram_gets_a_jitter() -> None:
    x = np.random.default_rng(3).standard_normal((30, 4))
    x[3] = x[20]
    result = leave_one_out(KERNEL.gram(x), x[:, 0], 0.0)
    assert any("singular" in note for note in result.notes)
    with pytest.raises(ValueError, match="positive semi-definite"):
        leave_one_out(KERNEL.gram(x).numpy() - 5 * np.eye(30), x[:, 0], 0.0)


def test_targets_are_centered_with_unit_variance_and_come_back() -> None:
    y = np.random.default_rng(4).standard_normal((50, 3)) * [1, 2, 3] + 4
    target = prepare_target(y)
    np.testing.assert_allclose(target.values.mean(0), 0, atol=1e-12)
    assert (target.values**2).sum(1).mean() == pytest.approx(1.0)
    assert target.variance == pytest.approx(y.var(0).sum())
    np.testing.assert_allclose(target.scores(target.values), y)
    with pytest.raises(ValueError, match="no classes"):
        target.decide(target.values)


@pytest.mark.parametrize("labels", [[0, 1], [5, 7, 9], ["no", "yes"]])
def test_labels_are_decided_back(labels: list) -> None:
    y = np.array(labels)[np.arange(40) % len(labels)]
    target = prepare_target(y, "classification")
    assert target.classes == tuple(str(v) for v in labels)
    assert target.values.shape[1] == (1 if len(labels) == 2 else len(labels))
    assert target.labels is not None
    np.testing.assert_array_equal(target.decide(target.values), target.labels)


def test_bad_targets() -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        prepare_target(np.full(30, 2.5))
    with pytest.raises(ValueError, match="column 1 of y is 3"):
        prepare_target(np.c_[np.arange(30.0), np.full(30, 3.0)])
    with pytest.raises(ValueError, match="one class"):
        prepare_target(np.zeros(30, dtype=int), "classification")
    with pytest.raises(ValueError, match="not class labels"):
        prepare_target(np.random.default_rng(0).standard_normal(30), "classification")
    with pytest.raises(ValueError, match="not finite"):
        prepare_target(np.r_[np.arange(29.0), np.nan])
    with pytest.raises(ValueError, match="not finite"):
        prepare_target(np.r_[np.arange(29.0) % 3, np.nan], "classification")
    with pytest.raises(ValueError, match="task="):
        prepare_target(np.array(["a", "b"] * 15))
    with pytest.raises(ValueError, match="task must be"):
        prepare_target(np.arange(30.0), "ranking")
    with pytest.raises(ValueError, match="one class label per sample"):
        prepare_target(np.ones((30, 2), dtype=int), "classification")
    with pytest.raises(ValueError, match="ridge"):
        leave_one_out(np.eye(30), np.arange(30.0), -1.0)
    rare = prepare_target(np.r_[np.arange(30) % 2, 2], "classification")
    assert "seen once only: class 2" in rare.notes[0]
