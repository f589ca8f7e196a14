"""Mean-field theory with a spectrum of modes: exact limits, one-mode reduction, samples."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from thermolearn.core.errors import DataError, DivergedError
from thermolearn.measure.noise import effective_temperature
from thermolearn.systems.training.sgd_noise.losses import as_loss, hinge2
from thermolearn.systems.training.sgd_noise.matched import MatchedMixture
from thermolearn.systems.training.sgd_noise.matched_simulation import (
    gaussian_data,
    training_dynamics,
)
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD


def mixture(eigenvalues, alpha, mean=(1.0,), loss="logistic", d=None):
    """Two clusters at +- the mean, labels +-1; the eigenvalues repeated up to d modes."""
    d = d or len(eigenvalues)
    lam = np.resize(np.asarray(eigenvalues, dtype=float), d)
    m = np.resize(np.asarray(mean, dtype=float), d)
    return MatchedMixture(
        np.array([0.5, 0.5]), np.array([-1.0, 1.0]), np.stack([-m, m]), lam, np.eye(d),
        round(alpha * d), as_loss(loss),
    )  # fmt: skip


def static_ridge(mix, decay):
    """q, C, chi of the minimum with quadratic loss, as scalars (deterministic equivalent)."""
    lam, m, a, d = mix.eigenvalues, mix.means[1], mix.alpha, mix.dimension
    V = brentq(lambda v: (lam / (decay + a * lam / (1 + v))).mean() - v, 0, 1e3, xtol=1e-14)
    stiff, gain = decay + a * lam / (1 + V), 1 / (1 + V)
    s = a * gain * (m**2 / stiff).sum()
    q = s / (1 + s)
    mean = a * math.sqrt(d) * gain * (1 - q) * m / stiff
    # v = mean of lam C, C = mean^2 + a lam M / stiff^2, M = gain^2 ((1 - q)^2 + v): linear in v
    slope = a * gain**2 * (lam**2 / stiff**2).mean()
    v = ((lam * mean**2).mean() + slope * (1 - q) ** 2) / (1 - slope)
    C = mean**2 + a * lam * gain**2 * ((1 - q) ** 2 + v) / stiff**2
    return q, C.mean(), (1 / stiff).mean()


@pytest.mark.parametrize("eigenvalues", [(0.5,) * 4, (2.0, 1.0, 0.5, 0.1), (3.0, 0.2, 0.2, 0.0)])
def test_quadratic_descent_ends_in_the_ridge_solution(eigenvalues):
    mix = mixture(eigenvalues, 2.0, (0.6, 0.0, 0.5, 0.3), "quadratic")
    result = mix.dmft(GD(0.12), 1.0, 130, 200, runs=1, finite="none")
    q, C, chi = static_ridge(mix, 1.0)
    assert abs(result.q.value[-1, 1] - q) < 1e-5 and abs(result.q.value[-1, 0] + q) < 1e-5
    assert abs(result.C.value[-1, -1] - C) < 1e-4 * C
    assert abs(0.12 * result.R.value[-1].sum() - chi) < 1e-5 * chi


def test_the_scalar_solution_is_that_of_large_random_matrices():
    """The oracle above, against ridge regression on samples."""
    mix = mixture((2.0, 1.0, 0.5, 0.1), 2.0, (0.08, 0.0, 0.07, 0.04), "quadratic", d=200)
    x, y = gaussian_data(mix, 8, seed=3)
    a = x / math.sqrt(200)
    inverse = np.linalg.inv(np.einsum("rni,rnj->rij", a, a) + 0.5 * np.eye(200))
    w = np.einsum("rij,rnj,rn->ri", inverse, a, y)
    q, C, chi = static_ridge(mix, 0.5)
    for samples, exact in (
        (w @ mix.means[1] / math.sqrt(200), q), ((w**2).mean(1), C),
        (np.trace(inverse, axis1=1, axis2=2) / 200, chi),
    ):  # fmt: skip
        assert abs(samples.mean() - exact) < 4 * samples.std(ddof=1) / math.sqrt(8) + 0.003


def test_equal_modes_are_the_isotropic_perceptron():
    """A single eigenvalue Delta and one direction: the same equations, solved by other code."""
    mix = mixture((0.5,), 2.0, (1 / math.sqrt(8),), "quadratic", d=8)
    model = GaussianMixturePerceptron(2.0, 0.5, loss="quadratic")
    one = mix.dmft(GD(0.2), 0.1, 30, 200, runs=2, finite="none", start_scale=1.0)
    other = model.dmft(GD(0.2), 0.1, 30, 200, start=(1.0, 0.0), runs=2)
    for t in (1, 5, 30):
        assert abs(one.C.value[t, t] - other.C.value[t, t]) < 1e-6
        assert abs(one.C.value[t, t // 2] - other.C.value[t, t // 2]) < 1e-6
        assert abs(one.q.value[t, 1] - other.m.value[t]) < 1e-6
        np.testing.assert_allclose(one.R.value[t], other.R.value[t], atol=1e-6)


def test_masks_and_a_nonlinear_loss_as_in_the_perceptron():
    mix = mixture((0.5,), 2.0, (1 / math.sqrt(6),), "hinge2", d=6)
    model = GaussianMixturePerceptron(2.0, 0.5, loss="hinge2")
    schedule = PersistentSGD(0.2, 0.3, 1.0)
    one = mix.dmft(schedule, 0.1, 12, 2500, runs=4, finite="none", start_scale=1.0)
    other = model.dmft(schedule, 0.1, 12, 2500, start=(1.0, 0.0), runs=4, seed=1)
    for a, b in (
        (one.C.value[-1, -1], other.C.value[-1, -1]),
        (one.q.value[-1, 1], other.m.value[-1]),
    ):
        assert abs(a - b) < 0.03 * b


def test_a_spectrum_against_samples():
    """Four eigenvalues over a factor 30, SGD, logistic loss; d = 240, ten data sets."""
    mix = mixture((3.0, 1.0, 0.3, 0.1), 4.0, (0.09, 0.0, 0.05, 0.05), d=240)
    few = mixture((3.0, 1.0, 0.3, 0.1), 4.0, np.array((0.09, 0.0, 0.05, 0.05)) * math.sqrt(60), d=4)
    schedule = SGD(0.1, 0.5)
    predicted = few.dmft(schedule, 1.0, 40, 2000, runs=3, finite="none")
    x, y = gaussian_data(mix, 10, seed=1)
    run = training_dynamics(x, y, loss="logistic", schedule=schedule, weight_decay=1.0)
    generator, state = torch.Generator().manual_seed(0), run.start
    for _ in range(40):
        state = run.step(state, run.draw(generator), 0.0)
    w = run.position(state).numpy()
    squares, along = (w**2).mean(1), w @ mix.means[1] / math.sqrt(240)
    for samples, value, error in (
        (squares, predicted.C.value[-1, -1], predicted.C.stderr[-1, -1]),
        (along, predicted.q.value[-1, 1], predicted.q.stderr[-1, 1]),
    ):
        bar = math.hypot(samples.std(ddof=1) / math.sqrt(10), float(error))
        assert abs(samples.mean() - value) < 4 * bar + 0.01 * value
        assert bar < 0.03 * value  # or it could not fail


@pytest.mark.parametrize("finite", ["none", "means", "moments"])
def test_the_corrections_vanish_in_many_dimensions(finite):
    """Copies of the modes with |mean|^2 fixed: terms of order 1/d fall as 1/d."""
    found = []
    for d in (4, 400):
        mean = np.array((0.09, 0.0, 0.05, 0.05)) * math.sqrt(240 / d)
        few = mixture((3.0, 1.0, 0.3, 0.1), 4.0, mean, d=d)
        result, limit = (
            few.dmft(SGD(0.1, 0.5), 1.0, 8, 200, runs=1, finite=name) for name in (finite, "none")
        )
        found.append(abs(result.C.value[-1, -1] / limit.C.value[-1, -1] - 1))
    if finite == "none":
        assert found == [0.0, 0.0]
    else:
        assert 0 < found[1] < 0.03 * found[0]


def test_fit_keeps_the_second_moments():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5)) + rng.standard_normal(5)
    y = np.where(x[:, 0] + rng.standard_normal(300) > 0, 1.0, -1.0)
    mix = MatchedMixture.fit(x, y, clusters=2 * (y > 0) + (x[:, 1] > 0))
    assert mix.dimension == 5 and mix.alpha == 60 and len(mix.labels) == 4
    np.testing.assert_allclose(mix.basis @ mix.basis.T, np.eye(5), atol=1e-12)
    moments = mix.basis @ (
        np.diag(mix.eigenvalues) + (mix.means.T * mix.probabilities) @ mix.means
    ) @ mix.basis.T  # fmt: skip
    np.testing.assert_allclose(moments, x.T @ x / 300, atol=1e-10)
    drawn, labels = gaussian_data(mix, 200, seed=1)
    assert drawn.shape == (200, 300, 5) and labels.shape == (200, 300)
    assert (labels == 1).sum(1).tolist() == [int((y == 1).sum())] * 200
    error = 4 * math.sqrt(2 / 60000) * np.trace(moments)
    np.testing.assert_allclose(np.einsum("rni,rnj->ij", drawn, drawn) / 60000, moments, atol=error)


@pytest.mark.parametrize("schedule", [SGD(0.05, 0.3), PersistentSGD(0.05, 0.3, 0.5)])
def test_the_dynamics_are_the_algorithm(schedule):
    """Steps against the update written out; share and memory of the masks."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((400, 3)), np.where(rng.random(400) < 0.5, 1.0, -1.0)
    run = training_dynamics(
        x, y, loss="logistic", schedule=schedule, weight_decay=2.0, replicas=50, seed=3
    )
    generator, state, kept = torch.Generator().manual_seed(0), run.start, []
    for _ in range(3):
        w, batch = state[:, :3].numpy(), state[:, 3:].numpy()
        h = w @ x.T / math.sqrt(3)
        slope = -y / (1 + np.exp(y * h)) * batch / 0.3
        state = run.step(state, run.draw(generator), 0.5)
        expected = w - 0.05 * (2.0 * w + slope @ x / math.sqrt(3) - 0.5)
        np.testing.assert_allclose(state[:, :3].numpy(), expected, atol=1e-12)
        after = state[:, 3:].numpy()
        assert abs(after.mean() - 0.3) < 4 * math.sqrt(0.21 / 20000)
        kept.append((after * batch).sum() / batch.sum())
    stays = 1 - schedule.switch_off
    assert abs(np.mean(kept) - stays) < 4 * math.sqrt(stays * (1 - stays) / 18000)


def test_a_run_on_samples_is_measured_by_the_instrument():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((60, 4)), np.where(rng.random(60) < 0.5, 1.0, -1.0)
    run = training_dynamics(x, y, loss="hinge2", schedule=SGD(0.02, 0.5), weight_decay=2.0)
    found = effective_temperature(run, lag=20, origins=10, burn_in=100)
    assert found.virial_factor == 1.0 and found.t_fast.item() > 0


def test_bad_input():
    x, y = np.eye(4).repeat(3, 0), np.tile((1.0, -1.0, 1.0), 4)
    fit = MatchedMixture.fit
    for bad_x, bad_y, words in (
        (x[:, 0], y, "must be"), (x, y[:-1], "must be"), (x * np.nan, y, "finite"),
        (x, np.arange(12.0), "clusters"), (np.ones((12, 4)), y, "alike"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            fit(bad_x, bad_y)
    with pytest.raises(DataError, match="two labels"):
        fit(x, y, clusters=np.tile((0, 0, 1), 4))
    with pytest.raises(DataError, match="shape"):
        fit(x, y, clusters=np.zeros(3))
    with pytest.raises(ValueError, match="loss"):
        fit(x, y, loss="nonsense")
    mix = fit(x, y)
    with pytest.raises(ValueError, match="finite"):
        mix.dmft(SGD(0.1, 0.5), 1.0, 5, finite="some")
    with pytest.raises(ValueError, match="weight_decay"):
        mix.dmft(SGD(0.1, 0.5), -1.0, 5)
    with pytest.raises(TypeError, match="schedule"):
        mix.dmft(0.1, 1.0, 5)
    with pytest.raises(DivergedError):
        mix.dmft(GD(50.0), 1.0, 60, 200, runs=1)
    result = mix.dmft(SGD(0.1, 0.5), 1.0, 20, 100, runs=1)
    with pytest.raises(ValueError, match="runs"):
        result.effective_temperature()
    with pytest.raises(ValueError, match="method"):
        result.effective_temperature(method="none")
    settings = {"loss": "logistic", "schedule": SGD(0.1, 0.5), "weight_decay": 1.0}
    with pytest.raises(ValueError, match="x must"):
        training_dynamics(y, y, **settings)
    with pytest.raises(ValueError, match="y must"):
        training_dynamics(x, y[1:], **settings)
    with pytest.raises(ValueError, match="finite"):
        training_dynamics(np.full_like(x, np.inf), y, **settings)
    with pytest.raises(ValueError, match="data_sets"):
        gaussian_data(mix, 0)


# -- samples as they come --------------------------------------------------------------------------
def _blobs(scale=1.0, shift=0.0):
    rng = np.random.default_rng(0)
    y = np.where(np.arange(120) % 2, 1.0, -1.0)
    return scale * (rng.standard_normal((120, 4)) + 0.3 * y[:, None]) + shift, y


@pytest.mark.parametrize("loss", ["logistic", "hinge2", hinge2(0.5)])
def test_labels_of_0_and_1_are_refused(loss):
    x, y = _blobs()
    with pytest.raises(ValueError, match=r"2 \* y - 1"):
        MatchedMixture.fit(x, (y + 1) / 2, loss=loss)
    with pytest.raises(ValueError, match=r"2 \* y - 1"):
        training_dynamics(x, (y + 1) / 2, loss=loss, schedule=GD(0.1), weight_decay=1.0)
    with pytest.raises(DataError, match="the label 1 alone"):
        MatchedMixture.fit(x, np.ones(120), loss=loss)
    assert MatchedMixture.fit(x, (y + 1) / 2, loss="quadratic").labels.tolist() == [0.0, 1.0]


def test_labels_that_are_words_are_refused():
    x, y = _blobs()
    with pytest.raises(DataError, match=r"y must hold numbers, got entries like 'no'.* -1 and 1"):
        MatchedMixture.fit(x, np.where(y > 0, "yes", "no"))


def test_a_result_is_short_in_print_and_can_be_pickled():
    mix = MatchedMixture.fit(*_blobs())
    result = mix.dmft(SGD(0.1, 0.5), 1.0, 20, 200, runs=2)
    assert result.flags == result.solution.flags + result.remarks
    for thing in (mix, result, result.effective_temperature(), result.C):
        assert len(repr(thing)) < 700 and "\n" not in repr(thing)
    assert "120 samples in 4 dimensions" in repr(mix) and "20 steps" in repr(result)
    same = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(same.C.value, result.C.value)
    drawing = result.plot()
    assert {row["y_label"] for row in drawing.rows} >= {"C(t, t)", "mean of h", "loss per sample"}
    assert len(drawing.rows) == 21 + 2 * 21 + 20 + 20


def test_samples_that_are_not_scaled_are_no_prediction():
    mix = MatchedMixture.fit(*_blobs(1e3, 5e3))
    with pytest.raises(DivergedError, match=r"learning rate 0\.05 .* center and scale x") as error:
        mix.dmft(SGD(0.05, 0.5), 1.0, 20, 500, runs=2)
    assert error.value.step <= 20
    with pytest.raises(DivergedError, match="learning rate 50 is too large") as error:
        MatchedMixture.fit(*_blobs()).dmft(GD(50.0), 1.0, 60, 200, runs=1)
    assert "scale x" not in str(error.value)


def test_temperatures_of_a_flagged_result_are_flagged():
    result = MatchedMixture.fit(*_blobs()).dmft(SGD(0.1, 0.5), 1.0, 20, 200, runs=2)
    flagged = replace(result, remarks=("something is wrong",))
    found = flagged.effective_temperature()
    for e in (found.t_fast, found.t_glob, flagged.effective_temperature(method="virial")):
        assert e.status != "ok" and "something is wrong" in e.note
