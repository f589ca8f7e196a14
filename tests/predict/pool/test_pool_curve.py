"""Predicted curves against exact theory, refitted machines and hidden data."""

import json
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from thermolearn.core.drawing import Drawing
from thermolearn.predict.curves import learning_curve
from thermolearn.predict.kernels.fully_connected import NNGP, NTK
from thermolearn.predict.pool import (
    PoolCurve,
    leave_one_out,
    measure_kernel_machine,
    pool_curve,
    prepare_target,
)
from thermolearn.predict.pool.error_rate import error_probabilities, score_covariance
from thermolearn.predict.pool.tail import fit_tail

KERNEL = NTK(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.1)


def sphere(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return x * np.sqrt(dim) / np.linalg.norm(x, axis=1, keepdims=True)


def cubic(x: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Powers 1/2 in degree 1 and 1/2 in degree 2, and label noise."""
    d = x.shape[1]
    t = x[:, 1] / np.sqrt(d)
    second = np.sqrt(0.5 * (d + 2) * (d - 1) / 2) * (d * t**2 - 1) / (d - 1)
    extra = np.sqrt(noise) * np.random.default_rng([seed, 9]).standard_normal(len(x))
    return np.sqrt(0.5) * x[:, 0] + second + extra


def breast_cancer(m: int) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_breast_cancer()
    rows = np.random.default_rng(0).permutation(len(bunch.data))[:m]
    x = bunch.data[rows]
    return (x - x.mean(0)) / x.std(0), bunch.target[rows]


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("ridge", [0.003, 1.0])
def test_agrees_with_the_exact_curve_of_the_sphere(noise: float, ridge: float) -> None:
    """The population's spectrum, target power and label noise are hidden from the pool."""
    kernel = NTK(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.1)
    n = np.array([10, 25, 60, 150, 300])
    exact = learning_curve(
        kernel.sphere_spectrum(8, 60), [0.0, 0.5, 0.5], n, noise=ridge, label_noise=noise
    )
    # noisy test labels, as a fraction of the noisy target's variance
    expected = (np.asarray(exact.test_error) + noise) / (1.0 + noise)
    ratios, bars = [], []
    for seed in range(6):
        x = sphere(300, 8, seed)
        curve = pool_curve(kernel.gram(x), cubic(x, noise, seed), n, ridge)
        ratios.append(curve.test_error * curve.variance / (1.0 + noise) / expected)
        bars.append(curve.stderr / curve.test_error)
    stderr = np.sqrt((np.array(bars) ** 2).mean(0) / 6)
    assert (np.abs(np.mean(ratios, 0) - 1) < 4 * stderr).all()
    assert (stderr < 0.08).all()


def test_at_the_pools_size_it_is_leave_one_out() -> None:
    x, y = breast_cancer(120)
    gram = KERNEL.gram(x)
    curve = pool_curve(gram, y, [30, 120], 0.01, "classification")
    exact = leave_one_out(gram, y, 0.01, "classification")
    assert curve.test_error[1] == pytest.approx(float(exact.test_error.value), rel=1e-9)
    assert curve.stderr[1] == pytest.approx(float(exact.test_error.stderr), rel=1e-6)
    assert curve.error_rate is not None and exact.error_rate is not None
    assert curve.error_rate[1] == pytest.approx(float(exact.error_rate.value), rel=1e-6)


def test_many_sizes_and_one_are_the_same() -> None:
    x, y = breast_cancer(100)
    gram = KERNEL.gram(x).numpy()
    many = pool_curve(gram, y, [5, 25, 50, 80], 0.01, "classification")
    one = pool_curve(torch.from_numpy(gram), y, 50, 0.01, "classification")
    assert one.test_error[0] == pytest.approx(many.test_error[2], rel=1e-12)
    assert many.error_rate is not None
    assert (np.diff(many.test_error) < 0).all()
    assert (np.diff(many.error_rate) < 0).all()
    assert [s.split(":")[0] for s in many.status] == ["few samples", "ok", "ok", "ok"]


def test_agrees_with_refitted_machines_on_real_data() -> None:
    x, y = breast_cancer(280)
    gram = KERNEL.gram(x).numpy()
    ridge = 1e-3 * float(gram.diagonal().mean())
    n = [10, 28, 70, 140]
    curve = pool_curve(gram, y, n, ridge, "classification")
    measured = measure_kernel_machine(gram, y, n, ridge, 60, 1, "classification")
    # the same pool: only the draws differ, and the theory's own error
    ratio = curve.test_error / np.asarray(measured.test_error.value)
    own = measured.spread / np.asarray(measured.test_error.value) / np.sqrt(60)
    assert (np.abs(ratio - 1) < 0.05 + 4 * own).all(), ratio
    assert (np.abs(ratio - 1) < 0.12).all(), ratio
    assert measured.error_rate is not None and curve.error_rate is not None
    rates = curve.error_rate / np.asarray(measured.error_rate.value)
    assert (np.abs(rates - 1) < 0.25).all(), rates


def test_score_covariance_solves_its_equation_and_meets_the_error() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, 3))
    inverse = np.linalg.inv(KERNEL.gram(x).numpy() + 0.3 * np.eye(40))
    residuals = (inverse @ rng.standard_normal((40, 2))) / inverse.diagonal()[:, None]
    goal = 1.4 * (residuals**2).sum(1).mean()
    covariance = score_covariance(inverse, residuals, goal)
    total = covariance + residuals[:, :, None] * residuals[:, None, :]
    assert np.trace(total, axis1=1, axis2=2).mean() == pytest.approx(goal, rel=1e-4)
    coupling = (inverse / inverse.diagonal()[:, None]) ** 2 - np.eye(40)
    spread = np.einsum("ij,jab->iab", coupling, total)
    ratio = covariance / spread
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-6)
    assert (np.linalg.eigvalsh(covariance) > -1e-10).all()
    assert not score_covariance(inverse, residuals, 0.5 * goal).any()


def test_error_probability_of_two_classes_is_exact_and_of_three_is_sampled() -> None:
    rng = np.random.default_rng(6)
    labels = np.arange(60) % 2
    target = prepare_target(labels, "classification")
    residuals = rng.standard_normal((60, 1)) * 0.5
    covariance = np.full((60, 1, 1), 0.3)
    exact = error_probabilities(target, residuals, covariance, 0)
    draws = target.values - residuals + np.sqrt(0.3) * rng.standard_normal((20000, 60, 1))
    wrong = (target.decide(draws) != labels).mean(0)
    np.testing.assert_allclose(exact, wrong, atol=4 * 0.5 / np.sqrt(20000))
    three = prepare_target(np.arange(60) % 3, "classification")
    spread = rng.standard_normal((60, 3, 3)) * 0.5
    covariance = spread @ spread.swapaxes(1, 2)
    offset = rng.standard_normal((60, 3)) * 0.5
    found = error_probabilities(three, offset, covariance, 0)
    z = np.einsum("iab,kib->kia", spread, rng.standard_normal((20000, 60, 3)))
    wrong = (three.decide(three.values - offset + z) != three.labels).mean(0)
    np.testing.assert_allclose(found, wrong, atol=4 * 0.5 / np.sqrt(200))
    assert abs(found.mean() - wrong.mean()) < 4 * 0.5 / np.sqrt(200 * 60)


def test_tail_finds_a_planted_law_and_refuses_none() -> None:
    n = np.geomspace(10, 800, 30)
    tail = fit_tail(n, 0.05 + 3 * n**-0.7)
    assert tail.refusal == "" and tail.misfit < 1e-4
    assert tail.floor == pytest.approx(0.05, rel=0.01)
    assert tail.exponent == pytest.approx(0.7, rel=0.01)
    later = np.array([1600.0, 8000.0])
    np.testing.assert_allclose(tail.value(later), 0.05 + 3 * later**-0.7, rtol=0.01)
    assert (tail.lower(later) < tail.value(later)).all()
    np.testing.assert_allclose(tail.upper(later), tail.at_pool)
    assert tail.value(np.array([800.0]))[0] == pytest.approx(tail.at_pool)
    assert "does not fall" in fit_tail(n, 0.3 + 0.001 * np.log(n)).refusal
    wiggle = 0.3 * n**-0.5 * np.exp(-0.5 * np.sin(4 * np.log(n)))
    assert "no power law" in fit_tail(n, wiggle).refusal
    assert "more than 10 times" in tail.why_not(8001.0)
    assert "zero" in fit_tail(n, np.zeros(30)).refusal


@pytest.mark.slow
def test_hidden_data_lie_in_the_extrapolated_band() -> None:
    """Quarter pools of digits predict what twice and four times as many samples reach."""
    bunch = load_digits()
    inside, ratios = [], []
    for seed in range(6):
        rows = np.random.default_rng(seed).permutation(1797)
        x = bunch.data[rows] / 16
        x = x - x[:200].mean(0)
        y = bunch.target[rows]
        gram = KERNEL.gram(x[:200])
        ridge = 1e-3 * float(gram.diagonal().mean())
        curve = pool_curve(gram, y[:200], [400, 800], ridge, "classification")
        for k, n in enumerate((400, 800)):
            block = KERNEL.gram(x[:n]).numpy() + ridge * np.eye(n)
            code = np.eye(10)[y] - np.eye(10)[y[:n]].mean(0)
            off = KERNEL.gram(x[900:], x[:n]).numpy() @ np.linalg.solve(block, code[:n])
            error = ((off - code[900:]) ** 2).sum(1).mean() / curve.variance
            inside.append(curve.lower[k] <= error <= curve.upper[k])
            ratios.append(curve.test_error[k] / error)
            assert curve.status[k].startswith("extrapolated")
    assert np.mean(inside) >= 0.8
    assert abs(np.mean(ratios) - 1) < 0.15


def test_beyond_ten_pools_and_beyond_a_flat_curve_is_refused() -> None:
    x, y = breast_cancer(60)
    gram = KERNEL.gram(x)
    curve = pool_curve(gram, y, [5, 60, 120, 601], 0.01, "classification")
    words = [s.split(":")[0] for s in curve.status]
    assert words == ["few samples", "ok", "extrapolated", "refused"]
    assert np.isnan(curve.test_error[3]) and np.isfinite(curve.test_error[:3]).all()
    assert curve.upper[2] / curve.lower[2] > curve.upper[1] / curve.lower[1]
    assert any("beyond the pool" in f for f in curve.flags)
    noise = np.random.default_rng(0).standard_normal(60)
    flat = pool_curve(gram, noise, [30, 120], 0.01)
    assert flat.status[1].startswith("refused: the curve does not fall")
    assert np.isnan(flat.test_error[1])


def test_samples_needed_is_where_the_curve_comes_down() -> None:
    x = sphere(200, 6, 0)
    gram = KERNEL.gram(x)
    y = cubic(x, 0.01, 0)
    curve = pool_curve(gram, y, [20, 200], 0.01)
    n, interval, status = curve.samples_needed(0.3)
    assert status == "ok" and interval[0] < n < interval[1]
    at = pool_curve(gram, y, [int(n), int(n) + 1], 0.01).test_error
    assert at[1] < 0.3 * 1.01 and at[0] > 0.3 * 0.99
    beyond = curve.samples_needed(0.8 * curve.test_error[1])
    assert beyond.n > 200 and beyond.status.startswith("extrapolated")
    never = curve.samples_needed(1e-9)
    assert np.isnan(never.n) and never.status.startswith("refused")
    with pytest.raises(ValueError, match="quantity"):
        curve.samples_needed(0.1, "accuracy")
    with pytest.raises(ValueError, match="no error rate"):
        curve.samples_needed(0.1, "error_rate")
    with pytest.raises(ValueError, match="target"):
        curve.samples_needed(0.0)


def test_file_and_figure_hold_every_number(tmp_path) -> None:
    x, y = breast_cancer(80)
    gram = KERNEL.gram(x)
    curve = pool_curve(gram, y, [10, 80, 900], 0.01, "classification")
    curve.save(tmp_path / "curve.json")
    json.loads((tmp_path / "curve.json").read_text(), parse_constant=pytest.fail)
    back = PoolCurve.load(tmp_path / "curve.json")
    assert back.to_dict() == curve.to_dict()
    np.testing.assert_array_equal(back.test_error, curve.test_error)
    assert back.samples_needed(0.4) == curve.samples_needed(0.4)
    measured = measure_kernel_machine(gram, y, [10, 40], 0.01, 5, task="classification")
    for quantity in ("error", "error_rate"):
        drawing = curve.figure([measured], quantity)
        assert isinstance(drawing, Drawing)
        points = [r for r in drawing.rows if r["kind"] == "simulation"]
        estimate = measured.test_error if quantity == "error" else measured.error_rate
        assert estimate is not None
        assert [r["y"] for r in points] == pytest.approx(list(np.asarray(estimate.value)))
        assert {"predicted"} <= {r["curve"] for r in drawing.rows}


def test_bad_input() -> None:
    x, y = breast_cancer(30)
    gram = KERNEL.gram(x)
    for n in ([], 0, [10, -1], 2.5, [True]):
        with pytest.raises((ValueError, TypeError)):
            pool_curve(gram, y, n, 0.01)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ridge"):
        pool_curve(gram, y, 10, -0.1)
    with pytest.raises(ValueError, match="confidence"):
        pool_curve(gram, y, 10, 0.1, confidence=1.0)
    with pytest.raises(ValueError, match="nothing to learn"):
        pool_curve(gram, np.ones(30), 10, 0.1)
    with pytest.raises(ValueError, match="of 30 samples, y of 29"):
        pool_curve(gram, y[:29], 10, 0.1)
    with pytest.raises(ValueError, match="fewer than 20"):
        pool_curve(gram[:15, :15], y[:15], 10, 0.1)


def test_duplicated_inputs_are_said_and_do_no_harm() -> None:
    x, y = breast_cancer(60)
    x[1], y[1] = x[0], y[0]
    curve = pool_curve(KERNEL.gram(x), y, [10, 30, 60], 0.0, "classification")
    assert any("repeat" in note for note in curve.notes)
    assert any("singular" in note for note in curve.notes)
    assert np.isfinite(curve.test_error).all()


@pytest.mark.slow
def test_twenty_sizes_on_a_pool_of_2000_take_seconds() -> None:
    x = sphere(2000, 10, 0)
    gram = KERNEL.gram(x)
    start = time.process_time()
    pool_curve(gram, cubic(x, 0.1, 0), np.geomspace(10, 2000, 20).astype(int).tolist(), 0.01)
    assert time.process_time() - start < 30


def test_double_descent_of_linear_regression() -> None:
    """Least squares in 20 dimensions: a peak at n = 20, on both sides of it the exact error.

    Beyond the peak noise (n - 1)/(n - d - 1), before it (1 - n/d) + noise (d - 1)/(d - n - 1).
    """
    d, m, noise = 20, 400, 0.25
    n = np.array([5, 10, 20, 40, 80, 200])
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((m, d))
        w = rng.standard_normal(d)
        y = x @ w / np.linalg.norm(w) + np.sqrt(noise) * rng.standard_normal(m)
        curve = pool_curve(x @ x.T, y, n, 1e-6)
        found.append(curve.test_error * curve.variance)
    mean = np.mean(found, 0)
    stderr = np.std(found, 0, ddof=1) / np.sqrt(8)
    before, after = n[:2], n[3:]
    exact = np.r_[
        1 - before / d + noise * (d - 1) / (d - before - 1), noise * (after - 1) / (after - d - 1)
    ]
    kept = np.r_[mean[:2], mean[3:]]
    # the theory is that of large n: n/(n - d) for (n - 1)/(n - d - 1), 5% at n = 40
    allowed = 4 * np.r_[stderr[:2], stderr[3:]] + exact * np.r_[0.06, 0.06, 0.06, 0.02, 0.01]
    assert (np.abs(kept - exact) < allowed).all(), (kept, exact)
    assert mean[2] > 3 * mean[1] and mean[2] > 3 * mean[3]


def normal_pool(dim: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Gram matrix, sin 2x_1 (+ x_2) and a ridge of 1e-3 k."""
    x = np.random.default_rng(seed).standard_normal((m, dim))
    gram = KERNEL.gram(x).numpy()
    return gram, np.sin(2 * x[:, 0]) + (x[:, 1] if dim > 1 else 0.0), 1e-3 * gram.diagonal().mean()


@pytest.mark.parametrize("dim", [1, 2])
def test_in_few_dimensions_the_theory_is_contradicted_and_corrected(dim: int) -> None:
    gram, y, ridge = normal_pool(dim, 600, 0)
    n = [12, 25, 60]
    alone = pool_curve(gram, y, n, ridge, check=False)
    curve = pool_curve(gram, y, n, ridge)
    measured = measure_kernel_machine(gram, y, n, ridge, 150, 1)
    value, stderr = np.asarray(measured.test_error.value), np.asarray(measured.test_error.stderr)
    assert (alone.upper < value)[:2].all()
    noise = measured.spread / np.sqrt(150)
    assert (np.abs(curve.test_error - value) < 4 * noise + 0.1 * value).all()
    assert (curve.lower < value).all() and (value < curve.upper).all()
    assert (curve.stderr > 0.5 * stderr).all()
    # in one dimension outliers carry the error as well, which is said beside it
    assert all(s.startswith("corrected: the theory is off by -") for s in curve.status)
    assert any("few dimensions" in flag for flag in curve.flags)
    assert curve.check is not None and curve.check.corrected and alone.check is None
    assert curve.check.n[-1] == 300
    assert "corrected" in curve.samples_needed(0.2).status
    # at M leave-one-out stands; the same seed gives the same numbers
    again = pool_curve(gram, y, [*n, 600], ridge)
    np.testing.assert_array_equal(again.test_error[:3], curve.test_error)
    at_pool = float(leave_one_out(gram, y, ridge).test_error.value)
    assert again.test_error[3] == pytest.approx(at_pool, rel=1e-9)
    assert not again.status[3].startswith("corrected")


def test_where_the_theory_holds_it_stands_unchanged() -> None:
    gram, y, ridge = normal_pool(8, 300, 1)
    alone = pool_curve(gram, y, [10, 30, 100], ridge, check=False)
    curve = pool_curve(gram, y, [10, 30, 100], ridge)
    np.testing.assert_array_equal(alone.test_error, curve.test_error)
    assert curve.status == ("ok", "ok", "ok")
    assert (curve.upper / curve.lower >= alone.upper / alone.lower * (1 - 1e-12)).all()
    corrected = 0
    for seed in range(10):  # pure noise and few rows: nothing to correct
        x = np.random.default_rng(seed).standard_normal((40, 5))
        noise = np.random.default_rng([seed, 1]).standard_normal(40)
        gram = KERNEL.gram(x).numpy()
        found = pool_curve(gram, noise, 10, 1e-3 * float(gram.diagonal().mean()), seed=seed)
        assert found.check is not None
        corrected += found.check.corrected
    assert corrected <= 1


@pytest.mark.parametrize("classes", [2, 3])
def test_one_network_with_its_initial_output(classes: int) -> None:
    """f = f0 + k (K + ridge)^-1 (y - f0): kernel machines from drawn Gaussian f0."""
    m, n = 160, [12, 40, 80]
    x = np.random.default_rng(0).standard_normal((m, 8))
    labels = np.digitize(x[:, 0] + 0.3 * x[:, 1] * x[:, 2], [0.0] if classes == 2 else [-0.5, 0.5])
    kernel = NTK(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.0)
    prior = NNGP(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.0).gram(x).numpy()
    gram = kernel.gram(x).numpy()
    ridge = 1e-2 * float(gram.diagonal().mean())
    root = np.linalg.cholesky(prior + 1e-9 * np.eye(m))
    rng = np.random.default_rng(1)
    initial = root @ rng.standard_normal((m, 64))
    curve = pool_curve(gram, labels, n, ridge, "classification", initial=initial)
    plain = pool_curve(gram, labels, n, ridge, "classification")
    target = prepare_target(labels, "classification")
    outputs = target.values.shape[1]
    for k, size in enumerate(n):
        errors, wrong = [], []
        for _ in range(150):
            order = rng.permutation(m)
            train, test = order[:size], order[size:]
            start = root @ rng.standard_normal((m, outputs))
            system = gram[np.ix_(train, train)] + ridge * np.eye(size)
            dual = np.linalg.solve(system, target.values[train] - start[train])
            scores = start[test] + gram[np.ix_(test, train)] @ dual
            errors.append(((scores - target.values[test]) ** 2).sum(1).mean())
            wrong.append((target.decide(scores) != labels[test]).mean())
        noise = 4 * np.std(errors) / np.sqrt(150)
        assert curve.test_error[k] == pytest.approx(np.mean(errors), abs=noise + 0.05 * errors[0])
        assert curve.error_rate is not None and plain.error_rate is not None
        noise = 4 * np.std(wrong) / np.sqrt(150)
        rate = np.mean(wrong)
        assert curve.error_rate[k] == pytest.approx(rate, abs=noise + 0.15 * rate)
        assert plain.error_rate[k] < curve.error_rate[k]
        assert plain.test_error[k] < 0.8 * np.mean(errors)
    with pytest.raises(ValueError, match="initial"):
        pool_curve(gram, labels, n, ridge, "classification", initial=initial[:-1])
    with pytest.raises(ValueError, match="initial"):
        pool_curve(gram, labels, n, ridge, "classification", initial=initial * np.nan)


def test_a_peak_beyond_the_pool_is_refused() -> None:
    """Least squares on 200 features from 100 samples: the error rises until n = 200."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 200))
    y = x.sum(1) / np.sqrt(200) + 0.5 * rng.standard_normal(100)
    curve = pool_curve(x @ x.T, y, [100, 110, 200], 0.2)
    assert curve.status[2].startswith("refused: the variance grows")
    assert np.isnan(curve.test_error[2])
    assert curve.upper[1] > 1.05 * curve.upper[0]
    # a slowly growing variance is no such peak
    gram, y, ridge = normal_pool(8, 200, 1)
    assert pool_curve(gram, y, 800, ridge).status[0].startswith("extrapolated")


def test_a_curve_that_rises_again_says_so() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 40))
    y = x.sum(1) / np.sqrt(40) + 0.3 * rng.standard_normal(200)
    curve = pool_curve(x @ x.T, y, [10, 200], 1e-3)
    reached = curve.samples_needed(0.9)
    assert reached.n < 40 and "rises above the target again" in reached.status


def test_center_and_single_samples_that_carry_the_error_are_flagged() -> None:
    x = np.random.default_rng(0).standard_normal((150, 60))
    y = x.sum(1) / np.sqrt(60)
    assert any("constant" in f for f in pool_curve(x @ x.T, y, 75, 1e-3).flags)
    gram, wave, ridge = normal_pool(8, 150, 0)
    assert not any("constant" in f or "alone" in f for f in pool_curve(gram, wave, 75, ridge).flags)
    wave[7] += 40
    assert any("sample 7 alone carries" in f for f in pool_curve(gram, wave, 75, ridge).flags)


def test_wrong_file_and_wrong_points_are_refused() -> None:
    x, y = breast_cancer(40)
    curve = pool_curve(KERNEL.gram(x), y, [10], 0.01, "classification")
    with pytest.raises(ValueError, match="give the part under 'curve'"):
        PoolCurve.from_dict({"curve": curve.to_dict()})
    with pytest.raises(TypeError, match="measured"):
        curve.figure("x")  # type: ignore[arg-type]


def test_single_precision_gram_is_accepted() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)).astype(np.float32)
    gram = x @ x.T
    curve = pool_curve(gram, x[:, 0] + 0.1 * rng.standard_normal(300), 50, 0.1)
    assert np.isfinite(curve.test_error).all()


def test_axes_are_labelled_plainly_and_few_samples_are_dotted() -> None:
    gram, y, ridge = normal_pool(8, 60, 0)
    drawing = pool_curve(gram, y, [5, 60], ridge).figure()
    ax = drawing.axes[0, 0]
    drawing.figure.canvas.draw()
    low, high = ax.get_xlim()
    texts = [t.get_text() for t, v in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)
             if low <= v <= high]  # fmt: skip
    assert {"5", "10", "20", "50"} <= set(texts)
    assert not any(t.get_text() for t in ax.get_xticklabels(minor=True))
    solid = [r for r in drawing.rows if r["curve"] == "predicted"]
    assert min(r["x"] for r in solid) >= 10
    assert any(r.get("few") for r in drawing.rows)
