"""Clusters, losses and batches: derivatives, proportions, correlation times, bad input."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch

from thermolearn.core.errors import NotApplicableError
from thermolearn.systems.training.sgd_noise.fresh import test_error as error_of_fresh
from thermolearn.systems.training.sgd_noise.fresh import test_loss as loss_of_fresh
from thermolearn.systems.training.sgd_noise.losses import as_loss, hinge2
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.prior import as_prior
from thermolearn.systems.training.sgd_noise.schedules import (
    GD,
    SGD,
    PersistentSGD,
    first_batch,
    next_batch,
)

THREE = [(0.25, 1, 1), (0.25, -1, 1), (0.5, 0, -1)]


# -- losses ------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["quadratic", "logistic", hinge2(0.7), lambda h, y: (y * h) ** 4])
def test_derivatives_are_those_of_the_loss(loss):
    loss, h, e = as_loss(loss), np.linspace(-4, 4, 100)[:, None], 1e-5
    y = np.array([-1.0, 1.0, 2.0])
    first = (loss.value(h + e, y) - loss.value(h - e, y)) / (2 * e)
    second = (loss.first(h + e, y) - loss.first(h - e, y)) / (2 * e)
    np.testing.assert_allclose(loss.first(h, y), first, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(loss.second(h, y), second, rtol=1e-6, atol=1e-7)
    assert loss.convex and loss.second(h, y).shape == (100, 3)


def test_the_logistic_loss_does_not_overflow():
    loss, h = as_loss("logistic"), np.array([-1e4, 1e4])
    with np.errstate(all="raise", under="ignore"):
        assert loss.value(h, 1.0).tolist() == [1e4, 0.0]
        assert loss.first(h, 1.0).tolist() == [-1.0, 0.0]


def test_a_callable_knows_where_it_bends_and_whether_it_is_convex():
    def even(h, y):
        return torch.clamp(0.5 - y * (h**2 - 1), min=0) ** 2 / 2

    loss = as_loss(even, (1, -1))
    assert not loss.convex
    np.testing.assert_allclose(loss.kinks(1), [-np.sqrt(1.5), np.sqrt(1.5)], rtol=1e-9)
    np.testing.assert_allclose(loss.kinks(-1), [-np.sqrt(0.5), np.sqrt(0.5)], rtol=1e-9)
    smooth = as_loss(lambda h, y: torch.nn.functional.softplus(-y * h))
    assert smooth.convex and smooth.kinks(1.0) == ()


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ("hinge", ValueError, "hinge2"),
        (3.0, TypeError, "loss"),
        (lambda h, y: np.abs(h.numpy()), NotApplicableError, "torch"),
        (lambda h, y: (h - y).detach() ** 2, NotApplicableError, "differentiated"),
        (lambda h, y: ((h - y) ** 2).mean(), ValueError, "shape"),
        (lambda h, y: (h - y) ** 2 / h.numel(), ValueError, "elementwise"),
        (lambda h, y: (h - y).float() ** 2, ValueError, "precision"),
        (lambda h, y: torch.log(h - y), ValueError, "finite"),
    ],
)
def test_bad_losses_are_named(loss, error, message):
    with pytest.raises(error, match=message):
        as_loss(loss)


@pytest.mark.parametrize("loss", ["logistic", "hinge2"])
@pytest.mark.parametrize("rows", [[(0.5, 1, 1), (0.5, -1, 0)], [(0.5, 1, 1), (0.5, -1, 3)]])
def test_labels_that_a_loss_cannot_learn_are_refused(loss, rows):
    with pytest.raises(ValueError, match=f"labels of the loss {loss}.* must be -1 and 1"):
        GaussianMixturePerceptron(2.0, 1.0, rows, loss)
    GaussianMixturePerceptron(2.0, 1.0, rows, "quadratic")


def test_labels_of_0_and_1_are_told_what_to_become():
    with pytest.raises(ValueError, match=r"got 0, 1; of labels 0 and 1 make 2 \* y - 1"):
        as_loss("logistic", (1.0, 0.0))
    with pytest.raises(ValueError, match=r"not 0, got 0, 1; .*2 \* y - 1"):
        as_loss(hinge2(0.5), (1.0, 0.0))
    assert as_loss(hinge2(0.5), (2.0, -1.0)).signed  # the size of a label scales its margin
    GaussianMixturePerceptron(2.0, 1.0, THREE, "logistic")


def _quartic(h, y, scale):
    return scale * torch.clamp(1 - y * h, min=0) ** 4


@pytest.mark.parametrize(
    "loss", ["quadratic", "logistic", "hinge2", hinge2(0.7), partial(_quartic, scale=0.5)]
)
def test_losses_and_models_can_be_pickled(loss):
    model = GaussianMixturePerceptron(2.0, 1.0, loss=loss)
    same = pickle.loads(pickle.dumps(model))
    h, y = np.linspace(-3, 3, 20), np.where(np.arange(20) % 2, 1.0, -1.0)
    for name in ("value", "first", "second"):
        a, b = (getattr(m.losses, name)(h, y) for m in (model, same))
        np.testing.assert_array_equal(a, b)
    assert same.losses.kinks(-1.0) == model.losses.kinks(-1.0)


# -- the model ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "start", [1.0, "10", (1.0,), (1.0, 0.0, 0.0), (1e200, 0.0), (1e12, 0.0), (1.0, 1e200), (-1, 0)]
)
def test_bad_starts_are_named(start):
    model = GaussianMixturePerceptron(2.0, 1.0)
    with pytest.raises(ValueError, match="start"):
        model.dmft(SGD(0.1, 0.5), 0.1, 3, 200, start=start)
    with pytest.raises(ValueError, match="start"):
        model.simulate(20, SGD(0.1, 0.5), 0.1, 3, start=start)


@pytest.mark.parametrize(
    ("decision", "error", "message"),
    [
        ("x", TypeError, "decision must be a function"),
        (lambda h: h.no_such, TypeError, "decision must take an array"),
        (lambda h: h.mean(), ValueError, "score for each field"),
        (lambda h: h * 1j, ValueError, "real score"),
    ],
)
def test_bad_decisions_are_named(decision, error, message):
    with pytest.raises(error, match=message):
        GaussianMixturePerceptron(2.0, 1.0, decision=decision)


# -- clusters ----------------------------------------------------------------------------------
def test_samples_come_in_the_exact_proportions():
    prior = as_prior(THREE)
    c, y = prior.stratified(1000)
    assert [int(((c == a) & (y == b)).sum()) for _, a, b in THREE] == [250, 250, 500]
    for n in (3, 7, 10, 101):
        quota = prior.quotas(n)
        assert quota.sum() == n and np.abs(quota - n * np.array([0.25, 0.25, 0.5])).max() < 1
    drawn = prior.draw((40, 500), np.random.default_rng(0))[0]
    assert drawn.shape == (40, 500)
    assert abs(drawn.mean()) < 4 * np.sqrt(0.5 / 20_000)
    assert as_prior(prior) == prior and len(as_prior("symmetric")) == 2


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("even", "symmetric"),
        ([], "prior"),
        ([(0.5, 1, 1)], "sum to 0.5"),
        ([(0.5, 1, 1), (0.6, -1, -1)], "sum to 1.1"),
        ([(1.5, 1, 1), (-0.5, -1, -1)], "p in prior"),
        ([(1.0, np.nan, 1)], "c in prior"),
        ([(1.0, 1)], "prior"),
    ],
)
def test_bad_priors_are_named(prior, message):
    with pytest.raises(ValueError, match=message):
        as_prior(prior)


def test_fresh_samples_of_an_even_decision_by_drawing_them():
    model = GaussianMixturePerceptron(
        2, 0.3, THREE, lambda h, y: (y - h**2) ** 2, decision=lambda h: h**2 - 1
    )
    rng = np.random.default_rng(1)
    c, y = model.clusters.stratified(400_000)
    h = c * 0.9 + np.sqrt(0.3 * 1.1) * rng.standard_normal(len(c))
    wrong, loss = np.sign(h**2 - 1) != y, (y - h**2) ** 2
    assert abs(error_of_fresh(model, 0.9, 1.1) - wrong.mean()) < 4 * wrong.std() / np.sqrt(len(c))
    assert abs(loss_of_fresh(model, 0.9, 1.1) - loss.mean()) < 4 * loss.std() / np.sqrt(len(c))
    assert error_of_fresh(model, 0.0, 0.0) == pytest.approx(0.5)  # h = 0: always -1


# -- batches -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("schedule", "memory"),
    [(SGD(0.1, 0.3), 0.0), (PersistentSGD(0.1, 0.3, 0.7), 1 - 0.1 / (0.3 * 0.7))],
)
def test_batches_keep_their_share_and_forget(schedule, memory):
    rng, n = np.random.default_rng(0), 200_000
    batch = first_batch(schedule, n, rng)
    later, errors = batch, 4 * np.sqrt(0.21 / n)
    for _ in range(3):
        assert abs(later.mean() - 0.3) < errors
        later = next_batch(schedule, later, rng)
    kept = np.corrcoef(batch, later)[0, 1]
    assert abs(kept - memory**3) < 4 / np.sqrt(n)
    assert schedule.weight * schedule.batch_fraction == pytest.approx(1)


def test_full_batches_draw_nothing():
    rng = np.random.default_rng(0)
    for schedule in (GD(0.1), SGD(0.1, 1.0), PersistentSGD(0.1, 1.0, 3.0)):
        batch = first_batch(schedule, 5, rng)
        assert batch.all() and next_batch(schedule, batch, rng).all()
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GD(0.0), "rate"),
        (lambda: GD("fast"), "rate"),
        (lambda: SGD(-0.1, 0.5), "rate"),
        (lambda: SGD(0.1, 0.0), "batch_fraction"),
        (lambda: SGD(0.1, 1.1), "batch_fraction"),
        (lambda: SGD(0.1, 0.5, normalize=2), "normalize"),
        (lambda: PersistentSGD(0.1, 0.5, 0.0), "persistence"),
        (lambda: PersistentSGD(0.6, 0.7, 0.5), "at most .* = 0.5"),
        (lambda: PersistentSGD(0.2, 0.1, 1.0), "at most .* = 0.111111"),
    ],
)
def test_bad_schedules_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_largest_rate_is_allowed():
    schedule = PersistentSGD(0.1 / 0.9, 0.1, 1.0)
    assert schedule.switch_off == pytest.approx(1.0) and schedule.switch_off <= 1.0
